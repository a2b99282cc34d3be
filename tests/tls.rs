//! TLS and the PROXY protocol, as redis-cli, openssl, Python's ssl and rustls speak them to the built server.

mod harness;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use harness::{PATIENCE, Ports, Server};
use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use support::certificates::Certificates;
use support::client::Client;
use support::value::Value;

/// A server on two cores with these certificates.
fn start(certificates: &Certificates, tls_port: &str, more: &[&str]) -> Server {
    let flags = certificates.flags();
    let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
    Server::start(&[&["--cores", "2", "--tls-port", tls_port], &flags[..], more].concat())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What a command answers to `input`.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
    text(&child.wait_with_output().expect("it ends"))
}

fn redis_cli(port: u16, certificates: &Certificates, tls: &[&str], command: &str) -> String {
    let (port, ca) = (port.to_string(), certificates.path("ca.crt"));
    let arguments = [&["-p", &port, "--tls", "--cacert", &ca], tls].concat();
    run("redis-cli", &[&arguments[..], &command.split(' ').collect::<Vec<_>>()].concat(), "").trim().to_string()
}

/// Says QUIT, so that the server ends the connection.
fn s_client(server: &Server, certificates: &Certificates, more: &[&str]) -> String {
    let (address, ca) = (server.address().to_string(), certificates.path("ca.crt"));
    let arguments = ["s_client", "-connect", &address, "-CAfile", &ca, "-ign_eof", "-verify_return_error"];
    run("openssl", &[&arguments, more].concat(), "PING\r\nQUIT\r\n")
}

#[test]
fn one_port_speaks_tls_and_plain_text() {
    let certificates = Certificates::new("shared");
    let server = start(&certificates, "shared", &[]);
    assert_eq!(redis_cli(server.port(), &certificates, &[], "SET greeting hello"), "OK");
    let mut plain = Client::connect(server.address());
    assert_eq!(plain.call("GET greeting"), Value::bulk("hello"));
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&server, &certificates, &[version]);
        assert!(said.contains("+PONG") && said.contains("+OK") && said.contains(name), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    // Sessions are resumed in both versions.
    for version in ["-tls1_2", "-tls1_3"] {
        let session = certificates.path("session");
        s_client(&server, &certificates, &[version, "-sess_out", &session]);
        let said = s_client(&server, &certificates, &[version, "-sess_in", &session]);
        assert!(said.contains("Reused, TLSv1."), "{version}: {said}");
    }
    // What only looks like TLS is no harm to anybody.
    let mut liar = server.connect();
    liar.write_all(b"\x16\x03\x01\xff\xff garbage that is no record of a handshake at all").expect("send");
    let mut said = Vec::new();
    let _ = liar.read_to_end(&mut said);
    assert_eq!(plain.call("PING"), Value::Simple(b"PONG".to_vec()));
    let stats = plain.call("STATS").as_text();
    assert!(stats.contains("\"tls_handshakes\":7"), "{stats}");
}

/// Python's ssl with large values, pipelines over many records, and an orderly end.
const CONVERSATION: &str = r#"
import socket, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1") as s:
    f = s.makefile("rwb")
    value = bytes(range(256)) * 20000
    f.write(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$%d\r\n" % len(value) + value + b"\r\n"); f.flush()
    assert f.readline() == b"+OK\r\n"
    for _ in range(3):
        f.write(b"GET large\r\n"); f.flush()
        assert f.readline() == b"$%d\r\n" % len(value)
        assert f.read(len(value)) == value and f.read(2) == b"\r\n"
    f.write(b"".join(b"SET key:%d %d\r\n" % (i, i) for i in range(5000))); f.flush()
    assert f.read(5 * 5000) == b"+OK\r\n" * 5000
    f.write(b"".join(b"GET key:%d\r\n" % i for i in range(5000)) + b"QUIT\r\n"); f.flush()
    for i in range(5000):
        assert f.readline() == b"$%d\r\n" % len(str(i)) and f.readline() == b"%d\r\n" % i
    assert f.readline() == b"+OK\r\n" and f.read() == b"", "an orderly end, not a cut"
print("all is well")
"#;

#[test]
fn large_values_and_pipelines_pass_unchanged() {
    let certificates = Certificates::new("python");
    let server = start(&certificates, "shared", &[]);
    let port = server.port().to_string();
    let said = run("python3", &["-c", CONVERSATION, &port, &certificates.path("ca.crt")], "");
    assert_eq!(said.trim(), "all is well", "{}", server.log());
}

#[test]
fn a_certificate_says_who_a_client_is() {
    let certificates = Certificates::new("clients");
    certificates.issue("shop", "DNS:nobody.example,DNS:shop", "ignored");
    let tokens = certificates.path("tokens.toml");
    let digest = "[[token]]\nname = \"shop\"\nsecret = \"shop-secret\"\nscopes = [\"read\", \"write\"]\n";
    std::fs::write(&tokens, digest).expect("a file");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    let ca = certificates.path("ca.crt");
    let with = ["--tls-ca-cert-file", &ca, "--tokens-file", &tokens, "--tls-auth-clients"];
    let server = start(&certificates, "shared", &[&with[..], &["optional"]].concat());
    let (cert, key) = (certificates.path("shop.crt"), certificates.path("shop.key"));
    let shown = ["--cert", cert.as_str(), "--key", key.as_str()];
    assert_eq!(redis_cli(server.port(), &certificates, &shown, "ACL WHOAMI"), "shop");
    assert!(redis_cli(server.port(), &certificates, &[], "ACL WHOAMI").contains("NOAUTH"));
    let said = redis_cli(server.port(), &certificates, &["--no-auth-warning", "-a", "shop-secret"], "ACL WHOAMI");
    assert_eq!(said, "shop");
    drop(server);
    let server = start(&certificates, "shared", &[&with[..], &["yes"]].concat());
    assert_eq!(redis_cli(server.port(), &certificates, &shown, "ACL WHOAMI"), "shop");
    let refused = redis_cli(server.port(), &certificates, &["--no-auth-warning", "-a", "shop-secret"], "ACL WHOAMI");
    assert!(refused != "shop" && !refused.is_empty(), "{refused}");
}

#[test]
fn certificates_are_read_again_and_broken_ones_are_not_used() {
    let certificates = Certificates::new("reload");
    let config = certificates.path("crabcache.toml");
    std::fs::write(&config, "log-level = \"info\"\n").expect("a file");
    let server = start(&certificates, "shared", &["--config", &config]);
    assert!(s_client(&server, &certificates, &[]).contains("CN = first"));
    let mut established = Client::connect(server.address());
    certificates.issue("server", "IP:127.0.0.1", "second");
    server.signal(Signal::SIGHUP);
    let deadline = Instant::now() + PATIENCE;
    while !s_client(&server, &certificates, &[]).contains("CN = second") {
        assert!(Instant::now() < deadline, "{}", server.log());
    }
    std::fs::write(certificates.path("server.crt"), "nothing of the kind").expect("a file");
    server.signal(Signal::SIGHUP);
    server.wait_for_log("nothing is changed");
    assert!(s_client(&server, &certificates, &[]).contains("CN = second"));
    assert_eq!(established.call("PING"), Value::Simple(b"PONG".to_vec()));
    let wrong = certificates.path("server.crt");
    let arguments = ["--tls-port", "shared", "--tls-cert-file", &wrong, "--check-config"];
    let refused = harness::run_to_end(harness::command(&arguments));
    assert_eq!(refused.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("tls-"), "{}", refused.stderr);
}

/// What STATS counts under this name, over all cores.
fn counted(client: &mut Client, name: &str) -> u64 {
    let text = client.call("STATS").as_text();
    let at = text.find(&format!("\"{name}\":")).expect(name) + name.len() + 3;
    text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

/// The connection is ended without an answer to `ping`.
fn assert_refuses_plain_text(port: u16, ping: &[u8]) {
    let mut stranger = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stranger.write_all(ping).expect("send");
    let mut said = Vec::new();
    let _ = stranger.read_to_end(&mut said);
    assert!(!said.windows(4).any(|four| four == b"PONG"), "{said:?}");
}

/// A port of its own speaks nothing but TLS; the data port nothing but plain text; the ports of cores, which cluster
/// clients of both kinds are sent to, speak both.
#[test]
fn tls_has_a_port_of_its_own() {
    let certificates = Certificates::new("own");
    let ports = Ports::take();
    let tls_port = ports.core(12);
    let server = start(&certificates, &tls_port.to_string(), &["--port", &ports.data().to_string()]);
    let mut plain = Client::connect(server.address());
    let cli = |port, more: &[&str], command: &str| redis_cli(port, &certificates, more, command);
    assert_eq!(cli(tls_port, &[], "SET greeting hello"), "OK");
    assert_eq!(plain.call("GET greeting"), Value::bulk("hello"));
    // Each refuses what is not its own.
    assert_refuses_plain_text(tls_port, b"PING\r\n");
    assert!(counted(&mut plain, "tls_failures") >= 1);
    assert!(!cli(server.port(), &[], "PING").contains("PONG"));
    // Cluster clients are sent where they can go on as they came.
    for key in 0..20 {
        assert_eq!(cli(server.core_port(0), &["-c"], &format!("SET key:{key} v")), "OK");
    }
    assert_eq!(plain.call("DBSIZE"), Value::Int(21));
    let shards = cli(tls_port, &[], "CLUSTER SHARDS");
    for port in [server.core_port(0), server.core_port(1)] {
        assert!(shards.matches(&port.to_string()).count() >= 2 && shards.contains("tls-port"), "{shards}");
    }
    let mut of_core = Client::connect(([127, 0, 0, 1], server.core_port(0)).into());
    assert_eq!(of_core.call("PING"), Value::Simple(b"PONG".to_vec()));
}

/// `port 0` beside a port of TLS, as in Redis: plain text is answered nowhere, TLS on that port and those of the cores.
#[test]
fn a_server_can_speak_tls_alone() {
    let certificates = Certificates::new("alone");
    let ports = Ports::take();
    let tls_port = ports.data();
    let server = start(&certificates, &tls_port.to_string(), &["--port", "0"]);
    assert!(server.log().contains(&format!("listening on TLS alone on 127.0.0.1:{tls_port}; its")), "{}", server.log());
    let cli = |port, more: &[&str], command: &str| redis_cli(port, &certificates, more, command);
    assert_eq!(cli(tls_port, &[], "SET greeting hello"), "OK");
    assert_eq!(cli(tls_port, &[], "CONFIG GET *port"), format!("admin-port\noff\nport\n0\ntls-port\n{tls_port}"));
    assert!(cli(tls_port, &[], "INFO server").contains(&format!("tcp_port:{tls_port}\r\n")));
    // The ports of cores, which cluster clients are sent to, are as strict.
    for key in 0..20 {
        assert_eq!(cli(ports.core(0), &["-c"], &format!("SET key:{key} v")), "OK");
    }
    let shards = cli(tls_port, &[], "CLUSTER SHARDS");
    assert!(shards.contains("tls-port") && !shards.lines().any(|line| line.trim() == "port"), "{shards}");
    for port in [tls_port, ports.core(0), ports.core(1)] {
        assert_refuses_plain_text(port, b"*1\r\n$4\r\nPING\r\n");
    }
    assert_eq!(listening_ports(server.pid()), [tls_port, ports.core(0), ports.core(1)]);
    // It needs its files, which is found out before it runs.
    let arguments = ["--port", "0", "--tls-port", "7001", "--check-config"];
    let refused = harness::run_to_end(harness::command(&arguments));
    assert_eq!(refused.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--tls-cert-file"), "{}", refused.stderr);
    let flags = certificates.flags();
    let whole = [&arguments[..], &flags.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    assert_eq!(harness::run_to_end(harness::command(&whole)).code(), Some(0));
}

/// The TCP ports that a process listens on, in order, each once.
fn listening_ports(pid: u32) -> Vec<u16> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("its sockets");
    let mut ports: Vec<u16> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let is_its = *words.get(3)? == "0A" && sockets.contains(&format!("socket:[{}]", words.get(9)?));
            let (_, port) = words[1].rsplit_once(':')?;
            is_its.then(|| u16::from_str_radix(port, 16).expect("a port"))
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The handshake of a client that trusts the authority, and PING in it.
fn ping_by_tls(address: SocketAddr, trust: &Arc<rustls::ClientConfig>) -> std::io::Result<[u8; 7]> {
    let name = "127.0.0.1".try_into().expect("a name");
    let mut session = rustls::ClientConnection::new(trust.clone(), name).expect("a session");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    tls.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    tls.read_exact(&mut answer)?;
    Ok(answer)
}

fn trusting(certificates: &Certificates) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(certificates.path("ca.crt")).expect("a certificate");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

/// More handshakes at once than a turn goes into: all have their turn, and who is in is served meanwhile.
#[test]
fn a_crowd_of_handshakes_comes_through() {
    let certificates = Certificates::new("crowd");
    let server = start(&certificates, "shared", &[]);
    let trust = trusting(&certificates);
    let mut established = Client::connect(server.address());
    let address = server.address();
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| (0..10).map(|_| ping_by_tls(address, &trust)).collect::<Result<Vec<_>, _>>()))
            .collect();
        while crowd.iter().any(|visitor| !visitor.is_finished()) {
            assert_eq!(established.call("PING"), Value::Simple(b"PONG".to_vec()));
        }
        for visitor in crowd {
            let answers = visitor.join().expect("no panic").expect("an answer to everybody");
            assert!(answers.iter().all(|answer| answer == b"+PONG\r\n"));
        }
    });
    assert_eq!(counted(&mut established, "tls_handshakes"), 240);
    assert_eq!(counted(&mut established, "tls_failures"), 0);
}

/// Handshakes that lead nowhere are few for each address, also where nobody has to say who he is.
#[test]
fn handshakes_of_one_address_are_bounded() {
    let certificates = Certificates::new("bounded");
    let server = start(&certificates, "shared", &["--max-handshakes-per-address", "5"]);
    let trust = trusting(&certificates);
    // The beginning of a record that never ends.
    let begun: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = server.connect();
            let _ = stream.write_all(b"\x16\x03\x01\x02\x00");
            stream
        })
        .collect();
    let mut plain = Client::connect(server.address());
    let deadline = Instant::now() + PATIENCE;
    while counted(&mut plain, "connections_refused_by_rate") < 15 {
        assert!(Instant::now() < deadline, "{}", plain.call("STATS").as_text());
    }
    assert!(ping_by_tls(server.address(), &trust).is_err());
    drop(begun);
    while ping_by_tls(server.address(), &trust).is_err() {
        assert!(Instant::now() < deadline, "the address stays shut out");
    }
    // Whoever is through is not counted any more.
    for _ in 0..20 {
        assert!(ping_by_tls(server.address(), &trust).is_ok());
    }
}

/// The header that a proxy sends first.
fn proxy_header(client: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    bytes.extend(client);
    bytes.extend([10, 0, 0, 1]);
    bytes.extend(port.to_be_bytes());
    bytes.extend(7001u16.to_be_bytes());
    bytes
}

#[test]
fn a_trusted_proxy_says_for_whom_it_connects() {
    let server =
        Server::start(&["--cores", "2", "--proxy-protocol-from", "127.0.0.0/8", "--deny", "192.0.2.66,127.0.0.9"]);
    let mut client = Client::connect(server.address());
    let header = proxy_header([192, 0, 2, 7], 4711);
    for byte in &header {
        client.send(&[*byte]);
    }
    let info = client.call("CLIENT INFO").as_text();
    assert!(info.contains(" addr=192.0.2.7:4711 laddr=10.0.0.1:7001 "), "{info}");
    // The header and a command in one piece.
    let mut together = Client::connect(server.address());
    together.send(&[&proxy_header([192, 0, 2, 8], 1), &b"PING\r\n"[..]].concat());
    assert_eq!(together.reply(), Value::Simple(b"PONG".to_vec()));
    // It is the client's address that is looked at, and without a header nobody comes in.
    let mut denied = Client::connect(server.address());
    denied.send(&proxy_header([192, 0, 2, 66], 1));
    denied.expect_closed();
    let mut bare = Client::connect(server.address());
    bare.send(b"PING\r\n");
    bare.expect_closed();
    assert_eq!(client.call("CONFIG SET proxy-protocol-from 198.51.100.0/24"), Value::ok());
    let deadline = Instant::now() + PATIENCE;
    loop {
        // From others a header is what it looks like: a command that does not exist.
        let mut stranger = Client::connect(server.address());
        stranger.send(b"PING\r\n");
        if let Some(reply) = stranger.try_reply() {
            break assert_eq!(reply, Value::Simple(b"PONG".to_vec()));
        }
        assert!(Instant::now() < deadline, "the change is never followed");
    }
}
