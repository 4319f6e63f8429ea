//! From text to entries: lines, comments, `!`, `@file`, and the errors of all of them.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::compile::Span;
use super::entry::{self, Block, Mistake};
use super::origin::Origins;
use super::{ListError, Source};

/// Errors reported one by one; the rest is counted. A page full is enough to see what is wrong.
const MAX_REPORTED: usize = 50;

/// How deep files may name each other. It ends circles that symbolic links hide.
const MAX_DEPTH: usize = 16;

/// How many files one list may read. Files that each name the next one twice would otherwise read
/// 2^16.
const MAX_FILES: usize = 1024;

/// What a text means, in the order of its lines.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) v4: Vec<Span<u32>>,
    pub(super) v6: Vec<Span<u128>>,
    pub(super) origins: Origins,
}

/// Reads `source` and the files that it names.
pub(super) fn parse(
    source: &Source<'_>,
    loader: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Parsed, Vec<ListError>> {
    let mut parser = Parser {
        loader,
        chain: vec![source.file.to_path_buf()],
        files: 0,
        parsed: Parsed::default(),
        errors: Vec::new(),
        unreported: 0,
    };
    let embedded = (source.position)(0).0 > 0;
    let file = parser.parsed.origins.add_file(source.file.to_path_buf());
    parser.read(&Text {
        text: source.text,
        file,
        position: embedded.then_some(source.position),
    });
    parser.finish()
}

/// Reads a file that a list names from disk. Only regular files: a pipe would hold up the daemon.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    String::from_utf8(fs::read(path)?).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = memchr::memchr_iter(b'\n', valid).count() + 1;
        let message = format!("line {line} is not UTF-8 text");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// One text being read.
struct Text<'t> {
    text: &'t str,
    file: u32,
    /// Absent when the text is a file of its own.
    position: Option<&'t dyn Fn(usize) -> (u32, u32)>,
}

impl Text<'_> {
    /// Line and column of a part of the text.
    fn position(&self, part: &str) -> (u32, u32) {
        let offset = part
            .as_ptr()
            .addr()
            .saturating_sub(self.text.as_ptr().addr());
        match self.position {
            Some(position) => position(offset),
            None => count(self.text.get(..offset).unwrap_or(self.text)),
        }
    }
}

/// The position behind `before`, which begins the file.
fn count(before: &str) -> (u32, u32) {
    let lines = memchr::memchr_iter(b'\n', before.as_bytes()).count();
    let line = before.rsplit('\n').next().unwrap_or(before);
    let columns = line.trim_start_matches(BYTE_ORDER_MARK).chars().count();
    let number = |counted: usize| u32::try_from(counted + 1).unwrap_or(u32::MAX);
    (number(lines), number(columns))
}

const BYTE_ORDER_MARK: char = '\u{feff}';

struct Parser<'l> {
    loader: &'l mut dyn FnMut(&Path) -> io::Result<String>,
    /// The file being read, behind those that led to it.
    chain: Vec<PathBuf>,
    /// Files read so far.
    files: usize,
    parsed: Parsed,
    errors: Vec<ListError>,
    /// Errors behind the last of `errors`, which has the position of their first.
    unreported: usize,
}

impl Parser<'_> {
    fn read(&mut self, text: &Text<'_>) {
        let lines = text.text.strip_prefix(BYTE_ORDER_MARK);
        for (number, line) in (1..).zip(lines.unwrap_or(text.text).split('\n')) {
            let entry = line.split_once(';').map_or(line, |(entry, _)| entry).trim();
            if entry.is_empty() {
                continue;
            }
            let number = match text.position {
                Some(_) => text.position(entry).0,
                None => number,
            };
            if let Err(mistake) = self.line(text, number, entry) {
                self.report(text, mistake);
            }
        }
    }

    fn line<'t>(&mut self, text: &Text<'_>, line: u32, entry: &'t str) -> Result<(), Mistake<'t>> {
        if let Some(name) = entry.strip_prefix('@') {
            return self.include(name.trim());
        }
        let (listed, block) = match entry.strip_prefix('!') {
            Some(excluded) => (false, excluded.trim_start()),
            None => (true, entry),
        };
        if !listed && block.starts_with('@') {
            let message = "`!` cannot stand before `@`: put it before the lines of that file";
            return Err(Mistake::new(entry, message));
        }
        let parsed = entry::parse(block)?;
        let Some(origin) = self.parsed.origins.add(text.file, line, listed) else {
            return Err(Mistake::new(entry, "a list has at most 2^31 entries"));
        };
        match parsed {
            Block::V4(first, last) => self.parsed.v4.push(Span {
                first,
                last,
                origin,
            }),
            Block::V6(first, last) => self.parsed.v6.push(Span {
                first,
                last,
                origin,
            }),
        }
        Ok(())
    }

    fn include<'t>(&mut self, name: &'t str) -> Result<(), Mistake<'t>> {
        if name.is_empty() {
            return Err(Mistake::new(name, "expected the name of a file after `@`"));
        }
        let directory = self.chain.last().and_then(|file| file.parent());
        let path = directory.unwrap_or(Path::new("")).join(name);
        self.refuse_endless(&path)
            .map_err(|message| Mistake::new(name, message))?;
        self.files += 1;
        let text = (self.loader)(&path).map_err(|error| {
            let path = path.to_string_lossy();
            let message = format!("cannot read {}: {error}", path.escape_debug());
            Mistake::new(name, message)
        })?;
        let file = self.parsed.origins.add_file(path.clone());
        self.chain.push(path);
        self.read(&Text {
            text: &text,
            file,
            position: None,
        });
        self.chain.pop();
        Ok(())
    }

    /// An error if reading `path` would not end, or not soon.
    fn refuse_endless(&self, path: &Path) -> Result<(), String> {
        let same = |file: &PathBuf| normal(file) == normal(path);
        if let Some(begin) = self.chain.iter().position(same) {
            let mut circle = String::new();
            for file in &self.chain[begin..] {
                circle += &format!("{} -> ", file.display());
            }
            return Err(format!(
                "files name each other in a circle: {circle}{}",
                path.display()
            ));
        }
        if self.chain.len() > MAX_DEPTH {
            return Err(format!("files name each other more than {MAX_DEPTH} deep"));
        }
        if self.files >= MAX_FILES {
            return Err(format!("a list reads at most {MAX_FILES} files"));
        }
        Ok(())
    }

    fn report(&mut self, text: &Text<'_>, mistake: Mistake<'_>) {
        self.unreported += usize::from(self.errors.len() >= MAX_REPORTED);
        if self.errors.len() > MAX_REPORTED {
            return;
        }
        let (line, column) = text.position(mistake.part);
        self.errors.push(ListError {
            file: self.parsed.origins.file(text.file).to_path_buf(),
            line,
            column,
            message: mistake.message,
        });
    }

    fn finish(mut self) -> Result<Parsed, Vec<ListError>> {
        if let (2.., Some(last)) = (self.unreported, self.errors.last_mut()) {
            last.message = format!("and {} more bad lines from here on", self.unreported);
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        self.parsed.origins.shrink();
        Ok(self.parsed)
    }
}

/// The path without `.` and with `NAME/..` removed: good enough to see that two are the same file.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}
