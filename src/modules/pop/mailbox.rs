#![forbid(unsafe_code)]
//! A mailbox as one POP session sees it: the messages that were there when it began, by number.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use crate::mail::lock::{Lock, lock};
use crate::mail::maildir::{Maildir, Message};

/// One message and what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    /// In bytes as they are sent, without the dots.
    pub(super) size: u64,
    pub(super) is_deleted: bool,
}

/// A mailbox that is this session's alone.
#[derive(Debug)]
pub(super) struct Mailbox {
    maildir: Maildir,
    pub(super) entries: Vec<Entry>,
    _lock: Lock,
}

/// Why a mailbox is not to be had.
#[derive(Debug)]
pub(super) enum Refusal {
    InUse,
    Disk(io::Error),
}

impl Mailbox {
    /// Takes an account's mailbox. Reads directories, and messages whose names do not tell their size.
    pub(super) fn open(maildir: Maildir) -> Result<Self, Refusal> {
        let lock = lock(maildir.path()).ok_or(Refusal::InUse)?;
        let messages = maildir.messages().map_err(Refusal::Disk)?;
        let entry = |message: Message| match maildir.wire_size(&message) {
            Ok(size) => Some(Entry {
                message,
                size,
                is_deleted: false,
            }),
            // Another program removed it just now, or it is no message.
            Err(_) => None,
        };
        let entries = messages.into_iter().filter_map(entry).collect();
        Ok(Mailbox {
            maildir,
            entries,
            _lock: lock,
        })
    }

    /// How many messages are not deleted, and their size.
    pub(super) fn total(&self) -> (usize, u64) {
        let kept = self.entries.iter().filter(|entry| !entry.is_deleted);
        kept.fold((0, 0), |(count, size), entry| {
            (count + 1, size + entry.size)
        })
    }

    /// A message by its number from 1, unless it is deleted.
    pub(super) fn entry(&self, number: usize) -> Option<&Entry> {
        let entry = self.entries.get(number.checked_sub(1)?)?;
        (!entry.is_deleted).then_some(entry)
    }

    /// Opens a message, to send it or, with `lines`, its header and so many lines of its body.
    pub(super) fn text(&self, entry: &Entry, lines: Option<u64>) -> io::Result<Text> {
        Ok(Text::new(self.maildir.open(&entry.message)?, lines))
    }

    /// Removes what was deleted, durably. How many could not be.
    pub(super) fn update(self) -> usize {
        let deleted: Vec<&Message> = self
            .entries
            .iter()
            .filter(|entry| entry.is_deleted)
            .map(|entry| &entry.message)
            .collect();
        if deleted.is_empty() {
            return 0;
        }
        let failed = self.maildir.remove(deleted.into_iter());
        crate::mail::watch::wake(self.maildir.path());
        failed
    }
}

impl Entry {
    /// A name for good (RFC 1939, 7): 1 to 70 characters from `!` to `~`. It comes from the file's name, so it is
    /// the same after a restart.
    pub(super) fn uidl(&self) -> String {
        let unique = self.message.unique().as_bytes();
        let stem = unique
            .split(|byte| *byte == b',')
            .next()
            .unwrap_or_default();
        let plain =
            (1..=70).contains(&stem.len()) && stem.iter().all(|byte| (0x21..0x7f).contains(byte));
        match std::str::from_utf8(stem) {
            Ok(stem) if plain => stem.to_owned(),
            // FNV-1a: short, and the same for ever.
            _ => format!(
                "{:032x}",
                unique.iter().fold(
                    0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
                    |hash, byte| {
                        (hash ^ u128::from(*byte))
                            .wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
                    }
                )
            ),
        }
    }
}

/// A message's text on its way out: each line ends with CRLF, dots are doubled, and it comes in pieces.
#[derive(Debug)]
pub(super) struct Text {
    file: File,
    /// Lines of the body still to be sent; `None` is all.
    lines: Option<u64>,
    in_body: bool,
    /// The last byte of the line so far; LF behind a whole line.
    last: u8,
    line_is_empty: bool,
}

/// How much is read at once.
const PIECE: usize = 32 * 1024;

impl Text {
    fn new(file: File, lines: Option<u64>) -> Self {
        Text {
            file,
            lines,
            in_body: false,
            last: b'\n',
            line_is_empty: true,
        }
    }

    /// Appends a piece to `out`; true when that was the last, with the line that ends it.
    pub(super) fn piece(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let mut bytes = vec![0; PIECE];
        let count = self.file.read(&mut bytes)?;
        let ended = count == 0 || self.append(&bytes[..count], out);
        if ended {
            if self.last != b'\n' {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b".\r\n");
        }
        Ok(ended)
    }

    /// True when all wanted lines are there.
    fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in bytes {
            if self.last == b'\n' {
                if self.in_body && self.lines == Some(0) {
                    return true;
                }
                self.line_is_empty = true;
                if *byte == b'.' {
                    out.push(b'.');
                }
            }
            match *byte {
                b'\n' => {
                    if self.last != b'\r' {
                        out.push(b'\r');
                    }
                    if self.in_body {
                        self.lines = self.lines.map(|lines| lines - 1);
                    }
                    self.in_body |= self.line_is_empty;
                }
                b'\r' => {}
                _ => self.line_is_empty = false,
            }
            out.push(*byte);
            self.last = *byte;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::{Entry, Message, Text};

    fn sent(text: &[u8], lines: Option<u64>) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let (mut text, mut out) = (Text::new(file, lines), Vec::new());
        while !text.piece(&mut out).unwrap() {}
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_end_with_crlf_and_dots_are_doubled() {
        assert_eq!(
            sent(b"a\r\n\r\n.\r\n..b\r\n", None),
            "a\r\n\r\n..\r\n...b\r\n.\r\n"
        );
        assert_eq!(sent(b"a\n\n.b\nc", None), "a\r\n\r\n..b\r\nc\r\n.\r\n");
        assert_eq!(sent(b"", None), ".\r\n");
        let long = "x".repeat(100_000);
        assert_eq!(sent(long.as_bytes(), None), format!("{long}\r\n.\r\n"));
    }

    #[test]
    fn top_has_the_header_and_so_many_lines() {
        let text = b"a: b\r\nc: d\r\n\r\none\r\n\r\nthree\r\n";
        for (lines, wanted) in [
            (0, "a: b\r\nc: d\r\n\r\n.\r\n"),
            (1, "a: b\r\nc: d\r\n\r\none\r\n.\r\n"),
            (2, "a: b\r\nc: d\r\n\r\none\r\n\r\n.\r\n"),
            (9, "a: b\r\nc: d\r\n\r\none\r\n\r\nthree\r\n.\r\n"),
        ] {
            assert_eq!(sent(text, Some(lines)), wanted, "{lines}");
        }
        assert_eq!(sent(b"a: b\n", Some(0)), "a: b\r\n.\r\n");
    }

    #[test]
    fn a_uidl_is_short_plain_and_the_same_for_ever() {
        let uidl = |file: &str| {
            let message = Message {
                file: file.into(),
                is_new: true,
            };
            let entry = Entry {
                message,
                size: 0,
                is_deleted: false,
            };
            entry.uidl()
        };
        assert_eq!(uidl("1.M2P3Q4.host,S=5,W=5"), "1.M2P3Q4.host");
        assert_eq!(uidl("1.M2P3Q4.host,S=5,W=5:2,S"), "1.M2P3Q4.host");
        let long = "1.M2".to_owned() + &"x".repeat(80);
        assert_eq!(uidl(&long).len(), 32);
        // FNV-1a of 128 bits.
        assert_eq!(uidl("\u{1}"), format!("{:032x}", fnv(&[1])));
        assert_eq!(uidl("jürg:2,S"), uidl("jürg"));
    }

    /// Computed step by step, as the algorithm is written down.
    fn fnv(bytes: &[u8]) -> u128 {
        let mut hash: u128 = 144_066_263_297_769_815_596_495_629_667_062_367_629;
        for byte in bytes {
            hash ^= u128::from(*byte);
            hash = hash.wrapping_mul((1 << 88) + 0x13b);
        }
        hash
    }
}
