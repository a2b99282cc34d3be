//! ACL LOG: who was refused what lately, each kind of refusal once, with how often it happened.

use std::collections::VecDeque;

use crate::clock::Now;
use crate::limits::ACCESS_LOG_ENTRIES_MAX;
use crate::reply::Reply;

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A wrong secret.
    Auth,
    /// The token has no scope for the command.
    Command,
    /// The token is confined to other keys.
    Key,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Auth => "auth",
            Reason::Command => "command",
            Reason::Key => "key",
        }
    }
}

/// The same happens again within this time: counted with the first.
const SAME_WITHIN_MS: u64 = 60_000;

#[derive(Debug)]
struct Entry {
    id: u64,
    count: u64,
    reason: Reason,
    is_in_transaction: bool,
    /// The command, or the key.
    object: String,
    user: String,
    client: String,
    created_ms: u64,
    updated_ms: u64,
}

#[derive(Debug, Default)]
pub struct AccessLog {
    /// The latest first.
    entries: VecDeque<Entry>,
    next_id: u64,
}

impl AccessLog {
    /// `client` describes who it was; asked for only when the entry is new.
    pub fn add(
        &mut self,
        now: Now,
        reason: Reason,
        object: &str,
        user: &str,
        is_in_transaction: bool,
        client: impl FnOnce() -> String,
    ) {
        let is_same = |entry: &Entry| {
            entry.reason == reason
                && entry.is_in_transaction == is_in_transaction
                && entry.object == object
                && entry.user == user
                && now.unix_ms.saturating_sub(entry.updated_ms) <= SAME_WITHIN_MS
        };
        if let Some(at) = self.entries.iter().position(is_same)
            && let Some(mut entry) = self.entries.remove(at)
        {
            entry.count += 1;
            entry.updated_ms = now.unix_ms;
            self.entries.push_front(entry);
            return;
        }
        self.entries.truncate(ACCESS_LOG_ENTRIES_MAX - 1);
        self.entries.push_front(Entry {
            id: self.next_id,
            count: 1,
            reason,
            is_in_transaction,
            object: object.to_owned(),
            user: user.to_owned(),
            client: client(),
            created_ms: now.unix_ms,
            updated_ms: now.unix_ms,
        });
        self.next_id += 1;
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// As Redis answers ACL LOG.
    pub fn reply(&self, count: usize, now: Now) -> Reply<'static> {
        Reply::Array(self.entries.iter().take(count).map(|entry| entry.reply(now)).collect())
    }
}

impl Entry {
    fn reply(&self, now: Now) -> Reply<'static> {
        let number = |number: u64| Reply::Int(number.try_into().unwrap_or(i64::MAX));
        let context = if self.is_in_transaction { "multi" } else { "toplevel" };
        let age_seconds = now.unix_ms.saturating_sub(self.created_ms) as f64 / 1000.0;
        let fields = [
            ("count", number(self.count)),
            ("reason", Reply::text(self.reason.name())),
            ("context", Reply::text(context)),
            ("object", Reply::text(self.object.clone())),
            ("username", Reply::text(self.user.clone())),
            ("age-seconds", Reply::Double(age_seconds)),
            ("client-info", Reply::text(self.client.clone())),
            ("entry-id", number(self.id)),
            ("timestamp-created", number(self.created_ms)),
            ("timestamp-last-updated", number(self.updated_ms)),
        ];
        Reply::Map(fields.into_iter().map(|(name, value)| (Reply::text(name), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(log: &mut AccessLog, ms: u64, object: &str) {
        log.add(Now::at_ms(ms), Reason::Key, object, "shop", false, || format!("client of {ms}"));
    }

    #[test]
    fn the_same_within_a_minute_is_one_entry() {
        let mut log = AccessLog::default();
        add(&mut log, 1_000, "a");
        add(&mut log, 2_000, "b");
        add(&mut log, 61_000, "a");
        let seen: Vec<_> = log.entries.iter().map(|entry| (entry.object.as_str(), entry.count)).collect();
        assert_eq!(seen, [("a", 2), ("b", 1)]);
        assert_eq!(log.entries[0].client, "client of 1000");
        add(&mut log, 200_000, "a");
        assert_eq!((log.entries.len(), log.entries[0].count, log.entries[0].id), (3, 1, 2));
    }

    #[test]
    fn only_the_latest_are_kept() {
        let mut log = AccessLog::default();
        for number in 0..3 * ACCESS_LOG_ENTRIES_MAX {
            add(&mut log, 1_000, &number.to_string());
        }
        assert_eq!(log.entries.len(), ACCESS_LOG_ENTRIES_MAX);
        let Reply::Array(shown) = log.reply(2, Now::at_ms(2_500)) else { panic!("an array") };
        let Reply::Map(fields) = &shown[0] else { panic!("a map") };
        let field = |name: &str| fields.iter().find(|(key, _)| *key == Reply::text(name.to_owned())).unwrap().1.clone();
        assert_eq!(field("object"), Reply::text((3 * ACCESS_LOG_ENTRIES_MAX - 1).to_string()));
        assert_eq!(field("age-seconds"), Reply::Double(1.5));
        assert_eq!(shown.len(), 2);
        log.clear();
        assert_eq!(log.reply(10, Now::at_ms(3_000)), Reply::Array(vec![]));
    }
}
