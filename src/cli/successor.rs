#![forbid(unsafe_code)]
//! The parts of `portreeve run` that have to do with other processes in the same place: the one before, the one
//! after, and whoever wants to know which one it is.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Common, Failure, fail};
use crate::config::{self, plan::Plan};
use crate::control::{ControlError, ControlSocket, Link, socket_path};
use crate::sandbox;
use crate::server::Server;
use crate::upgrade::{Heritage, Predecessor, Succession};

/// How long the process before may take to let go of the control socket's lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this process was given, and whom it tells.
pub(super) struct Start {
    pub(super) heritage: Heritage,
    predecessor: Predecessor,
}

impl Start {
    /// To be called before there is a second thread.
    pub(super) fn new() -> Self {
        let (heritage, predecessor) = Heritage::from_environment();
        if predecessor.is_there() {
            sandbox::inherit();
        }
        Start {
            heritage,
            predecessor,
        }
    }

    /// Becomes whom the configuration wants.
    pub(super) fn give_root_up(&mut self, common: &Common) -> Result<(), ExitCode> {
        common
            .become_other(true)
            .map_err(|failure| self.fail_by(failure))
    }

    /// The configuration; what is wrong with it goes to standard error and to the process before.
    pub(super) fn load(&mut self, common: &Common, link: &Link) -> Result<Plan, ExitCode> {
        config::load_for(&common.file(), link).map_err(|errors| self.fail_by(errors.into()))
    }

    fn fail_by(&mut self, failure: Failure) -> ExitCode {
        match &failure {
            Failure::Config(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                self.predecessor.fail(&lines.join("\n"));
            }
            Failure::Other(why) => self.predecessor.fail(why),
        }
        failure.tell()
    }

    /// Says why this process cannot start.
    pub(super) fn fail(&mut self, why: impl Display) -> ExitCode {
        self.predecessor.fail(&why);
        fail(why)
    }

    /// The control socket: that of the process before, or one of our own.
    pub(super) fn control(&mut self, state_dir: &Path) -> Result<ControlSocket, ControlError> {
        match self.heritage.control(&socket_path(state_dir)) {
            Some(given) => ControlSocket::inherit(given, state_dir),
            None => ControlSocket::open(state_dir),
        }
    }

    /// Takes the place of the process before, which lets go of everything when this is called.
    pub(super) fn take_over(&mut self, server: &Server, control: &ControlSocket) {
        if !self.predecessor.is_there() {
            return;
        }
        self.predecessor.relieve();
        server.relieved();
        if let Err(error) = control.succeed(PATIENCE) {
            log::warn!("the lock of the control socket is not ours: {error}");
        }
    }

    /// Writes the file with this process's id. One that took another's place serves on without it.
    pub(super) fn pid_file(&mut self, path: Option<&Path>) -> Result<PidFile, ExitCode> {
        match PidFile::write(path) {
            Err(why) if self.predecessor.is_there() => {
                log::error!("{why}");
                Ok(PidFile(None))
            }
            written => written.map_err(fail),
        }
    }

    /// Says that callers are answered here.
    pub(super) fn serves(&mut self) {
        self.predecessor.serves();
    }
}

/// How the next process is started.
pub(super) fn succession(control: &ControlSocket) -> Succession {
    Succession::of_this_process(control.parting())
}

/// A file with this process's id, for scripts that start and stop it. Dropped, it is removed, unless it has another
/// process's id by then.
pub(super) struct PidFile(Option<PathBuf>);

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    /// What the system says, with the file's name.
    fn write(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(PidFile(None));
        };
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        write(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(PidFile(Some(path)))
    }
}

/// In one step, so that nobody reads a part of it; where only the file itself may be written, in place.
fn write(path: &Path) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let fresh = path.with_file_name(name);
    let put = fs::write(&fresh, own()).and_then(|()| fs::rename(&fresh, path));
    match put {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fs::write(path, own()),
        put => put,
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && fs::read_to_string(path).is_ok_and(|text| text == own())
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn own() -> String {
    format!("{}\n", std::process::id())
}
