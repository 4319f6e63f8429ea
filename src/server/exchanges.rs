#![forbid(unsafe_code)]
//! Exchanges: conversations of datagram modules from ports of their own, parked between events.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use mio::Interest;
use mio::net::UdpSocket;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::core::{Core, Resident, SlotGuard};
use super::datagrams::UdpSockets;
use super::parked::Signals;
use crate::session::Waker;
use crate::session::datagram::{
    Exchange, ExchangeContext, ExchangeEvent, ExchangeHandle, ExchangeNext, Mailbox, Outbox, Route,
};

/// Exchanges of one listener at once; a module is told when there is no room, and decides.
const MOST_EXCHANGES: u64 = 10_000;
/// Datagrams that were passed to an exchange and not handled yet; further ones are lost, as on a network.
const MOST_PASSED: usize = 64;
/// Datagrams that one turn receives before others get their share.
const RECEIVES_A_TURN: usize = 64;

/// Room for the largest datagram there is (RFC 768).
const ROOM: usize = 65_536;

/// How many exchanges a listener may have where the system gives so many descriptors: an eighth of them, since
/// peers with forged addresses must not take those of TCP.
pub(crate) fn most(descriptors: u64) -> usize {
    usize::try_from(MOST_EXCHANGES.min(descriptors / 8)).unwrap_or(usize::MAX)
}

/// An exchange with its socket. Moves by value, as a connection does.
pub(crate) struct Running {
    exchange: Box<dyn Exchange>,
    socket: UdpSocket,
    /// The only address that is heard.
    connected: Option<SocketAddr>,
    /// The socket said that the other end is not there, and the exchange was not told yet.
    failed: bool,
    route: Route,
    group: Arc<UdpSockets>,
    mailbox: Arc<Mutex<Passed>>,
    alarm: Option<Instant>,
    opened: bool,
    /// Gives back the exchange's place in the listener's table.
    _place: Place,
    pub(crate) slot: SlotGuard,
}

/// What was left for an exchange while it was away.
#[derive(Default)]
struct Passed {
    datagrams: Vec<Vec<u8>>,
    ended: bool,
}

/// The outside of a mailbox; the inside lives as long as its exchange.
struct Slit {
    inside: Weak<Mutex<Passed>>,
    waker: Waker,
}

impl Mailbox for Slit {
    fn pass(&self, bytes: &[u8]) -> bool {
        let Some(inside) = self.inside.upgrade() else {
            return false;
        };
        {
            let mut passed = inside.lock();
            if passed.ended || passed.datagrams.len() >= MOST_PASSED {
                return false;
            }
            passed.datagrams.push(bytes.to_vec());
        }
        self.waker.wake();
        true
    }

    fn has_ended(&self) -> bool {
        self.inside
            .upgrade()
            .is_none_or(|inside| inside.lock().ended)
    }

    fn end(&self) {
        if let Some(inside) = self.inside.upgrade() {
            inside.lock().ended = true;
            self.waker.wake();
        }
    }
}

struct Place {
    taken: Arc<AtomicUsize>,
    core: Arc<Core>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        // A drain waits for the last one.
        if self.core.draining.load(Ordering::Acquire) {
            self.core.wake_poll();
        }
    }
}

/// Whether an exchange may rest after its turn.
pub(crate) enum Rest {
    /// There is more to read.
    None,
    /// Until something happens, or its alarm.
    Until(Option<Instant>),
}

/// What an exchange waits for.
pub(crate) const WANTS: Signals = Signals::READABLE
    .and(Signals::HANGUP)
    .and(Signals::WOKEN)
    .and(Signals::DUE)
    .and(Signals::SHUTDOWN);

/// Opens a port for an exchange and queues its first turn.
pub(crate) fn open(
    core: &Arc<Core>,
    group: &Arc<UdpSockets>,
    route: Route,
    connect: Option<SocketAddr>,
    exchange: Box<dyn Exchange>,
) -> Option<ExchangeHandle> {
    if group.exchanges.fetch_add(1, Ordering::AcqRel) >= group.most_exchanges {
        group.exchanges.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    let place = Place {
        taken: Arc::clone(&group.exchanges),
        core: Arc::clone(core),
    };
    let opened = bind(group, route, connect).and_then(|(mut socket, failed)| {
        let mut slot = core.reserve(None);
        core.watch(&mut slot, &mut socket, Interest::READABLE)?;
        Ok((socket, failed, slot))
    });
    let (socket, failed, slot) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            no_port(group, &error);
            return None;
        }
    };
    let mailbox = Arc::new(Mutex::new(Passed::default()));
    let handle = ExchangeHandle::new(Slit {
        inside: Arc::downgrade(&mailbox),
        waker: core.waker(slot.key()),
    });
    let running = Running {
        exchange,
        socket,
        connected: connect,
        failed,
        route,
        group: Arc::clone(group),
        mailbox,
        alarm: None,
        opened: false,
        _place: place,
        slot,
    };
    core.enqueue(Resident::Exchange(Box::new(running)), Signals::NONE);
    Some(handle)
}

fn no_port(group: &UdpSockets, error: &io::Error) {
    group.listener.load().log(
        log::Level::Debug,
        format_args!("no port for an exchange: {error}"),
    );
}

/// A fresh port: on the address that was asked, or, towards an upstream, wherever the system likes. True
/// with a port from which the upstream cannot be reached.
fn bind(
    group: &UdpSockets,
    route: Route,
    connect: Option<SocketAddr>,
) -> io::Result<(UdpSocket, bool)> {
    let any = |ipv4: bool| -> IpAddr {
        if ipv4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    if let Some(upstream) = connect {
        let socket = UdpSocket::bind(SocketAddr::new(any(upstream.is_ipv4()), 0))?;
        let failed = socket.connect(upstream).is_err();
        return Ok((socket, failed));
    }
    let ports = group.ports.load();
    let own = ports
        .get(route.socket as usize)
        .and_then(|port| port.as_ref()?.socket.local_addr().ok());
    let own = own
        .map(|own| own.ip().to_canonical())
        .filter(|own| !own.is_unspecified());
    let address = route
        .local
        .or(own)
        .unwrap_or_else(|| any(route.remote.is_ipv4()));
    Ok((UdpSocket::bind(SocketAddr::new(address, 0))?, false))
}

impl Running {
    /// True for one of this listener.
    pub(crate) fn is_of(&self, group: &Arc<UdpSockets>) -> bool {
        Arc::ptr_eq(&self.group, group)
    }

    /// The listener's name, for the log.
    pub(crate) fn listener(&self) -> Arc<str> {
        Arc::clone(&self.group.listener.load().name)
    }

    /// Runs until nothing more is there. Back when the exchange goes on, with its alarm.
    pub(crate) fn turn(
        mut self: Box<Self>,
        signals: Signals,
        buffer: &mut Vec<u8>,
    ) -> Option<(Box<Self>, Rest)> {
        let mut outbox = Outbox::default();
        // Zeroed once for all turns of a worker.
        buffer.resize(ROOM, 0);
        let rest = self.run(signals, buffer, &mut outbox);
        self.group.send(outbox);
        rest.map(|rest| (self, rest))
    }

    /// `None` when the exchange has ended.
    fn run(&mut self, signals: Signals, buffer: &mut [u8], outbox: &mut Outbox) -> Option<Rest> {
        if self.mailbox.lock().ended {
            return None;
        }
        if !self.opened {
            self.opened = true;
            self.tell(ExchangeEvent::Open, outbox)?;
        }
        if self.failed {
            self.failed = false;
            self.tell(ExchangeEvent::Failed, outbox)?;
        }
        let gone = self.group.gone.load(Ordering::Acquire);
        if gone || signals.has(Signals::SHUTDOWN) {
            self.tell(ExchangeEvent::Shutdown, outbox)?;
        }
        if gone {
            return None;
        }
        // Before what was passed: an upstream that is gone is heard of before it is sent more.
        let drained = self.receive(buffer, outbox)?;
        let passed = std::mem::take(&mut self.mailbox.lock().datagrams);
        for passed in passed {
            self.tell(ExchangeEvent::Passed(&passed), outbox)?;
        }
        if self.alarm.is_some_and(|alarm| alarm <= Instant::now()) {
            self.alarm = None;
            self.tell(ExchangeEvent::Alarm, outbox)?;
        }
        // The poll speaks once: what was left unread is read in a turn of its own.
        Some(if drained && !self.failed {
            Rest::Until(self.alarm)
        } else {
            Rest::None
        })
    }

    /// Takes what has reached the port, at most a share; true when nothing is left.
    fn receive(&mut self, buffer: &mut [u8], outbox: &mut Outbox) -> Option<bool> {
        for _ in 0..RECEIVES_A_TURN {
            let event = match self.socket.recv_from(buffer) {
                Ok((count, from)) => {
                    let from = super::sockets::canonical(from);
                    // One that came between binding and connecting may be anybody's.
                    let meant = |to: SocketAddr| (to.ip(), to.port()) == (from.ip(), from.port());
                    if !self.connected.is_none_or(meant) {
                        continue;
                    }
                    ExchangeEvent::Received {
                        from,
                        bytes: &buffer[..count],
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The path takes only smaller ones from now on: the kernel knows, and cuts them.
                Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => continue,
                Err(_) => ExchangeEvent::Failed,
            };
            self.tell(event, outbox)?;
        }
        Some(false)
    }

    /// Tells the exchange of an event, and of the failure that may be its first fruit; `None` when it has
    /// ended. A failure after that one is told in a turn of its own.
    fn tell(&mut self, event: ExchangeEvent<'_>, outbox: &mut Outbox) -> Option<()> {
        self.handle(event, outbox)?;
        if std::mem::take(&mut self.failed) {
            self.handle(ExchangeEvent::Failed, outbox)?;
        }
        Some(())
    }

    fn handle(&mut self, event: ExchangeEvent<'_>, outbox: &mut Outbox) -> Option<()> {
        let (mut sends, mut alarm, mut connect) = (Vec::new(), None, None);
        let mut cx = ExchangeContext {
            now: Instant::now(),
            route: self.route,
            sends: &mut sends,
            outbox,
            alarm: &mut alarm,
            connect: &mut connect,
        };
        let next = self.exchange.handle(event, &mut cx);
        if let Some(to) = connect
            && let Err(error) = self.connect(to)
        {
            no_port(&self.group, &error);
            return None;
        }
        for (to, bytes) in sends {
            self.send(to, &bytes);
        }
        if let Some(alarm) = alarm {
            self.alarm = alarm;
        }
        (next == ExchangeNext::Wait).then_some(())
    }

    /// Goes on from another port, so that nothing meant for the one before is taken for the new one's.
    fn connect(&mut self, to: SocketAddr) -> io::Result<()> {
        let (mut socket, failed) = bind(&self.group, self.route, Some(to))?;
        self.slot.renew();
        let core = Arc::clone(self.slot.core());
        core.watch(&mut self.slot, &mut socket, Interest::READABLE)?;
        // The old one leaves the poll as it is closed.
        self.socket = socket;
        self.connected = Some(to);
        self.failed = failed;
        Ok(())
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        let sent = loop {
            let sent = match self.connected {
                Some(_) => self.socket.send(bytes),
                None => self.socket.send_to(bytes, to),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => break sent,
            }
        };
        if let Err(error) = sent {
            // A connected socket speaks here of what became of the datagram before.
            self.failed |= matches!(
                error.kind(),
                ConnectionRefused | HostUnreachable | NetworkUnreachable
            );
            // A lost datagram: the protocol above repeats it.
            let line = format_args!("{to}: {error}");
            self.group.listener.load().log(log::Level::Debug, line);
        }
    }
}
