#![forbid(unsafe_code)]
//! What is left of a connection that we have closed, until its peer closes, too.

use std::io;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::connection::READ;
use crate::server::core::{LingerGuard, SlotGuard};
use crate::server::parked::Signals;
use crate::server::workers::Scratch;

/// A socket whose slot is free and whose sending side is closed; its last bytes are thrown away until the
/// peer closes, too.
pub(crate) struct Lingering {
    stream: TcpStream,
    slot: Option<SlotGuard>,
    _count: LingerGuard,
    heard: usize,
    until: Instant,
}

impl Lingering {
    /// Begins to wait for the peer's close.
    pub(super) fn new(stream: TcpStream, slot: Option<SlotGuard>, count: LingerGuard) -> Self {
        Lingering {
            stream,
            slot,
            _count: count,
            heard: 0,
            until: Instant::now() + Self::TIME,
        }
    }

    /// Long enough for a peer to read our last words and close.
    const TIME: Duration = Duration::from_secs(2);
    /// A peer that sends more than this after our close is cut off.
    const MOST: usize = 1 << 20;

    /// The socket and the slot, for registration with the poll.
    pub(crate) fn parts(&mut self) -> (&mut TcpStream, &mut Option<SlotGuard>) {
        (&mut self.stream, &mut self.slot)
    }

    /// Throws away what came. Back when there may be more, until its time is up.
    pub(crate) fn turn(
        mut self,
        signals: Signals,
        scratch: &mut Scratch,
    ) -> Option<(Self, Signals, Instant)> {
        use std::io::Read as _;
        let over = Signals::DUE.and(Signals::SHUTDOWN).and(Signals::CUT);
        if signals.has(over) {
            return None;
        }
        if scratch.input.is_empty() {
            scratch.input.resize(16 * 1024, 0);
        }
        let kept = loop {
            match self.stream.read(&mut scratch.input) {
                Ok(0) => break None,
                Ok(count) => {
                    self.heard += count;
                    if self.heard > Self::MOST {
                        break None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Some(()),
                Err(_) => break None,
            }
        };
        kept.map(|()| {
            let until = self.until;
            (self, READ, until)
        })
    }
}
