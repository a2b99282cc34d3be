//! The index: linear hashing over buckets of one cache line. It grows by splitting one bucket and
//! shrinks by merging two, so that no command ever waits for the whole table, and memory never doubles.
//! It knows items only by reference and tag; who owns them compares keys and says how they hash.
//!
//! ```text
//!   Bucket, 64 bytes:   12 tags, 1 B each | 12 item references, 4 B each | next bucket of the chain, 4 B
//!
//!   hash:  63 … 56                                    30 …                     0
//!         [  tag  ]                                   [ enough bits for a bucket ]
//!
//!   buckets:  0 … split │ split … 2^level │ 2^level … 2^level + split
//!             └ two bits deep: level + 1 ┘ └ deep: level ┘ └ the other halves of the first ones ┘
//! ```
//!
//! A bucket that overflows is chained to buckets of a pool. At the load kept (0.8) that concerns one
//! item in twelve, and an item costs 8.1 bytes of index. Tags of 8 bits send one look-up in thirty to an
//! item with another key; splitting therefore asks for the hashes of the items it moves, which are
//! prefetched while the inserts before it go on.

use super::arena::ItemRef;
use super::chunk::{Chunk, Plain, Row, prefetch};

pub const SLOTS: usize = 12;

/// Buckets are split above 48/5 = 9.6 items per bucket and merged below 4.
const LOAD_MAX: (u64, u64) = (48, 5);
const LOAD_MIN: u64 = 4;
const LEVEL_MIN: u32 = 6;
const LEVEL_MAX: u32 = 30;
/// How many inserts before a split its items are prefetched.
const SPLIT_NOTICE: u64 = 4;

const EMPTY: u8 = 0;
/// Buckets of the pool have this bit set in their number.
const POOL: u32 = 1 << 31;
const END: u32 = 0;

#[repr(C, align(64))]
struct Bucket {
    /// `EMPTY`, or the tag of the item in the same place.
    tags: [u8; SLOTS],
    items: [u32; SLOTS],
    /// `END`, or the pool bucket (with `POOL` set) the chain goes on in.
    next: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

#[allow(unsafe_code)]
// SAFETY: integers only; zero means "no items, no next".
unsafe impl Plain for Bucket {}

impl Bucket {
    /// The places whose tag is `tag`, one bit each.
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        let (low, high) = self.tags.split_at(8);
        let low = u64::from_le_bytes(low.try_into().expect("8 bytes"));
        let high = u32::from_le_bytes(high.try_into().expect("4 bytes"));
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        // SAFETY: SSE2 is part of every x86_64 processor.
        unsafe {
            use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
            let tags = _mm_set_epi64x(high as i64, low as i64);
            let equal = _mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8));
            _mm_movemask_epi8(equal) as u32 & ((1 << SLOTS) - 1)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (low, high);
            (0..SLOTS).fold(0, |mask, slot| mask | ((self.tags[slot] == tag) as u32) << slot)
        }
    }

    #[inline(always)]
    fn put(&mut self, slot: usize, entry: Entry) {
        self.tags[slot] = entry.tag;
        self.items[slot] = entry.item.0;
    }

    fn entry(&self, slot: usize) -> Entry {
        Entry { tag: self.tags[slot], item: ItemRef(self.items[slot]) }
    }

    fn occupied(&self) -> u32 {
        !self.matches(EMPTY) & ((1 << SLOTS) - 1)
    }

    fn clear(&mut self) {
        self.tags = [EMPTY; SLOTS];
        self.next = END;
    }
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u8,
    item: ItemRef,
}

/// Where the table holds an item, until the next insert or removal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// The bucket the key hashes to.
    pub home: u32,
    /// The bucket of its chain that holds the item.
    bucket: u32,
    slot: u32,
}

/// A look-up under way.
pub struct Probe<'t> {
    table: &'t Table,
    bucket: &'t Bucket,
    /// Places of `bucket` not tried yet.
    mask: u32,
    number: u32,
    home: u32,
    tag: u8,
}

impl Iterator for Probe<'_> {
    type Item = (Position, ItemRef);

    fn next(&mut self) -> Option<(Position, ItemRef)> {
        while self.mask == 0 {
            if self.bucket.next == END {
                return None;
            }
            self.number = self.bucket.next;
            self.bucket = self.table.bucket(self.number);
            self.mask = self.bucket.matches(self.tag);
        }
        let slot = self.mask.trailing_zeros();
        self.mask &= self.mask - 1;
        Some((Position { home: self.home, bucket: self.number, slot }, ItemRef(self.bucket.items[slot as usize])))
    }
}

/// What a split or merge did: the items of `of` now lie in `of` and `with`, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reshape {
    pub of: u32,
    pub with: u32,
}

/// One step of a scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanStep {
    /// Whose items are visited.
    pub bucket: u32,
    /// The cursor after it; 0 when the scan is over.
    pub next: u64,
    cursor: u32,
    /// Only a part of the bucket lies ahead of the cursor.
    is_partial: bool,
}

impl ScanStep {
    /// Whether an item of the bucket was not visited before this step.
    #[inline]
    pub fn is_ahead(&self, hash: impl FnOnce() -> u64) -> bool {
        !self.is_partial || (hash() as u32).reverse_bits() >= self.cursor.reverse_bits()
    }
}

pub struct Table {
    home: Row<Bucket>,
    pool: Pool,
    /// Home buckets: `2^level + split`.
    buckets: u32,
    level: u32,
    items: u64,
    /// Items moved by a split or merge; empty between calls, kept for its memory.
    moving: Vec<Entry>,
    /// How many that were so far.
    #[cfg(test)]
    pub moved: u64,
}

/// Chained buckets and the free ones among them (linked through `next`).
struct Pool {
    row: Row<Bucket>,
    made: u32,
    free: u32,
    used: u32,
}

const _: () = assert!(1 << LEVEL_MIN <= Chunk::<Bucket>::LEN);
const _: () = assert!(2 << LEVEL_MAX <= POOL);

#[inline(always)]
fn tag_of(hash: u64) -> u8 {
    // Zero is taken.
    ((hash >> 56) as u8).max(1)
}

impl Pool {
    /// A cleared bucket, its number with `POOL` set.
    fn take(&mut self) -> Option<u32> {
        let number = match self.free {
            END => {
                let number = self.made;
                if number == POOL {
                    return None;
                }
                if !self.row.reach(number as usize + 1) {
                    return None;
                }
                self.made += 1;
                number
            }
            free => {
                let number = free & !POOL;
                self.free = self.row.get(number as usize).next;
                number
            }
        };
        self.row.get_mut(number as usize).clear();
        self.used += 1;
        Some(number | POOL)
    }

    fn give_back(&mut self, number: u32) {
        let bucket = self.row.get_mut((number & !POOL) as usize);
        bucket.clear();
        bucket.next = self.free;
        self.free = number;
        self.used -= 1;
    }
}

impl Table {
    /// `None` when there is no memory for its first chunk.
    pub fn new() -> Option<Table> {
        let mut home = Row::new();
        home.reach(1 << LEVEL_MIN).then_some(())?;
        Some(Table {
            home,
            pool: Pool { row: Row::new(), made: 0, free: END, used: 0 },
            buckets: 1 << LEVEL_MIN,
            level: LEVEL_MIN,
            items: 0,
            moving: Vec::new(),
            #[cfg(test)]
            moved: 0,
        })
    }

    #[inline]
    pub fn len(&self) -> u64 {
        self.items
    }

    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Memory taken from the kernel.
    pub fn bytes(&self) -> usize {
        self.home.bytes() + self.pool.row.bytes()
    }

    #[inline(always)]
    fn home_of(&self, hash: u64) -> u32 {
        let low = (1u32 << self.level) - 1;
        let deep = hash as u32 & (low << 1 | 1);
        if deep < self.buckets { deep } else { hash as u32 & low }
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> &Bucket {
        if number & POOL == 0 { self.home.get(number as usize) } else { self.pool.row.get((number & !POOL) as usize) }
    }

    #[inline(always)]
    fn bucket_mut(&mut self, number: u32) -> &mut Bucket {
        if number & POOL == 0 {
            self.home.get_mut(number as usize)
        } else {
            self.pool.row.get_mut((number & !POOL) as usize)
        }
    }

    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(self.home.get(self.home_of(hash) as usize));
    }

    /// Calls `found` with every item of the home bucket that may be the one sought, and prefetches the
    /// rest of the chain if there is one.
    #[inline]
    pub fn candidates(&self, hash: u64, mut found: impl FnMut(ItemRef)) {
        let bucket = self.home.get(self.home_of(hash) as usize);
        let mut mask = bucket.matches(tag_of(hash));
        while mask != 0 {
            found(ItemRef(bucket.items[mask.trailing_zeros() as usize]));
            mask &= mask - 1;
        }
        if bucket.next != END {
            prefetch(self.bucket(bucket.next));
        }
    }

    /// The first item that may be the one under `hash`, and whether there may be another.
    #[inline(always)]
    pub fn first(&self, hash: u64) -> (Option<(Position, ItemRef)>, bool) {
        let home = self.home_of(hash);
        let bucket = self.home.get(home as usize);
        let mask = bucket.matches(tag_of(hash));
        if mask == 0 {
            return (None, bucket.next != END);
        }
        let slot = mask.trailing_zeros();
        let item = ItemRef(bucket.items[slot as usize]);
        (Some((Position { home, bucket: home, slot }, item)), !mask.is_power_of_two() || bucket.next != END)
    }

    /// All items that may be the one under `hash`, one after another.
    pub fn probe(&self, hash: u64) -> Probe<'_> {
        let home = self.home_of(hash);
        let tag = tag_of(hash);
        let bucket = self.home.get(home as usize);
        Probe { table: self, bucket, mask: bucket.matches(tag), number: home, home, tag }
    }

    /// Adds an item that is not in the table yet. Returns its home bucket, or `None` when there is no
    /// memory for a chained bucket.
    #[inline]
    pub fn insert(&mut self, hash: u64, item: ItemRef) -> Option<u32> {
        let home = self.home_of(hash);
        self.push(home, Entry { tag: tag_of(hash), item })?;
        self.items += 1;
        Some(home)
    }

    #[inline]
    fn push(&mut self, home: u32, entry: Entry) -> Option<()> {
        let mut number = home;
        loop {
            let bucket = self.bucket_mut(number);
            let empty = bucket.matches(EMPTY);
            if empty != 0 {
                bucket.put(empty.trailing_zeros() as usize, entry);
                return Some(());
            }
            number = match bucket.next {
                END => {
                    let next = self.pool.take()?;
                    self.bucket_mut(number).next = next;
                    next
                }
                next => next,
            };
        }
    }

    /// The item of `at` lies elsewhere now.
    #[inline]
    pub fn replace(&mut self, at: Position, item: ItemRef) {
        self.bucket_mut(at.bucket).items[at.slot as usize] = item.0;
    }

    /// Takes the item of `at` out. The last item of a chain moves into the gap, so that chains are never
    /// longer than their items need.
    #[inline]
    pub fn remove(&mut self, at: Position) {
        self.items -= 1;
        if self.bucket(at.home).next == END {
            self.bucket_mut(at.bucket).tags[at.slot as usize] = EMPTY;
        } else {
            self.remove_from_chain(at);
        }
    }

    #[cold]
    fn remove_from_chain(&mut self, at: Position) {
        let mut before = at.home;
        let mut last = self.bucket(before).next;
        while self.bucket(last).next != END {
            before = last;
            last = self.bucket(last).next;
        }
        let filled = self.bucket(last).occupied();
        let slot = filled.ilog2() as usize;
        let mover = self.bucket(last).entry(slot);
        self.bucket_mut(at.bucket).put(at.slot as usize, mover);
        self.bucket_mut(last).tags[slot] = EMPTY;
        if filled.is_power_of_two() {
            self.bucket_mut(before).next = END;
            self.pool.give_back(last);
        }
    }

    /// Splits one bucket if the table is too full; to be called after an insert. `hash_of` is asked for
    /// every item of the bucket, `soon` is called with them a few inserts earlier.
    #[inline]
    pub fn grow(&mut self, hash_of: impl Fn(ItemRef) -> u64, soon: impl Fn(ItemRef)) -> Option<Reshape> {
        let (load, per) = LOAD_MAX;
        let used = self.items * per;
        let room = self.buckets as u64 * load;
        if used + SPLIT_NOTICE * per < room {
            return None;
        }
        if used > room {
            return self.split(hash_of);
        }
        if used + SPLIT_NOTICE * per < room + per {
            let next = self.home.get((self.buckets - (1 << self.level)) as usize);
            for slot in 0..SLOTS {
                if next.tags[slot] != EMPTY {
                    soon(ItemRef(next.items[slot]));
                }
            }
        }
        None
    }

    fn split(&mut self, hash_of: impl Fn(ItemRef) -> u64) -> Option<Reshape> {
        let with = self.buckets;
        let of = with - (1 << self.level);
        // Without memory for it the chains grow instead, until there is some.
        if with == 2 << LEVEL_MAX || !self.home.reach(with as usize + 1) {
            return None;
        }
        self.buckets += 1;
        if self.buckets == 2 << self.level {
            self.level += 1;
        }
        self.empty_chain(of);
        for index in 0..self.moving.len() {
            let entry = self.moving[index];
            let home = self.home_of(hash_of(entry.item));
            debug_assert!(home == of || home == with);
            // All buckets of a chain but its last are full, so two halves never need more of the pool than
            // the chain gave back.
            self.push(home, entry).expect("the pool has the buckets of the old chain");
        }
        self.moving.clear();
        prefetch(self.home.get((self.buckets - (1 << self.level)) as usize));
        Some(Reshape { of, with })
    }

    /// Merges two buckets if the table is far too empty; to be called after a removal.
    #[inline]
    pub fn shrink(&mut self) -> Option<Reshape> {
        if self.items >= self.buckets as u64 * LOAD_MIN || self.buckets == 1 << LEVEL_MIN {
            return None;
        }
        self.merge()
    }

    #[cold]
    fn merge(&mut self) -> Option<Reshape> {
        // Two chains joined need at most one bucket more of the pool than they had.
        let spare = self.pool.take()?;
        self.pool.give_back(spare);
        let with = self.buckets - 1;
        if with < 1 << self.level {
            self.level -= 1;
        }
        self.buckets = with;
        let of = with - (1 << self.level);
        self.empty_chain(with);
        for index in 0..self.moving.len() {
            let entry = self.moving[index];
            self.push(of, entry).expect("the pool has the buckets of the old chain and a spare one");
        }
        self.moving.clear();
        // One spare segment stays, so that a table at the border does not map and unmap.
        self.home.shrink(self.buckets as usize);
        Some(Reshape { of, with })
    }

    /// Moves all entries of a chain into `moving`, which is empty.
    fn empty_chain(&mut self, home: u32) {
        debug_assert!(self.moving.is_empty());
        let mut moving = std::mem::take(&mut self.moving);
        let mut number = home;
        loop {
            let bucket = self.bucket_mut(number);
            let mut mask = bucket.occupied();
            while mask != 0 {
                moving.push(bucket.entry(mask.trailing_zeros() as usize));
                mask &= mask - 1;
            }
            let next = bucket.next;
            bucket.clear();
            if number != home {
                self.pool.give_back(number);
            }
            if next == END {
                break;
            }
            number = next;
        }
        #[cfg(test)]
        {
            self.moved += moving.len() as u64;
        }
        self.moving = moving;
    }

    /// Gives one chunk back to the kernel, whatever lies in it; false when none is left. Nothing else may
    /// be asked of the table after that.
    pub fn dismantle(&mut self) -> bool {
        self.home.pop() || self.pool.row.pop()
    }

    /// All items of the chain of bucket `home`.
    pub fn items_of(&self, home: u32) -> impl Iterator<Item = ItemRef> + '_ {
        let mut bucket = Some(self.bucket(home));
        let mut mask = self.bucket(home).occupied();
        std::iter::from_fn(move || {
            loop {
                let current = bucket?;
                if mask != 0 {
                    let slot = mask.trailing_zeros() as usize;
                    mask &= mask - 1;
                    return Some(ItemRef(current.items[slot]));
                }
                bucket = (current.next != END).then(|| self.bucket(current.next));
                mask = bucket.map_or(0, Bucket::occupied);
            }
        })
    }

    /// What a scan visits at `cursor`.
    ///
    /// Cursors count up in *reversed* bits: a bucket `level` (or `level + 1`) bits deep covers all cursors
    /// that agree with it in those low bits, and splitting or merging divides or joins exactly such ranges.
    /// So whatever the table did between two steps, every range is visited: items present throughout
    /// are returned at least once. (The idea is Redis's `dictScan`, here for tables of mixed depth.) When buckets were
    /// merged, a cursor may lead into the middle of one; what lies before it there was visited already, and its hash
    /// tells ([`ScanStep::is_ahead`]). So nothing is returned twice either.
    pub fn scan(&self, cursor: u64) -> ScanStep {
        let home = self.home_of(cursor);
        let low = (1u32 << self.level) - 1;
        let is_deep = home > low || home < self.buckets - (1 << self.level);
        let mask = if is_deep { low << 1 | 1 } else { low };
        let next = ((cursor as u32 | !mask).reverse_bits().wrapping_add(1)).reverse_bits();
        ScanStep { bucket: home, next: next as u64, cursor: cursor as u32, is_partial: cursor as u32 & !mask != 0 }
    }

    #[cfg(any(test, fuzzing))]
    pub fn validate(&self, hash_of: impl Fn(ItemRef) -> u64) {
        assert!(self.buckets >= 1 << self.level && self.buckets < 2 << self.level);
        let mut items = 0;
        let mut chained = 0;
        for home in 0..self.buckets {
            let mut number = home;
            loop {
                let bucket = self.bucket(number);
                let mut mask = bucket.occupied();
                assert!(number == home || mask != 0, "an empty bucket in a chain");
                while mask != 0 {
                    let entry = bucket.entry(mask.trailing_zeros() as usize);
                    let hash = hash_of(entry.item);
                    assert_eq!(self.home_of(hash), home);
                    assert_eq!(tag_of(hash), entry.tag);
                    items += 1;
                    mask &= mask - 1;
                }
                if bucket.next == END {
                    break;
                }
                number = bucket.next;
                chained += 1;
            }
        }
        assert_eq!(items, self.items);
        assert_eq!(chained, self.pool.used);
        let mut free = 0;
        let mut next = self.pool.free;
        while next != END {
            free += 1;
            next = self.bucket(next).next;
        }
        assert_eq!(free + self.pool.used, self.pool.made);
    }
}
