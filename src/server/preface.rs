#![forbid(unsafe_code)]
//! A stream from a sender in `proxy_from`, until its PROXY header has come. Nobody is admitted yet, no worker
//! is held, and nothing is buffered: the header is looked at in the kernel's own buffer until it is whole.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::Interest;

use super::core::Core;
use super::gate::Newcomer;
use super::listener::TcpListener;
use super::parked::Signals;
use crate::connection::proxy_header::{self, LONGEST, Parsed};

/// Headers awaited at once per listener, over its channels; a proxy in trouble cannot take all descriptors.
const MOST_OVER_CHANNELS: usize = 1024;

/// The connection that it becomes keeps its place in the poll.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A stream whose header is awaited.
pub(crate) struct Preface {
    pub(super) newcomer: Newcomer,
    pub(super) until: Instant,
    _awaited: Awaited,
}

/// What a look at the stream brought.
pub(super) enum Progress {
    /// The rest of the header has not come.
    Wait,
    /// The header was read; it names an address, or leaves the sender's.
    Known(Option<SocketAddr>),
    /// No header, or none in time.
    Bad(&'static str),
    /// The sender went away.
    Gone,
}

/// One of the headers that a listener awaits; counted while it lives.
struct Awaited(Arc<TcpListener>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.counters.prefaces.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Preface {
    /// What ends its rest.
    pub(super) const WANTS: Signals = Signals::READABLE
        .and(Signals::HANGUP)
        .and(Signals::DUE)
        .and(Signals::SHUTDOWN);

    /// Waits for a header; the newcomer comes back when too many are awaited or it cannot be watched.
    pub(super) fn new(
        mut newcomer: Newcomer,
        core: &Arc<Core>,
        now: Instant,
    ) -> Result<Self, Newcomer> {
        let listener = Arc::clone(&newcomer.socket.listener);
        let most = MOST_OVER_CHANNELS.saturating_add(listener.limits.settings().channels as usize);
        let before = listener.counters.prefaces.fetch_add(1, Ordering::Relaxed);
        let until = now + listener.handshake_timeout;
        let awaited = Awaited(listener);
        if before >= most {
            return Err(newcomer);
        }
        let mut slot = core.reserve(None);
        let watched = core.watch(&mut slot, &mut newcomer.stream, BOTH);
        newcomer.slot = Some(slot);
        if watched.is_err() {
            return Err(newcomer);
        }
        Ok(Preface {
            newcomer,
            until,
            _awaited: awaited,
        })
    }

    /// Looks at what has come.
    pub(super) fn turn(&mut self, signals: Signals) -> Progress {
        if signals.has(Signals::SHUTDOWN) {
            return Progress::Gone;
        }
        let mut bytes = [0; LONGEST];
        let stream = &mut self.newcomer.stream;
        let count = loop {
            match stream.peek(&mut bytes) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
                Err(_) => return Progress::Gone,
            }
        };
        match proxy_header::parse(&bytes[..count]) {
            Parsed::Header { addresses, length } => match stream.read_exact(&mut bytes[..length]) {
                Ok(()) => Progress::Known(addresses.map(|(source, _)| source)),
                Err(_) => Progress::Gone,
            },
            Parsed::Bad(why) => Progress::Bad(why),
            Parsed::NeedMore if signals.has(Signals::HANGUP) && count == 0 => Progress::Gone,
            Parsed::NeedMore if signals.has(Signals::HANGUP) => {
                Progress::Bad("the PROXY header is cut short")
            }
            Parsed::NeedMore if signals.has(Signals::DUE) => {
                Progress::Bad("no PROXY header came in time")
            }
            Parsed::NeedMore => Progress::Wait,
        }
    }
}
