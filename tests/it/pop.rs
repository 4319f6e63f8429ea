//! Mail out, to clients that others wrote.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::harness::{assert_says, exits, output_within};
use crate::smtp::{curl, files, inbox, mail_server, python};

fn send(port: u16, subject: &str) {
    let text = format!("Subject: {subject}\n\n.dot\nbody\n");
    crate::smtp::send(port, "ann", text.as_bytes());
}

#[test]
fn curl_fetches_what_curl_has_sent() {
    let (_daemon, ports) = mail_server(4);
    send(ports.smtp, "hello");
    for (url, tls) in [
        (format!("pop3://127.0.0.1:{}/1", ports.pop), "--ssl"),
        (format!("pop3://127.0.0.1:{}/1", ports.pop), "--ssl-reqd"),
        (format!("pop3s://127.0.0.1:{}/1", ports.pops), "--ssl-reqd"),
    ] {
        let said = exits(&curl(&[&url, tls, "-u", "ann:ann"], b""), 0);
        assert_says(&said, &["Subject: hello\r\n\r\n.dot\r\nbody\r\n"]);
    }
    let url = format!("pop3://127.0.0.1:{}/", ports.pop);
    // CURLE_LOGIN_DENIED
    exits(&curl(&[&url, "-u", "ann:wrong"], b""), 67);
}

#[test]
fn poplib_lists_fetches_and_deletes_and_names_outlive_a_restart() {
    let (daemon, ports) = mail_server(4);
    for subject in ["one", "two", "three"] {
        send(ports.smtp, subject);
    }
    let script = r"
import poplib, sys
port, what = int(sys.argv[1]), sys.argv[2]
def login():
    client = poplib.POP3('127.0.0.1', port, timeout=20)
    client.user('ann')
    client.pass_('ann')
    return client
client = login()
if what == 'look':
    try:
        login()
        raise AssertionError('two sessions have the mailbox')
    except poplib.error_proto as error:
        assert b'[IN-USE]' in error.args[0], error
    count, size = client.stat()
    sizes = [int(line.split()[1]) for line in client.list()[1]]
    assert (count, sum(sizes)) == (3, size), (count, size, sizes)
    for number in range(1, 4):
        response, lines, octets = client.retr(number)
        assert sum(len(line) + 2 for line in lines) == sizes[number - 1], (lines, sizes)
        assert b'.dot' in lines
    response, lines, octets = client.top(1, 1)
    assert lines[-1] == b'.dot', lines
    client.dele(2)
    client.close()
    names = login().uidl()[1]
    print(b' '.join(names).decode())
else:
    client.dele(2)
    client.quit()
    client = login()
    names = client.uidl()[1]
    print(b' '.join(names).decode())
";
    let before = exits(&python(script, &[&ports.pop.to_string(), "look"]), 0);
    let daemon = daemon.restart();
    let after = exits(&python(script, &[&ports.pop.to_string(), "delete"]), 0);
    let name = |text: &str, index: usize| text.split_whitespace().nth(index).unwrap().to_owned();
    assert_eq!(name(&before, 1), name(&after, 1));
    assert_eq!(name(&before, 5), name(&after, 3), "{before}{after}");
    assert_eq!(inbox(&daemon, "ann").len(), 2);
}

#[test]
fn mpop_fetches_all_mail_over_tls_and_removes_it() {
    let (daemon, ports) = mail_server(4);
    (0..20).for_each(|number| send(ports.smtp, &number.to_string()));
    let home = tempfile::tempdir().unwrap();
    let inbox_of_mpop = home.path().join("Maildir");
    for part in ["tmp", "new", "cur"] {
        fs::create_dir_all(inbox_of_mpop.join(part)).unwrap();
    }
    let mut mpop = Command::new("mpop");
    mpop.env("HOME", home.path());
    mpop.args([
        "--host=127.0.0.1",
        "--user=ann",
        "--passwordeval=echo ann",
        "--auth=on",
        "--keep=off",
    ]);
    mpop.args([
        "--tls=on",
        "--tls-starttls=on",
        "--tls-certcheck=off",
        "--tls-trust-file=",
    ]);
    mpop.arg(format!("--port={}", ports.pop));
    mpop.arg(format!("--delivery=maildir,{}", inbox_of_mpop.display()));
    exits(&output_within(mpop, b"", Duration::from_secs(60)), 0);
    assert_eq!(files(&inbox_of_mpop.join("new")).len(), 20);
    assert!(inbox(&daemon, "ann").is_empty());
}

#[test]
fn fetchmail_carries_mail_from_one_mailbox_into_another() {
    let (daemon, ports) = mail_server(4);
    (0..10).for_each(|number| send(ports.smtp, &number.to_string()));
    let home = tempfile::tempdir().unwrap();
    let settings = home.path().join("fetchmailrc");
    let text = format!(
        "poll 127.0.0.1 protocol pop3 port {} uidl\n\
         user ann password ann ssl no sslcertck\n\
         smtphost 127.0.0.1/{} smtpname bob@example.org no keep\n",
        ports.pops, ports.smtp
    );
    fs::write(&settings, text).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o600)).unwrap();
    let mut fetchmail = Command::new("fetchmail");
    fetchmail
        .env("HOME", home.path())
        .env("FETCHMAILHOME", home.path())
        .args(["--nodetach", "--nosyslog", "--fetchmailrc"])
        .arg(&settings);
    exits(&output_within(fetchmail, b"", Duration::from_secs(60)), 0);
    assert!(inbox(&daemon, "ann").is_empty());
    let mut subjects: Vec<String> = inbox(&daemon, "bob")
        .iter()
        .map(|file| {
            let text = fs::read_to_string(file).unwrap();
            // fetchmail ends what it passes on with an empty line of its own.
            assert!(text.contains("\r\n\r\n.dot\r\nbody\r\n"), "{text:?}");
            let line = text.lines().find_map(|line| line.strip_prefix("Subject: "));
            line.unwrap().to_owned()
        })
        .collect();
    subjects.sort();
    let wanted: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(subjects, wanted);
}

#[test]
fn strangers_are_told_in_the_protocol_and_under_tls() {
    let (_daemon, ports) = mail_server(4);
    let script = r"
import poplib, socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for port, secured in [(int(sys.argv[1]), False), (int(sys.argv[2]), True)]:
    stream = socket.create_connection(('127.0.0.1', port), 20, ('127.0.0.67', 0))
    if secured:
        stream = context.wrap_socket(stream)
    said = b''
    while piece := stream.recv(4096):
        said += piece
    assert said.startswith(b'-ERR [SYS/PERM] ') and said.count(b'\n') == 1, said
";
    exits(
        &python(script, &[&ports.pop.to_string(), &ports.pops.to_string()]),
        0,
    );
}
