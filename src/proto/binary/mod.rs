//! The binary protocol, for the whole of a connection whose first byte is [`MAGIC`]. PROTOCOL.md
//! specifies it; this is the picture.
//!
//! ```text
//!   request   frame ┬ CB │ 01 │ length: u32 │ operation │ operation │ …
//!             magic ┘     └ version          └────── length bytes ──────┘
//!
//!   operation   opcode │ flags │ operands as the opcode's upper half (its shape) says
//!
//!     0x0_ nothing     op fl
//!     0x1_ key         op fl key_len:u16                                        key
//!     0x2_ key number  op fl key_len:u16 number:i64                             key
//!     0x3_ key value   op fl key_len:u16 value_len:u32 [time:u64] [expected_len:u32]  key [expected] value
//!     0x4_ keys        op fl count:u16  count × (key_len:u16 key)
//!     0x5_ pairs       op fl count:u16  count × (key_len:u16 key value_len:u32 value)
//!     0x6_ words       op fl count:u16  count × (len:u32 word)
//!
//!   reply     tag │ what the tag says                      (no frames: replies in the order of the operations)
//! ```
//!
//! The shape tells where an operation ends, so one with an unknown opcode of a known shape is refused
//! and the connection goes on.

mod decode;
mod encode;
mod reply;

pub(super) use encode::encode;
pub(super) use reply::{parse, skip};

use crate::command::Op;

/// The first byte of every frame: no RESP command and no line of text begins with it.
pub const MAGIC: u8 = 0xCB;
pub const VERSION: u8 = 1;
/// Magic, version, length.
pub const FRAME_HEADER_BYTES: usize = 6;

pub mod opcode {
    pub const PING: u8 = 0x01;

    pub const GET: u8 = 0x10;
    pub const DEL: u8 = 0x11;
    pub const EXISTS: u8 = 0x12;
    pub const INCR: u8 = 0x13;
    pub const DECR: u8 = 0x14;
    pub const PERSIST: u8 = 0x15;
    /// In milliseconds, as all times of this protocol.
    pub const TTL: u8 = 0x16;
    pub const GETDEL: u8 = 0x17;
    pub const STRLEN: u8 = 0x18;

    pub const INCRBY: u8 = 0x20;
    pub const DECRBY: u8 = 0x21;
    pub const EXPIRE: u8 = 0x22;
    /// At a time in milliseconds since the Unix epoch.
    pub const EXPIREAT: u8 = 0x23;

    /// GET with FILL: the number is for how many milliseconds.
    pub const GETFILL: u8 = 0x24;

    pub const SET: u8 = 0x30;
    pub const APPEND: u8 = 0x31;

    pub const MGET: u8 = 0x40;
    pub const DEL_MANY: u8 = 0x41;
    pub const EXISTS_MANY: u8 = 0x42;

    pub const MSET: u8 = 0x50;
    pub const MSETNX: u8 = 0x51;

    /// Any command of the table by its name.
    pub const COMMAND: u8 = 0x60;
}

/// Flags of SET.
pub mod set_flag {
    pub const NX: u8 = 0x01;
    pub const XX: u8 = 0x02;
    pub const GET: u8 = 0x04;
    pub const KEEPTTL: u8 = 0x08;
    /// The time is one since the Unix epoch instead of one from now. Only with [`TIME`].
    pub const ABSOLUTE: u8 = 0x10;
    /// Durable before the reply leaves: `DURABLE sync`.
    pub const DURABLE: u8 = 0x20;
    /// An expected value stands before the value; the key is set only if it holds that.
    pub const EXPECTED: u8 = 0x40;
    /// A time to live in milliseconds is in the header.
    pub const TIME: u8 = 0x80;
}

/// Flags of EXPIRE and EXPIREAT.
pub mod expire_flag {
    pub const NX: u8 = 0x01;
    pub const XX: u8 = 0x02;
    pub const GT: u8 = 0x04;
    pub const LT: u8 = 0x08;
}

/// First byte of a reply.
pub mod tag {
    pub const OK: u8 = 0x00;
    pub const NIL: u8 = 0x01;
    pub const PONG: u8 = 0x02;
    pub const FALSE: u8 = 0x03;
    pub const TRUE: u8 = 0x04;

    /// `i8`
    pub const INT8: u8 = 0x10;
    /// `i64`
    pub const INT64: u8 = 0x11;
    /// `f64`
    pub const DOUBLE: u8 = 0x12;

    /// `len: u8`, bytes
    pub const BULK8: u8 = 0x20;
    /// `len: u32`, bytes
    pub const BULK32: u8 = 0x21;
    /// `len: u32`, one line of text: RESP's simple string
    pub const STATUS: u8 = 0x22;
    /// `len: u32`, text for people
    pub const VERBATIM: u8 = 0x23;
    /// `len: u32`, one line of text whose first word is the code
    pub const ERROR: u8 = 0x2F;

    /// `count: u32`, that many replies
    pub const ARRAY: u8 = 0x30;
    pub const SET: u8 = 0x31;
    /// `count: u32`, that many pairs of replies
    pub const MAP: u8 = 0x32;
    pub const PUSH: u8 = 0x33;

    /// From here on the tag itself is an integer: 0 to 127.
    pub const SMALL_INT: u8 = 0x80;
}

/// What stands behind opcode and flags: the upper half of the opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Nothing,
    Key,
    KeyNumber,
    KeyValue,
    Keys,
    Pairs,
    Words,
}

impl Shape {
    #[inline]
    fn of(opcode: u8) -> Option<Shape> {
        Some(match opcode >> 4 {
            0 => Shape::Nothing,
            1 => Shape::Key,
            2 => Shape::KeyNumber,
            3 => Shape::KeyValue,
            4 => Shape::Keys,
            5 => Shape::Pairs,
            6 => Shape::Words,
            _ => return None,
        })
    }

    /// Bytes of an operation before its first piece.
    #[inline]
    fn header_bytes(self, flags: u8) -> usize {
        match self {
            Shape::Nothing => 2,
            Shape::Key | Shape::Keys | Shape::Pairs | Shape::Words => 4,
            Shape::KeyNumber => 12,
            Shape::KeyValue => {
                let time = if flags & set_flag::TIME != 0 { 8 } else { 0 };
                let expected = if flags & set_flag::EXPECTED != 0 { 4 } else { 0 };
                8 + time + expected
            }
        }
    }
}

/// The operation of the command table that an opcode stands for, and the flags it understands. None
/// for unknown opcodes and for [`opcode::COMMAND`], whose words name the command.
#[inline]
fn meaning(code: u8) -> Option<(Op, u8)> {
    const EXPIRE_FLAGS: u8 = expire_flag::NX | expire_flag::XX | expire_flag::GT | expire_flag::LT;
    const SET_FLAGS: u8 = set_flag::NX
        | set_flag::XX
        | set_flag::GET
        | set_flag::KEEPTTL
        | set_flag::ABSOLUTE
        | set_flag::EXPECTED
        | set_flag::TIME;
    Some(match code {
        opcode::PING => (Op::Ping, 0),
        opcode::GET => (Op::Get, 0),
        opcode::DEL => (Op::Del, 0),
        opcode::EXISTS => (Op::Exists, 0),
        opcode::INCR => (Op::Incr, 0),
        opcode::DECR => (Op::Decr, 0),
        opcode::PERSIST => (Op::Persist, 0),
        opcode::TTL => (Op::PTtl, 0),
        opcode::GETDEL => (Op::GetDel, 0),
        opcode::STRLEN => (Op::StrLen, 0),
        opcode::INCRBY => (Op::IncrBy, 0),
        opcode::DECRBY => (Op::DecrBy, 0),
        opcode::EXPIRE => (Op::PExpire, EXPIRE_FLAGS),
        opcode::EXPIREAT => (Op::PExpireAt, EXPIRE_FLAGS),
        opcode::GETFILL => (Op::GetFill, 0),
        opcode::SET => (Op::Set, SET_FLAGS),
        opcode::APPEND => (Op::Append, 0),
        opcode::MGET => (Op::MGet, 0),
        opcode::DEL_MANY => (Op::Del, 0),
        opcode::EXISTS_MANY => (Op::Exists, 0),
        opcode::MSET => (Op::MSet, 0),
        opcode::MSETNX => (Op::MSetNx, 0),
        _ => return None,
    })
}
