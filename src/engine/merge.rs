//! What becomes of the answers of every core when they have to be seen together.

use crate::metrics::LatencyEvents;
use crate::reply::Reply;

/// How the answers of all cores become one reply.
pub enum Merge {
    /// SLOWLOG GET: so many of the newest.
    SlowEntries {
        count: usize,
    },
    /// SLOWLOG LEN: no more than there may be.
    SlowCount {
        len_max: usize,
    },
    Latency {
        of: LatencyPage,
        threshold_ms: u64,
        unix_seconds: u64,
    },
    /// LATENCY RESET: how many different events there were.
    LatencyReset,
}

/// What LATENCY is asked for.
pub enum LatencyPage {
    Latest,
    History(Vec<u8>),
    Graph(Vec<u8>),
    Doctor,
}

impl Merge {
    pub fn merge(&self, parts: Vec<Reply<'static>>) -> Reply<'static> {
        match self {
            Merge::SlowEntries { count } => {
                let mut entries: Vec<Reply<'static>> = parts.into_iter().flat_map(items).collect();
                entries.sort_by_key(|entry| std::cmp::Reverse(id_of(entry)));
                entries.truncate(*count);
                Reply::Array(entries)
            }
            Merge::SlowCount { len_max } => {
                let count: i64 = parts.iter().map(|part| if let Reply::Int(count) = part { *count } else { 0 }).sum();
                Reply::Int(count.min(*len_max as i64))
            }
            Merge::Latency { of, threshold_ms, unix_seconds } => {
                let mut events = LatencyEvents::default();
                events.set_threshold_ms(*threshold_ms);
                parts.into_iter().for_each(|part| events.add_dump(part));
                match of {
                    LatencyPage::Latest => events.latest(),
                    LatencyPage::History(event) => events.history(event),
                    LatencyPage::Graph(event) => events.graph(event, *unix_seconds),
                    LatencyPage::Doctor => events.doctor(),
                }
            }
            Merge::LatencyReset => {
                let mut names: Vec<Vec<u8>> = parts
                    .into_iter()
                    .flat_map(items)
                    .filter_map(|name| match name {
                        Reply::Owned(name) => Some(name),
                        Reply::Text(name) => Some(name.as_bytes().to_vec()),
                        _ => None,
                    })
                    .collect();
                names.sort_unstable();
                names.dedup();
                Reply::Int(names.len() as i64)
            }
        }
    }
}

fn items(part: Reply<'static>) -> Vec<Reply<'static>> {
    if let Reply::Array(items) = part { items } else { Vec::new() }
}

/// The number an entry of the slow log begins with.
fn id_of(entry: &Reply<'_>) -> i64 {
    match entry {
        Reply::Array(fields) => match fields.first() {
            Some(Reply::Int(id)) => *id,
            _ => -1,
        },
        _ => -1,
    }
}
