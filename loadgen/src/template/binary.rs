//! Actions as operations of the binary protocol, and the frames around them.

use crabcache::proto::binary::{FRAME_HEADER_BYTES, MAGIC, VERSION, opcode, set_flag};

use super::{Builder, Piece, word_parts};
use crate::workload::{Action, Workload};

/// Puts one frame around everything appended to a buffer since [`FrameWriter::begin`].
#[derive(Clone, Copy, Debug)]
pub struct FrameWriter;

impl FrameWriter {
    pub fn begin(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[MAGIC, VERSION, 0, 0, 0, 0]);
    }

    /// The frame begins at the start of `out`.
    pub fn end(self, out: &mut [u8]) {
        let length = u32::try_from(out.len() - FRAME_HEADER_BYTES).expect("sends are far below 4 GiB");
        out[2..FRAME_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    }
}

impl Builder<'_> {
    pub(super) fn binary(&mut self, action: &Action, workload: &Workload) {
        let milliseconds = u64::from(workload.expire_seconds) * 1000;
        match action {
            Action::Ping | Action::PingInline => self.bytes(&[opcode::PING, 0]),
            Action::Get => self.binary_key(opcode::GET),
            Action::Del => self.binary_key(opcode::DEL),
            Action::Incr => {
                self.bytes(&[opcode::INCR, 0]);
                self.binary_u16(self.counter_len());
                self.counter();
            }
            Action::Expire => {
                self.bytes(&[opcode::EXPIRE, 0]);
                self.binary_u16(self.names.len());
                self.bytes(&milliseconds.to_le_bytes());
                self.key();
            }
            Action::Set => {
                self.bytes(&[opcode::SET, if workload.set_expires { set_flag::TIME } else { 0 }]);
                self.binary_u16(self.names.len());
                self.piece(Piece::LengthLittle);
                if workload.set_expires {
                    self.bytes(&milliseconds.to_le_bytes());
                }
                self.key();
                self.piece(Piece::Value);
            }
            Action::MGet(keys) => {
                self.bytes(&[opcode::MGET, 0]);
                self.binary_u16(*keys);
                for _ in 0..*keys {
                    self.binary_u16(self.names.len());
                    self.key();
                }
            }
            Action::MSet(keys) => {
                self.bytes(&[opcode::MSET, 0]);
                self.binary_u16(*keys);
                for _ in 0..*keys {
                    self.binary_u16(self.names.len());
                    self.key();
                    self.piece(Piece::LengthLittle);
                    self.piece(Piece::Value);
                }
            }
            Action::Words(words) => {
                self.bytes(&[opcode::COMMAND, 0]);
                self.binary_u16(words.len());
                for word in words {
                    match word_parts(word) {
                        None => {
                            self.piece(Piece::LengthLittle);
                            self.piece(Piece::Value);
                        }
                        Some(parts) => {
                            self.bytes(&(self.parts_len(&parts) as u32).to_le_bytes());
                            self.parts(&parts);
                        }
                    }
                }
            }
        }
    }

    fn binary_key(&mut self, opcode: u8) {
        self.bytes(&[opcode, 0]);
        self.binary_u16(self.names.len());
        self.key();
    }

    /// Lengths of keys and counts: the options keep both far below 64 Ki.
    fn binary_u16(&mut self, number: usize) {
        let number = u16::try_from(number).expect("checked by the options");
        self.bytes(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{workload, written};
    use super::*;
    use crate::wire::Protocol;
    use crabcache::proto::client::{Frame, SetOptions};

    #[test]
    fn the_same_bytes_as_the_client_module_writes() {
        let expiring = Workload { set_expires: true, ..workload() };
        let words = ["ECHO", "a__rand_int__", "__data__"].map(String::from).to_vec();
        type Write = fn(&mut Frame<'_>);
        let cases: [(Action, &Workload, Write); 10] = [
            (Action::Ping, &workload(), |frame| frame.ping()),
            (Action::Get, &workload(), |frame| frame.key(opcode::GET, b"k:00042")),
            (Action::Del, &workload(), |frame| frame.key(opcode::DEL, b"k:00042")),
            (Action::Incr, &workload(), |frame| frame.key(opcode::INCR, b"counter:00042")),
            (Action::Expire, &workload(), |frame| frame.key_number(opcode::EXPIRE, 0, b"k:00042", 60_000)),
            (Action::Set, &workload(), |frame| frame.set(b"k:00042", b"vvvv", &SetOptions::default())),
            (Action::Set, &expiring, |frame| {
                frame.set(b"k:00042", b"vvvv", &SetOptions { time_ms: Some(60_000), ..SetOptions::default() })
            }),
            (Action::MGet(2), &workload(), |frame| frame.keys(opcode::MGET, &[b"k:00042", b"k:00043"])),
            (Action::MSet(2), &workload(), |frame| {
                frame.pairs(opcode::MSET, &[(b"k:00042", b"vvvv"), (b"k:00043", b"vvvv")])
            }),
            (Action::Words(words), &workload(), |frame| frame.command(&[b"ECHO", b"a00042", b"vvvv"])),
        ];
        for (action, workload, write) in cases {
            let mut expected = Vec::new();
            let mut frame = Frame::begin(&mut expected);
            write(&mut frame);
            frame.end();
            let mut bytes = Vec::new();
            FrameWriter.begin(&mut bytes);
            bytes.extend(written(&action, workload, Protocol::Binary));
            FrameWriter.end(&mut bytes);
            assert_eq!(bytes, expected, "{action:?}: {}", bytes.escape_ascii());
        }
    }
}
