//! Receive buffers that the kernel chooses from.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

pub const BUFFER_GROUP: u16 = 0;

/// Receive buffers shared with the kernel: a ring of entries that point at `RECV_BUFFERS` buffers.
pub struct ReceiveBuffers {
    entries: NonNull<BufRingEntry>,
    entries_len: usize,
    memory: NonNull<u8>,
    memory_len: usize,
    /// What the kernel put into each buffer that it has handed over.
    lens: Vec<u32>,
    count: u16,
    buffer_bytes: usize,
    tail: u16,
    /// The kernel may still write here when the process lets go of it.
    pub leak: bool,
}

fn map_anonymous(len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned null"))
}

impl ReceiveBuffers {
    pub fn new(ring: &IoUring, count: u16, buffer_bytes: usize) -> io::Result<ReceiveBuffers> {
        let entries_len = count as usize * size_of::<BufRingEntry>();
        let memory_len = count as usize * buffer_bytes;
        let entries = map_anonymous(entries_len)?.cast();
        let memory = map_anonymous(memory_len)?;
        let mut buffers = ReceiveBuffers {
            entries,
            entries_len,
            memory,
            memory_len,
            lens: vec![0; count as usize],
            count,
            buffer_bytes,
            tail: 0,
            leak: false,
        };
        // SAFETY: the mapping is page-aligned, large enough for `count` entries, and lives until it has been
        // unregistered or for ever (`NetRing::drop`).
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, BUFFER_GROUP, 0)? };
        for buffer in 0..count {
            buffers.offer(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Gives a buffer back to the kernel with the next [`ReceiveBuffers::publish`].
    pub fn offer(&mut self, buffer: u16) {
        debug_assert!(buffer < self.count);
        let place = (self.tail & (self.count - 1)) as usize;
        // SAFETY: `place < count` entries, and the kernel reads an entry only after the tail passed it.
        let entry = unsafe { &mut *self.entries.as_ptr().add(place) };
        entry.set_addr(self.memory.as_ptr() as u64 + buffer as u64 * self.buffer_bytes as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    pub fn publish(&self) {
        // SAFETY: the base is that of a registered buffer ring, whose tail the kernel reads atomically.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()) as *const AtomicU16;
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// Notes what the kernel has put into a buffer.
    #[inline]
    pub fn filled(&mut self, buffer: u16, len: u32) {
        self.lens[buffer as usize] = len;
    }

    #[inline]
    pub fn bytes(&self, buffer: u16) -> &[u8] {
        let len = self.lens[buffer as usize] as usize;
        debug_assert!(len <= self.buffer_bytes);
        // SAFETY: the buffer lies within the mapping, and while it is not offered the kernel does not write to it.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(buffer as usize * self.buffer_bytes), len) }
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        if self.leak {
            return;
        }
        // SAFETY: both were mapped by `new` with these lengths, and the ring has unregistered them.
        unsafe {
            libc::munmap(self.entries.as_ptr().cast(), self.entries_len);
            libc::munmap(self.memory.as_ptr().cast(), self.memory_len);
        }
    }
}
