//! UDP: where answers come from, what is dropped, and sizes and bursts.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use crate::harness::{Conf, DEADLINE, Daemon, free_port, wait_until};

fn udp(server: &str, module: &str, socket: &str) -> Daemon {
    let text = format!("Udp(module: {module}, sockets: [({socket})])");
    Daemon::start(Conf::new(server).listener("udp", &text))
}

/// A client that hears only `target`, since a connected socket drops what others send.
fn client(source: &str, target: &str, port: u16) -> UdpSocket {
    let target = SocketAddr::new(target.parse().unwrap(), port);
    let socket = UdpSocket::bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(target).unwrap();
    socket
}

#[track_caller]
fn ask(socket: &UdpSocket, question: &[u8]) -> Vec<u8> {
    socket.send(question).unwrap();
    let mut answer = vec![0; 65_535];
    let length = socket
        .recv(&mut answer)
        .unwrap_or_else(|error| panic!("no answer from {:?}: {error}", socket.peer_addr()));
    answer.truncate(length);
    answer
}

#[test]
fn an_echo_leaves_from_the_address_that_was_asked() {
    let port = free_port();
    let _daemon = udp("", "Echo", &format!("port: {port}"));
    for target in ["127.0.0.1", "127.0.0.5", "127.3.2.1"] {
        assert_eq!(ask(&client("127.0.0.1", target, port), b"hello"), b"hello");
    }
    assert_eq!(ask(&client("::1", "::1", port), b"hello"), b"hello");
}

#[test]
fn sockets_of_both_families_and_kinds_do_not_disturb_each_other() {
    let (one, all) = (free_port(), free_port());
    let sockets = format!(
        "port: {one}, address: \"127.0.0.1\"), (port: {one}, address: \"::1\"), (port: {all}"
    );
    let _daemon = udp("", "Echo", &sockets);
    for _ in 0..2 {
        for (source, target, port) in [
            ("127.0.0.1", "127.0.0.1", one),
            ("::1", "::1", one),
            ("127.0.0.1", "127.0.0.5", all),
            ("127.0.0.1", "127.0.0.1", one),
            ("::1", "::1", all),
        ] {
            assert_eq!(ask(&client(source, target, port), b"hello"), b"hello");
        }
    }
}

#[test]
fn daytime_leaves_from_the_address_that_was_asked() {
    let port = free_port();
    let _daemon = udp("", "Daytime", &format!("port: {port}"));
    for target in ["127.0.0.1", "127.0.0.5"] {
        let answer = ask(&client("127.0.0.1", target, port), b"");
        let text = String::from_utf8(answer).unwrap();
        assert!(text.contains(':') && text.ends_with('\n'), "{text:?}");
    }
}

#[test]
fn a_socket_with_an_address_answers_there_and_nowhere_else() {
    let port = free_port();
    let _daemon = udp(
        "",
        "Echo",
        &format!(r#"port: {port}, address: "127.0.0.5""#),
    );
    assert_eq!(ask(&client("127.0.0.1", "127.0.0.5", port), b"x"), b"x");
    let other = client("127.0.0.1", "127.0.0.6", port);
    other.send(b"x").unwrap();
    let error = other.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// Sends, waits until the drop is counted, and asserts that nothing came back.
#[track_caller]
fn assert_dropped(daemon: &Daemon, source: &str, port: u16, reason: &str) {
    let before = daemon.rejected("udp", reason);
    let socket = client(source, "127.0.0.1", port);
    socket.send(b"x").unwrap();
    wait_until(&format!("counted as {reason}"), DEADLINE, || {
        daemon.rejected("udp", reason) == before + 1
    });
    // Whatever this one was owed would have left before the answer to a later question.
    assert_eq!(ask(&client("127.0.0.1", "127.0.0.1", port), b"y"), b"y");
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::WouldBlock,
        "an answer or an error came"
    );
}

#[test]
fn a_denied_datagram_is_dropped_in_silence_and_counted() {
    let port = free_port();
    let daemon = udp(
        r#"network: (denied: "127.0.0.66")"#,
        "Echo",
        &format!("port: {port}"),
    );
    assert_dropped(&daemon, "127.0.0.66", port, "denied");
}

#[test]
fn a_restricted_datagram_is_dropped_in_silence_and_counted() {
    let port = free_port();
    let daemon = udp(
        "",
        "Echo",
        &format!(r#"port: {port}, restriction: Deny("127.0.0.66")"#),
    );
    assert_dropped(&daemon, "127.0.0.66", port, "restricted");
}

#[test]
fn sixty_thousand_bytes_come_back_whole() {
    let port = free_port();
    let _daemon = udp("", "Echo", &format!("port: {port}"));
    let question = (0..60_000_u32)
        .map(|number| u8::try_from(number % 251).unwrap())
        .collect::<Vec<_>>();
    let answer = ask(&client("127.0.0.1", "127.0.0.1", port), &question);
    assert!(answer == question, "{} bytes came back", answer.len());
}

#[test]
fn an_empty_datagram_is_echoed_empty() {
    let port = free_port();
    let _daemon = udp("", "Echo", &format!("port: {port}"));
    assert_eq!(ask(&client("127.0.0.1", "127.0.0.1", port), b""), b"");
}

#[test]
fn discard_takes_everything_and_says_nothing() {
    let port = free_port();
    let echo = free_port();
    let conf = Conf::new("")
        .listener(
            "udp",
            &format!("Udp(module: Discard, sockets: [(port: {port})])"),
        )
        .listener(
            "echo",
            &format!("Udp(module: Echo, sockets: [(port: {echo})])"),
        );
    let _daemon = Daemon::start(conf);
    let socket = client("127.0.0.1", "127.0.0.1", port);
    socket.send(b"x").unwrap();
    assert_eq!(ask(&client("127.0.0.1", "127.0.0.1", echo), b"y"), b"y");
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_thousand_datagrams_in_bursts_are_all_answered() {
    // A burst stays within the default receive buffer (208 KiB, some 250 small datagrams), so that
    // a lost one is the daemon's loss and not the kernel's.
    const BURST: u32 = 100;
    let port = free_port();
    let _daemon = udp("workers: 4,", "Echo", &format!("port: {port}"));
    let socket = client("127.0.0.1", "127.0.0.5", port);
    for burst in 0..10 {
        let numbers = burst * BURST..(burst + 1) * BURST;
        let mut missing = numbers.clone().collect::<HashSet<_>>();
        for number in numbers {
            socket.send(&number.to_be_bytes()).unwrap();
        }
        while !missing.is_empty() {
            let mut answer = [0; 4];
            if let Err(error) = socket.recv(&mut answer) {
                panic!("{} answers are missing: {error}", missing.len());
            }
            let number = u32::from_be_bytes(answer);
            assert!(missing.remove(&number), "{number} came twice or unasked");
        }
    }
}

#[test]
fn datagrams_of_many_sizes_in_one_burst_keep_their_edges() {
    let port = free_port();
    let _daemon = udp("", "Echo", &format!("port: {port}"));
    let socket = client("127.0.0.1", "127.0.0.1", port);
    let sizes = [1, 0, 1400, 9000, 7, 65_507, 2, 512];
    for size in sizes {
        socket.send(&vec![b'x'; size]).unwrap();
    }
    let mut got = sizes
        .map(|_| socket.recv(&mut vec![0; 65_535]).unwrap())
        .to_vec();
    let mut expected = sizes.to_vec();
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[test]
fn sockets_of_both_families_with_and_without_an_address_disturb_each_other_in_nothing() {
    let (one, six, all) = (free_port(), free_port(), free_port());
    let sockets = format!(
        "port: {one}, address: \"127.0.0.1\"), (port: {six}, address: \"::1\"), (port: {all}"
    );
    let _daemon = udp("", "Echo", &sockets);
    for _ in 0..2 {
        assert_eq!(ask(&client("127.0.0.1", "127.0.0.1", one), b"a"), b"a");
        assert_eq!(ask(&client("127.0.0.1", "127.0.0.7", all), b"b"), b"b");
        assert_eq!(ask(&client("::1", "::1", six), b"c"), b"c");
        assert_eq!(ask(&client("::1", "::1", all), b"d"), b"d");
    }
}

#[test]
fn an_address_that_sends_too_much_is_dropped_and_others_are_not() {
    let port = free_port();
    let text = format!(
        r#"Udp(module: Echo, rate_per_address: (packets: 1, per: "1h", burst: 5),
            rate_per_client: (packets: 1, per: "1h", burst: 8), sockets: [(port: {port})])"#
    );
    let server = r#"network: (clients: "127.0.0.1")"#;
    let daemon = Daemon::start(Conf::new(server).listener("udp", &text));
    for (source, burst, dropped) in [("127.0.0.66", 5, 15), ("127.0.0.1", 8, 27)] {
        let socket = client(source, "127.0.0.1", port);
        for number in 0..20_u8 {
            socket.send(&[number]).unwrap();
        }
        for number in 0..burst {
            let mut answer = [0; 16];
            assert_eq!(socket.recv(&mut answer).unwrap(), 1);
            assert_eq!(answer[0], number);
        }
        wait_until("the rest is counted", DEADLINE, || {
            daemon.rejected("udp", "rate") == dropped
        });
        socket.set_nonblocking(true).unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    assert!(
        daemon
            .log()
            .lines()
            .filter(|line| line.contains("rate"))
            .count()
            <= 4
    );
}
