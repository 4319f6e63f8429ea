#![forbid(unsafe_code)]
//! Domains and their certificates: which certificate a connection is shown. No socket.
//!
//! One order, everywhere: the server name (exact, then a one-label wildcard), the domain that holds the
//! connection's local address, the default domain. Another domain's certificate is never used.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A name with its certificate, if it has one.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Other names it answers to; `*.` stands for one label.
    pub aliases: Vec<String>,
    /// Local addresses that choose it where the client names none.
    pub addresses: Vec<IpAddr>,
    /// Chain and key.
    pub certificate: Option<Arc<CertifiedKey>>,
}

/// All domains of a configuration.
#[derive(Debug, Default)]
pub struct Domains {
    domains: Vec<Domain>,
    exact: HashMap<String, usize>,
    /// By what follows the star and the dot.
    wildcards: HashMap<String, usize>,
    addresses: HashMap<IpAddr, usize>,
    default: Option<usize>,
}

impl Domains {
    /// Indexes the domains. Of a name that stands twice the first counts.
    #[must_use]
    pub fn new(domains: Vec<Domain>, default: Option<&str>) -> Self {
        let mut all = Domains::default();
        for (index, domain) in domains.iter().enumerate() {
            for name in std::iter::once(&domain.name).chain(&domain.aliases) {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(suffix) => all.wildcards.entry(suffix.to_owned()).or_insert(index),
                    None => all.exact.entry(name).or_insert(index),
                };
            }
            for address in &domain.addresses {
                all.addresses.entry(address.to_canonical()).or_insert(index);
            }
        }
        all.default =
            default.and_then(|name| domains.iter().position(|domain| domain.name == name));
        all.domains = domains;
        all
    }

    /// The domain of a connection.
    #[must_use]
    pub fn choose(&self, server_name: Option<&str>, local: IpAddr) -> Option<&Domain> {
        let named = server_name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let wildcard = || self.wildcards.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        let index = named
            .or_else(|| self.addresses.get(&local.to_canonical()))
            .copied()
            .or(self.default)?;
        self.domains.get(index)
    }
}

/// Makes the TLS settings of a listener's connections.
pub struct Acceptors {
    domains: Arc<Domains>,
    /// By domain; absent for a domain without a certificate.
    configs: HashMap<String, Arc<ServerConfig>>,
}

impl Acceptors {
    /// Settings for every domain that has a certificate, with the module's ALPN names.
    ///
    /// # Errors
    /// The cryptography refuses its own defaults.
    pub fn new(
        domains: &Arc<Domains>,
        alpn: &[Vec<u8>],
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Self, rustls::Error> {
        let mut configs = HashMap::new();
        for domain in &domains.domains {
            let Some(key) = &domain.certificate else {
                continue;
            };
            let provider = Arc::new(aws_lc_rs::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(One(Arc::clone(key))));
            config.alpn_protocols = alpn.to_vec();
            config.ticketer = Arc::clone(ticketer);
            // Tickets alone resume sessions, so no peer can make a table of ours grow.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 1;
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

/// Ticket keys that rotate every six hours and are kept for twice as long (RFC 5077, 5.5).
///
/// # Errors
/// No random numbers.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    aws_lc_rs::Ticketer::new()
}

#[cfg(test)]
mod tests {
    use super::{Domain, Domains};

    fn domain(name: &str, aliases: &[&str], addresses: &[&str]) -> Domain {
        Domain {
            name: name.to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            addresses: addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            certificate: None,
        }
    }

    #[test]
    fn a_domain_is_chosen_by_name_then_wildcard_then_address_then_default() {
        let domains = Domains::new(
            vec![
                domain("example.org", &["*.example.org"], &["127.0.0.2"]),
                domain("www.example.org", &[], &["127.0.0.3", "::1"]),
                domain("other.test", &[], &[]),
            ],
            Some("other.test"),
        );
        let choose = |name: Option<&str>, local: &str| {
            domains
                .choose(name, local.parse().unwrap())
                .map(|domain| domain.name.clone())
        };
        for (name, local, expected) in [
            (Some("Example.ORG"), "127.0.0.3", "example.org"),
            (Some("www.example.org"), "127.0.0.2", "www.example.org"),
            (Some("mail.example.org."), "127.0.0.3", "example.org"),
            (Some("a.mail.example.org"), "127.0.0.3", "www.example.org"),
            (None, "127.0.0.2", "example.org"),
            (None, "::ffff:127.0.0.3", "www.example.org"),
            (None, "::1", "www.example.org"),
            (None, "127.0.0.9", "other.test"),
            (Some("unknown.test"), "127.0.0.9", "other.test"),
        ] {
            assert_eq!(
                choose(name, local).as_deref(),
                Some(expected),
                "{name:?} {local}"
            );
        }
        let none = Domains::new(vec![domain("example.org", &[], &[])], None);
        assert!(none.choose(None, "127.0.0.1".parse().unwrap()).is_none());
    }
}
