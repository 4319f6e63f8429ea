#![forbid(unsafe_code)]
//! Mailboxes on disk: Maildir, with folders as in Maildir++ (`.Archive`, `.Archive.2026` beside `new` and `cur`).
//!
//! `new` holds what no client has seen, `cur` what one has, with its flags behind `:2,` in the name. Messages
//! delivered here keep the CRLFs they came with, and tell their size in their names: `,S=` in bytes, `,W=` with
//! each line ended by CRLF, which is the same for them. Messages of other programs may end lines with LF.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How old a file in `tmp` is when nobody writes it any more (the Maildir convention).
const STALE: Duration = Duration::from_secs(36 * 3600);

/// All mailboxes: `state_dir/mail/ACCOUNT/`.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The mailboxes below a daemon's `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Store {
            root: state_dir.join("mail"),
        }
    }

    /// An account's mailbox: its inbox, which need not be there yet. The name is an account's, from
    /// [`local_part`](crate::accounts::local_part), and so cannot lead out of the store.
    #[must_use]
    pub fn mailbox(&self, account: &str) -> Maildir {
        Maildir {
            path: self.root.join(account),
        }
    }
}

/// One mailbox folder: a directory with `tmp`, `new` and `cur`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Maildir {
    path: PathBuf,
}

/// One message in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The file's name in `new` or `cur`.
    pub file: OsString,
    /// Whether it is in `new`.
    pub is_new: bool,
}

impl Message {
    /// The name without its flags: the same for as long as the message lives.
    #[must_use]
    pub fn unique(&self) -> &OsStr {
        let name = self.file.as_bytes();
        let end = name.windows(3).position(|part| part == b":2,");
        OsStr::from_bytes(&name[..end.unwrap_or(name.len())])
    }

    /// The flags' letters (`S` seen, `R` replied, `F` flagged, `T` trashed, `D` draft, `P` passed).
    #[must_use]
    pub fn flags(&self) -> &[u8] {
        let name = self.file.as_bytes();
        let start = name.windows(3).position(|part| part == b":2,");
        start.map_or(&[], |start| &name[start + 3..])
    }

    /// The size with each line ended by CRLF, if the name tells it.
    #[must_use]
    pub fn wire_size(&self) -> Option<u64> {
        let unique = self.unique().to_str()?;
        let mut fields = unique.split(',');
        fields.find_map(|field| field.strip_prefix("W=")?.parse().ok())
    }

    /// When it was delivered, in seconds since 1970, and then by the name: the order of a folder.
    pub(super) fn order(&self) -> (u64, &OsStr) {
        let unique = self.unique();
        let digits = unique.as_bytes().split(|byte| !byte.is_ascii_digit());
        let seconds = digits.into_iter().next().unwrap_or_default();
        let seconds = std::str::from_utf8(seconds)
            .ok()
            .and_then(|text| text.parse().ok());
        (seconds.unwrap_or(0), unique)
    }
}

impl Maildir {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder below this mailbox by its Maildir++ name without the first dot, such as `Archive.2026`; `None`
    /// for a name that is no folder's.
    #[must_use]
    pub fn folder(&self, name: &str) -> Option<Maildir> {
        let plain = !name.is_empty() && name.split('.').all(|part| !part.is_empty());
        (plain && !name.contains(['/', '\0']) && name.len() <= 200).then(|| Maildir {
            path: self.path.join(format!(".{name}")),
        })
    }

    /// The names of the folders below this mailbox, in order, without the first dot.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn folders(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix('.'));
            let is_folder = |name: &&str| {
                self.folder(name)
                    .is_some_and(|folder| folder.path.join("cur").is_dir())
            };
            names.extend(name.filter(is_folder).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Makes the directories that are missing, for their owner alone, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for part in ["tmp", "new", "cur"] {
            builder.create(self.path.join(part))?;
        }
        // The store and the state directory may be new, too.
        for directory in self.path.ancestors().take(3) {
            sync_directory(directory)?;
        }
        Ok(())
    }

    /// The messages, in the order of their delivery. Drafts of deliveries that ended long ago are removed.
    ///
    /// # Errors
    /// A directory cannot be read. A mailbox that is not there yet is empty.
    pub fn messages(&self) -> io::Result<Vec<Message>> {
        self.remove_stale();
        let mut messages = self.list()?;
        // Of one that moved, the later place counts.
        messages.sort_by(|a, b| a.order().cmp(&b.order()).then(a.is_new.cmp(&b.is_new)));
        messages.dedup_by(|a, b| a.unique() == b.unique());
        Ok(messages)
    }

    /// The messages in no order; one that moves meanwhile may be there twice.
    pub(super) fn list(&self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        // A client that moves a message from new to cur meanwhile must not make it appear never.
        for is_new in [true, false] {
            let part = self.part(is_new);
            let entries = match fs::read_dir(part) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let file = entry?.file_name();
                if !file.as_bytes().starts_with(b".") {
                    messages.push(Message { file, is_new });
                }
            }
        }
        Ok(messages)
    }

    /// Opens a message, wherever it is by now.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub fn open(&self, message: &Message) -> io::Result<File> {
        match File::open(self.file(message)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let moved = self.find(message.unique())?;
                File::open(self.file(&moved.ok_or(error)?))
            }
            result => result,
        }
    }

    /// Removes messages, wherever they are by now, durably; those that are gone already are no error. Answers how
    /// many could not be removed.
    pub fn remove<'m>(&self, messages: impl Iterator<Item = &'m Message>) -> usize {
        let is_gone = |result: &io::Result<()>| matches!(result, Err(error) if error.kind() == ErrorKind::NotFound);
        let (mut failed, mut moved) = (0, HashSet::new());
        for message in messages {
            let result = fs::remove_file(self.file(message));
            if is_gone(&result) {
                moved.insert(message.unique());
            } else {
                failed += usize::from(result.is_err());
            }
        }
        if !moved.is_empty() {
            // One look for all of them: a mailbox may be large.
            let now = self.messages().unwrap_or_default();
            for message in now
                .iter()
                .filter(|message| moved.contains(message.unique()))
            {
                let result = fs::remove_file(self.file(message));
                failed += usize::from(result.is_err() && !is_gone(&result));
            }
        }
        let _ = self.sync();
        failed
    }

    /// Makes what was removed or renamed durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        sync_directory(&self.part(true))?;
        sync_directory(&self.part(false))
    }

    /// The size of a message with each line ended by CRLF: from its name, or counted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn wire_size(&self, message: &Message) -> io::Result<u64> {
        match message.wire_size() {
            Some(size) => Ok(size),
            None => count(self.open(message)?),
        }
    }

    /// Where a message is by its unique name.
    fn find(&self, unique: &OsStr) -> io::Result<Option<Message>> {
        let mut all = self.messages()?.into_iter();
        Ok(all.find(|message| message.unique() == unique))
    }

    /// The file of a message.
    pub(super) fn file(&self, message: &Message) -> PathBuf {
        self.part(message.is_new).join(&message.file)
    }

    /// `new` or `cur`.
    pub(super) fn part(&self, is_new: bool) -> PathBuf {
        self.path.join(if is_new { "new" } else { "cur" })
    }

    /// Removes drafts that nobody writes any more, as the convention asks of readers. What cannot be removed
    /// stays: it harms nobody.
    pub(super) fn remove_stale(&self) {
        let Ok(entries) = fs::read_dir(self.path.join("tmp")) else {
            return;
        };
        let now = SystemTime::now();
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|data| data.modified());
            let age = modified.map(|at| now.duration_since(at).unwrap_or_default());
            if age.is_ok_and(|age| age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The name of this machine as it stands in the names of messages.
pub(crate) fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let name: String = name
        .to_string_lossy()
        .chars()
        .filter(|letter| plain(*letter))
        .collect();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.chars().take(64).collect()
    }
}

/// Bytes with each lone LF as CRLF.
fn count(file: File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let (mut size, mut last) = (0, 0);
    let mut piece = [0; 16 * 1024];
    loop {
        let length = reader.read(&mut piece)?;
        if length == 0 {
            return Ok(size);
        }
        for byte in &piece[..length] {
            size += 1 + u64::from(*byte == b'\n' && last != b'\r');
            last = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::{STALE, Store};

    #[test]
    fn messages_come_in_the_order_of_their_delivery_with_flags_and_sizes() {
        let home = tempfile::tempdir().unwrap();
        let inbox = Store::new(home.path()).mailbox("ann");
        assert_eq!(inbox.messages().unwrap(), []);
        inbox.create().unwrap();
        fs::write(inbox.path().join("new/200.b.host"), "a\nb\r\n\n").unwrap();
        fs::write(inbox.path().join("cur/100.a.host,S=3,W=4:2,FS"), "a\n").unwrap();
        fs::write(inbox.path().join("cur/1000.c.host:2,"), "").unwrap();
        fs::write(inbox.path().join("cur/.hidden"), "").unwrap();
        let messages = inbox.messages().unwrap();
        let names: Vec<_> = messages
            .iter()
            .map(|it| it.unique().to_str().unwrap())
            .collect();
        assert_eq!(names, ["100.a.host,S=3,W=4", "200.b.host", "1000.c.host"]);
        assert_eq!(messages[0].flags(), b"FS");
        let sizes: Vec<_> = messages
            .iter()
            .map(|it| inbox.wire_size(it).unwrap())
            .collect();
        assert_eq!(sizes, [4, 8, 0]);
    }

    #[test]
    fn a_message_that_another_session_moved_is_found() {
        let home = tempfile::tempdir().unwrap();
        let inbox = Store::new(home.path()).mailbox("ann");
        inbox.create().unwrap();
        fs::write(inbox.path().join("new/1.a.host"), "text").unwrap();
        let message = inbox.messages().unwrap().remove(0);
        let (from, to) = (
            inbox.path().join("new/1.a.host"),
            inbox.path().join("cur/1.a.host:2,S"),
        );
        fs::rename(from, &to).unwrap();
        assert!(inbox.open(&message).is_ok());
        assert_eq!(inbox.remove([&message].into_iter()), 0);
        assert!(!to.exists());
        assert_eq!(inbox.remove([&message].into_iter()), 0);
        assert!(inbox.open(&message).is_err());
    }

    #[test]
    fn folders_stay_within_the_mailbox() {
        let home = tempfile::tempdir().unwrap();
        let inbox = Store::new(home.path()).mailbox("ann");
        inbox.folder("Archive.2026").unwrap().create().unwrap();
        assert_eq!(inbox.folders().unwrap(), ["Archive.2026"]);
        for name in ["", ".", "..", "a..b", "a.", "../x", "a/b", "a\0"] {
            assert!(inbox.folder(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn drafts_that_nobody_writes_any_more_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let inbox = Store::new(home.path()).mailbox("ann");
        inbox.create().unwrap();
        let (old, young) = (
            inbox.path().join("tmp/1.old"),
            inbox.path().join("tmp/2.young"),
        );
        fs::write(&old, "").unwrap();
        fs::write(&young, "").unwrap();
        let then = SystemTime::now() - STALE - Duration::from_secs(60);
        fs::File::options()
            .write(true)
            .open(&old)
            .unwrap()
            .set_modified(then)
            .unwrap();
        inbox.messages().unwrap();
        assert!(!old.exists() && young.exists());
    }
}
