#![forbid(unsafe_code)]
//! Tells a service manager how things are (sd_notify(3)), through a socket that is connected before a sandbox
//! may forbid that. Without a manager nothing is said.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;

use sd_notify::NotifyState;

/// The way to the manager of this process.
static SOCKET: OnceLock<UnixDatagram> = OnceLock::new();

/// Connects to the manager that NOTIFY_SOCKET names, if any. One that cannot be reached is spoken of.
pub(crate) fn find() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let connect = || -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        match name.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(&name)?,
        }
        Ok(socket)
    };
    match connect() {
        Ok(socket) => drop(SOCKET.set(socket)),
        Err(error) => log::warn!("the service manager is not reached: {error}"),
    }
}

/// All is in effect.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; `ready` ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("no monotonic clock: {error}"),
    }
}

/// The end begins.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(socket) = SOCKET.get() else {
        return;
    };
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = socket.send(lines.as_bytes()) {
        log::warn!("the service manager is not told: {error}");
    }
}
