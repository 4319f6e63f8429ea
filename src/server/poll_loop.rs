#![forbid(unsafe_code)]
//! The one poll loop: accepts, reads datagrams, minds the parked, and runs no module code.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Poll, Token};
use socket2::SockRef;

use super::core::{self, Core, Resident};
use super::datagrams::{Batch, MOST_BATCHES, UdpPort, UdpSockets};
use super::gate::Gate;
use super::listener::{TcpSocket, UdpListener};
use super::parked::Signals;
use super::sockets;
use super::swap::{Retired, Swap};
use super::udp_io;
use crate::admission::ladder::Restriction;
use crate::admission::overload::Stage;
use crate::patience;

/// Connections accepted from one socket before the others get their share.
const ACCEPT_BUDGET: usize = 64;
/// Those in an overloaded server, each [`DESCRIPTOR_PAUSE`].
const FEW: usize = 4;
/// Rounds of a budget each in which a socket that goes away is emptied.
const MOST_LAST_LOOKS: usize = 64;
/// How long a socket rests when descriptors have run out.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket and whose it is.
pub(super) struct Source {
    kind: Kind,
    /// Not read to the end since its last event. Edge-triggered polls speak once.
    undrained: bool,
    /// No descriptors: not before this time.
    paused: Option<Instant>,
}

/// The two transports of a source.
pub(crate) enum Kind {
    Tcp {
        accepts: Arc<mio::net::TcpListener>,
        socket: Arc<TcpSocket>,
    },
    Udp {
        group: Arc<UdpSockets>,
        listener: Arc<UdpListener>,
        port: Arc<UdpPort>,
        /// The socket's number in routes.
        index: u32,
        refusals: usize,
        restriction: Restriction,
    },
}

impl Kind {
    fn fd(&self) -> RawFd {
        match self {
            Kind::Tcp { accepts, .. } => accepts.as_raw_fd(),
            Kind::Udp { port, .. } => port.socket.as_raw_fd(),
        }
    }
}

/// The state of the poll thread.
pub(crate) struct PollLoop {
    poll: Poll,
    core: Arc<Core>,
    /// By token. An event for a place that has changed hands means a look too many, and no more.
    sources: Vec<Option<Source>>,
    /// Sources that were not read to the end.
    undrained: Vec<usize>,
    /// UDP listeners.
    groups: Vec<Arc<UdpSockets>>,
    gate: Gate,
    descriptors_warned: Option<Instant>,
    closed: bool,
}

impl PollLoop {
    /// Without a socket; [`PollLoop::apply`] brings them.
    pub(super) fn new(poll: Poll, core: Arc<Core>, gate: Gate) -> Self {
        PollLoop {
            poll,
            core,
            undrained: Vec::new(),
            sources: Vec::new(),
            groups: Vec::new(),
            gate,
            descriptors_warned: None,
            closed: false,
        }
    }

    /// The poll, for sources that are not ours.
    pub(crate) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Puts a prepared change in force; what it replaced comes back, to be dropped elsewhere. Refused while
    /// the server stops.
    pub(super) fn apply(&mut self, swap: Swap, receiver: &mut udp_io::Receiver) -> Option<Retired> {
        if self.closed {
            return None;
        }
        let mut retired = Retired::default();
        // Whoever the kernel let in before the end of a socket is looked at by its rules.
        for index in swap.removed {
            retired.sources.extend(match swap.leaves {
                true => self.leave(index),
                false => self.remove(index, receiver),
            });
        }
        for (limits, settings) in swap.limits {
            limits.replace(settings);
        }
        for (group, listener, ports) in swap.udp {
            group.listener.store(listener);
            group.ports.store(Arc::new(ports));
        }
        for (old, new) in swap.successors {
            let _ = old.successor.set(new);
        }
        swap.filters.attach();
        for (index, kind) in swap.sources {
            retired.kinds.extend(self.put(index, kind));
        }
        retired.groups = std::mem::replace(&mut self.groups, swap.groups);
        if let Some(network) = swap.network {
            retired.network = Some(self.gate.replace(network));
        }
        self.gate.name(swap.names);
        Some(retired)
    }

    /// Puts a registered socket in its place, or other rules on one that is there.
    fn put(&mut self, index: usize, kind: Kind) -> Option<Kind> {
        if self.sources.len() <= index {
            self.sources.resize_with(index + 1, || None);
        }
        let place = &mut self.sources[index];
        if let Some(source) = place {
            return Some(std::mem::replace(&mut source.kind, kind));
        }
        *place = Some(Source {
            kind,
            undrained: true,
            paused: None,
        });
        self.undrained.push(index);
        None
    }

    /// Takes a socket out, once whoever came to it has been looked at.
    fn remove(&mut self, index: usize, receiver: &mut udp_io::Receiver) -> Option<Source> {
        for _ in 0..MOST_LAST_LOOKS {
            match self.sources.get_mut(index) {
                Some(Some(source)) if source.paused.is_none() => source.undrained = true,
                _ => break,
            }
            self.drain(index, receiver, Instant::now());
            if matches!(self.sources.get(index), Some(Some(source)) if !source.undrained) {
                break;
            }
        }
        let source = self.leave(index)?;
        if let Kind::Tcp { accepts, .. } = &source.kind {
            // At once, whoever else still holds the descriptor.
            let _ = SockRef::from(&**accepts).shutdown(Shutdown::Read);
        }
        Some(source)
    }

    /// Takes a socket out that may go on listening elsewhere: whoever waits in its queue stays there.
    fn leave(&mut self, index: usize) -> Option<Source> {
        self.undrained.retain(|other| *other != index);
        let source = self.sources.get_mut(index)?.take()?;
        // Others may hold the descriptor, so that closing it would not end its events.
        let fd = source.kind.fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        Some(source)
    }

    /// Whether newcomers are there that are not decided about.
    pub(crate) fn is_deciding(&self) -> bool {
        self.gate.is_deciding()
    }

    /// Stops accepting: the kernel refuses newcomers from here on.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.gate.close();
        self.undrained.clear();
        for index in 0..self.sources.len() {
            if let Some(Source {
                kind: Kind::Tcp { accepts, .. },
                ..
            }) = &self.sources[index]
            {
                let _ = SockRef::from(&**accepts).shutdown(Shutdown::Read);
            }
        }
        self.sources.clear();
        self.groups.clear();
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
        let polled = patience::poll(&mut self.poll, events, sleep);
        self.core.parked.wakes();
        polled?;
        for event in &*events {
            match core::key(event.token()) {
                Some((key, far)) => {
                    let woken = self.core.parked.signal(key, signals(event, far));
                    self.dispatch(woken);
                }
                None => match self.sources.get_mut(event.token().0) {
                    Some(Some(source)) if !source.undrained => {
                        source.undrained = true;
                        self.undrained.push(event.token().0);
                    }
                    Some(_) => {}
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
            if let Some(source) = &mut self.sources[index]
                && source.paused.is_none_or(|paused| paused <= now)
            {
                source.paused = None;
                self.drain(index, receiver, now);
            }
        }
        self.undrained = undrained;
        let sources = &self.sources;
        self.undrained
            .retain(|index| matches!(&sources[*index], Some(source) if source.undrained));
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

    /// True when all sources have been read to the end.
    pub(super) fn is_drained(&self) -> bool {
        self.undrained.is_empty()
    }

    /// How long the poll may sleep.
    fn sleep(&self, now: Instant, until: Option<Instant>) -> Option<Duration> {
        let undrained = || {
            let indexes = self.undrained.iter();
            indexes.filter_map(|index| self.sources[*index].as_ref())
        };
        let ready = undrained().any(|source| source.paused.is_none());
        let Some(until) = until.filter(|_| !ready && !self.gate.is_hasty()) else {
            return Some(Duration::ZERO);
        };
        let paused = undrained().filter_map(|source| source.paused);
        let alarms = self
            .groups
            .iter()
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

    fn drain(&mut self, index: usize, receiver: &mut udp_io::Receiver, now: Instant) {
        match self.sources[index].as_ref().map(|source| &source.kind) {
            Some(Kind::Tcp { .. }) => self.accept(index, now),
            Some(Kind::Udp { .. }) => self.receive(index, receiver),
            None => {}
        }
    }

    fn accept(&mut self, index: usize, now: Instant) {
        let Some(Source {
            kind: Kind::Tcp { accepts, socket },
            undrained,
            paused,
        }) = &mut self.sources[index]
        else {
            return;
        };
        let slowed = self.core.pressure.stage() == Stage::Slowed;
        let budget = if slowed { FEW } else { ACCEPT_BUDGET };
        for _ in 0..budget {
            match accepts.accept() {
                Ok((stream, remote)) => {
                    let remote = sockets::canonical(remote);
                    self.gate.accepted(socket, stream, remote, now);
                }
                Err(error) => match error.raw_os_error().map(nix::errno::Errno::from_raw) {
                    _ if error.kind() == io::ErrorKind::WouldBlock => {
                        *undrained = false;
                        return;
                    }
                    // A change is about to take its place.
                    Some(nix::errno::Errno::EINVAL) => {
                        *undrained = false;
                        return;
                    }
                    _ if patience::is_shortage(&error) => {
                        *paused = Some(now + DESCRIPTOR_PAUSE);
                        self.warn_descriptors(&error, now);
                        return;
                    }
                    // The peer's fault (it went away while it waited), or a signal.
                    _ => log::debug!("accept: {error}"),
                },
            }
        }
        if slowed {
            *paused = Some(now + DESCRIPTOR_PAUSE);
        }
    }

    /// One batch: more at once would be cold by the time they are answered, which cost a tenth.
    fn receive(&mut self, index: usize, receiver: &mut udp_io::Receiver) {
        let Some(Source {
            kind:
                Kind::Udp {
                    group,
                    listener,
                    port,
                    index: at,
                    refusals,
                    restriction,
                },
            undrained,
            paused,
        }) = &mut self.sources[index]
        else {
            return;
        };
        let (at, gate) = (*at, &mut self.gate);
        if group.waiting.load(Ordering::Acquire) >= MOST_BATCHES {
            // The kernel keeps what does not fit, and a worker that ends a batch changes this soon.
            *paused = Some(Instant::now() + Duration::from_millis(1));
            return;
        }
        let stage = self.core.pressure.stage();
        let mut batch = Box::new(Batch::new(group));
        let (wall, now) = (SystemTime::now(), Instant::now());
        let wildcard = port.place.1.is_none();
        let received =
            receiver.receive(&port.socket, port.ipv6, wildcard, |remote, local, bytes| {
                let rates = &listener.rates;
                match gate.clear_datagram(remote.ip(), restriction, (wall, now), rates) {
                    Ok(cleared) if !stage.admits(cleared.class()) => listener.counters.lose(1),
                    Ok(cleared) => {
                        listener.counters.accept();
                        batch.push(remote, local, at, cleared.class(), bytes);
                    }
                    Err(reason) => {
                        listener.counters.reject(reason);
                        gate.refused(*refusals, listener.log_level, reason, remote);
                    }
                }
            });
        if !batch.is_empty() {
            self.core.enqueue_datagrams(batch);
        }
        match received {
            Ok(udp_io::BATCH..) => {}
            // The kernel had no more: whatever comes from here on is an event.
            Ok(_) => *undrained = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *undrained = false,
            Err(error) if patience::is_shortage(&error) => {
                *paused = Some(Instant::now() + patience::PAUSE);
            }
            // An ICMP error of an earlier answer is reported once and means nothing for the next.
            Err(error) => log::debug!("receive: {error}"),
        }
    }

    fn alarms(&self, now: Instant) {
        for group in &self.groups {
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
