//! The table of routes: it dispatches requests, and the description in OpenAPI is made from it.

use std::fmt::Write;

use super::http::Method;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Index,
    Metrics,
    Health,
    Live,
    Ready,
    Stats,
    HotKeys,
    Config,
    OpenApi,
    Dashboard,
    Events,
    ReadKey,
    WriteKey,
    DeleteKey,
}

/// What is asked of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: says nothing that an operator would hide.
    Nothing,
    /// A token, if there are any, for all of it; the settings say what is shown without.
    TokenForAll,
    /// A token, if there are any.
    Token,
    /// A token, always: it changes something.
    Change,
}

pub struct Route {
    pub method: Method,
    /// `{name}` is any one segment.
    pub pattern: &'static str,
    pub action: Action,
    pub needs: Needs,
    pub summary: &'static str,
    pub query: &'static [(&'static str, &'static str)],
    /// Status, content type and meaning of each answer.
    pub answers: &'static [(u16, &'static str, &'static str)],
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";

macro_rules! routes {
    ($($method:ident $pattern:literal $action:ident $needs:ident $summary:literal [$($name:literal: $about:literal),*] [$($status:literal $type:ident $meaning:literal),+];)+) => {
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            pattern: $pattern,
            action: Action::$action,
            needs: Needs::$needs,
            summary: $summary,
            query: &[$(($name, $about)),*],
            answers: &[$(($status, $type, $meaning)),+],
        }),+];
    };
}

const HTML: &str = "text/html";
const EVENTS: &str = "text/event-stream";

routes! {
    Get "/" Index Nothing "What there is here" [] [200 TEXT "A line for each route"];
    Get "/metrics" Metrics TokenForAll "Metrics for Prometheus; without a token those that name no namespace"
        ["compat": "redis_exporter: the names of that exporter"] [200 TEXT "Prometheus text format 0.0.4"];
    Get "/health" Health Nothing "How the server is"
        [] [200 JSON "It serves", 503 JSON "It does not, or not well; `problems` says why"];
    Get "/livez" Live Nothing "Whether every core makes its turns" [] [200 TEXT "ok", 503 TEXT "A core hangs"];
    Get "/readyz" Ready Nothing "Whether it takes requests" [] [200 TEXT "ok", 503 TEXT "Not yet, or no longer"];
    Get "/stats" Stats Token "Everything that is counted, as STATS answers it" [] [200 JSON "See the command STATS"];
    Get "/hotkeys" HotKeys Token "The keys asked for most, and about how often lately"
        ["count": "how many: 16 unless given, at most 64"] [200 JSON "A list of `key` and `count`", 400 TEXT "No such count"];
    Get "/config" Config Token "The settings in effect; secrets are not shown" [] [200 JSON "Values by key"];
    Get "/openapi.json" OpenApi Nothing "This description" [] [200 JSON "OpenAPI 3.1"];
    Get "/dashboard" Dashboard Nothing "A page to watch the server by" [] [200 HTML "The page"];
    Get "/events" Events Token "What /stats says, every second" [] [200 EVENTS "One JSON document per event"];
    Get "/v1/kv/{namespace}/{key}" ReadKey Token "The value of a key"
        [] [200 BYTES "The value; `x-ttl-ms` when it has an expiry", 404 TEXT "There is no such key"];
    Put "/v1/kv/{namespace}/{key}" WriteKey Change "Stores the body under a key"
        ["ttl": "how long it lives: 30s, 5m, 250ms"] [204 TEXT "Stored", 400 TEXT "No duration", 507 TEXT "There is no room"];
    Delete "/v1/kv/{namespace}/{key}" DeleteKey Change "Removes a key"
        [] [204 TEXT "Removed", 404 TEXT "There is no such key"];
}

#[derive(Debug)]
pub enum Found<'a> {
    /// With what stands in the place of each `{name}`.
    Route(&'static Route, Vec<&'a [u8]>),
    /// The path is known; the methods it takes.
    OtherMethods(String),
    Nothing,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.method.name(), self.pattern)
    }
}

/// The route of a request. HEAD goes where GET does.
pub fn find(method: Method, segments: &[Vec<u8>]) -> Found<'_> {
    let asked = if method == Method::Head { Method::Get } else { method };
    let mut others = Vec::new();
    for route in ROUTES {
        if let Some(captures) = captures(route.pattern, segments) {
            if route.method == asked {
                return Found::Route(route, captures);
            }
            others.push(route.method.name());
        }
    }
    match others.as_slice() {
        [] => Found::Nothing,
        others => Found::OtherMethods(others.join(", ")),
    }
}

fn captures<'a>(pattern: &str, segments: &'a [Vec<u8>]) -> Option<Vec<&'a [u8]>> {
    let mut captures = Vec::new();
    let mut pieces = pattern.trim_start_matches('/').split('/');
    for segment in segments {
        let piece = pieces.next()?;
        if piece.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            captures.push(segment.as_slice());
        } else if piece.as_bytes() != segment.as_slice() {
            return None;
        }
    }
    pieces.next().is_none().then_some(captures)
}

/// The table for people.
pub fn index() -> String {
    let mut text = String::from("CrabCache\n\n");
    for route in ROUTES {
        let _ = writeln!(text, "{:6} {:26} {}", route.method.name(), route.pattern, route.summary);
    }
    text
}

/// The table as OpenAPI.
pub fn openapi(version: &str) -> String {
    let mut paths: Vec<&str> = ROUTES.iter().map(|route| route.pattern).collect();
    paths.dedup();
    let mut json = format!(
        "{{\"openapi\":\"3.1.0\",\"info\":{{\"title\":\"CrabCache\",\"version\":{},\"license\":{{\"name\":\"Apache-2.0 OR MIT\"}}}},\
         \"components\":{{\"securitySchemes\":{{\"token\":{{\"type\":\"http\",\"scheme\":\"bearer\"}}}}}},\"paths\":{{",
        quoted(version)
    );
    for (index, path) in paths.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(json, "{comma}{}:{{", quoted(path));
        for (index, route) in ROUTES.iter().filter(|route| route.pattern == *path).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(json, "{comma}{}:{}", quoted(&route.method.name().to_lowercase()), operation(route));
        }
        json.push('}');
    }
    json + "}}"
}

fn operation(route: &Route) -> String {
    let id = format!("{:?}", route.action);
    let mut json = format!("{{\"operationId\":{},\"summary\":{}", quoted(&id), quoted(route.summary));
    let in_path = route.pattern.split('/').filter_map(|piece| piece.strip_prefix('{')?.strip_suffix('}'));
    let parameter = |name: &str, place: &str, about: &str| {
        let required = place == "path";
        format!(
            "{{\"name\":{},\"in\":\"{place}\",\"required\":{required},\"description\":{},\"schema\":{{\"type\":\"string\"}}}}",
            quoted(name),
            quoted(about)
        )
    };
    let mut parameters: Vec<String> = in_path.map(|name| parameter(name, "path", "percent-encoded")).collect();
    parameters.extend(route.query.iter().map(|(name, about)| parameter(name, "query", about)));
    if !parameters.is_empty() {
        let _ = write!(json, ",\"parameters\":[{}]", parameters.join(","));
    }
    if route.method == Method::Put {
        let _ = write!(json, ",\"requestBody\":{{\"required\":true,\"content\":{{{}:{{}}}}}}", quoted(BYTES));
    }
    json.push_str(match route.needs {
        Needs::Nothing => "",
        Needs::TokenForAll => ",\"security\":[{},{\"token\":[]}]",
        Needs::Token | Needs::Change => ",\"security\":[{\"token\":[]}]",
    });
    json.push_str(",\"responses\":{");
    let mut answers: Vec<(u16, &str, &str)> = route.answers.to_vec();
    if route.needs != Needs::Nothing {
        answers.push((401, TEXT, "A token is needed"));
        answers.push((403, TEXT, "The token does not allow it"));
    }
    for (index, (status, content_type, meaning)) in answers.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(json, "{comma}\"{status}\":{{\"description\":{}", quoted(meaning));
        if *status != 204 {
            let _ = write!(json, ",\"content\":{{{}:{{}}}}", quoted(content_type));
        }
        json.push('}');
    }
    json + "}}"
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            character if character < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", character as u32);
            }
            character => quoted.push(character),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> String {
        let segments: Vec<Vec<u8>> =
            path.trim_start_matches('/').split('/').map(|part| part.as_bytes().to_vec()).collect();
        match find(method, &segments) {
            Found::Route(route, captures) => {
                let captures: Vec<_> = captures.iter().map(|part| String::from_utf8_lossy(part)).collect();
                format!("{:?} {}", route.action, captures.join(",")).trim_end().to_string()
            }
            Found::OtherMethods(methods) => format!("405 {methods}"),
            Found::Nothing => "404".into(),
        }
    }

    #[test]
    fn requests_find_their_routes() {
        assert_eq!(found(Method::Get, "/"), "Index");
        assert_eq!(found(Method::Head, "/metrics"), "Metrics");
        assert_eq!(found(Method::Put, "/v1/kv/a/b"), "WriteKey a,b");
        assert_eq!(found(Method::Post, "/v1/kv/a/b"), "405 GET, PUT, DELETE");
        for path in ["/v1/kv/a", "/v1/kv/a/b/c", "/v1/kv//b", "/metrics/", "/Metrics", "/nothing"] {
            assert_eq!(found(Method::Get, path), "404", "{path}");
        }
    }

    #[test]
    fn the_description_is_json_and_tells_of_every_route() {
        let described: serde_json::Value = serde_json::from_str(&openapi("1.2.3")).unwrap();
        assert_eq!(described["info"]["version"], "1.2.3");
        for route in ROUTES {
            let operation = &described["paths"][route.pattern][route.method.name().to_lowercase()];
            assert_eq!(operation["summary"], route.summary);
            for (status, ..) in route.answers {
                assert!(operation["responses"][status.to_string()]["description"].is_string());
            }
            assert_eq!(operation["security"].is_array(), route.needs != Needs::Nothing);
        }
        let parameters = described["paths"]["/v1/kv/{namespace}/{key}"]["put"]["parameters"].as_array().unwrap();
        assert_eq!(parameters.len(), 3);
        assert!(ROUTES.iter().all(|route| index().contains(route.summary)));
        // What changes something takes a token.
        let changing = |method| !matches!(method, Method::Get | Method::Head);
        assert!(ROUTES.iter().all(|route| changing(route.method) == (route.needs == Needs::Change)));
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
