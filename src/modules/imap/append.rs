#![forbid(unsafe_code)]
//! APPEND (RFC 3501, 6.3.11): a message is written as it comes, and is there when that is answered.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::command::CommandBody;
use imap_codec::imap_types::flag::Flag;

use super::folders::name;
use super::frame::Literal;
use super::selected::trouble;
use crate::mail::delivery::Delivery;
use crate::mail::folder::{Arrival, Folder};
use crate::mail::folders::{Folders, Name};
use crate::session::Input;

/// A message on its way in.
pub(super) struct Append {
    pub(super) tag: String,
    name: Option<Name>,
    flags: Vec<String>,
    received: Option<SystemTime>,
    /// Bytes still to come.
    pub(super) left: u64,
    /// Bytes that came and are not written yet.
    pub(super) text: Vec<u8>,
    /// What it will be answered whatever still comes.
    pub(super) refused: Option<String>,
    folder: Option<Arc<Folder>>,
    delivery: Option<Delivery>,
    last: u8,
}

/// What is kept in memory before it is written: with the input's 64 KiB, a session holds at most twice that.
pub(super) const CHUNK: usize = 32 * 1024;

impl Append {
    /// The message of a command up to an announced literal; `None` when the literal is something else, such as the
    /// mailbox's name.
    pub(super) fn of(so_far: &[u8], literal: Literal) -> Option<Self> {
        let at = memchr::memrchr(b'{', so_far)?;
        // Complete, were the message empty.
        let whole = [&so_far[..at], b"{0}\r\n\r\n"].concat();
        let (_, command) = CommandCodec::default().decode(&whole).ok()?;
        let CommandBody::Append {
            mailbox,
            flags,
            date,
            ..
        } = command.body
        else {
            return None;
        };
        let flags = flags
            .iter()
            .filter(|flag| !matches!(flag, Flag::Extension(_)));
        let mut append = Append {
            tag: command.tag.as_ref().to_owned(),
            name: name(&mailbox),
            flags: flags.map(ToString::to_string).collect(),
            received: date.map(|date| (*date.as_ref()).into()),
            left: literal.size,
            text: Vec::new(),
            refused: None,
            folder: None,
            delivery: None,
            last: 0,
        };
        if at > 0 && so_far[at - 1] == b'~' {
            append.refuse("BAD literals of that kind are not offered");
        }
        Some(append)
    }

    /// What it will be answered; nothing more of it is kept.
    pub(super) fn refuse(&mut self, answer: &str) {
        if self.refused.is_none() {
            self.refused = Some(answer.to_owned());
        }
        (self.text, self.delivery) = (Vec::new(), None);
    }

    /// Takes what the input has of it; true when that is all.
    pub(super) fn take(&mut self, input: &mut Input) -> bool {
        let count = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(input.len());
        let bytes = &input[..count];
        if memchr::memchr(0, bytes).is_some() {
            // RFC 3501, 9: CHAR8 is any but NUL.
            self.refuse("NO [CANNOT] a message has no NUL in it");
        }
        if self.refused.is_none() {
            for byte in bytes {
                if *byte == b'\n' && self.last != b'\r' {
                    self.text.push(b'\r');
                }
                self.text.push(*byte);
                self.last = *byte;
            }
        }
        input.consume(count);
        self.left -= count as u64;
        self.left == 0
    }

    /// Finds the mailbox, before the client sends anything: it is told at once when there is none.
    pub(super) fn begin(&mut self, folders: &Folders) {
        let found = self.name.as_ref().map(|name| folders.open(name));
        match found {
            None => self.refuse("NO [CANNOT] such a name is not possible"),
            Some(None) => self.refuse("NO [TRYCREATE] there is no such mailbox"),
            Some(Some(folder)) => match folder.look() {
                Ok(_) => self.folder = Some(Arc::clone(&folder)),
                Err(error) => self.refuse(&trouble(&error)),
            },
        }
    }

    /// Writes what has come.
    pub(super) fn write(&mut self) {
        let Some(folder) = self.folder.as_ref().filter(|_| self.refused.is_none()) else {
            return;
        };
        let mut write = || {
            let mut delivery = match self.delivery.take() {
                Some(delivery) => delivery,
                None => Delivery::begin(vec![folder.maildir().clone()])?,
            };
            delivery.write(&self.text)?;
            Ok::<_, io::Error>(delivery)
        };
        match write() {
            Ok(delivery) => {
                self.delivery = Some(delivery);
                self.text.clear();
            }
            Err(error) => self.refuse(&trouble(&error)),
        }
    }

    /// Puts it into the mailbox: what it is answered.
    pub(super) fn finish(mut self) -> String {
        self.write();
        if let Some(refused) = self.refused {
            return refused;
        }
        let (Some(folder), Some(delivery)) = (self.folder, self.delivery) else {
            return "NO [SERVERBUG] the message is lost".to_owned();
        };
        let placed = folder
            .flags_of(self.flags.iter().map(String::as_str))
            .and_then(|flags| {
                delivery.hand_over(self.received, |draft, name| {
                    let draft = draft.to_path_buf();
                    folder.adopt(&[Arrival { draft, name, flags }])
                })
            });
        match placed {
            Ok(numbers) => {
                let validity = folder.known().validity;
                let number = numbers.first().copied().unwrap_or_default();
                format!("OK [APPENDUID {validity} {number}] it is there")
            }
            Err(error) => trouble(&error),
        }
    }
}
