//! A thousand connections that do all of it at once: subscribers, caches that are told what changed, transactions,
//! clients that fill in what others wait for, JSON lines in namespaces. Afterwards nothing of it is left.

mod harness;
mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::Server;
use support::client::Client;
use support::value::Value;
use support::vitals::{Vitals, descriptors, info_becomes, info_number, raise_descriptor_limit};

const OF_EACH_KIND: usize = 200;
const MESSAGES: usize = 10;
const ACCOUNTS: usize = 16;
const PAGES: usize = 10;
/// What an allocator may keep of what it has got back.
const MEMORY_SLACK_BYTES: usize = 16 * 1024 * 1024;

fn connect(address: SocketAddr, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(address)).collect()
}

/// Each hears every message once, in the order of whoever publishes them.
fn listen(listeners: &mut [Client]) {
    for (number, listener) in listeners.iter_mut().enumerate() {
        let mut heard = Vec::new();
        while heard.len() < MESSAGES {
            let message = listener.reply();
            let [kind, .., text] = message.as_array() else { panic!("{message:?} is no message") };
            assert_eq!(kind.as_text(), if number % 2 == 0 { "message" } else { "pmessage" });
            heard.push(text.as_text());
        }
        assert_eq!(heard, (0..MESSAGES).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

/// Money goes from account to account, and none is lost.
fn transfer(clients: &mut [Client]) {
    for (number, client) in clients.iter_mut().enumerate() {
        let (from, to) = (number % ACCOUNTS, (number * 7 + 1) % ACCOUNTS);
        for line in ["MULTI", &format!("DECRBY account:{from} 5"), &format!("INCRBY account:{to} 5"), "EXEC"] {
            client.send(format!("{line}\r\n").as_bytes());
        }
    }
    for client in clients {
        let replies = client.replies(4);
        assert_eq!(replies[0], Value::ok());
        assert_eq!(replies[3].as_array().len(), 2, "{replies:?}");
    }
}

/// They watch, and queue what they will never carry out.
fn begin_and_leave(clients: Vec<Client>) {
    for (number, mut client) in clients.into_iter().enumerate() {
        let watch = format!("WATCH account:{} nothing:{number}", number % ACCOUNTS);
        for line in [watch.as_str(), "MULTI", "SET account:0 0", "FLUSHALL"] {
            client.call(line);
        }
    }
}

/// Of all who miss a page one fills it in; some of those who are told to are gone before they have.
fn fill(clients: Vec<Client>, told: &AtomicUsize) {
    std::thread::scope(|scope| {
        for (number, mut client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                let page = number % PAGES;
                match client.call(&format!("GET page:{page} FILL 60000")) {
                    Value::Array(words) if told.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) => {
                        assert_eq!(words[0], Value::bulk("FILL"));
                        // Gone without a word: somebody else is told.
                    }
                    Value::Array(words) => {
                        let set = format!("SET page:{page} text-{page} FILL {}", words[1].as_text());
                        assert_eq!(client.call(&set), Value::ok());
                    }
                    value => assert_eq!(value, Value::bulk(format!("text-{page}"))),
                }
            });
        }
    });
}

fn speak_json(clients: &mut [Client]) {
    for (number, client) in clients.iter_mut().enumerate() {
        let namespace = format!("tenant{}", number % 7);
        client.send(
            format!(
                "{{\"action\":\"SET\",\"namespace\":\"{namespace}\",\"key\":\"k{number}\",\"value\":\"v{number}\",\"id\":1}}\n\
                 {{\"action\":\"GET\",\"namespace\":\"{namespace}\",\"key\":\"k{number}\",\"id\":2}}\n"
            )
            .as_bytes(),
        );
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let expected = format!("{{\"id\":1,\"result\":\"OK\"}}\n{{\"id\":2,\"result\":\"v{number}\"}}\n");
        assert_eq!(client.bytes(expected.len()), expected.as_bytes());
    }
}

/// All of it at once, and to its end.
fn together(address: SocketAddr) {
    let mut operator = Client::connect(address);
    let (mut listeners, mut caches) = (connect(address, OF_EACH_KIND), connect(address, OF_EACH_KIND));
    let (mut payers, fillers) = (connect(address, OF_EACH_KIND), connect(address, OF_EACH_KIND));
    let mut speakers = connect(address, OF_EACH_KIND);
    for page in 0..PAGES {
        operator.call(&format!("DEL page:{page}"));
    }
    for account in 0..ACCOUNTS {
        assert_eq!(operator.call(&format!("SET account:{account} 1000")), Value::ok());
    }
    for (number, listener) in listeners.iter_mut().enumerate() {
        listener.call(if number % 2 == 0 { "SUBSCRIBE news" } else { "PSUBSCRIBE ne*" });
    }
    for (number, cache) in caches.iter_mut().enumerate() {
        cache.call("HELLO 3");
        assert_eq!(cache.call("CLIENT TRACKING ON"), Value::ok());
        cache.call(&format!("GET account:{}", number % ACCOUNTS));
    }
    // Of a round before nobody is left either.
    info_becomes(&mut operator, "tracking_clients", OF_EACH_KIND);
    info_becomes(&mut operator, "pubsub_clients", OF_EACH_KIND);
    let told = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| listen(&mut listeners));
        scope.spawn(|| {
            transfer(&mut payers);
            begin_and_leave(payers);
        });
        scope.spawn(|| fill(fillers, &told));
        scope.spawn(|| speak_json(&mut speakers));
        scope.spawn(|| {
            for number in 0..MESSAGES {
                assert_eq!(operator.call(&format!("PUBLISH news {number}")), Value::Int(OF_EACH_KIND as i64));
            }
        });
    });
    // Every account was touched, and every cache has heard of the one that it had read.
    for (number, cache) in caches.iter_mut().enumerate() {
        let Value::Push(words) = cache.reply() else { panic!("cache {number} is told nothing") };
        assert_eq!(words[0], Value::bulk("invalidate"));
        assert_eq!(words[1].as_array(), [Value::bulk(format!("account:{}", number % ACCOUNTS))]);
    }
    let accounts: Vec<String> = (0..ACCOUNTS).map(|account| format!("account:{account}")).collect();
    let balances = operator.call(&format!("MGET {}", accounts.join(" ")));
    let total: i64 =
        balances.as_array().iter().map(|balance| balance.as_text().parse::<i64>().expect("a number")).sum();
    assert_eq!(total, 1000 * ACCOUNTS as i64);
    let pages: HashMap<usize, Value> =
        (0..PAGES).map(|page| (page, operator.call(&format!("GET page:{page}")))).collect();
    // A page that only clients were told of that went away is nobody's; all others are there.
    assert!(pages.iter().all(|(page, text)| *text == Value::bulk(format!("text-{page}")) || *text == Value::NilBulk));
    assert!(pages.values().filter(|text| **text != Value::NilBulk).count() >= PAGES / 2, "{pages:?}");
    assert!(told.load(Ordering::Relaxed) >= PAGES);
}

#[test]
fn a_thousand_connections_do_all_of_it_and_leave_nothing() {
    raise_descriptor_limit();
    let server = Server::start(&["--cores", "3"]);
    let fresh = Vitals::settled(&server, 0, descriptors(&server));
    together(server.address());
    let idle = descriptors(&server);
    let mut before = Vitals::settled(&server, 0, idle);
    let mut rounds = 0;
    loop {
        together(server.address());
        together(server.address());
        let after = Vitals::settled(&server, 0, before.descriptors);
        println!("{fresh:?}, after a round {before:?}, after two more {after:?}");
        if after.resident_bytes <= before.resident_bytes + MEMORY_SLACK_BYTES {
            break;
        }
        assert!(rounds < 3, "memory grows and grows: {before:?}, {after:?}");
        (before, rounds) = (after, rounds + 1);
    }
    let mut operator = Client::connect(server.address());
    for name in ["blocked_clients", "fills_current", "tracking_clients", "tracking_total_items", "pubsub_clients"] {
        info_becomes(&mut operator, name, 0);
    }
    assert_eq!(info_number(&mut operator, "pubsub_channels") + info_number(&mut operator, "pubsub_patterns"), 0);
}
