//! Follows the records of one core's log through its segments, and decides where it ends: in order, torn by a
//! crash, or damaged (see [`super`]). Is fed the bytes of one segment at a time.

use super::record::{self, Content, Record};
use super::segment::{Header, HeaderError};
use super::{BLOCK_BYTES, record::RECORD_HEADER_BYTES};

/// What has to be read of a file to know which segment it is.
pub const PEEK_BYTES: usize = 2 * BLOCK_BYTES;

/// A file that is a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    pub file: u32,
    pub header: Header,
    /// The sequence number of its first record, if it has any.
    pub first: Option<u64>,
    /// Transactions that begin up to there were whole when it was begun, and all logs said so of those up to there.
    pub settled: u64,
    pub confirmed: u64,
}

impl SegmentFile {
    /// Out of a file's first [`PEEK_BYTES`].
    pub fn peek(file: u32, bytes: &[u8]) -> Result<SegmentFile, HeaderError> {
        let header = Header::parse(bytes)?;
        let first = record::read(bytes.get(BLOCK_BYTES..).unwrap_or_default(), header.seed());
        let (settled, confirmed) = match first {
            Some((Record { content: Content::Group { settled, confirmed, .. }, .. }, _)) => (settled, confirmed),
            _ => (0, 0),
        };
        Ok(SegmentFile { file, header, first: first.map(|(record, _)| record.sequence), settled, confirmed })
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: u32,
    pub offset: u64,
}

/// Records that are missing although they were durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub from: Place,
    pub to: Place,
    /// The first of them, and the first one after them.
    pub sequences: (u64, u64),
}

/// What the walker hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    Record(Record<'a>, Place),
    /// Records are missing before the next one.
    Gap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The segment has more.
    More,
    /// Another segment is wanted, or none.
    Next,
}

/// What was found, once there is nothing more to walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub records: u64,
    /// The sequence number of the first record, and the one that comes next.
    pub first: u64,
    pub next_sequence: u64,
    /// Earlier records than this are not needed.
    pub horizon: u64,
    /// The last record says that the server ended in order.
    pub is_clean: bool,
    /// Where the log ends, and how many readable groups behind that were never promised to anybody.
    pub end: Option<(Place, u64)>,
    pub lost: Vec<Lost>,
    /// The files of the log, oldest first, with the last sequence number in each.
    pub chain: Vec<(u32, u64)>,
    /// It was ended before its end; these files hold nothing but what is dropped. Until the log has gone on they are
    /// needed all the same, to find the same end again.
    pub is_cut: bool,
    pub dropped: Vec<u32>,
    /// The most that groups have said, see [`SegmentFile`].
    pub confirmed: u64,
}

impl Found {
    /// Whether records are missing that are needed: the oldest that a header calls so was durable then.
    pub fn begins_too_late(&self) -> bool {
        let needed = self.horizon.max(1);
        self.first > needed || self.chain.is_empty() && needed > 1
    }
}

/// Damage that only salvage goes past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Lost(Lost),
    /// The log begins too late, or nothing can be read of it.
    Beginning {
        place: Place,
        needed: u64,
        first: Option<u64>,
    },
    /// A record verifies, and this version does not know what it means.
    Foreign {
        place: Place,
        code: u8,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    Following,
    /// Record `expected` is not where it should be: is there a later group that calls it durable?
    Searching {
        broken: Place,
        broken_at: usize,
        hop: Option<usize>,
        groups: u64,
    },
    Ended,
}

pub struct Walker {
    segments: Vec<SegmentFile>,
    /// The segment that is wanted, and where in it to go on.
    at: usize,
    offset: usize,
    expected: u64,
    /// The first record of a later segment: a log that was cut goes on there, whatever follows here.
    newer: u64,
    /// The record to end before.
    cut: u64,
    salvage: bool,
    state: State,
    found: Found,
}

impl Walker {
    /// `segments` in any order; all of one core and layout.
    pub fn new(mut segments: Vec<SegmentFile>, salvage: bool) -> Walker {
        segments.sort_by_key(|segment| segment.header.number);
        let horizon = segments.iter().map(|segment| segment.header.oldest_needed).max().unwrap_or(0);
        // Before a header says so all logs have confirmed it.
        let mut found = Found { horizon, confirmed: horizon.saturating_sub(1), ..Found::default() };
        // Where a log was cut and went on, what was dropped may still be there when all before it is gone.
        let is_dropped = |at: usize, first: u64| {
            segments[at + 1..].iter().any(|newer| newer.first.is_some_and(|other| other <= first))
        };
        let at = (0..segments.len()).find(|&at| segments[at].first.is_some_and(|first| !is_dropped(at, first)));
        // A segment is given up only when a header says so. Unless one does, a log without its first record was never
        // durable, and is empty whatever survived of it; or it is damaged, and later groups call that record durable.
        let is_whole = |at: &usize| found.horizon > 1 || segments[*at].first == Some(1);
        let begins_at = at.filter(is_whole);
        let expected = begins_at.and_then(|at| segments[at].first).unwrap_or(found.horizon.max(1));
        found.first = expected;
        found.next_sequence = expected;
        let state = match begins_at {
            Some(_) => State::Following,
            None if segments.is_empty() => State::Ended,
            None => {
                let broken = Place { file: segments[0].file, offset: BLOCK_BYTES as u64 };
                State::Searching { broken, broken_at: 0, hop: None, groups: 0 }
            }
        };
        let mut walker = Walker {
            segments,
            at: begins_at.unwrap_or(0),
            offset: BLOCK_BYTES,
            expected,
            newer: 0,
            cut: u64::MAX,
            salvage,
            state,
            found,
        };
        walker.look_for_newer();
        walker
    }

    /// Ends before this record, as if nothing had been written from there on.
    pub fn until(mut self, cut: Option<u64>) -> Walker {
        self.cut = cut.unwrap_or(u64::MAX);
        self
    }

    /// Looks only at what may be asked about transactions.
    pub fn at_the_end(mut self) -> Walker {
        let confirmed = self.segments.iter().map(|segment| segment.confirmed).max().unwrap_or(0);
        let start = self.segments.iter().rposition(|segment| segment.first.is_some_and(|first| first <= confirmed));
        if let Some(start) = start.filter(|&start| start > self.at && matches!(self.state, State::Following)) {
            self.at = start;
            self.expected = self.segments[start].first.unwrap_or(1);
            self.found.first = self.expected;
            self.look_for_newer();
        }
        self
    }

    fn look_for_newer(&mut self) {
        let later = self.segments.get(self.at + 1..).unwrap_or_default().iter();
        self.newer =
            later.filter_map(|segment| segment.first).filter(|&first| first >= self.expected).min().unwrap_or(0);
    }

    pub fn segments(&self) -> &[SegmentFile] {
        &self.segments
    }

    /// The segment whose bytes [`step`](Self::step) has to be given, as an index of [`segments`](Self::segments).
    pub fn wanted(&self) -> Option<usize> {
        (!matches!(self.state, State::Ended)).then_some(self.at)
    }

    fn place(&self, offset: usize) -> Place {
        Place { file: self.segments[self.at].file, offset: offset as u64 }
    }

    /// Goes on in the wanted segment, for up to `records_max` records.
    pub fn step(&mut self, bytes: &[u8], records_max: usize, sink: &mut impl FnMut(Item<'_>)) -> Result<Step, Damage> {
        match self.state {
            State::Following => self.follow(bytes, records_max, sink),
            State::Searching { .. } => self.search(bytes, sink),
            State::Ended => Ok(Step::Next),
        }
    }

    fn follow(&mut self, bytes: &[u8], records_max: usize, sink: &mut impl FnMut(Item<'_>)) -> Result<Step, Damage> {
        let seed = self.segments[self.at].header.seed();
        let read = |offset: usize, expected: u64| {
            let (record, len) = record::read(bytes.get(offset..)?, seed)?;
            (record.sequence == expected).then_some((record, len))
        };
        for _ in 0..records_max {
            if self.expected == self.cut {
                let kept = self.found.chain.last().map(|&(file, _)| file);
                let dropped = self.segments[self.at..].iter().filter(|segment| segment.first.is_some());
                self.found.dropped = dropped.map(|segment| segment.file).filter(|&file| Some(file) != kept).collect();
                self.found.is_cut = true;
                self.found.is_clean = false;
                self.found.end = Some((self.place(self.offset), 0));
                self.state = State::Ended;
                return Ok(Step::Next);
            }
            if self.expected == self.newer {
                self.leave_segment(bytes, seed);
                return Ok(Step::Next);
            }
            let mut next = read(self.offset, self.expected);
            if next.is_none() && !self.offset.is_multiple_of(BLOCK_BYTES) {
                // The padding of a group, whatever its bytes are.
                let aligned = self.offset.next_multiple_of(BLOCK_BYTES);
                next = read(aligned, self.expected);
                if next.is_some() {
                    self.offset = aligned;
                }
            }
            let Some((record, len)) = next else {
                self.leave_segment(bytes, seed);
                return Ok(Step::Next);
            };
            let place = self.place(self.offset);
            match record.content {
                Content::Foreign(code) => return Err(Damage::Foreign { place, code }),
                Content::Horizon { sequence } => self.found.horizon = self.found.horizon.max(sequence),
                Content::Group { confirmed, .. } => self.found.confirmed = self.found.confirmed.max(confirmed),
                _ => {}
            }
            self.found.is_clean = record.content == Content::End;
            self.found.records += 1;
            sink(Item::Record(record, place));
            self.offset += len;
            self.expected += 1;
            let file = place.file;
            match self.found.chain.last_mut() {
                Some((last, sequence)) if *last == file => *sequence = record.sequence,
                _ => self.found.chain.push((file, record.sequence)),
            }
        }
        Ok(Step::More)
    }

    /// The expected record is not in this segment.
    fn leave_segment(&mut self, bytes: &[u8], seed: u32) {
        let next = self.segments[self.at + 1..].iter().rposition(|segment| segment.first == Some(self.expected));
        if let Some(next) = next {
            self.at += 1 + next;
            self.offset = BLOCK_BYTES;
            self.look_for_newer();
            return;
        }
        let broken = self.place(self.offset);
        // If only this one record is damaged, the next one verifies.
        let hop = bytes
            .get(self.offset..)
            .filter(|rest| rest.len() > RECORD_HEADER_BYTES)
            .map(|rest| self.offset + record::record_bytes(rest))
            .filter(|&hop| {
                let next = bytes.get(hop..).and_then(|rest| record::read(rest, seed));
                next.is_some_and(|(record, _)| record.sequence == self.expected + 1)
            });
        self.state = State::Searching { broken, broken_at: self.at, hop, groups: 0 };
        self.offset = self.offset.next_multiple_of(BLOCK_BYTES);
    }

    fn search(&mut self, bytes: &[u8], sink: &mut impl FnMut(Item<'_>)) -> Result<Step, Damage> {
        let State::Searching { broken, broken_at, hop, mut groups } = self.state else { return Ok(Step::Next) };
        let seed = self.segments[self.at].header.seed();
        let mut offset = self.offset;
        while offset + RECORD_HEADER_BYTES <= bytes.len() {
            if let Some((Record { sequence, content: Content::Group { durable, .. }, .. }, _)) =
                record::read(&bytes[offset..], seed)
                && sequence > self.expected
            {
                if durable >= self.expected {
                    let to = self.place(offset);
                    return self.lose(
                        Lost { from: broken, to, sequences: (self.expected, sequence) },
                        broken_at,
                        hop,
                        sink,
                    );
                }
                groups += 1;
            }
            offset += BLOCK_BYTES;
        }
        self.at += 1;
        self.offset = BLOCK_BYTES;
        self.state = State::Searching { broken, broken_at, hop, groups };
        if self.at == self.segments.len() {
            self.found.end = Some((broken, groups));
            self.state = State::Ended;
        }
        Ok(Step::Next)
    }

    fn lose(
        &mut self,
        mut lost: Lost,
        broken_at: usize,
        hop: Option<usize>,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<Step, Damage> {
        if let Some(hop) = hop {
            lost.to = Place { file: lost.from.file, offset: hop as u64 };
            lost.sequences.1 = self.expected + 1;
            self.at = broken_at;
        }
        if !self.salvage {
            let begins = self.segments[broken_at].first.filter(|_| self.found.chain.is_empty());
            return Err(match begins {
                // The segment can be read, and is not the one that should be there.
                Some(_) => Damage::Beginning { place: lost.from, needed: self.expected, first: begins },
                None => Damage::Lost(lost),
            });
        }
        self.found.lost.push(lost);
        sink(Item::Gap);
        self.offset = lost.to.offset as usize;
        self.expected = lost.sequences.1;
        self.look_for_newer();
        self.state = State::Following;
        Ok(Step::Next)
    }

    /// What was found; everything must have been walked.
    pub fn finish(mut self) -> Result<Found, Damage> {
        debug_assert!(matches!(self.state, State::Ended));
        self.found.next_sequence = self.expected;
        let needed = self.found.horizon.max(1);
        if self.found.begins_too_late() && !self.salvage {
            let place = self
                .found
                .chain
                .first()
                .map(|&(file, _)| file)
                .or_else(|| self.segments.first().map(|segment| segment.file))
                .map_or(Place { file: 0, offset: 0 }, |file| Place { file, offset: BLOCK_BYTES as u64 });
            let first = (!self.found.chain.is_empty()).then_some(self.found.first);
            return Err(Damage::Beginning { place, needed, first });
        }
        Ok(self.found)
    }
}
