//! Connections that come and go quickly or rudely give their slots back exactly once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::harness::{
    Conf, Daemon, Ending, admitted, connect_from, ending_of, free_port, refused, try_connect,
    try_echo,
};

const ROUNDS: usize = 10_000;

fn one_a_time(port: u16) -> Daemon {
    let text = format!("Tcp(module: Echo, limit_per_address: 1, sockets: [(port: {port})])");
    Daemon::start(Conf::new("workers: 4,").listener("echo", &text))
}

fn assert_never_refused(daemon: &Daemon) {
    daemon.wait_for_active("echo", 0);
    let listener = daemon.listener("echo");
    assert_eq!(listener["accepted"], ROUNDS);
    assert_eq!(daemon.rejected("echo", "address_limit"), 0);
}

#[test]
fn an_address_that_waits_for_our_close_is_never_over_its_limit_of_one() {
    let port = free_port();
    let daemon = one_a_time(port);
    for round in 0..ROUNDS {
        let mut stream = connect_from("127.0.11.1", port);
        if let Err(error) = try_echo(&mut stream, b"x") {
            panic!("refused in round {round}: {error}");
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            ending_of(&mut stream),
            Ending::EndOfFile,
            "in round {round}"
        );
    }
    assert_never_refused(&daemon);
}

#[test]
fn an_address_that_closes_first_and_comes_back_at_once_is_never_over_its_limit_of_one() {
    let port = free_port();
    let daemon = one_a_time(port);
    for round in 0..ROUNDS {
        let mut stream = connect_from("127.0.12.1", port);
        if let Err(error) = try_echo(&mut stream, b"x") {
            panic!("refused in round {round}: {error}");
        }
    }
    assert_never_refused(&daemon);
}

/// Closes with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// What a peer does before it resets; the bytes are more than any buffer on the way takes at once.
type Act = fn(&mut TcpStream, &[u8]);

#[test]
fn a_peer_that_resets_at_any_moment_leaves_no_connection_behind() {
    const CHANNELS: u8 = 60;
    let port = free_port();
    let text = format!("Tcp(module: Echo, channels: {CHANNELS}, sockets: [(port: {port})])");
    let daemon = Daemon::start(Conf::new("workers: 4,").listener("echo", &text));
    let large = vec![b'x'; 1 << 20];
    let moments: [(&str, Act); 7] = [
        ("after connecting", |_, _| ()),
        ("after one byte", |stream, _| {
            stream.write_all(b"x").unwrap();
        }),
        ("after an echo", |stream, _| {
            try_echo(stream, b"hello").unwrap();
        }),
        ("after an echo, with another on its way", |stream, _| {
            try_echo(stream, b"hello").unwrap();
            stream.write_all(b"again").unwrap();
        }),
        (
            "in the middle of what it sends, reading none",
            |stream, large| {
                stream
                    .set_write_timeout(Some(Duration::from_millis(50)))
                    .unwrap();
                let _ = stream.write_all(large);
            },
        ),
        ("in the middle of an echo", |stream, large| {
            stream.write_all(&large[..100_000]).unwrap();
            stream.read_exact(&mut [0; 1000]).unwrap();
        }),
        ("after its end of file", |stream, _| {
            stream.write_all(b"bye").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }),
    ];
    for (moment, act) in moments {
        for _ in 0..40 {
            let mut stream = connect_from("127.0.13.1", port);
            act(&mut stream, &large);
            reset(stream);
        }
        daemon.wait_for_active("echo", 0);
        println!("reset {moment}: none left");
    }
    let held = (0..CHANNELS)
        .map(|_| admitted("127.0.13.2", port))
        .collect::<Vec<_>>();
    assert_eq!(daemon.active("echo"), u64::from(CHANNELS));
    refused("127.0.13.2", port);
    drop(held);
    daemon.wait_for_active("echo", 0);
}

#[test]
fn many_addresses_at_once_leave_every_count_at_zero() {
    let port = free_port();
    let text = format!(
        "Tcp(module: Echo, channels: 10, reserve_for_clients: 2, limit_per_address: 2, sockets: [(port: {port})])"
    );
    let conf = Conf::new(r#"workers: 4, network: (clients: "127.0.1.0/24")"#);
    let daemon = Daemon::start(conf.listener("echo", &text));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..200 {
                    let source = format!("127.0.{}.{}", 1 + thread % 2, 1 + round % 4);
                    // Some are refused, which is fine; what counts is what is left.
                    let Ok(mut stream) = try_connect(&source, port) else {
                        continue;
                    };
                    let _ = stream.write_all(b"x");
                    if round % 3 == 0 {
                        reset(stream);
                    } else {
                        let _ = stream.read(&mut [0]);
                    }
                }
            });
        }
    });
    daemon.wait_for_active("echo", 0);
    let _clients = [1, 2, 3, 4, 5].map(|host| {
        let source = format!("127.0.1.{host}");
        [admitted(&source, port), admitted(&source, port)]
    });
    assert_eq!(daemon.active("echo"), 10);
}
