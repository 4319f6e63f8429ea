#![forbid(unsafe_code)]
//! What sessions do to a folder: flags, arrivals, removals. All of it under the folder's lock, and told to the others.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::Folder;
use super::state::State;
use crate::mail::flags::Flags;
use crate::mail::maildir::{Message, sync_directory};

/// How flags are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// To these.
    Replace,
    /// These, too.
    Add,
    /// Without these.
    Remove,
}

/// A change of flags.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// How.
    pub how: How,
    /// Which.
    pub flags: Flags,
}

impl Change {
    fn of(self, flags: Flags) -> Flags {
        match self.how {
            How::Replace => self.flags,
            How::Add => flags.with(self.flags),
            How::Remove => flags.without(self.flags),
        }
    }
}

/// A whole and durable message in a folder's `tmp`, to be put into the folder.
#[derive(Debug)]
pub struct Arrival {
    /// The file in `tmp`.
    pub draft: PathBuf,
    /// The name it is to have, without flags.
    pub name: String,
    /// The flags of the folder.
    pub flags: Flags,
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// A message's name in `cur`.
fn in_cur(unique: &OsStr, flags: Flags) -> Message {
    let mut file = OsString::from(unique);
    file.push(":2,");
    file.push(flags.letters());
    Message {
        file,
        is_new: false,
    }
}

impl Folder {
    /// The flags of these names, each of which becomes one of the folder's keywords; those for which there is no
    /// room are left out.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn flags_of<'n>(&self, names: impl Iterator<Item = &'n str>) -> io::Result<Flags> {
        let mut state = self.look()?;
        let mut flags = Flags::default();
        for name in names {
            let flag = state.keywords.define(name, self.maildir.path())?;
            flags = flags.with(flag.unwrap_or_default());
        }
        Ok(flags)
    }

    /// Changes the flags of messages. Those that are gone are passed over.
    ///
    /// # Errors
    /// The disk refuses; some may be changed.
    pub fn store(&self, uids: &[u32], change: Change) -> io::Result<()> {
        let done = self.store_each(uids, change);
        self.tell();
        done
    }

    fn store_each(&self, uids: &[u32], change: Change) -> io::Result<()> {
        let mut missed = Vec::new();
        {
            let mut state = self.look()?;
            state.touch(&self.maildir, |state| {
                uids.iter().try_for_each(|uid| {
                    let done = self.set_flags(state, *uid, change);
                    if matches!(&done, Err(error) if is_gone(error)) {
                        missed.push(*uid);
                        return Ok(());
                    }
                    done
                })
            })?;
        }
        if missed.is_empty() {
            return Ok(());
        }
        // Another program has renamed them, or removed them.
        self.is_dirty.store(true, Ordering::Release);
        let mut state = self.look()?;
        for uid in missed {
            match self.set_flags(&mut state, uid, change) {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn set_flags(&self, state: &mut State, uid: u32, change: Change) -> io::Result<()> {
        let Some(at) = state.position(uid) else {
            return Ok(());
        };
        let entry = &state.entries[at];
        let flags = change.of(entry.flags);
        if flags == entry.flags {
            return Ok(());
        }
        let message = in_cur(entry.message.unique(), flags);
        fs::rename(
            self.maildir.file(&entry.message),
            self.maildir.file(&message),
        )?;
        let entry = &mut state.entries[at];
        (entry.message, entry.flags) = (message, flags);
        state.changed();
        Ok(())
    }

    /// Moves what no session has seen from `new` to `cur`: the numbers of those that are recent for whoever calls.
    pub fn claim(&self) -> Vec<u32> {
        let mut state = self.known();
        if !state.entries.iter().any(|entry| entry.message.is_new) {
            return Vec::new();
        }
        state.touch(&self.maildir, |state| {
            let mut recent = Vec::new();
            for entry in state
                .entries
                .iter_mut()
                .filter(|entry| entry.message.is_new)
            {
                let message = in_cur(entry.message.unique(), entry.flags);
                let (from, to) = (
                    self.maildir.file(&entry.message),
                    self.maildir.file(&message),
                );
                // What cannot be moved stays recent; what is gone is found out later.
                if fs::rename(from, to).is_ok() {
                    entry.message = message;
                    recent.push(entry.uid);
                }
            }
            recent
        })
    }

    /// Takes messages in, all or none, in this order. Their numbers, when all of it is on disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn adopt(&self, arrivals: &[Arrival]) -> io::Result<Vec<u32>> {
        let numbers = {
            let mut state = self.look()?;
            state.touch(&self.maildir, |state| self.take_in(state, arrivals))
        };
        self.tell();
        numbers
    }

    fn take_in(&self, state: &mut State, arrivals: &[Arrival]) -> io::Result<Vec<u32>> {
        let mut placed = Vec::with_capacity(arrivals.len());
        let place = |arrival: &Arrival| {
            let unique = OsStr::from_bytes(arrival.name.as_bytes());
            let message = match arrival.flags == Flags::default() {
                true => Message {
                    file: unique.to_owned(),
                    is_new: true,
                },
                false => in_cur(unique, arrival.flags),
            };
            fs::rename(&arrival.draft, self.maildir.file(&message)).map(|()| message)
        };
        let mut done = arrivals.iter().try_for_each(|arrival| {
            placed.push(place(arrival)?);
            Ok(())
        });
        done = done.and_then(|()| self.maildir.sync());
        let files: Vec<PathBuf> = placed.iter().map(|it| self.maildir.file(it)).collect();
        let numbered = done.and_then(|()| state.number(&self.maildir, placed));
        if numbered.is_err() {
            for file in files {
                let _ = fs::remove_file(file);
            }
        }
        numbered
    }

    /// Puts a second name of a message into another folder's `tmp`, on the same disk or as a copy of it. `None` when
    /// the message is gone.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn link(&self, uid: u32, draft: &std::path::Path) -> io::Result<Option<()>> {
        for is_last in [false, true] {
            let state = if is_last {
                self.is_dirty.store(true, Ordering::Release);
                self.look()?
            } else {
                self.known()
            };
            let Some(entry) = state.entry(uid) else {
                return Ok(None);
            };
            match fs::hard_link(self.maildir.file(&entry.message), draft) {
                Err(error) if is_gone(&error) => {}
                linked => return linked.map(Some),
            }
        }
        Ok(None)
    }

    /// Removes messages, durably; those that are gone already are no error. How many could not be removed.
    pub fn remove(&self, uids: &[u32]) -> usize {
        let failed = {
            let Ok(mut state) = self.look() else {
                return uids.len();
            };
            state.touch(&self.maildir, |state| self.unlink(state, uids))
        };
        self.tell();
        failed
    }

    fn unlink(&self, state: &mut State, uids: &[u32]) -> usize {
        let (mut failed, mut gone) = (0, Vec::new());
        for uid in uids {
            let Some(entry) = state.entry(*uid) else {
                continue;
            };
            match fs::remove_file(self.maildir.file(&entry.message)) {
                Ok(()) => gone.push(*uid),
                Err(error) if is_gone(&error) => {
                    // Renamed or removed by another program: the next look knows.
                    self.is_dirty.store(true, Ordering::Release);
                    failed += 1;
                }
                Err(_) => failed += 1,
            }
        }
        if gone.is_empty() {
            return failed;
        }
        gone.sort_unstable();
        state
            .entries
            .retain(|entry| gone.binary_search(&entry.uid).is_err());
        state.changed();
        let synced = [true, false].map(|is_new| sync_directory(&self.maildir.part(is_new)));
        failed + usize::from(synced.iter().any(Result::is_err))
    }
}
