//! MEMORY STATS and MEMORY DOCTOR: where the memory goes, in figures and in words.

use super::{CoreSnapshot, ServerFacts};
use crate::reply::Reply;

/// MEMORY STATS: Redis's names where they mean the same here, then the kinds of memory there are here.
pub fn memory_stats(facts: &ServerFacts, snapshots: &[CoreSnapshot]) -> Reply<'static> {
    let CoreSnapshot { shard, counters, .. } = CoreSnapshot::total(snapshots);
    let rss = facts.process.rss_bytes;
    let int = |bytes: u64| Reply::Int(bytes as i64);
    let ratio = |a: u64, b: u64| Reply::Double(if b == 0 { 0.0 } else { a as f64 / b as f64 });
    let fields = [
        ("peak.allocated", int(facts.process.rss_bytes_peak)),
        ("total.allocated", int(shard.memory_bytes)),
        ("keys.count", int(shard.keys)),
        ("keys.bytes-per-key", int(shard.memory_bytes.checked_div(shard.keys).unwrap_or(0))),
        ("clients.normal", int(counters.client_bytes)),
        ("overhead.total", int(shard.memory_bytes.saturating_sub(shard.payload_bytes))),
        ("dataset.bytes", int(shard.payload_bytes)),
        ("dataset.percentage", ratio(shard.payload_bytes * 100, shard.memory_bytes)),
        ("allocator.resident", int(rss)),
        ("fragmentation", ratio(rss, shard.memory_bytes)),
        ("fragmentation.bytes", Reply::Int(rss as i64 - shard.memory_bytes as i64)),
        ("ceiling.bytes", int(facts.memory_bytes_max)),
        ("items.bytes", int(shard.item_bytes)),
        ("large-values.bytes", int(shard.large_value_bytes)),
        ("index.bytes", int(shard.index_bytes.saturating_sub(shard.deadline_bytes))),
        ("deadlines.bytes", int(shard.deadline_bytes)),
        ("history.bytes", int(shard.history_bytes)),
        ("gaps.bytes", int(shard.gap_bytes)),
        ("free.bytes", int(shard.free_bytes)),
        ("buffers-and-code.bytes", int(rss.saturating_sub(shard.memory_bytes))),
    ];
    Reply::Map(fields.into_iter().map(|(name, value)| (Reply::text(name), value)).collect())
}

/// Resident memory beyond what is counted that nobody needs to wonder about: buffers and code.
const BESIDE_BYTES: u64 = 64 << 20;
const BESIDE_BYTES_PER_CORE: u64 = 2 << 20;
/// With fewer look-ups the estimates say nothing.
const LOOK_UPS_MIN: u64 = 100_000;

/// MEMORY DOCTOR: what an operator might want to change, or that there is nothing.
pub fn memory_doctor(facts: &ServerFacts, snapshots: &[CoreSnapshot]) -> String {
    let shard = CoreSnapshot::total(snapshots).shard;
    let mib = |bytes: u64| bytes >> 20;
    let mut findings = Vec::new();
    let beside = facts.process.rss_bytes.saturating_sub(shard.memory_bytes);
    if beside > BESIDE_BYTES + BESIDE_BYTES_PER_CORE * facts.cores as u64 {
        findings.push(format!(
            "{} MiB are resident beyond keys, values and index: many clients with unsent replies, or large values under way.",
            mib(beside)
        ));
    }
    if shard.writes_refused > 0 {
        findings.push(format!(
            "{} writes were refused because there was no room. Raise max-memory, or let it evict (eviction = tinylfu).",
            shard.writes_refused
        ));
    }
    if shard.gap_bytes > shard.memory_bytes / 5 && shard.gap_bytes > 64 << 20 {
        findings.push(format!("{} MiB are gaps between items; they are closed step by step.", mib(shard.gap_bytes)));
    }
    let percent = |hits: u64| hits as f64 * 100.0 / shard.what_if_look_ups.max(1) as f64;
    let (same, double) = (percent(shard.what_if_hits_at_same), percent(shard.what_if_hits_at_double));
    if shard.what_if_look_ups >= LOOK_UPS_MIN && double > same + 2.0 {
        findings.push(format!(
            "With twice the memory about {double:.1} % of the look-ups would be hits instead of {same:.1} %."
        ));
    }
    if facts.memory_bytes_max == 0 {
        findings.push("There is no ceiling: max-memory is 0, and the system may end the server.".into());
    }
    match findings.is_empty() {
        true => "Nothing to complain about: memory is where it should be.\n".into(),
        false => findings.into_iter().map(|finding| format!(" * {finding}\n")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ProcessFacts, ShardSnapshot};

    fn facts(rss_bytes: u64, memory_bytes_max: u64) -> ServerFacts {
        let process = ProcessFacts { rss_bytes, ..ProcessFacts::default() };
        ServerFacts { cores: 2, memory_bytes_max, process, ..ServerFacts::default() }
    }

    fn snapshots(shard: ShardSnapshot) -> [CoreSnapshot; 2] {
        std::array::from_fn(|core| CoreSnapshot { core: core as u32, shard: shard.clone(), ..CoreSnapshot::default() })
    }

    #[test]
    fn the_kinds_of_memory_are_sums_over_the_cores() {
        let shard =
            ShardSnapshot { keys: 5, memory_bytes: 100, payload_bytes: 80, index_bytes: 9, ..Default::default() };
        let Reply::Map(fields) = memory_stats(&facts(300, 0), &snapshots(shard)) else { panic!("no map") };
        let field =
            |name: &str| fields.iter().find(|(field, _)| *field == Reply::text(name.to_owned())).unwrap().1.clone();
        assert_eq!(field("keys.count"), Reply::Int(10));
        assert_eq!(field("keys.bytes-per-key"), Reply::Int(20));
        assert_eq!(field("dataset.percentage"), Reply::Double(80.0));
        assert_eq!(field("overhead.total"), Reply::Int(40));
        assert_eq!(field("index.bytes"), Reply::Int(18));
        assert_eq!(field("fragmentation"), Reply::Double(1.5));
    }

    #[test]
    fn the_doctor_speaks_of_what_is_wrong_and_of_nothing_else() {
        let fine = ShardSnapshot { keys: 5, memory_bytes: 100, ..Default::default() };
        let report = memory_doctor(&facts(50 << 20, 1 << 30), &snapshots(fine));
        assert!(report.starts_with("Nothing to complain about"), "{report}");
        let short = ShardSnapshot {
            writes_refused: 3,
            what_if_look_ups: 1_000_000,
            what_if_hits_at_same: 500_000,
            what_if_hits_at_double: 610_000,
            ..Default::default()
        };
        let report = memory_doctor(&facts(1 << 30, 0), &snapshots(short));
        for word in ["1024 MiB are resident", "6 writes were refused", "about 61.0 % of the look-ups", "no ceiling"] {
            assert!(report.contains(word), "{word} in {report}");
        }
    }
}
