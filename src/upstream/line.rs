#![forbid(unsafe_code)]
//! A conversation of a session with an upstream, beside the one with its peer: for gates, which log in at the
//! upstream or pass commands on. Nothing here blocks; the session is woken when there is more to do.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use super::watcher::{Watched, watch};
use super::{Dial, Pool};
use crate::connection::relay::socket::Socket;
use crate::session::{Target, UpstreamStream, Waker};

/// The most bytes taken from an upstream that were not used yet.
const MOST: usize = 64 * 1024;

/// A conversation with one upstream of a pool, the next one where the first does not answer.
pub struct Line {
    dial: Box<dyn Dial>,
    waker: Waker,
    place: Option<Place>,
    until: Instant,
    connected: bool,
    to_send: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    /// What is too much at once is left where it is, not an error.
    is_bulk: bool,
    ended: bool,
}

/// The socket and its row with the watcher.
struct Place {
    /// First, so that it is not watched any more when it closes.
    watched: Watched,
    socket: Socket,
}

/// How far a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Not connected yet; this attempt ends then.
    Connecting(Instant),
    /// Connected.
    Open,
    /// The upstream says no more; what it said before may still be unused.
    Ended,
}

impl Line {
    /// Begins to connect. `who` names the listener in the log.
    ///
    /// # Errors
    /// No upstream can be reached.
    pub fn open(pool: &Arc<Pool>, who: &Arc<str>, waker: Waker, now: Instant) -> io::Result<Self> {
        let mut line = Line {
            dial: pool.dial(who),
            waker,
            place: None,
            until: now,
            connected: false,
            to_send: Vec::new(),
            sent: 0,
            received: Vec::new(),
            is_bulk: false,
            ended: false,
        };
        line.try_next(now)?;
        Ok(line)
    }

    /// The upstream may say any amount: of what is not used yet, 64 KiB are taken, and [`Line::turn`] is to be
    /// called again when some of it has been used.
    pub fn take_bulk(&mut self) {
        self.is_bulk = true;
    }

    /// Appends to what the upstream is to be told.
    pub fn send(&mut self, bytes: &[u8]) {
        self.to_send.extend_from_slice(bytes);
    }

    /// How many bytes wait until the upstream takes them.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.to_send.len() - self.sent
    }

    /// What the upstream said and nobody has used.
    pub fn received(&mut self) -> &mut Vec<u8> {
        &mut self.received
    }

    /// Connects, writes and reads as far as that goes without waiting.
    ///
    /// # Errors
    /// No upstream can be reached, or the connection broke.
    pub fn turn(&mut self, now: Instant) -> io::Result<Progress> {
        while !self.connected {
            let connected = self.place.as_ref().map(|place| place.socket.connected());
            match connected {
                Some(Ok(true)) => {
                    self.connected = true;
                    self.dial.outcome(&Ok(()), now);
                }
                Some(Ok(false)) if now < self.until => {
                    return Ok(Progress::Connecting(self.until));
                }
                Some(Err(error)) => self.failed(Err(error), now)?,
                _ => self.failed(Err(ErrorKind::TimedOut.into()), now)?,
            }
        }
        self.write()?;
        self.read()?;
        Ok(if self.ended {
            Progress::Ended
        } else {
            Progress::Open
        })
    }

    /// Hands the connection over to a relay, with what was to be sent and what was received and not used.
    ///
    /// # Errors
    /// The socket cannot be taken back from the watcher.
    pub fn into_parts(mut self) -> io::Result<(UpstreamStream, Vec<u8>, Vec<u8>)> {
        let Some(mut place) = self.place.take() else {
            return Err(ErrorKind::NotConnected.into());
        };
        place.watched.end(place.socket.source())?;
        let unsent = self.to_send.split_off(self.sent);
        Ok((place.socket.into_stream(), unsent, self.received))
    }

    fn failed(&mut self, result: io::Result<()>, now: Instant) -> io::Result<()> {
        self.dial.outcome(&result, now);
        self.place = None;
        self.try_next(now)
            .map_err(|error| result.err().unwrap_or(error))
    }

    /// Begins to connect to the next target; those that fail at once are passed over.
    fn try_next(&mut self, now: Instant) -> io::Result<()> {
        let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
        while let Some((target, timeout)) = self.dial.next(now) {
            match self.connect(&target) {
                Ok(place) => {
                    self.place = Some(place);
                    self.until = now + timeout;
                    return Ok(());
                }
                Err(error) => {
                    let result = Err(error);
                    self.dial.outcome(&result, now);
                    last = result.err().unwrap_or(last);
                }
            }
        }
        Err(last)
    }

    fn connect(&self, target: &Target) -> io::Result<Place> {
        let mut socket = Socket::open(target)?;
        let watched = watch(socket.source(), self.waker.clone())?;
        Ok(Place { watched, socket })
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        while self.sent < self.to_send.len() {
            match place.socket.write(&self.to_send[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // What it said before it left is worth hearing.
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        if self.sent == self.to_send.len() {
            self.to_send.clear();
            self.sent = 0;
        } else if self.sent > MOST {
            self.to_send.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        let mut piece = [0; 4096];
        loop {
            if self.is_bulk && self.received.len() >= MOST {
                return Ok(());
            }
            if self.received.len() > MOST {
                return Err(io::Error::new(ErrorKind::InvalidData, "it says too much"));
            }
            match place.socket.read(&mut piece) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) if !self.received.is_empty() => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("connected", &self.connected)
            .finish_non_exhaustive()
    }
}
