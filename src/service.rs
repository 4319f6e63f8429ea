#![forbid(unsafe_code)]
//! Tells a service manager how things are (sd_notify(3)), without connect(2), which a sandbox may forbid. Without
//! a manager nothing is said.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;

use sd_notify::NotifyState;

/// The way to the manager of this process.
static MANAGER: OnceLock<(UnixDatagram, SocketAddr)> = OnceLock::new();

/// Looks for the manager that NOTIFY_SOCKET names, if any. A name that is none is spoken of.
pub(crate) fn find() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
        Ok(manager) => drop(MANAGER.set(manager)),
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

/// Another process is the daemon from now on.
pub(crate) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// The end begins.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    let Some((socket, manager)) = MANAGER.get() else {
        return;
    };
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    let told: io::Result<usize> = socket.send_to_addr(lines.as_bytes(), manager);
    if let Err(error) = told {
        log::warn!("the service manager is not told: {error}");
    }
}
