#![forbid(unsafe_code)]
//! The folders of an account by the names that IMAP gives them: `/` between the parts, in modified UTF-7.
//!
//! On disk they are Maildir++ folders beside the inbox. `/` is `.` there; a `.` or `%` of a name is `%2E` or `%25`.
//! A name cannot lead out of the mailbox, hold a control character or be longer than a file's name may be.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use parking_lot::{Mutex, MutexGuard};

use super::delivery::unique;
use super::folder::{Arrival, Folder};
use super::maildir::{Maildir, sync_directory};
use super::uids::write_file;
use super::utf7;

/// An account's mailbox with all its folders.
#[derive(Debug, Clone)]
pub struct Folders {
    inbox: Maildir,
}

/// A name that a folder may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// The one that every account has.
const INBOX: &str = "INBOX";
/// The most folders of an account: more cannot be made.
const MOST_FOLDERS: usize = 10_000;
/// The most names in the list of subscriptions: one more is refused.
const MOST_SUBSCRIPTIONS: usize = 10_000;
/// What begins the directory of a folder that is being deleted.
const DELETED: &str = "portreeve-deleted-";

impl Name {
    /// A name as a client wrote it; `None` when no folder can have it. `INBOX` may be written in any case.
    #[must_use]
    pub fn of(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let decoded = utf7::decode(text)?;
        if decoded.chars().any(char::is_control) || text.split('/').any(str::is_empty) {
            return None;
        }
        let (first, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
        let name = match first.eq_ignore_ascii_case(INBOX) {
            true => format!("{INBOX}{rest}"),
            false => text.to_owned(),
        };
        let name = Name(name);
        // With the dot before it, and room for more within the 255 bytes of a file's name.
        (name.on_disk().len() < 200).then_some(name)
    }

    /// As clients see it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the inbox.
    #[must_use]
    pub fn is_inbox(&self) -> bool {
        self.0 == INBOX
    }

    fn on_disk(&self) -> String {
        self.0
            .replace('%', "%25")
            .replace('.', "%2E")
            .replace('/', ".")
    }

    /// The name of a Maildir++ folder; `None` for one that no client could write.
    fn from_disk(name: &str) -> Option<Self> {
        let text = name
            .replace('.', "/")
            .replace("%2E", ".")
            .replace("%25", "%");
        Name::of(text.as_bytes()).filter(|it| it.on_disk() == name && !it.is_inbox())
    }

    /// What the folder is for (RFC 6154, 2), as its name says.
    #[must_use]
    pub fn special_use(&self) -> Option<&'static str> {
        let uses = ["\\Drafts", "\\Sent", "\\Trash", "\\Junk", "\\Archive"];
        uses.into_iter()
            .find(|known| known[1..].eq_ignore_ascii_case(&self.0))
    }

    /// The names above this one.
    fn above(&self) -> impl Iterator<Item = Name> + '_ {
        self.0
            .match_indices('/')
            .map(|(at, _)| Name(self.0[..at].to_owned()))
    }

    fn is_below(&self, other: &Name) -> bool {
        self.0
            .strip_prefix(&other.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

/// Why a folder is not made, renamed or removed.
#[derive(Debug)]
pub enum Refusal {
    /// There is one already.
    Exists,
    /// There is none.
    Missing,
    /// Not with the inbox, or not with this name.
    Never(&'static str),
    /// Too many.
    TooMany,
    /// The disk refuses.
    Disk(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Disk(error)
    }
}

/// One name in a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The name.
    pub name: Name,
    /// False for one that is there only because others are below it.
    pub is_folder: bool,
    /// Whether there are others below it.
    pub has_children: bool,
}

/// Changes of the folders of one account come one after the other. Accounts that share a lock wait for each other.
fn one_at_a_time(inbox: &Maildir) -> MutexGuard<'static, ()> {
    static LOCKS: LazyLock<[Mutex<()>; 64]> =
        LazyLock::new(|| std::array::from_fn(|_| Mutex::default()));
    let path = inbox.path().as_os_str().as_encoded_bytes();
    let hash = path.iter().fold(0_usize, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(usize::from(*byte))
    });
    LOCKS[hash % LOCKS.len()].lock()
}

impl Folders {
    /// Those of the account with this inbox.
    #[must_use]
    pub fn new(inbox: Maildir) -> Self {
        Folders { inbox }
    }

    fn maildir(&self, name: &Name) -> Option<Maildir> {
        match name.is_inbox() {
            true => Some(self.inbox.clone()),
            false => self.inbox.folder(&name.on_disk()),
        }
    }

    /// A folder that is there.
    #[must_use]
    pub fn open(&self, name: &Name) -> Option<Arc<Folder>> {
        let maildir = self.maildir(name)?;
        let is_there = name.is_inbox() || maildir.part(false).is_dir();
        is_there.then(|| Folder::open(&maildir, &self.inbox))
    }

    /// Every name, in order, with those that are there only because of others below them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Row>> {
        let folders = self.inbox.folders()?;
        let mut names: Vec<Name> = folders
            .iter()
            .filter_map(|name| Name::from_disk(name))
            .collect();
        names.push(Name(INBOX.to_owned()));
        Ok(rows(names))
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn create(&self, name: &Name) -> Result<(), Refusal> {
        let _one = one_at_a_time(&self.inbox);
        self.create_alone(name)
    }

    fn create_alone(&self, name: &Name) -> Result<(), Refusal> {
        if self.open(name).is_some() {
            return Err(Refusal::Exists);
        }
        let maildir = self
            .maildir(name)
            .ok_or(Refusal::Never("such a name is not possible"))?;
        if self.inbox.folders()?.len() >= MOST_FOLDERS {
            return Err(Refusal::TooMany);
        }
        maildir.create()?;
        // Other programs know a folder by it (Maildir++).
        fs::write(maildir.path().join("maildirfolder"), "")?;
        Ok(())
    }

    /// Removes a folder with its messages; those below it stay.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn delete(&self, name: &Name) -> Result<(), Refusal> {
        if name.is_inbox() {
            return Err(Refusal::Never("the inbox stays"));
        }
        let _one = one_at_a_time(&self.inbox);
        let maildir = self.maildir(name).filter(|it| it.part(false).is_dir());
        let path = maildir.ok_or(Refusal::Missing)?.path().to_path_buf();
        // Gone at once for everybody, and then removed file by file.
        let grave = self
            .inbox
            .path()
            .join(format!("{DELETED}{}", unique(std::time::SystemTime::now())));
        fs::rename(&path, &grave)?;
        Folder::forget(&[path]);
        sync_directory(self.inbox.path())?;
        self.bury();
        Ok(())
    }

    /// Removes what was deleted, also before a crash. What cannot be removed is tried again the next time.
    fn bury(&self) {
        let entries = fs::read_dir(self.inbox.path())
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.filter(|it| it.file_name().to_string_lossy().starts_with(DELETED)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }

    /// Gives a folder and those below it another name. The inbox stays and gives away its messages (RFC 3501, 6.3.5).
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn rename(&self, from: &Name, to: &Name) -> Result<(), Refusal> {
        let _one = one_at_a_time(&self.inbox);
        if to.is_inbox() || self.open(to).is_some() {
            return Err(Refusal::Exists);
        }
        if from.is_inbox() {
            self.create_alone(to)?;
            return self.empty_inbox_into(to);
        }
        if to.is_below(from) {
            return Err(Refusal::Never("a folder cannot be put into itself"));
        }
        let rows = self.list()?;
        let names = rows.iter().filter(|row| row.is_folder).map(|row| &row.name);
        let mut moves = Vec::new();
        for old in names.filter(|name| *name == from || name.is_below(from)) {
            let new = Name::of(format!("{}{}", to.0, &old.0[from.0.len()..]).as_bytes());
            let new = new.ok_or(Refusal::Never("such a name is not possible"))?;
            if self.open(&new).is_some() {
                return Err(Refusal::Exists);
            }
            let paths = (self.maildir(old), self.maildir(&new));
            let (Some(old), Some(new)) = paths else {
                return Err(Refusal::Never("such a name is not possible"));
            };
            moves.push((old.path().to_path_buf(), new.path().to_path_buf()));
        }
        if moves.is_empty() {
            return Err(Refusal::Missing);
        }
        let gone: Vec<PathBuf> = moves.iter().map(|(old, _)| old.clone()).collect();
        let moved = moves.iter().try_for_each(|(old, new)| fs::rename(old, new));
        Folder::forget(&gone);
        moved.and_then(|()| sync_directory(self.inbox.path()))?;
        Ok(())
    }

    fn empty_inbox_into(&self, to: &Name) -> Result<(), Refusal> {
        let (Some(inbox), Some(target)) = (self.open(&Name(INBOX.to_owned())), self.open(to))
        else {
            return Err(Refusal::Missing);
        };
        let uids: Vec<u32> = inbox
            .look()?
            .entries()
            .iter()
            .map(|entry| entry.uid)
            .collect();
        copy(&inbox, &target, &uids)?;
        match inbox.remove(&uids) {
            0 => Ok(()),
            _ => Err(Refusal::Disk(io::Error::other(
                "some messages stay in the inbox, too",
            ))),
        }
    }

    fn subscriptions_file(&self) -> PathBuf {
        self.inbox.path().join("portreeve-subscriptions")
    }

    /// The names that the client wants to see.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn subscriptions(&self) -> io::Result<Vec<Name>> {
        let text = match fs::read_to_string(self.subscriptions_file()) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text?,
        };
        Ok(text
            .lines()
            .filter_map(|line| Name::of(line.as_bytes()))
            .collect())
    }

    /// Adds a name to them, or takes it away. It need not be a folder's (RFC 3501, 6.3.6).
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn subscribe(&self, name: &Name, is_wanted: bool) -> Result<(), Refusal> {
        let _one = one_at_a_time(&self.inbox);
        let mut names = self.subscriptions()?;
        if names.contains(name) == is_wanted {
            return Ok(());
        }
        names.retain(|known| known != name);
        if is_wanted {
            if names.len() >= MOST_SUBSCRIPTIONS {
                return Err(Refusal::TooMany);
            }
            names.push(name.clone());
        }
        if !self.inbox.path().is_dir() {
            self.inbox.create()?;
        }
        let text: String = names.iter().map(|name| format!("{}\n", name.0)).collect();
        write_file(&self.subscriptions_file(), text.as_bytes())?;
        Ok(())
    }
}

/// Names in order, with those above them.
#[must_use]
pub fn rows(names: Vec<Name>) -> Vec<Row> {
    let mut all: BTreeMap<Name, (bool, bool)> = BTreeMap::new();
    for name in names {
        for above in name.above() {
            all.entry(above).or_default().1 = true;
        }
        all.entry(name).or_default().0 = true;
    }
    let row = |(name, (is_folder, has_children))| Row {
        name,
        is_folder,
        has_children,
    };
    all.into_iter().map(row).collect()
}

/// Copies messages into a folder, all or none. Pairs of old and new numbers, without those that are gone.
///
/// # Errors
/// The disk refuses.
pub fn copy(from: &Folder, to: &Folder, uids: &[u32]) -> io::Result<Vec<(u32, u32)>> {
    let mut drafts = Drafts::default();
    let mut copied = Vec::new();
    for uid in uids {
        let Some(entry) = from.known().entry(*uid).cloned() else {
            continue;
        };
        let stem = unique(std::time::SystemTime::now());
        let sizes = entry.message.unique().to_string_lossy().into_owned();
        let sizes = sizes
            .split_once(',')
            .map_or(String::new(), |(_, rest)| format!(",{rest}"));
        let draft = to.maildir().path().join("tmp").join(&stem);
        if from.link(*uid, &draft)?.is_none() {
            continue;
        }
        let names: Vec<String> = {
            let state = from.known();
            let names = state.keywords.names(entry.flags);
            names.into_iter().map(str::to_owned).collect()
        };
        drafts.0.push(Arrival {
            draft,
            name: format!("{stem}{sizes}"),
            flags: to.flags_of(names.iter().map(String::as_str))?,
        });
        copied.push(*uid);
    }
    let numbers = to.adopt(&drafts.0)?;
    Ok(copied.into_iter().zip(numbers).collect())
}

/// Drafts that are removed when nothing came of them.
#[derive(Default)]
struct Drafts(Vec<Arrival>);

impl Drop for Drafts {
    fn drop(&mut self) {
        for arrival in &self.0 {
            remove_if_there(&arrival.draft);
        }
    }
}

fn remove_if_there(draft: &Path) {
    let _ = fs::remove_file(draft);
}

#[cfg(test)]
mod tests {
    use super::{Folders, Name, Refusal, copy};
    use crate::mail::delivery::Delivery;
    use crate::mail::maildir::Store;

    fn name(text: &str) -> Name {
        Name::of(text.as_bytes()).unwrap()
    }

    fn listed(folders: &Folders) -> Vec<String> {
        let row = |row: super::Row| {
            format!(
                "{}{}",
                row.name.as_str(),
                if row.is_folder { "" } else { " -" }
            )
        };
        folders.list().unwrap().into_iter().map(row).collect()
    }

    #[test]
    fn names_stay_within_the_mailbox_and_mean_one_folder_each() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "../../x\0",
            "a\0b",
            "a\nb",
            "&AAo-",
            "&AGE-",
            "&",
            "\u{e4}",
            "a\u{7f}",
        ] {
            assert!(Name::of(bad.as_bytes()).is_none(), "{bad:?}");
        }
        assert!(Name::of(b"\xff").is_none());
        assert!(Name::of(&[b'a'; 200]).is_none());
        assert!(Name::of(&[b'.'; 100]).is_none());
        for (text, on_disk) in [
            ("Sent", "Sent"),
            ("..", "%2E%2E"),
            ("../../etc", "%2E%2E.%2E%2E.etc"),
            ("a.b/c%2E", "a%2Eb.c%252E"),
            ("&U,BTFw-", "&U,BTFw-"),
            ("inBOX/x", "INBOX.x"),
        ] {
            assert_eq!(name(text).on_disk(), on_disk);
            assert_eq!(Name::from_disk(on_disk), Some(name(text)));
        }
        assert!(name("inbox").is_inbox());
        for odd in ["INBOX", "inbox.x", "a%", "a%41", "\u{e4}"] {
            assert_eq!(Name::from_disk(odd), None, "{odd}");
        }
    }

    #[test]
    fn folders_are_made_renamed_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::new(Store::new(home.path()).mailbox("ann"));
        assert_eq!(listed(&folders), ["INBOX"]);
        folders.create(&name("a/b/c")).unwrap();
        folders.create(&name("a/b")).unwrap();
        assert!(matches!(folders.create(&name("a/b")), Err(Refusal::Exists)));
        assert!(matches!(
            folders.create(&name("Inbox")),
            Err(Refusal::Exists)
        ));
        assert_eq!(listed(&folders), ["INBOX", "a -", "a/b", "a/b/c"]);
        let open = folders.open(&name("a/b/c")).unwrap();
        let validity = open.look().unwrap().validity;
        folders.rename(&name("a"), &name("z")).unwrap();
        assert_eq!(listed(&folders), ["INBOX", "z -", "z/b", "z/b/c"]);
        assert!(open.is_gone() && open.look().is_err());
        let open = folders.open(&name("z/b/c")).unwrap();
        assert_eq!(open.look().unwrap().validity, validity);
        assert!(matches!(
            folders.rename(&name("z"), &name("z/b/x")),
            Err(Refusal::Never(_))
        ));
        assert!(matches!(
            folders.rename(&name("y"), &name("x")),
            Err(Refusal::Missing)
        ));
        folders.delete(&name("z/b")).unwrap();
        assert!(matches!(
            folders.delete(&name("z/b")),
            Err(Refusal::Missing)
        ));
        assert!(matches!(
            folders.delete(&name("INBOX")),
            Err(Refusal::Never(_))
        ));
        assert_eq!(listed(&folders), ["INBOX", "z -", "z/b -", "z/b/c"]);
        folders.delete(&name("z/b/c")).unwrap();
        folders.create(&name("z/b/c")).unwrap();
        let open = folders.open(&name("z/b/c")).unwrap();
        assert!(open.look().unwrap().validity > validity);
    }

    #[test]
    fn the_inbox_gives_away_its_messages_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let inbox = Store::new(home.path()).mailbox("ann");
        let folders = Folders::new(inbox.clone());
        for _ in 0..3 {
            let mut delivery = Delivery::begin(vec![inbox.clone()]).unwrap();
            delivery.write(b"x\r\n").unwrap();
            delivery.finish().unwrap();
        }
        folders.rename(&name("INBOX"), &name("old")).unwrap();
        assert_eq!(inbox.messages().unwrap().len(), 0);
        let (old, inbox) = (
            folders.open(&name("old")).unwrap(),
            folders.open(&name("inbox")).unwrap(),
        );
        assert_eq!(old.look().unwrap().entries().len(), 3);
        let pairs = copy(&old, &inbox, &[1, 3, 8]).unwrap();
        assert_eq!(pairs, [(1, 4), (3, 5)]);
        assert_eq!(inbox.known().entry(5).unwrap().message.wire_size(), Some(3));
    }

    #[test]
    fn subscriptions_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::new(Store::new(home.path()).mailbox("ann"));
        for (text, is_wanted) in [
            ("a", true),
            ("b/c", true),
            ("a", true),
            ("a", false),
            ("x", false),
        ] {
            folders.subscribe(&name(text), is_wanted).unwrap();
        }
        assert_eq!(folders.subscriptions().unwrap(), [name("b/c")]);
    }
}
