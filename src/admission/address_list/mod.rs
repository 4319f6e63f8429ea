//! Address lists: one text form for every list, compiled to sorted disjoint ranges. No socket, no
//! clock, no thread; files named by `@` come through a loader that the caller may replace.
//!
//! A list is text, one entry a line:
//!
//! ```text
//! 127.0.0.1                  ; one address
//! 10.0.0.0/8                 ; CIDR; host bits must be zero; /1../32, /1../128
//! 192.168.1.10-192.168.1.99  ; inclusive range
//! !10.66.0.0/16              ; taken out of what the lines above built
//! [2001:db8::7]              ; brackets allowed
//! @blocklist.txt             ; the lines of that file, relative to the file that names it
//! ```
//!
//! The last line that covers an address decides it. IPv4-mapped IPv6 (`::ffff:192.0.2.1`) is IPv4,
//! in entries as in questions; `::ffff:0:0/96` is therefore all of IPv4. A wider IPv6 network such
//! as `::/8` lists IPv6 addresses only: lists of unassigned IPv6 space hold `::/8`, and must not
//! shut out IPv4 by it.
#![forbid(unsafe_code)]

mod compile;
mod entry;
mod lookup;
mod origin;
mod parse;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lookup::Ranges;
use origin::Origins;

/// A compiled list. A clone shares the compiled form. The default list is empty.
#[derive(Clone, Default)]
pub struct AddressList {
    compiled: Arc<Compiled>,
}

#[derive(Default)]
struct Compiled {
    text: Box<str>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    origins: Origins,
}

/// The text of a list and where it stands.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The file that errors name, and that `@file` is relative to.
    pub file: &'a Path,
    /// The list itself.
    pub text: &'a str,
    /// Maps a byte offset in `text` to line and column in `file`, both counted from 1: the text may
    /// be a string with escapes inside a larger file. It is asked once for each entry, in rising
    /// order, and once for each error. `(0, 0)` at offset 0 says that `text` is the whole file;
    /// positions are then counted in `text` itself.
    pub position: &'a dyn Fn(usize) -> (u32, u32),
}

impl<'a> Source<'a> {
    /// A list that is a file of its own.
    pub fn file(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            position: &|_| (0, 0),
        }
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

/// A line that is not an entry. Displayed as `FILE:LINE:COLUMN: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListError {
    /// The file that holds the line.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: u32,
    /// Of the offending word; counted from 1, in characters where the list is a file of its own.
    pub column: u32,
    /// What is wrong and what was expected; one line, no trailing dot.
    pub message: String,
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
        } = self;
        write!(f, "{}:{line}:{column}: {message}", file.display())
    }
}

impl Error for ListError {}

/// The line that decided an address: the last one that covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// False when the line begins with `!`.
    pub listed: bool,
    /// The file that holds the line.
    pub file: &'a Path,
    /// Counted from 1.
    pub line: u32,
}

impl AddressList {
    /// Compiles a list; files that it names are read from disk.
    ///
    /// # Errors
    ///
    /// Every bad line, in the order of reading, also those in named files. After 50 a last error
    /// says how many more there are.
    pub fn parse(source: &Source<'_>) -> Result<Self, Vec<ListError>> {
        Self::parse_with(source, &mut parse::read_file)
    }

    /// Like [`parse`](Self::parse), with files read by `loader`. It gets the path as joined to the
    /// directory of the naming file; its error is reported at the line that names the file.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn parse_with(
        source: &Source<'_>,
        loader: &mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Result<Self, Vec<ListError>> {
        let parsed = parse::parse(source, loader)?;
        Ok(Self {
            compiled: Arc::new(Compiled {
                text: source.text.into(),
                v4: Ranges::new(&compile::disjoint(parsed.v4)),
                v6: Ranges::new(&compile::disjoint(parsed.v6)),
                origins: parsed.origins,
            }),
        })
    }

    /// Whether the list holds `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let origin = match Self::canonical(address) {
            IpAddr::V4(address) => self.compiled.v4.origin(address.to_bits()),
            IpAddr::V6(address) => self.compiled.v6.origin(address.to_bits()),
        };
        origin.is_some_and(|origin| origin.listed())
    }

    /// The line that decides `address`; `None` when no line covers it, so that it is not listed.
    pub fn decide(&self, address: IpAddr) -> Option<Decision<'_>> {
        let origin = match Self::canonical(address) {
            IpAddr::V4(address) => self.compiled.v4.origin(address.to_bits()),
            IpAddr::V6(address) => self.compiled.v6.origin(address.to_bits()),
        }?;
        let (file, line) = self.compiled.origins.place(origin);
        Some(Decision {
            listed: origin.listed(),
            file,
            line,
        })
    }

    /// The files that were read for it, the one with the list itself among them.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.compiled.origins.files()
    }

    /// The text as it was written, comments included; without the text of files that it names.
    pub fn text(&self) -> &str {
        &self.compiled.text
    }

    /// True when no address is listed, whatever the text holds.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of compiled ranges that are listed. At least that of [`ranges`](Self::ranges),
    /// since adjacent ranges of different lines stay apart here.
    pub fn len(&self) -> usize {
        self.compiled.v4.listed() + self.compiled.v6.listed()
    }

    /// Bytes of the compiled form, without the text: 13 a range for IPv4 and 38 for IPv6, excluded
    /// ranges counted too. Lines that cover each other in part make up to two ranges a line.
    pub fn memory(&self) -> usize {
        let compiled = &*self.compiled;
        size_of::<Compiled>()
            + compiled.v4.memory()
            + compiled.v6.memory()
            + compiled.origins.memory()
    }

    /// The form in which an address is looked up, counted and logged: IPv4-mapped IPv6 becomes
    /// IPv4, everything else stays.
    pub fn canonical(address: IpAddr) -> IpAddr {
        address.to_canonical()
    }

    /// The listed addresses as the fewest ranges: IPv4 first, then IPv6, each rising, disjoint and
    /// not adjacent.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<IpAddr>> {
        let v4 = self.compiled.v4.merged();
        let v6 = self.compiled.v6.merged();
        let v4 =
            v4.map(|(first, last)| span(Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last)));
        let v6 =
            v6.map(|(first, last)| span(Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last)));
        v4.chain(v6)
    }
}

fn span(first: impl Into<IpAddr>, last: impl Into<IpAddr>) -> RangeInclusive<IpAddr> {
    first.into()..=last.into()
}

impl fmt::Debug for AddressList {
    /// Sizes only: a list may hold a million ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressList")
            .field("ranges", &self.len())
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}
