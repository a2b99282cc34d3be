//! Who has a port, for a message that names the culprit. Finds only what this process may see.

use std::fmt;
use std::fs;

/// A process that listens.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    pub name: String,
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (process {})", self.name, self.pid)
    }
}

/// Why a port cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder {
    Listener(Owner),
    /// Somebody listens there whom this process may not look at.
    UnseenListener,
    /// Nobody listens: the kernel has given the port to an outgoing connection.
    Connection,
}

pub fn find(port: u16) -> Holder {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes = tables.iter().flat_map(|table| listening_inodes(table, port));
    let inodes: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    if inodes.is_empty() {
        return Holder::Connection;
    }
    owner_of(&inodes).map_or(Holder::UnseenListener, Holder::Listener)
}

/// The process that holds one of these sockets.
fn owner_of(inodes: &[String]) -> Option<Owner> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str())).then_some(())?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Owner { name: name.trim().escape_debug().to_string(), pid })
    })
}

/// The inodes of the listening sockets on `port` in a table such as /proc/net/tcp:
///
/// ```text
///   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
///    0: 0100007F:1B59 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 …
/// ```
fn listening_inodes(table: &str, port: u16) -> Vec<&str> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let (_, local_port) = words.get(1)?.rsplit_once(':')?;
            let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && *words.get(3)? == LISTEN;
            is_it.then_some(*words.get(9)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_of_the_port_are_found() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1B59 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1B59 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:1B5A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: 00000000000000000000000001000000:1B59 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4714 1
";
        assert_eq!(listening_inodes(table, 7001), ["4711", "4714"]);
        assert!(listening_inodes("garbage\n\n: : :\n", 7001).is_empty());
    }
}
