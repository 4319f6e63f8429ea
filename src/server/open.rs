#![forbid(unsafe_code)]
//! From the plan to bound sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::datagrams::UdpSockets;
use super::exchanges;
use super::listener::{Counters, TcpListener, TcpSocket, UdpListener};
use super::poll_loop::{Kind, Source};
use super::sockets::{self, StartError};
use super::{Running, RunningKind};
use crate::admission::limits::Limits;
use crate::config::plan::{ListenerPlan, Plan, Protocol};
use crate::tls::{Acceptors, ClientAuthority, Domains};

/// What TLS needs of the whole server.
pub(super) struct Tls {
    pub(super) domains: Arc<Domains>,
    pub(super) ticketer: Arc<dyn rustls::server::ProducesTickets>,
}

/// Binds one listener's sockets and adds them to the poll loop's sources.
pub(super) fn open(
    plan: ListenerPlan,
    tls: &Tls,
    refusals: usize,
    sources: &mut Vec<Source>,
) -> Result<Running, StartError> {
    let (name, log_level) = (plan.name, plan.log_level);
    let bound_at = |address: io::Result<SocketAddr>| {
        address.map_err(|error| StartError(format!("listener {name}: {error}")))
    };
    match plan.protocol {
        Protocol::Tcp(tcp) => {
            let alpn = tcp.module.alpn();
            let acceptors = |authority: Option<&ClientAuthority>| {
                Acceptors::new(&tls.domains, &alpn, authority, &tls.ticketer)
                    .map(Arc::new)
                    .map_err(|error| StartError(format!("listener {name}: {error}")))
            };
            let everybody = acceptors(None)?;
            let listener = Arc::new(TcpListener {
                name: Arc::clone(&name),
                handshake_timeout: tcp.handshake_timeout,
                prefaces: AtomicUsize::new(0),
                complained: AtomicU64::new(0),
                idle_timeout: tcp
                    .idle_timeout
                    .unwrap_or_else(|| tcp.module.idle_timeout()),
                module: tcp.module,
                limits: Arc::new(Limits::new(tcp.limits)),
                counters: Counters::default(),
                log_level,
            });
            let mut sockets = Vec::new();
            for plan in plan.sockets {
                let accepts = sockets::bind_tcp(&name, &plan)?;
                sockets.push((plan.clone(), bound_at(accepts.local_addr())?));
                let socket = Arc::new(TcpSocket {
                    listener: Arc::clone(&listener),
                    acceptors: match &plan.client_ca {
                        Some(authority) => acceptors(Some(authority))?,
                        None => Arc::clone(&everybody),
                    },
                    plan,
                    refusals,
                });
                sources.push(Source::new(Kind::Tcp { accepts, socket }));
            }
            Ok(Running {
                kind: RunningKind::Tcp(listener),
                sockets,
            })
        }
        Protocol::Udp(udp) => {
            let listener = Arc::new(UdpListener {
                name: Arc::clone(&name),
                module: udp.module,
                counters: Counters::default(),
                log_level,
            });
            let (mut bound, mut sockets) = (Vec::new(), Vec::new());
            for plan in &plan.sockets {
                let udp = sockets::bind_udp(&name, plan)?;
                sockets.push((plan.clone(), bound_at(udp.socket.local_addr())?));
                bound.push((udp.socket, udp.ipv6));
            }
            let group = Arc::new(UdpSockets {
                listener,
                sockets: bound,
                waiting: AtomicUsize::new(0),
                exchanges: Arc::new(AtomicUsize::new(0)),
                most_exchanges: exchanges::most(raise_descriptors()),
                alarms: parking_lot::Mutex::new(Vec::new()),
            });
            for (index, plan) in (0..).zip(plan.sockets) {
                sources.push(Source::new(Kind::Udp {
                    group: Arc::clone(&group),
                    index,
                    refusals,
                    restriction: plan.restriction,
                    wildcard: plan.address.is_none(),
                }));
            }
            Ok(Running {
                kind: RunningKind::Udp(group),
                sockets,
            })
        }
    }
}

/// Raises the limit of open descriptors as far as the system lets us; what it is then.
pub(super) fn raise_descriptors() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        hard
    } else {
        soft
    }
}

/// Says at start when channels cannot all be served.
pub(super) fn warn_descriptors(plan: &Plan, descriptors: u64) {
    let mut need = 64;
    for listener in &plan.listeners {
        need += listener.sockets.len() as u64;
        if let Protocol::Tcp(tcp) = &listener.protocol {
            need += u64::from(tcp.limits.channels);
        }
    }
    if need > descriptors {
        log::warn!(
            "the channels of all listeners need {need} descriptors, the system gives {descriptors}: \
             newcomers will wait when they run out (raise the hard limit, see ulimit -Hn)"
        );
    }
}
