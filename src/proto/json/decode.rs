//! Lines of JSON to commands: where a line ends, what it asks for, or why it is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::error::Category;

use super::line::{IdValue, OUT_OF_RANGE, Request, Value, Whole};
use crate::command::{Op, spec_of};
use crate::limits::{JSON_DEPTH_MAX, JSON_ID_BYTES_MAX, NAMESPACE_BYTES_MAX};
use crate::namespace;
use crate::proto::decode::{Decoder, Source, Stage};
use crate::proto::verb::Verb;
use crate::proto::{Arguments, DecodeLimits, Step};
use crate::request::ArgRange;

/// What a request wants echoed, as it is written into the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(Box<str>);

impl Id {
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// Why a line is refused: `CODE what is wrong`.
type Refusal = String;
type Understood<T> = Result<T, Refusal>;

impl Decoder {
    pub(in crate::proto) fn json(
        &mut self,
        input: &[u8],
        from: usize,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Step {
        let rest = &input[from..];
        let is_overlong = self.stage == Stage::Overlong;
        let Some(line_end) = memchr::memchr(b'\n', &rest[self.scanned as usize..]) else {
            if rest.is_empty() {
                return Step::Incomplete { at_least: 1 };
            }
            if is_overlong || rest.len() > limits.json_line_bytes_max {
                // Nothing of it will be needed any more.
                self.stage = Stage::Overlong;
                self.scanned = 0;
                return Step::Skip { end: input.len() };
            }
            self.scanned = rest.len() as u32;
            return Step::Incomplete { at_least: 1 };
        };
        let line_end = self.scanned as usize + line_end;
        let end = from + line_end + 1;
        self.reset();
        let line = rest[..line_end].trim_ascii();
        if line.is_empty() && !is_overlong {
            return Step::Skip { end };
        }
        let (first, scratch) = (arguments.ranges.len(), arguments.scratch.len());
        let understood = if is_overlong || line_end > limits.json_line_bytes_max {
            Err(format!("TOOLONG a line may have {} bytes", limits.json_line_bytes_max))
        } else {
            understand(line, arguments, limits, &mut self.id)
        };
        let verb = match understood {
            Ok(op) => Verb::with_arity(spec_of(op), arguments.ranges.len() - first),
            Err(refusal) => {
                arguments.ranges.truncate(first);
                arguments.scratch.truncate(scratch);
                argument(refusal.as_bytes(), arguments);
                Verb::Refused
            }
        };
        Step::Command { verb, source: Source::Scratch, end }
    }
}

/// What `line` asks for; its arguments are appended to the scratch.
fn understand(line: &[u8], arguments: &mut Arguments, limits: &DecodeLimits, id: &mut Option<Id>) -> Understood<Op> {
    let text = std::str::from_utf8(line).map_err(|_| "BADUTF8 a line is UTF-8 text".to_owned())?;
    if !text.starts_with('{') {
        return Err("BADJSON a line is one JSON object".to_owned());
    }
    let mut request = match serde_json::from_str::<Request>(text) {
        Ok(request) => request,
        Err(error) => {
            *id = id_of(text);
            return Err(refusal(text, &error));
        }
    };
    let (echoed, name) = request.take_envelope();
    *id = echoed.map(|echoed| written(&echoed)).transpose()?;
    let prefix = match name {
        None => String::new(),
        Some(name) if namespace::is_name(name.as_bytes()) => name + "^",
        Some(_) => {
            return Err(format!("BADNAMESPACE a name has 1 to {NAMESPACE_BYTES_MAX} bytes, none of them ^ or a space"));
        }
    };
    let op = command_of(request, &Prefixed { prefix }, arguments, limits)?;
    Ok(op)
}

/// Keys and the namespace they are in.
struct Prefixed {
    prefix: String,
}

impl Prefixed {
    fn key(&self, key: &str, arguments: &mut Arguments) {
        let start = arguments.scratch.len();
        arguments.scratch.extend_from_slice(self.prefix.as_bytes());
        arguments.scratch.extend_from_slice(key.as_bytes());
        arguments.ranges.push(ArgRange::inline(start, self.prefix.len() + key.len()));
    }

    /// `key`, or all of `keys`: one of them has to be there.
    fn keys(
        &self,
        key: Option<String>,
        keys: Option<Vec<String>>,
        arguments: &mut Arguments,
        limits: &DecodeLimits,
    ) -> Understood<()> {
        let keys = one_or_many(key, keys, "key")?.ok_or_else(|| missing("key"))?;
        bound_arguments(keys.len(), limits)?;
        keys.iter().for_each(|key| self.key(key, arguments));
        Ok(())
    }
}

fn command_of(
    request: Request,
    prefixed: &Prefixed,
    arguments: &mut Arguments,
    limits: &DecodeLimits,
) -> Understood<Op> {
    Ok(match request {
        Request::Auth { token, name, .. } => {
            if let Some(name) = name {
                argument(name.as_bytes(), arguments);
            }
            argument(token.as_bytes(), arguments);
            Op::Auth
        }
        Request::Del { key, keys, .. } => {
            prefixed.keys(key, keys, arguments, limits)?;
            Op::Del
        }
        Request::Exists { key, keys, .. } => {
            prefixed.keys(key, keys, arguments, limits)?;
            Op::Exists
        }
        Request::Expire { key, ttl, .. } => {
            prefixed.key(&key, arguments);
            number(ttl, arguments);
            Op::Expire
        }
        Request::Get { key, fill, stale, .. } => {
            prefixed.key(&key, arguments);
            match (fill, stale) {
                (None, None) => return Ok(Op::Get),
                (None, Some(_)) => return Err(missing("fill")),
                (Some(fill), stale) => {
                    number(fill, arguments);
                    if let Some(stale) = stale {
                        argument(b"STALE", arguments);
                        number(stale, arguments);
                    }
                }
            }
            Op::GetFill
        }
        Request::Incr { key, by, .. } => {
            prefixed.key(&key, arguments);
            let Some(by) = by else { return Ok(Op::Incr) };
            number(by, arguments);
            Op::IncrBy
        }
        Request::MGet { keys, .. } => {
            prefixed.keys(None, Some(keys), arguments, limits)?;
            Op::MGet
        }
        Request::MSet { values, .. } => {
            if values.is_empty() {
                return Err("MISSINGFIELD `values` is empty".to_owned());
            }
            bound_arguments(2 * values.len(), limits)?;
            for (key, value) in values {
                prefixed.key(&key, arguments);
                match value {
                    Value::Text(text) => bytes(text.as_bytes(), arguments, limits)?,
                    Value::Base64(text) => bytes(&base64_of(&text)?, arguments, limits)?,
                }
            }
            Op::MSet
        }
        Request::Ping { .. } => Op::Ping,
        Request::Publish { channel, message, message_b64, .. } => {
            argument(channel.as_bytes(), arguments);
            text_or_base64(message, message_b64, "message", arguments, limits)?;
            Op::Publish
        }
        Request::Set { key, value, value_b64, ttl, fill, .. } => {
            prefixed.key(&key, arguments);
            text_or_base64(value, value_b64, "value", arguments, limits)?;
            if let Some(ttl) = ttl {
                argument(b"EX", arguments);
                number(ttl, arguments);
            }
            if let Some(token) = fill {
                argument(b"FILL", arguments);
                argument(token.as_bytes(), arguments);
            }
            Op::Set
        }
        Request::Stats { .. } => Op::Stats,
        Request::Subscribe { channel, channels, .. } => {
            let channels = one_or_many(channel, channels, "channel")?.ok_or_else(|| missing("channel"))?;
            bound_arguments(channels.len(), limits)?;
            channels.iter().for_each(|channel| argument(channel.as_bytes(), arguments));
            Op::Subscribe
        }
        Request::Ttl { key, .. } => {
            prefixed.key(&key, arguments);
            Op::Ttl
        }
        Request::Unsubscribe { channel, channels, .. } => {
            let channels = one_or_many(channel, channels, "channel")?.unwrap_or_default();
            bound_arguments(channels.len(), limits)?;
            channels.iter().for_each(|channel| argument(channel.as_bytes(), arguments));
            Op::Unsubscribe
        }
    })
}

fn missing(name: &str) -> Refusal {
    format!("MISSINGFIELD missing field `{name}`")
}

fn one_or_many(one: Option<String>, many: Option<Vec<String>>, name: &str) -> Understood<Option<Vec<String>>> {
    match (one, many) {
        (Some(_), Some(_)) => Err(format!("DUPLICATEFIELD either `{name}` or `{name}s`")),
        (Some(one), None) => Ok(Some(vec![one])),
        (None, Some(many)) if many.is_empty() => Err(format!("MISSINGFIELD `{name}s` is empty")),
        (None, many) => Ok(many),
    }
}

fn text_or_base64(
    text: Option<String>,
    base64: Option<String>,
    name: &str,
    arguments: &mut Arguments,
    limits: &DecodeLimits,
) -> Understood<()> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("DUPLICATEFIELD either `{name}` or `{name}_b64`")),
        (Some(text), None) => bytes(text.as_bytes(), arguments, limits),
        (None, Some(base64)) => bytes(&base64_of(&base64)?, arguments, limits),
        (None, None) => Err(missing(name)),
    }
}

fn base64_of(text: &str) -> Understood<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| format!("BADBASE64 {error}"))
}

fn bytes(value: &[u8], arguments: &mut Arguments, limits: &DecodeLimits) -> Understood<()> {
    if value.len() > limits.value_bytes_max {
        return Err(format!("TOOLARGE a value may have {} bytes", limits.value_bytes_max));
    }
    argument(value, arguments);
    Ok(())
}

fn bound_arguments(count: usize, limits: &DecodeLimits) -> Understood<()> {
    match count <= limits.args_max {
        true => Ok(()),
        false => Err(format!("TOOLARGE one action may have {} arguments", limits.args_max)),
    }
}

fn number(number: Whole, arguments: &mut Arguments) {
    argument(itoa::Buffer::new().format(number.0).as_bytes(), arguments);
}

fn argument(bytes: &[u8], arguments: &mut Arguments) {
    arguments.ranges.push(ArgRange::inline(arguments.scratch.len(), bytes.len()));
    arguments.scratch.extend_from_slice(bytes);
}

fn written(id: &IdValue) -> Understood<Id> {
    let json = match id {
        IdValue::Text(text) => serde_json::to_string(text).expect("a string can be written"),
        IdValue::Number(number) => number.to_string(),
    };
    match json.len() <= JSON_ID_BYTES_MAX {
        true => Ok(Id(json.into())),
        false => Err(format!("TOOLARGE an id may have {JSON_ID_BYTES_MAX} bytes")),
    }
}

/// The id of a line that is not understood, if it is JSON at all and has one.
fn id_of(text: &str) -> Option<Id> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        id: Option<IdValue>,
    }
    let envelope = serde_json::from_str::<Envelope>(text).ok()?;
    written(&envelope.id?).ok()
}

/// How deep objects and arrays nest in `text`, as far as brackets outside of strings tell.
fn depth_of(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What the reader of `text` says is wrong, under the code of its kind.
fn refusal(text: &str, error: &serde_json::Error) -> Refusal {
    if depth_of(text) > JSON_DEPTH_MAX {
        return format!("TOODEEP a line may nest {JSON_DEPTH_MAX} deep");
    }
    let said = error.to_string();
    // A line has no lines.
    let what = said.rfind(" at line ").map_or(said.as_str(), |place| &said[..place]);
    // What there could have been instead stands in PROTOCOL.md.
    let what = what.split(", expected one of").next().unwrap_or_default().replace("unknown variant", "unknown action");
    let excerpt: String = what.chars().take(MESSAGE_CHARACTERS_MAX).collect();
    const KINDS: [(&str, &str); 6] = [
        (OUT_OF_RANGE, "OUTOFRANGE"),
        ("missing field", "MISSINGFIELD"),
        ("unknown field", "UNKNOWNFIELD"),
        ("duplicate field", "DUPLICATEFIELD"),
        ("unknown action", "UNKNOWNACTION"),
        ("invalid", "FIELDTYPE"),
    ];
    let kind = KINDS.iter().find(|(start, _)| what.starts_with(start)).map(|(_, code)| *code);
    let code = match (error.classify(), kind) {
        (Category::Data, Some(code)) => code,
        (_, Some("OUTOFRANGE")) => "OUTOFRANGE",
        (Category::Data, None) => "FIELDTYPE",
        _ => return format!("BADJSON {excerpt} at column {}", error.column()),
    };
    format!("{code} {excerpt}")
}

/// Of what a reader says: it may quote what the client sent.
const MESSAGE_CHARACTERS_MAX: usize = 100;
