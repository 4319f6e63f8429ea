//! A daemon without descriptors waits by the clock, and takes up what waited when some are free.

use std::fs;
use std::time::Duration;

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, connect_from, echoes, free_port, pause, try_echo, wait_until,
};

const LIMIT: u32 = 128;

/// Seconds of CPU, user and system, that a process has used; clock ticks are 1/100 s on Linux.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is a name in parentheses that may hold anything; utime and stime are 14 and 15.
    let fields = stat.rsplit_once(')').unwrap().1;
    let fields = fields.split_whitespace().collect::<Vec<_>>();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn starved(port: u16) -> Daemon {
    let text = format!("Tcp(module: Echo, channels: 1000, sockets: [(port: {port})])");
    let conf = Conf::new("workers: 4,").listener("echo", &text);
    Daemon::start_with_descriptors(conf, LIMIT)
}

#[test]
fn too_few_descriptors_for_the_channels_is_said_at_the_start() {
    let daemon = starved(free_port());
    assert!(
        daemon.log().contains("descriptor") && daemon.log().contains("128"),
        "no warning in:\n{}",
        daemon.log()
    );
}

#[test]
fn without_descriptors_the_daemon_rests_and_then_serves_all_who_waited() {
    let port = free_port();
    let daemon = starved(port);
    let mut held = (0..300)
        .map(|_| connect_from("127.0.0.1", port))
        .collect::<Vec<_>>();
    let full = usize::try_from(LIMIT).unwrap();
    wait_until("descriptors have run out", DEADLINE, || {
        open_descriptors(daemon.pid()) >= full - 20
    });
    echoes(&mut held[0], b"those inside are served");

    let window = Duration::from_secs(2);
    let before = cpu_seconds(daemon.pid());
    pause(window);
    let share = (cpu_seconds(daemon.pid()) - before) / window.as_secs_f64();
    assert!(share < 0.05, "{:.0} % CPU while starved", share * 100.0);
    echoes(&mut held[0], b"those inside are still served");

    // Only the last fifty stay, all of whom waited outside.
    held.drain(..250);
    for stream in &mut held {
        if let Err(error) = try_echo(stream, b"my turn") {
            panic!("one who waited is not served: {error}");
        }
    }
    daemon.wait_for_active("echo", 50);
    drop(held);
    daemon.wait_for_active("echo", 0);
    admitted("127.0.0.1", port);
}
