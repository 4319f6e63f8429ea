#![forbid(unsafe_code)]
//! Datagrams from the poll loop to a module and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use super::exchanges;
use super::listener::UdpListener;
use super::udp_io;
use super::workers::Core;
use crate::session::datagram::{DatagramContext, DatagramWork, Outbox, Route};
use crate::session::{Class, Datagram, Lane};

/// The sockets of one UDP listener, shared with the workers that answer.
pub(crate) struct UdpSockets {
    pub(crate) listener: Arc<UdpListener>,
    pub(crate) sockets: Vec<(mio::net::UdpSocket, bool)>,
    /// Batches that were received and not answered yet.
    pub(crate) waiting: AtomicUsize,
    /// Exchanges that are open.
    pub(crate) exchanges: Arc<AtomicUsize>,
    pub(crate) alarms: parking_lot::Mutex<Vec<(Instant, u64)>>,
}

/// Above this many unanswered batches a listener's datagrams wait in the kernel, which drops what does
/// not fit.
pub(crate) const MOST_BATCHES: usize = 64;

/// Admitted datagrams of one receive call, or alarms of a module, on their way to a worker.
pub(crate) struct Batch {
    group: Arc<UdpSockets>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    alarms: Vec<u64>,
}

struct Entry {
    route: Route,
    class: Class,
    start: usize,
    end: usize,
}

impl Batch {
    pub(crate) fn new(group: &Arc<UdpSockets>) -> Self {
        group.waiting.fetch_add(1, Ordering::AcqRel);
        Batch {
            group: Arc::clone(group),
            entries: Vec::new(),
            bytes: Vec::new(),
            alarms: Vec::new(),
        }
    }

    pub(crate) fn listener_name(&self) -> Arc<str> {
        Arc::clone(&self.group.listener.name)
    }

    pub(crate) fn push(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        socket: u32,
        class: Class,
        bytes: &[u8],
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let route = Route {
            remote,
            local,
            socket,
        };
        self.entries.push(Entry {
            route,
            class,
            start,
            end: self.bytes.len(),
        });
    }

    pub(crate) fn push_alarm(&mut self, key: u64) {
        self.alarms.push(key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.alarms.is_empty()
    }

    /// Runs the module over the batch and sends its answers.
    pub(crate) fn answer(self, core: &Arc<Core>) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut outbox = Outbox::default();
        let mut alarms = Vec::new();
        let mut work: Vec<(Lane, DatagramWork)> = Vec::new();
        let group = Arc::clone(&self.group);
        let mut open =
            |route, connect, exchange| exchanges::open(core, &group, route, connect, exchange);
        {
            let module = &self.group.listener.module;
            let mut cx = DatagramContext {
                now,
                wall,
                route: None,
                outbox: &mut outbox,
                alarms: &mut alarms,
                work: &mut work,
                open: &mut open,
            };
            for key in &self.alarms {
                module.alarm(*key, &mut cx);
            }
            for entry in &self.entries {
                cx.route = Some(entry.route);
                let bytes = &self.bytes[entry.start..entry.end];
                module.answer(
                    &Datagram {
                        route: entry.route,
                        class: entry.class,
                        bytes,
                    },
                    &mut cx,
                );
            }
        }
        self.group.send(outbox);
        if !alarms.is_empty() {
            self.group.alarms.lock().append(&mut alarms);
            core.wake_poll();
        }
        for (lane, work) in work {
            let group = Arc::clone(&self.group);
            core.datagram_work(
                lane,
                Box::new(move || {
                    let mut outbox = Outbox::default();
                    work(&mut outbox);
                    group.send(outbox);
                }),
            );
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.group.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UdpSockets {
    /// Sends answers from the listener's sockets and takes reports.
    pub(crate) fn send(&self, outbox: Outbox) {
        for (address, abuse) in outbox.reports {
            self.listener.report(address, abuse);
        }
        let mut datagrams = outbox.datagrams.into_iter().peekable();
        while let Some((first, bytes)) = datagrams.next() {
            let mut together = vec![(first.remote, first.local, bytes)];
            while let Some((route, bytes)) =
                datagrams.next_if(|(route, _)| route.socket == first.socket)
            {
                together.push((route.remote, route.local, bytes));
            }
            let Some((socket, ipv6)) = self.sockets.get(first.socket as usize) else {
                continue;
            };
            match udp_io::send(socket, *ipv6, &together) {
                Ok(sent) if sent.failed == 0 => {}
                Ok(sent) => self.listener.log(
                    log::Level::Debug,
                    format_args!("{} answers could not be sent", sent.failed),
                ),
                Err(error) => self
                    .listener
                    .log(log::Level::Debug, format_args!("cannot answer: {error}")),
            }
        }
    }
}
