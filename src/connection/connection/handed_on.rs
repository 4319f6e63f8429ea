#![forbid(unsafe_code)]
//! Turns of a connection whose session has handed it on: to an upstream, to a program, or to a far server that
//! it waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::{After, Connection, FAR};
use crate::connection::driver::{Driver, Wait};
use crate::connection::program::Running;
use crate::connection::relay::{Client, Progress, RelayScratch, Relaying};
use crate::connection::transport::Flushed;
use crate::server::core::Core;
use crate::server::parked::Signals;
use crate::session::{Program, Relay, Upstream, UpstreamStream};

/// The end of the program, or of its peer.
const PROGRAM: Signals = Signals::FAR_READABLE.and(Signals::HANGUP).and(Signals::DUE);
/// How often a program is looked at though nothing was heard of it.
const LOOK_AT_PROGRAM: Duration = Duration::from_secs(3600);

impl Connection {
    pub(super) fn begin_relay(&mut self, relay: Relay, now: Instant) -> Option<After> {
        match Relaying::new(relay, &mut self.driver.input, self.hangup) {
            Ok(relaying) => {
                self.relay = Some(Box::new(relaying));
                self.driver.restart_idle(now);
                None
            }
            Err(error) => Some(self.broken(&error)),
        }
    }

    /// Hands the connection to a program: the socket itself, unless something of ours is between.
    pub(super) fn begin_program(
        &mut self,
        program: &Program,
        now: Instant,
        core: &Arc<Core>,
    ) -> Option<After> {
        let bare = self.transport.is_clear() && self.driver.input.is_empty();
        let started = if bare {
            Running::on_socket(program, &self.stream, core).map(|running| (running, None))
        } else {
            Running::on_pair(program, core).map(|(running, pair)| (running, Some(pair)))
        };
        match started {
            Ok((running, pair)) => {
                self.program = Some(Box::new(running));
                let stream = UpstreamStream::Unix(pair?);
                let relay = Relay {
                    upstream: Upstream::Connected(stream),
                    ahead: Vec::new(),
                };
                self.begin_relay(relay, now)
            }
            Err(error) => {
                let file = program.command.first().map(|file| file.display());
                let file = file.map(|file| file.to_string()).unwrap_or_default();
                self.listener()
                    .complain(format_args!("cannot run {file}: {error}"));
                Some(After::Abort)
            }
        }
    }

    /// Looks after a program that has the socket to itself.
    pub(super) fn attend(&mut self, signals: Signals, core: &Arc<Core>) -> After {
        let Connection {
            program,
            stream,
            slot,
            ..
        } = self;
        let Some(program) = program else {
            return After::Abort;
        };
        if program.has_ended() {
            // Ours again: the peer's last bytes are heard out without blocking.
            let ours = socket2::SockRef::from(&*stream).set_nonblocking(true);
            return ours.map_or(After::Abort, |()| After::Close);
        }
        // A peer that only finished sending may still want the answer. Of a reset the program may have heard
        // first, and then no error is left for us, but no peer either.
        let is_gone = |stream: &TcpStream| {
            !matches!(stream.take_error(), Ok(None)) || stream.peer_addr().is_err()
        };
        if signals.has(Signals::HANGUP) && is_gone(stream) {
            return After::Abort;
        }
        let key = slot.get_or_insert_with(|| core.reserve(None)).key();
        let registered =
            core.register_far(key, |registry, token| program.register(registry, token));
        match registered {
            Ok(()) => After::Park(PROGRAM, Instant::now() + LOOK_AT_PROGRAM),
            Err(error) => self.broken(&error),
        }
    }

    /// Carries bytes to and from the upstream; `None` when there is none and the session goes on.
    pub(super) fn carry(
        &mut self,
        now: Instant,
        scratch: &mut RelayScratch,
        core: &Arc<Core>,
    ) -> Option<After> {
        let Connection {
            relay,
            stream,
            transport,
            driver,
            expects,
            ..
        } = self;
        let relaying = relay.as_mut()?;
        let mut moved = 0;
        let mut client = Client {
            stream,
            transport,
            output: &mut driver.output,
        };
        let progress = relaying.run(now, &mut client, scratch, &mut moved);
        *expects = relaying.expects();
        if moved > 0 {
            driver.restart_idle(now);
        }
        match progress {
            Ok(Progress::Wait(wants, until)) => {
                if driver.is_idle(now) {
                    return Some(After::Abort);
                }
                let deadline = driver.deadline();
                let until = until.map_or(deadline, |until| until.min(deadline));
                Some(After::Park(wants, until))
            }
            Ok(Progress::Again) => Some(After::Yield),
            Ok(Progress::Unreachable) => {
                self.relay = None;
                self.tell(now, core, Driver::unreachable);
                None
            }
            Ok(Progress::Finished) => {
                if relaying.has_client_ended() {
                    driver.finish(false);
                }
                Some(After::Close)
            }
            Ok(Progress::Cut) => Some(After::Cut),
            Err(error) => Some(self.broken(&error)),
        }
    }

    /// Gives the session its own socket back when that may go on; else rests.
    pub(super) fn await_far(
        &mut self,
        flushed: Flushed,
        now: Instant,
        core: &Arc<Core>,
    ) -> Option<After> {
        // A peer that only finished sending may still want the answer.
        if self.hangup && !matches!(self.stream.take_error(), Ok(None)) {
            return Some(After::Abort);
        }
        let Wait::Far(far) = &mut self.driver.wait else {
            return None;
        };
        let Some(mut socket) = far.take() else {
            return Some(After::Abort);
        };
        if std::mem::take(&mut self.far_ready) || self.driver.deadline() <= now {
            self.tell(now, core, |driver, around| driver.far(socket, around));
            return None;
        }
        let key = self.slot.get_or_insert_with(|| core.reserve(None)).key();
        let registered = core.register_far(key, |registry, token| socket.register(registry, token));
        self.driver.wait = Wait::Far(Some(socket));
        if let Err(error) = registered {
            return Some(self.broken(&error));
        }
        let mut wants = FAR.and(Signals::HANGUP).and(Signals::DUE);
        if flushed == Flushed::Blocked {
            wants = wants.and(Signals::WRITABLE);
        }
        Some(After::Park(wants, self.driver.deadline()))
    }
}
