//! RADIUS with FreeRADIUS' radclient, behind FreeRADIUS itself, and with pyrad.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::foreign::Foreign;
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

/// RFC 2759's own exchange, whose answer and keys (RFC 3079, 3.5.3) are known, and radclient reveals the keys with
/// its own code.
#[test]
fn radclient_gets_the_proof_and_the_keys_of_ms_chap_2() {
    let port = free_port();
    let daemon = radius("", port);
    let file = daemon.conf().home().join("conf/accounts.ron");
    let text = fs::read_to_string(&file).unwrap();
    let user = text
        .replace("nemo", "user")
        .replace(r#"secret: "arctangent""#, r#"secret: "clientPass""#);
    fs::write(&file, user).unwrap();
    exits(&daemon.portreeve(&["reload"]), 0);
    let exchange = |response: &str| {
        let challenge = "5b5d7c7d7b3f2f3e3c2c602132262628";
        let peer = "21402324255e262a28295f2b3a337c7e";
        format!(
            "User-Name=User,MS-CHAP-Challenge=0x{challenge},MS-CHAP2-Response=0x0700{peer}{}{response},Message-Authenticator=0x00",
            "0".repeat(16)
        )
    };
    let right = "82309ecd8d708b5ea08faa3981cd83544233114a3d85d6df";
    let said = asks(port, "auth", &exchange(right), 0);
    let proof: String = b"S=407A5589115FD0D6209F510FE9C04566932CDA56"
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = [
        "Received Access-Accept",
        &format!("MS-CHAP2-Success = 0x07{proof}"),
        "MS-MPPE-Encryption-Policy = Encryption-Allowed",
        "MS-MPPE-Send-Key = 0x8b7cdc149b993a1ba118cb153f56dccb",
        "MS-MPPE-Recv-Key = 0xd5f0e9521e3ea9589645e86051c82226",
    ];
    assert_says(&said, &expected);
    let said = asks(port, "auth", &exchange(&right.replace("82", "83")), 1);
    assert_says(&said, &["Received Access-Reject", "E=691 R=0 V=3"]);
    assert!(!said.contains("MPPE"), "{said}");
}

/// Of a server that passes requests on: its files, with PORTs of ours and its own.
const FREERADIUS: &str = r#"
prefix = /usr
name = radiusd
logdir = HOME
run_dir = HOME
libdir = /usr/lib/freeradius
pidfile = HOME/pid
log {
destination = files
    file = HOME/log
}
security {
allow_core_dumps = no
}
proxy_requests = yes
proxy server {
}
home_server access {
type = auth
    ipaddr = 127.0.0.1
    port = OURS
    secret = testing123
    require_message_authenticator = yes
    status_check = status-server
}
home_server accounting {
type = acct
    ipaddr = 127.0.0.2
    port = OURS
    secret = testing123
    status_check = status-server
}
home_server_pool access {
home_server = access
}
home_server_pool accounting {
home_server = accounting
}
realm example.org {
auth_pool = access
    acct_pool = accounting
    nostrip
}
client localhost {
ipaddr = 127.0.0.1
    secret = testing123
    require_message_authenticator = yes
}
modules {
realm suffix {
format = suffix
    delimiter = "@"
}
}
server default {
    listen {
type = auth
        ipaddr = 127.0.0.1
        port = ACCESS
}
    listen {
type = acct
        ipaddr = 127.0.0.1
        port = ACCOUNTING
}
    authorize {
suffix
}
    preacct {
suffix
}
}
"#;

#[test]
fn freeradius_passes_its_clients_requests_on_to_us() {
    let (port, access, accounting) = (free_port(), free_port(), free_port());
    let daemon = radius(r#"replies: {"nemo": {"Class": "blue"}}"#, port);
    let settings = FREERADIUS
        .replace("OURS", &port.to_string())
        .replace("ACCESS", &access.to_string())
        .replace("ACCOUNTING", &accounting.to_string());
    let _proxy = Foreign::freeradius(&settings, [access, accounting]);
    let user = "User-Name=nemo@example.org";
    let proof = "Message-Authenticator=0x00";
    for word in ["User-Password", "CHAP-Password"] {
        let right = format!("{user},{word}=arctangent,{proof}");
        let said = asks(access, "auth", &right, 0);
        assert_says(&said, &["Received Access-Accept", "Class = 0x626c7565"]);
        let wrong = format!("{user},{word}=arctangens,{proof}");
        assert_says(
            &asks(access, "auth", &wrong, 1),
            &["Received Access-Reject"],
        );
    }
    let record = format!("{user},Acct-Status-Type=Start,Acct-Session-Id=7");
    let said = asks(accounting, "acct", &record, 0);
    assert_says(&said, &["Received Accounting-Response"]);
    let file = daemon.conf().home().join("var/radius/accounting.jsonl");
    let line: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(line["attributes"]["User-Name"], "nemo@example.org");
}

#[test]
fn a_record_repeated_after_a_reload_is_written_once() {
    let port = free_port();
    let daemon = radius("", port);
    let mut command = Command::new("python3");
    command.args(["-c", REPEATS, &port.to_string()]);
    command
        .arg(crate::harness::binary())
        .arg(daemon.conf().path());
    assert_says(&exits(&output_of(command, b""), 0), &["repeated alike"]);
    let file = daemon.conf().home().join("var/radius/accounting.jsonl");
    assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 1);
}

/// An Accounting-Request (RFC 2866, 3), and the same again after a reload with other settings.
const REPEATS: &str = r#"
import hashlib, pathlib, socket, subprocess, sys
port, binary, conf = sys.argv[1:]
head, body = bytes([4, 7, 0, 26]), bytes([40, 6, 0, 0, 0, 1])
request = head + hashlib.md5(head + bytes(16) + body + b"testing123").digest() + body
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(5)
link.connect(("127.0.0.1", int(port)))
link.send(request)
first = link.recv(4096)
file = pathlib.Path(conf).parent / "listeners/radius.ron"
file.write_text(file.read_text().replace("Radius(", 'Radius(replies: {"*": {"Class": "red"}}, '))
subprocess.run([binary, "reload", "--config", conf], check=True, capture_output=True)
link.send(request)
assert link.recv(4096) == first
print("repeated alike")
"#;

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
