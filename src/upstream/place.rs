#![forbid(unsafe_code)]
//! Where an upstream is: an address, a name to resolve, a Unix socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long an answer of the resolver is used.
const FRESH: Duration = Duration::from_secs(30);
/// How soon a resolver that failed is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// Where an upstream is. As text: `host:port`, `[::1]:port` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An IP address and a port.
    Address(SocketAddr),
    /// A host name and a port.
    Name(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("expected \"host:port\", \"[IPv6]:port\" or \"unix:/path\", found {text:?}");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Place::Unix(path))
            } else {
                Err(format!(
                    "expected an absolute path behind unix:, found {text:?}"
                ))
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(wrong()),
                port => Ok(Place::Address(SocketAddr::new(
                    address.ip().to_canonical(),
                    port,
                ))),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let digits = host
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        if host.is_empty() || !host.bytes().all(plain) || digits || host.parse::<IpAddr>().is_ok() {
            return Err(wrong());
        }
        Ok(Place::Name(host.to_owned(), port))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Address(address) => address.fmt(f),
            Place::Name(name, port) => write!(f, "{name}:{port}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The system's resolver. Blocks.
pub(super) fn system_resolver(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.collect())
}

/// What a name resolved to, and when. Old addresses stay until better ones are known.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    addresses: Vec<SocketAddr>,
    old_at: Option<Instant>,
    asking: bool,
}

impl Resolved {
    /// True when somebody should ask the resolver.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        // Where there is nothing yet, everybody has to wait for the one who asks.
        let idle = !self.asking || self.addresses.is_empty();
        idle && self.old_at.is_none_or(|at| now >= at)
    }

    /// True when the caller is the one who asks.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let mine = self.is_old(now);
        self.asking |= mine;
        mine
    }

    /// Takes the answer; without one the old addresses stay.
    pub(super) fn finish(&mut self, answer: Option<Vec<SocketAddr>>, now: Instant) {
        self.asking = false;
        match answer {
            Some(addresses) if !addresses.is_empty() => {
                self.addresses = addresses;
                self.old_at = Some(now + FRESH);
            }
            _ => self.old_at = Some(now + RETRY),
        }
    }

    /// True once the resolver has answered, or failed.
    pub(super) fn was_asked(&self) -> bool {
        self.old_at.is_some()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{FRESH, Place, RETRY, Resolved};

    #[test]
    fn a_place_is_an_address_a_name_or_a_path() {
        for (text, shown) in [
            ("127.0.0.1:25", Some("127.0.0.1:25")),
            ("[::1]:25", Some("[::1]:25")),
            ("[::ffff:127.0.0.1]:25", Some("127.0.0.1:25")),
            ("mail.example.org:25", Some("mail.example.org:25")),
            ("unix:/run/mail.sock", Some("unix:/run/mail.sock")),
            ("unix:run/mail.sock", None),
            ("mail.example.org", None),
            ("mail.example.org:0", None),
            ("127.0.0.1:0", None),
            ("127.0.0.256:25", None),
            ("::1:25", None),
            ("mail.example.org:65536", None),
            (":25", None),
            ("a b:25", None),
            ("", None),
        ] {
            let place = text.parse::<Place>().map(|place| place.to_string());
            assert_eq!(place.as_deref().ok(), shown, "{text}");
        }
    }

    #[test]
    fn old_addresses_stay_until_the_resolver_answers() {
        let now = Instant::now();
        let mut resolved = Resolved::default();
        assert!(
            resolved.begin(now) && resolved.is_old(now),
            "nothing is known: all wait"
        );
        let one = "192.0.2.1:25".parse().unwrap();
        resolved.finish(Some(vec![one]), now);
        assert!(!resolved.is_old(now + FRESH - Duration::from_secs(1)));
        let later = now + FRESH;
        assert!(resolved.begin(later) && !resolved.begin(later), "one asks");
        resolved.finish(None, later);
        assert_eq!(resolved.addresses().collect::<Vec<_>>(), [one]);
        assert!(!resolved.is_old(later) && resolved.is_old(later + RETRY));
    }
}
