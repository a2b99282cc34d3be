//! How far the kernel's word that it has work for us can be believed.
//!
//! The kernel hands work over first and gives its word afterwards. Work that is taken between the two leaves the word
//! standing with nothing behind it, until the next work is done:
//!
//! ```text
//!   kernel, any CPU   adds work ──────────────────────────────▶ gives its word
//!   this core                    ▲ enters: takes back the word,
//!                                  does the work
//! ```
//!
//! Who waits for nothing as long as it stands waits for ever; so it counts for nothing once entering has brought nothing
//! a few times in a row. More than once, because one enter does only so much of the work, and not all work ends in a
//! completion.

/// Enters that may bring nothing before the word is taken for a leftover.
const FRUITLESS_MAX: u8 = 4;

#[derive(Default)]
pub struct Word {
    fruitless: u8,
}

impl Word {
    /// The ring was entered, and the word stands, or not.
    #[inline]
    pub fn entered(&mut self, has_brought: bool, stands: bool) {
        self.fruitless = if has_brought || !stands { 0 } else { (self.fruitless + 1).min(FRUITLESS_MAX) };
    }

    #[inline]
    pub fn is_believed(&self) -> bool {
        self.fruitless < FRUITLESS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with a log went round and round for the sake of a word with nothing behind it, and never wrote.
    #[test]
    fn a_word_with_nothing_behind_it_is_not_believed_for_ever() {
        let mut word = Word::default();
        for _ in 0..FRUITLESS_MAX {
            assert!(word.is_believed());
            word.entered(false, true);
        }
        assert!(!word.is_believed());
        word.entered(false, true);
        assert!(!word.is_believed());
        word.entered(true, true);
        assert!(word.is_believed(), "there was something behind it");
        word.entered(false, false);
        assert!(word.is_believed());
    }
}
