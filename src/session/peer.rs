#![forbid(unsafe_code)]
//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

/// Whether a remote address stands on the Client list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// On the Client list.
    Client,
    /// Any other.
    #[default]
    Other,
}

impl Class {
    /// `client` or `other`, as shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Client => "client",
            Class::Other => "other",
        }
    }
}

/// Facts of a finished TLS handshake, for trace headers and programs' environments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite by its IANA name.
    pub cipher: String,
    /// The server name the client asked for (RFC 6066, 3).
    pub server_name: Option<String>,
    /// The protocol agreed on by ALPN (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The name of the domain whose certificate was shown.
    pub domain: String,
    /// The subject of a verified client certificate, DER.
    pub client_certificate: Option<Vec<u8>>,
}

/// How a connection is protected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    #[default]
    Clear,
    /// By something in front of us (`tls: Ext`).
    External,
    /// By our own TLS.
    Tls(Arc<TlsFacts>),
}

/// The other end of a connection, as admission saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The remote address; never an IPv4-mapped one. Behind `proxy_from`, the address in the header.
    pub remote: SocketAddr,
    /// The address and port that the peer connected to.
    pub local: SocketAddr,
    /// Whether the remote address is on the Client list.
    pub class: Class,
    /// Whether it is on the Cluster list.
    pub cluster: bool,
    /// Whether it is on the Black-list.
    pub blacklisted: bool,
    /// How the connection is protected now.
    pub security: Security,
    /// True when an upgrade can succeed: a `tls: Off` socket whose domain has a certificate.
    pub may_start_tls: bool,
    /// The listener's name.
    pub listener: Arc<str>,
}

impl Peer {
    /// True under TLS, ours or that of something in front.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.security != Security::Clear
    }

    /// True where a clear-text password may be taken: secure, or from this machine.
    #[must_use]
    pub fn may_send_password(&self) -> bool {
        self.is_secure() || self.remote.ip().is_loopback()
    }
}
