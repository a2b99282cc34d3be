//! What makes several commands one: keys that are held for a moment, keys that are watched. Both are tables of one
//! core; who asks whom, and when, is the engine's.
//!
//! ```text
//!   a transaction over cores 0, 2
//!     hold on 0 ─▶ granted ─▶ hold on 2 ─▶ granted ─▶ commands to 0 and 2, each followed by its release
//! ```
//!
//! No circle of transactions can wait for each other: cores are asked in ascending order, and on one core a
//! request stands in the queues of all its keys at once, in the same order everywhere. Nothing that is held waits
//! for a client: its commands are all there before the first hold is asked for.

mod holds;
#[cfg(test)]
mod tests;
mod watches;

pub use holds::{Holds, Ticket};
pub use watches::Watches;
