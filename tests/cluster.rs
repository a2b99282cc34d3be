//! What a client that routes by slot is told about the cores, and whether it is true.

mod harness;
mod support;

use std::collections::{BTreeMap, HashSet};

use crabcache::slot::{SLOT_COUNT, owner_of_slot, slot_of};
use harness::Server;
use support::client::Client;
use support::value::Value;

const CORES: u32 = 3;

fn text(value: Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8(bytes).expect("text"),
        other => panic!("{other:?} is no text"),
    }
}

/// A node as one of the answers describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    id: String,
    host: String,
    port: u16,
    slots: std::ops::RangeInclusive<u32>,
}

/// CLUSTER NODES: a line per node, the one that answers marked as `myself`.
fn nodes(client: &mut Client) -> (Vec<Node>, String) {
    let page = text(client.call("CLUSTER NODES"));
    let mut myself = Vec::new();
    let mut found: Vec<Node> = page
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [id, address, flags, master, ping, pong, epoch, link, slots] = fields[..] else {
                panic!("{line:?} has not the fields of CLUSTER NODES")
            };
            assert!(id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{line}");
            assert_eq!((master, link), ("-", "connected"), "{line}");
            assert!([ping, pong, epoch].iter().all(|number| number.parse::<u64>().is_ok()), "{line}");
            match flags {
                "myself,master" => myself.push(id.to_owned()),
                flags => assert_eq!(flags, "master", "{line}"),
            }
            let (host, ports) = address.rsplit_once(':').expect("host:port");
            let (port, bus) = ports.split_once('@').expect("port@bus");
            bus.parse::<u16>().expect("a port");
            let (first, last) = slots.split_once('-').expect("a range of slots");
            Node {
                id: id.to_owned(),
                host: host.to_owned(),
                port: port.parse().expect("a port"),
                slots: first.parse().expect("a slot")..=last.parse().expect("a slot"),
            }
        })
        .collect();
    found.sort_by_key(|node| *node.slots.start());
    assert_eq!(myself.len(), 1, "{page}");
    (found, myself.remove(0))
}

/// CLUSTER SLOTS: `first last [host port id …]` per range.
fn slots(client: &mut Client) -> Vec<Node> {
    let Value::Array(ranges) = client.call("CLUSTER SLOTS") else { panic!("no array") };
    let mut found: Vec<Node> = ranges
        .into_iter()
        .map(|range| {
            let Value::Array(parts) = range else { panic!("no array") };
            let [Value::Int(first), Value::Int(last), Value::Array(node)] = &parts[..] else { panic!("{parts:?}") };
            let [host, Value::Int(port), id, ..] = &node[..] else { panic!("{node:?}") };
            Node {
                id: text(id.clone()),
                host: text(host.clone()),
                port: *port as u16,
                slots: *first as u32..=*last as u32,
            }
        })
        .collect();
    found.sort_by_key(|node| *node.slots.start());
    found
}

/// CLUSTER SHARDS: maps, in RESP2 as flat arrays of names and values.
fn shards(client: &mut Client) -> Vec<Node> {
    fn map(value: &Value) -> BTreeMap<String, Value> {
        let Value::Array(parts) = value else { panic!("{value:?} is no flat map") };
        parts.chunks(2).map(|pair| (text(pair[0].clone()), pair[1].clone())).collect()
    }
    let Value::Array(shards) = client.call("CLUSTER SHARDS") else { panic!("no array") };
    let mut found: Vec<Node> = shards
        .iter()
        .map(|shard| {
            let shard = map(shard);
            let Value::Array(slots) = &shard["slots"] else { panic!("{shard:?}") };
            let [Value::Int(first), Value::Int(last)] = slots[..] else { panic!("{slots:?}") };
            let Value::Array(nodes) = &shard["nodes"] else { panic!("{shard:?}") };
            assert_eq!(nodes.len(), 1, "no replicas");
            let node = map(&nodes[0]);
            assert_eq!((text(node["role"].clone()), text(node["health"].clone())), ("master".into(), "online".into()));
            let Value::Int(port) = node["port"] else { panic!("{node:?}") };
            Node {
                id: text(node["id"].clone()),
                host: text(node["ip"].clone()),
                port: port as u16,
                slots: first as u32..=last as u32,
            }
        })
        .collect();
    found.sort_by_key(|node| *node.slots.start());
    found
}

fn info(client: &mut Client, name: &str) -> Option<String> {
    let page = text(client.call("INFO everything"));
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}

#[test]
fn every_answer_describes_the_same_cores_to_everybody() {
    let server = Server::start(&["--cores", &CORES.to_string()]);
    let mut shared = Client::connect(server.address());
    let (expected, _) = nodes(&mut shared);

    assert_eq!(expected.len(), CORES as usize);
    let ids: HashSet<&String> = expected.iter().map(|node| &node.id).collect();
    assert_eq!(ids.len(), CORES as usize, "every core has an id of its own");
    let mut next = 0;
    for (core, node) in expected.iter().enumerate() {
        assert_eq!((node.host.as_str(), node.port), ("127.0.0.1", server.core_port(core as u16)));
        assert_eq!(*node.slots.start(), next);
        for slot in [*node.slots.start(), *node.slots.end()] {
            assert_eq!(owner_of_slot(slot as u16, CORES), core as u32);
        }
        next = node.slots.end() + 1;
    }
    assert_eq!(next, SLOT_COUNT, "every slot has an owner");

    for core in 0..CORES as u16 {
        let mut own = Client::connect(server.connect_core(core).peer_addr().expect("an address"));
        let (seen, myself) = nodes(&mut own);
        assert_eq!(seen, expected, "from core {core}");
        assert_eq!(slots(&mut own), expected);
        assert_eq!(shards(&mut own), expected);
        assert_eq!(myself, expected[core as usize].id);
        assert_eq!(text(own.call("CLUSTER MYID")), myself);
        assert_eq!(info(&mut own, "cluster_enabled").as_deref(), Some("1"));
        assert_eq!(info(&mut own, "redis_mode").as_deref(), Some("cluster"));
        assert_eq!(info(&mut own, "tcp_port"), Some(server.core_port(core).to_string()));
    }
    assert_eq!(slots(&mut shared), expected);
    assert_eq!(shards(&mut shared), expected);
    assert_eq!(info(&mut shared, "cluster_enabled").as_deref(), Some("0"));
    assert_eq!(info(&mut shared, "redis_mode").as_deref(), Some("standalone"));
    assert_eq!(info(&mut shared, "tcp_port"), Some(server.port().to_string()));
}

#[test]
fn a_moved_client_arrives_and_nodes_add_up() {
    let server = Server::start(&["--cores", &CORES.to_string()]);
    let mut nodes: Vec<Client> = (0..CORES as u16)
        .map(|core| Client::connect(server.connect_core(core).peer_addr().expect("an address")))
        .collect();
    const KEYS: usize = 300;
    for number in 0..KEYS {
        let key = format!("key:{number}");
        let slot = slot_of(key.as_bytes());
        let owner = owner_of_slot(slot, CORES);
        let elsewhere = (owner + 1) % CORES;
        let moved = format!("MOVED {slot} 127.0.0.1:{}", server.core_port(owner as u16));
        assert_eq!(nodes[elsewhere as usize].call(&format!("SET {key} v")), Value::Error(moved.into_bytes()));
        assert_eq!(nodes[owner as usize].call(&format!("SET {key} v")), Value::ok());
    }
    let mut sizes = 0;
    for node in &mut nodes {
        let Value::Int(keys) = node.call("DBSIZE") else { panic!("no number") };
        assert!(keys > 0);
        assert_eq!(info(node, "db0"), Some(format!("keys={keys},expires=0")));
        sizes += keys as usize;
    }
    assert_eq!(sizes, KEYS);
    let mut shared = Client::connect(server.address());
    assert_eq!(shared.call("DBSIZE"), Value::Int(KEYS as i64));
    assert_eq!(info(&mut shared, "db0"), Some(format!("keys={KEYS},expires=0")));
}
