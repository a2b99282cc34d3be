//! The writer, the reader and the copying between them on a disk made of memory that does to unsynced writes
//! whatever a real one may do.

pub mod disk;
pub mod life;
mod schedules;
