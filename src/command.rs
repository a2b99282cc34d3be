//! The one table of commands: name, arity, flags, key positions and who handles it. It drives dispatch,
//! arity errors, routing and COMMAND; a command exists exactly when it stands here.

use std::ops::BitOr;

/// One operation of the vocabulary that all protocols share. Subcommands are operations of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    // strings
    Append,
    Decr,
    DecrBy,
    Get,
    GetDel,
    GetEx,
    GetFill,
    GetRange,
    GetSet,
    Incr,
    IncrBy,
    IncrByFloat,
    MGet,
    MSet,
    MSetNx,
    PSetEx,
    Put,
    Set,
    SetEx,
    SetNx,
    SetRange,
    StrLen,
    SubStr,
    // keys
    Move,
    Copy,
    Del,
    Exists,
    Expire,
    ExpireAt,
    ExpireTime,
    Keys,
    Object,
    ObjectEncoding,
    ObjectFreq,
    ObjectHelp,
    ObjectIdleTime,
    ObjectRefCount,
    PExpire,
    PExpireAt,
    PExpireTime,
    PTtl,
    Persist,
    RandomKey,
    Rename,
    RenameNx,
    Scan,
    Touch,
    Ttl,
    Type,
    Unlink,
    // pub/sub
    PSubscribe,
    PUnsubscribe,
    PubSub,
    PubSubChannels,
    PubSubHelp,
    PubSubNumPat,
    PubSubNumSub,
    PubSubShardChannels,
    PubSubShardNumSub,
    Publish,
    SPublish,
    SSubscribe,
    SUnsubscribe,
    Subscribe,
    Unsubscribe,
    // transactions
    Discard,
    Exec,
    Multi,
    Unwatch,
    Watch,
    // server
    Debug,
    Namespace,
    NamespaceDel,
    NamespaceFlush,
    NamespaceHelp,
    NamespaceInfo,
    NamespaceList,
    NamespaceSet,
    NamespaceUse,
    HotKeys,
    Latency,
    LatencyDoctor,
    LatencyGraph,
    LatencyHelp,
    LatencyHistogram,
    LatencyHistory,
    LatencyLatest,
    LatencyReset,
    Monitor,
    SlowLog,
    SlowLogGet,
    SlowLogHelp,
    SlowLogLen,
    SlowLogReset,
    Wait,
    BgRewriteAof,
    LastSave,
    Shutdown,
    WaitAof,
    Memory,
    MemoryDoctor,
    MemoryHelp,
    MemoryStats,
    MemoryUsage,
    Command,
    CommandCount,
    CommandDocs,
    CommandGetKeys,
    CommandHelp,
    CommandInfo,
    CommandList,
    Config,
    ConfigGet,
    ConfigHelp,
    ConfigResetStat,
    ConfigRewrite,
    ConfigSet,
    DbSize,
    FlushAll,
    FlushDb,
    Info,
    SwapDb,
    Stats,
    Time,
    // connection
    Asking,
    Acl,
    AclCat,
    AclHelp,
    AclList,
    AclLog,
    AclUsers,
    AclWhoAmI,
    Auth,
    Client,
    ClientCaching,
    ClientGetName,
    ClientGetRedir,
    ClientHelp,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientPause,
    ClientReply,
    ClientSetInfo,
    ClientSetName,
    ClientTracking,
    ClientTrackingInfo,
    ClientUnblock,
    ClientUnpause,
    Echo,
    Hello,
    Ping,
    Quit,
    ReadOnly,
    ReadWrite,
    Reset,
    Select,
    // cluster
    Cluster,
    ClusterCountKeysInSlot,
    ClusterGetKeysInSlot,
    ClusterHelp,
    ClusterInfo,
    ClusterKeySlot,
    ClusterMyId,
    ClusterNodes,
    ClusterShards,
    ClusterSlots,
}

impl Op {
    /// Whether it changes what the client listens to: several confirmations, if any, instead of one reply.
    pub fn changes_subscriptions(self) -> bool {
        matches!(
            self,
            Op::Subscribe | Op::PSubscribe | Op::SSubscribe | Op::Unsubscribe | Op::PUnsubscribe | Op::SUnsubscribe
        )
    }
}

/// Where a command is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On the core that received it, without any shard.
    Local,
    /// On the shard that owns its one key.
    Key,
    /// On the shards that own its keys, each getting its part; the parts are merged.
    Split,
    /// Two keys that may live on two shards; several steps.
    Pair,
    /// On every core; the answers are merged.
    Every,
    /// One core after another, by a cursor that names the core, or by the slot in the arguments.
    Addressed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    pub const NONE: Flags = Flags(0);
    pub const WRITE: Flags = Flags(1);
    pub const READONLY: Flags = Flags(1 << 1);
    /// May need memory: refused when there is none.
    pub const DENYOOM: Flags = Flags(1 << 2);
    pub const ADMIN: Flags = Flags(1 << 3);
    pub const FAST: Flags = Flags(1 << 4);
    /// Answered before authentication.
    pub const NO_AUTH: Flags = Flags(1 << 5);
    pub const LOADING: Flags = Flags(1 << 6);
    pub const STALE: Flags = Flags(1 << 7);
    pub const DANGEROUS: Flags = Flags(1 << 8);
    /// Only a name for its subcommands.
    pub const CONTAINER: Flags = Flags(1 << 9);
    /// About channels.
    pub const PUBSUB: Flags = Flags(1 << 10);
    /// There are subcommands of it: containers, and COMMAND, which is a command as well.
    pub const PARENT: Flags = Flags(1 << 11);

    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        self.or(other)
    }
}

/// Where a command's keys stand, counted as Redis counts: the name is word 0, `last` may be negative
/// (from the end), and no keys at all is `first == 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    pub first: i8,
    pub last: i8,
    pub step: i8,
}

#[derive(Debug)]
pub struct Spec {
    /// Lower case; `container|subcommand` for subcommands.
    pub name: &'static str,
    pub op: Op,
    /// Words including the name, negative for "at least".
    pub arity: i8,
    pub flags: Flags,
    pub keys: Keys,
    pub route: Route,
    pub group: &'static str,
    pub since: &'static str,
    pub summary: &'static str,
}

impl Spec {
    /// 2 for subcommands, 1 for everything else.
    pub fn words(&self) -> usize {
        1 + self.name.contains('|') as usize
    }

    /// Whether `args` arguments (the name's words not counted) fit.
    #[inline]
    pub fn accepts(&self, args: usize) -> bool {
        let bound = ARGS_BOUND[self.op as usize];
        if bound >= 0 { args == bound as usize } else { args >= !bound as usize }
    }

    /// The positions of the keys among `args` arguments (see [`crate::request::Args`]).
    pub fn key_args(&self, args: usize) -> impl ExactSizeIterator<Item = usize> + use<> {
        let words = self.words();
        let last = match self.keys.last {
            last if last < 0 => (words + args).saturating_sub(last.unsigned_abs() as usize),
            last => last as usize,
        };
        let first = self.keys.first as usize;
        let range = if first == 0 { 1..1 } else { first..(last + 1).min(words + args).max(first) };
        range.step_by(self.keys.step.max(1) as usize).map(move |word| word - words)
    }

    /// The argument that is the only key of a [`Route::Key`] command.
    #[inline]
    pub fn key_arg(&self) -> usize {
        debug_assert!(self.route == Route::Key);
        self.keys.first as usize - self.words()
    }

    /// How the command is called in error texts and listings: `client|list`.
    pub fn is_subcommand(&self) -> bool {
        self.name.contains('|')
    }
}

const NO_KEYS: Keys = Keys { first: 0, last: 0, step: 0 };
const ONE_KEY: Keys = Keys { first: 1, last: 1, step: 1 };
const TWO_KEYS: Keys = Keys { first: 1, last: 2, step: 1 };
/// The key behind a subcommand.
const SUB_KEY: Keys = Keys { first: 2, last: 2, step: 1 };
const ALL_KEYS: Keys = Keys { first: 1, last: -1, step: 1 };
const EVERY_OTHER: Keys = Keys { first: 1, last: -1, step: 2 };

const R: Flags = Flags::READONLY;
const RF: Flags = Flags::READONLY.or(Flags::FAST);
const W: Flags = Flags::WRITE;
const WF: Flags = Flags::WRITE.or(Flags::FAST);
const WM: Flags = Flags::WRITE.or(Flags::DENYOOM);
const WMF: Flags = WM.or(Flags::FAST);
const SRV: Flags = Flags::LOADING.or(Flags::STALE);
const SRVF: Flags = SRV.or(Flags::FAST);
const ADM: Flags = SRV.or(Flags::ADMIN).or(Flags::DANGEROUS);
const WAITS: Flags = Flags::NONE;
const BOX: Flags = Flags::CONTAINER.or(Flags::PARENT);
const SRVP: Flags = SRV.or(Flags::PARENT);
const SUB: Flags = SRV.or(Flags::PUBSUB);
const SUBF: Flags = SUB.or(Flags::FAST);
const OPEN: Flags = SRVF.or(Flags::NO_AUTH);

macro_rules! table {
    ($($name:literal $op:ident $arity:literal $flags:ident $keys:ident $route:ident $group:literal $since:literal $summary:literal;)*) => {
        pub static TABLE: &[Spec] = &[$(Spec {
            name: $name, op: Op::$op, arity: $arity, flags: $flags, keys: $keys, route: Route::$route,
            group: $group, since: $since, summary: $summary,
        }),*];
    };
}

table! {
    "append" Append 3 WMF ONE_KEY Key "string" "2.0.0" "Appends a string to the value of a key. Creates the key if it doesn't exist.";
    "decr" Decr 2 WMF ONE_KEY Key "string" "1.0.0" "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "decrby" DecrBy 3 WMF ONE_KEY Key "string" "1.0.0" "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.";
    "get" Get 2 RF ONE_KEY Key "string" "1.0.0" "Returns the string value of a key.";
    "getdel" GetDel 2 WF ONE_KEY Key "string" "6.2.0" "Returns the string value of a key after deleting the key.";
    "getex" GetEx -2 WF ONE_KEY Key "string" "6.2.0" "Returns the string value of a key after setting its expiration time.";
    "getfill" GetFill -3 R ONE_KEY Split "string" "0.1.0" "Returns the string value of a key, or tells the first client that misses it to fill it in, for which the others wait.";
    "getrange" GetRange 4 R ONE_KEY Key "string" "2.4.0" "Returns a substring of the string stored at a key.";
    "getset" GetSet 3 WMF ONE_KEY Key "string" "1.0.0" "Returns the previous string value of a key after setting it to a new value.";
    "incr" Incr 2 WMF ONE_KEY Key "string" "1.0.0" "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "incrby" IncrBy 3 WMF ONE_KEY Key "string" "1.0.0" "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist.";
    "incrbyfloat" IncrByFloat 3 WMF ONE_KEY Key "string" "2.6.0" "Increments the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist.";
    "mget" MGet -2 RF ALL_KEYS Split "string" "1.0.0" "Returns the string values of one or more keys.";
    "mset" MSet -3 WM EVERY_OTHER Split "string" "1.0.1" "Sets the string values of one or more keys.";
    "msetnx" MSetNx -3 WM EVERY_OTHER Split "string" "1.0.1" "Sets the string values of one or more keys only when none of the keys exist.";
    "psetex" PSetEx 4 WM ONE_KEY Key "string" "2.6.0" "Sets both string value and expiration time in milliseconds of a key.";
    "put" Put -3 WM ONE_KEY Key "string" "0.1.0" "Sets the string value of a key, with an optional time to live in seconds as third argument.";
    "set" Set -3 WM ONE_KEY Key "string" "1.0.0" "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.";
    "setex" SetEx 4 WM ONE_KEY Key "string" "2.0.0" "Sets the string value and expiration time of a key. Creates the key if it doesn't exist.";
    "setnx" SetNx 3 WMF ONE_KEY Key "string" "1.0.0" "Sets the string value of a key only when the key doesn't exist.";
    "setrange" SetRange 4 WM ONE_KEY Key "string" "2.2.0" "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.";
    "strlen" StrLen 2 RF ONE_KEY Key "string" "2.2.0" "Returns the length of a string value.";
    "substr" SubStr 4 R ONE_KEY Key "string" "1.0.0" "Returns a substring from a string value.";

    "copy" Copy -3 WM TWO_KEYS Pair "generic" "6.2.0" "Copies the value of a key to a new key.";
    "del" Del -2 W ALL_KEYS Split "generic" "1.0.0" "Deletes one or more keys.";
    "exists" Exists -2 RF ALL_KEYS Split "generic" "1.0.0" "Determines whether one or more keys exist.";
    "expire" Expire -3 WF ONE_KEY Key "generic" "1.0.0" "Sets the expiration time of a key in seconds.";
    "expireat" ExpireAt -3 WF ONE_KEY Key "generic" "1.2.0" "Sets the expiration time of a key to a Unix timestamp.";
    "expiretime" ExpireTime 2 RF ONE_KEY Key "generic" "7.0.0" "Returns the expiration time of a key as a Unix timestamp.";
    "keys" Keys 2 R NO_KEYS Addressed "generic" "1.0.0" "Returns all key names that match a pattern.";
    "pexpire" PExpire -3 WF ONE_KEY Key "generic" "2.6.0" "Sets the expiration time of a key in milliseconds.";
    "pexpireat" PExpireAt -3 WF ONE_KEY Key "generic" "2.6.0" "Sets the expiration time of a key to a Unix milliseconds timestamp.";
    "pexpiretime" PExpireTime 2 RF ONE_KEY Key "generic" "7.0.0" "Returns the expiration time of a key as a Unix milliseconds timestamp.";
    "pttl" PTtl 2 RF ONE_KEY Key "generic" "2.6.0" "Returns the expiration time in milliseconds of a key.";
    "move" Move 3 WF TWO_KEYS Pair "generic" "1.0.0" "Moves a key to another database.";
    "object" Object -2 BOX NO_KEYS Local "generic" "2.2.3" "A container for object introspection commands.";
    "object|encoding" ObjectEncoding 3 R SUB_KEY Key "generic" "2.2.3" "Returns the internal encoding of a Redis object.";
    "object|freq" ObjectFreq 3 R SUB_KEY Key "generic" "4.0.0" "Returns the logarithmic access frequency counter of a Redis object.";
    "object|help" ObjectHelp 2 SRV NO_KEYS Local "generic" "6.2.0" "Returns helpful text about the different subcommands.";
    "object|idletime" ObjectIdleTime 3 R SUB_KEY Key "generic" "2.2.3" "Returns the time since the last access to a Redis object.";
    "object|refcount" ObjectRefCount 3 R SUB_KEY Key "generic" "2.2.3" "Returns the reference count of a value of a key.";
    "persist" Persist 2 WF ONE_KEY Key "generic" "2.2.0" "Removes the expiration time of a key.";
    "randomkey" RandomKey 1 R NO_KEYS Addressed "generic" "1.0.0" "Returns a random key name from the database.";
    "rename" Rename 3 WM TWO_KEYS Pair "generic" "1.0.0" "Renames a key and overwrites the destination.";
    "renamenx" RenameNx 3 WM TWO_KEYS Pair "generic" "1.0.0" "Renames a key only when the target key name doesn't exist.";
    "scan" Scan -2 R NO_KEYS Addressed "generic" "2.8.0" "Iterates over the key names in the database.";
    "touch" Touch -2 RF ALL_KEYS Split "generic" "3.2.1" "Returns the number of existing keys out of those specified after updating the time they were last accessed.";
    "ttl" Ttl 2 RF ONE_KEY Key "generic" "1.0.0" "Returns the expiration time in seconds of a key.";
    "type" Type 2 RF ONE_KEY Key "generic" "1.0.0" "Determines the type of value stored at a key.";
    "unlink" Unlink -2 WF ALL_KEYS Split "generic" "4.0.0" "Asynchronously deletes one or more keys.";

    "psubscribe" PSubscribe -2 SUB NO_KEYS Local "pubsub" "2.0.0" "Listens for messages published to channels that match one or more patterns.";
    "publish" Publish 3 SUBF NO_KEYS Local "pubsub" "2.0.0" "Posts a message to a channel.";
    "pubsub" PubSub -2 BOX NO_KEYS Local "pubsub" "2.8.0" "A container for Pub/Sub commands.";
    "pubsub|channels" PubSubChannels -2 SUB NO_KEYS Every "pubsub" "2.8.0" "Returns the active channels.";
    "pubsub|help" PubSubHelp 2 SRV NO_KEYS Local "pubsub" "6.2.0" "Returns helpful text about the different subcommands.";
    "pubsub|numpat" PubSubNumPat 2 SUB NO_KEYS Every "pubsub" "2.8.0" "Returns a count of unique pattern subscriptions.";
    "pubsub|numsub" PubSubNumSub -2 SUB NO_KEYS Every "pubsub" "2.8.0" "Returns a count of subscribers to channels.";
    "pubsub|shardchannels" PubSubShardChannels -2 SUB NO_KEYS Every "pubsub" "7.0.0" "Returns the active shard channels.";
    "pubsub|shardnumsub" PubSubShardNumSub -2 SUB NO_KEYS Every "pubsub" "7.0.0" "Returns the count of subscribers of shard channels.";
    "punsubscribe" PUnsubscribe -1 SUB NO_KEYS Local "pubsub" "2.0.0" "Stops listening to messages published to channels that match one or more patterns.";
    "spublish" SPublish 3 SUBF ONE_KEY Local "pubsub" "7.0.0" "Post a message to a shard channel.";
    "ssubscribe" SSubscribe -2 SUB ALL_KEYS Local "pubsub" "7.0.0" "Listens for messages published to shard channels.";
    "subscribe" Subscribe -2 SUB NO_KEYS Local "pubsub" "2.0.0" "Listens for messages published to channels.";
    "sunsubscribe" SUnsubscribe -1 SUB ALL_KEYS Local "pubsub" "7.0.0" "Stops listening to messages posted to shard channels.";
    "unsubscribe" Unsubscribe -1 SUB NO_KEYS Local "pubsub" "2.0.0" "Stops listening to messages posted to channels.";

    "discard" Discard 1 SRVF NO_KEYS Local "transactions" "2.0.0" "Discards a transaction.";
    "exec" Exec 1 SRV NO_KEYS Local "transactions" "1.2.0" "Executes all commands in a transaction.";
    "multi" Multi 1 SRVF NO_KEYS Local "transactions" "1.2.0" "Starts a transaction.";
    "unwatch" Unwatch 1 SRVF NO_KEYS Local "transactions" "2.2.0" "Forgets about watched keys of a transaction.";
    "watch" Watch -2 SRVF ALL_KEYS Local "transactions" "2.2.0" "Monitors changes to keys to determine the execution of a transaction.";

    "command" Command -1 SRVP NO_KEYS Local "server" "2.8.13" "Returns detailed information about all commands.";
    "command|count" CommandCount 2 SRV NO_KEYS Local "server" "2.8.13" "Returns a count of commands.";
    "command|docs" CommandDocs -2 SRV NO_KEYS Local "server" "7.0.0" "Returns documentary information about one, multiple or all commands.";
    "command|getkeys" CommandGetKeys -3 SRV NO_KEYS Local "server" "2.8.13" "Extracts the key names from an arbitrary command.";
    "command|help" CommandHelp 2 SRV NO_KEYS Local "server" "5.0.0" "Returns helpful text about the different subcommands.";
    "command|info" CommandInfo -2 SRV NO_KEYS Local "server" "2.8.13" "Returns information about one, multiple or all commands.";
    "command|list" CommandList -2 SRV NO_KEYS Local "server" "7.0.0" "Returns a list of command names.";
    "config" Config -2 BOX NO_KEYS Local "server" "2.0.0" "A container for server configuration commands.";
    "config|get" ConfigGet -3 ADM NO_KEYS Local "server" "2.0.0" "Returns the effective values of configuration parameters.";
    "config|help" ConfigHelp 2 SRV NO_KEYS Local "server" "5.0.0" "Returns helpful text about the different subcommands.";
    "config|resetstat" ConfigResetStat 2 ADM NO_KEYS Every "server" "2.0.0" "Resets the server's statistics.";
    "config|rewrite" ConfigRewrite 2 ADM NO_KEYS Local "server" "2.8.0" "Persists the effective configuration to file.";
    "config|set" ConfigSet -4 ADM NO_KEYS Every "server" "2.0.0" "Sets configuration parameters in-flight.";
    "debug" Debug -2 ADM NO_KEYS Local "server" "1.0.0" "Helps test suites; off unless enable-debug-command says otherwise.";
    "dbsize" DbSize 1 RF NO_KEYS Every "server" "1.0.0" "Returns the number of keys in the database.";
    "bgrewriteaof" BgRewriteAof 1 ADM NO_KEYS Every "server" "1.0.0" "Asynchronously rewrites the append-only file to disk.";
    "lastsave" LastSave 1 SRVF NO_KEYS Local "server" "1.0.0" "Returns the Unix timestamp of the last successful save to disk.";
    "shutdown" Shutdown -1 ADM NO_KEYS Local "server" "1.0.0" "Synchronously saves the database(s) to disk and shuts down the Redis server.";
    "wait" Wait 3 WAITS NO_KEYS Local "generic" "3.0.0" "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed.";
    "waitaof" WaitAof 4 WAITS NO_KEYS Every "generic" "7.2.0" "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas. Returns when all conditions are met or the timeout passed.";
    "flushall" FlushAll -1 W NO_KEYS Every "server" "1.0.0" "Removes all keys from all databases.";
    "flushdb" FlushDb -1 W NO_KEYS Every "server" "1.0.0" "Remove all keys from the current database.";
    "hotkeys" HotKeys -1 SRV NO_KEYS Every "server" "0.1.0" "Returns the keys asked for most, and about how often lately.";
    "info" Info -1 SRV NO_KEYS Every "server" "1.0.0" "Returns information and statistics about the server.";
    "memory" Memory -2 BOX NO_KEYS Local "server" "4.0.0" "A container for memory diagnostics commands.";
    "memory|doctor" MemoryDoctor 2 SRV NO_KEYS Every "server" "4.0.0" "Outputs a memory problems report.";
    "memory|help" MemoryHelp 2 SRV NO_KEYS Local "server" "4.0.0" "Returns helpful text about the different subcommands.";
    "memory|stats" MemoryStats 2 SRV NO_KEYS Every "server" "4.0.0" "Returns details about memory usage.";
    "memory|usage" MemoryUsage -3 R SUB_KEY Key "server" "4.0.0" "Estimates the memory usage of a key.";
    "latency" Latency -2 BOX NO_KEYS Local "server" "2.8.13" "A container for latency diagnostics commands.";
    "latency|doctor" LatencyDoctor 2 ADM NO_KEYS Every "server" "2.8.13" "Returns a human-readable latency analysis report.";
    "latency|graph" LatencyGraph 3 ADM NO_KEYS Every "server" "2.8.13" "Returns a latency graph for an event.";
    "latency|help" LatencyHelp 2 SRV NO_KEYS Local "server" "2.8.13" "Returns helpful text about the different subcommands.";
    "latency|histogram" LatencyHistogram -2 ADM NO_KEYS Every "server" "7.0.0" "Returns the cumulative distribution of latencies of a subset or all commands.";
    "latency|history" LatencyHistory 3 ADM NO_KEYS Every "server" "2.8.13" "Returns timestamp-latency samples for an event.";
    "latency|latest" LatencyLatest 2 ADM NO_KEYS Every "server" "2.8.13" "Returns the latest latency samples for all events.";
    "latency|reset" LatencyReset -2 ADM NO_KEYS Every "server" "2.8.13" "Resets the latency data for one or more events.";
    "monitor" Monitor 1 ADM NO_KEYS Every "server" "1.0.0" "Listens for all requests received by the server in real-time.";
    "slowlog" SlowLog -2 BOX NO_KEYS Local "server" "2.2.12" "A container for slow log commands.";
    "slowlog|get" SlowLogGet -2 ADM NO_KEYS Every "server" "2.2.12" "Returns the slow log's entries.";
    "slowlog|help" SlowLogHelp 2 SRV NO_KEYS Local "server" "6.2.0" "Returns helpful text about the different subcommands.";
    "slowlog|len" SlowLogLen 2 ADM NO_KEYS Every "server" "2.2.12" "Returns the number of entries in the slow log.";
    "slowlog|reset" SlowLogReset 2 ADM NO_KEYS Every "server" "2.2.12" "Clears all entries from the slow log.";
    "namespace" Namespace -2 BOX NO_KEYS Local "server" "0.1.0" "A container for commands about namespaces.";
    "namespace|del" NamespaceDel 3 W NO_KEYS Every "server" "0.1.0" "Removes all keys of a namespace and what was set of it.";
    "namespace|flush" NamespaceFlush 3 W NO_KEYS Every "server" "0.1.0" "Removes all keys of a namespace.";
    "namespace|help" NamespaceHelp 2 SRV NO_KEYS Local "server" "0.1.0" "Returns helpful text about the different subcommands.";
    "namespace|info" NamespaceInfo 3 R NO_KEYS Every "server" "0.1.0" "Returns what a namespace holds and how it was used.";
    "namespace|list" NamespaceList 2 R NO_KEYS Every "server" "0.1.0" "Returns the names of all namespaces that have keys.";
    "namespace|set" NamespaceSet -5 ADM NO_KEYS Every "server" "0.1.0" "Sets what a namespace may hold, and for how long.";
    "namespace|use" NamespaceUse -2 SRVF NO_KEYS Local "server" "0.1.0" "Chooses the namespace of the connection's keys.";
    "swapdb" SwapDb 3 WF NO_KEYS Every "server" "4.0.0" "Swaps two Redis databases.";
    "stats" Stats -1 SRV NO_KEYS Every "server" "0.1.0" "Returns statistics about the server and each of its cores as JSON.";
    "time" Time 1 SRVF NO_KEYS Local "server" "2.6.0" "Returns the server time.";

    "asking" Asking 1 SRVF NO_KEYS Local "cluster" "3.0.0" "Signals that a cluster client is following an -ASK redirect.";
    "acl" Acl -2 BOX NO_KEYS Local "connection" "6.0.0" "A container for Access List Control commands.";
    "acl|cat" AclCat -2 SRV NO_KEYS Local "connection" "6.0.0" "Lists the scopes of tokens, or the commands of one.";
    "acl|help" AclHelp 2 SRV NO_KEYS Local "connection" "6.0.0" "Returns helpful text about the different subcommands.";
    "acl|list" AclList 2 ADM NO_KEYS Local "connection" "6.0.0" "Describes every token as Redis describes users.";
    "acl|log" AclLog -2 ADM NO_KEYS Local "connection" "6.0.0" "Lists who was refused what lately.";
    "acl|users" AclUsers 2 ADM NO_KEYS Local "connection" "6.0.0" "Lists the names of all tokens.";
    "acl|whoami" AclWhoAmI 2 SRV NO_KEYS Local "connection" "6.0.0" "Returns the name of the token of this connection.";
    "auth" Auth -2 OPEN NO_KEYS Local "connection" "1.0.0" "Authenticates the connection.";
    "client" Client -2 BOX NO_KEYS Local "connection" "2.4.0" "A container for client connection commands.";
    "client|caching" ClientCaching 3 SRV NO_KEYS Local "connection" "6.0.0" "Instructs the server whether to track the keys in the next request.";
    "client|getname" ClientGetName 2 SRV NO_KEYS Local "connection" "2.6.9" "Returns the name of the connection.";
    "client|getredir" ClientGetRedir 2 SRV NO_KEYS Local "connection" "6.0.0" "Returns the client ID to which the connection's tracking notifications are redirected.";
    "client|help" ClientHelp 2 SRV NO_KEYS Local "connection" "5.0.0" "Returns helpful text about the different subcommands.";
    "client|id" ClientId 2 SRV NO_KEYS Local "connection" "5.0.0" "Returns the unique client ID of the connection.";
    "client|info" ClientInfo 2 SRV NO_KEYS Local "connection" "6.2.0" "Returns information about the connection.";
    "client|kill" ClientKill -3 ADM NO_KEYS Every "connection" "2.4.0" "Terminates open connections.";
    "client|list" ClientList -2 ADM NO_KEYS Every "connection" "2.4.0" "Lists open connections.";
    "client|no-evict" ClientNoEvict 3 ADM NO_KEYS Local "connection" "7.0.0" "Sets the client eviction mode of the connection.";
    "client|no-touch" ClientNoTouch 3 SRV NO_KEYS Local "connection" "7.2.0" "Controls whether commands sent by the client affect the last access time of accessed keys.";
    "client|pause" ClientPause -3 ADM NO_KEYS Every "connection" "3.0.0" "Suspends commands processing.";
    "client|reply" ClientReply 3 SRV NO_KEYS Local "connection" "3.2.0" "Instructs the server whether to reply to commands.";
    "client|setinfo" ClientSetInfo 4 SRV NO_KEYS Local "connection" "7.2.0" "Sets information specific to the client or connection.";
    "client|setname" ClientSetName 3 SRV NO_KEYS Local "connection" "2.6.9" "Sets the connection name.";
    "client|tracking" ClientTracking -3 SRV NO_KEYS Local "connection" "6.0.0" "Controls server-assisted client-side caching for the connection.";
    "client|trackinginfo" ClientTrackingInfo 2 SRV NO_KEYS Local "connection" "6.2.0" "Returns information about server-assisted client-side caching for the connection.";
    "client|unblock" ClientUnblock -3 ADM NO_KEYS Every "connection" "5.0.0" "Unblocks a client blocked by a blocking command from a different connection.";
    "client|unpause" ClientUnpause 2 ADM NO_KEYS Every "connection" "3.2.0" "Resumes processing commands from paused clients.";
    "echo" Echo 2 SRVF NO_KEYS Local "connection" "1.0.0" "Returns the given string.";
    "hello" Hello -1 OPEN NO_KEYS Local "connection" "6.0.0" "Handshakes with the server.";
    "ping" Ping -1 SRVF NO_KEYS Local "connection" "1.0.0" "Returns the server's liveliness response.";
    "quit" Quit -1 OPEN NO_KEYS Local "connection" "1.0.0" "Closes the connection.";
    "readonly" ReadOnly 1 SRVF NO_KEYS Local "cluster" "3.0.0" "Enables read-only queries for a connection to a cluster replica node.";
    "readwrite" ReadWrite 1 SRVF NO_KEYS Local "cluster" "3.0.0" "Enables read-write queries for a connection to a cluster replica node.";
    "reset" Reset 1 OPEN NO_KEYS Local "connection" "6.2.0" "Resets the connection.";
    "select" Select 2 SRVF NO_KEYS Local "connection" "1.0.0" "Changes the selected database.";

    "cluster" Cluster -2 BOX NO_KEYS Local "cluster" "3.0.0" "A container for cluster commands.";
    "cluster|countkeysinslot" ClusterCountKeysInSlot 3 SRV NO_KEYS Addressed "cluster" "3.0.0" "Returns the number of keys in a hash slot.";
    "cluster|getkeysinslot" ClusterGetKeysInSlot 4 SRV NO_KEYS Addressed "cluster" "3.0.0" "Returns the key names in a hash slot.";
    "cluster|help" ClusterHelp 2 SRV NO_KEYS Local "cluster" "5.0.0" "Returns helpful text about the different subcommands.";
    "cluster|info" ClusterInfo 2 SRV NO_KEYS Local "cluster" "3.0.0" "Returns information about the state of a node.";
    "cluster|keyslot" ClusterKeySlot 3 SRV NO_KEYS Local "cluster" "3.0.0" "Returns the hash slot for a key.";
    "cluster|myid" ClusterMyId 2 SRV NO_KEYS Local "cluster" "3.0.0" "Returns the ID of a node.";
    "cluster|nodes" ClusterNodes 2 SRV NO_KEYS Local "cluster" "3.0.0" "Returns the cluster configuration for a node.";
    "cluster|shards" ClusterShards 2 SRV NO_KEYS Local "cluster" "7.0.0" "Returns the mapping of cluster slots to shards.";
    "cluster|slots" ClusterSlots 2 SRV NO_KEYS Local "cluster" "3.0.0" "Returns the mapping of cluster slots to nodes.";
}

/// A name in 16 bytes: its bytes with the bit set that makes letters lower case, and its length in the
/// last. Names hold letters only and no other byte becomes a letter by that bit, so comparing packed
/// names compares names.
type Packed = u128;

const NAME_BYTES_MAX: usize = 15;
const LOWER: Packed = u128::from_ne_bytes([0x20; 16]);
const INDEX_SIZE: usize = 512;
const EMPTY: u8 = u8::MAX;

const fn pack(name: Packed, len: usize) -> Packed {
    name | LOWER | (len as Packed) << 120
}

#[inline]
const fn index_of(packed: Packed) -> usize {
    let folded = (packed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ ((packed >> 64) as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    (folded >> 48) as usize % INDEX_SIZE
}

/// Open addressing over the names without a `|`, made at compile time.
struct Index {
    entries: [u8; INDEX_SIZE],
    names: [Packed; TABLE_LEN],
}

const TABLE_LEN: usize = TABLE.len();
const _: () = assert!(TABLE_LEN < EMPTY as usize);

static INDEX: Index = build_index();

const fn build_index() -> Index {
    let mut index = Index { entries: [EMPTY; INDEX_SIZE], names: [0; TABLE_LEN] };
    let mut i = 0;
    while i < TABLE_LEN {
        let name = TABLE[i].name.as_bytes();
        let mut bytes = 0;
        let mut is_sub = false;
        let mut j = 0;
        while j < name.len() {
            is_sub |= name[j] == b'|';
            if !is_sub {
                assert!(name[j].is_ascii_lowercase() && j < NAME_BYTES_MAX);
                bytes |= (name[j] as Packed) << (8 * j);
            }
            j += 1;
        }
        if !is_sub {
            let packed = pack(bytes, name.len());
            index.names[i] = packed;
            let mut at = index_of(packed);
            while index.entries[at] != EMPTY {
                at = (at + 1) % INDEX_SIZE;
            }
            index.entries[at] = i as u8;
        }
        i += 1;
    }
    index
}

/// By operation: its place in the table.
static PLACES: [u8; TABLE_LEN] = build_places();

const fn build_places() -> [u8; TABLE_LEN] {
    let mut places = [0; TABLE_LEN];
    let mut i = 0;
    while i < TABLE_LEN {
        places[TABLE[i].op as usize] = i as u8;
        i += 1;
    }
    places
}

/// By operation: the exact number of arguments, or the bitwise complement of the least number.
static ARGS_BOUND: [i16; TABLE_LEN] = build_args_bound();

const fn build_args_bound() -> [i16; TABLE_LEN] {
    let mut bounds = [0; TABLE_LEN];
    let mut i = 0;
    while i < TABLE_LEN {
        let name = TABLE[i].name.as_bytes();
        let mut words = 1;
        let mut j = 0;
        while j < name.len() {
            words += (name[j] == b'|') as i16;
            j += 1;
        }
        let arity = TABLE[i].arity as i16;
        bounds[TABLE[i].op as usize] = if arity >= 0 { arity - words } else { !(-arity - words) };
        i += 1;
    }
    bounds
}

/// The command called `name`, in any case; subcommands are not found this way.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    // Two overlapping loads cover any length between theirs and twice theirs.
    let bytes = match *name {
        [] => return None,
        [a] => Packed::from(a),
        [a, b] => Packed::from(a) | Packed::from(b) << 8,
        [a, b, c] => Packed::from(a) | Packed::from(b) << 8 | Packed::from(c) << 16,
        _ => match (name.first_chunk(), name.last_chunk(), name.first_chunk(), name.last_chunk()) {
            (Some(&first), Some(&last), ..) if name.len() <= NAME_BYTES_MAX => {
                u64::from_le_bytes(first) as Packed | (u64::from_le_bytes(last) as Packed) << (8 * (name.len() - 8))
            }
            (None, None, Some(&first), Some(&last)) => {
                u32::from_le_bytes(first) as Packed | (u32::from_le_bytes(last) as Packed) << (8 * (name.len() - 4))
            }
            _ => return None,
        },
    };
    lookup_packed(pack(bytes, name.len()))
}

/// The command whose name is the first `len` of these bytes: [`lookup`] where more than the name can be read.
#[inline]
pub fn lookup_prefix(bytes: &[u8; 16], len: usize) -> Option<&'static Spec> {
    debug_assert!(len <= NAME_BYTES_MAX);
    let name = u128::from_le_bytes(*bytes) & ((1 << (8 * len)) - 1);
    lookup_packed(pack(name, len))
}

#[inline]
fn lookup_packed(packed: Packed) -> Option<&'static Spec> {
    let mut at = index_of(packed);
    loop {
        let entry = INDEX.entries[at];
        if entry == EMPTY {
            return None;
        }
        if INDEX.names[entry as usize] == packed {
            return Some(&TABLE[entry as usize]);
        }
        at = (at + 1) % INDEX_SIZE;
    }
}

/// The subcommand `name` of `container`: they stand right behind it.
pub fn lookup_subcommand(container: &Spec, name: &[u8]) -> Option<&'static Spec> {
    let behind = TABLE[PLACES[container.op as usize] as usize + 1..].iter();
    behind.take_while(|spec| spec.is_subcommand()).find(|spec| {
        let sub = &spec.name.as_bytes()[container.name.len() + 1..];
        sub.eq_ignore_ascii_case(name)
    })
}

/// Whether `spec` has subcommands.
#[inline]
pub fn has_subcommands(spec: &Spec) -> bool {
    spec.flags.has(Flags::PARENT)
}

/// The spec of an operation, for protocols that name commands by number.
#[inline]
pub fn spec_of(op: Op) -> &'static Spec {
    &TABLE[PLACES[op as usize] as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case_and_nothing_else_is() {
        for spec in TABLE.iter().filter(|spec| !spec.is_subcommand()) {
            assert_eq!(lookup(spec.name.as_bytes()).unwrap().op, spec.op);
            assert_eq!(lookup(spec.name.to_uppercase().as_bytes()).unwrap().op, spec.op);
            assert!(lookup(format!("{}x", spec.name).as_bytes()).is_none_or(|other| other.op != spec.op));
            assert!(lookup(&spec.name.as_bytes()[1..]).is_none_or(|other| other.op != spec.op));
        }
        assert!(lookup(b"").is_none());
        assert!(lookup(b"get\0").is_none());
        assert!(lookup(b"ge ").is_none());
        assert!(lookup(b"averyveryverylongcommandname").is_none());
        assert!(lookup(b"client|list").is_none());
        for byte in 0..=u8::MAX {
            assert_eq!(lookup(&[b'g', byte, b't']).is_some(), byte.eq_ignore_ascii_case(&b'e'), "{byte}");
            let eight = [b"getrang".as_slice(), &[byte]].concat();
            assert_eq!(lookup(&eight).is_some(), byte.eq_ignore_ascii_case(&b'e'), "{byte}");
        }
    }

    #[test]
    fn names_are_found_in_longer_bytes() {
        for spec in TABLE.iter().filter(|spec| !spec.is_subcommand()) {
            let mut bytes = [b'e'; 16];
            bytes[..spec.name.len()].copy_from_slice(spec.name.as_bytes());
            assert_eq!(lookup_prefix(&bytes, spec.name.len()).unwrap().op, spec.op);
            assert!(lookup_prefix(&bytes, spec.name.len() - 1).is_none_or(|other| other.op != spec.op));
        }
        assert!(lookup_prefix(&[b' '; 16], 0).is_none());
    }

    #[test]
    fn every_operation_stands_in_the_table_once() {
        for (i, spec) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.op != spec.op && other.name != spec.name));
            assert_eq!(spec.name, spec.name.to_lowercase());
        }
    }

    #[test]
    fn subcommands_are_found_below_their_container() {
        let client = lookup(b"CLIENT").unwrap();
        assert_eq!(lookup_subcommand(client, b"List").unwrap().op, Op::ClientList);
        assert!(lookup_subcommand(client, b"nothing").is_none());
        for spec in TABLE.iter().filter(|spec| !spec.is_subcommand()) {
            let has = TABLE.iter().any(|sub| sub.name.starts_with(&format!("{}|", spec.name)));
            assert_eq!(has_subcommands(spec), has, "{}", spec.name);
        }
    }

    #[test]
    fn arity_counts_the_words_of_the_name() {
        let accepts = |name: &str, args| lookup(name.as_bytes()).unwrap().accepts(args);
        assert!(accepts("get", 1) && !accepts("get", 0) && !accepts("get", 2));
        assert!(accepts("set", 2) && accepts("set", 5) && !accepts("set", 1));
        assert!(accepts("ping", 0) && accepts("ping", 9));
        let setname = lookup_subcommand(lookup(b"client").unwrap(), b"setname").unwrap();
        assert!(setname.accepts(1) && !setname.accepts(0) && !setname.accepts(2));
    }

    #[test]
    fn key_positions_follow_the_table() {
        let keys = |name: &str, args| lookup(name.as_bytes()).unwrap().key_args(args).collect::<Vec<_>>();
        assert_eq!(keys("get", 1), [0]);
        assert_eq!(keys("mget", 3), [0, 1, 2]);
        assert_eq!(keys("mset", 4), [0, 2]);
        assert_eq!(keys("rename", 2), [0, 1]);
        assert_eq!(keys("copy", 4), [0, 1]);
        assert!(keys("ping", 1).is_empty());
    }
}
