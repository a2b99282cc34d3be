//! What the end-to-end suites share: a wire client that sees bytes, values and the notation they are
//! expected in, peers to compare with, and a seeded random source.

// Each suite is a crate of its own and uses its own part of this.
#![allow(dead_code)]

pub mod certificates;
pub mod client;
pub mod notation;
pub mod peers;
pub mod random;
pub mod tokens;
pub mod value;
pub mod vitals;
