//! RESP2 and RESP3 replies, skimmed.
//!
//! A reply is a tree of values, each of which starts with a line. No stack is needed to find its end:
//! `remaining` counts the values still to come, an aggregate of `n` adds `n`, every value takes one.
//!
//! ```text
//!   *2\r\n        remaining 1 → 2
//!   $3\r\nabc\r\n         2 → 1, after skipping 3 + 2 bytes
//!   $-1\r\n               1 → 0: the reply is complete
//! ```

use super::{Answer, Captured, LINE_BYTES_MAX, Nonsense, PAYLOAD_BYTES_MAX, VALUES_MAX, ends_with_crlf, parse_int};

#[derive(Clone, Debug)]
pub struct RespScanner {
    /// Values still to come of the reply under way; 0 between replies.
    remaining: u64,
    /// Bytes of the payload under way still to come, CRLF included.
    skip: usize,
    /// What the reply under way is, once its first value has shown it.
    top: Option<Top>,
    values: u32,
    nils: u32,
    /// The beginning of a line whose end has not arrived.
    carry: Vec<u8>,
    /// The text of a bulk error under way.
    text: Vec<u8>,
    captured: Captured,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Top {
    Value,
    Nil,
    Int(i64),
    Array,
    Other,
    BulkError,
    /// Out of band: nobody's reply.
    Push,
}

impl RespScanner {
    pub fn new(captured: Captured) -> RespScanner {
        RespScanner {
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
                bytes = self.skip_payload(bytes, &mut reply)?;
                continue;
            }
            // The commonest reply of all, in one comparison.
            if self.remaining == 0 && self.carry.is_empty() && bytes.first_chunk() == Some(b"+OK\r\n") {
                self.captured.clear();
                reply(Answer::Status(b"OK"), &self.captured);
                bytes = &bytes[5..];
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.carry.extend_from_slice(bytes);
                if self.carry.len() > LINE_BYTES_MAX {
                    return Err(nonsense("a line without end", &self.carry));
                }
                return Ok(());
            };
            if self.carry.is_empty() {
                self.line(&bytes[..=end], &mut reply)?;
            } else {
                let mut line = std::mem::take(&mut self.carry);
                line.extend_from_slice(&bytes[..=end]);
                self.line(&line, &mut reply)?;
                line.clear();
                self.carry = line;
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], reply: &mut impl FnMut(Answer<'_>, &Captured)) -> Result<(), Nonsense> {
        let [kind, body @ .., b'\r', b'\n'] = line else {
            return Err(nonsense("a line that does not end with CRLF", line));
        };
        if self.remaining == 0 {
            self.remaining = 1;
            self.top = None;
            self.values = 0;
            self.nils = 0;
            self.captured.clear();
        }
        let length =
            || parse_int(body).filter(|&length| length >= -1).ok_or_else(|| nonsense("a length was expected", line));
        match kind {
            b'$' | b'=' | b'!' => {
                let length = length()?;
                if length > PAYLOAD_BYTES_MAX {
                    return Err(nonsense("a value longer than any", line));
                }
                if length < 0 {
                    self.nil();
                } else {
                    self.is(if *kind == b'!' { Top::BulkError } else { Top::Value });
                    self.values += 1;
                    self.skip = length as usize + 2;
                    self.captured.begin(length as usize);
                    self.text.clear();
                    return Ok(());
                }
            }
            b'*' | b'~' | b'>' | b'%' => {
                let length = length()?;
                if length < 0 {
                    self.nil();
                } else {
                    self.is(if *kind == b'>' { Top::Push } else { Top::Array });
                    self.expect(length, if *kind == b'%' { 2 } else { 1 }, line)?;
                }
            }
            // Attributes come before a value and are not one.
            b'|' => {
                return self.expect(length()?.max(0), 2, line);
            }
            b'_' if body.is_empty() => self.nil(),
            b':' => {
                let value = parse_int(body).ok_or_else(|| nonsense("an integer was expected", line))?;
                self.is(Top::Int(value));
                self.values += 1;
            }
            b'+' | b'-' if self.remaining == 1 && self.top.is_none() => {
                self.remaining = 0;
                let answer = if *kind == b'+' { Answer::Status(body) } else { Answer::Error(body) };
                reply(answer, &self.captured);
                return Ok(());
            }
            b'+' | b'-' | b',' | b'#' | b'(' => {
                self.is(Top::Other);
                self.values += 1;
            }
            _ => return Err(nonsense("not a reply", line)),
        }
        self.value_ends(reply);
        Ok(())
    }

    /// An aggregate of `count` times `each` values has begun.
    fn expect(&mut self, count: i64, each: u64, line: &[u8]) -> Result<(), Nonsense> {
        self.remaining = self.remaining.saturating_add((count as u64).saturating_mul(each));
        match self.remaining {
            0..=VALUES_MAX => Ok(()),
            _ => Err(nonsense("more values than any reply has", line)),
        }
    }

    /// The first value outside of attributes decides what the reply is.
    #[inline]
    fn is(&mut self, top: Top) {
        if self.remaining == 1 && self.top.is_none() {
            self.top = Some(top);
        }
    }

    fn nil(&mut self) {
        self.is(Top::Nil);
        self.nils += 1;
        self.captured.absent();
    }

    fn skip_payload<'b>(
        &mut self,
        bytes: &'b [u8],
        reply: &mut impl FnMut(Answer<'_>, &Captured),
    ) -> Result<&'b [u8], Nonsense> {
        let here = self.skip.min(bytes.len());
        if !ends_with_crlf(&bytes[..here], self.skip) {
            return Err(nonsense("a value that does not end with CRLF", shown_end(&bytes[..here])));
        }
        let payload = &bytes[..here.min(self.skip.saturating_sub(2))];
        self.captured.extend(payload);
        if self.top == Some(Top::BulkError) {
            self.text.extend_from_slice(payload);
        }
        self.skip -= here;
        if self.skip == 0 {
            self.value_ends(reply);
        }
        Ok(&bytes[here..])
    }

    #[inline]
    fn value_ends(&mut self, reply: &mut impl FnMut(Answer<'_>, &Captured)) {
        self.remaining -= 1;
        if self.remaining > 0 {
            return;
        }
        let answer = match self.top.expect("a value has been seen") {
            Top::Value => Answer::Value,
            Top::Nil => Answer::Nil,
            Top::Int(value) => Answer::Int(value),
            Top::Array => Answer::Array { values: self.values, nils: self.nils },
            Top::Other => Answer::Other,
            Top::BulkError => Answer::Error(&self.text),
            Top::Push => return,
        };
        reply(answer, &self.captured);
    }
}

/// The last bytes of a payload: those that are wrong, and a few before them.
fn shown_end(bytes: &[u8]) -> &[u8] {
    const SHOWN: usize = 64;
    &bytes[bytes.len().saturating_sub(SHOWN)..]
}

fn nonsense(why: &'static str, bytes: &[u8]) -> Nonsense {
    Nonsense { why, bytes: bytes.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each reply as text, fed in pieces of at most `piece` bytes.
    fn scan(bytes: &[u8], piece: usize) -> Result<Vec<String>, Nonsense> {
        let mut scanner = RespScanner::new(Captured { wanted: true, ..Captured::default() });
        let mut seen = Vec::new();
        for piece in bytes.chunks(piece) {
            scanner.feed(piece, |answer, captured| {
                let payloads: Vec<_> =
                    captured.iter().map(|value| value.map(|bytes| bytes.escape_ascii().to_string())).collect();
                seen.push(format!("{answer:?} {payloads:?}"));
            })?;
        }
        Ok(seen)
    }

    const REPLIES: &[u8] = b"+OK\r\n+PONG\r\n-ERR no\r\n:42\r\n$3\r\na\rb\r\n$-1\r\n$0\r\n\r\n*3\r\n$1\r\nx\r\n$-1\r\n*1\r\n:1\r\n\
        *0\r\n*-1\r\n_\r\n,1.5\r\n#t\r\n(99\r\n%1\r\n+k\r\n~1\r\n_\r\n>2\r\n+m\r\n$1\r\nz\r\n|1\r\n+a\r\n*1\r\n:1\r\n$2\r\nhi\r\n\
        !5\r\nERR x\r\n=7\r\ntxt:abc\r\n+OK\r\n";

    #[test]
    fn every_cut_gives_the_same_replies() {
        let whole = scan(REPLIES, REPLIES.len()).unwrap();
        assert_eq!(whole.len(), 19, "{whole:#?}");
        assert_eq!(whole[4], r#"Value [Some("a\\rb")]"#);
        assert_eq!(whole[7], r#"Array { values: 2, nils: 1 } [Some("x"), None]"#);
        assert_eq!(whole[14], "Array { values: 1, nils: 1 } [None]");
        assert!(whole[15].starts_with("Value [") && whole[15].contains("\"hi\""), "{}", whole[15]);
        assert!(whole[16].starts_with("Error([69, 82, 82, 32, 120])"), "{}", whole[16]);
        for piece in 1..20 {
            assert_eq!(scan(REPLIES, piece).unwrap(), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn nonsense_is_shown() {
        for bytes in
            [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"$x\r\n", b"*-2\r\n", b":\r\n", b"+OK\n", b"\r\n", b"_x\r\n"]
        {
            let error = scan(bytes, bytes.len()).unwrap_err();
            assert_eq!(error.bytes, bytes, "{}", bytes.escape_ascii());
        }
        assert!(scan(&[b'+'; LINE_BYTES_MAX + 1], 1000).is_err());
        for piece in 1..10 {
            assert_eq!(
                scan(b"+OK\r\n$3\r\nabcde+OK\r\n", piece).unwrap_err().why,
                "a value that does not end with CRLF"
            );
        }
        // Their sum was counted past the end of 64 bits.
        let endless = b"*9223372036854775807\r\n".repeat(4);
        assert_eq!(scan(&endless, 100).unwrap_err().why, "more values than any reply has");
        assert_eq!(scan(b"$9223372036854775807\r\nabc", 100).unwrap_err().why, "a value longer than any");
    }
}
