//! Who may ask: browsers are kept from being sent here by pages of others, and whatever changes state takes a token.

use std::net::IpAddr;

use super::http::{Method, Request};

/// The part of a `Host` header before the port: a name, or an address without its brackets.
fn host_of(header: &str) -> Option<&str> {
    if let Some(rest) = header.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return (port.is_empty() || is_port(port)).then_some(address);
    }
    match header.split_once(':') {
        None => Some(header),
        Some((host, port)) => port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host),
    }
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the request is meant for this server: a page elsewhere whose name was made to lead here comes with that name.
/// Addresses and `localhost` are always ours; other names only when they are in `names`.
pub fn is_host_ours(request: &Request, names: &[String]) -> bool {
    // Without one it is HTTP/1.0, which no browser speaks.
    let Some(header) = request.header("host") else { return true };
    let Some(host) = host_of(header) else { return false };
    host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Whether a browser sent it on behalf of another page.
pub fn is_foreign(request: &Request) -> bool {
    if request.header("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let Some(origin) = request.header("origin") else { return false };
    let own = request.header("host").unwrap_or_default();
    origin.split_once("://").is_none_or(|(_, host)| !host.eq_ignore_ascii_case(own))
}

/// Whether a person has followed a link, or typed the address.
pub fn is_navigation(request: &Request) -> bool {
    matches!(request.method, Method::Get | Method::Head)
        && request.header("sec-fetch-mode") == Some("navigate")
        && request.header("sec-fetch-dest") == Some("document")
}

/// The secret behind `Authorization: Bearer`.
pub fn bearer(request: &Request) -> Option<&str> {
    let (scheme, secret) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim()).filter(|secret| !secret.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::http::{Requests, Step};
    use super::*;

    fn request(headers: &str) -> Request {
        let mut requests = Requests::default();
        let version = if headers.to_lowercase().contains("host:") { "1.1" } else { "1.0" };
        requests.feed(format!("GET / HTTP/{version}\r\n{headers}\r\n").as_bytes());
        match requests.next(0) {
            Step::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_and_known_names_are_ours() {
        let names = ["cache.example".to_string()];
        for host in
            ["127.0.0.1:9090", "[::1]:9090", "[::1]", "localhost", "LOCALHOST:1", "10.1.2.3", "Cache.Example:9090"]
        {
            assert!(is_host_ours(&request(&format!("host: {host}\r\n")), &names), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9090", "[::1", "localhost:x", ""]
        {
            assert!(!is_host_ours(&request(&format!("host: {host}\r\n")), &names), "{host:?}");
        }
        assert!(is_host_ours(&request(""), &names));
    }

    #[test]
    fn pages_of_others_are_foreign() {
        for headers in [
            "host: localhost:9090\r\norigin: http://evil.example\r\n",
            "host: localhost:9090\r\norigin: null\r\n",
            "host: localhost:9090\r\norigin: http://localhost:8080\r\n",
            "host: localhost:9090\r\nsec-fetch-site: cross-site\r\n",
            "host: localhost:9090\r\nsec-fetch-site: same-site\r\n",
        ] {
            assert!(is_foreign(&request(headers)), "{headers}");
        }
        for headers in [
            "host: localhost:9090\r\n",
            "host: localhost:9090\r\norigin: http://localhost:9090\r\nsec-fetch-site: same-origin\r\n",
            "host: localhost:9090\r\nsec-fetch-site: none\r\n",
        ] {
            assert!(!is_foreign(&request(headers)), "{headers}");
        }
    }

    #[test]
    fn a_link_that_is_followed_is_no_request_of_the_page_where_it_stands() {
        let followed = "host: localhost\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\n";
        assert!(is_navigation(&request(&format!("{followed}sec-fetch-dest: document\r\n"))));
        assert!(!is_navigation(&request(&format!("{followed}sec-fetch-dest: iframe\r\n"))));
        assert!(!is_navigation(&request("host: localhost\r\nsec-fetch-mode: cors\r\nsec-fetch-dest: document\r\n")));
        assert!(!is_navigation(&request("host: localhost\r\n")));
    }

    #[test]
    fn the_secret_stands_behind_bearer() {
        assert_eq!(bearer(&request("authorization: Bearer abc \r\n")), Some("abc"));
        for headers in ["", "authorization: Basic abc\r\n", "authorization: Bearer\r\n", "authorization: Bearer  \r\n"]
        {
            assert_eq!(bearer(&request(headers)), None, "{headers}");
        }
    }
}
