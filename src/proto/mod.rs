//! The wire: bytes ⇄ commands and replies. Does no I/O and owns no buffers; PROTOCOL.md is its contract.
//!
//! ```text
//!                 ┌ resp    `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n` ┐
//!   bytes ─▶ Decoder ┤ inline  `GET k\r\n`                     ├─▶ Step::Command { verb, .. } + Arguments
//!                 ├ binary  `CB 01 05 00 00 00 | 10 00 01 00 k` ┤
//!                 └ json    `{"action":"GET","key":"k"}\n`       ┘
//!
//!   Reply ─▶ encode ─▶ Out             bytes of a reply ─▶ reply::parse ─▶ Reply
//! ```
//!
//! # How a caller decodes
//!
//! One [`Decoder`] per connection; one [`Arguments`] and one [`DecodeLimits`] per core.
//!
//! ```text
//!   input  ····│SET k v│GET k│MSET a 1 b│
//!              ^from   ^end of the first command = `from` of the next call
//! ```
//!
//! ```
//! use crabcache::proto::{Arguments, DecodeLimits, Decoder, Step};
//!
//! let mut decoder = Decoder::default();
//! let mut arguments = Arguments::default();
//! let limits = DecodeLimits::default();
//! let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGE";
//! let mut from = 0;
//! while from < input.len() {
//!     let first = arguments.ranges.len();
//!     match decoder.next(input, from, &mut arguments, &limits) {
//!         Ok(Step::Command { verb, source, end }) => {
//!             // Its arguments are `arguments.ranges[first..]`, ranges of `input` or of
//!             // `arguments.scratch` as `source` says. Nothing has to be done with them right away:
//!             // more commands may be decoded behind it before the first one is answered.
//!             assert!(verb.known().is_some_and(|spec| spec.name == "get"));
//!             assert_eq!(arguments.args(first, source, input, &[]).get(0), b"k");
//!             from = end;
//!         }
//!         Ok(Step::Skip { end }) => from = end,
//!         // Keep `input[from..]`, receive more behind it, and call again with the first of these
//!         // bytes at the new `from`. To decode what follows the command in place, add to it only
//!         // what `decoder.belonging(at_least, more)` says.
//!         Ok(Step::Incomplete { at_least }) => {
//!             assert_eq!(at_least, 3);
//!             break;
//!         }
//!         // A value of `len` bytes begins at `input[end]`. Move what is already here, and receive the
//!         // rest, into memory of its own; keep `input[from..end]`; then `large_done(index)` and call
//!         // again with `from` at the kept bytes and, right behind them, what followed the value: at once,
//!         // even if nothing did, for a binary command may end with its value.
//!         Ok(Step::Large { len, end }) => unreachable!("{len} at {end}"),
//!         // Send `error.reply()` in the connection's protocol, then close.
//!         Err(error) => unreachable!("{error:?}"),
//!     }
//! }
//! ```

pub mod binary;
pub mod client;
mod decode;
#[cfg(any(test, fuzzing))]
pub mod driver;
mod encode;
mod error;
mod inline;
pub mod json;
pub mod reply;
mod resp;
mod verb;

#[cfg(test)]
mod tests;

pub use decode::{Arguments, DecodeLimits, Decoder, Protocol, Source, Step};
pub use encode::{double_text, encode, message};
pub use error::ProtocolError;
pub use verb::{Verb, refusal_text};
