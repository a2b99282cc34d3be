//! What the kernel is asked to do, and how it is recognised when done:
//! `user_data = kind:8 | generation:24 | index:32`.

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Accept = 1,
    Receive,
    ReceiveLarge,
    Send,
    Cancel,
    Close,
    Doorbell,
    File,
}

pub fn user_data(kind: Kind, generation: u32, index: u32) -> u64 {
    (kind as u64) << 56 | ((generation & 0xFF_FFFF) as u64) << 32 | index as u64
}

/// What the kernel has said of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

impl Completion {
    #[inline]
    pub fn is(&self, kind: Kind) -> bool {
        (self.user_data >> 56) as u8 == kind as u8
    }

    /// The socket, listener or operation on a file that it is about.
    #[inline]
    pub fn index(&self) -> u32 {
        self.user_data as u32
    }
}
