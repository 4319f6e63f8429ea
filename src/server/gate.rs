#![forbid(unsafe_code)]
//! Admission at run time: newcomers climb the ladder here, on the poll thread, and become connections.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::net::TcpStream;

use super::census::Card;
use super::core::{Core, Resident, SlotGuard};
use super::listener::{TcpListener, TcpSocket};
use super::parked::Signals;
use super::preface::{Preface, Progress};
use super::refusals::Refusals;
use super::sockets;
use super::warden::Warden;
use crate::admission::ladder::{self, Admitted, Cleared, Reason, Restriction};
use crate::admission::rates::Rates;
use crate::config::plan::{Network, TlsMode};
use crate::connection::Connection;
use crate::session::{Peer, Security};

/// The most time a newcomer that a count would refuse waits for turns that are under way. A peer that
/// closes and connects anew is often faster than the turn that sees its close.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// The least time it waits: a close and a new connection that were sent one after the other may reach us
/// in this order on a loaded machine.
const SECOND_LOOK: Duration = Duration::from_millis(10);
/// How often those turns are looked at while nothing else happens.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Newcomers that wait for a second look; further ones are refused at once.
const MOST_DOUBTFUL: usize = 128;

/// A stream that was accepted, and on whose behalf.
pub(super) struct Newcomer {
    pub(super) stream: TcpStream,
    /// The sender's address, or the one in its PROXY header.
    pub(super) remote: SocketAddr,
    pub(super) socket: Arc<TcpSocket>,
    /// Held by those that have been watched by the poll already.
    pub(super) slot: Option<SlotGuard>,
}

/// A newcomer whom a count would refuse now.
struct Doubtful {
    newcomer: Newcomer,
    since: Instant,
    /// The turns that may still free a slot for it; known once the events that came with it are queued.
    mark: Option<u64>,
}

/// Decides about newcomers and speaks of those it refuses.
pub(super) struct Gate {
    core: Arc<Core>,
    network: Arc<Network>,
    warden: Arc<Warden>,
    refusals: Vec<(Arc<str>, Refusals)>,
    /// Listeners with refusals that nobody has spoken of yet.
    hushed: Vec<usize>,
    doubtful: VecDeque<Doubtful>,
    /// Listeners that were asked to tell when a slot becomes free.
    waiting: Vec<Arc<TcpListener>>,
}

impl Gate {
    pub(super) fn new(core: Arc<Core>, warden: Arc<Warden>) -> Self {
        Gate {
            core,
            network: Arc::default(),
            warden,
            refusals: Vec::new(),
            hushed: Vec::new(),
            doubtful: VecDeque::new(),
            waiting: Vec::new(),
        }
    }

    /// Other lists from now on; the old ones come back.
    pub(super) fn replace(&mut self, network: Arc<Network>) -> Arc<Network> {
        std::mem::replace(&mut self.network, network)
    }

    /// Makes room for the refusals of further listeners.
    pub(super) fn name(&mut self, names: Vec<Arc<str>>) {
        let named = names.into_iter().map(|name| (name, Refusals::default()));
        self.refusals.extend(named);
    }

    /// Refuses whoever is not in yet.
    pub(super) fn close(&mut self) {
        for doubtful in std::mem::take(&mut self.doubtful) {
            sockets::reset(doubtful.newcomer.stream);
        }
        self.waiting.clear();
    }

    /// Takes a stream just accepted.
    pub(super) fn accepted(
        &mut self,
        socket: &Arc<TcpSocket>,
        stream: TcpStream,
        remote: SocketAddr,
        now: Instant,
    ) {
        let newcomer = Newcomer {
            stream,
            remote,
            socket: Arc::clone(socket),
            slot: None,
        };
        let proxies = socket.plan.proxy_from.as_ref();
        if proxies.is_some_and(|list| list.contains(remote.ip())) {
            match Preface::new(newcomer, &self.core, now) {
                Ok(preface) => self.preface(Box::new(preface), Signals::NONE),
                Err(newcomer) => self.refuse(newcomer, Reason::Full),
            }
        } else {
            self.decide(newcomer, now);
        }
    }

    /// Goes on with a PROXY header; the address in it climbs the ladder.
    pub(super) fn preface(&mut self, mut preface: Box<Preface>, signals: Signals) {
        let listener = Arc::clone(&preface.newcomer.socket.listener);
        let sender = preface.newcomer.remote;
        match preface.turn(signals) {
            Progress::Wait => {
                let core = Arc::clone(&self.core);
                if let Err((preface, signals)) = core.park_preface(preface) {
                    self.preface(preface, signals);
                }
            }
            Progress::Known(remote) => {
                let mut newcomer = preface.newcomer;
                newcomer.remote = remote.map_or(sender, sockets::canonical);
                self.decide(newcomer, Instant::now());
            }
            Progress::Bad(why) => {
                listener.counters.bad_preface();
                listener.complain(format_args!("{sender}: {why}; its connection is closed"));
                sockets::reset(preface.newcomer.stream);
            }
            Progress::Gone => {}
        }
    }

    fn decide(&mut self, mut newcomer: Newcomer, now: Instant) {
        // It may have waited for its PROXY header while the rules changed.
        if newcomer.socket.successor.get().is_some() {
            newcomer.socket = newcomer.socket.newest();
        }
        let socket = &newcomer.socket;
        let listener = &socket.listener;
        let (ip, restriction) = (newcomer.remote.ip(), &socket.plan.restriction);
        let cleared = match self.clear(ip, restriction, SystemTime::now()) {
            Ok(cleared) => cleared,
            Err(reason) => return self.refuse(newcomer, reason),
        };
        // What is left is for clients.
        if !self.core.pressure.stage().admits(cleared.class()) {
            return self.refuse(newcomer, Reason::Reserved);
        }
        match listener.limits.admit(cleared) {
            Ok(admitted) => self.admit(newcomer, admitted, now),
            // Nobody is there any more to be refused.
            Err(_) if has_left(&newcomer.stream) => {}
            Err(_) if self.doubtful.len() < MOST_DOUBTFUL => {
                if !listener.limits.is_waiting() {
                    listener.limits.set_waiting(true);
                    self.waiting.push(Arc::clone(listener));
                }
                self.doubtful.push_back(Doubtful {
                    newcomer,
                    since: now,
                    mark: None,
                });
            }
            Err((reason, _)) => self.refuse(newcomer, reason),
        }
    }

    /// The rungs that need no count.
    pub(super) fn clear(
        &self,
        remote: IpAddr,
        restriction: &Restriction,
        wall: SystemTime,
    ) -> Result<Cleared, Reason> {
        ladder::clear(remote, &self.network, &self.warden.bans, restriction, wall)
    }

    /// Climbs the rungs for a datagram: those that look at the address, then the rate.
    pub(super) fn clear_datagram(
        &self,
        remote: IpAddr,
        restriction: &Restriction,
        (wall, now): (SystemTime, Instant),
        rates: &Rates,
    ) -> Result<Cleared, Reason> {
        let cleared = self.clear(remote, restriction, wall)?;
        match rates.admits(&cleared, now) {
            true => Ok(cleared),
            false => Err(Reason::Rate),
        }
    }

    /// Decides about newcomers that a count would have refused, once nothing under way can change it.
    pub(super) fn look_again(&mut self, now: Instant) {
        if self.doubtful.is_empty() {
            return;
        }
        let mark = self.core.mark();
        let mut moved = false;
        for _ in 0..self.doubtful.len() {
            let Some(mut doubtful) = self.doubtful.pop_front() else {
                return;
            };
            let settled = now >= doubtful.since + SECOND_LOOK
                && doubtful.mark.is_some_and(|mark| self.core.has_passed(mark));
            let mut newcomer = doubtful.newcomer;
            newcomer.socket = newcomer.socket.newest();
            // A ban or a reload may have come meanwhile.
            let restriction = &newcomer.socket.plan.restriction;
            let cleared = self.clear(newcomer.remote.ip(), restriction, SystemTime::now());
            let limits = &newcomer.socket.listener.limits;
            let admitted = match cleared {
                Ok(cleared) => limits.admit(cleared),
                Err(reason) => {
                    self.refuse(newcomer, reason);
                    continue;
                }
            };
            match admitted {
                Ok(admitted) => {
                    moved = true;
                    self.admit(newcomer, admitted, now);
                }
                Err(_) if has_left(&newcomer.stream) => {}
                Err((reason, _)) if !moved && (settled || now >= doubtful.since + LAST_LOOK) => {
                    self.refuse(newcomer, reason);
                }
                Err(_) => {
                    // One that was just let in may be as short-lived as the one before it.
                    doubtful.mark = if moved {
                        None
                    } else {
                        doubtful.mark.or(Some(mark))
                    };
                    self.doubtful.push_back(Doubtful {
                        newcomer,
                        ..doubtful
                    });
                }
            }
        }
        if self.doubtful.is_empty() {
            for listener in self.waiting.drain(..) {
                listener.limits.set_waiting(false);
            }
        }
    }

    /// Whether newcomers wait for a second look.
    pub(super) fn is_deciding(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// True when a newcomer has to be marked before the poll sleeps.
    pub(super) fn is_hasty(&self) -> bool {
        self.doubtful.iter().any(|doubtful| doubtful.mark.is_none())
    }

    /// When the gate has something to do by itself.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let doubtful = (!self.doubtful.is_empty()).then(|| now + LOOK_AGAIN);
        let refusals = self
            .hushed
            .iter()
            .filter_map(|index| self.refusals[*index].1.next());
        doubtful.into_iter().chain(refusals).min()
    }

    fn admit(&mut self, newcomer: Newcomer, admitted: Admitted, now: Instant) {
        let Newcomer {
            stream,
            remote,
            socket,
            slot,
        } = newcomer;
        let Ok(local) = sockets::local_address(&stream, &socket.plan) else {
            return;
        };
        let listener = &socket.listener;
        listener.counters.accept();
        let tls = socket.plan.tls;
        let peer = Arc::new(Peer {
            remote,
            local,
            class: admitted.class(),
            cluster: admitted.cluster(),
            blacklisted: admitted.blacklisted(),
            security: match tls {
                TlsMode::Ext => Security::External,
                TlsMode::Off | TlsMode::On => Security::Clear,
            },
            may_start_tls: tls == TlsMode::Off && socket.acceptors.can_serve(local.ip()),
            listener: Arc::clone(&listener.name),
        });
        listener.log(log::Level::Debug, format_args!("{remote} connected"));
        let card = Card {
            peer: Arc::clone(&peer),
            since: now.into(),
        };
        let slot = match slot {
            Some(slot) => {
                slot.introduce(card);
                slot
            }
            None => self.core.reserve(Some(card)),
        };
        let connection = Connection::new(admitted, stream, Some(slot), peer, &socket, now);
        // Also where the client speaks first: it has spoken by now, more often than not.
        let resident = Resident::Connection(connection);
        self.core.enqueue(resident, Signals::NONE);
    }

    fn refuse(&mut self, newcomer: Newcomer, reason: Reason) {
        let Newcomer {
            stream,
            remote,
            socket,
            ..
        } = newcomer;
        // Counted before the peer can see it.
        socket.listener.counters.reject(reason);
        sockets::reset(stream);
        self.refused(socket.refusals, socket.listener.log_level, reason, remote);
    }

    /// Speaks of a refusal, or keeps it back for later.
    pub(super) fn refused(
        &mut self,
        index: usize,
        level: log::LevelFilter,
        reason: Reason,
        remote: SocketAddr,
    ) {
        if level < log::LevelFilter::Info {
            return;
        }
        let (name, lately) = &mut self.refusals[index];
        let hushed = lately.next().is_some();
        match lately.note(reason, remote.ip(), Instant::now()) {
            Some(line) => log::info!(target: name, "{line}"),
            None if !hushed => self.hushed.push(index),
            None => {}
        }
    }

    /// Logs what was kept back of refusals.
    pub(super) fn speak(&mut self, now: Instant) {
        let refusals = &mut self.refusals;
        self.hushed.retain(|index| {
            let (name, refusals) = &mut refusals[*index];
            while let Some(line) = refusals.overdue(now) {
                log::info!(target: name, "{line}");
            }
            refusals.next().is_some()
        });
    }
}

/// True when the peer closed before it was decided about, without having sent a byte.
fn has_left(stream: &TcpStream) -> bool {
    matches!(stream.peek(&mut [0]), Ok(0))
}
