#![forbid(unsafe_code)]
//! Who is connected. What is known of a connection stands beside its slot in the table of the parked: who it is,
//! written once, and what it did, which its worker notes without a lock at the end of each turn. So a list
//! costs the connections nothing, and is right but for the turns that are running.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;

use super::Shared;
use super::parked::Key;
use super::state::State;
use crate::admission::ladder::{self, Reason};
use crate::admission::limits::Limits;
use crate::config::plan::{ListenerPlan, Protocol, SocketPlan};
use crate::control::request::{ConnectionRow, Disconnected, WouldRefuse};
use crate::moment::Moment;
use crate::session::{Peer, Security};

/// How long a caller waits for connections that it has cut.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);

/// Who a connection is.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    /// Shared with the connection until its handshake, which changes what it knows of its peer.
    pub(crate) peer: Arc<Peer>,
    pub(crate) since: Moment,
}

/// What a connection did. Belongs to a slot, and to one connection at a time.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    received: AtomicU64,
    sent: AtomicU64,
    phase: AtomicU8,
    tls: AtomicU8,
    /// A person wants the connection to end.
    cut: AtomicBool,
}

/// The facts of neighbouring slots, together since one at a time costs twice its size.
#[derive(Debug)]
pub(crate) struct Book([Facts; Book::SLOTS]);

impl Book {
    /// Slots with facts in one book.
    pub(crate) const SLOTS: usize = 64;

    /// The book of a slot among all of them in their order.
    pub(crate) fn number(slot: u32) -> usize {
        slot as usize / Book::SLOTS
    }

    /// The facts of a slot that has them in this book.
    pub(crate) fn facts(&self, slot: u32) -> &Facts {
        &self.0[slot as usize % Book::SLOTS]
    }
}

impl Default for Book {
    fn default() -> Self {
        Book(std::array::from_fn(|_| Facts::default()))
    }
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Session,
    Handshake,
    Work,
    Relay,
    Program,
    Closing,
}

impl Facts {
    /// A new connection's.
    pub(crate) fn reset(&self) {
        self.note(0, 0, Phase::Session);
        self.tls.store(0, Ordering::Relaxed);
        self.cut.store(false, Ordering::Relaxed);
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Payload bytes in both directions.
    pub(crate) fn moved(&self) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        load(&self.received).wrapping_add(load(&self.sent))
    }

    pub(crate) fn note(&self, received: u64, sent: u64, phase: Phase) {
        self.received.store(received, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
        self.enter(phase);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn secured(&self, security: &Security) {
        let code = match security {
            Security::Clear => 0,
            Security::External => 1,
            Security::Tls(facts) if facts.version == "TLSv1.3" => 3,
            Security::Tls(_) => 2,
        };
        self.tls.store(code, Ordering::Relaxed);
    }

    /// What a person sees; `is_parked` tells a silent session from one at work.
    pub(crate) fn row(
        &self,
        key: Key,
        card: &Card,
        is_parked: bool,
        now: Instant,
    ) -> ConnectionRow {
        let phase = self.phase.load(Ordering::Relaxed);
        let is = |other: Phase| phase == other as u8;
        let state = match phase {
            _ if is(Phase::Handshake) => "handshake",
            _ if is(Phase::Work) => "waiting",
            _ if is(Phase::Relay) => "relay",
            _ if is(Phase::Program) => "program",
            _ if is(Phase::Closing) => "closing",
            _ if is_parked => "idle",
            _ => "working",
        };
        let counted =
            |counter: &AtomicU64| (!is(Phase::Program)).then(|| counter.load(Ordering::Relaxed));
        ConnectionRow {
            id: name(key),
            listener: card.peer.listener.to_string(),
            address: card.peer.remote,
            local: card.peer.local,
            class: card.peer.class.name().to_owned(),
            age: now.saturating_duration_since(card.since.into()).as_secs(),
            received: counted(&self.received),
            sent: counted(&self.sent),
            tls: match self.tls.load(Ordering::Relaxed) {
                1 => Some("Ext".to_owned()),
                2 => Some("TLSv1.2".to_owned()),
                3 => Some("TLSv1.3".to_owned()),
                _ => None,
            },
            state: state.to_owned(),
        }
    }
}

/// A connection's name for people: its slot, and which of the slot's connections it is.
fn name(key: Key) -> String {
    format!("{}-{}", key.index, key.generation)
}

fn key(name: &str) -> Option<Key> {
    let (index, generation) = name.split_once('-')?;
    Some(Key {
        index: index.parse().ok()?,
        generation: generation.parse().ok()?,
    })
}

impl Shared {
    /// All connections, the oldest first.
    pub(super) fn connections(&self) -> Vec<ConnectionRow> {
        let now = Instant::now();
        let mut rows = Vec::new();
        self.core.parked.each(|key, card, facts, is_parked| {
            rows.push((card.since, facts.row(key, card, is_parked, now)));
        });
        rows.sort_by_key(|(since, _)| *since);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// Cuts one connection.
    ///
    /// # Errors
    /// There is none of this name, in words.
    pub(super) fn disconnect(&self, id: &str) -> Result<Disconnected, String> {
        let key = key(id).ok_or_else(|| format!("expected an id like 17-3, found {id:?}"))?;
        let cut = self.core.cut(|other, _| other == key);
        if cut.is_empty() {
            return Err(format!("there is no connection {id}"));
        }
        Ok(self.see_off(&cut))
    }

    /// Cuts all connections of a network.
    pub(super) fn disconnect_all(&self, net: IpNet) -> Disconnected {
        let cut = self
            .core
            .cut(|_, card| net.contains(&card.peer.remote.ip()));
        self.see_off(&cut)
    }

    /// Waits until they are gone; those whose module is at work may take longer.
    fn see_off(&self, cut: &[Key]) -> Disconnected {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = cut.iter().filter(|key| self.core.parked.is_live(**key));
            let closing = left.count();
            if closing == 0 || Instant::now() >= until {
                return Disconnected {
                    closed: cut.len() - closing,
                    closing,
                };
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Connections that new rules would refuse, were they to come again in the order in which they came.
    pub(super) fn would_refuse(
        &self,
        old: &State,
        next: &State,
        plans: &[ListenerPlan],
    ) -> Vec<WouldRefuse> {
        let mut cards = Vec::new();
        self.core
            .parked
            .each(|key, card, _, _| cards.push((key, card.clone())));
        cards.sort_by_key(|(_, card)| card.since);
        let mut trial = Trial {
            next,
            plans,
            bans: &self.warden.bans,
            limits: HashMap::new(),
            admitted: Vec::new(),
            now: SystemTime::now(),
        };
        let known = |card: &Card| old.listener(&card.peer.listener).is_some();
        let refused = cards.into_iter().filter_map(|(key, card)| {
            // A listener that is gone already has nothing to say about those it left.
            let reason = known(&card).then(|| trial.refusal(&card)).flatten()?;
            Some(WouldRefuse {
                id: name(key),
                listener: card.peer.listener.to_string(),
                address: card.peer.remote.ip(),
                reason: reason.to_owned(),
            })
        });
        refused.collect()
    }
}

/// Admission by other rules, without consequences.
struct Trial<'a> {
    next: &'a State,
    plans: &'a [ListenerPlan],
    bans: &'a crate::admission::bans::Bans,
    limits: HashMap<Arc<str>, Arc<Limits>>,
    admitted: Vec<ladder::Admitted>,
    now: SystemTime,
}

impl Trial<'_> {
    fn refusal(&mut self, card: &Card) -> Option<&'static str> {
        let Some((plan, socket)) = socket_of(self.plans, card.peer.local) else {
            return Some("no_socket");
        };
        let Protocol::Tcp(tcp) = &plan.protocol else {
            return Some("no_socket");
        };
        let address: IpAddr = card.peer.remote.ip();
        let (network, restriction) = (&self.next.network, &socket.restriction);
        let cleared = match ladder::clear(address, network, self.bans, restriction, self.now) {
            Ok(cleared) => cleared,
            Err(reason) => return Some(Reason::name(reason)),
        };
        let limits = self.limits.entry(Arc::clone(&plan.name));
        let limits = limits.or_insert_with(|| Arc::new(Limits::new(tcp.limits)));
        match limits.admit(cleared) {
            Ok(admitted) => {
                self.admitted.push(admitted);
                None
            }
            Err((reason, _)) => Some(reason.name()),
        }
    }
}

/// The socket that takes connections to a local address.
fn socket_of(plans: &[ListenerPlan], local: SocketAddr) -> Option<(&ListenerPlan, &SocketPlan)> {
    let serves = |socket: &&SocketPlan| {
        socket.port == local.port() && socket.address.is_none_or(|own| own == local.ip())
    };
    plans.iter().find_map(|plan| match plan.protocol {
        Protocol::Tcp(_) => Some((plan, plan.sockets.iter().find(serves)?)),
        Protocol::Udp(_) => None,
    })
}
