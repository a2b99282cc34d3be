//! How large the window should be: seven caches without contents play with a sample of the keys, each with another
//! window, and whichever has most hits is followed.

use super::miniature::{Access, Miniature};

/// Window sizes that are tried, in percent of the items.
pub const WINDOWS: [usize; 7] = [1, 5, 10, 20, 40, 60, 80];
/// The window before anything is known: of the sizes tried, the one that is wrong least often.
const FIRST: usize = 0;
/// Scores are sums over the last thousand or so sampled look-ups …
const SCORE_DECAY: f32 = 0.999;
/// … mean something after so many …
const SCORE_WEIGHT_MIN: f32 = 50.0;
/// … and a window has to lead by half a point to be chosen.
const SCORE_LEAD: f32 = 0.005;

pub struct Windows {
    miniatures: [Miniature; WINDOWS.len()],
    scores: [f32; WINDOWS.len()],
    weight: f32,
    chosen: usize,
}

impl Windows {
    /// Each has room for `entries_max`, a power of two, and uses little of it yet.
    pub fn new(entries_max: usize) -> Windows {
        Windows {
            miniatures: WINDOWS.map(|percent| Miniature::new(entries_max, 2, percent)),
            scores: [0.0; WINDOWS.len()],
            weight: 0.0,
            chosen: FIRST,
        }
    }

    pub fn resize(&mut self, capacity: usize) {
        for (miniature, percent) in self.miniatures.iter_mut().zip(WINDOWS) {
            miniature.resize(capacity, percent);
        }
    }

    /// The window to have, in percent.
    pub fn percent(&self) -> usize {
        WINDOWS[self.chosen]
    }

    pub fn bytes(&self) -> usize {
        self.miniatures.iter().map(Miniature::bytes).sum()
    }

    /// A key of the sample was asked for.
    pub fn play(&mut self, hash: u64, frequency: impl Fn(u64) -> u32) {
        self.weight = self.weight * SCORE_DECAY + 1.0;
        for (miniature, score) in self.miniatures.iter_mut().zip(&mut self.scores) {
            let is_hit = miniature.access(hash, &frequency) != Access::Miss;
            *score = *score * SCORE_DECAY + is_hit as u8 as f32;
        }
        let best = (0..WINDOWS.len()).max_by(|&a, &b| self.scores[a].total_cmp(&self.scores[b]));
        let best = best.expect("there are windows to choose from");
        let lead = self.scores[best] - self.scores[self.chosen];
        if self.weight > SCORE_WEIGHT_MIN && lead > SCORE_LEAD * self.weight {
            self.chosen = best;
        }
    }
}
