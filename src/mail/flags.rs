#![forbid(unsafe_code)]
//! Flags of messages: letters behind `:2,` in the names of files. Capitals are the Maildir convention's, `a` to `z`
//! are keywords, whose names stand in a file of the folder, as Dovecot does it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::uids::write_file;

/// The convention's letters in the order of the alphabet; their bits come first.
const LETTERS: &[u8; 6] = b"DFPRST";
/// What IMAP calls them (RFC 3501, 2.3.2; `$Forwarded` is RFC 5788's).
const NAMES: [&str; 6] = [
    "\\Draft",
    "\\Flagged",
    FORWARDED,
    "\\Answered",
    "\\Seen",
    "\\Deleted",
];
const FORWARDED: &str = "$Forwarded";

/// A message's flags, one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// `\Draft`
    pub const DRAFT: Flags = Flags(1);
    /// `\Flagged`
    pub const FLAGGED: Flags = Flags(1 << 1);
    /// `\Answered`
    pub const ANSWERED: Flags = Flags(1 << 3);
    /// `\Seen`
    pub const SEEN: Flags = Flags(1 << 4);
    /// `\Deleted`
    pub const DELETED: Flags = Flags(1 << 5);

    /// The flags that a file's name tells. Letters that mean nothing here are passed over.
    #[must_use]
    pub fn of_letters(letters: &[u8]) -> Self {
        let bit = |letter: &u8| match letter {
            b'a'..=b'z' => 1 << (LETTERS.len() + usize::from(letter - b'a')),
            _ => LETTERS
                .iter()
                .position(|known| known == letter)
                .map_or(0, |at| 1 << at),
        };
        Flags(letters.iter().map(bit).fold(0, |all, bit| all | bit))
    }

    /// As they stand in a file's name.
    #[must_use]
    pub fn letters(self) -> String {
        let all = LETTERS.iter().copied().chain(b'a'..=b'z').enumerate();
        all.filter(|(at, _)| self.0 & (1 << at) != 0)
            .map(|(_, letter)| char::from(letter))
            .collect()
    }

    /// True when all of these are set.
    #[must_use]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

/// The names of a folder's keywords. At most 26: one more is refused, and the others stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keywords(Vec<String>);

/// The letters `a` to `z`.
const MOST: usize = 26;
/// The longest name of a keyword, in bytes.
const LONGEST: usize = 100;

fn file(folder: &Path) -> PathBuf {
    folder.join("portreeve-keywords")
}

impl Keywords {
    /// A folder's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(file(folder)) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let names = text.lines().filter(|name| is_keyword(name)).take(MOST);
        Ok(Keywords(names.map(str::to_owned).collect()))
    }

    /// The flag of a name, which is made one of the folder's keywords when it is none yet; `None` when it cannot be.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn define(&mut self, name: &str, folder: &Path) -> io::Result<Option<Flags>> {
        if let Some(flag) = self.find(name) {
            return Ok(Some(flag));
        }
        if self.0.len() >= MOST || !is_keyword(name) {
            return Ok(None);
        }
        let mut text: String = self.0.iter().map(|name| format!("{name}\n")).collect();
        text.push_str(&format!("{name}\n"));
        write_file(&file(folder), text.as_bytes())?;
        self.0.push(name.to_owned());
        Ok(self.find(name))
    }

    /// The flag of a name, compared without case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Flags> {
        let is = |known: &&str| known.eq_ignore_ascii_case(name);
        if let Some(at) = NAMES.iter().position(is) {
            return Some(Flags(1 << at));
        }
        let at = self.0.iter().position(|known| is(&known.as_str()))?;
        Some(Flags(1 << (LETTERS.len() + at)))
    }

    /// The names of flags, with blanks between.
    #[must_use]
    pub fn names(&self, flags: Flags) -> Vec<&str> {
        let names = NAMES
            .iter()
            .copied()
            .chain(self.0.iter().map(String::as_str));
        names
            .enumerate()
            .filter(|(at, _)| flags.0 & (1 << at) != 0)
            .map(|(_, name)| name)
            .collect()
    }

    /// All names that a message of the folder may have.
    #[must_use]
    pub fn all(&self) -> Vec<&str> {
        let own = self.0.iter().map(String::as_str);
        NAMES.iter().copied().chain(own).collect()
    }

    /// True while there is room for new ones.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        self.0.len() < MOST
    }
}

/// An atom (RFC 3501, 9) that fits into a line of the file.
fn is_keyword(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"(){%*\"\\]".contains(&byte);
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::{Flags, Keywords};

    #[test]
    fn letters_and_flags_mean_each_other() {
        for letters in ["", "S", "DFPRST", "FSaz", "z"] {
            assert_eq!(Flags::of_letters(letters.as_bytes()).letters(), letters);
        }
        assert_eq!(Flags::of_letters(b"SX,1S").letters(), "S");
        assert_eq!(Flags::of_letters(b"ST"), Flags::SEEN.with(Flags::DELETED));
    }

    #[test]
    fn keywords_have_letters_for_good_and_are_bounded() {
        let home = tempfile::tempdir().unwrap();
        let mut keywords = Keywords::load(home.path()).unwrap();
        let first = keywords.define("$Junk", home.path()).unwrap().unwrap();
        assert_eq!(first.letters(), "a");
        assert_eq!(keywords.define("$junk", home.path()).unwrap(), Some(first));
        for number in 1..26 {
            let name = format!("label{number}");
            assert!(keywords.define(&name, home.path()).unwrap().is_some());
        }
        assert!(!keywords.may_grow());
        assert_eq!(keywords.define("more", home.path()).unwrap(), None);
        for name in ["", "a b", "a]", "\\X", "{", "ä"] {
            assert_eq!(Keywords::default().define(name, home.path()).unwrap(), None);
        }
        let again = Keywords::load(home.path()).unwrap();
        assert_eq!(again, keywords);
        let both = again.names(Flags::SEEN.with(first));
        assert_eq!(both, ["\\Seen", "$Junk"]);
    }
}
