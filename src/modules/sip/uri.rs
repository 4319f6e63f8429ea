#![forbid(unsafe_code)]
//! SIP URIs (RFC 3261, 19.1) and the addresses and parameters around them (RFC 3261, 20 and 25.1).

use std::net::{IpAddr, SocketAddr};

use percent_encoding::percent_decode_str;

/// A `sip:` or `sips:` URI, taken apart. Borrows from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uri<'a> {
    pub(super) secure: bool,
    /// As written, password included.
    pub(super) user: Option<&'a str>,
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
    /// Parameters with their semicolons; may be empty.
    pub(super) params: &'a str,
    pub(super) headers: Option<&'a str>,
}

/// Why a URI is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadUri {
    Syntax,
    /// Of another scheme than `sip` and `sips`.
    Scheme,
}

/// The port where none is written (RFC 3261, 19.1.2).
pub(super) const PORT: u16 = 5060;
const TLS_PORT: u16 = 5061;

impl<'a> Uri<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, BadUri> {
        let (scheme, rest) = text.split_once(':').ok_or(BadUri::Syntax)?;
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let begins = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
        if !begins || !scheme.bytes().all(named) || !rest.bytes().all(is_of_uri) {
            return Err(BadUri::Syntax);
        }
        let secure = scheme.eq_ignore_ascii_case("sips");
        if !secure && !scheme.eq_ignore_ascii_case("sip") {
            return Err(BadUri::Scheme);
        }
        Uri::after_scheme(secure, rest).ok_or(BadUri::Syntax)
    }

    fn after_scheme(secure: bool, rest: &'a str) -> Option<Self> {
        let (user, rest) = match rest.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        if user.is_some_and(str::is_empty) || rest.contains('@') {
            return None;
        }
        let (place, headers) = match rest.split_once('?') {
            Some((place, headers)) => (place, Some(headers)),
            None => (rest, None),
        };
        let (place, params) = place.split_at(place.find(';').unwrap_or(place.len()));
        let (host, port) = host_port(place)?;
        let whole = params.is_empty() || params[1..].split(';').all(|param| !param.is_empty());
        whole.then_some(Uri {
            secure,
            user,
            host,
            port,
            params,
            headers,
        })
    }

    /// The user part without its password and its escapes; `None` where it can be no account's name.
    pub(super) fn name(&self) -> Option<String> {
        let user = self.user?;
        let user = user.split_once(':').map_or(user, |(user, _)| user);
        let name = percent_decode_str(user).decode_utf8().ok()?;
        (!name.contains('@')).then(|| name.into_owned())
    }

    /// A parameter's value, empty where it has none.
    pub(super) fn param(&self, name: &str) -> Option<&'a str> {
        let params = self.params.split(';').filter(|param| !param.is_empty());
        params
            .map(|param| param.split_once('=').unwrap_or((param, "")))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        ip(self.host)
    }

    pub(super) fn port_or_usual(&self) -> u16 {
        self.port.unwrap_or(match self.secure {
            true => TLS_PORT,
            false => PORT,
        })
    }

    /// Where it leads without asking the DNS; `None` for a name.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.ip()?, self.port_or_usual()))
    }

    /// The same for URIs that are equivalent (RFC 3261, 19.1.4), parameters in any order.
    pub(super) fn key(&self) -> String {
        let mut params: Vec<String> = self
            .params
            .split(';')
            .filter(|param| !param.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        params.sort();
        let scheme = if self.secure { "sips" } else { "sip" };
        let user = percent_decode_str(self.user.unwrap_or_default()).decode_utf8_lossy();
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        let host = self.host.to_ascii_lowercase();
        format!("{scheme}:{user}@{host}:{port};{}", params.join(";"))
    }
}

/// Characters that may stand in a URI at all.
fn is_of_uri(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&byte)
}

/// A host, with its brackets, and an optional port.
pub(super) fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_host = match host.starts_with('[') {
        true => ip(host).is_some(),
        false => !host.is_empty() && host.bytes().all(named),
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
        None if rest.is_empty() => None,
        None => return None,
    };
    is_host.then_some((host, port))
}

/// The address that a host is, without brackets or IPv4 in disguise.
pub(super) fn ip(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address: IpAddr = match bare {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(address.to_canonical())
}

/// A `name-addr` or `addr-spec` with its header parameters, as From, To, Contact and Route have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameAddr<'a> {
    /// The URI's text; of any scheme.
    pub(super) uri: &'a str,
    params: &'a str,
}

impl<'a> NameAddr<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let text = trim(text);
        let (uri, params) = match after_display_name(text)? {
            Some(rest) => {
                let (uri, params) = rest.split_once('>')?;
                (uri, trim(params))
            }
            None => {
                // Without brackets a semicolon begins the header's parameters, and there is neither a comma
                // nor a question mark (RFC 3261, 20.10).
                let (uri, params) = text.split_at(text.find(';').unwrap_or(text.len()));
                let uri = trim(uri);
                if uri.contains(['?', ',']) {
                    return None;
                }
                (uri, params)
            }
        };
        let plain = !uri.is_empty() && uri.contains(':') && uri.bytes().all(is_of_uri);
        let whole = split_params(params)?
            .into_iter()
            .all(|(name, _)| is_token(name));
        (plain && whole).then_some(NameAddr { uri, params })
    }

    /// A parameter's value as written, empty where it has none.
    pub(super) fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }
}

/// What follows the `<` behind a display name; `Some(None)` where there is no `<`.
fn after_display_name(text: &str) -> Option<Option<&str>> {
    if let Some(quoted) = text.strip_prefix('"') {
        let rest = &quoted[quoted_end(quoted)?..];
        return trim(rest).strip_prefix('<').map(Some);
    }
    let Some((name, rest)) = text.split_once('<') else {
        return Some(None);
    };
    // A parameter's value may be quoted and have a `<`; then the URI stood bare.
    if name.contains([':', ';']) {
        return Some(None);
    }
    let words = name.split([' ', '\t']).filter(|word| !word.is_empty());
    words.clone().all(is_token).then_some(Some(rest))
}

/// Where a quoted string ends, behind its closing quote.
fn quoted_end(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next()?;
            }
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Parameters with their semicolons, as names and values; `None` where one is empty or a string does not end.
pub(super) fn split_params(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut params = Vec::new();
    let text = trim(text);
    if text.is_empty() {
        return Some(params);
    }
    for piece in split(text.strip_prefix(';')?, b';')? {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        params.push((trim(name), trim(value)));
    }
    let whole = params.iter().all(|(name, _)| !name.is_empty());
    whole.then_some(params)
}

/// One parameter's value.
pub(super) fn param<'a>(params: &'a str, name: &str) -> Option<&'a str> {
    let mut params = split_params(params)?.into_iter();
    let found = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// The members of a list: pieces between separators that stand neither in a string nor in `<>`; `None` where
/// one of those does not end.
pub(super) fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut pieces, mut start, mut at, mut bracket) = (Vec::new(), 0, 0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' if !bracket => at += quoted_end(&text[at + 1..])?,
            b'<' => bracket = true,
            b'>' => bracket = false,
            byte if byte == separator && !bracket => {
                pieces.push(trim(&text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    pieces.push(trim(&text[start..]));
    (!bracket).then_some(pieces)
}

/// A quoted string's meaning, or the text itself where it is not quoted.
pub(super) fn unquote(text: &str) -> String {
    let Some(inner) = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    else {
        return text.to_owned();
    };
    let mut meaning = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        let letter = if letter == '\\' {
            letters.next()
        } else {
            Some(letter)
        };
        meaning.extend(letter);
    }
    meaning
}

pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// RFC 3261, 25.1.
pub(super) fn is_token(text: &str) -> bool {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    !text.is_empty() && text.bytes().all(named)
}

#[cfg(test)]
mod tests {
    use super::{BadUri, NameAddr, Uri, split, unquote};

    #[test]
    fn uris_of_all_forms_are_taken_apart() {
        let uri =
            Uri::parse("sips:al%69ce:pw@[2001:db8::1]:5070;transport=TCP;lr?subject=x").unwrap();
        assert!(uri.secure);
        assert_eq!(uri.name().as_deref(), Some("alice"));
        assert_eq!(uri.address(), Some("[2001:db8::1]:5070".parse().unwrap()));
        assert_eq!(
            (uri.param("transport"), uri.param("LR")),
            (Some("TCP"), Some(""))
        );
        assert_eq!(uri.headers, Some("subject=x"));
        let odd = "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com";
        assert_eq!(Uri::parse(odd).unwrap().host, "example.com");
        assert_eq!(Uri::parse("sip:a%40evil.example@b").unwrap().name(), None);
        assert_eq!(Uri::parse("tel:+358"), Err(BadUri::Scheme));
        for bad in [
            "",
            "sip",
            "sip:",
            "sip:@b",
            "sip:a@",
            "sip:a@b@c",
            "sip:a b@c",
            "sip:a@b:0",
            "sip:a@b:65536",
            "sip:a@b:",
            "sip:a@[::1",
            "sip:a@[x]",
            "sip:a@b;",
            "sip:a@b;;x",
            "<sip:a@b>",
            "1x:a",
            "sip:a@b c",
            "sip:\u{e4}@b",
        ] {
            assert_eq!(Uri::parse(bad), Err(BadUri::Syntax), "{bad:?}");
        }
    }

    #[test]
    fn equivalent_uris_have_one_key() {
        let key = |text| Uri::parse(text).unwrap().key();
        assert_eq!(
            key("sip:%61lice@Example.org;a=1;B=2"),
            key("SIP:alice@example.ORG;b=2;A=1")
        );
        assert_ne!(key("sip:alice@example.org"), key("sip:ALICE@example.org"));
        assert_ne!(
            key("sip:alice@example.org"),
            key("sip:alice@example.org:5060")
        );
    }

    #[test]
    fn addresses_stand_with_and_without_names_and_brackets() {
        let parse = |text| NameAddr::parse(text).map(|address| (address.uri, address.param("tag")));
        assert_eq!(
            parse("caller<sip:a@b>;tag=323"),
            Some(("sip:a@b", Some("323")))
        );
        assert_eq!(parse("sip:a@b ; tag = 4 ;x"), Some(("sip:a@b", Some("4"))));
        assert_eq!(
            parse("\"a, \\\"<b>\" <sip:a@b;x=y>"),
            Some(("sip:a@b;x=y", None))
        );
        assert_eq!(parse("A. B. <sip:a@b?x=y>"), Some(("sip:a@b?x=y", None)));
        for bad in [
            "",
            "<>",
            "\"Mr. J <sip:a@b>",
            "Bell, A <sip:a@b>",
            "\"W\" < sip:a@b >",
            "sip:a@b?Route=x",
            "<sip:a@b",
            "<sip:a@b>;;",
            "<sip:a@b>; =x",
            "<sip:a@b> x",
            "\"a\" sip:a@b",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lists_are_split_outside_of_strings_and_brackets() {
        assert_eq!(
            split("a, \"b,\\\",\" <c,d> ,e", b','),
            Some(vec!["a", "\"b,\\\",\" <c,d>", "e"])
        );
        assert_eq!(split("a, \"b", b','), None);
        assert_eq!(split("a, <b", b','), None);
        assert_eq!(unquote("\"a\\\"b\\\\\""), "a\"b\\");
    }
}
