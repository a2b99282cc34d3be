//! Binary replies read back.

use bytes::Bytes;

use super::tag;
use crate::limits::{LARGE_VALUE_BYTES_MIN, REPLY_DEPTH_MAX};
use crate::proto::reply::{MalformedReply, Skipped, status, text};
use crate::reply::Reply;

/// The reply at the start of `bytes` and its length, or none while it is not whole.
pub(in crate::proto) fn parse(bytes: &[u8]) -> Result<Option<(Reply<'static>, usize)>, MalformedReply> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.reply(REPLY_DEPTH_MAX) {
        Ok(reply) => Ok(Some((reply, reader.at))),
        Err(Stop::NotWhole) => Ok(None),
        Err(Stop::Malformed(error)) => Err(error),
    }
}

/// The length of the reply at the start of `bytes`, without making it.
#[inline]
pub(in crate::proto) fn skip(bytes: &[u8]) -> Result<Option<Skipped>, MalformedReply> {
    let mut reader = Reader { bytes, at: 0 };
    let mut replies_left = 1u64;
    while replies_left > 0 {
        match reader.skip_one() {
            Ok(within) => replies_left = replies_left - 1 + within,
            Err(Stop::NotWhole) => return Ok(None),
            Err(Stop::Malformed(error)) => return Err(error),
        }
    }
    Ok(Some(Skipped { len: reader.at, is_error: bytes[0] == tag::ERROR }))
}

enum Stop {
    NotWhole,
    Malformed(MalformedReply),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at + len).ok_or(Stop::NotWhole)?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn length(&mut self) -> Result<usize, Stop> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn sized(&mut self) -> Result<&'a [u8], Stop> {
        let len = self.length()?;
        self.take(len)
    }

    fn reply(&mut self, depth_left: usize) -> Result<Reply<'static>, Stop> {
        let [tag] = self.array()?;
        Ok(match tag {
            tag::OK => Reply::Ok,
            tag::NIL => Reply::Nil,
            tag::PONG => Reply::Pong,
            tag::FALSE => Reply::Bool(false),
            tag::TRUE => Reply::Bool(true),
            tag::SMALL_INT.. => Reply::Int(i64::from(tag - tag::SMALL_INT)),
            tag::INT8 => Reply::Int(i64::from(i8::from_le_bytes(self.array()?))),
            tag::INT64 => Reply::Int(i64::from_le_bytes(self.array()?)),
            tag::DOUBLE => Reply::Double(f64::from_le_bytes(self.array()?)),
            tag::BULK8 => {
                let [len] = self.array()?;
                Reply::owned(self.take(len.into())?)
            }
            tag::BULK32 => match self.sized()? {
                value if value.len() < LARGE_VALUE_BYTES_MIN => Reply::owned(value),
                value => Reply::Large(Bytes::copy_from_slice(value)),
            },
            tag::STATUS => status(self.sized()?),
            tag::VERBATIM => Reply::Verbatim(text(self.sized()?).into()),
            tag::ERROR => Reply::error(text(self.sized()?)),
            tag::ARRAY | tag::SET | tag::MAP | tag::PUSH => {
                let Some(depth_left) = depth_left.checked_sub(1) else {
                    return Err(Stop::Malformed(MalformedReply::TooDeep));
                };
                let count = self.length()?;
                if tag == tag::MAP {
                    let mut pairs = Vec::new();
                    for _ in 0..count {
                        pairs.push((self.reply(depth_left)?, self.reply(depth_left)?));
                    }
                    return Ok(Reply::Map(pairs));
                }
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.reply(depth_left)?);
                }
                match tag {
                    tag::ARRAY => Reply::Array(items),
                    tag::SET => Reply::Set(items),
                    _ => Reply::Push(items),
                }
            }
            _ => return Err(Stop::Malformed(MalformedReply::Tag(tag))),
        })
    }

    /// Skips one tag with its payload; returns how many replies are inside it.
    fn skip_one(&mut self) -> Result<u64, Stop> {
        let [tag] = self.array()?;
        match tag {
            tag::OK | tag::NIL | tag::PONG | tag::FALSE | tag::TRUE | tag::SMALL_INT.. => {}
            tag::INT8 => {
                self.take(1)?;
            }
            tag::INT64 | tag::DOUBLE => {
                self.take(8)?;
            }
            tag::BULK8 => {
                let [len] = self.array()?;
                self.take(len.into())?;
            }
            tag::BULK32 | tag::STATUS | tag::VERBATIM | tag::ERROR => {
                self.sized()?;
            }
            tag::ARRAY | tag::SET | tag::PUSH => return Ok(self.length()? as u64),
            tag::MAP => return Ok(2 * self.length()? as u64),
            _ => return Err(Stop::Malformed(MalformedReply::Tag(tag))),
        }
        Ok(0)
    }
}
