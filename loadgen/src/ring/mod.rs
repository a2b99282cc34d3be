//! A private io_uring for the client ends of many sockets, owned by one thread.
//!
//! Receives are multishot into one ring of provided buffers; everything queued since the last turn goes
//! out in the one `io_uring_enter` that also collects completions:
//!
//! ```text
//!   add(fd) ──▶ socket 0..n      send(socket, bytes) ─┐
//!                                                     ▼
//!                 wait(until) ── one io_uring_enter: submit all, wait for at least one
//!                                                     │
//!   events: Received(socket, lease) · Sent(socket) · Closed(socket, why) ◀┘
//! ```
//!
//! The bytes of a send belong to the ring until its `Sent` arrives; a received lease belongs to the
//! caller until it is given back. That is what makes the interface safe.

mod buffers;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockRef;

pub use buffers::Lease;
use buffers::ProvidedBuffers;

const SUBMISSIONS: u32 = 1024;
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// Buffers are used in turn, so a small set stays in the CPU's cache and a large one does not.
const RECEIVE_BUFFERS_MIN: usize = 64;
const RECEIVE_BUFFERS_MAX: usize = 1024;
const CLOSE_WAIT: Duration = Duration::from_secs(1);

const OP_RECEIVE: u64 = 0;
const OP_SEND: u64 = 1;

#[derive(Debug)]
pub enum Event {
    /// Bytes arrived; read them with [`Ring::bytes`], then hand the lease to [`Ring::give_back`].
    Received { socket: usize, lease: Lease },
    /// All bytes of the last send are with the kernel; [`Ring::take_buffer`] returns the memory.
    Sent { socket: usize },
    /// Nothing more will arrive. `None` is an orderly end by the peer.
    Closed { socket: usize, error: Option<io::Error> },
}

struct Socket {
    fd: OwnedFd,
    /// Bytes of the current or last send; the kernel reads them while `sending`.
    outgoing: Vec<u8>,
    sent: usize,
    sending: bool,
    receiving: bool,
    /// Out of provided buffers: to be armed again before the next wait.
    rearm: bool,
    closed: bool,
}

pub struct Ring {
    // Declared before the memory it reads and writes, so that it is closed first.
    uring: IoUring,
    buffers: ProvidedBuffers,
    sockets: Vec<Socket>,
    rearm_any: bool,
    completions: Vec<cqueue::Entry>,
}

impl Ring {
    /// A ring for about `sockets` sockets. It may be used only by the thread that made it.
    pub fn new(sockets: usize) -> io::Result<Ring> {
        let completions = (sockets * 4).next_power_of_two().clamp(2048, 65_536) as u32;
        let mut uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(completions)
            .setup_submit_all()
            .dontfork()
            .build(SUBMISSIONS)?;
        // Saves a descriptor look-up per enter; kernels without it work as well.
        let _ = uring.submitter().register_ring_fd();
        let count = (sockets * 2).next_power_of_two().clamp(RECEIVE_BUFFERS_MIN, RECEIVE_BUFFERS_MAX);
        let buffers = ProvidedBuffers::register(&mut uring, count, RECEIVE_BUFFER_BYTES)?;
        Ok(Ring { uring, buffers, sockets: Vec::new(), rearm_any: false, completions: Vec::new() })
    }

    /// Takes over a connected socket and starts receiving from it. Sockets are numbered from 0.
    pub fn add(&mut self, fd: OwnedFd) -> io::Result<usize> {
        let socket = self.sockets.len();
        self.sockets.push(Socket {
            fd,
            outgoing: Vec::new(),
            sent: 0,
            sending: false,
            receiving: false,
            rearm: false,
            closed: false,
        });
        self.arm(socket)?;
        Ok(socket)
    }

    /// Puts a new connection in the place of one that has ended.
    pub fn replace(&mut self, socket: usize, fd: OwnedFd) -> io::Result<()> {
        let slot = &mut self.sockets[socket];
        assert!(slot.closed && !slot.sending && !slot.receiving, "replace: socket {socket} is still in use");
        slot.fd = fd;
        slot.closed = false;
        slot.outgoing.clear();
        slot.sent = 0;
        self.arm(socket)
    }

    /// Ends a connection; `Closed` follows when the kernel has let go of it.
    pub fn shut_down(&mut self, socket: usize) {
        // Whoever has hung up already needs no shutdown.
        let _ = SockRef::from(&self.sockets[socket].fd).shutdown(Shutdown::Both);
    }

    /// Queues `bytes`; they leave with the next [`Ring::wait`]. One send per socket at a time.
    pub fn send(&mut self, socket: usize, bytes: Vec<u8>) -> io::Result<()> {
        let slot = &mut self.sockets[socket];
        assert!(!slot.sending, "send: socket {socket} is still sending");
        slot.outgoing = bytes;
        slot.sent = 0;
        slot.sending = true;
        self.submit_send(socket)
    }

    pub fn is_sending(&self, socket: usize) -> bool {
        self.sockets[socket].sending
    }

    /// The memory of the last send, with its bytes. Empty if a send is under way.
    pub fn take_buffer(&mut self, socket: usize) -> Vec<u8> {
        let slot = &mut self.sockets[socket];
        if slot.sending { Vec::new() } else { std::mem::take(&mut slot.outgoing) }
    }

    pub fn bytes(&self, lease: &Lease) -> &[u8] {
        self.buffers.bytes(lease)
    }

    pub fn give_back(&mut self, lease: Lease) {
        self.buffers.give_back(lease);
    }

    /// Submits what is queued, waits until something happens or `timeout` has passed (zero: not at
    /// all), and appends what happened to `events`.
    pub fn wait(&mut self, timeout: Duration, events: &mut Vec<Event>) -> io::Result<()> {
        if self.rearm_any {
            self.rearm_any = false;
            for socket in 0..self.sockets.len() {
                if std::mem::take(&mut self.sockets[socket].rearm) {
                    self.arm(socket)?;
                }
            }
        }
        self.enter(timeout)?;
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.uring.completion());
        for completion in completions.drain(..) {
            self.complete(completion, events)?;
        }
        self.completions = completions;
        Ok(())
    }

    fn enter(&mut self, timeout: Duration) -> io::Result<()> {
        let timespec = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&timespec);
        match self.uring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: nothing happened in time. EINTR: a signal. EBUSY, EAGAIN: completions must be
                // taken first, which is what follows.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn complete(&mut self, completion: cqueue::Entry, events: &mut Vec<Event>) -> io::Result<()> {
        let socket = (completion.user_data() >> 8) as usize;
        let result = completion.result();
        match completion.user_data() & 0xff {
            OP_RECEIVE => {
                let more = cqueue::more(completion.flags());
                self.sockets[socket].receiving = more;
                if result > 0 {
                    let id = cqueue::buffer_select(completion.flags()).expect("a receive names its buffer");
                    let lease = self.buffers.lease(id, result as usize);
                    events.push(Event::Received { socket, lease });
                    if !more {
                        self.sockets[socket].rearm = true;
                        self.rearm_any = true;
                    }
                } else if -result == libc::ENOBUFS || -result == libc::EINTR || -result == libc::EAGAIN {
                    self.sockets[socket].rearm = true;
                    self.rearm_any = true;
                } else {
                    let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
                    self.close(socket, error, events);
                }
            }
            OP_SEND => {
                self.sockets[socket].sending = false;
                if result < 0 {
                    let error = io::Error::from_raw_os_error(-result);
                    self.close(socket, Some(error), events);
                } else {
                    let slot = &mut self.sockets[socket];
                    slot.sent += result as usize;
                    if slot.sent < slot.outgoing.len() {
                        slot.sending = true;
                        self.submit_send(socket)?;
                    } else {
                        events.push(Event::Sent { socket });
                    }
                }
            }
            other => unreachable!("completion of an operation {other} that was never submitted"),
        }
        Ok(())
    }

    /// Reports the end of a connection once, whichever operation noticed it first.
    fn close(&mut self, socket: usize, error: Option<io::Error>, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.sockets[socket].closed, true) {
            events.push(Event::Closed { socket, error });
        }
    }

    fn arm(&mut self, socket: usize) -> io::Result<()> {
        let fd = types::Fd(self.sockets[socket].fd.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, buffers::GROUP).build().user_data((socket as u64) << 8 | OP_RECEIVE);
        self.sockets[socket].receiving = true;
        self.push(entry)
    }

    fn submit_send(&mut self, socket: usize) -> io::Result<()> {
        let slot = &self.sockets[socket];
        let unsent = &slot.outgoing[slot.sent..];
        let length = u32::try_from(unsent.len()).unwrap_or(u32::MAX);
        // MSG_WAITALL: the kernel goes on by itself after a short send.
        let entry = opcode::Send::new(types::Fd(slot.fd.as_raw_fd()), unsent.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data((socket as u64) << 8 | OP_SEND);
        self.push(entry)
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: a receive writes only into `buffers`, which outlive the ring (see Drop). A send reads
        // `outgoing` of its socket: that vector is neither touched nor moved out while `sending` is set
        // (send and replace assert it, take_buffer checks it), sockets are never removed, and moving
        // the vector's header does not move its bytes.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.uring.submit()?;
        }
        Ok(())
    }
}

impl Drop for Ring {
    /// Waits until the kernel has let go of all memory; if it does not, that memory is leaked instead.
    fn drop(&mut self) {
        for socket in 0..self.sockets.len() {
            self.shut_down(socket);
        }
        let started = std::time::Instant::now();
        let mut events = Vec::new();
        while self.sockets.iter().any(|socket| socket.sending || socket.receiving) {
            if started.elapsed() > CLOSE_WAIT || self.wait(Duration::from_millis(20), &mut events).is_err() {
                self.buffers.leak();
                for socket in &mut self.sockets {
                    std::mem::forget(std::mem::take(&mut socket.outgoing));
                }
                return;
            }
            for event in events.drain(..) {
                if let Event::Received { lease, .. } = event {
                    self.buffers.give_back(lease);
                }
            }
        }
    }
}
