#![forbid(unsafe_code)]
//! The numbers of a folder's messages (RFC 3501, 2.3.1.1), kept in one file: a first line with UIDVALIDITY and the
//! next number, then a line for each message. Lines are added and made durable before a number is told to anybody;
//! a line that a crash cut short was told to nobody and is thrown away. The whole is written anew, beside and then
//! in its place, when most of it is about messages that are gone.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::maildir::sync_directory;

/// What a folder's file says.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// UIDVALIDITY, at least 1.
    pub(super) validity: u32,
    /// The next number to give.
    pub(super) next: u32,
    /// The number of each message by its unique name.
    pub(super) by_name: HashMap<Vec<u8>, u32>,
    /// Lines of messages in the file.
    pub(super) lines: usize,
    /// Whether the file is to be written anew before anything is added.
    pub(super) is_torn: bool,
}

pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join("portreeve-uids")
}

/// Reads a folder's file; `None` when there is none, or none that can be understood.
///
/// # Errors
/// The disk refuses.
pub(super) fn load(folder: &Path) -> io::Result<Option<Numbers>> {
    let text = match fs::read(file(folder)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    Ok(parse(&text))
}

fn parse(text: &[u8]) -> Option<Numbers> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let head = std::str::from_utf8(lines.next()?.strip_suffix(b"\n")?).ok()?;
    let mut words = head.split(' ');
    let (Some("1"), Some(validity), Some(next), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    let mut numbers = Numbers {
        validity: validity.parse().ok().filter(|number| *number > 0)?,
        next: next.parse().ok().filter(|number| *number > 0)?,
        ..Numbers::default()
    };
    for line in lines {
        let Some((uid, name)) = row(line) else {
            numbers.is_torn = true;
            continue;
        };
        numbers.lines += 1;
        numbers.next = numbers.next.max(uid.checked_add(1)?);
        numbers.by_name.insert(name.to_vec(), uid);
    }
    Some(numbers)
}

fn row(line: &[u8]) -> Option<(u32, &[u8])> {
    let line = line.strip_suffix(b"\n")?;
    let at = memchr::memchr(b' ', line)?;
    let uid: u32 = std::str::from_utf8(&line[..at]).ok()?.parse().ok()?;
    let name = &line[at + 1..];
    (uid > 0 && !name.is_empty()).then_some((uid, name))
}

fn line(text: &mut Vec<u8>, uid: u32, name: &[u8]) {
    text.extend_from_slice(uid.to_string().as_bytes());
    text.push(b' ');
    text.extend_from_slice(name);
    text.push(b'\n');
}

/// Adds messages, durably.
///
/// # Errors
/// The disk refuses; the file may end in half a line then.
pub(super) fn add<'n>(
    folder: &Path,
    rows: impl Iterator<Item = (u32, &'n [u8])>,
) -> io::Result<()> {
    let mut text = Vec::new();
    rows.for_each(|(uid, name)| line(&mut text, uid, name));
    let mut file = OpenOptions::new().append(true).open(file(folder))?;
    file.write_all(&text)?;
    file.sync_data()
}

/// Writes the file anew, durably.
///
/// # Errors
/// The disk refuses; the old file stays.
pub(super) fn write<'n>(
    folder: &Path,
    validity: u32,
    next: u32,
    rows: impl Iterator<Item = (u32, &'n [u8])>,
) -> io::Result<()> {
    let mut text = format!("1 {validity} {next}\n").into_bytes();
    rows.for_each(|(uid, name)| line(&mut text, uid, name));
    write_file(&file(folder), &text)
}

/// Puts a whole file in the place of an old one, durably.
pub(super) fn write_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".tmp");
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&draft).and_then(|mut file: File| {
        file.write_all(text)?;
        file.sync_data()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&draft, path)) {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    path.parent().map_or(Ok(()), sync_directory)
}

/// A UIDVALIDITY that no folder of the account has had: the time, or one more than the last. `account` is the
/// directory of its inbox.
///
/// # Errors
/// The disk refuses.
pub(super) fn new_validity(account: &Path) -> io::Result<u32> {
    /// New folders are rare: one after the other.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let file = account.join("portreeve-uidvalidity");
    let last: u32 = match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        text => text?.trim().parse().unwrap_or(0),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    let validity = now.max(last.saturating_add(1));
    write_file(&file, format!("{validity}\n").as_bytes())?;
    Ok(validity)
}

#[cfg(test)]
mod tests {
    use super::{add, file, load, new_validity, write};
    use std::fs;

    #[test]
    fn numbers_outlive_a_line_that_was_cut_short() {
        let home = tempfile::tempdir().unwrap();
        assert!(load(home.path()).unwrap().is_none());
        write(home.path(), 7, 1, [].into_iter()).unwrap();
        add(
            home.path(),
            [(1, &b"one"[..]), (2, b"two \xff")].into_iter(),
        )
        .unwrap();
        let whole = fs::read(file(home.path())).unwrap();
        for end in "1 7 1\n".len()..=whole.len() {
            fs::write(file(home.path()), &whole[..end]).unwrap();
            let numbers = load(home.path()).unwrap().unwrap();
            assert_eq!(numbers.validity, 7);
            assert_eq!(numbers.next as usize, numbers.lines + 1);
            assert_eq!(numbers.is_torn, !whole[..end].ends_with(b"\n"));
        }
        assert_eq!(
            load(home.path()).unwrap().unwrap().by_name[&b"two \xff"[..]],
            2
        );
        for bad in ["", "1 7", "1 0 1\n", "2 7 1\n", "1 7 0\n", "x\n"] {
            fs::write(file(home.path()), bad).unwrap();
            assert!(load(home.path()).unwrap().is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_uidvalidity_is_never_given_twice() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (new_validity(home.path()), new_validity(home.path()));
        assert!(one.unwrap() < two.unwrap());
    }
}
