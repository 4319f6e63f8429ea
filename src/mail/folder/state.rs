#![forbid(unsafe_code)]
//! What is known of a folder's messages, and how it is brought up to date.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use crate::mail::flags::{Flags, Keywords};
use crate::mail::maildir::{Maildir, Message};
use crate::mail::uids::{self, Numbers};

/// One message.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number, for good.
    pub uid: u32,
    /// Its file.
    pub message: Message,
    /// Its flags.
    pub flags: Flags,
}

/// A folder's messages by their numbers.
#[derive(Debug, Default)]
pub struct State {
    is_loaded: bool,
    /// UIDVALIDITY.
    pub validity: u32,
    /// UIDNEXT.
    pub next: u32,
    /// In the order of their numbers.
    pub(super) entries: Vec<Entry>,
    /// The names of keywords.
    pub keywords: Keywords,
    version: u64,
    /// When the directories were changed last, as we know them; `None` when they are to be read again.
    stamp: Option<Stamp>,
    lines: usize,
    is_torn: bool,
}

/// The times of change of `new` and `cur`.
type Stamp = [Option<SystemTime>; 2];

/// A directory that was changed so shortly before it was read may be changed once more with no later time: file
/// systems count in ticks of up to 10 ms.
const TICK: Duration = Duration::from_millis(50);

fn stamp(maildir: &Maildir) -> Stamp {
    [true, false].map(|is_new| {
        fs::metadata(maildir.part(is_new))
            .and_then(|data| data.modified())
            .ok()
    })
}

/// What the file with the numbers calls a message. A line of it holds no line end.
fn name(message: &Message) -> &[u8] {
    message.unique().as_bytes()
}

fn by_name(listing: Vec<Message>) -> HashMap<Vec<u8>, Message> {
    let mut all = HashMap::with_capacity(listing.len());
    for message in listing {
        if name(&message).is_empty() || memchr::memchr(b'\n', name(&message)).is_some() {
            continue;
        }
        // Of one that moves from new to cur just now, the later place counts; new was read first.
        all.insert(name(&message).to_vec(), message);
    }
    all
}

/// The order in which messages of one look get their numbers: of delivery, as their names tell it.
fn order(message: &Message) -> (u64, u64, u64, &OsStr) {
    let (seconds, unique) = message.order();
    let number = |mark: u8| {
        let mut bytes = unique.as_bytes().split(|byte| *byte == b'.').nth(1)?.iter();
        bytes.by_ref().find(|byte| **byte == mark)?;
        let digits = bytes.take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0_u64, |sum, digit| {
            sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
        }))
    };
    (
        seconds,
        number(b'M').unwrap_or(0),
        number(b'Q').unwrap_or(0),
        unique,
    )
}

impl State {
    /// Changes with everything that a session shows to its client.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The messages, in the order of their numbers.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A message by its number.
    #[must_use]
    pub fn entry(&self, uid: u32) -> Option<&Entry> {
        self.position(uid).map(|at| &self.entries[at])
    }

    pub(super) fn position(&self, uid: u32) -> Option<usize> {
        self.entries
            .binary_search_by_key(&uid, |entry| entry.uid)
            .ok()
    }

    pub(super) fn changed(&mut self) {
        self.version += 1;
    }

    /// Brings it up to date.
    pub(super) fn refresh(
        &mut self,
        maildir: &Maildir,
        account: &std::path::Path,
        is_dirty: bool,
    ) -> io::Result<()> {
        if !self.is_loaded {
            return self.load(maildir, account);
        }
        let now = stamp(maildir);
        if !is_dirty && self.stamp == Some(now) {
            return Ok(());
        }
        self.rescan(maildir)?;
        self.set_stamp(now);
        Ok(())
    }

    fn set_stamp(&mut self, before: Stamp) {
        let wall = SystemTime::now();
        let is_settled = |at: &Option<SystemTime>| {
            at.is_none_or(|at| wall.duration_since(at).is_ok_and(|age| age > TICK))
        };
        self.stamp = before.iter().all(is_settled).then_some(before);
    }

    /// Does something to the directories; what we know of them stays known if it was.
    pub(super) fn touch<T>(&mut self, maildir: &Maildir, what: impl FnOnce(&mut Self) -> T) -> T {
        let was_known = self.stamp.is_some() && self.stamp == Some(stamp(maildir));
        let done = what(self);
        self.stamp = was_known.then(|| stamp(maildir));
        done
    }

    fn load(&mut self, maildir: &Maildir, account: &std::path::Path) -> io::Result<()> {
        maildir.remove_stale();
        if let Err(error) = fs::metadata(maildir.part(false)) {
            // An account's inbox is made when it is first needed; another folder is there or is not.
            if error.kind() != ErrorKind::NotFound || maildir.path() != account {
                return Err(error);
            }
            maildir.create()?;
        }
        let now = stamp(maildir);
        let numbers = match uids::load(maildir.path())? {
            Some(numbers) => numbers,
            None => {
                let validity = uids::new_validity(account)?;
                uids::write(maildir.path(), validity, 1, std::iter::empty())?;
                Numbers {
                    validity,
                    next: 1,
                    ..Numbers::default()
                }
            }
        };
        self.keywords = Keywords::load(maildir.path())?;
        let mut listing = by_name(maildir.list()?);
        let mut entries = Vec::with_capacity(listing.len());
        for (name, uid) in &numbers.by_name {
            if let Some(message) = listing.remove(name) {
                let flags = Flags::of_letters(message.flags());
                entries.push(Entry {
                    uid: *uid,
                    message,
                    flags,
                });
            }
        }
        entries.sort_by_key(|entry| entry.uid);
        (self.validity, self.next) = (numbers.validity, numbers.next);
        (self.lines, self.is_torn) = (numbers.lines, numbers.is_torn);
        self.entries = entries;
        self.changed();
        self.is_loaded = true;
        if let Err(error) = self.welcome(maildir, listing.into_values().collect()) {
            // Those that have a number can be read, and deleted: a full disk gets room that way.
            log::warn!(target: "mail", "new messages in {} get no number: {error}", maildir.path().display());
            return Ok(());
        }
        self.set_stamp(now);
        Ok(())
    }

    fn rescan(&mut self, maildir: &Maildir) -> io::Result<()> {
        let mut listing = by_name(maildir.list()?);
        if self
            .entries
            .iter()
            .any(|entry| !listing.contains_key(name(&entry.message)))
        {
            // A file that is renamed while its directory is read may be passed over.
            for (name, message) in by_name(maildir.list()?) {
                listing.entry(name).or_insert(message);
            }
        }
        let mut has_changed = false;
        self.entries.retain_mut(|entry| {
            let Some(message) = listing.remove(name(&entry.message)) else {
                has_changed = true;
                return false;
            };
            let flags = Flags::of_letters(message.flags());
            has_changed |= flags != entry.flags;
            (entry.flags, entry.message) = (flags, message);
            true
        });
        if has_changed {
            self.changed();
        }
        self.welcome(maildir, listing.into_values().collect())
    }

    /// Gives numbers to messages that have none.
    fn welcome(&mut self, maildir: &Maildir, mut newcomers: Vec<Message>) -> io::Result<()> {
        newcomers.sort_by(|a, b| order(a).cmp(&order(b)));
        self.number(maildir, newcomers).map(drop)
    }

    /// Gives numbers, in this order. When this returns they are on disk.
    ///
    /// # Errors
    /// The disk refuses, or there is no number left: nothing is known of the messages then.
    pub(super) fn number(
        &mut self,
        maildir: &Maildir,
        newcomers: Vec<Message>,
    ) -> io::Result<Vec<u32>> {
        if newcomers.is_empty() {
            return Ok(Vec::new());
        }
        let count = u32::try_from(newcomers.len()).map_err(io::Error::other)?;
        let first = self.next;
        let next = first
            .checked_add(count)
            .ok_or_else(|| io::Error::other("no number is left"))?;
        let added: Vec<Entry> = (first..)
            .zip(newcomers)
            .map(|(uid, message)| Entry {
                uid,
                flags: Flags::of_letters(message.flags()),
                message,
            })
            .collect();
        self.write_down(maildir, &added, next)?;
        self.next = next;
        self.entries.extend(added);
        self.changed();
        Ok((first..next).collect())
    }

    fn write_down(&mut self, maildir: &Maildir, added: &[Entry], next: u32) -> io::Result<()> {
        let row = |entry: &'_ Entry| (entry.uid, name(&entry.message).to_vec());
        // Half of it at least is about messages that are gone.
        let is_stale = self.lines > 2 * (self.entries.len() + added.len()) + 1000;
        let (path, all) = (maildir.path(), self.entries.iter().chain(added));
        if self.is_torn || is_stale {
            let rows: Vec<_> = all.map(row).collect();
            let rows = rows.iter().map(|(uid, name)| (*uid, name.as_slice()));
            uids::write(path, self.validity, next, rows)?;
            (self.is_torn, self.lines) = (false, self.entries.len() + added.len());
            return Ok(());
        }
        let rows = added.iter().map(|entry| (entry.uid, name(&entry.message)));
        if let Err(error) = uids::add(path, rows) {
            self.is_torn = true;
            return Err(error);
        }
        self.lines += added.len();
        Ok(())
    }
}
