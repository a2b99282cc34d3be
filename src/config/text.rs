//! How single settings are written: sizes, core lists, modes, hosts.

use std::net::Ipv6Addr;

use super::Cores;
use crate::limits::CORES_MAX;

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

/// A lone number is a count, everything with a `,` or `-` a list of CPUs.
pub fn parse_cores(text: &str) -> Result<Cores, String> {
    if let Some(count) = parse_number(text) {
        return match count {
            0 => Err("at least one core is needed (a single CPU 0 is written 0-0)".into()),
            _ if count > CORES_MAX => Err(format!("{count} cores; at most {CORES_MAX} are supported")),
            _ => Ok(Cores::Count(count)),
        };
    }
    let mut cpus = Vec::new();
    for piece in text.split(',') {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        let (Some(first), Some(last)) = (parse_number(first), parse_number(last)) else {
            return Err(format!("{piece:?} is neither a CPU nor a range; a list looks like 0,2-3, a count like 4"));
        };
        if first > last {
            return Err(format!("the range {piece} runs backwards"));
        }
        if last - first >= CORES_MAX || cpus.len() + (last - first) >= CORES_MAX {
            return Err(format!("more than the {CORES_MAX} cores that are supported"));
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return Err(format!("CPU {cpu} is named twice"));
            }
            cpus.push(cpu);
        }
    }
    Ok(Cores::Cpus(cpus))
}

/// Digits only: no sign, no spaces.
fn parse_number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Octal, as chmod takes it.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(mode),
        _ => Err("not a mode: three octal digits, as in 770".into()),
    }
}

/// A host that goes into replies as it is: it may hold nothing that would end a word there.
pub fn parse_host(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(bare.to_owned());
    }
    match text.len() {
        1..=253 if text.bytes().all(is_name) => Ok(text.to_owned()),
        _ => Err("not a host: an IP address or a name, without a port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_redis_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("1b", 1),
            ("1k", 1000),
            ("1kb", 1024),
            ("64MB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("2g", 2_000_000_000),
            ("17179869183gb", (u64::MAX >> 30) << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "mb", "-1", "+1", "1.5mb", "1mbb", "1 2", "17179869184gb", "18446744073709551616"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lone_number_counts_and_a_list_names() {
        assert_eq!(parse_cores("1"), Ok(Cores::Count(1)));
        assert_eq!(parse_cores("4"), Ok(Cores::Count(4)));
        assert_eq!(parse_cores("0,2-3"), Ok(Cores::Cpus(vec![0, 2, 3])));
        assert_eq!(parse_cores("3-3"), Ok(Cores::Cpus(vec![3])));
        assert_eq!(parse_cores("5,1"), Ok(Cores::Cpus(vec![5, 1])));
    }

    #[test]
    fn wrong_core_lists_say_what_is_wrong() {
        for (text, words) in [
            ("0", "at least one core"),
            ("100000", "at most"),
            ("", "neither a CPU nor a range"),
            ("0,", "neither a CPU nor a range"),
            ("a", "neither a CPU nor a range"),
            ("-1", "neither a CPU nor a range"),
            ("1-", "neither a CPU nor a range"),
            ("0-1-2", "neither a CPU nor a range"),
            ("+1", "neither a CPU nor a range"),
            ("3-2", "backwards"),
            ("1,0-2", "CPU 1 is named twice"),
            ("0-99999999", "more than"),
            ("0-18446744073709551615", "more than"),
            ("99999999999999999999", "neither a CPU nor a range"),
        ] {
            let error = parse_cores(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("770"), Ok(0o770));
        assert_eq!(parse_mode("0660"), Ok(0o660));
        for text in ["", "8", "1000", "+77", "rw"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_fit_into_a_reply() {
        for (text, host) in [("10.0.0.7", "10.0.0.7"), ("cache.example", "cache.example"), ("[::1]", "::1")] {
            assert_eq!(parse_host(text).as_deref(), Ok(host));
        }
        for text in ["", "a b", "a\r\n", "a,b", "host:7001", "[::1]:7001", "a\"b"] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }
}
