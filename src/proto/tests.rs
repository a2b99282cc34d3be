//! Decoding is judged by splitting the input: the result may not depend on where the network cut.

use super::driver::{Outcome, decode_in_pieces, tight_limits};
use super::{DecodeLimits, ProtocolError, binary, client};
use crate::limits;
use crate::random::Random;

/// The outcome of the whole input, which every split must share.
fn decode_split_everywhere(input: &[u8]) -> Outcome {
    let limits = tight_limits();
    let whole = decode_in_pieces(input, &[], &limits);
    for cut in 0..=input.len() {
        assert_eq!(decode_in_pieces(input, &[cut], &limits), whole, "{} cut at {cut}", input.escape_ascii());
    }
    let every_byte: Vec<usize> = (0..input.len()).collect();
    assert_eq!(decode_in_pieces(input, &every_byte, &limits), whole, "{} byte by byte", input.escape_ascii());
    whole
}

/// The commands of an input without errors, each as `name arg arg`.
fn commands(input: &[u8]) -> Vec<String> {
    let outcome = decode_split_everywhere(input);
    assert_eq!(outcome.error, None, "{}", input.escape_ascii());
    assert!(outcome.rest.is_empty(), "{}", input.escape_ascii());
    let line = |command: &super::driver::Command| {
        let args = command.args.iter().map(|arg| arg.escape_ascii().to_string());
        [command.name.clone()].into_iter().chain(args).collect::<Vec<_>>().join(" ")
    };
    outcome.commands.iter().map(line).collect()
}

fn error(input: &[u8]) -> ProtocolError {
    let outcome = decode_split_everywhere(input);
    outcome.error.unwrap_or_else(|| panic!("{} was taken for {outcome:?}", input.escape_ascii()))
}

fn error_text(input: &[u8]) -> String {
    error(input).text().expect("an error with a text").into_owned()
}

fn is_incomplete(input: &[u8]) {
    let outcome = decode_split_everywhere(input);
    assert_eq!((outcome.error, outcome.rest.as_slice()), (None, input));
}

#[test]
fn pipelined_commands_are_told_apart() {
    assert_eq!(
        commands(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n*2\r\n$3\r\nget\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n"),
        ["set k vv", "get k", "ping"]
    );
    assert_eq!(commands(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nList\r\n"), ["client|list"]);
}

#[test]
fn words_are_binary_and_may_be_empty() {
    assert_eq!(commands(b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$0\r\n\r\n"), ["set  "]);
    assert_eq!(commands(b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$3\r\n\0\xff*\r\n"), [r"set \r\n \x00\xff*"]);
}

#[test]
fn lengths_that_lie_are_errors() {
    let invalid_count = "ERR Protocol error: invalid multibulk length";
    for line in ["*03", "*+3", "*-0", "*3x", "*x", "*", "*-", "*2147483648", "*99999999999999999999", "*1048577"] {
        assert_eq!(error_text(format!("{line}\r\n").as_bytes()), invalid_count, "{line}");
    }
    assert_eq!(error_text(b"*1\rx"), invalid_count);
    let invalid_bulk = "ERR Protocol error: invalid bulk length";
    for line in ["$03", "$+3", "$-1", "$-0", "$3x", "$x", "$", "$70001", "$4294967296", "$99999999999999999999"] {
        assert_eq!(error_text(format!("*2\r\n$3\r\nGET\r\n{line}\r\n").as_bytes()), invalid_bulk, "{line}");
        assert_eq!(error_text(format!("*1\r\n{line}\r\n").as_bytes()), invalid_bulk, "{line}");
    }
    assert_eq!(error_text(b"*1\r\n$1\rx"), invalid_bulk);
    assert_eq!(error_text(b"*1\r\n+OK\r\n"), "ERR Protocol error: expected '$', got '+'");
    assert_eq!(error_text(b"*1\r\n\r\n"), "ERR Protocol error: expected '$', got ' '");
    assert_eq!(error_text(b"*1\r\n$4\r\nPINGx\r\n"), "ERR Protocol error: expected CRLF after bulk");
    assert_eq!(error_text(b"*1\r\n$4\r\nPING\rx"), "ERR Protocol error: expected CRLF after bulk");
}

#[test]
fn lines_without_an_end_are_bounded() {
    let digits = "1".repeat(101);
    assert_eq!(error_text(format!("*{digits}").as_bytes()), "ERR Protocol error: too big mbulk count string");
    assert_eq!(error_text(format!("*1\r\n${digits}").as_bytes()), "ERR Protocol error: too big bulk count string");
    assert_eq!(error_text(format!("G{digits}").as_bytes()), "ERR Protocol error: too big inline request");
    is_incomplete(format!("*{}", &digits[..99]).as_bytes());
    is_incomplete(format!("G{}", &digits[..99]).as_bytes());
}

#[test]
fn what_asks_for_nothing_is_skipped() {
    assert_eq!(commands(b"\r\n\n*0\r\n*-1\r\n*-9223372036854775808\r\n   \r\n*1\r\n$4\r\nPING\r\n"), ["ping"]);
}

#[test]
fn commands_that_are_not_in_the_table_keep_their_words() {
    assert_eq!(
        commands(b"*3\r\n$3\r\nfoo\r\n$1\r\na\r\n$2\r\n\r\n\r\n"),
        [r"ERR unknown command 'foo', with args beginning with: 'a' '  '  foo a \r\n"]
    );
    assert_eq!(
        commands(b"*2\r\n$6\r\nclient\r\n$2\r\nxx\r\n*1\r\n$6\r\nCLIENT\r\n*1\r\n$3\r\nget\r\n"),
        [
            "ERR unknown subcommand 'xx'. Try CLIENT HELP. client xx",
            "ERR wrong number of arguments for 'client' command",
            "ERR wrong number of arguments for 'get' command",
        ]
    );
    assert_eq!(commands(b"CLIENT SETNAME\r\n"), ["ERR wrong number of arguments for 'client|setname' command"]);
}

#[test]
fn large_values_travel_on_their_own() {
    let value = vec![b'v'; limits::LARGE_VALUE_BYTES_MIN];
    let mut input = format!("*5\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len()).into_bytes();
    input.extend_from_slice(&value);
    input.extend_from_slice(b"\r\n$2\r\nPX\r\n$4\r\n1000\r\n*1\r\n$4\r\nPING\r\n");
    for cuts in [vec![], vec![1], vec![40], vec![100], vec![input.len() - 45], (0..input.len()).collect()] {
        let outcome = decode_in_pieces(&input, &cuts, &tight_limits());
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.commands.len(), 2);
        assert_eq!(outcome.commands[0].large, [false, true, false, false]);
        assert_eq!(outcome.commands[0].args, [b"k".as_slice(), &value, b"PX", b"1000"]);
        assert_eq!(outcome.commands[1].name, "ping");
    }
    input[28 + value.len()] = b'x';
    assert_eq!(decode_in_pieces(&input, &[], &tight_limits()).error, Some(ProtocolError::BulkEnd));
}

#[test]
fn lines_are_split_as_redis_splits_them() {
    assert_eq!(commands(b"PUT key value 10\r\nGET key\n"), ["put key value 10", "get key"]);
    assert_eq!(commands(b"  set\tk \x0b v \r\n"), ["set k v"]);
    assert_eq!(commands(b"set \"a b\\n\\x41\\\"\\q\" 'it\\'s \\n'\r\n"), [r#"set a b\nA\"q it\'s \\n"#]);
    assert_eq!(commands(b"set x\"y z\" ''\r\n"), ["set xy z "]);
    for line in ["get \"x", "get 'x", "get \"x\"y", "get 'x'y", "get \"x\\", "get ''''"] {
        assert_eq!(error(format!("{line}\r\n").as_bytes()), ProtocolError::UnbalancedQuotes, "{line}");
    }
}

#[test]
fn web_pages_are_turned_away_without_an_answer() {
    let outcome = decode_split_everywhere(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nFLUSHALL\r\n");
    assert_eq!((outcome.commands.len(), outcome.error), (0, Some(ProtocolError::Http)));
    let outcome = decode_split_everywhere(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nFLUSHALL\r\n");
    assert_eq!((outcome.commands.len(), outcome.error), (1, Some(ProtocolError::Http)));
    assert_eq!(ProtocolError::Http.text(), None);
}

#[test]
fn little_is_taken_before_authentication() {
    let limits = DecodeLimits::default().before_authentication();
    let decode = |input: &[u8]| decode_in_pieces(input, &[], &limits);
    assert_eq!(decode(b"*11\r\n").error, Some(ProtocolError::MultibulkLengthBeforeAuth));
    assert_eq!(decode(b"*1\r\n$16385\r\n").error, Some(ProtocolError::BulkLengthBeforeAuth));
    assert_eq!(decode(b"*10\r\n$16384\r\n").error, None);
    assert_eq!(decode(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n").commands[0].name, "auth");
}

#[test]
fn one_command_is_bounded_as_a_whole() {
    let limits = DecodeLimits { command_bytes_max: 100, ..DecodeLimits::default() };
    let fits = format!("*2\r\n$3\r\nGET\r\n$80\r\n{}\r\n", "k".repeat(80));
    let passes = format!("*2\r\n$3\r\nGET\r\n$81\r\n{}\r\n", "k".repeat(81));
    for cuts in [vec![], vec![20], vec![90]] {
        assert_eq!(decode_in_pieces(fits.as_bytes(), &cuts, &limits).commands.len(), 1);
        let outcome = decode_in_pieces(passes.as_bytes(), &cuts, &limits);
        assert_eq!(outcome.error, Some(ProtocolError::CommandTooLarge));
    }
}

/// A byte that means something to some protocol, or any.
pub(super) fn interesting_byte(random: &mut Random) -> u8 {
    const INTERESTING: &[u8] = b"\r\n*$0123456789-+ '\"\\xgG\0\x01\x02\x10\x30\x40\x50\x60\x80\xC0\xCB\xFF";
    match random.below(4) {
        0 => random.next() as u8,
        _ => random.pick(INTERESTING),
    }
}

fn cuts(random: &mut Random, len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (0..random.below(6)).map(|_| random.below(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

const NAMES: [&str; 12] =
    ["GET", "set", "MSet", "PING", "client", "COMMAND", "nothing", "incrbyfloat", "EXPIRETIME", "", "del", "config"];

fn random_words(random: &mut Random) -> Vec<Vec<u8>> {
    let mut words = vec![NAMES[random.below(NAMES.len())].as_bytes().to_vec()];
    let words_bound = if random.below(8) == 0 { 30 } else { 5 };
    for _ in 0..random.below(words_bound) {
        let len = match random.below(40) {
            0 => 30_000 + random.below(5_000),
            1..10 => random.below(1200),
            _ => random.below(12),
        };
        words.push(random.bytes(len));
    }
    words
}

/// A run of valid commands and what they have to be decoded to (name words and arguments alike, since
/// commands that are not in the table keep them and the others are known by their names).
fn random_resp(random: &mut Random) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..1 + random.below(6) {
        let words = random_words(random);
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        client::resp(&words, &mut input);
    }
    input
}

fn random_frames(random: &mut Random) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..1 + random.below(4) {
        let mut frame = client::Frame::begin(&mut input);
        for _ in 0..random.below(5) {
            let (key_len, value_len) = (random.below(20), random.below(100));
            let (key, value) = (random.bytes(key_len), random.bytes(value_len));
            let large = vec![b'l'; limits::LARGE_VALUE_BYTES_MIN + value_len];
            let value = if random.below(12) == 0 { &large } else { &value };
            let options = client::SetOptions {
                flags: if random.below(2) == 0 { 0 } else { random.next() as u8 & 0x3F },
                time_ms: (random.below(3) == 0).then(|| random.next() >> random.below(64)),
                expected: (random.below(4) == 0).then_some(value),
            };
            match random.below(9) {
                0 => frame.ping(),
                1 | 2 => frame.key(0x10 + random.below(10) as u8, &key),
                3 => frame.key_number(0x20 + random.below(5) as u8, random.below(20) as u8, &key, random.next() as i64),
                4 | 5 => frame.set(&key, value, &options),
                6 => frame.keys(binary::opcode::MGET, &[&key[..], b"", &value[..]][..random.below(4)]),
                7 => frame.pairs(binary::opcode::MSET, &[(&key[..], &value[..]), (b"", b"")][..random.below(3)]),
                _ => {
                    let words = random_words(random);
                    frame.command(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
                }
            }
        }
        frame.end();
    }
    input
}

fn random_lines(random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 14] =
        [b"GET", b"put ", b" ", b"\"", b"'", b"\\x4", b"\\n", b"key", b"\r\n", b"\n", b"\t", b"\xff", b"*1\r\n", b"\\"];
    (0..random.below(30)).flat_map(|_| PIECES[random.below(PIECES.len())].to_vec()).collect()
}

/// Whatever arrives, good or damaged, is decoded to the same however it is cut.
#[test]
fn random_input_may_be_cut_anywhere() {
    let seed = 0x5EED_0003;
    let mut random = Random::new(seed);
    let limits = tight_limits();
    let (mut good, mut bad) = (0, 0);
    for round in 0..1_500 {
        let mut input = match random.below(3) {
            0 => random_resp(&mut random),
            1 => random_frames(&mut random),
            _ => random_lines(&mut random),
        };
        if random.below(2) == 0 && !input.is_empty() {
            for _ in 0..=random.below(3) {
                let at = random.below(input.len().min(400));
                input[at] = interesting_byte(&mut random);
            }
        }
        let whole = decode_in_pieces(&input, &[], &limits);
        *if whole.error.is_none() { &mut good } else { &mut bad } += 1;
        for _ in 0..6 {
            let cuts = cuts(&mut random, input.len());
            let pieces = decode_in_pieces(&input, &cuts, &limits);
            assert!(pieces == whole, "seed {seed:#x}, round {round}, cuts {cuts:?}: {}", input.escape_ascii());
        }
        if input.len() < 2_000 {
            let every_byte: Vec<usize> = (0..input.len()).collect();
            let pieces = decode_in_pieces(&input, &every_byte, &limits);
            assert!(pieces == whole, "seed {seed:#x}, round {round}, byte by byte: {}", input.escape_ascii());
        }
    }
    assert!(good > 300 && bad > 300, "{good} good and {bad} bad inputs");
}

/// What a client writes is what the decoder finds.
#[test]
fn random_commands_make_the_round_trip() {
    let seed = 0x5EED_0004;
    let mut random = Random::new(seed);
    let limits = tight_limits();
    for round in 0..2_000 {
        let all: Vec<Vec<Vec<u8>>> = (0..1 + random.below(6)).map(|_| random_words(&mut random)).collect();
        let (mut resp, mut binary) = (Vec::new(), Vec::new());
        let mut frame = client::Frame::begin(&mut binary);
        for words in &all {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            client::resp(&words, &mut resp);
            frame.command(&words);
        }
        frame.end();
        for input in [resp, binary] {
            let outcome = decode_in_pieces(&input, &cuts(&mut random, input.len()), &limits);
            assert_eq!((outcome.error, outcome.rest.len(), outcome.commands.len()), (None, 0, all.len()));
            for (words, command) in all.iter().zip(outcome.commands) {
                let name_words = match command.name.as_str() {
                    refused if refused.starts_with("ERR unknown") => 0,
                    name => 1 + name.contains('|') as usize,
                };
                assert!(words[name_words..] == command.args, "seed {seed:#x}, round {round}, {}", command.name);
            }
        }
    }
}

fn frame(operations: &[u8]) -> Vec<u8> {
    let mut bytes = vec![binary::MAGIC, binary::VERSION];
    bytes.extend_from_slice(&(operations.len() as u32).to_le_bytes());
    bytes.extend_from_slice(operations);
    bytes
}

#[test]
fn operations_are_commands_of_the_table() {
    assert_eq!(
        commands(&frame(b"\x01\x00\x10\x00\x01\x00k\x30\x00\x01\x00\x02\x00\x00\x00kvv")),
        ["ping", "get k", "set k vv"]
    );
    let mut input = Vec::new();
    let mut frame = client::Frame::begin(&mut input);
    frame.key(binary::opcode::DEL, b"k");
    frame.key(binary::opcode::TTL, b"");
    frame.key_number(binary::opcode::INCRBY, 0, b"k", -5);
    frame.key_number(binary::opcode::EXPIRE, binary::expire_flag::GT, b"k", i64::MIN);
    frame.append(b"k", b"");
    frame.keys(binary::opcode::MGET, &[b"a", b"", b"c"]);
    frame.pairs(binary::opcode::MSET, &[(b"a", b"1"), (b"", b"")]);
    frame.command(&[b"client", b"ID"]);
    frame.end();
    let mut frame = client::Frame::begin(&mut input);
    let set_flag = binary::set_flag::NX | binary::set_flag::GET;
    frame.set(b"k", b"v", &client::SetOptions { flags: set_flag, time_ms: Some(u64::MAX), expected: None });
    let options =
        client::SetOptions { flags: binary::set_flag::ABSOLUTE, time_ms: Some(1), expected: Some(b"old".as_slice()) };
    frame.set(b"k", b"v", &options);
    frame.end();
    assert_eq!(
        commands(&input),
        [
            "del k",
            "pttl ",
            "incrby k -5",
            "pexpire k -9223372036854775808 GT",
            "append k ",
            "mget a  c",
            "mset a 1  ",
            "client|id",
            "set k v NX GET PX 18446744073709551615",
            "set k v IFEQ old PXAT 1",
        ]
    );
}

#[test]
fn operations_that_are_not_known_do_not_break_the_framing() {
    assert_eq!(
        commands(&frame(
            b"\x0f\x00\x1f\x00\x01\x00k\x10\x01\x01\x00k\x3f\x80\x01\x00\x01\x00\x00\x00timetimekv\x60\x00\x00\x00\x01\x00"
        )),
        [
            "ERR unknown command 'opcode 0x0f flags 0x00', with args beginning with:  opcode 0x0f flags 0x00",
            "ERR unknown command 'opcode 0x1f flags 0x00', with args beginning with:  opcode 0x1f flags 0x00",
            "ERR unknown command 'opcode 0x10 flags 0x01', with args beginning with:  opcode 0x10 flags 0x01",
            "ERR unknown command 'opcode 0x3f flags 0x80', with args beginning with:  opcode 0x3f flags 0x80",
            "ERR unknown command 'opcode 0x60 flags 0x00', with args beginning with:  opcode 0x60 flags 0x00",
            "ping",
        ]
    );
    assert_eq!(commands(&frame(b"\x40\x00\x00\x00")), ["ERR wrong number of arguments for 'mget' command"]);
}

#[test]
fn frames_that_cannot_be_trusted_are_errors() {
    use ProtocolError::*;
    assert_eq!(commands(&[frame(b""), frame(b"\x01\x00")].concat()), ["ping"]);
    assert_eq!(error(b"\xCB\x02"), FrameVersion { got: 2 });
    assert_eq!(error(&[frame(b""), b"*1\r\n".to_vec()].concat()), FrameMagic { got: b'*' });
    assert_eq!(error(&frame(b"\x70\x00")), UnknownShape { opcode: 0x70 });
    for passing in [b"\x01".as_slice(), b"\x10\x00\x01", b"\x10\x00\x01\x00", b"\x40\x00\x02\x00\x01\x00k\x00"] {
        assert_eq!(error(&frame(passing)), OperationPassesFrame);
        assert_eq!(error(&[frame(passing), vec![0; 10]].concat()), OperationPassesFrame);
    }
    let (large, too_long) = (0x8000u32.to_le_bytes(), 70_001u32.to_le_bytes());
    assert_eq!(error(&frame(&[b"\x30\x00\x01\x00", &large[..], b"k"].concat())), OperationPassesFrame);
    assert_eq!(error(&frame(&[b"\x30\x00\x01\x00", &too_long[..], b"k"].concat())), BulkLength);
    // Before anything of what the header promises is there, and with every length of it.
    let promise =
        |operation: &[u8]| [&[binary::MAGIC, binary::VERSION][..], &1_000_000u32.to_le_bytes(), operation].concat();
    assert_eq!(error(&promise(&[b"\x30\x00\x01\x00", &too_long[..]].concat())), BulkLength);
    let short = 1u32.to_le_bytes();
    assert_eq!(error(&promise(&[b"\x30\x40\x01\x00", &short[..], &too_long].concat())), BulkLength);
    // The first byte of a connection decides: later it is only a byte.
    assert!(commands(b"PING\r\n\xCB\x01\x00\x00\x00\x00\r\n")[1].starts_with("ERR unknown command"));
}

#[test]
fn large_values_of_operations_travel_on_their_own() {
    let value = vec![b'v'; limits::LARGE_VALUE_BYTES_MIN + 1];
    let mut input = Vec::new();
    let mut frame = client::Frame::begin(&mut input);
    frame.set(b"k", &value, &client::SetOptions { time_ms: Some(5), expected: Some(&value), ..Default::default() });
    frame.pairs(binary::opcode::MSET, &[(b"a", &value), (b"b", b"small")]);
    frame.ping();
    frame.end();
    for cuts in [vec![], vec![1], vec![7], vec![30], vec![40_000], vec![70_000], (0..input.len()).collect()] {
        let outcome = decode_in_pieces(&input, &cuts, &tight_limits());
        assert_eq!((outcome.error, outcome.commands.len()), (None, 3));
        assert_eq!(outcome.commands[0].args, [b"k".as_slice(), &value, b"IFEQ", &value, b"PX", b"5"]);
        assert_eq!(outcome.commands[0].large, [false, true, false, true, false, false]);
        assert_eq!(outcome.commands[1].args, [b"a".as_slice(), &value, b"b", b"small"]);
    }
}

const PROTOCOL_MD: &str = include_str!("../../PROTOCOL.md");

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (escaped, after) = rest.split_first().expect("something follows a backslash");
        rest = after;
        bytes.push(match escaped {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' | b'"' => *escaped,
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).unwrap()
            }
            other => panic!("unknown escape \\{}", other.escape_ascii()),
        });
    }
    bytes
}

/// The inputs that the specification shows, good and bad, decode to the same however they are cut, and
/// fail exactly where it says that the connection is closed.
#[test]
fn the_specification_may_be_cut_anywhere() {
    let blocks: Vec<&str> = PROTOCOL_MD.split("```transcript\n").skip(1).collect();
    assert!(blocks.len() > 20);
    for block in blocks {
        let (block, _) = block.split_once("```").expect("a block has an end");
        let input: Vec<u8> = block.lines().filter_map(|line| line.strip_prefix("C: ")).flat_map(unescape).collect();
        let limits = DecodeLimits::default();
        let whole = decode_in_pieces(&input, &[], &limits);
        for cut in 0..=input.len() {
            assert_eq!(decode_in_pieces(&input, &[cut], &limits), whole, "{block}");
        }
        let expected_last = block.lines().rfind(|line| line.starts_with("S: "));
        assert_eq!(whole.error.is_some(), expected_last == Some("S: <closed>"), "{block}{whole:?}");
    }
}

/// The table of bytes per command in the specification is measured, not believed.
#[test]
fn the_specification_counts_bytes_right() {
    use crate::reply::{Out, Reply};
    use crate::request::Wire;

    let (key, value) = ([b'k'; 16], [b'v'; 64]);
    let pexpire: [&[u8]; 3] = [b"PEXPIRE", &key, b"60000"];
    let set_px: [&[u8]; 5] = [b"SET", &key, &value, b"PX", b"60000"];
    let mget: Vec<&[u8]> = [b"MGET".as_slice()].into_iter().chain([key.as_slice(); 10]).collect();
    let time = client::SetOptions { time_ms: Some(60_000), ..Default::default() };
    let count = |name: &str, words: &[&[u8]], add: &dyn Fn(&mut client::Frame), reply: Reply| {
        let (mut resp, mut operation) = (Vec::new(), Vec::new());
        client::resp(words, &mut resp);
        let mut frame = client::Frame::begin(&mut operation);
        add(&mut frame);
        frame.end();
        let reply_len = |wire| {
            let mut out = Out::default();
            super::encode(wire, &reply, &mut out);
            out.len()
        };
        let operation_len = operation.len() - binary::FRAME_HEADER_BYTES;
        let (resp_reply, binary_reply) = (reply_len(Wire::Resp2), reply_len(Wire::Binary));
        let row = format!("| {name} | {} | {operation_len} | {resp_reply} | {binary_reply} |", resp.len());
        assert!(PROTOCOL_MD.contains(&row), "{row}");
    };
    let key_operation = |opcode: u8| move |frame: &mut client::Frame| frame.key(opcode, &key);
    let found = || Reply::Bulk(&value);
    count("PING", &[b"PING"], &|frame| frame.ping(), Reply::Pong);
    count("GET, found", &[b"GET", &key], &key_operation(binary::opcode::GET), found());
    count("GET, absent", &[b"GET", &key], &key_operation(binary::opcode::GET), Reply::Nil);
    count("SET", &[b"SET", &key, &value], &|frame| frame.set(&key, &value, &Default::default()), Reply::Ok);
    count("SET with a time of 60000 ms", &set_px, &|frame| frame.set(&key, &value, &time), Reply::Ok);
    count("DEL", &[b"DEL", &key], &key_operation(binary::opcode::DEL), Reply::Int(1));
    count("INCR, to 100", &[b"INCR", &key], &key_operation(binary::opcode::INCR), Reply::Int(100));
    let expire = |frame: &mut client::Frame| frame.key_number(binary::opcode::EXPIRE, 0, &key, 60_000);
    count("EXPIRE in 60000 ms", &pexpire, &expire, Reply::Int(1));
    let values = Reply::Array((0..10).map(|_| found()).collect());
    let mget_keys = |frame: &mut client::Frame| frame.keys(binary::opcode::MGET, &mget[1..]);
    count("MGET of 10, all found", &mget, &mget_keys, values);
}
