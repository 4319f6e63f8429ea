use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Delivery, Shared, Smtp};
use crate::accounts::Accounts;
use crate::dialogue::{check, check_as, test_peer};
use crate::mail::dialogues::check_all;
use crate::mail::maildir::Store;
use crate::session::Module;

fn smtp(accounts: &Arc<Accounts>, state_dir: &Path) -> Shared {
    Shared {
        hostname: "mx.example.org".to_owned(),
        domains: vec!["example.org".to_owned(), "exämple.org".to_owned()],
        accounts: Arc::clone(accounts),
        delivery: Delivery::Maildir(Store::new(state_dir)),
        max_message: 2048,
        greet_delay: None,
        complained: AtomicU64::new(0),
    }
}

fn accounts() -> Arc<Accounts> {
    Accounts::of(&[("ann", "secret", None), ("bob", "other", None)])
}

/// The texts of the messages in an account's inbox.
fn inbox(state_dir: &Path, account: &str) -> Vec<String> {
    let inbox = Store::new(state_dir).mailbox(account);
    let messages = inbox.messages().unwrap();
    let path =
        |message: &crate::mail::maildir::Message| inbox.path().join("new").join(&message.file);
    messages
        .iter()
        .map(|message| fs::read_to_string(path(message)).unwrap())
        .collect()
}

#[test]
fn every_dialogue_is_answered_as_written_at_every_chunk_size() {
    let home = tempfile::tempdir().unwrap();
    let accounts = accounts();
    check_all("smtp", |name| {
        let mut shared = smtp(&accounts, home.path());
        if name.contains("greet-delay") {
            shared.greet_delay = Some(Duration::from_secs(3));
        }
        Arc::new(Smtp(Arc::new(shared))) as Arc<dyn Module>
    });
}

const SEND: &str = "S: 220 *\nC: EHLO client.example\nS: 250-mx.example.org *\nS: 250-PIPELINING\nS: 250-SIZE 2048\n\
    S: 250-8BITMIME\nS: 250-SMTPUTF8\nS: 250-ENHANCEDSTATUSCODES\nS: 250-CHUNKING\nS: 250 STARTTLS\n\
    C: MAIL FROM:<joe@client.example>\nS: 250 *\nC: RCPT TO:<Ann@Example.ORG>\nS: 250 *\n";

#[test]
fn a_message_is_in_the_mailbox_with_its_dots_and_trace() {
    let home = tempfile::tempdir().unwrap();
    let module = Smtp(Arc::new(smtp(&accounts(), home.path())));
    let text = "C: DATA\nS: 354 *\nC: Subject: x\nC: \nC: ..\nC: ..a\nC: .\nS: 250 2.0.0 *\nC: QUIT\nS: 221 *\nS: <close>";
    check(&module, &format!("{SEND}{text}"));
    let messages = inbox(home.path(), "ann");
    assert!(messages.len() > 10, "one for each chunk size");
    for message in messages {
        let lines: Vec<&str> = message.split("\r\n").collect();
        assert_eq!(lines[0], "Return-Path: <joe@client.example>");
        assert_eq!(lines[1], "Received: from client.example ([192.0.2.1])");
        assert!(
            lines[2].starts_with("\tby mx.example.org with ESMTP id "),
            "{message}"
        );
        assert_eq!(lines[3], "\tfor <Ann@Example.ORG>;");
        assert_eq!(lines[5..], ["Subject: x", "", ".", ".a", ""]);
    }
}

#[test]
fn chunks_are_a_message_too_and_two_recipients_have_one_each() {
    let home = tempfile::tempdir().unwrap();
    let module = Smtp(Arc::new(smtp(&accounts(), home.path())));
    let text = "C: RCPT TO:<bob@example.org>\nS: 250 *\nC: RCPT TO:<BOB@example.org>\nS: 250 *\n\
        C: BDAT 9\nC: Subject: \\\nS: 250 2.0.0 *\nC: BDAT 6\nC: x\nC: \nC: .\\\nC: BDAT 0 LAST\n\
        S: 250 2.0.0 *\nS: 250 2.0.0 *\nC: QUIT\nS: 221 *\nS: <close>";
    check(&module, &format!("{SEND}{}", text));
    let messages = inbox(home.path(), "bob");
    assert!(messages.len() > 10);
    assert_eq!(inbox(home.path(), "ann").len(), messages.len());
    for message in messages {
        assert!(
            message.ends_with("\r\nSubject: x\r\n\r\n.\r\n"),
            "{message:?}"
        );
        assert!(!message.contains("for <"), "{message}");
    }
}

#[test]
fn a_refused_message_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let module = Smtp(Arc::new(smtp(&accounts(), home.path())));
    let long = format!("C: {}\n", "x".repeat(70)).repeat(40);
    let text = format!("{SEND}C: DATA\nS: 354 *\n{long}C: .\nS: 552 5.3.4 *\nC: NOOP\nS: 250 *");
    check(&module, &text);
    check(
        &module,
        &format!("{SEND}C: DATA\nS: 354 *\nC: half\nC: <eof>\nS: <close>"),
    );
    assert_eq!(inbox(home.path(), "ann"), Vec::<String>::new());
}

#[test]
fn a_message_that_goes_round_in_circles_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let module = Smtp(Arc::new(smtp(&accounts(), home.path())));
    for (hops, reply) in [(100, "250 2.0.0 *"), (101, "554 5.4.6 *")] {
        let header = "C: Received: x\n".repeat(hops);
        let text = format!(
            "{SEND}C: DATA\nS: 354 *\n{header}C: \nC: x\nC: .\nS: {reply}\nC: NOOP\nS: 250 *"
        );
        check(&module, &text);
    }
}

#[test]
fn a_disk_that_refuses_is_a_temporary_failure() {
    let home = tempfile::tempdir().unwrap();
    let module = Smtp(Arc::new(smtp(&accounts(), home.path())));
    fs::write(home.path().join("mail"), "a file in the way").unwrap();
    check(
        &module,
        &format!("{SEND}C: DATA\nS: 354 *\nC: x\nC: .\nS: 451 4.3.0 *\nC: NOOP\nS: 250 *"),
    );
}

#[test]
fn many_errors_close_the_session() {
    let home = tempfile::tempdir().unwrap();
    let module = Smtp(Arc::new(smtp(&accounts(), home.path())));
    let errors = "C: XYZZY\nS: 500 *\n".repeat(10);
    check(&module, &format!("S: 220 *\n{errors}S: 421 *\nS: <close>"));
    let idle = "C: NOOP\nS: 250 *\n".repeat(100);
    check(
        &module,
        &format!("S: 220 *\n{idle}C: NOOP\nS: 421 *\nS: <close>"),
    );
    let mut peer = test_peer();
    peer.remote.set_ip("127.0.0.1".parse().unwrap());
    let hello = SEND
        .split("C: MAIL")
        .next()
        .unwrap()
        .replace("250 STARTTLS", "250-STARTTLS\nS: 250 AUTH PLAIN LOGIN");
    let wrong = "C: AUTH PLAIN AGFubgB3cm9uZw==\nC: <alarm>\nS: 535 5.7.8 *\n".repeat(5);
    check_as(
        &module,
        &peer,
        &format!("{hello}{wrong}S: 421 *\nS: <close>"),
    );
}
