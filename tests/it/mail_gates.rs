//! Smtp, Pop and Imap before other servers: Postfix, Dovecot, and some that die or never answer.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use crate::foreign::Foreign;
use crate::harness::{
    Conf, DEADLINE, Daemon, assert_says, connect_from, exits, free_port, wait_until,
};
use crate::smtp::{files, python, send};

fn smtp_gate(delivery: &str, port: u16) -> Daemon {
    let text = format!(
        "Tcp(module: Smtp(hostname: \"gate.example\", domains: [\"example.org\"], delivery: {delivery}), channels: 500, sockets: [(port: {port})])"
    );
    let server = "workers: 1, network: (blacklist: \"127.0.0.66\"),";
    Daemon::start(Conf::new(server).listener("smtp", &text))
}

/// Sends lines and answers what comes back until the connection ends.
fn talk(source: &str, port: u16, text: &str) -> String {
    let mut stream = connect_from(source, port);
    stream.write_all(text.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn postfix_gets_what_passes_and_knows_who_sent_it() {
    let (behind, port) = (free_port(), free_port());
    let postfix = Foreign::postfix(behind);
    let _daemon = smtp_gate(&format!("Smtp(\"localhost:{behind}\")"), port);
    let text = "EHLO c.example\r\nMAIL FROM:<me@b.example>\r\nRCPT TO:<ann@example.org>\r\nRCPT TO:<nobody@example.org>\r\n\
        RCPT TO:<x@else.example>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\nlone\n.\nfeed\r\n.\r\n\
        MAIL FROM:<me@b.example>\r\nRCPT TO:<ann@example.org>\r\nRSET\r\n\
        MAIL FROM:<>\r\nRCPT TO:<ann@example.org>\r\nBDAT 6\r\nx: y\r\nBDAT 11 LAST\r\n\r\n.a\r\n.\r\n\r\nQUIT\r\n";
    let said = talk("127.0.0.5", port, text);
    assert_says(
        &said,
        &[
            "8BITMIME",
            "SMTPUTF8",
            "550 5.1.1 <nobody@example.org>",
            "550 5.7.1 this server does not relay",
        ],
    );
    assert_eq!(said.matches("250 2.0.0 Ok: queued").count(), 2, "{said}");
    let new = postfix.home().join("mail/ann/new");
    wait_until("postfix delivers two messages", DEADLINE, || {
        files(&new).len() == 2
    });
    let mut texts: Vec<String> = files(&new)
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    texts.sort_by_key(|text| text.contains("x: y"));
    assert_says(
        &texts[0],
        &[
            "from c.example (unknown [127.0.0.5])",
            "by gate.example with ESMTP id",
            "\n.dot\nlone\n.\nfeed\n",
        ],
    );
    assert!(
        texts[1].contains("\nx: y\n") && texts[1].ends_with("\n\n.a\n.\n\n"),
        "{}",
        texts[1]
    );
    // A blacklisted client is heard out here, and postfix is not asked.
    let said = talk(
        "127.0.0.66",
        port,
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<ann@example.org>\r\nRCPT TO:<nobody@example.org>\r\nQUIT\r\n",
    );
    assert_eq!(said.matches("550 5.7.1").count(), 2, "{said}");
    // Large messages are streamed, in both directions' pace.
    let large = "Subject: large\n\n".to_owned() + &"0123456789abcdef\n".repeat(300_000);
    send(port, "ann", large.as_bytes());
    wait_until("postfix delivers the large one", DEADLINE, || {
        files(&new).len() == 3
    });
    assert!(
        files(&new)
            .iter()
            .any(|file| fs::metadata(file).unwrap().len() > 5_000_000)
    );
}

#[test]
fn dovecot_lets_in_whom_it_knows_and_its_refusal_is_passed_on() {
    let (behind, lmtp, port) = (free_port(), free_port(), free_port());
    let dovecot = Foreign::dovecot(behind, free_port(), lmtp);
    let smtp = smtp_gate(&format!("Lmtp(\"127.0.0.1:{lmtp}\")"), free_port());
    let smtp_port = smtp.status()["listeners"][0]["sockets"][0]["port"]
        .as_u64()
        .unwrap();
    let said = talk(
        "127.0.0.5",
        u16::try_from(smtp_port).unwrap(),
        "EHLO c.example\r\nMAIL FROM:<me@b.example>\r\nRCPT TO:<ann@example.org>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n",
    );
    assert_says(&said, &["452 4.5.3 too many recipients", "Saved"]);
    assert_eq!(files(&dovecot.home().join("mail/ann/new")).len(), 1);
    let text = format!(
        "Tcp(module: Pop(store: Upstream(\"localhost:{behind}\")), sockets: [(port: {port})])"
    );
    let _daemon = Daemon::start(Conf::new("workers: 1,").listener("pop", &text));
    let script = r"
import poplib, sys
client = poplib.POP3('127.0.0.1', int(sys.argv[1]), timeout=20)
assert 'IMPLEMENTATION' in client.capa()
for wrong in ['wrong', 'guess']:
    client.user('ann')
    try:
        client.pass_(wrong)
        raise AssertionError('let in')
    except poplib.error_proto as error:
        assert b'[AUTH]' in error.args[0], error
client.user('ann')
client.pass_('secret')
count, size = client.stat()
assert count == 1, count
assert b'hello' in client.retr(1)[1]
client.dele(1)
client.quit()
";
    exits(&python(script, &[&port.to_string()]), 0);
    let mailbox = dovecot.home().join("mail/ann");
    wait_until("dovecot removes the message", DEADLINE, || {
        files(&mailbox.join("new")).is_empty() && files(&mailbox.join("cur")).is_empty()
    });
}

/// An upstream that follows a script: for each line `<` it reads a line, the others it says; then it closes.
fn scripted(script: &'static str) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut heard = String::new();
        for line in script.lines().map(str::trim) {
            if line == "<" {
                lines.read_line(&mut heard).unwrap();
            } else {
                stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
            }
        }
        heard
    });
    (port, thread)
}

const MESSAGE: &str = "EHLO c.example\r\nMAIL FROM:<me@b.example>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n";

#[test]
fn an_upstream_that_is_down_or_dies_is_a_temporary_failure() {
    let dead = free_port();
    let port = free_port();
    let daemon = smtp_gate(&format!("Smtp(\"127.0.0.1:{dead}\")"), port);
    let said = talk("127.0.0.1", port, "EHLO c\r\nMAIL FROM:<a@b>\r\nQUIT\r\n");
    assert_says(&said, &["\r\n451 4.4.1"]);
    assert!(!said.contains("8BITMIME"), "{said}");
    drop(daemon);
    for (script, answer) in [
        ("421 busy", "451 4.4.1"),
        ("220 hi\n<\n250 hi\n<", "451 4.4.1"),
        ("220 hi\n<\n250 hi\n<\n250 ok\n<", "451 4.4.1"),
        ("220 hi\n<\n250 hi\n<\n250 ok\n<\n250 ok\n<", "451 4.4.1"),
        (
            "220 hi\n<\n250 hi\n<\n250 ok\n<\n250 ok\n<\n354 go",
            "451 4.4.1",
        ),
        (
            "220 hi\n<\n250 hi\n<\n250 ok\n<\n250 ok\n<\n354 go\n<\n<\n<\n<\n<\n<",
            "451 4.4.1",
        ),
        ("220 hi\n<\n250 hi\n<\n354 go", "451 4.4.1"),
        (
            "220 hi\n<\n250 hi\n<\n250 ok\n<\n250 ok\n<\n250 2.0.0 stored",
            "451 4.4.1",
        ),
        ("220 hi\n<\n250 hi\n<\n250 ok\n<\n450 later\n<", "450 later"),
        (
            "220 hi\n<\n250 hi\n<\n250 ok\n<\n250 ok\n<\n354 go\n<\n<\n<\n<\n<\n<\n452 full",
            "452 full",
        ),
    ] {
        let (behind, upstream) = scripted(script);
        let port = free_port();
        let _daemon = smtp_gate(&format!("Smtp(\"127.0.0.1:{behind}\")"), port);
        let said = talk("127.0.0.1", port, MESSAGE);
        assert_says(&said, &[answer]);
        assert!(
            !said.contains("250 2.0.0") && !said.contains("250 queued"),
            "{script}:\n{said}"
        );
        upstream.join().unwrap();
    }
}

#[test]
fn an_upstream_that_never_answers_holds_no_thread() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let behind = silent.local_addr().unwrap().port();
    let (port, pop, imap) = (free_port(), free_port(), free_port());
    let gate = |module: &str, port: u16| {
        format!("Tcp(module: {module}, channels: 300, sockets: [(port: {port})])")
    };
    let upstream = format!("127.0.0.1:{behind}");
    let smtp = format!("Smtp(domains: [\"example.org\"], delivery: Smtp(\"{upstream}\"))");
    let conf = Conf::new("workers: 1,")
        .listener("smtp", &gate(&smtp, port))
        .listener(
            "pop",
            &gate(&format!("Pop(store: Upstream(\"{upstream}\"))"), pop),
        )
        .listener(
            "imap",
            &gate(&format!("Imap(store: Upstream(\"{upstream}\"))"), imap),
        )
        .listener("echo", &gate("Echo", free_port()));
    let daemon = Daemon::start(conf);
    let begin = |port: u16, text: &str| -> TcpStream {
        let mut stream = connect_from("127.0.0.1", port);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let _waiting: Vec<TcpStream> = (0..100)
        .flat_map(|_| {
            [
                begin(port, "EHLO c\r\n"),
                begin(pop, "USER ann\r\nPASS secret\r\n"),
                begin(imap, "a LOGIN ann secret\r\n"),
            ]
        })
        .collect();
    daemon.wait_for_active("smtp", 100);
    daemon.wait_for_active("pop", 100);
    daemon.wait_for_active("imap", 100);
    let echo = daemon.listener("echo")["sockets"][0]["port"]
        .as_u64()
        .unwrap();
    crate::harness::admitted("127.0.0.1", u16::try_from(echo).unwrap());
}

#[test]
fn an_upstream_is_told_who_connected() {
    let script = "<\n+OK hi\n<\n+OK\n<\n+OK welcome\nmore\n<";
    let (behind, upstream) = scripted(script);
    let port = free_port();
    let text = format!(
        "Tcp(module: Pop(store: Upstream(\"127.0.0.1:{behind}\"), send_proxy: V1), sockets: [(port: {port})])"
    );
    let _daemon = Daemon::start(Conf::new("workers: 1,").listener("pop", &text));
    let said = talk("127.0.0.5", port, "USER ann\r\nPASS a b \r\nSTAT\r\n");
    assert_says(&said, &["\r\n+OK welcome\r\nmore\r\n"]);
    let heard = upstream.join().unwrap();
    let lines: Vec<&str> = heard.lines().collect();
    assert!(
        lines[0].starts_with("PROXY TCP4 127.0.0.5 127.0.0.1 "),
        "{heard}"
    );
    assert_eq!(lines[1..], ["USER ann", "PASS a b ", "STAT"]);
}

#[test]
fn dovecot_serves_imap_behind_the_gate() {
    let (behind, port) = (free_port(), free_port());
    let dovecot = Foreign::dovecot(free_port(), behind, free_port());
    let text = format!(
        "Tcp(module: Imap(store: Upstream(\"localhost:{behind}\")), sockets: [(port: {port})])"
    );
    let _daemon = Daemon::start(Conf::new("workers: 1,").listener("imap", &text));
    let script = r"
import imaplib, sys
client = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]), timeout=20)
assert 'MOVE' not in client.capabilities, 'our own, before the login'
for wrong in ['wrong', 'guess']:
    try:
        client.login('ann', wrong)
        raise AssertionError('let in')
    except imaplib.IMAP4.error as error:
        assert 'AUTHENTICATIONFAILED' in str(error), error
client.login('ann', 'secret')
client.capability()
assert client.append('INBOX', '', None, b'Subject: x\r\n\r\nhello\r\n')[0] == 'OK'
assert client.select('INBOX')[1] == [b'1']
assert b'hello' in client.fetch('1', '(BODY[])')[1][0][1]
client.logout()
";
    exits(&python(script, &[&port.to_string()]), 0);
    let mailbox = dovecot.home().join("mail/ann/cur");
    assert_eq!(files(&mailbox).len(), 1);
}

#[test]
fn an_imap_upstream_is_told_who_connected_and_its_words_are_passed_on() {
    let script =
        "<\n* OK hi\n<\n* CAPABILITY IMAP4rev1 X\nP1 OK [CAPABILITY X] welcome\n* 1 EXISTS\n<";
    let (behind, upstream) = scripted(script);
    let port = free_port();
    let text = format!(
        "Tcp(module: Imap(store: Upstream(\"127.0.0.1:{behind}\"), send_proxy: V1), sockets: [(port: {port})])"
    );
    let _daemon = Daemon::start(Conf::new("workers: 1,").listener("imap", &text));
    let said = talk("127.0.0.5", port, "a1 LOGIN ann \"a b\"\r\na2 NOOP\r\n");
    assert_says(
        &said,
        &["* CAPABILITY IMAP4rev1 X\r\na1 OK [CAPABILITY X] welcome\r\n* 1 EXISTS\r\n"],
    );
    let heard = upstream.join().unwrap();
    let lines: Vec<&str> = heard.lines().collect();
    assert!(
        lines[0].starts_with("PROXY TCP4 127.0.0.5 127.0.0.1 "),
        "{heard}"
    );
    assert_eq!(lines[1..], ["P1 LOGIN \"ann\" \"a b\"", "a2 NOOP"]);
}
