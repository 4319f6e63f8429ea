#![forbid(unsafe_code)]
//! What a change changes, in words. Nothing is opened here but for a try.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::sockets::{self, StartError};
use super::state::{OpenSocket, Place, Running, RunningKind, State};
use crate::admission::address_list::AddressList;
use crate::admission::ladder::Restriction;
use crate::admission::limits::LimitSettings;
use crate::config::plan::{ListenerPlan, Network, Protocol, SocketPlan};
use crate::tls::Domains;

/// How much of a configuration a change puts in force.
pub(super) enum Scope {
    /// All of it.
    All,
    /// One listener.
    Listener(Arc<str>),
    /// The server-wide lists.
    Network,
}

/// A line for each difference between what runs and what is to come.
pub(super) fn between(
    old: &State,
    next: &State,
    plans: &[ListenerPlan],
    scope: &Scope,
) -> Vec<String> {
    let mut lines = Vec::new();
    network(&old.network, &next.network, &mut lines);
    if old.drain != next.drain {
        let drain = humantime::format_duration(next.drain);
        lines.push(format!("drain is {drain}"));
    }
    if old.memory != next.memory {
        let memory = next
            .memory
            .map(|bytes| bytesize::ByteSize(bytes).to_string());
        lines.push(format!(
            "memory is {}",
            memory.unwrap_or_else(|| "not bounded".to_owned())
        ));
    }
    if old.upgrade_drain != next.upgrade_drain {
        let drain = humantime::format_duration(next.upgrade_drain);
        lines.push(format!("upgrade_drain is {drain}"));
    }
    if format!("{:?}", old.auto_ban) != format!("{:?}", next.auto_ban) {
        lines.push("auto_ban has other rules".to_owned());
    }
    domains(&old.domains, &next.domains, &mut lines);
    for plan in plans {
        match old.listener(&plan.name) {
            Some(running) if running.transport() == transport(plan) => {
                listener(running, plan, &mut lines);
            }
            _ => {
                lines.push(format!("listener {} is new", plan.name));
                let opened = plan.sockets.iter();
                lines.extend(opened.map(|socket| opens(plan, socket)));
            }
        }
    }
    if matches!(scope, Scope::All) {
        for running in &old.listeners {
            let same = |plan: &&ListenerPlan| {
                plan.name == running.name && transport(plan) == running.transport()
            };
            if !plans.iter().any(|plan| same(&plan)) {
                lines.push(format!("listener {} goes", running.name));
            }
        }
    }
    lines
}

/// Tries to bind what a change would open, where no socket of ours is in the way.
///
/// # Errors
/// All that cannot be bound.
pub(super) fn try_to_bind(old: &State, plans: &[ListenerPlan]) -> Result<(), Vec<StartError>> {
    let held: HashSet<(&str, u16)> = old
        .listeners
        .iter()
        .flat_map(|running| &running.sockets)
        .map(|socket| (socket.place().0, socket.plan.port))
        .collect();
    let mut errors = Vec::new();
    for plan in plans {
        for socket in &plan.sockets {
            let transport = transport(plan);
            if !held.contains(&(transport, socket.port)) {
                errors.extend(sockets::try_bind(&plan.name, transport, socket).err());
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

fn network(old: &Network, new: &Network, lines: &mut Vec<String>) {
    let lists = [
        ("clients", &old.clients, &new.clients),
        ("denied", &old.denied, &new.denied),
        ("blacklist", &old.blacklist, &new.blacklist),
        ("cluster", &old.cluster, &new.cluster),
    ];
    for (name, old, new) in lists {
        if !same_list(old, new) {
            lines.push(format!("the list {name} changes ({} ranges)", new.len()));
        }
    }
    if old.ipv6_prefix != new.ipv6_prefix {
        lines.push(format!("ipv6_prefix is {}", new.ipv6_prefix));
    }
}

fn domains(old: &Domains, new: &Domains, lines: &mut Vec<String>) {
    let find = |all: &Domains, name: &str| all.iter().find(|one| one.name == name).cloned();
    for domain in new.iter() {
        let name = &domain.name;
        let Some(before) = find(old, name) else {
            lines.push(format!("domain {name} is new"));
            continue;
        };
        let chain = |domain: &crate::tls::Domain| {
            let given = domain.certificate.given()?;
            Some(given.key().cert.clone())
        };
        if chain(&before) != chain(domain) {
            lines.push(format!("domain {name} shows another certificate"));
        }
        if (&before.aliases, &before.addresses) != (&domain.aliases, &domain.addresses) {
            lines.push(format!("domain {name} has other aliases or addresses"));
        }
    }
    for domain in old.iter() {
        if find(new, &domain.name).is_none() {
            lines.push(format!("domain {} goes", domain.name));
        }
    }
    let default = |all: &Domains| Some(all.find(None, None)?.0.name.clone());
    if default(old) != default(new) {
        let name = default(new).unwrap_or_else(|| "none".to_owned());
        lines.push(format!("default_domain is {name}"));
    }
}

fn listener(old: &Running, new: &ListenerPlan, lines: &mut Vec<String>) {
    let name = &new.name;
    if (&old.module, &old.settings) != (&new.module, &new.settings) {
        lines.push(format!("listener {name} has other settings of its module"));
    }
    let level = match (&old.kind, &new.protocol) {
        (RunningKind::Tcp(listener), Protocol::Tcp(tcp)) => {
            limits(name, &listener.limits.settings(), &tcp.limits, lines);
            let idle = tcp
                .idle_timeout
                .unwrap_or_else(|| tcp.module.idle_timeout());
            if (listener.idle_timeout, listener.handshake_timeout) != (idle, tcp.handshake_timeout)
            {
                lines.push(format!("listener {name} has other timeouts"));
            }
            Some(listener.log_level)
        }
        (RunningKind::Udp(group), _) => Some(group.listener.load().log_level),
        _ => None,
    };
    if level.is_some_and(|level| level != new.log_level) {
        lines.push(format!("listener {name} logs at {}", new.log_level));
    }
    sockets_of(old, new, lines);
}

fn limits(name: &str, old: &LimitSettings, new: &LimitSettings, lines: &mut Vec<String>) {
    let words = |limit: Option<u32>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    let rows = [
        ("channels", Some(old.channels), Some(new.channels)),
        (
            "reserve_for_clients",
            Some(old.reserve_for_clients),
            Some(new.reserve_for_clients),
        ),
        (
            "limit_per_address",
            old.limit_per_address,
            new.limit_per_address,
        ),
        (
            "limit_non_clients",
            old.limit_non_clients,
            new.limit_non_clients,
        ),
    ];
    for (key, old, new) in rows {
        if old != new {
            let (old, new) = (words(old), words(new));
            lines.push(format!("listener {name}: {key} {old} -> {new}"));
        }
    }
}

fn sockets_of(old: &Running, new: &ListenerPlan, lines: &mut Vec<String>) {
    let place = |plan: &SocketPlan| -> Place { (old.transport(), plan.port, plan.address) };
    let mut left: Vec<&OpenSocket> = old.sockets.iter().collect();
    for socket in &new.sockets {
        let at = left.iter().position(|one| one.place() == place(socket));
        let Some(before) = at.map(|at| left.remove(at)) else {
            lines.push(opens(new, socket));
            continue;
        };
        let words = changed_keys(&before.plan, socket);
        if !words.is_empty() {
            let (name, place) = (&new.name, place_words(socket));
            lines.push(format!(
                "listener {name}: {place} has another {}",
                words.join(", ")
            ));
        }
    }
    let closes = |socket: &&OpenSocket| {
        let place = place_words(&socket.plan);
        format!("listener {}: closes {} {place}", new.name, old.transport())
    };
    lines.extend(left.iter().map(closes));
}

fn changed_keys(old: &SocketPlan, new: &SocketPlan) -> Vec<&'static str> {
    let same_restriction = match (&old.restriction, &new.restriction) {
        (Restriction::Open, Restriction::Open) => true,
        (Restriction::Grant(old), Restriction::Grant(new))
        | (Restriction::Deny(old), Restriction::Deny(new)) => same_list(old, new),
        _ => false,
    };
    let same_proxies = match (&old.proxy_from, &new.proxy_from) {
        (None, None) => true,
        (Some(old), Some(new)) => same_list(old, new),
        _ => false,
    };
    let changes = [
        ("tls", old.tls != new.tls),
        ("restriction", !same_restriction),
        ("proxy_from", !same_proxies),
        (
            "client_ca",
            old.client_ca.is_some() != new.client_ca.is_some(),
        ),
        ("backlog", old.backlog != new.backlog),
    ];
    changes
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
}

fn opens(plan: &ListenerPlan, socket: &SocketPlan) -> String {
    let (name, transport) = (&plan.name, transport(plan));
    format!("listener {name}: opens {transport} {}", place_words(socket))
}

fn transport(plan: &ListenerPlan) -> &'static str {
    match plan.protocol {
        Protocol::Tcp(_) => "tcp",
        Protocol::Udp(_) => "udp",
    }
}

/// A socket's place as people write it.
pub(super) fn place_words(plan: &SocketPlan) -> String {
    match plan.address {
        Some(address) => SocketAddr::new(address, plan.port).to_string(),
        None => format!("*:{}", plan.port),
    }
}

/// The same lines, also in files that they name.
fn same_list(old: &AddressList, new: &AddressList) -> bool {
    old.text() == new.text() && old.ranges().eq(new.ranges())
}
