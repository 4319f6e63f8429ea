//! Mail in, from clients that others wrote; and what is on disk whatever happens.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{
    Conf, DEADLINE, Daemon, assert_says, connect_from, exits, free_port, output_of, output_within,
    wait_until,
};

/// Ports of a mail server under test.
pub(crate) struct Ports {
    pub(crate) smtp: u16,
    pub(crate) smtps: u16,
    pub(crate) pop: u16,
    pub(crate) pops: u16,
    pub(crate) imap: u16,
    pub(crate) imaps: u16,
}

/// A daemon with Smtp, Pop and Imap, and the accounts ann and bob whose passwords are their names.
#[track_caller]
pub(crate) fn mail_server(workers: u32) -> (Daemon, Ports) {
    let ports = Ports {
        smtp: free_port(),
        smtps: free_port(),
        pop: free_port(),
        pops: free_port(),
        imap: free_port(),
        imaps: free_port(),
    };
    let server = format!(
        "workers: {workers}, network: (blacklist: \"127.0.0.66\", clients: \"127.0.0.0/8\n!127.0.0.67\"),\n\
         domains: [(name: \"example.org\", certificate: SelfSigned)], default_domain: \"example.org\","
    );
    let listener = |module: &str, port: u16, secured: u16| {
        format!(
            "Tcp(module: {module}, channels: 1000, sockets: [(port: {port}), (port: {secured}, tls: On)])"
        )
    };
    let smtp =
        "Smtp(hostname: \"mx.example.org\", domains: [\"example.org\"], max_message: \"10MiB\")";
    let conf = Conf::new(&server)
        .listener("smtp", &listener(smtp, ports.smtp, ports.smtps))
        .listener(
            "pop",
            &listener("Pop(clients_only: true)", ports.pop, ports.pops),
        )
        .listener(
            "imap",
            &listener("Imap(clients_only: true)", ports.imap, ports.imaps),
        );
    for name in ["ann", "bob"] {
        let mut set = Command::new(crate::harness::binary());
        set.args(["account", "set", name, "--password-stdin", "--config"]);
        set.arg(conf.path());
        exits(&output_of(set, name.as_bytes()), 0);
    }
    (Daemon::start(conf), ports)
}

/// The files of an account's inbox that no client has seen.
pub(crate) fn inbox(daemon: &Daemon, account: &str) -> Vec<PathBuf> {
    files(
        &daemon
            .conf()
            .home()
            .join("var/mail")
            .join(account)
            .join("new"),
    )
}

pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).map(|all| all.flatten().map(|it| it.path()).collect());
    entries.unwrap_or_default()
}

pub(crate) fn curl(arguments: &[&str], input: &[u8]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-k", "--max-time", "20"]).args(arguments);
    output_within(curl, input, Duration::from_secs(30))
}

/// Sends a text with curl to an account of example.org.
#[track_caller]
pub(crate) fn send(port: u16, to: &str, text: &[u8]) {
    let url = format!("smtp://127.0.0.1:{port}/b.example");
    let to = format!("{to}@example.org");
    let arguments = ["--mail-from", "me@b.example", "--mail-rcpt", &to, "-T", "-"];
    exits(&curl(&[&[url.as_str()][..], &arguments].concat(), text), 0);
}

pub(crate) fn python(script: &str, arguments: &[&str]) -> Output {
    let mut python = Command::new("python3");
    python.args(["-c", script]).args(arguments);
    output_within(python, b"", Duration::from_secs(60))
}

#[test]
fn curl_sends_in_clear_with_starttls_and_under_tls() {
    let (daemon, ports) = mail_server(4);
    let urls = [
        (
            format!("smtp://127.0.0.1:{}/client.example", ports.smtp),
            "--ssl",
        ),
        (
            format!("smtp://127.0.0.1:{}/client.example", ports.smtp),
            "--ssl-reqd",
        ),
        (
            format!("smtps://127.0.0.1:{}/client.example", ports.smtps),
            "--ssl-reqd",
        ),
    ];
    for (count, (url, tls)) in urls.iter().enumerate() {
        let arguments = [
            url.as_str(),
            tls,
            "--mail-from",
            "me@b.example",
            "--mail-rcpt",
            "ann@example.org",
            "-u",
            "ann:ann",
            "-T",
            "-",
        ];
        exits(&curl(&arguments, b"Subject: hello\r\n\r\n.dot\r\n"), 0);
        assert_eq!(inbox(&daemon, "ann").len(), count + 1);
    }
    for file in inbox(&daemon, "ann") {
        let text = fs::read_to_string(file).unwrap();
        assert_says(
            &text,
            &[
                "Return-Path: <me@b.example>\r\n",
                "with ESMTPSA id",
                "(using TLSv1.3 with cipher TLS_",
            ],
        );
        assert!(text.ends_with("Subject: hello\r\n\r\n.dot\r\n"), "{text:?}");
    }
    assert_eq!(
        files(&daemon.conf().home().join("var/mail/ann/tmp")),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn swaks_and_smtplib_see_who_may_and_who_may_not() {
    let (_daemon, ports) = mail_server(4);
    let mut swaks = Command::new("swaks");
    swaks.args([
        "--server",
        &format!("127.0.0.1:{}", ports.smtp),
        "--tls",
        "--auth",
        "LOGIN",
    ]);
    swaks.args(["--auth-user", "bob@example.org", "--auth-password", "bob"]);
    swaks.args([
        "--from",
        "a@b.example",
        "--to",
        "bob@example.org,ANN@example.org",
    ]);
    let said = exits(&output_within(swaks, b"", Duration::from_secs(30)), 0);
    assert_says(&said, &["235 2.7.0", "250 2.0.0 stored as"]);
    let script = r"
import smtplib, sys
port = int(sys.argv[1])
def code(call):
    try:
        call()
        return 250
    except smtplib.SMTPRecipientsRefused as error:
        return sorted(code for code, _ in error.recipients.values())
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
def sends(source, *to):
    with smtplib.SMTP('127.0.0.1', port, 'client.example', source_address=(source, 0)) as client:
        return code(lambda: client.sendmail('a@b.example', to, 'Subject: x\n\nx\n'))
assert sends('127.0.0.1', 'ann@example.org') == 250
assert sends('127.0.0.1', 'nobody@example.org', 'ann@else.example') == [550, 550]
assert sends('127.0.0.66', 'ann@example.org', 'nobody@example.org') == [550, 550]
client = smtplib.SMTP('127.0.0.1', port, 'client.example')
assert code(lambda: client.login('ann', 'wrong')) == 535
assert code(lambda: client.login('ann', 'ann')) == 250
assert code(lambda: client.sendmail('a@b.example', 'ann@example.org', 'x' * 11_000_000)) == 552
assert code(lambda: client.sendmail('a@b.example', 'ann@example.org', 'x' * 9_000_000)) == 250
";
    exits(&python(script, &[&ports.smtp.to_string()]), 0);
}

#[test]
fn smtp_source_finds_each_message_on_disk_exactly_once() {
    let (daemon, ports) = mail_server(4);
    let mut source = Command::new("/usr/sbin/smtp-source");
    source.args([
        "-s",
        "50",
        "-m",
        "500",
        "-l",
        "3000",
        "-f",
        "me@b.example",
        "-t",
        "ann@example.org",
    ]);
    source.arg(format!("127.0.0.1:{}", ports.smtp));
    exits(&output_within(source, b"", Duration::from_secs(120)), 0);
    let files = inbox(&daemon, "ann");
    assert_eq!(files.len(), 500);
    let id = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("Message-Id:"))
            .map(str::to_owned);
        line.unwrap()
    };
    let ids: HashSet<String> = files.iter().map(id).collect();
    assert_eq!(ids.len(), 500);
}

/// Sends messages with numbers as their subjects over twenty connections, and prints the number of each that was
/// answered with 250.
const SENDERS: &str = r"
import smtplib, sys, threading
port, lock = int(sys.argv[1]), threading.Lock()
def send(first):
    client = smtplib.SMTP('127.0.0.1', port, 'client.example')
    number = first
    while True:
        client.sendmail('a@b.example', 'ann@example.org', f'Subject: {number}\n\n' + 'x' * 5000)
        with lock:
            print(number, flush=True)
        number += 20
def run(first):
    try:
        send(first)
    except (smtplib.SMTPException, OSError):
        pass
threads = [threading.Thread(target=run, args=(first,)) for first in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
";

#[test]
fn whatever_was_answered_with_250_is_there_after_kill_9() {
    let (mut daemon, ports) = mail_server(4);
    let mut senders = Command::new("python3")
        .args(["-c", SENDERS, &ports.smtp.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(senders.stdout.take().unwrap()).lines();
    let mut answered: Vec<String> = lines.by_ref().take(100).map(Result::unwrap).collect();
    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_exit(DEADLINE);
    answered.extend(lines.map(Result::unwrap));
    assert!(senders.wait().unwrap().success());
    let mut stored: HashSet<String> = HashSet::new();
    for file in inbox(&daemon, "ann") {
        let text = fs::read_to_string(&file).unwrap();
        let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
        assert!(
            text.ends_with(&format!("{}\r\n", "x".repeat(5000))),
            "half a message in {file:?}"
        );
        assert!(
            stored.insert(subject.unwrap().to_owned()),
            "twice: {subject:?}"
        );
    }
    for number in &answered {
        assert!(
            stored.contains(number),
            "message {number} was answered and is not there"
        );
    }
    assert!(answered.len() >= 100);
}

#[test]
fn a_lone_line_feed_around_a_dot_smuggles_nothing() {
    let (daemon, ports) = mail_server(4);
    let mut stream = connect_from("127.0.0.1", ports.smtp);
    let smuggled =
        "MAIL FROM:<evil@b.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: evil\r\n\r\n";
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"] {
        let text = format!(
            "EHLO b.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nSubject: x\r\n\r\na{end}{smuggled}\r\n.\r\n"
        );
        stream.write_all(text.as_bytes()).unwrap();
    }
    stream.write_all(b"QUIT\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("250 2.0.0 stored").count(), 6, "{said}");
    assert_eq!(inbox(&daemon, "ann").len(), 6);
    assert!(inbox(&daemon, "bob").is_empty());
    for file in inbox(&daemon, "ann") {
        let text = fs::read_to_string(file).unwrap();
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    }
}

#[test]
fn nine_hundred_slow_clients_in_the_middle_of_messages_hold_no_thread() {
    let (daemon, ports) = mail_server(2);
    let begin = b"EHLO b.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nSubject: slow\r\n\r\nx";
    let slow: Vec<_> = (0..900)
        .map(|_| {
            let mut stream = connect_from("127.0.0.1", ports.smtp);
            stream.write_all(begin).unwrap();
            stream
        })
        .collect();
    daemon.wait_for_active("smtp", 900);
    send(ports.smtp, "bob", b"Subject: quick\n\n");
    assert_eq!(inbox(&daemon, "bob").len(), 1);
    drop(slow);
    daemon.wait_for_active("smtp", 0);
    // Half a message is no message, and leaves no draft.
    wait_until("the drafts are gone", DEADLINE, || {
        files(&daemon.conf().home().join("var/mail/ann/tmp")).is_empty()
    });
    assert!(inbox(&daemon, "ann").is_empty());
}
