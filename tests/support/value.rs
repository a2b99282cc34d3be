//! RESP2 and RESP3 values, parsed from bytes and written back. Independent of the server's own parser:
//! a mistake that both shared would go unseen.

use std::fmt;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Int(i64),
    Bulk(Vec<u8>),
    /// `$-1`
    NilBulk,
    /// `*-1`
    NilArray,
    Array(Vec<Value>),
    /// `_`
    Null,
    Bool(bool),
    /// As written: two spellings of one number are two different replies.
    Double(Vec<u8>),
    BigNumber(Vec<u8>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    /// Format (`txt`) and text.
    Verbatim(Vec<u8>, Vec<u8>),
    BulkError(Vec<u8>),
}

/// Why no value could be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    Incomplete,
    /// These bytes are no RESP.
    Malformed(String),
}

impl Value {
    /// The first value of `bytes` and its length.
    pub fn parse(bytes: &[u8]) -> Result<(Value, usize), Unread> {
        let (&kind, _) = bytes.split_first().ok_or(Unread::Incomplete)?;
        let line_len = bytes.windows(2).position(|pair| pair == b"\r\n").ok_or(Unread::Incomplete)?;
        let line = &bytes[1..line_len];
        let start = line_len + 2;
        let malformed = |what: &str| Unread::Malformed(format!("{what}: {:?}", String::from_utf8_lossy(line)));
        let number = || -> Result<i64, Unread> {
            let text = std::str::from_utf8(line).map_err(|_| malformed("not a number"))?;
            text.parse().map_err(|_| malformed("not a number"))
        };
        let count = || usize::try_from(number()?).map_err(|_| malformed("negative length"));
        // The bytes of a length-prefixed value, and where the next value begins.
        let body = |len: usize| -> Result<(Vec<u8>, usize), Unread> {
            let end = start + len;
            match bytes.get(end..end + 2) {
                None => Err(Unread::Incomplete),
                Some(b"\r\n") => Ok((bytes[start..end].to_vec(), end + 2)),
                Some(_) => Err(malformed("value does not end with CRLF")),
            }
        };
        let items = |len: usize| -> Result<(Vec<Value>, usize), Unread> {
            let mut items = Vec::new();
            let mut at = start;
            for _ in 0..len {
                let (item, item_len) = Value::parse(&bytes[at..])?;
                items.push(item);
                at += item_len;
            }
            Ok((items, at))
        };
        Ok(match kind {
            b'+' => (Value::Simple(line.to_vec()), start),
            b'-' => (Value::Error(line.to_vec()), start),
            b':' => (Value::Int(number()?), start),
            b'$' if line == b"-1" => (Value::NilBulk, start),
            b'$' => body(count()?).map(|(bulk, end)| (Value::Bulk(bulk), end))?,
            b'!' => body(count()?).map(|(bulk, end)| (Value::BulkError(bulk), end))?,
            b'=' => {
                let (bulk, end) = body(count()?)?;
                if bulk.get(3) != Some(&b':') {
                    return Err(malformed("verbatim string without a format"));
                }
                (Value::Verbatim(bulk[..3].to_vec(), bulk[4..].to_vec()), end)
            }
            b'*' if line == b"-1" => (Value::NilArray, start),
            b'*' => items(count()?).map(|(items, end)| (Value::Array(items), end))?,
            b'~' => items(count()?).map(|(items, end)| (Value::Set(items), end))?,
            b'>' => items(count()?).map(|(items, end)| (Value::Push(items), end))?,
            b'%' => {
                let (items, end) = items(count()? * 2)?;
                let pairs = items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                (Value::Map(pairs), end)
            }
            b'_' if line.is_empty() => (Value::Null, start),
            b'#' if line == b"t" || line == b"f" => (Value::Bool(line == b"t"), start),
            b',' => (Value::Double(line.to_vec()), start),
            b'(' => (Value::BigNumber(line.to_vec()), start),
            _ => return Err(malformed(&format!("unknown type {:?}", kind as char))),
        })
    }

    /// The canonical bytes. What a server sent is correct only if it equals this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let mut line = |kind: u8, text: &[u8]| {
            out.push(kind);
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        };
        let decimal = |len: usize| len.to_string().into_bytes();
        match self {
            Value::Simple(text) => line(b'+', text),
            Value::Error(text) => line(b'-', text),
            Value::Int(int) => line(b':', int.to_string().as_bytes()),
            Value::NilBulk => line(b'$', b"-1"),
            Value::NilArray => line(b'*', b"-1"),
            Value::Null => line(b'_', b""),
            Value::Bool(true) => line(b'#', b"t"),
            Value::Bool(false) => line(b'#', b"f"),
            Value::Double(text) => line(b',', text),
            Value::BigNumber(text) => line(b'(', text),
            Value::Bulk(bulk) | Value::BulkError(bulk) => {
                line(if matches!(self, Value::Bulk(_)) { b'$' } else { b'!' }, &decimal(bulk.len()));
                out.extend_from_slice(bulk);
                out.extend_from_slice(b"\r\n");
            }
            Value::Verbatim(format, text) => {
                line(b'=', &decimal(text.len() + 4));
                out.extend_from_slice(format);
                out.push(b':');
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(items) | Value::Set(items) | Value::Push(items) => {
                let kind = match self {
                    Value::Array(_) => b'*',
                    Value::Set(_) => b'~',
                    _ => b'>',
                };
                line(kind, &decimal(items.len()));
                items.iter().for_each(|item| item.encode_into(out));
            }
            Value::Map(pairs) => {
                line(b'%', &decimal(pairs.len()));
                for (key, value) in pairs {
                    key.encode_into(out);
                    value.encode_into(out);
                }
            }
        }
    }

    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Value {
        Value::Bulk(bytes.into())
    }

    pub fn ok() -> Value {
        Value::Simple(b"OK".to_vec())
    }

    pub fn as_int(&self) -> i64 {
        match self {
            Value::Int(int) => *int,
            other => panic!("an integer was expected, not {other:?}"),
        }
    }

    /// The text of a bulk, simple or verbatim string.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Bulk(bytes) | Value::Simple(bytes) | Value::Verbatim(_, bytes) => bytes,
            other => panic!("a string was expected, not {other:?}"),
        }
    }

    pub fn as_text(&self) -> String {
        String::from_utf8(self.as_bytes().to_vec()).expect("text")
    }

    pub fn as_array(&self) -> &[Value] {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => items,
            other => panic!("an array was expected, not {other:?}"),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_) | Value::BulkError(_))
    }
}

/// In the notation of [`super::notation`], long values cut.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |items: &[Value]| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" ");
        match self {
            Value::Simple(text) => write!(f, "+{}", String::from_utf8_lossy(text)),
            Value::Error(text) => write!(f, "-{}", String::from_utf8_lossy(text)),
            Value::Int(int) => write!(f, ":{int}"),
            Value::Bulk(bulk) => write!(f, "{}", quoted(bulk)),
            Value::BulkError(bulk) => write!(f, "!{}", quoted(bulk)),
            Value::NilBulk => write!(f, "nil"),
            Value::NilArray => write!(f, "nilarray"),
            Value::Null => write!(f, "_"),
            Value::Bool(bool) => write!(f, "#{}", if *bool { 't' } else { 'f' }),
            Value::Double(text) => write!(f, ",{}", String::from_utf8_lossy(text)),
            Value::BigNumber(text) => write!(f, "({}", String::from_utf8_lossy(text)),
            Value::Verbatim(format, text) => write!(f, "={}:{}", String::from_utf8_lossy(format), quoted(text)),
            Value::Array(items) => write!(f, "[{}]", joined(items)),
            Value::Set(items) => write!(f, "~[{}]", joined(items)),
            Value::Push(items) => write!(f, ">[{}]", joined(items)),
            Value::Map(pairs) => {
                let flat: Vec<Value> = pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
                write!(f, "%{{{}}}", joined(&flat))
            }
        }
    }
}

/// `bytes` between double quotes with escapes, long ones without their middle.
pub fn quoted(bytes: &[u8]) -> String {
    let escaped = |bytes: &[u8]| bytes.escape_ascii().to_string().replace("\\'", "'");
    if bytes.len() <= 200 {
        return format!("\"{}\"", escaped(bytes));
    }
    let (head, tail) = (&bytes[..100], &bytes[bytes.len() - 100..]);
    format!("\"{}…{}\" ({} bytes)", escaped(head), escaped(tail), bytes.len())
}
