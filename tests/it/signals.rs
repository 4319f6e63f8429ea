//! SIGTERM: what happens to those inside, to newcomers, and to the impatient.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, connect_from, free_port, try_connect, try_echo, turned_away,
    wait_until,
};

fn echo(port: u16, drain: &str) -> Daemon {
    let text = format!("Tcp(module: Echo, sockets: [(port: {port})])");
    Daemon::start(Conf::new(&format!("drain: \"{drain}\",")).listener("echo", &text))
}

/// A connection that the daemon owes so many bytes that it cannot end it in good order.
fn stuck(port: u16) -> TcpStream {
    let mut stream = connect_from("127.0.0.1", port);
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    stream
}

#[test]
fn sigterm_with_nobody_inside_ends_at_once_with_zero() {
    let mut daemon = echo(free_port(), "60s");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn sigterm_ends_idle_connections_and_then_the_daemon() {
    let port = free_port();
    let mut daemon = echo(port, "3s");
    let mut held = (0..10)
        .map(|_| admitted("127.0.0.1", port))
        .collect::<Vec<_>>();
    assert_eq!(daemon.terminate().code(), Some(0));
    for stream in &mut held {
        // The end is orderly: nothing was under way.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn newcomers_are_refused_while_those_inside_are_waited_for() {
    let port = free_port();
    let mut daemon = echo(port, "4s");
    let _stuck = stuck(port);
    daemon.signal(Signal::SIGTERM);
    wait_until("newcomers are not served", DEADLINE, || !is_served(port));
    turned_away("127.0.0.1", port);
    assert_eq!(daemon.wait_for_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_drain_ends_at_its_time_whoever_is_still_inside() {
    let port = free_port();
    let mut daemon = echo(port, "1s");
    let _stuck = stuck(port);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn what_is_on_its_way_to_a_reader_still_arrives_while_draining() {
    let port = free_port();
    let mut daemon = echo(port, "8s");
    let mut slow = connect_from("127.0.0.1", port);
    let text = vec![b'x'; 200_000];
    slow.write_all(&text).unwrap();
    slow.read_exact(&mut [0; 1]).unwrap();
    wait_until("all is written", DEADLINE, || {
        daemon.status()["workers"]["busy"] == 0
    });
    daemon.signal(Signal::SIGTERM);
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), text.len() - 1);
    assert_eq!(daemon.wait_for_exit(DEADLINE).code(), Some(0));
}

#[test]
fn sigterm_twice_stops_at_once() {
    let port = free_port();
    let mut daemon = echo(port, "60s");
    let _stuck = stuck(port);
    daemon.signal(Signal::SIGTERM);
    wait_until("it has begun to drain", DEADLINE, || !is_served(port));
    if daemon.is_running() {
        daemon.signal(Signal::SIGTERM);
    }
    let start = Instant::now();
    daemon.wait_for_exit(DEADLINE);
    println!("ended after {:?}", start.elapsed());
}

#[test]
fn a_service_manager_is_told_of_start_reload_and_end() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = || {
        let mut text = [0; 256];
        let count = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    let text = format!("Tcp(module: Echo, sockets: [(port: {})])", free_port());
    // Also where nobody may be connected to any more.
    let conf = Conf::new("sandbox: (connect: false),").listener("echo", &text);
    let mut daemon = Daemon::start_with_variable(conf, "NOTIFY_SOCKET", &path);
    assert_eq!(heard(), "READY=1\n");
    daemon.signal(Signal::SIGHUP);
    let reloading = heard();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(heard(), "READY=1\n");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(heard(), "STOPPING=1\n");
}

/// Whether a newcomer's byte comes back.
fn is_served(port: u16) -> bool {
    try_connect("127.0.0.1", port).is_ok_and(|mut stream| try_echo(&mut stream, b"x").is_ok())
}

#[test]
fn the_control_socket_is_gone_after_the_end() {
    let port = free_port();
    let mut daemon = echo(port, "1s");
    assert_eq!(daemon.terminate().code(), Some(0));
    let output = daemon.portreeve(&["status"]);
    assert_eq!(output.status.code(), Some(1));
}
