//! Replies to bytes. RESP here; the binary form in [`super::binary`].

use bytes::Bytes;

use super::{binary, json};
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::reply::{Out, Reply};
use crate::request::Wire;

/// Writes `reply` behind what `out` holds. Values of their own memory are hung in, not copied.
#[inline]
pub fn encode(wire: Wire, reply: &Reply<'_>, out: &mut Out) {
    match wire {
        Wire::Resp2 => resp(reply, Resp::Two, out),
        Wire::Resp3 => resp(reply, Resp::Three, out),
        Wire::Binary => binary::encode(reply, out),
        Wire::Json => json::encode(reply, out),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resp {
    Two,
    Three,
}

#[inline]
fn resp(reply: &Reply<'_>, version: Resp, out: &mut Out) {
    match reply {
        Reply::Ok => out.bytes.extend_from_slice(b"+OK\r\n"),
        Reply::Nil => nil(version, out),
        Reply::Bulk(value) => bulk(value, out),
        Reply::Int(number) => integer(*number, out),
        _ => resp_rare(reply, version, out),
    }
}

#[inline]
fn nil(version: Resp, out: &mut Out) {
    match version {
        Resp::Two => out.bytes.extend_from_slice(b"$-1\r\n"),
        Resp::Three => out.bytes.extend_from_slice(b"_\r\n"),
    }
}

fn resp_rare(reply: &Reply<'_>, version: Resp, out: &mut Out) {
    match (reply, version) {
        (Reply::Ok | Reply::Nil | Reply::Bulk(_) | Reply::Int(_), _) => resp(reply, version, out),
        (Reply::None, _) => {}
        (Reply::Pong, _) => out.bytes.extend_from_slice(b"+PONG\r\n"),
        (Reply::NilArray, Resp::Two) => out.bytes.extend_from_slice(b"*-1\r\n"),
        (Reply::NilArray, Resp::Three) => nil(version, out),
        (Reply::Large(value), _) if value.len() < LARGE_VALUE_BYTES_MIN => bulk(value, out),
        (Reply::Large(value), _) => {
            header(b'$', value.len(), out);
            out.push_large(value.clone());
            out.bytes.extend_from_slice(b"\r\n");
        }
        (Reply::Text(text), _) => bulk(text.as_bytes(), out),
        (Reply::Owned(value), _) => bulk(value, out),
        (Reply::Status(text), _) => line(b'+', text, out),
        (Reply::Error(error), _) => line(b'-', &error.text(), out),
        (Reply::Double(number), Resp::Two) => bulk(double_text(*number).as_bytes(), out),
        (Reply::Double(number), Resp::Three) => line(b',', &double_text(*number), out),
        (Reply::Bool(is_true), Resp::Two) => integer(i64::from(*is_true), out),
        (Reply::Bool(is_true), Resp::Three) => line(b'#', if *is_true { "t" } else { "f" }, out),
        (Reply::Verbatim(text), Resp::Two) => bulk(text.as_bytes(), out),
        (Reply::Verbatim(text), Resp::Three) => {
            header(b'=', text.len() + 4, out);
            out.bytes.extend_from_slice(b"txt:");
            out.bytes.extend_from_slice(text.as_bytes());
            out.bytes.extend_from_slice(b"\r\n");
        }
        (Reply::Array(items), _) => sequence(b'*', items, version, out),
        (Reply::Set(items), Resp::Two) | (Reply::Push(items), Resp::Two) => sequence(b'*', items, version, out),
        (Reply::Set(items), Resp::Three) => sequence(b'~', items, version, out),
        (Reply::Push(items), Resp::Three) => sequence(b'>', items, version, out),
        (Reply::Map(pairs), _) => {
            match version {
                Resp::Two => header(b'*', 2 * pairs.len(), out),
                Resp::Three => header(b'%', pairs.len(), out),
            }
            for (key, value) in pairs {
                resp(key, version, out);
                resp(value, version, out);
            }
        }
    }
}

fn sequence(tag: u8, items: &[Reply<'_>], version: Resp, out: &mut Out) {
    header(tag, items.len(), out);
    for item in items {
        resp(item, version, out);
    }
}

#[inline]
fn bulk(value: &[u8], out: &mut Out) {
    out.bytes.reserve(HEADER_BYTES_MAX + value.len() + 2);
    header(b'$', value.len(), out);
    out.bytes.extend_from_slice(value);
    out.bytes.extend_from_slice(b"\r\n");
}

/// Tag, twenty digits, CR LF, rounded up.
const HEADER_BYTES_MAX: usize = 24;

/// `$64\r\n`
#[inline]
fn header(tag: u8, number: usize, out: &mut Out) {
    if number >= 100_000 {
        return line(tag, itoa::Buffer::new().format(number), out);
    }
    // Made in a register from its last digit to its tag, and copied as eight bytes whose end is then
    // taken back: both sizes are known, so that neither stack nor loops are needed.
    let mut bytes = u64::from(u16::from_le_bytes(*b"\r\n"));
    let mut rest = number as u32;
    let mut len = 3;
    loop {
        bytes = bytes << 8 | u64::from(b'0' as u32 + rest % 10);
        rest /= 10;
        len += 1;
        if rest == 0 {
            break;
        }
    }
    bytes = bytes << 8 | u64::from(tag);
    let end = out.bytes.len() + len;
    out.bytes.extend_from_slice(&bytes.to_le_bytes());
    out.bytes.truncate(end);
}

#[inline]
fn integer(number: i64, out: &mut Out) {
    match usize::try_from(number) {
        Ok(number) => header(b':', number, out),
        Err(_) => line(b':', itoa::Buffer::new().format(number), out),
    }
}

/// A line of text, in which nothing else ends a line.
fn line(tag: u8, text: &str, out: &mut Out) {
    out.bytes.push(tag);
    out.bytes.extend_from_slice(one_line(text).as_bytes());
    out.bytes.extend_from_slice(b"\r\n");
}

/// `text` with blanks for everything that would end a line: errors quote what clients sent.
pub(super) fn one_line(text: &str) -> std::borrow::Cow<'_, str> {
    match text.contains(['\r', '\n']) {
        false => text.into(),
        true => text.replace(['\r', '\n'], " ").into(),
    }
}

/// A message for subscribers: `words` (what it is, the pattern, the channel), then the payload, which is hung in
/// if it may be shared.
pub fn message(wire: Wire, words: &[&[u8]], payload: &[u8], shared: Option<&Bytes>, out: &mut Out) {
    debug_assert!(wire != Wire::Binary, "nobody subscribes in frames");
    if wire == Wire::Json {
        return json::message(words, payload, out);
    }
    header(if wire == Wire::Resp3 { b'>' } else { b'*' }, words.len() + 1, out);
    for word in words {
        bulk(word, out);
    }
    match shared {
        None => bulk(payload, out),
        Some(shared) => {
            header(b'$', shared.len(), out);
            out.push_large(shared.clone());
            out.bytes.extend_from_slice(b"\r\n");
        }
    }
}

/// The shortest text that reads back as the same number, in the notation that Redis chooses.
pub fn double_text(number: f64) -> String {
    if !number.is_finite() {
        return match number {
            f64::INFINITY => "inf".into(),
            f64::NEG_INFINITY => "-inf".into(),
            _ => "nan".into(),
        };
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    // The number is `digits` × 10^`scale`.
    let scale = exponent - (digits.len() as i32 - 1);
    let unsigned = if scale >= 0 && exponent.unsigned_abs() < digits.len() as u32 + 7 {
        digits + &"0".repeat(scale as usize)
    } else if scale < 0 && (scale > -7 || exponent.abs() < 4) {
        match digits.len() as i32 + scale {
            whole if whole > 0 => format!("{}.{}", &digits[..whole as usize], &digits[whole as usize..]),
            zeros => format!("0.{}{digits}", "0".repeat(-zeros as usize)),
        }
    } else {
        let point = if digits.len() > 1 { "." } else { "" };
        format!("{}{point}{}e{exponent:+}", &digits[..1], &digits[1..])
    };
    format!("{sign}{unsigned}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ReplyError;
    use bytes::Bytes;

    fn wire(wire: Wire, reply: &Reply<'_>) -> String {
        let mut out = Out::default();
        encode(wire, reply, &mut out);
        out.to_vec().escape_ascii().to_string()
    }

    #[test]
    fn each_version_writes_what_it_knows() {
        let cases: &[(Reply, &str, &str)] = &[
            (Reply::Ok, r"+OK\r\n", r"+OK\r\n"),
            (Reply::Pong, r"+PONG\r\n", r"+PONG\r\n"),
            (Reply::Nil, r"$-1\r\n", r"_\r\n"),
            (Reply::NilArray, r"*-1\r\n", r"_\r\n"),
            (Reply::Int(0), r":0\r\n", r":0\r\n"),
            (Reply::Int(-2), r":-2\r\n", r":-2\r\n"),
            (Reply::Int(i64::MAX), r":9223372036854775807\r\n", r":9223372036854775807\r\n"),
            (Reply::Int(i64::MIN), r":-9223372036854775808\r\n", r":-9223372036854775808\r\n"),
            (Reply::Bulk(b""), r"$0\r\n\r\n", r"$0\r\n\r\n"),
            (Reply::Bulk(b"0123456789"), r"$10\r\n0123456789\r\n", r"$10\r\n0123456789\r\n"),
            (Reply::Owned(b"\r\n".into()), r"$2\r\n\r\n\r\n", r"$2\r\n\r\n\r\n"),
            (Reply::Large(Bytes::from_static(b"small")), r"$5\r\nsmall\r\n", r"$5\r\nsmall\r\n"),
            (Reply::text("abc"), r"$3\r\nabc\r\n", r"$3\r\nabc\r\n"),
            (Reply::Status("QUEUED"), r"+QUEUED\r\n", r"+QUEUED\r\n"),
            (Reply::Double(3.25), r"$4\r\n3.25\r\n", r",3.25\r\n"),
            (Reply::Bool(true), r":1\r\n", r"#t\r\n"),
            (Reply::Bool(false), r":0\r\n", r"#f\r\n"),
            (Reply::Verbatim("a\nb".into()), r"$3\r\na\nb\r\n", r"=7\r\ntxt:a\nb\r\n"),
            (ReplyError::Syntax.into(), r"-ERR syntax error\r\n", r"-ERR syntax error\r\n"),
            (Reply::error("ERR a\r\n+OK\r\n"), r"-ERR a  +OK  \r\n", r"-ERR a  +OK  \r\n"),
            (Reply::Array(vec![Reply::Nil, Reply::Array(vec![])]), r"*2\r\n$-1\r\n*0\r\n", r"*2\r\n_\r\n*0\r\n"),
            (Reply::Set(vec![Reply::Int(1)]), r"*1\r\n:1\r\n", r"~1\r\n:1\r\n"),
            (Reply::Push(vec![Reply::Int(1)]), r"*1\r\n:1\r\n", r">1\r\n:1\r\n"),
            (Reply::Map(vec![(Reply::Bulk(b"k"), Reply::Nil)]), r"*2\r\n$1\r\nk\r\n$-1\r\n", r"%1\r\n$1\r\nk\r\n_\r\n"),
            (Reply::None, "", ""),
        ];
        for (reply, resp2, resp3) in cases {
            assert_eq!(wire(Wire::Resp2, reply), *resp2, "{reply:?}");
            assert_eq!(wire(Wire::Resp3, reply), *resp3, "{reply:?}");
        }
    }

    #[test]
    fn bulk_headers_hold_any_length() {
        for len in [9, 10, 99, 100, 999, 1000, 10_000, 100_000] {
            let mut out = Out::default();
            encode(Wire::Resp2, &Reply::Bulk(&vec![b'v'; len]), &mut out);
            assert_eq!(out.bytes, format!("${len}\r\n{}\r\n", "v".repeat(len)).into_bytes());
        }
    }

    #[test]
    fn large_values_are_hung_in_without_a_copy() {
        let value = Bytes::from(vec![b'v'; LARGE_VALUE_BYTES_MIN]);
        let mut out = Out::default();
        encode(Wire::Resp3, &Reply::Array(vec![Reply::Ok, Reply::Large(value.clone()), Reply::Ok]), &mut out);
        assert_eq!(out.bytes, b"*3\r\n+OK\r\n$32768\r\n\r\n+OK\r\n");
        assert_eq!(out.large.len(), 1);
        assert_eq!(out.large[0].1.as_ptr(), value.as_ptr());
        assert_eq!(out.to_vec().len(), out.len());
    }

    #[test]
    fn doubles_are_written_as_redis_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (2.17, "2.17"),
            (-0.001, "-0.001"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e20, "1e+20"),
            (1e7, "10000000"),
            (1e8, "1e+8"),
            (123456789.0, "123456789"),
            (1e-5, "0.00001"),
            (1e-7, "1e-7"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (number, text) in cases {
            assert_eq!(double_text(number), text);
        }
    }
}
