#![forbid(unsafe_code)]
//! The one poll loop: accepts, reads datagrams, minds the parked, and runs no module code.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::datagrams::{Batch, MOST_BATCHES, UdpSockets};
use super::gate::Gate;
use super::listener::TcpSocket;
use super::parked::Signals;
use super::sockets;
use super::udp_io;
use super::workers::{self, Core, Resident};
use crate::admission::ladder::Restriction;

/// Connections accepted from one socket before the others get their share.
const ACCEPT_BUDGET: usize = 64;
/// Receive calls on one socket before the others get their share.
const RECEIVE_BUDGET: usize = 8;
/// How long a socket rests when descriptors have run out.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
/// A listening socket and whose it is.
pub(crate) struct Source {
    kind: Kind,
    /// Not read to the end since its last event. Edge-triggered polls speak once.
    undrained: bool,
    /// No descriptors: not before this time.
    paused: Option<Instant>,
}

/// The two transports of a source.
pub(crate) enum Kind {
    Tcp {
        accepts: mio::net::TcpListener,
        socket: Arc<TcpSocket>,
    },
    Udp {
        group: Arc<UdpSockets>,
        index: u32,
        refusals: usize,
        restriction: Restriction,
        /// Whether it listens on all addresses.
        wildcard: bool,
    },
}

impl Source {
    pub(crate) fn new(kind: Kind) -> Self {
        Source {
            kind,
            undrained: true,
            paused: None,
        }
    }
}

/// The state of the poll thread.
pub(crate) struct PollLoop {
    poll: Poll,
    core: Arc<Core>,
    sources: Vec<Source>,
    /// Sources that were not read to the end.
    undrained: Vec<usize>,
    gate: Gate,
    descriptors_warned: Option<Instant>,
}

impl PollLoop {
    pub(super) fn new(poll: Poll, core: Arc<Core>, sources: Vec<Source>, gate: Gate) -> Self {
        PollLoop {
            poll,
            core,
            undrained: (0..sources.len()).collect(),
            sources,
            gate,
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
                Kind::Tcp { accepts, .. } => {
                    self.poll
                        .registry()
                        .register(accepts, Token(index), Interest::READABLE)?;
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
        self.gate.close();
        self.undrained.clear();
        self.sources.clear();
    }

    /// One look at everything. `until` bounds the sleep, `None` is none; tokens that are not ours go to `other`.
    pub(crate) fn turn(
        &mut self,
        events: &mut Events,
        receiver: &mut udp_io::Receiver,
        until: Option<Instant>,
        mut other: impl FnMut(Token),
    ) -> io::Result<()> {
        let sleep = self.sleep(Instant::now(), until);
        let polled = self.poll.poll(events, sleep);
        self.core.parked.wakes();
        match polled {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &*events {
            match workers::key(event.token()) {
                Some((key, far)) => {
                    let woken = self.core.parked.signal(key, signals(event, far));
                    self.dispatch(woken);
                }
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
        while let Some(due) = self.core.parked.due(now) {
            self.dispatch(Some(due));
        }
        self.gate.look_again(now);
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
        self.gate.speak(now);
        Ok(())
    }

    /// Sends a resident that has something to do where it is done.
    pub(crate) fn dispatch(&mut self, woken: Option<(Resident, Signals)>) {
        match woken {
            Some((Resident::Preface(preface), signals)) => self.gate.preface(preface, signals),
            Some((resident, signals)) => self.core.enqueue(resident, signals),
            None => {}
        }
    }

    /// How long the poll may sleep.
    fn sleep(&self, now: Instant, until: Option<Instant>) -> Option<Duration> {
        let mut undrained = self.undrained.iter().map(|index| &self.sources[*index]);
        let ready = undrained.any(|source| source.paused.is_none());
        let Some(until) = until.filter(|_| !ready && !self.gate.is_hasty()) else {
            return Some(Duration::ZERO);
        };
        let paused = self
            .undrained
            .iter()
            .filter_map(|index| self.sources[*index].paused);
        let alarms = self
            .udp_groups()
            .filter_map(|group| group.alarms.lock().iter().map(|(at, _)| *at).min());
        let own = paused
            .chain(self.gate.next(now))
            .chain(alarms)
            .chain([until])
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
            let Kind::Tcp { accepts, socket } = &self.sources[index].kind else {
                return;
            };
            match accepts.accept() {
                Ok((stream, remote)) => {
                    let remote = sockets::canonical(remote);
                    self.gate.accepted(socket, stream, remote, now);
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

    fn receive(&mut self, index: usize, receiver: &mut udp_io::Receiver) {
        let source = &mut self.sources[index];
        let Kind::Udp {
            group,
            index: at,
            refusals,
            restriction,
            wildcard,
        } = &source.kind
        else {
            return;
        };
        let (at, gate) = (*at, &mut self.gate);
        let listener = &group.listener;
        for _ in 0..RECEIVE_BUDGET {
            if group.waiting.load(Ordering::Acquire) >= MOST_BATCHES {
                // The kernel keeps what does not fit, and a worker that ends a batch changes this soon.
                source.paused = Some(Instant::now() + Duration::from_millis(1));
                return;
            }
            let mut batch = Box::new(Batch::new(group));
            let wall = SystemTime::now();
            let (socket, ipv6) = &group.sockets[at as usize];
            let received =
                receiver.receive(
                    socket,
                    *ipv6,
                    *wildcard,
                    |remote, local, bytes| match gate.clear(remote.ip(), restriction, wall) {
                        Ok(cleared) => {
                            listener.counters.accept();
                            batch.push(remote, local, at, cleared.class(), bytes);
                        }
                        Err(reason) => {
                            listener.counters.reject(reason);
                            gate.refused(*refusals, listener.log_level, reason, remote);
                        }
                    },
                );
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

/// What an event means, of a connection's own socket or of its upstream's.
fn signals(event: &Event, far: bool) -> Signals {
    let [readable, writable, hangup] = if far {
        [
            Signals::FAR_READABLE,
            Signals::FAR_WRITABLE,
            Signals::FAR_HANGUP,
        ]
    } else {
        [Signals::READABLE, Signals::WRITABLE, Signals::HANGUP]
    };
    let mut signals = Signals::NONE;
    if event.is_readable() {
        signals = signals.and(readable);
    }
    if event.is_writable() {
        signals = signals.and(writable);
    }
    if event.is_read_closed() || event.is_write_closed() || event.is_error() {
        signals = signals.and(hangup).and(readable);
    }
    signals
}
