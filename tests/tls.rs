//! TLS and the PROXY protocol, as redis-cli, openssl and Python's ssl speak them to the built server. Certificates are
//! made here, by the openssl command.

mod harness;
mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use harness::{PATIENCE, Server};
use nix::sys::signal::Signal;
use support::client::Client;
use support::value::Value;

/// A folder with an authority and what it has signed.
struct Certificates(PathBuf);

impl Certificates {
    fn new(name: &str) -> Certificates {
        let folder = std::env::temp_dir().join(format!("crabcache-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let certificates = Certificates(folder);
        certificates.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout ca.key -out ca.crt {} {}",
            "-subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE",
            "-addext keyUsage=critical,keyCertSign"
        ));
        certificates.issue("server", "IP:127.0.0.1,DNS:localhost", "first");
        certificates
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' ').filter(|word| !word.is_empty()))
            .current_dir(&self.0)
            .output()
            .expect("the openssl command");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A certificate and its key, for these names, in a file each.
    fn issue(&self, name: &str, alternative_names: &str, common_name: &str) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj \
             /CN={common_name}"
        ));
        std::fs::write(self.0.join("extensions"), format!("subjectAltName={alternative_names}\n")).expect("a file");
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out {name}.crt"
        ));
        let key = self.0.join(format!("{name}.key"));
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    fn start(&self, more: &[&str]) -> Server {
        let files = ["--tls-cert-file", &self.path("server.crt"), "--tls-key-file", &self.path("server.key")];
        Server::start(&[&["--cores", "2", "--tls-port", "shared"], &files[..], more].concat())
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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

fn redis_cli(server: &Server, certificates: &Certificates, tls: &[&str], command: &str) -> String {
    let (port, ca) = (server.port().to_string(), certificates.path("ca.crt"));
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
    let server = certificates.start(&[]);
    assert_eq!(redis_cli(&server, &certificates, &[], "SET greeting hello"), "OK");
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
    let server = certificates.start(&[]);
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
    let server = certificates.start(&[&with[..], &["optional"]].concat());
    let (cert, key) = (certificates.path("shop.crt"), certificates.path("shop.key"));
    let shown = ["--cert", cert.as_str(), "--key", key.as_str()];
    assert_eq!(redis_cli(&server, &certificates, &shown, "ACL WHOAMI"), "shop");
    assert!(redis_cli(&server, &certificates, &[], "ACL WHOAMI").contains("NOAUTH"));
    let said = redis_cli(&server, &certificates, &["--no-auth-warning", "-a", "shop-secret"], "ACL WHOAMI");
    assert_eq!(said, "shop");
    drop(server);
    let server = certificates.start(&[&with[..], &["yes"]].concat());
    assert_eq!(redis_cli(&server, &certificates, &shown, "ACL WHOAMI"), "shop");
    let refused = redis_cli(&server, &certificates, &["--no-auth-warning", "-a", "shop-secret"], "ACL WHOAMI");
    assert!(refused != "shop" && !refused.is_empty(), "{refused}");
}

#[test]
fn certificates_are_read_again_and_broken_ones_are_not_used() {
    let certificates = Certificates::new("reload");
    let config = certificates.path("crabcache.toml");
    std::fs::write(&config, "log-level = \"info\"\n").expect("a file");
    let server = certificates.start(&["--config", &config]);
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
