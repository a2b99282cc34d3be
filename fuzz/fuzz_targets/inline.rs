//! A connection that begins with anything: mostly lines of text.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| crabcache_fuzz::check_cuts(data, None));
