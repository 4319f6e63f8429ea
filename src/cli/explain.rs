#![forbid(unsafe_code)]
//! `portreeve explain LISTENER ADDRESS`.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;

use super::{Common, DONE, FAILED, USAGE, check};
use crate::admission::bans::Bans;
use crate::admission::ladder::{self, Verdict};
use crate::config::plan::{ListenerPlan, Plan, Protocol, SocketPlan};
use crate::tls::{By, Source};

#[derive(Args)]
pub(super) struct Options {
    /// The listener's name
    listener: String,
    /// The remote address
    address: IpAddr,
    /// Only this socket; without it every socket of the listener is explained
    #[arg(long, value_name = "ADDRESS:PORT")]
    socket: Option<SocketAddr>,
    #[command(flatten)]
    common: Common,
}

/// Exit code 1 when at least one of the sockets refuses.
pub(super) fn explain(options: &Options) -> Result<ExitCode, ExitCode> {
    let plan = options.common.load()?;
    let Some(listener) = plan
        .listeners
        .iter()
        .find(|listener| *listener.name == *options.listener)
    else {
        let names: Vec<&str> = plan
            .listeners
            .iter()
            .map(|listener| &*listener.name)
            .collect();
        eprintln!(
            "portreeve: there is no listener {}; there are {}",
            options.listener,
            names.join(", ")
        );
        return Err(ExitCode::from(USAGE));
    };
    let sockets: Vec<&SocketPlan> = listener
        .sockets
        .iter()
        .filter(|socket| options.socket.is_none_or(|wanted| serves(socket, wanted)))
        .collect();
    if sockets.is_empty() {
        let which = options.socket.map_or("no socket".to_owned(), |socket| {
            format!("no socket {socket}")
        });
        eprintln!("portreeve: listener {} has {which}", options.listener);
        return Err(ExitCode::from(USAGE));
    }
    let mut refused = false;
    for socket in sockets {
        let asked = options.socket.map(|socket| socket.ip().to_canonical());
        let asked = asked.filter(|address| !address.is_unspecified());
        let local = socket.address.or(asked);
        refused |= explain_socket(&plan, listener, socket, options.address, local);
    }
    Ok(ExitCode::from(if refused { FAILED } else { DONE }))
}

/// True when a socket takes connections to an address.
fn serves(socket: &SocketPlan, wanted: SocketAddr) -> bool {
    let address = wanted.ip().to_canonical();
    socket.port == wanted.port()
        && (address.is_unspecified() || socket.address.is_none_or(|own| own == address))
}

/// Prints one socket's rungs; true when it refuses.
fn explain_socket(
    plan: &Plan,
    listener: &ListenerPlan,
    socket: &SocketPlan,
    address: IpAddr,
    local: Option<IpAddr>,
) -> bool {
    let settings = match &listener.protocol {
        Protocol::Tcp(tcp) => Some((&tcp.limits, 0, 0)),
        Protocol::Udp(_) => None,
    };
    let bans = Bans::new();
    let now = SystemTime::now();
    let rungs = ladder::explain(
        address,
        &plan.network,
        &bans,
        &socket.restriction,
        settings,
        now,
    );
    let place = socket
        .address
        .map_or(format!("port {} of all addresses", socket.port), |own| {
            SocketAddr::new(own, socket.port).to_string()
        });
    say!(
        "{} from {} to {place}",
        listener.name,
        address.to_canonical()
    );
    let rows: Vec<[String; 3]> = rungs
        .iter()
        .map(|rung| {
            [
                format!("  {}", rung.name),
                rung.verdict.name().to_owned(),
                rung.because.clone(),
            ]
        })
        .collect();
    check::print(&rows);
    if let Protocol::Tcp(_) = &listener.protocol {
        say!("  domain: {}", domain(plan, socket, local));
    }
    let refusal = rungs.iter().find(|rung| rung.verdict == Verdict::Refuse);
    match refusal {
        Some(rung) => say!("  refused: {}", rung.name),
        None if settings.is_some() => say!("  admitted, while nobody is connected"),
        None => say!("  admitted"),
    }
    refusal.is_some()
}

/// The domain of a client that names no server, and what chose it.
fn domain(plan: &Plan, socket: &SocketPlan, local: Option<IpAddr>) -> String {
    let tls = format!("tls: {}", socket.tls.name());
    let Some((domain, by)) = plan.domains.find(None, local) else {
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
