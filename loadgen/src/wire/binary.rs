//! Replies of the binary protocol, skimmed: a tag, then what the tag says. Ends are found as in RESP, by
//! counting the values still to come.

use crabcache::proto::binary::tag;

use super::{Answer, Captured, Nonsense, PAYLOAD_BYTES_MAX, VALUES_MAX};

#[derive(Clone, Debug)]
pub struct BinaryScanner {
    /// Values still to come of the reply under way; 0 between replies.
    remaining: u64,
    /// Payload bytes still to come.
    skip: usize,
    top: Option<Top>,
    values: u32,
    nils: u32,
    /// The beginning of a value whose header has not arrived as a whole.
    carry: Vec<u8>,
    /// The text of a status or error under way.
    text: Vec<u8>,
    captured: Captured,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Top {
    Ok,
    Pong,
    Status,
    Error,
    Value,
    Nil,
    Int(i64),
    Other,
    Array,
    Push,
}

impl BinaryScanner {
    pub fn new(captured: Captured) -> BinaryScanner {
        BinaryScanner {
            remaining: 0,
            skip: 0,
            top: None,
            values: 0,
            nils: 0,
            carry: Vec::new(),
            text: Vec::new(),
            captured,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8], mut reply: impl FnMut(Answer<'_>, &Captured)) -> Result<(), Nonsense> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = self.skip.min(bytes.len());
                self.payload(&bytes[..here]);
                self.skip -= here;
                bytes = &bytes[here..];
                if self.skip == 0 {
                    self.value_ends(&mut reply);
                }
                continue;
            }
            if self.carry.is_empty() {
                let length = header_bytes(bytes[0]).ok_or_else(|| nonsense(bytes))?;
                if let Some((header, rest)) = bytes.split_at_checked(length) {
                    self.header(header, &mut reply)?;
                    bytes = rest;
                } else {
                    self.carry.extend_from_slice(bytes);
                    return Ok(());
                }
            } else {
                let length = header_bytes(self.carry[0]).expect("checked when it was carried");
                let here = (length - self.carry.len()).min(bytes.len());
                self.carry.extend_from_slice(&bytes[..here]);
                bytes = &bytes[here..];
                if self.carry.len() == length {
                    let mut header = std::mem::take(&mut self.carry);
                    self.header(&header, &mut reply)?;
                    header.clear();
                    self.carry = header;
                }
            }
        }
        Ok(())
    }

    fn header(&mut self, header: &[u8], reply: &mut impl FnMut(Answer<'_>, &Captured)) -> Result<(), Nonsense> {
        if self.remaining == 0 {
            self.remaining = 1;
            self.top = None;
            self.values = 0;
            self.nils = 0;
            self.captured.clear();
        }
        let count = || match header {
            [_, one] => usize::from(*one),
            [_, a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
            _ => 0,
        };
        let top = match header[0] {
            tag::OK => Top::Ok,
            tag::PONG => Top::Pong,
            tag::NIL => Top::Nil,
            tag::BULK8 | tag::BULK32 | tag::VERBATIM => Top::Value,
            tag::STATUS => Top::Status,
            tag::ERROR => Top::Error,
            tag::INT8 => Top::Int(i64::from(header[1] as i8)),
            tag::INT64 => Top::Int(i64::from_le_bytes(header[1..9].try_into().expect("nine bytes"))),
            small @ tag::SMALL_INT.. => Top::Int(i64::from(small - tag::SMALL_INT)),
            tag::ARRAY | tag::SET | tag::MAP => Top::Array,
            tag::PUSH => Top::Push,
            _ => Top::Other,
        };
        if self.remaining == 1 && self.top.is_none() {
            self.top = Some(top);
        }
        match top {
            Top::Nil => {
                self.nils += 1;
                self.captured.absent();
            }
            Top::Array | Top::Push => {
                self.remaining += count() as u64 * if header[0] == tag::MAP { 2 } else { 1 };
                if self.remaining > VALUES_MAX {
                    return Err(Nonsense { why: "more values than any reply has", bytes: header.to_vec() });
                }
            }
            Top::Value | Top::Status | Top::Error => {
                self.values += 1;
                self.skip = count();
                if self.skip as i64 > PAYLOAD_BYTES_MAX {
                    return Err(Nonsense { why: "a value longer than any", bytes: header.to_vec() });
                }
                self.text.clear();
                if top == Top::Value {
                    self.captured.begin(self.skip);
                }
                if self.skip > 0 {
                    return Ok(());
                }
            }
            _ => self.values += 1,
        }
        self.value_ends(reply);
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) {
        match self.top {
            Some(Top::Status | Top::Error) => self.text.extend_from_slice(bytes),
            _ => self.captured.extend(bytes),
        }
    }

    #[inline]
    fn value_ends(&mut self, reply: &mut impl FnMut(Answer<'_>, &Captured)) {
        self.remaining -= 1;
        if self.remaining > 0 {
            return;
        }
        let answer = match self.top.expect("a value has been seen") {
            Top::Ok => Answer::Status(b"OK"),
            Top::Pong => Answer::Status(b"PONG"),
            Top::Status => Answer::Status(&self.text),
            Top::Error => Answer::Error(&self.text),
            Top::Value => Answer::Value,
            Top::Nil => Answer::Nil,
            Top::Int(value) => Answer::Int(value),
            Top::Array => Answer::Array { values: self.values, nils: self.nils },
            Top::Other => Answer::Other,
            Top::Push => return,
        };
        reply(answer, &self.captured);
    }
}

/// Bytes of a value before its payload, from its tag; none if there is no such tag.
#[inline]
fn header_bytes(tag: u8) -> Option<usize> {
    Some(match tag {
        tag::OK | tag::NIL | tag::PONG | tag::FALSE | tag::TRUE | tag::SMALL_INT.. => 1,
        tag::INT8 | tag::BULK8 => 2,
        tag::BULK32 | tag::STATUS | tag::VERBATIM | tag::ERROR => 5,
        tag::ARRAY | tag::SET | tag::MAP | tag::PUSH => 5,
        tag::INT64 | tag::DOUBLE => 9,
        _ => return None,
    })
}

fn nonsense(bytes: &[u8]) -> Nonsense {
    Nonsense { why: "no such tag", bytes: bytes[..bytes.len().min(64)].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crabcache::proto::encode;
    use crabcache::reply::{Out, Reply};
    use crabcache::request::Wire;

    fn scan(bytes: &[u8], piece: usize) -> Result<Vec<String>, Nonsense> {
        let mut scanner = BinaryScanner::new(Captured { wanted: true, ..Captured::default() });
        let mut seen = Vec::new();
        for piece in bytes.chunks(piece) {
            scanner.feed(piece, |answer, captured| {
                let payloads: Vec<_> = captured.iter().map(|value| value.map(<[u8]>::len)).collect();
                seen.push(format!("{answer:?} {payloads:?}"));
            })?;
        }
        Ok(seen)
    }

    #[test]
    fn what_the_server_writes_is_understood_however_it_is_cut() {
        let replies = [
            Reply::Ok,
            Reply::Pong,
            Reply::Nil,
            Reply::Int(5),
            Reply::Int(-5),
            Reply::Int(1 << 40),
            Reply::Bulk(b"value"),
            Reply::Bulk(b""),
            Reply::Owned(vec![b'x'; 300]),
            Reply::error("ERR no"),
            Reply::Double(1.5),
            Reply::Array(vec![Reply::Bulk(b"a"), Reply::Nil, Reply::Array(vec![Reply::Int(1)])]),
            Reply::Array(vec![]),
            Reply::Status("QUEUED"),
        ];
        let mut out = Out::default();
        replies.iter().for_each(|reply| encode(Wire::Binary, reply, &mut out));
        let bytes = out.to_vec();
        let whole = scan(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), replies.len(), "{whole:#?}");
        assert_eq!(whole[0], "Status([79, 75]) []");
        assert_eq!(whole[3..6].join(" "), format!("Int(5) [] Int(-5) [] Int({}) []", 1u64 << 40));
        assert_eq!(whole[8], "Value [Some(300)]");
        assert_eq!(whole[9], "Error([69, 82, 82, 32, 110, 111]) []");
        assert_eq!(whole[11], "Array { values: 2, nils: 1 } [Some(1), None]");
        for piece in 1..20 {
            assert_eq!(scan(&bytes, piece).unwrap(), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn nonsense_is_shown() {
        assert_eq!(scan(b"+OK\r\n", 5).unwrap_err().bytes, b"+OK\r\n");
        assert!(scan(&[0x00, 0x7f], 2).is_err());
    }
}
