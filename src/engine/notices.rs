//! What the log of the server should say of single clients: refusals with their reasons, and commands that took long. Kept
//! until the runtime takes them; full: what comes then is counted.

use std::fmt;

use super::Engine;

/// Notices of one core that wait to be taken, which happens every few ticks.
const NOTICES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Refused {
        client: String,
        why: String,
    },
    Slow {
        client: String,
        command: String,
        took_us: u64,
    },
    /// So many had no room.
    More(u64),
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Refused { client, why } => write!(out, "client {client} is refused: {why}"),
            Notice::Slow { client, command, took_us } => {
                write!(out, "slow command of {client}: {command} took {}.{:03} ms", took_us / 1000, took_us % 1000)
            }
            Notice::More(count) => write!(out, "{count} more clients were refused or slow"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: Vec<Notice>,
    more: u64,
}

impl Notices {
    fn add(&mut self, notice: impl FnOnce() -> Notice) {
        if self.waiting.len() < NOTICES_MAX {
            self.waiting.push(notice());
        } else {
            self.more += 1;
        }
    }
}

impl Engine {
    pub fn note(&mut self, notice: impl FnOnce() -> Notice) {
        self.notices.add(notice);
    }

    #[inline]
    pub fn has_notices(&self) -> bool {
        !self.notices.waiting.is_empty()
    }

    /// All that has been noted since the last time.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        let Notices { mut waiting, more } = std::mem::take(&mut self.notices);
        waiting.extend((more > 0).then_some(Notice::More(more)));
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted() {
        let mut notices = Notices::default();
        for _ in 0..NOTICES_MAX + 5 {
            notices.add(|| Notice::Refused { client: "a".into(), why: "b".into() });
        }
        assert_eq!((notices.waiting.len(), notices.more), (NOTICES_MAX, 5));
    }

    #[test]
    fn notices_read_well() {
        let slow = Notice::Slow { client: "127.0.0.1:5".into(), command: "get k".into(), took_us: 12_034 };
        assert_eq!(slow.to_string(), "slow command of 127.0.0.1:5: get k took 12.034 ms");
        let refused = Notice::Refused { client: "::1".into(), why: "wrong secret".into() };
        assert_eq!(refused.to_string(), "client ::1 is refused: wrong secret");
    }
}
