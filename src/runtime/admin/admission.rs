//! Who may ask the admin HTTP for what: the same tokens, delays and rates that hold for clients of the data port.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::count_refusal;
use crate::admin::guard;
use crate::admin::http::{Request, Response};
use crate::admin::routes::{Action, Needs, Route};
use crate::auth::Token;
use crate::clock::Now;
use crate::command::{Op, Spec, spec_of};
use crate::config::{MetricsShown, Store};
use crate::engine::access_log::Reason;
use crate::engine::commons::Commons;
use crate::ratelimit::{Holder, Kind};
use crate::runtime::process;

/// A request that found its route.
pub struct Visit<'a> {
    pub request: &'a Request,
    pub peer: IpAddr,
    pub route: &'static Route,
    /// The key it is about, where it is about one.
    pub key: Option<&'a [u8]>,
}

/// Whoever has been let in.
pub struct Admitted {
    /// Whose rates hold.
    pub token: Option<Arc<Token>>,
    /// Whether what names namespaces is among what he sees.
    pub sees_namespaces: bool,
}

pub struct Admission {
    store: Arc<Store>,
    commons: Arc<Commons>,
    /// As of the cores, whose clocks begin here.
    started: Instant,
}

/// The command that does what the route does: whoever may not give it may not ask for it here.
fn command_of(action: Action) -> &'static Spec {
    spec_of(match action {
        Action::ReadKey => Op::Get,
        Action::WriteKey => Op::Set,
        Action::DeleteKey => Op::Del,
        Action::Config => Op::ConfigGet,
        Action::HotKeys => Op::HotKeys,
        _ => Op::Stats,
    })
}

impl Admission {
    pub fn new(store: Arc<Store>, commons: Arc<Commons>, started: Instant) -> Admission {
        Admission { store, commons, started }
    }

    fn now(&self) -> Now {
        process::clock(self.started, Instant::now())
    }

    /// Whether what came along is enough.
    pub fn admit(&self, visit: &Visit<'_>) -> Result<Admitted, Response> {
        let needs = match visit.route.needs {
            Needs::Nothing => return Ok(Admitted { token: None, sees_namespaces: false }),
            Needs::TokenForAll if self.shows_nothing(visit) => match self.store.current().metrics_without_token {
                MetricsShown::All => return Ok(Admitted { token: None, sees_namespaces: true }),
                MetricsShown::Counts => return Ok(Admitted { token: None, sees_namespaces: false }),
                MetricsShown::Nothing => Needs::Token,
            },
            needs => needs,
        };
        let admitted = self.admitted(visit, needs);
        if admitted.is_err() {
            count_refusal();
        }
        admitted.map(|token| Admitted { token, sees_namespaces: true })
    }

    /// Whether no token is shown where one would be needed, or nobody may use the command.
    fn shows_nothing(&self, visit: &Visit<'_>) -> bool {
        let access = self.store.access();
        let is_closed = access.is_required() || access.disabled.has(command_of(visit.route.action).op);
        is_closed && visit.request.header("authorization").is_none()
    }

    fn admitted(&self, visit: &Visit<'_>, needs: Needs) -> Result<Option<Arc<Token>>, Response> {
        let &Visit { request, peer, route, key } = visit;
        let (access, spec) = (self.store.access(), command_of(route.action));
        if access.disabled.has(spec.op) {
            let name = spec.name.replace('|', " ");
            return Err(Response::text(403, format!("the command {name} is disabled here (--disabled-commands)")));
        }
        if !access.is_required() {
            return match needs {
                Needs::Change => Err(Response::text(
                    403,
                    "changes over HTTP need a token, and none is set up (--token, --tokens-file)",
                )),
                Needs::Nothing | Needs::TokenForAll | Needs::Token => Ok(None),
            };
        }
        let unauthorized = |why: &str| Response::text(401, why).with("www-authenticate", "Bearer realm=\"crabcache\"");
        let Some(secret) = guard::bearer(request) else { return Err(unauthorized("a token is needed")) };
        let now = self.now();
        let wait_ms = self.commons.failures().wait_ms(peer, now.uptime_us);
        if let Some(wait_ms) = wait_ms {
            return Err(later(wait_ms, format!("too many failed attempts: retry in {wait_ms} ms")));
        }
        let Some(token) = access.find(None, secret.as_bytes()).cloned() else {
            self.commons.failures().add(peer, now.uptime_us);
            let client = || format!("addr={peer} admin HTTP");
            self.commons.access_log().add(now, Reason::Auth, "AUTH", "default", false, client);
            info!("client {peer} of the admin HTTP is refused: wrong secret");
            return Err(unauthorized("no such token"));
        };
        self.commons.failures().forget(peer);
        if !token.allows(spec) || !key.is_none_or(|key| token.allows_key(key)) {
            return Err(Response::text(403, "the token does not allow this"));
        }
        match self.wait_of(&token, now) {
            Some(wait_ms) => Err(later(wait_ms, format!("beyond the rate of the token: retry in {wait_ms} ms"))),
            None => Ok(Some(token)),
        }
    }

    /// How long the token has to wait for its rates, from which one command is taken.
    fn wait_of(&self, token: &Token, now: Now) -> Option<u64> {
        if token.commands.is_unlimited() && token.bytes.is_unlimited() {
            return None;
        }
        let holder = Holder::Token(token.name.as_str().into());
        let mut ledger = self.commons.ledger();
        let bytes = ledger.charge(&holder, Kind::Bytes, token.bytes, 0, now.uptime_us);
        bytes.and_then(|()| ledger.take(&holder, Kind::Commands, token.commands, now.uptime_us)).err()
    }

    /// The token has moved so many bytes.
    pub fn charge(&self, token: &Token, bytes: u64) {
        if !token.bytes.is_unlimited() {
            let holder = Holder::Token(token.name.as_str().into());
            // Beyond its rate: the next request waits.
            let _ = self.commons.ledger().charge(&holder, Kind::Bytes, token.bytes, bytes, self.now().uptime_us);
        }
    }
}

fn later(wait_ms: u64, why: String) -> Response {
    Response::text(429, why).with("retry-after", wait_ms.div_ceil(1000).to_string())
}
