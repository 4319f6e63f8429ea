//! A daemon near its limits: what it stops doing, for whom, and that it takes it up again.

use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, assert_says, echoes, ending_of, exits, free_port, refused,
    try_connect, try_echo, wait_until,
};

/// Long enough for a connection that is silent to be ended, and for each stage to be left.
const AGES: Duration = Duration::from_secs(60);

fn stage(daemon: &Daemon) -> u64 {
    daemon.status()["overload"]["stage"].as_u64().unwrap()
}

fn conf(port: u16, more: &str) -> Conf {
    let text = format!("Tcp(module: Echo, channels: 1000, sockets: [(port: {port})])");
    Conf::new(&format!(
        "workers: 4, network: (clients: \"127.0.0.1\"),{more}"
    ))
    .listener("echo", &text)
}

#[test]
fn when_descriptors_run_short_clients_are_served_and_the_silent_make_room() {
    let port = free_port();
    let daemon = Daemon::start_with_descriptors(conf(port, ""), 200);
    assert_eq!(stage(&daemon), 0);
    let mut client = admitted("127.0.0.1", port);
    // As many others as are let in.
    let mut others: Vec<TcpStream> = Vec::new();
    wait_until("it keeps others out", AGES, || {
        let stream = try_connect("127.0.0.9", port).ok();
        let stream = stream.filter(|_| stage(&daemon) < 2);
        others.extend(
            stream.and_then(|mut stream| try_echo(&mut stream, b"in").ok().map(|()| stream)),
        );
        stage(&daemon) >= 2
    });
    assert!(others.len() > 100, "{} came in", others.len());
    refused("127.0.0.9", port);
    assert!(daemon.rejected("echo", "reserved") >= 1);
    let said = exits(&daemon.portreeve(&["explain", "echo", "127.0.0.9"]), 1);
    assert_says(&said, &["reserved", "overloaded"]);
    exits(&daemon.portreeve(&["explain", "echo", "127.0.0.1"]), 0);
    assert_says(
        &exits(&daemon.portreeve(&["status"]), 0),
        &["overloaded: stage", "descriptors"],
    );
    assert!(daemon.metric("portreeve_overload_stage{}") >= 2.0);
    echoes(&mut client, b"one inside");
    admitted("127.0.0.1", port);

    // They say nothing more, and are ended; the client is silent as well, and stays.
    wait_until("it is calm again", AGES, || stage(&daemon) == 0);
    // Those that were silent for longest; whoever is still there may stay.
    assert!(usize::try_from(daemon.active("echo")).unwrap() < others.len());
    ending_of(&mut others[0]);
    echoes(&mut client, b"one inside");
    admitted("127.0.0.9", port);
    assert_says(
        &daemon.log(),
        &["overload: from calm to", "to calm for descriptors"],
    );
    let said = exits(&daemon.portreeve(&["status"]), 0);
    assert!(!said.contains("overloaded"), "{said}");
}

#[test]
fn with_too_little_memory_clients_come_in_slowly_and_with_enough_everybody_does() {
    let port = free_port();
    let daemon = Daemon::start(conf(port, "memory: \"1MiB\","));
    wait_until("the last stage is reached", DEADLINE, || {
        stage(&daemon) == 3
    });
    refused("127.0.0.9", port);
    for _ in 0..20 {
        admitted("127.0.0.1", port);
    }
    let text = "workers: 4, network: (clients: \"127.0.0.1\"), memory: \"64GiB\",";
    daemon.conf().write("portreeve.ron", &format!("({text})"));
    exits(&daemon.portreeve(&["reload"]), 0);
    wait_until("it is calm again", AGES, || stage(&daemon) == 0);
    admitted("127.0.0.9", port);
    assert_says(
        &daemon.log(),
        &["to slowed for memory", "to calm for memory"],
    );
}
