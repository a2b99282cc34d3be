//! A socket and what the kernel is doing with it.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types::Fd;

use crate::connection::LargeIn;
use crate::limits;
use crate::reply::Out;

/// Pieces of one vectored send; the kernel's own limit.
const IOVECS_MAX: usize = 1024;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Receiving {
    #[default]
    Idle,
    Armed,
    /// A cancel is under way.
    Stopping,
}

pub struct Sending {
    pub out: Out,
    /// Bytes of `out` that the kernel has taken.
    pub sent: usize,
    /// For sends in several pieces; boxed because the kernel reads them after submission.
    pub message: Option<Box<Message>>,
}

pub struct Message {
    pub header: libc::msghdr,
    pub pieces: Vec<libc::iovec>,
}

#[derive(Default)]
pub struct Socket {
    pub descriptor: Option<OwnedFd>,
    pub generation: u32,
    pub receiving: Receiving,
    pub large: Option<LargeIn>,
    pub sending: Option<Sending>,
    /// Operations whose last completion has not been seen.
    pub operations: u32,
    pub closing: bool,
    /// Its last send was not done in the enter that submitted it, so the next may not be either.
    pub slow: bool,
    pub sent_in_enter: u64,
    /// The last period in which something of it was received.
    pub active_in: u32,
}

impl Socket {
    /// Of a socket that is open.
    pub fn descriptor(&self) -> Fd {
        Fd(self.descriptor.as_ref().expect("an open socket has a descriptor").as_raw_fd())
    }
}

/// The pieces of `out` behind its first `sent` bytes, as far as one send goes.
pub fn unsent_pieces(out: &Out, sent: usize, pieces: &mut Vec<libc::iovec>) {
    let mut skip = sent;
    let mut room = limits::SEND_BYTES_MAX;
    let mut push = |bytes: &[u8]| {
        let skipped = skip.min(bytes.len());
        skip -= skipped;
        if skipped < bytes.len() && pieces.len() < IOVECS_MAX && room > 0 {
            let rest = &bytes[skipped..];
            let rest = &rest[..rest.len().min(room)];
            room -= rest.len();
            pieces.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
    };
    let mut from = 0;
    for (offset, value) in &out.large {
        push(&out.bytes[from..*offset]);
        push(value);
        from = *offset;
    }
    push(&out.bytes[from..]);
}
