//! What each route answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::admission::{Admission, Visit};
use super::gateway::Gateway;
use crate::admin::guard;
use crate::admin::http::{Request, Response};
use crate::admin::routes::{self, Action, Found, Needs, quoted};
use crate::admin::{dashboard, dashboard_policy};
use crate::config::{SETTINGS, Store};
use crate::limits::{ADMIN_BODY_BYTES_MAX, CORE_SILENT_MS_MAX};
use crate::metrics::CRABCACHE_VERSION;
use crate::namespace;
use crate::number::parse_duration_ms;
use crate::reply::Reply;
use crate::runtime::core::Shared;
use crate::runtime::signals::Shutdown;

pub enum Answer {
    Response(Response),
    /// The head of a response that goes on with events.
    Events(Response),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Response(response)
    }
}

pub struct Answers {
    gateway: Gateway,
    shared: Arc<Shared>,
    shutdown: Arc<Shutdown>,
    store: Arc<Store>,
    admission: Admission,
    started: Instant,
    dashboard: String,
    dashboard_policy: String,
}

impl Answers {
    pub fn new(
        gateway: Gateway,
        shared: Arc<Shared>,
        shutdown: Arc<Shutdown>,
        store: Arc<Store>,
        admission: Admission,
        started: Instant,
    ) -> Answers {
        let dashboard_policy = dashboard_policy(sha256_base64);
        Answers { gateway, shared, shutdown, store, admission, started, dashboard: dashboard(), dashboard_policy }
    }

    pub fn body_bytes_max(&self) -> usize {
        ADMIN_BODY_BYTES_MAX.min(self.store.current().value_bytes_max as usize)
    }

    pub fn rest(&mut self, now: Instant) {
        self.gateway.rest(now);
    }

    pub fn answer(&mut self, request: &Request, peer: IpAddr) -> Answer {
        if !guard::is_host_ours(request, &self.store.current().admin_hosts) {
            return Response::text(421, "this host is not served here (--admin-hosts)").into();
        }
        let (route, captures) = match routes::find(request.method, &request.segments) {
            Found::Route(route, captures) => (route, captures),
            Found::OtherMethods(methods) => {
                return Response::text(405, "this path takes other methods").with("allow", methods).into();
            }
            Found::Nothing => return Response::text(404, "there is nothing here; / lists what there is").into(),
        };
        // A link that leads here may be followed; nothing behind it is read by the page where it stands.
        let is_open = matches!(route.needs, Needs::Nothing | Needs::TokenForAll);
        let is_followed = is_open && guard::is_navigation(request);
        if guard::is_foreign(request) && !is_followed {
            return Response::text(403, "requests from other pages are not answered").into();
        }
        let key = match captures.as_slice() {
            [namespace, key] => match key_of(namespace, key) {
                Some(key) => Some(key),
                None => return Response::text(400, NO_SUCH_KEY).into(),
            },
            _ => None,
        };
        let visit = Visit { request, peer, route, key: key.as_deref() };
        let admitted = match self.admission.admit(&visit) {
            Ok(admitted) => admitted,
            Err(refused) => return refused.into(),
        };
        let answer = self.carry_out(&visit, admitted.sees_namespaces);
        if let (Some(token), Answer::Response(response)) = (admitted.token, &answer) {
            self.admission.charge(&token, (request.body.len() + response.body.len()) as u64);
        }
        answer
    }

    fn carry_out(&mut self, visit: &Visit<'_>, sees_namespaces: bool) -> Answer {
        let (request, key) = (visit.request, visit.key.unwrap_or_default());
        match visit.route.action {
            Action::Index => Response::text(200, routes::index()).into(),
            Action::Metrics => self.metrics(request, sees_namespaces).into(),
            Action::Health => self.health().into(),
            Action::Live => self.live().into(),
            Action::Ready => self.ready().into(),
            Action::Stats => self.stats().into(),
            Action::HotKeys => self.hot_keys(request).into(),
            Action::Config => Response::json(200, self.config()).into(),
            Action::OpenApi => Response::json(200, routes::openapi(CRABCACHE_VERSION)).into(),
            Action::Dashboard => Response::new(200, "text/html; charset=utf-8", self.dashboard.as_bytes())
                .with("content-security-policy", &self.dashboard_policy)
                .into(),
            Action::Events => Answer::Events(Response::new(200, "text/event-stream", self.event())),
            Action::ReadKey => self.read(key).into(),
            Action::WriteKey => self.write(key, request).into(),
            Action::DeleteKey => self.delete(key).into(),
        }
    }

    fn call(&mut self, words: &[&[u8]]) -> Result<Reply<'static>, Response> {
        match self.gateway.call(words) {
            Ok(Reply::Error(error)) => {
                let text = error.text();
                let status = match text.split(' ').next() {
                    Some("OOM") => 507,
                    Some("READONLY" | "MISCONF" | "LOADING") => 503,
                    _ => 400,
                };
                Err(Response::text(status, text))
            }
            Ok(reply) => Ok(reply),
            Err(error) => Err(Response::text(503, format!("the server does not answer: {error}"))),
        }
    }

    fn text_of(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, Response> {
        match self.call(words)? {
            Reply::Owned(bytes) => Ok(bytes),
            Reply::Large(bytes) => Ok(bytes.to_vec()),
            Reply::Text(text) => Ok(text.into_owned().into_bytes()),
            _ => Err(Response::text(500, "an answer of an unexpected kind")),
        }
    }

    fn metrics(&mut self, request: &Request, sees_namespaces: bool) -> Response {
        let format: &[u8] = match request.parameter("compat") {
            None if !sees_namespaces => b"ANONYMOUS",
            None => b"PROMETHEUS",
            Some("redis_exporter") => b"EXPORTER",
            Some(_) => return Response::text(400, "compat can be redis_exporter"),
        };
        match self.text_of(&[b"STATS", format]) {
            Ok(text) => Response::new(200, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(refused) => refused,
        }
    }

    fn stats(&mut self) -> Response {
        self.text_of(&[b"STATS"]).map_or_else(|refused| refused, |json| Response::json(200, json))
    }

    fn hot_keys(&mut self, request: &Request) -> Response {
        let mut words: Vec<&[u8]> = vec![b"HOTKEYS"];
        words.extend(request.parameter("count").map(str::as_bytes));
        let reply = match self.call(&words) {
            Ok(Reply::Array(reply)) => reply,
            Ok(_) => return Response::text(500, "an answer of an unexpected kind"),
            Err(refused) => return refused,
        };
        let entries = reply.chunks_exact(2).filter_map(|pair| match pair {
            [Reply::Owned(key), Reply::Int(count)] => {
                Some(format!("{{\"key\":{},\"count\":{count}}}", quoted(&readable(key))))
            }
            _ => None,
        });
        Response::json(200, format!("[{}]", entries.collect::<Vec<_>>().join(",")))
    }

    /// STATS as a server-sent event.
    pub fn event(&mut self) -> Vec<u8> {
        match self.text_of(&[b"STATS"]) {
            Ok(json) => [b"event: stats\ndata: ", json.as_slice(), b"\n\n"].concat(),
            Err(_) => b"event: silent\ndata: {}\n\n".to_vec(),
        }
    }

    fn config(&self) -> String {
        let config = self.store.current();
        let entry = |setting: &crate::config::Setting| {
            let origin = config.origins.of(setting).to_string();
            format!(
                "{}:{{\"value\":{},\"origin\":{}}}",
                quoted(setting.key),
                quoted(&setting.shown(&config)),
                quoted(&origin)
            )
        };
        let entries: Vec<String> = SETTINGS.iter().map(entry).collect();
        format!("{{{}}}", entries.join(","))
    }

    fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn late_cores(&self) -> impl Iterator<Item = (usize, u64)> {
        self.shared.pulses.late(Instant::now(), Duration::from_millis(CORE_SILENT_MS_MAX))
    }

    /// Why it does not do well; empty when it does.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.shutdown.is_requested() {
            problems.push("it is ending".to_string());
        } else if !self.shared.pulses.is_serving() {
            problems.push("it is starting".to_string());
        }
        for (core, age_ms) in self.late_cores() {
            problems.push(format!("core {core} has made no turn for {age_ms} ms"));
        }
        problems
    }

    fn health(&mut self) -> Response {
        let mut problems = self.problems();
        if problems.is_empty()
            && let Err(refused) = self.call(&[b"PING"])
        {
            problems.push(String::from_utf8_lossy(&refused.body).trim_end().to_string());
        }
        let well = problems.is_empty();
        let problems: Vec<String> = problems.iter().map(|problem| quoted(problem)).collect();
        let json = format!(
            "{{\"status\":\"{}\",\"version\":{},\"uptime_seconds\":{},\"cores\":{},\"clients\":{},\"problems\":[{}]}}",
            if well { "ok" } else { "failing" },
            quoted(CRABCACHE_VERSION),
            self.uptime_ms() / 1000,
            self.shared.pulses.cores(),
            self.shared.clients.load(std::sync::atomic::Ordering::Relaxed),
            problems.join(",")
        );
        Response::json(if well { 200 } else { 503 }, json)
    }

    fn live(&self) -> Response {
        let late: Vec<String> =
            self.late_cores().map(|(core, age_ms)| format!("core {core}: no turn for {age_ms} ms")).collect();
        match late.as_slice() {
            [] => Response::text(200, "ok"),
            late => Response::text(503, late.join("\n")),
        }
    }

    fn ready(&self) -> Response {
        match self.problems().as_slice() {
            [] => Response::text(200, "ok"),
            problems => Response::text(503, problems.join("\n")),
        }
    }

    fn read(&mut self, key: &[u8]) -> Response {
        // What is too long to be written over HTTP is too long to be read: it would lie here more than once.
        match self.call(&[b"STRLEN", key]) {
            Ok(Reply::Int(len)) if len > ADMIN_BODY_BYTES_MAX as i64 => {
                return Response::text(413, format!("the value has {len} bytes; HTTP gives {ADMIN_BODY_BYTES_MAX}"));
            }
            Ok(_) => {}
            Err(refused) => return refused,
        }
        let value = match self.call(&[b"GET", key]) {
            Ok(Reply::Nil) => return Response::text(404, "there is no such key"),
            Ok(Reply::Owned(value)) => value,
            Ok(Reply::Large(value)) => value.to_vec(),
            Ok(_) => return Response::text(500, "an answer of an unexpected kind"),
            Err(refused) => return refused,
        };
        let response = Response::new(200, "application/octet-stream", value);
        match self.call(&[b"PTTL", key]) {
            Ok(Reply::Int(ttl_ms @ 0..)) => response.with("x-ttl-ms", ttl_ms.to_string()),
            _ => response,
        }
    }

    fn write(&mut self, key: &[u8], request: &Request) -> Response {
        let mut words: Vec<&[u8]> = vec![b"SET", key, &request.body];
        let ttl_ms = match request.parameter("ttl").map(parse_duration_ms) {
            None => None,
            Some(Ok(ttl_ms @ 1..)) => Some(ttl_ms.to_string()),
            Some(_) => return Response::text(400, "ttl: a duration, such as 30s or 250ms"),
        };
        if let Some(ttl_ms) = &ttl_ms {
            words.extend([b"PX", ttl_ms.as_bytes()]);
        }
        self.call(&words).map_or_else(|refused| refused, |_| Response::text(204, ""))
    }

    fn delete(&mut self, key: &[u8]) -> Response {
        match self.call(&[b"DEL", key]) {
            Ok(Reply::Int(1..)) => Response::text(204, ""),
            Ok(_) => Response::text(404, "there is no such key"),
            Err(refused) => refused,
        }
    }
}

/// As policies of web pages name what they allow.
fn sha256_base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = Sha256::digest(text.as_bytes());
    let mut base64 = String::new();
    for three in digest.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let is_padding = digit > three.len();
            let index = (bits >> (18 - 6 * digit)) as usize % 64;
            base64.push(if is_padding { '=' } else { DIGITS[index] as char });
        }
    }
    base64
}

/// A key for people: what is no UTF-8 stands there as `\xff`.
fn readable(key: &[u8]) -> String {
    let mut text = String::new();
    for chunk in key.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

const NO_SUCH_KEY: &str =
    "a namespace has 1 to 64 bytes, none of them ^ or a space, and a key of `default` names no other";

/// The full name of a key: `default` stands for keys without a namespace. `None` for what is no name, and for keys that
/// would be another namespace's.
fn key_of(name: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    match name {
        b"default" => namespace::name_of(key).is_none().then(|| key.to_vec()),
        name => namespace::is_name(name).then(|| [&namespace::prefix_of(name), key].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_their_namespace() {
        assert_eq!(key_of(b"default", b"a:b"), Some(b"a:b".to_vec()));
        assert_eq!(key_of(b"default", b"^b"), Some(b"^b".to_vec()));
        assert_eq!(key_of(b"shop", b"a^b"), Some(b"shop^a^b".to_vec()));
        for (name, key) in [(&b"default"[..], &b"shop^a"[..]), (b"a^b", b"c"), (b"a b", b"c"), (b"", b"c")] {
            assert_eq!(key_of(name, key), None);
        }
    }

    #[test]
    fn digests_are_those_that_browsers_compute() {
        assert_eq!(sha256_base64(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(sha256_base64("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn keys_that_are_no_text_can_be_read() {
        assert_eq!(readable(b"a\xff\xc3\xa9\n\xfe"), "a\\xff\u{e9}\n\\xfe");
    }
}
