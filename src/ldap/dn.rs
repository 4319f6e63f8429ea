#![forbid(unsafe_code)]
//! Distinguished names as strings (RFC 4514), and the form in which they are compared.

use super::rules::Rule;
use super::schema::Schema;

/// A name's text has at most so many bytes; the names of directories have some dozens.
const LONGEST: usize = 8192;

/// A distinguished name, the entry's own part first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dn {
    parts: Vec<Rdn>,
}

/// A part of a name: one type and value, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rdn {
    pub(crate) pairs: Vec<Pair>,
    key: Vec<u8>,
}

/// A type and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// As it was written.
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
}

impl Dn {
    /// Reads a name.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn parse(text: &str, schema: &Schema) -> Result<Dn, String> {
        if text.len() > LONGEST {
            return Err(format!("a name has at most {LONGEST} bytes"));
        }
        let mut reader = Reader { rest: text };
        let mut parts = Vec::new();
        reader.skip_blanks();
        if reader.rest.is_empty() {
            return Ok(Dn::default());
        }
        loop {
            let mut pairs = vec![reader.pair()?];
            while reader.take('+') {
                pairs.push(reader.pair()?);
            }
            parts.push(Rdn::new(pairs, schema)?);
            if reader.rest.is_empty() {
                return Ok(Dn { parts });
            }
            // RFC 4514, 2.4: semicolons stood here once, and some programs still write them.
            if !reader.take(',') && !reader.take(';') {
                return Err(format!("expected , or + before {:?}", reader.rest));
            }
        }
    }

    pub(crate) fn rdn(&self) -> Option<&Rdn> {
        self.parts.first()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many parts it has.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// What is the same for names that are equal.
    pub(crate) fn key(&self) -> Vec<u8> {
        self.key_above(0)
    }

    /// The same for the name without its first parts.
    pub(crate) fn key_above(&self, skipped: usize) -> Vec<u8> {
        let parts: Vec<&[u8]> = self.parts[skipped.min(self.parts.len())..]
            .iter()
            .map(|part| &part.key[..])
            .collect();
        parts.join(&b","[..])
    }

    /// The types and values of all its parts.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.parts.iter().flat_map(|part| &part.pairs)
    }
}

impl Rdn {
    fn new(pairs: Vec<Pair>, schema: &Schema) -> Result<Self, String> {
        let mut keys = Vec::new();
        for pair in &pairs {
            let kind = schema.known(&pair.name);
            let rule = kind.map_or(Some(Rule::CaseIgnore), |kind| kind.equality);
            // A name within a name is compared as a string: nesting would have no end.
            let normal = match rule {
                Some(Rule::Name | Rule::UniqueMember) => {
                    Rule::CaseIgnore.normal(&pair.value, schema)
                }
                Some(rule) => rule.normal(&pair.value, schema),
                None => Some(pair.value.clone()),
            };
            let normal = normal.ok_or_else(|| format!("this is no value of {}", pair.name))?;
            let name = kind.map_or_else(|| pair.name.to_ascii_lowercase(), |kind| kind.oid.clone());
            let mut key = [name.as_bytes(), b"="].concat();
            for byte in normal {
                if b",+=\\".contains(&byte) {
                    key.push(b'\\');
                }
                key.push(byte);
            }
            keys.push(key);
        }
        keys.sort();
        if keys.windows(2).any(|two| two[0] == two[1]) {
            return Err("the same type and value stand twice in one part".to_owned());
        }
        Ok(Rdn {
            pairs,
            key: keys.join(&b"+"[..]),
        })
    }
}

/// A value as it may stand in a name (RFC 4514, 2.4).
pub(crate) fn escape(value: &str) -> String {
    let mut out = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        let at_end = (at == 0 && " #".contains(letter)) || (at == last && letter == ' ');
        if letter == '\0' {
            out.push_str("\\00");
            continue;
        }
        if at_end || "\"+,;<>\\=".contains(letter) {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn pair(&mut self) -> Result<Pair, String> {
        self.skip_blanks();
        let end = self
            .rest
            .find(['=', ',', '+', ';', '"', '\\'])
            .unwrap_or(self.rest.len());
        let name = self.rest[..end].trim_end_matches(' ');
        if !self.rest[end..].starts_with('=') || !is_type(name) {
            return Err(format!("expected TYPE=VALUE, found {:?}", self.rest));
        }
        let name = match name.get(..4) {
            Some(start) if start.eq_ignore_ascii_case("oid.") => name[4..].to_owned(),
            _ => name.to_owned(),
        };
        self.rest = &self.rest[end + 1..];
        self.skip_blanks();
        let value = match self.rest.chars().next() {
            Some('#') => self.hex_value()?,
            Some('"') => self.quoted_value()?,
            _ => self.value()?,
        };
        Ok(Pair { name, value })
    }

    /// `#` and the bytes of a BER value in hexadecimal (RFC 4514, 2.4): what stands in it.
    fn hex_value(&mut self) -> Result<Vec<u8>, String> {
        let text = &self.rest[1..];
        let end = text
            .find(|letter: char| !letter.is_ascii_hexdigit())
            .unwrap_or(text.len());
        let wrong = || "expected # and a value in BER, its bytes in hexadecimal".to_owned();
        let bytes: Option<Vec<u8>> = text.as_bytes()[..end].chunks(2).map(hex).collect();
        let bytes = bytes.ok_or_else(wrong)?;
        self.rest = text[end..].trim_start_matches(' ');
        match bytes.as_slice() {
            [_, length, value @ ..] if *length < 0x80 && usize::from(*length) == value.len() => {
                Ok(value.to_vec())
            }
            [_, 0x81, length, value @ ..] if usize::from(*length) == value.len() => {
                Ok(value.to_vec())
            }
            _ => Err(wrong()),
        }
    }

    /// `"a, b"` of RFC 2253's elders.
    fn quoted_value(&mut self) -> Result<Vec<u8>, String> {
        self.rest = &self.rest[1..];
        let mut value = Vec::new();
        loop {
            let Some(letter) = self.rest.chars().next() else {
                return Err("a quotation mark is missing".to_owned());
            };
            self.rest = &self.rest[letter.len_utf8()..];
            match letter {
                '"' => break,
                '\\' => value.extend(self.escaped()?),
                _ => value.extend(letter.to_string().as_bytes()),
            }
        }
        self.skip_blanks();
        Ok(value)
    }

    fn value(&mut self) -> Result<Vec<u8>, String> {
        let mut value = Vec::new();
        // Blanks at the end do not count, unless they are escaped.
        let mut kept = 0;
        while let Some(letter) = self.rest.chars().next() {
            match letter {
                ',' | '+' | ';' => break,
                '"' | '<' | '>' | '\0' => {
                    return Err(format!("{letter:?} must be escaped in a name"));
                }
                _ => {}
            }
            self.rest = &self.rest[letter.len_utf8()..];
            if letter == '\\' {
                value.extend(self.escaped()?);
                kept = value.len();
            } else {
                value.extend(letter.to_string().as_bytes());
                if letter != ' ' {
                    kept = value.len();
                }
            }
        }
        value.truncate(kept);
        Ok(value)
    }

    fn escaped(&mut self) -> Result<Vec<u8>, String> {
        if let Some(byte) = self.rest.as_bytes().get(..2).and_then(hex) {
            self.rest = &self.rest[2..];
            return Ok(vec![byte]);
        }
        match self.rest.chars().next() {
            Some(letter) if " \"#+,;<=>\\".contains(letter) => {
                self.rest = &self.rest[1..];
                Ok(letter.to_string().into_bytes())
            }
            _ => Err("expected a special character or two hexadecimal digits behind \\".to_owned()),
        }
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// A name of letters, digits and hyphens, or numbers with dots (RFC 4512, 1.4).
pub(crate) fn is_type(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::{Dn, escape};
    use crate::ldap::schema::Schema;

    fn parse(text: &str) -> Result<Dn, String> {
        Dn::parse(text, &Schema::base())
    }

    #[test]
    fn the_examples_of_rfc_4514_are_read() {
        for (text, parts, value) in [
            ("UID=jsmith,DC=example,DC=net", 3, "jsmith"),
            ("OU=Sales+CN=J.  Smith,DC=example,DC=net", 3, "Sales"),
            (
                r#"CN=James \"Jim\" Smith\, III,DC=example,DC=net"#,
                3,
                "James \"Jim\" Smith, III",
            ),
            (r"CN=Before\0dAfter,DC=example,DC=net", 3, "Before\rAfter"),
            ("1.3.6.1.4.1.1466.0=#04024869", 1, "Hi"),
            (r"CN=Lu\C4\8Di\C4\87", 1, "Lučić"),
            ("CN=\"a, b\" , DC=x", 2, "a, b"),
            ("cn=a\\ ; dc=x", 2, "a "),
            ("cn=", 1, ""),
        ] {
            let dn = parse(text).expect(text);
            assert_eq!(dn.len(), parts, "{text}");
            assert_eq!(dn.rdn().unwrap().pairs[0].value, value.as_bytes(), "{text}");
        }
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "a",
            "=a",
            "cn=a,",
            "cn=a,b",
            "cn=a\\",
            "cn=a\\zz",
            "cn=\"a",
            "cn=a+cn=A",
            "cn=#0",
            "cn=#04",
            "cn=#0405",
            "cn=a<b",
            "c n=a",
            "uidNumber=x",
            "cn=\\ff",
            "\\=a",
            "cn=a\\é",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&format!("cn={}", "a".repeat(9000))).is_err());
    }

    #[test]
    fn an_escaped_value_is_read_as_it_was() {
        for value in [
            "a", " a ", "#a", "a,b+c=d", "\\\"<>;", "=", "a\0b", "é ", " ",
        ] {
            let dn = parse(&format!("cn={}", escape(value))).expect(value);
            assert_eq!(
                dn.rdn().unwrap().pairs[0].value,
                value.as_bytes(),
                "{value}"
            );
        }
    }
}
