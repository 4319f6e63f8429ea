//! Flows of datagrams between real clients and servers.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use crate::foreign::Foreign;
use crate::harness::{Conf, DEADLINE, Daemon, exits, free_port, output_of, wait_until};

const FLOWS: &str = "portreeve_exchanges_active{listener=\"fw\"}";

fn conf(port: u16, keys: &str) -> Conf {
    let text = format!("Udp(module: Forward({keys}), sockets: [(port: {port})])");
    Conf::new("").listener("fw", &text)
}

fn upstreams(ports: &[u16]) -> String {
    let places = ports.iter().map(|port| format!("\"127.0.0.1:{port}\""));
    format!("upstreams: [{}]", places.collect::<Vec<_>>().join(", "))
}

/// A server that the test plays itself.
fn upstream() -> (UdpSocket, u16) {
    let port = free_port();
    let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    (socket, port)
}

/// A client that hears only `target`.
fn client(target: &str, port: u16) -> UdpSocket {
    let target = SocketAddr::new(target.parse().unwrap(), port);
    let any = if target.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(target).unwrap();
    socket
}

/// The next datagram and its sender.
#[track_caller]
fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_535];
    let (count, from) = socket.recv_from(&mut bytes).expect("a datagram in time");
    bytes.truncate(count);
    (bytes, from)
}

/// Sends a question through and lets the upstream answer it: the port of the flow.
#[track_caller]
fn talk(client: &UdpSocket, upstream: &UdpSocket, text: &[u8]) -> u16 {
    client.send(text).unwrap();
    let (question, from) = hear(upstream);
    assert_eq!(question, text);
    upstream.send_to(b"answer", from).unwrap();
    assert_eq!(hear(client).0, b"answer");
    from.port()
}

/// What dig is told, at its first attempt. It believes only the address that it asked.
#[track_caller]
fn dig(server: &str, port: u16) -> String {
    let mut command = Command::new("dig");
    command
        .arg(format!("@{server}"))
        .args(["-p", &port.to_string()]);
    command.args(["name.test", "A", "+short", "+tries=1", "+time=5"]);
    exits(&output_of(command, b""), 0).trim().to_owned()
}

#[test]
fn dig_is_answered_by_dnsmasq_from_the_address_that_it_asked() {
    let (port, dns) = (free_port(), free_port());
    let _dnsmasq = Foreign::dnsmasq(dns, "192.0.2.7");
    let _daemon = Daemon::start(conf(port, &upstreams(&[dns])));
    for server in ["127.0.0.1", "127.0.0.5", "::1"] {
        assert_eq!(dig(server, port), "192.0.2.7", "asked at {server}");
    }
}

#[test]
fn a_name_is_resolved_without_losing_the_question() {
    let (port, dns) = (free_port(), free_port());
    let _dnsmasq = Foreign::dnsmasq(dns, "192.0.2.7");
    let _daemon = Daemon::start(conf(port, &format!("upstreams: [\"localhost:{dns}\"]")));
    assert_eq!(dig("127.0.0.1", port), "192.0.2.7");
}

#[test]
fn flows_are_shared_out_among_upstreams() {
    let (port, one, two) = (free_port(), free_port(), free_port());
    let _one = Foreign::dnsmasq(one, "192.0.2.1");
    let _two = Foreign::dnsmasq(two, "192.0.2.2");
    let _daemon = Daemon::start(conf(port, &upstreams(&[one, two])));
    let answers: Vec<_> = (0..6).map(|_| dig("127.0.0.1", port)).collect();
    for server in ["192.0.2.1", "192.0.2.2"] {
        let count = answers.iter().filter(|answer| *answer == server).count();
        assert_eq!(count, 3, "{answers:?}");
    }
}

#[test]
fn a_dead_upstream_costs_no_question() {
    let (port, dead, dns) = (free_port(), free_port(), free_port());
    let _dnsmasq = Foreign::dnsmasq(dns, "192.0.2.7");
    let daemon = Daemon::start(conf(port, &upstreams(&[dead, dns])));
    for _ in 0..6 {
        assert_eq!(dig("127.0.0.1", port), "192.0.2.7");
    }
    let said = format!("upstream 127.0.0.1:{dead} does not answer");
    assert_eq!(daemon.log().matches(&said).count(), 1, "{}", daemon.log());
}

#[test]
fn an_upstream_that_comes_back_is_asked_again() {
    let (port, dns) = (free_port(), free_port());
    let daemon = Daemon::start(conf(port, &upstreams(&[dns])));
    let client = client("127.0.0.1", port);
    client.send(b"nobody hears").unwrap();
    wait_until("the upstream's refusal is seen", DEADLINE, || {
        daemon.log().contains("does not answer")
    });
    let upstream = UdpSocket::bind(("127.0.0.1", dns)).unwrap();
    upstream.set_read_timeout(Some(DEADLINE)).unwrap();
    talk(&client, &upstream, b"somebody does");
    wait_until("the log says so", DEADLINE, || {
        daemon.log().contains("answers again")
    });
}

#[test]
fn only_the_upstream_that_was_asked_may_answer() {
    let (port, (server, asked)) = (free_port(), upstream());
    let _daemon = Daemon::start(conf(port, &upstreams(&[asked])));
    let client = client("127.0.0.1", port);
    client.send(b"question").unwrap();
    let (_, flow) = hear(&server);
    let target = SocketAddr::new("127.0.0.1".parse().unwrap(), flow.port());
    for source in ["127.0.0.1:0", "127.0.0.9:0", &format!("127.0.0.9:{asked}")] {
        let forger = UdpSocket::bind(source).unwrap();
        forger.send_to(b"forged", target).unwrap();
    }
    server.send_to(b"answer", flow).unwrap();
    assert_eq!(hear(&client).0, b"answer");
    server.send_to(b"another", flow).unwrap();
    assert_eq!(
        hear(&client).0,
        b"another",
        "several answers are several answers"
    );
}

#[test]
fn two_ports_of_one_address_are_two_flows_and_each_keeps_its_own() {
    let (port, (server, asked)) = (free_port(), upstream());
    let daemon = Daemon::start(conf(port, &upstreams(&[asked])));
    let clients = [client("127.0.0.1", port), client("127.0.0.1", port)];
    let first = clients.each_ref().map(|client| talk(client, &server, b"a"));
    assert_ne!(first[0], first[1]);
    let again = clients.each_ref().map(|client| talk(client, &server, b"b"));
    assert_eq!(first, again);
    assert!((daemon.metric(FLOWS) - 2.0).abs() < 0.1);
}

#[test]
fn a_silent_flow_ends_and_its_client_gets_another() {
    let (port, (server, asked)) = (free_port(), upstream());
    let keys = format!("{}, idle: \"500ms\"", upstreams(&[asked]));
    let daemon = Daemon::start(conf(port, &keys));
    let client = client("127.0.0.1", port);
    talk(&client, &server, b"a");
    wait_until("the flow has ended", DEADLINE, || {
        daemon.metric(FLOWS) < 0.5
    });
    talk(&client, &server, b"b");
}

#[test]
fn a_flood_of_newcomers_ends_no_flow_that_was_answered_and_spoke_again() {
    let (port, (server, asked)) = (free_port(), upstream());
    // An eighth of these may be exchanges, and four fifths of those flows: 32 and 26.
    let daemon = Daemon::start_with_descriptors(conf(port, &upstreams(&[asked])), 256);
    let clients: Vec<_> = (0..12).map(|_| client("127.0.0.1", port)).collect();
    let ports: Vec<_> = clients
        .iter()
        .map(|client| talk(client, &server, b"a"))
        .collect();
    for client in &clients {
        talk(client, &server, b"b");
    }
    for _ in 0..300 {
        let newcomer = client("127.0.0.1", port);
        newcomer.send(b"flood").unwrap();
        // Each of them has its turn, though the table is full.
        assert_eq!(hear(&server).0, b"flood");
    }
    assert!(daemon.metric(FLOWS) <= 32.0);
    let again: Vec<_> = clients
        .iter()
        .map(|client| talk(client, &server, b"c"))
        .collect();
    assert_eq!(ports, again);
    talk(&client("127.0.0.1", port), &server, b"newcomer");
    assert!(daemon.metric(FLOWS) <= 32.0);
}

#[test]
fn datagrams_of_all_sizes_keep_their_edges_both_ways() {
    let (port, (server, asked)) = (free_port(), upstream());
    let _daemon = Daemon::start(conf(port, &upstreams(&[asked])));
    let client = client("::1", port);
    for size in [0, 1, 1500, 1501, 9000, 65_507] {
        let text = vec![b'x'; size];
        client.send(&text).unwrap();
        let (question, flow) = hear(&server);
        assert_eq!(question.len(), size);
        server.send_to(&text, flow).unwrap();
        assert_eq!(hear(&client).0.len(), size);
    }
}

#[test]
fn a_burst_in_one_flow_arrives_whole_and_from_one_port() {
    let (port, (server, asked)) = (free_port(), upstream());
    let _daemon = Daemon::start(conf(port, &upstreams(&[asked])));
    let client = client("127.0.0.1", port);
    for number in 0..50_u8 {
        client.send(&[number]).unwrap();
    }
    let mut heard: Vec<_> = (0..50).map(|_| hear(&server)).collect();
    heard.sort_unstable();
    let numbers: Vec<_> = heard.iter().map(|(bytes, _)| bytes[0]).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    assert!(
        heard.iter().all(|(_, from)| from == &heard[0].1),
        "one flow"
    );
}

#[test]
fn nothing_is_sent_back_to_ports_that_answer_anything() {
    let (port, (server, asked)) = (free_port(), upstream());
    let _daemon = Daemon::start(conf(port, &upstreams(&[asked])));
    // Needs root to bind; elsewhere the unit test stands for it.
    if let Ok(chargen) = UdpSocket::bind("127.0.0.77:19") {
        chargen.send_to(b"loop", ("127.0.0.1", port)).unwrap();
    }
    talk(&client("127.0.0.1", port), &server, b"question");
    server.set_nonblocking(true).unwrap();
    let error = server.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}
