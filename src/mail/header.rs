#![forbid(unsafe_code)]
//! Header fields of a message (RFC 5322, 2.2), as they stand there.

use std::sync::LazyLock;

use mail_parser::{HeaderName, HeaderValue, MessageParser};

/// One field with all its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, without blanks.
    pub name: &'a [u8],
    /// What stands behind the colon, folded as it came, with its last line end.
    pub value: &'a [u8],
    /// All of it.
    pub whole: &'a [u8],
}

/// The fields of a header, up to an empty line or the end. Lines that belong to no field are passed over.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        loop {
            let whole = take(&mut rest)?;
            if let Some(at) = memchr::memchr(b':', whole) {
                return Some(Field {
                    name: whole[..at].trim_ascii(),
                    value: &whole[at + 1..],
                    whole,
                });
            }
        }
    })
}

/// A line with those that continue it.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut end = 0;
    loop {
        let line = &rest[end..];
        if end == 0 && (line.is_empty() || line.starts_with(b"\r\n") || line.starts_with(b"\n")) {
            return None;
        }
        end += memchr::memchr(b'\n', line).map_or(line.len(), |at| at + 1);
        if !rest.get(end).is_some_and(|byte| b" \t".contains(byte)) {
            break;
        }
    }
    let (whole, behind) = rest.split_at(end);
    *rest = behind;
    Some(whole)
}

/// The first field of a name, unfolded (RFC 5322, 2.2.3) and without blanks around; `None` when there is none.
#[must_use]
pub fn value(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut all = fields(header);
    let found = all.find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(unfold(found.value))
}

/// Without line ends and NULs, and without blanks around.
#[must_use]
pub fn unfold(value: &[u8]) -> Vec<u8> {
    let kept = value
        .iter()
        .copied()
        .filter(|byte| !b"\r\n\0".contains(byte));
    kept.collect::<Vec<u8>>().trim_ascii().to_vec()
}

static PARSER: LazyLock<MessageParser> = LazyLock::new(|| {
    MessageParser::new()
        .with_mime_headers()
        .with_date_headers()
        .with_address_headers()
        .default_header_text()
});

/// The first field of a name, understood; `None` when there is none, or the parser fails.
#[must_use]
pub fn parsed(header: &[u8], name: HeaderName<'static>) -> Option<HeaderValue<'static>> {
    let mut all = fields(header);
    let wanted = name.as_str().as_bytes();
    let found = all.find(|field| field.name.eq_ignore_ascii_case(wanted))?;
    parse(found.whole)
}

/// One field, understood.
#[must_use]
pub fn parse(field: &[u8]) -> Option<HeaderValue<'static>> {
    let text = [field, b"\r\n"].concat();
    // The text comes from anybody, and a flaw in a parser must cost no more than the answer.
    let run = || {
        let message = PARSER.parse_headers(&text)?;
        let header = message
            .parts
            .into_iter()
            .next()?
            .headers
            .into_iter()
            .next()?;
        Some(header.value.into_owned())
    };
    std::panic::catch_unwind(run).ok().flatten()
}

/// A field's text with its encoded words (RFC 2047) decoded.
#[must_use]
pub fn decoded(field: &Field<'_>) -> String {
    let text = [b"Subject:", field.value].concat();
    match parse(&text) {
        Some(HeaderValue::Text(text)) => text.into_owned(),
        _ => String::from_utf8_lossy(&unfold(field.value)).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{decoded, fields, value};

    #[test]
    fn fields_keep_their_lines() {
        let header = b"A: 1\r\nno field\r\nB : 2\r\n  3\r\n\t4\r\na:\r\n\r\nC: body\r\n";
        let names: Vec<_> = fields(header).map(|it| (it.name, it.whole.len())).collect();
        assert_eq!(names, [(&b"A"[..], 6), (b"B", 16), (b"a", 4)]);
        assert_eq!(value(header, "b").unwrap(), b"2  3\t4");
        assert_eq!(value(header, "c"), None);
        assert_eq!(fields(b"").count() + fields(b"x").count(), 0);
        assert_eq!(value(b"x:y", "X").unwrap(), b"y");
    }

    #[test]
    fn encoded_words_are_read() {
        let header = b"X: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n";
        assert_eq!(decoded(&fields(header).next().unwrap()), "Grüße");
    }
}
