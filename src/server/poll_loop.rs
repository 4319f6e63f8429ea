#![forbid(unsafe_code)]
//! The one poll loop: accepts, reads datagrams, minds the parked, and runs no module code.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::datagrams::{Batch, MOST_BATCHES, UdpSockets};
use super::listener::TcpListener;
use super::parked::Signals;
use super::refusals::Refusals;
use super::sockets;
use super::udp_io;
use super::workers::{self, Core};
use crate::admission::bans::Bans;
use crate::admission::ladder::{self, Admitted, Cleared, Reason};
use crate::config::plan::{Network, SocketPlan, TlsMode};
use crate::connection::Connection;
use crate::session::{Peer, Security};

/// Connections accepted from one socket before the others get their share.
const ACCEPT_BUDGET: usize = 64;
/// Receive calls on one socket before the others get their share.
const RECEIVE_BUDGET: usize = 8;
/// How long a socket rests when descriptors have run out.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
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

/// A listening socket and whose it is.
pub(crate) struct Source {
    pub(crate) kind: Kind,
    pub(crate) plan: SocketPlan,
    /// Not read to the end since its last event. Edge-triggered polls speak once.
    undrained: bool,
    /// No descriptors: not before this time.
    paused: Option<Instant>,
}

/// The two transports of a source.
pub(crate) enum Kind {
    Tcp {
        socket: mio::net::TcpListener,
        listener: Arc<TcpListener>,
        refusals: usize,
    },
    Udp {
        group: Arc<UdpSockets>,
        index: u32,
        refusals: usize,
    },
}

impl Source {
    pub(crate) fn new(kind: Kind, plan: SocketPlan) -> Self {
        Source {
            kind,
            plan,
            undrained: true,
            paused: None,
        }
    }
}

/// A newcomer whom a count would refuse now.
struct Doubtful {
    stream: TcpStream,
    remote: SocketAddr,
    cleared: Cleared,
    source: usize,
    since: Instant,
    /// The turns that may still free a slot for it; known once the events that came with it are queued.
    mark: Option<u64>,
}

/// The state of the poll thread.
pub(crate) struct PollLoop {
    poll: Poll,
    core: Arc<Core>,
    sources: Vec<Source>,
    /// Sources that were not read to the end.
    undrained: Vec<usize>,
    /// Listeners with refusals that nobody has spoken of yet.
    hushed: Vec<usize>,
    pub(crate) network: Arc<Network>,
    pub(crate) bans: Arc<Bans>,
    refusals: Vec<(Arc<str>, Refusals)>,
    doubtful: VecDeque<Doubtful>,
    descriptors_warned: Option<Instant>,
}

impl PollLoop {
    pub(crate) fn new(
        poll: Poll,
        core: Arc<Core>,
        sources: Vec<Source>,
        network: Arc<Network>,
        bans: Arc<Bans>,
        refusals: Vec<(Arc<str>, Refusals)>,
    ) -> Self {
        PollLoop {
            poll,
            core,
            undrained: (0..sources.len()).collect(),
            hushed: Vec::new(),
            sources,
            network,
            bans,
            refusals,
            doubtful: VecDeque::new(),
            descriptors_warned: None,
        }
    }

    /// The poll, for sources that are not ours.
    pub(crate) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Registers the sockets with the poll.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        for (index, source) in self.sources.iter_mut().enumerate() {
            match &mut source.kind {
                Kind::Tcp { socket, .. } => {
                    self.poll
                        .registry()
                        .register(socket, Token(index), Interest::READABLE)?;
                }
                Kind::Udp {
                    group, index: at, ..
                } => {
                    use std::os::fd::AsRawFd;
                    let fd = group.sockets[*at as usize].0.as_raw_fd();
                    let mut fd = mio::unix::SourceFd(&fd);
                    self.poll
                        .registry()
                        .register(&mut fd, Token(index), Interest::READABLE)?;
                }
            }
        }
        Ok(())
    }

    /// Stops accepting: the kernel refuses newcomers from here on.
    pub(crate) fn close(&mut self) {
        for doubtful in std::mem::take(&mut self.doubtful) {
            sockets::reset(doubtful.stream);
        }
        self.undrained.clear();
        self.sources.clear();
    }

    /// One look at everything. `until` bounds the sleep; tokens that are not ours go to `other`.
    pub(crate) fn turn(
        &mut self,
        events: &mut Events,
        receiver: &mut udp_io::Receiver,
        until: Option<Instant>,
        mut other: impl FnMut(Token),
    ) -> io::Result<()> {
        let now = Instant::now();
        let sleep = self.sleep(now, until);
        match self.poll.poll(events, sleep) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &*events {
            match workers::key(event.token()) {
                Some(key) => self.core.signal(key, signals(event)),
                None => match self.sources.get_mut(event.token().0) {
                    Some(source) if source.undrained => {}
                    Some(source) => {
                        source.undrained = true;
                        self.undrained.push(event.token().0);
                    }
                    None => other(event.token()),
                },
            }
        }
        let now = Instant::now();
        while let Some((resident, signals)) = self.core.parked.due(now) {
            self.core.enqueue(resident, signals);
        }
        self.look_again(now);
        let undrained = std::mem::take(&mut self.undrained);
        for &index in &undrained {
            let source = &mut self.sources[index];
            if source.paused.is_none_or(|paused| paused <= now) {
                source.paused = None;
                self.drain(index, receiver, now);
            }
        }
        self.undrained = undrained;
        let sources = &self.sources;
        self.undrained.retain(|index| sources[*index].undrained);
        self.alarms(now);
        self.speak(now);
        Ok(())
    }

    /// How long the poll may sleep.
    fn sleep(&self, now: Instant, until: Option<Instant>) -> Option<Duration> {
        let mut undrained = self.undrained.iter().map(|index| &self.sources[*index]);
        let ready = undrained.any(|source| source.paused.is_none());
        if ready || self.doubtful.iter().any(|doubtful| doubtful.mark.is_none()) {
            return Some(Duration::ZERO);
        }
        let paused = self
            .undrained
            .iter()
            .filter_map(|index| self.sources[*index].paused);
        let doubtful = (!self.doubtful.is_empty()).then(|| now + LOOK_AGAIN);
        let refusals = self
            .hushed
            .iter()
            .filter_map(|index| self.refusals[*index].1.next());
        let alarms = self
            .udp_groups()
            .filter_map(|group| group.alarms.lock().iter().map(|(at, _)| *at).min());
        let own = paused
            .chain(doubtful)
            .chain(refusals)
            .chain(alarms)
            .chain(until)
            .min();
        let until = self.core.parked.sleep_until(own)?;
        // Rounded up: the kernel counts milliseconds, and waking early would mean sleeping twice.
        Some(until.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn udp_groups(&self) -> impl Iterator<Item = &Arc<UdpSockets>> {
        self.sources.iter().filter_map(|source| match &source.kind {
            Kind::Udp {
                group, index: 0, ..
            } => Some(group),
            _ => None,
        })
    }

    fn drain(&mut self, index: usize, receiver: &mut udp_io::Receiver, now: Instant) {
        match &self.sources[index].kind {
            Kind::Tcp { .. } => self.accept(index, now),
            Kind::Udp { .. } => self.receive(index, receiver),
        }
    }

    fn accept(&mut self, index: usize, now: Instant) {
        for _ in 0..ACCEPT_BUDGET {
            let Kind::Tcp { socket, .. } = &self.sources[index].kind else {
                return;
            };
            match socket.accept() {
                Ok((stream, remote)) => {
                    self.newcomer(index, stream, sockets::canonical(remote), now)
                }
                Err(error) => match error.raw_os_error().map(nix::errno::Errno::from_raw) {
                    _ if error.kind() == io::ErrorKind::WouldBlock => {
                        self.sources[index].undrained = false;
                        return;
                    }
                    Some(
                        nix::errno::Errno::EMFILE
                        | nix::errno::Errno::ENFILE
                        | nix::errno::Errno::ENOBUFS
                        | nix::errno::Errno::ENOMEM,
                    ) => {
                        self.sources[index].paused = Some(now + DESCRIPTOR_PAUSE);
                        self.warn_descriptors(&error, now);
                        return;
                    }
                    // The peer's fault (it went away while it waited), or a signal.
                    _ => log::debug!("accept: {error}"),
                },
            }
        }
    }

    fn newcomer(&mut self, index: usize, stream: TcpStream, remote: SocketAddr, now: Instant) {
        let source = &self.sources[index];
        let Kind::Tcp { listener, .. } = &source.kind else {
            return;
        };
        let cleared = match ladder::clear(
            remote.ip(),
            &self.network,
            &self.bans,
            &source.plan.restriction,
            SystemTime::now(),
        ) {
            Ok(cleared) => cleared,
            Err(reason) => return self.refuse(index, stream, remote, reason),
        };
        match listener.limits.admit(cleared) {
            Ok(admitted) => self.admit(index, stream, remote, admitted, now),
            // Nobody is there any more to be refused.
            Err(_) if has_left(&stream) => {}
            Err((_, cleared)) if self.doubtful.len() < MOST_DOUBTFUL => {
                listener.limits.set_waiting(true);
                self.doubtful.push_back(Doubtful {
                    stream,
                    remote,
                    cleared,
                    source: index,
                    since: now,
                    mark: None,
                });
            }
            Err((reason, _)) => self.refuse(index, stream, remote, reason),
        }
    }

    /// Decides about newcomers that a count would have refused, once nothing under way can change it.
    fn look_again(&mut self, now: Instant) {
        if self.doubtful.is_empty() {
            return;
        }
        let mark = self.core.mark();
        let mut moved = false;
        for _ in 0..self.doubtful.len() {
            let Some(mut doubtful) = self.doubtful.pop_front() else {
                return;
            };
            let source = self.sources.get(doubtful.source).map(|source| &source.kind);
            let Some(Kind::Tcp { listener, .. }) = source else {
                continue;
            };
            let settled = now >= doubtful.since + SECOND_LOOK
                && doubtful.mark.is_some_and(|mark| self.core.has_passed(mark));
            match listener.limits.admit(doubtful.cleared) {
                Ok(admitted) => {
                    moved = true;
                    self.admit(
                        doubtful.source,
                        doubtful.stream,
                        doubtful.remote,
                        admitted,
                        now,
                    );
                }
                Err(_) if has_left(&doubtful.stream) => {}
                Err((reason, _)) if !moved && (settled || now >= doubtful.since + LAST_LOOK) => {
                    self.refuse(doubtful.source, doubtful.stream, doubtful.remote, reason);
                }
                Err((_, cleared)) => {
                    // One that was just let in may be as short-lived as the one before it.
                    doubtful.mark = if moved {
                        None
                    } else {
                        doubtful.mark.or(Some(mark))
                    };
                    self.doubtful.push_back(Doubtful {
                        cleared,
                        ..doubtful
                    });
                }
            }
        }
        if self.doubtful.is_empty() {
            for source in &self.sources {
                if let Kind::Tcp { listener, .. } = &source.kind {
                    listener.limits.set_waiting(false);
                }
            }
        }
    }

    fn admit(
        &mut self,
        index: usize,
        stream: TcpStream,
        remote: SocketAddr,
        admitted: Admitted,
        now: Instant,
    ) {
        let source = &self.sources[index];
        let Kind::Tcp { listener, .. } = &source.kind else {
            return;
        };
        let Ok(local) = sockets::local_address(&stream) else {
            return;
        };
        listener.counters.accept();
        let peer = Box::new(Peer {
            remote,
            local,
            class: admitted.class(),
            cluster: admitted.cluster(),
            blacklisted: admitted.blacklisted(),
            security: match source.plan.tls {
                TlsMode::Ext => Security::External,
                TlsMode::Off | TlsMode::On => Security::Clear,
            },
            may_start_tls: source.plan.tls == TlsMode::Off
                && listener.acceptors.can_serve(local.ip()),
            listener: Arc::clone(&listener.name),
        });
        listener.log(log::Level::Debug, format_args!("{remote} connected"));
        let connection = Connection::new(
            admitted,
            stream,
            peer,
            Arc::clone(listener),
            source.plan.tls,
            now,
        );
        if listener.client_speaks_first {
            let (wants, deadline) = connection.first_rest();
            self.core
                .park(connection, Arc::clone(listener), wants, Some(deadline));
        } else {
            self.core.enqueue(
                workers::Resident::Connection(connection, Arc::clone(listener)),
                Signals::NONE,
            );
        }
    }

    fn refuse(&mut self, index: usize, stream: TcpStream, remote: SocketAddr, reason: Reason) {
        // Counted before the peer can see it.
        if let Kind::Tcp { listener, .. } = &self.sources[index].kind {
            listener.counters.reject(reason);
        }
        sockets::reset(stream);
        if let Kind::Tcp {
            listener, refusals, ..
        } = &self.sources[index].kind
            && listener.log_level >= log::LevelFilter::Info
        {
            let hushed = note(&mut self.refusals[*refusals], reason, remote);
            self.hushed.extend(hushed.then_some(*refusals));
        }
    }

    fn receive(&mut self, index: usize, receiver: &mut udp_io::Receiver) {
        let source = &mut self.sources[index];
        let Kind::Udp {
            group,
            index: at,
            refusals,
        } = &source.kind
        else {
            return;
        };
        let (group, at, refusals) = (Arc::clone(group), *at, *refusals);
        for _ in 0..RECEIVE_BUDGET {
            if group.waiting.load(Ordering::Acquire) >= MOST_BATCHES {
                // The kernel keeps what does not fit, and a worker that ends a batch changes this soon.
                source.paused = Some(Instant::now() + Duration::from_millis(1));
                return;
            }
            let mut batch = Box::new(Batch::new(&group));
            let wall = SystemTime::now();
            let (network, bans, lately) = (&self.network, &self.bans, &mut self.refusals[refusals]);
            let plan = &source.plan;
            let mut hushed = false;
            let received =
                receiver.receive(&group.sockets[at as usize].0, |remote, local, bytes| {
                    match ladder::clear(remote.ip(), network, bans, &plan.restriction, wall) {
                        Ok(cleared) => {
                            group.listener.counters.accept();
                            batch.push(remote, local, at, cleared.class(), bytes);
                        }
                        Err(reason) => {
                            group.listener.counters.reject(reason);
                            if group.listener.log_level >= log::LevelFilter::Info {
                                hushed |= note(lately, reason, remote);
                            }
                        }
                    }
                });
            self.hushed.extend(hushed.then_some(refusals));
            if !batch.is_empty() {
                self.core.enqueue_datagrams(batch);
            }
            match received {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    source.undrained = false;
                    return;
                }
                // An ICMP error of an earlier answer is reported once and means nothing for the next.
                Err(error) => log::debug!("receive: {error}"),
            }
        }
    }

    fn alarms(&self, now: Instant) {
        for group in self.udp_groups() {
            let mut batch = None;
            group.alarms.lock().retain(|&(at, key)| {
                if at <= now {
                    batch
                        .get_or_insert_with(|| Box::new(Batch::new(group)))
                        .push_alarm(key);
                }
                at > now
            });
            if let Some(batch) = batch {
                self.core.enqueue_datagrams(batch);
            }
        }
    }

    /// Logs what was kept back of refusals.
    fn speak(&mut self, now: Instant) {
        let refusals = &mut self.refusals;
        self.hushed.retain(|index| {
            let (name, refusals) = &mut refusals[*index];
            while let Some(line) = refusals.overdue(now) {
                log::info!(target: name, "{line}");
            }
            refusals.next().is_some()
        });
    }

    fn warn_descriptors(&mut self, error: &io::Error, now: Instant) {
        if self
            .descriptors_warned
            .is_none_or(|at| now >= at + Duration::from_secs(10))
        {
            self.descriptors_warned = Some(now);
            log::warn!("cannot accept: {error}; newcomers wait until a descriptor is free");
        }
    }
}

/// Logs a refusal or keeps it back; true for the first that is kept back.
fn note(lately: &mut (Arc<str>, Refusals), reason: Reason, remote: SocketAddr) -> bool {
    let hushed = lately.1.next().is_some();
    match lately.1.note(reason, remote.ip(), Instant::now()) {
        Some(line) => {
            log::info!(target: &lately.0, "{line}");
            false
        }
        None => !hushed,
    }
}

/// True when the peer closed before it was decided about, without having sent a byte.
fn has_left(stream: &TcpStream) -> bool {
    matches!(stream.peek(&mut [0]), Ok(0))
}

fn signals(event: &Event) -> Signals {
    let mut signals = Signals::NONE;
    if event.is_readable() {
        signals = signals.and(Signals::READABLE);
    }
    if event.is_writable() {
        signals = signals.and(Signals::WRITABLE);
    }
    if event.is_read_closed() || event.is_write_closed() || event.is_error() {
        signals = signals.and(Signals::HANGUP).and(Signals::READABLE);
    }
    signals
}
