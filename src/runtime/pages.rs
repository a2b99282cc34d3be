//! Memory for what is large: values from 32 KiB on, buffers of that size. Everything smaller is the system's.
//!
//! A general allocator keeps what was freed in the middle of its heap: after sizes have shifted, a third more
//! than the ceiling was resident. Here a run of pages goes back to the kernel as soon as it is free, but for a few
//! that are kept warm for whoever comes next; what is larger than 1 MiB has a mapping of its own, which is given
//! back piece by piece at ticks, because unmapping 64 MiB at once takes 12 ms.
//!
//! ```text
//!   < 32 KiB          the system's allocator
//!   32 KiB … 1 MiB    runs of 8 … 256 pages, cut from regions of address space
//!                     free runs by length:  warm (with memory) → cold (without), linked in a table beside
//!   > 1 MiB           a mapping; freed ones wait to be unmapped, or to be used again
//! ```

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: usize = 4096;
/// Below this the system's allocator serves.
const BYTES_MIN: usize = 32 * 1024;
const RUN_PAGES_MAX: usize = 256;
const RUN_BYTES_MAX: usize = RUN_PAGES_MAX * PAGE_BYTES;
/// Address space is taken in regions of 4 GiB, as many as any machine of today has memory for.
const REGION_BYTES: usize = 4 << 30;
const REGION_PAGES: usize = REGION_BYTES / PAGE_BYTES;
const REGIONS_MAX: usize = 1024;
/// Free pages that are kept with their memory.
const WARM_PAGES_MAX: usize = 2048;
/// Freed mappings that wait to be unmapped; the next one does not wait.
const WAITING_MAX: usize = 128;
const WAITING_BYTES_MAX: usize = 256 << 20;
const NONE: u32 = u32::MAX;

/// The allocator of the server.
pub struct Pages;

static REGIONS: [AtomicPtr<u8>; REGIONS_MAX] = [const { AtomicPtr::new(null_mut()) }; REGIONS_MAX];
static REGION_COUNT: AtomicUsize = AtomicUsize::new(0);
static RUNS: Mutex<Runs> = Mutex::new(Runs::new());
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { pieces: [Piece { start: 0, bytes: 0 }; WAITING_MAX], bytes: 0 });

/// Free runs. Pages are numbered through all regions.
struct Runs {
    /// By length in pages: the first free run with memory, and the first without.
    warm: [u32; RUN_PAGES_MAX + 1],
    cold: [u32; RUN_PAGES_MAX + 1],
    warm_pages: usize,
    /// The next page that was never used.
    next: usize,
    /// By region: for the first page of a free run, the next run in its list.
    links: [*mut u32; REGIONS_MAX],
}

// SAFETY: the tables that `links` leads to belong to `RUNS` alone, which is behind a mutex.
unsafe impl Send for Runs {}

#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    bytes: usize,
}

/// Mappings that nobody uses any more; those of no bytes are free places.
struct Waiting {
    pieces: [Piece; WAITING_MAX],
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn map(bytes: usize) -> *mut u8 {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe {
        libc::mmap(
            null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED { null_mut() } else { start.cast() }
}

fn unmap(start: usize, bytes: usize) {
    // SAFETY: only called with mappings, or the ends of mappings, that were freed by their users.
    unsafe { libc::munmap(start as *mut libc::c_void, bytes) };
}

fn whole_pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}

impl Runs {
    const fn new() -> Runs {
        Runs {
            warm: [NONE; RUN_PAGES_MAX + 1],
            cold: [NONE; RUN_PAGES_MAX + 1],
            warm_pages: 0,
            next: 0,
            links: [null_mut(); REGIONS_MAX],
        }
    }

    fn link(&mut self, page: u32) -> &mut u32 {
        // SAFETY: a page has a number only once its region has a table with a word for each of its pages.
        unsafe { &mut *self.links[page as usize / REGION_PAGES].add(page as usize % REGION_PAGES) }
    }

    fn pop(&mut self, pages: usize) -> Option<u32> {
        if self.warm[pages] != NONE {
            let page = self.warm[pages];
            self.warm[pages] = *self.link(page);
            self.warm_pages -= pages;
            return Some(page);
        }
        if self.cold[pages] != NONE {
            let page = self.cold[pages];
            self.cold[pages] = *self.link(page);
            return Some(page);
        }
        self.cut(pages)
    }

    /// A run that was never used.
    fn cut(&mut self, pages: usize) -> Option<u32> {
        let region = self.next / REGION_PAGES;
        let starts = self.next.is_multiple_of(REGION_PAGES);
        if !starts && self.next % REGION_PAGES + pages > REGION_PAGES {
            self.next = (region + 1) * REGION_PAGES;
            return self.cut(pages);
        }
        if starts {
            if region == REGIONS_MAX {
                return None;
            }
            let memory = map(REGION_BYTES);
            let links = map(REGION_PAGES * size_of::<u32>());
            if memory.is_null() || links.is_null() {
                for (start, bytes) in [(memory, REGION_BYTES), (links, REGION_PAGES * size_of::<u32>())] {
                    if !start.is_null() {
                        unmap(start as usize, bytes);
                    }
                }
                return None;
            }
            // SAFETY: the range is the mapping just made; with huge pages more would be resident than is used.
            unsafe { libc::madvise(memory.cast(), REGION_BYTES, libc::MADV_NOHUGEPAGE) };
            self.links[region] = links.cast();
            REGIONS[region].store(memory, Ordering::Release);
            REGION_COUNT.store(region + 1, Ordering::Release);
        }
        let page = self.next as u32;
        self.next += pages;
        Some(page)
    }

    fn push(&mut self, page: u32, pages: usize, is_warm: bool) {
        let head = if is_warm { self.warm[pages] } else { self.cold[pages] };
        *self.link(page) = head;
        if is_warm {
            self.warm[pages] = page;
            self.warm_pages += pages;
        } else {
            self.cold[pages] = page;
        }
    }
}

fn address_of(page: u32) -> *mut u8 {
    let region = REGIONS[page as usize / REGION_PAGES].load(Ordering::Acquire);
    region.wrapping_add(page as usize % REGION_PAGES * PAGE_BYTES)
}

/// The number of the page that starts at `start`, if it is in a region.
fn page_at(start: *mut u8) -> Option<u32> {
    (0..REGION_COUNT.load(Ordering::Acquire)).find_map(|region| {
        let offset = (start as usize).wrapping_sub(REGIONS[region].load(Ordering::Acquire) as usize);
        (offset < REGION_BYTES).then_some((region * REGION_PAGES + offset / PAGE_BYTES) as u32)
    })
}

fn take_run(pages: usize) -> Option<NonNull<u8>> {
    let page = lock(&RUNS).pop(pages)?;
    NonNull::new(address_of(page))
}

fn give_run(start: *mut u8, page: u32, pages: usize) {
    let mut runs = lock(&RUNS);
    if runs.warm_pages + pages <= WARM_PAGES_MAX {
        return runs.push(page, pages, true);
    }
    drop(runs);
    // SAFETY: the run was freed by its user and is in no list yet: nobody else knows of it.
    unsafe { libc::madvise(start.cast(), pages * PAGE_BYTES, libc::MADV_DONTNEED) };
    lock(&RUNS).push(page, pages, false);
}

fn take_mapping(bytes: usize) -> *mut u8 {
    let mut waiting = lock(&WAITING);
    if waiting.bytes >= bytes
        && let Some(piece) = waiting.pieces.iter_mut().find(|piece| piece.bytes == bytes)
    {
        let start = std::mem::replace(piece, Piece { start: 0, bytes: 0 }).start;
        waiting.bytes -= bytes;
        return start as *mut u8;
    }
    drop(waiting);
    map(bytes)
}

fn give_mapping(start: *mut u8, bytes: usize) {
    let mut waiting = lock(&WAITING);
    if waiting.bytes + bytes <= WAITING_BYTES_MAX
        && let Some(place) = waiting.pieces.iter_mut().find(|piece| piece.bytes == 0)
    {
        *place = Piece { start: start as usize, bytes };
        waiting.bytes += bytes;
        return;
    }
    drop(waiting);
    unmap(start as usize, bytes);
}

/// Gives up to `bytes_max` of freed mappings back to the kernel; whether more of them wait. For ticks.
pub fn release_some(bytes_max: usize) -> bool {
    let mut left = bytes_max;
    while left > 0 {
        let mut waiting = lock(&WAITING);
        let Some(piece) = waiting.pieces.iter_mut().find(|piece| piece.bytes > 0) else { return false };
        // From the end, so that what is left begins where it did.
        let bytes = piece.bytes.min(left);
        piece.bytes -= bytes;
        let end = piece.start + piece.bytes;
        waiting.bytes -= bytes;
        drop(waiting);
        unmap(end, bytes);
        left -= bytes;
    }
    lock(&WAITING).bytes > 0
}

#[derive(PartialEq)]
enum Kind {
    System,
    Run(usize),
    Mapping(usize),
}

fn kind_of(layout: Layout) -> Kind {
    match layout.size() {
        _ if layout.align() > PAGE_BYTES => Kind::System,
        ..BYTES_MIN => Kind::System,
        BYTES_MIN..=RUN_BYTES_MAX => Kind::Run(whole_pages(layout.size())),
        bytes => Kind::Mapping(whole_pages(bytes) * PAGE_BYTES),
    }
}

// SAFETY: what is handed out is as large and as aligned as asked for, belongs to nobody else, and stays where it is
// until it is freed: runs come from the lists, which hold free ones only, or were never used; mappings are new or
// were freed. Nothing here allocates: all tables are static or mapped.
unsafe impl GlobalAlloc for Pages {
    // SAFETY: see above; the caller promises what `GlobalAlloc` asks for.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let run = match kind_of(layout) {
            Kind::Mapping(bytes) => return take_mapping(bytes),
            Kind::Run(pages) => take_run(pages),
            Kind::System => None,
        };
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        run.map_or_else(|| unsafe { System.alloc(layout) }, NonNull::as_ptr)
    }

    // SAFETY: see above; the caller promises what `GlobalAlloc` asks for.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match kind_of(layout) {
            // Fresh from the kernel.
            Kind::Mapping(bytes) => map(bytes),
            Kind::System => {
                // SAFETY: as in `alloc`.
                unsafe { System.alloc_zeroed(layout) }
            }
            Kind::Run(_) => {
                // SAFETY: as in `alloc`.
                let start = unsafe { self.alloc(layout) };
                if !start.is_null() {
                    // SAFETY: as many bytes were just allocated there.
                    unsafe { start.write_bytes(0, layout.size()) };
                }
                start
            }
        }
    }

    // SAFETY: see above; the caller promises what `GlobalAlloc` asks for.
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let run = match kind_of(layout) {
            Kind::Mapping(bytes) => return give_mapping(start, bytes),
            Kind::Run(pages) => page_at(start).map(|page| (page, pages)),
            Kind::System => None,
        };
        match run {
            Some((page, pages)) => give_run(start, page, pages),
            // SAFETY: it is the system's: everything else was sorted out above by the same rule as in `alloc`.
            None => unsafe { System.dealloc(start, layout) },
        }
    }

    // SAFETY: see above; the caller promises what `GlobalAlloc` asks for.
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, does not overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (kind_of(layout), kind_of(wanted)) {
            // SAFETY: as in `alloc`; both are the system's.
            (Kind::System, Kind::System) => unsafe { System.realloc(start, layout, size) },
            (old, new) if old == new && page_at(start).is_some() | matches!(old, Kind::Mapping(_)) => start,
            (Kind::Mapping(old), Kind::Mapping(new)) => {
                // SAFETY: the whole of a mapping that its user owns; it may move.
                let moved = unsafe { libc::mremap(start.cast(), old, new, libc::MREMAP_MAYMOVE) };
                if moved == libc::MAP_FAILED { null_mut() } else { moved.cast() }
            }
            _ => {
                // SAFETY: as in `alloc`.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: both are as long as the shorter one, and different pieces of memory.
                    unsafe {
                        moved.copy_from_nonoverlapping(start, layout.size().min(size));
                        self.dealloc(start, layout);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Announced, Random};

    struct Held {
        start: *mut u8,
        layout: Layout,
        mark: u8,
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 8).unwrap()
    }

    /// The first, the last and some bytes between of what is held.
    fn bytes_of(held: &mut Held) -> &mut [u8] {
        // SAFETY: the test allocated as many bytes and has not freed them.
        unsafe { std::slice::from_raw_parts_mut(held.start, held.layout.size()) }
    }

    fn check(held: &mut Held) {
        let mark = held.mark;
        let bytes = bytes_of(held);
        assert!(bytes.iter().step_by(1021).all(|&byte| byte == mark));
        assert_eq!(bytes[bytes.len() - 1], mark);
    }

    #[test]
    fn nothing_overlaps_and_nothing_is_lost_whatever_the_sizes() {
        for seed in 0..4 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let mut held: Vec<Held> = Vec::new();
            let size = |random: &mut Random| match random.below(8) {
                0 => 1 + random.below(BYTES_MIN),
                1 => RUN_BYTES_MAX - 2 + random.below(5),
                2 => RUN_BYTES_MAX + random.below(3 << 20),
                _ => BYTES_MIN + random.below(200_000),
            };
            for turn in 0..3_000 {
                let mark = turn as u8;
                if held.len() < 40 && random.chance(60) {
                    let layout = layout(size(&mut random));
                    let is_zeroed = random.chance(20);
                    // SAFETY: the layout is not empty.
                    let start = unsafe { if is_zeroed { Pages.alloc_zeroed(layout) } else { Pages.alloc(layout) } };
                    let mut new = Held { start, layout, mark };
                    assert!(!is_zeroed || bytes_of(&mut new).iter().all(|&byte| byte == 0));
                    bytes_of(&mut new).fill(mark);
                    held.push(new);
                } else if !held.is_empty() {
                    let mut old = held.swap_remove(random.below(held.len()));
                    check(&mut old);
                    if random.chance(30) {
                        let size = size(&mut random);
                        // SAFETY: it was allocated above with this layout; the new size is not 0.
                        old.start = unsafe { Pages.realloc(old.start, old.layout, size) };
                        let kept = old.layout.size().min(size);
                        old.layout = layout(size);
                        let mark = old.mark;
                        assert!(bytes_of(&mut old)[..kept].iter().all(|&byte| byte == mark));
                        bytes_of(&mut old).fill(mark);
                        held.push(old);
                    } else {
                        // SAFETY: as above, and it is not used any more.
                        unsafe { Pages.dealloc(old.start, old.layout) };
                    }
                }
                if turn % 50 == 0 {
                    held.iter_mut().for_each(check);
                    release_some(1 << 20);
                }
            }
            for mut old in held {
                check(&mut old);
                // SAFETY: as above.
                unsafe { Pages.dealloc(old.start, old.layout) };
            }
        }
        assert!(lock(&RUNS).warm_pages <= WARM_PAGES_MAX);
        while release_some(1 << 20) {}
        assert_eq!(lock(&WAITING).bytes, 0);
    }
}
