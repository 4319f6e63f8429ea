//! TLS with clients that others wrote: what they get, which certificate they see, and what becomes of those
//! that do not shake hands.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::foreign::make_certificate;
use crate::harness::{
    Conf, DEADLINE, Daemon, assert_says, connect_from, exits, free_port, output_of, output_within,
    pause, try_connect, wait_until,
};
use crate::proxy_from::unescape;

const SELF_SIGNED: &str = "domains: [(name: \"example.test\", certificate: SelfSigned)], default_domain: \"example.test\",";

/// One secured socket for a module.
fn secured(module: &str, port: u16, server: &str, keys: &str) -> Daemon {
    let text = format!("Tcp(module: {module}, {keys} sockets: [(port: {port}, tls: On)])");
    Daemon::start(Conf::new(server).listener("tls", &text))
}

/// What `openssl s_client` prints and gets, after it has sent a line and seen it again.
#[track_caller]
fn s_client(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-ign_eof",
    ]);
    let output = output_of(
        {
            command.args(arguments);
            command
        },
        b"hello\n",
    );
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn openssl_and_gnutls_get_their_answers() {
    let port = free_port();
    // Daytime speaks first and closes: an orderly end on both sides.
    let daemon = secured("Daytime", port, SELF_SIGNED, "");
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(port, &[version]);
        let protocol = format!("TLSv{}", &version[4..].replace('_', "."));
        assert_says(
            &said,
            &[&protocol, "subject=CN = example.test", "-UTC", "closed"],
        );
        assert!(!said.contains("unexpected eof"), "{said}");
    }
    let mut command = Command::new("gnutls-cli");
    command.args(["--insecure", "--port", &port.to_string(), "127.0.0.1"]);
    let output = output_of(command, b"");
    assert_says(
        &String::from_utf8_lossy(&output.stdout),
        &[
            "Handshake was completed",
            "(TLS1.3",
            "Peer has closed the GnuTLS connection",
        ],
    );
    let refused = s_client(port, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    assert_says(&refused, &["SSL alert number"]);
    daemon.wait_for_active("tls", 0);
    let ok = "portreeve_tls_handshakes_total{listener=\"tls\",result=\"ok\"}";
    assert_eq!(daemon.metric(ok), 3.0);
}

#[test]
fn a_session_is_resumed_with_a_ticket() {
    let port = free_port();
    let daemon = secured("Daytime", port, SELF_SIGNED, "");
    let ticket = daemon.conf().home().join("ticket");
    let ticket = ticket.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        assert_says(&s_client(port, &[version, "-sess_out", ticket]), &["New, "]);
        assert_says(
            &s_client(port, &[version, "-sess_in", ticket]),
            &["Reused, "],
        );
    }
}

#[test]
fn the_domain_is_chosen_by_name_then_by_local_address_then_by_default() {
    let port = free_port();
    let domains = "domains: [
        (name: \"a.test\", aliases: [\"*.a.test\"], certificate: SelfSigned),
        (name: \"b.test\", addresses: [\"127.0.61.2\"], certificate: SelfSigned),
        (name: \"bare.test\", addresses: [\"127.0.61.3\"]),
    ], default_domain: \"a.test\",";
    let daemon = secured("Daytime", port, domains, "");
    let shown = |address: &str, name: &[&str]| {
        let connect = format!("{address}:{port}");
        let said = s_client(port, &[&["-connect", &connect], name].concat());
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("subject=CN = "));
        line.unwrap_or("none").to_owned()
    };
    for (address, name, expected) in [
        ("127.0.61.1", None, "a.test"),
        ("127.0.61.2", None, "b.test"),
        ("127.0.61.2", Some("mail.a.test"), "a.test"),
        ("127.0.61.2", Some("deep.mail.a.test"), "b.test"),
        ("127.0.61.1", Some("B.TEST"), "b.test"),
        ("127.0.61.3", None, "none"),
        ("127.0.61.3", Some("a.test"), "a.test"),
        ("127.0.61.1", Some("bare.test"), "none"),
    ] {
        let name = name.map_or(vec!["-noservername"], |name| vec!["-servername", name]);
        assert_eq!(shown(address, &name), expected, "{address} {name:?}");
    }
    let words = "domain bare.test has no certificate for a connection to 127.0.61.3";
    assert_says(&daemon.log(), &["listener tls", words]);
    let explained = daemon.portreeve(&[
        "explain",
        "tls",
        "127.0.0.1",
        "--socket",
        &format!("127.0.61.2:{port}"),
    ]);
    assert_says(
        &exits(&explained, 0),
        &["domain: b.test (by the local address 127.0.61.2"],
    );
}

#[test]
fn a_certificate_of_ones_own_is_kept_to_its_owner_and_survives_a_restart() {
    let port = free_port();
    let mut daemon = secured("Daytime", port, SELF_SIGNED, "");
    let fingerprint = |said: String| {
        let start = said.find("-----BEGIN").unwrap();
        said[start..said.find("-----END").unwrap()].to_owned()
    };
    let first = fingerprint(s_client(port, &[]));
    let file = daemon.conf().home().join("var/tls/example.test.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let days = daemon.metric("portreeve_certificate_expiry_seconds{domain=\"example.test\"}");
    assert!(days > 1.8e9, "{days}");
    daemon.terminate();
    let daemon = daemon.restart();
    assert_eq!(fingerprint(s_client(port, &[])), first);
    drop(daemon);
}

#[test]
fn loose_keys_and_ends_that_are_near_are_spoken_of() {
    let port = free_port();
    let conf = Conf::new(
        "domains: [(name: \"soon.test\", certificate: Files(chain: \"soon.test.pem\", key: \"soon.test.key\"))],
        default_domain: \"soon.test\",",
    );
    make_certificate(&conf.home().join("conf"), "soon.test", 20, None);
    let key = conf.home().join("conf/soon.test.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let text = format!("Tcp(module: Daytime, sockets: [(port: {port}, tls: On)])");
    let daemon = Daemon::start(conf.listener("tls", &text));
    let ends = "the certificate of domain soon.test expires in 19 days";
    let loose = "others can read this key";
    // The sockets are open before the log has been read.
    wait_until("the log speaks of it", DEADLINE, || {
        daemon.log().contains(ends)
    });
    assert_says(&daemon.log(), &[loose, "portreeve.ron:2:"]);
    assert_says(&exits(&daemon.portreeve(&["check"]), 0), &[ends, loose]);
    assert_says(&s_client(port, &[]), &["subject=CN = soon.test", "-UTC"]);
}

#[test]
fn clients_must_show_a_certificate_where_the_socket_asks_for_it() {
    let (port, open) = (free_port(), free_port());
    let conf = Conf::new(SELF_SIGNED);
    let home = conf.home().join("conf");
    make_certificate(&home, "authority", 100, None);
    make_certificate(&home, "client", 100, Some("authority"));
    make_certificate(&home, "stranger", 100, None);
    let text = format!(
        "Tcp(module: Daytime, sockets: [(port: {port}, tls: On, client_ca: \"../authority.pem\"), (port: {open}, tls: On)])"
    );
    let daemon = Daemon::start(conf.listener("tls", &text));
    let shown = |port: u16, name: &str| {
        let file = |kind: &str| {
            home.join(format!("{name}.{kind}"))
                .to_str()
                .unwrap()
                .to_owned()
        };
        s_client(port, &["-cert", &file("pem"), "-key", &file("key")])
    };
    assert_says(&shown(port, "client"), &["-UTC"]);
    for bad in [s_client(port, &[]), shown(port, "stranger")] {
        assert!(!bad.contains("-UTC"), "{bad}");
        assert_says(&bad, &["alert"]);
    }
    assert_says(&shown(open, "stranger"), &["-UTC"]);
    daemon.wait_for_active("tls", 0);
}

/// Everything that comes before the connection ends.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn no_bad_opening_reaches_the_module() {
    let port = free_port();
    let daemon = secured("Daytime", port, SELF_SIGNED, "handshake_timeout: \"2s\",");
    let table = std::fs::read_to_string("tests/data/tls_openings/bad.txt").unwrap();
    let mut count = 0.0;
    for line in table.lines() {
        let mut stream = connect_from("127.0.62.1", port);
        stream.write_all(&unescape(line)).unwrap();
        // Half of them close, the others have to be told.
        if line.len() % 2 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let answer = read_to_end(&mut stream);
        let alert = matches!(answer.as_slice(), [] | [0x15, 3, _, 0, 2, 2, _]);
        assert!(alert, "{line}: {answer:?}");
        count += 1.0;
    }
    daemon.wait_for_active("tls", 0);
    let result = |result: &str| {
        daemon.metric(&format!(
            "portreeve_tls_handshakes_total{{listener=\"tls\",result=\"{result}\"}}"
        ))
    };
    assert_eq!(result("ok"), 0.0);
    assert_eq!(result("failed") + result("timeout"), count);
    assert!(count >= 30.0, "only {count} openings");
}

#[test]
fn five_hundred_stalled_handshakes_delay_nobody_and_end_in_time() {
    let port = free_port();
    let keys = "channels: 600, handshake_timeout: \"3s\",";
    let daemon = secured("Daytime", port, &format!("workers: 4, {SELF_SIGNED}"), keys);
    // Silent ones, and some that stop in the middle of a record.
    let mut stalled: Vec<TcpStream> = (0..500).map(|_| connect_from("127.0.63.1", port)).collect();
    for stream in stalled.iter_mut().step_by(2) {
        stream
            .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01")
            .unwrap();
    }
    daemon.wait_for_active("tls", 500);
    assert_says(&s_client(port, &[]), &["-UTC"]);
    assert_eq!(daemon.status()["workers"]["busy"], 0);
    daemon.wait_for_active("tls", 0);
    let timeouts = "portreeve_tls_handshakes_total{listener=\"tls\",result=\"timeout\"}";
    assert_eq!(daemon.metric(timeouts), 500.0);
}

#[test]
fn a_client_that_stops_reading_makes_nothing_grow() {
    let port = free_port();
    let daemon = secured("Echo", port, SELF_SIGNED, "");
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-quiet",
        "-connect",
        &format!("127.0.0.1:{port}"),
    ]);
    let mut client = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    // Its standard output is a pipe that nobody reads: it stops reading from us, and then we from it.
    let writer = std::thread::spawn(move || {
        let block = [b'x'; 65_536];
        (0..1024)
            .take_while(|_| stdin.write_all(&block).is_ok())
            .count()
    });
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = memory();
    pause(Duration::from_millis(500));
    assert!(
        memory() < before + 4_096,
        "{before} kB became {} kB",
        memory()
    );
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(writer.join().unwrap() < 1024, "64 MiB went somewhere");
    daemon.wait_for_active("tls", 0);
}

#[test]
fn testssl_finds_nothing() {
    let port = free_port();
    let _daemon = secured("Daytime", port, SELF_SIGNED, "limit_per_address: 50,");
    wait_until("the port answers", DEADLINE, || {
        try_connect("127.0.0.1", port).is_ok()
    });
    // The whole of it takes minutes; these are the parts that depend on what a server is set to.
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--warnings", "off", "--color", "0"]);
    command.args(["--protocols", "--server-preference", "--fs"]);
    command.arg(format!("127.0.0.1:{port}"));
    let output = output_within(command, b"", 12 * DEADLINE);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_says(
        &said,
        &["TLS 1.3    offered (OK): final", "PFS is offered (OK)"],
    );
    assert!(!said.contains("NOT ok"), "{said}");
}
