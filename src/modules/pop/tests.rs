use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::Pop;
use crate::accounts::Accounts;
use crate::dialogue::check_as;
use crate::mail::access::{Access, Behind};
use crate::mail::dialogues::check_all;
use crate::mail::maildir::Store;
use crate::session::{Module, Peer};

fn pop(accounts: &Arc<Accounts>, state_dir: &Path, clients_only: bool) -> Pop {
    Pop(Arc::new(Access {
        accounts: Arc::clone(accounts),
        behind: Behind::Maildir(Store::new(state_dir)),
        clients_only,
    }))
}

/// A mailbox with three messages, as RFC 1939's examples have two.
fn fill(state_dir: &Path) {
    let inbox = Store::new(state_dir).mailbox("ann");
    inbox.create().unwrap();
    let write = |name: &str, text: &str| fs::write(inbox.path().join(name), text).unwrap();
    write("new/100.M1.host,S=20,W=20", "Subject: 1\r\n\r\nhello\r\n");
    write(
        "cur/200.M2.host,S=27:2,S",
        "Subject: 2\n\n.\n.two\n\nlines\n",
    );
    write("new/300.M3.host", "Subject: 3\n");
}

fn local() -> Peer {
    let mut peer = crate::dialogue::test_peer();
    peer.remote.set_ip("127.0.0.1".parse().unwrap());
    peer
}

#[test]
fn every_dialogue_is_answered_as_written_at_every_chunk_size() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let accounts = Accounts::of(&[("ann", "secret", None), ("bob", " a b ", None)]);
    check_all("pop", |name| {
        Arc::new(pop(&accounts, home.path(), name.contains("clients-only"))) as Arc<dyn Module>
    });
}

#[test]
fn only_quit_removes_what_was_deleted() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let accounts = Accounts::of(&[("ann", "secret", None)]);
    let module = pop(&accounts, home.path(), false);
    let count = || {
        Store::new(home.path())
            .mailbox("ann")
            .messages()
            .unwrap()
            .len()
    };
    let login = "S: +OK *\nC: USER ann\nS: +OK *\nC: PASS secret\nS: +OK *\nC: DELE 1\nS: +OK *\n";
    for end in [
        "C: <eof>\nS: <close>",
        "C: <timeout>\nS: <close>",
        "C: <shutdown>\nS: -ERR *\nS: <close>",
    ] {
        check_as(&module, &local(), &format!("{login}{end}"));
        assert_eq!(count(), 3, "{end}");
    }
    let mut deleted = login.to_owned();
    deleted += "C: DELE 2\nS: +OK *\nC: QUIT\nS: +OK *\nS: <close>";
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check_as(&module, &local(), &deleted)
    }));
    // The dialogue is run again and again, and the messages are gone the second time.
    assert!(run.is_err());
    assert_eq!(count(), 1);
}

#[test]
fn one_session_has_a_mailbox() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let accounts = Accounts::of(&[("ann", "secret", None)]);
    let module = pop(&accounts, home.path(), false);
    let held = crate::mail::lock::lock(Store::new(home.path()).mailbox("ann").path()).unwrap();
    let login = "S: +OK *\nC: USER ann\nS: +OK *\nC: PASS secret\n";
    check_as(
        &module,
        &local(),
        &format!("{login}S: -ERR [IN-USE] *\nC: QUIT\nS: +OK *\nS: <close>"),
    );
    drop(held);
    check_as(
        &module,
        &local(),
        &format!("{login}S: +OK 3 messages, 64 bytes\nC: QUIT\nS: +OK *\nS: <close>"),
    );
}

#[test]
fn guessing_is_slowed_and_then_ended() {
    let home = tempfile::tempdir().unwrap();
    let accounts = Accounts::of(&[("ann", "secret", None)]);
    let module = pop(&accounts, home.path(), false);
    let wrong = "C: USER ann\nS: +OK *\nC: PASS wrong\nC: NOOP\nC: <alarm>\nS: -ERR [AUTH] *\nS: -ERR not now\n".repeat(4);
    let last = "C: USER nobody\nS: +OK *\nC: PASS x\nC: <alarm>\nS: -ERR [AUTH] *\nS: <close>";
    check_as(&module, &local(), &format!("S: +OK *\n{wrong}{last}"));
    let asking = "C: USER ann\nS: +OK *\n".repeat(100);
    check_as(
        &module,
        &local(),
        &format!("S: +OK *\n{asking}C: USER ann\nS: -ERR too many *\nS: <close>"),
    );
    let errors = "C: XYZZY\nS: -ERR *\n".repeat(20);
    check_as(&module, &local(), &format!("S: +OK *\n{errors}S: <close>"));
}
