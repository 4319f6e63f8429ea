#![forbid(unsafe_code)]
//! Connections that stay, with one message at a time under way on each.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::Interest;
use mio::net::TcpStream;

use super::engine::{Handle, Step, Work};
use super::hold;
use super::options::Load;

/// Sends and gets back, on connections that stay.
pub(super) struct PingPong {
    slots: Vec<Talk>,
    payload: Vec<u8>,
    buffer: Vec<u8>,
}

struct Talk {
    stream: TcpStream,
    /// Bytes that are to come back.
    missing: usize,
}

impl PingPong {
    /// Opens the connections; each has been served once when this returns.
    ///
    /// # Errors
    /// One cannot be opened or is not served.
    pub(super) fn open(load: &Load) -> io::Result<Self> {
        let slots = hold::open(load, load.connections)?
            .into_iter()
            .map(|stream| {
                stream.set_nonblocking(true)?;
                Ok(Talk {
                    stream: TcpStream::from_std(stream),
                    missing: 0,
                })
            });
        Ok(PingPong {
            slots: slots.collect::<io::Result<_>>()?,
            payload: vec![b'p'; usize::from(load.size)],
            buffer: vec![0; usize::from(load.size)],
        })
    }
}

impl Work for PingPong {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn register(&mut self, poll: &Handle<'_>) -> io::Result<()> {
        for (slot, talk) in self.slots.iter_mut().enumerate() {
            poll.register(slot, &mut talk.stream, Interest::READABLE)?;
        }
        Ok(())
    }

    fn begin(&mut self, slot: usize, _poll: &Handle<'_>) -> Step {
        let talk = &mut self.slots[slot];
        match talk.stream.write(&self.payload) {
            Ok(count) if count == self.payload.len() => {
                talk.missing = count;
                Step::Waiting
            }
            Ok(_) => Step::Failed(ErrorKind::WriteZero.into()),
            Err(error) => Step::Failed(error),
        }
    }

    fn ready(&mut self, slot: usize) -> Step {
        let talk = &mut self.slots[slot];
        if talk.missing == 0 {
            return Step::Waiting;
        }
        match talk.stream.read(&mut self.buffer) {
            Ok(0) => Step::Failed(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                talk.missing = talk.missing.saturating_sub(count);
                if talk.missing == 0 {
                    Step::Done
                } else {
                    // The poll tells each edge once: what has come since must be asked for.
                    self.ready(slot)
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Step::Waiting,
            Err(error) => Step::Failed(error),
        }
    }

    /// The answer may still come, and would then be taken for the next one's.
    fn abandon(&mut self, slot: usize) {
        let _ = self.slots[slot].stream.shutdown(std::net::Shutdown::Both);
    }
}
