//! Actions in memcached's text protocol. Those that it has no command for were refused when the options
//! were checked.

use super::{Builder, Piece};
use crate::workload::{Action, Workload};

impl Builder<'_> {
    pub(super) fn memcache(&mut self, action: &Action, workload: &Workload) {
        let seconds = workload.expire_seconds;
        match action {
            Action::Ping | Action::PingInline => self.text("version"),
            Action::Get => {
                self.text("get ");
                self.key();
            }
            Action::MGet(keys) => {
                self.text("get");
                for _ in 0..*keys {
                    self.text(" ");
                    self.key();
                }
            }
            Action::Set => {
                self.text("set ");
                self.key();
                self.text(&format!(" 0 {} ", if workload.set_expires { seconds } else { 0 }));
                self.piece(Piece::LengthDecimal);
                self.text("\r\n");
                self.piece(Piece::Value);
            }
            Action::Incr => {
                self.text("incr ");
                self.counter();
                self.text(" 1");
            }
            Action::Del => {
                self.text("delete ");
                self.key();
            }
            Action::Expire => {
                self.text("touch ");
                self.key();
                self.text(&format!(" {seconds}"));
            }
            Action::MSet(_) | Action::Words(_) => unreachable!("refused by the options"),
        }
        self.text("\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{workload, written};
    use super::*;
    use crate::wire::Protocol;

    #[test]
    fn requests() {
        let memcache = |action| String::from_utf8(written(&action, &workload(), Protocol::Memcache)).unwrap();
        assert_eq!(memcache(Action::Get), "get k:00042\r\n");
        assert_eq!(memcache(Action::MGet(2)), "get k:00042 k:00043\r\n");
        assert_eq!(memcache(Action::Set), "set k:00042 0 0 4\r\nvvvv\r\n");
        assert_eq!(memcache(Action::Incr), "incr counter:00042 1\r\n");
        assert_eq!(memcache(Action::Expire), "touch k:00042 60\r\n");
        assert_eq!(memcache(Action::Del), "delete k:00042\r\n");
        assert_eq!(memcache(Action::Ping), "version\r\n");
    }
}
