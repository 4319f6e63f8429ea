//! The RFC 862, 863 and 867 services over TCP.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::harness::{Conf, Daemon, Ending, connect_from, ending_of, free_port};

fn tcp(module: &str, port: u16) -> Daemon {
    let text = format!("Tcp(module: {module}, sockets: [(port: {port})])");
    Daemon::start(Conf::new("workers: 4,").listener("tcp", &text))
}

#[test]
fn echo_returns_four_megabytes_whole_and_in_order() {
    let port = free_port();
    let _daemon = tcp("Echo", port);
    let sent = (0..4_000_000_u32)
        .map(|number| u8::try_from(number % 251).unwrap())
        .collect::<Vec<_>>();
    let mut stream = connect_from("127.0.0.1", port);
    let mut writer = stream.try_clone().unwrap();
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut got).unwrap();
    });
    assert!(got == sent, "{} bytes came back", got.len());
}

#[test]
fn echo_answers_what_came_together_with_the_end_of_file() {
    let port = free_port();
    let _daemon = tcp("Echo", port);
    for _ in 0..200 {
        let mut stream = connect_from("127.0.0.1", port);
        stream.write_all(b"last words").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        assert_eq!(got, "last words");
    }
}

#[test]
fn discard_takes_everything_and_says_nothing() {
    let port = free_port();
    let _daemon = tcp("Discard", port);
    let mut stream = connect_from("127.0.0.1", port);
    stream.write_all(&vec![b'x'; 4_000_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending_of(&mut stream), Ending::EndOfFile);
}

#[test]
fn daytime_says_the_time_and_closes() {
    let port = free_port();
    let _daemon = tcp("Daytime", port);
    let mut text = String::new();
    connect_from("127.0.0.1", port)
        .read_to_string(&mut text)
        .unwrap();
    assert!(text.contains(':') && text.ends_with('\n'), "{text:?}");
}

#[test]
fn daytime_says_the_time_to_one_who_has_already_spoken() {
    let port = free_port();
    let _daemon = tcp("Daytime", port);
    for _ in 0..50 {
        let mut stream = connect_from("127.0.0.1", port);
        // Bytes left unread at close would turn the end into a reset that eats the answer.
        stream.write_all(b"what time is it?\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n'), "{text:?}");
    }
}
