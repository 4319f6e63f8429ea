#![forbid(unsafe_code)]
//! Why an address is admitted or refused, of the files alone or of what runs.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::Shared;
use super::state::RunningKind;
use crate::admission::bans::Bans;
use crate::admission::ladder::{self, Reason, Verdict};
use crate::admission::limits::LimitSettings;
use crate::admission::overload::Stage;
use crate::config::plan::{Network, Plan, Protocol, SocketPlan};
use crate::control::request::{Explained, ExplainedRung, ExplainedSocket};
use crate::session::Class;
use crate::tls::{By, Domains, Source};

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) listener: &'a str,
    pub(crate) address: IpAddr,
    pub(crate) socket: Option<SocketAddr>,
}

/// By what it is answered.
struct Rules<'a> {
    network: &'a Network,
    bans: &'a Bans,
    domains: &'a Domains,
    /// Settings, connections now, and those of the address; absent for UDP.
    counts: Option<(LimitSettings, u32, u32)>,
}

/// Answers by the files, where nobody is connected and nobody is banned.
///
/// # Errors
/// There is no such listener or socket, in words.
pub(crate) fn by_files(plan: &Plan, question: &Question<'_>) -> Result<Explained, String> {
    let names = plan.listeners.iter().map(|listener| &*listener.name);
    let listener = plan
        .listeners
        .iter()
        .find(|listener| *listener.name == *question.listener)
        .ok_or_else(|| unknown(question.listener, names))?;
    let rules = Rules {
        network: &plan.network,
        bans: &Bans::new(),
        domains: &plan.domains,
        counts: match &listener.protocol {
            Protocol::Tcp(tcp) => Some((tcp.limits, 0, 0)),
            Protocol::Udp(_) => None,
        },
    };
    Ok(Explained {
        running: false,
        sockets: answer(question, &rules, listener.sockets.iter())?,
    })
}

impl Shared {
    /// Answers by what runs, with its counts and bans.
    ///
    /// # Errors
    /// There is no such listener or socket, in words.
    pub(super) fn explain(&self, question: &Question<'_>) -> Result<Explained, String> {
        let state = self.state.load();
        let names = state.listeners.iter().map(|listener| &*listener.name);
        let running = state
            .listener(question.listener)
            .ok_or_else(|| unknown(question.listener, names))?;
        let rules = Rules {
            network: &state.network,
            bans: &self.warden.bans,
            domains: &state.domains,
            counts: match &running.kind {
                RunningKind::Tcp(listener) => {
                    let limits = &listener.limits;
                    let prefix = state.network.ipv6_prefix;
                    let of_address = limits.count_of(question.address, prefix);
                    Some((limits.settings(), limits.active(), of_address))
                }
                RunningKind::Udp(_) => None,
            },
        };
        let sockets = running.sockets.iter().map(|socket| &socket.plan);
        let mut sockets = answer(question, &rules, sockets)?;
        let is_client = state
            .network
            .clients
            .contains(question.address.to_canonical());
        let stage = self.core.pressure.stage();
        let class = if is_client {
            Class::Client
        } else {
            Class::Other
        };
        if rules.counts.is_some() && !stage.admits(class) {
            sockets
                .iter_mut()
                .for_each(|socket| keep_out(socket, stage));
        }
        Ok(Explained {
            running: true,
            sockets,
        })
    }
}

/// What is left is for clients while the server is overloaded; that is asked before the counts are.
fn keep_out(socket: &mut ExplainedSocket, stage: Stage) {
    let counts = [Reason::Full, Reason::Reserved, Reason::AddressLimit].map(Reason::name);
    if socket
        .refused
        .as_ref()
        .is_some_and(|refused| !counts.contains(&refused.as_str()))
    {
        return;
    }
    socket.refused = Some(Reason::Reserved.name().to_owned());
    for rung in socket
        .rungs
        .iter_mut()
        .filter(|rung| counts.contains(&rung.name.as_str()))
    {
        let is_it = rung.name == Reason::Reserved.name();
        let verdict = if is_it {
            Verdict::Refuse
        } else {
            Verdict::NotReached
        };
        rung.verdict = verdict.name().to_owned();
        rung.because = match is_it {
            true => format!("not a client, and the server is overloaded ({stage})"),
            false => String::new(),
        };
    }
}

/// The words for a listener that is not there.
pub(super) fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    format!(
        "there is no listener {name}; there are {}",
        names.join(", ")
    )
}

fn answer<'a>(
    question: &Question<'_>,
    rules: &Rules<'_>,
    sockets: impl Iterator<Item = &'a SocketPlan>,
) -> Result<Vec<ExplainedSocket>, String> {
    let asked = question.socket;
    let chosen = sockets.filter(|socket| asked.is_none_or(|wanted| serves(socket, wanted)));
    let answers: Vec<ExplainedSocket> = chosen.map(|socket| one(question, rules, socket)).collect();
    if answers.is_empty() {
        let which = asked.map_or("no socket".to_owned(), |socket| {
            format!("no socket {socket}")
        });
        return Err(format!("listener {} has {which}", question.listener));
    }
    Ok(answers)
}

/// True when a socket takes connections to an address.
fn serves(socket: &SocketPlan, wanted: SocketAddr) -> bool {
    let address = wanted.ip().to_canonical();
    socket.port == wanted.port()
        && (address.is_unspecified() || socket.address.is_none_or(|own| own == address))
}

fn one(question: &Question<'_>, rules: &Rules<'_>, socket: &SocketPlan) -> ExplainedSocket {
    let counts = rules.counts.as_ref();
    let rungs = ladder::explain(
        question.address,
        rules.network,
        rules.bans,
        &socket.restriction,
        counts.map(|(settings, active, of_address)| (settings, *active, *of_address)),
        SystemTime::now(),
    );
    let refusal = rungs.iter().find(|rung| rung.verdict == Verdict::Refuse);
    let asked = question.socket.map(|socket| socket.ip().to_canonical());
    let asked = asked.filter(|address| !address.is_unspecified());
    let local = socket.address.or(asked);
    ExplainedSocket {
        listener: question.listener.to_owned(),
        port: socket.port,
        local: socket.address,
        domain: counts.map(|_| domain(rules.domains, socket, local)),
        refused: refusal.map(|rung| rung.name.to_owned()),
        rungs: rungs
            .into_iter()
            .map(|rung| ExplainedRung {
                name: rung.name.to_owned(),
                verdict: rung.verdict.name().to_owned(),
                because: rung.because,
            })
            .collect(),
    }
}

/// The domain of a client that names no server, and what chose it.
fn domain(domains: &Domains, socket: &SocketPlan, local: Option<IpAddr>) -> String {
    let tls = format!("tls: {}", socket.tls.name());
    let Some((domain, by)) = domains.find(None, local) else {
        return format!("none ({tls})");
    };
    let by = match (by, local) {
        (By::Address, Some(local)) => format!("by the local address {local}"),
        _ => "by default_domain".to_owned(),
    };
    let certificate = match &domain.certificate {
        Source::None => ", it has no certificate",
        Source::SelfSigned | Source::Given(_) => "",
    };
    format!("{} ({by}{certificate}; {tls})", domain.name)
}
