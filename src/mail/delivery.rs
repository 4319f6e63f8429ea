#![forbid(unsafe_code)]
//! A message on its way into mailboxes: written to `tmp`, made durable, then put into `new` as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::maildir::{Maildir, host, sync_directory};
use super::watch;

/// A draft in the first mailbox's `tmp`. Dropped before [`Delivery::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Delivery {
    file: File,
    draft: PathBuf,
    name: String,
    size: u64,
    mailboxes: Vec<Maildir>,
}

/// A name that no other message has: the time, the process, a count, the machine.
pub(super) fn unique(now: SystemTime) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static HOST: LazyLock<String> = LazyLock::new(host);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(
        "{}.M{}P{}Q{}.{}",
        since.as_secs(),
        since.subsec_micros(),
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed),
        *HOST
    )
}

impl Delivery {
    /// Opens a draft for mailboxes, of which there is at least one; those that are not there are made.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn begin(mailboxes: Vec<Maildir>) -> io::Result<Self> {
        let Some(first) = mailboxes.first() else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no mailbox"));
        };
        let name = unique(SystemTime::now());
        let draft = first.path().join("tmp").join(&name);
        let open = || {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)
        };
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                first.create()?;
                open()?
            }
            file => file?,
        };
        Ok(Delivery {
            file,
            draft,
            name,
            size: 0,
            mailboxes,
        })
    }

    /// Appends to the draft.
    ///
    /// # Errors
    /// The disk refuses, or is full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Puts the message into every mailbox, or into none. When this returns it is on disk: the file and the
    /// entries of the directories; and whoever watches the mailboxes is told.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_data()?;
        let name = format!("{},S={},W={}", self.name, self.size, self.size);
        let mut placed = Vec::new();
        if let Err(error) = self.place(&name, &mut placed) {
            for file in placed {
                let _ = fs::remove_file(file);
            }
            return Err(error);
        }
        for mailbox in &self.mailboxes {
            watch::wake(mailbox.path());
        }
        Ok(())
    }

    /// Makes the draft durable, then lets `place` put it where it belongs: it gets the draft's file and the name that
    /// the message is to have, without flags. `received` is when the message counts as received.
    ///
    /// # Errors
    /// The disk refuses, or `place` does.
    pub fn hand_over<T>(
        self,
        received: Option<SystemTime>,
        place: impl FnOnce(&Path, String) -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(at) = received {
            self.file.set_modified(at)?;
        }
        self.file.sync_all()?;
        let name = format!("{},S={},W={}", self.name, self.size, self.size);
        place(&self.draft, name)
    }

    /// How many bytes were written.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn place(&self, name: &str, placed: &mut Vec<PathBuf>) -> io::Result<()> {
        let (first, others) = match self.mailboxes.split_first() {
            Some(split) => split,
            None => return Ok(()),
        };
        for mailbox in others {
            let file = mailbox.part(true).join(name);
            self.link(mailbox, &file)?;
            placed.push(file);
        }
        let file = first.part(true).join(name);
        fs::rename(&self.draft, &file)?;
        placed.push(file);
        self.mailboxes
            .iter()
            .try_for_each(|mailbox| sync_directory(&mailbox.part(true)))
    }

    /// The same file under another mailbox's name; a copy where that is on another disk.
    fn link(&self, mailbox: &Maildir, file: &PathBuf) -> io::Result<()> {
        match fs::hard_link(&self.draft, file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                mailbox.create()?;
                fs::hard_link(&self.draft, file)
            }
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                let draft = mailbox.path().join("tmp").join(&self.name);
                let copied = fs::copy(&self.draft, &draft)
                    .and_then(|_| File::open(&draft)?.sync_all())
                    .and_then(|()| fs::rename(&draft, file));
                if copied.is_err() {
                    let _ = fs::remove_file(&draft);
                }
                copied
            }
            result => result,
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // After a delivery the draft's name is gone, and this does nothing.
        let _ = fs::remove_file(&self.draft);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::Delivery;
    use crate::mail::maildir::Store;
    use crate::mail::watch::watch;
    use crate::session::Waker;

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).map(|all| all.flatten().collect::<Vec<_>>());
        let entries = entries.unwrap_or_default();
        entries
            .iter()
            .map(|it| it.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_message_is_in_every_mailbox_and_whoever_watches_is_told() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path());
        let (ann, bob) = (store.mailbox("ann"), store.mailbox("bob"));
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        let _watch = watch(
            bob.path(),
            Waker::new(move || tell.store(true, Ordering::Relaxed)),
        );
        let mut delivery = Delivery::begin(vec![ann.clone(), bob.clone()]).unwrap();
        delivery.write(b"Subject: x\r\n\r\n").unwrap();
        assert!(files(&ann.path().join("new")).is_empty());
        delivery.write(b"body\r\n").unwrap();
        delivery.finish().unwrap();
        for mailbox in [&ann, &bob] {
            let new = files(&mailbox.path().join("new"));
            assert_eq!(new.len(), 1);
            assert!(new[0].ends_with(",S=20,W=20"), "{new:?}");
            let text = fs::read(mailbox.path().join("new").join(&new[0])).unwrap();
            assert_eq!(text, b"Subject: x\r\n\r\nbody\r\n");
            assert!(files(&mailbox.path().join("tmp")).is_empty());
        }
        assert!(told.load(Ordering::Relaxed));
    }

    #[test]
    fn an_error_leaves_nothing_in_any_mailbox() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path());
        let (ann, bob) = (store.mailbox("ann"), store.mailbox("bob"));
        fs::create_dir_all(home.path().join("mail")).unwrap();
        fs::write(bob.path(), "a file in the way of the mailbox").unwrap();
        let mut delivery = Delivery::begin(vec![ann.clone(), bob]).unwrap();
        delivery.write(b"text\r\n").unwrap();
        assert!(delivery.finish().is_err());
        let mut delivery = Delivery::begin(vec![ann.clone()]).unwrap();
        delivery.write(b"half").unwrap();
        drop(delivery);
        for part in ["tmp", "new", "cur"] {
            assert!(files(&ann.path().join(part)).is_empty(), "{part}");
        }
    }
}
