#![forbid(unsafe_code)]
//! What the poll thread is handed when the configuration changes: everything is read, checked, bound and
//! registered by then, so that it only puts things in their places.

use std::sync::Arc;

use super::datagrams::{UdpPort, UdpSockets};
use super::filters::Filters;
use super::listener::{TcpSocket, UdpListener};
use super::poll_loop::{Kind, Source};
use crate::admission::limits::{LimitSettings, Limits};
use crate::config::plan::Network;

/// A prepared change.
#[derive(Default)]
pub(super) struct Swap {
    /// Absent where the lists stay.
    pub(super) network: Option<Arc<Network>>,
    /// New sockets, and other rules for those that stay, by token.
    pub(super) sources: Vec<(usize, Kind)>,
    /// Sockets that go.
    pub(super) removed: Vec<usize>,
    /// They go on listening in another process.
    pub(super) leaves: bool,
    /// Other numbers for the counts that stay.
    pub(super) limits: Vec<(Arc<Limits>, LimitSettings)>,
    /// TCP sockets with their newest rules, for newcomers that are not decided yet.
    pub(super) successors: Vec<(Arc<TcpSocket>, Arc<TcpSocket>)>,
    /// UDP listeners with their newest configuration and ports.
    pub(super) udp: Vec<(Arc<UdpSockets>, Arc<UdpListener>, Ports)>,
    /// What the kernel is to drop.
    pub(super) filters: Filters,
    /// All UDP listeners from now on.
    pub(super) groups: Vec<Arc<UdpSockets>>,
    /// Names of listeners whose refusals are noted at places that were not there before.
    pub(super) names: Vec<Arc<str>>,
}

/// The ports of a UDP listener, by their numbers in routes.
type Ports = Vec<Option<Arc<UdpPort>>>;

/// What was replaced. Dropping it may take long, so that is done away from the poll thread.
#[derive(Default)]
pub(super) struct Retired {
    pub(super) sources: Vec<Source>,
    pub(super) kinds: Vec<Kind>,
    pub(super) groups: Vec<Arc<UdpSockets>>,
    pub(super) network: Option<Arc<Network>>,
}
