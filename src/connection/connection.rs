#![forbid(unsafe_code)]
//! A connection and its turn: flush, read, session, write, until it would wait for its peer.
//!
//! Data travels one way: the poll loop makes a [`Connection`] of an [`Admitted`], a worker runs its turn,
//! and the [`Fate`] says where it goes next.

mod handed_on;
mod shaking;

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::net::TcpStream;

use super::driver::{Driver, Surroundings, Wait};
use super::lingering::Lingering;
use super::program::Running;
use super::relay::Relaying;
use super::secure::SecureScratch;
use super::transport::{Flushed, Got, Transport};
use crate::admission::ladder::Admitted;
use crate::config::plan::TlsMode;
use crate::moment::Moment;
use crate::server::census::Phase;
use crate::server::core::{Core, SlotGuard};
use crate::server::listener::{TcpListener, TcpSocket};
use crate::server::parked::{Key, Signals};
use crate::server::workers::Scratch;
use crate::session::{Outcome, Peer, Work};

/// Reads in one turn before a busy connection goes to the back of the queue.
const READS_A_TURN: u32 = 16;
/// Pieces of a long answer in one turn, likewise.
const DRAINS_A_TURN: u32 = 4;
/// A reader that takes so much is not idle, however long the whole takes; one that takes less within the idle
/// timeout (at a minute, 4 KiB a second) is cut off.
const PROGRESS: u64 = 256 * 1024;

/// An admitted connection. Moves by value: it is in the queue, in a worker, or parked.
pub(crate) struct Connection {
    /// First, so that the slot is free before the socket closes.
    admitted: Option<Admitted>,
    driver: Driver,
    transport: Transport,
    peer: Arc<Peer>,
    /// What it came to, and by whose rules it is served.
    socket: Arc<TcpSocket>,
    stream: TcpStream,
    slot: Option<SlotGuard>,
    outcome: Option<Box<Outcome>>,
    /// Bytes are carried to and from an upstream; the session has said its last word.
    relay: Option<Box<Relaying>>,
    /// A program has the connection; ended with it.
    program: Option<Box<Running>>,
    /// Until when a handshake that is under way must be complete.
    shaking: Option<Moment>,
    /// The socket may hold bytes that were not read.
    readable: bool,
    /// The session's own socket may be read or written.
    far_ready: bool,
    /// What had been sent when the idle time began anew for it.
    progress: u64,
    /// The poll said that the peer finished; a short read does not mean that nothing is left.
    hangup: bool,
    /// What the last turn makes likely.
    expects: Signals,
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
        slot: Option<SlotGuard>,
        peer: Arc<Peer>,
        socket: &Arc<TcpSocket>,
        now: Instant,
    ) -> Box<Self> {
        let listener = &socket.listener;
        let mut driver = Driver::new(listener.idle_timeout, now);
        let mut transport = Transport::default();
        let mut shaking = None;
        if socket.plan.tls == TlsMode::On {
            transport.secure(None);
            shaking = Some((now + listener.handshake_timeout).into());
        } else {
            driver.open(listener.module.open(&peer), now);
        }
        if let Some(slot) = &slot {
            slot.facts().secured(&peer.security);
            if shaking.is_some() {
                slot.facts().enter(Phase::Handshake);
            }
        }
        Box::new(Connection {
            admitted: Some(admitted),
            driver,
            transport,
            shaking,
            relay: None,
            program: None,
            peer,
            socket: Arc::clone(socket),
            stream,
            slot,
            outcome: None,
            readable: true,
            far_ready: false,
            progress: 0,
            hangup: false,
            expects: Signals::NONE,
        })
    }

    /// The socket and the slot, for registration with the poll.
    pub(crate) fn parts(&mut self) -> (&mut TcpStream, &mut Option<SlotGuard>) {
        (&mut self.stream, &mut self.slot)
    }

    /// Whose connection it is.
    pub(crate) fn listener(&self) -> &Arc<TcpListener> {
        &self.socket.listener
    }

    /// The result of work given away, for the next turn.
    pub(crate) fn deliver(&mut self, outcome: Outcome) {
        self.outcome = Some(Box::new(outcome));
    }

    /// What is likely to come soon: its last turn moved bytes, and this is where the answer comes from.
    pub(crate) fn expects(&self) -> Signals {
        self.expects
    }

    /// Registers a relay's upstream with the poll, before the connection rests for the first time.
    pub(crate) fn watch_far(&mut self, core: &Core, key: Key) -> io::Result<()> {
        let Some(relaying) = &mut self.relay else {
            return Ok(());
        };
        core.register_far(key, |registry, token| relaying.register(registry, token))
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
        self.transport.lend(&mut scratch.secure);
        let is_cut = self.slot.as_ref().is_some_and(|slot| slot.facts().is_cut());
        let after = if is_cut || signals.has(Signals::CUT) {
            self.cut()
        } else {
            self.run(signals, scratch, core)
        };
        self.transport.give_back(&mut scratch.secure);
        self.driver.input.give_back(&mut scratch.input);
        self.driver.output.give_back(&mut scratch.output);
        self.tell_census(&after);
        match after {
            After::Park(wants, deadline) => Fate::Park(self, wants, deadline),
            After::Yield => Fate::Yield(self),
            After::Work(work) => Fate::Work(self, work),
            After::Close => {
                drop(self.admitted.take());
                self.transport.finish(&mut self.stream);
                self.close(core)
            }
            After::Cut => self.close(core),
            After::Abort => {
                drop(self.admitted.take());
                // Nothing pending is to be sent: the peer sees a reset.
                let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                Fate::Closed
            }
            After::Gone => Fate::Closed,
        }
    }

    /// A person wants it to end: at once, for both sides of a relay.
    fn cut(&mut self) -> After {
        if let Some(relay) = &self.relay {
            relay.reset(&self.stream);
        }
        After::Abort
    }

    /// Notes what a person may want to see.
    fn tell_census(&self, after: &After) {
        let Some(slot) = &self.slot else { return };
        let phase = match after {
            After::Close => Phase::Closing,
            After::Work(_) => Phase::Work,
            _ if self.shaking.is_some() => Phase::Handshake,
            _ if self.program.is_some() && self.relay.is_none() => Phase::Program,
            _ if self.relay.is_some() => Phase::Relay,
            _ => Phase::Session,
        };
        let Transport { received, sent, .. } = self.transport;
        slot.facts().note(received, sent, phase);
    }

    fn run(&mut self, signals: Signals, scratch: &mut Scratch, core: &Arc<Core>) -> After {
        let now = Instant::now();
        self.expects = Signals::NONE;
        self.hangup |= signals.has(Signals::HANGUP);
        self.readable |= signals.has(READ);
        self.far_ready |= signals.has(FAR);
        if signals.has(Signals::WOKEN) {
            self.driver.request_wake();
        }
        if signals.has(Signals::SHUTDOWN) {
            self.driver.request_shutdown();
        }
        if let Some(outcome) = self.outcome.take() {
            self.tell(now, core, |driver, around| driver.done(*outcome, around));
        }
        if let Some(relay) = &mut self.relay
            && let Err(error) = relay.heed(signals, &self.stream)
        {
            return self.broken(&error);
        }
        let (mut reads, mut drains, mut fars) = (0, 0, 0);
        loop {
            if self.program.is_some() && self.relay.is_none() {
                return self.attend(signals, core);
            }
            if self.relay.is_some()
                && let Some(after) = self.carry(now, &mut scratch.relay, core)
            {
                return after;
            }
            if let Some(until) = self.shaking
                && let Some(after) = self.shake(now, until.into(), core)
            {
                return after;
            }
            while self.tell(now, core, Driver::step) {}
            let flushed = match self
                .transport
                .flush(&mut self.stream, &mut self.driver.output)
            {
                Ok(flushed) => flushed,
                Err(error) => return self.broken(&error),
            };
            if self.transport.sent - self.progress >= PROGRESS {
                self.progress = self.transport.sent;
                self.driver.restart_idle(now);
            }
            if let Some(after) = self.leave(flushed, now, &mut scratch.secure, core) {
                return after;
            }
            let handed_on = self.relay.is_some() || self.program.is_some();
            if handed_on || matches!(self.driver.wait, Wait::StartTls) {
                continue;
            }
            if matches!(self.driver.wait, Wait::Drain) {
                // A reader as fast as we are would keep the worker for the whole of a long answer.
                if drains == DRAINS_A_TURN {
                    return After::Yield;
                }
                drains += 1;
                continue;
            }
            if matches!(self.driver.wait, Wait::Far(_)) {
                match self.await_far(flushed, now, core) {
                    Some(after) => return after,
                    None => {
                        if fars == FARS_A_TURN {
                            return After::Yield;
                        }
                        fars += 1;
                        continue;
                    }
                }
            }
            if !self.driver.may_read() || !self.readable {
                if self.tell(now, core, Driver::step) {
                    continue;
                }
                let wants = if flushed == Flushed::Blocked {
                    READ.and(WRITE)
                } else {
                    READ
                };
                return After::Park(wants, self.driver.deadline());
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
                    self.expects = Signals::READABLE;
                    self.readable = more || self.hangup;
                    self.tell(now, core, Driver::take_input);
                }
                Ok(Got::Nothing) => self.readable = false,
                Ok(got @ (Got::End | Got::Truncated)) => {
                    self.readable = false;
                    self.driver.finish(got == Got::Truncated);
                }
                Err(error) => return self.broken(&error),
            }
        }
    }

    /// Where the session's last word leads, if it leads away from reading.
    fn leave(
        &mut self,
        flushed: Flushed,
        now: Instant,
        scratch: &mut SecureScratch,
        core: &Arc<Core>,
    ) -> Option<After> {
        match &mut self.driver.wait {
            Wait::Abort => return Some(After::Abort),
            Wait::Work(work) => {
                return Some(work.take().map_or(After::Abort, |work| After::Work(*work)));
            }
            Wait::Open
            | Wait::Read
            | Wait::Pause
            | Wait::Drain
            | Wait::StartTls
            | Wait::Relay(_)
            | Wait::Exec(_)
            | Wait::Close => {}
            // Output may wait while the session waits for its own socket.
            Wait::Far(_) => return None,
        }
        if flushed == Flushed::Blocked {
            if self.driver.is_idle(now) {
                return Some(After::Abort);
            }
            let reads = self.driver.may_read();
            return (!reads).then(|| After::Park(WRITE, self.driver.deadline()));
        }
        match self.driver.wait {
            Wait::Close => Some(After::Close),
            Wait::StartTls if self.peer.may_start_tls => {
                // What the client sent ahead of the handshake was sent by anybody (RFC 3207, 4.2).
                self.driver.input.clear();
                self.transport.secure(Some(scratch));
                self.shaking = Some((now + self.listener().handshake_timeout).into());
                None
            }
            Wait::Relay(_) => {
                let Wait::Relay(Some(relay)) =
                    std::mem::replace(&mut self.driver.wait, Wait::Close)
                else {
                    return Some(After::Abort);
                };
                self.begin_relay(*relay, now)
            }
            Wait::Exec(_) => {
                let Wait::Exec(Some(program)) =
                    std::mem::replace(&mut self.driver.wait, Wait::Close)
                else {
                    return Some(After::Abort);
                };
                self.begin_program(&program, now, core)
            }
            Wait::StartTls => {
                self.listener().complain(format_args!(
                    "the module asked for what this socket cannot do"
                ));
                Some(After::Abort)
            }
            Wait::Open
            | Wait::Read
            | Wait::Pause
            | Wait::Drain
            | Wait::Work(_)
            | Wait::Far(_)
            | Wait::Abort => None,
        }
    }

    /// Gives the driver what surrounds its session.
    fn tell<R>(
        &mut self,
        now: Instant,
        core: &Arc<Core>,
        what: impl FnOnce(&mut Driver, &mut Surroundings<'_>) -> R,
    ) -> R {
        let Connection {
            driver,
            peer,
            slot,
            socket,
            ..
        } = self;
        let mut waker = || core.waker(slot.get_or_insert_with(|| core.reserve(None)).key());
        let mut around = Surroundings {
            peer,
            now,
            wall: SystemTime::now(),
            waker: &mut waker,
        };
        let result = what(driver, &mut around);
        // Before the peer can see an answer: the next connection of its shall find the ban.
        for abuse in driver.abuse.take().into_iter().flat_map(|abuse| *abuse) {
            socket.listener.report(peer.remote.ip(), abuse);
        }
        result
    }

    fn broken(&self, error: &io::Error) -> After {
        if let Some(relay) = &self.relay {
            relay.reset(&self.stream);
        }
        self.listener().log(
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
        Fate::Linger(Lingering::new(stream, slot, count))
    }
}

enum After {
    Park(Signals, Instant),
    Yield,
    /// Closed without the word that nothing is missing, where the protocol has one.
    Cut,
    Work(Work),
    Close,
    Abort,
    Gone,
}

/// What may come of a session's own socket.
const FAR: Signals = Signals::FAR_READABLE
    .and(Signals::FAR_WRITABLE)
    .and(Signals::FAR_HANGUP);
/// Goings-on with a session's own socket in one turn, likewise.
const FARS_A_TURN: u32 = 16;
pub(super) const READ: Signals = Signals::READABLE
    .and(Signals::HANGUP)
    .and(Signals::WOKEN)
    .and(Signals::DUE)
    .and(Signals::SHUTDOWN);
const WRITE: Signals = Signals::WRITABLE.and(Signals::HANGUP).and(Signals::DUE);
