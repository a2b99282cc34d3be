//! `loadgen compare pub-sub`: one publisher, and a thousand subscribers who all listen to its channel. What a delivery
//! costs the server, and how long it takes until the last subscriber has what was published.
//!
//! Closed loop: a burst is published, read by every subscriber and compared byte by byte, and then the next one begins.
//! So nobody ever has more than a burst unread, and no message is missing in the numbers.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::json;

use super::Findings;
use super::options::Checked;
use super::round::wait_for_quiet;
use super::server::{Server, ServerOptions};
use super::turns::servers_in_turn;
use crate::failure::{Failure, explain};
use crate::report::json::percentiles;
use crate::report::svg::{Bar, Bars};
use crate::report::{Percentiles, say};
use crate::session::Session;

const CHANNEL: &str = "news";
/// No burst is recorded as longer.
const BURST_NS_MAX: u64 = 60_000_000_000;
/// Bytes of a message, and how many are published before the subscribers read.
const BURSTS: [(usize, usize); 3] = [(64, 1), (64, 16), (4096, 4)];

/// What one server made of one kind of burst.
#[derive(Default)]
struct Told {
    deliveries: u64,
    seconds: f64,
    cpu_ns: u64,
    /// From the first byte sent until the last subscriber has read all of it.
    burst: Percentiles,
}

pub fn measure(subscribers: usize, checked: &Checked) -> Result<(), Failure> {
    let mut table = format!(
        "One publisher, {subscribers} subscribers of one channel, RESP2, {:.1} s each; a burst is published when everybody has read \
         the one before.\n\n\
         | server | message | burst | deliveries/s | server CPU µs per delivery | p50 ms until the last has it | p99 ms | max ms |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
        checked.measured.as_secs_f64()
    );
    let mut rows = Vec::new();
    let mut groups = Vec::new();
    for server in servers_in_turn(checked) {
        let mut bars = Vec::new();
        for ((bytes, burst), told) in BURSTS.into_iter().zip(measure_one(server, subscribers, checked)?) {
            let us_per_delivery = told.cpu_ns as f64 / 1e3 / told.deliveries as f64;
            writeln!(
                table,
                "| {} | {bytes} B | {burst} | {:.0} | {us_per_delivery:.3} | {:.2} | {:.2} | {:.2} |",
                server.name,
                told.deliveries as f64 / told.seconds,
                told.burst.p50,
                told.burst.p99,
                told.burst.max
            )
            .expect("a string grows");
            rows.push(json!({
                "server": server.name,
                "subscribers": subscribers,
                "message_bytes": bytes,
                "burst": burst,
                "deliveries": told.deliveries,
                "seconds": told.seconds,
                "server_cpu_ns": told.cpu_ns,
                "burst_ms": percentiles(&told.burst),
            }));
            bars.push(Bar { value: us_per_delivery, interval: None });
        }
        groups.push((server.name.clone(), bars));
    }
    let series = BURSTS.iter().map(|(bytes, burst)| format!("{burst} × {bytes} B")).collect();
    let title = "Server CPU per delivery".into();
    Findings { table, rows, chart: Bars { title, y_label: "µs", series, groups } }.publish(checked)
}

fn measure_one(options: &ServerOptions, subscribers: usize, checked: &Checked) -> Result<Vec<Told>, Failure> {
    let server = Server::start(options)?;
    let mut crowd = Crowd::gather(&server, subscribers)?;
    wait_for_quiet(&[&server], checked)?;
    let told: Result<Vec<Told>, Failure> =
        BURSTS.into_iter().map(|(bytes, burst)| crowd.tell(&server, bytes, burst, checked)).collect();
    let told = told?;
    let per_delivery = |told: &Told| format!("{:.3}", told.cpu_ns as f64 / 1e3 / told.deliveries as f64);
    say::tell(format_args!(
        "#   {}: {} µs of CPU per delivery",
        server.name(),
        told.iter().map(per_delivery).collect::<Vec<_>>().join(", ")
    ));
    Ok(told)
}

struct Crowd {
    name: String,
    publisher: TcpStream,
    subscribers: Vec<TcpStream>,
}

impl Crowd {
    fn gather(server: &Server, subscribers: usize) -> Result<Crowd, Failure> {
        let target = server.target();
        let listen = || -> Result<TcpStream, Failure> {
            let mut session = Session::open(&target)?;
            session.ask("SUBSCRIBE", &["SUBSCRIBE", CHANNEL])?;
            Ok(TcpStream::from(session.into_fd()))
        };
        Ok(Crowd {
            name: server.name().to_owned(),
            publisher: TcpStream::from(Session::open(&target)?.into_fd()),
            subscribers: (0..subscribers).map(|_| listen()).collect::<Result<_, _>>()?,
        })
    }

    fn tell(&mut self, server: &Server, bytes: usize, burst: usize, checked: &Checked) -> Result<Told, Failure> {
        let payload = "x".repeat(bytes);
        let (channel_bytes, head) =
            (CHANNEL.len(), format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{CHANNEL}\r\n", CHANNEL.len()));
        let published = format!("{head}${bytes}\r\n{payload}\r\n").repeat(burst);
        let counted = format!(":{}\r\n", self.subscribers.len()).repeat(burst);
        let message =
            format!("*3\r\n$7\r\nmessage\r\n${channel_bytes}\r\n{CHANNEL}\r\n${bytes}\r\n{payload}\r\n").repeat(burst);
        let mut told = Told::default();
        let mut times = Histogram::<u64>::new_with_bounds(1, BURST_NS_MAX, 3).expect("bounds in order");
        let mut room = Vec::new();
        let warm = Instant::now();
        while warm.elapsed() < checked.warm_up {
            self.round(&published, &counted, &message, &mut room)?;
        }
        let (began, cpu_ns) = (Instant::now(), server.cpu_ns());
        while began.elapsed() < checked.measured {
            let sent = Instant::now();
            self.round(&published, &counted, &message, &mut room)?;
            times.saturating_record(sent.elapsed().as_nanos() as u64);
            told.deliveries += (self.subscribers.len() * burst) as u64;
            super::sleep(std::time::Duration::ZERO)?;
        }
        told.seconds = began.elapsed().as_secs_f64();
        told.cpu_ns = server.cpu_ns() - cpu_ns;
        told.burst = Percentiles::of(&times);
        Ok(told)
    }

    fn round(&mut self, published: &str, counted: &str, message: &str, room: &mut Vec<u8>) -> Result<(), Failure> {
        let name = &self.name;
        let broken = |error: std::io::Error| Failure::system(format!("{name}: pub/sub"), explain(&error));
        self.publisher.write_all(published.as_bytes()).map_err(broken)?;
        for (stream, expected) in
            std::iter::once((&mut self.publisher, counted)).chain(self.subscribers.iter_mut().map(|it| (it, message)))
        {
            room.resize(expected.len(), 0);
            stream.read_exact(room).map_err(broken)?;
            if room != expected.as_bytes() {
                return Err(Failure::system(format!("{name}: pub/sub"), "something else came than was published"));
            }
        }
        Ok(())
    }
}
