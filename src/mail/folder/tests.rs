use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Arrival, Change, Folder, How};
use crate::mail::delivery::Delivery;
use crate::mail::flags::Flags;
use crate::mail::maildir::{Maildir, Store};
use crate::session::Waker;

fn deliver(inbox: &Maildir, text: &str) {
    let mut delivery = Delivery::begin(vec![inbox.clone()]).unwrap();
    delivery.write(text.as_bytes()).unwrap();
    delivery.finish().unwrap();
}

fn uids(folder: &Folder) -> Vec<u32> {
    folder
        .look()
        .unwrap()
        .entries()
        .iter()
        .map(|it| it.uid)
        .collect()
}

fn inbox(home: &Path) -> Maildir {
    Store::new(home).mailbox("ann")
}

#[test]
fn numbers_go_up_are_never_given_again_and_outlive_the_value() {
    let home = tempfile::tempdir().unwrap();
    let inbox = inbox(home.path());
    let validity = {
        let folder = Folder::open(&inbox, &inbox);
        assert!(uids(&folder).is_empty());
        (0..20).for_each(|number| deliver(&inbox, &format!("Subject: {number}\r\n\r\n")));
        assert_eq!(uids(&folder), (1..=20).collect::<Vec<_>>());
        // In the order of their delivery, though all came within a second.
        for uid in 1..=20 {
            let (file, _) = folder.message(uid).unwrap().unwrap();
            let text = std::io::read_to_string(file).unwrap();
            assert_eq!(text, format!("Subject: {}\r\n\r\n", uid - 1));
        }
        assert_eq!(folder.remove(&[20, 3, 77]), 0);
        folder.known().validity
    };
    let folder = Folder::open(&inbox, &inbox);
    deliver(&inbox, "x\r\n");
    assert_eq!(
        uids(&folder),
        [1, 2]
            .into_iter()
            .chain(4..=19)
            .chain([21])
            .collect::<Vec<_>>()
    );
    assert_eq!(folder.known().validity, validity);
    assert_eq!(folder.known().next, 22);
}

#[test]
fn what_other_programs_do_is_seen() {
    let home = tempfile::tempdir().unwrap();
    let inbox = inbox(home.path());
    let folder = Folder::open(&inbox, &inbox);
    assert!(uids(&folder).is_empty());
    let write = |name: &str| fs::write(inbox.path().join(name), "text\n").unwrap();
    write("new/1.a.host");
    write("cur/2.b.host:2,FS");
    assert_eq!(uids(&folder), [1, 2]);
    let (from, to) = (
        inbox.path().join("new/1.a.host"),
        inbox.path().join("cur/1.a.host:2,R"),
    );
    fs::rename(from, to).unwrap();
    // Found though we know an older name.
    assert!(folder.message(1).unwrap().is_some());
    assert_eq!(folder.known().entry(1).unwrap().flags, Flags::ANSWERED);
    fs::rename(
        inbox.path().join("cur/2.b.host:2,FS"),
        inbox.path().join("cur/2.b.host:2,"),
    )
    .unwrap();
    let change = Change {
        how: How::Add,
        flags: Flags::SEEN,
    };
    folder.store(&[1, 2, 9], change).unwrap();
    assert!(inbox.path().join("cur/1.a.host:2,RS").exists());
    assert!(inbox.path().join("cur/2.b.host:2,S").exists());
    fs::remove_file(inbox.path().join("cur/1.a.host:2,RS")).unwrap();
    assert_eq!(uids(&folder), [2]);
    // A message that comes back is another one: sessions were told that it had gone.
    write("cur/1.a.host:2,");
    assert_eq!(uids(&folder), [2, 3]);
}

#[test]
fn those_who_listen_are_told_of_deliveries_and_changes() {
    let home = tempfile::tempdir().unwrap();
    let inbox = inbox(home.path());
    let folder = Folder::open(&inbox, &inbox);
    uids(&folder);
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let ear = folder.listen(Waker::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    deliver(&inbox, "x\r\n");
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert!(folder.glance().is_none(), "the directories are to be read");
    assert_eq!(uids(&folder), [1]);
    assert!(folder.glance().is_some());
    let before = told.load(Ordering::Relaxed);
    folder
        .store(
            &[1],
            Change {
                how: How::Replace,
                flags: Flags::DELETED,
            },
        )
        .unwrap();
    assert!(told.load(Ordering::Relaxed) > before);
    drop(ear);
    let before = told.load(Ordering::Relaxed);
    folder.remove(&[1]);
    assert_eq!(told.load(Ordering::Relaxed), before);
}

#[test]
fn arrivals_come_in_all_or_none() {
    let home = tempfile::tempdir().unwrap();
    let inbox = inbox(home.path());
    let folder = Folder::open(&inbox, &inbox);
    uids(&folder);
    let arrival = |name: &str, flags| {
        let draft = inbox.path().join("tmp").join(name);
        fs::write(&draft, "x\r\n").unwrap();
        Arrival {
            draft,
            name: name.to_owned(),
            flags,
        }
    };
    let numbers = folder.adopt(&[
        arrival("1.a", Flags::default()),
        arrival("1.b", Flags::SEEN),
    ]);
    assert_eq!(numbers.unwrap(), [1, 2]);
    let mut lost = arrival("1.d", Flags::SEEN);
    lost.draft.push("nothing");
    assert!(folder.adopt(&[arrival("1.c", Flags::SEEN), lost]).is_err());
    assert_eq!(uids(&folder), [1, 2]);
    assert_eq!(folder.claim(), [1]);
    assert!(folder.claim().is_empty());
    assert!(inbox.path().join("cur/1.a:2,").exists());
}

#[test]
fn twenty_thousand_messages_open_in_seconds() {
    let home = tempfile::tempdir().unwrap();
    let inbox = inbox(home.path());
    inbox.create().unwrap();
    for number in 0..20_000 {
        fs::write(
            inbox
                .path()
                .join(format!("cur/1.M{number}P1Q{number}.h,S=0,W=0:2,S")),
            "",
        )
        .unwrap();
    }
    let begun = std::time::Instant::now();
    let folder = Folder::open(&inbox, &inbox);
    assert_eq!(folder.look().unwrap().entries().len(), 20_000);
    drop(folder);
    let folder = Folder::open(&inbox, &inbox);
    assert_eq!(folder.look().unwrap().next, 20_001);
    println!("{:?}", begun.elapsed());
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
