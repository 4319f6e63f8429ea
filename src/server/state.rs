#![forbid(unsafe_code)]
//! What runs: listeners with their sockets, as the newest configuration has them. Replaced as a whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::datagrams::{UdpPort, UdpSockets};
use super::listener::{Counters, OVERLOAD, TcpListener, TcpSocket};
use super::metrics::ListenerSample;
use super::status::{ListenerStatus, SocketStatus};
use crate::admission::ladder::Reason;
use crate::config::plan::{AutoBan, Network, SocketPlan};
use crate::tls::Domains;

/// All that a reload can change.
#[derive(Default)]
pub(super) struct State {
    pub(super) drain: Duration,
    pub(super) upgrade_drain: Duration,
    /// In bytes.
    pub(super) memory: Option<u64>,
    pub(super) auto_ban: Option<AutoBan>,
    pub(super) network: Arc<Network>,
    pub(super) domains: Arc<Domains>,
    /// In the order of the plan.
    pub(super) listeners: Vec<Arc<Running>>,
}

/// One listener.
pub(super) struct Running {
    pub(super) name: Arc<str>,
    /// Its file and the version of its text; empty for one built by a program.
    pub(super) file: PathBuf,
    pub(super) version: u64,
    /// The module's name, and its settings' text.
    pub(super) module: String,
    pub(super) settings: String,
    pub(super) kind: RunningKind,
    pub(super) sockets: Vec<OpenSocket>,
}

#[derive(Clone)]
pub(super) enum RunningKind {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSockets>),
}

/// One socket.
#[derive(Clone)]
pub(super) struct OpenSocket {
    pub(super) plan: SocketPlan,
    pub(super) bound: SocketAddr,
    /// Its token.
    pub(super) index: usize,
    pub(super) handle: Handle,
}

/// What holds a socket open.
#[derive(Clone)]
pub(super) enum Handle {
    Tcp(Arc<mio::net::TcpListener>, Arc<TcpSocket>),
    Udp(Arc<UdpPort>),
}

/// What sockets are told apart by.
pub(super) type Place = (&'static str, u16, Option<IpAddr>);

impl State {
    pub(super) fn listener(&self, name: &str) -> Option<&Arc<Running>> {
        self.listeners.iter().find(|running| *running.name == *name)
    }

    /// The most that any listener wants to be logged, and at least what the daemon itself has to say.
    pub(super) fn log_level(&self) -> log::LevelFilter {
        let levels = self.listeners.iter().map(|running| match &running.kind {
            RunningKind::Tcp(listener) => listener.log_level,
            RunningKind::Udp(group) => group.listener.load().log_level,
        });
        levels
            .max()
            .unwrap_or(log::LevelFilter::Info)
            .max(log::LevelFilter::Info)
    }

    /// All UDP listeners.
    pub(super) fn groups(&self) -> Vec<Arc<UdpSockets>> {
        let udp = |running: &Arc<Running>| match &running.kind {
            RunningKind::Udp(group) => Some(Arc::clone(group)),
            RunningKind::Tcp(_) => None,
        };
        self.listeners.iter().filter_map(udp).collect()
    }

    pub(super) fn tcp(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.listeners
            .iter()
            .filter_map(|running| match &running.kind {
                RunningKind::Tcp(listener) => Some(listener),
                RunningKind::Udp(_) => None,
            })
    }
}

impl OpenSocket {
    pub(super) fn place(&self) -> Place {
        let transport = match self.handle {
            Handle::Tcp(..) => "tcp",
            Handle::Udp(..) => "udp",
        };
        (transport, self.plan.port, self.plan.address)
    }
}

impl Running {
    pub(super) fn transport(&self) -> &'static str {
        match self.kind {
            RunningKind::Tcp(_) => "tcp",
            RunningKind::Udp(_) => "udp",
        }
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        match &self.kind {
            RunningKind::Tcp(listener) => Arc::clone(&listener.counters),
            RunningKind::Udp(group) => Arc::clone(&group.listener.load().counters),
        }
    }

    /// Connections now; 0 for UDP.
    pub(super) fn active(&self) -> u32 {
        match &self.kind {
            RunningKind::Tcp(listener) => listener.limits.active(),
            RunningKind::Udp(_) => 0,
        }
    }

    pub(super) fn sample(&self) -> ListenerSample {
        ListenerSample {
            name: Arc::clone(&self.name),
            active: match &self.kind {
                RunningKind::Tcp(listener) => Some(listener.limits.active()),
                RunningKind::Udp(_) => None,
            },
            exchanges: match &self.kind {
                RunningKind::Tcp(_) => None,
                RunningKind::Udp(group) => Some(group.exchanges.load(Ordering::Relaxed) as u64),
            },
            counters: self.counters().sample(),
        }
    }

    pub(super) fn status(&self) -> ListenerStatus {
        let counters = self.counters();
        let refused = Reason::ALL.map(|reason| (reason.name(), counters.rejected(reason)));
        let rejected: BTreeMap<String, u64> = refused
            .into_iter()
            .chain([(OVERLOAD, counters.sample().lost)])
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        let socket = |socket: &OpenSocket| SocketStatus {
            port: socket.bound.port(),
            address: socket.plan.address,
            tls: socket.plan.tls.name().to_owned(),
        };
        ListenerStatus {
            name: self.name.to_string(),
            transport: self.transport().to_owned(),
            channels: match &self.kind {
                RunningKind::Tcp(listener) => listener.limits.settings().channels,
                RunningKind::Udp(_) => 0,
            },
            active: self.active(),
            accepted: counters.accepted(),
            rejected,
            sockets: self.sockets.iter().map(socket).collect(),
        }
    }
}
