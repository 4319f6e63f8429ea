#![forbid(unsafe_code)]
//! The TRANSACTION state, and the UPDATE that QUIT begins.

use super::mailbox::{Entry, Mailbox};
use super::session::{Conversation, State, say};
use crate::session::{Context, Lane, Next, Work};

/// Rows of a listing that are written before the client has taken them.
const ROWS: usize = 500;

impl Conversation {
    pub(super) fn stat(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let (count, size) = self.mailbox.as_ref().map_or((0, 0), Mailbox::total);
        say(&format!("+OK {count} {size}"), cx)
    }

    /// The message that a command names, or its refusal.
    fn named(&self, number: &[u8]) -> Result<(usize, &Mailbox, &Entry), &'static str> {
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|text| text.parse().ok());
        let mailbox = self.mailbox.as_ref().ok_or("-ERR not now")?;
        let number: usize = number.ok_or("-ERR expected the number of a message")?;
        let entry = mailbox.entry(number).ok_or("-ERR no such message")?;
        Ok((number, mailbox, entry))
    }

    pub(super) fn list(&mut self, rest: &[u8], names: bool, cx: &mut Context<'_>) -> Option<Next> {
        if rest.is_empty() {
            say("+OK", cx);
            self.state = State::Listing { names, next: 1 };
            return Some(self.drained(cx));
        }
        match self.named(rest) {
            Ok((number, _, entry)) => say(&format!("+OK {number} {}", fact(entry, names)), cx),
            Err(refusal) => self.error(refusal, cx),
        }
    }

    pub(super) fn retr(&mut self, rest: &[u8], top: bool, cx: &mut Context<'_>) -> Option<Next> {
        let (number, lines) = match rest.iter().position(|byte| *byte == b' ') {
            Some(at) if top => (&rest[..at], Some(rest[at..].trim_ascii())),
            _ => (rest, None),
        };
        let count = lines.and_then(|lines| std::str::from_utf8(lines).ok()?.parse().ok());
        if top && count.is_none() {
            return self.error("-ERR expected TOP message lines", cx);
        }
        let opened = match self.named(number) {
            Ok((_, mailbox, entry)) => mailbox.text(entry, count).map(|text| (text, entry.size)),
            Err(refusal) => return self.error(refusal, cx),
        };
        match opened {
            Ok((text, size)) => {
                say(&format!("+OK {size} bytes"), cx);
                self.state = State::Sending(text);
                Some(self.drained(cx))
            }
            Err(_) => say("-ERR [SYS/TEMP] the message cannot be read", cx),
        }
    }

    /// The client has taken what was written: more of it, or the next command.
    pub(super) fn drained(&mut self, cx: &mut Context<'_>) -> Next {
        let ended = match &mut self.state {
            State::Sending(text) => {
                let mut piece = Vec::new();
                let ended = text.piece(&mut piece);
                cx.write(&piece);
                match ended {
                    Ok(ended) => ended,
                    // Half a message is under way, and there is no way to say so but to end.
                    Err(_) => return Next::Abort,
                }
            }
            State::Listing { names, next } => {
                let entries = self
                    .mailbox
                    .as_ref()
                    .map_or(&[][..], |mailbox| &mailbox.entries);
                let rows = entries.iter().enumerate().skip(*next - 1).take(ROWS);
                for (index, entry) in rows.filter(|(_, entry)| !entry.is_deleted) {
                    let row = format!("{} {}\r\n", index + 1, fact(entry, *names));
                    cx.write(row.as_bytes());
                }
                *next += ROWS;
                let ended = *next > entries.len();
                if ended {
                    cx.write(b".\r\n");
                }
                ended
            }
            _ => return self.rest(),
        };
        if ended {
            self.state = State::Command;
            if self.closing {
                return Next::Close;
            }
        }
        Next::Drain
    }

    pub(super) fn dele(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let number = match self.named(rest) {
            Ok((number, ..)) => number,
            Err(refusal) => return self.error(refusal, cx),
        };
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.entries[number - 1].is_deleted = true;
        }
        say("+OK deleted at QUIT", cx)
    }

    pub(super) fn rset(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox
                .entries
                .iter_mut()
                .for_each(|entry| entry.is_deleted = false);
        }
        self.stat(cx)
    }

    pub(super) fn quit(&mut self, cx: &mut Context<'_>) -> Next {
        match self.mailbox.take() {
            None => {
                say("+OK goodbye", cx);
                Next::Close
            }
            Some(mailbox) => {
                self.state = State::Updating;
                Next::Work(Work::new(Lane::Wait, move || mailbox.update()))
            }
        }
    }
}

/// What a listing tells of a message.
fn fact(entry: &Entry, names: bool) -> String {
    if names {
        entry.uidl()
    } else {
        entry.size.to_string()
    }
}
