#![forbid(unsafe_code)]
//! `portreeve check`.

use std::process::ExitCode;
use std::time::SystemTime;

use super::{Common, DONE};
use crate::admission::ladder::Restriction;
use crate::config::plan::{ListenerPlan, Protocol, SocketPlan};

pub(super) fn check(common: &Common) -> Result<ExitCode, ExitCode> {
    common.give_root_up()?;
    let plan = common.load()?;
    let mut rows = vec![
        [
            "LISTENER",
            "MODULE",
            "PROTO",
            "PORT",
            "ADDRESS",
            "TLS",
            "RESTRICTION",
            "LIMITS",
        ]
        .map(str::to_owned),
    ];
    for listener in &plan.listeners {
        rows.extend(listener.sockets.iter().map(|socket| row(listener, socket)));
    }
    print(&rows);
    for notice in &plan.notices {
        say!("notice: {notice}");
    }
    for line in plan.domains.expiring(SystemTime::now()) {
        say!("notice: {line}");
    }
    say!(
        "ok: {} listeners, {} sockets",
        plan.listeners.len(),
        rows.len() - 1
    );
    Ok(ExitCode::from(DONE))
}

fn row(listener: &ListenerPlan, socket: &SocketPlan) -> [String; 8] {
    let (protocol, limits) = match &listener.protocol {
        Protocol::Udp(_) => ("udp", "-".to_owned()),
        Protocol::Tcp(tcp) => {
            let limits = &tcp.limits;
            let mut words = format!("{} channels", limits.channels);
            if limits.reserve_for_clients > 0 {
                words += &format!(", {} for clients", limits.reserve_for_clients);
            }
            if let Some(limit) = limits.limit_per_address {
                words += &format!(", {limit} per address");
            }
            if let Some(limit) = limits.limit_non_clients {
                words += &format!(", {limit} per non-client");
            }
            ("tcp", words)
        }
    };
    let restriction = match &socket.restriction {
        Restriction::Open => "none".to_owned(),
        Restriction::Grant(list) => format!("Grant ({} ranges)", list.len()),
        Restriction::Deny(list) => format!("Deny ({} ranges)", list.len()),
    };
    [
        listener.name.to_string(),
        listener.module.clone(),
        protocol.to_owned(),
        socket.port.to_string(),
        socket
            .address
            .map_or("all".to_owned(), |address| address.to_string()),
        if protocol == "udp" {
            "-".to_owned()
        } else {
            socket.tls.name().to_owned()
        },
        restriction,
        limits,
    ]
}

/// Prints rows in columns.
pub(super) fn print<const N: usize>(rows: &[[String; N]]) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        say!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
