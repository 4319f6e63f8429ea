#![forbid(unsafe_code)]
//! Names, addresses and the default: which domain a connection belongs to.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::certificate::Certificate;
use super::self_signed;

/// How long before a certificate's end it is spoken of.
const EXPIRES_SOON: Duration = Duration::from_secs(21 * 86_400);

/// A name with its certificate, if it has one.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its name; a leading `*.` stands for one label.
    pub name: String,
    /// Other names it answers to; `*.` as in the name.
    pub aliases: Vec<String>,
    /// Local addresses that choose it where the client names none.
    pub addresses: Vec<IpAddr>,
    /// Where its chain and key come from.
    pub certificate: Source,
}

/// Where a domain's certificate comes from.
#[derive(Debug, Clone, Default)]
pub enum Source {
    /// It has none.
    #[default]
    None,
    /// Made at the first start and kept in `state_dir`.
    SelfSigned,
    /// Given, and found to be usable.
    Given(Arc<Certificate>),
}

/// What chose a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The server name that the client sent (RFC 6066, 3).
    ServerName,
    /// The address that the client connected to.
    Address,
    /// `default_domain`.
    Default,
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
        all.default = default.and_then(|name| {
            domains
                .iter()
                .position(|domain| domain.name.eq_ignore_ascii_case(name))
        });
        all.domains = domains;
        all
    }

    /// The domain of a connection.
    #[must_use]
    pub fn choose(&self, server_name: Option<&str>, local: IpAddr) -> Option<&Domain> {
        self.find(server_name, Some(local))
            .map(|(domain, _)| domain)
    }

    /// The domain of a connection as far as its server name and local address are known, and what chose it.
    #[must_use]
    pub fn find(&self, server_name: Option<&str>, local: Option<IpAddr>) -> Option<(&Domain, By)> {
        let named = server_name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let wildcard = || self.wildcards.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        let at = |local: IpAddr| self.addresses.get(&local.to_canonical());
        let (index, by) = named
            .map(|index| (*index, By::ServerName))
            .or_else(|| Some((*at(local?)?, By::Address)))
            .or_else(|| Some((self.default?, By::Default)))?;
        Some((self.domains.get(index)?, by))
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter()
    }

    /// Makes the self-signed certificates, or reads those made before.
    ///
    /// # Errors
    /// `state_dir` cannot be written, with the file's name.
    pub fn prepare(&self, state_dir: &Path, now: SystemTime) -> io::Result<Domains> {
        let default = self.default.map(|index| self.domains[index].name.clone());
        let domains = self.domains.iter().map(|domain| {
            let mut domain = domain.clone();
            if matches!(domain.certificate, Source::SelfSigned) {
                let certificate = self_signed::certificate(&domain, state_dir, now)?;
                domain.certificate = Source::Given(Arc::new(certificate));
            }
            Ok(domain)
        });
        let domains = domains.collect::<io::Result<Vec<Domain>>>()?;
        Ok(Domains::new(domains, default.as_deref()))
    }

    /// A line for each certificate that ends within 21 days, or has ended.
    #[must_use]
    pub fn expiring(&self, now: SystemTime) -> Vec<String> {
        let line = |domain: &Domain| {
            let expires = domain.certificate.given()?.expires();
            let end = humantime::format_rfc3339_seconds(expires);
            let name = &domain.name;
            match expires.duration_since(now) {
                Ok(left) if left > EXPIRES_SOON => None,
                Ok(left) => {
                    let days = left.as_secs() / 86_400;
                    Some(format!(
                        "the certificate of domain {name} expires in {days} days, at {end}"
                    ))
                }
                Err(_) => Some(format!("the certificate of domain {name} expired at {end}")),
            }
        };
        self.domains.iter().filter_map(line).collect()
    }
}

impl Source {
    /// The certificate, if there is one by now.
    #[must_use]
    pub fn given(&self) -> Option<&Arc<Certificate>> {
        match self {
            Source::Given(certificate) => Some(certificate),
            Source::None | Source::SelfSigned => None,
        }
    }

    /// False for a domain that will never have a certificate.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !matches!(self, Source::None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Domain, Domains, Source};

    fn domain(name: &str, aliases: &[&str], addresses: &[&str]) -> Domain {
        Domain {
            name: name.to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            addresses: addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            certificate: Source::None,
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
