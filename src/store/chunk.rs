//! Memory straight from the kernel, in pieces of 2 MiB. Whatever a shard holds many of (buckets, items) lies in
//! chunks, never in the general allocator: the kernel gets them back whole.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

pub const CHUNK_BYTES: usize = 2 * 1024 * 1024;
const PAGE_BYTES: usize = 4096;

/// Types that may be made of zeroed memory and forgotten without being dropped.
///
/// # Safety
/// All bytes zero is a valid value, there is nothing to drop, and the alignment divides a page.
pub unsafe trait Plain {}

// SAFETY: zero is a byte.
unsafe impl Plain for u8 {}

// SAFETY: integers only.
unsafe impl Plain for [u64; 8] {}

/// A chunk seen as an array of `T`, zeroed when it is made.
pub struct Chunk<T: Plain> {
    start: NonNull<u8>,
    of: PhantomData<T>,
}

// SAFETY: a chunk owns its memory alone, as a boxed slice would.
unsafe impl<T: Plain + Send> Send for Chunk<T> {}

impl<T: Plain> Chunk<T> {
    pub const LEN: usize = CHUNK_BYTES / size_of::<T>();

    /// `None` when the kernel has no more memory for us. Only what is touched takes memory, page by page. Huge
    /// pages are not asked for: the first touch of one took up to 10 ms in a virtual machine, and a look-up
    /// whose item was prefetched is no faster with them.
    pub fn new() -> Option<Chunk<T>> {
        #[cfg(test)]
        if !tests::take_one_of_the_limit() {
            return None;
        }
        const { assert!(PAGE_BYTES.is_multiple_of(align_of::<T>()) && size_of::<T>() > 0) };
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                CHUNK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            #[cfg(test)]
            tests::give_one_back();
            return None;
        }
        // SAFETY: the range is the mapping just made. Where huge pages are given unasked, whole ones would take
        // memory that nobody has touched; the advice is no loss when the kernel knows none.
        unsafe { libc::madvise(mapping, CHUNK_BYTES, libc::MADV_NOHUGEPAGE) };
        Some(Chunk { start: NonNull::new(mapping.cast())?, of: PhantomData })
    }
}

impl Chunk<u8> {
    /// Gives the whole pages of a range back to the kernel; they read as zeroes from now on, until they are
    /// written to.
    pub fn discard(&mut self, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= CHUNK_BYTES);
        let start = range.start.next_multiple_of(PAGE_BYTES);
        let len = (range.end / PAGE_BYTES * PAGE_BYTES).saturating_sub(start);
        // SAFETY: the range lies in the chunk, which `&mut self` says nobody else looks at; zeroed pages are
        // valid bytes.
        unsafe { libc::madvise(self.start.as_ptr().add(start.min(CHUNK_BYTES)).cast(), len, libc::MADV_DONTNEED) };
    }
}

impl<T: Plain> Drop for Chunk<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), CHUNK_BYTES) };
        #[cfg(test)]
        tests::give_one_back();
    }
}

impl<T: Plain> Deref for Chunk<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is readable, aligned to a page and `LEN` values long; it was zeroed by the
        // kernel, which `Plain` makes a valid value, and only `deref_mut` has written to it since.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), Self::LEN) }
    }
}

impl<T: Plain> DerefMut for Chunk<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), Self::LEN) }
    }
}

/// Chunks one after another, as one array that grows and shrinks at its end. Its elements are first used in
/// their order, and only what was used has taken memory: a row of a few elements costs a few pages.
pub struct Row<T: Plain> {
    chunks: Vec<Chunk<T>>,
    /// Elements that were in use at one time; those behind them have never been touched.
    touched: usize,
}

impl<T: Plain> Row<T> {
    pub const fn new() -> Row<T> {
        Row { chunks: Vec::new(), touched: 0 }
    }

    /// Makes sure that the first `len` elements may be used; false when there is no memory for them.
    #[inline]
    pub fn reach(&mut self, len: usize) -> bool {
        if len > self.touched { self.extend(len) } else { true }
    }

    #[inline(never)]
    fn extend(&mut self, len: usize) -> bool {
        while self.chunks.len() * Chunk::<T>::LEN < len {
            let Some(chunk) = Chunk::new() else { return false };
            self.chunks.push(chunk);
        }
        self.touched = len;
        true
    }

    /// Gives back the chunks that hold none of the first `len` elements, but for one to spare.
    pub fn shrink(&mut self, len: usize) {
        let kept = len.div_ceil(Chunk::<T>::LEN) + 1;
        self.chunks.truncate(kept);
        self.touched = self.touched.min(self.chunks.len() * Chunk::<T>::LEN);
    }

    /// Gives back the last chunk; false when there is none.
    pub fn pop(&mut self) -> bool {
        let is_there = self.chunks.pop().is_some();
        self.touched = self.touched.min(self.chunks.len() * Chunk::<T>::LEN);
        is_there
    }

    /// Memory taken from the kernel.
    pub fn bytes(&self) -> usize {
        (self.touched * size_of::<T>()).next_multiple_of(PAGE_BYTES)
    }

    #[inline(always)]
    pub fn get(&self, index: usize) -> &T {
        &self.chunks[index / Chunk::<T>::LEN][index % Chunk::<T>::LEN]
    }

    #[inline(always)]
    pub fn get_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / Chunk::<T>::LEN][index % Chunk::<T>::LEN]
    }
}

/// Asks the processor to fetch the cache line of `value`, without waiting for it.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it reads nothing and cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>((value as *const T).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Chunks that this thread may still make: how tests run out of memory.
        static LIMIT: Cell<u64> = const { Cell::new(u64::MAX / 2) };
    }

    /// Leaves `count` chunks to this thread, besides those it gives back.
    pub fn limit_chunks(count: u64) {
        LIMIT.set(count);
    }

    pub fn take_one_of_the_limit() -> bool {
        let left = LIMIT.get();
        LIMIT.set(left.saturating_sub(1));
        left > 0
    }

    pub fn give_one_back() {
        LIMIT.set(LIMIT.get() + 1);
    }

    #[test]
    fn a_row_counts_the_pages_it_has_used() {
        const PER_PAGE: usize = PAGE_BYTES / size_of::<[u64; 8]>();
        let mut row = Row::<[u64; 8]>::new();
        assert_eq!(row.bytes(), 0);
        for (len, pages) in [(1, 1), (PER_PAGE, 1), (PER_PAGE + 1, 2), (5, 2), (PER_PAGE * 513, 513)] {
            assert!(row.reach(len));
            assert_eq!(row.bytes(), pages * PAGE_BYTES);
        }
        row.get_mut(PER_PAGE * 513 - 1)[3] = 9;
        assert_eq!(row.get(PER_PAGE * 513 - 1)[3], 9);
        assert!(row.reach(20 * Chunk::<[u64; 8]>::LEN + 1));
        assert_eq!(row.bytes(), 20 * CHUNK_BYTES + PAGE_BYTES);
        row.shrink(PER_PAGE);
        assert_eq!(row.bytes(), 2 * CHUNK_BYTES);
        assert!(row.pop() && row.pop() && !row.pop());
        assert_eq!(row.bytes(), 0);
        limit_chunks(0);
        assert!(!row.reach(1));
        limit_chunks(u64::MAX / 2);
    }

    #[test]
    fn a_chunk_is_zeroed_and_writable_to_both_ends() {
        for _ in 0..3 {
            let mut chunk = Chunk::<u8>::new().unwrap();
            assert_eq!(chunk.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!(chunk.len(), CHUNK_BYTES);
            assert!(chunk.iter().step_by(509).all(|&byte| byte == 0));
            chunk[0] = 1;
            chunk[CHUNK_BYTES - 1] = 2;
            assert_eq!((chunk[0], chunk[1], chunk[CHUNK_BYTES - 1]), (1, 0, 2));
            chunk.discard(0..CHUNK_BYTES / 2);
            assert_eq!((chunk[0], chunk[1], chunk[CHUNK_BYTES - 1]), (0, 0, 2));
            chunk[0] = 3;
            assert_eq!(chunk[0], 3);
        }
    }
}
