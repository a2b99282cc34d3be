//! Where items live: slots of fine size classes in runs of pages in chunks the shard owns.
//!
//! ```text
//!   chunk, 2 MiB   │ page 0 │ page 1 │ …                                       │ page 31 │   64 KiB each
//!   run            └ 1, 2, 4 or 8 pages, aligned, all slots of one class ┘
//!   slot           ┌ item (first byte not 0) ┐┌ free: 0 0 0 0 next(4) ┐┌ never used … ┐
//!
//!   ItemRef        address in units of 8 bytes: chunk (14 bits) │ page (5) │ unit (13)
//! ```
//!
//! A reference of 4 bytes reaches 32 GiB of items per shard. A free slot is found without searching: each
//! run chains its free slots, each class chains its runs that have some. A run without items gives its
//! pages back, a chunk without runs goes back to the kernel.

use super::chunk::{CHUNK_BYTES, Chunk, prefetch};

/// The address of an item in its shard's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRef(pub(super) u32);

const UNIT: usize = 8;
const PAGE_BYTES: usize = 64 * 1024;
const PAGES: usize = CHUNK_BYTES / PAGE_BYTES;
const CHUNK_UNIT_BITS: u32 = (CHUNK_BYTES / UNIT).trailing_zeros();
const PAGE_UNIT_BITS: u32 = (PAGE_BYTES / UNIT).trailing_zeros();
const CACHE_LINE_BYTES: usize = 64;
const CHUNKS_MAX: usize = 1 << (32 - CHUNK_UNIT_BITS);
/// No run, no slot. The reference can exist, but not as the start of a slot: the last slot of the last
/// run is longer than one unit.
const NONE: u32 = u32::MAX;

const _: () = assert!(PAGES == u32::BITS as usize, "the free pages of a chunk are the bits of a u32");

/// The largest slot: header, expiry, the longest key and the longest value that is not kept apart.
pub const SLOT_BYTES_MAX: usize =
    (24 + crate::limits::KEY_BYTES_MAX + crate::limits::LARGE_VALUE_BYTES_MIN).next_multiple_of(UNIT);

#[derive(Clone, Copy)]
struct Class {
    slot_bytes: u32,
    slots: u16,
    pages: u8,
}

const CLASSES_MAX: usize = 160;
/// Slot sizes up to here are looked up in a table, larger ones searched.
const DIRECT_BYTES: usize = 4096;

struct Classes {
    list: [Class; CLASSES_MAX],
    count: usize,
    direct: [u8; DIRECT_BYTES / UNIT + 1],
}

static CLASSES: Classes = classes();

/// Steps of 8 bytes up to 256, then sixteen steps for each doubling; each size is then stretched to what
/// its run has room for, so that a run has no useless tail.
const fn classes() -> Classes {
    let mut list = [Class { slot_bytes: 0, slots: 0, pages: 0 }; CLASSES_MAX];
    let mut count = 0;
    let mut size = UNIT;
    loop {
        let pages = match size {
            0..=4096 => 1,
            4097..=8192 => 2,
            8193..=16384 => 4,
            _ => 8,
        };
        let run_bytes = pages * PAGE_BYTES;
        let slots = run_bytes / size;
        let stretched = run_bytes / slots / UNIT * UNIT;
        if count == 0 || stretched > list[count - 1].slot_bytes as usize {
            list[count] = Class { slot_bytes: stretched as u32, slots: slots as u16, pages: pages as u8 };
            count += 1;
        }
        if stretched >= SLOT_BYTES_MAX {
            break;
        }
        let step = if size < 256 { UNIT } else { (1 << size.ilog2()) / 16 };
        size += step;
    }
    let mut direct = [0; DIRECT_BYTES / UNIT + 1];
    let mut class = 0;
    let mut units = 0;
    while units < direct.len() {
        if list[class].slot_bytes < (units * UNIT) as u32 {
            class += 1;
        }
        direct[units] = class as u8;
        units += 1;
    }
    assert!(count <= u8::MAX as usize);
    Classes { list, count, direct }
}

/// The class of the smallest slots that hold `bytes`.
#[inline(always)]
fn class_of(bytes: usize) -> usize {
    if bytes <= DIRECT_BYTES {
        CLASSES.direct[bytes.div_ceil(UNIT)] as usize
    } else {
        CLASSES.list[..CLASSES.count].partition_point(|class| (class.slot_bytes as usize) < bytes)
    }
}

/// Whether items of these sizes use slots of one size.
#[inline(always)]
pub fn same_slot(a: usize, b: usize) -> bool {
    class_of(a) == class_of(b)
}

#[cfg(any(test, fuzzing))]
pub fn slot_bytes(bytes: usize) -> usize {
    CLASSES.list[class_of(bytes)].slot_bytes as usize
}

/// A run, described beside its chunk at its first page.
#[derive(Clone, Copy)]
struct Run {
    /// First free slot, chained through the slots; `NONE`.
    free: u32,
    /// Slots used at least once.
    made: u16,
    live: u16,
    class: u8,
    /// Neighbours in its class's list of runs with free slots.
    before: u32,
    after: u32,
}

/// What is known of a chunk.
struct Block {
    runs: Box<[Run; PAGES]>,
    /// One bit for each free page.
    free_pages: u32,
}

pub struct Arena {
    /// The chunks, apart from what is known of them: every look-up of an item reads here.
    memory: Vec<Option<Chunk<u8>>>,
    /// For every chunk that is there.
    blocks: Vec<Block>,
    /// Indices of `memory` without a chunk.
    vacant: Vec<u32>,
    /// No chunk before this one has a free page.
    first_with_room: usize,
    /// By class: the first run with a free slot.
    open: Box<[u32; CLASSES_MAX]>,
    chunks: usize,
    slots_bytes: u64,
    slots: u64,
}

impl Arena {
    pub fn new() -> Arena {
        Arena {
            memory: Vec::new(),
            blocks: Vec::new(),
            vacant: Vec::new(),
            first_with_room: 0,
            open: Box::new([NONE; CLASSES_MAX]),
            chunks: 0,
            slots_bytes: 0,
            slots: 0,
        }
    }

    /// Bytes of the slots in use, and memory taken from the kernel.
    pub fn bytes(&self) -> (u64, usize) {
        (self.slots_bytes, self.chunks * CHUNK_BYTES)
    }

    #[inline(always)]
    fn chunk(&self, at: u32) -> &Chunk<u8> {
        self.memory[(at >> CHUNK_UNIT_BITS) as usize].as_ref().expect("references lead to chunks in use")
    }

    #[inline(always)]
    fn chunk_mut(&mut self, at: u32) -> &mut Chunk<u8> {
        self.memory[(at >> CHUNK_UNIT_BITS) as usize].as_mut().expect("references lead to chunks in use")
    }

    #[inline(always)]
    fn offset(at: u32) -> usize {
        (at as usize & ((1 << CHUNK_UNIT_BITS) - 1)) * UNIT
    }

    /// Everything from the start of an item on: the item, and what lies behind it.
    #[inline(always)]
    pub fn slot(&self, item: ItemRef) -> &[u8] {
        &self.chunk(item.0)[Self::offset(item.0)..]
    }

    #[inline(always)]
    pub fn slot_mut(&mut self, item: ItemRef) -> &mut [u8] {
        &mut self.chunk_mut(item.0)[Self::offset(item.0)..]
    }

    /// Fetches the first two cache lines of an item: header and key, and the value unless it is long.
    #[inline(always)]
    pub fn prefetch(&self, item: ItemRef) {
        let chunk = self.chunk(item.0);
        let at = Self::offset(item.0);
        prefetch(&chunk[at]);
        prefetch(&chunk[(at + CACHE_LINE_BYTES) % CHUNK_BYTES]);
    }

    #[inline(always)]
    fn run_mut(&mut self, first_page: u32) -> &mut Run {
        &mut self.blocks[first_page as usize / PAGES].runs[first_page as usize % PAGES]
    }

    /// A slot for `bytes` bytes; what it holds is arbitrary but for the first byte, which the caller must
    /// set to something other than 0 at once. `None` when there is no memory.
    #[inline]
    pub fn allocate(&mut self, bytes: usize) -> Option<ItemRef> {
        let class = class_of(bytes);
        let Class { slot_bytes, slots, .. } = CLASSES.list[class];
        let mut open = self.open[class];
        if open == NONE {
            open = self.new_run(class)?;
        }
        let run = &mut self.blocks[open as usize / PAGES].runs[open as usize % PAGES];
        let slot = match run.free {
            NONE => {
                let slot = (open << PAGE_UNIT_BITS) + run.made as u32 * (slot_bytes / UNIT as u32);
                run.made += 1;
                slot
            }
            free => {
                let chunk =
                    self.memory[(free >> CHUNK_UNIT_BITS) as usize].as_ref().expect("runs lie in chunks in use");
                run.free = u32::from_le_bytes(chunk[Self::offset(free) + 4..][..4].try_into().expect("4 bytes"));
                free
            }
        };
        run.live += 1;
        if run.live == slots {
            self.close(open);
        }
        self.slots_bytes += slot_bytes as u64;
        self.slots += 1;
        Some(ItemRef(slot))
    }

    /// Takes back the slot of an item of `bytes` bytes.
    #[inline]
    pub fn free(&mut self, item: ItemRef, bytes: usize) {
        let class = class_of(bytes);
        let Class { slot_bytes, slots, pages } = CLASSES.list[class];
        let first_page = (item.0 >> PAGE_UNIT_BITS) & !(pages as u32 - 1);
        let run = &mut self.blocks[first_page as usize / PAGES].runs[first_page as usize % PAGES];
        debug_assert!(run.class as usize == class && run.live > 0);
        let next = std::mem::replace(&mut run.free, item.0);
        run.live -= 1;
        let live = run.live;
        self.slot_mut(item)[..8].copy_from_slice(&((next as u64) << 32).to_le_bytes());
        self.slots_bytes -= slot_bytes as u64;
        self.slots -= 1;
        if live == slots - 1 {
            self.reopen(first_page, class);
        }
        if live == 0 {
            self.release(first_page, class);
        }
    }

    /// Takes the first open run of a class out of its list: it is full.
    fn close(&mut self, first_page: u32) {
        let Run { class, before, after, .. } = *self.run_mut(first_page);
        debug_assert!(before == NONE);
        self.open[class as usize] = after;
        if after != NONE {
            self.run_mut(after).before = NONE;
        }
    }

    #[cold]
    fn reopen(&mut self, first_page: u32, class: usize) {
        let after = std::mem::replace(&mut self.open[class], first_page);
        let run = self.run_mut(first_page);
        (run.before, run.after) = (NONE, after);
        if after != NONE {
            self.run_mut(after).before = first_page;
        }
    }

    /// Gives the pages of an empty run back, unless it is the only one its class could go on with.
    #[cold]
    fn release(&mut self, first_page: u32, class: usize) {
        let Run { before, after, .. } = *self.run_mut(first_page);
        if before == NONE && after == NONE {
            return;
        }
        match before {
            NONE => self.open[class] = after,
            before => self.run_mut(before).after = after,
        }
        if after != NONE {
            self.run_mut(after).before = before;
        }
        self.release_pages(first_page, CLASSES.list[class].pages);
    }

    fn release_pages(&mut self, first_page: u32, pages: u8) {
        let index = first_page as usize / PAGES;
        let block = &mut self.blocks[index];
        block.free_pages |= run_mask(pages) << (first_page as usize % PAGES);
        self.first_with_room = self.first_with_room.min(index);
        if block.free_pages == u32::MAX {
            // Without free pages nobody looks for runs here.
            block.free_pages = 0;
            self.memory[index] = None;
            self.vacant.push(index as u32);
            self.chunks -= 1;
        }
    }

    #[cold]
    fn new_run(&mut self, class: usize) -> Option<u32> {
        let Class { pages, .. } = CLASSES.list[class];
        let first_page = match self.find_pages(pages) {
            Some(first_page) => first_page,
            None => self.new_block()?,
        };
        self.blocks[first_page as usize / PAGES].free_pages &= !(run_mask(pages) << (first_page as usize % PAGES));
        *self.run_mut(first_page) = Run { free: NONE, made: 0, live: 0, class: class as u8, before: NONE, after: NONE };
        self.open[class] = first_page;
        Some(first_page)
    }

    /// Free aligned pages in the first chunk that has them.
    fn find_pages(&mut self, pages: u8) -> Option<u32> {
        while self.blocks.get(self.first_with_room).is_some_and(|block| block.free_pages == 0) {
            self.first_with_room += 1;
        }
        let (index, mask) = self.blocks.iter().enumerate().skip(self.first_with_room).find_map(|(index, block)| {
            let mask = aligned_runs(block.free_pages, pages);
            (mask != 0).then_some((index, mask))
        })?;
        Some((index * PAGES) as u32 + mask.trailing_zeros())
    }

    /// Maps a chunk; its first page is free and so are all others.
    fn new_block(&mut self) -> Option<u32> {
        let index = self.vacant.last().map_or(self.blocks.len(), |&index| index as usize);
        if index >= CHUNKS_MAX {
            return None;
        }
        let chunk = if self.chunks == 0 { Chunk::lean()? } else { Chunk::new()? };
        if self.vacant.pop().is_some() {
            self.memory[index] = Some(chunk);
            self.blocks[index].free_pages = u32::MAX;
        } else {
            let run = Run { free: NONE, made: 0, live: 0, class: 0, before: NONE, after: NONE };
            self.memory.push(Some(chunk));
            self.blocks.push(Block { runs: Box::new([run; PAGES]), free_pages: u32::MAX });
        }
        self.chunks += 1;
        self.first_with_room = self.first_with_room.min(index);
        Some((index * PAGES) as u32)
    }

    /// Gives one chunk back to the kernel, whatever lies in it; false when none is left. For arenas that
    /// nobody refers to any more: dropping one at once would take long.
    pub fn dismantle(&mut self) -> bool {
        while let Some(chunk) = self.memory.pop() {
            if chunk.is_some() {
                self.chunks -= 1;
                return true;
            }
        }
        false
    }

    /// Checks everything that can be checked without knowing the items, and returns how many there are.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) -> u64 {
        let mut open = std::collections::HashSet::new();
        for class in 0..CLASSES.count {
            let mut before = NONE;
            let mut next = self.open[class];
            while next != NONE {
                let run = &self.blocks[next as usize / PAGES].runs[next as usize % PAGES];
                assert_eq!((run.class as usize, run.before), (class, before));
                assert!(run.live < CLASSES.list[class].slots);
                open.insert(next);
                (before, next) = (next, run.after);
            }
        }
        let (mut slots, mut slots_bytes, mut chunks) = (0, 0, 0);
        for (index, block) in self.blocks.iter().enumerate() {
            let Some(memory) = &self.memory[index] else {
                assert!(self.vacant.contains(&(index as u32)) && block.free_pages == 0);
                continue;
            };
            chunks += 1;
            assert!(block.free_pages == 0 || index >= self.first_with_room);
            let mut page = 0;
            while page < PAGES {
                if block.free_pages & 1 << page != 0 {
                    page += 1;
                    continue;
                }
                let run = &block.runs[page];
                let class = CLASSES.list[run.class as usize];
                let first_page = (index * PAGES + page) as u32;
                assert_eq!(open.contains(&first_page), run.live < class.slots);
                let live = (0..run.made)
                    .filter(|&slot| memory[page * PAGE_BYTES + slot as usize * class.slot_bytes as usize] != 0)
                    .count();
                assert_eq!(live, run.live as usize);
                let mut free = 0;
                let mut next = run.free;
                while next != NONE {
                    free += 1;
                    next = u32::from_le_bytes(self.slot(ItemRef(next))[4..8].try_into().unwrap());
                }
                assert_eq!(free + live, run.made as usize);
                slots += live as u64;
                slots_bytes += live as u64 * class.slot_bytes as u64;
                page += class.pages as usize;
            }
        }
        assert_eq!((slots, slots_bytes, chunks), (self.slots, self.slots_bytes, self.chunks));
        slots
    }
}

fn run_mask(pages: u8) -> u32 {
    (1 << pages) - 1
}

/// The bits of `free` at which an aligned run of `pages` (1, 2, 4, 8) set bits starts.
fn aligned_runs(free: u32, pages: u8) -> u32 {
    match pages {
        1 => free,
        2 => free & free >> 1 & 0x5555_5555,
        4 => aligned_runs(free, 2) & aligned_runs(free, 2) >> 2 & 0x1111_1111,
        _ => aligned_runs(free, 4) & aligned_runs(free, 4) >> 4 & 0x0101_0101,
    }
}
