#![forbid(unsafe_code)]
//! `portreeve status`.

use std::process::ExitCode;

use clap::Args;

use super::{Common, DONE, check, fail};
use crate::control::Request;
use crate::server::status::Status;

#[derive(Args)]
pub(super) struct Options {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
    /// The metrics, in the OpenMetrics text format
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn status(options: &Options) -> Result<ExitCode, ExitCode> {
    if options.metrics {
        let text: String = options.common.ask(&Request::Metrics)?;
        say!("{}", text.trim_end());
        return Ok(ExitCode::from(DONE));
    }
    let status: Status = options.common.ask(&Request::Status)?;
    if options.json {
        say!("{}", serde_json::to_string(&status).map_err(fail)?);
        return Ok(ExitCode::from(DONE));
    }
    let mut rows = vec![
        [
            "LISTENER", "PROTO", "ACTIVE", "CHANNELS", "ACCEPTED", "REJECTED", "SOCKETS",
        ]
        .map(str::to_owned),
    ];
    for listener in &status.listeners {
        let rejected: Vec<String> = listener
            .rejected
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        let sockets: Vec<String> = listener
            .sockets
            .iter()
            .map(|socket| match socket.address {
                Some(address) => std::net::SocketAddr::new(address, socket.port).to_string(),
                None => format!("*:{}", socket.port),
            })
            .collect();
        let tcp = listener.transport == "tcp";
        let count = |number: u32| {
            if tcp {
                number.to_string()
            } else {
                "-".to_owned()
            }
        };
        rows.push([
            listener.name.clone(),
            listener.transport.clone(),
            count(listener.active),
            count(listener.channels),
            listener.accepted.to_string(),
            if rejected.is_empty() {
                "-".to_owned()
            } else {
                rejected.join(", ")
            },
            sockets.join(" "),
        ]);
    }
    check::print(&rows);
    say!(
        "{} of {} workers busy",
        status.workers.busy,
        status.workers.total
    );
    if let Some(overload) = status.overload.filter(|overload| overload.stage > 0) {
        let cause = overload.cause.unwrap_or_default();
        say!(
            "overloaded: stage {} ({}) for {cause}",
            overload.stage,
            overload.name
        );
    }
    if let Some(shared) = &status.shared {
        match &shared.error {
            None if shared.connected => say!(
                "shared with {} other daemons, by {}",
                shared.nodes,
                shared.server
            ),
            why => say!(
                "{} is away, this daemon is on its own: {}",
                shared.server,
                why.as_deref().unwrap_or("not reached yet")
            ),
        }
    }
    Ok(ExitCode::from(DONE))
}
