#![forbid(unsafe_code)]
//! Who wants to be told of changes in which mailbox folder, within this process.
//!
//! A session that waits for news keeps a [`Watch`]; it holds no thread. The table has one row for each of
//! them, so it is bounded by the listeners' channels.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::session::Waker;

#[derive(Default)]
struct Table {
    next: u64,
    by_folder: HashMap<PathBuf, HashMap<u64, Waker>>,
}

/// One for the process: the module that delivers and the one that reads are not the same.
static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// A session's wish to be told; ends with its drop.
#[derive(Debug)]
pub struct Watch {
    folder: PathBuf,
    id: u64,
}

/// From now on each change in a folder uses this waker.
#[must_use]
pub fn watch(folder: &Path, waker: Waker) -> Watch {
    let mut table = TABLE.lock();
    let id = table.next;
    table.next += 1;
    let row = table.by_folder.entry(folder.to_path_buf()).or_default();
    row.insert(id, waker);
    Watch {
        folder: folder.to_path_buf(),
        id,
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        if let Some(row) = table.by_folder.get_mut(&self.folder) {
            row.remove(&self.id);
            if row.is_empty() {
                table.by_folder.remove(&self.folder);
            }
        }
    }
}

/// Tells everybody who watches a folder that it has changed.
pub fn wake(folder: &Path) {
    let wakers: Vec<Waker> = match TABLE.lock().by_folder.get(folder) {
        Some(row) => row.values().cloned().collect(),
        None => return,
    };
    // Not under the lock: a waker queues a turn.
    wakers.iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{TABLE, wake, watch};
    use crate::session::Waker;

    #[test]
    fn those_who_watch_a_folder_are_told_until_they_stop() {
        let (one, other) = (Path::new("/watch-test/one"), Path::new("/watch-test/other"));
        let told = Arc::new(AtomicU32::new(0));
        let waker = || {
            let told = Arc::clone(&told);
            Waker::new(move || {
                told.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (first, second) = (watch(one, waker()), watch(one, waker()));
        wake(one);
        wake(other);
        assert_eq!(told.load(Ordering::Relaxed), 2);
        drop(first);
        wake(one);
        assert_eq!(told.load(Ordering::Relaxed), 3);
        drop(second);
        wake(one);
        assert_eq!(told.load(Ordering::Relaxed), 3);
        assert!(!TABLE.lock().by_folder.contains_key(one));
    }
}
