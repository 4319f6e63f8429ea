#![forbid(unsafe_code)]
//! The control socket, `state_dir/control.sock`: one JSON line in, one JSON line out, then the end.
//!
//! The socket comes into being below a directory of mode 0700, gets mode 0600 and is moved to its
//! place only then, so there is no moment at which others could connect; besides, a caller must be
//! root or the daemon's own user by SO_PEERCRED. A lock beside it (`control.lock`) keeps a second
//! daemon out of the same `state_dir`, and says whether a socket file that was left over is stale.
//! One thread with its own poll serves it, apart from the daemon's poll loop.

mod link;
mod parting;
pub mod request;
mod serve;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::UnixListener;
use serde::{Deserialize, Serialize};

pub use link::Link;
pub(crate) use parting::Parting;
pub use request::{Fault, Request};

/// The longest request line, its end included: room for an address list of 100,000 lines.
pub const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// The time a caller has to send its request, and again to take the answer.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// An answer. As JSON: `{"ok":VALUE}`, `{"error":"TEXT"}` or `{"invalid":[FAULT, ..]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Done; what was done is in effect.
    Ok(serde_json::Value),
    /// Not done, and why.
    Error(String),
    /// Not done: what was asked for, or a file, is wrong at these places. Nothing has changed.
    Invalid(Vec<Fault>),
}

impl Response {
    /// [`Response::Ok`] of a value, or the error of a value that has no JSON form.
    pub fn of(value: &impl Serialize) -> Response {
        serde_json::to_value(value)
            .map_or_else(|error| Response::Error(error.to_string()), Response::Ok)
    }
}

/// Carries out requests: on the control thread, where a slow command delays other callers and nobody else,
/// and on lanes for modules that hold a [`Link`].
pub trait Commands: Send + Sync {
    /// Returns when the command is in effect.
    fn execute(&self, request: &Request) -> Response;
}

/// A request's line without its end; else the words of the error that is the answer.
pub(crate) fn parse(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
}

/// Where the control socket of this `state_dir` is.
#[must_use]
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// The bound control socket, not served yet: callers wait in its backlog. Dropped, its file is removed, unless it
/// was given away or is not ours yet.
#[derive(Debug)]
pub struct ControlSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
    parting: Arc<Parting>,
}

impl ControlSocket {
    /// Makes `state_dir` (0700) where it is missing, and the socket in it.
    ///
    /// # Errors
    /// [`ControlError::Running`] when another daemon uses this `state_dir`, [`ControlError::Io`] for the rest.
    pub fn open(state_dir: &Path) -> Result<ControlSocket, ControlError> {
        let path = socket_path(state_dir);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ControlError::Io { path, source }
        };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(state_dir).map_err(failed(state_dir))?;

        let lock = lock(state_dir)?;
        // Somebody may have removed the lock of a daemon that runs; then its socket still answers.
        if UnixStream::connect(&path).is_ok() {
            return Err(ControlError::Running(path));
        }
        let listener = bind_private(&private, state_dir, &path).map_err(failed(&path))?;
        Self::with(listener, path, Some(lock))
    }

    /// Goes on with the socket of a daemon whose place this one takes. Its file and lock are not ours before
    /// [`ControlSocket::succeed`].
    pub(crate) fn inherit(
        listener: std::os::unix::net::UnixListener,
        state_dir: &Path,
    ) -> Result<ControlSocket, ControlError> {
        let path = socket_path(state_dir);
        if let Err(source) = listener.set_nonblocking(true) {
            return Err(ControlError::Io { path, source });
        }
        Self::with(UnixListener::from_std(listener), path, None)
    }

    fn with(
        listener: UnixListener,
        path: PathBuf,
        lock: Option<File>,
    ) -> Result<ControlSocket, ControlError> {
        match Parting::of(&listener, path.clone(), lock) {
            Ok(parting) => Ok(ControlSocket {
                listener: Some(listener),
                path,
                parting: Arc::new(parting),
            }),
            Err(source) => Err(ControlError::Io { path, source }),
        }
    }

    /// Takes the lock of a socket that was inherited, which its last owner is about to let go of.
    ///
    /// # Errors
    /// [`ControlError::Running`] when somebody still has it after `patience`, [`ControlError::Io`] for the rest.
    pub(crate) fn succeed(&self, patience: Duration) -> Result<(), ControlError> {
        let until = Instant::now() + patience;
        let state_dir = self.path.parent().unwrap_or(Path::new(""));
        let mut held = self.parting.held.lock();
        while held.lock.is_none() {
            match lock(state_dir) {
                Ok(lock) => held.lock = Some(lock),
                Err(ControlError::Running(_)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What whoever gives this socket away needs.
    pub(crate) fn parting(&self) -> Arc<Parting> {
        Arc::clone(&self.parting)
    }

    /// Starts the thread that answers callers.
    ///
    /// # Errors
    /// [`ControlError::Io`] when the thread or its poll cannot be had.
    pub fn serve(self, commands: Arc<dyn Commands>) -> Result<Control, ControlError> {
        self.serve_within(commands, DEADLINE)
    }

    fn serve_within(
        mut self,
        commands: Arc<dyn Commands>,
        deadline: Duration,
    ) -> Result<Control, ControlError> {
        let stop = Arc::new(AtomicBool::new(false));
        let started = self.listener.take().map_or_else(
            || Err(io::ErrorKind::NotConnected.into()),
            |listener| {
                let parting = Arc::clone(&self.parting);
                serve::start(listener, commands, (Arc::clone(&stop), parting), deadline)
            },
        );
        let thread = started.map_err(|source| ControlError::Io {
            path: self.path.clone(),
            source,
        })?;
        Ok(Control {
            stop,
            thread: Some(thread),
            socket: self,
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // While the lock is held this is our file, or nobody's.
        if self.parting.held.lock().lock.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock beside the socket.
fn lock(state_dir: &Path) -> Result<File, ControlError> {
    let path = state_dir.join("control.lock");
    let failed = |source| ControlError::Io {
        path: path.clone(),
        source,
    };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ControlError::Running(socket_path(state_dir))),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Binds below a directory that only we may enter, and moves the socket to its place when its mode is right.
fn bind_private(private: &DirBuilder, state_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    // Short names: a socket's path has at most 107 bytes, and this one shall not be the longer of the two.
    let nursery = state_dir.join(".c");
    let cradle = nursery.join("s");
    match fs::remove_dir_all(&nursery) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => private.create(&nursery)?,
    }
    let bound = UnixListener::bind(&cradle).and_then(|listener| {
        fs::set_permissions(&cradle, Permissions::from_mode(0o600))?;
        fs::rename(&cradle, path)?;
        Ok(listener)
    });
    let _ = fs::remove_dir_all(&nursery);
    bound
}

/// The served control socket. Dropped, its thread is joined and its file removed.
#[derive(Debug)]
pub struct Control {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    socket: ControlSocket,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Without a wake the thread would never see the flag: better to leave it than to hang.
        let waker = self.socket.parting.waker.get();
        if waker.is_some_and(|waker| waker.wake().is_ok())
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Why there is no control socket. Display is the final text.
#[derive(Debug)]
pub enum ControlError {
    /// Another daemon serves this `state_dir`.
    Running(PathBuf),
    /// The system refused.
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Running(path) => {
                write!(
                    f,
                    "{}: another portreeve runs with this state_dir",
                    path.display()
                )
            }
            ControlError::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests;
