//! Everything that can keep the server from starting, provoked for real, and how it ends.

mod harness;

use harness::Ports;

#[test]
fn ports_taken_by_tests_never_overlap() {
    let taken: Vec<Ports> = (0..20).map(|_| Ports::take()).collect();
    let mut all: Vec<u16> = taken.iter().flat_map(|ports| [ports.data(), ports.core(0), ports.core(15)]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 60);
}
