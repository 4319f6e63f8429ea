#![forbid(unsafe_code)]
//! Carries bytes between a connection and an upstream, both ways at once, until both have finished.
//!
//! Each way is bounded: what one side does not take is kept, and then the other is not read. Buffers belong
//! to the worker, so a relay at rest holds none. Bulk between two clear sockets goes through a pipe instead.

mod pipe;
pub(crate) mod socket;

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use self::pipe::{Piped, Pipes};
use self::socket::Socket;
use super::transport::{Flushed, Got, Transport, retry};
use crate::patience::is_shortage;
use crate::server::parked::Signals;
use crate::session::{Dial, Input, Output, Relay, Upstream};

/// The most bytes on the way in one direction, over what rustls holds (64 KiB of records).
pub(crate) const BUFFER: usize = 64 * 1024;
/// The most bytes carried in one turn before others get theirs.
const SHARE: usize = 1 << 20;
/// How long a client may keep a relay whose upstream has finished, without taking anything.
const FAREWELL: Duration = Duration::from_secs(60);

/// A relay under way.
pub(super) struct Relaying {
    upstream: Option<Socket>,
    /// Whether the upstream socket is registered with the poll.
    registered: bool,
    dial: Option<Box<dyn Dial>>,
    /// Until when the current attempt to connect may last.
    connecting: Option<Instant>,
    to_upstream: Output,
    /// The two ways as far as they go through pipes.
    upstream_piped: Piped,
    client_piped: Piped,
    client: Side,
    far: Side,
    /// The upstream takes no more; what it said before that is still brought to the client.
    refused: bool,
    /// What broke the upstream; heeded once all that it sent was read.
    cut: Option<io::Error>,
    /// The upstream has ever sent something.
    spoke: bool,
    /// Some of that may not have reached the client yet, which a reset would destroy.
    owing: bool,
    /// Where the last turn makes bytes likely.
    expects: Signals,
    /// Set when the upstream finished: until when the client must follow.
    farewell: Option<Instant>,
}

/// Which side broke.
enum Broken {
    Client(io::Error),
    Upstream(io::Error),
}

/// What is known of one side.
#[derive(Debug)]
struct Side {
    /// It may hold bytes that were not read.
    readable: bool,
    /// It finished or broke: a short read does not mean that nothing is left.
    hangup: bool,
    /// It sends no more.
    ended: bool,
    /// It was told that the other one sends no more.
    told: bool,
}

impl Default for Side {
    fn default() -> Self {
        Side {
            readable: true,
            hangup: false,
            ended: false,
            told: false,
        }
    }
}

impl Side {
    /// Takes note that nothing is left to read for now.
    ///
    /// # Errors
    /// Those that say something else.
    fn dry(&mut self, error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.readable = false;
            Ok(())
        } else {
            Err(error)
        }
    }
}

/// What relays borrow from their worker.
#[derive(Debug, Default)]
pub(crate) struct RelayScratch {
    /// What is read into; made by the first relay.
    buffer: Vec<u8>,
    pipes: Pipes,
}

/// What a relay needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// One of the signals, or this time to come.
    Wait(Signals, Option<Instant>),
    /// Another turn: it has used its share of this one.
    Again,
    /// No upstream could be reached.
    Unreachable,
    /// Both sides have finished and the upstream knows, or it has finished and refuses the rest.
    Finished,
    /// The upstream broke; the client has got all that came before.
    Cut,
}

/// The client's side of a relay, lent for a turn.
pub(super) struct Client<'a> {
    pub(super) stream: &'a mut TcpStream,
    pub(super) transport: &'a mut Transport,
    /// What the client has not taken yet.
    pub(super) output: &'a mut Output,
}

impl Client<'_> {
    /// True while something waits for the client to take it.
    fn is_blocked(&self) -> bool {
        !self.output.is_empty() || self.transport.is_pending()
    }
}

impl Relaying {
    pub(super) fn new(relay: Relay, pending: &mut Input, hangup: bool) -> io::Result<Self> {
        let mut to_upstream = Output::default();
        to_upstream.write(&relay.ahead);
        to_upstream.write(pending);
        pending.clear();
        // What a new upstream has to say, the poll tells.
        let readable = matches!(relay.upstream, Upstream::Connected(_));
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
            upstream_piped: Piped::default(),
            client_piped: Piped::default(),
            client: Side {
                hangup,
                ..Side::default()
            },
            far: Side {
                readable,
                ..Side::default()
            },
            refused: false,
            cut: None,
            spoke: false,
            owing: false,
            expects: Signals::NONE,
            farewell: None,
        })
    }

    /// Takes note of what the poll said.
    pub(super) fn heed(&mut self, signals: Signals, stream: &TcpStream) -> io::Result<()> {
        self.client.readable |= signals.has(Signals::READABLE);
        self.far.readable |= signals.has(Signals::FAR_READABLE);
        if signals.has(Signals::HANGUP) {
            self.client.hangup = true;
            // Seen here, since a side that is not read would not tell.
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        // What broke it is asked for only when all that it sent was read. One that speaks and finishes at once
        // may say so together with that it is connected.
        self.far.hangup |= signals.has(Signals::FAR_HANGUP);
        Ok(())
    }

    /// Carries what can be carried without waiting, at most a share. `moved` counts the bytes.
    pub(super) fn run(
        &mut self,
        now: Instant,
        client: &mut Client<'_>,
        scratch: &mut RelayScratch,
        moved: &mut usize,
    ) -> io::Result<Progress> {
        if !self.connect(now)? {
            return Ok(match (self.upstream.is_some(), self.connecting) {
                (true, until) => Progress::Wait(CONNECTING, until),
                (false, _) => Progress::Unreachable,
            });
        }
        // Zeroed once for all turns of a worker.
        scratch.buffer.resize(BUFFER, 0);
        let (mut up, mut down) = (0, 0);
        let told = self.far.told;
        if !self.refused {
            match self.upstream_ward(client, scratch, &mut up) {
                Ok(()) => {}
                Err(Broken::Client(error)) => return Err(error),
                // The upstream is well, and would wait for the rest for ever.
                Err(Broken::Upstream(error)) if is_shortage(&error) => return Err(error),
                Err(Broken::Upstream(error)) => {
                    self.refused = true;
                    // Told once, here: reading will end as if it had finished, but only what says EPIPE had.
                    self.cut =
                        Some(error).filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
                    self.to_upstream = Output::default();
                    self.upstream_piped = Piped::default();
                    self.far.readable = true;
                }
            }
        }
        match self.client_ward(client, scratch, &mut down) {
            Ok(()) => {}
            Err(Broken::Client(error)) => return Err(error),
            Err(Broken::Upstream(error)) => {
                self.far.ended = true;
                self.cut = Some(error);
            }
        }
        self.spoke |= down > 0;
        self.owing |= self.cut.is_some() && down > 0;
        self.upstream_piped.give_back(&mut scratch.pipes);
        self.client_piped.give_back(&mut scratch.pipes);
        *moved = up + down;
        self.expects = Signals::NONE;
        if up > 0 || self.far.told != told {
            self.expects = Signals::FAR_READABLE;
        }
        if down > 0 {
            self.expects = self.expects.and(Signals::READABLE);
        }
        let owing = self.is_client_blocked(client);
        self.owing |= owing;
        if self.far.ended && !owing {
            match self.cut.take() {
                Some(error) if !self.owing => return Err(error),
                Some(_) => return Ok(Progress::Cut),
                None if self.refused || self.client.ended && self.far.told => {
                    return Ok(Progress::Finished);
                }
                None => {}
            }
        }
        if up.max(down) >= SHARE {
            return Ok(Progress::Again);
        }
        if self.far.ended && (*moved > 0 || self.farewell.is_none()) {
            self.farewell = Some(now + FAREWELL);
        } else if self.farewell.is_some_and(|until| now >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Progress::Wait(self.wants(client), self.farewell))
    }

    /// Makes the closing of both sockets a reset: one side broke, and the other must not take what it has
    /// for the whole.
    pub(super) fn reset(&self, stream: &TcpStream) {
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        if let Some(upstream) = &self.upstream {
            upstream.reset();
        }
    }

    /// Where the last turn makes bytes likely: one side's answer to the other's.
    pub(super) fn expects(&self) -> Signals {
        self.expects
    }

    /// True when the client sends no more.
    pub(super) fn has_client_ended(&self) -> bool {
        self.client.ended
    }

    /// Registers the upstream with the poll, once.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        if !self.registered
            && let Some(upstream) = &mut self.upstream
        {
            match upstream.source().register(registry, token, interest) {
                // A session had it before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    upstream.source().reregister(registry, token, interest)?;
                }
                other => other?,
            }
            self.registered = true;
        }
        Ok(())
    }

    /// What the relay waits for: what it can use now, and the end of either side.
    fn wants(&self, client: &Client<'_>) -> Signals {
        let mut wants = ENDS;
        if self.is_client_blocked(client) {
            wants = wants.and(Signals::WRITABLE);
        } else if !self.far.ended {
            wants = wants.and(Signals::FAR_READABLE);
        }
        if self.refused {
            return wants;
        }
        if !self.to_upstream.is_empty() || self.upstream_piped.is_holding() {
            wants = wants.and(Signals::FAR_WRITABLE);
        } else if !self.client.ended {
            wants = wants.and(Signals::READABLE);
        }
        wants
    }

    /// True while something waits for the client to take it.
    fn is_client_blocked(&self, client: &Client<'_>) -> bool {
        client.is_blocked() || self.client_piped.is_holding()
    }

    /// True once the upstream is connected.
    fn connect(&mut self, now: Instant) -> io::Result<bool> {
        loop {
            let Some(dial) = &mut self.dial else {
                return Ok(true);
            };
            if let Some(upstream) = &self.upstream {
                if self.connecting.is_none() {
                    return Ok(true);
                }
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
                self.far.hangup = false;
            }
            let Some((target, timeout)) = dial.next(now) else {
                return Ok(false);
            };
            match Socket::open(&target) {
                Ok(socket) => {
                    self.upstream = Some(socket);
                    self.connecting = Some(now + timeout.max(Duration::from_millis(1)));
                }
                // No upstream's fault, and the next one would fail as well.
                Err(error) if is_shortage(&error) => return Err(error),
                Err(error) => dial.outcome(&Err(error), now),
            }
        }
    }

    fn upstream_ward(
        &mut self,
        client: &mut Client<'_>,
        scratch: &mut RelayScratch,
        moved: &mut usize,
    ) -> Result<(), Broken> {
        let RelayScratch { buffer, pipes } = scratch;
        let Some(upstream) = &mut self.upstream else {
            return Ok(());
        };
        loop {
            while !self.to_upstream.is_empty() {
                match accepted(|| upstream.write(self.to_upstream.front())) {
                    Ok(0) => return Ok(()),
                    Ok(count) => {
                        self.to_upstream.advance(count);
                        *moved += count;
                    }
                    Err(error) => return Err(Broken::Upstream(error)),
                }
            }
            while self.upstream_piped.is_holding() {
                match accepted(|| self.upstream_piped.drain(&*upstream)) {
                    Ok(0) => return Ok(()),
                    Ok(count) => *moved += count,
                    Err(error) => return Err(Broken::Upstream(error)),
                }
            }
            if self.client.ended {
                if !self.far.told {
                    self.far.told = true;
                    upstream.finish();
                }
                return Ok(());
            }
            if !self.client.readable || *moved >= SHARE {
                return Ok(());
            }
            if self.upstream_piped.is_bulk() {
                match self.upstream_piped.fill(&*client.stream, pipes) {
                    Ok(count) => {
                        self.client.ended = count == Some(0);
                        client.transport.received += count.unwrap_or(0) as u64;
                    }
                    Err(error) => self.client.dry(error).map_err(Broken::Client)?,
                }
                continue;
            }
            match client.transport.receive(client.stream, buffer) {
                Ok((0, Got::Truncated)) => {
                    return Err(Broken::Client(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok((0, _)) => self.client.ended = true,
                Ok((count, _)) => {
                    let drained = count < buffer.len() && client.transport.is_clear();
                    self.client.readable = !drained || self.client.hangup;
                    if count == buffer.len() && client.transport.is_clear() {
                        self.upstream_piped.expect_bulk();
                    }
                    let taken =
                        accepted(|| upstream.write(&buffer[..count])).map_err(Broken::Upstream)?;
                    *moved += taken;
                    self.to_upstream.write(&buffer[taken..count]);
                }
                Err(error) => self.client.dry(error).map_err(Broken::Client)?,
            }
        }
    }

    fn client_ward(
        &mut self,
        client: &mut Client<'_>,
        scratch: &mut RelayScratch,
        moved: &mut usize,
    ) -> Result<(), Broken> {
        let RelayScratch { buffer, pipes } = scratch;
        let Some(upstream) = &mut self.upstream else {
            return Ok(());
        };
        let mut ended = false;
        loop {
            if std::mem::take(&mut ended) {
                self.far.ended = true;
                if !self.refused && !self.far.told && upstream.was_reset() {
                    self.cut = Some(io::ErrorKind::ConnectionReset.into());
                    self.owing |= self.spoke;
                }
            }
            let flushed = client.transport.flush(client.stream, client.output);
            if flushed.map_err(Broken::Client)? == Flushed::Blocked {
                return Ok(());
            }
            while self.client_piped.is_holding() {
                match accepted(|| self.client_piped.drain(&*client.stream)) {
                    Ok(0) => return Ok(()),
                    Ok(count) => {
                        *moved += count;
                        client.transport.sent += count as u64;
                    }
                    Err(error) => return Err(Broken::Client(error)),
                }
            }
            if self.far.ended {
                // Where both have ended the close tells, once the slot is free. What was cut short has no end.
                if !self.client.told && !self.client.ended && self.cut.is_none() {
                    self.client.told = true;
                    client.transport.finish(client.stream);
                    let _ = client.stream.shutdown(std::net::Shutdown::Write);
                }
                return Ok(());
            }
            if !self.far.readable || *moved >= SHARE {
                return Ok(());
            }
            if self.client_piped.is_bulk() {
                match self.client_piped.fill(&*upstream, pipes) {
                    Ok(Some(0)) => ended = true,
                    Ok(_) => {}
                    Err(error) => self.far.dry(error).map_err(Broken::Upstream)?,
                }
                continue;
            }
            match retry(|| upstream.read(buffer)) {
                Ok(0) => ended = true,
                Ok(count) => {
                    self.far.readable = count == buffer.len() || self.far.hangup;
                    if count == buffer.len() && client.transport.is_clear() {
                        self.client_piped.expect_bulk();
                    }
                    let sent = client.transport.send(client.stream, &buffer[..count]);
                    let taken = sent.map_err(Broken::Client)?;
                    *moved += count;
                    client.output.write(&buffer[taken..count]);
                }
                Err(error) => self.far.dry(error).map_err(Broken::Upstream)?,
            }
        }
    }
}

/// The end of either side, a time to come, or an order to stop.
const ENDS: Signals = Signals::HANGUP.and(Signals::FAR_HANGUP).and(Signals::DUE);
const CONNECTING: Signals = ENDS.and(Signals::FAR_WRITABLE);

/// How many bytes a socket took; 0 when it takes no more for now.
fn accepted(write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    match retry(write) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
