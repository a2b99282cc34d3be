//! JSON lines, for the whole of a connection whose first byte is `{`: one object per line, one line per reply.
//! PROTOCOL.md specifies it, `json_lines.schema.json` says the same to machines; this is the picture.
//!
//! ```text
//!   request   {"action":"SET","key":"foo","value":"bar","ttl":60,"id":7}\n
//!   reply     {"id":7,"result":"OK"}\n
//!             └ begin_line ┘└ encode, on whichever core the answer is made
//! ```
//!
//! Lines are told apart by their ends alone, so that a line that is not understood is refused and the connection
//! goes on.

mod decode;
mod encode;
mod line;
#[cfg(test)]
mod tests;

pub use decode::Id;
pub use encode::{begin_line, beginning_len};
pub(super) use encode::{encode, message};

use std::collections::BTreeMap;

use serde_json::Value;

use crate::reply::Reply;

/// The schema of requests and replies, for people and machines.
pub const SCHEMA: &str = include_str!("json_lines.schema.json");

/// The structure of a JSON text, so that it need not be handed on as a string.
pub fn structure_of(text: &[u8]) -> Option<Reply<'static>> {
    serde_json::from_slice(text).ok().map(reply_of)
}

fn reply_of(value: Value) -> Reply<'static> {
    match value {
        Value::Null => Reply::Nil,
        Value::Bool(is_true) => Reply::Bool(is_true),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Reply::Int(whole),
            None => Reply::Double(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        Value::String(text) => Reply::text(text),
        Value::Array(items) => Reply::Array(items.into_iter().map(reply_of).collect()),
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            Reply::Map(fields.into_iter().map(|(name, value)| (Reply::text(name), reply_of(value))).collect())
        }
    }
}
