#![forbid(unsafe_code)]
//! A folder as several sessions see it at once: its messages in the order of their numbers, with their flags.
//!
//! There is one [`Folder`] for each directory that any session of this process has open, and it is dropped with the
//! last of them. What other programs change is found by looking at the directories again: when their times of change
//! tell of it, or when somebody in this process says so ([`watch`](super::watch)).

mod change;
mod state;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::{Mutex, MutexGuard};

pub use self::change::{Arrival, Change, How};
pub use self::state::{Entry, State};
use super::maildir::Maildir;
use super::watch::{Watch, watch};
use crate::session::Waker;

/// A folder that sessions have open.
pub struct Folder {
    maildir: Maildir,
    /// The directory of the account's inbox.
    account: PathBuf,
    state: Mutex<State>,
    /// Somebody said that the directories have changed.
    is_dirty: AtomicBool,
    /// It was deleted or has another name now.
    is_gone: AtomicBool,
    ears: Mutex<Ears>,
    _watch: Watch,
}

/// Sessions that wait for news, at most one row for each of them.
#[derive(Default)]
struct Ears {
    next: u64,
    wakers: HashMap<u64, Waker>,
}

/// A session's wish to be told of changes; ends with its drop.
pub struct Ear {
    folder: Arc<Folder>,
    id: u64,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.folder.ears.lock().wakers.remove(&self.id);
    }
}

/// The folders that are open: bounded by the sessions that have them open.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Folder>>>> = LazyLock::new(Mutex::default);

impl Folder {
    /// The folder of a directory. Nothing is read yet.
    #[must_use]
    pub fn open(maildir: &Maildir, account: &Maildir) -> Arc<Self> {
        let mut open = OPEN.lock();
        if let Some(folder) = open.get(maildir.path()).and_then(Weak::upgrade) {
            return folder;
        }
        let folder = Arc::new_cyclic(|weak: &Weak<Folder>| {
            let told = weak.clone();
            let waker = Waker::new(move || {
                if let Some(folder) = told.upgrade() {
                    folder.is_dirty.store(true, Ordering::Release);
                    folder.tell();
                }
            });
            Folder {
                maildir: maildir.clone(),
                account: account.path().to_path_buf(),
                state: Mutex::default(),
                is_dirty: AtomicBool::new(false),
                is_gone: AtomicBool::new(false),
                ears: Mutex::default(),
                _watch: watch(maildir.path(), waker),
            }
        });
        open.insert(maildir.path().to_path_buf(), Arc::downgrade(&folder));
        folder
    }

    /// The directory.
    #[must_use]
    pub fn maildir(&self) -> &Maildir {
        &self.maildir
    }

    /// Wakes a session at each change.
    #[must_use]
    pub fn listen(self: &Arc<Self>, waker: Waker) -> Ear {
        let mut ears = self.ears.lock();
        let id = ears.next;
        ears.next += 1;
        ears.wakers.insert(id, waker);
        Ear {
            folder: Arc::clone(self),
            id,
        }
    }

    /// Wakes those who listen.
    fn tell(&self) {
        let wakers: Vec<Waker> = self.ears.lock().wakers.values().cloned().collect();
        wakers.iter().for_each(Waker::wake);
    }

    /// True once the directory is no folder any more, or one with another name.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// The folders at and below a directory's name are gone: whoever has one open is told, and nobody opens it again
    /// by this value.
    pub(super) fn forget(paths: &[PathBuf]) {
        let gone: Vec<Arc<Folder>> = {
            let mut open = OPEN.lock();
            let gone = paths.iter().filter_map(|path| open.remove(path));
            gone.filter_map(|folder| folder.upgrade()).collect()
        };
        for folder in gone {
            folder.is_gone.store(true, Ordering::Release);
            folder.tell();
        }
    }

    /// What is known, after a look at the directories where they have changed. Reads files.
    ///
    /// # Errors
    /// The disk refuses, or the folder is gone.
    pub fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.is_gone() {
            return Err(ErrorKind::NotFound.into());
        }
        let mut state = self.state.lock();
        let is_dirty = self.is_dirty.swap(false, Ordering::AcqRel);
        let before = state.version();
        if let Err(error) = state.refresh(&self.maildir, &self.account, is_dirty) {
            self.is_dirty.store(true, Ordering::Release);
            return Err(error);
        }
        if state.version() != before {
            self.tell();
        }
        Ok(state)
    }

    /// What is known, if that is the newest as far as this process was told and nobody is at work with it: never
    /// blocks.
    #[must_use]
    pub fn glance(&self) -> Option<MutexGuard<'_, State>> {
        let is_dirty = self.is_dirty.load(Ordering::Acquire) || self.is_gone();
        (!is_dirty).then(|| self.state.try_lock())?
    }

    /// What was known last.
    pub fn known(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Opens a message by its number; `None` when it is gone.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn message(&self, uid: u32) -> io::Result<Option<(File, Entry)>> {
        let mut entry = self.known().entry(uid).cloned();
        // Another program may have given the file another name since we looked.
        for is_last in [false, true] {
            let Some(found) = entry else {
                return Ok(None);
            };
            match File::open(self.maildir.file(&found.message)) {
                Err(error) if error.kind() == ErrorKind::NotFound && !is_last => {
                    self.is_dirty.store(true, Ordering::Release);
                    entry = self.look()?.entry(uid).cloned();
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => return file.map(|file| Some((file, found))),
            }
        }
        Ok(None)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let mut open = OPEN.lock();
        // Another one may be there in its place.
        if open
            .get(self.maildir.path())
            .is_some_and(|weak| weak.strong_count() == 0)
        {
            open.remove(self.maildir.path());
        }
    }
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder")
            .field("path", &self.maildir.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
