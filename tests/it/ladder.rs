//! Admission over real sockets: each rung of the ladder, their order, and their counts.

use std::net::TcpStream;

use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, admitted, assert_says, exits, free_port, refused, turned_away,
    wait_until,
};

/// Clients are 127.0.1.*, so that 127.0.2.* and others are not.
const CLIENTS: &str = r#"network: (clients: "127.0.1.0/24")"#;

fn echo(server: &str, keys: &str, sockets: &str) -> Daemon {
    let text = format!("Tcp(\n    module: Echo,\n    {keys}\n    sockets: [{sockets}],\n)\n");
    Daemon::start(Conf::new(server).listener("echo", &text))
}

fn echo_on(port: u16, server: &str, keys: &str) -> Daemon {
    echo(server, keys, &format!("(port: {port})"))
}

/// That many admitted connections, each from an address of its own below `network`, as in `127.0.1`.
#[track_caller]
fn admit_many(network: &str, count: u8, port: u16) -> Vec<TcpStream> {
    (1..=count)
        .map(|host| admitted(&format!("{network}.{host}"), port))
        .collect()
}

#[test]
fn channels_are_served_and_the_next_one_is_refused_as_full() {
    let port = free_port();
    let daemon = echo_on(port, "", "channels: 3,");
    let mut held = admit_many("127.0.0", 3, port);
    refused("127.0.0.9", port);
    assert_eq!(daemon.rejected("echo", "full"), 1);
    held.pop();
    daemon.wait_for_active("echo", 2);
    admitted("127.0.0.9", port);
}

#[test]
fn a_refused_connection_is_reset_and_gets_no_byte() {
    let port = free_port();
    let _daemon = echo_on(port, r#"network: (denied: "127.0.0.66")"#, "");
    for _ in 0..20 {
        assert_eq!(turned_away("127.0.0.66", port), Ending::Reset);
    }
}

#[test]
fn with_reserve_three_of_ten_the_seventh_stranger_gets_in_and_the_eighth_does_not() {
    let port = free_port();
    let daemon = echo_on(port, CLIENTS, "channels: 10, reserve_for_clients: 3,");
    let _six = admit_many("127.0.2", 6, port);
    let _seventh = admitted("127.0.2.7", port);
    refused("127.0.2.8", port);
    assert_eq!(daemon.rejected("echo", "reserved"), 1);
    let _clients = admit_many("127.0.1", 3, port);
    assert_eq!(daemon.active("echo"), 10);
    refused("127.0.1.9", port);
    refused("127.0.2.9", port);
    assert_eq!(daemon.rejected("echo", "full"), 2);
    assert_eq!(daemon.rejected("echo", "reserved"), 1);
}

#[test]
fn clients_use_all_channels_and_count_against_strangers() {
    let port = free_port();
    let daemon = echo_on(port, CLIENTS, "channels: 10, reserve_for_clients: 3,");
    let _seven = admit_many("127.0.1", 7, port);
    refused("127.0.2.1", port);
    let _rest = (8..=10)
        .map(|host| admitted(&format!("127.0.1.{host}"), port))
        .collect::<Vec<_>>();
    assert_eq!(daemon.active("echo"), 10);
}

#[test]
fn a_reserve_as_large_as_the_channels_keeps_every_stranger_out() {
    let port = free_port();
    let daemon = echo_on(port, CLIENTS, "channels: 2, reserve_for_clients: 2,");
    refused("127.0.2.1", port);
    assert_eq!(daemon.rejected("echo", "reserved"), 1);
    let _clients = admit_many("127.0.1", 2, port);
}

#[test]
fn the_limit_per_address_counts_over_all_sockets_of_a_listener() {
    let (one, two) = (free_port(), free_port());
    let sockets = format!("(port: {one}), (port: {two})");
    let daemon = echo("", "limit_per_address: 2,", &sockets);
    let first = admitted("127.0.0.7", one);
    let _second = admitted("127.0.0.7", two);
    refused("127.0.0.7", one);
    refused("127.0.0.7", two);
    let _other = admitted("127.0.0.8", one);
    assert_eq!(daemon.rejected("echo", "address_limit"), 2);
    drop(first);
    daemon.wait_for_active("echo", 2);
    let _again = admitted("127.0.0.7", two);
}

#[test]
fn two_listeners_count_an_address_apart() {
    let (one, two) = (free_port(), free_port());
    let listener =
        |port| format!("Tcp(module: Echo, limit_per_address: 1, sockets: [(port: {port})])");
    let conf = Conf::new("")
        .listener("one", &listener(one))
        .listener("two", &listener(two));
    let _daemon = Daemon::start(conf);
    let _first = admitted("127.0.0.7", one);
    let _second = admitted("127.0.0.7", two);
    refused("127.0.0.7", one);
}

#[test]
fn strangers_have_a_limit_of_their_own() {
    let port = free_port();
    let daemon = echo_on(port, CLIENTS, "limit_per_address: 3, limit_non_clients: 1,");
    let _stranger = admitted("127.0.2.1", port);
    refused("127.0.2.1", port);
    let _client = (0..3)
        .map(|_| admitted("127.0.1.1", port))
        .collect::<Vec<_>>();
    refused("127.0.1.1", port);
    assert_eq!(daemon.rejected("echo", "address_limit"), 2);
}

#[test]
fn a_larger_limit_for_strangers_than_for_clients_is_an_error() {
    let text = "Tcp(\n    module: Echo,\n    limit_per_address: 2,\n    limit_non_clients: 3,\n    sockets: [(port: 7007)],\n)\n";
    let conf = Conf::new("").listener("echo", text);
    let said = exits(&conf.portreeve(&["check"]), 2);
    assert_says(&said, &["echo.ron:", "limit_non_clients"]);
}

#[test]
fn the_cluster_skips_the_limit_per_address_and_nothing_else() {
    let port = free_port();
    let server =
        r#"network: (clients: "127.0.1.0/24", cluster: "127.0.3.0/24", denied: "127.0.3.66")"#;
    let daemon = echo_on(
        port,
        server,
        "channels: 6, reserve_for_clients: 1, limit_per_address: 1,",
    );
    let _cluster = (0..5)
        .map(|_| admitted("127.0.3.1", port))
        .collect::<Vec<_>>();
    refused("127.0.3.1", port);
    assert_eq!(daemon.rejected("echo", "reserved"), 1);
    refused("127.0.3.66", port);
    assert_eq!(daemon.rejected("echo", "denied"), 1);
    assert_eq!(daemon.rejected("echo", "address_limit"), 0);
}

#[test]
fn denied_beats_grant() {
    let port = free_port();
    let daemon = echo(
        r#"network: (denied: "127.0.0.66")"#,
        "",
        &format!(r#"(port: {port}, restriction: Grant("127.0.0.0/24"))"#),
    );
    refused("127.0.0.66", port);
    assert_eq!(daemon.rejected("echo", "denied"), 1);
    admitted("127.0.0.65", port);
}

#[test]
fn denied_counts_on_every_socket_of_every_listener() {
    let ports = [free_port(), free_port(), free_port()];
    let conf = Conf::new(r#"network: (denied: "127.0.0.66")"#)
        .listener(
            "one",
            &format!(
                "Tcp(module: Echo, sockets: [(port: {}), (port: {})])",
                ports[0], ports[1]
            ),
        )
        .listener(
            "two",
            &format!("Tcp(module: Echo, sockets: [(port: {})])", ports[2]),
        );
    let daemon = Daemon::start(conf);
    for port in ports {
        refused("127.0.0.66", port);
    }
    assert_eq!(daemon.rejected("one", "denied"), 2);
    assert_eq!(daemon.rejected("two", "denied"), 1);
}

#[test]
fn an_empty_grant_admits_nobody() {
    let port = free_port();
    let daemon = echo(
        "",
        "",
        &format!(r#"(port: {port}, restriction: Grant(""))"#),
    );
    refused("127.0.0.1", port);
    refused("::1", port);
    assert_eq!(daemon.rejected("echo", "restricted"), 2);
}

#[test]
fn an_empty_deny_admits_everybody() {
    let port = free_port();
    let _daemon = echo("", "", &format!(r#"(port: {port}, restriction: Deny(""))"#));
    admitted("127.0.0.1", port);
    admitted("::1", port);
}

#[test]
fn a_restriction_holds_on_its_own_socket_only() {
    let (open, granted, denying) = (free_port(), free_port(), free_port());
    let sockets = format!(
        r#"(port: {open}), (port: {granted}, restriction: Grant("127.0.0.7")), (port: {denying}, restriction: Deny("127.0.0.7"))"#
    );
    let daemon = echo("", "", &sockets);
    admitted("127.0.0.7", open);
    admitted("127.0.0.7", granted);
    refused("127.0.0.7", denying);
    admitted("127.0.0.8", open);
    refused("127.0.0.8", granted);
    admitted("127.0.0.8", denying);
    assert_eq!(daemon.rejected("echo", "restricted"), 2);
}

#[test]
fn the_order_of_a_lists_lines_decides() {
    let port = free_port();
    let list = r"127.0.0.0/16 ; all\n!127.0.6.0/24\n127.0.6.7\n[::1]\n127.1.0.10 - 127.1.0.19";
    let _daemon = echo(
        "",
        "",
        &format!(r#"(port: {port}, restriction: Grant("{list}"))"#),
    );
    admitted("127.0.5.1", port);
    refused("127.0.6.1", port);
    admitted("127.0.6.7", port);
    admitted("::1", port);
    refused("127.1.0.9", port);
    admitted("127.1.0.10", port);
    admitted("127.1.0.19", port);
    refused("127.1.0.20", port);
}

#[test]
fn ipv6_and_ipv4_meet_their_own_lines() {
    let port = free_port();
    let daemon = echo_on(port, r#"network: (denied: "::1")"#, "");
    refused("::1", port);
    admitted("127.0.0.1", port);
    assert_eq!(daemon.rejected("echo", "denied"), 1);
}

#[test]
fn ipv6_addresses_are_counted() {
    let port = free_port();
    let _daemon = echo_on(port, "", "limit_per_address: 1,");
    let _six = admitted("::1", port);
    refused("::1", port);
    let _four = admitted("127.0.0.1", port);
}

#[test]
fn ipv4_on_a_dual_stack_socket_is_ipv4_in_lists_and_counts() {
    let port = free_port();
    let server = r#"network: (denied: "127.0.0.66")"#;
    let daemon = echo_on(port, server, "limit_per_address: 1,");
    refused("127.0.0.66", port);
    // Counted as IPv6 by prefix, these two would be one.
    let _seven = admitted("127.0.0.7", port);
    let _eight = admitted("127.0.0.8", port);
    refused("127.0.0.8", port);
    assert_eq!(daemon.rejected("echo", "denied"), 1);
    assert_eq!(daemon.rejected("echo", "address_limit"), 1);
    assert!(
        !daemon.log().contains("::ffff:"),
        "a mapped address was logged:\n{}",
        daemon.log()
    );
}

#[test]
fn the_first_rung_that_refuses_names_the_reason() {
    let port = free_port();
    let daemon = echo(
        r#"network: (clients: "127.0.1.0/24", denied: "127.0.0.66")"#,
        "channels: 2, reserve_for_clients: 1, limit_per_address: 1,",
        &format!(r#"(port: {port}, restriction: Deny("127.0.0.66\n127.0.0.67"))"#),
    );
    let _held = admitted("127.0.2.1", port);
    // Denied and restricted; restricted and reserved; reserved and over its limit.
    refused("127.0.0.66", port);
    refused("127.0.0.67", port);
    refused("127.0.2.1", port);
    let _client = admitted("127.0.1.1", port);
    // Full, reserved and over its limit.
    refused("127.0.2.1", port);
    refused("127.0.1.1", port);
    for (reason, count) in [
        ("denied", 1),
        ("restricted", 1),
        ("reserved", 1),
        ("full", 2),
        ("address_limit", 0),
    ] {
        assert_eq!(daemon.rejected("echo", reason), count, "{reason}");
    }
}

#[test]
fn status_counts_accepted_rejected_and_active() {
    let port = free_port();
    let server = r#"network: (denied: "127.0.0.66")"#;
    let daemon = echo_on(port, server, "channels: 5,");
    let held = admit_many("127.0.0", 3, port);
    refused("127.0.0.66", port);
    refused("127.0.0.66", port);
    let listener = daemon.listener("echo");
    assert_eq!(listener["name"], "echo");
    assert_eq!(
        listener["transport"].as_str().unwrap().to_lowercase(),
        "tcp"
    );
    assert_eq!(listener["channels"], 5);
    assert_eq!(listener["active"], 3);
    assert_eq!(listener["accepted"], 3);
    assert_eq!(listener["rejected"]["denied"], 2);
    assert_eq!(listener["sockets"][0]["port"], port);
    assert!(listener["sockets"][0]["address"].is_null());
    drop(held);
    daemon.wait_for_active("echo", 0);
    assert_eq!(daemon.listener("echo")["accepted"], 3);
}

#[test]
fn refusals_are_logged_at_most_once_a_second() {
    let port = free_port();
    let daemon = echo_on(port, r#"network: (denied: "127.0.0.66")"#, "");
    for _ in 0..200 {
        refused("127.0.0.66", port);
    }
    wait_until("200 are counted", DEADLINE, || {
        daemon.rejected("echo", "denied") == 200
    });
    let lines = daemon
        .log()
        .lines()
        .filter(|line| line.contains("127.0.0.66") && line.contains("denied"))
        .count();
    assert!(
        (1..=20).contains(&lines),
        "{lines} lines for 200 refusals:\n{}",
        daemon.log()
    );
}
