//! The load generator against our own daemon: small counts, and every mode tells what it did. Needs the feature
//! `load`, which builds it.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Conf, Daemon, exits, free_port, output_within};

/// Runs the load generator and answers what it printed.
#[track_caller]
fn load(words: &str, port: u16) -> Value {
    let time = if words.contains("--time") {
        ""
    } else {
        " --time 20s"
    };
    let words = format!("{words}{time}");
    let mut words = words.split(' ');
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve-load"));
    command
        .arg(words.next().unwrap())
        .arg(format!("127.0.0.1:{port}"))
        .arg("--json")
        .args(words);
    let output = output_within(command, b"", Duration::from_secs(60));
    exits(&output, 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn all_succeeded(report: &Value, at_least: u64) {
    assert!(
        report["operations"].as_u64().unwrap() >= at_least && report["failed"] == 0,
        "{report}"
    );
}

fn echo(denied: &str, socket: &str) -> (Daemon, u16) {
    let port = free_port();
    let server = format!(
        r#"network: (denied: "{denied}"), domains: [(name: "bench.test", certificate: SelfSigned)], default_domain: "bench.test","#
    );
    let text = format!(
        r#"Tcp(module: Echo, channels: 1000, sockets: [(port: {port}, address: "127.0.0.1", {socket})])"#
    );
    let daemon = Daemon::start(Conf::new(&server).listener("echo", &text));
    (daemon, port)
}

#[test]
fn echoes_pingpongs_and_bulk_are_counted_and_the_daemon_saw_as_many() {
    let (daemon, port) = echo("", "");
    let report = load("echo --count 200 --connections 8 --parked 10", port);
    all_succeeded(&report, 200);
    assert!(report["latency_us"]["p99"].as_f64().unwrap() > 0.0);
    let accepted = daemon.listener("echo")["accepted"].as_u64().unwrap();
    assert_eq!(accepted, 10 + report["operations"].as_u64().unwrap());
    all_succeeded(&load("pingpong --count 500 --connections 20", port), 500);
    let report = load("bulk --bytes 10MiB", port);
    all_succeeded(&report, 1);
    assert_eq!(report["bytes"], 10 * 1024 * 1024);
}

#[test]
fn a_fixed_rate_is_kept_for_the_time_given() {
    let (_daemon, port) = echo("", "");
    let report = load("echo --rate 500 --time 1s", port);
    all_succeeded(&report, 500);
    assert_eq!(report["operations"], 500, "{report}");
    assert!(report["seconds"].as_f64().unwrap() > 0.9, "{report}");
}

#[test]
fn refusals_count_as_such_and_being_let_in_does_not() {
    let (daemon, port) = echo("127.32.0.0/16", "");
    let report = load("refused --count 200 --source 127.32.0.0", port);
    all_succeeded(&report, 200);
    assert_eq!(
        daemon.rejected("echo", "denied"),
        report["operations"].as_u64().unwrap()
    );
    let report = load("pingpong --time 1s --refused-rate 200", port);
    all_succeeded(&report, 100);
    assert_eq!(report["side"]["operations"], 200, "{report}");
    assert_eq!(report["side"]["failed"], 0, "{report}");
}

#[test]
fn tls_handshakes_are_full_or_resumed_as_asked_and_memory_is_told_of_those_held() {
    let (daemon, port) = echo("", "tls: On");
    let report = load("tls --count 100 --connections 4", port);
    all_succeeded(&report, 100);
    assert_eq!(report["handshakes"]["resumed"], 0, "{report}");
    let report = load("tls --count 100 --connections 4 --resume", port);
    all_succeeded(&report, 100);
    assert!(
        report["handshakes"]["full"].as_u64().unwrap() <= 4,
        "{report}"
    );
    let words = format!("hold --tls --connections 200 --watch {}", daemon.pid());
    let report = load(&words, port);
    assert_eq!(report["held"]["connections"], 200);
    let each = report["held"]["bytes_per_connection"].as_f64().unwrap();
    assert!((1.0..100_000.0).contains(&each), "{report}");
    assert!(
        report["server"]["cpu_seconds"].as_f64().unwrap() > 0.0,
        "{report}"
    );
}

#[test]
fn windows_of_datagrams_come_back() {
    let port = free_port();
    let text = format!(r#"Udp(module: Echo, sockets: [(port: {port}, address: "127.0.0.1")])"#);
    let _daemon = Daemon::start(Conf::new("").listener("echo", &text));
    let report = load("udp --count 1000 --connections 2 --window 8", port);
    all_succeeded(&report, 1000);
}

#[test]
fn questions_of_snmp_and_radius_are_answered_rightly() {
    let (agent, access) = (free_port(), free_port());
    // A hash of crypt(3) that is quickly verified.
    let hash = "$5$rounds=1000$portreeve$wU3wLQbwuixiCj6S.koNOTN4D3WA/RJrlDvNuY7yCjC";
    let account = format!(r#"{{"nemo": (password: "{hash}", secret: "arctangent")}}"#);
    let sockets = |port| format!(r#"sockets: [(port: {port}, address: "127.0.0.1")]"#);
    let clients = r#"clients: [(from: "127.0.0.0/8", secret: "testing123")]"#;
    let conf = Conf::new("")
        .file("accounts.ron", &account)
        .listener("snmp", &format!("Udp(module: Snmp, {})", sockets(agent)))
        .listener(
            "radius",
            &format!("Udp(module: Radius({clients}), {})", sockets(access)),
        );
    let _daemon = Daemon::start(conf);
    for (speaks, port) in [
        ("snmp", agent),
        ("radius-pap", access),
        ("radius-chap", access),
    ] {
        let words = format!("udp --count 200 --connections 1 --window 4 --speaks {speaks}");
        all_succeeded(&load(&words, port), 200);
    }
}

#[test]
fn nothing_but_loopback_can_be_loaded() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve-load"));
    command.args(["echo", "192.0.2.1:7"]);
    let output = output_within(command, b"", Duration::from_secs(10));
    assert!(exits(&output, 2).contains("loopback"));
}
