#![forbid(unsafe_code)]
//! The ladder in words: what each rung says to an address, and why. Pure: no socket, clock or thread.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::address_list::AddressList;
use super::bans::Bans;
use super::ladder::{Reason, Restriction, class_of};
use super::limits::LimitSettings;
use crate::config::plan::Network;
use crate::session::Class;

/// What a rung says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Lets the address climb on.
    Pass,
    /// Refuses it.
    Refuse,
    /// Was not asked: a rung before it refused.
    NotReached,
    /// Does not exist here: datagrams are not counted.
    NotApplicable,
}

impl Verdict {
    /// As shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Refuse => "refuse",
            Verdict::NotReached => "not reached",
            Verdict::NotApplicable => "not applicable",
        }
    }
}

/// One rung and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// The name of the reason it refuses with.
    pub name: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// The line of the list that decided (`FILE:LINE`), or the numbers.
    pub because: String,
}

/// What each of the six rungs says to `address`, in their order.
///
/// It agrees with [`clear`](super::ladder::clear) and then [`Limits::admit`](super::limits::Limits::admit).
/// `counts` are a listener's settings, its active connections and those of this address; `None` is UDP.
#[must_use]
pub fn explain(
    address: IpAddr,
    network: &Network,
    bans: &Bans,
    restriction: &Restriction,
    counts: Option<(&LimitSettings, u32, u32)>,
    now: SystemTime,
) -> Vec<Rung> {
    let address = address.to_canonical();
    let mut is_refused = false;
    let mut climb = |reason: Reason| {
        let (verdict, because) = if counts.is_none() && reason >= Reason::Full {
            (
                Verdict::NotApplicable,
                "datagrams are not counted".to_owned(),
            )
        } else if is_refused {
            (Verdict::NotReached, "refused before".to_owned())
        } else {
            let (refuses, because) = match reason {
                Reason::Denied => (
                    network.denied.contains(address),
                    cite(&network.denied, address),
                ),
                Reason::Banned => banned(bans, address, now),
                Reason::Restricted => restricted(restriction, address),
                // Of the moment, which only the running daemon knows.
                Reason::Rate => (false, String::new()),
                Reason::Full | Reason::Reserved | Reason::AddressLimit => counts
                    .map_or((false, String::new()), |counts| {
                        counted(reason, address, network, counts)
                    }),
            };
            is_refused = refuses;
            (
                if refuses {
                    Verdict::Refuse
                } else {
                    Verdict::Pass
                },
                because,
            )
        };
        Rung {
            name: reason.name(),
            verdict,
            because,
        }
    };
    let rungs = Reason::ALL.into_iter();
    rungs
        .filter(|reason| *reason != Reason::Rate)
        .map(&mut climb)
        .collect()
}

/// The line of the list that decided about `address`.
fn cite(list: &AddressList, address: IpAddr) -> String {
    match list.decide(address) {
        None => "on no line".to_owned(),
        Some(decision) => {
            let done = if decision.listed {
                "listed"
            } else {
                "taken out"
            };
            format!("{done} by {}:{}", decision.file.display(), decision.line)
        }
    }
}

fn banned(bans: &Bans, address: IpAddr, now: SystemTime) -> (bool, String) {
    let Some(end) = bans.until(address, now) else {
        return (false, "no ban".to_owned());
    };
    let left = end.duration_since(now).unwrap_or_default();
    // To the next second: a ban in force is never shown as having none left.
    let left = Duration::from_secs(
        left.as_secs()
            .saturating_add(u64::from(left.subsec_nanos() > 0)),
    );
    (
        true,
        format!("banned for another {}", humantime::format_duration(left)),
    )
}

fn restricted(restriction: &Restriction, address: IpAddr) -> (bool, String) {
    let because = match restriction {
        Restriction::Open => "no restriction".to_owned(),
        Restriction::Grant(list) => format!("Grant: {}", cite(list, address)),
        Restriction::Deny(list) => format!("Deny: {}", cite(list, address)),
    };
    (!restriction.admits(address), because)
}

fn counted(
    reason: Reason,
    address: IpAddr,
    network: &Network,
    (settings, active, of_address): (&LimitSettings, u32, u32),
) -> (bool, String) {
    let class = class_of(address, network);
    let class_text = || {
        let name = match class {
            Class::Client => "client",
            Class::Other => "no client",
        };
        format!("{name} ({})", cite(&network.clients, address))
    };
    let LimitSettings {
        channels,
        reserve_for_clients: reserve,
        ..
    } = *settings;
    match reason {
        Reason::Reserved => (
            settings.is_reserved(class, active),
            format!(
                "{}, {} channels free, {reserve} reserved for clients",
                class_text(),
                channels.saturating_sub(active)
            ),
        ),
        Reason::AddressLimit => {
            let cluster = network.cluster.contains(address);
            let because = match settings.limit_of(class) {
                _ if cluster => format!(
                    "exempt: on the Cluster list ({})",
                    cite(&network.cluster, address)
                ),
                None => "no limit".to_owned(),
                Some(limit) => format!("{}, {of_address} of {limit} connections", class_text()),
            };
            (settings.is_at_limit(class, cluster, of_address), because)
        }
        _ => (
            settings.is_full(active),
            format!("{active} of {channels} channels taken"),
        ),
    }
}
