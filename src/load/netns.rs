#![forbid(unsafe_code)]
//! A network namespace with nothing in it but lo, so that a load meets no other traffic and no other's ports.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Settings of the namespace alone; nothing outside it changes.
const SETTINGS: &[(&str, &str)] = &[
    ("net/ipv4/ip_local_port_range", "10000 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    // What is remembered of one run's peers would speed up or slow down the next run.
    ("net/ipv4/tcp_no_metrics_save", "1"),
    ("net/ipv4/tcp_syncookies", "0"),
    ("net/ipv4/tcp_max_syn_backlog", "16384"),
    ("net/core/somaxconn", "16384"),
];

/// Becomes the command, inside. Answers only when that fails.
pub(super) fn run(command: &[String]) -> io::Error {
    enter(command)
        .err()
        .unwrap_or_else(|| io::ErrorKind::Other.into())
}

fn enter(command: &[String]) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    if !up.success() {
        return Err(io::Error::other("`ip link set lo up` failed"));
    }
    for (name, value) in SETTINGS {
        // An older kernel may not know one of them; the load works without.
        let _ = fs::write(format!("/proc/sys/{name}"), value);
    }
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::other("no command"))?;
    Err(Command::new(program).args(arguments).exec())
}
