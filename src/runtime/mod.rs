//! Everything that touches the machine: executors, rings, sockets, signals, limits, the wall clock.
//! The only place that knows of glommio and io_uring.
//!
//! ```text
//!   main ─▶ log::start ─▶ Host::prepare: signals, preflight, listen ─▶ Host::run ─┬─▶ core 0 (thread, executor)
//!                                                                                 ├─▶ core 1
//!                                          signals, ends of cores ◀── waits for ──┴─▶ …
//! ```

pub mod admin;
pub mod background;
pub mod bridge;
pub mod core;
pub mod doorbell;
mod follower;
pub mod host;
pub mod listen;
pub mod log;
pub mod mesh;
pub mod notify;
pub mod pages;
mod port_owner;
pub mod preflight;
pub mod process;
pub mod pulse;
pub mod refusal;
pub mod ring;
pub mod server;
pub mod signals;
pub mod sockets;
pub mod spin;
mod tls;
pub mod wal;
