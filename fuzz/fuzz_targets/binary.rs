//! A connection that begins with the magic byte of binary frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    crabcache_fuzz::check_cuts(data, Some(crabcache::proto::binary::MAGIC));
});
