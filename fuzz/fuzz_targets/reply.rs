//! Replies read back. The first byte chooses the protocol.
#![no_main]

use crabcache::proto::{encode, reply};
use crabcache::reply::{Out, Reply};
use crabcache::request::Wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let wire = if choice % 2 == 0 { Wire::Resp3 } else { Wire::Binary };
    let skipped = reply::skip(wire, bytes);
    let Ok(Some((read, consumed))) = reply::parse(wire, bytes) else {
        return;
    };
    // Whatever is a reply ends where skipping says, and no part of it is one.
    assert_eq!(skipped.unwrap().unwrap().len, consumed);
    for len in 0..consumed.min(64) {
        assert_eq!(reply::parse(wire, &bytes[..len]), Ok(None));
        assert_eq!(reply::skip(wire, &bytes[..len]), Ok(None));
    }
    // What is read can be written, and then reads as the same.
    let mut written = Out::default();
    encode(wire, &read, &mut written);
    let written = written.to_vec();
    let (again, consumed) = reply::parse(wire, &written).unwrap().unwrap();
    assert_eq!(consumed, written.len());
    let mut twice = Out::default();
    encode(wire, &again, &mut twice);
    assert_eq!(twice.to_vec(), written, "{:?}", Reply::clone(&again));
});
