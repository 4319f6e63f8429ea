#![forbid(unsafe_code)]
//! The contract of datagram protocols. No socket, no clock, no thread.
//!
//! A [`DatagramModule`] answers at once ([`DatagramContext::reply`]), several times, later
//! ([`DatagramContext::set_alarm`] or [`DatagramContext::work`], with a kept [`Route`]), or goes on
//! from a fresh port with an [`Exchange`].

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Abuse, Class, Lane};

/// The way back to whoever sent a datagram: their address and the address they asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The remote address, never an IPv4-mapped one.
    pub remote: SocketAddr,
    /// The local address the datagram was sent to; answers leave from it. `None` for a socket with an
    /// address of its own.
    pub local: Option<IpAddr>,
    /// Which of the listener's sockets.
    pub(crate) socket: u32,
}

impl Route {
    /// A route for tests of a module.
    #[must_use]
    pub fn test(remote: SocketAddr) -> Self {
        Route {
            remote,
            local: None,
            socket: 0,
        }
    }
}

/// One admitted datagram.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Where it came from and was sent to.
    pub route: Route,
    /// Whether the sender is on the Client list.
    pub class: Class,
    /// Its payload, up to 65,535 bytes.
    pub bytes: &'a [u8],
}

/// How much longer than its question an answer to an unproven address may be.
const AMPLIFICATION: usize = 3;

impl Datagram<'_> {
    /// The most bytes to answer to one who is no client and has not proved to be where the datagram says it
    /// comes from: longer answers would make us a weapon against whoever is there.
    #[must_use]
    pub fn most_unproven(&self) -> usize {
        self.bytes.len() * AMPLIFICATION
    }
}

/// A datagram protocol. One value serves all of a listener's sockets, from several threads at once.
pub trait DatagramModule: Send + Sync {
    /// Answers one datagram, or does not.
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>);

    /// A time set with [`DatagramContext::set_alarm`] has come.
    fn alarm(&self, _key: u64, _cx: &mut DatagramContext<'_>) {}

    /// Called when the listener's sockets are bound, before the first datagram, and with the same outlet when a
    /// changed configuration is put in force: for a module that sends from elsewhere than a call, or to others
    /// than who asked. A listener that is never put in force after all has an outlet that is shut.
    fn bound(&self, _outlet: &Outlet) {}

    /// True where datagrams are to be taken one after the other, as they came: what one sender sent in order is
    /// sent on in order. False, the default, lets several threads take them at once.
    fn in_order(&self) -> bool {
        false
    }

    /// True where a reload that leaves the module's settings as they are keeps this value with all it
    /// knows (flows, registrations); false, the default, puts one in its place that has read its files anew.
    fn keeps_state(&self) -> bool {
        false
    }

    /// What the module knows and the one that a reload puts in its place is to know, whatever its settings:
    /// answers to requests that may be repeated, say. `None`, the default, is nothing.
    fn memory(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Takes over the [`memory`](DatagramModule::memory) of the module before. Called before the first datagram,
    /// while the one before still answers; where the reload fails, this module answers none.
    fn remember(&self, _memory: Arc<dyn Any + Send + Sync>) {}
}

/// A conversation with one remote address from a port of its own: a TFTP transfer, a forwarded flow.
/// Parked between events.
pub trait Exchange: Send {
    /// Takes one event and says whether the conversation goes on.
    fn handle(&mut self, event: ExchangeEvent<'_>, cx: &mut ExchangeContext<'_>) -> ExchangeNext;
}

/// What happened to an exchange.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExchangeEvent<'a> {
    /// The first event: the port is open.
    Open,
    /// A datagram reached the exchange's own port.
    Received {
        /// Its sender.
        from: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A datagram of the same remote address reached the listener, and the module passed it on.
    Passed(&'a [u8]),
    /// The time set with [`ExchangeContext::set_alarm`] has come.
    Alarm,
    /// The exchange's own socket reported an error (an ICMP port unreachable, most often), or the address
    /// it was to be connected to cannot be reached.
    Failed,
    /// The daemon is draining.
    Shutdown,
}

/// Whether an exchange goes on.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeNext {
    /// Wait for the next event.
    Wait,
    /// Send what is pending and close the port.
    Close,
}

/// Names a running exchange, so that its module can pass datagrams to it. Dropped with its last clone;
/// the exchange goes on.
#[derive(Clone)]
pub struct ExchangeHandle(Arc<dyn Mailbox>);

/// Where datagrams for an exchange are left.
pub trait Mailbox: Send + Sync {
    /// Takes a datagram; false when the exchange has ended or the mailbox is full.
    fn pass(&self, bytes: &[u8]) -> bool;

    /// True once the exchange has ended.
    fn has_ended(&self) -> bool;

    /// Ends the exchange.
    fn end(&self);
}

impl ExchangeHandle {
    /// A handle on that mailbox.
    pub fn new(mailbox: impl Mailbox + 'static) -> Self {
        ExchangeHandle(Arc::new(mailbox))
    }

    /// Passes a datagram on ([`ExchangeEvent::Passed`]); false when the exchange has ended or its queue
    /// is full.
    pub fn pass(&self, bytes: &[u8]) -> bool {
        self.0.pass(bytes)
    }

    /// True once the exchange has ended: nothing can be passed to it any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }

    /// Ends the exchange. It is dropped without a further event, and what was passed to it is lost.
    pub fn end(&self) {
        self.0.end();
    }
}

impl fmt::Debug for ExchangeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExchangeHandle")
    }
}

/// A listener's sockets, to send from at any time and from any thread. Harmless after the listener's end.
///
/// Whom a module sends to is its own responsibility: only to those who asked, or whom somebody that may do so
/// has named (a registered contact, say), and not more than it was sent. Nothing is queued: a socket whose
/// buffer is full loses the datagram, as a network may.
#[derive(Clone)]
pub struct Outlet(Arc<dyn Sockets>);

/// What an [`Outlet`] stands for.
pub trait Sockets: Send + Sync {
    /// The address and port that a datagram was sent to; `None` when its socket is closed.
    fn local(&self, route: Route) -> Option<SocketAddr>;

    /// The route to `to` from the socket at `local`, else from any that may reach it; `None` where there is none.
    fn towards(&self, local: SocketAddr, to: SocketAddr) -> Option<Route>;

    /// Sends what an outbox holds, and takes its reports.
    fn send(&self, outbox: Outbox);

    /// False after the listener's end.
    fn is_open(&self) -> bool;
}

impl Outlet {
    /// An outlet on those sockets.
    pub fn new(sockets: impl Sockets + 'static) -> Self {
        Outlet(Arc::new(sockets))
    }

    /// The address and port that a datagram was sent to; `None` when its socket is closed.
    #[must_use]
    pub fn local(&self, route: Route) -> Option<SocketAddr> {
        self.0.local(route)
    }

    /// The route to `to` from the socket at `local` where that is one of ours, else from the first one that may
    /// reach it; `None` where there is none.
    #[must_use]
    pub fn towards(&self, local: SocketAddr, to: SocketAddr) -> Option<Route> {
        self.0.towards(local, to)
    }

    /// Sends one datagram.
    pub fn send(&self, route: Route, bytes: &[u8]) {
        let mut outbox = Outbox::default();
        outbox.send(route, bytes);
        self.0.send(outbox);
    }

    /// False after the listener's end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// True for another handle on the same sockets.
    #[must_use]
    pub fn is(&self, other: &Outlet) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}

/// Datagrams to be sent from the listener's sockets.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Where each goes, and which of `bytes` it is: one piece of memory for all.
    datagrams: Vec<(Route, Range<usize>)>,
    bytes: Vec<u8>,
    pub(crate) reports: Vec<(IpAddr, Abuse)>,
    pub(crate) calls: Vec<u64>,
}

impl Outbox {
    /// Sends `bytes` along `route`.
    pub fn send(&mut self, route: Route, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.datagrams.push((route, start..self.bytes.len()));
    }

    /// Reports a misdeed of whoever is at the other end of `route`, as [`DatagramContext::report`] does.
    pub fn report(&mut self, route: Route, abuse: Abuse) {
        self.reports.push((route.remote.ip(), abuse));
    }

    /// What would be reported, as tests of a module look at it.
    #[must_use]
    pub fn reported(&self) -> &[(IpAddr, Abuse)] {
        &self.reports
    }

    /// Calls [`DatagramModule::alarm`] with `key` as soon as the work is done: what it found out may be
    /// acted on there.
    pub fn call(&mut self, key: u64) {
        self.calls.push(key);
    }

    /// What is to be sent, in order.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = (&Route, &[u8])> {
        let datagrams = self.datagrams.iter();
        datagrams.map(|(route, range)| (route, &self.bytes[range.clone()]))
    }
}

/// Work of a datagram module that blocks; it sends its answers itself.
pub type DatagramWork = Box<dyn FnOnce(&mut Outbox) + Send>;

/// Opens a port for an exchange; `None` when the listener's table of exchanges is full or no port is to
/// be had.
pub(crate) type OpenExchange<'a> =
    dyn FnMut(Route, Option<SocketAddr>, Box<dyn Exchange>) -> Option<ExchangeHandle> + 'a;

/// What surrounds a datagram module during one call.
pub struct DatagramContext<'a> {
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) listener: &'a Arc<str>,
    pub(crate) lost: &'a mut u64,
    pub(crate) most_exchanges: usize,
    pub(crate) route: Option<Route>,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) alarms: &'a mut Vec<(Instant, u64)>,
    pub(crate) work: &'a mut Vec<(Lane, DatagramWork)>,
    pub(crate) open: &'a mut OpenExchange<'a>,
}

impl DatagramContext<'_> {
    /// The monotonic time of this call.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The wall-clock time of this call.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        self.wall
    }

    /// The listener's name, for the log.
    #[must_use]
    pub fn listener(&self) -> &Arc<str> {
        self.listener
    }

    /// How many exchanges the listener may have at once.
    #[must_use]
    pub fn most_exchanges(&self) -> usize {
        self.most_exchanges
    }

    /// Counts admitted datagrams that the module had no room for.
    pub fn lose(&mut self, datagrams: usize) {
        *self.lost += datagrams as u64;
    }

    /// Answers the datagram being handled; in an alarm there is none, and nothing is sent.
    pub fn reply(&mut self, bytes: &[u8]) {
        if let Some(route) = self.route {
            self.outbox.send(route, bytes);
        }
    }

    /// Sends along a kept route.
    pub fn send(&mut self, route: Route, bytes: &[u8]) {
        self.outbox.send(route, bytes);
    }

    /// Reports a misdeed of the sender of the datagram being handled to the admission side, where it may
    /// lead to a ban. A sender's address is easily forged: report only what a forger could not send (a
    /// wrong password in answer to our challenge, say), or anybody can have anybody banned.
    pub fn report(&mut self, abuse: Abuse) {
        if let Some(route) = self.route {
            self.outbox.report(route, abuse);
        }
    }

    /// Calls [`DatagramModule::alarm`] with `key` after `delay`. Alarms are not taken back: a module
    /// ignores those it no longer needs.
    pub fn set_alarm(&mut self, delay: Duration, key: u64) {
        self.alarms.push((self.now + delay, key));
    }

    /// Runs work that blocks on a lane's threads; what it puts into the outbox is sent.
    pub fn work(&mut self, lane: Lane, work: impl FnOnce(&mut Outbox) + Send + 'static) {
        self.work.push((lane, Box::new(work)));
    }

    /// Opens a fresh port on the address that was asked and lets `exchange` go on from there.
    /// With `connect`, only that address is heard (a forwarded flow's upstream), and the system chooses the
    /// local address.
    /// `None` when the listener has as many exchanges as it may, or no port is to be had.
    pub fn open(
        &mut self,
        route: Route,
        connect: Option<SocketAddr>,
        exchange: Box<dyn Exchange>,
    ) -> Option<ExchangeHandle> {
        (self.open)(route, connect, exchange)
    }
}

/// What surrounds an exchange during one event.
pub struct ExchangeContext<'a> {
    pub(crate) now: Instant,
    pub(crate) route: Route,
    pub(crate) sends: &'a mut Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) alarm: &'a mut Option<Option<Instant>>,
    pub(crate) connect: &'a mut Option<SocketAddr>,
}

impl ExchangeContext<'_> {
    /// The monotonic time of this event.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Whom the exchange was opened for.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    /// Sends from the exchange's own port.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.sends.push((to, bytes.to_vec()));
    }

    /// Goes on from another fresh port, connected to `to`: only that address is heard from now on, and what
    /// this event sends goes there. Where it cannot be reached, [`ExchangeEvent::Failed`] follows.
    pub fn connect(&mut self, to: SocketAddr) {
        *self.connect = Some(to);
    }

    /// Sends from the listener's socket to whom the exchange was opened for.
    pub fn reply(&mut self, bytes: &[u8]) {
        self.outbox.send(self.route, bytes);
    }

    /// Reports a misdeed of whom the exchange was opened for, as [`DatagramContext::report`] does.
    pub fn report(&mut self, abuse: Abuse) {
        self.outbox.report(self.route, abuse);
    }

    /// [`ExchangeEvent::Alarm`] after `delay`; replaces an alarm set before. `None` takes it back.
    pub fn set_alarm(&mut self, delay: Option<Duration>) {
        *self.alarm = Some(delay.map(|delay| self.now + delay));
    }
}
