//! What a core has under way on the executor besides its turn: file I/O, timers, background tasks. While
//! there is any, the core does not sleep in its own ring but lets the executor sleep for both.

use std::cell::Cell;
use std::rc::Rc;

/// Counts the background work of one core.
#[derive(Clone, Default)]
pub struct Background(Rc<Cell<usize>>);

/// Background work is under way as long as this lives.
pub struct UnderWay(Rc<Cell<usize>>);

impl Background {
    pub fn begin(&self) -> UnderWay {
        self.0.set(self.0.get() + 1);
        UnderWay(self.0.clone())
    }

    #[inline]
    pub fn is_busy(&self) -> bool {
        self.0.get() > 0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
