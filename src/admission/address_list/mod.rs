#![forbid(unsafe_code)]
//! Address lists: text in, sorted disjoint ranges out. Pure but for `@file`, which goes through a loader.
//!
//! One parser serves every list there is. The last line that covers an address decides about it, so `!`
//! takes out of what stands above and a later line puts back.

mod compile;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compile::Ranges;

/// A compiled list. Cloning shares it.
#[derive(Clone, Default)]
pub struct AddressList(Arc<Compiled>);

#[derive(Default)]
struct Compiled {
    text: String,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    origins: Origins,
}

/// Where a list's text comes from.
pub struct Source<'a> {
    /// The file that holds the text; `@file` lines are relative to its folder.
    pub file: &'a Path,
    /// The list.
    pub text: &'a str,
    /// Line and column in `file`, both from 1, of a byte offset in `text`.
    pub position: &'a dyn Fn(usize) -> (u32, u32),
}

/// A line that cannot be understood. Displays as `FILE:LINE:COLUMN: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListError {
    /// The file that holds the line.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: u32,
    /// The column of what is wrong, in bytes from 1.
    pub column: u32,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
    }
}

/// The line that decides about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// False when the line takes the address out.
    pub listed: bool,
    /// The line's file.
    pub file: &'a Path,
    /// The line, from 1.
    pub line: u32,
}

/// Reads the file of an `@file` line.
pub type Loader<'a> = dyn FnMut(&Path) -> io::Result<String> + 'a;

impl AddressList {
    /// Compiles a list; `@file` lines are read from the disk.
    ///
    /// # Errors
    /// Every bad line, at most [`parse::MOST_ERRORS`].
    pub fn parse(source: &Source<'_>) -> Result<Self, Vec<ListError>> {
        Self::parse_with(source, &mut |path| std::fs::read_to_string(path))
    }

    /// The same with a loader of the caller's.
    ///
    /// # Errors
    /// As [`AddressList::parse`].
    pub fn parse_with(source: &Source<'_>, loader: &mut Loader<'_>) -> Result<Self, Vec<ListError>> {
        let parsed = parse::parse(source, loader)?;
        Ok(AddressList(Arc::new(Compiled {
            text: source.text.to_owned(),
            v4: Ranges::compile(parsed.v4),
            v6: Ranges::compile(parsed.v6),
            origins: parsed.origins,
        })))
    }

    /// A list that stands in no file, such as a default.
    ///
    /// # Errors
    /// As [`AddressList::parse`].
    pub fn from_text(text: &str) -> Result<Self, Vec<ListError>> {
        let position = |offset| plain_position(text, offset);
        Self::parse(&Source { file: Path::new("(list)"), text, position: &position })
    }

    /// Whether an address is on the list. O(log n).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.find(address).is_some_and(|origin| origin & EXCLUDED == 0)
    }

    /// The line that decides about an address; `None` when no line covers it.
    #[must_use]
    pub fn decide(&self, address: IpAddr) -> Option<Decision<'_>> {
        let origin = self.find(address)?;
        let (file, line) = self.0.origins.place(origin & !EXCLUDED)?;
        Some(Decision { listed: origin & EXCLUDED == 0, file, line })
    }

    fn find(&self, address: IpAddr) -> Option<u32> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.0.v4.find(u32::from(address)),
            IpAddr::V6(address) => self.0.v6.find(u128::from(address)),
        }
    }

    /// The text as it was written, comments included.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// True when no line says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Disjoint ranges, those taken out included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.v4.len() + self.0.v6.len()
    }

    /// Bytes of the compiled form.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.0.v4.memory() + self.0.v6.memory()
    }
}

impl fmt::Debug for AddressList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressList({} ranges)", self.len())
    }
}

/// Marks the origin of a range that a `!` line took out.
const EXCLUDED: u32 = 1 << 31;

/// Lines of all files of a list, numbered through: segment after segment.
#[derive(Debug, Default)]
struct Origins {
    segments: Vec<Segment>,
}

/// A run of lines of one file. Their numbers start at `base`.
#[derive(Debug)]
struct Segment {
    base: u32,
    file: PathBuf,
    first_line: u32,
}

impl Origins {
    fn place(&self, origin: u32) -> Option<(&Path, u32)> {
        let index = self.segments.partition_point(|segment| segment.base <= origin).checked_sub(1)?;
        let segment = &self.segments[index];
        Some((&segment.file, segment.first_line + (origin - segment.base)))
    }
}

/// Line and column of an offset in a plain file.
#[must_use]
pub fn plain_position(text: &str, offset: usize) -> (u32, u32) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |end| end + 1) + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}
