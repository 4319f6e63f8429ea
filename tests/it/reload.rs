//! Reloads: all or nothing, no connection lost on sockets that stay, and words for what changes.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::foreign::make_certificate;
use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, admitted, assert_says, connect_from, exits, free_port, refused,
    try_connect, try_echo, turned_away, wait_until,
};

fn echo_text(port: u16) -> String {
    format!("Tcp(module: Echo, sockets: [(port: {port})])")
}

#[track_caller]
fn reload(daemon: &Daemon) -> String {
    exits(&daemon.portreeve(&["reload"]), 0)
}

/// Connects, is answered and leaves, again and again, until told to stop.
fn visit(source: String, port: u16, stop: Arc<AtomicBool>, visits: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = try_connect(&source, port)
            .unwrap_or_else(|error| panic!("{source} cannot connect: {error}"));
        try_echo(&mut stream, b"hello")
            .unwrap_or_else(|error| panic!("{source} is not answered: {error}"));
        visits.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_hundred_reloads_lose_none_of_fifty_clients_that_connect_in_a_loop() {
    let (port, other, udp) = (free_port(), free_port(), free_port());
    let text = |round: u32| {
        // Its limits, its timeouts and its list change; its first socket stays, its second comes and goes.
        let second = match round % 2 {
            0 => format!("(port: {other}),"),
            _ => String::new(),
        };
        format!(
            "Tcp(module: Echo, channels: {}, idle_timeout: \"{}s\", backlog: {}, sockets: [
                (port: {port}, restriction: Deny(\"192.0.2.{}\")), {second}
            ])",
            500 + round,
            60 + round,
            4000 + round,
            round % 250,
        )
    };
    let conf = Conf::new("").listener("echo", &text(0)).listener(
        "echo-udp",
        &format!("Udp(module: Echo, sockets: [(port: {udp})])"),
    );
    let daemon = Daemon::start(conf);
    let (stop, visits) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut clients: Vec<_> = (0..50)
        .map(|number| {
            let (stop, visits) = (Arc::clone(&stop), Arc::clone(&visits));
            let source = format!("127.0.1.{}", number + 1);
            std::thread::spawn(move || visit(source, port, stop, visits))
        })
        .collect();
    let asking = Arc::clone(&stop);
    clients.push(std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.connect(("127.0.0.1", udp)).unwrap();
        while !asking.load(Ordering::Relaxed) {
            socket.send(b"x").unwrap();
            assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1, "a datagram was lost");
        }
    }));
    for round in 1..=100 {
        daemon.conf().write("listeners/echo.ron", &text(round));
        reload(&daemon);
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let visits = visits.load(Ordering::Relaxed);
    println!("{visits} visits during 100 reloads");
    assert!(visits > 500, "only {visits} visits");
    assert_eq!(daemon.listener("echo")["channels"], 600);
    let accepted = daemon.listener("echo")["accepted"].as_u64().unwrap();
    assert!(accepted >= visits, "{accepted} were counted");
    daemon.wait_for_active("echo", 0);
}

#[test]
fn a_reload_that_fails_changes_nothing_and_says_why() {
    let (port, taken, new) = (free_port(), free_port(), free_port());
    let _holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let conf = Conf::new("").listener("echo", &echo_text(port));
    make_certificate(&conf.home().join("conf"), "good", 90, None);
    let daemon = Daemon::start(conf);
    let before = daemon.status();
    let mut inside = admitted("127.0.0.1", port);
    let two = format!("Tcp(module: Echo, channels: 7, sockets: [(port: {new}), (port: {taken})])");
    daemon.conf().write("listeners/echo.ron", &two);
    let said = exits(&daemon.portreeve(&["reload"]), 1);
    assert_says(&said, &["echo", &taken.to_string(), "in use"]);
    exits(&daemon.portreeve(&["reload", "--dry-run"]), 1);
    daemon.conf().write("listeners/echo.ron", &echo_text(new));
    for (bad, words) in [
        (
            r#"(domains: [(name: "example.test", certificate: Files(chain: "good.pem", key: "portreeve.ron"))])"#,
            "portreeve.ron:1:",
        ),
        ("(workers: 0)", "portreeve.ron:1:11"),
        (r#"(network: (denied: "@missing.txt"))"#, "missing.txt"),
    ] {
        daemon.conf().write("portreeve.ron", bad);
        assert_says(&exits(&daemon.portreeve(&["reload"]), 2), &[words]);
        assert_says(&daemon.log(), &[words, "nothing has changed"]);
    }
    let after = daemon.status();
    assert_eq!(
        before["listeners"][0]["sockets"],
        after["listeners"][0]["sockets"]
    );
    assert_eq!(
        before["listeners"][0]["channels"],
        after["listeners"][0]["channels"]
    );
    assert_eq!(turned_away("127.0.0.1", new), Ending::NotListening);
    try_echo(&mut inside, b"still here").unwrap();
    admitted("127.0.0.1", port);
}

#[test]
fn a_broken_listener_file_does_not_hide_the_daemon_from_its_commands() {
    let port = free_port();
    let daemon = Daemon::start(Conf::new("").listener("echo", &echo_text(port)));
    daemon.conf().write("listeners/echo.ron", "Tcp(");
    exits(&daemon.portreeve(&["status"]), 0);
    exits(&daemon.portreeve(&["explain", "echo", "127.0.0.1"]), 0);
    assert_says(&exits(&daemon.portreeve(&["reload"]), 2), &["echo.ron:1:"]);
}

#[test]
fn sighup_reloads() {
    let (port, new) = (free_port(), free_port());
    let daemon = Daemon::start(Conf::new("").listener("echo", &echo_text(port)));
    daemon.conf().write("listeners/more.ron", &echo_text(new));
    daemon.signal(Signal::SIGHUP);
    wait_until("the new listener serves", DEADLINE, || {
        daemon.log().contains("reloaded")
    });
    admitted("127.0.0.1", new);
    daemon.conf().write("listeners/more.ron", "Tcp(");
    daemon.signal(Signal::SIGHUP);
    wait_until("the log says why not", DEADLINE, || {
        daemon.log().contains("nothing has changed")
    });
    admitted("127.0.0.1", new);
}

#[test]
fn a_port_moves_to_another_listener_and_connections_stay_with_the_one_they_came_to() {
    let (port, spare) = (free_port(), free_port());
    let conf = Conf::new("").listener("one", &echo_text(port)).listener(
        "two",
        &format!("Tcp(module: Daytime, sockets: [(port: {spare})])"),
    );
    let daemon = Daemon::start(conf);
    let mut inside = admitted("127.0.0.1", port);
    daemon.conf().write("listeners/one.ron", &echo_text(spare));
    let two = format!("Tcp(module: Daytime, sockets: [(port: {port})])");
    daemon.conf().write("listeners/two.ron", &two);
    let said = reload(&daemon);
    assert_says(&said, &["listener one: opens", "listener two: closes"]);
    admitted("127.0.0.1", spare);
    let mut newcomer = connect_from("127.0.0.1", port);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut newcomer, &mut text).unwrap();
    assert!(text.contains("UTC"), "{text:?}");
    try_echo(&mut inside, b"still echo").unwrap();
    drop(inside);
    daemon.wait_for_active("one", 0);
    assert_eq!(
        daemon.listener("one")["accepted"],
        2,
        "counts are those of before"
    );
}

#[test]
fn a_socket_of_all_addresses_and_one_of_a_single_address_take_each_others_place() {
    let port = free_port();
    let all = |kind: &str| format!("{kind}(module: Echo, sockets: [(port: {port})])");
    let one = |kind: &str| {
        format!("{kind}(module: Echo, sockets: [(port: {port}, address: \"127.0.0.1\")])")
    };
    let conf = Conf::new("")
        .listener("tcp", &all("Tcp"))
        .listener("udp", &all("Udp"));
    let daemon = Daemon::start(conf);
    let answers = |address: &str| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        socket.connect((address, port)).unwrap();
        socket.send(b"x").is_ok() && socket.recv(&mut [0; 8]).is_ok()
    };
    for _ in 0..3 {
        daemon.conf().write("listeners/tcp.ron", &one("Tcp"));
        daemon.conf().write("listeners/udp.ron", &one("Udp"));
        reload(&daemon);
        assert_eq!(turned_away("::1", port), Ending::NotListening);
        admitted("127.0.0.1", port);
        assert!(answers("127.0.0.1") && !answers("127.0.0.2"));
        daemon.conf().write("listeners/tcp.ron", &all("Tcp"));
        daemon.conf().write("listeners/udp.ron", &all("Udp"));
        reload(&daemon);
        admitted("::1", port);
        assert!(answers("127.0.0.1") && answers("127.0.0.2"));
    }
    // One that fails puts the old socket back to work.
    let taken = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let both = format!(
        "Tcp(module: Echo, sockets: [(port: {port}, address: \"127.0.0.1\"), (port: {taken})])"
    );
    daemon.conf().write("listeners/tcp.ron", &both);
    exits(&daemon.portreeve(&["reload"]), 1);
    admitted("::1", port);
    admitted("127.0.0.2", port);
}

#[test]
fn connections_outlive_their_socket_and_their_listener() {
    let (port, spare) = (free_port(), free_port());
    let conf = Conf::new("drain: \"5s\"")
        .listener("gone", &echo_text(port))
        .listener("stays", &echo_text(spare));
    let mut daemon = Daemon::start(conf);
    let mut inside = admitted("127.0.0.1", port);
    std::fs::remove_file(daemon.conf().home().join("conf/listeners/gone.ron")).unwrap();
    assert_says(&reload(&daemon), &["listener gone goes"]);
    assert_eq!(turned_away("127.0.0.1", port), Ending::NotListening);
    try_echo(&mut inside, b"still here").unwrap();
    // And back again.
    daemon.conf().write("listeners/gone.ron", &echo_text(port));
    reload(&daemon);
    admitted("127.0.0.1", port);
    try_echo(&mut inside, b"still here").unwrap();
    drop(inside);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn limits_change_in_place_and_lists_and_certificates_are_read_again() {
    let (port, secure) = (free_port(), free_port());
    let server = r#"(
        network: (denied: "@denied.txt"),
        domains: [(name: "example.test", certificate: Files(chain: "a.pem", key: "a.key"))],
        default_domain: "example.test",
    )"#;
    let text = |channels: u32| {
        format!(
            "Tcp(module: Echo, channels: {channels}, sockets: [(port: {port}), (port: {secure}, tls: On)])"
        )
    };
    let conf = Conf::new("")
        .file("portreeve.ron", server)
        .file("denied.txt", "127.0.0.66\n")
        .listener("echo", &text(1));
    let home = conf.home().join("conf");
    make_certificate(&home, "a", 90, None);
    let daemon = Daemon::start(conf);
    let shown = || {
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("openssl s_client -connect 127.0.0.1:{secure} </dev/null | openssl x509 -noout -serial"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let first = shown();
    daemon.wait_for_active("echo", 0);
    let mut inside = admitted("127.0.0.1", port);
    refused("127.0.0.2", port);
    refused("127.0.0.66", port);
    daemon.conf().write("listeners/echo.ron", &text(3));
    daemon.conf().write("denied.txt", "127.0.0.67\n");
    make_certificate(&home, "a", 90, None);
    let said = reload(&daemon);
    assert_says(
        &said,
        &[
            "channels 1 -> 3",
            "the list denied changes",
            "another certificate",
            "3 changes",
        ],
    );
    let second = shown();
    assert!(first.starts_with("serial=") && second.starts_with("serial="));
    assert_ne!(first, second);
    daemon.wait_for_active("echo", 1);
    admitted("127.0.0.66", port);
    refused("127.0.0.67", port);
    daemon.conf().write("listeners/echo.ron", &text(1));
    reload(&daemon);
    try_echo(&mut inside, b"still here").unwrap();
    refused("127.0.0.2", port);
}

#[test]
fn a_dry_run_tells_what_would_change_and_whom_it_would_refuse_and_does_nothing() {
    let (port, new) = (free_port(), free_port());
    let daemon = Daemon::start(Conf::new("").listener("echo", &echo_text(port)));
    let _denied = admitted("127.0.0.5", port);
    let (_first, _second) = (admitted("127.0.0.6", port), admitted("127.0.0.7", port));
    daemon.conf().write(
        "portreeve.ron",
        r#"(workers: 9, network: (denied: "127.0.0.5"))"#,
    );
    let text = format!("Tcp(module: Echo, channels: 1, sockets: [(port: {port}), (port: {new})])");
    daemon.conf().write("listeners/echo.ron", &text);
    let said = exits(&daemon.portreeve(&["reload", "--dry-run"]), 0);
    assert_says(
        &said,
        &[
            "the list denied changes",
            "channels 100 -> 1",
            &format!("opens tcp *:{new}"),
            "needs a restart: workers (64 -> 9)",
            "127.0.0.5 on echo: denied",
            "127.0.0.7 on echo: full",
            "2 open connections would be refused",
        ],
    );
    assert!(!said.contains("127.0.0.6"), "{said}");
    assert_eq!(turned_away("127.0.0.1", new), Ending::NotListening);
    admitted("127.0.0.5", port);
    let said = reload(&daemon);
    assert_says(&said, &["needs a restart: workers"]);
    assert_eq!(daemon.status()["workers"]["total"], 64);
    refused("127.0.0.5", port);
}

#[test]
fn udp_listeners_come_go_and_change_their_module() {
    let port = free_port();
    let text = |module: &str| format!("Udp(module: {module}, sockets: [(port: {port})])");
    let conf = Conf::new("").listener("udp", &text("Echo"));
    let daemon = Daemon::start(conf);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let ask = || {
        socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 64];
        let count = socket.recv(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    assert_eq!(ask(), "x");
    daemon.conf().write("listeners/udp.ron", &text("Daytime"));
    assert_says(&reload(&daemon), &["other settings of its module"]);
    assert!(ask().contains("UTC"));
    // To a listener of another name.
    std::fs::remove_file(daemon.conf().home().join("conf/listeners/udp.ron")).unwrap();
    daemon.conf().write("listeners/again.ron", &text("Echo"));
    reload(&daemon);
    assert_eq!(ask(), "x");
    assert_eq!(daemon.listener("again")["accepted"], 1);
}

#[test]
fn a_log_level_comes_into_force_with_its_reload() {
    let port = free_port();
    let daemon = Daemon::start(Conf::new("").listener("echo", &echo_text(port)));
    admitted("127.0.0.1", port);
    assert!(!daemon.log().contains("connected"));
    let text = format!("Tcp(module: Echo, log_level: Debug, sockets: [(port: {port})])");
    daemon.conf().write("listeners/echo.ron", &text);
    assert_says(&reload(&daemon), &["logs at DEBUG"]);
    admitted("127.0.0.2", port);
    wait_until("the newcomer is spoken of", DEADLINE, || {
        daemon.log().contains("127.0.0.2") && daemon.log().contains("connected")
    });
}

#[test]
fn a_session_is_resumed_after_a_reload() {
    let port = free_port();
    let domains = r#"domains: [(name: "example.test", certificate: SelfSigned)], default_domain: "example.test""#;
    let text = format!("Tcp(module: Daytime, sockets: [(port: {port}, tls: On)])");
    let daemon = Daemon::start(Conf::new(domains).listener("day", &text));
    let home = daemon.conf().home().to_owned();
    let client = |arguments: &str| {
        let command = format!(
            "openssl s_client -tls1_2 -connect 127.0.0.1:{port} {arguments} -ign_eof </dev/null 2>/dev/null"
        );
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(&home).arg("-c").arg(command);
        let output = crate::harness::output_of(shell, b"");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_says(&client("-sess_out session"), &["New, TLSv1.2"]);
    reload(&daemon);
    assert_says(&client("-sess_in session"), &["Reused, TLSv1.2"]);
}
