#![forbid(unsafe_code)]
//! Changes of what runs, as transactions: read, check, load and bind everything, then let the poll thread swap;
//! on any failure nothing has changed. One change at a time.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crossbeam_channel::{Sender, bounded};

use super::differences::{self, Scope};
use super::poll_loop::PollLoop;
use super::prepare::Prepared;
use super::state::{Running, RunningKind, State};
use super::swap::{Retired, Swap};
use super::{Server, Shared, StartError, descriptors, udp_io};
use crate::config::plan::Plan;
use crate::config::{self, ConfigError};
use crate::control::request::Reloaded;
use crate::control::{Fault, Response};
use crate::service;
use crate::session::Lane;

/// Errors of one change that are logged; the caller gets all.
const MOST_LOGGED: usize = 20;

/// A change on its way to the poll thread.
pub(super) struct Order {
    swap: Swap,
    done: Sender<Option<Retired>>,
}

/// What only changes look at.
#[derive(Default)]
pub(super) struct Changes {
    /// Names of listeners by the places of their refusals; one for each name that ever was.
    names: Vec<Arc<str>>,
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Refused {
    /// The files, or what was asked for, are wrong.
    Invalid(Vec<Fault>),
    /// The system, or the state of the server, is in the way; where a socket cannot be opened, which.
    Failed(Vec<StartError>),
}

impl Refused {
    pub(super) fn because(why: impl Display) -> Self {
        Refused::Failed(vec![StartError::new(why.to_string())])
    }

    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Refused::Invalid(faults) => faults.iter().map(ToString::to_string).collect(),
            Refused::Failed(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<Refused> for Response {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(faults) => Response::Invalid(faults),
            failed @ Refused::Failed(_) => Response::Error(failed.lines().join("\n")),
        }
    }
}

impl From<Vec<ConfigError>> for Refused {
    fn from(errors: Vec<ConfigError>) -> Self {
        Refused::Invalid(errors.into_iter().map(fault).collect())
    }
}

/// An error of a file, with its place.
pub(super) fn fault(error: ConfigError) -> Fault {
    Fault {
        file: Some(error.file.display().to_string()),
        line: Some(error.line),
        column: Some(error.column),
        message: error.message,
        ..Fault::default()
    }
}

impl Server {
    /// Puts the first configuration in force.
    pub(super) fn begin(&mut self, plan: Plan) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let one = |errors: Vec<StartError>| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            StartError::new(lines.join("\n"))
        };
        let next = shared
            .next(&plan)
            .map_err(|error| StartError::new(format!("cannot start: {error}")))?;
        let mut changes = shared.changes.lock();
        let old = State::default();
        let mut prepared = shared
            .workshop
            .prepare(&old, next, Vec::new(), plan.listeners, &changes.names)
            .map_err(one)?;
        let swap = std::mem::take(&mut prepared.swap);
        changes.names.extend(swap.names.iter().cloned());
        // Nothing stops yet, and nothing was replaced.
        let _ = self.poll_loop.apply(swap, &mut udp_io::Receiver::default());
        shared.enter(prepared.commit());
        Ok(())
    }
}

impl Order {
    /// Done by the poll thread, and nobody polls meanwhile.
    pub(super) fn carry_out(self, poll_loop: &mut PollLoop, receiver: &mut udp_io::Receiver) {
        let done = poll_loop.apply(self.swap, receiver);
        let _ = self.done.send(done);
    }
}

impl Shared {
    /// SIGHUP: reloads on a thread that may wait. Further ones before it has begun change nothing.
    pub(super) fn hang_up(shared: &Arc<Shared>) {
        if shared.hangup.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(shared);
        let reload = move || {
            if let Some(shared) = weak.upgrade() {
                service::reloading();
                shared.hangup.store(false, Ordering::Release);
                let _ = shared.reload(false);
                service::ready();
            }
        };
        shared.core.datagram_work(Lane::Wait, Box::new(reload));
    }

    /// Reads the files and puts them in force.
    pub(super) fn reload(&self, dry_run: bool) -> Response {
        let mut changes = self.changes.lock();
        let result = if self.file.as_os_str().is_empty() {
            Err(Refused::because("this server was not started from a file"))
        } else {
            config::load_for(&self.file, &self.link)
                .map_err(Refused::from)
                .and_then(|plan| self.change(&mut changes, plan, &Scope::All, dry_run, || Ok(())))
        };
        match result {
            Ok(reloaded) => Response::of(&reloaded),
            Err(refused) => {
                if !dry_run {
                    complain("reload", &refused);
                }
                refused.into()
            }
        }
    }

    /// Puts a program's plan in force.
    pub(super) fn replace(&self, plan: Plan) -> Result<Reloaded, String> {
        let mut changes = self.changes.lock();
        self.change(&mut changes, plan, &Scope::All, false, || Ok(()))
            .map_err(|refused| refused.lines().join("\n"))
    }

    /// One transaction. `write` is called when everything is bound and before anything is in force; when it
    /// fails, nothing has changed.
    pub(super) fn change(
        &self,
        changes: &mut Changes,
        plan: Plan,
        scope: &Scope,
        dry_run: bool,
        write: impl FnOnce() -> Result<(), Refused>,
    ) -> Result<Reloaded, Refused> {
        let old = self.state.load_full();
        if let Some(pid) = self.retirement.heir() {
            let why = format!("process {pid} has taken over, and is to be asked");
            return Err(Refused::because(why));
        }
        if matches!(scope, Scope::All) && !dry_run {
            descriptors::warn(&plan, descriptors::raise());
        }
        let mut next = self.next(&plan).map_err(Refused::because)?;
        let mut reloaded = Reloaded {
            notices: plan.notices.clone(),
            ..Reloaded::default()
        };
        let mut plans = plan.listeners;
        let mut kept = Vec::new();
        match scope {
            Scope::All => {
                reloaded.needs_restart =
                    self.needs_restart(plan.workers, &plan.state_dir, plan.shared.as_deref());
                let same = (&plan.run_as, plan.sandbox) == (&self.run_as, self.sandbox);
                reloaded
                    .needs_restart
                    .extend((!same).then(|| "run_as or sandbox".to_owned()));
            }
            Scope::Listener(name) => {
                plans.retain(|plan| *plan.name == **name);
                let others = old.listeners.iter().filter(|one| *one.name != **name);
                kept = others.cloned().collect();
                next.take_over(&old);
                next.network = Arc::clone(&old.network);
            }
            Scope::Network => {
                plans.clear();
                kept.clone_from(&old.listeners);
                next.take_over(&old);
            }
        }
        reloaded.changes = differences::between(&old, &next, &plans, scope);
        if dry_run {
            reloaded.would_refuse = self.would_refuse(&old, &next, &plans);
            differences::try_to_bind(&old, &plans).map_err(Refused::Failed)?;
            return Ok(reloaded);
        }
        let mut prepared = self
            .workshop
            .prepare(&old, next, kept, plans, &changes.names)
            .map_err(Refused::Failed)?;
        write()?;
        let names = prepared.swap.names.clone();
        self.put_in_force(&mut prepared)?;
        changes.names.extend(names);
        let state = prepared.commit();
        self.part_with(&old, &state);
        self.enter(state);
        reloaded.applied = true;
        for line in &reloaded.changes {
            log::info!("{line}");
        }
        for key in &reloaded.needs_restart {
            log::warn!("{key} changes with a restart only");
        }
        for notice in &reloaded.notices {
            log::warn!("{notice}");
        }
        if matches!(scope, Scope::All) {
            log::info!("reloaded, {} changes", reloaded.changes.len());
        }
        Ok(reloaded)
    }

    /// Waits until the poll thread has made the swap.
    fn put_in_force(&self, prepared: &mut Prepared) -> Result<(), Refused> {
        self.swap(std::mem::take(&mut prepared.swap))
    }

    /// The same for a change that needs no preparation.
    pub(super) fn swap(&self, swap: Swap) -> Result<(), Refused> {
        let stops = || Refused::because("the daemon stops");
        let (done, answer) = bounded(1);
        self.inbox.send(Order { swap, done }).map_err(|_| stops())?;
        self.core.summon();
        match answer.recv() {
            // What was replaced is dropped here.
            Ok(Some(retired)) => drop(retired),
            Ok(None) | Err(_) => return Err(stops()),
        }
        Ok(())
    }

    /// What a plan says besides its listeners.
    fn next(&self, plan: &Plan) -> Result<State, String> {
        let domains = plan.domains.prepare(&self.state_dir, SystemTime::now());
        Ok(State {
            drain: plan.drain,
            upgrade_drain: plan.upgrade_drain,
            memory: plan.memory,
            auto_ban: plan.auto_ban.clone(),
            network: Arc::clone(&plan.network),
            domains: Arc::new(domains.map_err(|error| error.to_string())?),
            listeners: Vec::new(),
        })
    }

    fn needs_restart(
        &self,
        workers: usize,
        state_dir: &std::path::Path,
        shared: Option<&str>,
    ) -> Vec<String> {
        let mut keys = Vec::new();
        if workers != self.workers {
            keys.push(format!("workers ({} -> {workers})", self.workers));
        }
        if shared != self.shared.as_deref() {
            keys.push("shared".to_owned());
        }
        if state_dir != self.state_dir {
            let (old, new) = (self.state_dir.display(), state_dir.display());
            keys.push(format!("state_dir ({old} -> {new})"));
        }
        keys
    }

    /// Takes note of listeners that are there no more.
    fn part_with(&self, old: &State, new: &State) {
        let stays = |running: &Running| {
            new.listeners
                .iter()
                .any(|one| match (&one.kind, &running.kind) {
                    (RunningKind::Tcp(one), RunningKind::Tcp(old)) => {
                        Arc::ptr_eq(&one.limits, &old.limits)
                    }
                    (RunningKind::Udp(one), RunningKind::Udp(old)) => Arc::ptr_eq(one, old),
                    _ => false,
                })
        };
        let mut gone = self.gone.lock();
        gone.retain(|limits| limits.strong_count() > 0);
        for running in old.listeners.iter().filter(|running| !stays(running)) {
            match &running.kind {
                RunningKind::Tcp(listener) => gone.push(Arc::downgrade(&listener.limits)),
                RunningKind::Udp(group) => {
                    group.gone.store(true, Ordering::Release);
                    group.ports.store(Arc::default());
                    self.core.cut_exchanges(group);
                }
            }
        }
    }

    fn enter(&self, state: State) {
        let network = Arc::clone(&state.network);
        let memory = state.memory.unwrap_or(0);
        self.gauge.memory.store(memory, Ordering::Relaxed);
        self.warden.set_policy(state.auto_ban.clone(), network);
        if self.sets_log_level.load(Ordering::Relaxed) {
            log::set_max_level(state.log_level());
        }
        self.state.store(Arc::new(state));
    }
}

impl State {
    /// All that one listener's, or the network's, change leaves as it is.
    pub(super) fn take_over(&mut self, old: &State) {
        self.drain = old.drain;
        self.upgrade_drain = old.upgrade_drain;
        self.memory = old.memory;
        self.auto_ban.clone_from(&old.auto_ban);
        self.domains = Arc::clone(&old.domains);
    }
}

/// Logs why a change was not made.
pub(super) fn complain(what: &str, refused: &Refused) {
    let lines = refused.lines();
    for line in lines.iter().take(MOST_LOGGED) {
        log::error!("{line}");
    }
    let more = match lines.len().saturating_sub(MOST_LOGGED) {
        0 => String::new(),
        more => format!(" and {more} more errors"),
    };
    log::error!("{what}: nothing has changed{more}");
}

/// The file of a listener that is to be edited.
pub(super) fn file_of(running: &Running) -> Result<PathBuf, Refused> {
    if running.file.as_os_str().is_empty() {
        let name = &running.name;
        return Err(Refused::because(format!(
            "listener {name} was not read from a file"
        )));
    }
    Ok(running.file.clone())
}
