//! What the decoders' targets share: an input is six bytes that say where it is cut, then what a client sends.

use crabcache::proto::driver::{decode_in_pieces, tight_limits};

/// Inputs up to this length are also decoded byte by byte.
const BYTE_BY_BYTE_MAX: usize = 300;

/// Panics if the decoder finds something else in `input` when it arrives in pieces.
pub fn check_cuts(data: &[u8], first: Option<u8>) {
    let Some((cuts, input)) = data.split_first_chunk::<6>() else {
        return;
    };
    let mut input = input.to_vec();
    if let (Some(wanted), Some(first)) = (first, input.first_mut()) {
        *first = wanted;
    }
    let limits = tight_limits();
    let whole = decode_in_pieces(&input, &[], &limits);
    let cut = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]) as usize % (input.len() + 1);
    let mut cuts: Vec<usize> = cuts.chunks(2).map(cut).collect();
    cuts.sort_unstable();
    assert_eq!(decode_in_pieces(&input, &cuts, &limits), whole);
    if input.len() <= BYTE_BY_BYTE_MAX {
        let every_byte: Vec<usize> = (0..input.len()).collect();
        assert_eq!(decode_in_pieces(&input, &every_byte, &limits), whole);
    }
}
