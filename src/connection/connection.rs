#![forbid(unsafe_code)]
//! A connection and its turn: flush, read, session, write, until it would wait for its peer.
//!
//! Data travels one way: the poll loop makes a [`Connection`] of an [`Admitted`], a worker runs its turn,
//! and the [`Fate`] says where it goes next.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::net::TcpStream;

use super::driver::{Driver, Surroundings, Wait};
use super::transport::{Flushed, Got, Transport};
use crate::admission::ladder::Admitted;
use crate::server::listener::TcpListener;
use crate::server::parked::Signals;
use crate::server::workers::{Core, LingerGuard, Scratch, SlotGuard};
use crate::session::{Outcome, Peer, Work};

/// Reads in one turn before a busy connection goes to the back of the queue.
const READS_A_TURN: u32 = 16;

/// An admitted connection. Moves by value: it is in the queue, in a worker, or parked.
pub(crate) struct Connection {
    /// First, so that the slot is free before the socket closes.
    admitted: Option<Admitted>,
    driver: Driver,
    transport: Transport,
    peer: Box<Peer>,
    listener: Arc<TcpListener>,
    stream: TcpStream,
    slot: Option<SlotGuard>,
    outcome: Option<Outcome>,
    /// The socket may hold bytes that were not read.
    readable: bool,
    /// The poll said that the peer finished; a short read does not mean that nothing is left.
    hangup: bool,
}

/// Where a connection goes after its turn.
pub(crate) enum Fate {
    /// To rest until one of the signals or the deadline.
    Park(Box<Connection>, Signals, Instant),
    /// To the back of the queue: it used its share.
    Yield(Box<Connection>),
    /// Its work goes to a lane; it rests until that is done.
    Work(Box<Connection>, Work),
    /// Its slot is free and our side is closed; the peer's last bytes are waited for.
    Linger(Lingering),
    /// It is gone.
    Closed,
}

impl Connection {
    /// Takes over a stream that was admitted. The session is opened by the first turn.
    pub(crate) fn new(
        admitted: Admitted,
        stream: TcpStream,
        peer: Box<Peer>,
        listener: Arc<TcpListener>,
        now: Instant,
    ) -> Box<Self> {
        let session = listener.module.open(&peer);
        let driver = Driver::new(session, listener.idle_timeout, now);
        Box::new(Connection {
            admitted: Some(admitted),
            driver,
            transport: Transport::Clear,
            peer,
            listener,
            stream,
            slot: None,
            outcome: None,
            readable: true,
            hangup: false,
        })
    }

    /// The socket and the slot, for registration with the poll.
    pub(crate) fn parts(&mut self) -> (&mut TcpStream, &mut Option<SlotGuard>) {
        (&mut self.stream, &mut self.slot)
    }

    /// The result of work given away, for the next turn.
    pub(crate) fn deliver(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// What a connection waits for that has had no turn yet.
    pub(crate) fn first_rest(&self) -> (Signals, Instant) {
        (READ, self.driver.deadline())
    }

    /// Runs until the connection would wait for its peer, has used its share, or ends.
    pub(crate) fn turn(
        mut self: Box<Self>,
        signals: Signals,
        scratch: &mut Scratch,
        core: &Arc<Core>,
    ) -> Fate {
        self.driver.input.lend(&mut scratch.input);
        self.driver.output.lend(&mut scratch.output);
        let after = self.run(signals, core);
        self.driver.input.give_back(&mut scratch.input);
        self.driver.output.give_back(&mut scratch.output);
        for abuse in self.driver.abuse.drain(..) {
            self.listener.report(self.peer.remote.ip(), abuse);
        }
        match after {
            After::Park(wants, deadline) => Fate::Park(self, wants, deadline),
            After::Yield => Fate::Yield(self),
            After::Work(work) => Fate::Work(self, work),
            After::Close => self.close(core),
            After::Abort => {
                drop(self.admitted.take());
                // Nothing pending is to be sent: the peer sees a reset.
                let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                Fate::Closed
            }
            After::Gone => Fate::Closed,
        }
    }

    fn run(&mut self, signals: Signals, core: &Arc<Core>) -> After {
        let now = Instant::now();
        let slot = &mut self.slot;
        let mut waker = || core.waker(slot.get_or_insert_with(|| core.reserve()).key());
        let mut around = Surroundings {
            peer: &self.peer,
            now,
            wall: SystemTime::now(),
            waker: &mut waker,
        };
        self.hangup |= signals.has(Signals::HANGUP);
        self.readable |= signals.has(READ);
        if signals.has(Signals::WOKEN) {
            self.driver.request_wake();
        }
        if signals.has(Signals::SHUTDOWN) {
            self.driver.request_shutdown();
        }
        if let Some(outcome) = self.outcome.take() {
            self.driver.done(outcome, &mut around);
        }
        let mut reads = 0;
        loop {
            while self.driver.step(&mut around) {}
            let flushed = match self
                .transport
                .flush(&mut self.stream, &mut self.driver.output)
            {
                Ok(flushed) => flushed,
                Err(error) => return self.broken(&error),
            };
            match &mut self.driver.wait {
                Wait::Abort => return After::Abort,
                Wait::Work(work) => {
                    if let Some(work) = work.take() {
                        return After::Work(work);
                    }
                }
                _ => {}
            }
            if flushed == Flushed::Blocked {
                if self.driver.is_idle(now) {
                    return After::Abort;
                }
                if !self.driver.may_read() || !self.readable {
                    let wants = if self.driver.may_read() {
                        READ.and(WRITE)
                    } else {
                        WRITE
                    };
                    return After::Park(wants, self.driver.deadline());
                }
            }
            match self.driver.wait {
                Wait::Read => {}
                Wait::Drain => continue,
                Wait::Close => return After::Close,
                Wait::StartTls | Wait::Relay(_) | Wait::Exec(_) => {
                    log::error!(target: &self.listener.name, "this build has no TLS, relays or programs yet");
                    return After::Abort;
                }
                Wait::Work(_) | Wait::Abort => return After::Abort,
            }
            if !self.driver.may_read() || !self.readable {
                if self.driver.step(&mut around) {
                    continue;
                }
                return After::Park(READ, self.driver.deadline());
            }
            if reads == READS_A_TURN {
                return After::Yield;
            }
            reads += 1;
            match self
                .transport
                .read(&mut self.stream, &mut self.driver.input)
            {
                Ok(Got::Bytes { more }) => {
                    self.readable = more || self.hangup;
                    self.driver.take_input(&mut around);
                }
                Ok(Got::Nothing) => self.readable = false,
                Ok(Got::End) => {
                    self.readable = false;
                    self.driver.finish(false);
                }
                Err(error) => return self.broken(&error),
            }
        }
    }

    fn broken(&self, error: &io::Error) -> After {
        self.listener.log(
            log::Level::Debug,
            format_args!("{}: {error}", self.peer.remote),
        );
        After::Gone
    }

    /// Frees the slot, then lets the peer see the close. A peer that may still be sending is heard out,
    /// since closing a socket with unread bytes would reset what was just written (RFC 9293, 3.10.7).
    fn close(mut self: Box<Self>, core: &Arc<Core>) -> Fate {
        drop(self.admitted.take());
        if self.driver.is_finished() {
            return Fate::Closed;
        }
        let Some(count) = core.may_linger() else {
            return Fate::Closed;
        };
        let Connection { stream, slot, .. } = *self;
        if stream.shutdown(Shutdown::Write).is_err() {
            return Fate::Closed;
        }
        Fate::Linger(Lingering {
            stream,
            slot,
            _count: count,
            heard: 0,
            until: Instant::now() + Lingering::TIME,
        })
    }
}

enum After {
    Park(Signals, Instant),
    Yield,
    Work(Work),
    Close,
    Abort,
    Gone,
}

const READ: Signals = Signals::READABLE
    .and(Signals::HANGUP)
    .and(Signals::WOKEN)
    .and(Signals::DUE)
    .and(Signals::SHUTDOWN);
const WRITE: Signals = Signals::WRITABLE.and(Signals::HANGUP).and(Signals::DUE);

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
        if signals.has(Signals::DUE) || signals.has(Signals::SHUTDOWN) {
            return None;
        }
        scratch.input.resize(16 * 1024, 0);
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
        scratch.input.clear();
        kept.map(|()| {
            let until = self.until;
            (self, READ, until)
        })
    }
}
