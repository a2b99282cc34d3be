//! The dashboard as it is seen: opened in headless Chromium beside a server under load. `CRABCACHE_SCREENSHOTS=FOLDER`
//! keeps what it looked like.

mod harness;
mod support;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::Server;
use serde_json::Value as Json;
use support::client::Client;
use support::peers::{installed, skip};

/// Opens the page and tells what was seen.
fn open(name: &str, server: &Server, token: Option<&str>) -> Json {
    let log = server.log();
    let (_, rest) = log.split_once("admin on ").expect("it says where it listens");
    let url = format!("{}/dashboard", rest.split(['"', ',', '\n', ' ']).next().expect("an address"));
    let folder = std::env::temp_dir().join(format!("crabcache-dashboard-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let screenshots = std::env::var("CRABCACHE_SCREENSHOTS").ok().filter(|_| name == "page").unwrap_or_default();
    let output = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dashboard/drive.js"))
        .arg("chromium")
        .arg(&folder)
        .args([url.as_str(), &screenshots])
        .args(token)
        .stdin(Stdio::null())
        .output()
        .expect("node starts");
    let _ = std::fs::remove_dir_all(&folder);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let seen: Json = serde_json::from_str(&text).expect("JSON");
    assert_eq!(seen["errors"], serde_json::json!([]), "the console stays empty");
    for request in seen["requests"].as_array().expect("requests") {
        let request = request.as_str().expect("an address");
        let root = url.trim_end_matches("/dashboard");
        assert!(request.starts_with(root) || request.starts_with("data:"), "{request} is from elsewhere");
    }
    seen
}

/// Clients that set and get, now and then in vain, some keys more than others, until they are told to stop.
fn load(server: &Server, token: Option<&str>, stop: &AtomicBool) {
    let connect = |port: u16| {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        if let Some(token) = token {
            client.call(&format!("AUTH {token}"));
        }
        client
    };
    // Somebody talks to every core, wherever the first client has come to.
    let mut of_cores = [connect(server.core_port(0)), connect(server.core_port(1))];
    let mut client = connect(server.port());
    client.call_words(&["SET", "<img src=x onerror=alert(1)>", "hot"]);
    let mut step = 0u32;
    while !stop.load(Ordering::Relaxed) {
        let mut batch = Vec::new();
        for _ in 0..64 {
            step = step.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (step >> 16) % 3000;
            support::client::push_command(&mut batch, &["SET", &format!("key:{key}"), &"v".repeat(3000)]);
            support::client::push_command(&mut batch, &["GET", &format!("key:{}", key * 2)]);
            support::client::push_command(&mut batch, &["GET", "<img src=x onerror=alert(1)>"]);
            support::client::push_command(&mut batch, &["INCR", "<img src=x onerror=alert(1)>"]);
            let (shop, session) = (format!("shop^item:{}", key / 4), format!("sessions^{key}"));
            support::client::push_command(&mut batch, &["SET", &shop, "an item of the shop"]);
            support::client::push_command(&mut batch, &["GET", &session]);
            support::client::push_command(&mut batch, &["SET", &session, "a session", "EX", "60"]);
        }
        client.send(&batch);
        client.replies(64 * 7);
        of_cores.iter_mut().for_each(|client| drop(client.call("PING")));
        // Enough to be seen, and CPU left for the browser.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn under_load(name: &str, args: &[&str], token: Option<&str>) -> Option<Json> {
    if !installed("chromium") || !installed("node") {
        skip(name, "chromium or node is not installed");
        return None;
    }
    let server = Server::start(&[&["--cores", "2", "--admin-port", "0"], args].concat());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| load(&server, token, &stop));
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open(name, &server, token)));
        stop.store(true, Ordering::Relaxed);
        Some(seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[test]
fn the_dashboard_moves_under_load_and_everybody_can_use_it() {
    let data = std::env::temp_dir().join(format!("crabcache-dashboard-{}-data", std::process::id()));
    let args = ["--max-memory", "32mb", "--data-dir", data.to_str().expect("UTF-8")];
    let seen = under_load("page", &args, None);
    let _ = std::fs::remove_dir_all(&data);
    let Some(seen) = seen else { return };
    let texts = |name: &str| -> Vec<String> {
        seen[name].as_array().expect(name).iter().map(|text| text.as_str().expect("a text").to_string()).collect()
    };
    for (id, unit) in [("hits", "%"), ("p99", "s"), ("memory", "B"), ("cpu", "%"), ("balance", "average")] {
        assert!(seen["shown"][id].as_str().is_some_and(|text| text.contains(unit)), "{id}: {}", seen["shown"]);
    }
    assert!(texts("kinds").len() == 7 && texts("kinds").iter().all(|row| row.contains('%')), "{:?}", seen["kinds"]);
    assert!(texts("commands").contains(&"GET".to_string()) && texts("commands").contains(&"INCR".to_string()));
    // Keys are text, whatever they look like.
    assert!(texts("hot").contains(&"<img src=x onerror=alert(1)>".to_string()), "{:?}", seen["hot"]);
    assert_eq!(seen["markup"], 0);
    assert!(seen["wal"].as_str().is_some_and(|text| text.contains("Records")), "{}", seen["wal"]);
    let namespaces = texts("namespaces");
    for (at, words) in [(0, ["Name", "Hits"]), (1, ["sessions", ""]), (2, ["shop", ""])] {
        assert!(words.iter().all(|word| namespaces[at].contains(word)), "{namespaces:?}");
    }
    assert!(seen["counters"].as_str().is_some_and(|text| text.contains("shard.keyspace_hits")), "{}", seen["counters"]);
    // By keyboard and by ear.
    assert!(seen["spoken"].as_str().is_some_and(|text| text.contains("commands ")), "{}", seen["spoken"]);
    assert_eq!(seen["paused"], serde_json::json!(["paused", "true"]));
    assert_eq!(seen["nameless"], serde_json::json!([]));
    assert!(seen["named"].as_u64() > Some(15), "{}", seen["named"]);
    let stops = seen["stops"].as_array().expect("stops");
    assert!(stops.len() >= 9 && stops.iter().all(|stop| stop["outlined"] == true), "{stops:?}");
    assert_eq!(stops[0]["name"], "Skip to the numbers");
    // On a phone nothing has to be moved sideways, and the dark is dark.
    let screens = seen["screens"].as_array().expect("screens");
    assert!(screens.len() == 4 && screens.iter().all(|screen| screen["inside"] == true), "{screens:?}");
    assert_ne!(screens[0]["back"], screens[1]["back"]);
}

#[test]
fn the_dashboard_asks_for_the_token_that_it_needs() {
    let secret = "a-secret-of-this-test";
    let Some(seen) = under_load("token", &["--token", secret], Some(secret)) else { return };
    assert_eq!(seen["asked"], "a token is needed");
}
