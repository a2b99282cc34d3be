//! Replies in binary: a tag and what the tag says, lengths and numbers little-endian.

use super::tag;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::proto::encode::one_line;
use crate::reply::{Out, Reply};

#[inline]
pub(in crate::proto) fn encode(reply: &Reply<'_>, out: &mut Out) {
    match reply {
        Reply::Ok => out.bytes.push(tag::OK),
        Reply::Nil => out.bytes.push(tag::NIL),
        Reply::Bulk(value) => bulk(value, out),
        _ => encode_rare(reply, out),
    }
}

fn encode_rare(reply: &Reply<'_>, out: &mut Out) {
    match reply {
        Reply::Ok | Reply::Nil | Reply::Bulk(_) => encode(reply, out),
        Reply::None => {}
        Reply::NilArray => out.bytes.push(tag::NIL),
        Reply::Pong => out.bytes.push(tag::PONG),
        Reply::Bool(is_true) => out.bytes.push(if *is_true { tag::TRUE } else { tag::FALSE }),
        Reply::Int(number) => integer(*number, out),
        Reply::Double(number) => {
            out.bytes.push(tag::DOUBLE);
            out.bytes.extend_from_slice(&number.to_le_bytes());
        }
        Reply::Large(value) if value.len() < LARGE_VALUE_BYTES_MIN => bulk(value, out),
        Reply::Large(value) => {
            header(tag::BULK32, value.len(), out);
            out.push_large(value.clone());
        }
        Reply::Text(text) => bulk(text.as_bytes(), out),
        Reply::Owned(value) => bulk(value, out),
        Reply::Status(text) => text_of(tag::STATUS, &one_line(text), out),
        Reply::Verbatim(text) => text_of(tag::VERBATIM, text, out),
        Reply::Error(error) => text_of(tag::ERROR, &one_line(&error.text()), out),
        Reply::Array(items) => sequence(tag::ARRAY, items, out),
        Reply::Set(items) => sequence(tag::SET, items, out),
        Reply::Push(items) => sequence(tag::PUSH, items, out),
        Reply::Map(pairs) => {
            header(tag::MAP, pairs.len(), out);
            for (key, value) in pairs {
                encode(key, out);
                encode(value, out);
            }
        }
    }
}

#[inline]
fn bulk(value: &[u8], out: &mut Out) {
    out.bytes.reserve(5 + value.len());
    match u8::try_from(value.len()) {
        Ok(len) => out.bytes.extend_from_slice(&[tag::BULK8, len]),
        Err(_) => header(tag::BULK32, value.len(), out),
    }
    out.bytes.extend_from_slice(value);
}

fn integer(number: i64, out: &mut Out) {
    if let 0..=127 = number {
        out.bytes.push(tag::SMALL_INT + number as u8);
    } else if let Ok(number) = i8::try_from(number) {
        out.bytes.extend_from_slice(&[tag::INT8, number as u8]);
    } else {
        out.bytes.push(tag::INT64);
        out.bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn header(tag: u8, number: usize, out: &mut Out) {
    let number = u32::try_from(number).expect("no reply holds 4 Gi of anything");
    out.bytes.push(tag);
    out.bytes.extend_from_slice(&number.to_le_bytes());
}

fn text_of(tag: u8, text: &str, out: &mut Out) {
    header(tag, text.len(), out);
    out.bytes.extend_from_slice(text.as_bytes());
}

fn sequence(tag: u8, items: &[Reply<'_>], out: &mut Out) {
    header(tag, items.len(), out);
    for item in items {
        encode(item, out);
    }
}
