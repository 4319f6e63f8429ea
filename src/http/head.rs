#![forbid(unsafe_code)]
//! The head of a request (RFC 9112, 2 to 6): found, then parsed, strictly.
//!
//! Anything that two readers could understand differently is refused with one 400 and a close: bare CR or
//! LF, folded lines, space before a colon, Content-Length beside Transfer-Encoding or several times.

use std::mem::MaybeUninit;

use super::framing::Framing;

/// The longest request line; RFC 9112, 3 asks for at least 8000.
pub(crate) const MAX_LINE: usize = 8 * 1024;
/// The longest head, request line included. Browsers send some 2 KiB, with large cookies 8.
pub(crate) const MAX_HEAD: usize = 32 * 1024;
/// The most field lines of a head.
pub(crate) const MAX_FIELDS: usize = 100;
/// Empty lines ahead of a request that are let pass (RFC 9112, 2.2 asks for at least one).
const MAX_EMPTY_LINES: usize = 4;

/// Room for field lines; lives on the stack of whoever parses.
pub(crate) type Room<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS];

/// Room for field lines.
pub(crate) fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Why a request is not understood: the answer's status, and words for its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) status: u16,
    pub(crate) why: &'static str,
}

impl Bad {
    pub(crate) const fn request(why: &'static str) -> Bad {
        Bad { status: 400, why }
    }

    pub(crate) const fn of(status: u16, why: &'static str) -> Bad {
        Bad { status, why }
    }
}

/// Looks for the end of a head in bytes that arrive little by little; remembers how far it has looked.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    at: usize,
    line: usize,
    lines: usize,
    empty: usize,
}

impl Scan {
    /// True when nothing of a head was seen yet.
    pub(crate) fn is_new(&self) -> bool {
        self.at == 0
    }

    /// Counts an empty line ahead of a head.
    pub(crate) fn empty_line(&mut self) -> Result<(), Bad> {
        self.empty += 1;
        if self.empty > MAX_EMPTY_LINES {
            return Err(Bad::request("too many empty lines"));
        }
        Ok(())
    }

    /// How many of the bytes are the head, its empty line included; `None` until it is whole.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Bad> {
        while let Some(step) = memchr::memchr2(b'\r', b'\n', &bytes[self.at..]) {
            let at = self.at + step;
            self.within(at)?;
            match (bytes[at], bytes.get(at + 1)) {
                (b'\r', None) => {
                    // Where an empty line ahead may begin, nothing was seen yet.
                    self.at = at;
                    return Ok(None);
                }
                (b'\r', Some(b'\n')) => {}
                (b'\r', Some(_)) => {
                    return Err(Bad::request("a carriage return without a line feed"));
                }
                _ => return Err(Bad::request("a line feed without a carriage return")),
            }
            let empty = at == self.line;
            self.at = at + 2;
            self.line = self.at;
            self.lines += 1;
            if empty && self.lines > 1 {
                *self = Scan::default();
                return Ok(Some(at + 2));
            }
        }
        self.at = bytes.len();
        self.within(self.at)?;
        Ok(None)
    }

    fn within(&self, at: usize) -> Result<(), Bad> {
        if self.lines == 0 && at > MAX_LINE {
            return Err(Bad::of(414, "the request line is too long"));
        }
        if at > MAX_HEAD {
            return Err(Bad::of(431, "the header fields are too large"));
        }
        Ok(())
    }
}

/// A request's head. Borrows from the bytes that arrived.
#[derive(Debug)]
pub(crate) struct Request<'h, 'b> {
    pub(crate) method: &'b str,
    /// As it stood in the request line.
    pub(crate) target: &'b str,
    /// The absolute path, still encoded, without the query; `*` for the server as a whole.
    pub(crate) path: &'b str,
    /// What stood behind the `?`, still encoded.
    pub(crate) query: Option<&'b str>,
    /// The minor version: 0 or 1.
    pub(crate) minor: u8,
    /// The host asked for, with its port.
    pub(crate) host: Option<&'b str>,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    /// The client waits for 100 before it sends its body (RFC 9110, 10.1.1).
    pub(crate) expects_continue: bool,
    fields: &'h [httparse::Header<'b>],
}

impl<'h, 'b> Request<'h, 'b> {
    /// Parses a whole head, as [`Scan::find`] delimits it.
    pub(crate) fn parse(head: &'b [u8], room: &'h mut Room<'b>) -> Result<Self, Bad> {
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(head, room) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(Bad::request("the head is not one")),
            Err(error) => return Err(why(error, head)),
        }
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Bad::request("the request line is not one"));
        };
        let fields: &'h [httparse::Header<'b>] = parsed.headers;
        let (authority, path, query) = split_target(method, target)?;
        let mut request = Request {
            method,
            target,
            path,
            query,
            minor,
            host: None,
            framing: Framing::None,
            keep_alive: minor >= 1,
            expects_continue: false,
            fields,
        };
        request.host = request.host_of(authority)?;
        request.framing = Framing::of(&request)?;
        request.keep_alive = request.keeps_alive();
        request.expects_continue = request.expectation()?;
        Ok(request)
    }

    /// The values of all fields of a name, in order; names are compared without case.
    pub(crate) fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + use<'s, 'b> {
        let fields = self.fields.iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    /// All fields, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'h, 'b> {
        self.fields.iter().map(|field| (field.name, field.value))
    }

    /// The value of the first field of a name, where it is text.
    pub(crate) fn get(&self, name: &str) -> Option<&'b str> {
        std::str::from_utf8(self.all(name).next()?).ok()
    }

    /// The members of a field that is a comma-separated list, over all its lines (RFC 9110, 5.6.1).
    pub(crate) fn list<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b str> + use<'s, 'b> {
        self.all(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(|member| member.trim_matches([' ', '\t']))
            .filter(|member| !member.is_empty())
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// RFC 9112, 3.2: exactly one Host in HTTP/1.1, and a valid one; an absolute target takes its place.
    fn host_of(&self, authority: Option<&'b str>) -> Result<Option<&'b str>, Bad> {
        let mut hosts = self.all("host");
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Bad::request("more than one Host"));
        }
        if host.is_none() && self.minor >= 1 {
            return Err(Bad::request("no Host"));
        }
        let host = match host {
            Some(value) => Some(
                std::str::from_utf8(value)
                    .ok()
                    .filter(|value| is_host(value))
                    .ok_or(Bad::request("Host is not a name"))?,
            ),
            None => None,
        };
        Ok(authority.or(host).filter(|host| !host.is_empty()))
    }

    fn keeps_alive(&self) -> bool {
        let mut keep = self.minor >= 1;
        for option in self.list("connection") {
            if option.eq_ignore_ascii_case("close") {
                return false;
            }
            keep |= option.eq_ignore_ascii_case("keep-alive");
        }
        keep
    }

    fn expectation(&self) -> Result<bool, Bad> {
        let mut expects = false;
        for value in self.list("expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(Bad::of(417, "the expectation is not known"));
            }
            expects = true;
        }
        // RFC 9110, 10.1.1: not from HTTP/1.0, and pointless without a body.
        Ok(expects && self.minor >= 1 && self.framing != Framing::None)
    }
}

/// Authority, path and query of a target (RFC 9112, 3.2).
type Split<'b> = (Option<&'b str>, &'b str, Option<&'b str>);

fn split_target<'b>(method: &str, target: &'b str) -> Result<Split<'b>, Bad> {
    if !target.bytes().all(|byte| (0x21..0x7f).contains(&byte)) || target.contains('#') {
        return Err(Bad::request(
            "the target has characters that must be encoded",
        ));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok((None, "*", None));
    }
    if method == "CONNECT" {
        return Err(Bad::of(501, "this is no proxy for CONNECT"));
    }
    let (authority, rest) = match target.split_once("://") {
        Some((scheme, rest)) if !target.starts_with('/') => {
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return Err(Bad::request("the target's scheme is not HTTP"));
            }
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if authority.is_empty() || !is_host(authority) {
                return Err(Bad::request("the target's host is not a name"));
            }
            (Some(authority), rest)
        }
        _ if target.starts_with('/') => (None, target),
        _ => return Err(Bad::request("the target is not a path")),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    Ok((authority, if path.is_empty() { "/" } else { path }, query))
}

/// True for a host and an optional port (RFC 3986, 3.2.2 and 3.2.3), and for nothing at all.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, after)) => {
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                match after.strip_prefix(':') {
                    Some(port) => ("", port),
                    None if after.is_empty() => ("", ""),
                    None => return false,
                }
            }
            None => return false,
        },
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    host.bytes().all(named) && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn why(error: httparse::Error, head: &[u8]) -> Bad {
    match error {
        httparse::Error::TooManyHeaders => Bad::of(431, "too many header fields"),
        httparse::Error::Version if names_http(head) => Bad::of(505, "the version is not HTTP/1.1"),
        httparse::Error::HeaderName => Bad::request("a field's name is not a token"),
        httparse::Error::HeaderValue => Bad::request("a field's value has control characters"),
        _ => Bad::request("the request line is not one"),
    }
}

/// True when the request line has three words and the last is a version of HTTP (RFC 9112, 2.3).
fn names_http(head: &[u8]) -> bool {
    let end = memchr::memchr(b'\r', head).unwrap_or(head.len());
    let mut words = head[..end].split(|byte| *byte == b' ');
    let version = words.nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    let numbers = matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit());
    numbers && words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{Bad, MAX_HEAD, MAX_LINE, Request, Scan, room};

    fn parse(head: &str) -> Result<(String, Option<String>), Bad> {
        let mut room = room();
        let request = Request::parse(head.as_bytes(), &mut room)?;
        Ok((request.path.to_owned(), request.host.map(str::to_owned)))
    }

    #[test]
    fn a_head_is_found_wherever_it_is_cut() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        for cut in 0..bytes.len() {
            let mut scan = Scan::default();
            let first = scan.find(&bytes[..cut]).unwrap();
            assert_eq!(first, (cut >= 27).then_some(27));
            if first.is_none() {
                assert_eq!(scan.find(bytes).unwrap(), Some(27));
            }
        }
    }

    #[test]
    fn a_line_or_a_head_without_end_is_refused_at_its_limit() {
        let status = |bytes: &[u8]| Scan::default().find(bytes).map_err(|bad| bad.status);
        assert_eq!(status(&vec![b'a'; MAX_LINE]), Ok(None));
        assert_eq!(status(&vec![b'a'; MAX_LINE + 1]), Err(414));
        let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
        head.resize(MAX_HEAD, b'a');
        assert_eq!(status(&head), Ok(None));
        head.extend(b"aa");
        assert_eq!(status(&head), Err(431));
    }

    #[test]
    fn targets_of_all_forms_lead_to_a_path_and_a_host() {
        let get = |target: &str| parse(&format!("GET {target} HTTP/1.1\r\nHost: a:80\r\n\r\n"));
        assert_eq!(get("/x?y"), Ok(("/x".into(), Some("a:80".into()))));
        assert_eq!(get("http://b:8"), Ok(("/".into(), Some("b:8".into()))));
        assert_eq!(get("HTTP://b/x?/"), Ok(("/x".into(), Some("b".into()))));
        for bad in [
            "x",
            "*",
            "ftp://a/",
            "http:///x",
            "/x#y",
            "http://a b/",
            "http://a@b/",
            "/\u{e4}",
        ] {
            assert!(get(bad).is_err(), "{bad}");
        }
    }
}
