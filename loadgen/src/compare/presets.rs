//! Comparisons by name: each reproduces one table of PERF.md.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::options::{Leg, Matrix, ServerOptions};
use crate::wire::Protocol;
use crate::workload::{Action, Mix, Sizes};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// redis-server against ours: SET and GET, pipelines 1, 16, 64, 50 and 200 connections, 64 B and 1 KiB.
    Redis,
    /// memcached with one thread against ours.
    Memcached,
    /// A server that answers without decoding or storing, against ours: what is left to win.
    Null,
    /// One core of ours against two: keys forwarded between cores, and clients that route by slot.
    Forwarding,
    /// The null server against ours while it is filled at a fixed pace: stalls.
    FillLatency,
}

impl Preset {
    pub fn legs(
        self,
        ours: &Path,
        null: impl Fn() -> Result<PathBuf, String>,
        cpus: &[usize],
    ) -> Result<Vec<Leg>, String> {
        let server = |name: &str, program: &Path, arguments: &str, protocol| ServerOptions {
            name: name.to_owned(),
            words: std::iter::once(program.to_string_lossy().into_owned())
                .chain(
                    arguments.split_whitespace().map(|word| if word == "''" { String::new() } else { word.to_owned() }),
                )
                .collect(),
            protocol,
            cpus: cpus.to_vec(),
            cluster: false,
        };
        let resp2 = Protocol::Resp2;
        let crabcache = server("crabcache", ours, "--port {port} --cores 1", resp2);
        let null_server = || Ok::<_, String>(server("null server", &null()?, "--port {port} --cores 1", resp2));
        Ok(match self {
            Preset::Redis => {
                let redis = Path::new("redis-server");
                let arguments = "--port {port} --bind 127.0.0.1 --save '' --appendonly no --dir {dir}";
                vec![Leg { a: server("redis-server", redis, arguments, resp2), b: crabcache }]
            }
            Preset::Memcached => {
                let arguments = format!("-p {{port}} -l 127.0.0.1 -U 0 -t 1 -m 4096 -c 4096 -u {}", user_name());
                let memcached = server("memcached", Path::new("memcached"), &arguments, Protocol::Memcache);
                vec![Leg { a: memcached, b: crabcache }]
            }
            Preset::Null | Preset::FillLatency => vec![Leg { a: null_server()?, b: crabcache }],
            Preset::Forwarding => {
                let one = ServerOptions { name: "one core".into(), ..crabcache };
                let mut two = server("two cores, forwarded", ours, "--port {port} --cores 2", resp2);
                two.cpus = vec![0, 1];
                let routed = ServerOptions { name: "two cores, routed by slot".into(), cluster: true, ..two.clone() };
                vec![Leg { a: one.clone(), b: two }, Leg { a: one, b: routed }]
            }
        })
    }

    pub fn matrix(self) -> Matrix {
        let set = || Mix(vec![(Action::Set, 1)]);
        let usual = Matrix::default();
        match self {
            Preset::Redis => {
                Matrix { connections: vec![50, 200], sizes: vec![Sizes::Fixed(64), Sizes::Fixed(1024)], ..usual }
            }
            Preset::Memcached | Preset::Forwarding => usual,
            // It answers +OK to everything, which is an answer to SET only.
            Preset::Null => Matrix { connections: vec![50, 200], mixes: vec![set()], ..usual },
            Preset::FillLatency => Matrix { pipelines: vec![16], mixes: vec![set()], ..usual },
        }
    }
}

/// memcached refuses to run as root unless it is told whom to run as.
fn user_name() -> String {
    // SAFETY: geteuid touches no memory and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        "root".into()
    } else {
        std::env::var("USER").unwrap_or_else(|_| "nobody".into())
    }
}

/// A program in the directory of this one.
pub fn beside(name: &str) -> Result<PathBuf, String> {
    let path = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name(name);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("there is no {}; build it, or name it with --ours", path.display())),
    }
}

/// What `cargo bench --no-run --bench null_server` has left beside this program.
pub fn newest_null_server() -> Result<PathBuf, String> {
    let missing =
        "no null_server found; build it with `cargo bench --no-run --bench null_server`, or name it with --null";
    let directory = beside("deps").map_err(|_| missing.to_owned())?;
    let entries = std::fs::read_dir(directory).map_err(|error| error.to_string())?.flatten();
    let built = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("null_server-") && !name.contains('.')
    });
    let age =
        |entry: &std::fs::DirEntry| entry.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    built.max_by_key(age).map(|entry| entry.path()).ok_or_else(|| missing.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_names_two_servers_with_a_port() {
        for preset in [Preset::Redis, Preset::Memcached, Preset::Null, Preset::Forwarding, Preset::FillLatency] {
            let legs = preset.legs(Path::new("/x/crabcache"), || Ok("/x/null".into()), &[0]).unwrap();
            assert!(!legs.is_empty());
            for leg in legs {
                for server in [&leg.a, &leg.b] {
                    assert!(server.words.iter().any(|word| word == "{port}"), "{preset:?}: {:?}", server.words);
                }
                assert_ne!(leg.a.name, leg.b.name);
            }
        }
        let missing = Preset::Null.legs(Path::new("/x"), || Err("none".into()), &[0]);
        assert_eq!(missing.unwrap_err(), "none");
    }
}
