//! Results for people and for machines.

pub mod hdr;
pub mod json;
pub mod live;
pub mod say;
pub mod summary;
pub mod svg;

use std::fs::OpenOptions;
use std::path::Path;

use hdrhistogram::Histogram;

use crate::failure::Failure;

/// Latencies in milliseconds; all zero if there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    pub average: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

impl Percentiles {
    pub fn of(latency_ns: &Histogram<u64>) -> Percentiles {
        if latency_ns.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| ms(latency_ns.value_at_quantile(quantile));
        Percentiles {
            average: latency_ns.mean() / 1e6,
            min: ms(latency_ns.min()),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: ms(latency_ns.max()),
        }
    }
}

pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Tries an output file before an hour is spent on what goes into it.
pub fn check_writable<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    for path in paths {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| Failure::system(format!("cannot write {}", path.display()), error))?;
    }
    Ok(())
}

/// How a test is called in file names.
pub fn file_name(test: &str) -> String {
    let letters =
        test.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' });
    let name: String = letters.take(60).collect();
    name.trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_harmless() {
        assert_eq!(file_name("MGET (10 keys)"), "mget__10_keys");
        assert_eq!(file_name("../x"), "x");
    }
}
