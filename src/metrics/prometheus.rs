//! Metrics in the text format of Prometheus.
//!
//! The stems are those of redis_exporter, so that what people know and what they have drawn applies; the prefix is ours,
//! or `redis_` for boards that were made for Redis. Beside them stands what only this server has: every counter of every
//! core, and latency histograms by command family.

use std::fmt::{self, Write};

use super::counters::{
    CoreCounters, CoreSnapshot, Field, FieldKind, LogSnapshot, NamespaceSnapshot, OpCounters, ShardSnapshot,
};
use super::facts::{CRABCACHE_VERSION, REDIS_VERSION, ServerFacts};
use super::latency::{Family, PERCENTILES};
use super::rates::RateSnapshot;
use crate::command::TABLE;

/// Upper bounds of the buckets, in nanoseconds: 1, 2, 5 and so on from ten microseconds to ten seconds.
const BUCKETS_NS: [u64; 19] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Whose names are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `crabcache_…`
    Own,
    /// The same, without what names namespaces: for whoever is not to know who else is here.
    Anonymous,
    /// `redis_…`, and only what redis_exporter has, too.
    RedisExporter,
}

/// The page of metrics, from a snapshot of each core.
pub fn prometheus(facts: &ServerFacts, snapshots: &[CoreSnapshot], names: Names) -> String {
    let mut page = Page { out: String::with_capacity(32 * 1024), names };
    let total = CoreSnapshot::total(snapshots);
    page.server(facts, &total).expect("writing to a String");
    page.commands(&total).expect("writing to a String");
    if names != Names::RedisExporter {
        page.families(&total).expect("writing to a String");
        page.cores(snapshots).expect("writing to a String");
    }
    if names == Names::Own {
        page.namespaces(&total).expect("writing to a String");
    }
    page.out
}

#[derive(Clone, Copy)]
enum Type {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

struct Page {
    out: String,
    names: Names,
}

impl Page {
    /// The lines above the samples of a metric.
    fn head(&mut self, stem: &str, kind: Type, help: &str) -> Result<String, fmt::Error> {
        let name = match self.names {
            Names::Own | Names::Anonymous => format!("crabcache_{stem}"),
            Names::RedisExporter => format!("redis_{stem}"),
        };
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
            Type::Summary => "summary",
        };
        writeln!(self.out, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"))?;
        writeln!(self.out, "# TYPE {name} {kind}")?;
        Ok(name)
    }

    fn one(&mut self, stem: &str, kind: Type, help: &str, value: impl fmt::Display) -> fmt::Result {
        let name = self.head(stem, kind, help)?;
        writeln!(self.out, "{name} {value}")
    }

    fn server(&mut self, facts: &ServerFacts, total: &CoreSnapshot) -> fmt::Result {
        use Type::*;
        let (counters, shard, process) = (&total.counters, &total.shard, &facts.process);
        let seconds = |us: u64| us as f64 / 1e6;
        self.one("up", Gauge, "Whether the server answers.", 1)?;
        let info = self.head("instance_info", Gauge, "What runs here; always 1.")?;
        let (mode, kernel) = (if facts.node.is_some() { "cluster" } else { "standalone" }, Label(&facts.kernel));
        let policy = facts.memory_policy;
        writeln!(
            self.out,
            "{info}{{role=\"master\",redis_version=\"{REDIS_VERSION}\",crabcache_version=\"{CRABCACHE_VERSION}\",\
             redis_mode=\"{mode}\",os=\"{kernel}\",tcp_port=\"{}\",process_id=\"{}\",run_id=\"{}\",maxmemory_policy=\"{policy}\"}} 1",
            facts.port, facts.pid, facts.run_id
        )?;
        self.one("uptime_in_seconds", Gauge, "Seconds since the start.", facts.uptime_us / 1_000_000)?;
        let start = (facts.unix_time_us.saturating_sub(facts.uptime_us)) / 1_000_000;
        self.one("start_time_seconds", Gauge, "When it was started, in seconds since 1970.", start)?;
        self.one("process_id", Gauge, "Its process id.", facts.pid)?;
        self.one("connected_clients", Gauge, "Clients connected now.", counters.connections_current)?;
        self.one("blocked_clients", Gauge, "Clients that wait for something to happen.", counters.blocked_clients)?;
        self.one("config_maxclients", Gauge, "Most clients at a time.", facts.clients_max)?;
        self.one("config_maxmemory", Gauge, "Most memory for keys and values; 0 is no bound.", facts.memory_bytes_max)?;
        self.one("connected_slaves", Gauge, "Replicas.", 0)?;
        self.one("memory_used_bytes", Gauge, "Memory of keys, values, index and history.", shard.memory_bytes)?;
        self.one("memory_used_rss_bytes", Gauge, "Resident memory of the process.", process.rss_bytes)?;
        self.one("memory_used_peak_bytes", Gauge, "The most resident memory there ever was.", process.rss_bytes_peak)?;
        self.one("memory_used_dataset_bytes", Gauge, "Keys and values themselves.", shard.payload_bytes)?;
        let overhead = shard.memory_bytes.saturating_sub(shard.payload_bytes);
        self.one("memory_used_overhead_bytes", Gauge, "What keys and values take beyond themselves.", overhead)?;
        self.one("memory_max_bytes", Gauge, "Most memory for keys and values; 0 is no bound.", facts.memory_bytes_max)?;
        self.one("total_system_memory_bytes", Gauge, "Memory of the machine.", process.system_memory_bytes)?;
        let ratio = if shard.memory_bytes == 0 { 0.0 } else { process.rss_bytes as f64 / shard.memory_bytes as f64 };
        self.one("mem_fragmentation_ratio", Gauge, "Resident memory by memory used.", format_args!("{ratio:.4}"))?;
        self.one("cpu_user_seconds_total", Counter, "CPU time in user mode.", seconds(process.cpu_user_us))?;
        self.one("cpu_sys_seconds_total", Counter, "CPU time in the kernel.", seconds(process.cpu_system_us))?;
        if self.names != Names::RedisExporter {
            let (lost, held_back) = (process.log_lines_lost, process.log_lines_held_back);
            self.one("log_lines_lost_total", Counter, "Lines of the log that could not be written.", lost)?;
            self.one("log_lines_held_back_total", Counter, "Lines of the log like many others, held back.", held_back)?;
            let refused = process.http_refused;
            self.one("http_refused_total", Counter, "Connections and requests refused by the admin HTTP.", refused)?;
        }
        let received = counters.connections_accepted;
        self.one("connections_received_total", Counter, "Connections accepted.", received)?;
        let refused = counters.connections_refused;
        self.one("rejected_connections_total", Counter, "Connections refused: too many clients.", refused)?;
        self.one("commands_processed_total", Counter, "Commands processed.", counters.commands_processed)?;
        self.one("net_input_bytes_total", Counter, "Bytes received from clients.", counters.bytes_received)?;
        self.one("net_output_bytes_total", Counter, "Bytes sent to clients.", counters.bytes_sent)?;
        self.one("keyspace_hits_total", Counter, "Look-ups that found a key.", shard.keyspace_hits)?;
        self.one("keyspace_misses_total", Counter, "Look-ups that found none.", shard.keyspace_misses)?;
        self.one("expired_keys_total", Counter, "Keys whose time had come.", shard.keys_expired)?;
        self.one("evicted_keys_total", Counter, "Keys removed to make room.", shard.keys_evicted)?;
        // The first is always there, as with redis_exporter.
        let databases = || total.databases.iter().enumerate().filter(|(number, it)| *number == 0 || it.keys > 0);
        let keys = self.head("db_keys", Gauge, "Keys, by database.")?;
        for (number, database) in databases() {
            writeln!(self.out, "{keys}{{db=\"db{number}\"}} {}", database.keys)?;
        }
        let expiring = self.head("db_keys_expiring", Gauge, "Keys with an expiry time, by database.")?;
        for (number, database) in databases() {
            writeln!(self.out, "{expiring}{{db=\"db{number}\"}} {}", database.keys_with_expiry)?;
        }
        let total_errors = match self.names {
            Names::Own | Names::Anonymous => "error_replies_total",
            // As it is called there.
            Names::RedisExporter => "total_error_replies",
        };
        self.one(total_errors, Counter, "Replies that were errors.", counters.error_replies)?;
        let errors = self.head("errors_total", Counter, "Replies that were errors, by their first word.")?;
        for (code, count) in counters.errors.iter() {
            writeln!(self.out, "{errors}{{err=\"{code}\"}} {count}")?;
        }
        Ok(())
    }

    /// By command, as far as they occurred.
    fn commands(&mut self, total: &CoreSnapshot) -> fmt::Result {
        type Count = fn(&OpCounters) -> u64;
        let counts: [(&str, &str, Count); 3] = [
            ("commands_total", "Commands carried out.", |op| op.calls),
            ("commands_failed_calls_total", "Commands that ended in an error.", |op| op.failed),
            ("commands_rejected_calls_total", "Commands refused before they were carried out.", |op| op.rejected),
        ];
        for (stem, help, count) in counts {
            let name = self.head(stem, Type::Counter, help)?;
            for spec in TABLE {
                let op = &total.counters.ops[spec.op];
                if *op != OpCounters::default() {
                    writeln!(self.out, "{name}{{cmd=\"{}\"}} {}", spec.name, count(op))?;
                }
            }
        }
        let help = "Time commands took from being received to being answered.";
        let name = self.head("commands_duration_seconds_total", Type::Counter, help)?;
        for command in &total.latency.commands {
            let spec = crate::command::spec_of(command.op);
            writeln!(self.out, "{name}{{cmd=\"{}\"}} {}", spec.name, command.sum_ns as f64 / 1e9)?;
        }
        let help = "The same by percentile, in microseconds, over the last minute.";
        let name = self.head("latency_percentiles_usec", Type::Summary, help)?;
        for command in &total.latency.commands {
            let spec = crate::command::spec_of(command.op);
            for (_, percentile) in PERCENTILES {
                let us = super::latency::percentile_us(&command.minute, percentile);
                writeln!(self.out, "{name}{{cmd=\"{}\",quantile=\"{}\"}} {us}", spec.name, percentile / 100.0)?;
            }
            writeln!(self.out, "{name}_sum{{cmd=\"{}\"}} {}", spec.name, command.sum_ns as f64 / 1e3)?;
            writeln!(self.out, "{name}_count{{cmd=\"{}\"}} {}", spec.name, command.total.len())?;
        }
        Ok(())
    }

    fn families(&mut self, total: &CoreSnapshot) -> fmt::Result {
        let help = "Time commands took from being received to being answered, by family of commands.";
        let name = self.head("command_duration_seconds", Type::Histogram, help)?;
        for family in Family::ALL {
            let (sum_ns, histogram) = total.latency.family(family);
            let family = family.name();
            for bound in BUCKETS_NS {
                let count = if histogram.is_empty() { 0 } else { histogram.count_between(0, bound) };
                let bound = bound as f64 / 1e9;
                writeln!(self.out, "{name}_bucket{{family=\"{family}\",le=\"{bound}\"}} {count}")?;
            }
            let count = histogram.len();
            writeln!(self.out, "{name}_bucket{{family=\"{family}\",le=\"+Inf\"}} {count}")?;
            writeln!(self.out, "{name}_sum{{family=\"{family}\"}} {}", sum_ns as f64 / 1e9)?;
            writeln!(self.out, "{name}_count{{family=\"{family}\"}} {count}")?;
        }
        Ok(())
    }

    /// Those with most operations, under the names of STATS.
    fn namespaces(&mut self, total: &CoreSnapshot) -> fmt::Result {
        for (index, field) in NamespaceSnapshot::FIELDS.iter().enumerate() {
            let (stem, kind) = match field.kind {
                FieldKind::Counter => (format!("namespace_{}_total", field.name), Type::Counter),
                FieldKind::Gauge => (format!("namespace_{}", field.name), Type::Gauge),
            };
            let name = self.head(&stem, kind, field.help)?;
            for (namespace, numbers) in &total.namespaces {
                let (namespace, number) = (Label(namespace), numbers.words()[index]);
                writeln!(self.out, "{name}{{namespace=\"{namespace}\"}} {number}")?;
            }
        }
        Ok(())
    }

    /// Every counter of every core, under the names of STATS.
    fn cores(&mut self, snapshots: &[CoreSnapshot]) -> fmt::Result {
        self.fields("core_", CoreCounters::FIELDS, snapshots, |snapshot| snapshot.counters.words().to_vec())?;
        self.fields("core_", ShardSnapshot::FIELDS, snapshots, |snapshot| snapshot.shard.words().to_vec())?;
        self.fields("core_log_", LogSnapshot::FIELDS, snapshots, |snapshot| snapshot.log.words().to_vec())?;
        self.fields("core_", RateSnapshot::FIELDS, snapshots, |snapshot| snapshot.rates.words().to_vec())
    }

    fn fields(
        &mut self,
        prefix: &str,
        fields: &[Field],
        snapshots: &[CoreSnapshot],
        words: impl Fn(&CoreSnapshot) -> Vec<u64>,
    ) -> fmt::Result {
        let words: Vec<(u32, Vec<u64>)> = snapshots.iter().map(|snapshot| (snapshot.core, words(snapshot))).collect();
        for (index, field) in fields.iter().enumerate() {
            let (stem, kind) = match field.kind {
                FieldKind::Counter => (format!("{prefix}{}_total", field.name), Type::Counter),
                FieldKind::Gauge => (format!("{prefix}{}", field.name), Type::Gauge),
            };
            // Points in time are seconds there.
            let (stem, is_time) = match stem.strip_suffix("_unix_ms") {
                Some(stem) => (format!("{stem}_timestamp_seconds"), true),
                None => (stem, false),
            };
            let name = self.head(&stem, kind, field.help.trim_end_matches(", in Unix milliseconds."))?;
            for (core, words) in &words {
                match words[index] {
                    ms if is_time => writeln!(self.out, "{name}{{core=\"{core}\"}} {}", ms as f64 / 1000.0)?,
                    word => writeln!(self.out, "{name}{{core=\"{core}\"}} {word}")?,
                }
            }
        }
        Ok(())
    }
}

/// The value of a label, escaped.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => out.write_str("\\\\")?,
                '"' => out.write_str("\\\"")?,
                '\n' => out.write_str("\\n")?,
                character => out.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::latency::Latency;
    use super::*;
    use crate::command::Op;

    /// A reader of the format, as strict as promtool is about names, types, duplicates and histograms. Every sample by
    /// its name with labels.
    fn parse(page: &str) -> BTreeMap<String, f64> {
        let is_name = |name: &str| {
            !name.starts_with(|first: char| first.is_ascii_digit())
                && !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
        };
        assert!(page.ends_with('\n'));
        let mut samples = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut current = (String::new(), "untyped");
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(seen.insert(name.to_string()), "{name} comes twice");
                assert!(!help.is_empty(), "{name}");
                current = (name.to_string(), "untyped");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current.0);
                current.1 =
                    ["counter", "gauge", "histogram", "summary"].into_iter().find(|known| *known == kind).unwrap();
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(is_name(name), "{line}");
            let base = match current.1 {
                "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)),
                "summary" => ["_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).or(Some(name)),
                _ => Some(name),
            };
            assert_eq!(base, Some(current.0.as_str()), "{line} below {current:?}");
            if let Some(labels) = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) {
                let labels = labels.strip_suffix('}').unwrap();
                for label in labels.split("\",") {
                    let (label, text) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                    assert!(is_name(label) && !text.contains('\n'), "{line}");
                }
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(current.1 != "counter" || value >= 0.0);
            assert!(samples.insert(series.to_string(), value).is_none(), "{series} comes twice");
        }
        samples
    }

    fn snapshots() -> Vec<CoreSnapshot> {
        (0..2)
            .map(|core| {
                let mut snapshot = CoreSnapshot { core, ..CoreSnapshot::default() };
                snapshot.counters.count_call(Op::Get);
                snapshot.counters.count_failed(Op::Get, &crate::reply::ReplyError::Syntax);
                snapshot.shard.keys = 5;
                snapshot.databases[0].keys = 3;
                snapshot.databases[2].keys = 2;
                let shop = NamespaceSnapshot { items: 2, hits: 4, ..NamespaceSnapshot::default() };
                snapshot.namespaces.insert("a \"b\"".into(), shop);
                let mut latency = Latency::default();
                latency.record(Op::Get, 15_000, 3);
                latency.record(Op::Get, 3_000_000, 1);
                snapshot.latency = latency.snapshot();
                snapshot
            })
            .collect()
    }

    fn facts() -> ServerFacts {
        ServerFacts { kernel: "a \"b\" \\c\nd".into(), memory_policy: "noeviction", ..ServerFacts::default() }
    }

    #[test]
    fn the_page_holds_to_the_format_and_adds_up() {
        let samples = parse(&prometheus(&facts(), &snapshots(), Names::Own));
        assert_eq!(samples["crabcache_up"], 1.0);
        assert_eq!(samples["crabcache_db_keys{db=\"db0\"}"], 6.0);
        assert_eq!(samples["crabcache_db_keys{db=\"db2\"}"], 4.0);
        assert_eq!(samples["crabcache_namespace_items{namespace=\"a \\\"b\\\"\"}"], 4.0);
        assert_eq!(samples["crabcache_namespace_hits_total{namespace=\"a \\\"b\\\"\"}"], 8.0);
        assert_eq!(samples["crabcache_commands_total{cmd=\"get\"}"], 2.0);
        assert_eq!(samples["crabcache_errors_total{err=\"ERR\"}"], 2.0);
        assert_eq!(samples["crabcache_core_keys{core=\"1\"}"], 5.0);
        assert_eq!(samples["crabcache_core_commands_processed_total{core=\"0\"}"], 1.0);
        assert!((samples["crabcache_commands_duration_seconds_total{cmd=\"get\"}"] - 0.00609).abs() < 1e-9);
    }

    #[test]
    fn buckets_only_grow_and_end_at_the_count() {
        let samples = parse(&prometheus(&facts(), &snapshots(), Names::Own));
        let bucket =
            |le: &str| samples[&format!("crabcache_command_duration_seconds_bucket{{family=\"read\",le=\"{le}\"}}")];
        assert_eq!((bucket("0.00001"), bucket("0.00002"), bucket("0.002"), bucket("0.005")), (0.0, 6.0, 6.0, 8.0));
        for family in Family::ALL.map(Family::name) {
            let mut last = 0.0;
            for le in BUCKETS_NS.map(|bound| (bound as f64 / 1e9).to_string()).into_iter().chain(["+Inf".into()]) {
                let count =
                    samples[&format!("crabcache_command_duration_seconds_bucket{{family=\"{family}\",le=\"{le}\"}}")];
                assert!(count >= last, "{family} {le}");
                last = count;
            }
            assert_eq!(last, samples[&format!("crabcache_command_duration_seconds_count{{family=\"{family}\"}}")]);
        }
    }

    #[test]
    fn whoever_may_not_know_it_sees_everything_but_namespaces() {
        let samples = |names| parse(&prometheus(&facts(), &snapshots(), names)).into_keys();
        let (of_namespaces, others): (Vec<_>, Vec<_>) =
            samples(Names::Own).partition(|name| name.contains("namespace"));
        assert_eq!(of_namespaces.len(), NamespaceSnapshot::FIELDS.len());
        assert!(samples(Names::Anonymous).eq(others));
    }

    #[test]
    fn boards_for_redis_find_what_they_ask_for() {
        let samples = parse(&prometheus(&facts(), &snapshots(), Names::RedisExporter));
        assert!(samples.keys().all(|name| name.starts_with("redis_")));
        // What the well-known board (Grafana 763) draws.
        for name in [
            "redis_uptime_in_seconds",
            "redis_connected_clients",
            "redis_memory_used_bytes",
            "redis_memory_max_bytes",
            "redis_commands_processed_total",
            "redis_keyspace_hits_total",
            "redis_keyspace_misses_total",
            "redis_net_input_bytes_total",
            "redis_net_output_bytes_total",
            "redis_db_keys{db=\"db0\"}",
            "redis_db_keys_expiring{db=\"db0\"}",
            "redis_expired_keys_total",
            "redis_evicted_keys_total",
            "redis_commands_total{cmd=\"get\"}",
            "redis_commands_duration_seconds_total{cmd=\"get\"}",
        ] {
            assert!(samples.contains_key(name), "{name}");
        }
    }
}
