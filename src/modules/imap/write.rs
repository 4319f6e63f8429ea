#![forbid(unsafe_code)]
//! Answers: strings as RFC 3501 wants them, and pieces of files between.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::mail::wire::Text;
use crate::session::Context;

/// What is to be written: bytes, and pieces of files at places within them.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    files: Vec<(usize, File, Range<u64>)>,
}

/// Longer pieces of a file are not read here but written from it.
const COPIED: u64 = 32 * 1024;
/// Longer strings are literals: no client needs to hold such a line.
const LONGEST_QUOTED: usize = 1000;

impl Out {
    pub(super) fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A line with its end.
    pub(super) fn line(&mut self, text: &str) {
        self.text(text);
        self.text("\r\n");
    }

    /// A quoted string, or a literal where it cannot be one.
    pub(super) fn string(&mut self, bytes: &[u8]) {
        let plain =
            bytes.len() <= LONGEST_QUOTED && bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
        if !plain {
            return self.literal(bytes);
        }
        self.bytes.push(b'"');
        for byte in bytes {
            if b"\"\\".contains(byte) {
                self.bytes.push(b'\\');
            }
            self.bytes.push(*byte);
        }
        self.bytes.push(b'"');
    }

    pub(super) fn literal(&mut self, bytes: &[u8]) {
        self.text(&format!("{{{}}}\r\n", bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// A string or NIL.
    pub(super) fn nstring(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.string(bytes),
            None => self.text("NIL"),
        }
    }

    /// A part of a message as a literal.
    pub(super) fn range(&mut self, text: &Text, range: Range<u64>) -> io::Result<()> {
        let range = text.clamp(range);
        let length = range.end - range.start;
        match text {
            Text::File(file, _) if length > COPIED => {
                self.text(&format!("{{{length}}}\r\n"));
                self.files
                    .push((self.bytes.len(), file.try_clone()?, range));
            }
            _ => {
                let bytes = text.read(range, usize::MAX)?;
                self.literal(&bytes);
            }
        }
        Ok(())
    }

    /// True when the client is to take it before there is more.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= 64 * 1024 || !self.files.is_empty()
    }

    pub(super) fn send(self, cx: &mut Context<'_>) {
        let mut at = 0;
        for (place, file, range) in self.files {
            cx.write(&self.bytes[at..place]);
            cx.output()
                .write_file(file, range.start, range.end - range.start);
            at = place;
        }
        cx.write(&self.bytes[at..]);
    }
}
