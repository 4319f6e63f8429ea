#![forbid(unsafe_code)]
//! Landlock (landlock(7)): which files this process, and what it runs, may still open. It holds by directories
//! and not by names, since files are replaced: a certificate renewed, an account changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The newest rights that were thought through here; on older kernels fewer are kept from us.
const KNOWN: ABI = ABI::V7;

/// What the C library's resolver reads, beside what stands in [`ALWAYS`].
const RESOLVER: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
];

/// What the C library reads when it pleases: its parts, how many processors there are.
const ALWAYS: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/dev/urandom",
    // Not /proc/self: that is a directory of this process, and a successor has another.
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
];

/// What programs of Exec listeners find, where they are to run inside.
const FOR_PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/etc", "/dev", "/proc", "/sys"];

/// Who else loads programs: the dynamic loader, by the architecture.
const LOADERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// What may be done below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grant {
    Read,
    /// Reading and running.
    Run,
    /// Reading and every change but making devices.
    Change,
}

impl Grant {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Grant::Read => read,
            Grant::Run => read | AccessFs::Execute,
            Grant::Change => {
                let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
                AccessFs::from_all(KNOWN) & !devices & !AccessFs::Execute
            }
        }
    }
}

/// Paths with what is granted below them.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants {
    rows: Vec<(PathBuf, Grant)>,
    /// Connections to TCP ports are refused.
    pub(super) no_connections: bool,
}

impl Grants {
    pub(super) fn add(&mut self, path: impl Into<PathBuf>, grant: Grant) {
        self.rows.push((path.into(), grant));
    }

    /// The directory that holds a file, and the one of the file that a link leads to.
    pub(super) fn beside(&mut self, file: &Path, grant: Grant) {
        self.add(folder(file), grant);
        if let Ok(real) = file.canonicalize() {
            self.add(folder(&real), grant);
        }
    }

    /// A directory; where its name is a link, the directory that holds what it leads to, for such a link is
    /// moved from one release to the next.
    pub(super) fn tree(&mut self, directory: &Path, grant: Grant) {
        self.add(directory, grant);
        if directory.is_symlink()
            && let Ok(real) = directory.canonicalize()
        {
            self.add(folder(&real), grant);
        }
    }

    /// What every daemon needs. `by_name`: a resolver's files are replaced, so all of /etc is read.
    pub(super) fn usual(&mut self, by_name: bool) {
        for path in ALWAYS.iter().chain(RESOLVER) {
            self.add(*path, Grant::Read);
        }
        if let Ok(real) = Path::new("/etc/resolv.conf").canonicalize() {
            self.add(real, Grant::Read);
        }
        if by_name {
            self.add("/etc", Grant::Read);
        }
        self.add("/dev/null", Grant::Change);
        // A successor of this process: the binary's directory, since a newer one takes its place.
        if let Ok(own) = std::env::current_exe() {
            self.add(folder(&own), Grant::Run);
        }
        for loader in LOADERS {
            self.add(*loader, Grant::Run);
        }
    }

    pub(super) fn programs(&mut self) {
        for path in FOR_PROGRAMS.iter().chain(&["/lib", "/lib64"]) {
            self.add(*path, Grant::Run);
        }
    }

    /// True when a path that is wanted now lies below one that was granted, as its inode tells.
    pub(super) fn cover(&self, path: &Path, wanted: Grant) -> bool {
        let ids: Vec<(u64, u64)> = self
            .rows
            .iter()
            .filter(|(_, grant)| *grant >= wanted)
            .filter_map(|(path, _)| identity(path))
            .collect();
        let Ok(real) = path.canonicalize() else {
            return false;
        };
        real.ancestors()
            .filter_map(identity)
            .any(|id| ids.contains(&id))
    }

    /// Holds this thread, and all that it starts from now on, to what is granted. Answers what the kernel does
    /// of it.
    pub(super) fn enforce(&self) -> io::Result<Enforced> {
        let status = self.restrict().map_err(io::Error::other)?;
        Ok(match (&status.ruleset, &status.landlock) {
            (RulesetStatus::NotEnforced, _) => Enforced::Not,
            (_, LandlockStatus::Available { effective_abi, .. }) => {
                Enforced::Abi(*effective_abi as i32)
            }
            _ => Enforced::Abi(0),
        })
    }

    fn restrict(&self) -> Result<RestrictionStatus, RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))?
            .scope(Scope::Signal)?;
        if self.no_connections {
            rules = rules.handle_access(AccessNet::ConnectTcp)?;
        }
        let mut rules = rules.create()?;
        for (path, grant) in &self.rows {
            // What is not there is not granted.
            let Ok(open) = PathFd::new(path) else {
                continue;
            };
            let mut rights = grant.rights();
            if !path.is_dir() {
                rights &= AccessFs::from_file(KNOWN);
            }
            rules = rules.add_rule(PathBeneath::new(open, rights))?;
        }
        rules.restrict_self()
    }
}

/// Tries whether a directory is let in by a domain whose grants are not known here. Modes may refuse it, too.
pub(super) fn lets(directory: &Path, wanted: Grant) -> bool {
    let flags = match wanted {
        Grant::Read | Grant::Run => OFlags::RDONLY | OFlags::DIRECTORY,
        // A file without a name, which is gone at once.
        Grant::Change => OFlags::WRONLY | OFlags::TMPFILE,
    };
    let tried = rustix::fs::open(directory, flags | OFlags::CLOEXEC, Mode::RUSR);
    !matches!(tried, Err(Errno::ACCESS))
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enforced {
    /// This kernel has no Landlock.
    Not,
    /// By the kernel's version of Landlock.
    Abi(i32),
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let data = fs::metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}
