//! What a shard counts about itself.

/// Plain numbers, exact after every command. The first group are totals since the last reset, the
/// others describe what is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Look-ups by reading commands that found the key, or did not.
    pub hits: u64,
    pub misses: u64,
    /// Keys removed because a command found them expired, and because the shard went looking.
    pub expired_lazy: u64,
    pub expired_active: u64,
    /// Keys removed to make room; of those, candidates that were not admitted.
    pub evicted: u64,
    pub rejected: u64,
    /// New keys that took the place of older ones.
    pub admitted: u64,
    /// Writes refused because there was no room.
    pub refused: u64,
    /// Changes to the keyspace: one for each key set, removed or given another expiry, and each flush.
    pub writes: u64,

    pub keys: u64,
    pub keys_with_expiry: u64,
    pub key_bytes: u64,
    /// All values, kept apart or not.
    pub value_bytes: u64,
    /// Values kept in memory of their own.
    pub large_values: u64,
    pub large_value_bytes: u64,
    /// The slots of all items: header, expiry, key, inline value, rounding.
    pub item_bytes: u64,
    /// Memory taken from the kernel for items (in use, free, or being given back), for the index with its
    /// deadlines, and for what the eviction policy remembers.
    pub arena_bytes: u64,
    pub index_bytes: u64,
    pub history_bytes: u64,
    /// Of the index: the deadlines.
    pub deadline_bytes: u64,
    /// Of the arena: items that are gone but whose place cannot be used yet, and segments that can.
    pub dead_bytes: u64,
    pub free_bytes: u64,
    /// What the shard may take, and has taken, of all kinds together.
    pub memory_bytes_max: u64,
    pub memory_bytes: u64,
    /// Items that are new or admitted, in bytes.
    pub window_bytes: u64,
    pub probation_bytes: u64,
    pub protected_bytes: u64,
    /// There is so little room that every write has to make some.
    pub is_pressed: bool,
    /// The part of the items that the window should have, in percent.
    pub window_percent: u64,
}

impl ShardCounters {
    /// Sets the totals to zero and leaves what describes the present.
    pub fn reset(&mut self) {
        *self = ShardCounters {
            hits: 0,
            misses: 0,
            expired_lazy: 0,
            expired_active: 0,
            evicted: 0,
            rejected: 0,
            admitted: 0,
            refused: 0,
            writes: 0,
            ..*self
        };
    }
}
