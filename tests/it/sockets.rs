//! Which sockets are opened, which exclude each other, and the words when one cannot be bound.

use std::net::{TcpListener, TcpStream, UdpSocket};

use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, admitted, assert_says, exits, free_port, turned_away,
};

#[test]
fn a_port_in_use_stops_the_start_and_names_listener_and_address() {
    let port = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let conf = Conf::new("").listener(
        "greeter",
        &format!(r#"Tcp(module: Echo, sockets: [(port: {port}, address: "127.0.0.1")])"#),
    );
    let said = exits(&conf.portreeve(&["run"]), 1);
    let address = format!("127.0.0.1:{port}");
    assert_says(&said, &["greeter", &address, "in use"]);
}

#[test]
fn a_wildcard_socket_does_not_hide_that_another_program_holds_the_port() {
    let port = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let conf = Conf::new("").listener(
        "greeter",
        &format!("Tcp(module: Echo, sockets: [(port: {port})])"),
    );
    let said = exits(&conf.portreeve(&["run"]), 1);
    assert_says(&said, &["greeter", &port.to_string(), "in use"]);
}

#[test]
fn a_udp_port_in_use_stops_the_start_too() {
    let port = free_port();
    let _holder = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let conf = Conf::new("").listener(
        "greeter",
        &format!(r#"Udp(module: Echo, sockets: [(port: {port}, address: "127.0.0.1")])"#),
    );
    let said = exits(&conf.portreeve(&["run"]), 1);
    assert_says(&said, &["greeter", &port.to_string(), "in use"]);
}

#[test]
fn an_address_that_is_not_ours_stops_the_start() {
    let port = free_port();
    let conf = Conf::new("").listener(
        "greeter",
        &format!(r#"Tcp(module: Echo, sockets: [(port: {port}, address: "192.0.2.1")])"#),
    );
    let said = exits(&conf.portreeve(&["run"]), 1);
    assert_says(&said, &["greeter", "192.0.2.1"]);
}

#[test]
fn tcp_and_udp_of_one_number_live_together() {
    let port = free_port();
    let conf = Conf::new("")
        .listener(
            "tcp",
            &format!("Tcp(module: Echo, sockets: [(port: {port})])"),
        )
        .listener(
            "udp",
            &format!("Udp(module: Echo, sockets: [(port: {port})])"),
        );
    let _daemon = Daemon::start(conf);
    admitted("127.0.0.1", port);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.send(b"x").unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 1);
}

#[test]
fn a_specific_address_leaves_the_others_to_other_programs() {
    let port = free_port();
    let conf = Conf::new("").listener(
        "echo",
        &format!(r#"Tcp(module: Echo, sockets: [(port: {port}, address: "127.0.0.1")])"#),
    );
    let daemon = Daemon::start(conf);
    admitted("127.0.0.1", port);
    assert_eq!(turned_away("::1", port), Ending::NotListening);
    TcpStream::connect(("127.0.0.3", port)).unwrap_err();
    TcpListener::bind(("127.0.0.2", port)).unwrap();
    assert_eq!(
        daemon.listener("echo")["sockets"][0]["address"],
        "127.0.0.1"
    );
}

#[test]
fn two_addresses_share_a_port() {
    let port = free_port();
    let conf = Conf::new("")
        .listener(
            "one",
            &format!(r#"Tcp(module: Echo, sockets: [(port: {port}, address: "127.0.0.1")])"#),
        )
        .listener(
            "six",
            &format!(r#"Tcp(module: Echo, sockets: [(port: {port}, address: "::1")])"#),
        );
    let daemon = Daemon::start(conf);
    let _four = admitted("127.0.0.1", port);
    let _six = admitted("::1", port);
    assert_eq!((daemon.active("one"), daemon.active("six")), (1, 1));
}

#[test]
fn a_wildcard_socket_serves_both_families() {
    let port = free_port();
    let conf = Conf::new("").listener(
        "echo",
        &format!("Tcp(module: Echo, sockets: [(port: {port})])"),
    );
    let _daemon = Daemon::start(conf);
    admitted("127.0.0.1", port);
    admitted("127.0.0.77", port);
    admitted("::1", port);
}

#[test]
fn a_daemon_starts_again_at_once_on_the_port_it_just_left() {
    let port = free_port();
    let text = format!("Tcp(module: Echo, sockets: [(port: {port})])");
    for _ in 0..2 {
        let mut daemon = Daemon::start(Conf::new("").listener("echo", &text));
        // Our own close comes first, which leaves a TIME-WAIT on this port.
        let _held = admitted("127.0.0.1", port);
        assert_eq!(daemon.terminate().code(), Some(0));
    }
}

#[track_caller]
fn assert_conflict(one: &str, two: &str) {
    let conf = Conf::new("").listener("one", one).listener("two", two);
    for command in ["check", "run"] {
        let said = exits(&conf.portreeve(&[command]), 2);
        assert_says(&said, &["one", "two", "7007"]);
    }
}

#[test]
fn sockets_that_exclude_each_other_are_a_configuration_error_naming_both() {
    let any = "Tcp(module: Echo, sockets: [(port: 7007)])";
    let specific = r#"Tcp(module: Echo, sockets: [(port: 7007, address: "127.0.0.1")])"#;
    assert_conflict(any, any);
    assert_conflict(any, specific);
    assert_conflict(specific, any);
    assert_conflict(specific, specific);
}

#[test]
fn sockets_of_one_listener_exclude_each_other_too() {
    let conf = Conf::new("").listener(
        "echo",
        r#"Udp(module: Echo, sockets: [(port: 7007, address: "127.0.0.1"), (port: 7007)])"#,
    );
    let said = exits(&conf.portreeve(&["check"]), 2);
    assert_says(&said, &["echo", "7007", "127.0.0.1"]);
}

#[test]
fn a_port_of_zero_opens_nothing() {
    let port = free_port();
    let conf = Conf::new("").listener(
        "echo",
        &format!("Tcp(module: Echo, sockets: [(port: 0), (port: {port})])"),
    );
    let daemon = Daemon::start(conf);
    admitted("127.0.0.1", port);
    let listener = daemon.listener("echo");
    assert_eq!(listener["sockets"].as_array().unwrap().len(), 1);
    assert_eq!(listener["sockets"][0]["port"], port);
}
