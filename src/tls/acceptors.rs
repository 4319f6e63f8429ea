#![forbid(unsafe_code)]
//! The TLS settings of a socket's connections, one per domain.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::certificate::authorities;
use super::domains::Domains;

/// Who must have signed the certificates of a socket's clients.
#[derive(Debug, Clone)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// Reads the PEM certificates of the authorities.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate of an authority, in words.
    pub fn read(file: &Path) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in authorities(file)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("cannot be used: {error}"))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(ClientAuthority(verifier))
    }
}

/// Makes the TLS settings of a socket's connections.
pub struct Acceptors {
    domains: Arc<Domains>,
    /// By domain; absent for a domain without a certificate.
    configs: HashMap<String, Arc<ServerConfig>>,
}

impl Acceptors {
    /// Settings for every domain that has a certificate, with the module's ALPN names. With an authority,
    /// clients must show a certificate that it signed.
    ///
    /// # Errors
    /// The cryptography refuses its own defaults.
    pub fn new(
        domains: &Arc<Domains>,
        alpn: &[Vec<u8>],
        authority: Option<&ClientAuthority>,
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Self, rustls::Error> {
        let mut configs = HashMap::new();
        for domain in domains.iter() {
            let Some(certificate) = domain.certificate.given() else {
                continue;
            };
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?;
            let builder = match authority {
                Some(authority) => builder.with_client_cert_verifier(Arc::clone(&authority.0)),
                None => builder.with_no_client_auth(),
            };
            let one = Arc::new(One(Arc::clone(certificate.key())));
            let mut config = builder.with_cert_resolver(one);
            // Ours begins with what is fastest and strongest here.
            config.ignore_client_order = true;
            config.alpn_protocols = alpn.to_vec();
            // A ticket proves what was verified when it was made, maybe by another socket's authority.
            if authority.is_none() {
                config.ticketer = Arc::clone(ticketer);
            }
            config.send_tls13_tickets = usize::from(authority.is_none());
            // Tickets alone resume sessions, so no peer can make a table of ours grow.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            configs.insert(domain.name.clone(), Arc::new(config));
        }
        Ok(Acceptors {
            domains: Arc::clone(domains),
            configs,
        })
    }

    /// The settings for a connection and its domain's name.
    ///
    /// # Errors
    /// No domain, or one without a certificate, in words for the log.
    pub fn choose(
        &self,
        server_name: Option<&str>,
        local: IpAddr,
    ) -> Result<(&str, &Arc<ServerConfig>), NoCertificate> {
        let domain = self.domains.choose(server_name, local);
        let found =
            domain.and_then(|domain| Some((domain.name.as_str(), self.configs.get(&domain.name)?)));
        found.ok_or_else(|| NoCertificate {
            domain: domain.map(|domain| domain.name.clone()),
            server_name: server_name.map(str::to_owned),
            local,
        })
    }

    /// Whether an upgrade could succeed on a local address, before the client has named a server.
    #[must_use]
    pub fn can_serve(&self, local: IpAddr) -> bool {
        self.choose(None, local).is_ok()
    }
}

/// No certificate may be shown to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoCertificate {
    /// The domain that was chosen; it has no certificate.
    pub domain: Option<String>,
    /// What the client asked for.
    pub server_name: Option<String>,
    /// The address it connected to.
    pub local: IpAddr,
}

impl fmt::Display for NoCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.domain {
            Some(domain) => write!(f, "domain {domain} has no certificate")?,
            None => f.write_str("no domain")?,
        }
        write!(f, " for a connection to {}", self.local)?;
        if let Some(name) = &self.server_name {
            write!(f, ", server name {name:?}")?;
        }
        Ok(())
    }
}

/// Shows one certificate, whatever the client asks for: the domain has been chosen before.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// The cryptography; one for all settings, since each would hold a copy.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Ticket keys that rotate every six hours and are kept for twice as long (RFC 5077, 5.5).
///
/// # Errors
/// No random numbers.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    aws_lc_rs::Ticketer::new()
}

#[cfg(feature = "fuzzing")]
impl Acceptors {
    /// The certificate of the first domain.
    pub(crate) fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        let mut given = self
            .domains
            .iter()
            .filter_map(|domain| domain.certificate.given());
        let certificate = given.next().expect("a certificate");
        certificate.key().cert[0].clone()
    }
}
