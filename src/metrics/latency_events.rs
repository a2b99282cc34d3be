//! Moments at which something took long, by what it was: the samples of LATENCY, as Redis keeps them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use super::CoreSnapshot;
use crate::command::{Op, TABLE};
use crate::reply::Reply;

/// Samples of one event; older ones are forgotten.
const SAMPLES_MAX: usize = 160;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Series {
    max_ms: u64,
    /// Unix seconds and the longest of that second, ascending.
    samples: VecDeque<(u64, u64)>,
}

impl Series {
    fn add(&mut self, unix_seconds: u64, ms: u64) {
        self.max_ms = self.max_ms.max(ms);
        match self.samples.back_mut() {
            Some((second, longest)) if *second == unix_seconds => *longest = ms.max(*longest),
            _ => self.samples.push_back((unix_seconds, ms)),
        }
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }
}

/// What one core remembers, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyEvents {
    /// What takes less is no event; 0 switches all of it off.
    threshold_ms: u64,
    series: BTreeMap<String, Series>,
}

impl LatencyEvents {
    pub fn set_threshold_ms(&mut self, threshold_ms: u64) {
        self.threshold_ms = threshold_ms;
    }

    pub fn is_on(&self) -> bool {
        self.threshold_ms > 0
    }

    /// Whether what took so long is an event.
    #[inline]
    pub fn takes_ns(&self, elapsed_ns: u64) -> bool {
        self.threshold_ms > 0 && elapsed_ns / 1_000_000 >= self.threshold_ms
    }

    pub fn record(&mut self, event: &str, unix_seconds: u64, elapsed_ns: u64) {
        let ms = elapsed_ns / 1_000_000;
        match self.series.get_mut(event) {
            Some(series) => series.add(unix_seconds, ms),
            None => self.series.entry(event.to_owned()).or_default().add(unix_seconds, ms),
        }
    }

    /// Forgets these events, or all of them. Which there were.
    pub fn reset<'a>(&mut self, events: impl ExactSizeIterator<Item = &'a [u8]>) -> Reply<'static> {
        let names: Vec<String> = match events.len() {
            0 => self.series.keys().cloned().collect(),
            _ => events.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        };
        let known = names.into_iter().filter(|name| self.series.remove(name).is_some());
        Reply::Array(known.map(Reply::text).collect())
    }

    /// Everything, for [`LatencyEvents::add_dump`] on another core.
    pub fn dump(&self) -> Reply<'static> {
        let series = self.series.iter().map(|(name, series)| {
            let mut fields = vec![Reply::text(name.clone()), Reply::Int(series.max_ms as i64)];
            let samples = series.samples.iter().flat_map(|&(second, ms)| [second, ms]);
            fields.extend(samples.map(|number| Reply::Int(number as i64)));
            Reply::Array(fields)
        });
        Reply::Array(series.collect())
    }

    /// Adds what another core remembers.
    pub fn add_dump(&mut self, dump: Reply<'static>) {
        let Reply::Array(all) = dump else { return };
        for series in all {
            let Reply::Array(fields) = series else { continue };
            let mut fields = fields.into_iter();
            let name = match fields.next() {
                Some(Reply::Owned(name)) => String::from_utf8_lossy(&name).into_owned(),
                Some(Reply::Text(name)) => name.into_owned(),
                _ => continue,
            };
            let mut numbers = fields.filter_map(|field| match field {
                Reply::Int(number) => Some(number as u64),
                _ => None,
            });
            let max_ms = numbers.next().unwrap_or(0);
            let ours = self.series.entry(name).or_default();
            let mut samples: Vec<(u64, u64)> = ours.samples.drain(..).collect();
            while let (Some(second), Some(ms)) = (numbers.next(), numbers.next()) {
                samples.push((second, ms));
            }
            samples.sort_unstable();
            samples.into_iter().for_each(|(second, ms)| ours.add(second, ms));
            ours.max_ms = ours.max_ms.max(max_ms);
        }
    }

    /// LATENCY LATEST: name, when, how long then, the longest ever.
    pub fn latest(&self) -> Reply<'static> {
        let int = |number: u64| Reply::Int(number as i64);
        let latest = self.series.iter().filter_map(|(name, series)| {
            let &(second, ms) = series.samples.back()?;
            Some(Reply::Array(vec![Reply::text(name.clone()), int(second), int(ms), int(series.max_ms)]))
        });
        Reply::Array(latest.collect())
    }

    /// LATENCY HISTORY.
    pub fn history(&self, event: &[u8]) -> Reply<'static> {
        let samples = self.of(event).into_iter().flat_map(|series| &series.samples);
        let int = |number: u64| Reply::Int(number as i64);
        Reply::Array(samples.map(|&(second, ms)| Reply::Array(vec![int(second), int(ms)])).collect())
    }

    fn of(&self, event: &[u8]) -> Option<&Series> {
        self.series.get(std::str::from_utf8(event).ok()?)
    }

    /// LATENCY GRAPH: a column of characters for each sample, the newest at the right.
    pub fn graph(&self, event: &[u8], unix_seconds: u64) -> Reply<'static> {
        const ROWS: u64 = 4;
        const COLUMNS: usize = 80;
        let Some(series) = self.of(event) else {
            let event = String::from_utf8_lossy(event).replace(['\r', '\n'], " ");
            return Reply::error(format!("ERR No samples available for event '{event}'"));
        };
        let skipped = series.samples.len().saturating_sub(COLUMNS);
        let shown: Vec<(u64, u64)> = series.samples.iter().skip(skipped).copied().collect();
        let high = shown.iter().map(|sample| sample.1).max().unwrap_or(0);
        let low = shown.iter().map(|sample| sample.1).min().unwrap_or(0);
        let mut text = format!(
            "{} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
            String::from_utf8_lossy(event),
            series.max_ms,
            "-".repeat(COLUMNS)
        );
        // The height of each, in half rows.
        let height = |ms: u64| match high - low {
            0 => 2 * ROWS,
            span => 1 + (ms - low) * (2 * ROWS - 1) / span,
        };
        for row in (0..ROWS).rev() {
            let columns = shown.iter().map(|&(_, ms)| match height(ms).saturating_sub(2 * row) {
                0 => ' ',
                1 => '_',
                2 if height(ms) == 2 * (row + 1) => '#',
                _ => '|',
            });
            text.push_str(columns.collect::<String>().trim_end());
            text.push('\n');
        }
        // How long ago, top down.
        let ages: Vec<Vec<char>> =
            shown.iter().map(|&(second, _)| age(unix_seconds.saturating_sub(second)).chars().collect()).collect();
        text.push('\n');
        for row in 0..ages.iter().map(Vec::len).max().unwrap_or(0) {
            let line: String = ages.iter().map(|age| age.get(row).copied().unwrap_or(' ')).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        Reply::Verbatim(text.into())
    }

    /// LATENCY DOCTOR.
    pub fn doctor(&self) -> Reply<'static> {
        let mut text = String::new();
        if !self.is_on() {
            text.push_str(
                "Latency monitoring is disabled: CONFIG SET latency-monitor-threshold <milliseconds> switches it on. \
                 LATENCY HISTOGRAM and INFO latencystats always tell how long commands take.\n",
            );
        } else if self.series.is_empty() {
            let _ = writeln!(
                text,
                "Nothing has taken {} ms or longer since the start or LATENCY RESET.",
                self.threshold_ms
            );
        }
        for (name, series) in &self.series {
            let count = series.samples.len() as u64;
            let sum: u64 = series.samples.iter().map(|sample| sample.1).sum();
            let (first, last) = match (series.samples.front(), series.samples.back()) {
                (Some(first), Some(last)) => (first.0, last.0),
                _ => continue,
            };
            let _ = writeln!(
                text,
                "{name}: {count} seconds with such moments within {} s, {} ms on average, {} ms at most. {}",
                last - first + 1,
                sum / count.max(1),
                series.max_ms,
                advice(name)
            );
        }
        Reply::Verbatim(text.into())
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn advice(event: &str) -> &'static str {
    match event {
        "command" => "SLOWLOG GET names slow commands; commands over all keys, or with very many, take long.",
        "fast-command" => {
            "Fast commands wait for what their core does before them: look at SLOWLOG GET, at the other processes of the \
             machine, and at pipelines of many thousand commands."
        }
        "expire-cycle" => "Very many keys expire at once: --ttl-jitter-percent spreads them.",
        _ => "",
    }
}

/// LATENCY HISTOGRAM: how many calls of each command took no longer than so many microseconds.
pub fn latency_histogram(snapshots: &[CoreSnapshot], wanted: impl Fn(Op) -> bool) -> Reply<'static> {
    let total = CoreSnapshot::total(snapshots);
    let mut commands = Vec::new();
    for spec in TABLE.iter().filter(|spec| wanted(spec.op)) {
        let Some(latency) = total.latency.of(spec.op).filter(|latency| !latency.total.is_empty()) else { continue };
        let mut buckets: Vec<(Reply<'static>, Reply<'static>)> = Vec::new();
        let (mut bound_ns, mut count, mut shown) = (1024u64, 0, 0);
        let mut flush = |bound_ns: u64, count: u64| {
            if count > shown {
                // The bounds of Redis: powers of two, as coarse as its histograms.
                let bound_us = (bound_ns + bound_ns / 128 - 1) / 1000;
                buckets.push((Reply::Int(bound_us as i64), Reply::Int(count as i64)));
                shown = count;
            }
        };
        for value in latency.total.iter_recorded() {
            while value.value_iterated_to() > bound_ns + bound_ns / 128 - 1 {
                flush(bound_ns, count);
                bound_ns *= 2;
            }
            count += value.count_at_value();
        }
        flush(bound_ns, count);
        let fields = vec![
            (Reply::text("calls"), Reply::Int(latency.total.len() as i64)),
            (Reply::text("histogram_usec"), Reply::Map(buckets)),
        ];
        commands.push((Reply::text(spec.name), Reply::Map(fields)));
    }
    Reply::Map(commands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Latency;

    const MS: u64 = 1_000_000;

    fn events(samples: &[(&str, u64, u64)]) -> LatencyEvents {
        let mut events = LatencyEvents::default();
        samples.iter().for_each(|&(event, second, ms)| events.record(event, second, ms * MS));
        events
    }

    fn ints(reply: &Reply<'_>) -> Vec<Vec<i64>> {
        let Reply::Array(rows) = reply else { panic!("{reply:?}") };
        let int = |field: &Reply<'_>| if let Reply::Int(number) = field { Some(*number) } else { None };
        rows.iter()
            .map(|row| if let Reply::Array(row) = row { row.iter().filter_map(int).collect() } else { vec![] })
            .collect()
    }

    #[test]
    fn the_longest_of_each_second_stays() {
        let mut events = events(&[("command", 10, 5), ("command", 10, 9), ("command", 10, 2), ("command", 11, 3)]);
        assert_eq!(ints(&events.history(b"command")), [[10, 9], [11, 3]]);
        assert_eq!(ints(&events.latest()), [[11, 3, 9]]);
        assert_eq!(ints(&events.history(b"other")), Vec::<Vec<i64>>::new());
        (0..500).for_each(|second| events.record("command", 100 + second, MS));
        assert_eq!(ints(&events.history(b"command")).len(), SAMPLES_MAX);
        assert_eq!(events.reset([&b"nosuch"[..]].into_iter()), Reply::Array(vec![]));
        assert_eq!(events.reset([].into_iter()), Reply::Array(vec![Reply::text("command")]));
        assert_eq!(ints(&events.latest()), Vec::<Vec<i64>>::new());
    }

    #[test]
    fn cores_are_merged_in_time() {
        let one = events(&[("command", 10, 5), ("command", 12, 50)]);
        let two = events(&[("command", 10, 7), ("command", 11, 1), ("fast-command", 3, 4)]);
        let mut all = one.clone();
        all.add_dump(two.dump());
        assert_eq!(ints(&all.history(b"command")), [[10, 7], [11, 1], [12, 50]]);
        assert_eq!(ints(&all.latest()), [[12, 50, 50], [3, 4, 4]]);
        let mut other = two;
        other.add_dump(one.dump());
        assert_eq!(all, other);
    }

    #[test]
    fn what_is_off_takes_nothing() {
        let mut events = LatencyEvents::default();
        assert!(!events.takes_ns(u64::MAX) && !events.is_on());
        let Reply::Verbatim(text) = events.doctor() else { panic!("no text") };
        assert!(text.contains("disabled"));
        events.set_threshold_ms(5);
        assert!(events.takes_ns(5 * MS) && !events.takes_ns(5 * MS - 1));
        let Reply::Verbatim(text) = events.doctor() else { panic!("no text") };
        assert!(text.contains("Nothing has taken 5 ms"));
    }

    #[test]
    fn a_graph_has_a_column_for_each_sample() {
        let events = events(&[("command", 100, 10), ("command", 101, 20), ("command", 102, 40)]);
        let Reply::Verbatim(text) = events.graph(b"command", 165) else { panic!("no graph") };
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("command - high 40 ms, low 10 ms (all time high 40 ms)"), "{text}");
        assert!(lines[2].starts_with("  ") && lines[2].len() == 3, "the highest is the last: {text}");
        assert_eq!(lines[7], "111", "{text}");
        assert_eq!(lines[8], "mmm", "{text}");
        assert!(matches!(events.graph(b"nosuch", 1), Reply::Error(_)));
    }

    #[test]
    fn a_histogram_counts_up_in_the_buckets_of_redis() {
        let mut latency = Latency::default();
        for ns in [500, 900, 7_000, 15_000, 16_000, 100_000] {
            latency.record(Op::Set, ns, 1);
        }
        latency.record(Op::Get, 2_000_000, 3);
        let snapshot = CoreSnapshot { latency: latency.snapshot(), ..CoreSnapshot::default() };
        let Reply::Map(commands) = latency_histogram(std::slice::from_ref(&snapshot), |op| op == Op::Set) else {
            panic!()
        };
        let Reply::Map(fields) = &commands[0].1 else { panic!() };
        let buckets = [(1, 2), (8, 3), (16, 5), (132, 6)];
        let pair = |(bound, count)| (Reply::Int(bound), Reply::Int(count));
        assert_eq!(fields[1].1, Reply::Map(buckets.map(pair).to_vec()));
        let Reply::Map(all) = latency_histogram(&[snapshot.clone(), snapshot.clone()], |_| true) else { panic!() };
        assert_eq!(
            all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(),
            [Reply::text("get"), Reply::text("set")]
        );
        assert_eq!(latency_histogram(&[snapshot], |op| op == Op::Ping), Reply::Map(vec![]));
    }
}
