//! Replies of memcached's text protocol, skimmed.
//!
//! ```text
//!   VALUE key 0 5\r\nhello\r\nEND\r\n     retrieval: any number of values, then END
//!   STORED\r\n   DELETED\r\n   17\r\n      everything else: one line
//! ```

use super::{Answer, Captured, LINE_BYTES_MAX, Nonsense, PAYLOAD_BYTES_MAX, ends_with_crlf, parse_int};

#[derive(Clone, Debug)]
pub struct MemcacheScanner {
    /// Values seen of the retrieval under way.
    values: u32,
    /// Bytes of the payload under way still to come, CRLF included.
    skip: usize,
    carry: Vec<u8>,
    captured: Captured,
}

impl MemcacheScanner {
    pub fn new(captured: Captured) -> MemcacheScanner {
        MemcacheScanner { values: 0, skip: 0, carry: Vec::new(), captured }
    }

    pub fn feed(&mut self, mut bytes: &[u8], mut reply: impl FnMut(Answer<'_>, &Captured)) -> Result<(), Nonsense> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = self.skip.min(bytes.len());
                if !ends_with_crlf(&bytes[..here], self.skip) {
                    let why = "a value that does not end with CRLF";
                    return Err(Nonsense { why, bytes: bytes[..here].to_vec() });
                }
                self.captured.extend(&bytes[..here.min(self.skip.saturating_sub(2))]);
                self.skip -= here;
                bytes = &bytes[here..];
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.carry.extend_from_slice(bytes);
                if self.carry.len() > LINE_BYTES_MAX {
                    return Err(Nonsense { why: "a line without end", bytes: std::mem::take(&mut self.carry) });
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
        let nonsense = |why| Nonsense { why, bytes: line.to_vec() };
        let Some(body) = line.strip_suffix(b"\r\n") else {
            return Err(nonsense("a line that does not end with CRLF"));
        };
        if let Some(value) = body.strip_prefix(b"VALUE ") {
            // key, flags, bytes and, for `gets`, a unique number.
            let length = value.split(|&byte| byte == b' ').nth(2).and_then(parse_int);
            let length = length
                .filter(|length| (0..=PAYLOAD_BYTES_MAX).contains(length))
                .ok_or_else(|| nonsense("a VALUE without a length"))? as usize;
            if self.values == 0 {
                self.captured.clear();
            }
            self.values += 1;
            self.captured.begin(length);
            self.skip = length + 2;
            return Ok(());
        }
        let values = std::mem::take(&mut self.values);
        if values == 0 {
            self.captured.clear();
        } else if body != b"END" {
            return Err(nonsense("END was expected after the values"));
        }
        let answer = match body {
            b"END" => match values {
                0 => {
                    self.captured.absent();
                    Answer::Nil
                }
                1 => Answer::Value,
                _ => Answer::Array { values, nils: 0 },
            },
            b"STORED" | b"NOT_STORED" | b"EXISTS" | b"OK" | b"RESET" => Answer::Status(body),
            b"DELETED" | b"TOUCHED" => Answer::Int(1),
            b"NOT_FOUND" => Answer::Nil,
            b"ERROR" => Answer::Error(body),
            _ if body.starts_with(b"CLIENT_ERROR") || body.starts_with(b"SERVER_ERROR") => Answer::Error(body),
            _ if body.starts_with(b"VERSION ") => Answer::Status(body),
            _ => match parse_int(body) {
                Some(value) => Answer::Int(value),
                // Counters are unsigned 64-bit numbers.
                None if !body.is_empty() && body.iter().all(u8::is_ascii_digit) => Answer::Int(i64::MAX),
                None => return Err(nonsense("not a reply")),
            },
        };
        reply(answer, &self.captured);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8], piece: usize) -> Result<Vec<String>, Nonsense> {
        let mut scanner = MemcacheScanner::new(Captured { wanted: true, ..Captured::default() });
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
    fn every_cut_gives_the_same_replies() {
        let bytes = b"STORED\r\nVALUE key:1 0 5\r\nEND\r\n\r\nEND\r\nEND\r\nVALUE a 0 1\r\nx\r\nVALUE b 0 0 77\r\n\r\nEND\r\n\
            17\r\nNOT_FOUND\r\nDELETED\r\nSERVER_ERROR out of memory storing object\r\nERROR\r\nVERSION 1.6\r\n18446744073709551615\r\n";
        let whole = scan(bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 11, "{whole:#?}");
        assert_eq!(whole[1], "Value [Some(5)]");
        assert_eq!(whole[2], "Nil [None]");
        assert_eq!(whole[3], "Array { values: 2, nils: 0 } [Some(1), Some(0)]");
        assert_eq!(whole[4], "Int(17) []");
        for piece in 1..20 {
            assert_eq!(scan(bytes, piece).unwrap(), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn nonsense_is_shown() {
        for bytes in [
            &b"+OK\r\n"[..],
            b"VALUE k 0 x\r\n",
            b"VALUE k 0\r\n",
            b"VALUE k 0 1\r\nx\r\nSTORED\r\n",
            b"VALUE k 0 1\r\nxyz",
            b"\r\n",
        ] {
            assert!(scan(bytes, bytes.len()).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
