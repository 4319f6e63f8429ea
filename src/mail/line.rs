#![forbid(unsafe_code)]
//! Lines of commands: strict about their ends, bounded in their length.

use crate::session::Input;

/// What stands at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without its CRLF.
    Whole(Vec<u8>),
    /// A line that is no line: longer than the limit.
    TooLong,
    /// A line that is no line: a CR or LF that does not belong to a CRLF, or a NUL.
    Malformed,
}

/// Takes lines off an input. What is too long is thrown away as it comes, so that a line costs no more memory
/// than the limit.
#[derive(Debug, Default)]
pub struct Lines {
    /// Within a line that was too long.
    skipping: bool,
}

impl Lines {
    /// The next line of at most `limit` bytes with its CRLF; `None` until there is one.
    ///
    /// A bare LF ends a malformed line, so that whoever types with one is answered and does not wait for ever.
    pub fn next(&mut self, input: &mut Input, limit: usize) -> Option<Line> {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if input.len() >= limit {
                // The CR may be the first half of the line's end.
                let keep = usize::from(input.last() == Some(&b'\r'));
                input.consume(input.len() - keep);
                self.skipping = true;
            }
            return None;
        };
        let line = &input[..end];
        let taken = if std::mem::take(&mut self.skipping) || end >= limit {
            Line::TooLong
        } else {
            match line.split_last() {
                Some((b'\r', text)) if !text.iter().any(|byte| b"\r\0".contains(byte)) => {
                    Line::Whole(text.to_vec())
                }
                _ => Line::Malformed,
            }
        };
        input.consume(end + 1);
        Some(taken)
    }
}

/// The first word of a command in capitals, and what follows it without the blanks around.
#[must_use]
pub fn split_command(line: &[u8]) -> (String, &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ');
    let (verb, rest) = line.split_at(end.unwrap_or(line.len()));
    let verb = String::from_utf8_lossy(verb).to_ascii_uppercase();
    (verb, rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::{Line, Lines, split_command};
    use crate::session::Input;

    fn lines(bytes: &[u8], chunk: usize, limit: usize) -> Vec<Line> {
        let (mut input, mut lines, mut all) = (Input::default(), Lines::default(), Vec::new());
        for piece in bytes.chunks(chunk) {
            input.extend(piece);
            while let Some(line) = lines.next(&mut input, limit) {
                all.push(line);
            }
            assert!(input.len() <= limit, "kept {}", input.len());
        }
        all
    }

    #[test]
    fn lines_end_with_crlf_and_nothing_else_at_every_chunk_size() {
        let bytes =
            b"NOOP\r\nNO\rOP\r\nNOOP\nA\0B\r\n\r\nxxxxxxxxxxxxxxxxxxxx\r\nQUIT\r\nxxxxxxxxxx\r\n";
        for chunk in 1..=bytes.len() {
            let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
            assert_eq!(
                lines(bytes, chunk, 12),
                [
                    whole("NOOP"),
                    Line::Malformed,
                    Line::Malformed,
                    Line::Malformed,
                    whole(""),
                    Line::TooLong,
                    whole("QUIT"),
                    whole("xxxxxxxxxx"),
                ],
                "in chunks of {chunk}"
            );
        }
    }

    #[test]
    fn a_command_is_a_word_and_the_rest() {
        let text = |line: &'static str| {
            let (verb, rest) = split_command(line.as_bytes());
            (verb, String::from_utf8(rest.to_vec()).unwrap())
        };
        assert_eq!(text("mail FROM:<a>"), ("MAIL".into(), "FROM:<a>".into()));
        assert_eq!(text("quit"), ("QUIT".into(), String::new()));
        assert_eq!(text(" x"), (String::new(), "x".into()));
    }
}
