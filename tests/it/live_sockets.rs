//! Sockets, limits and lists changed while the daemon runs: in the file and in force, or neither.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, admitted, assert_says, exits, free_port, pause, refused,
    try_echo, turned_away, wait_until,
};

const FILE: &str = "// ours: keep this
Tcp(
    module: Echo,       // RFC 862
    channels: 100,      // plenty
    sockets: [
        // the first
        (port: PORT, address: \"127.0.0.1\"),   // clear
    ],
)
";

fn echo(port: u16) -> Daemon {
    let text = FILE.replace("PORT", &port.to_string());
    Daemon::start(Conf::new("// server\n").listener("echo", &text))
}

#[test]
fn a_socket_is_added_and_removed_in_file_and_daemon_alike() {
    let (port, new) = (free_port(), free_port());
    let daemon = echo(port);
    let before = daemon.conf().read("listeners/echo.ron");
    let mut inside = admitted("127.0.0.1", port);
    let number = new.to_string();
    let add = [
        "socket",
        "add",
        "echo",
        &number,
        "--address",
        "127.0.0.1",
        "--deny",
        "127.0.0.66",
    ];
    assert_says(&exits(&daemon.portreeve(&add), 0), &["opens tcp"]);
    let mut through = admitted("127.0.0.1", new);
    refused("127.0.0.66", new);
    let row = format!(
        "        (port: {new}, address: \"127.0.0.1\", restriction: Deny(\"127.0.0.66\")),\n    ],"
    );
    let expected = before.replace("    ],", &row);
    assert_eq!(daemon.conf().read("listeners/echo.ron"), expected);
    assert_eq!(daemon.conf().read("listeners/echo.ron.bak"), before);
    exits(&daemon.portreeve(&["check"]), 0);
    assert_says(
        &exits(&daemon.portreeve(&["reload"]), 0),
        &["reloaded, 0 changes"],
    );
    let remove = [
        "socket",
        "remove",
        "echo",
        &number,
        "--address",
        "127.0.0.1",
    ];
    exits(&daemon.portreeve(&remove), 0);
    assert_eq!(turned_away("127.0.0.1", new), Ending::NotListening);
    assert_eq!(daemon.conf().read("listeners/echo.ron"), before);
    try_echo(&mut through, b"outlives its socket").unwrap();
    try_echo(&mut inside, b"still here").unwrap();
    let left: Vec<_> = fs::read_dir(daemon.conf().home().join("conf/listeners"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn what_cannot_be_changes_neither_file_nor_daemon() {
    let (port, taken) = (free_port(), free_port());
    let _holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let daemon = echo(port);
    let before = daemon.conf().read("listeners/echo.ron");
    let (port_text, taken) = (port.to_string(), taken.to_string());
    for (args, code, words) in [
        (&["add", "echo", &taken][..], 2, "in use"),
        (&["add", "echo", &port_text], 2, "conflicts"),
        (&["add", "echo", "70000"], 2, "0 to 65535"),
        (&["add", "echo", "0"], 2, "1 to 65535"),
        (&["add", "echo", "smtp"], 2, "\"smtp\""),
        (
            &["add", "echo", "7", "--address", "localhost"],
            2,
            "expected an IP address",
        ),
        (
            &["add", "echo", "7", "--tls", "Maybe"],
            2,
            "expected one of",
        ),
        (
            &["add", "echo", "7", "--grant", "10.0.0.1/8"],
            2,
            "has bits behind its prefix",
        ),
        (&["add", "ecko", "7"], 1, "no listener ecko"),
        (&["remove", "echo", "7"], 1, "no socket"),
    ] {
        let args = [&["socket"], args].concat();
        assert_says(&exits(&daemon.portreeve(&args), code), &[words]);
    }
    assert_eq!(daemon.conf().read("listeners/echo.ron"), before);
    // A file that cannot be written: its fresh name is taken by a directory.
    fs::create_dir_all(daemon.conf().home().join("conf/listeners/.echo.ron.new/x")).unwrap();
    let new = free_port();
    exits(
        &daemon.portreeve(&["socket", "add", "echo", &new.to_string()]),
        1,
    );
    assert_eq!(turned_away("127.0.0.1", new), Ending::NotListening);
    assert_eq!(
        daemon.listener("echo")["sockets"].as_array().unwrap().len(),
        1
    );
    assert_eq!(daemon.conf().read("listeners/echo.ron"), before);
    admitted("127.0.0.1", port);
}

fn form(daemon: &Daemon) -> Value {
    daemon.conf().ask(&json!({"command": "listeners"}))["ok"][0].clone()
}

#[test]
fn a_form_is_put_back_as_a_whole_and_its_faults_name_row_and_field() {
    let (port, new) = (free_port(), free_port());
    let daemon = echo(port);
    let before = daemon.conf().read("listeners/echo.ron");
    let shown = form(&daemon);
    assert_eq!(shown["sockets"][0]["port"], port.to_string());
    assert_eq!(
        (&shown["module"], &shown["in_force"]),
        (&"Echo".into(), &true.into())
    );
    let edit = |rows: Value, limits: Value| {
        let version = form(&daemon)["version"].clone();
        daemon.conf().ask(
            &json!({"command": "edit_listener", "name": "echo", "version": version,
            "sockets": rows, "limits": limits}),
        )
    };
    let first = shown["sockets"][0].clone();
    let answer = edit(
        json!([first, {"port": "abc", "address": "<b>"}, {"port": 99999}, {"port": ""},
            {"port": new, "restriction": "Grant", "list": "10.0.0.0/8\n10.0.0.1/8 ; bad"}]),
        json!({"channels": "many"}),
    );
    let faults = answer["invalid"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"));
    let places: Vec<_> = faults
        .iter()
        .map(|fault| (&fault["row"], &fault["field"]))
        .collect();
    let expected = [
        (json!(1), "port"),
        (json!(1), "address"),
        (json!(2), "port"),
        (json!(4), "list"),
        (Value::Null, "channels"),
    ];
    assert_eq!(places.len(), expected.len(), "{answer}");
    for ((row, field), (expected_row, expected_field)) in places.iter().zip(&expected) {
        assert_eq!((*row, *field), (expected_row, &json!(expected_field)));
    }
    assert_eq!(
        (&faults[3]["line"], &faults[3]["file"]),
        (&json!(2), &Value::Null)
    );
    let answer = edit(json!([first, {"port": port}]), Value::Null);
    assert_eq!(answer["invalid"][0]["row"], 1, "{answer}");
    let answer = edit(
        json!([first]),
        json!({"limit_per_address": 3, "limit_non_clients": 5}),
    );
    assert_eq!(
        answer["invalid"][0]["field"], "limit_non_clients",
        "{answer}"
    );
    assert_eq!(daemon.conf().read("listeners/echo.ron"), before);

    let mut second = first.clone();
    second["restriction"] = "Deny".into();
    second["list"] = "127.0.0.66 ; him\r\n127.0.0.67".into();
    let answer = edit(
        json!([second, {"port": new, "address": "127.0.0.1"}]),
        json!({"channels": "5", "reserve_for_clients": "1"}),
    );
    assert!(
        answer["ok"]["changes"].as_array().unwrap().len() >= 4,
        "{answer}"
    );
    refused("127.0.0.66", port);
    admitted("127.0.0.1", new);
    let text = daemon.conf().read("listeners/echo.ron");
    assert_says(
        &text,
        &[
            "// ours: keep this",
            "// RFC 862",
            "channels: 5,      // plenty",
            "// clear",
            "; him\n",
        ],
    );
    // Port 0 removes a row; the rest stays.
    let shown = form(&daemon);
    let mut rows = shown["sockets"].clone();
    rows[1]["port"] = 0.into();
    let answer = edit(rows, shown["limits"].clone());
    assert_eq!(
        answer["ok"]["changes"].as_array().unwrap().len(),
        1,
        "{answer}"
    );
    assert_eq!(turned_away("127.0.0.1", new), Ending::NotListening);
    refused("127.0.0.66", port);
    // What a table has no column for stays where it is not named, and goes where it is empty.
    let text = daemon.conf().read("listeners/echo.ron");
    let proxied = text.replace("),   // clear", ", proxy_from: \"127.0.0.9\"),   // clear");
    daemon.conf().write("listeners/echo.ron", &proxied);
    let rows = |proxies: Value| {
        let mut rows = form(&daemon)["sockets"].clone();
        rows[0]["proxy_from"] = proxies;
        rows[0]["restriction"] = "none".into();
        rows
    };
    let answer = edit(rows(Value::Null), Value::Null);
    assert!(
        answer["ok"]["notices"].to_string().contains("not kept"),
        "{answer}"
    );
    assert_says(&daemon.conf().read("listeners/echo.ron"), &["proxy_from"]);
    edit(rows("".into()), Value::Null);
    assert!(
        !daemon
            .conf()
            .read("listeners/echo.ron")
            .contains("proxy_from")
    );
    // Somebody else was faster.
    let shown = form(&daemon);
    let text = daemon.conf().read("listeners/echo.ron");
    daemon
        .conf()
        .write("listeners/echo.ron", &format!("{text}// more\n"));
    assert_eq!(form(&daemon)["in_force"], false);
    let request = json!({"command": "edit_listener", "name": "echo", "version": shown["version"], "sockets": []});
    let answer = daemon.conf().ask(&request);
    assert_says(answer["error"].as_str().unwrap(), &["meanwhile"]);
}

#[test]
fn a_server_wide_list_is_put_into_file_and_force_or_its_faults_are_named() {
    let port = free_port();
    let daemon = echo(port);
    let mut inside = admitted("127.0.0.66", port);
    let ask = |which: &str, text: &str| {
        daemon
            .conf()
            .ask(&json!({"command": "edit_list", "which": which, "text": text}))
    };
    let answer = ask("denied", "127.0.0.66 ; him\n!127.0.0.1/8\n");
    assert_eq!(
        (
            &answer["invalid"][0]["line"],
            &answer["invalid"][0]["column"]
        ),
        (&json!(2), &json!(2)),
        "{answer}"
    );
    admitted("127.0.0.66", port);
    // No way to read files through a list that names them.
    let answer = ask("denied", "@listeners/echo.ron");
    let file = answer["invalid"][0]["file"].as_str().unwrap_or_default();
    assert!(file.ends_with("listeners/echo.ron"), "{answer}");
    assert!(!answer.to_string().contains("Echo"), "{answer}");
    // What the configuration did not name at the start is not even opened.
    let answer = ask("denied", "@/etc/passwd").to_string();
    assert_says(&answer, &["Permission denied"]);
    let answer = ask("denied", "127.0.0.66 ; \"him\"\n127.0.0.67");
    assert_eq!(
        answer["ok"]["changes"][0],
        "the list denied changes (1 ranges)".replace('1', "2"),
        "{answer}"
    );
    refused("127.0.0.66", port);
    try_echo(&mut inside, b"stays").unwrap();
    let lists = daemon.conf().ask(&json!({"command": "lists"}));
    assert_eq!(lists["ok"]["denied"], "127.0.0.66 ; \"him\"\n127.0.0.67");
    assert_says(&daemon.conf().read("portreeve.ron"), &["// server"]);
    exits(&daemon.portreeve(&["check"]), 0);
    // Somebody who still looks at the list of before that changes nothing.
    let version = lists["ok"]["version"].clone();
    let late = json!({"command": "edit_list", "which": "denied", "text": "", "version": version});
    ask("blacklist", "192.0.2.1");
    assert_says(&daemon.conf().ask(&late).to_string(), &["meanwhile"]);
    refused("127.0.0.66", port);
    ask("denied", "");
    admitted("127.0.0.66", port);
}

/// Changes sockets until nobody answers any more, and counts the changes that were answered.
fn change(conf: &Conf, port: u16, done: &AtomicUsize) {
    let end = Instant::now() + 6 * DEADLINE;
    let requests = [
        json!({"command": "socket_add", "listener": "echo", "row": {"port": port}}),
        json!({"command": "socket_remove", "listener": "echo", "port": port}),
    ];
    for request in requests.iter().cycle() {
        if Instant::now() > end || conf.try_ask(request).is_none() {
            return;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_kill_at_any_moment_leaves_a_configuration_that_is_the_old_or_the_new() {
    let (port, new) = (free_port(), free_port());
    let mut daemon = echo(port);
    let old = daemon.conf().read("listeners/echo.ron");
    exits(
        &daemon.portreeve(&["socket", "add", "echo", &new.to_string()]),
        0,
    );
    let with = daemon.conf().read("listeners/echo.ron");
    exits(
        &daemon.portreeve(&["socket", "remove", "echo", &new.to_string()]),
        0,
    );
    let (mut changes, mut seed) = (0, u64::from(std::process::id()) | 1);
    for _ in 0..15 {
        // xorshift (Marsaglia 2003): moments that are others in each run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let conf = daemon.conf();
            scope.spawn(|| change(conf, new, &done));
            wait_until("changes are under way", 6 * DEADLINE, || {
                done.load(Ordering::Relaxed) >= 14
            });
            pause(Duration::from_micros(seed % 20_000));
            daemon.signal(Signal::SIGKILL);
        });
        changes += done.into_inner();
        daemon.kill();
        exits(&daemon.portreeve(&["check"]), 0);
        let text = daemon.conf().read("listeners/echo.ron");
        assert!(text == old || text == with, "neither old nor new:\n{text}");
        daemon.conf().write("listeners/echo.ron", &old);
        daemon = daemon.restart();
    }
    println!("{changes} changes");
    assert!(changes >= 200);
}
