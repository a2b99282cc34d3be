//! When to look into which bucket of the index for expired items: one coarse time per bucket, never later
//! than the first expiry of an item in it. Instead of a timer per item there are 0.4 bytes per item, and
//! nothing to maintain when a time to live is changed or an item moves.
//!
//! A pass over all deadlines runs every few hundred milliseconds and costs about a nanosecond for ten
//! items. A bucket whose deadline has come is visited: its expired items are removed and its deadline set
//! anew. Items that were given more time meanwhile make that visit futile, at most once per lifetime.

/// Deadlines count in units of this many milliseconds since the first one that was noted.
const UNIT_MS: u64 = 128;
/// Passes start this many units apart, so that memory is back well within a second.
const PASS_UNITS: u32 = 2;
const NEVER: u32 = u32::MAX;
const SEGMENT: usize = 4096;

struct Segment {
    /// No deadline in this segment is earlier.
    first: u32,
    due: [u32; SEGMENT],
}

#[derive(Default)]
pub struct Deadlines {
    /// By bucket / `SEGMENT`; absent where no bucket ever had a deadline.
    segments: Vec<Option<Box<Segment>>>,
    base_ms: Option<u64>,
    /// The pass under way: how many of the first buckets it has not seen yet, and when it started.
    unseen: Option<u32>,
    pass: u32,
}

impl Deadlines {
    fn unit(&self, ms: u64) -> u32 {
        let since = ms.saturating_sub(self.base_ms.unwrap_or(ms)) / UNIT_MS;
        since.min(NEVER as u64 - 2) as u32
    }

    fn get(&self, bucket: u32) -> u32 {
        match self.segments.get(bucket as usize / SEGMENT) {
            Some(Some(segment)) => segment.due[bucket as usize % SEGMENT],
            _ => NEVER,
        }
    }

    fn set(&mut self, bucket: u32, due: u32) {
        let index = bucket as usize / SEGMENT;
        if due == NEVER && self.segments.get(index).is_none_or(Option::is_none) {
            return;
        }
        if index >= self.segments.len() {
            self.segments.resize_with(index + 1, || None);
        }
        let segment =
            self.segments[index].get_or_insert_with(|| Box::new(Segment { first: NEVER, due: [NEVER; SEGMENT] }));
        segment.due[bucket as usize % SEGMENT] = due;
        segment.first = segment.first.min(due);
    }

    /// An item of `bucket` expires at `expires_at_ms`.
    #[inline]
    pub fn note(&mut self, bucket: u32, expires_at_ms: u64, now_ms: u64) {
        self.base_ms.get_or_insert(now_ms);
        // In the unit after the one it expires in, it certainly has.
        let due = self.unit(expires_at_ms) + 1;
        if due < self.get(bucket) {
            self.set(bucket, due);
        }
    }

    /// Items of `of` may have moved to `with`.
    pub fn on_split(&mut self, of: u32, with: u32) {
        self.set(with, self.get(of));
    }

    /// All items of `with` have moved to `of`.
    pub fn on_merge(&mut self, of: u32, with: u32) {
        self.set(of, self.get(of).min(self.get(with)));
        self.set(with, NEVER);
    }

    /// The next bucket to visit at `now_ms`. Its deadline is forgotten: the visitor has to
    /// [`note`](Self::note) what remains. `steps` is lowered by the work done; at 0 the search stops, to go on
    /// with the next call.
    ///
    /// A pass runs downwards, because merging moves items downwards: the more a pass removes, the more
    /// buckets are merged, and those it has not seen yet stay ahead of it.
    pub fn next_due(&mut self, now_ms: u64, steps: &mut usize) -> Option<u32> {
        let now = self.unit(now_ms);
        let mut end = match self.unseen {
            Some(unseen) => unseen as usize,
            None if now >= self.pass + PASS_UNITS || now < self.pass => {
                self.pass = now;
                self.segments.len() * SEGMENT
            }
            None => return None,
        };
        while end > 0 {
            if *steps == 0 {
                self.unseen = Some(end as u32);
                return None;
            }
            *steps -= 1;
            let start = (end - 1) / SEGMENT * SEGMENT;
            if let Some(Some(segment)) = self.segments.get_mut(start / SEGMENT)
                && segment.first <= now
            {
                if let Some(at) = segment.due[..end - start].iter().rposition(|&due| due <= now) {
                    segment.due[at] = NEVER;
                    self.unseen = Some((start + at) as u32);
                    return Some((start + at) as u32);
                }
                segment.first = *segment.due.iter().min().expect("a segment is not empty");
            }
            end = start;
        }
        self.unseen = None;
        None
    }

    pub fn bytes(&self) -> usize {
        self.segments.iter().flatten().count() * size_of::<Segment>()
    }

    /// Whether the visit of `bucket` is due before an item that expires at `expires_at_ms` is long gone.
    #[cfg(any(test, fuzzing))]
    pub fn covers(&self, bucket: u32, expires_at_ms: u64) -> bool {
        let due = self.get(bucket);
        let first = self.segments.get(bucket as usize / SEGMENT).and_then(Option::as_ref).map_or(NEVER, |s| s.first);
        due <= self.unit(expires_at_ms) + 1 && first <= due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_due(deadlines: &mut Deadlines, now_ms: u64) -> Vec<u32> {
        let mut found = Vec::new();
        while let Some(bucket) = deadlines.next_due(now_ms, &mut 1_000_000) {
            found.push(bucket);
        }
        found
    }

    #[test]
    fn buckets_come_up_within_half_a_second_and_only_then() {
        let mut deadlines = Deadlines::default();
        deadlines.note(5, 2_000, 1_000);
        deadlines.note(9_000, 2_100, 1_000);
        deadlines.note(9_000, 9_000, 1_000);
        deadlines.note(70_000, 1 << 60, 1_000);
        assert!(all_due(&mut deadlines, 2_000).is_empty());
        assert_eq!(all_due(&mut deadlines, 2_500), [9_000, 5]);
        assert!(all_due(&mut deadlines, 60_000).is_empty());
    }

    #[test]
    fn moving_items_keep_their_deadlines() {
        let mut deadlines = Deadlines::default();
        deadlines.note(1, 2_000, 0);
        deadlines.on_split(1, 65);
        assert_eq!(all_due(&mut deadlines, 4_000), [65, 1]);
        deadlines.note(65, 5_000, 4_000);
        deadlines.note(1, 50_000, 4_000);
        deadlines.on_merge(1, 65);
        assert_eq!(all_due(&mut deadlines, 6_000), [1]);
    }

    #[test]
    fn a_search_stops_when_its_steps_are_used_up_and_goes_on_later() {
        let mut deadlines = Deadlines::default();
        for bucket in 0..10 {
            deadlines.note(2 * bucket * SEGMENT as u32, 100, 0);
        }
        let mut found = 0;
        let mut calls = 0;
        while found < 10 {
            calls += 1;
            found += deadlines.next_due(1_000, &mut 1).is_some() as u32;
            assert!(calls < 100);
        }
        assert!(calls > 10);
    }
}
