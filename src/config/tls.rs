//! The files of TLS: certificate, key, and whom client certificates have to be from.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::origin::ConfigError;
use super::{Config, TlsAuthClients, TlsPort, TlsProtocols};

/// One for the life of the process, so that sessions outlive a change of certificates.
static TICKETS: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();

impl Config {
    /// What TLS connections are served with; none where there are none.
    pub fn tls(&self) -> Result<Option<Arc<ServerConfig>>, ConfigError> {
        if self.tls_port == TlsPort::Off {
            return Ok(None);
        }
        let fail = |key: &'static str, why: String| self.error(key, format!("--{key}: {why}"));
        let named = |key: &'static str, path: &Option<std::path::PathBuf>| {
            path.clone().ok_or_else(|| fail(key, "TLS needs it (or --tls-port off)".into()))
        };
        let (cert_file, key_file) =
            (named("tls-cert-file", &self.tls_cert_file)?, named("tls-key-file", &self.tls_key_file)?);
        let chain = certificates(&cert_file).map_err(|why| fail("tls-cert-file", why))?;
        let mode =
            std::fs::metadata(&key_file).map_err(|error| fail("tls-key-file", error.to_string()))?.mode() & 0o777;
        if mode & 0o007 != 0 {
            let why = format!("everybody may read or write {} (mode {mode:o}): chmod o= it", key_file.display());
            return Err(fail("tls-key-file", why));
        }
        let key = PrivateKeyDer::from_pem_file(&key_file)
            .map_err(|error| fail("tls-key-file", format!("{}: {error}", key_file.display())))?;

        let provider = Arc::new(ring::default_provider());
        let versions = match self.tls_protocols {
            TlsProtocols::Both => &[&TLS12, &TLS13][..],
            TlsProtocols::Only12 => &[&TLS12],
            TlsProtocols::Only13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| fail("tls-protocols", error.to_string()))?;
        let builder = match self.tls_auth_clients {
            TlsAuthClients::No => builder.with_no_client_auth(),
            wanted => {
                let mut roots = RootCertStore::empty();
                let ca_file = named("tls-ca-cert-file", &self.tls_ca_cert_file)?;
                for certificate in certificates(&ca_file).map_err(|why| fail("tls-ca-cert-file", why))? {
                    roots.add(certificate).map_err(|error| fail("tls-ca-cert-file", error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier =
                    if wanted == TlsAuthClients::Optional { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier.build().map_err(|error| fail("tls-ca-cert-file", error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| fail("tls-cert-file", error.to_string()))?;
        if let Some(tickets) = TICKETS.get_or_init(|| ring::Ticketer::new().ok()) {
            config.ticketer = tickets.clone();
        }
        Ok(Some(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(chain) }
}
