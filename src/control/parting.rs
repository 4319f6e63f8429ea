#![forbid(unsafe_code)]
//! How the control socket passes to another process: the socket itself, so that callers who wait in its queue are
//! answered by the new one, and then the lock that says whose it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixListener;
use parking_lot::Mutex;

/// What a served control socket and whoever gives it away have in common.
#[derive(Debug, Default)]
pub(crate) struct Parting {
    left: AtomicBool,
    /// Calls the thread that serves.
    pub(super) waker: OnceLock<mio::Waker>,
    pub(super) held: Mutex<Held>,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    /// A second descriptor of the socket, to be handed over, and where the socket is.
    pub(super) socket: Option<(OwnedFd, PathBuf)>,
    /// Held as long as the socket's file is ours.
    pub(super) lock: Option<File>,
}

impl Parting {
    pub(super) fn of(
        listener: &UnixListener,
        path: PathBuf,
        lock: Option<File>,
    ) -> io::Result<Self> {
        let socket = listener.as_fd().try_clone_to_owned()?;
        let parting = Parting::default();
        *parting.held.lock() = Held {
            socket: Some((socket, path)),
            lock,
        };
        Ok(parting)
    }

    /// A descriptor of the socket for another process, and the socket's path. `None` when it was given away.
    pub(crate) fn socket(&self) -> io::Result<Option<(OwnedFd, PathBuf)>> {
        let held = self.held.lock();
        let Some((socket, path)) = &held.socket else {
            return Ok(None);
        };
        Ok(Some((socket.try_clone()?, path.clone())))
    }

    /// Accepts no more callers; those inside get their answers. The lock is free, and the socket's file another's.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
        *self.held.lock() = Held::default();
        if let Some(waker) = self.waker.get() {
            let _ = waker.wake();
        }
    }

    /// Whether it was given away.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }
}
