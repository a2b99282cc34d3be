//! The files of a core's log. Making and removing them takes several steps each, in tasks of the core's executor; to
//! write and sync those that are there is one operation each, on the core's own ring (see
//! [`ring::file`](super::super::ring)), because replies wait for it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::GlommioError;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use super::super::background::{Background, UnderWay};
use super::directory::{file_name, sync_directory};
use crate::wal::writer::{Failure, Operation, Work};

/// Files made or removed at a time.
const WORKERS: usize = 2;
/// A new file is filled with zeros in pieces of this size, so many at a time: on a busy core each takes two turns.
const ZEROS_BYTES: usize = 512 * 1024;
const ZEROS_AT_A_TIME: u64 = 4;

/// An operation that has ended.
pub type Done = (u64, Work, Result<(), Failure>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Operation>,
    done: Vec<Done>,
    /// Operations handed in and not taken back.
    out: usize,
    idle: Vec<Waker>,
    /// Who waits for something to be done.
    waker: Option<Waker>,
}

#[derive(Clone)]
pub struct Driver {
    queue: Rc<RefCell<Queue>>,
    files: Rc<Files>,
    background: Background,
    under_way: Rc<RefCell<Option<UnderWay>>>,
}

struct Files {
    /// Where the files are once the layout counts, and where they are until then.
    valid: PathBuf,
    unfinished: PathBuf,
    core: u32,
    open: RefCell<HashMap<u32, Rc<DmaFile>>>,
}

impl Driver {
    /// Starts the workers; the files are in `unfinished` until there is `valid`.
    pub async fn start(valid: PathBuf, unfinished: PathBuf, core: u32, background: Background) -> io::Result<Driver> {
        let existing = if valid.is_dir() { &valid } else { &unfinished };
        probe(existing, core).await?;
        let files = Rc::new(Files { valid, unfinished, core, open: RefCell::default() });
        let driver = Driver { queue: Rc::default(), files: files.clone(), background, under_way: Rc::default() };
        for _ in 0..WORKERS {
            let (queue, files) = (driver.queue.clone(), files.clone());
            glommio::spawn_local(async move {
                loop {
                    let Operation { id, work } = next(&queue).await;
                    let result = files.carry_out(&work).await;
                    let mut queue = queue.borrow_mut();
                    queue.done.push((id, work, result));
                    if let Some(waker) = queue.waker.take() {
                        waker.wake();
                    }
                }
            })
            .detach();
        }
        Ok(driver)
    }

    /// A file that the writer writes to: it was made ready here.
    pub fn file(&self, file: u32) -> Rc<DmaFile> {
        self.files.open.borrow().get(&file).expect("a segment is prepared before it is written to").clone()
    }

    /// To make or remove a file.
    pub fn submit(&self, operation: Operation) {
        let mut queue = self.queue.borrow_mut();
        if queue.out == 0 {
            *self.under_way.borrow_mut() = Some(self.background.begin());
        }
        queue.out += 1;
        queue.waiting.push_back(operation);
        if let Some(waker) = queue.idle.pop() {
            waker.wake();
        }
    }

    /// The next operation that has ended.
    pub fn done(&self) -> Option<Done> {
        let mut queue = self.queue.borrow_mut();
        let done = queue.done.pop()?;
        queue.out -= 1;
        if queue.out == 0 {
            *self.under_way.borrow_mut() = None;
        }
        Some(done)
    }

    /// Whether operations are out.
    pub fn is_busy(&self) -> bool {
        self.queue.borrow().out > 0
    }

    pub fn has_done(&self) -> bool {
        !self.queue.borrow().done.is_empty()
    }

    /// Returns when an operation has ended.
    pub async fn wait_done(&self) {
        poll_fn(|context| {
            let mut queue = self.queue.borrow_mut();
            if !queue.done.is_empty() {
                return Poll::Ready(());
            }
            queue.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

async fn next(queue: &RefCell<Queue>) -> Operation {
    poll_fn(|context| {
        let mut queue = queue.borrow_mut();
        match queue.waiting.pop_front() {
            Some(operation) => Poll::Ready(operation),
            None => {
                queue.idle.push(context.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

/// The first file of an executor decides, wrongly if it is empty and readable, how all are polled (see DESIGN).
async fn probe(directory: &std::path::Path, core: u32) -> io::Result<()> {
    let path = directory.join(format!("probe-{core}"));
    let file = DmaFile::create(&path).await.map_err(into_io)?;
    file.close().await.map_err(into_io)?;
    std::fs::remove_file(path)
}

impl Files {
    async fn carry_out(&self, work: &Work) -> Result<(), Failure> {
        let result = match work {
            Work::Prepare { file, create, header } => self.prepare(*file, *create, header).await,
            Work::Remove { file } => self.remove(*file).await,
            Work::Write { .. } | Work::Sync { .. } => unreachable!("what is written goes to the ring"),
        };
        result.map_err(|error| failure(work, error))
    }

    fn directory(&self) -> PathBuf {
        if self.valid.is_dir() { self.valid.clone() } else { self.unfinished.clone() }
    }

    fn path(&self, file: u32) -> PathBuf {
        self.directory().join(file_name(self.core, file))
    }

    async fn open(&self, file: u32) -> io::Result<Rc<DmaFile>> {
        if let Some(open) = self.open.borrow().get(&file) {
            return Ok(open.clone());
        }
        let mut opened = OpenOptions::new().write(true).dma_open(self.path(file)).await.map_err(into_io);
        if opened.as_ref().is_err_and(was_renamed) {
            opened = OpenOptions::new().write(true).dma_open(self.path(file)).await.map_err(into_io);
        }
        let opened = Rc::new(opened?);
        self.open.borrow_mut().insert(file, opened.clone());
        Ok(opened)
    }

    async fn prepare(&self, file: u32, create: bool, header: &[u8]) -> io::Result<()> {
        if create && let Err(error) = self.create(file, header).await {
            // Half a file would take the space that somebody has to free.
            self.open.borrow_mut().remove(&file);
            let _ = std::fs::remove_file(self.path(file));
            return Err(error);
        }
        self.write(file, 0, header).await?;
        self.sync(file).await?;
        if create {
            self.sync_directory().await?;
        }
        Ok(())
    }

    async fn create(&self, file: u32, header: &[u8]) -> io::Result<()> {
        let bytes = u64::from_le_bytes(*header[16..].first_chunk().expect("a header is longer"));
        let mut created = DmaFile::create(self.path(file)).await.map_err(into_io);
        if created.as_ref().is_err_and(was_renamed) {
            created = DmaFile::create(self.path(file)).await.map_err(into_io);
        }
        let created = Rc::new(created?);
        self.open.borrow_mut().insert(file, created.clone());
        created.pre_allocate(bytes, false).await.map_err(into_io)?;
        let fillers: Vec<_> =
            (0..ZEROS_AT_A_TIME).map(|at| glommio::spawn_local(fill_with_zeros(created.clone(), bytes, at))).collect();
        let mut filled = Ok(());
        for filler in fillers {
            filled = filled.and(filler.await);
        }
        filled
    }

    async fn write(&self, file: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open(file).await?;
        write_all(&file, buffer_of(&file, bytes), offset).await
    }

    async fn sync(&self, file: u32) -> io::Result<()> {
        self.open(file).await?.fdatasync().await.map_err(into_io)
    }

    async fn remove(&self, file: u32) -> io::Result<()> {
        if let Some(open) = self.open.borrow_mut().remove(&file) {
            drop(open);
        }
        let path = self.path(file);
        glommio::executor().spawn_blocking(move || std::fs::remove_file(path)).await?;
        self.sync_directory().await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        let (directory, valid) = (self.directory(), self.valid.clone());
        let sync = move || match sync_directory(&directory) {
            Err(error) if was_renamed(&error) => sync_directory(&valid),
            other => other,
        };
        glommio::executor().spawn_blocking(sync).await
    }
}

/// Every [`ZEROS_AT_A_TIME`]th piece, from number `at` on.
async fn fill_with_zeros(file: Rc<DmaFile>, bytes: u64, at: u64) -> io::Result<()> {
    let mut offset = at * ZEROS_BYTES as u64;
    while offset < bytes {
        let mut zeros = file.alloc_dma_buffer((bytes - offset).min(ZEROS_BYTES as u64) as usize);
        zeros.as_bytes_mut().fill(0);
        write_all(&file, zeros, offset).await?;
        offset += ZEROS_AT_A_TIME * ZEROS_BYTES as u64;
    }
    Ok(())
}

/// The bytes as direct I/O wants them.
pub fn buffer_of(file: &DmaFile, bytes: &[u8]) -> DmaBuffer {
    let mut buffer = file.alloc_dma_buffer(bytes.len());
    buffer.as_bytes_mut().copy_from_slice(bytes);
    buffer
}

/// What to make of an operation that has failed.
pub fn failure(work: &Work, error: io::Error) -> Failure {
    let doing = match work {
        Work::Prepare { .. } => "making a segment",
        Work::Write { .. } => "writing",
        Work::Sync { .. } => "making data durable",
        Work::Remove { .. } => "removing a segment",
    };
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Failure::NoSpace,
        _ => Failure::Broken(format!("{doing}: {error}")),
    }
}

/// What to make of how the ring says that it has ended.
pub fn outcome(work: &Work, result: i32) -> Result<(), Failure> {
    match work {
        _ if result < 0 => Err(failure(work, io::Error::from_raw_os_error(-result))),
        // A device that takes only a part has no more room.
        Work::Write { bytes, .. } if (result as usize) < bytes.len() => Err(Failure::NoSpace),
        _ => Ok(()),
    }
}

/// The layout was made valid between the look at where it is and its use.
fn was_renamed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

async fn write_all(file: &DmaFile, buffer: DmaBuffer, offset: u64) -> io::Result<()> {
    let len = buffer.len();
    match file.write_at(buffer, offset).await {
        Ok(written) if written == len => Ok(()),
        // A device that takes only a part has no more room.
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Err(error) => Err(into_io(error)),
    }
}

/// The system's own error: whether the disk is full is known by its number.
pub fn into_io(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) | GlommioError::EnhancedIoError { source: error, .. } => error,
        other => io::Error::other(other.to_string()),
    }
}
