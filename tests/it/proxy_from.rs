//! PROXY headers: the address in them is the one that counts, and nobody else may send one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::foreign::Foreign;
use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, admitted, connect_from, echoes, ending_of, free_port,
    wait_until,
};

/// Echo for proxies at 127.0.51.0/24.
fn behind_proxies(port: u16, server: &str, keys: &str, row: &str) -> Daemon {
    let text = format!(
        "Tcp(module: Echo, {keys} sockets: [(port: {port}, proxy_from: \"127.0.51.0/24\", {row})])"
    );
    Daemon::start(Conf::new(&format!("workers: 2,{server}")).listener("echo", &text))
}

fn with_header(header: &[u8], port: u16) -> TcpStream {
    let mut stream = connect_from("127.0.51.1", port);
    stream.write_all(header).unwrap();
    stream
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.25 4000 25\r\n").into_bytes()
}

#[test]
fn the_address_in_the_header_climbs_the_ladder() {
    let port = free_port();
    let daemon = behind_proxies(
        port,
        "network: (clients: \"192.0.2.1\", denied: \"192.0.2.2\n127.0.51.1\"),",
        "limit_per_address: 2, limit_non_clients: 1,",
        "restriction: Deny(\"192.0.2.3\")",
    );
    let mut client = [
        with_header(&v1("192.0.2.1"), port),
        with_header(&v1("192.0.2.1"), port),
    ];
    client
        .iter_mut()
        .for_each(|stream| echoes(stream, b"a client, though its proxy is denied"));
    let mut other = with_header(&v1("192.0.2.9"), port);
    echoes(&mut other, b"another");
    for (source, reason) in [
        ("192.0.2.2", "denied"),
        ("192.0.2.3", "restricted"),
        ("192.0.2.1", "address_limit"),
        ("192.0.2.9", "address_limit"),
    ] {
        let before = daemon.rejected("echo", reason);
        assert_eq!(
            ending_of(&mut with_header(&v1(source), port)),
            Ending::Reset,
            "{source}"
        );
        assert_eq!(daemon.rejected("echo", reason), before + 1, "{source}");
    }
    drop(other);
    daemon.wait_for_active("echo", 2);
    // LOCAL keeps the sender's address, which is denied.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(ending_of(&mut with_header(local, port)), Ending::Reset);
    assert_eq!(daemon.rejected("echo", "denied"), 2);
    assert!(
        daemon.log().contains("refused 192.0.2.2: denied"),
        "the log names the real address"
    );
}

#[test]
fn bytes_behind_the_header_belong_to_the_client_and_a_header_may_come_in_pieces() {
    let port = free_port();
    let _daemon = behind_proxies(port, "", "", "");
    let mut stream = with_header(&[&v1("192.0.2.1"), &b"early"[..]].concat(), port);
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"early");
    let mut stream = connect_from("127.0.51.2", port);
    stream.set_nodelay(true).unwrap();
    for byte in v1("192.0.2.1") {
        stream.write_all(&[byte]).unwrap();
    }
    echoes(&mut stream, b"in pieces");
    // From elsewhere a header is nothing but text.
    let mut stranger = connect_from("127.0.52.1", port);
    echoes(&mut stranger, &v1("192.0.2.1"));
}

#[test]
fn no_bad_header_reaches_the_module() {
    let port = free_port();
    let daemon = behind_proxies(port, "", "", "");
    let table = std::fs::read_to_string("tests/data/proxy_headers/bad.txt").unwrap();
    let mut count = 0.0;
    for line in table.lines() {
        let (header, _) = line.rsplit_once(" => ").unwrap();
        let mut stream = with_header(&unescape(header), port);
        // Some are bad only because nothing follows.
        let _ = stream.shutdown(Shutdown::Write);
        assert_eq!(ending_of(&mut stream), Ending::Reset, "{line}");
        count += 1.0;
    }
    let bad = daemon.metric("portreeve_proxy_headers_bad_total{listener=\"echo\"}");
    assert_eq!(
        (bad, daemon.listener("echo")["accepted"].as_u64()),
        (count, Some(0))
    );
    let lines = daemon.log().matches("its connection is closed").count();
    assert!(
        (1..30).contains(&lines),
        "{lines} lines: a flood must not fill the log"
    );
}

/// `\r`, `\n`, `\xNN`, `{V2}` and `{NN*count}` as the unit tests of the parser read them.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("{V2}", "\\r\\n\\r\\n\\x00\\r\\nQUIT\\n");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    while let [first, others @ ..] = rest {
        let taken = match (first, others) {
            (b'\\', [b'r', ..]) => (b'\r', 1, 2),
            (b'\\', [b'n', ..]) => (b'\n', 1, 2),
            (b'\\', [b'x', digits @ ..]) => (hex(&digits[..2]), 1, 4),
            (b'{', _) => {
                let end = rest.iter().position(|byte| *byte == b'}').unwrap();
                let count = std::str::from_utf8(&rest[4..end]).unwrap().parse().unwrap();
                (hex(&rest[1..3]), count, end + 1)
            }
            _ => (*first, 1, 1),
        };
        bytes.resize(bytes.len() + taken.1, taken.0);
        rest = &rest[taken.2..];
    }
    bytes
}

#[test]
fn headers_that_do_not_come_hold_no_worker_and_no_slot_and_end_in_time() {
    let port = free_port();
    let keys = "channels: 10, handshake_timeout: \"2s\",";
    let daemon = behind_proxies(port, "", keys, "");
    let mut silent: Vec<TcpStream> = (0..200)
        .map(|_| with_header(b"PROXY TCP4 ", port))
        .collect();
    admitted("127.0.52.2", port);
    assert_eq!(daemon.status()["workers"]["busy"], 0);
    for stream in &mut silent {
        assert_eq!(ending_of(stream), Ending::Reset);
    }
    daemon.wait_for_active("echo", 0);
}

#[test]
fn haproxy_in_front_tells_who_connected() {
    let (front, port) = (free_port(), free_port());
    let text = format!(
        "Tcp(module: Echo, limit_per_address: 1, sockets: [(port: {port}, proxy_from: \"127.0.0.1\")])"
    );
    let daemon = Daemon::start(Conf::new("").listener("echo", &text));
    let _haproxy = Foreign::haproxy(
        &format!(
            "listen front\n bind 127.0.0.1:{front}\n server ours 127.0.0.1:{port} send-proxy-v2"
        ),
        front,
    );
    wait_until("the look at the port has ended", DEADLINE, || {
        daemon.active("echo") == 0
    });
    let mut first = admitted("127.0.53.1", front);
    let mut second = admitted("127.0.53.2", front);
    assert_eq!(
        ending_of(&mut connect_from("127.0.53.1", front)),
        Ending::EndOfFile
    );
    assert_eq!(daemon.rejected("echo", "address_limit"), 1);
    echoes(&mut first, b"still");
    echoes(&mut second, b"here");
}
