#![forbid(unsafe_code)]
//! SIP messages: from bytes to fields and back (RFC 3261, 7 and 25).
//!
//! Reading has two steps, so that a message that is wrong can be told so. [`Message::parse`] finds lines and
//! fields and is content with little; [`Request::of`] is strict. httparse is of no use here: it refuses what is
//! legal in SIP (folded lines, space ahead of a colon, control characters in quoted strings; RFC 4475, 3.1.1).

use std::borrow::Cow;

use super::uri::{BadUri, NameAddr, Uri, host_port, is_token, param, split, split_params, trim};

/// The longest message (RFC 3261, 18.1.1 asks for 65,535 bytes over UDP).
pub(super) const LONGEST: usize = 65_535;
/// The most fields of a message; a path of 70 hops has as many Via lines.
const MOST_FIELDS: usize = 256;
/// What a branch of RFC 3261 begins with (8.1.1.7).
pub(super) const MAGIC: &str = "z9hG4bK";

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) code: u16,
    pub(super) why: &'static str,
}

impl Bad {
    const fn of(code: u16, why: &'static str) -> Bad {
        Bad { code, why }
    }

    const fn request(why: &'static str) -> Bad {
        Bad::of(400, why)
    }
}

/// Lines and fields. Values are unfolded and without space around them.
#[derive(Debug, Clone)]
pub(super) struct Message<'b> {
    /// The request or status line.
    pub(super) start: Cow<'b, str>,
    pub(super) fields: Vec<Field<'b>>,
    pub(super) body: &'b [u8],
    /// What was wrong already at this step.
    bad: Option<Bad>,
}

#[derive(Debug, Clone)]
pub(super) struct Field<'b> {
    pub(super) name: Cow<'b, str>,
    pub(super) value: Cow<'b, str>,
}

/// Where the head of a message ends, its empty line included.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

impl<'b> Message<'b> {
    /// Finds the fields of a message that is all of `bytes`, or the beginning of a datagram. `None` without an
    /// end of its head: nothing can be said to that.
    pub(super) fn parse(bytes: &'b [u8]) -> Option<Self> {
        let end = head_end(bytes)?;
        let mut message = Message {
            start: Cow::Borrowed(""),
            fields: Vec::new(),
            body: &bytes[end..],
            bad: None,
        };
        let mut lines = Lines(&bytes[..end - 2]);
        message.start = String::from_utf8_lossy(lines.next()?);
        while let Some(line) = lines.next_folded() {
            let field = unfold(line).and_then(field);
            match field {
                Some(_) if message.fields.len() >= MOST_FIELDS => {
                    message.bad = Some(Bad::request("too many fields"));
                    break;
                }
                Some(field) => message.fields.push(field),
                None => message.bad = Some(Bad::request("a line is no field")),
            }
        }
        message.cut_body();
        Some(message)
    }

    /// RFC 3261, 18.3: what follows the body in a datagram is dropped; a body that is cut is an error.
    fn cut_body(&mut self) {
        match self.content_length() {
            Ok(Some(length)) if length > self.body.len() => {
                self.bad = Some(Bad::request("the body is shorter than its length"));
            }
            Ok(Some(length)) => self.body = &self.body[..length],
            Ok(None) => {}
            Err(bad) => self.bad = Some(bad),
        }
    }

    /// The length of the body, where it is told.
    pub(super) fn content_length(&self) -> Result<Option<usize>, Bad> {
        let mut lengths = self.all("content-length");
        let Some(length) = lengths.next() else {
            return Ok(None);
        };
        if lengths.next().is_some() {
            return Err(Bad::request("several Content-Lengths"));
        }
        number(length)
            .and_then(|length| usize::try_from(length).ok())
            .map(Some)
            .ok_or(Bad::request("a Content-Length that is none"))
    }

    /// The values of all fields of a name, which is in its long form.
    pub(super) fn all<'s, 'n>(
        &'s self,
        name: &'n str,
    ) -> impl Iterator<Item = &'s str> + use<'s, 'n, 'b> {
        let fields = self.fields.iter().filter(move |field| field.is(name));
        fields.map(|field| &*field.value)
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The members of all fields of a name; `None` where a string in them does not end.
    pub(super) fn list(&self, name: &str) -> Option<Vec<&str>> {
        let mut members = Vec::new();
        for value in self.all(name) {
            members.extend(split(value, b',')?);
        }
        Some(members)
    }

    pub(super) fn is_response(&self) -> bool {
        self.start
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("SIP/"))
    }

    /// The status code of a response that is in order.
    pub(super) fn status(&self) -> Option<u16> {
        let rest = self.start.strip_prefix("SIP/2.0 ")?;
        let (code, _) = rest.split_once(' ')?;
        let three = code.len() == 3 && self.bad.is_none();
        let in_order = three && self.cseq().is_ok();
        code.parse()
            .ok()
            .filter(|code| in_order && (100..700).contains(code))
    }

    /// The first word of a request line.
    pub(super) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// CSeq's number, below 2^31 (RFC 3261, 8.1.1.5), and its method.
    fn cseq(&self) -> Result<(u32, &str), Bad> {
        let bad = Bad::request("CSeq is no number and method");
        let value = self.only("cseq", "no CSeq", "several CSeqs")?;
        let (digits, method) = value.split_once([' ', '\t']).ok_or(bad)?;
        let value = number(digits).and_then(|value| u32::try_from(value).ok());
        match value {
            Some(value) if value < 1 << 31 && is_token(trim(method)) => Ok((value, trim(method))),
            _ => Err(bad),
        }
    }

    /// The value of a field that must be there once.
    fn only(&self, name: &str, none: &'static str, several: &'static str) -> Result<&str, Bad> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(Bad::request(none)),
            _ => Err(Bad::request(several)),
        }
    }

    /// Appends all that stays of a message: fields that `keep` names, and the body.
    pub(super) fn write_rest(&self, out: &mut Vec<u8>, keep: impl Fn(&Field<'_>) -> bool) {
        for field in self.fields.iter().filter(|field| keep(field)) {
            write_field(out, &field.name, &field.value);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body);
    }
}

/// Appends a field.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    for piece in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
}

impl Field<'_> {
    /// True for a field of that name, compact or not (RFC 3261, 7.3.3); `name` is in lower case.
    pub(super) fn is(&self, name: &str) -> bool {
        let long = match &*self.name {
            "v" | "V" => "via",
            "f" | "F" => "from",
            "t" | "T" => "to",
            "i" | "I" => "call-id",
            "m" | "M" => "contact",
            "l" | "L" => "content-length",
            "k" | "K" => "supported",
            other => other,
        };
        long.eq_ignore_ascii_case(name)
    }
}

/// Lines that end with CRLF.
struct Lines<'b>(&'b [u8]);

impl<'b> Lines<'b> {
    fn next(&mut self) -> Option<&'b [u8]> {
        let end = memchr::memmem::find(self.0, b"\r\n")?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 2..];
        Some(line)
    }

    /// A line with all that continue it.
    fn next_folded(&mut self) -> Option<&'b [u8]> {
        let whole = self.0;
        let mut length = self.next()?.len();
        while matches!(self.0.first(), Some(b' ' | b'\t')) {
            length += 2 + self.next()?.len();
        }
        Some(&whole[..length])
    }
}

/// One line of several; a fold is a space (RFC 3261, 7.3.1). `None` with a CR or LF of another kind.
fn unfold(line: &[u8]) -> Option<Cow<'_, str>> {
    if memchr::memchr2(b'\r', b'\n', line).is_none() {
        return Some(String::from_utf8_lossy(line));
    }
    let mut rest = Lines(line);
    let mut text = String::new();
    while let Some(piece) = rest.next() {
        text.push_str(&String::from_utf8_lossy(piece));
        text.push(' ');
    }
    text.push_str(&String::from_utf8_lossy(rest.0));
    (!text.contains(['\r', '\n'])).then_some(Cow::Owned(text))
}

fn field(line: Cow<'_, str>) -> Option<Field<'_>> {
    let (name, value) = match line {
        Cow::Borrowed(line) => {
            let (name, value) = line.split_once(':')?;
            (Cow::Borrowed(trim(name)), Cow::Borrowed(trim(value)))
        }
        Cow::Owned(line) => {
            let (name, value) = line.split_once(':')?;
            (trim(name).to_owned().into(), trim(value).to_owned().into())
        }
    };
    is_token(&name).then_some(Field { name, value })
}

/// A number of digits alone.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// One hop of a message's way (RFC 3261, 20.42).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Via<'a> {
    pub(super) transport: &'a str,
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
    params: &'a str,
}

impl<'a> Via<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut pieces = text.splitn(3, '/').map(trim);
        let (name, version, rest) = (pieces.next()?, pieces.next()?, pieces.next()?);
        if !name.eq_ignore_ascii_case("SIP") || version != "2.0" {
            return None;
        }
        let (transport, rest) = rest.split_once([' ', '\t'])?;
        let rest = trim(rest);
        let (place, params) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let place = trim(place);
        // Around the colon may be space, and IPv6 has colons of its own.
        let (host, port) = match (host_port(place), place.rsplit_once(':')) {
            (Some(found), _) => found,
            (None, Some((host, port))) => {
                let (host, none) = host_port(trim(host))?;
                let port = number(trim(port)).and_then(|port| u16::try_from(port).ok())?;
                (host, Some(port).filter(|_| none.is_none()))
            }
            (None, None) => return None,
        };
        split_params(params)?;
        is_token(transport).then_some(Via {
            transport,
            host,
            port,
            params,
        })
    }

    pub(super) fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }

    pub(super) fn branch(&self) -> Option<&'a str> {
        self.param("branch").filter(|branch| !branch.is_empty())
    }

    /// With where it came from (RFC 3261, 18.2.1; RFC 3581, 4). What it claims of that itself is dropped.
    pub(super) fn received(&self, from: std::net::SocketAddr) -> String {
        let mut text = format!("SIP/2.0/{} {}", self.transport, self.host);
        if let Some(port) = self.port {
            text.push_str(&format!(":{port}"));
        }
        let wants_port = self.param("rport").is_some();
        for (name, value) in split_params(self.params).unwrap_or_default() {
            if name.eq_ignore_ascii_case("received") || name.eq_ignore_ascii_case("rport") {
                continue;
            }
            let equals = if value.is_empty() { "" } else { "=" };
            text.push_str(&format!(";{name}{equals}{value}"));
        }
        if wants_port || super::uri::ip(self.host) != Some(from.ip()) {
            text.push_str(&format!(";received={}", from.ip()));
        }
        if wants_port {
            text.push_str(&format!(";rport={}", from.port()));
        }
        text
    }
}

/// A request that is in order (RFC 3261, 16.3 and 8.1.1).
#[derive(Debug)]
pub(super) struct Request<'m> {
    pub(super) method: &'m str,
    pub(super) uri_text: &'m str,
    pub(super) uri: Uri<'m>,
    pub(super) top: Via<'m>,
    pub(super) from_tag: &'m str,
    pub(super) to: NameAddr<'m>,
    pub(super) to_tag: &'m str,
    pub(super) call_id: &'m str,
    pub(super) cseq: u32,
    pub(super) max_forwards: Option<u8>,
}

impl<'m> Request<'m> {
    pub(super) fn of(message: &'m Message<'_>) -> Result<Self, Bad> {
        let (method, uri_text) = request_line(&message.start)?;
        if let Some(bad) = message.bad {
            return Err(bad);
        }
        let top = message.list("via").and_then(|vias| vias.first().copied());
        if message.first("via").is_none() {
            return Err(Bad::request("no Via"));
        }
        let top = top.and_then(Via::parse);
        let top = top.ok_or(Bad::request("Via is not in order"))?;
        let address = |name, none, several, bad| {
            NameAddr::parse(message.only(name, none, several)?).ok_or(Bad::request(bad))
        };
        let from = address("from", "no From", "several Froms", "From is not in order")?;
        let to = address("to", "no To", "several Tos", "To is not in order")?;
        let call_id = message.only("call-id", "no Call-ID", "several Call-IDs")?;
        let (cseq, of) = message.cseq()?;
        if of != method {
            return Err(Bad::request("CSeq is of another method"));
        }
        if call_id.is_empty() || call_id.contains([' ', '\t']) {
            return Err(Bad::request("Call-ID is not in order"));
        }
        let uri = Uri::parse(uri_text).map_err(|bad| match bad {
            BadUri::Scheme => Bad::of(416, "Unsupported URI Scheme"),
            BadUri::Syntax => Bad::request("the Request-URI is not in order"),
        })?;
        if uri.headers.is_some() {
            // RFC 3261, 19.1.1, table 1.
            return Err(Bad::request("the Request-URI has headers"));
        }
        let request = Request {
            method,
            uri_text,
            uri,
            top,
            from_tag: from.param("tag").unwrap_or_default(),
            to,
            to_tag: to.param("tag").unwrap_or_default(),
            call_id,
            cseq,
            max_forwards: max_forwards(message)?,
        };
        request.check_others(message)?;
        Ok(request)
    }

    /// Fields that we look at later.
    fn check_others(&self, message: &Message<'_>) -> Result<(), Bad> {
        for name in ["route", "record-route", "contact"] {
            let members = message.list(name);
            let fine = |member: &&str| NameAddr::parse(member).is_some() || *member == "*";
            if !members.is_some_and(|members| members.iter().all(fine)) {
                return Err(Bad::request(match name {
                    "contact" => "Contact is not in order",
                    _ => "Route is not in order",
                }));
            }
        }
        match message.list("via") {
            Some(vias) if vias.iter().all(|via| Via::parse(via).is_some()) => Ok(()),
            _ => Err(Bad::request("Via is not in order")),
        }
    }
}

fn max_forwards(message: &Message<'_>) -> Result<Option<u8>, Bad> {
    let mut all = message.all("max-forwards");
    let Some(value) = all.next() else {
        return Ok(None);
    };
    // RFC 3261, 20.22: 0 to 255.
    match number(value).and_then(|value| u8::try_from(value).ok()) {
        Some(value) if all.next().is_none() => Ok(Some(value)),
        _ => Err(Bad::request("Max-Forwards is not in order")),
    }
}

/// Method and Request-URI, with one space between the three words.
fn request_line(line: &str) -> Result<(&str, &str), Bad> {
    let mut words = line.split(' ');
    let (method, uri) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (version, more) = (words.next().unwrap_or_default(), words.next());
    if more.is_some() || !is_token(method) || uri.is_empty() {
        return Err(Bad::request("the request line is not in order"));
    }
    match version.get(..4) {
        _ if version.eq_ignore_ascii_case("SIP/2.0") => Ok((method, uri)),
        Some(sip) if sip.eq_ignore_ascii_case("SIP/") => Err(Bad::of(505, "Version Not Supported")),
        _ => Err(Bad::request("the request line is not in order")),
    }
}

/// The words for a status code (RFC 3261, 21).
fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        _ => "Refused",
    }
}

/// An answer to a request, however little of it is in order: it has the request's way and names (RFC 3261,
/// 8.2.6). `None` where there is no way back.
pub(super) fn answer(
    message: &Message<'_>,
    from: std::net::SocketAddr,
    code: u16,
    why: Option<&str>,
    tag: &str,
    fields: &[(&str, String)],
) -> Option<Vec<u8>> {
    message.first("via")?;
    let mut out = format!("SIP/2.0 {code} {}\r\n", why.unwrap_or(reason(code))).into_bytes();
    let mut top = true;
    for field in message.fields.iter().filter(|field| field.is("via")) {
        match (
            std::mem::replace(&mut top, false),
            with_received(&field.value, from),
        ) {
            (true, Some(value)) => write_field(&mut out, "Via", &value),
            _ => write_field(&mut out, "Via", &field.value),
        }
    }
    for (name, long) in [
        ("From", "from"),
        ("To", "to"),
        ("Call-ID", "call-id"),
        ("CSeq", "cseq"),
    ] {
        let Some(value) = message.first(long) else {
            continue;
        };
        let untagged =
            name == "To" && NameAddr::parse(value).is_some_and(|to| to.param("tag").is_none());
        match untagged {
            true => write_field(&mut out, name, &format!("{value};tag={tag}")),
            false => write_field(&mut out, name, value),
        }
    }
    for (name, value) in fields {
        write_field(&mut out, name, value);
    }
    write_field(&mut out, "Content-Length", "0");
    out.extend_from_slice(b"\r\n");
    Some(out)
}

/// A Via field whose first member says where it came from.
pub(super) fn with_received(value: &str, from: std::net::SocketAddr) -> Option<String> {
    let members = split(value, b',')?;
    let (first, rest) = members.split_first()?;
    let mut text = Via::parse(first)?.received(from);
    for member in rest {
        text.push_str(", ");
        text.push_str(member);
    }
    Some(text)
}
