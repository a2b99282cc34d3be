//! CrabCache: a cache server, one glommio executor per core, nothing shared.
//!
//! ```text
//!   socket ─▶ net ring ─▶ Connection ─▶ proto::decode ─▶ Request ─▶ engine ─┬─ mine ──▶ Shard::apply ─▶ Reply
//!     ▲                                                                     │                │
//!     │                                                                     └─ theirs ─▶ mesh ─▶ (the same, there)
//!     └──── one send per connection per turn ◀── replies in order ◀── proto::encode ◀────────┘
//! ```
//!
//! | layer | modules | may use |
//! |---|---|---|
//! | 0 words | [`command`], [`request`], [`reply`], [`limits`], [`clock`], [`slot`], [`hash`], [`namespace`], [`number`], `random` (for tests) | std, `bytes`, `ahash` |
//! | 1 pure | [`proto`], [`store`], [`wal`], [`metrics`], [`connection`], [`glob`], [`admin`], [`allowlist`], [`auth`], [`filling`], [`proxy_protocol`], [`pubsub`], [`ratelimit`], [`tracking`], [`txn`], [`engine`] | layer 0; [`engine`] joins its siblings, [`connection`] speaks [`proto`] and the engine's words for clients and batches |
//! | 2 runtime | [`config`], [`runtime`] | 0 and 1; the only code that touches glommio, io_uring, files, sockets, the wall clock |
//! | 3 edges | `main`, `loadgen` | the wire (`proto`) and `config`, not the store |
//!
//! Layers 0 and 1 do no I/O, read no clock and draw no ambient randomness: time, randomness and
//! capacity are arguments. `tests/tidy` holds these rules.

pub mod admin;
pub mod allowlist;
pub mod auth;
pub mod clock;
pub mod command;
pub mod config;
pub mod connection;
pub mod engine;
pub mod filling;
pub mod glob;
pub mod hash;
pub mod limits;
pub mod metrics;
pub mod namespace;
pub mod number;
pub mod proto;
pub mod proxy_protocol;
pub mod pubsub;
#[cfg(test)]
mod random;
pub mod ratelimit;
pub mod reply;
pub mod request;
pub mod runtime;
pub mod slot;
pub mod store;
pub mod tracking;
pub mod txn;
pub mod wal;
