//! Serving what other cores have sent, and when the replies leave.

use super::Engine;
use super::batch::Batch;

/// The ways between a core and the others, as far as serving needs them.
pub trait Ways {
    /// The next batch that `core` wants served.
    fn inbound(&mut self, core: usize) -> Option<Box<Batch>>;

    /// Whether there is room for a part of a batch, besides all that have to be given back: when the other core has taken
    /// what came before.
    fn has_room_for_part(&mut self, core: usize) -> bool;

    /// Sends a served batch home, or a part of one.
    fn give_back(&mut self, core: usize, batch: Box<Batch>);
}

/// Batches that have been served in part, because what they are answered with is too much for one way home: at most one
/// of each other core.
pub struct Serving {
    begun: Vec<Option<Box<Batch>>>,
}

impl Serving {
    pub fn new(cores: usize) -> Serving {
        Serving { begun: (0..cores).map(|_| None).collect() }
    }

    /// Serves up to `batches_max` batches of `core`, in the order in which they came. Returns how many are done.
    pub fn serve(&mut self, engine: &mut Engine, ways: &mut impl Ways, core: usize, batches_max: usize) -> usize {
        for done in 0..batches_max {
            let Some(mut batch) = self.begun[core].take().or_else(|| ways.inbound(core)) else { return done };
            // Replies that could not leave yet come before the next ones.
            if !batch.has_answers() && engine.serve(&mut batch) {
                ways.give_back(core, batch);
                continue;
            }
            if ways.has_room_for_part(core) {
                let part = batch.part();
                ways.give_back(core, part);
            }
            self.begun[core] = Some(batch);
            return done;
        }
        batches_max
    }

    /// Whether a batch waits for the rest of it to be served.
    #[inline]
    pub fn has_begun(&self) -> bool {
        self.begun.iter().any(Option::is_some)
    }
}
