#![forbid(unsafe_code)]
//! One message, of which only so much is read as is asked for.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use chrono::{DateTime, Utc};

use crate::mail::folder::{Entry, Folder};
use crate::mail::mime::Part;
use crate::mail::wire::{Crlf, Text};

/// A message being looked at.
pub(super) struct Lazy<'f> {
    folder: &'f Folder,
    pub(super) entry: Entry,
    file: File,
    head: Option<Vec<u8>>,
    text: Option<Text>,
    part: Option<Part>,
    /// How many bytes were read, about.
    pub(super) cost: u64,
}

/// Nearly every header fits into that.
const HEAD: usize = 16 * 1024;
/// More of a header is not looked at.
const MOST_HEAD: usize = 1 << 20;

impl<'f> Lazy<'f> {
    /// Opens a message; `None` when it is gone.
    pub(super) fn open(folder: &'f Folder, uid: u32) -> io::Result<Option<Self>> {
        let opened = folder.message(uid)?;
        Ok(opened.map(|(file, entry)| Lazy {
            folder,
            entry,
            file,
            head: None,
            text: None,
            part: None,
            cost: 4096,
        }))
    }

    /// When it was received.
    pub(super) fn received(&self) -> io::Result<DateTime<Utc>> {
        Ok(self.file.metadata()?.modified()?.into())
    }

    /// In bytes, as it goes over the wire.
    pub(super) fn size(&mut self) -> io::Result<u64> {
        match self.entry.message.wire_size() {
            Some(size) => Ok(size),
            None => self.text().map(Text::len),
        }
    }

    /// Its header, with the empty line behind it.
    pub(super) fn head(&mut self) -> io::Result<&[u8]> {
        if self.head.is_none() {
            let head = match self.short_head()? {
                Some(head) => head,
                None => self.long_head()?,
            };
            self.cost += head.len() as u64;
            self.head = Some(head);
        }
        Ok(self.head.as_deref().unwrap_or_default())
    }

    fn short_head(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; HEAD];
        let mut count = 0;
        while count < HEAD {
            match self.file.read_at(&mut bytes[count..], count as u64)? {
                0 => break,
                more => count += more,
            }
            if let Some(end) = head_end(&bytes[..count]) {
                bytes.truncate(end);
                return crlf(&bytes).map(Some);
            }
        }
        bytes.truncate(count);
        // All of it, if that was all.
        match count < HEAD {
            true => crlf(&bytes).map(Some),
            false => Ok(None),
        }
    }

    fn long_head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = self.text()?.read(0..u64::MAX, MOST_HEAD)?;
        if let Some(end) = head_end(&head) {
            head.truncate(end);
        }
        Ok(head)
    }

    /// All of it.
    pub(super) fn text(&mut self) -> io::Result<&Text> {
        if self.text.is_none() {
            let tmp = self.folder.maildir().path().join("tmp");
            let text = Text::open(self.file.try_clone()?, &self.entry.message, &tmp)?;
            self.text = Some(text);
        }
        self.text
            .as_ref()
            .ok_or_else(|| io::Error::other("no text"))
    }

    /// Where its parts stand.
    pub(super) fn part(&mut self) -> io::Result<&Part> {
        if self.part.is_none() {
            let part = Part::read(self.text()?.reader()?)?;
            self.cost += self.text()?.len();
            self.part = Some(part);
        }
        self.part
            .as_ref()
            .ok_or_else(|| io::Error::other("no parts"))
    }

    /// Its parts and its text at once.
    pub(super) fn both(&mut self) -> io::Result<(&Part, &Text)> {
        self.part()?;
        self.text()?;
        match (&self.part, &self.text) {
            (Some(part), Some(text)) => Ok((part, text)),
            _ => Err(io::Error::other("no parts")),
        }
    }
}

fn crlf(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() + 64);
    Crlf::new(bytes).read_to_end(&mut text)?;
    Ok(text)
}

/// Where a header ends, behind its empty line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        if matches!(&bytes[start..end], b"" | b"\r") {
            return Some(end + 1);
        }
        start = end + 1;
    }
    None
}
