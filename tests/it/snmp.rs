//! SNMP with net-snmp's tools, and the MIB before two checkers.

use std::path::Path;
use std::process::Command;

use crate::harness::{
    Conf, Daemon, admitted, assert_says, exits, free_port, output_of, turned_away,
};

const USER: &str = r#"(name: "ops", auth: Sha512("authentic!"), privacy: Aes128("and private"))"#;

fn agent(port: u16, echo: u16) -> Daemon {
    let users = format!(r#"[{USER}, (name: "seen", auth: Sha256("authentic!"))]"#);
    let module = format!(r#"Snmp(communities: ["public"], users: {users}, contact: "me")"#);
    let text = format!("Udp(module: {module}, sockets: [(port: {port})])");
    let echo =
        format!(r#"Tcp(module: Echo, sockets: [(port: {echo}, restriction: Deny("127.0.0.66"))])"#);
    Daemon::start(
        Conf::new("")
            .listener("snmp", &text)
            .listener("echo", &echo),
    )
}

/// Runs one of the tools with one try of five seconds.
#[track_caller]
fn runs(tool: &str, port: u16, how: &[&str], names: &[&str], code: i32) -> String {
    let mut command = Command::new(tool);
    command.args(how).args(["-On", "-r", "0", "-t", "5"]);
    command.arg(format!("127.0.0.1:{port}")).args(names);
    exits(&output_of(command, b""), code)
}

const V1: &[&str] = &["-v1", "-c", "public"];
const V2: &[&str] = &["-v2c", "-c", "public"];
const V3: &[&str] = &[
    "-v3",
    "-u",
    "ops",
    "-l",
    "authPriv",
    "-a",
    "SHA-512",
    "-A",
    "authentic!",
    "-x",
    "AES",
    "-X",
    "and private",
];
const SYSTEM: &str = ".1.3.6.1.2.1.1";
const LISTENERS: &str = ".1.3.6.1.4.1.32473.7007.1.2.1";
const REFUSALS: &str = ".1.3.6.1.4.1.32473.7007.1.3.1.2";

#[test]
fn net_snmp_walks_in_every_version() {
    let (port, echo) = (free_port(), free_port());
    let _daemon = agent(port, echo);
    for how in [V1, V2, V3] {
        let said = runs("snmpwalk", port, how, &[SYSTEM], 0);
        assert_says(
            &said,
            &[
                ".1.3.6.1.2.1.1.1.0 = STRING: \"portreeve",
                "Timeticks:",
                "\"me\"",
            ],
        );
        let said = runs("snmpwalk", port, how, &[LISTENERS], 0);
        assert_says(&said, &["STRING: \"echo\"", "STRING: \"snmp\""]);
        assert_eq!(said.contains("Counter64"), how[0] != "-v1", "{said}");
    }
    for how in [V2, V3] {
        let walked = runs("snmpwalk", port, how, &[".1.3.6.1.4.1"], 0);
        let in_bulk = runs("snmpbulkwalk", port, how, &[".1.3.6.1.4.1"], 0);
        assert_eq!(walked.lines().count(), in_bulk.lines().count());
    }
}

#[test]
fn the_counters_are_those_of_the_daemon() {
    let (port, echo) = (free_port(), free_port());
    let _daemon = agent(port, echo);
    let _one = admitted("127.0.0.1", echo);
    let _two = admitted("127.0.0.1", echo);
    turned_away("127.0.0.66", echo);
    // Listeners are numbered in the order of their names: echo is the first.
    let names = [5, 6].map(|column| format!("{LISTENERS}.{column}.1"));
    let refused = format!("{REFUSALS}.1.3");
    let said = runs("snmpget", port, V2, &[&names[0], &names[1], &refused], 0);
    assert_says(
        &said,
        &[
            "5.1 = Gauge32: 2",
            "6.1 = Counter64: 2",
            "1.3 = Counter64: 1",
        ],
    );
}

#[test]
fn wrong_keys_communities_and_levels_get_nothing() {
    let (port, echo) = (free_port(), free_port());
    let _daemon = agent(port, echo);
    let name = [".1.3.6.1.2.1.1.1.0"];
    assert_says(
        &runs("snmpget", port, &["-v2c", "-c", "private"], &name, 1),
        &["Timeout"],
    );
    let mut wrong = V3.to_vec();
    wrong[8] = "not the one";
    assert_says(
        &runs("snmpget", port, &wrong, &name, 1),
        &["Authentication failure"],
    );
    let mut wrong = V3.to_vec();
    wrong[12] = "not the one";
    assert_says(
        &runs("snmpget", port, &wrong, &name, 1),
        &["Decryption error"],
    );
    let mut clear = V3.to_vec();
    clear[4] = "authNoPriv";
    assert_says(
        &runs("snmpget", port, &clear, &name, 2),
        &["authorizationError"],
    );
    let seen = [
        "-v3",
        "-u",
        "seen",
        "-l",
        "authNoPriv",
        "-a",
        "SHA-256",
        "-A",
        "authentic!",
    ];
    assert_says(&runs("snmpget", port, &seen, &name, 0), &["portreeve"]);
    let unknown = ["-v3", "-u", "nobody", "-l", "noAuthNoPriv"];
    assert_says(
        &runs("snmpget", port, &unknown, &name, 1),
        &["Unknown user name"],
    );
    let set = [".1.3.6.1.2.1.1.4.0", "s", "x"];
    assert_says(&runs("snmpset", port, V2, &set, 2), &["notWritable"]);
}

#[test]
fn a_restarted_agent_is_believed_and_old_messages_are_not() {
    let (port, echo) = (free_port(), free_port());
    let daemon = agent(port, echo);
    let boots = [".1.3.6.1.6.3.10.2.1.2.0", ".1.3.6.1.6.3.10.2.1.1.0"];
    let first = runs("snmpget", port, V3, &boots, 0);
    assert_says(&first, &["INTEGER: 1\n"]);
    let _daemon = daemon.restart();
    let second = runs("snmpget", port, V3, &boots, 0);
    assert_says(&second, &["INTEGER: 2\n"]);
    let engine = |said: &str| said.lines().nth(1).map(str::to_owned);
    assert_eq!(engine(&first), engine(&second), "the engine's identity");
}

#[test]
fn the_mib_satisfies_smilint_and_names_what_is_told() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lint = Command::new("smilint");
    lint.env("SMIPATH", root.join("tests/data/mibs"));
    lint.args(["-l", "6", "-s"])
        .arg(root.join("docs/PORTREEVE-MIB.txt"));
    assert_eq!(exits(&output_of(lint, b""), 0), "");
    let mut translate = Command::new("snmptranslate");
    let folders = format!("{0}/docs:{0}/tests/data/mibs", root.display());
    translate.args(["-M", &folders, "-m", "PORTREEVE-MIB", "-On"]);
    translate.args([
        "PORTREEVE-MIB::portreeveListenerName.3",
        "PORTREEVE-MIB::portreeveRefusals.1.denied",
    ]);
    let said = exits(&output_of(translate, b""), 0);
    assert_says(
        &said,
        &[&format!("{LISTENERS}.2.3"), &format!("{REFUSALS}.1.1")],
    );
}
