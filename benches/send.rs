//! What one send costs the sending thread and the process: copied into the kernel (`send`), or lent to it until it
//! says that it is done (`send_zc`), over loopback and by size.
//!
//!     cargo bench --bench send
//!
//! The other end reads as fast as it can on another CPU. Over loopback the kernel copies lent pages when they
//! reach the receiver's queue, so what is measured here is the price of lending; a network card's gain is not.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, types};
use nix::libc;
use nix::time::{ClockId, clock_gettime};

const BYTES_PER_RUN: usize = 1 << 30;
const SENDS_MAX: usize = 50_000;
/// As many sends may be with the kernel.
const LENT_OUT_MAX: usize = 32;
const ROUNDS: usize = 5;

fn main() {
    println!(
        "{:>9}  {:>12}  {:>12}  {:>7}   µs of CPU of the sender per send, median of {ROUNDS}",
        "bytes", "send", "send_zc", "ratio"
    );
    for bytes in [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for lent in [round % 2 == 0, round % 2 == 1] {
                costs[lent as usize].push(measure(bytes, lent));
            }
        }
        let [copied, lent] = costs.map(|mut costs| {
            costs.sort_by(f64::total_cmp);
            costs[costs.len() / 2]
        });
        println!("{bytes:>9}  {copied:>12.2}  {lent:>12.2}  {:>7.2}", lent / copied);
    }
}

fn cpu_of_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

/// Microseconds of the sending thread per send.
fn measure(bytes: usize, lent: bool) -> f64 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let reader = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("the listener is there");
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).expect("a healthy connection") > 0 {}
    });
    let (stream, _) = listener.accept().expect("a client");
    let sends = (BYTES_PER_RUN / bytes).min(SENDS_MAX);
    let mut ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8).expect("a ring");
    let payload = vec![b'x'; bytes];
    let before = cpu_of_thread();
    let mut lent_out = 0;
    for _ in 0..sends {
        send_all(&mut ring, &stream, &payload, lent, &mut lent_out);
    }
    while lent_out > 0 {
        ring.submit_and_wait(1).expect("a working ring");
        take(&mut ring, &mut lent_out);
    }
    let used = cpu_of_thread() - before;
    drop(stream);
    reader.join().expect("the reader ends when all is read");
    used.as_secs_f64() * 1e6 / sends as f64
}

/// Sends all of `rest` and waits until it is sent. What is lent may still be the kernel's then: `lent_out` counts the
/// sends whose buffer it has not given back.
fn send_all(ring: &mut IoUring, stream: &TcpStream, mut rest: &[u8], lent: bool, lent_out: &mut usize) {
    let descriptor = types::Fd(stream.as_raw_fd());
    while !rest.is_empty() {
        let entry = match lent {
            false => opcode::Send::new(descriptor, rest.as_ptr(), rest.len() as u32).flags(libc::MSG_WAITALL).build(),
            true => opcode::SendZc::new(descriptor, rest.as_ptr(), rest.len() as u32).flags(libc::MSG_WAITALL).build(),
        };
        // SAFETY: `rest` is a part of the payload, which lives until everything was given back.
        unsafe { ring.submission().push(&entry) }.expect("room for one");
        let mut sent = None;
        while sent.is_none() || *lent_out > LENT_OUT_MAX {
            ring.submit_and_wait(1).expect("a working ring");
            sent = sent.or(take(ring, lent_out));
        }
        rest = &rest[sent.unwrap_or_default()..];
    }
}

/// What the completions say was sent.
fn take(ring: &mut IoUring, lent_out: &mut usize) -> Option<usize> {
    let mut sent = None;
    for completion in ring.completion() {
        if cqueue::notif(completion.flags()) {
            *lent_out -= 1;
        } else {
            sent = Some(usize::try_from(completion.result()).expect("sent"));
            *lent_out += cqueue::more(completion.flags()) as usize;
        }
    }
    sent
}
