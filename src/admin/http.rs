//! HTTP/1.1 without I/O: bytes in, requests out; responses to bytes. Small on purpose: no upgrades, no chunked requests, no
//! ranges; what is not understood is refused with the status that says so.
//!
//! ```text
//!   received ─▶ [ head … \r\n\r\n │ body: content-length bytes │ next request … ]
//!                └ httparse          └ bounded                   └ kept for the next call
//! ```

use std::fmt::Write;

use crate::limits::{ADMIN_HEAD_BYTES_MAX, ADMIN_HEADERS_MAX};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

impl Method {
    fn parse(text: &str) -> Option<Method> {
        let methods = [Method::Get, Method::Head, Method::Put, Method::Post, Method::Delete];
        methods.into_iter().find(|method| method.name() == text)
    }

    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Segments of the path, decoded; bytes, because keys are.
    pub segments: Vec<Vec<u8>>,
    /// Names and values of the query, decoded.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub keep_alive: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What a connection holds now.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Not a whole request yet.
    More,
    /// The same, and the client waits to be told that its body is wanted.
    Continue,
    Request(Request),
    /// Answer with this and close: what follows cannot be told apart.
    Refused(u16, &'static str),
}

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct Requests {
    buffer: Vec<u8>,
    continued: bool,
}

struct Head {
    request: Request,
    len: usize,
    body_len: usize,
    expects_continue: bool,
}

impl Requests {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a request has begun and is not whole.
    pub fn is_within_request(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub fn buffered_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next request; its body may have `body_bytes_max` bytes.
    pub fn next(&mut self, body_bytes_max: usize) -> Step {
        let head = match parse_head(&self.buffer) {
            Ok(Some(head)) => head,
            Ok(None) if self.buffer.len() > ADMIN_HEAD_BYTES_MAX => return Step::Refused(431, "the head is too long"),
            Ok(None) => return Step::More,
            Err((status, why)) => return Step::Refused(status, why),
        };
        if head.len > ADMIN_HEAD_BYTES_MAX {
            return Step::Refused(431, "the head is too long");
        }
        if head.body_len > body_bytes_max {
            return Step::Refused(413, "the body is too long");
        }
        let whole = head.len + head.body_len;
        if self.buffer.len() < whole {
            return match head.expects_continue && !std::mem::replace(&mut self.continued, true) {
                true => Step::Continue,
                false => Step::More,
            };
        }
        self.continued = false;
        let mut request = head.request;
        request.body = self.buffer[head.len..whole].to_vec();
        self.buffer.drain(..whole);
        if self.buffer.is_empty() {
            // A long body must not keep its memory.
            self.buffer = Vec::new();
        }
        Step::Request(request)
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, (u16, &'static str)> {
    let mut storage = [httparse::EMPTY_HEADER; ADMIN_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut storage);
    let len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "too many headers")),
        Err(httparse::Error::Version) => return Err((505, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
        Err(_) => return Err((400, "this is not HTTP")),
    };
    let method = Method::parse(parsed.method.unwrap_or_default()).ok_or((501, "no such method"))?;
    let mut headers = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| (400, "a header is not UTF-8"))?;
        headers.push((header.name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let all = |name: &str| {
        headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    if !all("transfer-encoding").is_empty() {
        // Beside a length it would be two bodies for two readers.
        return Err((411, "a body needs its content-length"));
    }
    let body_len = match all("content-length")[..] {
        [] => 0,
        [text] if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| (413, "the body is too long"))?
        }
        _ => return Err((400, "no single content-length")),
    };
    let is_http_11 = parsed.version == Some(1);
    if is_http_11 && all("host").len() != 1 || all("host").len() > 1 {
        return Err((400, "no single host"));
    }
    let tokens = |name: &str| all(name).join(",").to_ascii_lowercase();
    let connection = tokens("connection");
    let has = |token: &str| connection.split(',').any(|other| other.trim() == token);
    let keep_alive = if is_http_11 { !has("close") } else { has("keep-alive") };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix('/').ok_or((400, "the target is no path"))?;
    let segments = path.split('/').map(|segment| decode(segment, false));
    let segments = segments.collect::<Option<Vec<_>>>().ok_or((400, "the path is not well encoded"))?;
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |text: &str| String::from_utf8(decode(text, true)?).ok();
        Some((text(name)?, text(value)?))
    });
    let query = pairs.collect::<Option<Vec<_>>>().ok_or((400, "the query is not well encoded"))?;
    let expects_continue = is_http_11 && tokens("expect") == "100-continue";
    let request = Request { method, segments, query, headers, body: Vec::new(), keep_alive };
    Ok(Some(Head { request, len, body_len, expects_continue }))
}

/// Percent encoding, and in queries `+` for a space.
fn decode(text: &str, in_query: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            b'%' => {
                let digit = |byte: &u8| (*byte as char).to_digit(16);
                let [high, low, behind @ ..] = rest else { return None };
                bytes.push((digit(high)? << 4 | digit(low)?) as u8);
                rest = behind;
            }
            b'+' if in_query => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    Some(bytes)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn text(status: u16, text: impl Into<String>) -> Response {
        let mut text: String = text.into();
        text.push('\n');
        Response::new(status, "text/plain; charset=utf-8", text)
    }

    pub fn json(status: u16, json: impl Into<Vec<u8>>) -> Response {
        Response::new(status, "application/json", json)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The whole response; without its body for HEAD.
    pub fn encode(&self, method: Method, keep_alive: bool) -> Vec<u8> {
        let mut out = self.head(keep_alive);
        let _ = write!(out, "content-length: {}\r\n\r\n", self.body.len());
        let mut out = out.into_bytes();
        if method != Method::Head {
            out.extend_from_slice(&self.body);
        }
        out
    }

    /// The beginning of a response that ends when its connection does.
    pub fn encode_stream(&self) -> Vec<u8> {
        let mut out = self.head(false);
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.body);
        out
    }

    fn head(&self, keep_alive: bool) -> String {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let mut head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: {}\r\nconnection: {connection}\r\ncache-control: no-store\r\n\
             x-content-type-options: nosniff\r\nx-frame-options: DENY\r\nreferrer-policy: no-referrer\r\n",
            self.status,
            reason(self.status),
            self.content_type
        );
        for (name, value) in &self.headers {
            // Nothing of ours ends a line; whatever comes from clients must not either.
            let value = value.replace(['\r', '\n', '\0'], " ");
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_MAX: usize = 1000;

    fn one(text: &str) -> Step {
        let mut requests = Requests::default();
        requests.feed(text.as_bytes());
        requests.next(BODY_MAX)
    }

    fn request(text: &str) -> Request {
        match one(text) {
            Step::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_taken_apart() {
        let request = request(
            "PUT /v1/kv/a%20b/%00%ff%2F?ttl=5s&x=a+b%3D HTTP/1.1\r\nHost: localhost:9090\r\nX-A: one \r\nContent-Length: 3\r\n\r\nabc",
        );
        assert_eq!(request.method, Method::Put);
        assert_eq!(request.segments, [&b"v1"[..], b"kv", b"a b", b"\0\xff/"]);
        assert_eq!((request.parameter("ttl"), request.parameter("x")), (Some("5s"), Some("a b=")));
        assert_eq!((request.header("x-a"), request.header("host")), (Some("one"), Some("localhost:9090")));
        assert_eq!((request.body.as_slice(), request.keep_alive), (&b"abc"[..], true));
    }

    #[test]
    fn the_result_does_not_depend_on_where_the_network_cut() {
        let text = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhelloGET /b?c=d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let all = |cuts: &[usize]| {
            let mut requests = Requests::default();
            let mut found = Vec::new();
            let mut from = 0;
            for &cut in cuts.iter().chain([&text.len()]) {
                requests.feed(&text[from..cut]);
                from = cut;
                while let Step::Request(request) = requests.next(BODY_MAX) {
                    found.push(request);
                }
            }
            assert!(!requests.is_within_request());
            found
        };
        let whole = all(&[]);
        assert_eq!(whole.len(), 2);
        assert_eq!((whole[0].body.as_slice(), whole[1].keep_alive), (&b"hello"[..], false));
        for cut in 0..text.len() {
            assert_eq!(all(&[cut]), whole, "cut at {cut}");
        }
        assert_eq!(all(&(0..text.len()).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        let long = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "x".repeat(ADMIN_HEAD_BYTES_MAX));
        let endless = format!("GET /{}", "x".repeat(ADMIN_HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(ADMIN_HEADERS_MAX));
        for (text, status) in [
            ("\x16\x03\x01\x02\0\x01", 400),
            ("*1\r\n$4\r\nPING\r\n", 400),
            ("GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
            ("BREW / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
            ("GET http://x/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
            ("GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
            ("GET /%2 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
            ("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
            ("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", 400),
            ("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n", 413),
            ("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n", 413),
            ("PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\na", 411),
            (long.as_str(), 431),
            (endless.as_str(), 431),
            (many.as_str(), 431),
        ] {
            match one(text) {
                Step::Refused(refused, _) => assert_eq!(refused, status, "{:.60}", text),
                other => panic!("{text:.60}: {other:?}"),
            }
        }
    }

    #[test]
    fn old_clients_are_closed_unless_they_ask() {
        assert!(!request("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(request("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").keep_alive);
        assert!(!request("GET / HTTP/1.1\r\nhost: x\r\nconnection: x, Close\r\n\r\n").keep_alive);
    }

    #[test]
    fn a_client_is_told_once_that_its_body_is_wanted() {
        let mut requests = Requests::default();
        requests.feed(b"PUT /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
        assert_eq!(requests.next(BODY_MAX), Step::Continue);
        assert_eq!(requests.next(BODY_MAX), Step::More);
        requests.feed(b"ok");
        assert!(matches!(requests.next(BODY_MAX), Step::Request(_)));
    }

    #[test]
    fn responses_are_whole_and_no_header_breaks_out() {
        let response = Response::text(200, "hi").with("x-a", "b\r\nset-cookie: c");
        let text = String::from_utf8(response.encode(Method::Get, true)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("content-length: 3\r\n\r\nhi\n"), "{text}");
        assert!(text.contains("\r\nx-a: b  set-cookie: c\r\n"), "{text}");
        let head = String::from_utf8(response.encode(Method::Head, false)).unwrap();
        assert!(head.ends_with("content-length: 3\r\n\r\n") && head.contains("connection: close"), "{head}");
    }
}
