#![forbid(unsafe_code)]
//! Smtp and Pop past their openings: messages into a mailbox, and out of one. On disk, in memory where there is
//! such a place.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};

use super::maildir::Store;
use crate::connection::fuzzing::{converse, module};
use crate::dialogue::test_peer;
use crate::session::{Module, Peer, Security};

const SMTP: &str = "Smtp(hostname: \"mx.test\", domains: [\"a.test\"], max_message: \"1KiB\")";
/// What comes before the bytes: nothing yet, or a message that has begun.
const ENVELOPE: &str =
    "EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<ann@a.test>\r\nRCPT TO:<bob@a.test>\r\n";
const LOGIN: &str = "USER ann\r\nPASS secret\r\n";
/// Ends of lines of every kind, and dots.
const MESSAGES: [(&str, &str); 3] = [
    ("new/100.M1.host,S=20,W=20", "Subject: 1\r\n\r\nhello\r\n"),
    (
        "cur/200.M2.host,S=27:2,S",
        "Subject: 2\n\n.\n.two\n\nlines\n",
    ),
    ("new/300.M3.host", "Subject: 3\n"),
];

struct Place {
    home: PathBuf,
    peer: Peer,
    smtp: Arc<dyn Module>,
    pop: Arc<dyn Module>,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let home = parent.join(format!("portreeve-fuzz-mail-{}", std::process::id()));
    fs::create_dir_all(&home).expect("a directory");
    // A hash that costs nearly nothing.
    let params = Params::new(8, 1, 1, None).expect("parameters");
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon
        .hash_password_with_salt(b"secret", b"saltsalt")
        .expect("a hash");
    let accounts = format!("{{\"ann\": (password: \"{hash}\"), \"bob\": (password: \"{hash}\")}}");
    let file = home.join("accounts.ron");
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    std::io::Write::write_all(
        &mut options.open(&file).expect("a file"),
        accounts.as_bytes(),
    )
    .expect("a file");
    let server = format!("(state_dir: {home:?}, accounts: {file:?})");
    let mut peer = test_peer();
    (peer.security, peer.may_start_tls) = (Security::External, false);
    Place {
        peer,
        smtp: module(&server, SMTP),
        pop: module(&server, "Pop"),
        home,
    }
});

/// The first byte chooses: mail in, mail in whose text has begun, or mail out behind a login. The second is the
/// length of the pieces, less one; in one piece the same bytes get the same answers and leave the same messages.
///
/// # Panics
/// They do not, or what is on disk is not what was answered.
pub fn mail(bytes: &[u8]) {
    let [choice, piece, input @ ..] = bytes else {
        return;
    };
    let piece = usize::from(*piece) + 1;
    let run = |piece| match choice % 3 {
        0 => receive("", input, piece),
        1 => receive("DATA\r\n", input, piece),
        _ => fetch(input, piece),
    };
    let (whole, pieces) = (run(usize::MAX), run(piece));
    assert!(whole == pieces, "{whole:?} {pieces:?}");
}

/// What was said, and what is in the mailboxes.
type Seen = (String, Vec<String>);

fn receive(begin: &str, input: &[u8], piece: usize) -> Seen {
    let _ = fs::remove_dir_all(PLACE.home.join("mail"));
    let text = [ENVELOPE.as_bytes(), begin.as_bytes(), input].concat();
    let (said, _) = converse(&PLACE.smtp, &PLACE.peer, &text, piece);
    let said = String::from_utf8(said).expect("replies are text");
    let mut messages = Vec::new();
    for account in ["ann", "bob"] {
        messages.extend(read(account));
    }
    // A message to both is there twice, and nothing is there that was not answered with 250.
    let stored = said.matches("250 2.0.0 stored as ").count();
    assert!(
        (stored..=2 * stored).contains(&messages.len()),
        "{said} {messages:?}"
    );
    for message in &messages {
        let text = message.replace("\r\n", "");
        assert!(
            !text.contains(['\r', '\n']) && message.ends_with("\r\n"),
            "{message:?}"
        );
        assert!(message.starts_with("Return-Path: <"), "{message:?}");
    }
    let mut messages: Vec<String> = messages
        .iter()
        .map(|text| without_id(text, " id "))
        .collect();
    messages.sort();
    (without_id(&said, " stored as "), messages)
}

/// The texts in an account's inbox, which has no draft.
fn read(account: &str) -> Vec<String> {
    let inbox = Store::new(&PLACE.home).mailbox(account);
    let drafts = fs::read_dir(inbox.path().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(drafts, 0, "a draft is left");
    let text = |message: &super::maildir::Message| {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let mut file = inbox.open(message).expect("a message");
        file.read_to_end(&mut bytes).expect("a message");
        assert_eq!(message.wire_size(), Some(bytes.len() as u64));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    inbox
        .messages()
        .expect("a mailbox")
        .iter()
        .map(text)
        .collect()
}

/// Messages are numbered, so their names differ each time.
fn without_id(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| !letter.is_ascii_hexdigit());
        all.push_str(&part[end.unwrap_or(part.len())..]);
    }
    all
}

fn fetch(input: &[u8], piece: usize) -> Seen {
    let _ = fs::remove_dir_all(PLACE.home.join("mail"));
    let inbox = Store::new(&PLACE.home).mailbox("ann");
    inbox.create().expect("a mailbox");
    for (name, text) in MESSAGES {
        fs::write(inbox.path().join(name), text).expect("a message");
    }
    let text = [LOGIN.as_bytes(), input].concat();
    let (said, _) = converse(&PLACE.pop, &PLACE.peer, &text, piece);
    let said = String::from_utf8(said).expect("replies and messages are text");
    assert!(
        said.starts_with("+OK ready\r\n+OK and the password?\r\n+OK 3 messages, 64 bytes\r\n"),
        "{said}"
    );
    let left = inbox.messages().expect("a mailbox");
    let deleted = said.matches("+OK deleted at QUIT\r\n").count();
    let quit = said.ends_with("+OK goodbye\r\n");
    assert!(
        left.len() == 3 || quit && left.len() + deleted >= 3,
        "{said}"
    );
    assert!(
        super::lock::lock(inbox.path()).is_some(),
        "the mailbox is not given back"
    );
    let names = left
        .iter()
        .map(|message| message.file.to_string_lossy().into_owned());
    (said, names.collect())
}
