#![forbid(unsafe_code)]
//! From a checked plan to a change that only has to be put in force: everything is built, bound and
//! registered with the poll; sockets that stay are carried over as they are. Dropped, nothing has happened.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mio::unix::SourceFd;
use parking_lot::Mutex;
use socket2::SockRef;

use super::core::Core;
use super::datagrams::{UdpPort, UdpSockets};
use super::filters::Filtered;
use super::listener::{TcpListener, TcpSocket, UdpListener};
use super::poll_loop::Kind;
use super::sockets::{self, StartError};
use super::state::{Handle, OpenSocket, Place, Running, RunningKind, State};
use super::swap::Swap;
use super::warden::Warden;
use crate::admission::limits::{LimitSettings, Limits};
use crate::admission::rates::Rates;
use crate::config::plan::{ListenerPlan, Protocol, SocketPlan};
use crate::tls::{Acceptors, ClientAuthority};
use crate::upgrade::{Given, Heritage};

/// What listeners are built from.
pub(super) struct Workshop {
    pub(super) core: Arc<Core>,
    pub(super) warden: Arc<Warden>,
    /// Kept over reloads, so that sessions can be resumed.
    pub(super) ticketer: Arc<dyn rustls::server::ProducesTickets>,
    /// Sockets that this process was started with, until the first configuration is in force.
    pub(super) heritage: Mutex<Heritage>,
}

/// A change that waits to be put in force.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) state: State,
    pub(super) swap: Swap,
    vacated: Vec<Vacated>,
}

/// A socket that makes room for one that is opened in its place.
enum Vacated {
    /// Listens no more.
    Tcp(Arc<mio::net::TcpListener>, i32),
    /// Lets others bind its port.
    Udp(Arc<UdpPort>),
}

impl Prepared {
    /// It is in force: what made way is gone for good.
    pub(super) fn commit(mut self) -> State {
        self.vacated.clear();
        std::mem::take(&mut self.state)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // What was opened goes first, so that the old ones find their ports free.
        self.swap = Swap::default();
        self.state = State::default();
        for vacated in self.vacated.drain(..) {
            let restored = match &vacated {
                Vacated::Tcp(accepts, backlog) => SockRef::from(&**accepts).listen(*backlog),
                Vacated::Udp(port) => SockRef::from(&port.socket).set_reuse_address(false),
            };
            if let Err(error) = restored {
                log::error!("a socket that made way cannot be opened again: {error}");
            }
        }
    }
}

impl Workshop {
    /// Makes `next`, whose listeners are `kept` as they are and `plans` built anew, and the way there from
    /// `old`. `names` are those of the refusals noted so far.
    ///
    /// # Errors
    /// All sockets that cannot be opened; nothing has changed then.
    pub(super) fn prepare(
        &self,
        old: &State,
        mut next: State,
        kept: Vec<Arc<Running>>,
        plans: Vec<ListenerPlan>,
        names: &[Arc<str>],
    ) -> Result<Prepared, Vec<StartError>> {
        let mut site = Site {
            workshop: self,
            there: HashMap::new(),
            used: HashSet::new(),
            prepared: Prepared::default(),
            errors: Vec::new(),
        };
        for running in &old.listeners {
            let stays = kept.iter().any(|kept| Arc::ptr_eq(kept, running));
            for socket in &running.sockets {
                site.used.insert(socket.index);
                if !stays {
                    let same = site.there.entry(socket.place()).or_default();
                    same.push(socket.clone());
                }
            }
        }
        let carried: Vec<_> = plans.iter().map(|plan| site.carry_over(plan)).collect();
        let gone: Vec<OpenSocket> = std::mem::take(&mut site.there)
            .into_values()
            .flatten()
            .collect();
        for (plan, carried) in plans.iter().zip(&carried) {
            for (socket, _) in plan
                .sockets
                .iter()
                .zip(carried)
                .filter(|(_, c)| c.is_none())
            {
                site.make_way(transport(plan), socket, &gone);
            }
        }
        let stays_some = !kept.is_empty();
        let mut listeners = kept;
        for (plan, carried) in plans.into_iter().zip(carried) {
            let refusals = place_of(&plan.name, names, &mut site.prepared.swap.names);
            let built = site.build(old, &next, plan, carried, refusals);
            match built {
                Ok(running) => listeners.push(Arc::new(running)),
                Err(error) => site.errors.push(error),
            }
        }
        if !site.errors.is_empty() {
            drop(listeners);
            return Err(site.errors);
        }
        // Of a plan that was built as a whole, the order is kept.
        let place = |running: &Arc<Running>| {
            let same = |old: &Arc<Running>| old.name == running.name;
            old.listeners.iter().position(same).unwrap_or(usize::MAX)
        };
        if stays_some {
            listeners.sort_by_key(place);
        }
        let mut prepared = site.prepared;
        let udp = |running: &Arc<Running>| match &running.kind {
            RunningKind::Udp(group) => Some(Arc::clone(group)),
            RunningKind::Tcp(_) => None,
        };
        for running in &listeners {
            if let RunningKind::Udp(group) = &running.kind {
                let own = prepared.swap.udp.iter();
                let mut own = own.filter(|(one, ..)| Arc::ptr_eq(one, group));
                let listener = match own.next() {
                    Some((_, listener, _)) => Arc::clone(listener),
                    None => group.listener.load_full(),
                };
                let denied = &next.network.denied;
                prepared
                    .swap
                    .filters
                    .add(&listener, &running.sockets, denied);
            }
        }
        prepared.swap.groups = listeners.iter().filter_map(udp).collect();
        prepared.swap.removed = gone.iter().map(|socket| socket.index).collect();
        prepared.swap.network = Some(Arc::clone(&next.network));
        next.listeners = listeners;
        prepared.state = next;
        Ok(prepared)
    }
}

/// Where a change is built.
struct Site<'a> {
    workshop: &'a Workshop,
    /// Open sockets that nobody has taken over yet.
    there: HashMap<Place, Vec<OpenSocket>>,
    /// Tokens in use.
    used: HashSet<usize>,
    prepared: Prepared,
    errors: Vec<StartError>,
}

impl Site<'_> {
    /// The open sockets that a listener takes over, row by row.
    fn carry_over(&mut self, plan: &ListenerPlan) -> Vec<Option<OpenSocket>> {
        let transport = transport(plan);
        let rows = plan.sockets.iter();
        rows.map(|row| {
            self.there
                .get_mut(&(transport, row.port, row.address))?
                .pop()
        })
        .collect()
    }

    /// Lets go of ports that a socket of ours holds on its last day, where a new one wants them: one of all
    /// addresses in the place of one of a single address, or the other way round.
    fn make_way(&mut self, transport: &str, plan: &SocketPlan, gone: &[OpenSocket]) {
        for old in gone {
            let overlaps = old.plan.address.is_none() || plan.address.is_none();
            if old.place().0 != transport || old.plan.port != plan.port || !overlaps {
                continue;
            }
            match &old.handle {
                Handle::Tcp(accepts, _) => {
                    // Bound but not listening, it is in nobody's way (SO_REUSEADDR), and can be put back.
                    let _ = SockRef::from(&**accepts).shutdown(Shutdown::Read);
                    let vacated = Vacated::Tcp(Arc::clone(accepts), old.plan.backlog);
                    self.prepared.vacated.push(vacated);
                }
                Handle::Udp(port) => {
                    let _ = SockRef::from(&port.socket).set_reuse_address(true);
                    self.prepared.vacated.push(Vacated::Udp(Arc::clone(port)));
                }
            }
        }
    }

    fn build(
        &mut self,
        old: &State,
        next: &State,
        plan: ListenerPlan,
        carried: Vec<Option<OpenSocket>>,
        refusals: usize,
    ) -> Result<Running, StartError> {
        let before = old.listener(&plan.name).map(|before| &**before);
        // A module without a text was brought by a program, which means just this value.
        let same = before
            .is_some_and(|before| !plan.settings.is_empty() && before.settings == plan.settings);
        let before = before.map(|before| &before.kind);
        let rows = plan.sockets.into_iter().zip(carried).collect();
        let (kind, sockets) = match plan.protocol {
            Protocol::Tcp(tcp) => {
                let before = match before {
                    Some(RunningKind::Tcp(before)) => Some(before),
                    _ => None,
                };
                let module = match before.filter(|before| same && before.module.keeps_state()) {
                    Some(before) => Arc::clone(&before.module),
                    None => tcp.module,
                };
                let limits = before.map(|before| Arc::clone(&before.limits));
                let limits = limits.unwrap_or_else(|| self.workshop.limits());
                self.prepared
                    .swap
                    .limits
                    .push((Arc::clone(&limits), tcp.limits));
                let listener = Arc::new(TcpListener {
                    name: Arc::clone(&plan.name),
                    handshake_timeout: tcp.handshake_timeout,
                    idle_timeout: tcp.idle_timeout.unwrap_or_else(|| module.idle_timeout()),
                    module,
                    limits,
                    counters: before.map_or_else(Arc::default, |one| Arc::clone(&one.counters)),
                    warden: Arc::clone(&self.workshop.warden),
                    log_level: plan.log_level,
                });
                let sockets = self.tcp(&listener, next, rows, refusals)?;
                (RunningKind::Tcp(listener), sockets)
            }
            Protocol::Udp(udp) => {
                let group = match before {
                    Some(RunningKind::Udp(before)) => Some(before),
                    _ => None,
                };
                let before = group.map(|group| group.listener.load_full());
                let module = match before
                    .as_ref()
                    .filter(|one| same && one.module.keeps_state())
                {
                    Some(before) => Arc::clone(&before.module),
                    None => {
                        // One of another kind has no use for it.
                        let memory = before.as_ref().and_then(|one| one.module.memory());
                        if let Some(memory) = memory {
                            udp.module.remember(memory);
                        }
                        udp.module
                    }
                };
                let rates = match &before {
                    Some(before) if *before.rates.settings() == udp.rates => {
                        Arc::clone(&before.rates)
                    }
                    _ => Arc::new(Rates::new(udp.rates, Instant::now())),
                };
                let listener = Arc::new(UdpListener {
                    name: Arc::clone(&plan.name),
                    module,
                    rates,
                    counters: before.map_or_else(Arc::default, |one| Arc::clone(&one.counters)),
                    warden: Arc::clone(&self.workshop.warden),
                    kernel_filter: udp.kernel_filter,
                    log_level: plan.log_level,
                });
                let group = match group {
                    Some(group) => Arc::clone(group),
                    None => Arc::new(UdpSockets::new(Arc::clone(&listener))),
                };
                let sockets = self.udp(&group, &listener, rows, refusals);
                listener.module.bound(group.outlet());
                (RunningKind::Udp(group), sockets)
            }
        };
        Ok(Running {
            name: plan.name,
            file: plan.file,
            version: plan.version,
            module: plan.module,
            settings: plan.settings,
            kind,
            sockets,
        })
    }

    fn tcp(
        &mut self,
        listener: &Arc<TcpListener>,
        next: &State,
        rows: Rows,
        refusals: usize,
    ) -> Result<Vec<OpenSocket>, StartError> {
        let alpn = listener.module.alpn();
        let acceptors = |authority: Option<&ClientAuthority>| {
            Acceptors::new(&next.domains, &alpn, authority, &self.workshop.ticketer)
                .map(Arc::new)
                .map_err(|error| StartError::new(format!("listener {}: {error}", listener.name)))
        };
        let everybody = acceptors(None)?;
        let mut sockets = Vec::new();
        for (plan, carried) in rows {
            let socket = Arc::new(TcpSocket {
                listener: Arc::clone(listener),
                acceptors: match &plan.client_ca {
                    Some(authority) => acceptors(Some(authority))?,
                    None => Arc::clone(&everybody),
                },
                plan: plan.clone(),
                refusals,
                successor: OnceLock::new(),
            });
            let opened = match carried {
                Some(OpenSocket {
                    index,
                    bound,
                    plan: old_plan,
                    handle: Handle::Tcp(accepts, old),
                }) => {
                    if old_plan.backlog != plan.backlog {
                        // Harmless where the change is not put in force after all, and the only call that
                        // changes a backlog.
                        let _ = SockRef::from(&*accepts).listen(plan.backlog);
                    }
                    self.prepared
                        .swap
                        .successors
                        .push((old, Arc::clone(&socket)));
                    Ok((accepts, bound, index))
                }
                _ => self.open_tcp(listener, &plan),
            };
            match opened {
                Ok((accepts, bound, index)) => {
                    let kind = Kind::Tcp {
                        accepts: Arc::clone(&accepts),
                        socket: Arc::clone(&socket),
                    };
                    self.prepared.swap.sources.push((index, kind));
                    sockets.push(OpenSocket {
                        plan,
                        bound,
                        index,
                        handle: Handle::Tcp(accepts, socket),
                    });
                }
                Err(error) => self.errors.push(error),
            }
        }
        Ok(sockets)
    }

    fn open_tcp(
        &mut self,
        listener: &Arc<TcpListener>,
        plan: &SocketPlan,
    ) -> Result<(Arc<mio::net::TcpListener>, std::net::SocketAddr, usize), StartError> {
        let given = self.workshop.given("tcp", plan);
        let accepts = sockets::bind_tcp(&listener.name, plan, given)?;
        let named =
            |error: io::Error| StartError::new(format!("listener {}: {error}", listener.name));
        let bound = accepts.local_addr().map_err(named)?;
        let index = self.token(accepts.as_raw_fd()).map_err(named)?;
        Ok((Arc::new(accepts), bound, index))
    }

    fn udp(
        &mut self,
        group: &Arc<UdpSockets>,
        listener: &Arc<UdpListener>,
        rows: Rows,
        refusals: usize,
    ) -> Vec<OpenSocket> {
        let before = group.ports.load_full();
        let mut ports: Vec<Option<Arc<UdpPort>>> = vec![None; before.len()];
        let mut sockets = Vec::new();
        for (plan, carried) in rows {
            let opened = match carried {
                Some(OpenSocket {
                    index,
                    bound,
                    handle: Handle::Udp(port),
                    ..
                }) => Ok((port, bound, index)),
                _ => self.open_udp(listener, &plan),
            };
            let (port, bound, index) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    self.errors.push(error);
                    continue;
                }
            };
            // Its old number where it had one here; else one that was never given to another.
            let own = |one: &Option<Arc<UdpPort>>| {
                one.as_ref().is_some_and(|one| Arc::ptr_eq(one, &port))
            };
            let number = before.iter().position(own).unwrap_or(ports.len());
            ports.resize(ports.len().max(number + 1), None);
            ports[number] = Some(Arc::clone(&port));
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let kind = Kind::Udp {
                group: Arc::clone(group),
                listener: Arc::clone(listener),
                port: Arc::clone(&port),
                index: number,
                refusals,
                restriction: plan.restriction.clone(),
            };
            self.prepared.swap.sources.push((index, kind));
            sockets.push(OpenSocket {
                plan,
                bound,
                index,
                handle: Handle::Udp(port),
            });
        }
        let change = (Arc::clone(group), Arc::clone(listener), ports);
        self.prepared.swap.udp.push(change);
        sockets
    }

    fn open_udp(
        &mut self,
        listener: &Arc<UdpListener>,
        plan: &SocketPlan,
    ) -> Result<(Arc<UdpPort>, std::net::SocketAddr, usize), StartError> {
        let shares = self
            .prepared
            .vacated
            .iter()
            .any(|vacated| matches!(vacated, Vacated::Udp(port) if port.place.0 == plan.port));
        let given = self.workshop.given("udp", plan);
        let filtered = match given {
            Some(_) => Filtered::by_others(),
            None => Filtered::default(),
        };
        let opened = sockets::bind_udp(&listener.name, plan, shares, given)?;
        let named =
            |error: io::Error| StartError::new(format!("listener {}: {error}", listener.name));
        let bound = opened.socket.local_addr().map_err(named)?;
        let index = self.token(opened.socket.as_raw_fd()).map_err(named)?;
        let port = UdpPort {
            socket: opened.socket,
            ipv6: opened.ipv6,
            bound,
            place: (plan.port, plan.address),
            filtered,
        };
        Ok((Arc::new(port), bound, index))
    }

    /// Registers a socket with the poll under a token of its own. What happens on it before the poll thread
    /// knows it is found by the first look at it.
    fn token(&mut self, fd: std::os::fd::RawFd) -> io::Result<usize> {
        let index = (0..).find(|index| !self.used.contains(index));
        let index = index.unwrap_or(usize::MAX);
        self.workshop.core.watch_source(&mut SourceFd(&fd), index)?;
        self.used.insert(index);
        Ok(index)
    }
}

impl Workshop {
    /// The socket of that place, if this process was started with it.
    fn given(&self, transport: &str, plan: &SocketPlan) -> Option<Given> {
        let mut heritage = self.heritage.lock();
        heritage.socket(transport, plan.port, plan.address)
    }

    /// Counts of a listener that was not there before; the numbers come with the change.
    fn limits(&self) -> Arc<Limits> {
        let limits = Arc::new(Limits::new(LimitSettings::default()));
        let core = Arc::clone(&self.core);
        limits.set_release_hook(Box::new(move || core.wake_poll()));
        limits
    }
}

/// Rows of a listener, with the sockets that they take over.
type Rows = Vec<(SocketPlan, Option<OpenSocket>)>;

fn transport(plan: &ListenerPlan) -> &'static str {
    match plan.protocol {
        Protocol::Tcp(_) => "tcp",
        Protocol::Udp(_) => "udp",
    }
}

/// Where the refusals of a listener are noted: as before, also when it was away meanwhile.
fn place_of(name: &Arc<str>, names: &[Arc<str>], more: &mut Vec<Arc<str>>) -> usize {
    let known = names
        .iter()
        .chain(more.iter())
        .position(|known| known == name);
    known.unwrap_or_else(|| {
        more.push(Arc::clone(name));
        names.len() + more.len() - 1
    })
}
