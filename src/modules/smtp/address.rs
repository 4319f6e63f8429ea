#![forbid(unsafe_code)]
//! Paths and parameters of MAIL and RCPT (RFC 5321, 4.1.2; RFC 6531, 3.3).

/// The longest path with its brackets (RFC 5321, 4.5.3.1.3).
const LONGEST: usize = 256;

/// A path and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Argument {
    /// Between the brackets, a source route left out; empty for the null path.
    pub(super) path: Path,
    /// `KEY` or `KEY=VALUE`, the key in capitals.
    pub(super) parameters: Vec<(String, Option<String>)>,
}

/// What stands between the brackets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// As the client wrote it.
    pub(super) text: String,
    /// Without its quotes.
    pub(super) local: String,
    /// In lower case; empty for `<>` and `<Postmaster>`.
    pub(super) domain: String,
}

/// Reads what follows `MAIL` or `RCPT`: `FROM:<path> parameters`. Blanks after the colon are forgiven.
pub(super) fn argument(rest: &[u8], keyword: &str) -> Option<Argument> {
    let rest = std::str::from_utf8(rest).ok()?;
    let (word, rest) = rest.split_at_checked(keyword.len())?;
    if !word.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_start_matches(' ').strip_prefix('<')?;
    let end = closing(rest)?;
    let path = path(&rest[..end])?;
    let rest = &rest[end + 1..];
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let parameters = rest.split(' ').filter(|word| !word.is_empty());
    let parameters = parameters.map(parameter).collect::<Option<_>>()?;
    Some(Argument { path, parameters })
}

/// Where the bracket closes; a quoted local part may contain one.
fn closing(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn path(text: &str) -> Option<Path> {
    if text.len() + 2 > LONGEST {
        return None;
    }
    if text.is_empty() {
        return Some(Path::default());
    }
    // A source route is ignored (RFC 5321, 4.1.1.3 and appendix C).
    let text = match text.strip_prefix('@') {
        Some(route) => route.split_once(':')?.1,
        None => text,
    };
    let (local, domain) = split(text)?;
    let unquoted = local_part(local)?;
    let domain = match domain {
        Some(domain) if is_domain(domain) => domain.to_lowercase(),
        // RFC 5321, 4.1.1.3: the one mailbox that needs no domain.
        None if unquoted.eq_ignore_ascii_case("postmaster") => String::new(),
        _ => return None,
    };
    Some(Path {
        text: text.to_owned(),
        local: unquoted,
        domain,
    })
}

/// Splits at the `@` that is not quoted.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if !text.starts_with('"') {
        return Some(match text.split_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (text, None),
        });
    }
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, letter)| {
        let ends = *letter == '"' && !escaped;
        escaped = *letter == '\\' && !escaped;
        ends
    });
    let (local, rest) = text.split_at(end?.0 + 1);
    match rest.strip_prefix('@') {
        Some(domain) => Some((local, Some(domain))),
        None => rest.is_empty().then_some((local, None)),
    }
}

/// The local part without its quotes, if it is one: a dot-string or a quoted string.
fn local_part(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > 64 {
        return None;
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let quoted = quoted.strip_suffix('"')?;
        let mut plain = String::new();
        let mut letters = quoted.chars();
        while let Some(letter) = letters.next() {
            let letter = if letter == '\\' {
                letters.next()?
            } else {
                letter
            };
            if letter.is_control() {
                return None;
            }
            plain.push(letter);
        }
        return (!plain.is_empty()).then_some(plain);
    }
    let atom = |part: &str| {
        let plain = |letter: char| {
            !letter.is_ascii() && !letter.is_control()
                || letter.is_ascii_alphanumeric()
                || "!#$%&'*+-/=?^_`{|}~".contains(letter)
        };
        !part.is_empty() && part.chars().all(plain)
    };
    text.split('.').all(atom).then(|| text.to_owned())
}

/// A domain name, in ASCII or not, or an address in brackets.
pub(super) fn is_domain(text: &str) -> bool {
    if let Some(literal) = text.strip_prefix('[') {
        let inner = |letter: char| letter.is_ascii_alphanumeric() || ".:-".contains(letter);
        return literal
            .strip_suffix(']')
            .is_some_and(|literal| !literal.is_empty() && literal.chars().all(inner));
    }
    let label = |label: &str| {
        let plain = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(plain)
    };
    text.len() <= 255 && text.split('.').all(label)
}

fn parameter(word: &str) -> Option<(String, Option<String>)> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_key = !key.is_empty() && key.bytes().all(plain);
    // RFC 5321, 4.1.2: no control, space or "=".
    let is_value = value.is_none_or(|value| {
        !value.is_empty()
            && !value
                .chars()
                .any(|letter| letter.is_control() || letter == '=')
            || key.eq_ignore_ascii_case("AUTH")
    });
    (is_key && is_value).then(|| (key.to_ascii_uppercase(), value.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::argument;

    #[test]
    fn paths_are_read_as_the_rfc_writes_them() {
        for (text, local, domain) in [
            ("FROM:<Smith@Foo.example>", "Smith", "foo.example"),
            ("from: <a@b.example>", "a", "b.example"),
            ("FROM:<>", "", ""),
            (
                "FROM:<@a.example,@b.example:user@d.example>",
                "user",
                "d.example",
            ),
            ("FROM:<\"a b@c\\\"d>\"@x.example>", "a b@c\"d>", "x.example"),
            ("FROM:<\"ann\"@x.example>", "ann", "x.example"),
            ("FROM:<Postmaster>", "Postmaster", ""),
            ("FROM:<jürg@exämple.org>", "jürg", "exämple.org"),
            ("FROM:<a@[192.0.2.1]>", "a", "[192.0.2.1]"),
            ("FROM:<a@[IPv6:2001:db8::1]>", "a", "[ipv6:2001:db8::1]"),
        ] {
            let argument = argument(text.as_bytes(), "FROM:").unwrap_or_else(|| panic!("{text}"));
            assert_eq!(
                (&*argument.path.local, &*argument.path.domain),
                (local, domain)
            );
            assert_eq!(argument.parameters, []);
        }
    }

    #[test]
    fn parameters_follow_the_path() {
        let found = argument(b"FROM:<a@b> size=10  Body=8BITMIME SMTPUTF8", "FROM:").unwrap();
        let wanted = [
            ("SIZE", Some("10")),
            ("BODY", Some("8BITMIME")),
            ("SMTPUTF8", None),
        ];
        let wanted = wanted.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(found.parameters, wanted);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("FROM:<{}@b>", "a".repeat(65));
        let longer = format!("FROM:<a@{}>", vec!["b"; 200].join("."));
        for text in [
            "FROM:a@b",
            "FROM:<a@b",
            "FROM:<a@b>x",
            "FROM:<a>",
            "FROM:<@b>",
            "FROM:<a@>",
            "FROM:< a@b>",
            "FROM:<a@b@c>",
            "FROM:<a..b@c>",
            "FROM:<.a@c>",
            "FROM:<a b@c>",
            "FROM:<\"a\"b@c>",
            "FROM:<\"a@c>",
            "FROM:<\"\"@c>",
            "FROM:<a@b..c>",
            "FROM:<a@[1>",
            "FROM:<a@b> SIZE=",
            "FROM:<a@b> =1",
            "FROM:<a@b> X=1=2",
            "FROM <a@b>",
            "",
            "FROM:",
            &long,
            &longer,
        ] {
            assert_eq!(argument(text.as_bytes(), "FROM:"), None, "{text}");
        }
        assert_eq!(argument(b"FROM:<\xff@b>", "FROM:"), None);
        assert_eq!(argument(b"TO:<a@b>", "FROM:"), None);
    }
}
