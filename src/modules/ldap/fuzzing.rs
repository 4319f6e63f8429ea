#![forbid(unsafe_code)]
//! The ways in for fuzz targets.

use std::sync::{Arc, LazyLock};

use super::message::{self, head};
use super::{Directory, Ldap, Shared, read};
use crate::accounts::Accounts;
use crate::dialogue::test_peer;
use crate::session::Module;

const TEXT: &str = "dn: dc=org\nobjectClass: domain\n\n\
    dn: uid=ann,dc=org\nobjectClass: inetOrgPerson\ncn: Ann\nsn: Lee\nuidNumber: 5\nmanager: uid=ann,dc=org\n\
    description;lang-de: x\ncreateTimestamp: 20260101000000Z\ntelephoneNumber: +1 5\n";

static MODULE: LazyLock<Arc<dyn Module>> = LazyLock::new(|| {
    let tree = read(TEXT.as_bytes()).expect("good entries");
    Arc::new(Ldap::Directory(Arc::new(Shared {
        directory: Directory::new(tree, None, Arc::<Accounts>::default()),
        clients_only: false,
        size_limit: None,
        time_limit: None,
    })))
});

/// A client's bytes: in one piece and in pieces of the first byte's size they get the same answers, which are
/// messages.
pub fn ldap(bytes: &[u8]) {
    let Some((piece, input)) = bytes.split_first() else {
        return;
    };
    let peer = test_peer();
    let whole = crate::connection::fuzzing::converse(&MODULE, &peer, input, usize::MAX);
    let pieces =
        crate::connection::fuzzing::converse(&MODULE, &peer, input, usize::from(*piece) + 1);
    assert!(whole == pieces, "{whole:?} {pieces:?}");
    let mut said = &whole.0[..];
    while let Some(head) = head(said).expect("our own message") {
        // Cancel's codes are not RFC 4511's.
        let _ = message::read(&said[..head.total]);
        said = &said[head.total..];
    }
    assert!(said.is_empty());
}

/// Any file: it is entries, or its mistakes stand in it.
pub fn ldif(bytes: &[u8]) {
    let Err(mistakes) = read(bytes) else {
        return;
    };
    assert!(!mistakes.is_empty());
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    for mistake in mistakes {
        let line = lines
            .get(mistake.line as usize - 1)
            .expect("a line of the file");
        assert!(mistake.column as usize <= line.len() + 2, "{mistake:?}");
    }
}
