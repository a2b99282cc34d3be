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
    /// Memory taken from the kernel for items (in use, free, or being given back), and for the index.
    pub arena_bytes: u64,
    pub index_bytes: u64,
}

impl ShardCounters {
    /// Sets the totals to zero and leaves what describes the present.
    pub fn reset(&mut self) {
        *self = ShardCounters { hits: 0, misses: 0, expired_lazy: 0, expired_active: 0, writes: 0, ..*self };
    }
}
