//! Who is connected, as a person sees it, and how a person ends it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, assert_says, connect_from, ending_of, exits, free_port,
    try_echo, wait_until,
};

#[track_caller]
fn connections(daemon: &Daemon) -> Vec<Value> {
    let said = exits(&daemon.portreeve(&["connections", "--json"]), 0);
    serde_json::from_str(&said).unwrap()
}

/// The one connection of a listener, once it is in this state.
#[track_caller]
fn in_state(daemon: &Daemon, listener: &str, state: &str) -> Value {
    let mut found = Value::Null;
    wait_until(
        &format!("{listener} has one that is {state}"),
        DEADLINE,
        || {
            let all = connections(daemon);
            let of = all.into_iter().find(|one| one["listener"] == listener);
            found = of.unwrap_or_default();
            found["state"] == state
        },
    );
    found
}

fn echo(port: u16) -> Daemon {
    let clients = r#"network: (clients: "127.0.0.1")"#;
    let text = format!("Tcp(module: Echo, sockets: [(port: {port})])");
    Daemon::start(Conf::new(clients).listener("echo", &text))
}

#[test]
fn a_connection_is_listed_with_its_class_and_bytes_and_leaves_the_list() {
    let port = free_port();
    let daemon = echo(port);
    let mut one = connect_from("127.0.0.1", port);
    try_echo(&mut one, &[b'x'; 1000]).unwrap();
    let two = admitted("127.0.0.2", port);
    wait_until("both rest", DEADLINE, || {
        let all = connections(&daemon);
        all.len() == 2 && all.iter().all(|one| one["state"] == "idle")
    });
    let all = connections(&daemon);
    assert_eq!(all[0]["address"], one.local_addr().unwrap().to_string());
    assert_eq!(all[0]["local"], one.peer_addr().unwrap().to_string());
    assert_eq!(
        (&all[0]["class"], &all[1]["class"]),
        (&"client".into(), &"other".into())
    );
    assert_eq!(
        (&all[0]["received"], &all[0]["sent"]),
        (&1000.into(), &1000.into())
    );
    assert_eq!(all[0]["tls"], Value::Null);
    drop(two);
    wait_until("it is gone", DEADLINE, || connections(&daemon).len() == 1);
    let shown = exits(&daemon.portreeve(&["connections"]), 0);
    assert_says(
        &shown,
        &["LISTENER", "127.0.0.1:", "client", "idle", "1 connections"],
    );
}

#[test]
fn handshakes_tls_relays_and_programs_are_told_apart() {
    let (secure, relay, program) = (free_port(), free_port(), free_port());
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream_at = upstream.local_addr().unwrap();
    let domains =
        r#"domains: [(name: "localhost", certificate: SelfSigned)], default_domain: "localhost""#;
    let conf = Conf::new(domains)
        .listener(
            "secure",
            &format!("Tcp(module: Echo, sockets: [(port: {secure}, tls: On)])"),
        )
        .listener(
            "relay",
            &format!(
                r#"Tcp(module: Proxy(upstreams: ["{upstream_at}"]), sockets: [(port: {relay})])"#
            ),
        )
        .listener(
            "program",
            &format!(r#"Tcp(module: Exec(command: ["/bin/cat"]), sockets: [(port: {program})])"#),
        );
    let daemon = Daemon::start(conf);
    let silent = connect_from("127.0.0.1", secure);
    in_state(&daemon, "secure", "handshake");
    drop(silent);
    let _relayed = connect_from("127.0.0.1", relay);
    let _accepted = upstream.accept().unwrap();
    in_state(&daemon, "relay", "relay");
    let mut cat = connect_from("127.0.0.1", program);
    try_echo(&mut cat, b"meow").unwrap();
    let row = in_state(&daemon, "program", "program");
    assert_eq!(row["sent"], Value::Null);

    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-tls1_2", "-connect"])
        .arg(format!("127.0.0.1:{secure}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(b"hi\n").unwrap();
    client
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 3])
        .unwrap();
    let row = in_state(&daemon, "secure", "idle");
    assert_eq!(row["tls"], "TLSv1.2");
    assert_eq!((&row["received"], &row["sent"]), (&3.into(), &3.into()));
    exits(
        &daemon.portreeve(&["disconnect", row["id"].as_str().unwrap()]),
        0,
    );
    client.wait().unwrap();

    for listener in ["relay", "program"] {
        let all = connections(&daemon);
        let row = all.iter().find(|one| one["listener"] == listener).unwrap();
        exits(
            &daemon.portreeve(&["disconnect", row["id"].as_str().unwrap()]),
            0,
        );
        daemon.wait_for_active(listener, 0);
    }
    ending_of(&mut cat);
}

#[test]
fn one_connection_or_all_of_an_address_are_closed_and_the_others_stay() {
    let port = free_port();
    let daemon = echo(port);
    let mut first = admitted("127.0.0.1", port);
    let mut all: Vec<_> = (0..5).map(|_| admitted("127.0.0.2", port)).collect();
    let mut other = admitted("127.0.0.3", port);
    let id = connections(&daemon)[0]["id"].as_str().unwrap().to_owned();
    let said = exits(&daemon.portreeve(&["disconnect", &id]), 0);
    assert_says(&said, &["1 connections closed"]);
    ending_of(&mut first);
    let said = exits(&daemon.portreeve(&["disconnect", "127.0.0.2"]), 0);
    assert_says(&said, &["5 connections closed"]);
    for stream in &mut all {
        ending_of(stream);
    }
    try_echo(&mut other, b"still here").unwrap();
    assert_eq!(
        daemon.active("echo"),
        1,
        "the slots are free when the command returns"
    );
    exits(&daemon.portreeve(&["disconnect", "127.0.0.2"]), 0);
    for nobody in [id.as_str(), "9999-1", "somebody"] {
        exits(&daemon.portreeve(&["disconnect", nobody]), 1);
    }
    exits(&daemon.portreeve(&["disconnect", "127.0.0.0/8"]), 0);
    ending_of(&mut other);
}

#[test]
fn a_download_that_never_rests_is_listed_and_ended() {
    let port = free_port();
    let daemon = echo(port);
    let stream = connect_from("127.0.0.1", port);
    let mut writer = stream.try_clone().unwrap();
    let flood = std::thread::spawn(move || while writer.write_all(&[b'x'; 65536]).is_ok() {});
    let mut reader = stream.try_clone().unwrap();
    let drain = std::thread::spawn(move || {
        let mut bytes = vec![0; 65536];
        while matches!(reader.read(&mut bytes), Ok(1..)) {}
    });
    wait_until("it is counted", DEADLINE, || {
        let all = connections(&daemon);
        all.first()
            .is_some_and(|one| one["sent"].as_u64() > Some(1_000_000))
    });
    let said = exits(&daemon.portreeve(&["disconnect", "127.0.0.1"]), 0);
    assert_says(&said, &["1 connections closed"]);
    flood.join().unwrap();
    drain.join().unwrap();
    assert_eq!(daemon.active("echo"), 0);
}
