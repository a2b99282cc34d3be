//! Which node owns which keys, from CLUSTER SLOTS.

use std::net::{IpAddr, SocketAddr};

use crabcache::proto::reply;
use crabcache::reply::Reply;
use crabcache::request::Wire;
use crabcache::slot::{SLOT_COUNT, slot_of};

use crate::failure::Failure;
use crate::plan::{Endpoint, Target};
use crate::session::Session;
use crate::wire::Protocol;
use crate::workload::KeyNames;

/// The nodes of a cluster and the keys that each owns.
#[derive(Debug, PartialEq)]
pub struct Cluster {
    pub nodes: Vec<SocketAddr>,
    /// Node → numbers of its keys, ascending.
    keys: Vec<Vec<u32>>,
    /// Key number → node.
    owners: Vec<u16>,
}

/// Keys are listed by node: this many fit in memory without a second thought.
pub const KEYS_MAX: u64 = 100_000_000;

impl Cluster {
    /// Asks the server that `target` names.
    pub fn discover(target: &Target, names: &KeyNames, keys: u64) -> Result<Cluster, Failure> {
        let wire = match target.protocol {
            Protocol::Resp3 => Wire::Resp3,
            Protocol::Binary => Wire::Binary,
            Protocol::Resp2 | Protocol::Memcache => Wire::Resp2,
        };
        let bytes = Session::open(target)?.ask("CLUSTER SLOTS", &["CLUSTER", "SLOTS"])?;
        let nonsense = |why: &str| Failure::Nonsense {
            endpoint: target.endpoint.to_string(),
            why: format!("CLUSTER SLOTS: {why}"),
            bytes: bytes.clone(),
        };
        let (reply, _) = reply::parse(wire, &bytes)
            .map_err(|malformed| nonsense(&format!("{malformed:?}")))?
            .ok_or_else(|| nonsense("not a whole reply"))?;
        let host = match &target.endpoint {
            Endpoint::Tcp(address) => address.ip(),
            Endpoint::Unix(_) => return Err(nonsense("a cluster is reached over TCP")),
        };
        let (nodes, slots) = parse_slots(&reply, host).map_err(|why| nonsense(&why))?;
        Cluster::assign(nodes, &slots, names, keys).map_err(|why| nonsense(&why))
    }

    fn assign(nodes: Vec<SocketAddr>, slots: &[u16], names: &KeyNames, keys: u64) -> Result<Cluster, String> {
        let mut by_node = vec![Vec::new(); nodes.len()];
        let mut owners = Vec::with_capacity(keys as usize);
        let mut name = Vec::new();
        for key in 0..keys {
            name.clear();
            names.write(key, &mut name);
            let node = slots[usize::from(slot_of(&name))];
            owners.push(node);
            by_node[usize::from(node)].push(key as u32);
        }
        match by_node.iter().position(Vec::is_empty) {
            None => Ok(Cluster { nodes, keys: by_node, owners }),
            Some(node) => Err(format!("{} owns none of the {keys} keys; a larger -r helps", nodes[node])),
        }
    }

    pub fn keys_of(&self, node: usize) -> &[u32] {
        &self.keys[node]
    }

    /// `total` requests, divided as the keys are.
    pub fn shares(&self, total: u64) -> Vec<u64> {
        let keys = self.owners.len() as u128;
        let mut before = 0;
        let mut given = 0;
        let share = |list: &Vec<u32>| {
            before += list.len() as u128;
            let upto = (u128::from(total) * before / keys) as u64;
            let share = upto - given;
            given = upto;
            share
        };
        self.keys.iter().map(share).collect()
    }

    #[inline]
    pub fn owns(&self, node: usize, key: u64) -> bool {
        usize::from(self.owners[key as usize]) == node
    }
}

/// Nodes, and the node of each slot.
fn parse_slots(reply: &Reply<'static>, host: IpAddr) -> Result<(Vec<SocketAddr>, Vec<u16>), String> {
    const NOBODY: u16 = u16::MAX;
    let mut nodes: Vec<SocketAddr> = Vec::new();
    let mut slots = vec![NOBODY; SLOT_COUNT as usize];
    for range in items(reply)? {
        let [Reply::Int(first), Reply::Int(last), node, ..] = items(range)? else {
            return Err("first slot, last slot and a node were expected".into());
        };
        let [ip, Reply::Int(port), ..] = items(node)? else {
            return Err("an address and a port were expected".into());
        };
        let ip = match text(ip).as_deref() {
            // The address that was asked.
            None | Some("") => host,
            Some(ip) => ip.parse().map_err(|_| format!("{ip:?} is not an address"))?,
        };
        let port = u16::try_from(*port).map_err(|_| format!("{port} is not a port"))?;
        let address = SocketAddr::new(ip, port);
        let index = nodes.iter().position(|node| *node == address).unwrap_or_else(|| {
            nodes.push(address);
            nodes.len() - 1
        });
        if *first < 0 || first > last || *last >= i64::from(SLOT_COUNT) {
            return Err(format!("{first} to {last} is not a range of slots"));
        }
        slots[*first as usize..=*last as usize].fill(index as u16);
    }
    match slots.iter().position(|&node| node == NOBODY) {
        None => Ok((nodes, slots)),
        Some(slot) => Err(format!("nobody owns slot {slot}")),
    }
}

fn items<'a>(reply: &'a Reply<'static>) -> Result<&'a [Reply<'static>], String> {
    match reply {
        Reply::Array(items) | Reply::Set(items) => Ok(items),
        _ => Err("an array was expected".into()),
    }
}

fn text(reply: &Reply<'static>) -> Option<String> {
    match reply {
        Reply::Owned(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Reply::Text(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_nodes(last: i64) -> Reply<'static> {
        let node = |ip: &'static str, port| Reply::Array(vec![Reply::owned(ip), Reply::Int(port), Reply::owned("id")]);
        Reply::Array(vec![
            Reply::Array(vec![Reply::Int(0), Reply::Int(8191), node("127.0.0.1", 7001)]),
            Reply::Array(vec![Reply::Int(8192), Reply::Int(last), node("", 7002)]),
        ])
    }

    #[test]
    fn keys_go_to_the_owners_of_their_slots() {
        let (nodes, slots) = parse_slots(&two_nodes(16383), [127, 0, 0, 9].into()).unwrap();
        assert_eq!(nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:7001", "127.0.0.9:7002"]);
        let names = KeyNames { prefix: "key:".into(), digits: 12 };
        let cluster = Cluster::assign(nodes, &slots, &names, 1000).unwrap();
        assert_eq!(cluster.keys_of(0).len() + cluster.keys_of(1).len(), 1000);
        assert!((400..600).contains(&cluster.keys_of(0).len()));
        assert_eq!(cluster.shares(1000), [cluster.keys_of(0).len() as u64, cluster.keys_of(1).len() as u64]);
        assert_eq!(cluster.shares(7).iter().sum::<u64>(), 7);
        for &key in cluster.keys_of(1) {
            assert!(cluster.owns(1, u64::from(key)));
            let mut name = Vec::new();
            names.write(u64::from(key), &mut name);
            assert!(slot_of(&name) >= 8192);
        }
    }

    #[test]
    fn gaps_and_nonsense_are_refused() {
        let host = [127, 0, 0, 1].into();
        assert!(parse_slots(&two_nodes(16000), host).unwrap_err().contains("slot 16001"));
        assert!(parse_slots(&two_nodes(20000), host).is_err());
        assert!(parse_slots(&Reply::Ok, host).is_err());
        assert!(parse_slots(&Reply::Array(vec![Reply::Int(1)]), host).is_err());
    }
}
