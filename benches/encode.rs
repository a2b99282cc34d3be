//! Nanoseconds to encode one reply behind others, into output that has room.
//!
//!     cargo bench --bench encode [-- part-of-a-name]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use crabcache::proto::{encode, reply};
use crabcache::reply::{Out, Reply};
use crabcache::request::Wire;

const REPLIES: usize = 128;
const ROUNDS: usize = 2_000;

fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let (small, large) = (vec![b'x'; 64], vec![b'x'; 1024]);
    let hung = Bytes::from(vec![b'x'; 64 * 1024]);
    let replies = [
        ("OK", Reply::Ok),
        ("nil", Reply::Nil),
        ("integer 1", Reply::Int(1)),
        ("integer 1234567", Reply::Int(1_234_567)),
        ("value of 64 B", Reply::Bulk(&small)),
        ("value of 1 KiB", Reply::Bulk(&large)),
        ("value of 64 KiB, hung in", Reply::Large(hung)),
        ("error", Reply::Error(crabcache::reply::ReplyError::NotAnInteger)),
    ];
    for wire in [Wire::Resp2, Wire::Resp3, Wire::Binary] {
        for (name, reply) in &replies {
            let name = format!("{wire:?} {name}");
            if only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
                measure(&name, wire, reply);
            }
        }
    }
}

fn measure(name: &str, wire: Wire, reply: &Reply<'_>) {
    let mut out = Out::default();
    let median = |work: &mut dyn FnMut()| {
        let mut rounds_ns: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            work();
            rounds_ns.push(start.elapsed().as_nanos() as f64 / REPLIES as f64);
        }
        rounds_ns.sort_by(f64::total_cmp);
        (rounds_ns[0], rounds_ns[ROUNDS / 2])
    };
    let (best, written) = median(&mut || {
        out.clear();
        for _ in 0..REPLIES {
            encode(wire, black_box(reply), &mut out);
        }
        black_box(&out);
    });
    let bytes = out.to_vec();
    let (_, skipped) = median(&mut || {
        let mut rest = black_box(bytes.as_slice());
        while let Some(skipped) = reply::skip(wire, rest).expect("a reply") {
            rest = &rest[skipped.len..];
        }
        assert!(rest.is_empty());
    });
    println!("{name:35} best {best:6.1} ns  median {written:6.1} ns    skipped by a client {skipped:6.1} ns");
}
