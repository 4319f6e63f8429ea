#![forbid(unsafe_code)]
//! Giving up root: another user for the whole process, and no capability but CAP_NET_BIND_SERVICE, with which
//! sockets below port 1024 are bound at the start and by changes while the daemon runs.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use nix::unistd::{Gid, Group, Uid, User, initgroups, setresgid, setresuid};
use parking_lot::Mutex;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};

/// The one that is kept.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Set for a successor: whom it runs as, `USER:GROUP:UID:GID`, for it may find /etc/passwd out of reach.
const MARK: &str = "PORTREEVE_RUN_AS";

/// Users that were looked up.
static KNOWN: LazyLock<Mutex<Vec<RunAs>>> =
    LazyLock::new(|| Mutex::new(RunAs::of_predecessor().into_iter().collect()));

/// Whom this process became.
static ASSUMED: OnceLock<RunAs> = OnceLock::new();

/// Whom the daemon runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// The user's name.
    pub user: String,
    /// The group's name, where one was named.
    pub group: Option<String>,
    /// The user's number.
    pub uid: u32,
    /// The group's number: the one named, or the user's own.
    pub gid: u32,
}

impl RunAs {
    /// Looks a user up, and a group where one is named.
    ///
    /// # Errors
    /// In words: this system knows no such user or group, or it is root.
    pub fn find(user: &str, group: Option<&str>) -> Result<RunAs, String> {
        // Asked again by each reload, when /etc/passwd may be out of reach; to become somebody else takes a restart.
        let mut known = KNOWN.lock();
        let same = known
            .iter()
            .find(|one| one.user == user && one.group.as_deref() == group);
        if let Some(run_as) = same {
            return Ok(run_as.clone());
        }
        let run_as = Self::look_up(user, group)?;
        known.push(run_as.clone());
        Ok(run_as)
    }

    /// What the predecessor says of this process, if that is true.
    fn of_predecessor() -> Option<RunAs> {
        let mark = std::env::var(MARK).ok()?;
        let mut words = mark.split(':');
        let run_as = RunAs {
            user: words.next()?.to_owned(),
            group: words
                .next()
                .filter(|one| !one.is_empty())
                .map(str::to_owned),
            uid: words.next()?.parse().ok()?,
            gid: words.next()?.parse().ok()?,
        };
        let own = (Uid::effective().as_raw(), Gid::effective().as_raw());
        (own == (run_as.uid, run_as.gid)).then_some(run_as)
    }

    fn look_up(user: &str, group: Option<&str>) -> Result<RunAs, String> {
        let found = User::from_name(user).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| unknown("user", user, "/etc/passwd"))?;
        let gid = match group {
            None => found.gid,
            Some(name) => {
                let found = Group::from_name(name).map_err(|error| error.to_string())?;
                let found = found.ok_or_else(|| unknown("group", name, "/etc/group"))?;
                found.gid
            }
        };
        if found.uid.is_root() || gid.as_raw() == 0 {
            return Err("run_as gives root up; expected another user and group".to_owned());
        }
        Ok(RunAs {
            user: user.to_owned(),
            group: group.map(str::to_owned),
            uid: found.uid.as_raw(),
            gid: gid.as_raw(),
        })
    }

    /// Becomes this user, for good. Call it before any thread is started: capabilities are a thread's own.
    ///
    /// # Errors
    /// Somebody else than root may become nobody else; or the system refuses a step.
    pub fn assume(&self) -> io::Result<()> {
        let own = Uid::effective();
        if own.as_raw() != self.uid {
            if !own.is_root() {
                return Err(io::Error::other(format!(
                    "only root may become {}; this process is user {own}",
                    self.user
                )));
            }
            self.become_it()?;
        }
        keep_one_capability()?;
        set_no_new_privs(true)?;
        let _ = ASSUMED.set(self.clone());
        Ok(())
    }

    fn become_it(&self) -> io::Result<()> {
        // What a program with a set-user-id bit could ever get is bounded, too. Those that the kernel does not
        // know, or that are gone already, are refused.
        for capability in CapabilitySet::all().iter().filter(|one| *one != KEPT) {
            let _ = remove_capability_from_bounding_set(capability);
        }
        // No rights by the number 0 alone, and capabilities outlive the change of numbers until the next line.
        set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT
                | CapabilitiesSecureBits::NO_ROOT_LOCKED
                | CapabilitiesSecureBits::KEEP_CAPS,
        )?;
        let name = CString::new(self.user.as_str())?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // With the user's further groups: keys are often readable for one, such as Debian's ssl-cert.
        initgroups(&name, gid)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
            return Err(io::Error::other("root could be had back"));
        }
        Ok(())
    }

    /// Makes `state_dir` where it is missing, this user's own and closed to others.
    ///
    /// # Errors
    /// It can neither be found nor made.
    pub fn make_state_dir(&self, state_dir: &Path) -> io::Result<()> {
        if state_dir.exists() || !Uid::effective().is_root() {
            return Ok(());
        }
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(state_dir)?;
        chown(state_dir, Some(self.uid), Some(self.gid))
    }
}

/// Why a name was not found: it is none, or the sandbox keeps us from looking.
fn unknown(what: &str, name: &str, file: &str) -> String {
    match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            format!("cannot look for {what} {name} in {file}: {error}")
        }
        _ => format!("this system has no {what} {name}"),
    }
}

/// Keeps CAP_NET_BIND_SERVICE where it is there; programs that are run get nothing.
fn keep_one_capability() -> io::Result<()> {
    let kept = capabilities(None)?.permitted & KEPT;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    // A kernel without ambient capabilities (before 4.3) has none to clear.
    let _ = clear_ambient_capability_set();
    Ok(())
}

/// What a successor's environment gets, so that it knows whom it runs as.
#[must_use]
pub fn for_successor() -> Option<(&'static str, String)> {
    let RunAs {
        user,
        group,
        uid,
        gid,
    } = ASSUMED.get()?;
    let group = group.as_deref().unwrap_or_default();
    Some((MARK, format!("{user}:{group}:{uid}:{gid}")))
}

/// Calls `spawn` while what this thread runs inherits CAP_NET_BIND_SERVICE, where we have it: meant for the
/// daemon's own successor and nothing else.
pub fn handing_on<T>(spawn: impl FnOnce() -> T) -> T {
    let raised = capabilities(None).and_then(|before| {
        let mut sets = before;
        sets.inheritable |= before.permitted & KEPT;
        set_capabilities(None, sets)?;
        configure_capability_in_ambient_set(KEPT, true)?;
        Ok(before)
    });
    let result = spawn();
    if let Ok(before) = raised {
        let _ = configure_capability_in_ambient_set(KEPT, false);
        let _ = set_capabilities(None, before);
    }
    result
}

/// No core dump of this process, which holds private keys and passwords, and no debugger but root's. Programs
/// that it runs are not concerned.
///
/// # Errors
/// The system refuses.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
