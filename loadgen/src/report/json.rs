//! Everything measured, for machines.

use serde_json::{Value, json};

use super::Percentiles;
use super::summary::{bottleneck, generator_busy};
use crate::plan::{Pace, Until};
use crate::record::CommandRecord;
use crate::run::Finished;
use crate::wire::printable;

pub fn document(tests: &[Finished]) -> Value {
    json!({
        "loadgen": env!("CARGO_PKG_VERSION"),
        "tests": tests.iter().map(test).collect::<Vec<_>>(),
    })
}

pub fn test(finished: &Finished) -> Value {
    let Finished { plan, record, intervals, first_error } = finished;
    let workload = &plan.workload;
    let reads = record.hits() + record.misses();
    let commands = record.commands.iter().enumerate().map(|(index, command)| {
        let name = workload.mix.get(index).map_or("SET (fill)".to_owned(), |(action, _)| action.name());
        let mut value = command_json(command);
        value["command"] = json!(name);
        value
    });
    json!({
        "test": workload.name,
        "endpoint": plan.target.endpoint.to_string(),
        "protocol": plan.target.protocol.to_string(),
        "connections": plan.connections,
        "threads": plan.threads,
        "pipeline": plan.pipeline,
        "keep_alive": plan.keep_alive,
        "cluster": plan.cluster,
        "rate": match plan.pace {
            Pace::Closed => Value::Null,
            Pace::Open { requests_per_second, .. } => json!(requests_per_second),
        },
        "limit": match plan.until {
            Until::Requests(count) => json!({ "requests": count }),
            Until::Time(time) => json!({ "seconds": time.as_secs_f64() }),
        },
        "keys": workload.keys,
        "distribution": workload.distributions(),
        "value_bytes": workload.sizes.to_string(),
        "seed": plan.seed,
        "seconds": record.elapsed.as_secs_f64(),
        "requests_per_second": record.replies_per_second(),
        "total": command_json(&record.total()),
        "commands": commands.collect::<Vec<_>>(),
        "hit_ratio": if reads > 0 { json!(record.hits() as f64 / reads as f64) } else { Value::Null },
        "fills": record.fills,
        "never_sent": record.never_sent,
        "bytes_sent": record.bytes_sent,
        "bytes_received": record.bytes_received,
        "first_error": first_error.as_ref().map(|error| json!({ "command": error.command, "reply": printable(&error.reply) })),
        "verification": plan.verifier.as_ref().map(|verifier| json!({ "faults": verifier.faults(), "report": verifier.report() })),
        "generator": {
            "cpu_seconds": record.cpu.as_secs_f64(),
            "spun_seconds": record.spun.as_secs_f64(),
            "starved_seconds": record.starved.as_secs_f64(),
            "busy": generator_busy(record, plan.threads),
            "bottleneck": bottleneck(record, plan.threads).is_some(),
        },
        "intervals": intervals.iter().map(|interval| json!({
            "end_seconds": interval.end_seconds,
            "requests_per_second": interval.replies_per_second,
            "latency_ms": percentiles(&interval.latency_ms),
            "errors": interval.errors,
        })).collect::<Vec<_>>(),
    })
}

fn command_json(command: &CommandRecord) -> Value {
    json!({
        "requests": command.replies(),
        "errors": command.errors,
        "hits": command.hits,
        "misses": command.misses,
        "latency_ms": percentiles(&Percentiles::of(&command.latency_ns)),
    })
}

pub fn percentiles(latency: &Percentiles) -> Value {
    json!({
        "average": latency.average,
        "min": latency.min,
        "p50": latency.p50,
        "p90": latency.p90,
        "p95": latency.p95,
        "p99": latency.p99,
        "p99.9": latency.p999,
        "p99.99": latency.p9999,
        "max": latency.max,
    })
}
