//! Numbers as Redis reads and writes them.

pub use crate::number::parse_i64;

/// A decimal number as `strtod` takes it, but for spaces in front and NaN.
pub fn parse_float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|value: &f64| !value.is_nan())
}

/// The shortest digits that read back as `value`, without an exponent.
pub fn write_float(value: f64) -> String {
    if value == 0.0 { "0".into() } else { value.to_string() }
}
