//! Points in time as the pure layers see them. Nobody below the runtime reads a clock: it is read once
//! per turn of a core and passed down.

/// One reading of the wall clock and of the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch: what expiry times are compared with.
    pub unix_ms: u64,
    /// Microseconds within the current second: what TIME shows beside the seconds.
    pub unix_us_part: u32,
    /// Microseconds since the server started: what durations are measured with.
    pub uptime_us: u64,
}

impl Now {
    /// A reading for tests and benchmarks.
    pub fn at_ms(unix_ms: u64) -> Now {
        Now { unix_ms, unix_us_part: ((unix_ms % 1000) * 1000) as u32, uptime_us: unix_ms.wrapping_mul(1000) }
    }
}
