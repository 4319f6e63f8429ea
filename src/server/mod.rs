#![forbid(unsafe_code)]
//! The daemon at run time: sockets, the poll loop, parked connections, workers.

mod baton;
pub(crate) mod datagrams;
mod exchanges;
mod gate;
pub(crate) mod listener;
pub(crate) mod metrics;
mod open;
pub(crate) mod parked;
mod poll_loop;
mod preface;
mod queue;
mod reaper;
mod refusals;
mod sockets;
pub mod status;
#[cfg(test)]
mod tests;
mod udp_io;
pub(crate) mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mio::{Poll, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals as SignalSource;

pub use sockets::StartError;

use self::baton::Baton;
use self::datagrams::UdpSockets;
use self::gate::Gate;
use self::listener::{Counters, TcpListener};
use self::open::Tls;
use self::poll_loop::PollLoop;
use self::refusals::Refusals;
use self::status::{ListenerStatus, SocketStatus, Status, WorkerStatus};
use self::workers::{Core, Workers};
use crate::admission::bans::Bans;
use crate::admission::ladder::Reason;
use crate::config::plan::{Plan, SocketPlan};
use crate::tls::{self, Domains};

/// How often certificates' ends are looked at.
const DAY: Duration = Duration::from_secs(86_400);

/// Tokens of the poll that are no listening sockets; generation 0, out of their range.
const WAKE: Token = Token(0xffff_fffe);
const SIGNAL: Token = Token(0xffff_fffd);

/// A server with its sockets bound. [`Server::run`] serves until [`Handle::shutdown`] or SIGTERM.
pub struct Server {
    poll_loop: PollLoop,
    workers: Workers,
    shared: Arc<Shared>,
    drain: Duration,
    signals: Option<SignalSource>,
}

/// Controls a running server from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    workers: usize,
    listeners: Vec<Running>,
    domains: Arc<Domains>,
    /// How often a shutdown was asked for: once drains, twice stops at once.
    shutdowns: AtomicU32,
}

struct Running {
    kind: RunningKind,
    sockets: Vec<(SocketPlan, SocketAddr)>,
}

enum RunningKind {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSockets>),
}

impl Server {
    /// Opens every socket of the plan and starts the workers. Nothing is served before [`Server::run`].
    ///
    /// # Errors
    /// A socket cannot be bound, or the system has no room for the threads.
    pub fn bind(plan: Plan) -> Result<Server, StartError> {
        let refused = |error: rustls::Error| StartError(format!("cannot start: {error}"));
        let system = |error: io::Error| StartError(format!("cannot start: {error}"));
        let descriptors = open::raise_descriptors();
        open::warn_descriptors(&plan, descriptors);
        let poll = Poll::new().map_err(system)?;
        let registry = poll.registry().try_clone().map_err(system)?;
        let waker = mio::Waker::new(poll.registry(), WAKE).map_err(system)?;
        let domains = plan.domains.prepare(&plan.state_dir, SystemTime::now());
        let domains = domains.map_err(system)?;
        let tls = Tls {
            domains: Arc::new(domains),
            ticketer: tls::ticketer().map_err(refused)?,
        };
        let (mut sources, mut listeners, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for listener in plan.listeners {
            let name = Arc::clone(&listener.name);
            listeners.push(open::open(listener, &tls, refusals.len(), &mut sources)?);
            refusals.push((name, Refusals::default()));
        }
        let workers = Workers::start(plan.workers, registry, waker).map_err(system)?;
        let core = Arc::clone(workers.core());
        for running in &listeners {
            if let RunningKind::Tcp(listener) = &running.kind {
                let core = Arc::clone(&core);
                listener
                    .limits
                    .set_release_hook(Box::new(move || core.wake_poll()));
            }
        }
        let shared = Arc::new(Shared {
            core: Arc::clone(&core),
            workers: workers.count(),
            listeners,
            domains: tls.domains,
            shutdowns: AtomicU32::new(0),
        });
        let bans = Arc::new(Bans::default());
        let gate = Gate::new(Arc::clone(&core), plan.network, bans, refusals);
        let mut poll_loop = PollLoop::new(poll, core, sources, gate);
        poll_loop.open().map_err(system)?;
        Ok(Server {
            poll_loop,
            workers,
            shared,
            drain: plan.drain,
            signals: None,
        })
    }

    /// Lets SIGTERM and SIGINT drain the server; a second one stops it at once.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn with_signals(mut self) -> io::Result<Self> {
        let mut signals = SignalSource::new([SIGTERM, SIGINT, SIGHUP])?;
        self.poll_loop
            .registry()
            .register(&mut signals, SIGNAL, mio::Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(self)
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Each socket with its listener's name and transport; ports that the kernel chose are known here.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, &'static str, SocketAddr)> {
        let each = self.shared.listeners.iter();
        each.flat_map(|running| {
            let (name, transport) = running.names();
            running
                .sockets
                .iter()
                .map(move |(_, address)| (Arc::clone(&name), transport, *address))
        })
        .collect()
    }

    /// Serves on this thread until a shutdown has drained, at most the plan's `drain`.
    ///
    /// # Errors
    /// The poll itself fails, which leaves nothing to serve with.
    pub fn run(self) -> io::Result<()> {
        let Server {
            poll_loop,
            workers,
            shared,
            drain,
            mut signals,
        } = self;
        shared.core.poller.open(Baton::new(poll_loop));
        let served = shared.serve(drain, &mut signals);
        // The sockets close first, then the threads end.
        drop(shared.core.poller.close());
        drop(workers);
        log::info!("stopped");
        served
    }
}

impl Shared {
    /// The poll thread's own part: it polls where no worker does, and minds signals, certificates and the end.
    fn serve(&self, drain: Duration, signals: &mut Option<SignalSource>) -> io::Result<()> {
        let core = &self.core;
        let mut receiver = udp_io::Receiver::default();
        let mut drained_at: Option<Instant> = None;
        let mut expiry_at = Instant::now();
        loop {
            if Instant::now() >= expiry_at {
                expiry_at += DAY;
                self.warn_expiry();
            }
            let until = drained_at.map_or(expiry_at, |drained| drained.min(expiry_at));
            let mut baton = core.poller.turn(&core.queue, &mut receiver, until)?;
            if core.poller.take_signalled()
                && let Some(signals) = signals
            {
                signals.pending().for_each(|signal| self.signalled(signal));
            }
            match self.shutdowns.load(Ordering::Acquire) {
                0 => {
                    drop(baton);
                    core.poller.attend(&core.queue, until);
                    continue;
                }
                1 => {}
                _ => return Ok(()),
            }
            let now = Instant::now();
            let until = *drained_at
                .get_or_insert_with(|| self.begin_drain(&mut baton.poll_loop, drain, now));
            drop(baton);
            core.queue.ring();
            let active = self.active();
            if active == 0 {
                return Ok(());
            }
            if now >= until {
                log::warn!("{active} connections are cut after draining");
                return Ok(());
            }
        }
    }

    /// Refuses newcomers and tells everybody; until when those inside may go on.
    fn begin_drain(&self, poll_loop: &mut PollLoop, drain: Duration, now: Instant) -> Instant {
        log::info!(
            "draining, for at most {}",
            humantime::format_duration(drain)
        );
        poll_loop.close();
        self.core.draining.store(true, Ordering::Release);
        // Each slot that becomes free wakes the poll: the last one ends the run.
        self.tcp()
            .for_each(|listener| listener.limits.set_waiting(true));
        for woken in self.core.parked.shutdown() {
            poll_loop.dispatch(Some(woken));
        }
        now + drain
    }
}

impl Handle {
    /// Drains and stops; a second call stops at once.
    pub fn shutdown(&self) {
        self.0.shutdowns.fetch_add(1, Ordering::AcqRel);
        self.0.core.summon();
    }

    /// What the server is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let listeners = self.0.listeners.iter().map(Running::status).collect();
        let workers = WorkerStatus {
            total: self.0.workers,
            busy: self.0.core.busy(),
        };
        Status { listeners, workers }
    }
}

impl Handle {
    /// All counters as text in the OpenMetrics format, each named `portreeve_..`.
    #[must_use]
    pub fn metrics(&self) -> String {
        let listeners = self.0.listeners.iter().map(Running::sample).collect();
        let sample = metrics::Sample {
            listeners,
            busy: self.0.core.busy(),
            waits: self.0.core.queue.waits.sample(),
            domains: Arc::clone(&self.0.domains),
        };
        metrics::text(sample)
    }
}

impl Shared {
    fn signalled(&self, signal: i32) {
        if signal == SIGHUP {
            log::warn!("SIGHUP: reload is not part of this build yet");
        } else {
            self.shutdowns.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn warn_expiry(&self) {
        for line in self.domains.expiring(SystemTime::now()) {
            log::warn!("{line}");
        }
    }

    fn active(&self) -> u32 {
        self.tcp().map(|listener| listener.limits.active()).sum()
    }

    fn tcp(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.listeners
            .iter()
            .filter_map(|running| match &running.kind {
                RunningKind::Tcp(listener) => Some(listener),
                RunningKind::Udp(_) => None,
            })
    }
}

impl Running {
    fn names(&self) -> (Arc<str>, &'static str) {
        match &self.kind {
            RunningKind::Tcp(listener) => (Arc::clone(&listener.name), "tcp"),
            RunningKind::Udp(group) => (Arc::clone(&group.listener.name), "udp"),
        }
    }

    fn sample(&self) -> metrics::ListenerSample {
        match &self.kind {
            RunningKind::Tcp(listener) => metrics::ListenerSample {
                name: Arc::clone(&listener.name),
                active: Some(listener.limits.active()),
                exchanges: None,
                counters: listener.counters.sample(),
            },
            RunningKind::Udp(group) => metrics::ListenerSample {
                name: Arc::clone(&group.listener.name),
                active: None,
                exchanges: Some(group.exchanges.load(Ordering::Relaxed) as u64),
                counters: group.listener.counters.sample(),
            },
        }
    }

    fn status(&self) -> ListenerStatus {
        let (name, transport) = self.names();
        let (channels, active, counters): (u32, u32, &Counters) = match &self.kind {
            RunningKind::Tcp(listener) => (
                listener.limits.settings().channels,
                listener.limits.active(),
                &listener.counters,
            ),
            RunningKind::Udp(group) => (0, 0, &group.listener.counters),
        };
        let refused = Reason::ALL.map(|reason| (reason.name(), counters.rejected(reason)));
        let rejected: BTreeMap<String, u64> = refused
            .into_iter()
            .chain([(listener::OVERLOAD, counters.sample().lost)])
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        let socket = |(plan, bound): &(SocketPlan, SocketAddr)| SocketStatus {
            port: bound.port(),
            address: plan.address,
            tls: plan.tls.name().to_owned(),
        };
        ListenerStatus {
            name: name.to_string(),
            transport: transport.to_owned(),
            channels,
            active,
            accepted: counters.accepted(),
            rejected,
            sockets: self.sockets.iter().map(socket).collect(),
        }
    }
}
