//! A connection that begins with `*`: RESP, with lines of text in between.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| crabcache_fuzz::check_cuts(data, Some(b'*')));
