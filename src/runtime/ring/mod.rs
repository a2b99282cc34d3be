//! A core's private io_uring for client sockets, and for what is written to the log. The only code that hands memory to the kernel: every
//! buffer in flight is owned by this module until its completion has been seen.
//!
//! ```text
//!   SQE  accept (multishot) · receive (multishot, kernel picks a buffer) · receive into a large value
//!        send (one per socket at a time) · cancel · close · read of the doorbell · write and sync of a file
//! ```
//!
//! A socket's place (`index`) is free again only when its last operation has completed and its
//! descriptor is closed, so no completion can ever meet a stranger.

mod buffers;
mod file;
mod operation;
mod rounds;
mod socket;
mod word;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use self::buffers::{BUFFER_GROUP, ReceiveBuffers};
use self::file::FileOperations;
use self::operation::{Completion, Kind, user_data};
use self::rounds::{Next, Rounds};
use self::socket::{Message, Receiving, Sending, Socket, unsent_pieces};
use self::word::Word;
use crate::connection::{LargeIn, Received};
use crate::limits;
use crate::reply::Out;

const SUBMISSION_ENTRIES: u32 = 1024;
const COMPLETION_ENTRIES: u32 = 8192;

/// With so many sockets active, a wait after a turn that heard several of them collects more before it
/// ends: waking up for a few at a time costs more than anything that is done for them.
const GATHERING_SOCKETS_MIN: u32 = 100;
const GATHERING_RECEIVES_MIN: u64 = 3;
/// One of so many active sockets is waited for, but not longer than this.
const GATHERED_SHARE: u32 = 12;
const GATHERING_US: u32 = 60;
/// Enters that may fail one after the other while there is no room in the submission queue.
const ENTER_ATTEMPTS_MAX: u32 = 1000;

/// What has happened since the ring was last entered.
pub enum Event {
    /// A connection has been accepted on listener `listener`.
    Accepted { listener: u32, socket: OwnedFd },
    /// The listener accepts no more until it is armed again.
    AcceptStopped { listener: u32, errno: i32 },
    /// Bytes are in `buffer`, which must be given back.
    Received { index: u32, buffer: u16 },
    /// Nothing more is received until the socket is armed again.
    ReceiveStopped { index: u32, why: Stopped },
    /// Some of a large value has arrived where it belongs.
    LargeReceived { index: u32, large: LargeIn, end: Option<Stopped> },
    /// Everything handed to the last send is with the kernel.
    Sent { index: u32, out: Out },
    /// The peer takes no more.
    SendFailed { index: u32, out: Out },
    /// The place is free for another connection.
    Closed { index: u32 },
    /// Another core has rung.
    Doorbell,
    /// The operation on a file that was given this place has ended with this many bytes, or less an error's number.
    FileDone { place: u32, result: i32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The peer has shut down its side.
    End,
    /// By [`NetRing::stop_receiving`].
    Cancelled,
    /// No receive buffer was free, or the kernel ended the multishot for reasons of its own.
    Exhausted,
    Failed(i32),
}

pub struct NetRing {
    ring: IoUring,
    buffers: ReceiveBuffers,
    sockets: Vec<Socket>,
    free: Vec<u32>,
    /// Descriptor, and whether one accept stays armed for all clients.
    listeners: Vec<(RawFd, bool)>,
    /// Accepts that are armed: the kernel holds on to their listeners until they have ended.
    accepting: u32,
    accepting_ended: bool,
    doorbell: RawFd,
    doorbell_value: Box<u64>,
    files: FileOperations,
    rounds: Rounds,
    /// Sockets whose send failed for want of memory.
    starved: Vec<u32>,
    /// Sockets heard in this period so far, and in the last one.
    period: u32,
    active_now: u32,
    active: u32,
    /// Receives when the last wait ended.
    receives_before: u64,
    /// The kernel can wait for several completions and be content with one after a while (6.12).
    can_gather: bool,
    /// Sends submitted by the next enter that will, as far as can be known, complete within it.
    prompt_sends: usize,
    word: Word,
    pub stats: RingStats,
}

/// What the ring has done, for the core's counters.
#[derive(Default, Clone, Copy)]
pub struct RingStats {
    pub enters: u64,
    pub receives_armed: u64,
    pub receives: u64,
    pub sends: u64,
    pub sends_done: u64,
    pub bytes_sent: u64,
}

impl Received for NetRing {
    #[inline]
    fn bytes(&self, buffer: u16) -> &[u8] {
        self.buffers.bytes(buffer)
    }
}

impl NetRing {
    /// `doorbell` is the eventfd by which other cores wake this one.
    pub fn new(doorbell: RawFd) -> io::Result<NetRing> {
        NetRing::with_buffers(doorbell, limits::RECV_BUFFERS, limits::RECV_BUFFER_BYTES)
    }

    pub fn with_buffers(doorbell: RawFd, count: u16, buffer_bytes: usize) -> io::Result<NetRing> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        // Saves a descriptor look-up per enter; kernels that cannot simply go without.
        let _ = ring.submitter().register_ring_fd();
        let buffers = ReceiveBuffers::new(&ring, count, buffer_bytes)?;
        let can_gather = ring.params().is_feature_min_timeout();
        let mut ring = NetRing {
            ring,
            buffers,
            sockets: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            accepting: 0,
            accepting_ended: false,
            doorbell,
            doorbell_value: Box::new(0),
            files: FileOperations::default(),
            rounds: Rounds::default(),
            starved: Vec::new(),
            period: 1,
            active_now: 0,
            active: 0,
            receives_before: 0,
            can_gather,
            prompt_sends: 0,
            word: Word::default(),
            stats: RingStats::default(),
        };
        ring.arm_doorbell();
        Ok(ring)
    }

    // ---- submitting -----------------------------------------------------------------------------

    fn push(&mut self, entry: squeue::Entry) {
        for _ in 0..ENTER_ATTEMPTS_MAX {
            // SAFETY: every buffer an entry points to is owned by `self` until its completion (see `Socket` and
            // `FileOperation`), and every descriptor is open until then.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.stats.enters += 1;
            if let Err(error) = self.ring.submit() {
                // EBUSY and EAGAIN: completions have to be taken first, which makes room.
                self.collect();
                let is_passing = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR));
                assert!(is_passing, "io_uring_enter: {error}");
            }
        }
        panic!("io_uring_enter takes nothing, {ENTER_ATTEMPTS_MAX} times in a row");
    }

    fn arm_doorbell(&mut self) {
        let value = std::ptr::from_mut(self.doorbell_value.as_mut()).cast::<u8>();
        let read = opcode::Read::new(Fd(self.doorbell), value, 8).build().user_data(user_data(Kind::Doorbell, 0, 0));
        self.push(read);
    }

    /// Accepts on `listener` (which outlives the ring) until an error stops it. A listener that several
    /// cores share has to be accepted from one shot at a time, or the first of them gets every client.
    pub fn add_listener(&mut self, listener: RawFd, multishot: bool) -> u32 {
        let index = self.listeners.len() as u32;
        self.listeners.push((listener, multishot));
        self.accept_on(index);
        index
    }

    pub fn accept_on(&mut self, listener: u32) {
        if self.accepting_ended {
            return;
        }
        self.accepting += 1;
        let (descriptor, multishot) = self.listeners[listener as usize];
        let accept = if multishot {
            opcode::AcceptMulti::new(Fd(descriptor)).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let nobody = std::ptr::null_mut();
            opcode::Accept::new(Fd(descriptor), nobody, nobody.cast()).flags(libc::SOCK_CLOEXEC).build()
        };
        self.push(accept.user_data(user_data(Kind::Accept, 0, listener)));
    }

    /// Stops accepting for good; done when [`NetRing::is_accepting`] says so.
    pub fn stop_accepting(&mut self) {
        self.accepting_ended = true;
        for listener in 0..self.listeners.len() as u32 {
            self.cancel(user_data(Kind::Accept, 0, listener));
        }
    }

    pub fn is_accepting(&self) -> bool {
        self.accepting > 0
    }

    fn cancel(&mut self, target: u64) {
        let cancel = opcode::AsyncCancel::new(target).build();
        self.push(cancel.user_data(user_data(Kind::Cancel, 0, 0)));
    }

    /// Takes an accepted socket in and starts to receive from it.
    pub fn add_socket(&mut self, descriptor: OwnedFd) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(Socket::default());
            self.sockets.len() as u32 - 1
        });
        let socket = &mut self.sockets[index as usize];
        debug_assert_eq!(socket.operations, 0);
        socket.descriptor = Some(descriptor);
        socket.slow = false;
        socket.generation = socket.generation.wrapping_add(1);
        socket.closing = false;
        self.rounds.admit(index);
        self.receive(index);
        index
    }

    /// Receives into buffers of the kernel's choice until it is stopped.
    pub fn receive(&mut self, index: u32) {
        let socket = &mut self.sockets[index as usize];
        if socket.receiving != Receiving::Idle || socket.closing || socket.large.is_some() {
            return;
        }
        socket.receiving = Receiving::Armed;
        socket.operations += 1;
        let data = user_data(Kind::Receive, socket.generation, index);
        let receive = opcode::RecvMulti::new(socket.descriptor(), BUFFER_GROUP).build().user_data(data);
        self.stats.receives_armed += 1;
        self.push(receive);
    }

    /// Ends receiving; [`Event::ReceiveStopped`] follows, after what has already arrived.
    pub fn stop_receiving(&mut self, index: u32) {
        let socket = &mut self.sockets[index as usize];
        if socket.receiving == Receiving::Armed {
            socket.receiving = Receiving::Stopping;
            let target = user_data(Kind::Receive, socket.generation, index);
            self.cancel(target);
        }
    }

    pub fn is_receiving(&self, index: u32) -> bool {
        self.sockets[index as usize].receiving != Receiving::Idle
    }

    /// Receives the rest of a large value straight into its memory. Only while not receiving otherwise.
    pub fn receive_large(&mut self, index: u32, mut large: LargeIn) {
        let missing = large.missing().min(limits::LARGE_RECEIVE_BYTES_MAX);
        let socket = &mut self.sockets[index as usize];
        debug_assert!(socket.receiving == Receiving::Idle && socket.large.is_none());
        let buffer = large.buffer();
        debug_assert!(buffer.capacity() - buffer.len() >= missing);
        // SAFETY: within the allocation: `len` is at most `capacity`.
        let start = unsafe { buffer.as_mut_ptr().add(buffer.len()) };
        socket.large = Some(large);
        socket.operations += 1;
        let data = user_data(Kind::ReceiveLarge, socket.generation, index);
        let receive = opcode::Recv::new(socket.descriptor(), start, missing as u32)
            .flags(libc::MSG_WAITALL)
            .build()
            .user_data(data);
        self.push(receive);
    }

    pub fn is_sending(&self, index: u32) -> bool {
        self.sockets[index as usize].sending.is_some()
    }

    pub fn is_closing(&self, index: u32) -> bool {
        self.sockets[index as usize].closing
    }

    /// Sends all of `out`. Only while the socket is not sending.
    pub fn send(&mut self, index: u32, out: Out) {
        let socket = &mut self.sockets[index as usize];
        debug_assert!(socket.sending.is_none() && !socket.closing && !out.is_empty());
        if out.len() <= limits::RECV_BUFFER_BYTES && !socket.slow {
            self.prompt_sends += 1;
        }
        socket.sent_in_enter = self.stats.enters;
        socket.sending = Some(Sending { out, sent: 0, message: None });
        self.submit_send(index);
    }

    fn submit_send(&mut self, index: u32) {
        self.stats.sends += 1;
        let socket = &mut self.sockets[index as usize];
        let descriptor = socket.descriptor();
        socket.operations += 1;
        let data = user_data(Kind::Send, socket.generation, index);
        let Some(sending) = &mut socket.sending else { return };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = if sending.out.large.is_empty() {
            let rest = &sending.out.bytes[sending.sent..];
            let rest = &rest[..rest.len().min(limits::SEND_BYTES_MAX)];
            opcode::Send::new(descriptor, rest.as_ptr(), rest.len() as u32).flags(flags).build()
        } else {
            let mut pieces = sending.message.take().map_or_else(Vec::new, |message| message.pieces);
            pieces.clear();
            unsent_pieces(&sending.out, sending.sent, &mut pieces);
            // SAFETY: all zeroes is a valid msghdr.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_iov = pieces.as_mut_ptr();
            header.msg_iovlen = pieces.len();
            let message = sending.message.insert(Box::new(Message { header, pieces }));
            opcode::SendMsg::new(descriptor, &message.header).flags(flags as u32).build()
        };
        self.push(entry.user_data(data));
    }

    /// The peer gets everything that was sent and then the end of the stream; receiving goes on.
    pub fn end_stream(&self, index: u32) {
        if let Some(descriptor) = &self.sockets[index as usize].descriptor {
            // A peer that has gone meanwhile is noticed by receiving.
            let _ = socket2::SockRef::from(descriptor).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Whether sends wait for [`NetRing::retry_sends`].
    pub fn has_starved_sends(&self) -> bool {
        !self.starved.is_empty()
    }

    /// Tries the sends again that failed for want of memory.
    pub fn retry_sends(&mut self) {
        for index in std::mem::take(&mut self.starved) {
            let socket = &mut self.sockets[index as usize];
            socket.operations -= 1;
            if socket.closing {
                socket.sending = None;
                self.close_if_idle(index);
            } else {
                self.submit_send(index);
            }
        }
    }

    /// Closes the socket as soon as its operations have ended; [`Event::Closed`] follows.
    pub fn close(&mut self, index: u32) {
        let socket = &mut self.sockets[index as usize];
        if socket.closing {
            return;
        }
        socket.closing = true;
        self.rounds.leave(index);
        let generation = socket.generation;
        let (receiving, large, sending) = (socket.receiving, socket.large.is_some(), socket.sending.is_some());
        if receiving == Receiving::Armed {
            self.cancel(user_data(Kind::Receive, generation, index));
        }
        if large {
            self.cancel(user_data(Kind::ReceiveLarge, generation, index));
        }
        if sending {
            self.cancel(user_data(Kind::Send, generation, index));
        }
        self.close_if_idle(index);
    }

    fn close_if_idle(&mut self, index: u32) {
        let socket = &mut self.sockets[index as usize];
        // Receives that wait in the backlog are this client's, and must not meet the next one in its place.
        if socket.closing
            && socket.operations == 0
            && !self.rounds.has_waiting(index)
            && let Some(descriptor) = socket.descriptor.take()
        {
            socket.operations = 1;
            let data = user_data(Kind::Close, socket.generation, index);
            let close = opcode::Close::new(Fd(std::os::fd::IntoRawFd::into_raw_fd(descriptor))).build();
            self.push(close.user_data(data));
        }
    }

    /// Gives a receive buffer back; the kernel may use it after [`NetRing::publish_buffers`].
    pub fn give_back(&mut self, buffer: u16) {
        self.buffers.offer(buffer);
    }

    pub fn publish_buffers(&mut self) {
        self.buffers.publish();
    }

    // ---- entering -------------------------------------------------------------------------------

    /// Submits what is queued and takes what has completed, without waiting.
    pub fn poll(&mut self) -> io::Result<()> {
        self.prompt_sends = 0;
        let submission = self.ring.submission();
        let is_due = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if is_due {
            self.stats.enters += 1;
            tolerate(self.ring.submit())?;
        }
        let has_brought = self.collect();
        let stands = is_due && !has_brought && self.ring.submission().taskrun();
        self.word.entered(has_brought, stands);
        Ok(())
    }

    /// Submits what is queued and waits until something happens other than those sends being done; a little
    /// longer when much is about to happen.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut want = 1 + std::mem::take(&mut self.prompt_sends);
        let time = Timespec::from(timeout);
        let mut args = SubmitArgs::new().timespec(&time);
        let received = self.stats.receives - std::mem::replace(&mut self.receives_before, self.stats.receives);
        if self.can_gather && self.active >= GATHERING_SOCKETS_MIN && received >= GATHERING_RECEIVES_MIN {
            want += (self.active / GATHERED_SHARE) as usize;
            args = args.min_wait_usec(GATHERING_US);
        }
        self.stats.enters += 1;
        tolerate(self.ring.submitter().submit_with_args(want, &args))?;
        self.collect();
        Ok(())
    }

    /// Counts the active sockets anew. Called every few milliseconds.
    pub fn begin_period(&mut self) {
        self.period = self.period.wrapping_add(1);
        self.active = std::mem::take(&mut self.active_now);
    }

    /// Sockets heard in the last period.
    #[inline]
    pub fn active_sockets(&self) -> u32 {
        self.active
    }

    /// Whether there is something to submit.
    pub fn has_submissions(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Names the eventfd that [`NetRing::signal_completions`] turns on and off.
    pub fn signal_completions_to(&mut self, eventfd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd)?;
        self.signal_completions(false);
        Ok(())
    }

    pub fn signal_completions(&mut self, on: bool) {
        let completions = self.ring.completion();
        if on { completions.enable_eventfd() } else { completions.disable_eventfd() }
    }

    /// Whether events have been taken from the kernel and not yet from here.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Whether the kernel has something for us, seen without a system call.
    #[inline]
    pub fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.word.is_believed() && self.ring.submission().taskrun()
    }

    /// The same for certain: where the kernel's word cannot be believed, it is asked.
    pub fn is_ready_indeed(&mut self) -> io::Result<bool> {
        if !self.is_ready() && self.ring.submission().taskrun() {
            self.poll()?;
        }
        Ok(self.has_events() || self.is_ready())
    }

    /// Whether there was anything.
    fn collect(&mut self) -> bool {
        let completions = self.ring.completion();
        let has_any = !completions.is_empty();
        self.rounds.extend(completions.map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        has_any
    }

    /// The next thing that happened: in the order of the kernel, but only one receive of each socket in each
    /// round. `None` ends the round.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            match self.rounds.next()? {
                Next::Crowded(index) => self.stop_receiving(index),
                Next::Completion(completion) => {
                    if let Some(event) = self.event(completion) {
                        return Some(event);
                    }
                }
            }
        }
    }

    fn event(&mut self, completion: Completion) -> Option<Event> {
        let Completion { result, flags, .. } = completion;
        let index = completion.index();
        if completion.is(Kind::Receive) {
            self.received(index, result, flags)
        } else if completion.is(Kind::Send) {
            self.sent(index, result)
        } else if completion.is(Kind::ReceiveLarge) {
            self.large_received(index, result)
        } else if completion.is(Kind::Accept) {
            let more = cqueue::more(flags);
            self.accepting -= !more as u32;
            if result >= 0 {
                // SAFETY: the kernel has just made this descriptor for us.
                let socket = unsafe { std::os::fd::FromRawFd::from_raw_fd(result) };
                if !more {
                    self.accept_on(index);
                }
                Some(Event::Accepted { listener: index, socket })
            } else {
                Some(Event::AcceptStopped { listener: index, errno: -result })
            }
        } else if completion.is(Kind::Close) {
            let socket = &mut self.sockets[index as usize];
            socket.operations = 0;
            socket.closing = false;
            self.free.push(index);
            Some(Event::Closed { index })
        } else if completion.is(Kind::Doorbell) {
            self.arm_doorbell();
            Some(Event::Doorbell)
        } else if completion.is(Kind::File) {
            self.files.ended(completion);
            Some(Event::FileDone { place: index, result })
        } else {
            None
        }
    }

    fn received(&mut self, index: u32, result: i32, flags: u32) -> Option<Event> {
        let more = cqueue::more(flags);
        let socket = &mut self.sockets[index as usize];
        if !more {
            socket.operations -= 1;
        }
        if let Some(buffer) = cqueue::buffer_select(flags) {
            self.buffers.filled(buffer, result.max(0) as u32);
            let dropped = socket.closing || result <= 0;
            if !more {
                let was = std::mem::replace(&mut socket.receiving, Receiving::Idle);
                // The multishot ended with data: report the data now and the end right after it.
                let errno = if was == Receiving::Stopping { -libc::ECANCELED } else { -libc::ENOBUFS };
                let errno = if result < 0 { result } else { errno };
                socket.operations += 1;
                socket.receiving = Receiving::Armed;
                let user_data = user_data(Kind::Receive, socket.generation, index);
                self.rounds.follow_up(Completion { user_data, result: errno, flags: 0 });
            }
            if dropped {
                self.buffers.offer(buffer);
                self.buffers.publish();
                self.close_if_idle(index);
                return None;
            }
            if socket.active_in != self.period {
                socket.active_in = self.period;
                self.active_now += 1;
            }
            self.stats.receives += 1;
            return Some(Event::Received { index, buffer });
        }
        if more {
            return None;
        }
        socket.receiving = Receiving::Idle;
        if socket.closing {
            self.close_if_idle(index);
            return None;
        }
        let why = match -result {
            0 => Stopped::End,
            libc::ECANCELED => Stopped::Cancelled,
            libc::ENOBUFS | libc::EINTR | libc::EAGAIN => Stopped::Exhausted,
            errno => Stopped::Failed(errno),
        };
        Some(Event::ReceiveStopped { index, why })
    }

    fn large_received(&mut self, index: u32, result: i32) -> Option<Event> {
        let socket = &mut self.sockets[index as usize];
        socket.operations -= 1;
        let mut large = socket.large.take()?;
        if socket.closing {
            self.close_if_idle(index);
            return None;
        }
        if result > 0 {
            let buffer = large.buffer();
            let len = buffer.len() + result as usize;
            assert!(len <= buffer.capacity());
            // SAFETY: the kernel has written `result` bytes behind the old length, within the capacity.
            unsafe { buffer.set_len(len) };
            self.stats.receives += 1;
            return Some(Event::LargeReceived { index, large, end: None });
        }
        let end = match -result {
            0 => Stopped::End,
            libc::ECANCELED => Stopped::Cancelled,
            libc::EINTR | libc::EAGAIN => return Some(Event::LargeReceived { index, large, end: None }),
            errno => Stopped::Failed(errno),
        };
        Some(Event::LargeReceived { index, large, end: Some(end) })
    }

    /// How much of the send under way the socket has taken.
    pub fn taken_of_send(&self, index: u32) -> u64 {
        self.sockets.get(index as usize).and_then(|socket| socket.sending.as_ref()).map_or(0, |it| it.sent as u64)
    }

    fn sent(&mut self, index: u32, result: i32) -> Option<Event> {
        let socket = &mut self.sockets[index as usize];
        socket.operations -= 1;
        let sending = socket.sending.as_mut()?;
        if result > 0 {
            sending.sent += result as usize;
            self.stats.bytes_sent += result as u64;
        }
        let is_starved = matches!(-result, libc::ENOBUFS | libc::ENOMEM);
        let failed = result < 0 && !is_starved && !matches!(-result, libc::EAGAIN | libc::EINTR);
        if sending.sent < sending.out.len() && !failed && !socket.closing {
            if is_starved {
                // Another attempt at once would find no more memory than this one.
                socket.operations += 1;
                self.starved.push(index);
            } else {
                self.submit_send(index);
            }
            return None;
        }
        let whole = sending.sent == sending.out.len();
        socket.slow = self.stats.enters > socket.sent_in_enter + 1;
        let out = socket.sending.take()?.out;
        if socket.closing {
            self.close_if_idle(index);
            return None;
        }
        self.stats.sends_done += 1;
        Some(if whole { Event::Sent { index, out } } else { Event::SendFailed { index, out } })
    }

    /// Places in use.
    pub fn open_sockets(&self) -> usize {
        self.sockets.len() - self.free.len()
    }

    /// Every socket that is open and not being closed.
    pub fn open_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        let open = |socket: &Socket| socket.descriptor.is_some() && !socket.closing;
        (0..self.sockets.len() as u32).filter(move |&index| open(&self.sockets[index as usize]))
    }
}

impl Drop for NetRing {
    /// The kernel ends what is under way some time after the ring is closed, and may write until then: what
    /// it may write to or read from is leaked rather than freed. Nothing is under way after an orderly end
    /// but the read of the doorbell.
    fn drop(&mut self) {
        std::mem::forget(std::mem::take(&mut self.doorbell_value));
        self.files.leak();
        if self.sockets.iter().any(|socket| socket.operations > 0) {
            std::mem::forget(std::mem::take(&mut self.sockets));
            self.buffers.leak = true;
        } else if let Err(error) = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP) {
            // The kernel may still know the buffers.
            self.buffers.leak = true;
            tracing::debug!(%error, "the receive buffers could not be unregistered");
        }
        // A registered descriptor keeps the ring alive until its thread ends.
        let _ = self.ring.submitter().unregister_ring_fd();
    }
}

/// Interruptions and time-outs are not failures; a full completion queue is emptied by the caller.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}
