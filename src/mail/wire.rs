#![forbid(unsafe_code)]
//! A message's text as it goes over the wire: each line ends with CRLF, whatever the file has.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::delivery::unique;
use super::maildir::Message;

/// The whole text of a message, without holding much of it in memory.
#[derive(Debug)]
pub enum Text {
    /// In a file, whose bytes are the text.
    File(File, u64),
    /// In memory, since the file has other line ends.
    Bytes(Vec<u8>),
}

/// Texts with other line ends are converted in memory up to this size, in a file without a name above it.
const IN_MEMORY: u64 = 1 << 20;

impl Text {
    /// The text of a message's file. `tmp` is where a converted copy may stand.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn open(file: File, message: &Message, tmp: &Path) -> io::Result<Self> {
        let size = file.metadata()?.len();
        if message.is_wire(size) {
            return Ok(Text::File(file, size));
        }
        let mut source = Crlf::new(BufReader::with_capacity(64 * 1024, file));
        if size <= IN_MEMORY {
            let mut bytes = Vec::new();
            source.read_to_end(&mut bytes)?;
            return Ok(Text::Bytes(bytes));
        }
        let path = tmp.join(unique(std::time::SystemTime::now()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let mut copy = options.open(&path)?;
        std::fs::remove_file(&path)?;
        let size = io::copy(&mut source, &mut copy)?;
        copy.flush()?;
        Ok(Text::File(copy, size))
    }

    /// In bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Text::File(_, size) => *size,
            Text::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// True for a message without any text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads it from its beginning.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn reader(&self) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(match self {
            Text::File(file, _) => {
                let mut file = file;
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::with_capacity(32 * 1024, file))
            }
            Text::Bytes(bytes) => Box::new(Cursor::new(bytes)),
        })
    }

    /// A part of it, with at most `most` bytes.
    ///
    /// # Errors
    /// The disk refuses, or the file was cut.
    pub fn read(&self, range: Range<u64>, most: usize) -> io::Result<Vec<u8>> {
        let range = self.clamp(range);
        let length = usize::try_from(range.end - range.start)
            .unwrap_or(usize::MAX)
            .min(most);
        match self {
            Text::File(file, _) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes)
            }
            Text::Bytes(bytes) => {
                let start = usize::try_from(range.start).map_err(io::Error::other)?;
                Ok(bytes[start..start + length].to_vec())
            }
        }
    }

    /// A range within it.
    #[must_use]
    pub fn clamp(&self, range: Range<u64>) -> Range<u64> {
        let start = range.start.min(self.len());
        start..range.end.clamp(start, self.len())
    }
}

impl Message {
    /// True when the file's bytes are what goes over the wire: its name says so, and says the truth about its size.
    #[must_use]
    pub fn is_wire(&self, size: u64) -> bool {
        self.wire_size() == Some(size)
    }
}

/// Reads bytes with each lone LF as CRLF.
#[derive(Debug)]
pub struct Crlf<R> {
    source: R,
    last: u8,
    /// The CR of a lone LF has been given out.
    owes_lf: bool,
}

impl<R: BufRead> Crlf<R> {
    /// Of these bytes.
    pub fn new(source: R) -> Self {
        Crlf {
            source,
            last: 0,
            owes_lf: false,
        }
    }
}

impl<R: BufRead> Read for Crlf<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < into.len() {
            if std::mem::take(&mut self.owes_lf) {
                into[count] = b'\n';
                count += 1;
                continue;
            }
            let bytes = if count == 0 {
                self.source.fill_buf()?
            } else {
                // What is there is enough.
                break;
            };
            if bytes.is_empty() {
                break;
            }
            let mut used = 0;
            while used < bytes.len() && count < into.len() {
                let byte = bytes[used];
                used += 1;
                if byte == b'\n' && self.last != b'\r' {
                    into[count] = b'\r';
                    self.owes_lf = true;
                    self.last = byte;
                    count += 1;
                    break;
                }
                into[count] = byte;
                self.last = byte;
                count += 1;
            }
            self.source.consume(used);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read, Write};

    use super::{Crlf, Text};
    use crate::mail::maildir::Message;

    #[test]
    fn every_line_ends_with_crlf_whatever_the_buffers() {
        for size in 1..6 {
            let source = BufReader::with_capacity(size, &b"a\nb\r\n\n\r\r\n\nc"[..]);
            let mut text = Vec::new();
            Crlf::new(source).read_to_end(&mut text).unwrap();
            assert_eq!(text, b"a\r\nb\r\n\r\n\r\r\n\r\nc");
        }
    }

    #[test]
    fn a_file_that_is_not_what_its_name_says_is_converted() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("m");
        for (name, text, is_file) in [
            ("1.a,S=4,W=4", "a\r\nb".to_owned(), true),
            ("1.a,S=4,W=4", "a\nb".to_owned(), false),
            ("1.a", "a\nb".to_owned(), false),
            ("1.a", "a\n".repeat(700_000), true),
        ] {
            std::fs::File::create(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            let message = Message {
                file: name.into(),
                is_new: false,
            };
            let file = std::fs::File::open(&path).unwrap();
            let wire = Text::open(file, &message, home.path()).unwrap();
            assert_eq!(matches!(wire, Text::File(..)), is_file, "{name}");
            let wanted = text.replace("\r\n", "\n").replace('\n', "\r\n");
            let mut read = String::new();
            wire.reader().unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, wanted);
            assert_eq!(wire.len(), wanted.len() as u64);
            assert_eq!(wire.read(1..3, 100).unwrap(), &wanted.as_bytes()[1..3]);
            assert_eq!(wire.read(2..u64::MAX, 1).unwrap(), &wanted.as_bytes()[2..3]);
            assert!(wire.read(u64::MAX..u64::MAX, 9).unwrap().is_empty());
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
