//! Results for people and for machines.

pub mod summary;

use crate::plan::Plan;
use crate::record::Record;

/// One finished test.
pub struct Outcome<'a> {
    pub plan: &'a Plan,
    pub record: &'a Record,
}

pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
