//! Which events about keys are published: the letters of `notify-keyspace-events`.

/// Classes of events, and to which channels they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceEvents(u16);

impl KeyspaceEvents {
    /// `__keyspace@0__:key`
    pub const KEYSPACE: KeyspaceEvents = KeyspaceEvents(1);
    /// `__keyevent@0__:event`
    pub const KEYEVENT: KeyspaceEvents = KeyspaceEvents(1 << 1);
    pub const GENERIC: KeyspaceEvents = KeyspaceEvents(1 << 2);
    pub const STRING: KeyspaceEvents = KeyspaceEvents(1 << 3);
    pub const EXPIRED: KeyspaceEvents = KeyspaceEvents(1 << 8);
    pub const EVICTED: KeyspaceEvents = KeyspaceEvents(1 << 9);
    pub const NEW: KeyspaceEvents = KeyspaceEvents(1 << 12);
    pub const MISSED: KeyspaceEvents = KeyspaceEvents(1 << 13);
    /// `A`: every class but those of keys that are missed or new.
    const ALL: KeyspaceEvents = KeyspaceEvents(0b1111_1111_1100);

    /// In the order in which they are shown.
    const CLASSES: [(char, KeyspaceEvents); 11] = [
        ('g', KeyspaceEvents::GENERIC),
        ('$', KeyspaceEvents::STRING),
        // Lists, sets, hashes, sorted sets: nothing here has them.
        ('l', KeyspaceEvents(1 << 4)),
        ('s', KeyspaceEvents(1 << 5)),
        ('h', KeyspaceEvents(1 << 6)),
        ('z', KeyspaceEvents(1 << 7)),
        ('x', KeyspaceEvents::EXPIRED),
        ('e', KeyspaceEvents::EVICTED),
        // Streams, modules.
        ('t', KeyspaceEvents(1 << 10)),
        ('d', KeyspaceEvents(1 << 11)),
        ('n', KeyspaceEvents::NEW),
    ];
    const PLACES: [(char, KeyspaceEvents); 3] =
        [('K', KeyspaceEvents::KEYSPACE), ('E', KeyspaceEvents::KEYEVENT), ('m', KeyspaceEvents::MISSED)];

    pub fn parse(text: &str) -> Result<KeyspaceEvents, String> {
        text.chars().try_fold(KeyspaceEvents::default(), |events, letter| {
            let mut known = KeyspaceEvents::CLASSES.iter().chain(&KeyspaceEvents::PLACES);
            match known.find(|(known, _)| *known == letter) {
                Some((_, class)) => Ok(KeyspaceEvents(events.0 | class.0)),
                None if letter == 'A' => Ok(KeyspaceEvents(events.0 | KeyspaceEvents::ALL.0)),
                None => Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".into()),
            }
        })
    }

    /// As Redis shows it.
    pub fn text(self) -> String {
        let mut text = String::new();
        if self.has(KeyspaceEvents::ALL) {
            text.push('A');
        } else {
            text.extend(KeyspaceEvents::CLASSES.iter().filter(|(_, class)| self.has(*class)).map(|(letter, _)| letter));
        }
        text.extend(KeyspaceEvents::PLACES.iter().filter(|(_, place)| self.has(*place)).map(|(letter, _)| letter));
        // What Redis leaves out: it would be lost on the way into a file and back.
        if self.has(KeyspaceEvents::ALL) && self.has(KeyspaceEvents::NEW) {
            text.push('n');
        }
        text
    }

    pub fn has(self, class: KeyspaceEvents) -> bool {
        self.0 & class.0 == class.0
    }

    /// Whether anything is published: a class of events, and a place for them.
    pub fn is_on(self) -> bool {
        let places = KeyspaceEvents::KEYSPACE.0 | KeyspaceEvents::KEYEVENT.0;
        self.0 & places != 0 && self.0 & !places != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_and_shown_as_in_redis() {
        for (text, shown) in
            [("", ""), ("KEA", "AKE"), ("KEAx", "AKE"), ("nmKgx", "gxnKm"), ("g$lshzxetdE", "AE"), ("AnE", "AEn")]
        {
            assert_eq!(KeyspaceEvents::parse(text).unwrap().text(), shown, "{text}");
            assert_eq!(KeyspaceEvents::parse(shown), KeyspaceEvents::parse(text));
        }
        assert!(KeyspaceEvents::parse("KQ").unwrap_err().contains("Invalid event class character"));
    }

    #[test]
    fn without_a_place_or_a_class_nothing_is_on() {
        for (text, is_on) in [("", false), ("A", false), ("KE", false), ("Kx", true), ("Em", true), ("gn", false)] {
            assert_eq!(KeyspaceEvents::parse(text).unwrap().is_on(), is_on, "{text}");
        }
    }
}
