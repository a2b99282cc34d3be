//! Each core as a node of a Redis cluster, so that a client that routes by slot reaches the owner of a
//! key directly. Every core knows the whole topology; it never changes while the server runs.
//!
//! ```text
//!   slots 0 … 5460 ─▶ core 0, its own port     id = seed with the core's number mixed in
//!   slots 5461 …   ─▶ core 1, its own port     epoch = 1 + core
//! ```

use std::fmt::Write;
use std::net::IpAddr;

use crate::command::Op;
use crate::metrics::Node;
use crate::number::parse_i64;
use crate::reply::{Reply, ReplyError};
use crate::request::Args;
use crate::slot;

/// What every cluster command answers when cores are not presented as nodes.
pub const DISABLED: &str = "ERR This instance has cluster support disabled";

/// Redis listens for other nodes this far above its data port. Nobody listens there here, but clients
/// expect a number behind the `@` of CLUSTER NODES.
const BUS_PORT_DISTANCE: u16 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub cores: u32,
    pub this_core: u32,
    /// Drawn once per start by the runtime; node ids come from it.
    pub seed: [u8; 20],
    /// The address or name that clients are told to connect to. Empty: the one they came to.
    pub advertised_host: String,
    /// The port of its own that each core listens on, by core.
    pub core_ports: Vec<u16>,
    /// What the ports of cores speak: everybody is named ports that he can go on with as he came.
    pub speaks_plain: bool,
    pub speaks_tls: bool,
    pub enabled: bool,
}

impl Topology {
    /// The 40 hexadecimal digits that name `core` as a node.
    pub fn node_id(&self, core: u32) -> String {
        let mut id = self.seed;
        for (byte, core_byte) in id[16..].iter_mut().zip(core.to_be_bytes()) {
            *byte ^= core_byte;
        }
        id.iter().fold(String::with_capacity(40), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String");
            text
        })
    }

    /// Where clients find the nodes, when this client reached the server at `local_host`.
    fn host<'a>(&'a self, local_host: &'a str) -> &'a str {
        if self.advertised_host.is_empty() { local_host } else { &self.advertised_host }
    }

    /// This core, as a client of its own port sees it.
    pub fn node(&self) -> Node {
        Node { core: self.this_core, port: self.port(self.this_core) }
    }

    fn port(&self, core: u32) -> u16 {
        self.core_ports[core as usize]
    }

    /// No two nodes share an epoch, as in any healthy cluster.
    fn epoch(&self, core: u32) -> u32 {
        core + 1
    }
}

/// The answer to a key that lives on another core than the one whose own port the command came to.
pub fn moved(slot: u16, topology: &Topology, local_host: &str) -> ReplyError<'static> {
    let owner = slot::owner_of_slot(slot, topology.cores);
    let address = format!("{}:{}", topology.host(local_host), topology.port(owner));
    ReplyError::Moved { slot, address: address.into() }
}

/// Whether the commands that only mean something in a cluster (ASKING, READONLY, READWRITE) are answered.
pub fn require_enabled(topology: &Topology) -> Result<(), ReplyError<'static>> {
    if topology.enabled { Ok(()) } else { Err(ReplyError::Other(DISABLED.into())) }
}

/// The argument of CLUSTER COUNTKEYSINSLOT.
pub fn parse_slot(args: Args<'_>) -> Result<u16, ReplyError<'static>> {
    let slot = parse_i64(args.get(0)).ok_or(ReplyError::NotAnInteger)?;
    existing_slot(slot).ok_or(ReplyError::Other("ERR Invalid slot".into()))
}

/// The arguments of CLUSTER GETKEYSINSLOT: a slot, and how many keys at most.
pub fn parse_slot_and_count(args: Args<'_>) -> Result<(u16, usize), ReplyError<'static>> {
    let slot = parse_i64(args.get(0)).ok_or(ReplyError::NotAnInteger)?;
    let count = parse_i64(args.get(1)).ok_or(ReplyError::NotAnInteger)?;
    match (existing_slot(slot), usize::try_from(count)) {
        (Some(slot), Ok(count)) => Ok((slot, count)),
        _ => Err(ReplyError::Other("ERR Invalid slot or number of keys".into())),
    }
}

fn existing_slot(slot: i64) -> Option<u16> {
    u16::try_from(slot).ok().filter(|slot| u32::from(*slot) < slot::SLOT_COUNT)
}

/// The CLUSTER subcommands that no shard has to be asked for. `local_host` is the address this client
/// reached the server at.
pub fn cluster_reply(op: Op, args: Args<'_>, topology: &Topology, local_host: &str) -> Reply<'static> {
    if let Err(error) = require_enabled(topology) {
        return error.into();
    }
    match op {
        Op::ClusterInfo => Reply::Verbatim(info(topology).into()),
        Op::ClusterKeySlot => Reply::Int(slot::slot_of(args.get(0)).into()),
        Op::ClusterMyId => Reply::text(topology.node_id(topology.this_core)),
        Op::ClusterNodes => Reply::Verbatim(nodes(topology, local_host).into()),
        Op::ClusterShards => shards(topology, local_host),
        Op::ClusterSlots => slots(topology, local_host),
        _ => unreachable!("{op:?} is not answered by the topology"),
    }
}

fn info(topology: &Topology) -> String {
    let nodes = topology.cores;
    let assigned = slot::SLOT_COUNT;
    let epoch = topology.epoch(nodes - 1);
    let my_epoch = topology.epoch(topology.this_core);
    format!(
        "cluster_state:ok\r\n\
         cluster_slots_assigned:{assigned}\r\n\
         cluster_slots_ok:{assigned}\r\n\
         cluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\n\
         cluster_known_nodes:{nodes}\r\n\
         cluster_size:{nodes}\r\n\
         cluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{my_epoch}\r\n\
         cluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n"
    )
}

/// `id host:port@busport flags master ping-sent pong-received epoch link first-last`, a line per node.
fn nodes(topology: &Topology, local_host: &str) -> String {
    let host = topology.host(local_host);
    let mut text = String::new();
    for core in 0..topology.cores {
        let id = topology.node_id(core);
        let port = topology.port(core);
        let bus_port = port.checked_add(BUS_PORT_DISTANCE).unwrap_or(0);
        let flags = if core == topology.this_core { "myself,master" } else { "master" };
        let epoch = topology.epoch(core);
        let range = slot::slots_of_core(core, topology.cores);
        let (first, last) = (range.start(), range.end());
        writeln!(text, "{id} {host}:{port}@{bus_port} {flags} - 0 0 {epoch} connected {first}-{last}")
            .expect("writing to a String");
    }
    text
}

/// `[first, last, [host, port, id, metadata]]` for each range of slots.
fn slots(topology: &Topology, local_host: &str) -> Reply<'static> {
    let host = topology.host(local_host);
    let range = |core| {
        let range = slot::slots_of_core(core, topology.cores);
        let node = Reply::Array(vec![
            Reply::text(host.to_owned()),
            Reply::Int(topology.port(core).into()),
            Reply::text(topology.node_id(core)),
            Reply::Map(Vec::new()),
        ]);
        Reply::Array(vec![Reply::Int((*range.start()).into()), Reply::Int((*range.end()).into()), node])
    };
    Reply::Array((0..topology.cores).map(range).collect())
}

/// `{slots: [first, last], nodes: [{id, port, ip, endpoint, …}]}` for each core.
fn shards(topology: &Topology, local_host: &str) -> Reply<'static> {
    let host = topology.host(local_host);
    let shard = |core| {
        let range = slot::slots_of_core(core, topology.cores);
        let mut node = vec![(Reply::text("id"), Reply::text(topology.node_id(core)))];
        if topology.speaks_plain {
            node.push((Reply::text("port"), Reply::Int(topology.port(core).into())));
        }
        if topology.speaks_tls {
            node.push((Reply::text("tls-port"), Reply::Int(topology.port(core).into())));
        }
        node.extend([
            (Reply::text("ip"), Reply::text(host.to_owned())),
            (Reply::text("endpoint"), Reply::text(host.to_owned())),
        ]);
        if !host.is_empty() && host.parse::<IpAddr>().is_err() {
            node.push((Reply::text("hostname"), Reply::text(host.to_owned())));
        }
        node.extend([
            (Reply::text("role"), Reply::text("master")),
            (Reply::text("replication-offset"), Reply::Int(0)),
            (Reply::text("health"), Reply::text("online")),
        ]);
        let bounds = vec![Reply::Int((*range.start()).into()), Reply::Int((*range.end()).into())];
        Reply::Map(vec![
            (Reply::text("slots"), Reply::Array(bounds)),
            (Reply::text("nodes"), Reply::Array(vec![Reply::Map(node)])),
        ])
    };
    Reply::Array((0..topology.cores).map(shard).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proto;
    use crate::reply::Out;
    use crate::request::{ArgRange, Wire};

    fn topology(cores: u32) -> Topology {
        Topology {
            cores,
            this_core: cores - 1,
            seed: *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef\x10\x20\x30\x40",
            advertised_host: String::new(),
            core_ports: (0..cores).map(|core| 7101 + core as u16).collect(),
            speaks_plain: true,
            speaks_tls: false,
            enabled: true,
        }
    }

    fn ask(op: Op, topology: &Topology) -> Reply<'static> {
        cluster_reply(op, Args::new(b"", &[], &[]), topology, "192.0.2.7")
    }

    fn verbatim(op: Op, topology: &Topology) -> String {
        match ask(op, topology) {
            Reply::Verbatim(text) => text.into_owned(),
            other => panic!("not text: {other:?}"),
        }
    }

    #[test]
    fn node_ids_are_forty_hex_digits_and_differ() {
        let topology = topology(300);
        let ids: HashSet<String> = (0..300).map(|core| topology.node_id(core)).collect();
        assert_eq!(ids.len(), 300);
        assert!(ids.iter().all(|id| id.len() == 40 && id.bytes().all(|b| b"0123456789abcdef".contains(&b))));
        assert_eq!(topology.node_id(0), "0123456789abcdef0123456789abcdef10203040");
        assert_eq!(topology.node_id(1), "0123456789abcdef0123456789abcdef10203041");
        assert_eq!(ask(Op::ClusterMyId, &topology), Reply::text(topology.node_id(299)));
    }

    #[test]
    fn nodes_are_lines_as_redis_writes_them() {
        assert_eq!(
            verbatim(Op::ClusterNodes, &topology(2)),
            "0123456789abcdef0123456789abcdef10203040 192.0.2.7:7101@17101 master - 0 0 1 connected 0-8191\n\
             0123456789abcdef0123456789abcdef10203041 192.0.2.7:7102@17102 myself,master - 0 0 2 connected 8192-16383\n"
        );
        let mut high = topology(1);
        high.core_ports = vec![60_000];
        assert!(verbatim(Op::ClusterNodes, &high).contains(":60000@0 "), "there is no such bus port");
    }

    #[test]
    fn slots_cover_everything_in_order() {
        let Reply::Array(ranges) = ask(Op::ClusterSlots, &topology(3)) else { panic!("not an array") };
        let mut next = 0;
        for (core, range) in ranges.iter().enumerate() {
            let Reply::Array(range) = range else { panic!("not an array") };
            let [Reply::Int(first), Reply::Int(last), Reply::Array(node)] = range.as_slice() else {
                panic!("{range:?}")
            };
            assert_eq!(*first, next);
            next = last + 1;
            let expected = [
                Reply::text("192.0.2.7"),
                Reply::Int(7101 + core as i64),
                Reply::text(topology(3).node_id(core as u32)),
                Reply::Map(vec![]),
            ];
            assert_eq!(node[..], expected);
        }
        assert_eq!(next, 16_384);
    }

    #[test]
    fn shards_have_the_fields_of_redis_7() {
        let Reply::Array(shards) = ask(Op::ClusterShards, &topology(2)) else { panic!("not an array") };
        let Reply::Map(shard) = &shards[1] else { panic!("not a map") };
        let bounds = Reply::Array(vec![Reply::Int(8192), Reply::Int(16_383)]);
        assert_eq!(shard[0], (Reply::text("slots"), bounds));
        let node = Reply::Map(vec![
            (Reply::text("id"), Reply::text("0123456789abcdef0123456789abcdef10203041")),
            (Reply::text("port"), Reply::Int(7102)),
            (Reply::text("ip"), Reply::text("192.0.2.7")),
            (Reply::text("endpoint"), Reply::text("192.0.2.7")),
            (Reply::text("role"), Reply::text("master")),
            (Reply::text("replication-offset"), Reply::Int(0)),
            (Reply::text("health"), Reply::text("online")),
        ]);
        assert_eq!(shard[1], (Reply::text("nodes"), Reply::Array(vec![node])));
    }

    #[test]
    fn ports_that_speak_tls_are_named_to_whoever_asks_for_those() {
        let topology = Topology { speaks_tls: true, ..topology(2) };
        let text = format!("{:?}", ask(Op::ClusterShards, &topology));
        let port = |name: &str| format!("{:?}", (Reply::text(name.to_owned()), Reply::Int(7102)));
        assert!(text.contains(&port("port")) && text.contains(&port("tls-port")), "{text}");
        let topology = Topology { speaks_plain: false, ..topology };
        let text = format!("{:?}", ask(Op::ClusterShards, &topology));
        assert!(!text.contains(&port("port")) && text.contains(&port("tls-port")), "{text}");
    }

    #[test]
    fn the_advertised_host_is_told_instead_of_the_local_one() {
        let mut topology = topology(2);
        topology.advertised_host = "cache.example".into();
        assert!(verbatim(Op::ClusterNodes, &topology).contains(" cache.example:7101@"));
        let Reply::Array(shards) = ask(Op::ClusterShards, &topology) else { panic!("not an array") };
        let text = format!("{shards:?}");
        assert!(text.contains("hostname") && !text.contains("192.0.2.7"));
        let moved = moved(0, &topology, "192.0.2.7");
        assert_eq!(moved.text(), "MOVED 0 cache.example:7101");
    }

    #[test]
    fn moved_names_the_owner_of_the_slot() {
        let topology = topology(2);
        assert_eq!(moved(8191, &topology, "127.0.0.1").text(), "MOVED 8191 127.0.0.1:7101");
        assert_eq!(moved(8192, &topology, "127.0.0.1").text(), "MOVED 8192 127.0.0.1:7102");
        // As Redis writes it; clients split at the last colon.
        assert_eq!(moved(8192, &topology, "::1").text(), "MOVED 8192 ::1:7102");
    }

    #[test]
    fn info_has_the_lines_that_clients_look_for() {
        let text = verbatim(Op::ClusterInfo, &topology(4));
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 12);
        for line in ["cluster_state:ok", "cluster_slots_assigned:16384", "cluster_known_nodes:4", "cluster_size:4"] {
            assert!(lines.contains(&line), "{line} in {lines:?}");
        }
        assert!(lines.contains(&"cluster_current_epoch:4") && lines.contains(&"cluster_my_epoch:4"));
    }

    #[test]
    fn keyslot_hashes_the_tag_and_everything_is_refused_when_disabled() {
        let mut topology = topology(2);
        let range = [ArgRange::inline(0, 3)];
        let args = Args::new(b"foo", &range, &[]);
        topology.core_ports.clear();
        topology.enabled = false;
        let ops = [Op::ClusterInfo, Op::ClusterKeySlot, Op::ClusterMyId, Op::ClusterNodes, Op::ClusterShards];
        for op in ops.into_iter().chain([Op::ClusterSlots]) {
            assert_eq!(cluster_reply(op, args, &topology, "127.0.0.1"), Reply::error(DISABLED));
        }
        assert!(require_enabled(&topology).is_err());
        topology.enabled = true;
        assert!(require_enabled(&topology).is_ok());
        assert_eq!(cluster_reply(Op::ClusterKeySlot, args, &topology, "127.0.0.1"), Reply::Int(12_182));
    }

    #[test]
    fn slot_and_count_arguments() {
        let slot = |arg: &[u8]| parse_slot(Args::new(arg, &[ArgRange::inline(0, arg.len())], &[]));
        assert_eq!(slot(b"0"), Ok(0));
        assert_eq!(slot(b"16383"), Ok(16_383));
        for bad in [&b"16384"[..], b"-1", b"99999999"] {
            assert_eq!(slot(bad).unwrap_err().text(), "ERR Invalid slot");
        }
        for bad in [&b""[..], b"x", b"+1", b"01", b"1 ", b"-0", b"-", b"99999999999999999999", b"\xff"] {
            assert_eq!(slot(bad), Err(ReplyError::NotAnInteger), "{bad:?}");
        }
        let both = |slot: &str, count: &str| {
            let ranges = [ArgRange::inline(0, slot.len()), ArgRange::inline(slot.len(), count.len())];
            parse_slot_and_count(Args::new([slot, count].concat().as_bytes(), &ranges, &[]))
        };
        assert_eq!(both("5", "12"), Ok((5, 12)));
        for (bad_slot, bad_count) in [("0", "-1"), ("99999", "1"), ("-1", "1")] {
            assert_eq!(both(bad_slot, bad_count).unwrap_err().text(), "ERR Invalid slot or number of keys");
        }
        assert_eq!(both("99999", "many"), Err(ReplyError::NotAnInteger));
    }

    /// In the shape redis-server 7.0 sent, byte for byte.
    #[test]
    fn slots_and_shards_on_the_wire() {
        let lines = |op, wire| {
            let mut out = Out::default();
            proto::encode(wire, &ask(op, &topology(1)), &mut out);
            String::from_utf8(out.to_vec()).unwrap().replace("\r\n", " ")
        };
        let id = "$40 0123456789abcdef0123456789abcdef10203040";
        let slots = format!("*1 *3 :0 :16383 *4 $9 192.0.2.7 :7101 {id}");
        assert_eq!(lines(Op::ClusterSlots, Wire::Resp2), format!("{slots} *0 "));
        assert_eq!(lines(Op::ClusterSlots, Wire::Resp3), format!("{slots} %0 "));
        let node = format!(
            "$2 id {id} $4 port :7101 $2 ip $9 192.0.2.7 $8 endpoint $9 192.0.2.7 $4 role $6 master \
             $18 replication-offset :0 $6 health $6 online "
        );
        let shards = "$5 slots *2 :0 :16383 $5 nodes";
        assert_eq!(lines(Op::ClusterShards, Wire::Resp2), format!("*1 *4 {shards} *1 *14 {node}"));
        assert_eq!(lines(Op::ClusterShards, Wire::Resp3), format!("*1 %2 {shards} *1 %7 {node}"));
        assert!(lines(Op::ClusterInfo, Wire::Resp3).starts_with("=316 txt:cluster_state:ok cluster_slots_assigned:"));
    }
}
