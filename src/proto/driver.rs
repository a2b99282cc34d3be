//! A caller of the decoder for tests and fuzzing: feeds it input in pieces, keeps the bytes of incomplete
//! commands, asks again only when as much has come as the decoder said, takes large values out of the
//! stream, and writes down what came out.

use bytes::Bytes;

use super::{Arguments, DecodeLimits, Decoder, ProtocolError, Step, Verb, refusal_text};

/// Small bounds, so that inputs past them stay short.
pub fn tight_limits() -> DecodeLimits {
    DecodeLimits {
        line_bytes_max: 100,
        json_line_bytes_max: 200,
        command_bytes_max: 200_000,
        ..DecodeLimits::new(70_000)
    }
}

/// Everything that one connection's input was decoded to.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    pub commands: Vec<Command>,
    pub error: Option<ProtocolError>,
    /// Bytes at the end that are no whole command yet.
    pub rest: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// The name in the table, or the text with which the command is refused.
    pub name: String,
    pub args: Vec<Vec<u8>>,
    pub large: Vec<bool>,
}

/// Feeds `input` cut at `cuts` (ascending offsets) to a fresh decoder.
pub fn decode_in_pieces(input: &[u8], cuts: &[usize], limits: &DecodeLimits) -> Outcome {
    let mut caller = Caller::default();
    let mut from = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        caller.receive(&input[from..cut], limits);
        from = cut;
    }
    caller.outcome.rest = caller.kept;
    // A large value that has not come to its end belongs to the rest as well.
    if let Some((_, value)) = caller.receiving {
        caller.outcome.rest.extend(value);
    }
    caller.outcome
}

#[derive(Default)]
struct Caller {
    decoder: Decoder,
    kept: Vec<u8>,
    arguments: Arguments,
    large: Vec<Bytes>,
    /// The length of the large value that is being received, and what is here of it.
    receiving: Option<(usize, Vec<u8>)>,
    /// Bytes that have to come before the decoder is asked again.
    missing: usize,
    /// Where the incomplete command ends at the earliest.
    end_min: usize,
    outcome: Outcome,
}

impl Caller {
    fn receive(&mut self, piece: &[u8], limits: &DecodeLimits) {
        if self.outcome.error.is_some() {
            return;
        }
        let mut piece = piece.to_vec();
        loop {
            if let Some((len, value)) = &mut self.receiving {
                let taken = (*len - value.len()).min(piece.len());
                value.extend(piece.drain(..taken));
                if value.len() < *len {
                    return;
                }
                self.decoder.large_done(self.large.len());
                self.large.push(std::mem::take(value).into());
                self.receiving = None;
            }
            if !self.kept.is_empty() {
                let belonging = self.decoder.belonging(self.missing, &piece);
                self.end_min = self.end_min.max(self.kept.len() + belonging);
            }
            self.missing = self.missing.saturating_sub(piece.len());
            self.kept.append(&mut piece);
            if self.missing > 0 {
                return;
            }
            let Some((len, after)) = self.decode(limits) else {
                return;
            };
            // What came behind the value's start goes into the value first.
            self.receiving = Some((len, Vec::new()));
            piece = after;
        }
    }

    /// Decodes what is kept; returns the length of a large value and the bytes from its start on.
    fn decode(&mut self, limits: &DecodeLimits) -> Option<(usize, Vec<u8>)> {
        let mut from = 0;
        let input = std::mem::take(&mut self.kept);
        loop {
            let first = self.arguments.ranges.len();
            let before = self.arguments.scratch.len();
            let step = self.decoder.next(&input, from, &mut self.arguments, limits);
            match step {
                Ok(Step::Command { verb, source, end }) => {
                    assert!(end > from && end <= input.len() && end >= from + std::mem::take(&mut self.end_min));
                    assert!(self.arguments.scratch.len() - before <= 128 + end - from, "the scratch outgrew its input");
                    let args = self.arguments.args(first, source, &input, &self.large);
                    self.outcome.commands.push(Command {
                        name: match verb {
                            Verb::Known(spec) => spec.name.to_string(),
                            refused => refusal_text(refused, &args),
                        },
                        args: args.iter().map(<[u8]>::to_vec).collect(),
                        large: (0..args.len()).map(|index| args.large(index).is_some()).collect(),
                    });
                    self.large.clear();
                    // Every other batch ends here, so that offsets into shared vectors are exercised.
                    if self.outcome.commands.len().is_multiple_of(2) {
                        self.arguments.clear();
                    }
                    from = end;
                }
                Ok(Step::Skip { end }) => {
                    assert!(end > from && end <= input.len() && end >= from + std::mem::take(&mut self.end_min));
                    from = end;
                }
                Ok(Step::Incomplete { at_least }) => {
                    assert!((1..=64 * 1024).contains(&at_least), "{at_least} bytes wanted");
                    assert_eq!(self.arguments.ranges.len(), first, "an incomplete command left something behind");
                    self.kept = input[from..].to_vec();
                    self.missing = at_least;
                    self.end_min = self.kept.len() + at_least;
                    return None;
                }
                Ok(Step::Large { len, end }) => {
                    assert!(end > from && end <= input.len());
                    self.kept = input[from..end].to_vec();
                    self.end_min = 0;
                    return Some((len, input[end..].to_vec()));
                }
                Err(error) => {
                    self.outcome.error = Some(error);
                    return None;
                }
            }
        }
    }
}
