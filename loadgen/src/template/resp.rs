//! Actions as RESP commands.

use super::{Builder, Piece, word_parts};
use crate::workload::{Action, Workload};

impl Builder<'_> {
    pub(super) fn resp(&mut self, action: &Action, workload: &Workload) {
        let seconds = workload.expire_seconds.to_string();
        match action {
            Action::PingInline => self.text("PING\r\n"),
            Action::Ping => {
                self.resp_head(1);
                self.resp_word("PING");
            }
            Action::Get | Action::Del => {
                self.resp_head(2);
                self.resp_word(&action.name());
                self.resp_key();
            }
            Action::Incr => {
                self.resp_head(2);
                self.resp_word("INCR");
                self.text(&format!("${}\r\n", self.counter_len()));
                self.counter();
                self.text("\r\n");
            }
            Action::Expire => {
                self.resp_head(3);
                self.resp_word("EXPIRE");
                self.resp_key();
                self.resp_word(&seconds);
            }
            Action::Set => {
                self.resp_head(if workload.set_expires { 5 } else { 3 });
                self.resp_word("SET");
                self.resp_key();
                self.resp_value();
                if workload.set_expires {
                    self.resp_word("EX");
                    self.resp_word(&seconds);
                }
            }
            Action::MGet(keys) => {
                self.resp_head(1 + keys);
                self.resp_word("MGET");
                (0..*keys).for_each(|_| self.resp_key());
            }
            Action::MSet(keys) => {
                self.resp_head(1 + 2 * keys);
                self.resp_word("MSET");
                for _ in 0..*keys {
                    self.resp_key();
                    self.resp_value();
                }
            }
            Action::Words(words) => {
                self.resp_head(words.len());
                for word in words {
                    match word_parts(word) {
                        None => self.resp_value(),
                        Some(parts) => {
                            self.text(&format!("${}\r\n", self.parts_len(&parts)));
                            self.parts(&parts);
                            self.text("\r\n");
                        }
                    }
                }
            }
        }
    }

    fn resp_head(&mut self, words: usize) {
        self.text(&format!("*{words}\r\n"));
    }

    fn resp_word(&mut self, word: &str) {
        self.text(&format!("${}\r\n{word}\r\n", word.len()));
    }

    fn resp_key(&mut self) {
        self.text(&format!("${}\r\n", self.names.len()));
        self.key();
        self.text("\r\n");
    }

    fn resp_value(&mut self) {
        self.text("$");
        self.piece(Piece::LengthDecimal);
        self.text("\r\n");
        self.piece(Piece::Value);
        self.text("\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{workload, written};
    use super::*;
    use crate::wire::Protocol;
    use crabcache::proto::client;

    #[test]
    fn the_same_bytes_as_the_client_module_writes() {
        let cases: [(Action, &[&[u8]]); 9] = [
            (Action::Ping, &[b"PING"]),
            (Action::Get, &[b"GET", b"k:00042"]),
            (Action::Del, &[b"DEL", b"k:00042"]),
            (Action::Incr, &[b"INCR", b"counter:00042"]),
            (Action::Set, &[b"SET", b"k:00042", b"vvvv"]),
            (Action::Expire, &[b"EXPIRE", b"k:00042", b"60"]),
            (Action::MGet(2), &[b"MGET", b"k:00042", b"k:00043"]),
            (Action::MSet(2), &[b"MSET", b"k:00042", b"vvvv", b"k:00043", b"vvvv"]),
            (
                Action::Words(["GETEX", "a__rand_int__b__key__", "__data__"].map(String::from).to_vec()),
                &[b"GETEX", b"a00042bk:00043", b"vvvv"],
            ),
        ];
        for (action, words) in cases {
            let mut expected = Vec::new();
            client::resp(words, &mut expected);
            let bytes = written(&action, &workload(), Protocol::Resp2);
            assert_eq!(bytes, expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn inline_and_expiring() {
        assert_eq!(written(&Action::PingInline, &workload(), Protocol::Resp2), b"PING\r\n");
        let expiring = Workload { set_expires: true, ..workload() };
        let mut expected = Vec::new();
        client::resp(&[b"SET", b"k:00042", b"vvvv", b"EX", b"60"], &mut expected);
        assert_eq!(written(&Action::Set, &expiring, Protocol::Resp3), expected);
    }
}
