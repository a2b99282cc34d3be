//! Decoding is judged by splitting the input: the result may not depend on where the network cut.

use super::driver::{Outcome, decode_in_pieces};
use super::{DecodeLimits, ProtocolError};
use crate::limits;

/// Small bounds, so that inputs past them stay short enough to be split everywhere.
fn tight() -> DecodeLimits {
    DecodeLimits { line_bytes_max: 100, ..DecodeLimits::new(70_000) }
}

/// The outcome of the whole input, which every split must share.
fn decode_split_everywhere(input: &[u8]) -> Outcome {
    let limits = tight();
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
    assert_eq!(error_text(b"*1\r\n\r\n"), r"ERR Protocol error: expected '$', got '\r'");
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
        let outcome = decode_in_pieces(&input, &cuts, &tight());
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.commands.len(), 2);
        assert_eq!(outcome.commands[0].large, [false, true, false, false]);
        assert_eq!(outcome.commands[0].args, [b"k".as_slice(), &value, b"PX", b"1000"]);
        assert_eq!(outcome.commands[1].name, "ping");
    }
    input[28 + value.len()] = b'x';
    assert_eq!(decode_in_pieces(&input, &[], &tight()).error, Some(ProtocolError::BulkEnd));
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
