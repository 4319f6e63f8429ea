//! RADIUS with FreeRADIUS' radclient and with pyrad.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Conf, Daemon, assert_says, exits, free_port, output_of};

const SECRET: &str = "testing123";

/// A daemon that knows nemo, who has a clear secret, too.
fn radius(keys: &str, port: u16) -> Daemon {
    let module = format!(r#"Radius(clients: [(from: "127.0.0.0/8", secret: "{SECRET}")], {keys})"#);
    let text = format!("Udp(module: {module}, sockets: [(port: {port})])");
    let conf = Conf::new("").listener("radius", &text);
    let mut set = Command::new(crate::harness::binary());
    set.args(["account", "set", "nemo", "--password-stdin", "--config"])
        .arg(conf.path());
    exits(&output_of(set, b"arctangent\n"), 0);
    let file = conf.home().join("conf/accounts.ron");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replacen("password:", r#"secret: "arctangent", password:"#, 1),
    )
    .unwrap();
    Daemon::start(conf)
}

/// Sends one request and answers what radclient says; one that is refused makes it fail.
#[track_caller]
fn asks(port: u16, kind: &str, attributes: &str, code: i32) -> String {
    let mut command = Command::new("radclient");
    command.args([
        "-x",
        "-r",
        "1",
        "-t",
        "2",
        &format!("127.0.0.1:{port}"),
        kind,
        SECRET,
    ]);
    exits(&output_of(command, attributes.as_bytes()), code)
}

#[test]
fn radclient_is_let_in_by_pap_and_chap_and_not_with_a_wrong_password() {
    let port = free_port();
    let keys = r#"replies: {"nemo": {"Framed-IP-Address": "10.1.2.3", "Vendor-Specific.9.1": "shell:priv-lvl=15"}}"#;
    let _daemon = radius(keys, port);
    let proof = "Message-Authenticator=0x00";
    for word in ["User-Password", "CHAP-Password"] {
        let said = asks(
            port,
            "auth",
            &format!("User-Name=nemo,{word}=arctangent,{proof}"),
            0,
        );
        let expected = [
            "Received Access-Accept",
            "10.1.2.3",
            "shell:priv-lvl=15",
            "Message-Authenticator",
        ];
        assert_says(&said, &expected);
        let said = asks(
            port,
            "auth",
            &format!("User-Name=nemo,{word}=wrong,{proof}"),
            1,
        );
        assert_says(&said, &["Received Access-Reject"]);
    }
    assert_says(&asks(port, "status", proof, 0), &["Received Access-Accept"]);
}

#[test]
fn a_request_without_proof_is_not_answered_unless_the_client_is_old() {
    let (port, old) = (free_port(), free_port());
    let daemon = radius("", port);
    let packet = plain_request();
    assert_eq!(exchange(port, &packet), None);
    assert_says(&daemon.log(), &["without Message-Authenticator is dropped"]);
    let daemon = radius("require_message_authenticator: false", old);
    assert_says(
        &daemon.log(),
        &["whoever is on the way can forge the answers"],
    );
    let answer = exchange(old, &packet).expect("an answer");
    assert_eq!(
        (answer[0], answer[20], answer[21]),
        (3, 80, 18),
        "a reject, its proof first"
    );
}

/// An Access-Request of nobody without anything to prove it, as old devices send it.
fn plain_request() -> Vec<u8> {
    let mut packet = vec![1, 9, 0, 26];
    packet.extend_from_slice(&[7; 16]);
    packet.extend_from_slice(b"\x01\x06nemo");
    packet
}

fn exchange(port: u16, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(2)))
        .unwrap();
    socket.send_to(packet, ("127.0.0.1", port)).unwrap();
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

#[test]
fn radclients_accounting_is_on_disk_when_it_is_answered() {
    let port = free_port();
    let daemon = radius("", port);
    for number in 1..=3 {
        let record = format!("Acct-Status-Type=Start,User-Name=nemo,Acct-Session-Id={number}");
        assert_says(
            &asks(port, "acct", &record, 0),
            &["Received Accounting-Response"],
        );
        let file = daemon.conf().home().join("var/radius/accounting.jsonl");
        let text = fs::read_to_string(file).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["event"], text.lines().count()),
            (&"Start".into(), number)
        );
        assert_eq!(last["attributes"]["Acct-Session-Id"], number.to_string());
    }
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let port = free_port();
    let daemon = radius("", port);
    let records: String = (0..200)
        .map(|number| {
            format!("Acct-Status-Type=Stop,User-Name=nemo,Acct-Session-Id=\"{number}\"\n\n")
        })
        .collect();
    let mut command = Command::new("radclient");
    command.args([
        "-s",
        "-p",
        "100",
        "-r",
        "3",
        "-t",
        "2",
        &format!("127.0.0.1:{port}"),
        "acct",
        SECRET,
    ]);
    let said = exits(&output_of(command, records.as_bytes()), 0);
    assert_says(&said, &["Accepted      : 200", "Lost          : 0"]);
    let file = daemon.conf().home().join("var/radius/accounting.jsonl");
    assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 200);
}

#[test]
fn pyrad_agrees_on_proofs_and_repetition() {
    let port = free_port();
    let _daemon = radius("", port);
    let mut command = Command::new("python3");
    command.args(["-c", PYRAD, &port.to_string()]);
    let mut output = output_of(command, b"");
    if String::from_utf8_lossy(&output.stderr).contains("No module named 'pyrad'") {
        let mut install = Command::new("python3");
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--break-system-packages",
            "pyrad",
        ]);
        exits(&output_of(install, b""), 0);
        let mut command = Command::new("python3");
        command.args(["-c", PYRAD, &port.to_string()]);
        output = output_of(command, b"");
    }
    assert_says(&exits(&output, 0), &["accepted, verified, repeated alike"]);
}

/// Packets that pyrad makes and checks, over a socket that shows a repetition.
const PYRAD: &str = r#"
import io, socket, sys
from pyrad import packet
from pyrad.dictionary import Dictionary
words = "ATTRIBUTE User-Name 1 string\nATTRIBUTE User-Password 2 string\nATTRIBUTE Message-Authenticator 80 octets\n"
words = Dictionary(io.StringIO(words))
request = packet.AuthPacket(code=packet.AccessRequest, secret=b"testing123", dict=words)
request["User-Name"] = "nemo"
request["User-Password"] = request.PwCrypt("arctangent")
request.add_message_authenticator()
raw = request.RequestPacket()
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(5)
link.connect(("127.0.0.1", int(sys.argv[1])))
link.send(raw)
first = link.recv(4096)
link.send(raw)
assert link.recv(4096) == first
reply = request.CreateReply(packet=first)
assert request.VerifyReply(reply, first) and reply.code == packet.AccessAccept
assert reply.verify_message_authenticator(original_authenticator=request.authenticator, original_code=1)
print("accepted, verified, repeated alike")
"#;
