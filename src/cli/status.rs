#![forbid(unsafe_code)]
//! `portreeve status`, and how commands reach the daemon.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Common, DONE, check, fail};
use crate::control::{Request, Response, socket_path};
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
    let plan = options.common.load()?;
    if options.metrics {
        let answer = ask(&plan.state_dir, &Request::Metrics).map_err(fail)?;
        let text: String = serde_json::from_value(answer).map_err(fail)?;
        say!("{}", text.trim_end());
        return Ok(ExitCode::from(DONE));
    }
    let answer = ask(&plan.state_dir, &Request::Status).map_err(fail)?;
    let status: Status = serde_json::from_value(answer).map_err(fail)?;
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
    Ok(ExitCode::from(DONE))
}

/// Asks the running daemon.
fn ask(state_dir: &Path, request: &Request) -> Result<serde_json::Value, String> {
    let path = socket_path(state_dir);
    let mut stream = UnixStream::connect(&path)
        .map_err(|error| format!("the daemon does not run: {}: {error}", path.display()))?;
    let talk = |stream: &mut UnixStream| -> std::io::Result<String> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all((serde_json::to_string(request)? + "\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = talk(&mut stream).map_err(|error| format!("{}: {error}", path.display()))?;
    match serde_json::from_str(&line) {
        Ok(Response::Ok(value)) => Ok(value),
        Ok(Response::Error(message)) => Err(message),
        Ok(Response::Invalid(faults)) => {
            let lines: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
            Err(lines.join("\n"))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
