//! Replies as lines of JSON. Bytes that are UTF-8 are strings; others are `{"value_b64":"…"}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::decode::Id;
use crate::limits::JSON_LINE_BYTES_MAX;
use crate::proto::encode::{double_text, one_line};
use crate::reply::{Out, Reply};

/// The beginning of a reply's line, up to where [`encode`] goes on.
pub fn begin_line(id: Option<Id>, out: &mut Out) {
    out.bytes.push(b'{');
    if let Some(id) = id {
        out.bytes.extend_from_slice(b"\"id\":");
        out.bytes.extend_from_slice(id.as_json().as_bytes());
        out.bytes.push(b',');
    }
}

/// How many of the line's bytes [`begin_line`] has written.
pub fn beginning_len(line: &[u8]) -> usize {
    const ID: &[u8] = b"{\"id\":";
    if !line.starts_with(ID) {
        return 1;
    }
    // A number, or a text with escapes.
    let (mut in_text, mut is_escaped) = (false, false);
    let end = line[ID.len()..].iter().position(|&byte| {
        let is_plain = !std::mem::take(&mut is_escaped);
        in_text ^= byte == b'"' && is_plain;
        is_escaped = byte == b'\\' && is_plain;
        byte == b',' && !in_text
    });
    end.map_or(1, |end| ID.len() + end + 1)
}

/// The rest of a reply's line.
pub(in crate::proto) fn encode(reply: &Reply<'_>, out: &mut Out) {
    match reply {
        Reply::Error(error) => error_member(&error.text(), &mut out.bytes),
        Reply::Large(value) if value.len() > JSON_LINE_BYTES_MAX => error_member(TOO_LARGE, &mut out.bytes),
        _ => {
            out.bytes.extend_from_slice(b"\"result\":");
            value_of(reply, &mut out.bytes);
        }
    }
    out.bytes.extend_from_slice(b"}\n");
}

const TOO_LARGE: &str = "TOOLARGE the value is too large for a line: ask for it in another protocol";

/// A message for a subscriber, as a whole line. `words` are what it is and the channel.
pub(in crate::proto) fn message(words: &[&[u8]], payload: &[u8], out: &mut Out) {
    let bytes = &mut out.bytes;
    let channel = words.last().copied().unwrap_or_default();
    bytes.push(b'{');
    bytes_member("channel", channel, bytes);
    bytes.push(b',');
    if payload.len() > JSON_LINE_BYTES_MAX {
        error_member(TOO_LARGE, bytes);
    } else {
        bytes_member("message", payload, bytes);
    }
    bytes.extend_from_slice(b"}\n");
}

/// `"name":"text"`, or `"name_b64":"…"`.
fn bytes_member(name: &str, value: &[u8], bytes: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(text) => {
            string(name, bytes);
            bytes.push(b':');
            string(text, bytes);
        }
        Err(_) => {
            string(&format!("{name}_b64"), bytes);
            bytes.push(b':');
            string(&STANDARD.encode(value), bytes);
        }
    }
}

fn error_member(text: &str, bytes: &mut Vec<u8>) {
    let text = one_line(text);
    let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
    bytes.extend_from_slice(b"\"error\":{\"code\":");
    string(code, bytes);
    bytes.extend_from_slice(b",\"message\":");
    string(message, bytes);
    bytes.push(b'}');
}

fn string(text: &str, bytes: &mut Vec<u8>) {
    serde_json::to_writer(bytes, text).expect("a vector takes everything");
}

fn binary(value: &[u8], bytes: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(text) => string(text, bytes),
        Err(_) => {
            bytes.push(b'{');
            bytes_member("value", value, bytes);
            bytes.push(b'}');
        }
    }
}

fn value_of(reply: &Reply<'_>, bytes: &mut Vec<u8>) {
    match reply {
        Reply::Ok => string("OK", bytes),
        Reply::Pong => string("PONG", bytes),
        Reply::Nil | Reply::NilArray | Reply::None => bytes.extend_from_slice(b"null"),
        Reply::Int(number) => bytes.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Reply::Bulk(value) => binary(value, bytes),
        Reply::Large(value) if value.len() > JSON_LINE_BYTES_MAX => error_object(TOO_LARGE, bytes),
        Reply::Large(value) => binary(value, bytes),
        Reply::Owned(value) => binary(value, bytes),
        Reply::Text(text) | Reply::Verbatim(text) => string(text, bytes),
        Reply::Status(text) => string(text, bytes),
        Reply::Double(number) if number.is_finite() => bytes.extend_from_slice(double_text(*number).as_bytes()),
        Reply::Double(number) => string(&double_text(*number), bytes),
        Reply::Bool(is_true) => bytes.extend_from_slice(if *is_true { b"true" } else { b"false" }),
        Reply::Error(error) => error_object(&error.text(), bytes),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
            bytes.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    bytes.push(b',');
                }
                value_of(item, bytes);
            }
            bytes.push(b']');
        }
        Reply::Map(pairs) => {
            bytes.push(b'{');
            for (place, (name, value)) in pairs.iter().enumerate() {
                if place > 0 {
                    bytes.push(b',');
                }
                string(&name_of(name), bytes);
                bytes.push(b':');
                value_of(value, bytes);
            }
            bytes.push(b'}');
        }
    }
}

fn error_object(text: &str, bytes: &mut Vec<u8>) {
    bytes.push(b'{');
    error_member(text, bytes);
    bytes.push(b'}');
}

/// Names in maps are text, whatever they are made of.
fn name_of(name: &Reply<'_>) -> String {
    match name {
        Reply::Bulk(name) => String::from_utf8_lossy(name).into_owned(),
        Reply::Owned(name) => String::from_utf8_lossy(name).into_owned(),
        Reply::Text(name) => name.clone().into_owned(),
        Reply::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::reply::ReplyError;

    fn line(reply: &Reply<'_>) -> String {
        let mut out = Out::default();
        begin_line(None, &mut out);
        encode(reply, &mut out);
        let line = String::from_utf8(out.to_vec()).unwrap();
        // Whatever we write, others can read.
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
        line.strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn every_reply_is_a_line_of_json() {
        let cases: &[(Reply, &str)] = &[
            (Reply::Ok, r#"{"result":"OK"}"#),
            (Reply::Pong, r#"{"result":"PONG"}"#),
            (Reply::Nil, r#"{"result":null}"#),
            (Reply::Int(i64::MIN), r#"{"result":-9223372036854775808}"#),
            (Reply::Bulk("a\"\n\u{1}é".as_bytes()), r#"{"result":"a\"\n\u0001é"}"#),
            (Reply::Bulk(b"\xff\0"), r#"{"result":{"value_b64":"/wA="}}"#),
            (Reply::Large(Bytes::from_static(b"x")), r#"{"result":"x"}"#),
            (Reply::Double(2.5), r#"{"result":2.5}"#),
            (Reply::Double(1e300), r#"{"result":1e+300}"#),
            (Reply::Double(f64::NAN), r#"{"result":"nan"}"#),
            (Reply::Bool(true), r#"{"result":true}"#),
            (Reply::Array(vec![Reply::Nil, Reply::Bulk(b"\xff")]), r#"{"result":[null,{"value_b64":"/w=="}]}"#),
            (Reply::Map(vec![(Reply::Bulk(b"n"), Reply::Int(1))]), r#"{"result":{"n":1}}"#),
            (ReplyError::Syntax.into(), r#"{"error":{"code":"ERR","message":"syntax error"}}"#),
            (Reply::error("OOM a\nb"), r#"{"error":{"code":"OOM","message":"a b"}}"#),
        ];
        for (reply, expected) in cases {
            assert_eq!(line(reply), *expected, "{reply:?}");
        }
    }

    #[test]
    fn what_is_too_large_for_a_line_is_an_error() {
        let large = Reply::Large(Bytes::from(vec![b'v'; JSON_LINE_BYTES_MAX + 1]));
        assert!(line(&large).starts_with(r#"{"error":{"code":"TOOLARGE""#));
        assert!(line(&Reply::Array(vec![large])).starts_with(r#"{"result":[{"error":{"code":"TOOLARGE""#));
    }

    #[test]
    fn messages_are_lines_of_their_own() {
        let mut out = Out::default();
        message(&[b"message", b"news"], b"hi", &mut out);
        message(&[b"message", b"news"], b"\xff", &mut out);
        let expected = "{\"channel\":\"news\",\"message\":\"hi\"}\n{\"channel\":\"news\",\"message_b64\":\"/w==\"}\n";
        assert_eq!(out.to_vec(), expected.as_bytes());
    }
}
