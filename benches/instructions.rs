//! Guards the hot path by counting instructions, which no busy neighbour can disturb: to decode, to apply
//! and to encode each of the five commonest commands, and all that an engine does from the bytes a client has sent
//! to those that it is sent (`turn`). None of them may allocate.
//!
//!     cargo bench --profile instructions --bench instructions               compares with instructions.txt
//!     cargo bench --profile instructions --bench instructions -- --renew    writes it anew
//!
//! One process under valgrind does all the work; callgrind collects inside of [`counted_section`] only, and
//! dumps its counts whenever that returns, so that the parts of its output are the sections in their order:
//!
//! ```text
//!   setup ─▶ counted_section(decode GET) ─▶ setup ─▶ counted_section(decode SET) ─▶ …
//!            └─ part 1: "totals: N" ─┘               └─ part 2 ─┘
//! ```

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use crabcache::clock::Now;
use crabcache::command::{Spec, lookup};
use crabcache::connection::Received;
use crabcache::engine::clients::Address;
use crabcache::engine::cluster::Topology;
use crabcache::engine::commons::Commons;
use crabcache::engine::debug::DebugAccess;
use crabcache::engine::journal::Durable;
use crabcache::engine::memory::MemoryPool;
use crabcache::engine::settings::Fixed;
use crabcache::engine::{Engine, EngineConfig, Peer};
use crabcache::filling::FillBounds;
use crabcache::hash::KeyHasher;
use crabcache::limits::{self, VALUE_BYTES_MAX_DEFAULT};
use crabcache::metrics::ServerFacts;
use crabcache::proto::{Arguments, DecodeLimits, Decoder, Step, client, encode};
use crabcache::pubsub::Interest;
use crabcache::reply::{Out, Reply};
use crabcache::request::{ArgRange, Args, Call, Wire};
use crabcache::store::{Eviction, Shard};

/// A count may stray this far from the baseline. Counts repeat to within a tenth of a percent; what is left
/// is for compilers of another day.
const TOLERANCE: f64 = 0.10;
const BASELINE: &str = "benches/instructions.txt";
const KEYS: usize = 4096;
const COUNTER_PREFIX: &str = "counter:";
/// What callgrind calls [`counted_section`].
const SECTION: &str = "instructions::counted_section";
/// Its connection.
const CLIENT: u32 = 0;
const NOW_MS: u64 = 1_700_000_000_000;

/// The commonest commands, their arguments behind the key, and what they reply.
fn commands() -> [(&'static str, Vec<&'static [u8]>, Reply<'static>); 5] {
    const VALUE: &[u8] = &[b'v'; 64];
    [
        ("get", vec![], Reply::Bulk(VALUE)),
        ("set", vec![VALUE], Reply::Ok),
        ("incr", vec![], Reply::Int(1_234_567)),
        ("expire", vec![b"1000"], Reply::Int(1)),
        ("del", vec![], Reply::Int(1)),
    ]
}

/// Its place among them.
const SET: usize = 1;
const STAGES: [&str; 4] = ["decode", "apply", "encode", "turn"];

fn main() -> ExitCode {
    let has = |word: &str| std::env::args().any(|arg| arg == word);
    // Under valgrind; and `cargo test` runs benches too, only to see that they run.
    if !has("--bench") {
        run_sections();
        return ExitCode::SUCCESS;
    }
    match compare(has("--renew")) {
        Ok(Outcome::Kept) => ExitCode::SUCCESS,
        Ok(Outcome::Strayed) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("instructions: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Nothing that is counted may ask for memory.
const ALLOCATING: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];

/// All that callgrind counts happens in here.
#[inline(never)]
fn counted_section(work: &mut dyn FnMut()) {
    work();
    // Keeps the call above from becoming a jump, after which nobody would return to here.
    black_box(());
}

/// Decode, apply, encode and whole turns; each of all commands.
fn run_sections() {
    for (name, rest, _) in commands() {
        count_decode(name, &rest);
    }
    let hasher = support::hasher();
    let mut shard = loaded_shard(&hasher);
    for (name, rest, _) in commands() {
        count_apply(&mut shard, &hasher, name, &rest);
    }
    for (_, _, reply) in commands() {
        count_encode(&reply);
    }
    let mut engine = loaded_engine(hasher);
    for (name, rest, reply) in commands() {
        count_turn(&mut engine, name, &rest, &reply);
    }
    // DEL has left room for it.
    let (name, rest, reply) = &commands()[SET];
    count_turn_once(&mut engine, name, rest, reply);
}

/// What is counted, in its order.
fn sections() -> Vec<String> {
    let of_all = STAGES.iter().flat_map(|stage| commands().map(|(name, ..)| format!("{stage} {name}")));
    of_all.chain(["turn set new".into()]).collect()
}

fn key(name: &str, index: usize) -> String {
    let prefix = if name == "incr" { COUNTER_PREFIX } else { "key:0000" };
    format!("{prefix}{index:08}")
}

/// What clients have sent, a receive buffer at a time.
struct Buffers(Vec<Vec<u8>>);

impl Received for Buffers {
    fn bytes(&self, buffer: u16) -> &[u8] {
        &self.0[buffer as usize]
    }
}

/// One command per key. `keys_of`: the command whose keys these are.
fn buffers(name: &str, keys_of: &str, rest: &[&[u8]]) -> Buffers {
    const BUFFER_BYTES: usize = 16 * 1024;
    let mut buffers = vec![Vec::new()];
    for index in 0..KEYS {
        let key = key(keys_of, index);
        let words: Vec<&[u8]> = [name.as_bytes(), key.as_bytes()].into_iter().chain(rest.iter().copied()).collect();
        let mut command = Vec::new();
        client::resp(&words, &mut command);
        if buffers.last().is_some_and(|buffer: &Vec<u8>| buffer.len() + command.len() > BUFFER_BYTES) {
            buffers.push(Vec::new());
        }
        buffers.last_mut().expect("one at least").extend(command);
    }
    Buffers(buffers)
}

fn count_decode(name: &str, rest: &[&[u8]]) {
    let Buffers(buffers) = buffers(name, name, rest);
    let limits = DecodeLimits::default();
    let mut arguments = Arguments::default();
    let mut decoder = Decoder::default();
    let mut found = 0;
    let mut decode_all = || {
        found = 0;
        for input in &buffers {
            let mut from = 0;
            while from < input.len() {
                match decoder.next(input, from, &mut arguments, &limits) {
                    Ok(Step::Command { verb, end, .. }) => {
                        black_box(verb.known());
                        found += 1;
                        from = end;
                    }
                    other => panic!("{name}: {other:?}"),
                }
            }
            black_box(&arguments.ranges);
            arguments.clear();
        }
    };
    // The first time vectors grow.
    decode_all();
    counted_section(&mut decode_all);
    assert_eq!(found, KEYS);
}

fn loaded_shard(hasher: &KeyHasher) -> Shard {
    let mut shard = Shard::new(support::shard_config(hasher, support::UNBOUNDED, Eviction::TinyLfu));
    for (name, value) in [("incr", &b"1000000"[..]), ("get", &[b'w'; 64])] {
        let batch = Batch::new(hasher, "set", name, &[value]);
        batch.apply(&mut shard);
    }
    shard
}

fn count_apply(shard: &mut Shard, hasher: &KeyHasher, name: &str, rest: &[&[u8]]) {
    let batch = Batch::new(hasher, name, name, rest);
    // DEL finds each key once; the others find the world as they left it.
    if name != "del" {
        batch.apply(shard);
    }
    counted_section(&mut || batch.apply(shard));
}

/// One command per key, as the engine holds them.
struct Batch {
    spec: &'static Spec,
    bytes: Vec<u8>,
    ranges: Vec<ArgRange>,
    hashes: Vec<u64>,
}

impl Batch {
    /// `keys_of`: the command whose keys these are.
    fn new(hasher: &KeyHasher, name: &str, keys_of: &str, rest: &[&[u8]]) -> Batch {
        let spec = lookup(name.as_bytes()).expect("a command");
        let mut batch = Batch { spec, bytes: Vec::new(), ranges: Vec::new(), hashes: Vec::new() };
        for index in 0..KEYS {
            let key = key(keys_of, index);
            batch.hashes.push(hasher.hash(key.as_bytes()));
            for arg in std::iter::once(key.as_bytes()).chain(rest.iter().copied()) {
                batch.ranges.push(ArgRange::inline(batch.bytes.len(), arg.len()));
                batch.bytes.extend_from_slice(arg);
            }
        }
        batch
    }

    fn apply(&self, shard: &mut Shard) {
        let now = Now::at_ms(NOW_MS);
        let width = self.ranges.len() / self.hashes.len();
        for (&hash, ranges) in self.hashes.iter().zip(self.ranges.chunks_exact(width)) {
            shard.prefetch_bucket(hash);
            shard.prefetch_item(hash);
            let args = Args::new(&self.bytes, ranges, &[]);
            match shard.apply(&Call { spec: self.spec, args, hash }, now, &mut ()) {
                Reply::Bulk(_) | Reply::Ok | Reply::Int(1..) => {}
                other => panic!("{}: {other:?}", self.spec.name),
            }
        }
    }
}

fn count_encode(reply: &Reply<'static>) {
    let mut out = Out::default();
    let mut encode_all = || {
        out.clear();
        for _ in 0..KEYS {
            encode(Wire::Resp2, black_box(reply), &mut out);
        }
    };
    encode_all();
    counted_section(&mut encode_all);
    assert!(out.len() >= KEYS * 4);
}

/// The only core there is, with nothing switched on, one client, and the keys that the commands are about.
fn loaded_engine(hasher: KeyHasher) -> Engine {
    let mut engine = Engine::new(EngineConfig {
        core: 0,
        cores: 1,
        commons: Arc::new(Commons::new(1, &hasher)),
        hasher,
        random_seed: 1,
        value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
        memory: Arc::new(MemoryPool::new(support::UNBOUNDED, Eviction::TinyLfu, 1)),
        output_soft_bytes: limits::OUTPUT_SOFT_BYTES,
        output_hard_bytes: limits::OUTPUT_HARD_BYTES,
        subscriber_hard_bytes: limits::SUBSCRIBER_OUTPUT_HARD_BYTES,
        subscriber_soft_bytes: limits::SUBSCRIBER_OUTPUT_SOFT_BYTES,
        mesh_in_flight_max: limits::MESH_RING_BATCHES,
        mesh_waiting_max: limits::MESH_OUTBOX_BATCHES,
        mesh_part_bytes: limits::MESH_PART_BYTES,
        fills: FillBounds::default(),
        interest: Arc::new(Interest::new(1)),
        topology: Arc::new(Topology {
            cores: 1,
            this_core: 0,
            seed: [7; 20],
            advertised_host: String::new(),
            core_ports: vec![7101],
            speaks_plain: true,
            speaks_tls: false,
            enabled: false,
        }),
        settings: Arc::new(Fixed::default()),
        durable: Arc::new(Durable::new(1)),
        facts: Arc::new(|_| ServerFacts::default()),
        stopwatch: Arc::new(|| 0),
        debug_access: DebugAccess::Nobody,
    });
    engine.set_now(Now::at_ms(NOW_MS));
    let address = Address::Tcp(([127, 0, 0, 1], 10_000).into());
    let (local_address, descriptor) = (address.clone(), 0);
    engine.open(CLIENT, Peer { address, local_address, descriptor, own_port: false, is_trusted: false });
    for (name, value) in [("incr", &b"1000000"[..]), ("get", &[b'w'; 64])] {
        turns(&mut engine, &buffers("set", name, &[value]));
    }
    engine
}

/// A turn for each receive buffer. Returns how many bytes came out for the client.
fn turns(engine: &mut Engine, buffers: &Buffers) -> usize {
    let mut sent = 0;
    for buffer in 0..buffers.0.len() {
        engine.receive(CLIENT, buffer as u16, buffers);
        engine.run(buffers);
        while let Some(index) = engine.next_dirty() {
            if let Some(out) = engine.take_out(index) {
                sent += out.len();
                engine.sent(index, out);
            }
        }
    }
    sent
}

fn count_turn(engine: &mut Engine, name: &str, rest: &[&[u8]], reply: &Reply<'static>) {
    // DEL finds each key once; the others find the world as they left it.
    if name != "del" {
        turns(engine, &buffers(name, name, rest));
    }
    count_turn_once(engine, name, rest, reply);
}

fn count_turn_once(engine: &mut Engine, name: &str, rest: &[&[u8]], reply: &Reply<'static>) {
    let buffers = buffers(name, name, rest);
    let mut sent = 0;
    counted_section(&mut || sent = turns(engine, &buffers));
    let mut expected = Out::default();
    encode(Wire::Resp2, reply, &mut expected);
    assert_eq!(sent, expected.len() * KEYS, "{name}");
}

enum Outcome {
    Kept,
    Strayed,
}

/// What was counted, per command, and on what kind of processor: with other vector instructions there are
/// other counts.
#[derive(PartialEq)]
struct Counts {
    processor: String,
    instructions: BTreeMap<String, f64>,
}

fn compare(renew: bool) -> Result<Outcome, String> {
    let baseline_path = Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE);
    if Command::new("valgrind").arg("--version").output().is_err() {
        let message = "NOT CHECKED: the instruction counts of the hot path; install valgrind";
        if std::env::var_os("CRABCACHE_REQUIRE_CLIENTS").is_some() {
            return Err(message.into());
        }
        eprintln!("{message}");
        return Ok(Outcome::Kept);
    }
    let counted = count()?;
    if renew {
        let text = counted.to_text();
        std::fs::write(&baseline_path, &text).map_err(|error| format!("{BASELINE}: {error}"))?;
        print!("{text}");
        return Ok(Outcome::Kept);
    }
    let text = std::fs::read_to_string(&baseline_path).map_err(|error| format!("{BASELINE}: {error}"))?;
    let baseline = Counts::from_text(&text)?;
    if baseline.processor != counted.processor {
        eprintln!(
            "NOT CHECKED: {BASELINE} was counted with {}, this machine has {}",
            baseline.processor, counted.processor
        );
        return Ok(Outcome::Kept);
    }
    let mut strayed = 0;
    println!("{:<16}{:>10}{:>10}{:>9}", "instructions", "baseline", "now", "change");
    let names = baseline.instructions.keys().chain(counted.instructions.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let (Some(&before), Some(&now)) = (baseline.instructions.get(name), counted.instructions.get(name)) else {
            return Err(format!("{name} is not in both {BASELINE} and the bench: renew the file"));
        };
        let change = now / before - 1.0;
        let verdict = match change {
            change if change > TOLERANCE => "  MORE",
            change if change < -TOLERANCE => "  less",
            _ => "",
        };
        strayed += usize::from(!verdict.is_empty());
        println!("{name:<16}{before:>10.1}{now:>10.1}{:>+8.1} %{verdict}", change * 100.0);
    }
    if strayed == 0 {
        return Ok(Outcome::Kept);
    }
    eprintln!(
        "\n{strayed} counts are more than {:.0} % from {BASELINE}. If that is meant, or if there are fewer now, write the \
         new ones and commit them with the change:\n    cargo bench --profile instructions --bench instructions -- --renew",
        TOLERANCE * 100.0
    );
    Ok(Outcome::Strayed)
}

/// Runs this program under callgrind, and reads what it dumped.
fn count() -> Result<Counts, String> {
    let directory = std::env::temp_dir().join(format!("crabcache-instructions-{}", std::process::id()));
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let outcome = count_in(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

fn count_in(directory: &Path) -> Result<Counts, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = directory.join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args([format!("--toggle-collect={SECTION}"), format!("--dump-after={SECTION}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        return Err(format!("valgrind ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let mut instructions = BTreeMap::new();
    for (index, section) in sections().into_iter().enumerate() {
        let path = PathBuf::from(format!("{}.{}", out.display(), index + 1));
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("callgrind left no counts of {section}: {error}"))?;
        // What the hot path needs it has from the beginning on.
        if let Some(name) = ALLOCATING.into_iter().find(|name| calls(&text, name)) {
            return Err(format!("{section} calls {name}"));
        }
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        let total = total.and_then(|total| total.trim().parse::<f64>().ok());
        match total {
            Some(total) if total > KEYS as f64 => instructions.insert(section, total / KEYS as f64),
            _ => return Err(format!("callgrind counted nothing for {section}:\n{text}")),
        };
    }
    Ok(Counts { processor: processor(), instructions })
}

/// Whether the function was called in what callgrind has written down: it names each once, `fn=(7) malloc`.
fn calls(text: &str, function: &str) -> bool {
    let names = text.lines().filter_map(|line| line.split_once("fn=(").and_then(|(_, rest)| rest.split_once(") ")));
    names.map(|(_, name)| name).any(|name| name == function)
}

/// What the libraries choose their code by at run time.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        return "x86_64 with AVX2".into();
    }
    std::env::consts::ARCH.into()
}

impl Counts {
    fn to_text(&self) -> String {
        let mut text = format!(
            "# Instructions per command; `cargo bench --profile instructions --bench instructions -- --renew` writes this.\n\
             processor = {}\n",
            self.processor
        );
        for (name, count) in &self.instructions {
            text += &format!("{name} = {count:.1}\n");
        }
        text
    }

    fn from_text(text: &str) -> Result<Counts, String> {
        let mut processor = String::new();
        let mut instructions = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(" = ").ok_or_else(|| format!("{BASELINE}: {line:?}"))?;
            if name == "processor" {
                processor = value.to_owned();
            } else {
                let count = value.parse::<f64>().map_err(|_| format!("{BASELINE}: {line:?}"))?;
                instructions.insert(name.to_owned(), count);
            }
        }
        Ok(Counts { processor, instructions })
    }
}
