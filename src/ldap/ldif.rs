#![forbid(unsafe_code)]
//! LDIF (RFC 2849): the records of a file, every mistake with its line and column. Content records alone: a directory
//! that is read has no changes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    pub(crate) message: String,
}

/// No file is told more mistakes than these.
const MOST_MISTAKES: usize = 100;

/// A line with those that continue it, comments left out.
struct Line {
    text: Vec<u8>,
    /// Where each of the file's lines begins in `text`, and its number.
    pieces: Vec<(usize, u32)>,
}

impl Line {
    fn mistake(&self, offset: usize, message: impl Into<String>) -> Mistake {
        let at = self
            .pieces
            .partition_point(|(start, _)| *start <= offset)
            .max(1)
            - 1;
        let (start, line) = self.pieces[at];
        let before = &self.text[start..offset.min(self.text.len()).max(start)];
        let characters = String::from_utf8_lossy(before).chars().count();
        // A line that continues another begins with a blank.
        let column = characters + if at == 0 { 1 } else { 2 };
        Mistake {
            line,
            column: u32::try_from(column).unwrap_or(u32::MAX),
            message: message.into(),
        }
    }
}

/// A value of an attribute and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    /// The attribute's description (RFC 4512, 2.5).
    pub(crate) description: String,
    pub(crate) value: Vec<u8>,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// An entry as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its name.
    pub(crate) name: Value,
    pub(crate) values: Vec<Value>,
}

/// Reads a file's bytes. `take` gets each record that is good in itself, and says what is wrong with it elsewhere.
///
/// # Errors
/// All mistakes, the first hundred of them.
pub(crate) fn read(
    bytes: &[u8],
    mut take: impl FnMut(Record) -> Result<(), Mistake>,
) -> Result<(), Vec<Mistake>> {
    let mut reader = Reader {
        rest: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
        number: 0,
    };
    let mut mistakes = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    let mut is_first = true;
    loop {
        let line = reader.line();
        let is_last = line.is_none();
        match line {
            Some(line) if !line.text.is_empty() => {
                lines.push(line);
                continue;
            }
            _ => {}
        }
        if let Err(mistake) = version(&mut lines, &mut is_first) {
            mistakes.push(mistake);
        }
        if !lines.is_empty()
            && let Err(mistake) = record(&lines).and_then(&mut take)
        {
            mistakes.push(mistake);
        }
        lines.clear();
        if is_last || mistakes.len() >= MOST_MISTAKES {
            break;
        }
    }
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(mistakes)
    }
}

/// Takes `version: 1` off the front of the file's first lines.
fn version(lines: &mut Vec<Line>, is_first: &mut bool) -> Result<(), Mistake> {
    let Some(line) = lines.first() else {
        return Ok(());
    };
    if !std::mem::take(is_first) || !line.text.to_ascii_lowercase().starts_with(b"version:") {
        return Ok(());
    }
    let number = line.text[8..].trim_ascii();
    let result = match number {
        b"1" => Ok(()),
        _ => Err(line.mistake(8, "expected version: 1")),
    };
    lines.remove(0);
    result
}

fn record(lines: &[Line]) -> Result<Record, Mistake> {
    let mut values = Vec::with_capacity(lines.len());
    for line in lines {
        values.push(value(line)?);
        let name = &values[values.len() - 1].description;
        let is = |word: &str| name.eq_ignore_ascii_case(word);
        if values.len() == 1 && !is("dn") {
            return Err(line.mistake(0, format!("expected dn:, found {name}")));
        }
        if values.len() > 1 && is("dn") {
            return Err(line.mistake(0, "expected an empty line before the next dn:"));
        }
        if values.len() == 2 && (is("changetype") || is("control")) {
            let message = "changes are not taken: the directory is what the file's entries say";
            return Err(line.mistake(0, message));
        }
    }
    let name = values.remove(0);
    Ok(Record { name, values })
}

/// `description: text`, `description:: base64`.
fn value(line: &Line) -> Result<Value, Mistake> {
    let text = &line.text;
    let Some(colon) = memchr::memchr(b':', text) else {
        return Err(line.mistake(0, "expected ATTRIBUTE: VALUE"));
    };
    let description = std::str::from_utf8(&text[..colon]).ok();
    let Some(description) = description.filter(|it| is_description(it)) else {
        return Err(line.mistake(0, "expected the name of an attribute before the colon"));
    };
    let after = &text[colon + 1..];
    let (kind, skipped) = match after.first() {
        Some(b':') => (b':', 1),
        Some(b'<') => (b'<', 1),
        _ => (b' ', 0),
    };
    let start = colon + 1 + skipped;
    let start = start
        + text[start..]
            .iter()
            .take_while(|byte| **byte == b' ')
            .count();
    let raw = &text[start..];
    let value = match kind {
        b'<' => {
            let message = "values in other files are not read: write the value here, in base64 behind two colons";
            return Err(line.mistake(colon + 1, message));
        }
        b':' => STANDARD
            .decode(raw.trim_ascii_end())
            .map_err(|error| line.mistake(start, format!("this is no base64: {error}")))?,
        _ => match std::str::from_utf8(raw) {
            Ok(text) if !text.contains('\0') => raw.to_vec(),
            Ok(_) => {
                return Err(line.mistake(
                    start,
                    "a value with a NUL byte is written in base64 behind two colons",
                ));
            }
            Err(error) => {
                let message = "this is not UTF-8: bytes are written in base64 behind two colons";
                return Err(line.mistake(start + error.valid_up_to(), message));
            }
        },
    };
    let Mistake { line, column, .. } = line.mistake(start, "");
    Ok(Value {
        description: description.to_owned(),
        value,
        line,
        column,
    })
}

/// A type with options behind semicolons (RFC 4512, 2.5).
fn is_description(text: &str) -> bool {
    let mut parts = text.split(';');
    let option = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !part.is_empty() && part.bytes().all(plain)
    };
    parts.next().is_some_and(super::dn::is_type) && parts.all(option)
}

struct Reader<'a> {
    rest: &'a [u8],
    number: u32,
}

impl<'a> Reader<'a> {
    /// The next line with those that continue it; comments are passed over. `None` at the end.
    fn line(&mut self) -> Option<Line> {
        loop {
            let first = self.physical()?;
            let mut line = Line {
                text: first.to_vec(),
                pieces: vec![(0, self.number)],
            };
            while !first.is_empty() && self.rest.first() == Some(&b' ') {
                let Some(more) = self.physical() else { break };
                line.pieces.push((line.text.len(), self.number));
                line.text.extend_from_slice(&more[1..]);
            }
            // Comments are continued, too.
            if line.text.first() != Some(&b'#') {
                return Some(line);
            }
        }
    }

    fn physical(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number = self.number.saturating_add(1);
        let end = memchr::memchr(b'\n', self.rest);
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::{Mistake, Record, read};

    fn records(text: &[u8]) -> Result<Vec<Record>, Vec<Mistake>> {
        let mut records = Vec::new();
        read(text, |record| {
            records.push(record);
            Ok(())
        })
        .map(|()| records)
    }

    #[test]
    fn the_examples_of_rfc_2849_are_read() {
        let text = "version: 1\r\ndn: cn=Barbara Jensen, ou=Product Development, dc=airius, dc=com\r\n\
            objectclass: top\r\ncn: Barbara Jensen\r\ndescription:Babs is a big sailing fan, and travels extensively in sea\r\n \
            rch of perfect sailing conditions.\r\n\r\n\r\n\
            # a comment\r\n  that goes on\r\ndn:: b3U95Za25qWt6YOoLG89QWlyaXVz\r\nou;lang-ja:: 5Za25qWt6YOo\r\nou;lang-en: Sales\r\nempty:\r\n";
        for text in [text.to_owned(), text.replace('\r', "")] {
            let records = records(text.as_bytes()).unwrap();
            assert_eq!(records.len(), 2);
            let said = |record: usize, value: usize| {
                String::from_utf8_lossy(&records[record].values[value].value).into_owned()
            };
            assert_eq!(
                said(0, 2),
                "Babs is a big sailing fan, and travels extensively in search of perfect sailing conditions."
            );
            assert_eq!(records[1].name.value, "ou=営業部,o=Airius".as_bytes());
            assert_eq!(
                (said(1, 0), said(1, 2)),
                ("営業部".to_owned(), String::new())
            );
            assert_eq!(records[1].values[1].description, "ou;lang-en");
        }
        assert_eq!(records(b"").unwrap(), []);
        assert_eq!(records(b"\n\n# only\n").unwrap(), []);
        assert_eq!(
            records(b"\xef\xbb\xbfdn: dc=a\no: b").unwrap()[0]
                .values
                .len(),
            1
        );
    }

    #[test]
    fn every_mistake_has_its_place() {
        for (text, line, column, words) in [
            (&b"version: 2\ndn: dc=a\n"[..], 1, 9, "version: 1"),
            (
                b"dn: dc=a\njpegPhoto:< file:///etc/passwd\n",
                2,
                11,
                "other files",
            ),
            (b"dn: dc=a\nchangetype: add\n", 2, 1, "changes"),
            (b"dn: dc=a\ncontrol: 1.2.3 true\n", 2, 1, "changes"),
            (b"dn: dc=a\no:: a*b\n", 2, 5, "base64"),
            (b"dn: dc=a\no: ab\n c\xff\n", 3, 3, "UTF-8"),
            (b"dn: dc=a\no: a\0\n", 2, 4, "NUL"),
            (b"dn: dc=a\nwords\n", 2, 1, "ATTRIBUTE"),
            (b"dn: dc=a\nb ad: x\n", 2, 1, "name"),
            (b"dn: dc=a\no;: x\n", 2, 1, "name"),
            (b"cn: a\n", 1, 1, "expected dn:"),
            (b"dn: dc=a\no: x\ndn: dc=b\n", 3, 1, "empty line"),
            (b" dn: dc=a\n", 1, 1, "name"),
        ] {
            let mistakes = records(text).unwrap_err();
            let mistake = &mistakes[0];
            assert_eq!(
                (mistakes.len(), mistake.line, mistake.column),
                (1, line, column),
                "{mistake:?}"
            );
            assert!(mistake.message.contains(words), "{mistake:?}");
        }
        let many = "words\n\n".repeat(1000);
        assert_eq!(records(many.as_bytes()).unwrap_err().len(), 100);
        let two = records(b"a\n\ndn: dc=a\n\nb\n").unwrap_err();
        assert_eq!((two[0].line, two[1].line), (1, 5));
    }
}
