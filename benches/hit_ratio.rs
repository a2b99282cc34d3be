//! Hit ratios on real traces, through the real shard:
//! `cargo bench --bench hit_ratio [-- traces <directory>] [svg <file>] [what-if] [trace …]`.
//!
//! Each trace is replayed as a client would use a cache: GET; on a miss SET. The shard gets the memory that the
//! cell's entries take, in small segments, so that a thousand entries are many segments, as a million
//! are in a server. Beside it run exact LRU, S3-FIFO, SIEVE, Redis's sampled LRU and LFU and Belady's optimum, which knows
//! the future. Traces come from `../shared/traces` (or the directory named); where there are none, it says so and
//! replays generated ones.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crabcache::clock::Now;
use crabcache::command::lookup;
use crabcache::hash::KeyHasher;
use crabcache::reply::Reply;
use crabcache::request::{ArgRange, Args, Call};
use crabcache::store::{Eviction, HALVES, Shard, ShardConfig};

/// The reference cells of `INDEX.md`: entries, and the hit ratio of the best online policy measured there.
const CELLS: [(&str, usize, f64); 13] = [
    ("cache2k_web07", 2048, 58.12),
    ("corda_vaultservice", 905, 33.33),
    ("corda_vaultservice", 9047, 33.33),
    ("mooncake_conversation", 1828, 9.78),
    ("mooncake_conversation", 18279, 28.43),
    ("arc_OLTP", 1869, 46.46),
    ("arc_OLTP", 18688, 67.78),
    ("arc_P3", 7625, 4.66),
    ("arc_P3", 76254, 37.26),
    ("cache2k_orm-busy", 763, 77.03),
    ("cache2k_orm-busy", 7635, 88.89),
    ("cloudphysics_w106", 2752, 81.25),
    ("cloudphysics_w106", 27517, 92.69),
];

/// Traces with sizes: part of the footprint in bytes that the cache gets.
const SIZED: [(&str, f64); 4] = [
    ("cloudphysics_io_sized", 0.01),
    ("cloudphysics_io_sized", 0.1),
    ("scarab_recs_hashsized", 0.01),
    ("scarab_recs_hashsized", 0.1),
];

/// In replays without sizes a segment holds this many items, each of this many bytes with key and header.
const ITEMS_PER_SEGMENT: usize = 4;
const ITEM_BYTES: usize = 252;
const SEGMENT_BYTES: usize = 1024;
/// Segments that a shard keeps free at its ceiling; they are none of the cell's entries.
const SEGMENTS_SPARE: usize = 4;
const KEY_BYTES: usize = 8;

struct Trace {
    keys: Vec<u32>,
    /// By key; empty when all are of one size.
    sizes: Vec<u32>,
}

impl Trace {
    fn read(path: &Path) -> std::io::Result<Trace> {
        let file = std::fs::File::open(path)?;
        let text = ruzstd::decoding::StreamingDecoder::new(file).map_err(std::io::Error::other)?;
        let mut trace = Trace { keys: Vec::new(), sizes: Vec::new() };
        for line in BufReader::new(text).lines() {
            let line = line?;
            let (key, size) = line.split_once(',').map_or((&line[..], None), |(key, size)| (key, Some(size)));
            let key: u32 = key.parse().map_err(std::io::Error::other)?;
            trace.keys.push(key);
            if let Some(size) = size {
                let size = size.parse().map_err(std::io::Error::other)?;
                trace.sizes.resize(trace.sizes.len().max(key as usize + 1), 0);
                trace.sizes[key as usize] = size;
            }
        }
        Ok(trace)
    }

    /// Zipf-like keys between scans, where no real trace is at hand.
    fn generated(keys: u32, requests: usize, scan_percent: u64) -> Trace {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut draw = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut scanned = keys;
        let keys = (0..requests).map(|_| {
            if draw() % 100 < scan_percent {
                scanned += 1;
                return scanned;
            }
            let part = (draw() >> 11) as f64 / (1u64 << 53) as f64;
            (keys as f64).powf(part) as u32
        });
        Trace { keys: keys.collect(), sizes: Vec::new() }
    }

    fn unique(&self) -> usize {
        self.keys.iter().max().map_or(0, |&last| last as usize + 1)
    }

    fn size(&self, key: u32) -> usize {
        self.sizes.get(key as usize).map_or(1, |&size| size.max(1) as usize)
    }

    fn footprint(&self) -> usize {
        let mut seen = vec![false; self.unique()];
        self.keys
            .iter()
            .filter(|&&key| !std::mem::replace(&mut seen[key as usize], true))
            .map(|&key| self.size(key))
            .sum()
    }
}

/// Hits in percent, and the mean window in percent of the memory.
fn shard(trace: &Trace, item_bytes_max: usize, segment_bytes: usize, eviction: Eviction) -> (f64, f64) {
    let (hits, windows, _) = replay_in_shard(trace, item_bytes_max, ITEM_BYTES, segment_bytes, eviction);
    (hits, windows)
}

/// Hits in percent as a shard estimates them for half, the same, two and four times the memory. It may use a part of its
/// ceiling for that; larger items make it what a server's shard would have.
fn what_if(trace: &Trace, item_bytes_max: usize) -> [f64; 4] {
    const LARGER: usize = 32;
    let (.., shard) =
        replay_in_shard(trace, LARGER * item_bytes_max, LARGER * ITEM_BYTES, LARGER * SEGMENT_BYTES, Eviction::TinyLfu);
    estimates(&shard)
}

fn estimates(shard: &Shard) -> [f64; 4] {
    let estimate = shard.what_if();
    estimate.hits.map(|hits| 100.0 * hits as f64 / estimate.look_ups.max(1) as f64)
}

fn replay_in_shard(
    trace: &Trace,
    item_bytes_max: usize,
    item_bytes: usize,
    segment_bytes: usize,
    eviction: Eviction,
) -> (f64, f64, Shard) {
    let hasher = KeyHasher::with_seed([1, 2, 3, 4]);
    let mut shard = Shard::new(ShardConfig {
        hasher: hasher.clone(),
        value_bytes_max: 512 << 20,
        random_seed: 1,
        memory_bytes_max: u64::MAX,
        eviction,
        segment_bytes,
    });
    let (get, set) = (lookup(b"GET").expect("a command"), lookup(b"SET").expect("a command"));
    let now = Now::at_ms(1_700_000_000_000);
    let room = |shard: &mut Shard| {
        let counters = shard.counters();
        let beside = counters.memory_bytes - counters.arena_bytes - counters.large_value_bytes;
        shard.set_memory(item_bytes_max as u64 + beside, eviction);
    };
    room(&mut shard);
    let zeroes = bytes::Bytes::from(vec![0u8; 64 << 20]);
    let (mut hits, mut windows) = (0u64, 0u64);
    for (turn, &key) in trace.keys.iter().enumerate() {
        let name = (key as u64).to_le_bytes();
        let hash = hasher.hash(&name);
        let ranges = [ArgRange::inline(0, KEY_BYTES)];
        let args = Args::new(&name, &ranges, &[]);
        let is_hit = !matches!(shard.apply(&Call { spec: get, args, hash }, now, &mut ()), Reply::Nil);
        hits += is_hit as u64;
        if !is_hit {
            let value_bytes = if trace.sizes.is_empty() { item_bytes - KEY_BYTES - 4 } else { trace.size(key) };
            let large = value_bytes >= crabcache::limits::LARGE_VALUE_BYTES_MIN;
            let mut bytes = name.to_vec();
            let value = if large {
                ArgRange::large(0)
            } else {
                bytes.resize(KEY_BYTES + value_bytes, 0);
                ArgRange::inline(KEY_BYTES, value_bytes)
            };
            let larges = if large { vec![zeroes.slice(..value_bytes.min(zeroes.len()))] } else { Vec::new() };
            let ranges = [ArgRange::inline(0, KEY_BYTES), value];
            shard.apply(&Call { spec: set, args: Args::new(&bytes, &ranges, &larges), hash }, now, &mut ());
        }
        if turn % 64 == 0 {
            windows += shard.counters().window_percent;
        }
        if turn % 4096 == 0 {
            shard.tick(now, 1, &mut ());
            room(&mut shard);
        }
    }
    let requests = trace.keys.len() as f64;
    (100.0 * hits as f64 / requests, windows as f64 / (requests / 64.0).ceil(), shard)
}

/// A cache of keys whose sizes add up to at most `capacity`, told of every request.
trait Policy {
    fn request(&mut self, key: u32, size: usize) -> bool;
}

fn replay(trace: &Trace, mut policy: impl Policy) -> f64 {
    let hits = trace.keys.iter().filter(|&&key| policy.request(key, trace.size(key))).count();
    100.0 * hits as f64 / trace.keys.len() as f64
}

/// Exact LRU: every use gets a new number, and the smallest goes.
struct Lru {
    capacity: usize,
    used: usize,
    turn: u64,
    last_use: Vec<u64>,
    sizes: Vec<usize>,
    order: BTreeSet<(u64, u32)>,
}

impl Lru {
    fn new(capacity: usize, unique: usize) -> Lru {
        Lru { capacity, used: 0, turn: 0, last_use: vec![0; unique], sizes: vec![0; unique], order: BTreeSet::new() }
    }
}

impl Policy for Lru {
    fn request(&mut self, key: u32, size: usize) -> bool {
        self.turn += 1;
        let last = std::mem::replace(&mut self.last_use[key as usize], self.turn);
        if self.order.remove(&(last, key)) {
            self.order.insert((self.turn, key));
            return true;
        }
        if size <= self.capacity {
            self.used += size;
            self.sizes[key as usize] = size;
            self.order.insert((self.turn, key));
            while self.used > self.capacity {
                let (_, oldest) = self.order.pop_first().expect("something is there");
                self.used -= self.sizes[oldest as usize];
            }
        }
        false
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue of 10 %, a main queue, a ghost queue.
struct S3Fifo {
    capacity: usize,
    small_used: usize,
    main_used: usize,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: VecDeque<u32>,
    state: Vec<Place>,
    uses: Vec<u8>,
    is_ghost: Vec<bool>,
    sizes: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Absent,
    Small,
    Main,
}

impl S3Fifo {
    fn new(capacity: usize, unique: usize) -> S3Fifo {
        S3Fifo {
            capacity,
            small_used: 0,
            main_used: 0,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: VecDeque::new(),
            state: vec![Place::Absent; unique],
            uses: vec![0; unique],
            is_ghost: vec![false; unique],
            sizes: vec![0; unique],
        }
    }

    fn evict(&mut self) {
        if self.small_used * 10 >= self.capacity || self.main.is_empty() {
            while let Some(key) = self.small.pop_back() {
                let size = self.sizes[key as usize];
                self.small_used -= size;
                if self.uses[key as usize] > 1 {
                    self.uses[key as usize] = 0;
                    self.state[key as usize] = Place::Main;
                    self.main.push_front(key);
                    self.main_used += size;
                } else {
                    self.state[key as usize] = Place::Absent;
                    self.is_ghost[key as usize] = true;
                    self.ghost.push_front(key);
                    if self.ghost.len() > self.main.len().max(1) {
                        let forgotten = self.ghost.pop_back().expect("just pushed");
                        self.is_ghost[forgotten as usize] = false;
                    }
                    return;
                }
            }
        }
        while let Some(key) = self.main.pop_back() {
            if self.uses[key as usize] > 0 {
                self.uses[key as usize] -= 1;
                self.main.push_front(key);
            } else {
                self.main_used -= self.sizes[key as usize];
                self.state[key as usize] = Place::Absent;
                return;
            }
        }
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, key: u32, size: usize) -> bool {
        let at = key as usize;
        if self.state[at] != Place::Absent {
            self.uses[at] = (self.uses[at] + 1).min(3);
            return true;
        }
        if size > self.capacity {
            return false;
        }
        self.sizes[at] = size;
        self.uses[at] = 0;
        while self.small_used + self.main_used + size > self.capacity {
            self.evict();
        }
        if std::mem::take(&mut self.is_ghost[at]) {
            self.ghost.retain(|&ghost| ghost != key);
            self.state[at] = Place::Main;
            self.main.push_front(key);
            self.main_used += size;
        } else {
            self.state[at] = Place::Small;
            self.small.push_front(key);
            self.small_used += size;
        }
        false
    }
}

/// SIEVE (Zhang et al., NSDI 2024): one queue, in which a hand passes over whoever was used since. The queue is
/// an array with gaps, made anew when half of it is gaps.
struct Sieve {
    capacity: usize,
    used: usize,
    /// From oldest to newest.
    queue: Vec<Option<u32>>,
    hand: usize,
    live: usize,
    visited: Vec<bool>,
    is_there: Vec<bool>,
    sizes: Vec<usize>,
}

impl Sieve {
    fn new(capacity: usize, unique: usize) -> Sieve {
        let (visited, is_there, sizes) = (vec![false; unique], vec![false; unique], vec![0; unique]);
        Sieve { capacity, used: 0, queue: Vec::new(), hand: 0, live: 0, visited, is_there, sizes }
    }
}

impl Policy for Sieve {
    fn request(&mut self, key: u32, size: usize) -> bool {
        if self.is_there[key as usize] {
            self.visited[key as usize] = true;
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.used + size > self.capacity {
            if self.hand >= self.queue.len() {
                self.hand = 0;
            }
            if let Some(key) = self.queue[self.hand]
                && !std::mem::take(&mut self.visited[key as usize])
            {
                self.queue[self.hand] = None;
                self.is_there[key as usize] = false;
                self.used -= self.sizes[key as usize];
                self.live -= 1;
            }
            self.hand += 1;
        }
        if self.queue.len() > 2 * self.live + 16 {
            let passed = self.queue[..self.hand.min(self.queue.len())].iter().flatten().count();
            self.queue.retain(Option::is_some);
            self.hand = passed;
        }
        self.queue.push(Some(key));
        self.live += 1;
        self.used += size;
        self.sizes[key as usize] = size;
        self.is_there[key as usize] = true;
        self.visited[key as usize] = false;
        false
    }
}

/// Redis's approximations: of five keys drawn at random goes the one that was used longest ago (LRU, with a clock that
/// never ticks too slowly), or that was used least often (LFU).
struct Sampled {
    /// Logarithmic counters as Redis has them, if it is LFU.
    counters: Option<Vec<u8>>,
    capacity: usize,
    used: usize,
    turn: u64,
    random: u64,
    last_use: Vec<u64>,
    place: Vec<usize>,
    keys: Vec<u32>,
    sizes: Vec<usize>,
}

impl Sampled {
    fn lru(capacity: usize, unique: usize) -> Sampled {
        let (last_use, place, sizes) = (vec![0; unique], vec![usize::MAX; unique], vec![0; unique]);
        let random = 88_172_645_463_325_252;
        Sampled { counters: None, capacity, used: 0, turn: 0, random, last_use, place, keys: Vec::new(), sizes }
    }

    fn lfu(capacity: usize, unique: usize) -> Sampled {
        Sampled { counters: Some(vec![0; unique]), ..Sampled::lru(capacity, unique) }
    }

    /// What is left of a counter: one is lost in so many requests as there is room for keys, where Redis counts minutes.
    fn counter(&self, key: u32) -> u64 {
        let Some(counters) = &self.counters else { return 0 };
        let idle = self.turn - self.last_use[key as usize];
        (counters[key as usize] as u64).saturating_sub(idle / self.capacity.max(1) as u64)
    }

    /// `LFULogIncr` with a factor of 10.
    fn count(&mut self, key: u32, is_new: bool) {
        const INITIAL: u64 = 5;
        if self.counters.is_none() {
            return;
        }
        let counter = if is_new { INITIAL } else { self.counter(key) };
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let is_raised = !is_new && (self.random >> 11).is_multiple_of(counter.saturating_sub(INITIAL) * 10 + 1);
        let counter = (counter + is_raised as u64).min(255) as u8;
        self.counters.as_mut().expect("it is LFU")[key as usize] = counter;
    }

    fn draw(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % self.keys.len()
    }
}

impl Policy for Sampled {
    fn request(&mut self, key: u32, size: usize) -> bool {
        self.turn += 1;
        let is_there = self.place[key as usize] != usize::MAX;
        self.count(key, !is_there);
        self.last_use[key as usize] = self.turn;
        if is_there {
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.used + size > self.capacity {
            let drawn: [usize; 5] = std::array::from_fn(|_| self.draw());
            let worth = |&at: &usize| (self.counter(self.keys[at]), self.last_use[self.keys[at] as usize]);
            let oldest = drawn.into_iter().min_by_key(worth).expect("five");
            let gone = self.keys.swap_remove(oldest);
            self.place[gone as usize] = usize::MAX;
            self.used -= self.sizes[gone as usize];
            if let Some(&moved) = self.keys.get(oldest) {
                self.place[moved as usize] = oldest;
            }
        }
        self.place[key as usize] = self.keys.len();
        self.keys.push(key);
        self.used += size;
        self.sizes[key as usize] = size;
        false
    }
}

/// Belady's optimum for keys of one size: whoever is needed last goes, be it the newcomer.
fn belady(trace: &Trace, capacity: usize) -> f64 {
    let mut next = vec![usize::MAX; trace.keys.len()];
    let mut seen = vec![usize::MAX; trace.unique()];
    for (turn, &key) in trace.keys.iter().enumerate().rev() {
        next[turn] = std::mem::replace(&mut seen[key as usize], turn);
    }
    let mut order: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut hits = 0usize;
    for (turn, &key) in trace.keys.iter().enumerate() {
        hits += order.remove(&(turn, key)) as usize;
        order.insert((next[turn], key));
        if order.len() > capacity {
            order.pop_last();
        }
    }
    100.0 * hits as f64 / trace.keys.len() as f64
}

/// What is drawn of a cell, in the order of a row.
const POLICIES: [(&str, &str); 7] = [
    ("CrabCache", "#d55e00"),
    ("exact LRU", "#56b4e9"),
    ("Redis LRU", "#0072b2"),
    ("Redis LFU", "#cc79a7"),
    ("S3-FIFO", "#009e73"),
    ("SIEVE", "#e69f00"),
    ("Belady", "#999999"),
];

struct Cell {
    name: String,
    hits: [f64; POLICIES.len()],
}

fn uniform_row(name: &str, trace: &Trace, entries: usize, best: Option<f64>) -> Cell {
    let unique = trace.unique();
    let room = (entries.div_ceil(ITEMS_PER_SEGMENT) + SEGMENTS_SPARE) * SEGMENT_BYTES;
    let (ours, window) = shard(trace, room, SEGMENT_BYTES, Eviction::TinyLfu);
    let (our_lru, _) = shard(trace, room, SEGMENT_BYTES, Eviction::Lru);
    let others = [
        replay(trace, Lru::new(entries, unique)),
        replay(trace, Sampled::lru(entries, unique)),
        replay(trace, Sampled::lfu(entries, unique)),
        replay(trace, S3Fifo::new(entries, unique)),
        replay(trace, Sieve::new(entries, unique)),
        belady(trace, entries),
    ];
    let to_best = best.map_or("".into(), |best| format!("{:+.2}", ours - best));
    print!("| {name} | {entries} | {ours:.2} | {to_best} | {window:.0} | {our_lru:.2} |");
    others.iter().for_each(|hits| print!(" {hits:.2} |"));
    println!();
    let mut hits = [ours; POLICIES.len()];
    hits[1..].copy_from_slice(&others);
    Cell { name: format!("{name}, {entries}"), hits }
}

/// A line for each cell, from nothing to all hits, and a dot on it for each policy.
fn chart(cells: &[Cell]) -> String {
    const LEFT: f64 = 250.0;
    const RIGHT: f64 = 690.0;
    const TOP: f64 = 50.0;
    const STEP: f64 = 22.0;
    let bottom = TOP + STEP * cells.len() as f64;
    let across = |hits: f64| LEFT + (RIGHT - LEFT) * hits / 100.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {0}\" width=\"860\" height=\"{0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"860\" height=\"{0}\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"22\" font-size=\"14\" font-weight=\"600\">Hits in percent, by trace and entries</text>\n",
        bottom + 30.0
    );
    for percent in (0..=100).step_by(20) {
        let x = across(percent as f64);
        svg += &format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent}</text>\n",
            bottom + 16.0
        );
    }
    for (row, cell) in cells.iter().enumerate() {
        let y = TOP + STEP * (row as f64 + 0.5);
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#f0f0f0\"/>\n",
            LEFT - 8.0,
            y + 4.0,
            cell.name
        );
        // Ours last, so that it lies on top.
        for policy in (0..POLICIES.len()).rev() {
            let (radius, (_, color)) = (if policy == 0 { 5.0 } else { 3.5 }, POLICIES[policy]);
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{color}\"/>",
                across(cell.hits[policy])
            );
        }
        svg += "\n";
    }
    for (row, (name, color)) in POLICIES.into_iter().enumerate() {
        let y = TOP + 18.0 * row as f64;
        svg += &format!(
            "<rect x=\"716\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"734\" y=\"{:.1}\">{name}</text>\n",
            y + 10.0
        );
    }
    svg + "</svg>\n"
}

fn sized_row(name: &str, trace: &Trace, part: f64) {
    let capacity = (trace.footprint() as f64 * part) as usize;
    let unique = trace.unique();
    let (ours, window) = shard(trace, capacity, crabcache::store::SEGMENT_BYTES, Eviction::TinyLfu);
    let (our_lru, _) = shard(trace, capacity, crabcache::store::SEGMENT_BYTES, Eviction::Lru);
    println!(
        "| {name} | {:.1} MB | {ours:.2} | | {window:.0} | {our_lru:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | |",
        capacity as f64 / 1e6,
        replay(trace, Lru::new(capacity, unique)),
        replay(trace, Sampled::lru(capacity, unique)),
        replay(trace, Sampled::lfu(capacity, unique)),
        replay(trace, S3Fifo::new(capacity, unique)),
        replay(trace, Sieve::new(capacity, unique)),
    );
}

/// What the shard estimates of other ceilings, beside what it does with them; in points.
fn what_if_row(name: &str, trace: &Trace, entries: usize) {
    let room = |entries: usize| (entries.div_ceil(ITEMS_PER_SEGMENT) + SEGMENTS_SPARE) * SEGMENT_BYTES;
    let real = |halves: usize| shard(trace, room(entries * halves / 2), SEGMENT_BYTES, Eviction::TinyLfu).0;
    compare_what_if(&format!("{name} | {entries}"), what_if(trace, room(entries)), real);
}

/// The same for a trace with sizes: as much memory as a server's shard would have.
fn sized_what_if_row(name: &str, trace: &Trace, part: f64) {
    let segment_bytes = crabcache::store::SEGMENT_BYTES;
    let room = (trace.footprint() as f64 * part) as usize;
    let (.., held) = replay_in_shard(trace, room, ITEM_BYTES, segment_bytes, Eviction::TinyLfu);
    let real = |halves: usize| shard(trace, room * halves / 2, segment_bytes, Eviction::TinyLfu).0;
    compare_what_if(&format!("{name} | {:.1} MB", room as f64 / 1e6), estimates(&held), real);
}

fn compare_what_if(what: &str, estimate: [f64; 4], real: impl Fn(usize) -> f64) {
    let mut worst: f64 = 0.0;
    print!("| {what} |");
    for (halves, estimated) in HALVES.into_iter().zip(estimate) {
        let real = real(halves as usize);
        worst = worst.max((estimated - real).abs());
        print!(" {estimated:.2} | {real:.2} |");
    }
    println!(" {worst:.2} |");
}

fn heading() {
    println!(
        "| trace | room | tinylfu | to the best known | window % | lru | exact LRU | sampled LRU | sampled LFU | S3-FIFO | SIEVE | Belady |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    // `cargo test` runs benches too: only to see that they run.
    if !std::env::args().any(|word| word == "--bench") {
        heading();
        uniform_row("generated", &Trace::generated(5_000, 50_000, 30), 1_000, None);
        return;
    }
    let after = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let (named, drawn) = (after("traces"), after("svg"));
    let directory = named.map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces"), PathBuf::from);
    let is_wanted = |name: &str| {
        let wanted = |word: &&String| {
            !["traces", "what-if", "svg"].contains(&word.as_str()) && Some(*word) != named && Some(*word) != drawn
        };
        let mut wanted = words.iter().filter(wanted).peekable();
        wanted.peek().is_none() || wanted.any(|word| name.contains(word.as_str()))
    };
    let open = |name: &str| Trace::read(&directory.join(format!("{name}.txt.zst")));
    if words.iter().any(|word| word == "what-if") {
        println!("| trace | entries | ½ | real | 1 | real | 2 | real | 4 | real | worst |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for (name, entries, _) in CELLS.into_iter().filter(|cell| cell.1 >= 5_000) {
            match open(name) {
                Ok(trace) => what_if_row(name, &trace, entries),
                Err(error) => println!("{name}: {error}"),
            }
        }
        for (name, part) in SIZED {
            match open(name) {
                Ok(trace) => sized_what_if_row(name, &trace, part),
                Err(error) => println!("{name}: {error}"),
            }
        }
        return;
    }
    heading();
    if open(CELLS[0].0).is_err() {
        println!("no traces in {}: generated ones instead", directory.display());
        for scan_percent in [0, 30, 70] {
            let trace = Trace::generated(50_000, 1_000_000, scan_percent);
            for entries in [1_000, 10_000] {
                uniform_row(&format!("Zipf, {scan_percent} % scanned"), &trace, entries, None);
            }
        }
        return;
    }
    let (mut ours, mut cells) = (Vec::new(), Vec::new());
    for (name, entries, best) in CELLS.into_iter().filter(|cell| is_wanted(cell.0)) {
        match open(name) {
            Ok(trace) => {
                let cell = uniform_row(name, &trace, entries, Some(best));
                ours.push((cell.hits[0], best));
                cells.push(cell);
            }
            Err(error) => println!("{name}: {error}"),
        }
    }
    let mean = |part: fn(&(f64, f64)) -> f64| ours.iter().map(part).sum::<f64>() / ours.len().max(1) as f64;
    let worst = ours.iter().map(|(ours, best)| ours - best).fold(f64::INFINITY, f64::min);
    println!(
        "mean of {}: {:.2}, of the best known {:.2}; worst cell {worst:+.2}",
        ours.len(),
        mean(|c| c.0),
        mean(|c| c.1)
    );
    if let Some(path) = drawn {
        std::fs::write(path, chart(&cells)).unwrap_or_else(|error| eprintln!("{path}: {error}"));
    }
    for (name, part) in SIZED.into_iter().filter(|cell| is_wanted(cell.0)) {
        match open(name) {
            Ok(trace) => sized_row(name, &trace, part),
            Err(error) => println!("{name}: {error}"),
        }
    }
}
