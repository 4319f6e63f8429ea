//! Runs the dialogues of tests/dialogues/: one file, one conversation. Lines `;; remote ADDRESS`, `;; blacklisted`,
//! `;; other`, `;; secure` and `;; no certificate` at its head tell who talks.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::dialogue::{check_as, test_peer};
use crate::session::{Class, Module, Peer, Security};

/// Checks every dialogue of a protocol; `module` makes what it talks to, from the file's name.
pub(crate) fn check_all(protocol: &str, module: impl Fn(&str) -> Arc<dyn Module>) {
    let folder = Path::new("tests/dialogues").join(protocol);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
    files.sort_by_key(std::fs::DirEntry::path);
    assert!(files.len() >= 5, "only {} dialogues", files.len());
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        println!("{name}");
        let text = fs::read_to_string(file.path()).unwrap();
        check_as(&*module(&name), &peer(&text), &text);
    }
}

fn peer(text: &str) -> Peer {
    let mut peer = test_peer();
    for line in text.lines().filter_map(|line| line.strip_prefix(";; ")) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("remote", address) => peer.remote.set_ip(address.parse().unwrap()),
            ("blacklisted", _) => peer.blacklisted = true,
            ("other", _) => peer.class = Class::Other,
            ("secure", _) => {
                peer.security = Security::External;
                peer.may_start_tls = false;
            }
            ("no", "certificate") => peer.may_start_tls = false,
            other => panic!("no such line: {other:?}"),
        }
    }
    peer
}
