//! Recorded accesses: one request per line, `key` or `key,size`, plain or zstd-compressed.
//!
//! Replayed as a cache in front of something slower would be used: GET, and on a miss SET of a value of
//! that size.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;

use crate::workload::VALUE_BYTES_MAX;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Debug, PartialEq)]
pub struct Trace {
    requests: Vec<Request>,
    pub unique: u64,
    pub sized: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Request {
    key: u64,
    size: u32,
}

impl Trace {
    pub fn load(path: &Path) -> Result<Trace, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut file = BufReader::new(File::open(path).map_err(|error| failed(&error))?);
        let start = file.fill_buf().map_err(|error| failed(&error))?;
        if start.starts_with(&ZSTD_MAGIC) {
            let decoder = StreamingDecoder::new(file).map_err(|error| failed(&error))?;
            Trace::read(BufReader::new(decoder)).map_err(|error| failed(&error))
        } else {
            Trace::read(file).map_err(|error| failed(&error))
        }
    }

    /// Keys that are numbers are taken as they are; others are numbered by first use.
    fn read(mut lines: impl BufRead) -> Result<Trace, String> {
        let mut requests = Vec::new();
        let mut names: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut line = Vec::new();
        let mut sized = None;
        let mut numbered = None;
        let mut unique = std::collections::HashSet::new();
        loop {
            line.clear();
            // A bound on the line: a file of another kind may have none.
            let count =
                lines.by_ref().take(64 * 1024).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
            if count == 0 {
                break;
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let wrong = |what: &str| format!("line {}: {what}: \"{}\"", requests.len() + 1, text.escape_ascii());
            let (key, size) = match text.iter().rposition(|&byte| byte == b',') {
                None => (text, None),
                Some(comma) => (&text[..comma], Some(&text[comma + 1..])),
            };
            if *sized.get_or_insert(size.is_some()) != size.is_some() {
                return Err(wrong("some lines have a size and some do not"));
            }
            let number =
                |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|text| text.trim().parse::<u64>().ok());
            let size = match size.map(number) {
                None => 0,
                Some(Some(size)) if size <= VALUE_BYTES_MAX as u64 => size as u32,
                Some(_) => return Err(wrong("not a size")),
            };
            let key = match number(key) {
                Some(key) if *numbered.get_or_insert(true) => key,
                Some(_) => return Err(wrong("a number among keys that are names")),
                None if *numbered.get_or_insert(false) => return Err(wrong("a name among keys that are numbers")),
                None => {
                    let next = names.len() as u64;
                    *names.entry(key.to_vec()).or_insert(next)
                }
            };
            unique.insert(key);
            requests.push(Request { key, size });
        }
        if requests.is_empty() {
            return Err("no requests in it".into());
        }
        Ok(Trace { requests, unique: unique.len() as u64, sized: sized == Some(true) })
    }

    pub fn len(&self) -> u64 {
        self.requests.len() as u64
    }

    #[inline]
    pub fn key(&self, request: u64) -> u64 {
        self.requests[request as usize].key
    }

    /// Bytes of the value; meaningful only in a sized trace.
    #[inline]
    pub fn size(&self, request: u64) -> usize {
        self.requests[request as usize].size as usize
    }

    pub fn largest_key(&self) -> u64 {
        self.requests.iter().map(|request| request.key).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_sized() {
        let plain = Trace::read(&b"5\n7\n5\n"[..]).unwrap();
        assert_eq!((plain.len(), plain.unique, plain.sized, plain.key(2), plain.largest_key()), (3, 2, false, 5, 7));
        let sized = Trace::read(&b"5,100\r\n7,0\n\n"[..]).unwrap();
        assert_eq!((sized.len(), sized.sized, sized.size(0), sized.size(1)), (2, true, 100, 0));
        let named = Trace::read(&b"a\nb\na\n"[..]).unwrap();
        assert_eq!([named.key(0), named.key(1), named.key(2)], [0, 1, 0]);
    }

    #[test]
    fn nonsense_is_named_with_its_line() {
        for (text, line) in [
            ("1\n2,3\n", "line 2"),
            ("1,x\n", "line 1"),
            ("1\nx\n", "line 2"),
            ("x\n1\n", "line 2"),
            ("", "no requests"),
        ] {
            let error = Trace::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(line), "{text:?}: {error}");
        }
    }

    #[test]
    fn compressed_and_not_are_the_same() {
        let directory = std::env::temp_dir().join(format!("loadgen-trace-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let text = b"1,10\n2,20\n1,10\n".repeat(1000);
        let (plain, packed) = (directory.join("plain"), directory.join("packed"));
        std::fs::write(&plain, &text).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        std::fs::write(&packed, ruzstd::encoding::compress_to_vec(&text[..], level)).unwrap();
        let outcome = (Trace::load(&plain), Trace::load(&packed), Trace::load(&directory.join("missing")));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(outcome.0.as_ref().unwrap().len(), 3000);
        assert_eq!(outcome.0, outcome.1);
        assert!(outcome.2.is_err());
    }
}
