#![forbid(unsafe_code)]
//! `portreeve explain LISTENER ADDRESS`.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::Args;

use super::ask::NoAnswer;
use super::{Common, DONE, FAILED, USAGE, check};
use crate::control::Request;
use crate::control::request::{Explained, ExplainedSocket};
use crate::server::why::{self, Question};

#[derive(Args)]
pub(super) struct Options {
    /// The listener's name
    listener: String,
    /// The remote address
    address: IpAddr,
    /// Only this socket; without it every socket of the listener is explained
    #[arg(long, value_name = "ADDRESS:PORT")]
    socket: Option<SocketAddr>,
    /// By the files, though a daemon runs
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    common: Common,
}

/// Exit code 1 when at least one of the sockets refuses.
pub(super) fn explain(options: &Options) -> Result<ExitCode, ExitCode> {
    let explained = answer(options)?;
    say!(
        "{}",
        if explained.running {
            "by the rules, counts and bans of the running daemon"
        } else {
            "by the files; no daemon was asked"
        }
    );
    let mut refused = false;
    for socket in &explained.sockets {
        print(socket, options.address, explained.running);
        refused |= socket.refused.is_some();
    }
    Ok(ExitCode::from(if refused { FAILED } else { DONE }))
}

fn answer(options: &Options) -> Result<Explained, ExitCode> {
    let request = Request::Explain {
        listener: options.listener.clone(),
        address: options.address,
        socket: options.socket,
    };
    if !options.files {
        match options.common.try_to_ask(&request) {
            Ok(explained) => return Ok(explained),
            // A listener or a socket that is not there: the question was wrong.
            Err(NoAnswer::Refused(lines, _)) => return Err(NoAnswer::Refused(lines, USAGE).exit()),
            Err(NoAnswer::NotRunning(_)) => {}
        }
    }
    let plan = options.common.load()?;
    let question = Question {
        listener: &options.listener,
        address: options.address,
        socket: options.socket,
    };
    why::by_files(&plan, &question).map_err(|why| NoAnswer::Refused(why, USAGE).exit())
}

fn print(socket: &ExplainedSocket, address: IpAddr, running: bool) {
    let place = socket
        .local
        .map_or(format!("port {} of all addresses", socket.port), |own| {
            SocketAddr::new(own, socket.port).to_string()
        });
    let address = address.to_canonical();
    say!("{} from {address} to {place}", socket.listener);
    let rows: Vec<[String; 3]> = socket
        .rungs
        .iter()
        .map(|rung| {
            let name = format!("  {}", rung.name);
            [name, rung.verdict.clone(), rung.because.clone()]
        })
        .collect();
    check::print(&rows);
    if let Some(domain) = &socket.domain {
        say!("  domain: {domain}");
    }
    match &socket.refused {
        Some(reason) => say!("  refused: {reason}"),
        // Only streams have a domain.
        None if socket.domain.is_some() && !running => {
            say!("  admitted, while nobody is connected");
        }
        None => say!("  admitted"),
    }
}
