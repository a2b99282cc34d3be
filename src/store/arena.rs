//! Where items live: a log. Items are appended to segments, segments are chained to queues in the order they
//! were filled, and that order is all the eviction policy needs to know of age: no links, no stamps, no
//! bytes per item.
//!
//! ```text
//!   chunk, 2 MiB   │ segment │ segment │ …                                       │   128 KiB each
//!   segment        ┌ item ┌ item ┌ (dead) ┌ item ┌ …          free ┐
//!                                  ▲ hand: what lies before it was judged       ▲ used
//!   queue          oldest ─▶ … ─▶ newest (being filled)
//!   queues         one for each kind (window, probation, protected) and power of two of size
//!
//!   ItemRef        address in units of 4 bytes: chunk (13 bits) │ unit (19)
//! ```
//!
//! A reference of 4 bytes reaches 16 GiB of items per shard. An item that is freed leaves a gap, whose size
//! its header still tells; a segment all of whose items are gone is free at once, others are freed by
//! moving what is left (see `reclaim`). Free segments serve any queue, so no size of items can hold on
//! to memory that another needs. Free segments beyond what the shard may keep go back to the kernel one by
//! one, and free chunks whole.

use super::chunk::{CHUNK_BYTES, Chunk, prefetch};

/// The address of an item in its shard's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRef(pub(super) u32);

const UNIT: usize = 4;
const CHUNK_UNIT_BITS: u32 = (CHUNK_BYTES / UNIT).trailing_zeros();
const CHUNKS_MAX: usize = 1 << (32 - CHUNK_UNIT_BITS);
const CACHE_LINE_BYTES: usize = 64;
const NONE: u32 = u32::MAX;
/// Left unused at the end of a segment: headers are read in words, also the last one's.
const TAIL_BYTES: usize = 16;

/// Kept back from new items, so that old ones can be moved together.
const SEGMENTS_RESERVED: u64 = 1;

/// What one arena can hold at most.
pub const BYTES_MAX: u64 = (CHUNKS_MAX * CHUNK_BYTES) as u64;

/// What a segment holds in a server; only replays of traces use others.
pub const SEGMENT_BYTES: usize = 128 * 1024;

const _: () = assert!(
    24 + crate::limits::KEY_BYTES_MAX + crate::limits::LARGE_VALUE_BYTES_MIN + TAIL_BYTES <= SEGMENT_BYTES,
    "every item fits into a segment"
);

/// The part an item plays for the eviction policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// New.
    Window,
    /// Admitted, and the next to go.
    Probation,
    /// Admitted, and used since.
    Protected,
}

pub const KINDS: [Kind; 3] = [Kind::Window, Kind::Probation, Kind::Protected];

/// Sizes are told apart by powers of two from 64 bytes up to 1 MiB and beyond.
pub const SIZES: usize = 15;
const SIZE_BITS_MIN: u32 = 6;
const QUEUES: usize = KINDS.len() * SIZES;

/// Which of the queues of its kind an item of `bytes`, its value apart among them, belongs to.
#[inline(always)]
pub fn size_of_item(bytes: usize) -> usize {
    let bits = usize::BITS - (bytes.max(1) - 1).leading_zeros();
    (bits.saturating_sub(SIZE_BITS_MIN) as usize).min(SIZES - 1)
}

#[inline(always)]
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(UNIT)
}

/// What an item of `bytes` takes.
pub fn slot_bytes(bytes: usize) -> usize {
    rounded(bytes)
}

/// Whether one item could take the place of another.
#[inline(always)]
pub fn same_slot(a: usize, b: usize) -> bool {
    rounded(a) == rounded(b)
}

#[derive(Clone, Copy)]
struct Segment {
    /// Bytes filled, and bytes of live items among them.
    used: u32,
    live: u32,
    /// Where the next item to judge starts.
    hand: u32,
    state: State,
    /// The neighbours in its queue.
    older: u32,
    newer: u32,
    /// When it began to be filled: the order of segments of different queues.
    born: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// Free, and its memory is with the kernel.
    Away,
    /// Its chunk is not there.
    Absent,
    /// In the queue with this number.
    In(u8),
}

#[derive(Clone, Copy)]
struct Queue {
    oldest: u32,
    newest: u32,
}

/// A segment as those who judge and move its items see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRef(u32);

pub struct Arena {
    /// The chunks, apart from what is known of them: every look-up of an item reads here.
    memory: Vec<Option<Chunk<u8>>>,
    segments: Vec<Segment>,
    segment_bits: u32,
    queues: [Queue; QUEUES],
    /// Free segments with memory, and those without.
    free: Vec<u32>,
    away: Vec<u32>,
    /// Numbers of chunks that were given back.
    vacant: Vec<u32>,
    chunks: usize,
    /// Bytes of live items by kind, values apart not among them.
    live: [u64; KINDS.len()],
    used_bytes: u64,
    items: u64,
    born: u64,
    /// Memory that may be taken from the kernel.
    bytes_max: u64,
    /// Free segments that are kept even while more memory is held than allowed.
    kept_in_debt: usize,
    /// The size whose queues items of each size go to.
    size_of_queue: [u8; SIZES],
}

/// Segments there should be for each size that has queues of its own. Every queue has a segment that is being filled
/// and one that is being judged, and both are half empty.
const SEGMENTS_PER_SIZE: u64 = 32;

impl Arena {
    pub fn new(segment_bytes: usize) -> Arena {
        assert!(segment_bytes.is_power_of_two() && (64..=CHUNK_BYTES).contains(&segment_bytes));
        Arena {
            memory: Vec::new(),
            segments: Vec::new(),
            segment_bits: segment_bytes.trailing_zeros(),
            queues: [Queue { oldest: NONE, newest: NONE }; QUEUES],
            free: Vec::new(),
            away: Vec::new(),
            vacant: Vec::new(),
            chunks: 0,
            live: [0; KINDS.len()],
            used_bytes: 0,
            items: 0,
            born: 0,
            bytes_max: u64::MAX,
            kept_in_debt: 0,
            size_of_queue: std::array::from_fn(|size| size as u8),
        }
    }

    /// An empty one with the same settings, but for how much it may hold.
    pub fn another(&self) -> Arena {
        Arena { kept_in_debt: self.kept_in_debt, ..Arena::new(self.segment_bytes()) }
    }

    /// Bytes of live items.
    pub fn item_bytes(&self) -> u64 {
        self.live.iter().sum()
    }

    pub fn kind_bytes(&self, kind: Kind) -> u64 {
        self.live[kind as usize]
    }

    /// Bytes of items that are gone but whose place cannot be used yet.
    pub fn dead_bytes(&self) -> u64 {
        self.used_bytes - self.item_bytes()
    }

    /// Memory taken from the kernel.
    pub fn bytes(&self) -> u64 {
        (self.chunks * CHUNK_BYTES - (self.away.len() << self.segment_bits)) as u64
    }

    pub fn segment_bytes(&self) -> usize {
        1 << self.segment_bits
    }

    /// Lets the arena take no more memory than this from the kernel. What it has it keeps, until
    /// [`trim`](Self::trim).
    pub fn set_bytes_max(&mut self, bytes: u64) {
        if bytes >> self.segment_bits != self.bytes_max >> self.segment_bits {
            let sizes = ((bytes >> self.segment_bits) / SEGMENTS_PER_SIZE).clamp(1, SIZES as u64) as usize;
            // Neighbours share their queues; items that are there stay where they are.
            self.size_of_queue = std::array::from_fn(|size| ((size * sizes / SIZES) * SIZES).div_ceil(sizes) as u8);
        }
        self.bytes_max = bytes;
    }

    /// Keeps so many free segments also while more memory is held than allowed, as after a large value: without any
    /// nobody could write, nor move what is left.
    pub fn keep_in_debt(&mut self, segments: usize) {
        self.kept_in_debt = segments;
    }

    /// Segments that were begun so far.
    #[inline(always)]
    pub fn opened(&self) -> u64 {
        self.born
    }

    /// Segments that can still be filled.
    pub fn segments_left(&self) -> u64 {
        let spare = self.bytes_max.saturating_sub(self.bytes()) >> self.segment_bits;
        // More memory than allowed is held: the segments in hand, but for a few, are owed to the kernel.
        let owed = self.bytes().saturating_sub(self.bytes_max).div_ceil(1 << self.segment_bits);
        let per_chunk = (CHUNK_BYTES >> self.segment_bits) as u64;
        let away = self.away.len() as u64;
        let fresh = spare.saturating_sub(away);
        let fresh = fresh.min((CHUNKS_MAX - self.chunks.min(CHUNKS_MAX)) as u64 * per_chunk);
        let free = self.free.len() as u64;
        free.saturating_sub(owed).max(free.min(self.kept_in_debt as u64)) + spare.min(away) + fresh
    }

    #[inline(always)]
    fn chunk(&self, at: u32) -> &Chunk<u8> {
        self.memory[(at >> CHUNK_UNIT_BITS) as usize].as_ref().expect("references lead to chunks in use")
    }

    #[inline(always)]
    fn offset(at: u32) -> usize {
        (at as usize & ((1 << CHUNK_UNIT_BITS) - 1)) * UNIT
    }

    #[inline(always)]
    fn segment_of(&self, item: ItemRef) -> u32 {
        item.0 >> (self.segment_bits - UNIT.trailing_zeros())
    }

    #[inline(always)]
    fn item_at(&self, segment: u32, offset: u32) -> ItemRef {
        ItemRef((segment << (self.segment_bits - UNIT.trailing_zeros())) + offset / UNIT as u32)
    }

    /// Everything from the start of an item on: the item, and what lies behind it.
    #[inline(always)]
    pub fn slot(&self, item: ItemRef) -> &[u8] {
        &self.chunk(item.0)[Self::offset(item.0)..]
    }

    #[inline(always)]
    pub fn slot_mut(&mut self, item: ItemRef) -> &mut [u8] {
        let chunk = self.memory[(item.0 >> CHUNK_UNIT_BITS) as usize].as_mut();
        &mut chunk.expect("references lead to chunks in use")[Self::offset(item.0)..]
    }

    /// Fetches the first two cache lines of an item: header and key, and the value unless it is long.
    #[inline(always)]
    pub fn prefetch(&self, item: ItemRef) {
        let chunk = self.chunk(item.0);
        let at = Self::offset(item.0);
        prefetch(&chunk[at]);
        prefetch(&chunk[(at + CACHE_LINE_BYTES) % CHUNK_BYTES]);
    }

    /// A place for an item of `bytes` at the new end of a queue; what it holds is arbitrary until the caller
    /// writes the item. `None` when there is no memory.
    #[inline(always)]
    pub fn allocate(&mut self, kind: Kind, size: usize, bytes: usize) -> Option<ItemRef> {
        self.place(kind, size, bytes, SEGMENTS_RESERVED)
    }

    /// The same for an item that is moved to make room: for that there is always a segment in reserve.
    pub fn allocate_to_move(&mut self, kind: Kind, size: usize, bytes: usize) -> Option<ItemRef> {
        self.place(kind, size, bytes, 0)
    }

    #[inline(always)]
    fn place(&mut self, kind: Kind, size: usize, bytes: usize, reserved: u64) -> Option<ItemRef> {
        let queue = kind as usize * SIZES + self.size_of_queue[size] as usize;
        let need = rounded(bytes);
        let mut newest = self.queues[queue].newest;
        if newest == NONE || self.segments[newest as usize].used as usize + need + TAIL_BYTES > self.segment_bytes() {
            newest = self.open(queue, need, reserved)?;
        }
        let segment = &mut self.segments[newest as usize];
        let at = segment.used;
        segment.used += need as u32;
        segment.live += need as u32;
        self.live[kind as usize] += need as u64;
        self.used_bytes += need as u64;
        self.items += 1;
        Some(self.item_at(newest, at))
    }

    /// Takes back the place of an item of `bytes` bytes, whose header is marked dead but still tells how long
    /// it is.
    #[inline]
    pub fn free(&mut self, item: ItemRef, bytes: usize) {
        let number = self.segment_of(item);
        let need = rounded(bytes);
        let segment = &mut self.segments[number as usize];
        let State::In(queue) = segment.state else { unreachable!("items lie in segments of queues") };
        segment.live -= need as u32;
        self.live[queue as usize / SIZES] -= need as u64;
        self.items -= 1;
        if segment.live == 0 {
            self.release(SegmentRef(number));
        }
    }

    #[cold]
    fn open(&mut self, queue: usize, need: usize, reserved: u64) -> Option<u32> {
        if need + TAIL_BYTES > self.segment_bytes() || self.segments_left() <= reserved {
            return None;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => self.fetch()?,
        };
        self.born += 1;
        let segment = &mut self.segments[number as usize];
        *segment = Segment {
            used: 0,
            live: 0,
            hand: 0,
            state: State::In(queue as u8),
            older: NONE,
            newer: NONE,
            born: self.born,
        };
        self.link_newest(number, queue);
        Some(number)
    }

    /// A segment with memory that was not there before.
    fn fetch(&mut self) -> Option<u32> {
        let segment_bytes = self.segment_bytes() as u64;
        if self.bytes() + segment_bytes > self.bytes_max {
            return None;
        }
        if let Some(number) = self.away.pop() {
            return Some(number);
        }
        let index = self.vacant.last().map_or(self.memory.len(), |&index| index as usize);
        if index >= CHUNKS_MAX {
            return None;
        }
        // The last chunk may be allowed in part: its segments come to memory one by one.
        let is_whole = self.bytes() + CHUNK_BYTES as u64 <= self.bytes_max;
        let chunk = Chunk::new()?;
        let per_chunk = CHUNK_BYTES >> self.segment_bits;
        let first = (index * per_chunk) as u32;
        if self.vacant.pop().is_some() {
            self.memory[index] = Some(chunk);
        } else {
            self.memory.push(Some(chunk));
            let absent = Segment { used: 0, live: 0, hand: 0, state: State::Absent, older: NONE, newer: NONE, born: 0 };
            self.segments.extend(std::iter::repeat_n(absent, per_chunk));
        }
        self.chunks += 1;
        for number in (first..first + per_chunk as u32).rev() {
            self.segments[number as usize].state = if is_whole { State::Free } else { State::Away };
            if is_whole { &mut self.free } else { &mut self.away }.push(number);
        }
        if is_whole { self.free.pop() } else { self.away.pop() }
    }

    fn link_newest(&mut self, number: u32, queue: usize) {
        let newest = std::mem::replace(&mut self.queues[queue].newest, number);
        self.segments[number as usize].older = newest;
        self.segments[number as usize].newer = NONE;
        match newest {
            NONE => self.queues[queue].oldest = number,
            newest => self.segments[newest as usize].newer = number,
        }
    }

    fn unlink(&mut self, number: u32) {
        let Segment { older, newer, state, .. } = self.segments[number as usize];
        let State::In(queue) = state else { unreachable!("only segments of queues are linked") };
        match older {
            NONE => self.queues[queue as usize].oldest = newer,
            older => self.segments[older as usize].newer = newer,
        }
        match newer {
            NONE => self.queues[queue as usize].newest = older,
            newer => self.segments[newer as usize].older = older,
        }
    }

    /// Takes back a segment without items. One that is being filled begins again instead.
    fn release(&mut self, segment: SegmentRef) {
        let number = segment.0;
        let Segment { state, live, .. } = self.segments[number as usize];
        let State::In(queue) = state else { unreachable!("only segments of queues are released") };
        debug_assert_eq!(live, 0);
        self.used_bytes -= self.segments[number as usize].used as u64;
        self.segments[number as usize].used = 0;
        self.segments[number as usize].hand = 0;
        if self.queues[queue as usize].newest == number && self.queues[queue as usize].oldest == number {
            return;
        }
        self.unlink(number);
        self.segments[number as usize].state = State::Free;
        self.free.push(number);
    }

    /// Gives the kernel one segment or chunk that is free and more than `keep` free segments, or more than the
    /// arena may hold; false when there is none.
    pub fn trim(&mut self, keep: usize) -> bool {
        let is_over = self.bytes() > self.bytes_max;
        let keep = if is_over { self.kept_in_debt } else { keep };
        if self.free.len() <= keep {
            return false;
        }
        let number = self.free.swap_remove(0);
        let per_chunk = (CHUNK_BYTES >> self.segment_bits) as u32;
        let first = number / per_chunk * per_chunk;
        let siblings = first..first + per_chunk;
        let is_idle = |&number: &u32| matches!(self.segments[number as usize].state, State::Free | State::Away);
        let freed = siblings.clone().filter(|&number| self.segments[number as usize].state == State::Free).count();
        // The number is not in the list any more, but its state still says so.
        if siblings.clone().all(|number| is_idle(&number)) && self.free.len() + 1 >= freed + keep {
            self.free.retain(|number| !siblings.contains(number));
            self.away.retain(|number| !siblings.contains(number));
            for number in siblings {
                self.segments[number as usize].state = State::Absent;
            }
            self.memory[(first / per_chunk) as usize] = None;
            self.vacant.push(first / per_chunk);
            self.chunks -= 1;
            return true;
        }
        let segment_bytes = self.segment_bytes();
        let start = (number - first) as usize * segment_bytes;
        let chunk = self.memory[(first / per_chunk) as usize].as_mut().expect("its segment is free");
        chunk.discard(start..start + segment_bytes);
        self.segments[number as usize].state = State::Away;
        self.away.push(number);
        true
    }

    /// Whether more memory is held than allowed.
    pub fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    pub fn free_segments(&self) -> usize {
        self.free.len()
    }

    // For those who judge items in the order of the queues.

    pub fn oldest(&self, kind: Kind, size: usize) -> Option<SegmentRef> {
        let number = self.queues[kind as usize * SIZES + size].oldest;
        (number != NONE && self.segments[number as usize].used > 0).then_some(SegmentRef(number))
    }

    pub fn born(&self, segment: SegmentRef) -> u64 {
        self.segments[segment.0 as usize].born
    }

    /// The kind and size of an item's queue.
    #[inline(always)]
    pub fn place_of(&self, item: ItemRef) -> (Kind, usize) {
        match self.segments[self.segment_of(item) as usize].state {
            State::In(queue) => (KINDS[queue as usize / SIZES], queue as usize % SIZES),
            _ => unreachable!("items lie in segments of queues"),
        }
    }

    /// What lies under the hand of a segment, live or dead; `None` at its end.
    pub fn under_hand(&self, segment: SegmentRef) -> Option<ItemRef> {
        let Segment { hand, used, .. } = self.segments[segment.0 as usize];
        (hand < used).then(|| self.item_at(segment.0, hand))
    }

    /// Moves the hand past an item of `bytes`.
    pub fn pass(&mut self, segment: SegmentRef, bytes: usize) {
        self.segments[segment.0 as usize].hand += rounded(bytes) as u32;
    }

    pub fn rewind(&mut self, segment: SegmentRef) {
        self.segments[segment.0 as usize].hand = 0;
    }

    /// Of a segment: bytes of live items, bytes that are filled.
    pub fn fill(&self, segment: SegmentRef) -> (usize, usize) {
        let Segment { live, used, .. } = self.segments[segment.0 as usize];
        (live as usize, used as usize)
    }

    pub fn is_being_judged(&self, segment: SegmentRef) -> bool {
        self.segments[segment.0 as usize].hand > 0
    }

    pub fn is_newest(&self, segment: SegmentRef) -> bool {
        match self.segments[segment.0 as usize].state {
            State::In(queue) => self.queues[queue as usize].newest == segment.0,
            _ => false,
        }
    }

    /// Makes a segment, with all its items, the newest but for the one being filled of the queue of `kind`
    /// for its size.
    pub fn requeue(&mut self, segment: SegmentRef, kind: Kind) {
        let number = segment.0;
        let State::In(queue) = self.segments[number as usize].state else { unreachable!("it is in a queue") };
        let live = self.segments[number as usize].live as u64;
        self.unlink(number);
        self.live[queue as usize / SIZES] -= live;
        self.live[kind as usize] += live;
        let target = kind as usize * SIZES + queue as usize % SIZES;
        self.segments[number as usize].state = State::In(target as u8);
        self.segments[number as usize].hand = 0;
        match self.queues[target].newest {
            NONE => self.link_newest(number, target),
            newest => {
                let older = std::mem::replace(&mut self.segments[newest as usize].older, number);
                self.segments[number as usize].older = older;
                self.segments[number as usize].newer = newest;
                match older {
                    NONE => self.queues[target].oldest = number,
                    older => self.segments[older as usize].newer = number,
                }
            }
        }
    }

    /// Segment `number` (modulo how many there are) if it is in a queue.
    pub fn segment(&self, number: usize) -> Option<SegmentRef> {
        let number = number % self.segments.len().max(1);
        let segment = self.segments.get(number)?;
        matches!(segment.state, State::In(_)).then_some(SegmentRef(number as u32))
    }

    /// Gives one chunk back to the kernel, whatever lies in it; false when none is left. For arenas that
    /// nobody refers to any more: dropping one at once would take long.
    pub fn dismantle(&mut self) -> bool {
        self.away.clear();
        while let Some(chunk) = self.memory.pop() {
            if chunk.is_some() {
                self.chunks -= 1;
                return true;
            }
        }
        false
    }

    /// Checks everything that can be checked, given the length of an item and whether it is live; returns how
    /// many items there are.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self, look: impl Fn(&[u8]) -> (usize, bool)) -> u64 {
        let (mut items, mut used_bytes, mut live_bytes) = (0, 0, [0; KINDS.len()]);
        let mut linked = 0;
        for (number, queue) in self.queues.iter().enumerate() {
            let (mut older, mut next) = (NONE, queue.oldest);
            while next != NONE {
                let segment = &self.segments[next as usize];
                assert!(segment.state == State::In(number as u8) && segment.older == older);
                linked += 1;
                (older, next) = (next, segment.newer);
            }
            assert_eq!(queue.newest, older);
        }
        for (number, segment) in self.segments.iter().enumerate() {
            let State::In(queue) = segment.state else {
                let listed = self.free.contains(&(number as u32)) as u8 + self.away.contains(&(number as u32)) as u8;
                assert_eq!(listed, (segment.state != State::Absent) as u8);
                continue;
            };
            linked -= 1;
            let (mut at, mut live) = (0, 0);
            let mut hand_is_on_an_item = segment.hand == segment.used;
            while at < segment.used {
                hand_is_on_an_item |= at == segment.hand;
                let (bytes, is_live) = look(self.slot(self.item_at(number as u32, at)));
                if is_live {
                    items += 1;
                    live += rounded(bytes) as u32;
                }
                at += rounded(bytes) as u32;
            }
            assert!(at == segment.used && live == segment.live && hand_is_on_an_item);
            used_bytes += segment.used as u64;
            live_bytes[queue as usize / SIZES] += live as u64;
        }
        assert_eq!(linked, 0);
        assert_eq!((items, used_bytes, live_bytes), (self.items, self.used_bytes, self.live));
        assert_eq!(self.memory.iter().flatten().count(), self.chunks);
        items
    }
}
