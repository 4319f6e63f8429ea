#![forbid(unsafe_code)]
//! The commands that change the running daemon, and those that show what can be changed.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::{Common, DONE, check};
use crate::control::Request;
use crate::control::request::{
    Ban, Banned, Changed, ConnectionRow, Disconnected, Reloaded, Row, Upgraded,
};

#[derive(Args)]
pub(super) struct ReloadOptions {
    /// Only tell what would change, and which connections the new rules would refuse
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct UpgradeOptions {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct BanOptions {
    /// An address or a network; of a single IPv6 address its prefix is banned
    address: String,
    /// How long, like 10m; a day without it
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct UnbanOptions {
    /// As it was banned
    address: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct ListOptions {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct DisconnectOptions {
    /// A connection's id as `connections` shows it, or an address or network
    who: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct SocketOptions {
    #[command(subcommand)]
    command: SocketCommand,
}

#[derive(Subcommand)]
enum SocketCommand {
    /// Open one more socket of a listener, and write it into the listener's file
    Add(AddOptions),
    /// Close a socket, and take it out of the listener's file; its connections go on
    Remove(RemoveOptions),
}

#[derive(Args)]
struct AddOptions {
    /// The listener's name
    listener: String,
    /// The port
    port: String,
    /// One local address; without it all
    #[arg(long, default_value = "")]
    address: String,
    /// Off, On or Ext
    #[arg(long, default_value = "Off")]
    tls: String,
    /// Let only these in
    #[arg(long, value_name = "LIST", conflicts_with = "deny")]
    grant: Option<String>,
    /// Keep these out
    #[arg(long, value_name = "LIST")]
    deny: Option<String>,
    /// Addresses whose connections begin with a PROXY header
    #[arg(long, value_name = "LIST")]
    proxy_from: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct RemoveOptions {
    /// The listener's name
    listener: String,
    /// The port
    port: String,
    /// Its address; without it the socket of all addresses
    #[arg(long, default_value = "")]
    address: String,
    #[command(flatten)]
    common: Common,
}

type Done = Result<ExitCode, ExitCode>;

pub(super) fn upgrade(options: &UpgradeOptions) -> Done {
    let upgraded: Upgraded = options.common.ask(&Request::Upgrade)?;
    let Upgraded {
        pid,
        old_pid,
        sockets,
        staying,
    } = upgraded;
    say!("process {pid} serves on {sockets} sockets, in the place of process {old_pid}");
    if staying > 0 {
        say!("{staying} connections and exchanges stay with process {old_pid} until they end");
    }
    Ok(ExitCode::from(DONE))
}

pub(super) fn reload(options: &ReloadOptions) -> Done {
    let dry_run = options.dry_run;
    let reloaded: Reloaded = options.common.ask(&Request::Reload { dry_run })?;
    for line in &reloaded.changes {
        say!("{line}");
    }
    for key in &reloaded.needs_restart {
        say!("needs a restart: {key}");
    }
    for notice in &reloaded.notices {
        say!("notice: {notice}");
    }
    for one in &reloaded.would_refuse {
        let (id, listener) = (&one.id, &one.listener);
        say!(
            "would refuse {id}, {} on {listener}: {}",
            one.address,
            one.reason
        );
    }
    let count = reloaded.changes.len();
    match reloaded.applied {
        true => say!("reloaded, {count} changes"),
        false => say!(
            "dry run: {count} changes, {} open connections would be refused; nothing has changed",
            reloaded.would_refuse.len()
        ),
    }
    Ok(ExitCode::from(DONE))
}

pub(super) fn ban(options: &BanOptions) -> Done {
    let banned: Banned = options.common.ask(&Request::Ban {
        address: options.address.clone(),
        lasts: options.lasts.clone(),
    })?;
    let Banned { ban, closed } = banned;
    say!(
        "banned {} for {}, {closed} connections closed",
        ban.address,
        time(ban.left)
    );
    Ok(ExitCode::from(DONE))
}

pub(super) fn unban(options: &UnbanOptions) -> Done {
    let address = options.address.clone();
    let ban: Ban = options.common.ask(&Request::Unban { address })?;
    say!("{} is banned no more", ban.address);
    Ok(ExitCode::from(DONE))
}

pub(super) fn bans(options: &ListOptions) -> Done {
    let bans: Vec<Ban> = options.common.ask(&Request::Bans)?;
    if options.json {
        return json(&bans);
    }
    let mut rows = vec![["ADDRESS", "LEFT", "UNTIL", "BY"].map(str::to_owned)];
    rows.extend(bans.into_iter().map(|ban| {
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(ban.until);
        let until = humantime::format_rfc3339_seconds(until).to_string();
        [ban.address, time(ban.left), until, ban.by]
    }));
    check::print(&rows);
    Ok(ExitCode::from(DONE))
}

pub(super) fn connections(options: &ListOptions) -> Done {
    let all: Vec<ConnectionRow> = options.common.ask(&Request::Connections)?;
    if options.json {
        return json(&all);
    }
    let head = [
        "ID", "LISTENER", "ADDRESS", "LOCAL", "CLASS", "AGE", "IN", "OUT", "TLS", "STATE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    let count = all.len();
    let bytes = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    rows.extend(all.into_iter().map(|one| {
        [
            one.id,
            one.listener,
            one.address.to_string(),
            one.local.to_string(),
            one.class,
            time(one.age),
            bytes(one.received),
            bytes(one.sent),
            one.tls.unwrap_or_else(|| "-".to_owned()),
            one.state,
        ]
    }));
    check::print(&rows);
    say!("{count} connections");
    Ok(ExitCode::from(DONE))
}

pub(super) fn disconnect(options: &DisconnectOptions) -> Done {
    let who = options.who.clone();
    let is_address = who.contains(['.', ':', '/']);
    let done: Disconnected = options.common.ask(&Request::Disconnect {
        id: (!is_address).then(|| who.clone()),
        address: is_address.then_some(who),
    })?;
    match done.closing {
        0 => say!("{} connections closed", done.closed),
        closing => say!(
            "{} connections closed, {closing} more end when their module pauses",
            done.closed
        ),
    }
    Ok(ExitCode::from(DONE))
}

pub(super) fn socket(options: &SocketOptions) -> Done {
    let changed: Changed = match &options.command {
        SocketCommand::Add(add) => {
            let (restriction, list) = match (&add.grant, &add.deny) {
                (Some(list), _) => ("Grant", list.as_str()),
                (None, Some(list)) => ("Deny", list.as_str()),
                (None, None) => ("none", ""),
            };
            let row = Row {
                index: None,
                port: add.port.clone(),
                address: add.address.clone(),
                tls: add.tls.clone(),
                restriction: restriction.to_owned(),
                list: list.to_owned(),
                proxy_from: add.proxy_from.clone(),
                client_ca: None,
            };
            add.common.ask(&Request::SocketAdd {
                listener: add.listener.clone(),
                row: Box::new(row),
            })?
        }
        SocketCommand::Remove(remove) => remove.common.ask(&Request::SocketRemove {
            listener: remove.listener.clone(),
            port: remove.port.clone(),
            address: remove.address.clone(),
        })?,
    };
    for line in &changed.changes {
        say!("{line}");
    }
    for notice in &changed.notices {
        say!("notice: {notice}");
    }
    if changed.changes.is_empty() {
        say!("nothing has changed");
    }
    Ok(ExitCode::from(DONE))
}

fn json(value: &impl serde::Serialize) -> Done {
    say!("{}", serde_json::to_string(value).map_err(super::fail)?);
    Ok(ExitCode::from(DONE))
}

fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
