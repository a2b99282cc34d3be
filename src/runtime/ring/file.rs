//! Files on the ring of the clients: what a core writes to its log, and syncs, ends among its receives, so that nobody
//! between the disk and the core is waited for.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile};
use io_uring::{opcode, types};

use super::operation::{Completion, Kind, user_data};
use super::{NetRing, tolerate};

/// What the kernel has of an operation until it is done: the file, and what is written to it.
#[allow(dead_code, reason = "dropped only when the kernel no longer needs it")]
struct FileOperation(Rc<DmaFile>, Option<DmaBuffer>);

/// The operations that are out, by place.
#[derive(Default)]
pub struct FileOperations {
    places: Vec<Option<FileOperation>>,
}

impl FileOperations {
    fn add(&mut self, operation: FileOperation) -> u32 {
        let place = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(None);
        }
        self.places[place] = Some(operation);
        place as u32
    }

    pub fn ended(&mut self, completion: Completion) {
        self.places[completion.index() as usize] = None;
    }

    /// Leaves what is out to the kernel for ever.
    pub fn leak(&mut self) {
        mem::take(&mut self.places).into_iter().flatten().for_each(mem::forget);
    }
}

impl NetRing {
    /// Writes all of `buffer` at `offset`; if `durable`, it is durable when that is done, which says nothing of what
    /// was written before. Returns the operation's place, by which [`FileDone`](super::Event::FileDone) names it.
    pub fn write_file(&mut self, file: Rc<DmaFile>, buffer: DmaBuffer, offset: u64, durable: bool) -> u32 {
        let (descriptor, len) = (types::Fd(file.as_raw_fd()), buffer.len() as u32);
        let write = opcode::Write::new(descriptor, buffer.as_bytes().as_ptr(), len)
            .offset(offset)
            .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
            .build();
        let place = self.files.add(FileOperation(file, Some(buffer)));
        self.push(write.user_data(user_data(Kind::File, 0, place)));
        place
    }

    /// Makes durable what has been written to `file`: that is, whose writes were done before.
    pub fn sync_file(&mut self, file: Rc<DmaFile>) -> u32 {
        let descriptor = types::Fd(file.as_raw_fd());
        let place = self.files.add(FileOperation(file, None));
        let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build();
        self.push(sync.user_data(user_data(Kind::File, 0, place)));
        place
    }

    /// Submits what is queued at once. The kernel keeps writes to itself until it has seen all that is submitted with
    /// them: behind a write, fifty sends in the same enter would keep the disk waiting for a quarter of a millisecond.
    pub fn begin_files(&mut self) -> io::Result<()> {
        self.stats.enters += 1;
        tolerate(self.ring.submit())
    }
}
