//! STATS: everything that is counted, as JSON, for all cores together and for each.
//!
//! ```text
//!   { "server":  { "version", "redis_version", "pid", "run_id", "port", "cores", "unix_time_us", "uptime_us",
//!                  "kernel", "executable", "config_file", "clients_max", "memory_bytes_max", "memory_policy",
//!                  "cluster_enabled" },
//!     "process": { "rss_bytes", "rss_bytes_peak", "cpu_user_us", "cpu_system_us", "cpu_user_children_us",
//!                  "cpu_system_children_us", "system_memory_bytes", "log_lines_lost", "log_lines_held_back",
//!                  "http_refused" },
//!     "total":   CORE,
//!     "namespaces": { "shop": { every field of NamespaceSnapshot }, … }                   those with most operations
//!     "cores":   [ { "core": 0, "slots": [first, last], …CORE }, … ] }
//!
//!   CORE = { "counters": { every field of CoreCounters },
//!            "shard":    { every field of ShardSnapshot },
//!            "log":      { every field of LogSnapshot },
//!            "rates":    { every field of RateSnapshot },
//!            "commands": { "get": { "calls", "failed", "rejected" }, … }   only those that occurred
//!            "latency":  { "get": { "total": TIMES, "minute": TIMES }, … }                only those that occurred
//!            "latency_all": { "total": TIMES, "minute": TIMES }                           of all commands together
//!            "errors":   { "ERR": count, … } }                                            only those that occurred
//! ```
//!
//!   TIMES = { "count", "p50_us", "p95_us", "p99_us", "p999_us", "max_us" }
//!
//! TIMES run from the moment the bytes of a command are taken up to the moment its reply stands ready, in microseconds
//! with decimals: `total` since the start, `minute` over the last forty to sixty seconds. All other numbers are unsigned
//! integers in the unit that their name ends in, or counts. Names are stable: a field
//! may be added, none changes its meaning. What each field of CORE means is told by `FIELDS` of its struct.

use super::counters::{CoreCounters, CoreSnapshot, Field, LogSnapshot, NamespaceSnapshot, OpCounters, ShardSnapshot};
use super::facts::{CRABCACHE_VERSION, REDIS_VERSION, ServerFacts};
use super::latency::{PERCENTILES, Times, percentile_us, us};
use super::rates::RateSnapshot;
use crate::command::TABLE;
use crate::slot;

/// The reply of STATS, from a snapshot of each core, on one line.
pub fn stats_json(facts: &ServerFacts, snapshots: &[CoreSnapshot]) -> String {
    let mut json = Json { text: String::with_capacity(4096 * (1 + snapshots.len())) };
    json.object(|json| {
        json.key("server").object(|json| server(json, facts));
        json.key("process").object(|json| process(json, facts));
        let total = CoreSnapshot::total(snapshots);
        json.key("total").object(|json| core(json, &total));
        json.key("namespaces").object(|json| {
            for (name, namespace) in &total.namespaces {
                json.key(name).object(|json| fields(json, NamespaceSnapshot::FIELDS, &namespace.words()));
            }
        });
        json.key("cores").array(|json| {
            for snapshot in snapshots {
                json.item().object(|json| {
                    json.key("core").number(snapshot.core.into());
                    let slots = slot::slots_of_core(snapshot.core, facts.cores);
                    json.key("slots").array(|json| {
                        json.item().number((*slots.start()).into());
                        json.item().number((*slots.end()).into());
                    });
                    core(json, snapshot);
                });
            }
        });
    });
    json.text
}

fn server(json: &mut Json, facts: &ServerFacts) {
    json.key("version").string(CRABCACHE_VERSION);
    json.key("redis_version").string(REDIS_VERSION);
    json.key("pid").number(facts.pid.into());
    json.key("run_id").string(&facts.run_id);
    json.key("port").number(facts.port.into());
    json.key("cores").number(facts.cores.into());
    json.key("unix_time_us").number(facts.unix_time_us);
    json.key("uptime_us").number(facts.uptime_us);
    json.key("kernel").string(&facts.kernel);
    json.key("executable").string(&facts.executable);
    json.key("config_file").string(&facts.config_file);
    json.key("clients_max").number(facts.clients_max);
    json.key("memory_bytes_max").number(facts.memory_bytes_max);
    json.key("memory_policy").string(facts.memory_policy);
    json.key("cluster_enabled").boolean(facts.cluster_enabled);
}

fn process(json: &mut Json, facts: &ServerFacts) {
    let process = &facts.process;
    for (name, value) in [
        ("rss_bytes", process.rss_bytes),
        ("rss_bytes_peak", process.rss_bytes_peak),
        ("cpu_user_us", process.cpu_user_us),
        ("cpu_system_us", process.cpu_system_us),
        ("cpu_user_children_us", process.cpu_user_children_us),
        ("cpu_system_children_us", process.cpu_system_children_us),
        ("system_memory_bytes", process.system_memory_bytes),
        ("log_lines_lost", process.log_lines_lost),
        ("log_lines_held_back", process.log_lines_held_back),
        ("http_refused", process.http_refused),
    ] {
        json.key(name).number(value);
    }
}

fn core(json: &mut Json, snapshot: &CoreSnapshot) {
    let CoreSnapshot { counters, shard, log, rates, latency, .. } = snapshot;
    json.key("counters").object(|json| fields(json, CoreCounters::FIELDS, &counters.words()));
    json.key("shard").object(|json| fields(json, ShardSnapshot::FIELDS, &shard.words()));
    json.key("log").object(|json| fields(json, LogSnapshot::FIELDS, &log.words()));
    json.key("rates").object(|json| fields(json, RateSnapshot::FIELDS, &rates.words()));
    json.key("commands").object(|json| {
        for spec in TABLE {
            let op = counters.ops[spec.op];
            if op != OpCounters::default() {
                json.key(spec.name).object(|json| fields(json, OpCounters::FIELDS, &op.words()));
            }
        }
    });
    json.key("latency").object(|json| {
        for command in &latency.commands {
            json.key(crate::command::spec_of(command.op).name).object(|json| {
                json.key("total").object(|json| times(json, &command.total));
                json.key("minute").object(|json| times(json, &command.minute));
            });
        }
    });
    json.key("latency_all").object(|json| {
        for (name, all) in ["total", "minute"].into_iter().zip(latency.all()) {
            json.key(name).object(|json| times(json, &all));
        }
    });
    json.key("errors").object(|json| {
        for (code, count) in counters.errors.iter() {
            json.key(code).number(count);
        }
    });
}

fn times(json: &mut Json, times: &Times) {
    json.key("count").number(times.len());
    for (name, percentile) in PERCENTILES {
        json.key(name).decimal(percentile_us(times, percentile));
    }
    json.key("max_us").decimal(us(times.max()));
}

fn fields(json: &mut Json, fields: &[Field], words: &[u64]) {
    for (field, word) in fields.iter().zip(words) {
        json.key(field.name).number(*word);
    }
}

/// Writes JSON without white space. Every value stands behind [`Json::key`] or [`Json::item`], which
/// put the commas.
struct Json {
    text: String,
}

impl Json {
    fn object(&mut self, fields: impl FnOnce(&mut Json)) {
        self.text.push('{');
        fields(self);
        self.text.push('}');
    }

    fn array(&mut self, items: impl FnOnce(&mut Json)) {
        self.text.push('[');
        items(self);
        self.text.push(']');
    }

    fn key(&mut self, key: &str) -> &mut Json {
        self.item().string(key);
        self.text.push(':');
        self
    }

    fn item(&mut self) -> &mut Json {
        if !self.text.ends_with(['{', '[']) {
            self.text.push(',');
        }
        self
    }

    fn number(&mut self, number: u64) {
        self.text.push_str(itoa::Buffer::new().format(number));
    }

    /// With at most three decimals.
    fn decimal(&mut self, number: f64) {
        let text = format!("{number:.3}");
        self.text.push_str(text.trim_end_matches('0').trim_end_matches('.'));
    }

    fn boolean(&mut self, boolean: bool) {
        self.text.push_str(if boolean { "true" } else { "false" });
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for character in string.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\u{0}'..='\u{1f}' => self.text.push_str(&format!("\\u{:04x}", character as u32)),
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::command::Op;
    use crate::metrics::FieldKind;
    use crate::reply::ReplyError;

    fn facts() -> ServerFacts {
        ServerFacts { cores: 2, executable: "/odd \"path\\\n\u{1f980}".into(), port: 7001, ..ServerFacts::default() }
    }

    fn stats() -> Value {
        let mut one = CoreSnapshot { core: 0, ..CoreSnapshot::default() };
        one.counters.count_call(Op::Get);
        one.shard.keys = u64::MAX;
        let mut two = CoreSnapshot { core: 1, ..CoreSnapshot::default() };
        two.counters.count_call(Op::Get);
        two.counters.count_call(Op::ClientList);
        two.counters.count_failed(Op::Get, &ReplyError::Syntax);
        let text = stats_json(&facts(), &[one, two]);
        assert!(!text.contains('\n'), "one line, so that JSON lines can carry it");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn strings_and_large_numbers_come_through() {
        let stats = stats();
        assert_eq!(stats["server"]["executable"], "/odd \"path\\\n\u{1f980}");
        assert_eq!(stats["server"]["redis_version"], REDIS_VERSION);
        assert_eq!(stats["cores"][0]["shard"]["keys"], json!(u64::MAX));
        assert_eq!(stats["total"]["shard"]["keys"], json!(u64::MAX), "sums do not wrap around");
    }

    #[test]
    fn the_total_and_every_core_have_the_same_schema() {
        let stats = stats();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(
            keys(&stats),
            BTreeSet::from(["cores", "namespaces", "process", "server", "total"].map(String::from))
        );
        let core = &stats["cores"][1];
        assert_eq!(core["core"], 1);
        assert_eq!(core["slots"], json!([8192, 16383]));
        for part in ["counters", "shard", "rates"] {
            assert_eq!(keys(&core[part]), keys(&stats["total"][part]));
        }
        assert_eq!(core["counters"].as_object().unwrap().len(), CoreCounters::FIELDS.len());
    }

    #[test]
    fn commands_and_errors_are_there_once_they_occurred() {
        let stats = stats();
        assert_eq!(
            stats["total"]["commands"],
            json!({
                "get": {"calls": 2, "failed": 1, "rejected": 0},
                "client|list": {"calls": 1, "failed": 0, "rejected": 0},
            })
        );
        assert_eq!(stats["total"]["errors"], json!({"ERR": 1}));
        assert_eq!(stats["cores"][0]["errors"], json!({}));
        assert_eq!(stats["cores"][0]["commands"]["get"]["calls"], 1);
        assert_eq!(stats["total"]["counters"]["commands_processed"], 3);
    }

    #[test]
    fn a_server_without_snapshots_still_answers() {
        let stats: Value = serde_json::from_str(&stats_json(&facts(), &[])).unwrap();
        assert_eq!(stats["cores"], json!([]));
        assert_eq!(stats["total"]["counters"]["turns"], 0);
    }

    #[test]
    fn every_field_is_explained() {
        let all = [
            CoreCounters::FIELDS,
            ShardSnapshot::FIELDS,
            LogSnapshot::FIELDS,
            RateSnapshot::FIELDS,
            OpCounters::FIELDS,
        ];
        for field in all.into_iter().flatten() {
            assert!(field.help.ends_with('.') && !field.help.starts_with(' '), "{field:?}");
            assert!(field.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{field:?}");
        }
        let kind = |name| CoreCounters::FIELDS.iter().find(|field| field.name == name).unwrap().kind;
        assert_eq!((kind("connections_current"), kind("turns")), (FieldKind::Gauge, FieldKind::Counter));
    }
}
