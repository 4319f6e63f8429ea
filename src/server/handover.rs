#![forbid(unsafe_code)]
//! Another process in this one's place: it is started and waited for, gets the sockets, and this one goes on with
//! the connections that it has until they end.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::poll_loop::PollLoop;
use super::reload::Refused;
use super::state::{Handle, OpenSocket, Running, State};
use super::swap::Swap;
use crate::control::request::Upgraded;
use crate::service;
use crate::session::Lane;
use crate::upgrade::{self, Gift, Heir, Succession};

/// How often a process that has handed over looks whether everybody has left.
const LOOK: Duration = Duration::from_millis(200);
/// The least time it stays: turns that were queued, work on lanes and their answers end within it.
const LEAST: Duration = Duration::from_secs(1);

/// When this process handed over, to whom, and until when its connections may go on.
#[derive(Default)]
pub(super) struct Retirement(OnceLock<Retired>);

struct Retired {
    heir: u32,
    since: Instant,
    until: Instant,
}

impl Retirement {
    /// The process that has taken over.
    pub(super) fn heir(&self) -> Option<u32> {
        self.0.get().map(|retired| retired.heir)
    }

    /// When to look whether everybody has left, where that is before `other`.
    pub(super) fn look_at(&self, other: Instant) -> Instant {
        match self.0.get() {
            Some(_) => other.min(Instant::now() + LOOK),
            None => other,
        }
    }
}

impl Shared {
    /// SIGUSR2: on a thread that may wait.
    pub(super) fn upgrade_aside(shared: &Arc<Shared>) {
        let weak = Arc::downgrade(shared);
        let upgrade = move || {
            if let Some(shared) = weak.upgrade() {
                // The log has why it failed.
                let _ = shared.upgrade();
            }
        };
        shared.core.datagram_work(Lane::Wait, Box::new(upgrade));
    }

    /// Starts the program as it is on disk now, and lets it take over.
    pub(super) fn upgrade(&self) -> Result<Upgraded, Refused> {
        let result = self.try_to_upgrade();
        if let Err(refused) = &result {
            for line in refused.lines() {
                log::error!("upgrade: {line}");
            }
            log::error!("upgrade: nothing has changed, this process serves on");
        }
        result
    }

    fn try_to_upgrade(&self) -> Result<Upgraded, Refused> {
        // Nothing changes meanwhile: the new process reads the files.
        let _changes = self.changes.lock();
        if let Some(pid) = self.retirement.heir() {
            let why = format!("process {pid} has taken over already");
            return Err(Refused::because(why));
        }
        if self.shutdowns.load(Ordering::Acquire) > 0 {
            return Err(Refused::because("the daemon stops"));
        }
        let succession = self.succession.get().ok_or_else(|| {
            Refused::because(
                "this server was not started by `portreeve run`: there is no program to start",
            )
        })?;
        let state = self.state.load_full();
        let sockets: Vec<OpenSocket> = state
            .listeners
            .iter()
            .flat_map(|running| running.sockets.iter().cloned())
            .collect();
        let gifts = gifts(&state).map_err(Refused::because)?;
        let mut heir = Heir::start(succession, gifts).map_err(Refused::because)?;
        let ready = heir.wait_until_ready(upgrade::PATIENCE);
        ready.map_err(Refused::because)?;
        // The only step that can still fail, where the daemon was told to stop meanwhile; the new one is ended then.
        self.swap(Swap {
            removed: sockets.iter().map(|socket| socket.index).collect(),
            leaves: true,
            groups: state.groups(),
            ..Swap::default()
        })?;
        Ok(self.part(succession, heir, &state, sockets.len()))
    }

    /// From here on there is no way back.
    fn part(&self, succession: &Succession, heir: Heir, state: &State, sockets: usize) -> Upgraded {
        self.state.store(Arc::new(state.without_sockets()));
        self.warden.retire();
        succession.control.leave();
        let upgraded = Upgraded {
            pid: heir.pid(),
            old_pid: std::process::id(),
            sockets,
            staying: self.core.parked.taken(),
        };
        // The service manager hears it from the process that it knows.
        service::succeeded_by(upgraded.pid);
        if let Err(why) = heir.let_go() {
            log::error!("{why}");
        }
        let now = Instant::now();
        let _ = self.retirement.0.set(Retired {
            heir: upgraded.pid,
            since: now,
            until: now + state.upgrade_drain,
        });
        log::info!(
            "process {} has taken over; {} connections and exchanges stay here, for at most {}",
            upgraded.pid,
            upgraded.staying,
            humantime::format_duration(state.upgrade_drain),
        );
        self.core.summon();
        upgraded
    }

    /// Whether a process that has handed over has nobody left; when its time is up it begins to drain.
    pub(super) fn has_parted(&self, poll_loop: &PollLoop) -> bool {
        let Some(retired) = self.retirement.0.get() else {
            return false;
        };
        let now = Instant::now();
        if now >= retired.since + LEAST {
            self.leave_ports();
        }
        let core = &self.core;
        if core.parked.taken() == 0
            && core.queue.len() == 0
            && core.busy() == 0
            && !poll_loop.is_deciding()
            && now >= retired.since + LEAST
        {
            return true;
        }
        if now >= retired.until {
            self.shutdowns.fetch_add(1, Ordering::AcqRel);
            core.summon();
        }
        false
    }
}

impl Shared {
    /// Lets go of the ports that no exchange answers from any more, so that the new process can close them.
    fn leave_ports(&self) {
        for group in self.state.load().groups() {
            if group.exchanges.load(Ordering::Acquire) == 0 && !group.ports.load().is_empty() {
                group.ports.store(Arc::default());
            }
        }
    }
}

/// Descriptors of all listening sockets.
fn gifts(state: &State) -> Result<Vec<Gift>, String> {
    let mut gifts = Vec::new();
    for running in &state.listeners {
        for socket in &running.sockets {
            let owned = match &socket.handle {
                Handle::Tcp(accepts, _) => accepts.as_fd().try_clone_to_owned(),
                Handle::Udp(port) => port.socket.as_fd().try_clone_to_owned(),
            };
            gifts.push(Gift {
                listener: Arc::clone(&running.name),
                transport: running.transport(),
                port: socket.bound.port(),
                address: socket.plan.address,
                socket: owned.map_err(|error| format!("cannot hand a socket over: {error}"))?,
            });
        }
    }
    Ok(gifts)
}

impl State {
    /// What runs once the sockets are another process's.
    fn without_sockets(&self) -> State {
        let listeners = self.listeners.iter().map(|running| {
            Arc::new(Running {
                name: Arc::clone(&running.name),
                file: running.file.clone(),
                version: running.version,
                module: running.module.clone(),
                settings: running.settings.clone(),
                kind: running.kind.clone(),
                sockets: Vec::new(),
            })
        });
        let mut state = State {
            network: Arc::clone(&self.network),
            listeners: listeners.collect(),
            ..State::default()
        };
        state.take_over(self);
        state
    }
}
