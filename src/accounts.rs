#![forbid(unsafe_code)]
//! Accounts: names with a password's hash, maybe a clear secret, maybe the right to administer.
//!
//! One file serves every module. It is read with the configuration, and again when it has changed on disk, at
//! most once a second: `portreeve account set` is in effect at once, without a reload.

mod file;
mod hash;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub use file::{Change, EditError, set};
pub use hash::hash;
pub(crate) use hash::verify as verify_hash;

use crate::config::ConfigError;

/// How often the file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Passwords that may wait for their verification at once. A lane has as many threads as cores and a check
/// takes about 20 ms, so the last of them waits about a second on two cores; who comes then is sent away.
const MOST_WAITING: usize = 128;

/// One account.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    name: Arc<str>,
    password: Option<String>,
    /// Wiped when it is dropped.
    secret: Option<Zeroizing<String>>,
    admin: bool,
}

impl Account {
    /// Its local part in lower case; also the name of its Maildir.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The clear secret that CHAP (RFC 1994) and Digest (RFC 7616) need.
    #[must_use]
    pub fn secret(&self) -> Option<&str> {
        self.secret.as_ref().map(|secret| secret.as_str())
    }

    /// True when it may administer the daemon.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.admin
    }
}

/// Without the hash and the secret, which belong in no log.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// All accounts of a configuration.
#[derive(Default)]
pub struct Accounts {
    /// `None` for accounts that a program made.
    file: Option<PathBuf>,
    table: ArcSwap<Table>,
    seen: Mutex<Seen>,
    waiting: Arc<AtomicUsize>,
    /// How often the table was replaced.
    changes: AtomicU64,
}

/// By name.
type Table = HashMap<Arc<str>, Arc<Account>>;

/// What is known of the file on disk.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    state: Option<State>,
}

/// What changes when a file is written or replaced.
type State = (u64, u64, SystemTime);

fn state(file: &Path) -> Option<State> {
    let data = fs::metadata(file).ok()?;
    Some((data.ino(), data.len(), data.modified().ok()?))
}

/// Too many passwords wait for their verification: a temporary failure, nothing is known of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// A password to be verified on [`Lane::Compute`](crate::session::Lane::Compute).
pub struct PasswordCheck {
    account: Option<Arc<Account>>,
    password: Vec<u8>,
    _place: Place,
}

/// One of the places of those that wait.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PasswordCheck {
    /// The account, if the password is its own. Takes about 20 ms of a core, as long for a name that does not
    /// exist as for one that does (as long as its hash is of the kind we make).
    #[must_use]
    pub fn run(self) -> Option<Arc<Account>> {
        fits(self.account, &self.password)
    }
}

fn fits(account: Option<Arc<Account>>, password: &[u8]) -> Option<Arc<Account>> {
    let password = &password[..password.len().min(hash::LONGEST + 1)];
    let hash = account
        .as_ref()
        .and_then(|account| account.password.as_deref());
    let right = match hash {
        Some(hash) => hash::verify(password, hash),
        None => hash::verify_nothing(password),
    };
    // No password that long was ever set, but one may begin like it.
    account.filter(|_| right && password.len() <= hash::LONGEST)
}

impl Accounts {
    /// Reads a file; without one there are no accounts yet.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn read(file: &Path) -> Result<Arc<Self>, Vec<ConfigError>> {
        let state = state(file);
        let table = match file::read(file)? {
            Some(accounts) => index(accounts),
            None => Table::new(),
        };
        Ok(Arc::new(Accounts {
            file: Some(file.to_path_buf()),
            table: ArcSwap::from_pointee(table),
            seen: Mutex::new(Seen {
                at: Some(Instant::now()),
                state,
            }),
            waiting: Arc::default(),
            changes: AtomicU64::new(0),
        }))
    }

    /// Accounts without a file, for programs and tests: names, passwords in clear, secrets.
    ///
    /// # Panics
    /// A name or a password is not fit for an account.
    #[must_use]
    pub fn of(accounts: &[(&str, &str, Option<&str>)]) -> Arc<Self> {
        let account = |(name, password, secret): &(&str, &str, Option<&str>)| Account {
            name: local_part(name).expect("a name").into(),
            password: Some(hash(password.as_bytes()).expect("a password")),
            secret: secret.map(|secret| Zeroizing::new(secret.to_owned())),
            admin: false,
        };
        Arc::new(Accounts {
            table: ArcSwap::from_pointee(index(accounts.iter().map(account).collect())),
            ..Accounts::default()
        })
    }

    /// The account of a name or an address, compared by the local part and without case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Account>> {
        self.look();
        self.table.load().get(&*local_part(name).ok()?).cloned()
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Account>> {
        self.look();
        let mut all: Vec<_> = self.table.load().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A number that is another one after the accounts have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.look();
        self.changes.load(Ordering::Acquire)
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.look();
        self.table.load().is_empty()
    }

    /// A check of a password, to be run on a lane.
    ///
    /// # Errors
    /// 128 others wait already.
    pub fn check(&self, name: &str, password: &[u8]) -> Result<PasswordCheck, Busy> {
        let place = Place(Arc::clone(&self.waiting));
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            return Err(Busy);
        }
        Ok(PasswordCheck {
            account: self.find(name),
            password: password.to_vec(),
            _place: place,
        })
    }

    /// The account of a name, if the password is its own. Takes about 20 ms of a core: in a session,
    /// [`Accounts::check`] on a lane is the way.
    #[must_use]
    pub fn verify(&self, name: &str, password: &[u8]) -> Option<Arc<Account>> {
        fits(self.find(name), password)
    }

    /// Takes the file's new accounts where it has changed. One that cannot be used is told of once, and the
    /// accounts stay as they were.
    fn look(&self) {
        let Some(file) = &self.file else { return };
        let now = Instant::now();
        let Some(mut seen) = self.seen.try_lock() else {
            return;
        };
        if seen.at.is_some_and(|at| now < at + LOOK) {
            return;
        }
        seen.at = Some(now);
        let state = state(file);
        if state == seen.state {
            return;
        }
        seen.state = state;
        match file::read(file) {
            Ok(accounts) => {
                log::info!("{} is read anew", file.display());
                self.table
                    .store(Arc::new(accounts.map(index).unwrap_or_default()));
                self.changes.fetch_add(1, Ordering::Release);
            }
            Err(errors) => errors.iter().for_each(|error| {
                log::error!("{error}; the accounts stay as they were");
            }),
        }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

fn index(accounts: Vec<Account>) -> Table {
    let entry = |account: Account| (Arc::clone(&account.name), Arc::new(account));
    accounts.into_iter().map(entry).collect()
}

/// True when others than the owner can read a file of secrets.
pub(crate) fn is_open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|data| data.permissions().mode() & 0o077 != 0)
}

/// The name of an account: what stands before the last `@`, in lower case. Letters, digits and `. _ - + = ' ~`,
/// not beginning with a dot, at most 64 bytes (RFC 5321, 4.5.3.1.1): it is a directory's name, too.
///
/// # Errors
/// What was expected, in words.
pub fn local_part(name: &str) -> Result<String, String> {
    let local = name.rsplit_once('@').map_or(name, |(local, _)| local);
    let lower = local.to_lowercase();
    let plain = |letter: char| letter.is_alphanumeric() || "._-+='~".contains(letter);
    if (1..=64).contains(&lower.len()) && !lower.starts_with('.') && lower.chars().all(plain) {
        Ok(lower)
    } else {
        Err(format!(
            "expected a name of letters, digits and . _ - + = ' ~, at most 64 bytes and not beginning with \
             a dot, found {name:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{Accounts, Busy, Change, LOOK, MOST_WAITING, local_part, set};
    use std::time::Instant;

    #[test]
    fn names_are_compared_by_the_local_part_and_without_case() {
        let accounts = Accounts::of(&[("Ann", "secret", Some("clear")), ("jürg", "x", None)]);
        for name in ["ann", "ANN", "ann@example.org", "Ann@[192.0.2.1]"] {
            let account = accounts.find(name).unwrap();
            assert_eq!(
                (&**account.name(), account.secret()),
                ("ann", Some("clear"))
            );
        }
        assert!(accounts.find("JÜRG").is_some());
        for name in [
            "",
            "@example.org",
            "anne",
            "ann@",
            "../ann",
            ".ann",
            "a/b",
            "ann\0",
            "ann ",
        ] {
            let found = accounts
                .find(name)
                .map(|account| account.name().to_string());
            assert_eq!(
                found.as_deref(),
                (name == "ann@").then_some("ann"),
                "{name:?}"
            );
        }
        assert!(local_part(&"a".repeat(65)).is_err());
        assert!(!format!("{:?}", accounts.find("ann")).contains("clear"));
    }

    #[test]
    fn only_the_right_password_of_a_name_is_taken() {
        let accounts = Accounts::of(&[("ann", "secret", None), ("bob", &"x".repeat(1024), None)]);
        assert!(accounts.verify("Ann@example.org", b"secret").is_some());
        for wrong in [&b"Secret"[..], b"", b"secret\n", &[b'x'; 5000]] {
            assert!(accounts.verify("ann", wrong).is_none());
            assert!(accounts.verify("bob", wrong).is_none());
            assert!(accounts.verify("nobody", wrong).is_none());
        }
    }

    #[test]
    fn at_most_so_many_passwords_wait() {
        let accounts = Accounts::of(&[("ann", "secret", None)]);
        let mut waiting: Vec<_> = (0..MOST_WAITING)
            .map(|_| accounts.check("ann", b"secret").unwrap())
            .collect();
        for _ in 0..3 {
            assert_eq!(accounts.check("ann", b"secret").err(), Some(Busy));
        }
        assert!(waiting.pop().unwrap().run().is_some());
        assert!(accounts.check("ann", b"secret").is_ok());
        drop(waiting);
        assert_eq!(
            accounts.waiting.load(std::sync::atomic::Ordering::Relaxed),
            0
        );
    }

    #[test]
    fn a_changed_file_is_read_anew_and_a_broken_one_is_not_taken() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("accounts.ron");
        let accounts = Accounts::read(&file).unwrap();
        let later = || accounts.seen.lock().at = Instant::now().checked_sub(LOOK);
        assert!(accounts.is_empty());
        set(
            &file,
            "ann",
            &Change {
                password: Some(b"one"),
                ..Change::default()
            },
        )
        .unwrap();
        assert!(accounts.find("ann").is_none(), "within the second");
        later();
        assert!(accounts.verify("ann", b"one").is_some());
        std::fs::write(&file, "{").unwrap();
        later();
        assert!(accounts.verify("ann", b"one").is_some());
        std::fs::remove_file(&file).unwrap();
        later();
        assert!(accounts.find("ann").is_none());
    }
}
