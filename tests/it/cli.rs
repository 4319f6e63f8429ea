//! Commands: exit codes, and the words that an operator needs. And clients that others wrote.

use std::process::Command;

use crate::harness::{
    Conf, Daemon, admitted, assert_says, binary, exits, free_port, output_of, refused,
};

fn echo_text(port: u16) -> String {
    format!("Tcp(\n    module: Echo,\n    sockets: [(port: {port})],\n)\n")
}

#[test]
fn check_prints_the_table_of_sockets() {
    let conf = Conf::new("")
        .listener("greeter", &echo_text(7007))
        .listener(
            "clock",
            r#"Udp(module: Daytime, sockets: [(port: 7013, address: "127.0.0.1")])"#,
        );
    let said = exits(&conf.portreeve(&["check"]), 0);
    assert_says(&said, &["greeter", "7007", "clock", "127.0.0.1", "7013"]);
    let lower = said.to_lowercase();
    assert_says(&lower, &["tcp", "udp", "echo", "daytime"]);
}

#[test]
fn an_unknown_key_is_an_error_with_its_place() {
    let text = "Tcp(\n    module: Echo,\n    chanels: 3,\n    sockets: [(port: 7007)],\n)\n";
    let conf = Conf::new("").listener("echo", text);
    for command in ["check", "run"] {
        let said = exits(&conf.portreeve(&[command]), 2);
        assert_says(&said, &["echo.ron:3:", "chanels"]);
    }
}

#[test]
fn errors_of_all_files_are_reported_together() {
    let conf = Conf::new("wrokers: 4,")
        .listener(
            "one",
            "Tcp(module: Echo, chanels: 3, sockets: [(port: 7007)])",
        )
        .listener("two", "Tcp(module: Ecko, sockets: [(port: 7008)])");
    let said = exits(&conf.portreeve(&["check"]), 2);
    assert_says(&said, &["portreeve.ron:", "one.ron:1:", "two.ron:1:"]);
}

#[test]
fn a_bad_line_of_a_list_file_is_an_error_with_its_place() {
    let conf = Conf::new(r#"network: (denied: "@denied.txt")"#)
        .file("denied.txt", "; who\n127.0.0.66\n10.0.0.1/8\n")
        .listener("echo", &echo_text(7007));
    let said = exits(&conf.portreeve(&["check"]), 2);
    assert_says(&said, &["denied.txt:3:", "10.0.0.1/8"]);
}

#[test]
fn a_tcp_key_on_a_udp_listener_is_an_error() {
    for key in ["channels: 3", "limit_per_address: 1"] {
        let text = format!("Udp(module: Echo, {key}, sockets: [(port: 7007)])");
        let conf = Conf::new("").listener("echo", &text);
        assert_says(&exits(&conf.portreeve(&["check"]), 2), &["echo.ron:1:"]);
    }
}

#[test]
fn a_configuration_that_is_not_there_is_an_error() {
    let mut command = Command::new(binary());
    command.args(["check", "--config", "/nonexistent/portreeve.ron"]);
    let said = exits(&output_of(command, b""), 2);
    assert_says(&said, &["/nonexistent/portreeve.ron"]);
}

#[test]
fn explain_names_the_line_of_the_list_that_refuses() {
    let conf = Conf::new(r#"network: (denied: "@denied.txt")"#)
        .file("denied.txt", "; who was here before\n127.0.0.66\n")
        .listener("echo", &echo_text(7007));
    let said = exits(&conf.portreeve(&["explain", "echo", "127.0.0.66"]), 1);
    assert_says(&said, &["denied", "denied.txt:2"]);
}

#[test]
fn explain_names_the_line_of_a_list_within_the_configuration() {
    // The file's first line is a parenthesis; the list's second line is the file's fourth.
    let conf = Conf::new("network: (\n    denied: \"127.0.0.65\n127.0.0.66\",\n)")
        .listener("echo", &echo_text(7007));
    let said = exits(&conf.portreeve(&["explain", "echo", "127.0.0.66"]), 1);
    assert_says(&said, &["denied", "portreeve.ron:4"]);
}

#[test]
fn explain_looks_at_the_socket_it_is_asked_about() {
    let text = r#"Tcp(
    module: Echo,
    sockets: [
        (port: 7007, address: "127.0.0.1"),
        (port: 7008, address: "127.0.0.1", restriction: Grant("127.0.0.7")),
    ],
)
"#;
    let conf = Conf::new("").listener("echo", text);
    let explain =
        |address, socket| conf.portreeve(&["explain", "echo", address, "--socket", socket]);
    exits(&explain("127.0.0.8", "127.0.0.1:7007"), 0);
    exits(&explain("127.0.0.7", "127.0.0.1:7008"), 0);
    let said = exits(&explain("127.0.0.8", "127.0.0.1:7008"), 1);
    assert_says(&said, &["restricted"]);
}

#[test]
fn explain_admits_whom_nothing_refuses() {
    let conf = Conf::new(r#"network: (denied: "127.0.0.66")"#).listener("echo", &echo_text(7007));
    exits(&conf.portreeve(&["explain", "echo", "127.0.0.65"]), 0);
    exits(&conf.portreeve(&["explain", "echo", "::1"]), 0);
    exits(
        &conf.portreeve(&["explain", "echo", "::ffff:127.0.0.66"]),
        1,
    );
}

#[test]
fn explain_of_an_unknown_listener_or_a_bad_address_is_a_usage_error() {
    let conf = Conf::new("").listener("echo", &echo_text(7007));
    let said = exits(&conf.portreeve(&["explain", "ecko", "127.0.0.1"]), 2);
    assert_says(&said, &["ecko"]);
    let said = exits(&conf.portreeve(&["explain", "echo", "127.0.0.256"]), 2);
    assert_says(&said, &["127.0.0.256"]);
}

#[test]
fn status_without_a_daemon_says_so_and_exits_with_one() {
    let conf = Conf::new("").listener("echo", &echo_text(7007));
    for args in [&["status"][..], &["status", "--json"]] {
        let output = conf.portreeve(args);
        assert!(!exits(&output, 1).is_empty());
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn status_shows_a_person_who_is_inside_and_how_many_were_refused() {
    let port = free_port();
    let conf =
        Conf::new(r#"network: (denied: "127.0.0.66")"#).listener("greeter", &echo_text(port));
    let daemon = Daemon::start(conf);
    let _held = admitted("127.0.0.1", port);
    refused("127.0.0.66", port);
    let said = exits(&daemon.portreeve(&["status"]), 0);
    assert_says(&said, &["greeter", "denied"]);
}

#[test]
fn the_daemon_prints_its_sockets_at_the_start() {
    let port = free_port();
    let daemon = Daemon::start(Conf::new("").listener("greeter", &echo_text(port)));
    assert_says(&daemon.log(), &["greeter", &port.to_string()]);
}

#[test]
fn a_second_daemon_of_one_configuration_does_not_start_and_harms_nothing() {
    let port = free_port();
    let daemon = Daemon::start(Conf::new("").listener("greeter", &echo_text(port)));
    exits(&daemon.portreeve(&["run"]), 1);
    admitted("127.0.0.1", port);
    // The control socket is still the first one's.
    assert_eq!(daemon.listener("greeter")["accepted"], 1);
}

#[test]
fn wrong_usage_exits_with_two() {
    for args in [
        &["frobnicate"][..],
        &["run", "--no-such-option"],
        &["explain", "echo"],
        &[],
    ] {
        let mut command = Command::new(binary());
        command.args(args);
        exits(&output_of(command, b""), 2);
    }
}

#[test]
fn help_exits_with_zero_and_names_the_commands() {
    let mut command = Command::new(binary());
    command.arg("--help");
    let said = exits(&output_of(command, b""), 0);
    assert_says(&said, &["run", "check", "explain", "status"]);
}

#[test]
fn netcat_gets_its_line_back() {
    let port = free_port();
    let _daemon = Daemon::start(Conf::new("").listener("echo", &echo_text(port)));
    let mut nc = Command::new("nc");
    nc.args(["-N", "127.0.0.1", &port.to_string()]);
    let output = output_of(nc, b"hi\n");
    exits(&output, 0);
    assert_eq!(output.stdout, b"hi\n");
}

#[test]
fn socat_gets_its_datagram_back() {
    let port = free_port();
    let text = format!("Udp(module: Echo, sockets: [(port: {port})])");
    let _daemon = Daemon::start(Conf::new("").listener("echo", &text));
    let mut socat = Command::new("socat");
    socat.args(["-t", "2", "-", &format!("UDP4:127.0.0.1:{port}")]);
    let output = output_of(socat, b"hi\n");
    exits(&output, 0);
    assert_eq!(output.stdout, b"hi\n");
}
