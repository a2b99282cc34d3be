//! The writer, the reader and the copying between them on a disk made of memory that does to unsynced writes
//! whatever a real one may do.

pub mod disk;
pub mod life;
mod schedules;

/// The seeds of a test's schedules: a few in a debug build, many in a release build, or as CRABCACHE_SEEDS says
/// (`from..to`).
pub fn seeds(few: u64, many: u64) -> std::ops::Range<u64> {
    let Ok(said) = std::env::var("CRABCACHE_SEEDS") else {
        return 0..if cfg!(debug_assertions) { few } else { many };
    };
    let (from, to) = said.split_once("..").expect("CRABCACHE_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}
