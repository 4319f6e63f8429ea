#![forbid(unsafe_code)]
//! A listener while the daemon runs: its module, its limits, its counters.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter};

use super::warden::Warden;
use crate::admission::ladder::Reason;
use crate::admission::limits::Limits;
use crate::admission::rates::Rates;
use crate::config::plan::SocketPlan;
use crate::session::{Abuse, DatagramModule, Module};
use crate::tls::Acceptors;

/// Why an admitted datagram was dropped: its module had no room for it.
pub(crate) const OVERLOAD: &str = "overload";

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Ok,
    Failed,
    Timeout,
    NoCertificate,
}

impl Handshake {
    /// All results.
    pub(crate) const ALL: [Handshake; 4] = [
        Handshake::Ok,
        Handshake::Failed,
        Handshake::Timeout,
        Handshake::NoCertificate,
    ];

    /// As labels have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Handshake::Ok => "ok",
            Handshake::Failed => "failed",
            Handshake::Timeout => "timeout",
            Handshake::NoCertificate => "no_certificate",
        }
    }
}

/// Counters since the start, per listener; they outlive its reloads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    rejected: [AtomicU64; Reason::ALL.len()],
    abuse: AtomicU64,
    handshakes: [AtomicU64; Handshake::ALL.len()],
    panics: AtomicU64,
    bad_prefaces: AtomicU64,
    /// PROXY headers awaited now.
    pub(crate) prefaces: AtomicUsize,
    /// When an error that a peer can cause was logged last, in seconds of the wall clock.
    complained: AtomicU64,
    lost: AtomicU64,
}

/// [`Counters`] at one moment, with their labels.
#[derive(Debug)]
pub(crate) struct CounterSample {
    pub(crate) accepted: u64,
    pub(crate) rejected: [(&'static str, u64); Reason::ALL.len()],
    pub(crate) handshakes: [(&'static str, u64); Handshake::ALL.len()],
    pub(crate) abuse: u64,
    pub(crate) panics: u64,
    pub(crate) bad_prefaces: u64,
    pub(crate) lost: u64,
}

impl Counters {
    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reject(&self, reason: Reason) {
        self.rejected[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn shaken(&self, result: Handshake) {
        self.handshakes[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn abused(&self) {
        self.abuse.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bad_preface(&self) {
        self.bad_prefaces.fetch_add(1, Ordering::Relaxed);
    }

    /// Admitted datagrams that the module had no room for.
    pub(crate) fn lose(&self, datagrams: u64) {
        self.lost.fetch_add(datagrams, Ordering::Relaxed);
    }

    /// All of them at this moment.
    pub(crate) fn sample(&self) -> CounterSample {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterSample {
            accepted: load(&self.accepted),
            rejected: Reason::ALL.map(|reason| (reason.name(), self.rejected(reason))),
            handshakes: Handshake::ALL
                .map(|result| (result.name(), load(&self.handshakes[result as usize]))),
            abuse: load(&self.abuse),
            panics: load(&self.panics),
            bad_prefaces: load(&self.bad_prefaces),
            lost: load(&self.lost),
        }
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn rejected(&self, reason: Reason) -> u64 {
        self.rejected[reason.index()].load(Ordering::Relaxed)
    }
}

/// A TCP listener at run time, as one configuration has it. Connections keep the one they came to; limits and
/// counters are those of all its configurations.
pub(crate) struct TcpListener {
    pub(crate) name: Arc<str>,
    pub(crate) module: Arc<dyn Module>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) warden: Arc<Warden>,
    pub(crate) idle_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) log_level: LevelFilter,
}

/// A listening TCP socket at run time, as its connections need it.
pub(crate) struct TcpSocket {
    pub(crate) listener: Arc<TcpListener>,
    pub(crate) plan: SocketPlan,
    pub(crate) acceptors: Arc<Acceptors>,
    /// Where its listener's refusals are noted.
    pub(crate) refusals: usize,
    /// What a reload put in its place.
    pub(crate) successor: OnceLock<Arc<TcpSocket>>,
}

impl TcpSocket {
    /// The socket as the newest configuration has it.
    pub(crate) fn newest(self: &Arc<Self>) -> Arc<Self> {
        let mut socket = self;
        while let Some(successor) = socket.successor.get() {
            socket = successor;
        }
        Arc::clone(socket)
    }
}

impl TcpListener {
    /// Logs one line in the listener's name, if its level lets it through.
    pub(crate) fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        if level <= self.log_level {
            log::log!(target: &self.name, level, "{line}");
        }
    }

    /// Logs an error that a peer can cause, at most once a second.
    pub(crate) fn complain(&self, line: fmt::Arguments<'_>) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if self.counters.complained.swap(now, Ordering::Relaxed) != now {
            self.log(Level::Error, line);
        }
    }

    /// Takes a session's report of a misdeed.
    pub(crate) fn report(&self, address: IpAddr, abuse: Abuse) {
        self.counters.abused();
        self.log(Level::Debug, format_args!("{address}: {abuse:?}"));
        self.warden.report(&self.name, address);
    }
}

/// A UDP listener at run time, as one configuration has it.
pub(crate) struct UdpListener {
    pub(crate) name: Arc<str>,
    pub(crate) module: Arc<dyn DatagramModule>,
    /// How many datagrams an address may send.
    pub(crate) rates: Arc<Rates>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) warden: Arc<Warden>,
    /// Whether the kernel drops what the lists refuse.
    pub(crate) kernel_filter: bool,
    pub(crate) log_level: LevelFilter,
}

impl UdpListener {
    /// Takes a module's report of a misdeed.
    pub(crate) fn report(&self, address: IpAddr, abuse: Abuse) {
        self.counters.abused();
        self.log(Level::Debug, format_args!("{address}: {abuse:?}"));
        self.warden.report(&self.name, address);
    }

    /// Logs one line in the listener's name, if its level lets it through.
    pub(crate) fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        if level <= self.log_level {
            log::log!(target: &self.name, level, "{line}");
        }
    }
}
