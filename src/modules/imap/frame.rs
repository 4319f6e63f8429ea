#![forbid(unsafe_code)]
//! Whole commands from lines and literals (RFC 3501, 4.3; RFC 7888), bounded whatever the client says.

use crate::mail::line::{Line, Lines};
use crate::session::Input;

/// What stands at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A whole command with its literals and its CRLF.
    Command(Vec<u8>),
    /// A literal is announced: one calls [`Framer::accept`], [`Framer::refuse`] or [`Framer::take`].
    Literal(Literal),
    /// A line that is none, or one of a command that was refused.
    Bad(Vec<u8>),
    /// A command that was refused has ended.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) size: u64,
    /// The client waits for our consent.
    pub(super) is_sync: bool,
}

/// The longest line with its CRLF, once somebody is logged in: clients name thousands of messages in one.
pub(super) const LINE: usize = 32 * 1024;
/// And before: a name and a password.
pub(super) const SHORT_LINE: usize = 4 * 1024;
/// The longest command with its literals, but for the messages of APPEND.
const COMMAND: usize = 64 * 1024;

/// Puts commands together.
#[derive(Debug, Default)]
pub(super) struct Framer {
    pub(super) lines: Lines,
    text: Vec<u8>,
    /// Bytes of a literal still to come.
    literal: usize,
    /// Bytes of a refused literal still to come.
    skip: u64,
    is_refused: bool,
}

impl Framer {
    /// The next frame; `None` until there is one.
    pub(super) fn next(&mut self, input: &mut Input, limit: usize) -> Option<Frame> {
        loop {
            if self.skip > 0 {
                let count = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                input.consume(count);
                self.skip -= count as u64;
                if self.skip > 0 {
                    return None;
                }
            }
            if self.literal > 0 {
                let count = self.literal.min(input.len());
                self.text.extend_from_slice(&input[..count]);
                input.consume(count);
                self.literal -= count;
                if self.literal > 0 {
                    return None;
                }
            }
            let line = match self.lines.next(input, limit)? {
                Line::Whole(line) => line,
                _ => {
                    self.is_refused = false;
                    return Some(Frame::Bad(std::mem::take(&mut self.text)));
                }
            };
            let literal = literal(&line);
            if self.is_refused {
                match literal {
                    Some(literal) if !literal.is_sync => self.skip = literal.size,
                    _ => {
                        self.is_refused = false;
                        return Some(Frame::Refused);
                    }
                }
                continue;
            }
            self.text.extend_from_slice(&line);
            self.text.extend_from_slice(b"\r\n");
            return Some(match literal {
                Some(literal) => Frame::Literal(literal),
                None if self.text.len() > COMMAND + 2 * limit => {
                    Frame::Bad(std::mem::take(&mut self.text))
                }
                None => Frame::Command(std::mem::take(&mut self.text)),
            });
        }
    }

    /// The command so far, up to an announced literal.
    pub(super) fn so_far(&self) -> &[u8] {
        &self.text
    }

    /// Makes the literal part of the command; false when there is no room for it.
    pub(super) fn accept(&mut self, literal: Literal, most: usize) -> bool {
        let size = usize::try_from(literal.size).unwrap_or(usize::MAX);
        if size > most || self.text.len().saturating_add(size) > COMMAND {
            return false;
        }
        self.literal = size;
        true
    }

    /// Forgets the command. What the client sends of it all the same is thrown away as it comes, and then
    /// [`Frame::Refused`].
    pub(super) fn refuse(&mut self, literal: Literal) {
        self.text = Vec::new();
        if !literal.is_sync {
            self.skip = literal.size;
            self.is_refused = true;
        }
    }

    /// The same for the rest of a command that was taken away: what this line of it announces is no command.
    pub(super) fn refuse_rest(&mut self, line: &[u8]) {
        if let Some(literal) = literal(line) {
            self.refuse(literal);
        }
    }

    /// Gives the command away; the literal is somebody else's.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }
}

/// A literal that a line announces at its end.
fn literal(line: &[u8]) -> Option<Literal> {
    let text = line.strip_suffix(b"}")?;
    let at = memchr::memrchr(b'{', text)?;
    let digits = &text[at + 1..];
    let (digits, is_sync) = match digits.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (digits, true),
    };
    let plain = (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let size = plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())??;
    Some(Literal { size, is_sync })
}

#[cfg(test)]
mod tests {
    use super::{Frame, Framer, LINE};
    use crate::session::Input;

    fn frames(bytes: &[u8], chunk: usize) -> Vec<Frame> {
        let (mut input, mut framer, mut all) = (Input::default(), Framer::default(), Vec::new());
        for piece in bytes.chunks(chunk) {
            input.extend(piece);
            while let Some(frame) = framer.next(&mut input, LINE) {
                if let Frame::Literal(literal) = frame
                    && !framer.accept(literal, 100)
                {
                    framer.refuse(literal);
                }
                all.push(frame);
            }
        }
        all
    }

    #[test]
    fn commands_are_whole_at_every_chunk_size() {
        let text = b"a NOOP\r\nb LOGIN {3+}\r\na\r\n {0}\r\n\r\nc X {200+}\r\n";
        let mut text = text.to_vec();
        text.extend([b'x'; 200]);
        text.extend(b" {5+}\r\n12345 more\r\nd NO\nOP\r\ne X {5} x\r\n");
        for chunk in 1..text.len() {
            let found = frames(&text, chunk);
            let command = |text: &str| Frame::Command(text.as_bytes().to_vec());
            let whole: Vec<_> = found
                .iter()
                .filter(|it| !matches!(it, Frame::Literal(_)))
                .collect();
            assert_eq!(whole[0], &command("a NOOP\r\n"));
            assert_eq!(whole[1], &command("b LOGIN {3+}\r\na\r\n {0}\r\n\r\n"));
            assert_eq!(whole[2], &Frame::Refused);
            assert!(matches!(whole[3], Frame::Bad(_)));
            assert!(matches!(whole[4], Frame::Command(_)), "OP");
            assert_eq!(whole[5], &command("e X {5} x\r\n"));
            assert_eq!(found.len(), 9);
        }
    }
}
