//! Where each core's log has to end so that every transaction over several cores is there whole or not at all.
//!
//! The ends of all logs are looked through before any of them is replayed. A log ends before the first part of a
//! transaction that is not whole within what is kept of the others; to cut one log may make more transactions
//! incomplete, so that goes on until nothing changes. What is left is the longest that is whole: in each log a
//! beginning, so nothing is kept that was built on what is dropped.
//!
//! Not everything has to be looked through. Groups say up to where all transactions were whole (`settled`): parts
//! before that are not questioned. And a core may have dropped its part of a transaction only when every other core's
//! log said so of its own part; up to where this is so, groups say as well (`confirmed`), and there the look begins.

use std::collections::BTreeMap;

use super::record::{self, Content, Record, TransactionId};

struct Part {
    begins: u64,
    finishes: Option<u64>,
    cores: Vec<u32>,
}

/// What the end of one core's log says of transactions.
#[derive(Default)]
pub struct Survey {
    parts: BTreeMap<TransactionId, Part>,
    /// Parts that begin up to here are of whole transactions.
    pub settled: u64,
    pub confirmed: u64,
    /// The sequence number behind the last record.
    pub next_sequence: u64,
    /// Records are missing in the middle: what is not there proves nothing.
    pub has_gaps: bool,
}

impl Survey {
    pub fn record(&mut self, record: &Record<'_>) {
        self.next_sequence = record.sequence + 1;
        match record.content {
            Content::Group { settled, confirmed, .. } => {
                self.settled = settled.max(self.settled);
                self.confirmed = confirmed.max(self.confirmed);
            }
            Content::Begin { id, cores } => {
                let cores = record::cores_in(cores).collect();
                self.parts.insert(id, Part { begins: record.sequence, finishes: None, cores });
            }
            Content::Finish { id } => {
                if let Some(part) = self.parts.get_mut(&id) {
                    part.finishes = Some(record.sequence);
                }
            }
            _ => {}
        }
    }

    /// Whether this log has all of its part before `end`, or once had all of it.
    fn has(&self, id: &TransactionId, end: u64) -> bool {
        self.parts
            .get(id)
            .is_some_and(|part| part.begins <= self.settled || part.finishes.is_some_and(|finish| finish < end))
    }
}

/// Where the logs have to end, by core: the first record that is dropped, and how many transactions go with it.
pub fn cuts(surveys: &BTreeMap<u32, Survey>) -> BTreeMap<u32, (u64, usize)> {
    let mut ends: BTreeMap<u32, u64> = surveys.iter().map(|(&core, survey)| (core, survey.next_sequence)).collect();
    loop {
        let mut is_stable = true;
        for (core, survey) in surveys {
            let open = survey.parts.iter().filter(|(_, part)| part.begins > survey.settled);
            for (id, part) in open {
                let is_whole = |other: &u32| match (surveys.get(other), ends.get(other)) {
                    (Some(survey), Some(&end)) => survey.has(id, end),
                    _ => false,
                };
                if part.begins < ends[core] && !part.cores.iter().all(is_whole) {
                    ends.insert(*core, part.begins);
                    is_stable = false;
                }
            }
        }
        if is_stable {
            break;
        }
    }
    let cut = ends.into_iter().filter(|(core, end)| *end < surveys[core].next_sequence);
    cut.map(|(core, end)| (core, (end, surveys[&core].parts.values().filter(|part| part.begins >= end).count())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Said {
        Settled(u64),
        Begin(u64, &'static [u8]),
        Finish(u64),
        Other,
    }
    use Said::*;

    fn survey(said: &[Said]) -> Survey {
        let mut survey = Survey::default();
        for (at, said) in said.iter().enumerate() {
            let id = |number| TransactionId { origin: 9, number };
            let cores: Vec<u8> = match said {
                Begin(_, cores) => cores.iter().flat_map(|&core| u32::from(core).to_le_bytes()).collect(),
                _ => Vec::new(),
            };
            let content = match said {
                Settled(settled) => Content::Group { durable: 0, unix_ms: 0, settled: *settled, confirmed: 0 },
                Begin(number, _) => Content::Begin { id: id(*number), cores: &cores },
                Finish(number) => Content::Finish { id: id(*number) },
                Other => Content::Flush,
            };
            survey.record(&Record { sequence: at as u64 + 1, more: false, content });
        }
        survey
    }

    fn cut(logs: &[&[Said]]) -> Vec<(u32, u64)> {
        let surveys = logs.iter().enumerate().map(|(core, said)| (core as u32, survey(said))).collect();
        cuts(&surveys).into_iter().map(|(core, (end, _))| (core, end)).collect()
    }

    #[test]
    fn what_is_whole_stays_and_what_is_not_goes_with_all_behind_it() {
        let whole: &[Said] = &[Other, Begin(1, &[0, 1]), Finish(1), Other];
        assert_eq!(cut(&[whole, whole]), []);
        assert_eq!(cut(&[whole, &[Other, Begin(1, &[0, 1])]]), [(0, 2), (1, 2)]);
        assert_eq!(cut(&[whole, &[Other]]), [(0, 2)]);
        assert_eq!(cut(&[whole]), [(0, 2)], "the log of core 1 is not there at all");
    }

    #[test]
    fn one_cut_may_bring_the_next() {
        let first: &[Said] = &[Begin(1, &[0, 1]), Finish(1), Begin(2, &[0, 2]), Finish(2)];
        let third: &[Said] = &[Other, Begin(2, &[0, 2]), Finish(2), Other];
        assert_eq!(cut(&[first, &[Other], third]), [(0, 1), (2, 2)]);
        assert_eq!(cut(&[first, &[Begin(1, &[0, 1]), Finish(1)], third]), []);
    }

    #[test]
    fn what_was_settled_is_not_questioned() {
        // Core 1 has dropped its part long ago.
        assert_eq!(cut(&[&[Begin(1, &[0, 1]), Finish(1), Settled(2)], &[Other]]), []);
        assert_eq!(cut(&[&[Begin(1, &[0, 1]), Finish(1), Settled(0)], &[Other]]), [(0, 1)]);
        // Core 1 knows that it was whole, core 0 did not come to say so.
        assert_eq!(cut(&[&[Begin(1, &[0, 1]), Finish(1)], &[Begin(1, &[0, 1]), Finish(1), Settled(2)]]), []);
    }
}
