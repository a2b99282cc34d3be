//! Who is measured when.

use super::options::Checked;
use super::server::ServerOptions;

/// A B, B A, A B …: each pair starts with the one that the last ended with, so that drift cancels. Done twice, the
/// order is as it was.
pub fn in_turn<T>(pair: usize, [a, b]: [T; 2]) -> [T; 2] {
    if pair.is_multiple_of(2) { [a, b] } else { [b, a] }
}

/// The servers of all legs, each as often as pairs are wanted.
pub fn servers_in_turn(checked: &Checked) -> impl Iterator<Item = &ServerOptions> {
    let pairs = checked.legs.iter().flat_map(|leg| (0..checked.pairs).map(move |pair| (leg, pair)));
    pairs.flat_map(|(leg, pair)| in_turn(pair, [&leg.a, &leg.b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_starts_with_the_one_that_the_last_ended_with() {
        let order: String = (0..5).flat_map(|pair| in_turn(pair, ['A', 'B'])).collect();
        assert_eq!(order, "ABBAABBAAB");
        assert_eq!(in_turn(1, in_turn(1, ["a", "b"])), ["a", "b"]);
    }
}
