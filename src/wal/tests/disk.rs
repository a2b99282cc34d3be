//! A disk with a volatile cache in front of it, and a power cord.

use std::collections::BTreeMap;

use super::super::BLOCK_BYTES;
use super::super::writer::{Failure, Work};
use crate::random::Random;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
struct File {
    /// What a power cut cannot take.
    durable: Vec<u8>,
    /// What a reader sees now.
    seen: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// How a power cut treats what was not synced.
#[derive(Clone, Copy, Debug)]
enum Cut {
    LosesAll,
    KeepsAll,
    /// Each sector for itself.
    Tears,
    /// Whole writes in any order.
    Reorders,
    /// The first ones, the last of them torn.
    KeepsSome,
}

#[derive(Default)]
pub struct Disk {
    files: BTreeMap<u32, File>,
    pub space_bytes: Option<usize>,
    pub writes: usize,
    pub syncs: usize,
    /// The write or sync with this number fails.
    pub failing_write: Option<usize>,
    pub failing_sync: Option<usize>,
}

impl Disk {
    pub fn bytes(&self) -> usize {
        self.files.values().map(|file| file.seen.len()).sum()
    }

    pub fn files(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.files.iter().map(|(&number, file)| (number, file.seen.as_slice()))
    }

    /// What a start does before it builds on what it has read.
    pub fn sync_all(&mut self) {
        self.files.values_mut().for_each(|file| {
            file.unsynced.clear();
            file.durable.clone_from(&file.seen);
        });
    }

    pub fn flip(&mut self, file: u32, offset: usize, mask: u8) {
        let file = self.files.get_mut(&file).expect("it is there");
        file.seen[offset] ^= mask;
        file.durable[offset] ^= mask;
    }

    pub fn forget(&mut self, file: u32) {
        self.files.remove(&file);
    }

    /// Does what the writer asks for.
    pub fn carry_out(&mut self, work: &Work) -> Result<(), Failure> {
        match work {
            Work::Prepare { file, create, header } => {
                if *create {
                    let bytes = u64::from_le_bytes(header[16..24].try_into().unwrap()) as usize;
                    if self.space_bytes.is_some_and(|space| self.bytes() + bytes > space) {
                        return Err(Failure::NoSpace);
                    }
                    let blank = vec![0; bytes];
                    self.files.insert(*file, File { durable: blank.clone(), seen: blank, unsynced: Vec::new() });
                }
                self.write(*file, 0, header)?;
                self.sync(*file)
            }
            Work::Write { file, offset, bytes, durable } => {
                assert!(offset.is_multiple_of(BLOCK_BYTES as u64) && bytes.len().is_multiple_of(BLOCK_BYTES));
                assert!(*offset > 0 && !bytes.is_empty());
                self.write(*file, *offset as usize, bytes)?;
                if *durable { self.sync_last_write(*file) } else { Ok(()) }
            }
            Work::Sync { file } => self.sync(*file),
            Work::Remove { file } => {
                self.files.remove(file).expect("it was made");
                Ok(())
            }
        }
    }

    fn write(&mut self, file: u32, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.writes += 1;
        if self.failing_write == Some(self.writes) {
            return Err(Failure::Broken("a write failed".into()));
        }
        let file = self.files.get_mut(&file).expect("it was made");
        assert!(offset + bytes.len() <= file.seen.len(), "a segment grew");
        file.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
        file.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self, file: u32) -> Result<(), Failure> {
        self.syncs += 1;
        if self.failing_sync == Some(self.syncs) {
            return Err(Failure::Broken("a sync failed".into()));
        }
        let file = self.files.get_mut(&file).expect("it was made");
        for (offset, bytes) in file.unsynced.drain(..) {
            file.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// The last write becomes durable, and nothing that was written before it.
    fn sync_last_write(&mut self, file: u32) -> Result<(), Failure> {
        self.syncs += 1;
        if self.failing_sync == Some(self.syncs) {
            return Err(Failure::Broken("a sync failed".into()));
        }
        let file = self.files.get_mut(&file).expect("it was made");
        let (offset, bytes) = file.unsynced.pop().expect("it was just written");
        file.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    /// The power fails while `under_way` is being done; what is left is what is on the platters.
    pub fn cut_power(&mut self, under_way: &[Work], random: &mut Random) {
        let cut = random.pick(&[Cut::LosesAll, Cut::KeepsAll, Cut::Tears, Cut::Reorders, Cut::KeepsSome]);
        for work in under_way {
            match work {
                Work::Remove { file } if random.chance(50) => drop(self.files.remove(file)),
                Work::Write { file, offset, bytes, .. } => {
                    if let Some(file) = self.files.get_mut(file) {
                        file.unsynced.push((*offset as usize, bytes.clone()));
                    }
                }
                Work::Prepare { file, create: true, header } => {
                    let bytes = u64::from_le_bytes(header[16..24].try_into().unwrap()) as usize;
                    let durable = vec![0; random.pick(&[0, SECTOR_BYTES, bytes])];
                    if random.chance(50) {
                        self.files.insert(*file, File { seen: durable.clone(), durable, unsynced: Vec::new() });
                    }
                }
                Work::Prepare { file, create: false, header } => {
                    if let Some(file) = self.files.get_mut(file) {
                        file.unsynced.push((0, header.clone()));
                    }
                }
                Work::Sync { .. } | Work::Remove { .. } => {}
            }
        }
        for file in self.files.values_mut() {
            let mut unsynced = std::mem::take(&mut file.unsynced);
            if matches!(cut, Cut::Reorders) {
                for at in (1..unsynced.len()).rev() {
                    unsynced.swap(at, random.below(at + 1));
                }
            }
            let kept = random.below(unsynced.len() + 1);
            for (at, (offset, bytes)) in unsynced.into_iter().enumerate() {
                for (sector, bytes) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let survives = match cut {
                        Cut::LosesAll => false,
                        Cut::KeepsAll => true,
                        Cut::Tears => random.chance(50),
                        Cut::Reorders => at < kept,
                        Cut::KeepsSome => at < kept || at == kept && random.chance(50),
                    };
                    let start = offset + sector * SECTOR_BYTES;
                    if survives && let Some(room) = file.durable.get_mut(start..start + bytes.len()) {
                        room.copy_from_slice(bytes);
                    }
                }
            }
            file.seen.clone_from(&file.durable);
        }
    }

    /// The process is killed: the kernel goes on with what it was given, and may have been given what is under way.
    pub fn kill(&mut self, under_way: &[Work], random: &mut Random) {
        for work in under_way {
            if random.chance(50) {
                let _ = self.carry_out(work);
            }
        }
    }
}
