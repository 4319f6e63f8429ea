#![forbid(unsafe_code)]
//! A session's own socket to a server that it asks.

use std::fmt;
use std::io::{self, Read, Write};

use mio::{Interest, Registry, Token};

use crate::connection::relay::socket::Socket;
use crate::session::{Target, UpstreamStream};

/// A non-blocking socket to another server. The session reads and writes it until it would block, and then
/// waits for it with [`Next::Await`](crate::session::Next::Await).
pub struct Far {
    socket: Socket,
    registered: Option<Token>,
}

impl Far {
    /// Begins to connect; [`Far::is_connected`] tells the end of it.
    ///
    /// # Errors
    /// What the system says at once.
    pub fn open(target: &Target) -> io::Result<Far> {
        Socket::open(target).map(|socket| Far {
            socket,
            registered: None,
        })
    }

    /// Whether the connect under way has succeeded.
    ///
    /// # Errors
    /// It has failed.
    pub fn is_connected(&self) -> io::Result<bool> {
        self.socket.connected()
    }

    /// False when the other side has closed a connection that should be silent, or has spoken unasked.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.socket.read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The socket for a relay.
    #[must_use]
    pub fn into_stream(self) -> UpstreamStream {
        self.socket.into_stream()
    }

    /// Registers with the poll, or anew where the socket comes from another connection.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.registered {
            Some(registered) if registered == token => return Ok(()),
            Some(_) => self.socket.source().reregister(registry, token, interest)?,
            None => self.socket.source().register(registry, token, interest)?,
        }
        self.registered = Some(token);
        Ok(())
    }
}

impl Read for Far {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.read(into)
    }
}

impl Write for Far {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}
