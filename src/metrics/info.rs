//! INFO: sections of `field:value` lines under the names Redis gives them, because monitoring reads them.
//! A field of Redis that means nothing here is absent rather than invented.

use std::fmt::{self, Write};

use super::counters::{CoreSnapshot, OpCounters};
use super::facts::{CRABCACHE_VERSION, REDIS_VERSION, ServerFacts};
use super::latency::{PERCENTILES, percentile_us, us};
use crate::command::TABLE;
use crate::request::Args;
use crate::slot;

/// In the order they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Section {
    Server,
    Clients,
    Memory,
    Persistence,
    Stats,
    Replication,
    Cpu,
    Modules,
    CommandStats,
    ErrorStats,
    LatencyStats,
    Cluster,
    Keyspace,
    Cores,
}

struct SectionSpec {
    section: Section,
    title: &'static str,
    /// Whether INFO without arguments shows it.
    by_default: bool,
}

const SECTIONS: [SectionSpec; 14] = {
    const fn spec(section: Section, title: &'static str, by_default: bool) -> SectionSpec {
        SectionSpec { section, title, by_default }
    }
    [
        spec(Section::Server, "Server", true),
        spec(Section::Clients, "Clients", true),
        spec(Section::Memory, "Memory", true),
        spec(Section::Persistence, "Persistence", true),
        spec(Section::Stats, "Stats", true),
        spec(Section::Replication, "Replication", true),
        spec(Section::Cpu, "CPU", true),
        spec(Section::Modules, "Modules", true),
        spec(Section::CommandStats, "Commandstats", false),
        spec(Section::ErrorStats, "Errorstats", true),
        spec(Section::LatencyStats, "Latencystats", false),
        spec(Section::Cluster, "Cluster", true),
        spec(Section::Keyspace, "Keyspace", true),
        spec(Section::Cores, "Cores", false),
    ]
};

/// Which sections were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections(u16);

impl Sections {
    /// The arguments of INFO: names of sections in any case and order, and `default`, `all` and
    /// `everything` for many at once. Unknown names ask for nothing.
    pub fn parse(args: Args<'_>) -> Sections {
        if args.is_empty() {
            return Sections::by_default();
        }
        args.iter().fold(Sections(0), |asked, name| Sections(asked.0 | Sections::named(&name.to_ascii_lowercase()).0))
    }

    pub fn by_default() -> Sections {
        Sections::of(|spec| spec.by_default)
    }

    pub fn all() -> Sections {
        Sections::of(|_| true)
    }

    fn named(name: &[u8]) -> Sections {
        match name {
            b"default" => Sections::by_default(),
            b"all" | b"everything" => Sections::all(),
            // Redis's own name for the list of modules.
            b"module_list" => Sections::of(|spec| spec.section == Section::Modules),
            _ => Sections::of(|spec| spec.title.as_bytes().eq_ignore_ascii_case(name)),
        }
    }

    fn of(keep: impl Fn(&SectionSpec) -> bool) -> Sections {
        Sections(SECTIONS.iter().filter(|spec| keep(spec)).fold(0, |bits, spec| bits | 1 << spec.section as u8))
    }

    fn has(self, section: Section) -> bool {
        self.0 & 1 << section as u8 != 0
    }
}

/// The reply of INFO, from a snapshot of each core.
pub fn info(sections: Sections, facts: &ServerFacts, snapshots: &[CoreSnapshot]) -> String {
    let page = Page { facts, total: CoreSnapshot::total(snapshots), snapshots };
    let mut out = String::with_capacity(4096);
    for spec in SECTIONS.iter().filter(|spec| sections.has(spec.section)) {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        page.write(spec, &mut out).expect("writing to a String");
    }
    out
}

struct Page<'a> {
    facts: &'a ServerFacts,
    total: CoreSnapshot,
    snapshots: &'a [CoreSnapshot],
}

/// Writes a `name:value` line.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        write!($out, $($arg)*)?;
        $out.write_str("\r\n")?;
    }};
}

impl Page<'_> {
    fn write(&self, spec: &SectionSpec, out: &mut String) -> fmt::Result {
        line!(out, "# {}", spec.title);
        match spec.section {
            Section::Server => self.server(out),
            Section::Clients => self.clients(out),
            Section::Memory => self.memory(out),
            Section::Persistence => self.persistence(out),
            Section::Stats => self.stats(out),
            Section::Replication => self.replication(out),
            Section::Cpu => self.cpu(out),
            Section::Modules => Ok(()),
            Section::CommandStats => self.command_stats(out),
            Section::ErrorStats => self.error_stats(out),
            Section::LatencyStats => self.latency_stats(out),
            Section::Cluster => self.cluster(out),
            Section::Keyspace => self.keyspace(out),
            Section::Cores => self.cores(out),
        }
    }

    fn server(&self, out: &mut String) -> fmt::Result {
        let facts = self.facts;
        line!(out, "redis_version:{REDIS_VERSION}");
        line!(out, "server_name:crabcache");
        line!(out, "crabcache_version:{CRABCACHE_VERSION}");
        line!(out, "redis_mode:{}", if facts.node.is_some() { "cluster" } else { "standalone" });
        line!(out, "os:{}", facts.kernel);
        line!(out, "arch_bits:{}", usize::BITS);
        line!(out, "multiplexing_api:io_uring");
        line!(out, "process_id:{}", facts.pid);
        line!(out, "run_id:{}", facts.run_id);
        line!(out, "tcp_port:{}", facts.node.map_or(facts.port, |node| node.port));
        line!(out, "server_time_usec:{}", facts.unix_time_us);
        let uptime_seconds = facts.uptime_us / 1_000_000;
        line!(out, "uptime_in_seconds:{uptime_seconds}");
        line!(out, "uptime_in_days:{}", uptime_seconds / 86_400);
        line!(out, "cores:{}", facts.cores);
        line!(out, "executable:{}", facts.executable);
        line!(out, "config_file:{}", facts.config_file);
        Ok(())
    }

    fn clients(&self, out: &mut String) -> fmt::Result {
        line!(out, "connected_clients:{}", self.total.counters.connections_current);
        line!(out, "cluster_connections:0");
        line!(out, "maxclients:{}", self.facts.clients_max);
        line!(out, "pubsub_clients:{}", self.total.counters.subscribers_current);
        line!(out, "monitor_clients:{}", self.total.counters.monitors_current);
        line!(out, "blocked_clients:{}", self.total.counters.blocked_clients);
        line!(out, "tracking_clients:{}", self.total.counters.tracking_clients);
        Ok(())
    }

    fn memory(&self, out: &mut String) -> fmt::Result {
        let (facts, process) = (self.facts, &self.facts.process);
        let shard = &self.total.shard;
        let with_human = |out: &mut String, name: &str, bytes: u64| -> fmt::Result {
            line!(out, "{name}:{bytes}");
            line!(out, "{name}_human:{}", Human(bytes));
            Ok(())
        };
        with_human(out, "used_memory", shard.memory_bytes)?;
        with_human(out, "used_memory_rss", process.rss_bytes)?;
        with_human(out, "used_memory_rss_peak", process.rss_bytes_peak)?;
        line!(out, "used_memory_overhead:{}", shard.memory_bytes.saturating_sub(shard.payload_bytes));
        line!(out, "used_memory_dataset:{}", shard.payload_bytes);
        with_human(out, "total_system_memory", process.system_memory_bytes)?;
        with_human(out, "maxmemory", facts.memory_bytes_max)?;
        line!(out, "maxmemory_policy:{}", facts.memory_policy);
        let ratio = if shard.memory_bytes == 0 { 0.0 } else { process.rss_bytes as f64 / shard.memory_bytes as f64 };
        line!(out, "used_memory_items:{}", shard.item_bytes);
        line!(out, "used_memory_large_values:{}", shard.large_value_bytes);
        line!(out, "used_memory_index:{}", shard.index_bytes);
        line!(out, "used_memory_history:{}", shard.history_bytes);
        line!(out, "used_memory_gaps:{}", shard.gap_bytes);
        line!(out, "used_memory_free:{}", shard.free_bytes);
        line!(out, "mem_clients_normal:{}", self.total.counters.client_bytes);
        line!(out, "cores_under_pressure:{}", shard.pressed);
        line!(out, "mem_fragmentation_ratio:{ratio:.2}");
        line!(out, "mem_fragmentation_bytes:{}", process.rss_bytes as i64 - shard.memory_bytes as i64);
        Ok(())
    }

    /// Nothing is loaded and nothing written: clients look here for `loading` before they send anything.
    fn persistence(&self, out: &mut String) -> fmt::Result {
        let log = &self.total.log;
        let is = |count: u64| (count > 0) as u8;
        line!(out, "loading:{}", is(log.loading));
        line!(out, "async_loading:0");
        line!(out, "rdb_bgsave_in_progress:0");
        line!(out, "rdb_saves:0");
        line!(out, "aof_enabled:{}", is(log.enabled));
        line!(out, "aof_rewrite_in_progress:{}", is(log.rewriting));
        line!(out, "aof_rewrite_scheduled:0");
        if log.enabled == 0 {
            return Ok(());
        }
        let synced = self.snapshots.iter().map(|core| core.log.last_sync_unix_ms).min().unwrap_or(0);
        line!(out, "rdb_last_save_time:{}", synced / 1000);
        line!(out, "aof_last_bgrewrite_status:{}", if log.failed > 0 { "err" } else { "ok" });
        line!(out, "aof_last_write_status:{}", if log.refusing > 0 { "err" } else { "ok" });
        line!(out, "aof_current_size:{}", log.log_bytes);
        line!(out, "aof_buffer_length:{}", log.backlog_bytes);
        line!(out, "aof_delayed_fsync:0");
        line!(out, "wal_disk_bytes:{}", log.disk_bytes);
        line!(out, "wal_records:{}", log.records);
        line!(out, "wal_groups:{}", log.groups);
        line!(out, "wal_syncs:{}", log.syncs);
        line!(out, "wal_bytes_copied:{}", log.bytes_copied);
        line!(out, "wal_failed_cores:{}", log.failed);
        Ok(())
    }

    fn stats(&self, out: &mut String) -> fmt::Result {
        let (counters, shard, rates) = (&self.total.counters, &self.total.shard, &self.total.rates);
        let kilobytes = |bytes: u64| bytes as f64 / 1024.0;
        line!(out, "total_connections_received:{}", counters.connections_accepted + counters.connections_refused);
        line!(out, "total_commands_processed:{}", counters.commands_processed);
        line!(out, "instantaneous_ops_per_sec:{}", rates.commands_per_second);
        line!(out, "total_net_input_bytes:{}", counters.bytes_received);
        line!(out, "total_net_output_bytes:{}", counters.bytes_sent);
        line!(out, "instantaneous_input_kbps:{:.2}", kilobytes(rates.bytes_received_per_second));
        line!(out, "instantaneous_output_kbps:{:.2}", kilobytes(rates.bytes_sent_per_second));
        line!(out, "rejected_connections:{}", counters.connections_refused);
        line!(out, "expired_keys:{}", shard.keys_expired);
        line!(out, "evicted_keys:{}", shard.keys_evicted);
        line!(out, "admitted_keys:{}", shard.keys_admitted);
        line!(out, "rejected_keys:{}", shard.keys_rejected);
        line!(out, "aged_out_keys:{}", shard.keys_aged_out);
        let percent = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 };
        line!(out, "window_percent:{:.1}", percent(shard.window_target_bytes, shard.item_bytes));
        for (memory, hits) in [
            ("half", shard.what_if_hits_at_half),
            ("same", shard.what_if_hits_at_same),
            ("double", shard.what_if_hits_at_double),
            ("quadruple", shard.what_if_hits_at_quadruple),
        ] {
            line!(out, "what_if_hit_percent_{memory}:{:.2}", percent(hits, shard.what_if_look_ups));
        }
        line!(out, "evicted_clients:{}", counters.connections_closed_by_memory);
        line!(out, "keyspace_hits:{}", shard.keyspace_hits);
        line!(out, "keyspace_misses:{}", shard.keyspace_misses);
        line!(out, "pubsub_channels:{}", counters.channels_current);
        line!(out, "pubsub_patterns:{}", counters.patterns_current);
        line!(out, "pubsubshard_channels:{}", counters.shard_channels_current);
        line!(out, "pubsub_messages:{}", counters.messages_published);
        line!(out, "pubsub_deliveries:{}", counters.messages_delivered);
        line!(out, "pubsub_subscribers_dropped:{}", counters.subscribers_dropped);
        line!(out, "tracking_total_keys:{}", counters.tracking_keys);
        line!(out, "tracking_total_items:{}", counters.tracking_items);
        // Every core has all of them.
        line!(out, "tracking_total_prefixes:{}", counters.tracking_prefixes / self.snapshots.len().max(1) as u64);
        line!(out, "tracking_invalidations:{}", counters.invalidations);
        line!(out, "keyspace_events:{}", counters.keyspace_events);
        line!(out, "keyspace_events_lost:{}", counters.keyspace_events_lost);
        line!(out, "fills_told:{}", counters.fills_told);
        line!(out, "fills_handed_over:{}", counters.fills_handed_over);
        line!(out, "fills_waited:{}", counters.fills_waited);
        line!(out, "fills_timed_out:{}", counters.fills_timed_out);
        line!(out, "fills_refused:{}", counters.fills_refused);
        line!(out, "fills_stale:{}", counters.fills_stale);
        line!(out, "fills_current:{}", counters.fills_current);
        line!(out, "slow_commands:{}", counters.slow_commands);
        line!(out, "monitor_lines:{}", counters.monitor_lines);
        line!(out, "client_pauses:{}", counters.client_pauses);
        line!(out, "latest_fork_usec:0");
        line!(out, "total_forks:0");
        line!(out, "total_error_replies:{}", counters.error_replies);
        line!(out, "total_reads_processed:{}", counters.receive_completions);
        line!(out, "total_writes_processed:{}", counters.send_completions);
        line!(out, "client_output_buffer_limit_disconnections:{}", counters.connections_closed_by_output_bound);
        line!(out, "protocol_errors:{}", counters.protocol_errors);
        line!(out, "accept_errors:{}", counters.accept_errors);
        line!(out, "slow_reader_pauses:{}", counters.slow_reader_pauses);
        Ok(())
    }

    fn replication(&self, out: &mut String) -> fmt::Result {
        line!(out, "role:master");
        line!(out, "connected_slaves:0");
        line!(out, "master_failover_state:no-failover");
        line!(out, "master_replid:{}", self.facts.run_id);
        line!(out, "master_repl_offset:0");
        line!(out, "second_repl_offset:-1");
        line!(out, "repl_backlog_active:0");
        Ok(())
    }

    fn cpu(&self, out: &mut String) -> fmt::Result {
        let process = &self.facts.process;
        for (name, us) in [
            ("used_cpu_sys", process.cpu_system_us),
            ("used_cpu_user", process.cpu_user_us),
            ("used_cpu_sys_children", process.cpu_system_children_us),
            ("used_cpu_user_children", process.cpu_user_children_us),
        ] {
            line!(out, "{name}:{}.{:06}", us / 1_000_000, us % 1_000_000);
        }
        Ok(())
    }

    fn command_stats(&self, out: &mut String) -> fmt::Result {
        for spec in TABLE {
            let OpCounters { calls, failed, rejected } = self.total.counters.ops[spec.op];
            if calls == 0 && failed == 0 && rejected == 0 {
                continue;
            }
            let (timed, sum_us) = match self.total.latency.of(spec.op) {
                Some(latency) => (latency.total.len(), latency.sum_ns / 1000),
                None => (0, 0),
            };
            let per_call = if timed == 0 { 0.0 } else { sum_us as f64 / timed as f64 };
            write!(out, "cmdstat_{}:calls={calls},usec={sum_us},usec_per_call={per_call:.2}", spec.name)?;
            line!(out, ",rejected_calls={rejected},failed_calls={failed}");
        }
        Ok(())
    }

    /// Over the last minute; STATS has those since the start, too.
    fn latency_stats(&self, out: &mut String) -> fmt::Result {
        for command in &self.total.latency.commands {
            write!(out, "latency_percentiles_usec_{}:", crate::command::spec_of(command.op).name)?;
            for (_, percentile) in PERCENTILES {
                let comma = if percentile == PERCENTILES[0].1 { "" } else { "," };
                write!(out, "{comma}p{percentile}={:.3}", percentile_us(&command.minute, percentile))?;
            }
            line!(out, ",max={:.3}", us(command.minute.max()));
        }
        Ok(())
    }

    fn error_stats(&self, out: &mut String) -> fmt::Result {
        for (code, count) in self.total.counters.errors.iter() {
            line!(out, "errorstat_{code}:count={count}");
        }
        Ok(())
    }

    fn cluster(&self, out: &mut String) -> fmt::Result {
        line!(out, "cluster_enabled:{}", self.facts.node.is_some() as u8);
        Ok(())
    }

    fn keyspace(&self, out: &mut String) -> fmt::Result {
        // A client of one node adds up the nodes by itself.
        let node = self.facts.node.and_then(|node| self.snapshots.iter().find(|snapshot| snapshot.core == node.core));
        let databases = node.map_or(&self.total.databases, |snapshot| &snapshot.databases);
        for (number, database) in databases.iter().enumerate().filter(|(_, database)| database.keys > 0) {
            line!(out, "db{number}:keys={},expires={}", database.keys, database.keys_with_expiry);
        }
        Ok(())
    }

    /// A line per core; STATS has all of its counters.
    fn cores(&self, out: &mut String) -> fmt::Result {
        for CoreSnapshot { core, counters, shard, rates, .. } in self.snapshots {
            let slots = slot::slots_of_core(*core, self.facts.cores);
            write!(out, "core{core}:slots={}-{}", slots.start(), slots.end())?;
            write!(out, ",clients={},keys={}", counters.connections_current, shard.keys)?;
            write!(out, ",memory_bytes={},ops_per_sec={}", shard.memory_bytes, rates.commands_per_second)?;
            write!(out, ",commands={}", counters.commands_processed)?;
            write!(out, ",forwarded_out={}", counters.commands_forwarded_out)?;
            write!(out, ",forwarded_in={}", counters.commands_forwarded_in)?;
            line!(out, ",turns={},sleeps={}", counters.turns, counters.sleeps);
        }
        Ok(())
    }
}

/// Bytes as Redis writes them for people: `512B`, `1.50K`, `64.00M`.
struct Human(u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut amount = self.0 as f64;
        if self.0 < 1024 {
            return write!(f, "{}B", self.0);
        }
        let mut units = ["K", "M", "G", "T", "P", "E"].into_iter();
        let mut unit = "B";
        while amount >= 1024.0 {
            amount /= 1024.0;
            unit = units.next().expect("no number of 64 bits needs a larger unit");
        }
        write!(f, "{amount:.2}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Op;
    use crate::metrics::{
        CoreCounters, DatabaseSnapshot, LogSnapshot, Node, ProcessFacts, RateSnapshot, ShardSnapshot,
    };
    use crate::reply::ReplyError;
    use crate::request::ArgRange;

    fn sections(words: &str) -> Sections {
        let ranges: Vec<ArgRange> = words
            .split_ascii_whitespace()
            .map(|word| ArgRange::inline(word.as_ptr() as usize - words.as_ptr() as usize, word.len()))
            .collect();
        Sections::parse(Args::new(words.as_bytes(), &ranges, &[]))
    }

    fn facts() -> ServerFacts {
        ServerFacts {
            pid: 42,
            run_id: "a".repeat(40),
            port: 7001,
            cores: 2,
            unix_time_us: 1_700_000_000_123_456,
            uptime_us: 90_061_000_001,
            kernel: "Linux 6.18.0 x86_64".into(),
            executable: "/usr/bin/crabcache".into(),
            clients_max: 10_000,
            memory_policy: "noeviction",
            cluster_enabled: true,
            process: ProcessFacts {
                rss_bytes: 3_000_000,
                rss_bytes_peak: 4 << 20,
                cpu_user_us: 1_000_050,
                cpu_system_us: 7,
                system_memory_bytes: 24 << 30,
                ..ProcessFacts::default()
            },
            ..ServerFacts::default()
        }
    }

    fn core(core: u32) -> CoreSnapshot {
        let mut counters = CoreCounters {
            connections_accepted: 5,
            connections_current: 3,
            connections_refused: 1,
            commands_processed: 10,
            bytes_received: 300,
            commands_forwarded_in: 4,
            ..CoreCounters::default()
        };
        counters.ops[Op::Get] = OpCounters { calls: 4, failed: 1, rejected: 2 };
        counters.ops[Op::ClientList].rejected = 1;
        counters.count_failed(Op::Incr, &ReplyError::NotAnInteger);
        CoreSnapshot {
            core,
            counters,
            log: LogSnapshot::default(),
            databases: std::array::from_fn(|number| match number {
                0 => DatabaseSnapshot { keys: 10, keys_with_expiry: 2 },
                3 => DatabaseSnapshot { keys: 1, keys_with_expiry: 0 },
                _ => DatabaseSnapshot::default(),
            }),
            shard: ShardSnapshot {
                keys: 10,
                keys_with_expiry: 2,
                keyspace_hits: 7,
                memory_bytes: 1_000_000,
                payload_bytes: 999_000,
                index_bytes: 1000,
                ..ShardSnapshot::default()
            },
            rates: RateSnapshot { commands_per_second: 50, bytes_received_per_second: 1536, ..Default::default() },
            ..CoreSnapshot::default()
        }
    }

    fn page(words: &str) -> String {
        info(sections(words), &facts(), &[core(0), core(1)])
    }

    fn titles(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("# ")).collect()
    }

    #[test]
    fn sections_are_chosen_as_redis_does() {
        let default = [
            "Server",
            "Clients",
            "Memory",
            "Persistence",
            "Stats",
            "Replication",
            "CPU",
            "Modules",
            "Errorstats",
            "Cluster",
            "Keyspace",
        ];
        assert_eq!(titles(&page("")), default);
        assert_eq!(titles(&page("DEFAULT")), default);
        assert_eq!(titles(&page("all")).len(), SECTIONS.len());
        assert_eq!(titles(&page("Everything")).len(), SECTIONS.len());
        assert_eq!(titles(&page("cores default")).len(), default.len() + 1);
        assert_eq!(titles(&page("keyspace SERVER cpu server nosuch")), ["Server", "CPU", "Keyspace"]);
        assert_eq!(titles(&page("module_list")), ["Modules"]);
        assert_eq!(page("nosuch"), "");
    }

    #[test]
    fn a_page_is_made_of_titles_and_named_values() {
        let text = page("everything");
        assert!(text.starts_with("# Server\r\nredis_version:"));
        assert!(text.ends_with("\r\n"));
        assert_eq!(text.replace("\r\n", "").find(['\r', '\n']), None);
        let mut names = std::collections::HashSet::new();
        for (index, line) in text.split_terminator("\r\n").enumerate() {
            if line.is_empty() || line.starts_with("# ") {
                continue;
            }
            let (name, _) = line.split_once(':').unwrap_or_else(|| panic!("line {index}: {line}"));
            assert!(names.insert(name), "{name} twice");
        }
        assert_eq!(
            page("cluster keyspace"),
            "# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\ndb0:keys=20,expires=4\r\ndb3:keys=2,expires=0\r\n"
        );
    }

    #[test]
    fn a_node_speaks_of_its_own_port_and_keys() {
        let as_node = ServerFacts { node: Some(Node { core: 1, port: 7102 }), ..facts() };
        let sections = Sections::named(b"server");
        has(&info(sections, &as_node, &[core(0), core(1)]), &["redis_mode:cluster", "tcp_port:7102"]);
        let sections = Sections::named(b"keyspace");
        has(&info(sections, &as_node, &[core(0), core(1)]), &["db0:keys=10,expires=2"]);
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.split("\r\n").any(|have| have == *line), "{line} in {text}");
        }
    }

    #[test]
    fn values_are_sums_over_the_cores() {
        has(
            &page("server clients stats memory"),
            &[
                "redis_mode:standalone",
                "uptime_in_seconds:90061",
                "uptime_in_days:1",
                "connected_clients:6",
                "total_connections_received:12",
                "rejected_connections:2",
                "total_commands_processed:20",
                "instantaneous_ops_per_sec:100",
                "instantaneous_input_kbps:3.00",
                "keyspace_hits:14",
                "total_error_replies:2",
                "used_memory:2000000",
                "used_memory_human:1.91M",
                "used_memory_rss_human:2.86M",
                "used_memory_dataset:1998000",
                "total_system_memory_human:24.00G",
                "maxmemory:0",
                "maxmemory_human:0B",
                "mem_fragmentation_ratio:1.50",
                "mem_fragmentation_bytes:1000000",
            ],
        );
        has(&page("cpu"), &["used_cpu_user:1.000050", "used_cpu_sys:0.000007"]);
    }

    #[test]
    fn commands_and_errors_are_listed_once_they_occurred() {
        assert_eq!(
            page("commandstats errorstats"),
            "# Commandstats\r\n\
             cmdstat_get:calls=8,usec=0,usec_per_call=0.00,rejected_calls=4,failed_calls=2\r\n\
             cmdstat_incr:calls=0,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=2\r\n\
             cmdstat_client|list:calls=0,usec=0,usec_per_call=0.00,rejected_calls=2,failed_calls=0\r\n\
             \r\n# Errorstats\r\nerrorstat_ERR:count=2\r\n"
        );
    }

    #[test]
    fn each_core_has_its_line() {
        assert_eq!(
            page("cores").lines().nth(2).unwrap(),
            "core1:slots=8192-16383,clients=3,keys=10,memory_bytes=1000000,ops_per_sec=50,commands=10,\
             forwarded_out=0,forwarded_in=4,turns=0,sleeps=0"
        );
    }

    #[test]
    fn an_empty_server_has_no_databases_and_divides_by_nothing() {
        let text = info(Sections::all(), &ServerFacts { cores: 1, ..facts() }, &[CoreSnapshot::default()]);
        assert!(!text.contains("db0"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn bytes_for_people() {
        let human = |bytes| Human(bytes).to_string();
        assert_eq!([0, 1023, 1024, 1536, 1 << 20].map(human), ["0B", "1023B", "1.00K", "1.50K", "1.00M"]);
        assert_eq!([24 << 30, 3 << 40, u64::MAX].map(human), ["24.00G", "3.00T", "16.00E"]);
    }
}
