#![forbid(unsafe_code)]
//! The text of a message as it arrives: DATA with its dots (RFC 5321, 4.5.2), or chunks (RFC 3030).
//!
//! Only CRLF "." CRLF ends DATA. A CR or LF that does not belong to a CRLF ends nothing: the message is read to
//! its true end and refused, so that no two servers can differ about where it ended (SMTP smuggling).

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
    /// A CR or LF stood alone.
    pub(super) is_malformed: bool,
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
                self.is_malformed = true;
                if byte == b'\r' { At::Cr } else { At::Middle }
            }
            (_, b'\n') => {
                self.is_malformed = true;
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

/// Looks for a CR or LF that stands alone, across chunks.
#[derive(Debug, Default)]
pub(super) struct Ends {
    after_cr: bool,
    any: bool,
    pub(super) is_malformed: bool,
    /// The last bytes were a CRLF, or there were none.
    pub(super) at_line_start: bool,
}

impl Ends {
    pub(super) fn look(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.is_malformed |= self.after_cr != (*byte == b'\n');
            self.at_line_start = self.after_cr && *byte == b'\n';
            self.after_cr = *byte == b'\r';
            self.any = true;
        }
    }

    /// What is missing of the last line's end; the text is malformed if it ends with a CR.
    pub(super) fn finish(&mut self) -> &'static [u8] {
        self.is_malformed |= self.after_cr;
        if self.any && !self.at_line_start {
            b"\r\n"
        } else {
            b""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DataReader, Ends};

    /// Text, whether it is malformed, and what is left behind the end; `None` when there was no end.
    fn read(bytes: &[u8], chunk: usize) -> Option<(Vec<u8>, bool, usize)> {
        let (mut reader, mut text, mut total) = (DataReader::default(), Vec::new(), 0);
        for piece in bytes.chunks(chunk) {
            let (used, ended) = reader.read(piece, &mut text);
            total += used;
            if ended {
                return Some((text, reader.is_malformed, bytes.len() - total));
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
                    Some((text.to_vec(), false, *left)),
                    "{bytes:?} by {chunk}"
                );
            }
        }
    }

    #[test]
    fn a_lone_cr_or_lf_never_ends_a_message_and_is_noticed() {
        let cases: &[&[u8]] = &[
            b"a\n.\n",
            b"a\n.\r\n",
            b"a\r\n.\n",
            b"a\r.\r\n",
            b"a\r\n.\r",
            b"\n.\r\n",
            b"a\r\r\n.\r\r\n",
            b"a\r\n.\r\r\n",
            b"a\r\n.\rx\r\n",
            b"a\r.\r",
            b"a\n\r\n.\n\r\n",
            b"a\r\n.\n\r\n",
        ];
        for bytes in cases {
            for chunk in 1..=bytes.len() {
                assert_eq!(read(bytes, chunk), None, "{bytes:?} by {chunk}");
                let all = [bytes, &b"\r\n.\r\n"[..]].concat();
                let (_, malformed, left) = read(&all, chunk).unwrap_or_else(|| panic!("{all:?}"));
                assert!(malformed && left == 0, "{all:?} by {chunk}");
            }
        }
    }

    #[test]
    fn ends_of_chunks_are_looked_at_across_them() {
        for (bytes, malformed, missing) in [
            (&b"a\r\nb\r\n"[..], false, &b""[..]),
            (b"a", false, b"\r\n"),
            (b"", false, b""),
            (b"a\nb\r\n", true, b""),
            (b"a\rb\r\n", true, b""),
            (b"a\r\r\n", true, b""),
            (b"a\r", true, b"\r\n"),
        ] {
            for chunk in 1..=bytes.len().max(1) {
                let mut ends = Ends::default();
                bytes.chunks(chunk).for_each(|piece| ends.look(piece));
                assert_eq!(ends.finish(), missing, "{bytes:?}");
                assert_eq!(ends.is_malformed, malformed, "{bytes:?}");
            }
        }
    }
}
