#![forbid(unsafe_code)]
//! What the process may still do once it serves: files by Landlock, system calls by seccomp. Both are for good,
//! for every thread and for all that is run, so a change that needs more needs a restart, and says so.

mod landlock;
mod needs;
mod seccomp;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::OnceLock;

pub(crate) use self::needs::{Need, Needs, What};

use self::landlock::{Enforced, Grant, Grants};
use crate::config::ConfigError;
use crate::config::plan::Plan;

/// The key `sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Files by Landlock; `None` is yes, unless there is an Exec listener.
    pub landlock: Option<bool>,
    /// System calls by seccomp; `None` is yes, unless there is an Exec listener.
    pub seccomp: Option<bool>,
    /// Whether anybody may be connected to.
    pub connect: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            landlock: None,
            seccomp: None,
            connect: true,
        }
    }
}

/// What holds this process.
#[derive(Debug, Clone, Default)]
struct InForce {
    landlock: bool,
    seccomp: bool,
    /// What Landlock lets in. Absent where it is not in force, or has been since a predecessor.
    grants: Option<Grants>,
    programs: bool,
    connect: bool,
}

static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// What held the predecessor, and therefore holds this process from its beginning.
static INHERITED: OnceLock<InForce> = OnceLock::new();

/// Set for a successor: what holds it already. Each Landlock domain would be one more of at most sixteen.
const MARK: &str = "PORTREEVE_SANDBOX";

/// What a successor's environment gets, so that it does not build a sandbox within ours.
#[must_use]
pub fn for_successor() -> (&'static str, String) {
    let words = IN_FORCE.get().map(InForce::words).unwrap_or_default();
    (MARK, words.join(" "))
}

/// Learns from the environment what holds this process already. For those that have a predecessor.
pub(crate) fn inherit() {
    let words = std::env::var(MARK).unwrap_or_default();
    if let Some(held) = InForce::of_words(&words) {
        let _ = INHERITED.set(held);
    }
}

fn held() -> Option<&'static InForce> {
    IN_FORCE.get().or_else(|| INHERITED.get())
}

/// Puts in force what a plan asks for, for good, and says in the log what that is. Call it before threads are
/// started, which Landlock would not reach. A second call changes nothing.
pub fn enter(plan: &Plan) {
    if IN_FORCE.get().is_none() {
        let _ = IN_FORCE.set(enter_from(plan, INHERITED.get()));
    }
}

/// Adds to what holds this process already, if anything does, what a plan asks for beyond it.
fn enter_from(plan: &Plan, inherited: Option<&InForce>) -> InForce {
    let programs = plan.needs.iter().any(|need| need.what == What::Programs);
    let switches = plan.sandbox;
    let wanted = |switch: Option<bool>| switch.unwrap_or(!programs);
    let mut held = inherited.cloned().unwrap_or(InForce {
        programs: true,
        connect: true,
        ..InForce::default()
    });
    let mut words = Vec::new();
    if held.landlock {
        words.push("landlock as the predecessor had it".to_owned());
    } else {
        held.programs &= programs || switches.landlock == Some(false);
        match wanted(switches.landlock) {
            true => words.push(files(plan, programs, &mut held)),
            false => words.push(off(switches.landlock, "landlock")),
        }
    }
    let tighter = held.connect && !switches.connect;
    held.connect &= switches.connect;
    if held.seccomp && !tighter {
        words.push("seccomp as the predecessor had it".to_owned());
    } else if wanted(switches.seccomp) {
        words.push(calls(&mut held));
    } else {
        words.push(off(switches.seccomp, "seccomp"));
    }
    if !held.connect {
        words.push("no outgoing connections".to_owned());
    }
    log::info!("sandbox: {}", words.join("; "));
    held
}

fn off(switch: Option<bool>, part: &str) -> String {
    match switch {
        Some(_) => format!("{part} off"),
        None => format!(
            "{part} off, since programs of Exec would inherit it (switch it on with `sandbox`)"
        ),
    }
}

fn files(plan: &Plan, programs: bool, held: &mut InForce) -> String {
    let grants = grants(plan, programs);
    match grants.enforce() {
        Ok(Enforced::Not) => {
            log::warn!(
                "sandbox: this kernel has no Landlock; files are guarded by their modes alone"
            );
            "no landlock".to_owned()
        }
        Ok(Enforced::Abi(abi)) => {
            held.grants = Some(grants);
            held.landlock = true;
            format!("landlock (ABI {abi}) holds files to what is configured")
        }
        Err(error) => {
            log::warn!("sandbox: Landlock cannot be used: {error}");
            "no landlock".to_owned()
        }
    }
}

fn calls(held: &mut InForce) -> String {
    match seccomp::enforce(!held.connect) {
        Ok(count) => {
            held.seccomp = true;
            format!("seccomp refuses {count} system calls")
        }
        Err(error) => {
            log::warn!("sandbox: seccomp cannot be used: {error}");
            "no seccomp".to_owned()
        }
    }
}

/// All that the plan names.
fn grants(plan: &Plan, programs: bool) -> Grants {
    let mut grants = Grants::default();
    grants.no_connections = !plan.sandbox.connect;
    let mut by_name = false;
    for need in &plan.needs {
        match &need.what {
            What::File(file) => grants.beside(file, Grant::Read),
            What::Directory(path) => grants.tree(path, Grant::Read),
            What::Writable(path) => grants.tree(path, Grant::Change),
            What::Connect { by_name: name } => by_name |= name,
            What::Programs => {}
        }
    }
    grants.usual(by_name);
    if programs {
        grants.programs();
    }
    // Live changes write new files beside the old ones.
    if !plan.file.as_os_str().is_empty() {
        grants.beside(&plan.file, Grant::Change);
        let listeners = plan.file.parent().unwrap_or(Path::new(""));
        grants.add(listeners.join("listeners"), Grant::Change);
    }
    for listener in &plan.listeners {
        if !listener.file.as_os_str().is_empty() {
            grants.beside(&listener.file, Grant::Change);
        }
    }
    grants.add(&plan.state_dir, Grant::Change);
    grants
}

/// What of a new configuration the sandbox in force does not let through.
pub(crate) fn complaints(needs: &[Need]) -> Vec<ConfigError> {
    let Some(held) = held() else {
        return Vec::new();
    };
    let complain = |need: &Need| {
        let why = held.refuses(&need.what)?;
        Some(ConfigError {
            message: format!("{why}; a restart is needed"),
            ..need.place.clone()
        })
    };
    needs.iter().filter_map(complain).collect()
}

/// What to add to an error of a file that could not be read or run.
pub(crate) fn hint() -> &'static str {
    match held() {
        Some(InForce { landlock: true, .. }) => {
            " (where its mode lets us: the sandbox holds to what was configured at the start; a restart is needed)"
        }
        _ => "",
    }
}

impl InForce {
    /// As a successor reads it; `None` where nothing is in force.
    fn of_words(words: &str) -> Option<Self> {
        let has = |word: &str| words.split(' ').any(|one| one == word);
        let held = InForce {
            landlock: has("landlock"),
            seccomp: has("seccomp"),
            grants: None,
            programs: has("programs"),
            connect: has("connect"),
        };
        (held.landlock || held.seccomp).then_some(held)
    }

    fn words(&self) -> Vec<&'static str> {
        let words = [
            (self.landlock, "landlock"),
            (self.seccomp, "seccomp"),
            (self.programs, "programs"),
            (self.connect, "connect"),
        ];
        let said = words.into_iter().filter(|(is_so, _)| *is_so);
        said.map(|(_, word)| word).collect()
    }

    fn refuses(&self, what: &What) -> Option<String> {
        let covers = |path: &Path, grant| match &self.grants {
            Some(grants) => grants.cover(path, grant),
            None => !self.landlock || landlock::lets(path, grant),
        };
        let outside = |path: &Path| {
            let path = path.display();
            format!("{path} lies outside of what the sandbox lets in since the start")
        };
        match what {
            // Reading it has shown already what holds since a predecessor.
            What::File(_) if self.grants.is_none() => None,
            What::File(path) => {
                let parent = path.parent().unwrap_or(Path::new("."));
                (!covers(parent, Grant::Read)).then(|| outside(path))
            }
            What::Directory(path) => (!covers(path, Grant::Read)).then(|| outside(path)),
            What::Writable(path) => (!covers(path, Grant::Change)).then(|| outside(path)),
            What::Connect { .. } if !self.connect => {
                Some("outgoing connections are refused since the start".to_owned())
            }
            What::Programs if (self.landlock || self.seccomp) && !self.programs => {
                Some("the sandbox in force is one without programs".to_owned())
            }
            What::Connect { .. } | What::Programs => None,
        }
    }
}
