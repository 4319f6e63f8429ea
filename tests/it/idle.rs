//! Silent and slow clients hold no worker, and timeouts end only those that are silent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, connect_from, echoes, ending_of, free_port, pause,
    raise_descriptors, wait_until,
};

fn echo(port: u16, keys: &str) -> Daemon {
    let text = format!("Tcp(module: Echo, {keys} sockets: [(port: {port})])");
    Daemon::start(Conf::new("workers: 4,").listener("echo", &text))
}

#[test]
fn ten_thousand_idle_connections_are_held_and_each_still_answers() {
    // Both ends' processes need one descriptor each for a connection, and other tests run beside this one.
    let count = raise_descriptors().saturating_sub(3_000).min(10_000);
    if count < 10_000 {
        println!("only {count} connections: the hard limit of descriptors allows no more");
    }
    let port = free_port();
    let daemon = echo(port, "channels: 11000,");
    let mut held = Vec::new();
    for number in 0..count {
        held.push(connect_from(&format!("127.0.21.{}", 1 + number % 20), port));
    }
    wait_until("all are active", 3 * DEADLINE, || {
        daemon.active("echo") == count
    });
    assert_eq!(daemon.status()["workers"]["total"], 4);
    wait_until("idle ones hold no worker", DEADLINE, || {
        daemon.status()["workers"]["busy"] == 0
    });
    for stream in &mut held {
        echoes(stream, b"still here?");
    }
    // Once more, now that each has been parked after serving.
    for stream in held.iter_mut().rev() {
        echoes(stream, b"and now?");
    }
    drop(held);
    wait_until("all are gone", 3 * DEADLINE, || daemon.active("echo") == 0);
}

#[test]
fn a_fresh_client_is_answered_while_two_hundred_trickle() {
    let port = free_port();
    let daemon = echo(port, "channels: 1000,");
    let mut slow = (0..200)
        .map(|_| admitted("127.0.22.1", port))
        .collect::<Vec<_>>();
    let done = AtomicBool::new(false);
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                for stream in &mut slow {
                    stream.write_all(b"x").unwrap();
                }
                pause(Duration::from_millis(100));
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let start = Instant::now();
            admitted("127.0.22.2", port);
            times.push(start.elapsed());
            pause(Duration::from_millis(20));
        }
    });
    times.sort_unstable();
    let worst = times.last().copied().unwrap();
    println!(
        "{} fresh clients, median {:?}, worst {worst:?}",
        times.len(),
        times[times.len() / 2]
    );
    assert!(worst < Duration::from_secs(2), "answered after {worst:?}");
    for stream in &mut slow {
        stream.read_exact(&mut [0; 20]).unwrap();
    }
    assert_eq!(daemon.rejected("echo", "full"), 0);
}

/// Sends until neither end's buffers take more, and reads nothing.
fn stuff(stream: &mut TcpStream) {
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
}

#[test]
fn clients_that_read_nothing_hold_no_worker() {
    let port = free_port();
    let daemon = echo(port, "");
    // Twice as many as there are workers.
    let mut stuck = (0..8)
        .map(|_| connect_from("127.0.23.1", port))
        .collect::<Vec<_>>();
    std::thread::scope(|scope| {
        for stream in &mut stuck {
            scope.spawn(|| stuff(stream));
        }
    });
    admitted("127.0.23.2", port);
    wait_until("stuck ones hold no worker", DEADLINE, || {
        daemon.status()["workers"]["busy"] == 0
    });
}

#[test]
fn a_silent_connection_ends_at_its_idle_timeout() {
    let port = free_port();
    let daemon = echo(port, r#"idle_timeout: "1s","#);
    let start = Instant::now();
    let mut never_spoke = connect_from("127.0.24.1", port);
    let mut spoke_once = admitted("127.0.24.2", port);
    ending_of(&mut never_spoke);
    ending_of(&mut spoke_once);
    let after = start.elapsed();
    assert!(after > Duration::from_millis(900), "ended after {after:?}");
    daemon.wait_for_active("echo", 0);
}

#[test]
fn a_connection_whose_bytes_are_consumed_outlives_the_idle_timeout() {
    let port = free_port();
    let _daemon = echo(port, r#"idle_timeout: "1s","#);
    let mut stream = admitted("127.0.25.1", port);
    for _ in 0..10 {
        pause(Duration::from_millis(300));
        echoes(&mut stream, b"x");
    }
}

#[test]
fn a_peer_that_reads_nothing_ends_at_the_idle_timeout_too() {
    let port = free_port();
    let daemon = echo(port, r#"idle_timeout: "1s","#);
    let mut stream = connect_from("127.0.26.1", port);
    stuff(&mut stream);
    daemon.wait_for_active("echo", 0);
}
