#![forbid(unsafe_code)]
//! Where the parts of a message stand (RFC 2045, 2046): one pass over its lines, whatever is in them.
//!
//! Time is linear in the message and memory is bounded, for a message comes from anybody: parts nest up to 32 deep, a
//! message has up to 1,000, and what is beyond counts as the text of the part it is in. (A parser of whole messages
//! was not used for that: what nests without bound in it overflows the stack when it is dropped.) What fields mean
//! is asked of a library.

use std::io::{self, BufRead};
use std::ops::Range;

use mail_parser::{ContentType, HeaderName, HeaderValue};

use super::header;

/// One part: the message itself, or one within.
#[derive(Debug)]
pub struct Part {
    /// Where its header stands, with the empty line behind it.
    pub header: Range<u64>,
    /// Where its body stands.
    pub body: Range<u64>,
    /// Line ends in its body.
    pub lines: u64,
    /// Its header's text, at most 64 KiB of it.
    pub fields: Vec<u8>,
    /// What is in it.
    pub kind: Kind,
}

/// What is in a part.
#[derive(Debug)]
pub enum Kind {
    /// Nothing that has parts.
    Single,
    /// Parts, at least one.
    Multi(Vec<Part>),
    /// A message, whose header begins this part's body.
    Message(Box<Part>),
}

const DEEPEST: usize = 32;
const MOST_PARTS: usize = 1000;
/// Of each header.
const MOST_FIELDS: usize = 64 * 1024;
/// Of all headers together.
const MOST_FIELDS_IN_ALL: usize = 1 << 20;
/// So much of a line is looked at: a boundary has at most 70 characters (RFC 2046, 5.1.1), and some have more.
const LINE: usize = 1000;

impl Part {
    /// Reads a message.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn read(reader: impl BufRead) -> io::Result<Self> {
        let mut walk = Walk {
            reader,
            offset: 0,
            line: Vec::new(),
            is_whole: false,
            boundaries: Vec::new(),
            parts: 0,
            kept: 0,
        };
        walk.part(0).map(|(part, _)| part)
    }

    /// The type of its content; `None` where it is not told or not understood.
    #[must_use]
    pub fn content_type(&self) -> Option<ContentType<'static>> {
        content_type(&self.fields, HeaderName::ContentType)
    }

    /// A part within by its numbers from 1 (RFC 3501, 6.4.5). A message that has no parts is its own first one.
    #[must_use]
    pub fn find(&self, numbers: &[u32]) -> Option<&Part> {
        let (mut part, mut is_first) = (self, true);
        for number in numbers {
            let (inner, is_message) = match &part.kind {
                Kind::Message(message) if !is_first => (&**message, true),
                _ => (part, is_first),
            };
            is_first = false;
            part = match &inner.kind {
                Kind::Multi(parts) => {
                    let at = usize::try_from(*number).ok()?.checked_sub(1)?;
                    parts.get(at)?
                }
                _ if *number == 1 && is_message => inner,
                _ => return None,
            };
        }
        Some(part)
    }
}

fn content_type(fields: &[u8], name: HeaderName<'static>) -> Option<ContentType<'static>> {
    match header::parsed(fields, name)? {
        HeaderValue::ContentType(found) => Some(found),
        _ => None,
    }
}

/// The disposition of a part (RFC 2183).
#[must_use]
pub fn disposition(part: &Part) -> Option<ContentType<'static>> {
    content_type(&part.fields, HeaderName::ContentDisposition)
}

/// Where a header ended and by what, when that was not an empty line.
type Ended = Option<(u64, Stop)>;

/// What ended a part.
#[derive(Debug, Clone, Copy)]
enum Stop {
    End,
    /// A boundary line of that level; the last one of its multipart, or not.
    Boundary {
        level: usize,
        is_last: bool,
    },
}

struct Walk<R> {
    reader: R,
    offset: u64,
    /// The beginning of the line read last, without its end.
    line: Vec<u8>,
    /// It ended with a line end.
    is_whole: bool,
    boundaries: Vec<Vec<u8>>,
    parts: usize,
    kept: usize,
}

impl<R: BufRead> Walk<R> {
    /// Reads a line; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.is_whole = false;
        let start = self.offset;
        while !self.is_whole {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', bytes);
            let used = end.map_or(bytes.len(), |at| at + 1);
            let room = LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&bytes[..used.min(room)]);
            self.is_whole = end.is_some();
            self.reader.consume(used);
            self.offset += used as u64;
        }
        Ok(self.offset > start)
    }

    /// What a boundary line says, if the line is one; of an inner multipart first.
    fn boundary(&self) -> Option<Stop> {
        let line = self.line.strip_prefix(b"--")?;
        let levels = self.boundaries.iter().enumerate().rev();
        for (level, boundary) in levels {
            if let Some(rest) = line.strip_prefix(&boundary[..]) {
                let is_last = rest.starts_with(b"--");
                if is_last || rest.trim_ascii().is_empty() {
                    return Some(Stop::Boundary { level, is_last });
                }
            }
        }
        None
    }

    /// Reads lines up to a boundary. How many line ends, where the text ended, and by what.
    fn text(&mut self, start: u64) -> io::Result<(u64, u64, Stop)> {
        let mut lines = 0;
        loop {
            let before = self.offset;
            if !self.next()? {
                return Ok((lines, self.offset, Stop::End));
            }
            if let Some(stop) = self.boundary() {
                return Ok((u64::saturating_sub(lines, 1), end(start, before), stop));
            }
            lines += u64::from(self.is_whole);
        }
    }

    /// Reads a header: its text, and what ended it when that was not an empty line.
    fn header(&mut self) -> io::Result<(Vec<u8>, Ended)> {
        let mut fields = Vec::new();
        loop {
            let before = self.offset;
            if !self.next()? {
                return Ok((fields, Some((self.offset, Stop::End))));
            }
            if let Some(stop) = self.boundary() {
                return Ok((fields, Some((before, stop))));
            }
            if self.line == b"\r\n" || self.line == b"\n" {
                return Ok((fields, None));
            }
            let room = MOST_FIELDS.saturating_sub(fields.len());
            if self.line.len() <= room && self.kept + self.line.len() <= MOST_FIELDS_IN_ALL {
                self.kept += self.line.len();
                fields.extend_from_slice(&self.line);
                if self.line.len() >= LINE && !self.line.ends_with(b"\n") {
                    fields.extend_from_slice(b"\r\n");
                }
            }
        }
    }

    fn part(&mut self, depth: usize) -> io::Result<(Part, Stop)> {
        self.parts += 1;
        let start = self.offset;
        let (fields, ended) = self.header()?;
        let mut part = Part {
            header: start..self.offset,
            body: self.offset..self.offset,
            lines: 0,
            fields,
            kind: Kind::Single,
        };
        if let Some((at, stop)) = ended {
            let at = end(start, at);
            (part.header, part.body) = (start..at, at..at);
            return Ok((part, stop));
        }
        let begin = self.offset;
        let may_descend = depth < DEEPEST && self.parts < MOST_PARTS;
        let found = part.content_type().filter(|_| may_descend);
        let is = |wanted: &str| {
            found
                .as_ref()
                .is_some_and(|it| it.ctype().eq_ignore_ascii_case(wanted))
        };
        let boundary = found.as_ref().and_then(|it| it.attribute("boundary"));
        let (lines, at, stop) = match boundary {
            Some(boundary) if is("multipart") && !boundary.is_empty() => {
                let (kind, lines, at, stop) = self.multi(boundary.as_bytes(), begin, depth)?;
                part.kind = kind;
                (lines, at, stop)
            }
            _ if is("message") && is_message(found.as_ref(), &part.fields) => {
                let (message, stop) = self.part(depth + 1)?;
                let (lines, at) = (message.lines, message.body.end);
                let header = u64::try_from(memchr::memchr_iter(b'\n', &message.fields).count());
                part.kind = Kind::Message(Box::new(message));
                (lines + header.unwrap_or(0) + 1, at, stop)
            }
            _ => self.text(begin)?,
        };
        part.lines = lines;
        part.body = begin..at.max(begin);
        Ok((part, stop))
    }

    fn multi(
        &mut self,
        boundary: &[u8],
        start: u64,
        depth: usize,
    ) -> io::Result<(Kind, u64, u64, Stop)> {
        let level = self.boundaries.len();
        self.boundaries.push(boundary.to_vec());
        let mut parts = Vec::new();
        let (mut lines, mut at, mut stop) = self.text(start)?;
        while let Stop::Boundary {
            level: found,
            is_last: false,
        } = stop
        {
            if found != level || self.parts >= MOST_PARTS {
                break;
            }
            let (part, next) = self.part(depth + 1)?;
            lines += part.lines + 2;
            (at, stop) = (part.body.end, next);
            parts.push(part);
        }
        self.boundaries.truncate(level);
        // Behind its last boundary nothing more counts; where there are too many parts, neither.
        if matches!(stop, Stop::Boundary { level: found, .. } if found == level) {
            let (more, end, next) = self.text(start)?;
            (lines, at, stop) = (lines + more + 1, end, next);
        }
        let kind = match parts.is_empty() {
            true => Kind::Single,
            false => Kind::Multi(parts),
        };
        Ok((kind, lines, at, stop))
    }
}

/// A text's end before a boundary line: the line end before that belongs to it (RFC 2046, 5.1.1).
fn end(start: u64, boundary: u64) -> u64 {
    boundary.saturating_sub(2).max(start)
}

/// `message/rfc822` that stands there as it is.
fn is_message(found: Option<&ContentType<'_>>, fields: &[u8]) -> bool {
    let subtype = found.and_then(ContentType::subtype).unwrap_or_default();
    let encoding = header::value(fields, "content-transfer-encoding").unwrap_or_default();
    let is_plain = ["", "7bit", "8bit", "binary"]
        .iter()
        .any(|plain| encoding.eq_ignore_ascii_case(plain.as_bytes()));
    is_plain && (subtype.eq_ignore_ascii_case("rfc822") || subtype.eq_ignore_ascii_case("global"))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Part};

    fn shape(part: &Part) -> String {
        match &part.kind {
            Kind::Single => "*".to_owned(),
            Kind::Multi(parts) => format!("({})", parts.iter().map(shape).collect::<String>()),
            Kind::Message(message) => format!("<{}>", shape(message)),
        }
    }

    fn body<'t>(text: &'t str, part: &Part) -> &'t str {
        &text[usize::try_from(part.body.start).unwrap()..usize::try_from(part.body.end).unwrap()]
    }

    const MIXED: &str = "Content-Type: multipart/mixed; boundary=\"a\"\r\n\r\npreamble\r\n--a\r\n\r\none\r\n\r\n--ab\r\n--a \r\n\
        Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: multipart/alternative; boundary=ab\r\n\r\n\
        --ab\r\nX: 1\r\n\r\n2.1\r\n--ab\r\n\r\n--ab--\r\nepilogue\r\n--a\r\nContent-Type: text/html\r\n--a--\r\nmore\r\n";

    #[test]
    fn parts_are_found_by_their_numbers() {
        let message = Part::read(MIXED.as_bytes()).unwrap();
        assert_eq!(shape(&message), "(*<(**)>*)");
        let part = |numbers: &[u32]| message.find(numbers).map(|part| body(MIXED, part));
        assert_eq!(part(&[1]), Some("one\r\n\r\n--ab"));
        assert!(part(&[2]).unwrap().starts_with("Subject: inner\r\n"));
        assert!(part(&[2]).unwrap().ends_with("epilogue"));
        assert_eq!(part(&[2, 1]), Some("2.1"));
        assert_eq!(part(&[2, 2]), Some(""));
        assert_eq!(part(&[3]), Some(""));
        for missing in [&[0][..], &[4], &[1, 1], &[2, 3], &[2, 1, 1], &[3, 1]] {
            assert_eq!(part(missing), None, "{missing:?}");
        }
        assert_eq!(message.find(&[1]).unwrap().lines, 2);
        let simple = Part::read(&b"Subject: x\r\n\r\nhello\r\n"[..]).unwrap();
        assert_eq!(simple.find(&[1]).unwrap().body, 14..21);
        assert!(simple.find(&[2]).is_none() && simple.find(&[1, 1]).is_none());
    }

    #[test]
    fn nesting_bombs_end() {
        let message = "Content-Type: message/rfc822\r\n\r\n".repeat(200_000);
        let part = Part::read(message.as_bytes()).unwrap();
        assert_eq!(shape(&part).len(), 2 * 32 + 1);
        let mut multi = String::new();
        for level in 0..20_000 {
            multi +=
                &format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n");
        }
        let part = Part::read(multi.as_bytes()).unwrap();
        assert_eq!(shape(&part).len(), 2 * 32 + 1);
        let many = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned()
            + &"--b\r\n\r\n".repeat(300_000);
        let part = Part::read(many.as_bytes()).unwrap();
        assert_eq!(shape(&part).len(), 999 + 2);
        assert_eq!(part.body.end, many.len() as u64);
        let line = "Content-Type: text/plain; x=".to_owned() + &"y".repeat(3_000_000);
        assert!(Part::read(line.as_bytes()).unwrap().fields.len() < 70_000);
    }

    #[test]
    fn every_beginning_of_a_message_has_ranges_within_it() {
        fn check(part: &Part, end: u64) {
            assert!(part.header.start <= part.header.end && part.header.end <= part.body.start);
            assert!(
                part.body.start <= part.body.end && part.body.end <= end,
                "{part:?}"
            );
            match &part.kind {
                Kind::Single => {}
                Kind::Multi(parts) => parts.iter().for_each(|it| check(it, part.body.end)),
                Kind::Message(message) => check(message, part.body.end),
            }
        }
        for end in 0..MIXED.len() {
            let text = &MIXED[..end];
            check(&Part::read(text.as_bytes()).unwrap(), end as u64);
        }
    }
}
