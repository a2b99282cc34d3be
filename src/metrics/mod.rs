//! What the server says about itself: counters per core, snapshots of them that travel between cores,
//! and the texts made from them: INFO, STATS and the metrics of Prometheus.
//!
//! ```text
//!   engine, runtime ──▶ CoreCounters ─┐
//!   store ────────────▶ ShardSnapshot ┼─▶ CoreSnapshot ══ bytes over the mesh ══▶ info(), stats_json()
//!   Rates ────────────▶ RateSnapshot ─┤                        ServerFacts ──────▶ prometheus()
//!   Latency ──────────▶ LatencySnapshot
//! ```
//!
//! Nothing here reads a clock or asks the kernel: times and the facts about the process are passed in,
//! and every number in INFO and STATS is one of those or comes from a counter.

mod counters;
mod facts;
mod info;
mod json;
mod latency;
mod latency_events;
mod memory;
mod prometheus;
mod rates;
pub mod slow_log;

pub use counters::{
    CoreCounters, CoreSnapshot, DatabaseSnapshot, ERROR_CODES, ErrorCode, Field, FieldKind, LogSnapshot,
    MalformedSnapshot, NamespaceSnapshot, NamespaceSnapshots, OP_COUNT, OpCounters, PerError, PerOp, ShardSnapshot,
    busiest_namespaces,
};
pub use facts::{CRABCACHE_VERSION, Node, ProcessFacts, REDIS_VERSION, ServerFacts};
pub use info::{Sections, info};
pub use json::stats_json;
pub use latency::{CommandLatency, Family, Latency, LatencySnapshot};
pub use latency_events::{LatencyEvents, latency_histogram};
pub use memory::{memory_doctor, memory_stats};
pub use prometheus::{Names, prometheus};
pub use rates::{RateSnapshot, Rates};
