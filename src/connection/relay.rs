#![forbid(unsafe_code)]
//! Carries bytes between a connection and an upstream, both ways at once, until both have finished.
//!
//! Each way has one bounded buffer: when one side does not read, the other is not read either.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use super::transport::{Flushed, Got, Transport};
use crate::session::{Dial, Input, Output, Relay, Target, Upstream, UpstreamStream};

/// The most bytes on the way in one direction, over what rustls holds.
const BUFFER: usize = 64 * 1024;

/// A non-blocking upstream socket.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A relay under way.
pub(super) struct Relaying {
    upstream: Option<Socket>,
    /// Whether the upstream socket is registered with the poll.
    registered: bool,
    dial: Option<Box<dyn Dial>>,
    /// Until when the current attempt to connect may last.
    connecting: Option<Instant>,
    to_upstream: Output,
    from_client: Input,
    from_upstream: Vec<u8>,
    client_ended: bool,
    upstream_ended: bool,
    /// The upstream was told that the client finished.
    upstream_told: bool,
    client_told: bool,
}

/// What a relay needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Either socket to be ready, or this time to come.
    Wait(Option<Instant>),
    /// No upstream could be reached.
    Unreachable,
    /// Both sides have finished.
    Finished,
}

impl Relaying {
    pub(super) fn new(relay: Relay, pending: &mut Input) -> io::Result<Self> {
        let mut to_upstream = Output::default();
        to_upstream.write(&relay.ahead);
        to_upstream.write(pending);
        pending.clear();
        let (upstream, dial) = match relay.upstream {
            Upstream::Connected(stream) => (Some(Socket::adopt(stream)?), None),
            Upstream::Dial(dial) => (None, Some(dial)),
        };
        Ok(Relaying {
            upstream,
            registered: false,
            dial,
            connecting: None,
            to_upstream,
            from_client: Input::default(),
            from_upstream: Vec::new(),
            client_ended: false,
            upstream_ended: false,
            upstream_told: false,
            client_told: false,
        })
    }

    /// Carries what can be carried without waiting. `moved` becomes true when a byte was.
    pub(super) fn run(
        &mut self,
        now: Instant,
        stream: &mut TcpStream,
        transport: &mut Transport,
        output: &mut Output,
        moved: &mut bool,
    ) -> io::Result<Progress> {
        if !self.connect(now)? {
            return Ok(match (self.upstream.is_some(), self.connecting) {
                (true, until) => Progress::Wait(until),
                (false, _) => Progress::Unreachable,
            });
        }
        loop {
            let before = *moved;
            *moved = false;
            self.upstream_ward(stream, transport, moved)?;
            self.client_ward(stream, transport, output, moved)?;
            let again = *moved;
            *moved |= before;
            if self.upstream_told && self.client_told {
                return Ok(Progress::Finished);
            }
            if !again {
                return Ok(Progress::Wait(None));
            }
        }
    }

    /// Registers the upstream with the poll, once.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        if !self.registered
            && let Some(upstream) = &mut self.upstream
        {
            upstream.source().register(registry, token, interest)?;
            self.registered = true;
        }
        Ok(())
    }

    /// True once the upstream is connected.
    fn connect(&mut self, now: Instant) -> io::Result<bool> {
        loop {
            let Some(dial) = &mut self.dial else {
                return Ok(true);
            };
            if let Some(upstream) = &self.upstream {
                let outcome = match upstream.connected() {
                    Ok(true) => Ok(()),
                    Ok(false) if self.connecting.is_none_or(|until| now < until) => {
                        return Ok(false);
                    }
                    Ok(false) => Err(io::ErrorKind::TimedOut.into()),
                    Err(error) => Err(error),
                };
                dial.outcome(&outcome, now);
                self.connecting = None;
                if outcome.is_ok() {
                    // Kept: it owns the upstream's share of a count until the relay ends.
                    return Ok(true);
                }
                self.upstream = None;
                self.registered = false;
            }
            let Some((target, timeout)) = dial.next(now) else {
                return Ok(false);
            };
            match Socket::open(&target) {
                Ok(socket) => {
                    self.upstream = Some(socket);
                    self.connecting = Some(now + timeout.max(Duration::from_millis(1)));
                }
                Err(error) => dial.outcome(&Err(error), now),
            }
        }
    }

    fn upstream_ward(
        &mut self,
        stream: &mut TcpStream,
        transport: &mut Transport,
        moved: &mut bool,
    ) -> io::Result<()> {
        let Some(upstream) = &mut self.upstream else {
            return Ok(());
        };
        while !self.to_upstream.is_empty() {
            match upstream.write(self.to_upstream.front()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.to_upstream.advance(count);
                    *moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.client_ended {
            if !self.upstream_told {
                self.upstream_told = true;
                upstream.finish();
            }
            return Ok(());
        }
        match transport.read(stream, &mut self.from_client)? {
            Got::Bytes { .. } => {
                self.to_upstream.write(&self.from_client);
                self.from_client = Input::default();
                *moved = true;
            }
            Got::Nothing => {}
            Got::End => {
                self.client_ended = true;
                *moved = true;
            }
            Got::Truncated => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn client_ward(
        &mut self,
        stream: &mut TcpStream,
        transport: &mut Transport,
        output: &mut Output,
        moved: &mut bool,
    ) -> io::Result<()> {
        if transport.flush(stream, output)? == Flushed::Blocked {
            return Ok(());
        }
        if self.upstream_ended {
            if !self.client_told {
                self.client_told = true;
                transport.finish(stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
            return Ok(());
        }
        let Some(upstream) = &mut self.upstream else {
            return Ok(());
        };
        self.from_upstream.resize(BUFFER, 0);
        match upstream.read(&mut self.from_upstream) {
            Ok(0) => {
                self.upstream_ended = true;
                *moved = true;
            }
            Ok(count) => {
                output.write(&self.from_upstream[..count]);
                *moved = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => *moved = true,
            Err(error) => return Err(error),
        }
        self.from_upstream = Vec::new();
        Ok(())
    }
}

impl Socket {
    fn open(target: &Target) -> io::Result<Socket> {
        match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(*address)?;
                let _ = stream.set_nodelay(true);
                Ok(Socket::Tcp(stream))
            }
            Target::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        }
    }

    fn adopt(stream: UpstreamStream) -> io::Result<Socket> {
        Ok(match stream {
            UpstreamStream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(stream))
            }
            UpstreamStream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(stream))
            }
        })
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(stream) => stream,
            Socket::Unix(stream) => stream,
        }
    }

    /// Whether a connect under way has succeeded.
    fn connected(&self) -> io::Result<bool> {
        let (error, peer) = match self {
            Socket::Tcp(stream) => (stream.take_error()?, stream.peer_addr().map(|_| ())),
            Socket::Unix(stream) => (stream.take_error()?, stream.peer_addr().map(|_| ())),
        };
        if let Some(error) = error {
            return Err(error);
        }
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn finish(&self) {
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(into),
            Socket::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
