#![forbid(unsafe_code)]
//! The text of a message as it arrives: DATA with its dots (RFC 5321, 4.5.2), or chunks (RFC 3030).
//!
//! Only CRLF "." CRLF ends DATA, and only behind a CRLF is a dot taken out. A LF alone is a line's end within the
//! text and becomes a CRLF, a CR alone becomes a space: what is stored or passed on has no other ends than CRLF, so
//! that no two servers can differ about where a message ended (SMTP smuggling). Postfix does the same with
//! `smtpd_forbid_bare_newline = normalize`; to refuse such messages would shut out curl and many scripts.

use memchr::memchr2;

/// Where in a line the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// Behind a CRLF, or at the start.
    #[default]
    Start,
    Middle,
    /// Behind a CR.
    Cr,
    /// Behind a dot that began a line.
    Dot,
    /// Behind a dot that began a line, and a CR.
    DotCr,
}

/// Takes the dots out, and finds the end.
#[derive(Debug, Default)]
pub(super) struct DataReader {
    at: At,
}

impl DataReader {
    /// Appends the text of `bytes` to `text`. Answers how many bytes are used and whether they end the message.
    pub(super) fn read(&mut self, bytes: &[u8], text: &mut Vec<u8>) -> (usize, bool) {
        let mut used = 0;
        while let Some(byte) = bytes.get(used) {
            if self.at == At::Middle {
                let rest = &bytes[used..];
                let plain = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                if plain > 0 {
                    text.extend_from_slice(&rest[..plain]);
                    used += plain;
                    continue;
                }
            }
            used += 1;
            if self.step(*byte, text) {
                return (used, true);
            }
        }
        (used, false)
    }

    /// Takes one byte; true when it is the last.
    fn step(&mut self, byte: u8, text: &mut Vec<u8>) -> bool {
        self.at = match (self.at, byte) {
            (At::DotCr, b'\n') => {
                self.at = At::Start;
                return true;
            }
            (At::Start, b'.') => At::Dot,
            (At::Dot, b'\r') => At::DotCr,
            (At::Start | At::Middle, b'\r') => At::Cr,
            (At::Cr, b'\n') => {
                text.extend_from_slice(b"\r\n");
                At::Start
            }
            // The CR behind which it stands was held back.
            (At::Cr | At::DotCr, _) => {
                text.push(b' ');
                if byte == b'\r' {
                    At::Cr
                } else {
                    text.push(byte);
                    At::Middle
                }
            }
            // Not At::Start: a dot behind it is a dot.
            (_, b'\n') => {
                text.extend_from_slice(b"\r\n");
                At::Middle
            }
            (_, other) => {
                text.push(other);
                At::Middle
            }
        };
        false
    }
}

/// The same for chunks, where dots mean nothing.
#[derive(Debug, Default)]
pub(super) struct ChunkReader {
    after_cr: bool,
    in_line: bool,
}

impl ChunkReader {
    /// Appends the text of `bytes` to `text`.
    pub(super) fn read(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for byte in bytes {
            if self.after_cr && *byte != b'\n' {
                text.push(b' ');
            }
            match byte {
                b'\r' => {}
                b'\n' => text.extend_from_slice(b"\r\n"),
                other => text.push(*other),
            }
            self.after_cr = *byte == b'\r';
            self.in_line = *byte != b'\n';
        }
    }

    /// Appends what is missing of the last line's end.
    pub(super) fn finish(&mut self, text: &mut Vec<u8>) {
        if std::mem::take(&mut self.in_line) {
            text.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkReader, DataReader};

    /// Text, and what is left behind the end; `None` when there was no end.
    fn read(bytes: &[u8], chunk: usize) -> Option<(Vec<u8>, usize)> {
        let (mut reader, mut text, mut total) = (DataReader::default(), Vec::new(), 0);
        for piece in bytes.chunks(chunk) {
            let (used, ended) = reader.read(piece, &mut text);
            total += used;
            if ended {
                return Some((text, bytes.len() - total));
            }
            assert_eq!(used, piece.len());
        }
        None
    }

    #[test]
    fn the_end_is_crlf_dot_crlf_and_dots_are_taken_out() {
        let cases: &[(&[u8], &[u8], usize)] = &[
            (b".\r\n", b"", 0),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", 6),
            (b"..\r\n...a\r\n.b\r\n.\r\n", b".\r\n..a\r\nb\r\n", 0),
            (b"\r\n\r\n.\r\n", b"\r\n\r\n", 0),
            (b"a.\r\n.\r\n", b"a.\r\n", 0),
        ];
        for (bytes, text, left) in cases {
            for chunk in 1..=bytes.len() {
                assert_eq!(
                    read(bytes, chunk),
                    Some((text.to_vec(), *left)),
                    "{bytes:?} by {chunk}"
                );
            }
        }
    }

    #[test]
    fn a_lone_cr_or_lf_never_ends_a_message_and_does_not_stay_alone() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a\n.\n", b"a\r\n.\r\n"),
            (b"a\n.\r\n", b"a\r\n.\r\n"),
            (b"a\r\n.\n", b"a\r\n\r\n"),
            (b"a\r.\r\n", b"a .\r\n"),
            (b"a\r\n.\r", b"a\r\n  "),
            (b"\n.\r\n", b"\r\n.\r\n"),
            (b"a\r\r\n.\r\r\n", b"a \r\n \r\n"),
            (b"a\r\n.\rx\r\n", b"a\r\n x\r\n"),
            (b"a\n\r\n.\n\r\n", b"a\r\n\r\n\r\n\r\n"),
            (b"a\n..\n", b"a\r\n..\r\n"),
        ];
        for (bytes, wanted) in cases {
            for chunk in 1..=bytes.len() {
                assert_eq!(read(bytes, chunk), None, "{bytes:?} by {chunk}");
                let all = [bytes, &b"x\r\n.\r\n"[..]].concat();
                let (text, left) = read(&all, chunk).unwrap_or_else(|| panic!("{all:?}"));
                let wanted = [wanted.strip_suffix(b" ").unwrap_or(wanted), &b"x\r\n"[..]].concat();
                assert_eq!((text, left), (wanted, 0), "{all:?} by {chunk}");
            }
        }
    }

    #[test]
    fn chunks_have_the_same_ends_across_them() {
        for (bytes, wanted) in [
            (&b"a\r\nb\r\n"[..], &b"a\r\nb\r\n"[..]),
            (b"a", b"a\r\n"),
            (b"", b""),
            (b".\r\n", b".\r\n"),
            (b"a\nb\n", b"a\r\nb\r\n"),
            (b"a\rb\r\n", b"a b\r\n"),
            (b"a\r\r\n", b"a \r\n"),
            (b"a\r", b"a\r\n"),
        ] {
            for chunk in 1..=bytes.len().max(1) {
                let (mut reader, mut text) = (ChunkReader::default(), Vec::new());
                bytes
                    .chunks(chunk)
                    .for_each(|piece| reader.read(piece, &mut text));
                reader.finish(&mut text);
                assert_eq!(text, wanted, "{bytes:?} by {chunk}");
            }
        }
    }
}
