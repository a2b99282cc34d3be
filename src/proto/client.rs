//! The client's side of the wire: requests to bytes, for load generators, the command line and tests.

use super::binary::{FRAME_HEADER_BYTES, MAGIC, VERSION, opcode, set_flag};

/// Appends a command as RESP.
pub fn resp(words: &[&[u8]], out: &mut Vec<u8>) {
    length_line(b'*', words.len(), out);
    for word in words {
        length_line(b'$', word.len(), out);
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn length_line(tag: u8, number: usize, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// One binary frame, being appended to bytes: operations are added, then [`Frame::end`] makes it whole.
///
/// ```
/// use crabcache::proto::client::{Frame, SetOptions};
///
/// let mut out = Vec::new();
/// let mut frame = Frame::begin(&mut out);
/// frame.set(b"k", b"v", &SetOptions { time_ms: Some(1000), ..SetOptions::default() });
/// frame.key(crabcache::proto::binary::opcode::GET, b"k");
/// frame.end();
/// assert_eq!(out.len(), 6 + 18 + 5);
/// ```
#[must_use = "a frame is not whole before its end"]
pub struct Frame<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

/// The optional parts of a binary SET.
#[derive(Clone, Copy, Default, Debug)]
pub struct SetOptions<'a> {
    /// `set_flag`s without TIME and EXPECTED, which follow from the fields below.
    pub flags: u8,
    pub time_ms: Option<u64>,
    pub expected: Option<&'a [u8]>,
}

impl<'a> Frame<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Frame<'a> {
        let start = out.len();
        out.extend_from_slice(&[MAGIC, VERSION, 0, 0, 0, 0]);
        Frame { out, start }
    }

    /// Writes the length of all operations into the header.
    pub fn end(self) {
        let length = self.out.len() - self.start - FRAME_HEADER_BYTES;
        let length = u32::try_from(length).expect("a frame holds less than 4 GiB");
        self.out[self.start + 2..self.start + FRAME_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    pub fn ping(&mut self) {
        self.out.extend_from_slice(&[opcode::PING, 0]);
    }

    /// An operation of one key: GET, DEL, INCR …
    pub fn key(&mut self, opcode: u8, key: &[u8]) {
        self.out.extend_from_slice(&[opcode, 0]);
        self.key_len(key);
        self.out.extend_from_slice(key);
    }

    /// An operation of a key and a number: INCRBY, EXPIRE …
    pub fn key_number(&mut self, opcode: u8, flags: u8, key: &[u8], number: i64) {
        self.out.extend_from_slice(&[opcode, flags]);
        self.key_len(key);
        self.out.extend_from_slice(&number.to_le_bytes());
        self.out.extend_from_slice(key);
    }

    pub fn set(&mut self, key: &[u8], value: &[u8], options: &SetOptions<'_>) {
        self.key_value(opcode::SET, key, value, options);
    }

    pub fn append(&mut self, key: &[u8], value: &[u8]) {
        self.key_value(opcode::APPEND, key, value, &SetOptions::default());
    }

    fn key_value(&mut self, opcode: u8, key: &[u8], value: &[u8], options: &SetOptions<'_>) {
        let time = options.time_ms.map_or(0, |_| set_flag::TIME);
        let expected = options.expected.map_or(0, |_| set_flag::EXPECTED);
        self.out.extend_from_slice(&[opcode, options.flags | time | expected]);
        self.key_len(key);
        self.len(value);
        if let Some(time_ms) = options.time_ms {
            self.out.extend_from_slice(&time_ms.to_le_bytes());
        }
        if let Some(expected) = options.expected {
            self.len(expected);
        }
        self.out.extend_from_slice(key);
        self.out.extend_from_slice(options.expected.unwrap_or_default());
        self.out.extend_from_slice(value);
    }

    /// An operation of many keys: MGET, DEL_MANY …
    pub fn keys(&mut self, opcode: u8, keys: &[&[u8]]) {
        self.out.extend_from_slice(&[opcode, 0]);
        self.count(keys.len());
        for key in keys {
            self.key_len(key);
            self.out.extend_from_slice(key);
        }
    }

    /// MSET and MSETNX.
    pub fn pairs(&mut self, opcode: u8, pairs: &[(&[u8], &[u8])]) {
        self.out.extend_from_slice(&[opcode, 0]);
        self.count(pairs.len());
        for (key, value) in pairs {
            self.key_len(key);
            self.out.extend_from_slice(key);
            self.len(value);
            self.out.extend_from_slice(value);
        }
    }

    /// Any command by its name.
    pub fn command(&mut self, words: &[&[u8]]) {
        self.out.extend_from_slice(&[opcode::COMMAND, 0]);
        self.count(words.len());
        for word in words {
            self.len(word);
            self.out.extend_from_slice(word);
        }
    }

    fn key_len(&mut self, key: &[u8]) {
        let len = u16::try_from(key.len()).expect("a key holds less than 64 KiB");
        self.out.extend_from_slice(&len.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        let count = u16::try_from(count).expect("an operation holds less than 64 Ki pieces");
        self.out.extend_from_slice(&count.to_le_bytes());
    }

    fn len(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("a value holds less than 4 GiB");
        self.out.extend_from_slice(&len.to_le_bytes());
    }
}
