#![forbid(unsafe_code)]
//! A relay to a second socket, as a session asks for it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Carries bytes between the peer and an upstream.
#[derive(Debug)]
pub struct Relay {
    /// The other end.
    pub upstream: Upstream,
    /// Bytes for the upstream before the peer's own, such as a PROXY header.
    pub ahead: Vec<u8>,
}

/// The upstream of a relay.
#[derive(Debug)]
pub enum Upstream {
    /// Already connected, by work of the session's.
    Connected(UpstreamStream),
    /// To be connected without holding a thread.
    Dial(Box<dyn Dial>),
}

/// A connected upstream socket.
#[derive(Debug)]
pub enum UpstreamStream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => address.fmt(f),
            Target::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Chooses upstreams one after the other, and learns how each attempt went. Dropped when the relay ends,
/// so that it can own the upstream's share of a least-connections count.
pub trait Dial: Send + fmt::Debug {
    /// The next target to try and how long to try it; `None` when there is none left.
    fn next(&mut self, now: Instant) -> Option<(Target, Duration)>;

    /// How the attempt to reach the last target ended.
    fn outcome(&mut self, result: &io::Result<()>, now: Instant);
}
