use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::{Imap, Shared};
use crate::accounts::Accounts;
use crate::dialogue::{answer, check_as};
use crate::mail::access::{Access, Behind};
use crate::mail::dialogues::check_all;
use crate::mail::maildir::Store;
use crate::session::{Module, Peer};

fn imap(accounts: &Arc<Accounts>, state_dir: &Path, clients_only: bool) -> Imap {
    Imap(Arc::new(Shared {
        access: Access {
            accounts: Arc::clone(accounts),
            behind: Behind::Maildir(Store::new(state_dir)),
            clients_only,
        },
        max_message: 1 << 20,
    }))
}

/// RFC 3501, 8 and 7.4.2, and what it has no example for.
fn fill(state_dir: &Path) {
    let inbox = Store::new(state_dir).mailbox("ann");
    inbox.create().unwrap();
    let write = |name: &str, text: &str| {
        let path = inbox.path().join(name);
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        // 17-Jul-1996 02:44:25 +0000
        file.set_modified(UNIX_EPOCH + Duration::from_secs(837_571_465))
            .unwrap();
    };
    fs::write(inbox.path().join("portreeve-keywords"), "$Label\n").unwrap();
    write("cur/100.M1.host:2,", "Subject: 1\n\na\nb\nc\n");
    let minutes = "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nFrom: Terry Gray <gray@cac.washington.edu>\r\n\
        Subject: IMAP4rev1 WG mtg summary and minutes\r\nTo: imap@cac.washington.edu\r\n\
        cc: minutes@CNRI.Reston.VA.US, John Klensin <KLENSIN@MIT.EDU>\r\n\
        Message-Id: <B27397-0100000@cac.washington.edu>\r\nMIME-Version: 1.0\r\n\
        Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\nX-Filler: x\r\n\r\nhello\r\nhello\r\n";
    write(
        &format!("cur/200.M2.host,S={0},W={0}:2,Sa", minutes.len()),
        minutes,
    );
    write(
        "new/300.M3.host",
        "Subject: 3\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe=20=\n\n--x\nContent-Type: message/rfc822\n\
         Content-Disposition: attachment; filename=m.eml\n\nSubject: inner\n\nneedle\nx\n--x--\n",
    );
}

fn local() -> Peer {
    let mut peer = crate::dialogue::test_peer();
    peer.remote.set_ip("127.0.0.1".parse().unwrap());
    peer
}

fn accounts() -> Arc<Accounts> {
    Accounts::of(&[("ann", "secret", None)])
}

#[test]
fn every_dialogue_is_answered_as_written_at_every_chunk_size() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let accounts = accounts();
    check_all("imap", |name| {
        Arc::new(imap(&accounts, home.path(), name.contains("clients-only"))) as Arc<dyn Module>
    });
}

/// What a session says to these lines in a mailbox of its own, at several chunk sizes: always the same, but for
/// UIDVALIDITY.
#[track_caller]
fn said(lines: &[&str]) -> String {
    let accounts = accounts();
    let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mut first: Option<String> = None;
    for chunk in [usize::MAX, 1, 2, 7, 64] {
        let home = tempfile::tempdir().unwrap();
        fill(home.path());
        let said = answer(
            &imap(&accounts, home.path(), false),
            &local(),
            text.as_bytes(),
            chunk,
        );
        let mut said = String::from_utf8(said).unwrap();
        let file = home.path().join("mail/ann/portreeve-uidvalidity");
        if let Ok(last) = fs::read_to_string(file) {
            let last: u32 = last.trim().parse().unwrap();
            for back in 0..4 {
                said = said.replace(&(last - back).to_string(), "V");
            }
        }
        match &first {
            Some(first) => assert_eq!(first, &said, "in chunks of {chunk}"),
            None => first = Some(said),
        }
    }
    first.unwrap()
}

const LOGIN: &str = "0 LOGIN ann secret";
const SELECT: &str = "1 SELECT INBOX";

#[track_caller]
fn has(said: &str, lines: &[&str]) {
    let mut rest = said;
    for line in lines {
        let at = rest.find(&format!("{line}\r\n"));
        let at = at.unwrap_or_else(|| panic!("{line:?} does not follow in:\n{said}"));
        rest = &rest[at + line.len()..];
    }
}

#[test]
fn flags_are_stored_and_messages_expunged() {
    let said = said(&[
        LOGIN,
        SELECT,
        "2 STORE 1 +FLAGS (\\Deleted $Mine)",
        "3 UID STORE 1:2 FLAGS.SILENT (\\Deleted \\Recent)",
        "4 FETCH 1:* FLAGS",
        "5 UID EXPUNGE 2:3",
        "6 STORE 2 FLAGS ()",
        "7 EXPUNGE",
        "8 FETCH 1 (BODY[TEXT]<0.1>)",
        "9 CLOSE",
        "10 FETCH 1 FLAGS",
        "11 STATUS INBOX (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)",
    ]);
    has(
        &said,
        &[
            "* 3 EXISTS",
            "* 1 RECENT",
            "1 OK [READ-WRITE] selected",
            "* FLAGS (\\Draft \\Flagged $Forwarded \\Answered \\Seen \\Deleted $Label $Mine)",
            "* 1 FETCH (FLAGS (\\Deleted $Mine))",
            "2 OK stored",
            "3 OK stored",
            "* 1 FETCH (FLAGS (\\Deleted))",
            "* 2 FETCH (FLAGS (\\Deleted))",
            "* 3 FETCH (FLAGS (\\Recent))",
            "* 2 EXPUNGE",
            "5 OK expunged",
            "* 2 FETCH (FLAGS (\\Recent))",
            "6 OK stored",
            "* 1 EXPUNGE",
            "7 OK expunged",
            "* 1 FETCH (FLAGS (\\Seen \\Recent) BODY[TEXT]<0> {1}",
            "-)",
            "9 OK closed",
            "10 BAD no mailbox is selected",
            "* STATUS INBOX (MESSAGES 1 RECENT 0 UIDNEXT 4 UIDVALIDITY V UNSEEN 0)",
        ]
        .map(|line| line.replace("STATUS INBOX", "STATUS \"INBOX\""))
        .each_ref()
        .map(String::as_str),
    );
}

#[test]
fn messages_are_appended_copied_and_moved() {
    let said = said(&[
        LOGIN,
        "1 CREATE Sent",
        "2 CREATE &U,BTFw-/a.b/",
        "3 LIST \"\" *",
        "4 LIST \"\" %",
        "5 APPEND Sent (\\Seen $x) \"17-Jul-1996 02:44:25 +0200\" {9+}",
        "X: y",
        "",
        "z",
        "6 APPEND {4+}",
        "Sent {0+}",
        "",
        "7 APPEND Sent {3+}",
        "a\0b",
        // What a second message says is no command.
        "71 APPEND Sent {1+}",
        "x {14+}",
        "99 CREATE evil",
        "8 SELECT Sent",
        "9 FETCH 1 (INTERNALDATE RFC822.SIZE FLAGS BODY.PEEK[])",
        "10 COPY 1:2 &U,BTFw-/a.b",
        "11 MOVE 1 INBOX",
        "12 UID COPY 2 nowhere",
        "13 APPEND Sent {1+}",
        "x",
        "14 RENAME Sent Archive",
        "15 NOOP",
        "16 CREATE x",
    ]);
    has(
        &said,
        &[
            "1 OK done",
            "2 OK done",
            "* LIST (\\Noselect \\HasChildren) \"/\" \"&U,BTFw-\"",
            "* LIST (\\HasNoChildren) \"/\" \"&U,BTFw-/a.b\"",
            "* LIST (\\HasNoChildren) \"/\" \"INBOX\"",
            "* LIST (\\HasNoChildren \\Sent) \"/\" \"Sent\"",
            "3 OK listed",
            "* LIST (\\Noselect \\HasChildren) \"/\" \"&U,BTFw-\"",
            "* LIST (\\HasNoChildren) \"/\" \"INBOX\"",
            "5 OK [APPENDUID V 1] it is there",
            "6 OK [APPENDUID V 2] it is there",
            "7 NO [CANNOT] a message has no NUL in it",
            "71 BAD one message is taken at a time",
            "* 2 EXISTS",
            "* 1 RECENT",
            "* OK [UNSEEN 2] the first unseen",
            "* 1 FETCH (INTERNALDATE \"17-Jul-1996 00:44:25 +0000\" RFC822.SIZE 9 FLAGS (\\Seen $x) BODY[] {9}",
            "X: y",
            "",
            "z)",
            "10 OK [COPYUID V 1:2 1:2] copied",
            "* OK [COPYUID V 1 4] moved",
            "* 1 EXPUNGE",
            "11 OK moved",
            "12 NO [TRYCREATE] there is no such mailbox",
            "* 2 EXISTS",
            "13 OK [APPENDUID V 3] it is there",
            "* BYE the mailbox is gone or cannot be read",
        ],
    );
    assert!(!said.contains("16 OK"), "{said}");
    assert!(!said.contains("99 OK"), "{said}");
}

#[test]
fn subscriptions_are_listed() {
    let said = said(&[
        LOGIN,
        "1 SUBSCRIBE a/b",
        "2 SUBSCRIBE inbox",
        "3 LSUB \"\" *",
        "4 LSUB \"\" %",
        "5 UNSUBSCRIBE a/b",
        "6 LSUB a/ *",
        "7 LIST \"\" \"\"",
        "8 DELETE INBOX",
        "9 DELETE nothing",
        "10 IDLE",
        "DONE",
        "11 UNSELECT",
    ]);
    has(
        &said,
        &[
            "* LSUB () \"/\" \"INBOX\"",
            "* LSUB () \"/\" \"a/b\"",
            "3 OK listed",
            "* LSUB () \"/\" \"INBOX\"",
            "* LSUB (\\Noselect) \"/\" \"a\"",
            "4 OK listed",
            "5 OK done",
            "6 OK listed",
            "* LIST (\\Noselect) \"/\" \"\"",
            "8 NO [CANNOT] the inbox stays",
            "9 NO [NONEXISTENT] there is no such mailbox",
            "+ idling",
            "10 OK idled",
            "11 BAD no mailbox is selected",
        ],
    );
}

#[test]
fn sessions_hear_of_each_other_when_their_numbers_allow_it() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let accounts = accounts();
    let module = imap(&accounts, home.path(), false);
    let (mut one, mut other) = (
        crate::dialogue::Run::new(&module, &local(), usize::MAX),
        crate::dialogue::Run::new(&module, &local(), usize::MAX),
    );
    let mut tell = |which: usize, text: &str| {
        let run = if which == 0 { &mut one } else { &mut other };
        run.send(format!("{text}\r\n").as_bytes());
        String::from_utf8(std::mem::take(&mut run.said)).unwrap()
    };
    for which in 0..2 {
        tell(which, LOGIN);
        tell(which, SELECT);
    }
    tell(0, "2 STORE 1 +FLAGS.SILENT \\Deleted");
    assert_eq!(
        tell(1, "2 NOOP"),
        "* 1 FETCH (FLAGS (\\Deleted))\r\n2 OK done\r\n"
    );
    assert!(tell(0, "3 EXPUNGE").contains("* 1 EXPUNGE\r\n3 OK"));
    // Its numbers stay what they are in FETCH, STORE and SEARCH.
    assert_eq!(
        tell(1, "3 FETCH 1:2 UID"),
        "* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2)\r\n3 OK fetched\r\n"
    );
    assert_eq!(
        tell(1, "4 FETCH 1 RFC822.SIZE"),
        "4 OK [EXPUNGEISSUED] some messages are gone\r\n"
    );
    assert_eq!(
        tell(1, "5 SEARCH 1:3 SMALLER 9999"),
        "* SEARCH 2 3\r\n5 OK searched\r\n"
    );
    assert_eq!(
        tell(1, "6 STORE 3 +FLAGS \\Flagged"),
        "* 3 FETCH (FLAGS (\\Flagged))\r\n6 OK stored\r\n"
    );
    assert_eq!(tell(1, "7 NOOP"), "* 1 EXPUNGE\r\n7 OK done\r\n");
    assert_eq!(
        tell(0, "4 NOOP"),
        "* 2 FETCH (FLAGS (\\Flagged \\Recent))\r\n4 OK done\r\n"
    );
    // IDLE is told at once.
    assert_eq!(tell(1, "8 IDLE"), "+ idling\r\n");
    tell(0, "5 APPEND INBOX {1+}\r\nx");
    other.settle();
    assert_eq!(
        String::from_utf8(std::mem::take(&mut other.said)).unwrap(),
        "* 3 EXISTS\r\n* 0 RECENT\r\n"
    );
}

#[test]
fn guessing_and_babbling_are_ended() {
    let home = tempfile::tempdir().unwrap();
    let accounts = accounts();
    let module = imap(&accounts, home.path(), false);
    let wrong = "C: a LOGIN ann wrong\nC: <alarm>\nS: a NO [AUTHENTICATIONFAILED] *\n".repeat(5);
    check_as(
        &module,
        &local(),
        &format!("S: * OK *\n{wrong}S: * BYE *\nS: <close>"),
    );
    let errors = "C: a XYZZY\nS: a BAD *\n".repeat(20);
    check_as(
        &module,
        &local(),
        &format!("S: * OK *\n{errors}S: * BYE *\nS: <close>"),
    );
    let noops = "C: a NOOP\nS: a OK done\n".repeat(100);
    check_as(
        &module,
        &local(),
        &format!("S: * OK *\n{noops}C: a NOOP\nS: * BYE *\nS: <close>"),
    );
    check_as(
        &module,
        &local(),
        "S: * OK *\nC: a LOGIN x {9999999999+}\nS: a BAD *\nS: * BYE *\nS: <close>",
    );
}
