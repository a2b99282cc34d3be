//! A keyspace with a log, from one start to the next crash, and what may be found after it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::compact::{Pace, live_bytes};
use super::super::reader::{Damage, Found, Item, PEEK_BYTES, SegmentFile, Step, Walker};
use super::super::record::Content;
use super::super::replay::{Change, Replay};
use super::super::segment::HeaderError;
use super::super::writer::{Failure, Operation, Resumed, Work, Writer, WriterConfig};
use super::disk::Disk;
use crate::clock::Now;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::random::Random;

pub type Keys = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

/// An effect that may be read back from the log.
#[derive(Clone, Debug)]
pub enum Effect {
    Set(Vec<u8>, Vec<u8>, Option<u64>),
    Remove(Vec<u8>),
    Expire(Vec<u8>, Option<u64>),
    Append(Vec<u8>, Vec<u8>),
    Flush,
}

pub fn apply(keys: &mut Keys, effect: &Effect) {
    match effect {
        Effect::Set(key, value, expiry) => drop(keys.insert(key.clone(), (value.clone(), *expiry))),
        Effect::Remove(key) => drop(keys.remove(key)),
        Effect::Expire(key, expiry) => {
            if let Some((_, old)) = keys.get_mut(key) {
                *old = *expiry;
            }
        }
        Effect::Append(key, tail) => {
            if let Some((value, _)) = keys.get_mut(key) {
                value.extend(tail);
            }
        }
        Effect::Flush => keys.clear(),
    }
}

/// Where a key lies on the way round.
fn position_of(key: &[u8]) -> u64 {
    crc32fast::hash(key) as u64
}

pub struct Recovered {
    pub keys: Keys,
    pub found: Found,
    pub resumed: Resumed,
}

/// The segments on the disk.
pub fn segments(disk: &Disk) -> Vec<SegmentFile> {
    let peek = |(file, bytes): (u32, &[u8])| SegmentFile::peek(file, &bytes[..bytes.len().min(PEEK_BYTES)]);
    disk.files()
        .filter_map(|file| match peek(file) {
            Ok(segment) => Some(segment),
            Err(HeaderError::Blank | HeaderError::Unreadable) => None,
            Err(HeaderError::Newer(_)) => unreachable!(),
        })
        .collect()
}

/// Follows the log to its end.
pub fn walk(disk: &Disk, mut walker: Walker, sink: &mut impl FnMut(Item<'_>)) -> Result<Walker, Damage> {
    while let Some(wanted) = walker.wanted() {
        let file = walker.segments()[wanted].file;
        let bytes = disk.files().find(|(other, _)| *other == file).unwrap().1;
        assert!(matches!(walker.step(bytes, 3, sink)?, Step::More | Step::Next));
    }
    Ok(walker)
}

/// Reads what is on the disk, as a start does.
pub fn recover(disk: &Disk, salvage: bool) -> Result<Recovered, Damage> {
    let mut replay = Replay::default();
    let mut keys = Keys::new();
    let walker = walk(disk, Walker::new(segments(disk), salvage), &mut |item| match item {
        Item::Gap => replay.gap(),
        Item::Record(record, _) => replay.record(&record, &mut |change| apply(&mut keys, &effect_of(change))),
    })?;
    let found = walker.finish()?;
    let resumed = resume(disk, &found);
    Ok(Recovered { keys, found, resumed })
}

/// How a writer goes on with what was found.
pub fn resume(disk: &Disk, found: &Found) -> Resumed {
    let next_number = segments(disk).iter().map(|segment| segment.header.number + 1).max().unwrap_or(1);
    let next_file = disk.files().map(|(file, _)| file + 1).max().unwrap_or(0);
    let mut used: Vec<u32> = found.chain.iter().map(|&(file, _)| file).collect();
    used.extend(&found.dropped);
    let size = |file: u32| disk.files().find(|(other, _)| *other == file).map_or(0, |(_, bytes)| bytes.len());
    // Files that were not made to the end are left to be made again under another number.
    let whole = disk.files().map(|(_, bytes)| bytes.len()).max().unwrap_or(0);
    let (mut closed, mut free) = (Vec::new(), Vec::new());
    for &(file, last) in &found.chain {
        if last < found.horizon.min(found.confirmed + 1) { free.push(file) } else { closed.push((file, last)) }
    }
    closed.extend(found.dropped.iter().map(|&file| (file, found.next_sequence - 1)));
    free.extend(disk.files().map(|(file, _)| file).filter(|file| !used.contains(file) && size(*file) == whole));
    let Found { next_sequence, horizon, confirmed, .. } = *found;
    Resumed { next_sequence, next_number, closed, free, next_file, horizon, confirmed }
}

fn effect_of(change: Change<'_>) -> Effect {
    match change {
        Change::Set { key, value, expires_at_ms } => Effect::Set(key.to_vec(), value.to_vec(), expires_at_ms),
        Change::SetLarge { key, value, expires_at_ms } => Effect::Set(key.to_vec(), value.to_vec(), expires_at_ms),
        Change::Remove { key } => Effect::Remove(key.to_vec()),
        Change::Expire { key, expires_at_ms } => Effect::Expire(key.to_vec(), expires_at_ms),
        Change::Append { key, tail } => Effect::Append(key.to_vec(), tail.to_vec()),
        Change::Flush => Effect::Flush,
    }
}

pub fn config(segment_bytes: u64, sync_interval_us: Option<u64>) -> WriterConfig {
    WriterConfig {
        layout: 1,
        core: 0,
        cores: 1,
        segment_bytes,
        write_bytes_max: 8192,
        write_delay_us: 3,
        sync_interval_us,
        backlog_bytes_max: 64 * 1024,
        retry_us: 5,
    }
}

/// From a start to a crash.
pub struct Life {
    pub writer: Writer,
    pace: Pace,
    pub now: Now,
    pub keys: Keys,
    /// Runs of effects since the start, each with the group it went into.
    history: Vec<(u64, Vec<Effect>)>,
    /// The keys as they were at the start.
    before: Keys,
    pub out: Vec<Operation>,
    pub sync: bool,
    /// How much longer the log was than it should be, in segments and at most.
    pub disk_bytes_max: u64,
}

impl Life {
    pub fn begin(config: WriterConfig, recovered: Recovered, now: Now, sync: bool) -> Life {
        Life {
            writer: Writer::new(config, recovered.resumed),
            pace: Pace::default(),
            now,
            before: recovered.keys.clone(),
            keys: recovered.keys,
            history: Vec::new(),
            out: Vec::new(),
            sync,
            disk_bytes_max: 0,
        }
    }

    pub fn live_bytes(&self) -> u64 {
        let payload: usize = self.keys.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
        live_bytes(self.keys.len() as u64, 0, payload as u64)
    }

    pub fn log(&mut self, run: Vec<Effect>) {
        if run.len() > 1 {
            self.writer.begin_run();
        }
        for effect in &run {
            apply(&mut self.keys, effect);
            match effect {
                Effect::Set(key, value, expiry) => {
                    let large = (value.len() >= LARGE_VALUE_BYTES_MIN).then(|| Bytes::copy_from_slice(value));
                    self.writer.set(key, value, large.as_ref(), *expiry, self.now);
                }
                Effect::Remove(key) => self.writer.change(Content::Remove { key }, self.now),
                Effect::Expire(key, at) => {
                    self.writer.change(Content::Expire { key, expires_at_ms: *at }, self.now);
                }
                Effect::Append(key, tail) => self.writer.change(Content::Append { key, tail }, self.now),
                Effect::Flush => self.writer.change(Content::Flush, self.now),
            }
        }
        self.writer.end_run();
        if self.sync {
            self.writer.want_sync();
        }
        self.history.push((self.writer.open_number(), run));
    }

    /// Copies as much as the pace asks for.
    pub fn compact(&mut self) {
        let live = self.live_bytes();
        let mut due = self.pace.due(&self.writer, live) as i64;
        const RANGE: u64 = 1 << 26;
        while due > 0 {
            let from = self.writer.progress();
            let position = from as u32 as u64;
            for (key, (value, expiry)) in &self.keys {
                if (position..position + RANGE).contains(&position_of(key)) {
                    self.writer.copy(key, value, None, *expiry, self.now);
                    due -= (key.len() + value.len()) as i64;
                    self.pace.copied((key.len() + value.len()) as u64);
                }
            }
            due -= 64;
            self.writer.copied_to(from + RANGE, self.now);
        }
        self.disk_bytes_max = self.disk_bytes_max.max(self.writer.disk_bytes());
    }

    /// Takes all operations there are, and lets one of those out end.
    pub fn turn(&mut self, disk: &mut Disk, random: &mut Random) {
        self.now.uptime_us += 1;
        self.now.unix_ms += 1;
        while let Some(operation) = self.writer.poll(self.now) {
            self.out.push(operation);
        }
        if !self.out.is_empty() {
            let Operation { id, work } = self.out.swap_remove(random.below(self.out.len()));
            let finds_no_space = disk.space_bytes.is_some() && random.chance(2);
            let result = match &work {
                // It may have come as far as the disk's cache, or nowhere at all.
                Work::Write { file, offset, bytes, .. } if finds_no_space => {
                    let (file, offset, bytes) = (*file, *offset, bytes.clone());
                    let came = random.chance(50);
                    let plain = Work::Write { file, offset, bytes, durable: false };
                    if came { disk.carry_out(&plain) } else { Ok(()) }.and(Err(Failure::NoSpace))
                }
                work => disk.carry_out(work),
            };
            self.writer.completed(id, work, result, self.now);
            // Nobody else has a say in it.
            self.writer.settle(self.writer.durable());
            if let Some(group) = self.writer.to_be_confirmed() {
                self.writer.confirm(group, self.now);
            }
        }
    }

    pub fn turn_until(&mut self, disk: &mut Disk, random: &mut Random, done: impl Fn(&Writer) -> bool) {
        for _ in 0..100_000 {
            if done(&self.writer) {
                return;
            }
            self.turn(disk, random);
        }
        panic!("the writer is stuck");
    }

    /// Whether these keys are what a crash may leave: all that was durable, and of the rest a beginning.
    pub fn may_leave(&self, keys: &Keys, durable: u64) -> bool {
        let mut state = self.before.clone();
        let mut promised = self.history.iter().filter(|(group, _)| *group <= durable).count();
        if promised == 0 && state == *keys {
            return true;
        }
        for (_, run) in &self.history {
            run.iter().for_each(|effect| apply(&mut state, effect));
            promised = promised.saturating_sub(1);
            if promised == 0 && state == *keys {
                return true;
            }
        }
        false
    }
}
