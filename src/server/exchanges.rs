#![forbid(unsafe_code)]
//! Exchanges: conversations of datagram modules from ports of their own, parked between events.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mio::net::UdpSocket;
use parking_lot::Mutex;

use super::datagrams::UdpSockets;
use super::parked::Signals;
use super::workers::{Core, Resident, SlotGuard};
use crate::session::datagram::{
    Exchange, ExchangeContext, ExchangeEvent, ExchangeHandle, ExchangeNext, Outbox, Route,
};

/// Exchanges of one listener at once; a module is told when there is no room, and decides.
const MOST_EXCHANGES: usize = 10_000;
/// Datagrams that were passed to an exchange and not handled yet; further ones are lost, as on a network.
const MOST_PASSED: usize = 64;
/// Datagrams that one turn receives before others get their share.
const RECEIVES_A_TURN: usize = 64;

/// An exchange with its socket. Moves by value, as a connection does.
pub(crate) struct Running {
    exchange: Box<dyn Exchange>,
    socket: UdpSocket,
    route: Route,
    group: Arc<UdpSockets>,
    mailbox: Arc<Mutex<Vec<Vec<u8>>>>,
    alarm: Option<Instant>,
    opened: bool,
    /// Gives back the exchange's place in the listener's table.
    _place: Place,
    pub(crate) slot: SlotGuard,
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
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
    if group.exchanges.fetch_add(1, Ordering::AcqRel) >= MOST_EXCHANGES {
        group.exchanges.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    let place = Place(Arc::clone(&group.exchanges));
    let opened = bind(group, route, connect).and_then(|mut socket| {
        let mut slot = core.reserve(None);
        core.watch(&mut slot, &mut socket)?;
        Ok((socket, slot))
    });
    let (socket, slot) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            group.listener.load().log(
                log::Level::Debug,
                format_args!("no port for an exchange: {error}"),
            );
            return None;
        }
    };
    let mailbox = Arc::new(Mutex::new(Vec::new()));
    let (box_in, waker) = (Arc::downgrade(&mailbox), core.waker(slot.key()));
    let handle = ExchangeHandle::new(move |bytes| {
        let Some(mailbox) = box_in.upgrade() else {
            return false;
        };
        {
            let mut mailbox = mailbox.lock();
            if mailbox.len() >= MOST_PASSED {
                return false;
            }
            mailbox.push(bytes.to_vec());
        }
        waker.wake();
        true
    });
    let running = Running {
        exchange,
        socket,
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

/// A fresh port: on the address that was asked, or, towards an upstream, wherever the system likes.
fn bind(group: &UdpSockets, route: Route, connect: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let any = |ipv4: bool| -> IpAddr {
        if ipv4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    if let Some(upstream) = connect {
        let socket = UdpSocket::bind(SocketAddr::new(any(upstream.is_ipv4()), 0))?;
        socket.connect(upstream)?;
        return Ok(socket);
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
    UdpSocket::bind(SocketAddr::new(address, 0))
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
        if !self.opened {
            self.opened = true;
            if self.tell(ExchangeEvent::Open) == ExchangeNext::Close {
                return None;
            }
        }
        let gone = self.group.gone.load(Ordering::Acquire);
        if gone || signals.has(Signals::SHUTDOWN) {
            let next = self.tell(ExchangeEvent::Shutdown);
            if gone || next == ExchangeNext::Close {
                return None;
            }
        }
        let passed = std::mem::take(&mut *self.mailbox.lock());
        for passed in passed {
            if self.tell(ExchangeEvent::Passed(&passed)) == ExchangeNext::Close {
                return None;
            }
        }
        buffer.resize(65_536, 0);
        let mut goes_on = true;
        let mut drained = false;
        for _ in 0..RECEIVES_A_TURN {
            let event = match self.socket.recv_from(buffer) {
                Ok((count, from)) => {
                    let from = super::sockets::canonical(from);
                    ExchangeEvent::Received {
                        from,
                        bytes: &buffer[..count],
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drained = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => ExchangeEvent::Failed,
            };
            if self.tell(event) == ExchangeNext::Close {
                goes_on = false;
                break;
            }
        }
        buffer.clear();
        if goes_on && self.alarm.is_some_and(|alarm| alarm <= Instant::now()) {
            self.alarm = None;
            goes_on = self.tell(ExchangeEvent::Alarm) == ExchangeNext::Wait;
        }
        // The poll speaks once: what was left unread is read in a turn of its own.
        let rest = if drained {
            Rest::Until(self.alarm)
        } else {
            Rest::None
        };
        goes_on.then_some((self, rest))
    }

    fn tell(&mut self, event: ExchangeEvent<'_>) -> ExchangeNext {
        let (mut sends, mut outbox, mut alarm) = (Vec::new(), Outbox::default(), None);
        let mut cx = ExchangeContext {
            now: Instant::now(),
            route: self.route,
            sends: &mut sends,
            outbox: &mut outbox,
            alarm: &mut alarm,
        };
        let next = self.exchange.handle(event, &mut cx);
        let connected = self.socket.peer_addr().is_ok();
        for (to, bytes) in sends {
            let sent = if connected {
                self.socket.send(&bytes)
            } else {
                self.socket.send_to(&bytes, to)
            };
            if let Err(error) = sent {
                // A lost datagram: the protocol above repeats it.
                self.group
                    .listener
                    .load()
                    .log(log::Level::Debug, format_args!("{to}: {error}"));
            }
        }
        self.group.send(outbox);
        if let Some(alarm) = alarm {
            self.alarm = alarm;
        }
        next
    }
}
