//! Three daemons and a Redis server: bans and counts that they know together, and what each does alone.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::foreign::Foreign;
use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, assert_says, ending_of, exits, free_port, refused,
    try_connect, try_echo, wait_until,
};

/// A lease, a tick, and some time to spare.
const LEASE: Duration = Duration::from_secs(30);

fn daemon(redis: u16, port: u16) -> Daemon {
    let text = format!("Tcp(module: Echo, limit_per_address: 3, sockets: [(port: {port})])");
    let conf = Conf::new(&format!(
        "workers: 2, network: (clients: \"127.0.0.1\"), shared: Redis(\"redis://127.0.0.1:{redis}\"),"
    ));
    Daemon::start(conf.listener("echo", &text))
}

fn standing(daemon: &Daemon) -> Value {
    daemon.status()["shared"].clone()
}

#[track_caller]
fn wait_for_others(daemon: &Daemon, nodes: u64) {
    wait_until(&format!("it hears {nodes} others"), LEASE, || {
        let standing = standing(daemon);
        standing["connected"] == true && standing["nodes"] == nodes
    });
}

fn bans(daemon: &Daemon) -> String {
    exits(&daemon.portreeve(&["bans"]), 0)
}

fn is_served(source: &str, port: u16) -> bool {
    try_connect(source, port).is_ok_and(|mut stream| try_echo(&mut stream, b"x").is_ok())
}

#[test]
fn bans_and_counts_are_known_together_and_each_goes_on_alone() {
    let redis = free_port();
    let ports = [free_port(), free_port(), free_port()];
    let carrier = Foreign::redis(redis);
    let mut daemons: Vec<Daemon> = ports.iter().map(|port| daemon(redis, *port)).collect();
    daemons.iter().for_each(|daemon| wait_for_others(daemon, 2));
    assert_says(
        &exits(&daemons[0].portreeve(&["status"]), 0),
        &["shared with 2 other daemons"],
    );

    // A ban made on one is in force on all, also for who is inside, and is taken back on another.
    let mut inside = admitted("127.0.9.1", ports[1]);
    exits(
        &daemons[0].portreeve(&["ban", "127.0.9.1", "--for", "1h"]),
        0,
    );
    ending_of(&mut inside);
    for (daemon, port) in daemons.iter().zip(ports) {
        wait_until("the ban is known", DEADLINE, || {
            bans(daemon).contains("127.0.9.1")
        });
        refused("127.0.9.1", port);
    }
    exits(&daemons[2].portreeve(&["unban", "127.0.9.1"]), 0);
    for (daemon, port) in daemons.iter().zip(ports) {
        wait_until("it is taken back", DEADLINE, || {
            !bans(daemon).contains("127.0.9.1")
        });
        admitted("127.0.9.1", port);
    }

    // Two on one and one on another are three.
    let held: Vec<TcpStream> = [ports[0], ports[0], ports[1]]
        .map(|port| admitted("127.0.9.2", port))
        .into();
    wait_until("the third daemon knows", LEASE, || {
        !is_served("127.0.9.2", ports[2])
    });
    assert!(daemons[2].rejected("echo", "address_limit") >= 1);
    assert_says(
        &exits(&daemons[2].portreeve(&["explain", "echo", "127.0.9.2"]), 1),
        &["address_limit"],
    );
    admitted("127.0.9.3", ports[2]);

    // A daemon that dies takes its counts with it.
    daemons[0].kill();
    wait_until("its connections count no more", LEASE, || {
        is_served("127.0.9.2", ports[2])
    });
    daemons.remove(0);
    daemons.iter().for_each(|daemon| wait_for_others(daemon, 1));
    drop(held);

    // Without the server each goes on by itself, and says so.
    drop(carrier);
    for daemon in &daemons {
        wait_until("it is missed", LEASE, || {
            standing(daemon)["connected"] == false
        });
        assert_says(
            &exits(&daemon.portreeve(&["status"]), 0),
            &["is away, this daemon is on its own"],
        );
        wait_until("others count no more", LEASE, || {
            standing(daemon)["nodes"] == 0
        });
        assert_says(&daemon.log(), &["is away", "goes on by its own counts"]);
    }
    let _own: Vec<TcpStream> = (0..3).map(|_| admitted("127.0.9.4", ports[1])).collect();
    refused("127.0.9.4", ports[1]);
    exits(
        &daemons[0].portreeve(&["ban", "127.0.9.5", "--for", "1h"]),
        0,
    );
    refused("127.0.9.5", ports[1]);
    admitted("127.0.9.5", ports[2]);

    // Back, and empty: what was made meanwhile is known to all.
    let _carrier = Foreign::redis(redis);
    daemons.iter().for_each(|daemon| wait_for_others(daemon, 1));
    wait_until("the other one has heard", LEASE, || {
        bans(&daemons[1]).contains("127.0.9.5")
    });
    refused("127.0.9.5", ports[2]);
    // So does one that comes later.
    let third = daemon(redis, free_port());
    wait_until("it reads the bans", LEASE, || {
        bans(&third).contains("127.0.9.5")
    });
    assert!(!third.log().contains("is away"));
}
