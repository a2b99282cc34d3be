//! The buffers that the kernel picks from for receives (IORING_REGISTER_PBUF_RING).
//!
//! ```text
//!   entries   [addr len bid | addr len bid | …]   one page-aligned mapping, `count` × 16 bytes;
//!                        ▲ tail                   the tail lives in the first entry's reserved field
//!   memory    [buffer 0 | buffer 1 | …]           `count` × `bytes_each`
//! ```
//!
//! Invariant: buffer `i` is owned by the kernel or by exactly one [`Lease`], never by both.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

pub const GROUP: u16 = 0;

/// The right to read one filled buffer, until it is given back.
#[derive(Debug)]
#[must_use = "a lease that is dropped is a buffer lost"]
pub struct Lease {
    id: u16,
    len: u32,
}

pub struct ProvidedBuffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: usize,
    bytes_each: usize,
    tail: u16,
    leaked: bool,
}

impl ProvidedBuffers {
    pub fn register(uring: &mut IoUring, count: usize, bytes_each: usize) -> io::Result<ProvidedBuffers> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let entries = map(count * size_of::<BufRingEntry>())?.cast();
        let memory = map(count * bytes_each)?;
        let mut buffers = ProvidedBuffers { entries, memory, count, bytes_each, tail: 0, leaked: false };
        for id in 0..count as u16 {
            buffers.provide(id);
        }
        // SAFETY: `entries` is a page-aligned mapping of `count` entries that lives until after the ring
        // is closed: `Ring` declares its uring before these buffers, and its Drop has waited for all
        // receives to end.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count as u16, GROUP, 0) }?;
        Ok(buffers)
    }

    /// Called once per completion that names buffer `id`.
    pub fn lease(&self, id: u16, len: usize) -> Lease {
        assert!((id as usize) < self.count && len <= self.bytes_each);
        Lease { id, len: len as u32 }
    }

    pub fn bytes(&self, lease: &Lease) -> &[u8] {
        let start = lease.id as usize * self.bytes_each;
        // SAFETY: in bounds by the check in `lease`; the kernel has filled `len` bytes and does not
        // write again before the lease is given back, which needs the lease by value and `&mut self`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), lease.len as usize) }
    }

    pub fn give_back(&mut self, lease: Lease) {
        self.provide(lease.id);
    }

    /// The memory stays mapped for ever: the kernel may still write to it.
    pub fn leak(&mut self) {
        self.leaked = true;
    }

    fn provide(&mut self, id: u16) {
        let index = self.tail as usize & (self.count - 1);
        // SAFETY: `index` < `count` entries of a live mapping. The kernel reads entries only below the
        // tail, so this one is ours until the store below publishes it.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(self.memory.as_ptr().add(id as usize * self.bytes_each) as u64);
            entry.set_len(self.bytes_each as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail field of a live, aligned mapping; the kernel reads it concurrently, hence
        // the atomic store, whose release order publishes the entry written above.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: both mappings were made by `map` with these lengths, and the ring that used them
            // has been closed with no receive under way (see `Ring::drop`).
            unsafe {
                libc::munmap(self.entries.as_ptr().cast(), self.count * size_of::<BufRingEntry>());
                libc::munmap(self.memory.as_ptr().cast(), self.count * self.bytes_each);
            }
        }
    }
}

/// Zeroed, page-aligned memory.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping; nothing else refers to it.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(address.cast()).expect("mmap does not return null"))
}
