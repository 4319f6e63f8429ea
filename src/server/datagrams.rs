#![forbid(unsafe_code)]
//! Datagrams from the poll loop to a module and back.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use super::core::Core;
use super::descriptors;
use super::exchanges;
use super::filters::Filtered;
use super::listener::UdpListener;
use super::udp_io;
use crate::session::datagram::{DatagramContext, DatagramWork, Outbox, Outlet, Route, Sockets};
use crate::session::{Class, Datagram, Lane};

/// One UDP listener and its sockets through all its configurations, shared with the workers that answer.
pub(crate) struct UdpSockets {
    /// The newest configuration.
    pub(crate) listener: ArcSwap<UdpListener>,
    /// By the number in a [`Route`]. A number keeps its meaning as long as the listener lives, since modules
    /// keep routes; where a socket was closed there is nothing.
    pub(crate) ports: ArcSwap<Vec<Option<Arc<UdpPort>>>>,
    /// The listener was taken away: its exchanges end.
    pub(crate) gone: AtomicBool,
    /// Batches that were received and not answered yet.
    pub(crate) waiting: AtomicUsize,
    /// Exchanges that are open.
    pub(crate) exchanges: Arc<AtomicUsize>,
    pub(crate) most_exchanges: usize,
    pub(crate) alarms: parking_lot::Mutex<Vec<(Instant, u64)>>,
    outlet: OnceLock<Outlet>,
    in_line: parking_lot::Mutex<InLine>,
}

/// Batches of a module that takes them in order. Bounded with the others by [`MOST_BATCHES`].
#[derive(Default)]
struct InLine {
    /// One is in the queue or with a worker.
    running: bool,
    behind: VecDeque<Box<Batch>>,
}

/// A bound UDP socket.
pub(crate) struct UdpPort {
    pub(crate) socket: mio::net::UdpSocket,
    pub(crate) ipv6: bool,
    /// Where it is bound, with the port that the system chose.
    pub(crate) bound: SocketAddr,
    /// The port and address of its configuration.
    pub(crate) place: (u16, Option<IpAddr>),
    pub(crate) filtered: Filtered,
}

/// Above this many unanswered batches a listener's datagrams wait in the kernel, which drops what does
/// not fit.
pub(crate) const MOST_BATCHES: usize = 64;

/// Admitted datagrams of one receive call, or alarms of a module, on their way to a worker.
pub(crate) struct Batch {
    group: Arc<UdpSockets>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    alarms: Vec<u64>,
    /// The module takes one after the other.
    in_order: bool,
}

struct Entry {
    route: Route,
    class: Class,
    start: usize,
    end: usize,
}

impl Batch {
    pub(crate) fn new(group: &Arc<UdpSockets>) -> Self {
        group.waiting.fetch_add(1, Ordering::AcqRel);
        Batch {
            group: Arc::clone(group),
            entries: Vec::new(),
            bytes: Vec::new(),
            alarms: Vec::new(),
            in_order: group.listener.load().module.in_order(),
        }
    }

    /// The batch, if it may go now; otherwise it goes when those before it have ended.
    pub(crate) fn step_forward(self: Box<Self>) -> Option<Box<Batch>> {
        if !self.in_order {
            return Some(self);
        }
        let group = Arc::clone(&self.group);
        let mut line = group.in_line.lock();
        if line.running {
            line.behind.push_back(self);
            return None;
        }
        line.running = true;
        Some(self)
    }

    /// Whose line the next batch stands in, once this one has ended.
    pub(crate) fn line(&self) -> Option<Arc<UdpSockets>> {
        self.in_order.then(|| Arc::clone(&self.group))
    }

    pub(crate) fn listener_name(&self) -> Arc<str> {
        Arc::clone(&self.group.listener.load().name)
    }

    pub(crate) fn push(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        socket: u32,
        class: Class,
        bytes: &[u8],
    ) {
        if self.entries.is_empty() {
            self.entries.reserve(udp_io::BATCH);
            self.bytes.reserve(udp_io::BATCH * 64);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let route = Route {
            remote,
            local,
            socket,
        };
        self.entries.push(Entry {
            route,
            class,
            start,
            end: self.bytes.len(),
        });
    }

    pub(crate) fn push_alarm(&mut self, key: u64) {
        self.alarms.push(key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.alarms.is_empty()
    }

    /// Runs the module over the batch and sends its answers.
    pub(crate) fn answer(self, core: &Arc<Core>) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut outbox = Outbox::default();
        let mut alarms = Vec::new();
        let mut work: Vec<(Lane, DatagramWork)> = Vec::new();
        let mut lost = 0;
        let group = Arc::clone(&self.group);
        let mut open =
            |route, connect, exchange| exchanges::open(core, &group, route, connect, exchange);
        let listener = self.group.listener.load_full();
        {
            let module = &listener.module;
            let mut cx = DatagramContext {
                now,
                wall,
                listener: &listener.name,
                lost: &mut lost,
                most_exchanges: self.group.most_exchanges,
                route: None,
                outbox: &mut outbox,
                alarms: &mut alarms,
                work: &mut work,
                open: &mut open,
            };
            for key in &self.alarms {
                module.alarm(*key, &mut cx);
            }
            for entry in &self.entries {
                cx.route = Some(entry.route);
                let bytes = &self.bytes[entry.start..entry.end];
                module.answer(
                    &Datagram {
                        route: entry.route,
                        class: entry.class,
                        bytes,
                    },
                    &mut cx,
                );
            }
        }
        listener.counters.lose(lost);
        self.group.send(outbox);
        self.group.set_alarms(alarms, core);
        for (lane, work) in work {
            let (group, waking) = (Arc::clone(&self.group), Arc::clone(core));
            core.datagram_work(
                lane,
                Box::new(move || {
                    let mut outbox = Outbox::default();
                    work(&mut outbox);
                    let now = Instant::now();
                    let calls = outbox.calls.drain(..).map(|key| (now, key)).collect();
                    group.send(outbox);
                    group.set_alarms(calls, &waking);
                }),
            );
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.group.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UdpSockets {
    /// Nothing is open yet.
    pub(crate) fn new(listener: Arc<UdpListener>) -> Self {
        UdpSockets {
            listener: ArcSwap::new(listener),
            ports: ArcSwap::default(),
            gone: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            exchanges: Arc::new(AtomicUsize::new(0)),
            most_exchanges: exchanges::most(descriptors::raise()),
            alarms: parking_lot::Mutex::new(Vec::new()),
            outlet: OnceLock::new(),
            in_line: parking_lot::Mutex::default(),
        }
    }

    /// A batch in line has ended: the next one.
    pub(crate) fn next_in_line(&self) -> Option<Box<Batch>> {
        let mut line = self.in_line.lock();
        let next = line.behind.pop_front();
        line.running = next.is_some();
        next
    }

    /// Lets the poll loop call the module at those times.
    fn set_alarms(&self, mut alarms: Vec<(Instant, u64)>, core: &Core) {
        if !alarms.is_empty() {
            self.alarms.lock().append(&mut alarms);
            core.wake_poll();
        }
    }

    /// Sends answers from the listener's sockets and takes reports.
    pub(crate) fn send(&self, outbox: Outbox) {
        let listener = self.listener.load();
        for (address, abuse) in &outbox.reports {
            listener.report(*address, *abuse);
        }
        let ports = self.ports.load();
        let datagrams: Vec<_> = outbox.pending().collect();
        for together in datagrams.chunk_by(|(one, _), (other, _)| one.socket == other.socket) {
            let socket = together[0].0.socket as usize;
            let Some(Some(port)) = ports.get(socket) else {
                continue;
            };
            match udp_io::send(&port.socket, port.ipv6, together) {
                Ok(sent) if sent.failed == 0 => {}
                Ok(sent) => listener.log(
                    log::Level::Debug,
                    format_args!("{} answers could not be sent", sent.failed),
                ),
                Err(error) => {
                    listener.log(log::Level::Debug, format_args!("cannot answer: {error}"));
                }
            }
        }
    }
}

/// The outside of a listener's sockets; they end without it.
struct Door(Weak<UdpSockets>);

impl UdpSockets {
    /// For the module, to send from elsewhere.
    pub(crate) fn outlet(self: &Arc<Self>) -> &Outlet {
        self.outlet
            .get_or_init(|| Outlet::new(Door(Arc::downgrade(self))))
    }
}

impl Door {
    fn group(&self) -> Option<Arc<UdpSockets>> {
        let group = self.0.upgrade()?;
        (!group.gone.load(Ordering::Acquire)).then_some(group)
    }
}

impl Sockets for Door {
    fn local(&self, route: Route) -> Option<SocketAddr> {
        let group = self.group()?;
        let bound = group
            .ports
            .load()
            .get(route.socket as usize)?
            .as_ref()?
            .bound;
        let address = route.local.unwrap_or(bound.ip()).to_canonical();
        Some(SocketAddr::new(address, bound.port()))
    }

    fn towards(&self, local: SocketAddr, to: SocketAddr) -> Option<Route> {
        let group = self.group()?;
        let ports = group.ports.load();
        let open = (0..).zip(ports.iter());
        let open = open.filter_map(|(number, port)| Some((number, port.as_ref()?)));
        let reaching = open.filter(|(_, port)| port.reaches(to.ip()));
        let chosen = reaching.min_by_key(|(_, port)| !port.is_at(local))?;
        let (socket, port) = chosen;
        Some(Route {
            remote: to,
            local: Some(local.ip())
                .filter(|_| port.is_at(local) && port.bound.ip().is_unspecified()),
            socket,
        })
    }

    fn send(&self, outbox: Outbox) {
        if let Some(group) = self.group() {
            group.send(outbox);
        }
    }

    fn is_open(&self) -> bool {
        self.group().is_some()
    }
}

impl UdpPort {
    /// Whether datagrams to there may leave from here: of the same family, and loopback or not as it is.
    fn reaches(&self, to: IpAddr) -> bool {
        let own = self.bound.ip().to_canonical();
        match own.is_unspecified() {
            true => self.ipv6 || to.is_ipv4(),
            false => own.is_ipv4() == to.is_ipv4() && own.is_loopback() == to.is_loopback(),
        }
    }

    /// Whether datagrams to that address and port come in here.
    fn is_at(&self, local: SocketAddr) -> bool {
        let own = self.bound.ip().to_canonical();
        let fits = own == local.ip() || own.is_unspecified() && (self.ipv6 || local.is_ipv4());
        fits && self.bound.port() == local.port()
    }
}
