#![forbid(unsafe_code)]
//! A listener while the daemon runs: its module, its limits, its counters.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::{Level, LevelFilter};

use crate::admission::ladder::Reason;
use crate::admission::limits::Limits;
use crate::session::{Abuse, DatagramModule, Module};

/// Counters since the start, per listener.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    rejected: [AtomicU64; Reason::ALL.len()],
    abuse: AtomicU64,
    panics: AtomicU64,
}

impl Counters {
    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reject(&self, reason: Reason) {
        self.rejected[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn rejected(&self, reason: Reason) -> u64 {
        self.rejected[reason.index()].load(Ordering::Relaxed)
    }
}

/// A TCP listener at run time.
pub(crate) struct TcpListener {
    pub(crate) name: Arc<str>,
    pub(crate) module: Arc<dyn Module>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) counters: Counters,
    pub(crate) idle_timeout: Duration,
    pub(crate) client_speaks_first: bool,
    pub(crate) log_level: LevelFilter,
}

impl TcpListener {
    /// Logs one line in the listener's name, if its level lets it through.
    pub(crate) fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        if level <= self.log_level {
            log::log!(target: &self.name, level, "{line}");
        }
    }

    /// Takes a session's report of a misdeed.
    pub(crate) fn report(&self, address: IpAddr, abuse: Abuse) {
        self.counters.abuse.fetch_add(1, Ordering::Relaxed);
        self.log(Level::Debug, format_args!("{address}: {abuse:?}"));
    }
}

/// A UDP listener at run time.
pub(crate) struct UdpListener {
    pub(crate) name: Arc<str>,
    pub(crate) module: Arc<dyn DatagramModule>,
    pub(crate) counters: Counters,
    pub(crate) log_level: LevelFilter,
}

impl UdpListener {
    /// Logs one line in the listener's name, if its level lets it through.
    pub(crate) fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        if level <= self.log_level {
            log::log!(target: &self.name, level, "{line}");
        }
    }
}
