#![forbid(unsafe_code)]
//! One POP session per mailbox at a time (RFC 1939, 4), within this process.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parking_lot::Mutex;

/// One row per session that holds a mailbox: bounded by the listeners' channels.
static TAKEN: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// A mailbox that is one session's; given back by its drop.
#[derive(Debug)]
pub struct Lock(PathBuf);

/// Takes a mailbox; `None` when another session has it.
#[must_use]
pub fn lock(mailbox: &Path) -> Option<Lock> {
    let path = mailbox.to_path_buf();
    let taken = TAKEN.lock().insert(path.clone());
    taken.then(|| Lock(path))
}

impl Drop for Lock {
    fn drop(&mut self) {
        TAKEN.lock().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::lock;

    #[test]
    fn a_mailbox_is_one_sessions_at_a_time() {
        let path = Path::new("/lock-test/ann");
        let held = lock(path).unwrap();
        assert!(lock(path).is_none());
        assert!(lock(Path::new("/lock-test/bob")).is_some());
        drop(held);
        assert!(lock(path).is_some());
    }
}
