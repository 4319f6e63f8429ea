//! Relays to servers that others wrote, and to another daemon of ours.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use socket2::SockRef;

use crate::foreign::Foreign;
use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, admitted, assert_says, connect_from, echoes, ending_of, exits,
    free_port, output_of, pause, raise_descriptors, try_echo, wait_until,
};

/// A daemon that relays, on a clear and on a secured port.
struct Relay {
    daemon: Daemon,
    clear: u16,
    secured: u16,
}

fn relay(keys: &str, listener: &str) -> Relay {
    let (clear, secured) = (free_port(), free_port());
    let text = format!(
        "Tcp(module: Proxy({keys}), {listener} sockets: [(port: {clear}), (port: {secured}, tls: On)])"
    );
    let conf = Conf::new(
        "workers: 4, domains: [(name: \"a.test\", certificate: SelfSigned)], default_domain: \"a.test\",",
    );
    let daemon = Daemon::start(conf.listener("relay", &text));
    Relay {
        daemon,
        clear,
        secured,
    }
}

/// Another daemon that echoes.
fn echo(port: u16) -> Daemon {
    let text = format!("Tcp(module: Echo, channels: 20000, sockets: [(port: {port})])");
    Daemon::start(Conf::new("workers: 2,").listener("echo", &text))
}

fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "8"]).args(arguments);
    exits(&output_of(command, b""), 0)
}

#[test]
fn nginx_behind_us_sees_who_connected() {
    for (version, number) in [("V1", 1), ("V2", 2)] {
        let port = free_port();
        let direct = free_port();
        let http = format!(
            "server {{ listen 127.0.0.1:{port} proxy_protocol; listen 127.0.0.1:{direct};
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_server_port $host\\n\"; }} }}"
        );
        let _nginx = Foreign::nginx(&http, direct);
        let keys = format!("upstreams: [\"localhost:{port}\"], send_proxy: {version}");
        let relay = relay(&keys, "");
        let clear = format!("http://127.0.0.1:{}/", relay.clear);
        let said = curl(&["--interface", "127.0.71.9", &clear]);
        assert_eq!(
            said,
            format!("127.0.71.9 {} 127.0.0.1\n", relay.clear),
            "version {number}"
        );
        let secured = format!("https://a.test:{}/", relay.secured);
        let resolve = format!("a.test:{}:127.0.0.1", relay.secured);
        let said = curl(&[
            "-k",
            "--resolve",
            &resolve,
            "--interface",
            "127.0.71.8",
            &secured,
        ]);
        assert_eq!(
            said,
            format!("127.0.71.8 {} a.test\n", relay.secured),
            "version {number}"
        );
    }
}

#[test]
fn a_server_name_goes_out_with_the_header() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let relay = relay(&format!("upstreams: [\"{address}\"], send_proxy: V2"), "");
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-servername",
            "mail.a.test",
            "-connect",
        ])
        .arg(format!("127.0.0.1:{}", relay.secured))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (mut stream, _) = upstream.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut header = [0; 16 + 12 + 3 + 11];
    stream.read_exact(&mut header).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1a");
    assert_eq!(&header[28..], b"\x02\0\x0bmail.a.test");
}

#[test]
fn a_unix_socket_is_an_upstream() {
    let (_socat, path) = Foreign::echo_on_a_unix_socket();
    let relay = relay(&format!("upstreams: [\"unix:{}\"]", path.display()), "");
    let mut stream = admitted("127.0.72.1", relay.clear);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending_of(&mut stream), Ending::EndOfFile);
    relay.daemon.wait_for_active("relay", 0);
}

#[test]
fn each_side_may_finish_first() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let relay = relay(&format!("upstreams: [\"{address}\"]"), "");
    let pair = || {
        let client = connect_from("127.0.73.1", relay.clear);
        let (server, _) = upstream.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        (client, server)
    };
    for turn in 0..2 {
        let (client, server) = pair();
        let (mut first, mut last) = if turn == 0 {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"all I have").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        last.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "all I have");
        last.write_all(b"thanks").unwrap();
        drop(last);
        let mut heard = String::new();
        first.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "thanks");
    }
    // A side that breaks is no side that finished.
    for turn in 0..2 {
        let (client, server) = pair();
        let (mut broken, mut other) = if turn == 0 {
            (client, server)
        } else {
            (server, client)
        };
        broken.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
        SockRef::from(&broken)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(broken);
        assert_eq!(ending_of(&mut other), Ending::Reset);
    }
    relay.daemon.wait_for_active("relay", 0);
}

#[test]
fn the_next_upstream_is_taken_and_where_there_is_none_the_client_is_reset() {
    let (dead, port) = (free_port(), free_port());
    let relay = relay(
        &format!(
            "upstreams: [\"127.0.0.1:{dead}\", \"unix:/nowhere/at/all\", \"127.0.0.1:{port}\"]"
        ),
        "",
    );
    assert_eq!(
        ending_of(&mut connect_from("127.0.74.1", relay.clear)),
        Ending::Reset
    );
    let upstream = echo(port);
    for _ in 0..20 {
        admitted("127.0.74.1", relay.clear);
    }
    upstream.wait_for_active("echo", 0);
    let log = relay.daemon.log();
    let count = log.matches("does not answer").count();
    assert!(
        (2..10).contains(&count),
        "told once for each pause, not for each connection:\n{log}"
    );
    assert_says(&log, &[&format!("upstream 127.0.0.1:{port} answers again")]);
}

#[test]
fn an_answer_that_comes_before_the_question_is_over_reaches_the_client() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let relay = relay(&format!("upstreams: [\"{address}\"]"), "");
    for _ in 0..20 {
        let mut client = connect_from("127.0.74.2", relay.clear);
        let (mut server, _) = upstream.accept().unwrap();
        let mut upload = client.try_clone().unwrap();
        let uploading = std::thread::spawn(move || {
            let block = [b'x'; 65_536];
            while upload.write_all(&block).is_ok() {}
        });
        server.read_exact(&mut [0; 1000]).unwrap();
        let answer = b"413 that is too long\r\n".repeat(1000);
        server.write_all(&answer).unwrap();
        // With bytes unread this is a reset.
        drop(server);
        let mut heard = vec![0; answer.len()];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, answer);
        drop(client);
        uploading.join().unwrap();
    }
    relay.daemon.wait_for_active("relay", 0);
}

/// `length` bytes that differ from place to place.
fn pattern(length: usize, at: usize) -> Vec<u8> {
    let byte = |index: usize| u8::try_from((((at + index) * 2_654_435_761) >> 16) & 0xff).unwrap();
    (0..length).map(byte).collect()
}

#[test]
fn a_gibibyte_comes_back_as_it_was() {
    const BLOCK: usize = 1 << 20;
    const BLOCKS: usize = 1024;
    let port = free_port();
    let _upstream = echo(port);
    let relay = relay(&format!("upstreams: [\"127.0.0.1:{port}\"]"), "");
    let mut stream = connect_from("127.0.75.1", relay.clear);
    let mut writer = stream.try_clone().unwrap();
    let sent: Vec<u8> = pattern(BLOCK, 0);
    let block = sent.clone();
    let writing = std::thread::spawn(move || {
        for number in 0..BLOCKS {
            // Rotated, so that a block lost or doubled is seen.
            writer.write_all(&block[number..]).unwrap();
            writer.write_all(&block[..number]).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = vec![0; BLOCK];
    for number in 0..BLOCKS {
        stream.read_exact(&mut got).unwrap();
        let same =
            got[..BLOCK - number] == sent[number..] && got[BLOCK - number..] == sent[..number];
        assert!(same, "block {number} is another");
    }
    assert_eq!(ending_of(&mut stream), Ending::EndOfFile);
    writing.join().unwrap();
}

#[test]
fn an_upstream_that_stops_takes_nobody_elses_relay_with_it() {
    let (a, b) = (free_port(), free_port());
    let (first, second) = (echo(a), echo(b));
    let relay = relay(
        &format!("upstreams: [\"127.0.0.1:{a}\", \"127.0.0.1:{b}\"]"),
        "channels: 300,",
    );
    let mut streams: Vec<TcpStream> = (0..100)
        .map(|_| admitted("127.0.76.1", relay.clear))
        .collect();
    assert_eq!((first.active("echo"), second.active("echo")), (50, 50));
    drop(first);
    streams.retain_mut(|stream| try_echo(stream, b"still?").is_ok());
    assert_eq!(streams.len(), 50);
    wait_until("half of them end", DEADLINE, || {
        relay.daemon.active("relay") == 50
    });
    streams
        .iter_mut()
        .for_each(|stream| echoes(stream, b"and now?"));
    for _ in 0..20 {
        streams.push(admitted("127.0.76.2", relay.clear));
    }
    drop(streams);
    relay.daemon.wait_for_active("relay", 0);
}

/// Anonymous memory of a process in kB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

#[test]
fn clients_that_stop_reading_make_nothing_grow() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let relay = relay(&format!("upstreams: [\"{address}\"]"), "");
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let client = connect_from("127.0.77.1", relay.clear);
        let (server, _) = upstream.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        pairs.push((client, server));
    }
    let before = memory(relay.daemon.pid());
    let descriptors = open_descriptors(relay.daemon.pid());
    let block = vec![b'x'; 1 << 20];
    // Each is full when its upstream has been unable to write for a while.
    let mut written = 0;
    let mut idle = 0;
    while idle < 10 {
        let mut moved = 0;
        for (_, server) in &mut pairs {
            moved += server.write(&block).unwrap_or(0);
        }
        written += moved;
        idle = if moved == 0 { idle + 1 } else { 0 };
        pause(Duration::from_millis(20));
    }
    let grown = memory(relay.daemon.pid()).saturating_sub(before);
    assert!(
        grown < 20 * 256,
        "{written} bytes written, {grown} kB more in 20 relays"
    );
    let piped = open_descriptors(relay.daemon.pid()) - descriptors;
    assert!(
        piped >= 20,
        "bulk that waits does so in pipes: {piped} descriptors more"
    );
    for (mut client, server) in pairs {
        drop(server);
        let mut count = 0;
        let mut buffer = vec![0; 1 << 16];
        while let Ok(more @ 1..) = client.read(&mut buffer) {
            count += more;
        }
        written -= count;
    }
    assert_eq!(written, 0, "bytes lost or invented");
    relay.daemon.wait_for_active("relay", 0);
    // What remains beyond the relays' own sockets are the spare pipes of its four workers, four each.
    wait_until("pipes are given back", DEADLINE, || {
        open_descriptors(relay.daemon.pid()) + 40 <= descriptors + 32
    });
}

#[test]
fn five_thousand_idle_relays_need_no_thread() {
    // A relay takes four descriptors of this machine's, and other tests run beside this one.
    let count = (raise_descriptors().saturating_sub(3_000) / 2).min(5_000);
    if count < 5_000 {
        println!("only {count} relays: the hard limit of descriptors allows no more");
    }
    let port = free_port();
    let upstream = echo(port);
    let relay = relay(
        &format!("upstreams: [\"127.0.0.1:{port}\"]"),
        "channels: 6000,",
    );
    let before = memory(relay.daemon.pid());
    let mut streams: Vec<TcpStream> = (0..count)
        .map(|number| admitted(&format!("127.0.78.{}", 1 + number % 20), relay.clear))
        .collect();
    assert_eq!(relay.daemon.active("relay"), count);
    assert_eq!(upstream.active("echo"), count);
    wait_until("idle ones hold no worker", DEADLINE, || {
        relay.daemon.status()["workers"]["busy"] == 0
    });
    let each = (memory(relay.daemon.pid()) - before) * 1024 / count;
    assert!(each < 4096, "{each} bytes for an idle relay");
    for stream in &mut streams {
        echoes(stream, b"still there?");
    }
    drop(streams);
    wait_until("all are gone", 3 * DEADLINE, || {
        relay.daemon.active("relay") == 0
    });
}
