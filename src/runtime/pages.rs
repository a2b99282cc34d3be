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
//!   > 1 MiB           a mapping; freed ones wait to be unmapped, or to be used again, however many they are
//! ```
//!
//! A value is received on one core and freed on another, so the lists are everybody's. Nobody locks them: each change
//! is one compare-and-swap, which fails only when somebody else's has succeeded. A core that is interrupted in the
//! middle of anything here keeps nobody waiting.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

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
/// Freed mappings that wait to be unmapped, or to be used again; more of them only wait.
const WAITING_MAX: usize = 1024;
const NONE: u32 = u32::MAX;

const _: () = assert!(REGIONS_MAX * REGION_PAGES < NONE as usize, "every page has a number");

/// The allocator of the server.
pub struct Pages;

static REGIONS: [AtomicPtr<u8>; REGIONS_MAX] = [const { AtomicPtr::new(null_mut()) }; REGIONS_MAX];
/// By region, a word for each page: for the first page of a free run, the next run in its list.
static LINKS: [AtomicPtr<u8>; REGIONS_MAX] = [const { AtomicPtr::new(null_mut()) }; REGIONS_MAX];
/// The next page that was never used. Pages are numbered through all regions.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Free runs by their length in pages, those with memory and those without.
static WARM: [List; RUN_PAGES_MAX + 1] = [const { List::new() }; RUN_PAGES_MAX + 1];
static COLD: [List; RUN_PAGES_MAX + 1] = [const { List::new() }; RUN_PAGES_MAX + 1];
static WARM_PAGES: AtomicUsize = AtomicUsize::new(0);
/// Mappings that nobody uses any more, see [`Piece`]; 0 is a free place.
static WAITING: [AtomicU64; WAITING_MAX] = [const { AtomicU64::new(0) }; WAITING_MAX];
/// How many of them there are, or will be in a moment.
static WAITING_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Those for which there was no place: the first of a chain, each with the next one's word in its first bytes; 0 for
/// none. Others only ever put some in front or take all, so that nobody reads a mapping that somebody else has.
static CHAINED: AtomicU64 = AtomicU64::new(0);

/// Free runs of one length, the one freed last in front.
///
/// ```text
///   63 ─────────── 32 31 ──────────── 0
///   how often changed │ the first page     the next: in the page's link
/// ```
///
/// The count tells a list from one that was changed and has the same first page again: without it, whoever read the
/// link of that page before would put an outdated one in front. It comes round after 2^32 changes, far more than
/// happen while a core is interrupted between two instructions.
struct List(AtomicU64);

impl List {
    const fn new() -> List {
        List(AtomicU64::new(NONE as u64))
    }

    fn changed(head: u64, first: u32) -> u64 {
        ((head >> 32).wrapping_add(1) << 32) | first as u64
    }

    fn pop(&self) -> Option<u32> {
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            let first = head as u32;
            if first == NONE {
                return None;
            }
            // Perhaps somebody else has it by now: then what its link says is of no consequence.
            let next = link_of(first).load(Ordering::Relaxed);
            let changed = Self::changed(head, next);
            match self.0.compare_exchange_weak(head, changed, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(first),
                Err(now) => head = now,
            }
        }
    }

    fn push(&self, page: u32) {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            link_of(page).store(head as u32, Ordering::Relaxed);
            let changed = Self::changed(head, page);
            match self.0.compare_exchange_weak(head, changed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// Whole pages that are the holder's alone: a mapping, the end of one, or a run. Who drops it leaves them to whoever
/// has their address.
///
/// It fits into one word: the number of its first page in the upper 36 bits (addresses have 48), how many pages it has
/// in the lower 28.
struct Piece {
    start: usize,
    bytes: usize,
}

const PIECE_PAGES_BITS: u32 = 28;
const PIECE_PAGES_MAX: usize = (1 << PIECE_PAGES_BITS) - 1;

impl Piece {
    /// Zeroed memory of the kernel's; `None` when there is none to be had.
    fn map(bytes: usize) -> Option<Piece> {
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
        (start != libc::MAP_FAILED).then_some(Piece { start: start as usize, bytes })
    }

    fn unmap(self) {
        // SAFETY: the pages are the holder's alone, who gives them up.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
    }

    /// Tells the kernel how the pages are used, or that what lies in them is not needed any more.
    fn advise(&self, advice: libc::c_int) {
        // SAFETY: the pages are the holder's alone. No advice that is given here makes them less usable.
        unsafe { libc::madvise(self.start as *mut libc::c_void, self.bytes, advice) };
    }

    /// The same mapping, longer or shorter, perhaps elsewhere; `None` when there is no memory, and it is as it was.
    fn resized(self, bytes: usize) -> Option<Piece> {
        // SAFETY: the whole of a mapping that is the holder's alone; it may move.
        let moved = unsafe { libc::mremap(self.address().cast(), self.bytes, bytes, libc::MREMAP_MAYMOVE) };
        (moved != libc::MAP_FAILED).then_some(Piece { start: moved as usize, bytes })
    }

    fn address(&self) -> *mut u8 {
        self.start as *mut u8
    }

    /// Its first `bytes`, and the rest.
    fn split(self, bytes: usize) -> (Piece, Piece) {
        (Piece { start: self.start, bytes }, Piece { start: self.start + bytes, bytes: self.bytes - bytes })
    }

    /// `None` for what is too long, or lies too high; the kernel puts nothing there unasked.
    fn packed(&self) -> Option<u64> {
        let (page, pages) = (self.start / PAGE_BYTES, self.bytes / PAGE_BYTES);
        let fits = pages <= PIECE_PAGES_MAX && page >> (u64::BITS - PIECE_PAGES_BITS) == 0;
        fits.then_some((page as u64) << PIECE_PAGES_BITS | pages as u64)
    }

    fn unpacked(word: u64) -> Piece {
        Piece { start: Self::start_of(word), bytes: Self::bytes_of(word) }
    }

    fn start_of(word: u64) -> usize {
        (word >> PIECE_PAGES_BITS) as usize * PAGE_BYTES
    }

    fn bytes_of(word: u64) -> usize {
        (word as usize & PIECE_PAGES_MAX) * PAGE_BYTES
    }
}

fn whole_pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}

/// Makes sure that `place` leads to a mapping of `bytes`; false when there is none to be had.
fn is_mapped(place: &AtomicPtr<u8>, bytes: usize) -> bool {
    if !place.load(Ordering::Acquire).is_null() {
        return true;
    }
    let Some(memory) = Piece::map(bytes) else { return false };
    // With huge pages more would be resident than is used.
    memory.advise(libc::MADV_NOHUGEPAGE);
    if place.compare_exchange(null_mut(), memory.address(), Ordering::AcqRel, Ordering::Acquire).is_err() {
        // Somebody else was faster.
        memory.unmap();
    }
    true
}

fn link_of(page: u32) -> &'static AtomicU32 {
    let links = LINKS[page as usize / REGION_PAGES].load(Ordering::Acquire).cast::<AtomicU32>();
    // SAFETY: a page gets a number only once its region has a table with a word for each of its pages, which is
    // never unmapped; zeroed words are valid ones.
    unsafe { &*links.add(page as usize % REGION_PAGES) }
}

/// A run that was never used.
fn cut(pages: usize) -> Option<u32> {
    let mut next = NEXT.load(Ordering::Acquire);
    loop {
        let region = next / REGION_PAGES;
        if region >= REGIONS_MAX {
            return None;
        }
        let is_there = is_mapped(&LINKS[region], REGION_PAGES * size_of::<AtomicU32>())
            && is_mapped(&REGIONS[region], REGION_BYTES);
        if !is_there {
            return None;
        }
        let fits = next % REGION_PAGES + pages <= REGION_PAGES;
        let after = if fits { next + pages } else { (region + 1) * REGION_PAGES };
        match NEXT.compare_exchange_weak(next, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) if fits => return Some(next as u32),
            Ok(_) => next = after,
            Err(now) => next = now,
        }
    }
}

fn address_of(page: u32) -> *mut u8 {
    let region = REGIONS[page as usize / REGION_PAGES].load(Ordering::Acquire);
    region.wrapping_add(page as usize % REGION_PAGES * PAGE_BYTES)
}

/// The number of the page that starts at `start`, if it is in a region.
fn page_at(start: *mut u8) -> Option<u32> {
    let regions = REGIONS.iter().map(|region| region.load(Ordering::Acquire));
    regions.take_while(|region| !region.is_null()).enumerate().find_map(|(number, region)| {
        let offset = (start as usize).wrapping_sub(region as usize);
        (offset < REGION_BYTES).then_some((number * REGION_PAGES + offset / PAGE_BYTES) as u32)
    })
}

fn take_run(pages: usize) -> Option<NonNull<u8>> {
    let page = match WARM[pages].pop() {
        Some(page) => {
            WARM_PAGES.fetch_sub(pages, Ordering::Relaxed);
            page
        }
        None => COLD[pages].pop().or_else(|| cut(pages))?,
    };
    NonNull::new(address_of(page))
}

fn give_run(page: u32, pages: usize) {
    if WARM_PAGES.fetch_add(pages, Ordering::Relaxed) + pages <= WARM_PAGES_MAX {
        return WARM[pages].push(page);
    }
    WARM_PAGES.fetch_sub(pages, Ordering::Relaxed);
    // It was freed by its user and is in no list yet: nobody else knows of it.
    Piece { start: address_of(page) as usize, bytes: pages * PAGE_BYTES }.advise(libc::MADV_DONTNEED);
    COLD[pages].push(page);
}

/// A mapping that waits and whose length `is_wanted`: nobody else has it any more.
fn take_waiting(is_wanted: impl Fn(usize) -> bool) -> Option<Piece> {
    if WAITING_COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    WAITING.iter().find_map(|place| {
        let word = place.load(Ordering::Acquire);
        if word == 0 || !is_wanted(Piece::bytes_of(word)) {
            return None;
        }
        place.compare_exchange(word, 0, Ordering::Acquire, Ordering::Relaxed).ok()?;
        WAITING_COUNT.fetch_sub(1, Ordering::Relaxed);
        Some(Piece::unpacked(word))
    })
}

/// Lets a mapping wait, unless there is no place for it.
fn let_wait(piece: Piece) -> Result<(), Piece> {
    let Some(word) = piece.packed() else { return Err(piece) };
    WAITING_COUNT.fetch_add(1, Ordering::Relaxed);
    let is_taken = |place: &AtomicU64| {
        let is_free = place.load(Ordering::Relaxed) == 0;
        is_free && place.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok()
    };
    if WAITING.iter().any(is_taken) {
        return Ok(());
    }
    WAITING_COUNT.fetch_sub(1, Ordering::Relaxed);
    Err(piece)
}

/// Where a chained mapping says which one is the next.
fn next_of(word: u64) -> &'static AtomicU64 {
    // SAFETY: the mapping was freed by its user and is chained, or about to be; it is unmapped only by whoever has
    // taken it out of the chain. Its first eight bytes are mapped, writable, and aligned to a page.
    unsafe { &*(Piece::start_of(word) as *const AtomicU64) }
}

/// Puts a mapping in front of the chain, unless it does not fit into a word.
fn chain(piece: Piece) -> Result<(), Piece> {
    let Some(word) = piece.packed() else { return Err(piece) };
    let mut first = CHAINED.load(Ordering::Relaxed);
    loop {
        next_of(word).store(first, Ordering::Relaxed);
        match CHAINED.compare_exchange_weak(first, word, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => first = now,
        }
    }
}

/// Takes the first of the chain: all of it, for a moment, so that it is nobody else's while its link is read.
fn take_chained() -> Option<Piece> {
    if CHAINED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let first = CHAINED.swap(0, Ordering::Acquire);
    if first == 0 {
        return None;
    }
    let mut rest = next_of(first).load(Ordering::Relaxed);
    while rest != 0 && CHAINED.compare_exchange(0, rest, Ordering::Release, Ordering::Relaxed).is_err() {
        // Somebody was here meanwhile: what came is put in front of the rest.
        let came = CHAINED.swap(0, Ordering::Acquire);
        if came == 0 {
            continue;
        }
        let mut last = came;
        loop {
            match next_of(last).load(Ordering::Relaxed) {
                0 => break,
                next => last = next,
            }
        }
        next_of(last).store(rest, Ordering::Relaxed);
        rest = came;
    }
    Some(Piece::unpacked(first))
}

fn map(bytes: usize) -> *mut u8 {
    Piece::map(bytes).map_or(null_mut(), |piece| piece.address())
}

fn take_mapping(bytes: usize) -> *mut u8 {
    take_waiting(|waiting| waiting == bytes).map_or_else(|| map(bytes), |piece| piece.address())
}

fn give_mapping(piece: Piece) {
    if let Err(piece) = let_wait(piece).or_else(chain) {
        piece.unmap();
    }
}

/// Gives up to `bytes_max` of freed mappings back to the kernel; whether more of them wait. For ticks.
pub fn release_some(bytes_max: usize) -> bool {
    let mut left = bytes_max;
    while left > 0 {
        let Some(piece) = take_waiting(|_| true).or_else(take_chained) else { break };
        // From the end, so that what is left begins where it did.
        let kept = piece.bytes.saturating_sub(left);
        let (rest, end) = piece.split(kept);
        left -= end.bytes;
        end.unmap();
        if rest.bytes > 0 {
            give_mapping(rest);
        }
    }
    WAITING_COUNT.load(Ordering::Relaxed) > 0 || CHAINED.load(Ordering::Relaxed) != 0
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
// until it is freed: runs come from the lists, which hold free ones only and hand each to one taker, or were never
// used; mappings are new, or were freed and waited. Nothing here allocates: all tables are static or mapped.
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
        let run = match kind_of(layout) {
            // Fresh from the kernel.
            Kind::Mapping(bytes) => return map(bytes),
            Kind::Run(pages) => take_run(pages),
            Kind::System => None,
        };
        match run {
            Some(start) => {
                // SAFETY: the run is at least as long, and nobody else has it.
                unsafe { start.write_bytes(0, layout.size()) };
                start.as_ptr()
            }
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    // SAFETY: see above; the caller promises what `GlobalAlloc` asks for.
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let run = match kind_of(layout) {
            Kind::Mapping(bytes) => return give_mapping(Piece { start: start as usize, bytes }),
            Kind::Run(pages) => page_at(start).map(|page| (page, pages)),
            Kind::System => None,
        };
        match run {
            Some((page, pages)) => give_run(page, pages),
            // SAFETY: it is the system's: everything else was sorted out above by the same rule as in `alloc`.
            None => unsafe { System.dealloc(start, layout) },
        }
    }

    // SAFETY: see above; the caller promises what `GlobalAlloc` asks for.
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        match (kind_of(layout), kind_of(wanted)) {
            // SAFETY: as in `alloc`; both are the system's.
            (Kind::System, Kind::System) => unsafe { System.realloc(start, layout, size) },
            (old, new) if old == new && page_at(start).is_some() | matches!(old, Kind::Mapping(_)) => start,
            (Kind::Mapping(bytes), Kind::Mapping(wanted)) => {
                Piece { start: start as usize, bytes }.resized(wanted).map_or(null_mut(), |piece| piece.address())
            }
            // SAFETY: as in `alloc` and `dealloc`; both are as long as the shorter one, and different pieces of memory.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(start, layout.size().min(size));
                    self.dealloc(start, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use super::*;
    use crate::random::{Announced, Random};

    /// What was allocated, and is freed when it is dropped.
    struct Held {
        start: *mut u8,
        layout: Layout,
        mark: u8,
    }

    // SAFETY: memory that its holder alone knows of.
    unsafe impl Send for Held {}

    impl Held {
        fn new(bytes: usize, is_zeroed: bool, mark: u8) -> Held {
            let layout = layout(bytes);
            // SAFETY: the layout is not empty.
            let start = unsafe { if is_zeroed { Pages.alloc_zeroed(layout) } else { Pages.alloc(layout) } };
            assert!(!start.is_null());
            Held { start, layout, mark }
        }

        fn resize(&mut self, bytes: usize) {
            // SAFETY: it was allocated with this layout; the new size is not 0.
            self.start = unsafe { Pages.realloc(self.start, self.layout, bytes) };
            assert!(!self.start.is_null());
            self.layout = layout(bytes);
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: as many bytes were allocated, and are freed with `self`.
            unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
        }

        fn check(&mut self) {
            let mark = self.mark;
            let bytes = self.bytes();
            assert!(bytes.iter().step_by(1021).all(|&byte| byte == mark));
            assert_eq!(bytes[bytes.len() - 1], mark);
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            // SAFETY: it was allocated with this layout, and nobody uses it any more.
            unsafe { Pages.dealloc(self.start, self.layout) };
        }
    }

    /// The lists are the process's: tests take turns.
    static TURN: Mutex<()> = Mutex::new(());

    fn everything_went_back() {
        assert!(WARM_PAGES.load(Ordering::Relaxed) <= WARM_PAGES_MAX);
        while release_some(1 << 20) {}
        assert!(WAITING.iter().all(|place| place.load(Ordering::Relaxed) == 0));
        assert_eq!(CHAINED.load(Ordering::Relaxed), 0);
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 8).unwrap()
    }

    #[test]
    fn nothing_overlaps_and_nothing_is_lost_whatever_the_sizes() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        for seed in 0..2 {
            let _announced = Announced(seed);
            let mut random = Random::new(seed);
            let mut held: Vec<Held> = Vec::new();
            let size = |random: &mut Random| match random.below(8) {
                0 => 1 + random.below(BYTES_MIN),
                1 => RUN_BYTES_MAX - 2 + random.below(5),
                2 => RUN_BYTES_MAX + random.below(3 << 20),
                _ => BYTES_MIN + random.below(200_000),
            };
            for turn in 0..2_000 {
                let mark = turn as u8;
                if held.len() < 40 && random.chance(60) {
                    let is_zeroed = random.chance(20);
                    let mut new = Held::new(size(&mut random), is_zeroed, mark);
                    assert!(!is_zeroed || new.bytes().iter().all(|&byte| byte == 0));
                    new.bytes().fill(mark);
                    held.push(new);
                } else if !held.is_empty() {
                    let mut old = held.swap_remove(random.below(held.len()));
                    old.check();
                    if random.chance(30) {
                        let size = size(&mut random);
                        let (kept, mark) = (old.layout.size().min(size), old.mark);
                        old.resize(size);
                        assert!(old.bytes()[..kept].iter().all(|&byte| byte == mark));
                        old.bytes().fill(mark);
                        held.push(old);
                    }
                }
                if turn % 50 == 0 {
                    held.iter_mut().for_each(Held::check);
                    release_some(1 << 20);
                }
            }
            held.iter_mut().for_each(Held::check);
        }
        everything_went_back();
    }

    /// What one core receives another frees: four threads hand each other what they allocate.
    #[test]
    fn what_one_thread_frees_another_uses_and_nobody_else() {
        const THREADS: usize = 4;
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        const TURNS: usize = 2_000;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<Held>()).unzip();
        let threads = receivers.into_iter().enumerate().map(|(number, inbox)| {
            let peers = senders.clone();
            std::thread::spawn(move || {
                let mut random = Random::new(number as u64);
                let free = |mut old: Held| old.check();
                for turn in 0..TURNS {
                    // Few lengths, so that the threads meet at the same lists.
                    let bytes = [BYTES_MIN, BYTES_MIN + PAGE_BYTES, 2 * BYTES_MIN, RUN_BYTES_MAX + 1][random.below(4)];
                    let mark = (turn * THREADS + number) as u8;
                    let mut new = Held::new(bytes, false, mark);
                    new.bytes().iter_mut().step_by(1021).for_each(|byte| *byte = mark);
                    *new.bytes().last_mut().unwrap() = mark;
                    peers[random.below(THREADS)].send(new).unwrap();
                    inbox.try_iter().take(3).for_each(free);
                    if turn % 16 == 0 {
                        release_some(1 << 20);
                    }
                }
                drop(peers);
                inbox
            })
        });
        let threads: Vec<_> = threads.collect();
        drop(senders);
        for thread in threads {
            thread.join().unwrap().into_iter().for_each(|mut old| old.check());
        }
        everything_went_back();
    }

    /// However many large values go at once, none is unmapped before a tick does it: unmapping takes 0.1 ms and more.
    #[test]
    fn any_number_of_freed_mappings_waits_and_is_given_back_piece_by_piece() {
        const THREADS: usize = 3;
        const EACH: usize = WAITING_MAX;
        const BYTES: usize = RUN_BYTES_MAX + PAGE_BYTES;
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        everything_went_back();
        let held: Vec<Vec<Held>> =
            (0..THREADS).map(|_| (0..EACH).map(|_| Held::new(BYTES, false, 0)).collect()).collect();
        let mut starts: Vec<*mut u8> = held.iter().flatten().map(|held| held.start).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), THREADS * EACH);
        // One thread takes while the others free: what is given back is given back once.
        let freed = AtomicUsize::new(0);
        let mut released = 0;
        std::thread::scope(|scope| {
            for held in held {
                let freed = &freed;
                scope.spawn(move || {
                    for held in held {
                        drop(held);
                        freed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while freed.load(Ordering::Relaxed) < THREADS * EACH {
                let piece = take_chained().or_else(|| take_waiting(|_| true));
                if let Some(piece) = piece {
                    released += piece.bytes / BYTES;
                    piece.unmap();
                }
            }
        });
        while released < THREADS * EACH {
            assert!(WAITING_COUNT.load(Ordering::Relaxed) > 0 || CHAINED.load(Ordering::Relaxed) != 0, "{released}");
            release_some(BYTES);
            released += 1;
        }
        assert!(!release_some(1));
        everything_went_back();
    }

    #[test]
    fn a_piece_fits_into_a_word() {
        for piece in [
            Piece { start: PAGE_BYTES, bytes: PAGE_BYTES },
            Piece { start: 0x7FFF_FFFF_F000, bytes: PIECE_PAGES_MAX * PAGE_BYTES },
        ] {
            let unpacked = Piece::unpacked(piece.packed().unwrap());
            assert_eq!((unpacked.start, unpacked.bytes), (piece.start, piece.bytes));
        }
        assert!(Piece { start: 0, bytes: (PIECE_PAGES_MAX + 1) * PAGE_BYTES }.packed().is_none());
        assert!(Piece { start: 1 << 56, bytes: PAGE_BYTES }.packed().is_none());
    }
}
