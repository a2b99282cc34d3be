//! A long array that is written down as its elements come: nobody ever has to wait for the whole of it to be turned
//! into bytes. What is written leaves in pieces that the connection hangs into its output.

use bytes::Bytes;

use crate::proto;
use crate::reply::{Out, Reply};
use crate::request::Wire;

/// A piece is closed when it has so many bytes.
const PIECE_BYTES: usize = 64 * 1024;

pub struct Written {
    wire: Wire,
    count: usize,
    pieces: Vec<Bytes>,
    /// The piece being written.
    open: Out,
    len: usize,
}

impl Written {
    pub fn new(wire: Wire) -> Written {
        Written { wire, count: 0, pieces: Vec::new(), open: Out::default(), len: 0 }
    }

    /// Whether replies of this protocol can be written before it is known how many there are.
    pub fn is_for(wire: Wire) -> bool {
        matches!(wire, Wire::Resp2 | Wire::Resp3)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len + self.open.len()
    }

    pub fn push(&mut self, element: &Reply<'_>) {
        if self.open.bytes.capacity() == 0 {
            self.open.bytes.reserve(PIECE_BYTES + PIECE_BYTES / 8);
        }
        proto::encode(self.wire, element, &mut self.open);
        self.count += 1;
        if self.open.bytes.len() >= PIECE_BYTES || !self.open.large.is_empty() {
            self.close_piece();
        }
    }

    fn close_piece(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.len += open.len();
        let bytes = Bytes::from(open.bytes);
        let mut from = 0;
        for (offset, large) in open.large {
            self.pieces.extend((offset > from).then(|| bytes.slice(from..offset)));
            self.pieces.push(large);
            from = offset;
        }
        self.pieces.extend((bytes.len() > from).then(|| bytes.slice(from..)));
    }

    /// All of it, with its beginning.
    pub fn into_out(mut self) -> Out {
        self.close_piece();
        let mut out = Out::default();
        out.bytes.extend_from_slice(format!("*{}\r\n", self.count).as_bytes());
        self.pieces.into_iter().for_each(|piece| out.push_large(piece));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_piece_by_piece_it_is_the_array() {
        for wire in [Wire::Resp2, Wire::Resp3] {
            for count in [0usize, 1, 3, 5_000] {
                let large = Bytes::from(vec![b'x'; 40_000]);
                let elements: Vec<Reply<'static>> = (0..count)
                    .map(|number| match number % 7 {
                        0 => Reply::Nil,
                        1 if number < 100 => Reply::Large(large.clone()),
                        _ => Reply::Owned(vec![b'k'; number % 300]),
                    })
                    .collect();
                let mut written = Written::new(wire);
                elements.iter().for_each(|element| written.push(element));
                let mut expected = Out::default();
                proto::encode(wire, &Reply::Array(elements), &mut expected);
                let header = format!("*{count}\r\n").len();
                assert_eq!((written.count(), written.len() + header), (count, expected.len()));
                assert_eq!(written.into_out().to_vec(), expected.to_vec());
            }
        }
    }
}
