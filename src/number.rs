//! Integers as they stand in commands.

/// The only spelling of an integer that Redis takes for one: no plus, no leading zeros, no spaces, no `-0`.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Nineteen digits stay below 10^19 < 2^64.
        magnitude = magnitude * 10 + (digit - b'0') as u64;
    }
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// `65536`, `64kb`, `64kib` (powers of 1024), `64k` (powers of 1000): as in a Redis configuration.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "m" => 1000 * 1000,
        "g" => 1000 * 1000 * 1000,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        _ => return Err("not a size: a number, then nothing, k, kb, m, mb, g or gb".into()),
    };
    if number.is_empty() {
        return Err("not a size: it must begin with a number".into());
    }
    number.parse().ok().and_then(|number: u64| number.checked_mul(factor)).ok_or("a size beyond 64 bits".into())
}

/// `250ms`, `30s`, `5m`, `12h`, `7d`; a lone number is seconds, as in a Redis configuration. In milliseconds.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err("not a duration: a number, then ms, s, m, h or d".into()),
    };
    if number.is_empty() {
        return Err("not a duration: it must begin with a number".into());
    }
    number.parse().ok().and_then(|number: u64| number.checked_mul(factor)).ok_or("a duration beyond 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_an_integer() {
        for value in [0, 1, -1, 9, 10, -10, 1_000_000, i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1] {
            assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1a",
            "0x1",
            "1.0",
            "00",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "99999999999999999999",
            "1\0",
        ] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in
            [("0", 0), ("30", 30_000), ("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("2 h", 7_200_000)]
        {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        assert_eq!(parse_duration_ms("7D"), Ok(7 * 86_400_000));
        for text in ["", "s", "-1s", "1.5s", "1y", "1 2", "18446744073709551615d"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }
}
