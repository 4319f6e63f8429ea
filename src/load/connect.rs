#![forbid(unsafe_code)]
//! Connections that live for one operation: echoed, or refused.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::Interest;
use mio::net::TcpStream;

use super::engine::{Handle, OneOff};
use super::options::Load;
use super::sources::Sources;

/// Connects, and either has bytes echoed or is refused.
pub(super) struct Connects {
    sources: Sources,
    slots: Vec<Option<Open>>,
    /// What is sent; nothing where a refusal is what is wanted.
    payload: Vec<u8>,
    buffer: Vec<u8>,
}

struct Open {
    stream: TcpStream,
    sent: bool,
    received: usize,
}

impl Connects {
    /// Connect, send, get it back, close.
    pub(super) fn echo(load: &Load) -> Self {
        let size = usize::from(load.size);
        Self::new(Sources::of(load), load.connections, vec![b'x'; size])
    }

    /// Connect, and be closed or reset without a byte.
    pub(super) fn refused(sources: Sources, slots: usize) -> Self {
        Self::new(sources, slots, Vec::new())
    }

    fn new(sources: Sources, slots: usize, payload: Vec<u8>) -> Self {
        Connects {
            sources,
            slots: (0..slots).map(|_| None).collect(),
            buffer: vec![0; payload.len().max(64)],
            payload,
        }
    }
}

impl Open {
    /// The payload is far smaller than a fresh socket's buffer: it goes whole or not yet.
    fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.sent || payload.is_empty() {
            self.sent = true;
            return Ok(());
        }
        match self.stream.write(payload) {
            Ok(_) => self.sent = true,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl OneOff for Connects {
    fn count(&self) -> usize {
        self.slots.len()
    }

    /// On loopback the connection is mostly there when `connect` returns, so the first bytes can go with no
    /// wait in between.
    fn open(&mut self, slot: usize, poll: &Handle<'_>) -> io::Result<()> {
        let stream = self.sources.connect()?;
        let open = self.slots[slot].insert(Open {
            stream,
            sent: false,
            received: 0,
        });
        open.send(&self.payload)?;
        let interest = if open.sent {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        poll.register(slot, &mut open.stream, interest)
    }

    fn go_on(&mut self, slot: usize) -> io::Result<bool> {
        let Some(open) = &mut self.slots[slot] else {
            return Ok(false);
        };
        open.send(&self.payload)?;
        loop {
            match open.stream.read(&mut self.buffer) {
                Ok(0) if self.payload.is_empty() => return Ok(true),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.payload.is_empty() => {
                    return Err(io::Error::other("let in, not refused"));
                }
                Ok(count) => open.received += count,
                Err(error) => {
                    return match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::NotConnected => Ok(false),
                        ErrorKind::Interrupted => continue,
                        ErrorKind::ConnectionReset if self.payload.is_empty() => Ok(true),
                        _ => Err(error),
                    };
                }
            }
            if open.received >= self.payload.len() {
                return Ok(true);
            }
        }
    }

    fn forget(&mut self, slot: usize) {
        self.slots[slot] = None;
    }
}
