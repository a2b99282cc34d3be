//! How single settings are written: sizes, core lists, modes, hosts.

use std::net::Ipv6Addr;

use super::{Cores, MemorySize};
use crate::limits::CORES_MAX;

use crate::number::parse_size;

/// A part of the machine's memory, or bytes: `75%`, `4gb`.
pub fn parse_memory(text: &str) -> Result<MemorySize, String> {
    match text.trim_end().strip_suffix('%') {
        Some(percent) => match percent.trim_end().parse() {
            Ok(percent @ 1..=100) => Ok(MemorySize::Percent(percent)),
            _ => Err("a part of the memory is a whole number from 1% to 100%".into()),
        },
        None => parse_size(text).map(MemorySize::Bytes),
    }
}

/// A lone number is a count, everything with a `,` or `-` a list of CPUs, `all` every CPU there is for us.
pub fn parse_cores(text: &str) -> Result<Cores, String> {
    if text == "all" {
        return Ok(Cores::Allowed);
    }
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
    fn memory_is_a_size_or_a_part() {
        assert_eq!(parse_memory("4gb"), Ok(MemorySize::Bytes(4 << 30)));
        assert_eq!(parse_memory("75%"), Ok(MemorySize::Percent(75)));
        for wrong in ["0%", "101%", "%", "7.5%", "-1%", "all"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }

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
