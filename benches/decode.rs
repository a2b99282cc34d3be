//! Nanoseconds to decode one command, out of buffers of 16 KiB full of them.
//!
//!     cargo bench --bench decode [-- part-of-a-name]

use std::hint::black_box;
use std::time::Instant;

use crabcache::proto::{Arguments, DecodeLimits, Decoder, Step, binary, client};

const BUFFER_BYTES: usize = 16 * 1024;
/// So many different buffers that no branch predictor knows them by heart.
const BUFFERS: usize = 20;
const ROUNDS: usize = 200;

fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let measure = |name: &str, write: &dyn Fn(usize, &mut Vec<u8>)| {
        if only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            measure(name, write);
        }
    };
    let key = |index: usize| format!("key:{:012}", index * 7919 % 1_000_000).into_bytes();
    let value = |len: usize| vec![b'x'; len];
    // SplitMix64's way of making noise of a number.
    let noise = |index: usize| {
        let mixed = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 27)) >> 20) as usize
    };

    measure("resp GET key:000000123456", &|index, out| client::resp(&[b"GET", &key(index)], out));
    measure("resp SET key:000000123456 <64 B>", &|index, out| {
        client::resp(&[b"SET", &key(index), &value(64)], out);
    });
    measure("resp SET key:000000123456 <1 KiB>", &|index, out| {
        client::resp(&[b"SET", &key(index), &value(1024)], out);
    });
    measure("resp GET and SET at random", &|index, out| match noise(index) % 2 {
        0 => client::resp(&[b"SET", &key(index), &value(64)], out),
        _ => client::resp(&[b"GET", &key(index)], out),
    });
    measure("resp SET <1..30 B> <1..1500 B> at random", &|index, out| {
        let (key_len, value_len) = (1 + noise(index) % 30, 1 + noise(index + 1_000_000) % 1500);
        client::resp(&[b"SET", &value(key_len), &value(value_len)], out);
    });
    measure("resp SET key:000000123456 <64 B> PX 60000", &|index, out| {
        client::resp(&[b"SET", &key(index), &value(64), b"PX", b"60000"], out);
    });
    measure("resp INCRBYFLOAT key:000000123456 1.5", &|index, out| {
        client::resp(&[b"INCRBYFLOAT", &key(index), b"1.5"], out);
    });
    measure("resp PING", &|_, out| client::resp(&[b"PING"], out));
    measure("resp MGET of 10", &|index, out| {
        let keys: Vec<Vec<u8>> = (0..10).map(|i| key(index * 10 + i)).collect();
        let words: Vec<&[u8]> = [b"MGET".as_slice()].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
        client::resp(&words, out);
    });
    measure("resp CLIENT SETNAME name", &|_, out| client::resp(&[b"CLIENT", b"SETNAME", b"name"], out));
    measure("inline PUT key value", &|_, out| out.extend_from_slice(b"PUT key:000000123456 value\r\n"));
    measure("inline PUT \"key\" value", &|_, out| out.extend_from_slice(b"PUT \"key:000000123456\" value\r\n"));
    let operation = |out: &mut Vec<u8>, add: &dyn Fn(&mut client::Frame)| {
        let mut frame = client::Frame::begin(out);
        add(&mut frame);
        frame.end();
    };
    measure("binary GET, a frame each", &|index, out| {
        operation(out, &|frame| frame.key(binary::opcode::GET, &key(index)));
    });
    measure("binary SET <64 B>, a frame each", &|index, out| {
        operation(out, &|frame| frame.set(&key(index), &value(64), &Default::default()));
    });
    measure("binary SET <64 B> with time, a frame each", &|index, out| {
        let options = client::SetOptions { time_ms: Some(60_000), ..Default::default() };
        operation(out, &|frame| frame.set(&key(index), &value(64), &options));
    });
}

fn measure(name: &str, write: &dyn Fn(usize, &mut Vec<u8>)) {
    let mut commands = 0;
    let buffers: Vec<Vec<u8>> = (0..BUFFERS).map(|_| full_buffer(&mut commands, write)).collect();
    let limits = DecodeLimits::default();
    let mut arguments = Arguments::default();
    let mut decoder = Decoder::default();
    let mut rounds_ns = Vec::new();
    for _ in 0..ROUNDS {
        let mut found = 0;
        let start = Instant::now();
        for input in &buffers {
            let mut from = 0;
            while from < input.len() {
                match decoder.next(input, from, &mut arguments, &limits) {
                    Ok(Step::Command { verb, end, .. }) => {
                        black_box(verb.known());
                        found += 1;
                        from = end;
                    }
                    Ok(Step::Skip { end }) => from = end,
                    other => panic!("{other:?}"),
                }
            }
            black_box(&arguments.ranges);
            arguments.clear();
        }
        rounds_ns.push(start.elapsed().as_nanos() as f64 / commands as f64);
        assert_eq!(found, commands);
    }
    rounds_ns.sort_by(f64::total_cmp);
    let (best, median) = (rounds_ns[0], rounds_ns[ROUNDS / 2]);
    println!("{name:45} best {best:6.1} ns  median {median:6.1} ns");
}

fn full_buffer(commands: &mut usize, write: &dyn Fn(usize, &mut Vec<u8>)) -> Vec<u8> {
    let mut buffer = Vec::new();
    loop {
        let before = buffer.len();
        write(*commands, &mut buffer);
        if buffer.len() > BUFFER_BYTES {
            buffer.truncate(before);
            return buffer;
        }
        *commands += 1;
    }
}
