#![forbid(unsafe_code)]
//! The admission ladder: one order, the first rung that refuses names the reason. Pure; time is an
//! argument.
//!
//! [`clear`] climbs the rungs of lists, [`Limits::admit`](super::limits::Limits::admit) those of counts.
//! A [`Cleared`] cannot be made otherwise, nor an [`Admitted`].

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use super::address_list::AddressList;
use super::bans::Bans;
pub use super::limits::Admitted;
use super::limits::{CountKey, LimitSettings, count_key};
use crate::config::plan::Network;
use crate::session::Class;

/// Who may connect to a socket.
#[derive(Debug, Clone, Default)]
pub enum Restriction {
    /// Everybody.
    #[default]
    Open,
    /// Only those on the list; an empty list admits nobody.
    Grant(AddressList),
    /// Everybody but those on the list; an empty list admits everybody.
    Deny(AddressList),
}

/// Why a newcomer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// On the server-wide Denied list.
    Denied,
    /// Banned for a time.
    Banned,
    /// By the socket's Restriction.
    Restricted,
    /// All channels are in use.
    Full,
    /// The channels that are left are for clients.
    Reserved,
    /// Too many connections of the same address.
    AddressLimit,
}

impl Reason {
    /// All reasons in the order of the ladder.
    pub const ALL: [Reason; 6] = [
        Reason::Denied,
        Reason::Banned,
        Reason::Restricted,
        Reason::Full,
        Reason::Reserved,
        Reason::AddressLimit,
    ];

    /// The label in logs, metrics, `status` and `explain`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Denied => "denied",
            Reason::Banned => "banned",
            Reason::Restricted => "restricted",
            Reason::Full => "full",
            Reason::Reserved => "reserved",
            Reason::AddressLimit => "address_limit",
        }
    }

    /// The place in [`Reason::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An address that passed the rungs of lists.
#[derive(Debug)]
pub struct Cleared {
    pub(super) class: Class,
    pub(super) cluster: bool,
    pub(super) key: CountKey,
    blacklisted: bool,
}

impl Cleared {
    /// Whether the address is on the Client list.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether it is on the Cluster list.
    #[must_use]
    pub fn cluster(&self) -> bool {
        self.cluster
    }

    /// Whether it is on the Black-list.
    #[must_use]
    pub fn blacklisted(&self) -> bool {
        self.blacklisted
    }
}

/// Climbs the rungs of lists.
///
/// # Errors
/// The first rung that refuses.
pub fn clear(
    address: IpAddr,
    network: &Network,
    bans: &Bans,
    restriction: &Restriction,
    now: SystemTime,
) -> Result<Cleared, Reason> {
    let address = address.to_canonical();
    if network.denied.contains(address) {
        return Err(Reason::Denied);
    }
    if bans.until(address, now).is_some() {
        return Err(Reason::Banned);
    }
    let restricted = match restriction {
        Restriction::Open => false,
        Restriction::Grant(list) => !list.contains(address),
        Restriction::Deny(list) => list.contains(address),
    };
    if restricted {
        return Err(Reason::Restricted);
    }
    Ok(Cleared {
        class: class(address, network),
        cluster: network.cluster.contains(address),
        blacklisted: network.blacklist.contains(address),
        key: count_key(address, network.ipv6_prefix),
    })
}

fn class(address: IpAddr, network: &Network) -> Class {
    if network.clients.contains(address) { Class::Client } else { Class::Other }
}

/// What one rung says of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// The rung's reason.
    pub reason: Reason,
    /// What it decides.
    pub verdict: Verdict,
    /// Which list line or which figures made it decide so.
    pub because: String,
}

/// What a rung decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next rung.
    Pass,
    /// Refused here.
    Refuse,
    /// A rung before it refused.
    NotReached,
    /// Datagrams are not counted.
    NotApplicable,
}

/// The counts that the last rungs look at; absent for datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The listener's limits.
    pub settings: LimitSettings,
    /// Its connections.
    pub active: u32,
    /// Those of the address in question.
    pub of_address: u32,
}

/// Every rung with what decided it. Agrees with [`clear`] and
/// [`Limits::admit`](super::limits::Limits::admit).
#[must_use]
pub fn explain(
    address: IpAddr,
    network: &Network,
    bans: &Bans,
    restriction: &Restriction,
    figures: Option<Figures>,
    now: SystemTime,
) -> Vec<Rung> {
    let address = address.to_canonical();
    let mut refused = false;
    let mut rungs = Vec::new();
    let mut rung = |reason, refuse: Option<bool>, because: String| {
        let verdict = match refuse {
            _ if refused => Verdict::NotReached,
            None => Verdict::NotApplicable,
            Some(true) => Verdict::Refuse,
            Some(false) => Verdict::Pass,
        };
        refused |= verdict == Verdict::Refuse;
        rungs.push(Rung { reason, verdict, because });
    };
    let denied = network.denied.contains(address);
    rung(Reason::Denied, Some(denied), format!("Denied list: {}", line(&network.denied, address)));
    let ban = bans.until(address, now);
    let because = match ban {
        Some(until) => format!("until {}", humantime::format_rfc3339_seconds(until)),
        None => "no ban".to_owned(),
    };
    rung(Reason::Banned, Some(ban.is_some()), because);
    let (restricted, because) = match restriction {
        Restriction::Open => (false, "the socket has no restriction".to_owned()),
        Restriction::Grant(list) => {
            (!list.contains(address), format!("Grant list: {}", line(list, address)))
        }
        Restriction::Deny(list) => {
            (list.contains(address), format!("Deny list: {}", line(list, address)))
        }
    };
    rung(Reason::Restricted, Some(restricted), because);
    let class = class(address, network);
    let cluster = network.cluster.contains(address);
    let Some(Figures { settings, active, of_address }) = figures else {
        for reason in [Reason::Full, Reason::Reserved, Reason::AddressLimit] {
            rung(reason, None, "datagrams are not counted".to_owned());
        }
        return rungs;
    };
    let refusal = settings.refusal(class, cluster, active, of_address);
    let LimitSettings { channels, reserve_for_clients: reserve, .. } = settings;
    rung(
        Reason::Full,
        Some(refusal == Some(Reason::Full)),
        format!("{active} of {channels} channels in use"),
    );
    let because = match (class, reserve) {
        (_, 0) => "nothing is reserved".to_owned(),
        (Class::Client, _) => format!("a client: {}", line(&network.clients, address)),
        (Class::Other, _) => {
            format!("not a client; {} left, {reserve} reserved", channels.saturating_sub(active))
        }
    };
    rung(Reason::Reserved, Some(refusal == Some(Reason::Reserved)), because);
    let because = match settings.of_class(class) {
        _ if cluster => format!("exempt, Cluster list: {}", line(&network.cluster, address)),
        None => "no limit per address".to_owned(),
        Some(limit) => format!("{of_address} of {limit} for a {}", match class {
            Class::Client => "client",
            Class::Other => "non-client",
        }),
    };
    rung(Reason::AddressLimit, Some(refusal == Some(Reason::AddressLimit)), because);
    rungs
}

/// The list line that decides about an address, in words.
fn line(list: &AddressList, address: IpAddr) -> String {
    match list.decide(address) {
        None if list.is_empty() => "empty".to_owned(),
        None => "on no line".to_owned(),
        Some(decision) => {
            let how = if decision.listed { "listed by" } else { "taken out by" };
            format!("{how} {}:{}", decision.file.display(), decision.line)
        }
    }
}
