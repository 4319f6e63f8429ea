#![forbid(unsafe_code)]
//! Where the parts of a RON text stand, for edits that leave comments and layout alone. It is used on texts that
//! the real reader has taken, and what an edit makes is read by that again; so it only finds, and judges nothing.

use std::ops::Range;

/// `Name(key: value, ..)`, or a `[..]` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Behind the opening bracket.
    pub(super) open: usize,
    /// The closing bracket.
    pub(super) close: usize,
    /// Its parts in their order.
    pub(super) parts: Vec<Part>,
}

/// One of a group's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The key, empty in a list.
    pub(super) key: String,
    /// From the key to the value's end.
    pub(super) whole: Range<usize>,
    /// The value, without comments around it.
    pub(super) value: Range<usize>,
}

impl Group {
    pub(super) fn part(&self, key: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.key == key)
    }
}

/// The first group in a piece of a text, opened by this bracket.
pub(super) fn group(text: &str, within: Range<usize>, bracket: u8) -> Option<Group> {
    let mut at = skip_blank(text, within.start);
    if text.get(at..)?.starts_with("#!") {
        at += text[at..].find(']')? + 1;
    }
    while *text.as_bytes().get(at)? != bracket {
        at = skip_blank(text, token_end(text, at)?);
        if at >= within.end {
            return None;
        }
    }
    let open = at + 1;
    let mut parts = Vec::new();
    at = skip_blank(text, open);
    loop {
        let byte = *text.as_bytes().get(at)?;
        if matches!(byte, b')' | b']' | b'}') {
            return Some(Group {
                open,
                close: at,
                parts,
            });
        }
        let (part, end) = part(text, at, bracket == b'(')?;
        parts.push(part);
        at = end;
        if text.as_bytes().get(at) == Some(&b',') {
            at = skip_blank(text, at + 1);
        }
    }
}

/// One part, and where what follows it begins: a comma or the closing bracket.
fn part(text: &str, start: usize, has_key: bool) -> Option<(Part, usize)> {
    let mut at = start;
    let mut key = String::new();
    if has_key {
        let end = token_end(text, at)?;
        let colon = skip_blank(text, end);
        if text.as_bytes().get(colon) == Some(&b':') {
            text[at..end].clone_into(&mut key);
            at = skip_blank(text, colon + 1);
        }
    }
    let value = at;
    let mut end = at;
    let mut depth = 0_usize;
    loop {
        match *text.as_bytes().get(at)? {
            b',' if depth == 0 => break,
            b')' | b']' | b'}' => {
                if depth == 0 {
                    break;
                }
                depth -= 1;
            }
            b'(' | b'[' | b'{' => depth += 1,
            _ => {}
        }
        end = token_end(text, at)?;
        at = skip_blank(text, end);
    }
    let part = Part {
        key,
        whole: start..end,
        value: value..end,
    };
    Some((part, at))
}

/// Behind white space and comments.
pub(super) fn skip_blank(text: &str, mut at: usize) -> usize {
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        let rest = &rest[blank..];
        at += blank;
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += block_comment(rest);
        } else {
            return at;
        }
    }
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The end of the token that begins here: a string, a word, or a single sign.
fn token_end(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let bare = rest.strip_prefix('b').unwrap_or(rest);
    let skipped = rest.len() - bare.len();
    if bare.starts_with('"') {
        return Some(at + skipped + string(bare)?);
    }
    if let Some(raw) = bare.strip_prefix('r')
        && raw.trim_start_matches('#').starts_with('"')
    {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = &raw[hashes + 1..];
        let length = body.find(&end)? + end.len();
        return Some(at + skipped + 1 + hashes + 1 + length);
    }
    if rest.starts_with('\'') {
        let mut chars = rest.char_indices().skip(1);
        while let Some((offset, sign)) = chars.next() {
            match sign {
                '\\' => drop(chars.next()),
                '\'' => return Some(at + offset + 1),
                _ => {}
            }
        }
        return None;
    }
    let word = |sign: char| sign.is_alphanumeric() || "_.+-#".contains(sign);
    let length = rest.find(|sign| !word(sign)).unwrap_or(rest.len());
    if length > 0 {
        return Some(at + length);
    }
    Some(at + rest.chars().next()?.len_utf8())
}

/// The length of a string literal.
fn string(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((offset, sign)) = chars.next() {
        match sign {
            '\\' => drop(chars.next()),
            '"' => return Some(offset + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::group;

    #[test]
    fn parts_are_found_through_strings_comments_and_nesting() {
        let text = r##"#![enable(implicit_some)]
            // Tcp(port: 1)
            Tcp(
                module: Exec(command: ["a,)", r#"b")"#, 'c'], env: {"k": ")"}), // ), "
                /* sockets: [ /* nested */ ) */
                sockets: [(port: 25 /* smtp */), ( port: 26, tls : On ,),], channels : 5
            )"##;
        let found = group(text, 0..text.len(), b'(').unwrap();
        let keys: Vec<&str> = found.parts.iter().map(|part| part.key.as_str()).collect();
        assert_eq!(keys, ["module", "sockets", "channels"]);
        assert_eq!(&text[found.close..], ")");
        assert_eq!(&text[found.parts[2].value.clone()], "5");
        let rows = group(text, found.parts[1].value.clone(), b'[').unwrap();
        let of = |at: usize| &text[rows.parts[at].value.clone()];
        assert_eq!(
            (of(0), of(1)),
            ("(port: 25 /* smtp */)", "( port: 26, tls : On ,)")
        );
        let row = group(text, rows.parts[0].value.clone(), b'(').unwrap();
        assert_eq!(&text[row.parts[0].value.clone()], "25");
    }
}
