//! Lists in the kernel: what they refuse does not reach the daemon, whatever else does; and floods.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Conf, DEADLINE, Daemon, assert_says, exits, free_port, wait_until};

fn echo(server: &str, keys: &str, sockets: &str) -> Daemon {
    let text = format!("Udp(module: Echo, {keys} sockets: [{sockets}])");
    Daemon::start(Conf::new(server).listener("udp", &text))
}

fn client(source: &str, target: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect((target, port)).unwrap();
    socket
}

#[track_caller]
fn answered(source: &str, target: &str, port: u16) {
    let socket = client(source, target, port);
    socket.send(b"hello").unwrap();
    let mut answer = [0; 16];
    let length = socket
        .recv(&mut answer)
        .unwrap_or_else(|error| panic!("no answer for {source}: {error}"));
    assert_eq!(&answer[..length], b"hello");
}

/// Datagrams that the kernel dropped on their way to a port, filtered ones among them.
fn dropped_by_the_kernel(port: u16) -> u64 {
    let wanted = format!(":{port:04X}");
    let mut drops = 0;
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = std::fs::read_to_string(table).unwrap();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields[1].ends_with(&wanted) {
                drops += fields.last().unwrap().parse::<u64>().unwrap();
            }
        }
    }
    drops
}

/// Sends one, and waits until the kernel, and not the daemon, has dropped it.
#[track_caller]
fn filtered(daemon: &Daemon, source: &str, target: &str, port: u16, reason: &str) {
    let (before, counted) = (dropped_by_the_kernel(port), daemon.rejected("udp", reason));
    client(source, target, port).send(b"x").unwrap();
    wait_until("dropped by the kernel", DEADLINE, || {
        dropped_by_the_kernel(port) == before + 1
    });
    assert_eq!(daemon.rejected("udp", reason), counted);
}

/// Sends one, and waits until the daemon has counted it.
#[track_caller]
fn counted(daemon: &Daemon, source: &str, target: &str, port: u16, reason: &str) {
    let (before, drops) = (daemon.rejected("udp", reason), dropped_by_the_kernel(port));
    client(source, target, port).send(b"x").unwrap();
    wait_until(&format!("counted as {reason}"), DEADLINE, || {
        daemon.rejected("udp", reason) == before + 1
    });
    assert_eq!(dropped_by_the_kernel(port), drops);
}

#[test]
fn the_kernel_drops_whom_the_lists_refuse_and_nobody_else() {
    let (all, four, six) = (free_port(), free_port(), free_port());
    let sockets = format!(
        r#"(port: {all}, restriction: Deny("127.0.0.67")), (port: {four}, address: "127.0.0.1", restriction: Grant("127.0.0.0/26")),
            (port: {six}, address: "::1", restriction: Grant("::2"))"#
    );
    let server = r#"network: (denied: "127.0.0.66\n127.0.0.7")"#;
    let daemon = echo(server, "kernel_filter: true,", &sockets);
    filtered(&daemon, "127.0.0.66", "127.0.0.1", all, "denied");
    filtered(&daemon, "127.0.0.67", "127.0.0.1", all, "restricted");
    filtered(&daemon, "127.0.0.7", "127.0.0.1", four, "denied");
    filtered(&daemon, "127.0.0.68", "127.0.0.1", four, "restricted");
    filtered(&daemon, "::1", "::1", six, "restricted");
    for source in ["127.0.0.1", "127.0.0.65", "127.0.0.68"] {
        answered(source, "127.0.0.1", all);
    }
    answered("::1", "::1", all);
    answered("127.0.0.63", "127.0.0.1", four);
    // Bans are the daemon's alone.
    exits(&daemon.portreeve(&["ban", "127.0.0.99", "--for", "1h"]), 0);
    counted(&daemon, "127.0.0.99", "127.0.0.1", all, "banned");
}

#[test]
fn the_kernels_lists_follow_reloads_and_live_changes() {
    let port = free_port();
    let server = r#"network: (denied: "127.0.0.66")"#;
    let socket = format!("(port: {port})");
    let daemon = echo(server, "kernel_filter: true,", &socket);
    let target = "127.0.0.1";
    filtered(&daemon, "127.0.0.66", target, port, "denied");
    let reload = |server: &str, keys: &str, socket: &str| {
        daemon.conf().write("portreeve.ron", &format!("({server})"));
        let text = format!("Udp(module: Echo, {keys} sockets: [{socket}])");
        daemon.conf().write("listeners/udp.ron", &text);
        exits(&daemon.portreeve(&["reload"]), 0);
    };
    let other = r#"network: (denied: "127.0.0.67")"#;
    reload(other, "kernel_filter: true,", &socket);
    answered("127.0.0.66", target, port);
    filtered(&daemon, "127.0.0.67", target, port, "denied");
    // A list that is changed while the rest stays.
    let edit = serde_json::json!({"command": "edit_list", "which": "denied", "text": "127.0.0.68"});
    assert!(daemon.conf().ask(&edit)["ok"].is_object());
    answered("127.0.0.67", target, port);
    filtered(&daemon, "127.0.0.68", target, port, "denied");
    reload(other, "", &socket);
    counted(&daemon, "127.0.0.67", target, port, "denied");
    reload("", "kernel_filter: true,", &socket);
    answered("127.0.0.67", target, port);
    let denying = format!(r#"(port: {port}, restriction: Deny("127.0.0.66"))"#);
    reload("", "kernel_filter: true,", &denying);
    filtered(&daemon, "127.0.0.66", target, port, "restricted");
    // Added while the daemon runs.
    let more = free_port();
    let number = more.to_string();
    let add = ["socket", "add", "udp", &number, "--deny", "127.0.0.65"];
    exits(&daemon.portreeve(&add), 0);
    filtered(&daemon, "127.0.0.65", target, more, "restricted");
    filtered(&daemon, "127.0.0.66", target, port, "restricted");
    answered("127.0.0.66", target, more);
}

#[test]
fn lists_that_do_not_fit_are_the_daemons_and_it_says_so() {
    let port = free_port();
    let lines: String = (0..6_000_u32)
        .map(|number| format!("10.{}.{}.1\n", number / 250, number % 250))
        .collect();
    let text = format!("Udp(module: Echo, kernel_filter: true, sockets: [(port: {port})])");
    let conf = Conf::new(r#"network: (denied: "@list.txt")"#)
        .file("list.txt", &format!("{lines}127.0.0.66\n"))
        .listener("udp", &text);
    let daemon = Daemon::start(conf);
    assert_says(&daemon.log(), &["too long for the kernel"]);
    counted(&daemon, "127.0.0.66", "127.0.0.1", port, "denied");
    answered("127.0.0.1", "127.0.0.1", port);
}

/// Sends 200,000 datagrams from an address that is denied, and asks meanwhile from another one.
fn flood(keys: &str) {
    const DATAGRAMS: u32 = 200_000;
    let port = free_port();
    let socket = format!("(port: {port}, address: \"127.0.0.1\")");
    let daemon = echo(r#"network: (denied: "127.0.0.66")"#, keys, &socket);
    let lines = daemon.log().lines().count();
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let mut waits = std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = client("127.0.0.66", "127.0.0.1", port);
            for _ in 0..DATAGRAMS {
                // What the sender's own buffer has no room for is no flood.
                while socket.send(&[b'x'; 64]).is_err() {}
            }
            over.store(true, Ordering::Release);
        });
        let mut waits = Vec::new();
        let patience = Duration::from_millis(100);
        while !over.load(Ordering::Acquire) {
            let socket = client("127.0.0.1", "127.0.0.1", port);
            socket.set_read_timeout(Some(patience)).unwrap();
            let asked = Instant::now();
            socket.send(b"hello").unwrap();
            // One that was lost in a full buffer counts as if it took as long.
            let _ = socket.recv(&mut [0; 16]);
            waits.push(asked.elapsed());
        }
        waits
    });
    let seconds = began.elapsed().as_secs();
    waits.sort_unstable();
    let median = waits[waits.len() / 2];
    assert!(
        median < Duration::from_millis(10),
        "{median:?} of {} questions in {seconds} s",
        waits.len()
    );
    answered("127.0.0.1", "127.0.0.1", port);
    // A line at most a second and reason, and the last one's echo.
    let more = daemon.log().lines().count() - lines;
    assert!(
        more <= 4 + usize::try_from(seconds).unwrap(),
        "{more} lines in {seconds} s"
    );
    let counted = daemon.rejected("udp", "denied");
    println!(
        "{keys:?}: median {median:?} of {} in {seconds} s, {counted} counted, {more} lines",
        waits.len()
    );
    if keys.is_empty() {
        assert!(counted > 0);
    } else {
        assert_eq!(counted, 0, "some reached the daemon");
    }
}

#[test]
fn a_flood_of_the_denied_leaves_others_their_answers_and_the_log_short() {
    flood("");
}

#[test]
fn a_flood_of_the_denied_does_not_reach_the_daemon_where_the_kernel_drops_it() {
    flood("kernel_filter: true,");
}
