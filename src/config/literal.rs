#![forbid(unsafe_code)]
//! Where the bytes of a string's value stand in the file that holds its literal.

/// Goes on from the place that was asked for last, so that a list of a million entries is walked through once.
pub(super) struct Walk<'a> {
    raw: &'a str,
    /// Where the literal begins: line and column.
    start: (u32, u32),
    /// How far it is: bytes of the literal, bytes of its value, line and column.
    at: usize,
    decoded: usize,
    place: (u32, u32),
}

impl<'a> Walk<'a> {
    /// Through a literal that begins at this line and column, both from 1.
    pub(super) fn of(raw: &'a str, start: (u32, u32)) -> Self {
        let mut walk = Walk {
            raw,
            start,
            at: 0,
            decoded: 0,
            place: start,
        };
        walk.rewind();
        walk
    }

    /// Line and column of a byte of the value, through escapes, and in raw strings.
    pub(super) fn to(&mut self, wanted: usize) -> (u32, u32) {
        if wanted < self.decoded {
            self.rewind();
        }
        while self.decoded < wanted && self.at < self.raw.len() {
            self.step();
        }
        self.place
    }

    /// To the value's first byte.
    fn rewind(&mut self) {
        (self.at, self.place) = (0, self.start);
        self.pass(self.raw.find('"').map_or(0, |quote| quote + 1));
        self.decoded = 0;
    }

    /// One character of the value.
    fn step(&mut self) {
        let rest = &self.raw[self.at..];
        let next = rest.chars().next().map_or(1, char::len_utf8);
        let (length, decoded) = if rest.starts_with('\\') && !self.raw.starts_with('r') {
            escape(rest)
        } else {
            (next, next)
        };
        self.pass(length);
        self.decoded += decoded;
    }

    fn pass(&mut self, length: usize) {
        let end = (self.at + length).min(self.raw.len());
        for character in self.raw.get(self.at..end).unwrap_or_default().chars() {
            let (line, column) = self.place;
            self.place = match character {
                '\n' => (line.saturating_add(1), 1),
                _ => (line, column.saturating_add(1)),
            };
        }
        self.at = end;
    }
}

/// How long an escape is, and how many bytes of the value it makes.
fn escape(rest: &str) -> (usize, usize) {
    let bytes = |digits: Option<&str>| {
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        code.and_then(char::from_u32).map_or(1, char::len_utf8)
    };
    match rest.as_bytes().get(1) {
        Some(b'x') => (4, bytes(rest.get(2..4))),
        Some(b'u') => {
            let close = rest.find('}').unwrap_or(rest.len() - 1);
            (close + 1, bytes(rest.get(3..close)))
        }
        _ => (2, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::Walk;

    #[test]
    fn places_in_strings_are_found_through_escapes_in_any_order() {
        for (raw, wanted, place) in [
            (r#""a\nb""#, 0, (3, 6)),
            (r#""a\nb""#, 2, (3, 9)),
            ("r#\"a\nb\"#", 2, (4, 1)),
            ("r\"\\a\"", 1, (3, 8)),
            (r#""\x41b""#, 1, (3, 10)),
            (r#""\u{e9}b""#, 2, (3, 12)),
            ("\"\u{e9}\n b\"", 4, (4, 2)),
            ("\"ab\"", 99, (3, 9)),
            (r#""\u""#, 99, (3, 9)),
            ("", 3, (3, 5)),
        ] {
            let mut walk = Walk::of(raw, (3, 5));
            assert_eq!(walk.to(wanted), place, "{raw}");
            let first = walk.to(0);
            assert_eq!(walk.to(wanted), place, "{raw} again");
            assert_eq!(walk.to(0), first);
        }
    }
}
