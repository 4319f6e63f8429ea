//! Bans made by hand: who is kept out, for how long, and over a restart.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, assert_says, ending_of, exits, free_port, refused, try_echo,
    wait_until,
};

fn echo(port: u16) -> Daemon {
    let tcp = format!("Tcp(module: Echo, sockets: [(port: {port})])");
    let udp = format!("Udp(module: Echo, sockets: [(port: {port})])");
    Daemon::start(
        Conf::new("")
            .listener("echo", &tcp)
            .listener("echo-udp", &udp),
    )
}

#[track_caller]
fn bans(daemon: &Daemon) -> Vec<Value> {
    let said = exits(&daemon.portreeve(&["bans", "--json"]), 0);
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_ban_keeps_out_a_client_and_closes_what_it_has_open_until_it_is_taken_back() {
    let port = free_port();
    let daemon = echo(port);
    let mut inside = admitted("127.0.0.66", port);
    let mut other = admitted("127.0.0.1", port);
    let said = exits(&daemon.portreeve(&["ban", "127.0.0.66", "--for", "10m"]), 0);
    assert_says(&said, &["127.0.0.66", "10m", "1 connections closed"]);
    ending_of(&mut inside);
    refused("127.0.0.66", port);
    assert_eq!(daemon.rejected("echo", "banned"), 1);
    try_echo(&mut other, b"still here").unwrap();
    let shown = exits(&daemon.portreeve(&["bans"]), 0);
    assert_says(&shown, &["127.0.0.66", "hand"]);
    let why = exits(&daemon.portreeve(&["explain", "echo", "127.0.0.66"]), 1);
    assert_says(&why, &["running", "banned for another"]);
    exits(&daemon.portreeve(&["unban", "127.0.0.66"]), 0);
    admitted("127.0.0.66", port);
    assert!(bans(&daemon).is_empty());
    assert_says(&daemon.log(), &["banned 127.0.0.66"]);
}

#[test]
fn datagrams_of_the_banned_are_dropped() {
    let port = free_port();
    let daemon = echo(port);
    exits(&daemon.portreeve(&["ban", "127.0.0.66"]), 0);
    let socket = UdpSocket::bind("127.0.0.66:0").unwrap();
    socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
    wait_until("the datagram is counted", DEADLINE, || {
        daemon.rejected("echo-udp", "banned") == 1
    });
}

#[test]
fn a_ban_ends_by_itself() {
    let port = free_port();
    let daemon = echo(port);
    exits(&daemon.portreeve(&["ban", "127.0.0.0/8", "--for", "1s"]), 0);
    refused("127.0.0.5", port);
    wait_until("the ban has ended", DEADLINE, || {
        let stream = crate::harness::try_connect("127.0.0.5", port);
        stream.is_ok_and(|mut stream| try_echo(&mut stream, b"x").is_ok())
    });
    assert!(bans(&daemon).is_empty());
}

#[test]
fn a_single_ipv6_address_is_banned_with_its_prefix() {
    let port = free_port();
    let daemon = echo(port);
    exits(&daemon.portreeve(&["ban", "2001:db8::7"]), 0);
    assert_eq!(bans(&daemon)[0]["address"], "2001:db8::/64");
    exits(&daemon.portreeve(&["unban", "2001:db8::1:2"]), 0);
    exits(&daemon.portreeve(&["ban", "::2"]), 0);
    refused("::1", port);
    exits(&daemon.portreeve(&["unban", "::2"]), 0);
    exits(&daemon.portreeve(&["ban", "::2/128"]), 0);
    admitted("::1", port);
}

#[test]
fn bans_outlive_a_restart_and_a_kill() {
    let port = free_port();
    let mut daemon = echo(port);
    exits(&daemon.portreeve(&["ban", "127.0.0.66"]), 0);
    assert_eq!(daemon.terminate().code(), Some(0));
    let mut daemon = daemon.restart();
    refused("127.0.0.66", port);
    exits(&daemon.portreeve(&["ban", "127.0.0.67"]), 0);
    daemon.kill();
    let daemon = daemon.restart();
    refused("127.0.0.66", port);
    refused("127.0.0.67", port);
    exits(&daemon.portreeve(&["reload"]), 0);
    refused("127.0.0.67", port);
}

#[test]
fn a_file_of_bans_that_is_broken_is_put_aside_with_a_warning() {
    let port = free_port();
    let mut daemon = echo(port);
    exits(&daemon.portreeve(&["ban", "127.0.0.66"]), 0);
    daemon.terminate();
    let file = daemon.conf().home().join("var/bans.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let daemon = daemon.restart();
    admitted("127.0.0.66", port);
    assert_says(&daemon.log(), &["bans.json", "cannot be used", ".bad"]);
    assert!(daemon.conf().home().join("var/bans.json.bad").exists());
}

#[test]
fn what_is_no_address_no_network_or_no_time_is_refused_in_words() {
    let daemon = echo(free_port());
    for (args, words) in [
        (&["ban", "localhost"][..], "expected an address"),
        (&["ban", "192.0.2.1/24"], "192.0.2.0/24"),
        (
            &["ban", "192.0.2.1", "--for", "soon"],
            "expected a duration",
        ),
        (&["ban", "192.0.2.1", "--for", "0s"], "expected a duration"),
        (&["unban", "192.0.2.1"], "is not banned"),
    ] {
        assert_says(&exits(&daemon.portreeve(args), 1), &[words]);
    }
    exits(&daemon.portreeve(&["ban", "192.0.2.0/24"]), 0);
    let said = exits(&daemon.portreeve(&["unban", "192.0.2.1"]), 1);
    assert_says(&said, &["covered by 192.0.2.0/24"]);
    let left = Duration::from_secs(bans(&daemon)[0]["left"].as_u64().unwrap());
    assert!(
        left > Duration::from_secs(86_000),
        "a day where no time is given"
    );
}
