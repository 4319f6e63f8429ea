#![forbid(unsafe_code)]
//! How IMAP is logged in with at another server: LOGIN, whose strings are literals where they must be.

use crate::mail::gate::{Dialect, Step};
use crate::mail::sasl::Credentials;

/// The tag of our own command there.
const TAG: &str = "P1";
/// Of untagged answers to the login no more than this is kept for the client, in bytes.
const MOST: usize = 16 * 1024;

/// A login under way.
#[derive(Debug, Default)]
pub(super) struct Imap4 {
    /// The client's.
    tag: String,
    greeted: bool,
    /// What is said each time the server consents to a literal.
    to_say: std::collections::VecDeque<Vec<u8>>,
    untagged: Vec<u8>,
}

impl Imap4 {
    pub(super) fn new(tag: &str) -> Self {
        Imap4 {
            tag: tag.to_owned(),
            ..Imap4::default()
        }
    }

    fn login(&mut self, credentials: &Credentials) -> Vec<u8> {
        let mut now = format!("{TAG} LOGIN ").into_bytes();
        for (text, behind) in [
            (credentials.name.as_bytes(), &b" "[..]),
            (&credentials.password, b"\r\n"),
        ] {
            if text
                .iter()
                .all(|byte| (b' '..=b'~').contains(byte) && !b"\"\\".contains(byte))
            {
                now.push(b'"');
                now.extend_from_slice(text);
                now.push(b'"');
            } else {
                now.extend_from_slice(format!("{{{}}}\r\n", text.len()).as_bytes());
                self.to_say.push_back(std::mem::take(&mut now));
                now.extend_from_slice(text);
            }
            now.extend_from_slice(behind);
        }
        self.to_say.push_back(now);
        self.to_say.pop_front().unwrap_or_default()
    }
}

impl Dialect for Imap4 {
    const NAME: &'static str = "IMAP";

    fn heard(&mut self, line: &[u8], credentials: &Credentials) -> Step {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        if !self.greeted {
            self.greeted = true;
            return match text.strip_prefix("* OK") {
                Some(_) => Step::Say(self.login(credentials)),
                None => Step::Lost(format!("it said {text}")),
            };
        }
        if line.starts_with(b"+") {
            return match self.to_say.pop_front() {
                Some(more) => Step::Say(more),
                None => Step::Lost("it waits for what it was told".to_owned()),
            };
        }
        if text.starts_with("* BYE") {
            return Step::Lost(format!("it said {text}"));
        }
        if line.starts_with(b"* ") {
            if self.untagged.len() + line.len() <= MOST {
                self.untagged.extend_from_slice(line);
            }
            return Step::Say(Vec::new());
        }
        let Some(rest) = text.strip_prefix(&format!("{TAG} ")) else {
            return Step::Lost("it does not speak IMAP".to_owned());
        };
        let tagged = format!("{} {rest}\r\n", self.tag);
        match rest.split(' ').next() {
            Some("OK") => {
                let answer = [&self.untagged[..], tagged.as_bytes()].concat();
                Step::In(answer)
            }
            Some("NO" | "BAD") => Step::Refused(tagged.into_bytes()),
            _ => Step::Lost("it does not speak IMAP".to_owned()),
        }
    }
}

/// True where a refusal says that the password was wrong; others say nothing about it (RFC 5530, 3).
pub(super) fn is_about_password(answer: &[u8]) -> bool {
    let about_else = [
        "[UNAVAILABLE]",
        "[INUSE]",
        "[LIMIT]",
        "[SERVERBUG]",
        "[CONTACTADMIN]",
    ];
    let answer = String::from_utf8_lossy(answer);
    !about_else.iter().any(|code| answer.contains(code))
}

#[cfg(test)]
mod tests {
    use super::{Imap4, Step};
    use crate::mail::gate::Dialect;
    use crate::mail::sasl::Credentials;

    #[test]
    fn strings_that_cannot_be_quoted_are_literals() {
        let credentials = |name: &str, password: &str| Credentials {
            name: name.to_owned(),
            password: password.as_bytes().to_vec(),
        };
        for (who, wanted) in [
            (
                credentials("ann", "a b"),
                &["P1 LOGIN \"ann\" \"a b\"\r\n"][..],
            ),
            (
                credentials("a\"", "ä"),
                &["P1 LOGIN {2}\r\n", "a\" {2}\r\n", "ä\r\n"],
            ),
        ] {
            let mut dialect = Imap4::new("x");
            let mut line = &b"* OK hi\r\n"[..];
            for text in wanted {
                let Step::Say(said) = dialect.heard(line, &who) else {
                    panic!("nothing was said");
                };
                assert_eq!(String::from_utf8(said).unwrap(), *text);
                line = b"+ go on\r\n";
            }
            let _ = dialect.heard(b"* CAPABILITY X\r\n", &who);
            let Step::In(answer) = dialect.heard(b"P1 OK in\r\n", &who) else {
                panic!("not in");
            };
            assert_eq!(answer, b"* CAPABILITY X\r\nx OK in\r\n");
        }
    }
}
