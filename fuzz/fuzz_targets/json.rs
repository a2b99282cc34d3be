//! A connection that begins with `{`: lines of JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| crabcache_fuzz::check_cuts(data, Some(b'{')));
