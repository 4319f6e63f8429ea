#![forbid(unsafe_code)]
//! Any bytes, said by somebody who is logged in, about messages of any bytes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::session::Conversation;
use super::write::Out;
use super::{MAX_MESSAGE, Shared};
use crate::dialogue::{answer, test_peer};
use crate::mail::access::{Access, Behind};
use crate::mail::folders::Folders;
use crate::mail::maildir::Store;
use crate::mail::mime::Part;
use crate::session::{Module, Peer, Session};

struct LoggedIn(Arc<Shared>, Folders);

impl Module for LoggedIn {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Conversation::logged_in(Arc::clone(&self.0), self.1.clone()))
    }
}

/// Before the first NUL stands what a client says, in pieces as long as the first byte says, behind it the text of
/// two messages, one with LF and one as it is.
///
/// # Panics
/// Work panics, or a file is left outside the mailbox.
pub fn imap(bytes: &[u8]) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some((piece, rest)) = bytes.split_first() else {
        return;
    };
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(rest.len());
    let (talk, message) = rest.split_at(end);
    let part = Part::read(message).expect("memory");
    super::body::structure(&part, true, &mut Out::default());
    super::body::envelope(message, &mut Out::default());

    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let home = std::env::temp_dir().join(format!("portreeve-fuzz-{}-{number}", std::process::id()));
    let store = Store::new(&home);
    let inbox = store.mailbox("ann");
    fill(inbox.path(), message);
    let shared = Arc::new(Shared {
        access: Access {
            accounts: Arc::default(),
            behind: Behind::Maildir(store),
            clients_only: false,
        },
        max_message: MAX_MESSAGE,
    });
    let module = LoggedIn(shared, Folders::new(inbox));
    let said = answer(&module, &test_peer(), talk, usize::from(*piece) + 1);
    let outside: Vec<_> = [home.clone(), home.join("mail")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder").flatten())
        .map(|entry| entry.file_name())
        .collect();
    let _ = fs::remove_dir_all(&home);
    assert_eq!(outside, ["mail", "ann"]);
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("[SERVERBUG]"), "{said}");
}

fn fill(inbox: &Path, message: &[u8]) {
    fs::create_dir_all(inbox.join("new")).expect("a folder");
    fs::create_dir_all(inbox.join("tmp")).expect("a folder");
    fs::create_dir_all(inbox.join("cur")).expect("a folder");
    fs::write(inbox.join("new/1.a"), message).expect("a file");
    let name = format!("cur/2.b,S={0},W={0}:2,Sa", message.len());
    fs::write(inbox.join(name), message).expect("a file");
}
