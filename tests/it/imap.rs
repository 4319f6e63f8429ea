//! Mail kept on the server, with clients that others wrote; and what is there whatever happens.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{
    Conf, DEADLINE, Daemon, assert_says, connect_from, exits, free_port, output_within,
    raise_descriptors, wait_until,
};
use crate::smtp::{curl, files, mail_server, python, send};

#[test]
fn curl_reads_what_curl_has_sent_in_clear_with_starttls_and_under_tls() {
    let (_daemon, ports) = mail_server(4);
    send(ports.smtp, "ann", b"Subject: hello\n\n.dot\nbody\n");
    for (url, tls) in [
        (format!("imap://127.0.0.1:{}", ports.imap), "--ssl"),
        (format!("imap://127.0.0.1:{}", ports.imap), "--ssl-reqd"),
        (format!("imaps://127.0.0.1:{}", ports.imaps), "--ssl-reqd"),
    ] {
        let said = exits(
            &curl(
                &[&format!("{url}/INBOX;MAILINDEX=1"), tls, "-u", "ann:ann"],
                b"",
            ),
            0,
        );
        assert_says(&said, &["Subject: hello\r\n\r\n.dot\r\nbody\r\n"]);
        let said = exits(&curl(&[&format!("{url}/"), tls, "-u", "ann:ann"], b""), 0);
        assert_says(&said, &["* LIST (\\HasNoChildren) \"/\" \"INBOX\""]);
    }
    let url = format!("imap://127.0.0.1:{}/", ports.imap);
    // CURLE_LOGIN_DENIED
    exits(&curl(&[&url, "-u", "ann:wrong"], b""), 67);
}

#[test]
fn imaplib_keeps_mail_in_folders_and_numbers_outlive_a_restart() {
    let (daemon, ports) = mail_server(4);
    send(ports.smtp, "ann", b"Subject: first\n\nhello\n");
    let script = r"
import imaplib, sys
def ok(answer):
    assert answer[0] == 'OK', answer
    return answer[1]
client = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]), timeout=30)
client.starttls(__import__('ssl')._create_unverified_context())
client.login('ann', 'ann')
if sys.argv[2] == 'before':
    for name in ['Sent', 'Drafts', 'Lists/Rust', 'Entw&APw-rfe']:
        ok(client.create(name))
        ok(client.subscribe(name))
    for number in range(50):
        ok(client.append('Sent', r'(\Seen)', imaplib.Time2Internaldate(1700000000 + number),
            b'Subject: %d\r\n\r\n' % number + b'x' * number * 5000))
    ok(client.select('INBOX'))
    ok(client.copy('1', 'Drafts'))
    ok(client.store('1', '+FLAGS', r'(\Deleted todo)'))
    ok(client.expunge())
    assert ok(client.search(None, 'ALL')) == [b''], 'expunged'
    ok(client.close())
else:
    names = [line.split(b' ')[-1] for line in ok(client.list())]
    assert b'\x22Entw&APw-rfe\x22' in names and b'\x22Lists\x22' in names, names
    assert len(ok(client.lsub())) == 4
    assert any(b'Sent' in line and b'\\Sent' in line for line in ok(client.list('\x22\x22', 'Sent')))
ok(client.select('Sent'))
sizes = ok(client.fetch('1:*', '(UID FLAGS RFC822.SIZE INTERNALDATE)'))
assert len(sizes) == 50 and b'\\Seen' in sizes[7] and b'14-Nov-2023 22:13:27' in sizes[7], sizes[7]
for number in (0, 1, 49):
    header, text = ok(client.uid('FETCH', str(number + 1), '(BODY.PEEK[])'))[0]
    assert text == b'Subject: %d\r\n\r\n' % number + b'x' * number * 5000, header
assert ok(client.search(None, 'SUBJECT', '49')) == [b'50']
validity = client.response('UIDVALIDITY')[1]
ok(client.select('Drafts'))
assert ok(client.uid('SEARCH', 'ALL')) == [b'1']
client.logout()
print(validity)
";
    let before = exits(&python(script, &[&ports.imap.to_string(), "before"]), 0);
    let _daemon = daemon.restart();
    let after = exits(&python(script, &[&ports.imap.to_string(), "after"]), 0);
    assert_eq!(before, after);
}

/// How many messages a Maildir has.
fn count(mailbox: &Path) -> usize {
    files(&mailbox.join("new")).len() + files(&mailbox.join("cur")).len()
}

#[test]
fn mbsync_syncs_a_thousand_messages_both_ways_without_loss_or_duplicate() {
    let (daemon, ports) = mail_server(4);
    let home = tempfile::tempdir().unwrap();
    let (near, far) = (
        home.path().join("near/INBOX"),
        daemon.conf().home().join("var/mail/ann"),
    );
    for (mailbox, side) in [(&near, "near"), (&far, "far")] {
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(mailbox.join(part)).unwrap();
        }
        for number in 0..500 {
            let text =
                format!("Message-ID: <{side}.{number}@a.example>\nSubject: {number}\n\nhello\n");
            fs::write(mailbox.join(format!("new/{number}.{side}.host")), text).unwrap();
        }
    }
    let conf = format!(
        "IMAPAccount a\nHost 127.0.0.1\nPort {}\nUser ann\nPass ann\nSSLType None\nTimeout 120\n\n\
         IMAPStore far\nAccount a\n\nMaildirStore near\nPath {2}/near/\nInbox {1}\nSubFolders Verbatim\n\n\
         Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Both\nExpunge Both\nSyncState *\n",
        ports.imap,
        near.display(),
        home.path().display()
    );
    fs::write(home.path().join("mbsyncrc"), conf).unwrap();
    let sync = || {
        let mut mbsync = Command::new("mbsync");
        mbsync
            .env("HOME", home.path())
            .arg("-c")
            .arg(home.path().join("mbsyncrc"))
            .arg("-a");
        exits(&output_within(mbsync, b"", Duration::from_secs(300)), 0)
    };
    let ids = |mailbox: &Path| {
        let mut ids: HashMap<String, usize> = HashMap::new();
        for file in ["new", "cur"]
            .iter()
            .flat_map(|part| files(&mailbox.join(part)))
        {
            let text = fs::read_to_string(file).unwrap();
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: "));
            *ids.entry(id.unwrap().trim().to_owned()).or_default() += 1;
        }
        assert!(ids.values().all(|times| *times == 1), "twice: {ids:?}");
        ids.len()
    };
    // Again and again: nothing is copied twice.
    for _ in 0..2 {
        sync();
        assert_eq!((ids(&near), ids(&far)), (1000, 1000));
    }
    // Flags go one way, and deletions the other.
    let file = files(&near.join("cur"))
        .into_iter()
        .chain(files(&near.join("new")))
        .next()
        .unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let stem = name.split(":2,").next().unwrap();
    fs::rename(&file, near.join("cur").join(format!("{stem}:2,FT"))).unwrap();
    let script = r"
import imaplib, sys
client = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]), timeout=30)
client.login('ann', 'ann')
client.select('INBOX')
client.store('7', '+FLAGS', r'\Deleted')
client.expunge()
client.logout()
";
    exits(&python(script, &[&ports.imap.to_string()]), 0);
    sync();
    let left = count(&far);
    assert!(
        left == 998 || left == 999,
        "{left}, where one was chosen at each side"
    );
    assert_eq!((ids(&near), ids(&far)), (left, left));
}

const APPENDERS: &str = r"
import imaplib, re, sys, threading
def run(which):
    try:
        client = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]), timeout=20)
        client.login('ann', 'ann')
        for number in range(100000):
            name = '%d.%d' % (which, number)
            answer = client.append('INBOX', None, None, b'Subject: %s\r\n\r\n' % name.encode() + b'x' * 5000 + b'\r\n')
            uid = re.search(rb'APPENDUID \d+ (\d+)', answer[1][0]).group(1).decode()
            sys.stdout.write(name + ' ' + uid + '\n')
            sys.stdout.flush()
    except (OSError, imaplib.IMAP4.abort):
        pass
threads = [threading.Thread(target=run, args=(which,)) for which in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
";

#[test]
fn whatever_was_appended_is_there_with_its_number_after_kill_9() {
    let (mut daemon, ports) = mail_server(4);
    let mut clients = Command::new("python3")
        .args(["-c", APPENDERS, &ports.imap.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(clients.stdout.take().unwrap()).lines();
    let mut answered: Vec<String> = lines.by_ref().take(100).map(Result::unwrap).collect();
    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_exit(DEADLINE);
    answered.extend(lines.map(Result::unwrap));
    assert!(clients.wait().unwrap().success());
    let daemon = daemon.restart();
    let mut stream = log_in(ports.imap, "ann");
    stream.write_all(b"b EXAMINE INBOX\r\nc FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])\r\nd FETCH 1:* RFC822.SIZE\r\ne LOGOUT\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    for row in &answered {
        let (name, uid) = row.split_once(' ').unwrap();
        let length = "Subject: \r\n\r\n".len() + name.len();
        let wanted =
            format!("(UID {uid} BODY[HEADER.FIELDS (SUBJECT)] {{{length}}}\r\nSubject: {name}\r\n");
        assert!(
            said.contains(&wanted),
            "{row} was answered and is not there"
        );
    }
    for line in said.lines().filter(|line| line.contains("RFC822.SIZE")) {
        let size: usize = line
            .split([' ', ')'])
            .filter_map(|word| word.parse().ok())
            .next_back()
            .unwrap();
        assert!(size > 5000, "half a message: {line}");
    }
    assert!(daemon.log().is_empty() || !daemon.log().contains("panicked"));
}

/// A connection of somebody who is logged in.
fn log_in(port: u16, name: &str) -> TcpStream {
    let mut stream = connect_from("127.0.0.1", port);
    stream
        .write_all(format!("a LOGIN {name} {name}\r\n").as_bytes())
        .unwrap();
    read_until(&mut stream, "a OK");
    stream
}

/// Reads until a text has come, and the line it is in.
#[track_caller]
fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut said, mut byte) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut byte).unwrap_or_else(|error| {
            panic!(
                "{error}, waiting for {wanted:?}: {}",
                String::from_utf8_lossy(&said)
            )
        });
        assert!(
            count > 0,
            "ended before {wanted:?}: {}",
            String::from_utf8_lossy(&said)
        );
        said.extend_from_slice(&byte[..count]);
        let text = String::from_utf8_lossy(&said);
        if text.contains(wanted) && text.ends_with("\r\n") {
            return text.into_owned();
        }
    }
}

#[test]
fn five_thousand_in_idle_are_told_of_a_delivery_and_no_others() {
    // Both ends' processes need one descriptor each for a connection, and other tests run beside this one.
    let sessions = raise_descriptors().saturating_sub(3_000).min(5_000);
    let (smtp, imap) = (free_port(), free_port());
    let account = |name: &str| format!("\"{name}\": (password: \"{HASH}\"),");
    let accounts = format!("{{ {} {} }}", account("ann"), account("bob"));
    let conf = Conf::new("workers: 8,")
        .listener(
            "smtp",
            &format!("Tcp(module: Smtp(domains: [\"example.org\"]), sockets: [(port: {smtp})])"),
        )
        .listener(
            "imap",
            &format!("Tcp(module: Imap, channels: 6000, sockets: [(port: {imap})])"),
        )
        .file("accounts.ron", &accounts);
    let daemon = Daemon::start(conf);
    let mut held = Vec::new();
    for number in 0..sessions {
        let name = if number % 10 == 0 { "bob" } else { "ann" };
        let mut stream = connect_from(&format!("127.0.31.{}", 1 + number % 20), imap);
        stream.set_nodelay(true).unwrap();
        let talk = format!("a LOGIN {name} ann\r\nb SELECT INBOX\r\nc IDLE\r\n");
        // From loopback a login in clear is taken.
        stream.write_all(talk.as_bytes()).unwrap();
        held.push((name, stream));
        if held.len() % 8 == 0 {
            let at = held.len() - 8;
            for (_, stream) in &mut held[at..] {
                read_until(stream, "+ idling\r\n");
            }
        }
    }
    held.truncate(held.len() / 8 * 8);
    wait_until("those in IDLE hold no worker", 3 * DEADLINE, || {
        daemon.status()["workers"]["busy"] == 0
    });
    send(smtp, "ann", b"Subject: x\n\nhello\n");
    let begun = Instant::now();
    for (_, stream) in held.iter_mut().filter(|(name, _)| *name == "ann") {
        stream.set_read_timeout(Some(3 * DEADLINE)).unwrap();
        assert!(read_until(stream, "* 1 EXISTS\r\n").contains("EXISTS"));
    }
    println!("{} were told within {:?}", held.len(), begun.elapsed());
    for (_, stream) in held.iter_mut().filter(|(name, _)| *name == "bob") {
        stream.set_nonblocking(true).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let (_, one) = held.last_mut().unwrap();
    one.set_nonblocking(false).unwrap();
    one.write_all(b"DONE\r\n").unwrap();
    read_until(one, "c OK idled\r\n");
}

/// Of "ann", by bcrypt with the least cost: five thousand logins take no time.
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuuM6FPLgOtR6dv0kmYED7zeUf5sV0A6b.";

#[test]
fn one_in_idle_is_told_of_a_new_message_within_a_second() {
    let (_daemon, ports) = mail_server(4);
    let mut stream = log_in(ports.imap, "ann");
    stream.write_all(b"b SELECT INBOX\r\nc IDLE\r\n").unwrap();
    read_until(&mut stream, "+ idling");
    for number in 1..=5 {
        send(ports.smtp, "ann", b"Subject: x\n\nhello\n");
        let begun = Instant::now();
        read_until(&mut stream, &format!("* {number} EXISTS\r\n"));
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    // What Pop removes is told, too.
    let script = r"
import poplib, sys
client = poplib.POP3('127.0.0.1', int(sys.argv[1]), timeout=20)
client.user('ann')
client.pass_('ann')
client.dele(2)
client.quit()
";
    exits(&python(script, &[&ports.pop.to_string()]), 0);
    read_until(&mut stream, "* 2 EXPUNGE\r\n");
}

#[test]
fn strangers_are_told_in_the_protocol_and_under_tls() {
    let (_daemon, ports) = mail_server(4);
    let script = r"
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for port, secured in [(int(sys.argv[1]), False), (int(sys.argv[2]), True)]:
    stream = socket.create_connection(('127.0.0.1', port), 20, ('127.0.0.67', 0))
    if secured:
        stream = context.wrap_socket(stream)
    said = b''
    while piece := stream.recv(4096):
        said += piece
    assert said.startswith(b'* BYE ') and said.count(b'\n') == 1, said
";
    exits(
        &python(script, &[&ports.imap.to_string(), &ports.imaps.to_string()]),
        0,
    );
}
