#![forbid(unsafe_code)]
//! The daemon at run time: sockets, the poll loop, parked connections, workers.

mod baton;
pub(crate) mod census;
mod commands;
pub(crate) mod core;
pub(crate) mod datagrams;
mod descriptors;
mod differences;
mod edits;
mod exchanges;
mod filters;
mod forms;
mod gate;
mod handover;
pub(crate) mod listener;
pub(crate) mod metrics;
pub(crate) mod parked;
mod poll_loop;
mod preface;
mod prepare;
pub(crate) mod pressure;
mod queue;
mod reaper;
mod refusals;
mod reload;
mod sockets;
mod state;
pub mod status;
mod swap;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_live;
#[cfg(test)]
mod tests_overload;
mod together;
mod udp_io;
pub(crate) mod warden;
pub(crate) mod why;
pub(crate) mod workers;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use mio::{Poll, Token};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook_mio::v1_0::Signals as SignalSource;

pub use sockets::StartError;

use self::baton::Baton;
use self::core::Core;
use self::gate::Gate;
use self::handover::Retirement;
use self::poll_loop::PollLoop;
use self::prepare::Workshop;
use self::pressure::{Gauge, Meter};
use self::reload::{Changes, Order};
use self::state::{RunningKind, State};
use self::status::{Status, WorkerStatus};
use self::warden::{Keeper, Warden};
use self::workers::Workers;
use crate::admission::limits::Limits;
use crate::config::plan::Plan;
use crate::control::request::Reloaded;
use crate::control::{Commands, Link};
use crate::privileges::RunAs;
use crate::sandbox::Switches;
use crate::service;
use crate::tls;
use crate::upgrade::{Heritage, Succession};

/// How often certificates' ends are looked at.
const DAY: Duration = Duration::from_secs(86_400);

/// Tokens of the poll that are no listening sockets; generation 0, out of their range.
const WAKE: Token = Token(0xffff_fffe);
const SIGNAL: Token = Token(0xffff_fffd);

/// A server with its sockets bound. [`Server::run`] serves until [`Handle::shutdown`] or SIGTERM.
pub struct Server {
    poll_loop: PollLoop,
    /// Dropped before the workers, so that no change waits for a poll thread that is gone.
    orders: Receiver<Order>,
    workers: Workers,
    shared: Arc<Shared>,
    signals: Option<SignalSource>,
    /// Dropped last: it writes what is left.
    keeper: Keeper,
}

/// Controls a running server from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    workshop: Workshop,
    warden: Arc<Warden>,
    workers: usize,
    state_dir: PathBuf,
    /// As they were at the start, which they stay.
    run_as: Option<RunAs>,
    sandbox: Switches,
    /// The URL by which news are exchanged with other daemons.
    shared: Option<String>,
    /// The file that a reload reads; empty for a server that a program built.
    file: PathBuf,
    link: Link,
    /// What runs.
    state: ArcSwap<State>,
    /// Held while something changes: one change at a time.
    changes: Mutex<Changes>,
    /// Counts of listeners that were taken away and still have connections.
    gone: Mutex<Vec<Weak<Limits>>>,
    /// Changes on their way to the poll thread.
    inbox: Sender<Order>,
    /// The log's level follows the listeners'.
    sets_log_level: AtomicBool,
    /// A SIGHUP waits to be heeded.
    hangup: AtomicBool,
    /// How often a shutdown was asked for: once drains, twice stops at once.
    shutdowns: AtomicU32,
    /// How another process is started in this one's place; unset where that is not possible.
    succession: OnceLock<Succession>,
    retirement: Retirement,
    gauge: Gauge,
}

impl Server {
    /// Opens every socket of the plan and starts the workers. Nothing is served before [`Server::run`].
    ///
    /// # Errors
    /// A socket cannot be bound, or the system has no room for the threads.
    pub fn bind(plan: Plan) -> Result<Server, StartError> {
        Self::bind_with(plan, Heritage::default())
    }

    /// The same with sockets that this process was given.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub(crate) fn bind_with(plan: Plan, heritage: Heritage) -> Result<Server, StartError> {
        let refused = |error: rustls::Error| StartError::new(format!("cannot start: {error}"));
        let system = |error: io::Error| StartError::new(format!("cannot start: {error}"));
        let most = descriptors::raise();
        descriptors::warn(&plan, most);
        let poll = Poll::new().map_err(system)?;
        let registry = poll.registry().try_clone().map_err(system)?;
        let waker = mio::Waker::new(poll.registry(), WAKE).map_err(system)?;
        let workers = Workers::start(plan.workers, registry, waker).map_err(system)?;
        let core = Arc::clone(workers.core());
        let (warden, woken) = Warden::open(&plan.state_dir);
        let keeper = Keeper::start(Arc::clone(&warden), woken).map_err(system)?;
        let gate = Gate::new(Arc::clone(&core), Arc::clone(&warden));
        let poll_loop = PollLoop::new(poll, Arc::clone(&core), gate);
        let (inbox, orders) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            workshop: Workshop {
                core: Arc::clone(&core),
                warden: Arc::clone(&warden),
                ticketer: tls::ticketer().map_err(refused)?,
                heritage: Mutex::new(heritage),
            },
            core,
            warden,
            workers: workers.count(),
            state_dir: plan.state_dir.clone(),
            run_as: plan.run_as.clone(),
            sandbox: plan.sandbox,
            shared: plan.shared.clone(),
            file: plan.file.clone(),
            link: plan.link.clone(),
            state: ArcSwap::default(),
            changes: Mutex::default(),
            gone: Mutex::default(),
            inbox,
            sets_log_level: AtomicBool::new(false),
            hangup: AtomicBool::new(false),
            shutdowns: AtomicU32::new(0),
            succession: OnceLock::new(),
            retirement: Retirement::default(),
            gauge: Gauge::default(),
        });
        let commands: Arc<dyn Commands> = Arc::clone(&shared) as Arc<dyn Commands>;
        shared.link.bind(Arc::downgrade(&commands));
        let mut server = Server {
            poll_loop,
            orders,
            workers,
            shared,
            signals: None,
            keeper,
        };
        server.begin(plan)?;
        if let Some(url) = &server.shared.shared {
            server.join_others(url)?;
        }
        server.shared.workshop.heritage.lock().close_rest();
        Ok(server)
    }

    /// Lets SIGUSR2 and [`Request::Upgrade`](crate::control::Request::Upgrade) start another process in this one's
    /// place.
    #[must_use]
    pub(crate) fn with_succession(self, succession: Succession) -> Self {
        let _ = self.shared.succession.set(succession);
        self
    }

    /// The process before this one writes nothing any more: its last words about bans are read.
    pub(crate) fn relieved(&self) {
        self.shared.warden.read_again();
    }

    /// Lets SIGTERM and SIGINT drain the server; a second one stops it at once.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn with_signals(mut self) -> io::Result<Self> {
        let mut signals = SignalSource::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])?;
        self.poll_loop
            .registry()
            .register(&mut signals, SIGNAL, mio::Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(self)
    }

    /// Lets the level of the `log` facade follow what the listeners want, also after reloads.
    #[must_use]
    pub fn with_log_levels(self) -> Self {
        let shared = &self.shared;
        shared.sets_log_level.store(true, Ordering::Relaxed);
        log::set_max_level(shared.state.load().log_level());
        self
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Each socket with its listener's name and transport; ports that the kernel chose are known here.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, &'static str, SocketAddr)> {
        let state = self.shared.state.load();
        let each = state.listeners.iter();
        each.flat_map(|running| {
            let sockets = running.sockets.iter();
            sockets.map(|socket| (Arc::clone(&running.name), running.transport(), socket.bound))
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
            orders,
            workers,
            shared,
            mut signals,
            keeper,
        } = self;
        let meter = Meter::start(&shared)?;
        shared.core.poller.open(Baton::new(poll_loop));
        let served = Shared::serve(&shared, &orders, &mut signals);
        // The sockets close first, then the threads end. A handle that is kept holds no port, and nobody waits
        // for a change that nobody makes any more.
        drop(shared.core.poller.close());
        drop(meter);
        shared.state.store(Arc::default());
        drop(orders);
        drop(workers);
        drop(keeper);
        log::info!("stopped");
        served
    }
}

impl Shared {
    /// The poll thread's own part: it polls where no worker does, and minds signals, certificates and the end.
    fn serve(
        shared: &Arc<Shared>,
        orders: &Receiver<Order>,
        signals: &mut Option<SignalSource>,
    ) -> io::Result<()> {
        let core = &shared.core;
        let mut receiver = udp_io::Receiver::default();
        let mut drained_at: Option<Instant> = None;
        let mut expiry_at = Instant::now();
        loop {
            if Instant::now() >= expiry_at {
                expiry_at += DAY;
                shared.warn_expiry();
            }
            let until = drained_at.map_or(expiry_at, |drained| drained.min(expiry_at));
            let until = shared.retirement.look_at(until);
            let mut baton = core.poller.turn(&core.queue, &mut receiver, until)?;
            while let Ok(order) = orders.try_recv() {
                order.carry_out(&mut baton.poll_loop, &mut receiver);
            }
            if core.poller.take_signalled()
                && let Some(signals) = signals
            {
                signals
                    .pending()
                    .for_each(|signal| Shared::signalled(shared, signal));
            }
            match shared.shutdowns.load(Ordering::Acquire) {
                0 if shared.has_parted(&baton.poll_loop) => return Ok(()),
                0 => {
                    drop(baton);
                    core.poller.attend(&core.queue, until);
                    continue;
                }
                1 => {}
                _ => return Ok(()),
            }
            let now = Instant::now();
            let until =
                *drained_at.get_or_insert_with(|| shared.begin_drain(&mut baton.poll_loop, now));
            drop(baton);
            core.queue.ring();
            let active = shared.active();
            if active == 0 {
                return Ok(());
            }
            if now >= until {
                log::warn!("{active} connections or transfers are cut after draining");
                return Ok(());
            }
        }
    }

    /// Refuses newcomers and tells everybody; until when those inside may go on.
    fn begin_drain(&self, poll_loop: &mut PollLoop, now: Instant) -> Instant {
        let state = self.state.load();
        let drain = humantime::format_duration(state.drain);
        log::info!("draining, for at most {drain}");
        // Its end is not the service's where another process has taken over.
        if self.retirement.heir().is_none() {
            service::stopping();
        }
        poll_loop.close();
        self.core.draining.store(true, Ordering::Release);
        // Each slot that becomes free wakes the poll: the last one ends the run.
        state
            .tcp()
            .for_each(|listener| listener.limits.set_waiting(true));
        let gone = self.gone.lock();
        let gone = gone.iter().filter_map(Weak::upgrade);
        gone.for_each(|limits| limits.set_waiting(true));
        for woken in self.core.parked.shutdown() {
            poll_loop.dispatch(Some(woken));
        }
        now + state.drain
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
        self.0.status()
    }

    /// All counters as text in the OpenMetrics format, each named `portreeve_..`.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.0.metrics()
    }

    /// Puts another plan in force, as a reload does: sockets of the same place stay open, connections stay
    /// under the rules that let them in, counts and bans survive. Returns when it is in effect.
    ///
    /// # Errors
    /// A socket cannot be opened, or the server stops; then nothing has changed.
    pub fn replace(&self, plan: Plan) -> Result<Reloaded, String> {
        self.0.replace(plan)
    }
}

impl Shared {
    fn status(&self) -> Status {
        let state = self.state.load();
        Status {
            listeners: state.listeners.iter().map(|one| one.status()).collect(),
            workers: WorkerStatus {
                total: self.workers,
                busy: self.core.busy(),
            },
            overload: Some(self.gauge.status(self.core.pressure.stage())),
            shared: self.together(),
        }
    }

    fn metrics(&self) -> String {
        let state = self.state.load();
        let sample = metrics::Sample {
            listeners: state.listeners.iter().map(|one| one.sample()).collect(),
            busy: self.core.busy(),
            waits: self.core.queue.waits.sample(),
            domains: Arc::clone(&state.domains),
            overload: self.gauge.status(self.core.pressure.stage()),
        };
        metrics::text(sample)
    }

    fn signalled(shared: &Arc<Shared>, signal: i32) {
        if signal == SIGHUP {
            Shared::hang_up(shared);
        } else if signal == SIGUSR2 {
            Shared::upgrade_aside(shared);
        } else {
            shared.shutdowns.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn warn_expiry(&self) {
        for line in self.state.load().domains.expiring(SystemTime::now()) {
            log::warn!("{line}");
        }
    }

    /// Connections and exchanges that a drain waits for: of all listeners, and connections of those taken away.
    fn active(&self) -> usize {
        let gone = self.gone.lock().iter().filter_map(Weak::upgrade).collect();
        let gone: Vec<Arc<Limits>> = gone;
        let state = self.state.load();
        let inside = state.listeners.iter().map(|running| match &running.kind {
            RunningKind::Tcp(listener) => listener.limits.active() as usize,
            RunningKind::Udp(group) => group.exchanges.load(Ordering::Acquire),
        });
        let gone = gone.iter().map(|limits| limits.active() as usize);
        inside.chain(gone).sum()
    }
}
