#![forbid(unsafe_code)]
//! Edits of a RON text that change the parts they are about and nothing else.

use std::ops::Range;

use super::scan::{Group, Part, skip_blank};

/// One change of a text, maybe at several places of it.
#[derive(Debug)]
pub(super) struct Splices<'t> {
    text: &'t str,
    changes: Vec<(Range<usize>, String)>,
}

impl<'t> Splices<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Splices {
            text,
            changes: Vec::new(),
        }
    }

    /// The text with all changes.
    pub(super) fn apply(mut self) -> String {
        // Those at one place stay in the order in which they were asked for.
        self.changes
            .sort_by_key(|(range, _)| (range.start, range.end));
        let mut made = String::with_capacity(self.text.len() + 256);
        let mut at = 0;
        for (range, new) in self.changes {
            made.push_str(self.text.get(at..range.start).unwrap_or_default());
            made.push_str(&new);
            at = at.max(range.end);
        }
        made.push_str(self.text.get(at..).unwrap_or_default());
        made
    }

    /// Gives a key of a group this value, or takes it out.
    pub(super) fn set(&mut self, group: &Group, key: &str, value: Option<&str>) {
        match (group.part(key), value) {
            (Some(part), Some(value)) => self.changes.push((part.value.clone(), value.to_owned())),
            (Some(part), None) => self.remove(part),
            (None, Some(value)) => self.append(group, &[format!("{key}: {value}")]),
            (None, None) => {}
        }
    }

    /// Takes a part out: with its line where it has one of its own, else with its comma.
    pub(super) fn remove(&mut self, part: &Part) {
        let Range { start, end } = part.whole.clone();
        let rest = &self.text[end..];
        let spaces = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let comma = rest[spaces..].starts_with(',').then_some(end + spaces + 1);
        let behind = comma.unwrap_or(end);
        if let (Some(indent), Some(line_end)) = (self.indent(start), self.ends_line(behind)) {
            self.cut(start - indent.len()..line_end);
        } else if let Some(comma) = comma {
            let rest = &self.text[comma..];
            let spaces = rest.len() - rest.trim_start_matches(' ').len();
            self.cut(start..comma + spaces);
        } else {
            let before = self.text[..start].trim_end();
            let from = if before.ends_with(',') {
                before.len() - 1
            } else {
                start
            };
            self.cut(from..end);
        }
    }

    /// Adds parts behind the last of a group, on lines of their own where that has one.
    pub(super) fn append(&mut self, group: &Group, parts: &[String]) {
        if parts.is_empty() {
            return;
        }
        let Some(last) = group.parts.last() else {
            return self.fill(group, parts);
        };
        let next = skip_blank(self.text, last.whole.end);
        let comma = (self.text.as_bytes().get(next) == Some(&b',')).then_some(next + 1);
        let behind = comma.unwrap_or(last.whole.end);
        let own_line = self.indent(last.whole.start).map(str::to_owned);
        match (own_line, self.ends_line(behind)) {
            (Some(indent), Some(line_end)) => {
                if comma.is_none() {
                    self.insert(behind, ",".to_owned());
                }
                let lines = parts.iter().map(|part| format!("{indent}{part},\n"));
                self.insert(line_end, lines.collect());
            }
            (Some(indent), None) => {
                let separator = if comma.is_some() { "" } else { "," };
                let lines = parts.join(&format!(",\n{indent}"));
                self.insert(behind, format!("{separator}\n{indent}{lines}"));
            }
            (None, _) => {
                let separator = if comma.is_some() { "" } else { "," };
                self.insert(behind, format!("{separator} {}", parts.join(", ")));
            }
        }
    }

    /// The first parts of an empty group.
    fn fill(&mut self, group: &Group, parts: &[String]) {
        let inside = &self.text[group.open..group.close];
        match inside.rfind('\n') {
            Some(at) if inside.trim().is_empty() => {
                let indent = &inside[at + 1..];
                let lines = parts.iter().map(|part| format!("\n{indent}    {part},"));
                let lines: String = lines.collect();
                self.insert(group.open, lines);
            }
            _ => self.insert(group.open, format!("{},", parts.join(", "))),
        }
    }

    /// The white space before an offset, if nothing else stands before it on its line.
    pub(super) fn indent(&self, at: usize) -> Option<&'t str> {
        let line = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        let before = &self.text[line..at];
        before.trim().is_empty().then_some(before)
    }

    /// Where the next line begins, if nothing but a comment stands between.
    fn ends_line(&self, at: usize) -> Option<usize> {
        let rest = &self.text[at..];
        let line = rest.find('\n')?;
        let words = rest[..line].trim();
        (words.is_empty() || words.starts_with("//")).then_some(at + line + 1)
    }

    fn cut(&mut self, range: Range<usize>) {
        self.changes.push((range, String::new()));
    }

    fn insert(&mut self, at: usize, new: String) {
        self.changes.push((at..at, new));
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::group;
    use super::Splices;

    /// Removes the part of a name or number, and adds one.
    fn edit(text: &str, bracket: u8, gone: Option<usize>, new: Option<&str>) -> String {
        let mut text = text.to_owned();
        if let Some(gone) = gone {
            let group = group(&text, 0..text.len(), bracket).unwrap();
            let mut splices = Splices::of(&text);
            splices.remove(&group.parts[gone]);
            text = splices.apply();
        }
        if let Some(new) = new {
            let group = group(&text, 0..text.len(), bracket).unwrap();
            let mut splices = Splices::of(&text);
            splices.append(&group, &[new.to_owned()]);
            text = splices.apply();
        }
        text
    }

    #[test]
    fn parts_go_with_their_line_or_their_comma() {
        let lines = "[\n    1, // one\n    // of two\n    2,\n    3\n]";
        assert_eq!(
            edit(lines, b'[', Some(0), None),
            "[\n    // of two\n    2,\n    3\n]"
        );
        assert_eq!(
            edit(lines, b'[', Some(2), None),
            "[\n    1, // one\n    // of two\n    2,\n]"
        );
        assert_eq!(edit("[1, 2, 3]", b'[', Some(0), None), "[2, 3]");
        assert_eq!(edit("[1, 2, 3]", b'[', Some(1), None), "[1, 3]");
        assert_eq!(edit("[1, 2, 3]", b'[', Some(2), None), "[1, 2]");
        assert_eq!(edit("[1]", b'[', Some(0), None), "[]");
        assert_eq!(edit("(a: 1, b: 2)", b'(', Some(1), None), "(a: 1)");
    }

    #[test]
    fn parts_come_behind_the_last_in_its_manner() {
        for (text, expected) in [
            ("[]", "[9,]"),
            ("[\n]", "[\n    9,\n]"),
            ("[1]", "[1, 9]"),
            ("[1,]", "[1, 9]"),
            ("[\n  1\n]", "[\n  1,\n  9,\n]"),
            ("[\n  1, // one\n]", "[\n  1, // one\n  9,\n]"),
            ("[\n  1 // one\n]", "[\n  1, // one\n  9,\n]"),
            ("[\n  1]", "[\n  1,\n  9]"),
        ] {
            assert_eq!(edit(text, b'[', None, Some("9")), expected, "{text}");
        }
    }

    #[test]
    fn the_last_can_go_while_another_comes() {
        for text in ["[1, 2]", "[\n  1,\n  2,\n]", "[\n  1,\n  2\n]", "[1,\n 2]"] {
            let made = edit(text, b'[', Some(1), Some("9"));
            let read: Vec<u8> =
                ron::from_str(&made).unwrap_or_else(|error| panic!("{made}: {error}"));
            assert_eq!(read, [1, 9], "{made}");
        }
    }
}
