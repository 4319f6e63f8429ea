#![forbid(unsafe_code)]
//! The lists of UDP sockets in the kernel, for listeners with `kernel_filter`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{SockFilter, SockRef};

use super::datagrams::UdpPort;
use super::listener::UdpListener;
use super::state::{Handle, OpenSocket};
use crate::admission::address_list::AddressList;
use crate::admission::socket_filter::{Family, SocketFilter, compile};

/// Whether a socket has a filter.
#[derive(Debug, Default)]
pub(crate) struct Filtered(AtomicBool);

impl Filtered {
    /// One that another process has opened may have that one's.
    pub(super) fn by_others() -> Self {
        Filtered(AtomicBool::new(true))
    }
}

/// What is to be on sockets once a change is in force.
#[derive(Default)]
pub(super) struct Filters(Vec<(Arc<UdpPort>, Arc<UdpListener>, SocketFilter)>);

impl Filters {
    /// Compiles what the sockets of a listener refuse.
    pub(super) fn add(
        &mut self,
        listener: &Arc<UdpListener>,
        sockets: &[OpenSocket],
        denied: &AddressList,
    ) {
        let mut short = 0;
        for socket in sockets {
            let Handle::Udp(port) = &socket.handle else {
                continue;
            };
            let family = match (port.ipv6, port.place.1) {
                (false, _) => Family::V4,
                (true, None) => Family::Both,
                (true, Some(_)) => Family::V6,
            };
            let filter = match listener.kernel_filter {
                true => compile(denied, &socket.plan.restriction, family),
                false => SocketFilter::Idle,
            };
            if matches!(filter, SocketFilter::Part(_) | SocketFilter::TooLong) {
                short += 1;
            }
            self.0
                .push((Arc::clone(port), Arc::clone(listener), filter));
        }
        if short > 0 {
            listener.log(
                log::Level::Warn,
                format_args!(
                    "kernel_filter: the lists of {short} sockets are too long for the kernel, which drops less"
                ),
            );
        }
    }

    /// Puts them on, each in the place of the one before. What the kernel does not take is left to the ladder;
    /// the old one goes in any case, for it may refuse whom the new rules admit.
    pub(super) fn attach(self) {
        for (port, listener, filter) in self.0 {
            if let Err(error) = put(&port, &filter) {
                listener.log(
                    log::Level::Warn,
                    format_args!(
                        "kernel_filter: the kernel takes no filter for port {}: {error}",
                        port.place.0
                    ),
                );
            }
        }
    }
}

fn put(port: &UdpPort, filter: &SocketFilter) -> io::Result<()> {
    let (socket, filtered) = (SockRef::from(&port.socket), &port.filtered.0);
    let attached = filter.program().map(|program| {
        let program: Vec<SockFilter> = program
            .iter()
            .map(|one| SockFilter::new(one.code, one.jump_true, one.jump_false, one.k))
            .collect();
        socket.attach_filter(&program)
    });
    match attached {
        Some(Ok(())) => filtered.store(true, Ordering::Relaxed),
        failed => {
            if filtered.swap(false, Ordering::Relaxed) {
                match socket.detach_filter() {
                    // There was none, on one that another process has opened.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    detached => detached?,
                }
            }
            failed.transpose()?;
        }
    }
    Ok(())
}
