//! Certificates for tests, made by the openssl command.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A folder with an authority and what it has signed.
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn new(name: &str) -> Certificates {
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
    pub fn issue(&self, name: &str, alternative_names: &str, common_name: &str) {
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

    pub fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    /// The flags by which a server has them.
    pub fn flags(&self) -> [String; 4] {
        let (certificate, key) = (self.path("server.crt"), self.path("server.key"));
        ["--tls-cert-file".into(), certificate, "--tls-key-file".into(), key]
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
