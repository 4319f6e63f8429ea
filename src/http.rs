#![forbid(unsafe_code)]
//! HTTP/1.1 (RFC 9110, RFC 9112): one parser and one writer for every module that speaks it. No socket.
//!
//! A [`Service`] answers requests; a [`Connection`] is the session that reads heads and bodies for it,
//! keeps the deadlines and limits, and writes its [`Response`]s in order.

pub(crate) mod access_log;
pub(crate) mod conditional;
mod connection;
pub(crate) mod encoding;
pub(crate) mod files;
pub(crate) mod forward;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod page;
pub(crate) mod range;
pub(crate) mod response;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::session::{Lane, Module, Peer, Session};

use connection::Connection;
pub(crate) use head::Request;
pub(crate) use response::Response;

/// What a connection may ask of us.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// From the first byte of a head to its last.
    pub(crate) head_timeout: Duration,
    /// From the end of a head to the end of its body.
    pub(crate) body_timeout: Duration,
    /// The longest body, in bytes.
    pub(crate) max_body: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            max_body: 1 << 20,
        }
    }
}

/// Where a request came from, and when.
pub(crate) struct Around<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
}

/// How a request is answered.
pub(crate) enum Answer {
    /// At once.
    Now(Response),
    /// By work that blocks.
    Later(Lane, Box<dyn FnOnce() -> Response + Send>),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Answer::Now(response)
    }
}

/// Answers requests. One value serves all connections of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    fn limits(&self) -> &Limits;

    /// Looks at a head whose body has not been read; an answer here is given without reading it, and ends
    /// the connection.
    fn refuse(&self, _request: &Request<'_, '_>, _around: &Around<'_>) -> Option<Response> {
        None
    }

    /// The longest body of this request, in bytes.
    fn max_body(&self, _request: &Request<'_, '_>) -> u64 {
        self.limits().max_body
    }

    /// Answers a request whose body, if any, is complete.
    fn answer(&self, request: &Request<'_, '_>, body: &[u8], around: &Around<'_>) -> Answer;

    /// The upstreams that requests are passed to; without them they are answered here.
    fn forward(&self) -> Option<&Arc<forward::Forward>> {
        None
    }

    /// Whether a reload that leaves the settings as they are keeps this value.
    fn keeps_state(&self) -> bool {
        false
    }

    /// Where finished requests are noted.
    fn access_log(&self) -> Option<&Arc<access_log::AccessLog>> {
        None
    }
}

/// A service as a module.
pub(crate) struct Server<S> {
    service: Arc<S>,
}

impl<S: Service> Server<S> {
    pub(crate) fn new(service: S) -> Self {
        Server {
            service: Arc::new(service),
        }
    }
}

impl<S: Service> Module for Server<S> {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Connection::new(Arc::clone(&self.service)))
    }

    /// Between requests, and for a reader to take some of an answer; nginx keeps alive for 75 seconds.
    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn alpn(&self) -> Vec<Vec<u8>> {
        vec![b"http/1.1".to_vec()]
    }

    fn keeps_state(&self) -> bool {
        self.service.keeps_state()
    }
}
