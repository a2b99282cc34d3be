//! Lines of JSON, good and bad, however the network cuts them.

use super::{begin_line, beginning_len, encode};
use crate::limits::{JSON_DEPTH_MAX, JSON_ID_BYTES_MAX, JSON_LINE_BYTES_MAX};
use crate::proto::driver::{Outcome, decode_in_pieces, tight_limits};
use crate::proto::{Arguments, DecodeLimits, Decoder, Step};
use crate::random::Random;
use crate::reply::{Out, Reply};

/// What the lines are decoded to, each as `name arg arg`, after a first one that settles the protocol.
fn lines(input: &[u8]) -> Vec<String> {
    let input = [b"{}\n", input].concat();
    let limits = tight_limits();
    let whole = decode_in_pieces(&input, &[], &limits);
    for cut in 0..=input.len() {
        assert_eq!(decode_in_pieces(&input, &[cut], &limits), whole, "{} cut at {cut}", input.escape_ascii());
    }
    let every_byte: Vec<usize> = (0..input.len()).collect();
    assert_eq!(decode_in_pieces(&input, &every_byte, &limits), whole, "{} byte by byte", input.escape_ascii());
    let Outcome { commands, error, rest } = whole;
    assert_eq!((error, rest.as_slice()), (None, &b""[..]), "{}", input.escape_ascii());
    let text = |command: &crate::proto::driver::Command| {
        // A refusal is its own argument.
        let args = command.args.iter().map(|arg| arg.escape_ascii().to_string()).filter(|arg| *arg != command.name);
        [command.name.clone()].into_iter().chain(args).collect::<Vec<_>>().join(" ")
    };
    commands.iter().skip(1).map(text).collect()
}

fn line(text: &str) -> String {
    let mut all = lines(format!("{text}\n").as_bytes());
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn code(text: &str) -> String {
    line(text).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn actions_are_commands_of_the_table() {
    for (text, command) in [
        (r#"{"action":"PING"}"#, "ping"),
        (r#"{"action":"GET","key":"k"}"#, "get k"),
        (r#"{"key":"k","action":"GET"}"#, "get k"),
        (r#" { "action" : "GET" , "key" : "" } "#, "get "),
        (r#"{"action":"SET","key":"k","value":"v"}"#, "set k v"),
        (
            r#"{"action":"SET","key":"k","value":"a\n\u00e9\ud83e\udd80","ttl":60}"#,
            r"set k a\n\xc3\xa9\xf0\x9f\xa6\x80 EX 60",
        ),
        (r#"{"action":"SET","key":"k","value_b64":"/wA="}"#, r"set k \xff\x00"),
        (r#"{"action":"SET","key":"k","value":"v","ttl":6e1}"#, "set k v EX 60"),
        (r#"{"action":"DEL","key":"k"}"#, "del k"),
        (r#"{"action":"DEL","keys":["a","b"]}"#, "del a b"),
        (r#"{"action":"EXISTS","keys":["a","b"],"namespace":"n"}"#, "exists n^a n^b"),
        (r#"{"action":"EXPIRE","key":"k","ttl":-1,"namespace":"n"}"#, "expire n^k -1"),
        (r#"{"action":"TTL","key":"k"}"#, "ttl k"),
        (r#"{"action":"INCR","key":"k"}"#, "incr k"),
        (r#"{"action":"INCR","key":"k","by":-9223372036854775808}"#, "incrby k -9223372036854775808"),
        (r#"{"action":"MGET","keys":["a","","c"]}"#, "mget a  c"),
        (r#"{"action":"MSET","values":{"a":"1","b":{"value_b64":"/w=="}}}"#, r"mset a 1 b \xff"),
        (r#"{"action":"SUBSCRIBE","channel":"c","namespace":"n"}"#, "subscribe c"),
        (r#"{"action":"UNSUBSCRIBE"}"#, "unsubscribe"),
        (r#"{"action":"PUBLISH","channel":"c","message":"m"}"#, "publish c m"),
        (r#"{"action":"AUTH","token":"t"}"#, "auth t"),
        (r#"{"action":"AUTH","token":"t","name":"n"}"#, "auth n t"),
        (r#"{"action":"STATS"}"#, "stats"),
    ] {
        assert_eq!(line(text), command, "{text}");
    }
}

#[test]
fn every_kind_of_mistake_has_a_code() {
    let deep = format!(r#"{{"action":"GET","key":{}"#, "[".repeat(JSON_DEPTH_MAX));
    let long = format!(r#"{{"action":"GET","key":"{}"}}"#, "k".repeat(200));
    for (text, expected) in [
        ("garbage", "BADJSON"),
        ("{", "BADJSON"),
        ("[]", "BADJSON"),
        (r#"["GET","k"]"#, "BADJSON"),
        ("null", "BADJSON"),
        (r#"{"action":"GET","key":"k"} x"#, "BADJSON"),
        (r#"{"action":"GET","key":"\ud800"}"#, "BADJSON"),
        ("{}", "MISSINGFIELD"),
        (r#"{"action":"GET"}"#, "MISSINGFIELD"),
        (r#"{"action":"SET","key":"k"}"#, "MISSINGFIELD"),
        (r#"{"action":"DEL"}"#, "MISSINGFIELD"),
        (r#"{"action":"DEL","keys":[]}"#, "MISSINGFIELD"),
        (r#"{"action":"MSET","values":{}}"#, "MISSINGFIELD"),
        (r#"{"action":"MSET","values":{"a":{}}}"#, "MISSINGFIELD"),
        (r#"{"action":"GET","key":"k","ttl":1}"#, "UNKNOWNFIELD"),
        (r#"{"action":"MSET","values":{"a":{"value":"x"}}}"#, "UNKNOWNFIELD"),
        (r#"{"action":"GET","key":"k","key":"l"}"#, "DUPLICATEFIELD"),
        (r#"{"action":"SET","key":"k","value":"v","value_b64":""}"#, "DUPLICATEFIELD"),
        (r#"{"action":"DEL","key":"k","keys":["k"]}"#, "DUPLICATEFIELD"),
        (r#"{"action":"get","key":"k"}"#, "UNKNOWNACTION"),
        (r#"{"action":"FLUSHALL"}"#, "UNKNOWNACTION"),
        (r#"{"action":5}"#, "FIELDTYPE"),
        (r#"{"action":"GET","key":5}"#, "FIELDTYPE"),
        (r#"{"action":"GET","key":null}"#, "FIELDTYPE"),
        (r#"{"action":"SET","key":"k","value":"v","ttl":null}"#, "FIELDTYPE"),
        (r#"{"action":"EXPIRE","key":"k","ttl":"5"}"#, "FIELDTYPE"),
        (r#"{"action":"EXPIRE","key":"k","ttl":1.5}"#, "FIELDTYPE"),
        (r#"{"action":"MGET","keys":["a",1]}"#, "FIELDTYPE"),
        (r#"{"action":"MSET","values":[["a","1"]]}"#, "FIELDTYPE"),
        (r#"{"action":"PING","id":[]}"#, "FIELDTYPE"),
        (r#"{"action":"INCR","key":"k","by":9223372036854775808}"#, "OUTOFRANGE"),
        (r#"{"action":"INCR","key":"k","by":-99999999999999999999}"#, "OUTOFRANGE"),
        (r#"{"action":"INCR","key":"k","by":1e999}"#, "OUTOFRANGE"),
        (r#"{"action":"SET","key":"k","value_b64":"/"}"#, "BADBASE64"),
        (r#"{"action":"GET","key":"k","namespace":""}"#, "BADNAMESPACE"),
        (r#"{"action":"GET","key":"k","namespace":"a^b"}"#, "BADNAMESPACE"),
        // As NAMESPACE USE refuses them; one of these is the server's own.
        (r#"{"action":"GET","key":"k","namespace":"a b"}"#, "BADNAMESPACE"),
        (r#"{"action":"GET","key":"k","namespace":"\u0000server"}"#, "BADNAMESPACE"),
        (&deep, "TOODEEP"),
        (&long, "TOOLONG"),
    ] {
        assert_eq!(code(text), expected, "{text}: {}", line(text));
    }
    assert_eq!(lines(b"{\"action\":\"GET\",\"key\":\"\xff\"}\n"), ["BADUTF8 a line is UTF-8 text"]);
    assert_eq!(line(r#"{"action":"GET","key":"k","ttl":1}"#), "UNKNOWNFIELD unknown field `ttl`");
    assert_eq!(line(r#"{"action":"NOPE"}"#), "UNKNOWNACTION unknown action `NOPE`");
}

/// A client's line that is wrong, or far too long, costs that line and nothing else.
#[test]
fn garbage_between_lines_disturbs_none_of_them() {
    let mut input = b"{\"action\":\"PING\"}\r\n\n  \n".to_vec();
    input.extend_from_slice(&vec![b'x'; 1000]);
    input.extend_from_slice(b"\n\x00\xff{{\n*1\r\n{\"action\":\"GET\",\"key\":\"k\"}\n");
    let decoded = lines(&input);
    let codes: Vec<&str> = decoded.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(codes, ["ping", "TOOLONG", "BADUTF8", "BADJSON", "get"]);
}

#[test]
fn values_and_arguments_are_bounded() {
    let decode = |text: &str, limits: &DecodeLimits| {
        let outcome = decode_in_pieces(format!("{text}\n").as_bytes(), &[], limits);
        outcome.commands[0].name.split(' ').next().unwrap_or_default().to_owned()
    };
    let value = |bytes: usize| format!(r#"{{"action":"SET","key":"k","value":"{}"}}"#, "v".repeat(bytes));
    let limits = DecodeLimits::new(1000);
    assert_eq!(decode(&value(1000), &limits), "set");
    assert_eq!(decode(&value(1001), &limits), "TOOLARGE");
    let usual = DecodeLimits::default();
    assert_eq!(decode(&value(JSON_LINE_BYTES_MAX - 100), &usual), "set");
    assert_eq!(decode(&value(JSON_LINE_BYTES_MAX), &usual), "TOOLONG");
    let stranger = usual.before_authentication();
    assert_eq!(decode(&value(17_000), &stranger), "TOOLONG");
    let keys = |count: usize| format!(r#"{{"action":"MGET","keys":[{}]}}"#, vec![r#""k""#; count].join(","));
    assert_eq!(decode(&keys(10), &stranger), "mget");
    assert_eq!(decode(&keys(11), &stranger), "TOOLARGE");
}

#[test]
fn where_a_reply_goes_on_is_found_again() {
    for id in ["", "7", "-1.5", r#""a""#, r#""a,\"b\\""#, r#""{\"id\":1,""#] {
        let (mut decoder, mut arguments) = (Decoder::default(), Arguments::default());
        let field = if id.is_empty() { String::new() } else { format!(r#","id":{id}"#) };
        let input = format!("{{\"action\":\"PING\"{field}}}\n");
        assert!(decoder.next(input.as_bytes(), 0, &mut arguments, &DecodeLimits::default()).is_ok());
        let mut line = Out::default();
        begin_line(decoder.take_id(), &mut line);
        let beginning = line.bytes.len();
        encode::encode(&Reply::Bulk(br#"a,"b""#), &mut line);
        assert_eq!(beginning_len(&line.bytes), beginning, "{id}");
    }
}

#[test]
fn what_is_to_be_echoed_is_kept_also_when_the_rest_is_wrong() {
    let id = |text: &str| {
        let (mut decoder, mut arguments) = (Decoder::default(), Arguments::default());
        let input = format!("{text}\n");
        let step = decoder.next(input.as_bytes(), 0, &mut arguments, &DecodeLimits::default());
        assert!(matches!(step, Ok(Step::Command { .. })), "{text}");
        decoder.take_id().map(|id| id.as_json().to_owned())
    };
    assert_eq!(id(r#"{"action":"PING","id":7}"#).as_deref(), Some("7"));
    assert_eq!(id(r#"{"id":"a\"b","action":"PING"}"#).as_deref(), Some(r#""a\"b""#));
    assert_eq!(id(r#"{"action":"PING","id":-1.5}"#).as_deref(), Some("-1.5"));
    assert_eq!(id(r#"{"action":"NOPE","id":7}"#).as_deref(), Some("7"));
    assert_eq!(id(r#"{"action":"GET","id":7,"extra":{"a":[1]}}"#).as_deref(), Some("7"));
    assert_eq!(id(r#"{"action":"PING"}"#), None);
    assert_eq!(id(r#"{"action":"PING","id":7"#), None);
    assert_eq!(id(&format!(r#"{{"action":"PING","id":"{}"}}"#, "i".repeat(JSON_ID_BYTES_MAX))), None);
}

fn random_line(random: &mut Random) -> Vec<u8> {
    const LINES: [&str; 6] = [
        r#"{"action":"SET","key":"key","value":"val\u00fce","ttl":60,"id":1}"#,
        r#"{"action":"GET","key":"k","namespace":"ns"}"#,
        r#"{"action":"MSET","values":{"a":"1","b":{"value_b64":"/w=="}}}"#,
        r#"{"action":"MGET","keys":["a","b"]}"#,
        r#"{"action":"PUBLISH","channel":"c","message":"m","id":"x"}"#,
        "",
    ];
    const ODD: &[u8] = b"{}[]\",:\\\n\r 0e-.\xff\x00^nu";
    let mut line = random.pick(&LINES).as_bytes().to_vec();
    if random.below(12) == 0 {
        line.extend(std::iter::repeat_n(b'x', random.below(600)));
    }
    for _ in 0..random.below(3) {
        if !line.is_empty() {
            let at = random.below(line.len());
            line[at] = random.pick(ODD);
        }
    }
    line.push(b'\n');
    line
}

#[test]
fn random_lines_may_be_cut_anywhere() {
    let seed = 0x5EED_0012;
    let mut random = Random::new(seed);
    let limits = tight_limits();
    let (mut good, mut refused) = (0, 0);
    for round in 0..600 {
        let mut input = b"{}\n".to_vec();
        (0..1 + random.below(6)).for_each(|_| input.extend(random_line(&mut random)));
        let whole = decode_in_pieces(&input, &[], &limits);
        assert_eq!(whole.error, None, "seed {seed:#x}, round {round}: a line ended the connection");
        let known =
            |command: &&crate::proto::driver::Command| command.name.bytes().all(|byte| byte.is_ascii_lowercase());
        good += whole.commands.iter().filter(known).count();
        refused += whole.commands.iter().filter(|command| !known(command)).count();
        for _ in 0..6 {
            let mut cuts: Vec<usize> = (0..random.below(6)).map(|_| random.below(input.len() + 1)).collect();
            cuts.sort_unstable();
            let pieces = decode_in_pieces(&input, &cuts, &limits);
            assert!(pieces == whole, "seed {seed:#x}, round {round}, cuts {cuts:?}: {}", input.escape_ascii());
        }
    }
    assert!(good > 500 && refused > 500, "{good} good and {refused} refused lines");
}
