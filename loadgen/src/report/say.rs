//! Words for whoever reads this program's outputs, as long as somebody does.
//!
//! `println!` ends the program with a panic when its reader has gone (`loadgen … | head -1`): servers that a
//! comparison has started would lose their directories' only remover. Here it is an interrupt like Ctrl-C.

use std::fmt::Display;
use std::io::{self, Write};

use crate::failure::Failure;
use crate::signals;

/// Results, on standard output.
pub fn out(text: impl Display) -> Result<(), Failure> {
    match write(io::stdout().lock(), text) {
        Ok(()) => Ok(()),
        Err(error) => {
            signals::interrupt();
            Err(Failure::system("cannot write to standard output", error))
        }
    }
}

/// Everything beside the results, on standard error.
pub fn tell(text: impl Display) {
    if write(io::stderr().lock(), text).is_err() {
        signals::interrupt();
    }
}

/// Last words: it no longer matters whether anybody hears them.
pub fn end(text: impl Display) {
    let _ = write(io::stderr().lock(), text);
}

fn write(mut to: impl Write, text: impl Display) -> io::Result<()> {
    writeln!(to, "{text}").and_then(|()| to.flush())
}
