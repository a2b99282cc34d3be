//! Every bound in one place, each with its answer to "and when it is full?". README.md's table of limits
//! is this file in prose.

/// A value at or above this size is received into, stored in and sent from memory of its own.
pub const LARGE_VALUE_BYTES_MIN: usize = 32 * 1024;

/// Default and ceiling of `max-value-bytes`. Longer values: protocol error, connection closed.
pub const VALUE_BYTES_MAX_DEFAULT: usize = 64 * 1024 * 1024;
pub const VALUE_BYTES_MAX_CEILING: usize = 512 * 1024 * 1024;

/// Default of `max-memory`: this much of what the machine or the cgroup has. When it is full, `eviction` says what
/// happens: other keys go, or writes are refused with -OOM.
pub const MEMORY_PERCENT_DEFAULT: u8 = 75;
/// Less than this for each core is not worth a start: the index and the history of one take half of it.
pub const MEMORY_BYTES_PER_CORE_MIN: u64 = 16 * 1024 * 1024;

/// Most of `ttl-jitter-percent`: what lives half as long as was asked for is hardly a favour any more.
pub const TTL_JITTER_PERCENT_MAX: u8 = 50;

/// Keys longer than this are refused with an error; the connection lives on.
pub const KEY_BYTES_MAX: usize = 64 * 1024 - 1;

/// Arguments of one command. More: protocol error, connection closed.
pub const ARGS_MAX: usize = 1024 * 1024;

/// All inline arguments of one incomplete command together (large values are not among them). More:
/// protocol error, connection closed.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An inline line or a RESP header line without its end after this many bytes: protocol error, closed.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// A line of JSON, in and out. A longer request is refused and the connection lives on; instead of a longer value
/// there is an error.
pub const JSON_LINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How deep a line of JSON may nest before it is said to be too deep: no request needs as much.
pub const JSON_DEPTH_MAX: usize = 8;
/// The `id` of a line that is echoed. Longer: an error.
pub const JSON_ID_BYTES_MAX: usize = 256;
/// The name of a namespace. Longer: an error.
pub const NAMESPACE_BYTES_MAX: usize = 64;

/// Namespaces that a core counts apart from each other. More: those without keys are forgotten; if there are none,
/// new ones are not counted.
pub const NAMESPACES_COUNTED_MAX: usize = 4096;
/// Of them: those of which a core estimates what they would find with another quota, with 2 KiB for each, beside those of
/// which something is set. More: no estimate.
pub const NAMESPACE_CURVES_MAX: usize = 256;
/// Namespaces that STATS and the metrics name: those with most operations. More: NAMESPACE INFO tells of each.
pub const NAMESPACES_SHOWN_MAX: usize = 100;
/// Namespaces of which something is set (`namespaces`). More: an error.
pub const NAMESPACES_LIMITED_MAX: usize = 1024;

/// What one command may hold while its client has not said who it is: as Redis. More: protocol error,
/// connection closed.
pub const BEFORE_AUTH_ARGS_MAX: usize = 10;
pub const BEFORE_AUTH_VALUE_BYTES_MAX: usize = 16 * 1024;

/// One receive buffer of the ring, and how many of them a core has. When none is free the kernel ends
/// the multishot receive (ENOBUFS); it is armed again as soon as buffers are back.
pub const RECV_BUFFER_BYTES: usize = 16 * 1024;
pub const RECV_BUFFERS: u16 = 512;

/// Unsent bytes of one connection above which its commands wait and its reading pauses.
pub const OUTPUT_SOFT_BYTES: usize = 1024 * 1024;
/// The same for replies that this core makes itself and that wait for nobody: they leave in portions of about this size, so
/// that the same few buffers, warm in the caches, serve every connection. Replies of other cores have been asked for in
/// advance; to wait with the next questions until a portion has left would keep those cores idle.
pub const OUTPUT_PORTION_BYTES: usize = 128 * 1024;
/// A connection that has been paused for this long has a slow reader, and is counted.
pub const SLOW_READER_MS_MIN: u64 = 100;
/// Unsent bytes of one connection, beyond one value of the largest size, above which it is closed and
/// counted.
pub const OUTPUT_HARD_BYTES: usize = 256 * 1024 * 1024;
/// Whoever is above that bound is on its way down as long as it takes something within this time.
pub const OUTPUT_STALL_MS_MAX: u64 = 10_000;

/// Messages that a subscriber has not been sent yet: beyond the first bound it is dropped and counted; beyond the
/// second, when it has been so for this long without a break.
pub const SUBSCRIBER_OUTPUT_HARD_BYTES: usize = 32 * 1024 * 1024;
pub const SUBSCRIBER_OUTPUT_SOFT_BYTES: usize = 8 * 1024 * 1024;
pub const SUBSCRIBER_SOFT_MS_MAX: u64 = 60_000;
/// Longest that a client may take, or wait, to have a key filled in.
pub const FILL_MS_MAX: u64 = 600_000;
/// Keys of one core that clients fill in at a time. More: whoever misses another is answered as without FILL.
pub const FILLED_KEYS_MAX: usize = 65_536;
/// Bytes of these keys and of those that are waited for, on one core. More: the same.
pub const FILLED_KEY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Clients that wait for one key to be filled in, and for any of a core. More: the same.
pub const FILL_WAITERS_PER_KEY_MAX: usize = 1024;
pub const FILL_WAITERS_MAX: usize = 16_384;
/// Names of channels and patterns that one client listens to, with 96 bytes for each. More: an error.
pub const SUBSCRIPTION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A message this long is hung into the output of each subscriber instead of being copied there.
pub const SHARED_MESSAGE_BYTES_MIN: usize = 1024;

/// What one send hands to the kernel at most: after so much it is known that the client takes something.
pub const SEND_BYTES_MAX: usize = 512 * 1024;

/// What a client may queue between MULTI and EXEC. More: an error, and EXEC is refused.
pub const TRANSACTION_COMMANDS_MAX: usize = 65_536;
pub const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys of one core that are held one by one, watched ones included, for a transaction or a command that waits for others.
/// More: the whole core is held, which takes no time and no memory.
pub const HELD_KEYS_MAX: usize = 4096;
/// Keys one client may watch. More: an error.
pub const WATCHED_KEYS_MAX: usize = 65_536;

/// What a client still sends after an error that ends its connection is received and thrown away, so that
/// it gets to read the error instead of a reset: so many bytes, for so long. More, or longer: closed.
pub const LINGER_BYTES_MAX: usize = 256 * 1024 * 1024;
pub const LINGER_MS_MAX: u64 = 2_000;

/// Commands of one connection that wait for other cores. More: its decoding pauses.
pub const PENDING_REPLIES_MAX: usize = 4096;
/// The same in bytes, as far as the replies of late let expect; and what is expected of a new connection.
pub const PENDING_REPLY_BYTES_MAX: usize = 1024 * 1024;
pub const REPLY_BYTES_EXPECTED_FIRST: usize = 64 * 1024;
/// However small they have been: the next may be of another kind.
pub const REPLY_BYTES_EXPECTED_MIN: usize = 1024;
/// What each key of a command about many is expected to add to its reply.
pub const VALUE_BYTES_EXPECTED: usize = 512;

/// Commands decoded and prefetched together before they are applied.
pub const TURN_COMMANDS: usize = 128;

/// One batch to another core is closed and queued at either bound.
pub const MESH_BATCH_BYTES: usize = 64 * 1024;
pub const MESH_BATCH_COMMANDS: usize = 512;
/// Batches are made so small that the replies of one take about this, but no smaller than so many commands.
pub const MESH_REPLY_BYTES: usize = 128 * 1024;
pub const MESH_BATCH_COMMANDS_MIN: usize = 16;
/// A core that has written so much of replies sends them home before it goes on with the batch.
pub const MESH_PART_BYTES: usize = 1024 * 1024;
/// Batches in flight from one core to another. When the ring is full they wait in the sender's outbox.
pub const MESH_RING_BATCHES: usize = 64;
/// Batches that may wait in an outbox. More: connections with commands for that core stop decoding.
pub const MESH_OUTBOX_BATCHES: usize = 16;

/// So many times as many may wait of what nobody waits for. More: events of keys are lost and counted, and client-side
/// caches on that core are told to forget everything.
pub const MESH_NEWS_FACTOR: usize = 16;

/// Cores of one server. More are refused at start-up: the mesh grows with their square.
pub const CORES_MAX: usize = 256;

/// Clients when the descriptor limit allows it. More: `-ERR max number of clients reached`, closed.
pub const CLIENTS_MAX_DEFAULT: usize = 10_000;
/// Fewer clients than this are not worth a start.
pub const CLIENTS_MIN: usize = 32;
/// Descriptors kept back from clients, beside the listeners: for the process (terminal, log, files read in
/// passing), and for each core (its rings, doorbell and files).
pub const DESCRIPTORS_RESERVED: usize = 64;
pub const DESCRIPTORS_PER_CORE: usize = 16;

/// One file of the write-ahead log. Full: the next one, which was made ready before.
pub const WAL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// One write of the log. A larger group takes several.
pub const WAL_WRITE_BYTES_MAX: usize = 256 * 1024;
/// What may wait to be written to the log of a core. More: connections that write wait.
pub const WAL_BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Keys of one group that are told apart while they are not durable. More: every key of the core counts as one.
pub const WAL_DIRTY_KEYS_MAX: usize = 64 * 1024;
/// How long what nobody waits for may stay in memory before it is handed to the kernel.
pub const WAL_WRITE_DELAY_MS: u64 = 10;
/// How long a full disk is left alone before it is tried again.
pub const WAL_RETRY_MS: u64 = 500;

/// After the first SIGTERM: how long all clients together may take none of the replies that are still due to
/// them, and how long that may go on. Longer: they are closed without the rest.
pub const DRAIN_STALL_MS_MAX: u64 = 2_000;
pub const DRAIN_MS_MAX: u64 = 9_000;
/// How long cores may take to end. Longer: the process ends with exit code 1.
pub const SHUTDOWN_MS_MAX: u64 = 10_000;

/// Clients of the admin HTTP. More: whoever has been silent for longest is closed.
pub const ADMIN_CLIENTS_MAX: usize = 64;
/// The head of a request: its bytes and headers. More: status 431, closed.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;
pub const ADMIN_HEADERS_MAX: usize = 64;
/// A body over HTTP, and a value that is read over it. Longer: status 413.
pub const ADMIN_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Unsent answers of one client of the admin HTTP: further requests wait, listeners of events are closed.
pub const ADMIN_OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What all of them hold together. More: whoever holds most is closed.
pub const ADMIN_BUFFERED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a request may take to arrive, and how long a connection may be silent. Longer: closed.
pub const ADMIN_REQUEST_MS_MAX: u64 = 10_000;
pub const ADMIN_IDLE_MS_MAX: u64 = 60_000;
/// A core that has made no turn for so long hangs.
pub const CORE_SILENT_MS_MAX: u64 = 5_000;

/// Default of `max-client-memory`: this much of what the machine or the cgroup has, for what all clients together have sent
/// and not finished, and have been answered and not read. More: whoever holds most is closed.
pub const CLIENT_MEMORY_PERCENT_DEFAULT: u8 = 20;
/// How often at most a core looks for whoever holds most.
pub const CLIENT_MEMORY_SCANS_PER_SECOND: u64 = 100;
/// A large value is received in pieces of this size, so that a client is seen to hold what has come of it.
pub const LARGE_RECEIVE_BYTES_MAX: usize = 1024 * 1024;

/// Default of `request-timeout`: how long a request may take from its first byte to its last, and how many of its bytes
/// buy it another second, so that large values may come over slow lines. Longer: closed.
pub const REQUEST_MS_MAX_DEFAULT: u64 = 60_000;
pub const REQUEST_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// Tokens and addresses whose rates are followed. More: those that are not near their limits are forgotten, then any.
pub const RATE_HOLDERS_MAX: usize = 65_536;
/// Default of `max-handshakes-per-address`: connections of one address that have not said who they are, where they have to,
/// or are not through their TLS handshake. More: closed.
pub const NEWCOMERS_PER_ADDRESS_MAX_DEFAULT: u32 = 1024;
/// Connections that a turn welcomes beside everything else, and how many may wait for that. More: reset.
pub const WELCOMES_PER_TURN: usize = 8;
pub const ARRIVALS_WAITING_MAX: usize = 4096;

/// The header of a trusted proxy. Longer: closed.
pub const PROXY_HEADER_BYTES_MAX: usize = 2048;
/// Pieces of TLS handshakes that a turn goes into beside everything else; each takes the processor for as long as hundreds of
/// commands. The others wait for the next turns.
pub const HANDSHAKES_PER_TURN: usize = 2;
/// What a client may send of a handshake before the server has come to it. More: closed.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// What is encrypted of a client's replies at once. The rest follows when that has been sent.
pub const TLS_PIECE_BYTES: usize = 256 * 1024;

/// Refusals that ACL LOG remembers. More: the oldest go.
pub const ACCESS_LOG_ENTRIES_MAX: usize = 128;

/// A text of a log line. What is longer is cut.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Log lines that wait to be written, and their bytes. More: lines are lost, and counted.
pub const LOG_QUEUE_LINES_MAX: usize = 4096;
pub const LOG_QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// The same message that is logged at once, and per second from then on. More: held back, and counted.
pub const LOG_BURST: u32 = 16;
pub const LOG_PER_SECOND: u64 = 1;

/// How long a client may take to say who it is. Longer: closed.
pub const BEFORE_AUTH_MS_MAX: u64 = 10_000;
/// How often every connection is looked at for silence.
pub const IDLE_SWEEPS_PER_SECOND: u64 = 1;
/// Addresses whose failed attempts to authenticate are remembered. More: whoever waits the shortest is let off.
pub const AUTH_FAILURES_TRACKED_MAX: usize = 4096;
/// Longest wait after failed attempts.
pub const AUTH_DELAY_MS_MAX: u64 = 30_000;

/// What a tracked key takes in `tracking-table-max-keys` on average, with its readers. Longer ones, or more readers: fewer
/// keys.
pub const TRACKED_KEY_BYTES: usize = 160;
/// Prefixes that one client with a client-side cache listens to, with 96 bytes for each. More: an error.
pub const TRACKED_PREFIX_BYTES_MAX: usize = 64 * 1024;
/// Most of `slowlog-max-len`; an entry takes at most 5 KiB. Full: the oldest is forgotten.
pub const SLOWLOG_LEN_MAX: u64 = 10_000;
/// The name a client gives itself, and those of its library. Longer: an error.
pub const CLIENT_NAME_BYTES_MAX: usize = 1024;

/// How deep replies of aggregates may nest when a reply is parsed (loadgen, gathered replies).
pub const REPLY_DEPTH_MAX: usize = 32;

const _: () = assert!(ADMIN_BODY_BYTES_MAX < ADMIN_BUFFERED_BYTES_MAX);
const _: () = assert!(RECV_BUFFERS.is_power_of_two());
const _: () = assert!(LARGE_VALUE_BYTES_MIN > RECV_BUFFER_BYTES);
const _: () = assert!(OUTPUT_PORTION_BYTES < OUTPUT_SOFT_BYTES && OUTPUT_SOFT_BYTES < OUTPUT_HARD_BYTES);
const _: () = assert!(SUBSCRIBER_OUTPUT_SOFT_BYTES < SUBSCRIBER_OUTPUT_HARD_BYTES);
const _: () = assert!(SUBSCRIBER_OUTPUT_HARD_BYTES < OUTPUT_HARD_BYTES);
const _: () = assert!(DRAIN_STALL_MS_MAX < DRAIN_MS_MAX && DRAIN_MS_MAX < SHUTDOWN_MS_MAX);
const _: () = assert!(NAMESPACES_LIMITED_MAX < NAMESPACES_COUNTED_MAX);
const _: () = assert!(CLIENTS_MIN <= CLIENTS_MAX_DEFAULT);
const _: () = assert!(VALUE_BYTES_MAX_DEFAULT <= VALUE_BYTES_MAX_CEILING);
