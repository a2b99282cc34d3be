//! PROTOCOL.md is the contract: every `transcript` block in it is replayed against the server, whole and cut
//! everywhere. So are the blocks of `transcripts/bad_input.md`, which nobody needs to read to write a client.

mod harness;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use harness::Server;
use support::client::Client;
use support::notation::unescape;
use support::value::{Value, quoted};

/// Longest a block's client bytes may be for being cut at every one of them.
const CUT_BYTES_MAX: usize = 2000;

#[derive(Clone, Debug, PartialEq)]
enum Line {
    Client(Vec<u8>),
    Server(Vec<u8>),
    Closed,
}

struct Transcript {
    /// File and line of its first line.
    origin: String,
    lines: Vec<Line>,
}

impl Transcript {
    fn said_by_client(&self) -> Vec<u8> {
        let said = self.lines.iter().map(|line| if let Line::Client(bytes) = line { bytes.as_slice() } else { b"" });
        said.collect::<Vec<_>>().concat()
    }

    fn said_by_server(&self) -> Vec<u8> {
        let said = self.lines.iter().map(|line| if let Line::Server(bytes) = line { bytes.as_slice() } else { b"" });
        said.collect::<Vec<_>>().concat()
    }

    fn is_closed(&self) -> bool {
        self.lines.last() == Some(&Line::Closed)
    }
}

/// The blocks of a Markdown text, or what is wrong with it and where.
fn parse(file: &str, text: &str) -> Result<Vec<Transcript>, String> {
    let mut transcripts = Vec::new();
    let mut open: Option<Transcript> = None;
    let mut other_fence = false;
    for (index, line) in text.lines().enumerate() {
        let origin = format!("{file}:{}", index + 1);
        if let Some(info) = line.strip_prefix("```") {
            match open.take() {
                Some(transcript) if !transcript.lines.iter().any(|line| matches!(line, Line::Client(_))) => {
                    return Err(format!("{origin}: the client says nothing in this transcript"));
                }
                Some(transcript) if !transcript.lines.iter().any(|line| !matches!(line, Line::Client(_))) => {
                    return Err(format!("{origin}: the server answers nothing in this transcript"));
                }
                Some(transcript) => transcripts.push(transcript),
                None if other_fence => other_fence = false,
                None if info == "transcript" => open = Some(Transcript { origin, lines: Vec::new() }),
                None => other_fence = true,
            }
            continue;
        }
        let Some(transcript) = &mut open else { continue };
        if transcript.is_closed() {
            return Err(format!("{origin}: nothing can follow the end of a connection"));
        }
        let bytes = |escaped: &str| {
            unescape(escaped.as_bytes()).ok_or_else(|| format!("{origin}: unknown escape in {escaped:?}"))
        };
        match (line.split_at_checked(3), line.starts_with("# ")) {
            (_, true) => {}
            (Some(("S: ", "<closed>")), _) => transcript.lines.push(Line::Closed),
            (Some(("C: ", escaped)), _) => transcript.lines.push(Line::Client(bytes(escaped)?)),
            (Some(("S: ", escaped)), _) => transcript.lines.push(Line::Server(bytes(escaped)?)),
            _ => return Err(format!("{origin}: neither `C: ` nor `S: ` nor `# `: {line:?}")),
        }
    }
    match open {
        Some(transcript) => Err(format!("{}: this transcript has no end", transcript.origin)),
        None => Ok(transcripts),
    }
}

/// A fresh connection to an emptied server.
fn fresh(address: SocketAddr, transcript: &Transcript, how: &str) -> Client {
    assert_eq!(Client::connect(address).call("FLUSHALL"), Value::ok());
    let mut client = Client::connect(address);
    client.purpose = format!("{}: {how}", transcript.origin);
    client
}

fn assert_said(transcript: &Transcript, how: &str, said: &[u8], expected: &[u8]) {
    assert!(
        said == expected,
        "{}: {how}: the server said\n  {}\ninstead of\n  {}",
        transcript.origin,
        quoted(said),
        quoted(expected)
    );
}

/// Turn by turn, as it is written.
fn replay(transcript: &Transcript, address: SocketAddr) {
    let mut client = fresh(address, transcript, "turn by turn");
    for line in &transcript.lines {
        match line {
            Line::Client(bytes) => client.send(bytes),
            Line::Server(bytes) => assert_said(transcript, "turn by turn", &client.bytes(bytes.len()), bytes),
            Line::Closed => {}
        }
    }
    expect_end(transcript, "turn by turn", client);
}

/// Nothing more is said; a connection that should be closed is, and any other ends when we end it.
fn expect_end(transcript: &Transcript, how: &str, client: Client) {
    if !transcript.is_closed() {
        client.half_close();
    }
    assert_said(transcript, &format!("{how}, at the end"), &client.rest(), b"");
}

/// All the client says, in pieces that end at `cuts`.
fn replay_cut(transcript: &Transcript, address: SocketAddr, how: &str, cuts: &[usize]) {
    let said = transcript.said_by_client();
    let expected = transcript.said_by_server();
    let mut client = fresh(address, transcript, how);
    let mut from = 0;
    for &cut in cuts.iter().chain([&said.len()]) {
        client.send(&said[from..cut]);
        from = cut;
        // Bytes on their way to a connection that is being closed may cost the error that is on its way back.
        let is_answered = |client: &mut Client| {
            client.readable_within(Duration::from_micros(300))
                && client.arrived_within(Duration::ZERO) >= expected.len()
        };
        if transcript.is_closed() && from < said.len() && is_answered(&mut client) {
            break;
        }
    }
    let arrived = client.bytes(expected.len());
    assert_said(transcript, how, &arrived, &expected);
    expect_end(transcript, how, client);
}

/// The client ends in the middle: what the server says until then is what it would have said anyway.
fn replay_truncated(transcript: &Transcript, address: SocketAddr, len: usize) {
    let mut client = fresh(address, transcript, &format!("half-close after {len} bytes"));
    client.send(&transcript.said_by_client()[..len]);
    client.half_close();
    let said = client.rest();
    let expected = transcript.said_by_server();
    assert!(
        expected.starts_with(&said),
        "{}: after {len} bytes and a half-close the server said\n  {}\nwhich is no beginning of\n  {}",
        transcript.origin,
        quoted(&said),
        quoted(&expected)
    );
}

fn replay_all(transcripts: &[Transcript]) {
    let server = Server::start(&["--cores", "4"]);
    let address = server.address();
    for transcript in transcripts {
        replay(transcript, address);
        let len = transcript.said_by_client().len();
        replay_cut(transcript, address, "in one piece", &[]);
        replay_cut(transcript, address, "byte by byte", &(1..len).collect::<Vec<_>>());
        for cut in 1..len.min(CUT_BYTES_MAX) {
            replay_cut(transcript, address, &format!("cut after {cut} bytes"), &[cut]);
        }
        for cut in 0..len.min(CUT_BYTES_MAX) {
            replay_truncated(transcript, address, cut);
        }
    }
    assert_eq!(Client::connect(address).call("PING"), Value::Simple(b"PONG".to_vec()));
    println!("{} transcripts", transcripts.len());
}

fn blocks_of(file: &str) -> Vec<Transcript> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    parse(file, &text).unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn the_server_speaks_as_protocol_md_says() {
    let transcripts = blocks_of("PROTOCOL.md");
    assert!(transcripts.len() >= 20, "PROTOCOL.md has {} transcripts; have they lost their mark?", transcripts.len());
    let starting = |byte: u8| transcripts.iter().filter(move |it| it.said_by_client().first() == Some(&byte)).count();
    assert!(starting(b'*') > 0 && starting(0xCB) > 0 && starting(b'{') > 0, "a protocol has no transcript");
    assert!(transcripts.iter().any(Transcript::is_closed), "no transcript of bad input");
    replay_all(&transcripts);
}

#[test]
fn bad_input_is_answered_and_closed() {
    let transcripts = blocks_of("tests/transcripts/bad_input.md");
    assert!(transcripts.len() >= 10);
    replay_all(&transcripts);
}

#[test]
fn blocks_are_read_as_they_are_written() {
    let text = "text\n```transcript\n# why\nC: a\\r\\n\\x00\\\\\nS: \\\"\\t\nS: <closed>\n```\n```sh\nC: no\n```\n";
    let transcripts = parse("file", text).unwrap();
    assert_eq!(transcripts.len(), 1);
    assert_eq!(
        transcripts[0].lines,
        [Line::Client(b"a\r\n\0\\".to_vec()), Line::Server(b"\"\t".to_vec()), Line::Closed]
    );
    assert_eq!(transcripts[0].origin, "file:2");
    for wrong in [
        "```transcript\nC: a\nS: b\n",
        "```transcript\nC: a\n```",
        "```transcript\nS: a\n```",
        "```transcript\nC: a\nS: b\nhello\n```",
        "```transcript\nC: a\nS: b\n\n```",
        "```transcript\nC: \\y\nS: b\n```",
        "```transcript\nC: a\nS: <closed>\nC: b\n```",
    ] {
        assert!(parse("file", wrong).is_err(), "{wrong:?} was accepted");
    }
}
