#![forbid(unsafe_code)]
//! Ways in for the targets of `tests/fuzz`; each takes any bytes and panics where a promise is broken. Not part
//! of the library: built with the feature `fuzzing` alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::admission::address_list::{AddressList, Source};
use crate::config::load_texts;
pub use crate::connection::fuzzing::{session, tls_opening, tls_records};
use crate::connection::proxy_header::{LONGEST, Parsed, parse};
use crate::control;
pub use crate::http::forward::fuzzing::http_answer;
pub use crate::mail::fuzzing::mail;
use crate::modules::forward::flows::model::{self, Step};
pub use crate::modules::imap::fuzzing::imap;
pub use crate::modules::ldap::fuzzing::{ldap, ldif};
pub use crate::modules::radius::fuzzing::radius;
pub use crate::modules::sip::fuzzing::sip;
pub use crate::modules::snmp::fuzzing::snmp;
pub use crate::modules::tftp::fuzzing::tftp;

/// Source and destination, where the header names them.
pub type Addresses = Option<(SocketAddr, SocketAddr)>;

/// A PROXY header: its addresses and length. What is decided about a beginning stays so however much follows.
#[must_use]
pub fn proxy_header(bytes: &[u8]) -> Option<(Addresses, usize)> {
    let whole = parse(bytes);
    for end in 0..bytes.len().min(LONGEST + 1) {
        let part = parse(&bytes[..end]);
        assert!(
            part == Parsed::NeedMore || part == whole,
            "{end}: {part:?} {whole:?}"
        );
    }
    match whole {
        Parsed::Header { addresses, length } => {
            assert!(length <= bytes.len() && length <= LONGEST);
            Some((addresses, length))
        }
        Parsed::NeedMore => {
            assert!(bytes.len() < LONGEST);
            None
        }
        Parsed::Bad(_) => None,
    }
}

/// The text of an address list: what it compiles to, and its lines one by one, decide alike.
pub fn address_list(text: &str) {
    // Of files, only their names would be tried.
    if text.contains('@') {
        return;
    }
    let read = |text: &str| AddressList::parse(&Source::file(Path::new("nowhere/list"), text));
    let list = match read(text) {
        Ok(list) => list,
        Err(errors) => {
            let lines = text.lines().count().max(1);
            assert!(!errors.is_empty());
            assert!(
                errors
                    .iter()
                    .all(|error| (1..=lines).contains(&(error.line as usize)))
            );
            return;
        }
    };
    let lines: Vec<(u32, bool, AddressList)> = (1..)
        .zip(text.lines())
        .map(|(number, line)| {
            let line = line.trim_start();
            let bare = line.strip_prefix('!').unwrap_or(line);
            let alone = read(bare).expect("a line of a good list is a good list");
            (number, bare == line, alone)
        })
        .collect();
    let ends = lines.iter().flat_map(|(_, _, alone)| alone.ranges());
    let asked = ends.flat_map(|range| {
        let (first, last) = (*range.start(), *range.end());
        [before(first), first, last, after(last)]
    });
    for address in asked.take(400) {
        let found = lines
            .iter()
            .rev()
            .find(|(_, _, alone)| alone.contains(address));
        let expected = found.map(|(number, listed, _)| (*listed, *number));
        let decided = list
            .decide(address)
            .map(|decision| (decision.listed, decision.line));
        assert_eq!(decided, expected, "{address} in {text:?}");
        assert_eq!(
            list.contains(address),
            expected.is_some_and(|(listed, _)| listed)
        );
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().saturating_sub(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().saturating_sub(1)).into(),
    }
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().saturating_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().saturating_add(1)).into(),
    }
}

/// Configuration text, `portreeve.ron` and a listener's file with a NUL between them: every error stands in the
/// text.
pub fn configuration(text: &str) {
    // Files of this machine are not part of the question.
    if text.contains(['/', '@']) {
        return;
    }
    let (server, listener) = text.split_once('\0').unwrap_or(("()", text));
    let Err(errors) = load_texts(server, listener) else {
        return;
    };
    assert!(!errors.is_empty());
    for error in errors {
        let text = if error.file.ends_with("fuzz.ron") {
            listener
        } else {
            server
        };
        // The end of the text may be where something is missing.
        let line = text.split('\n').nth(error.line as usize - 1);
        let line = line.unwrap_or_else(|| panic!("no such line: {error}"));
        assert!(
            error.column as usize <= line.chars().count() + 1,
            "no such column: {error}"
        );
    }
}

/// A line of the control socket: what is taken for a request is one when it is written again.
pub fn control_request(line: &[u8]) {
    if let Ok(request) = control::parse(line) {
        let text = serde_json::to_vec(&request).expect("a request is text");
        assert_eq!(control::parse(&text), Ok(request));
    }
}

/// Steps of Forward's table of flows, against a naive one.
pub fn flows(bytes: &[u8]) {
    let Some((most, steps)) = bytes.split_first() else {
        return;
    };
    let step = |byte: &u8| match byte {
        0..=127 => Step::Speak(byte & 15, byte & 16 != 0),
        128..=191 => Step::End(byte & 15),
        _ => Step::Evict,
    };
    let steps: Vec<Step> = steps.iter().map(step).collect();
    model::check(usize::from(*most % 12) + 1, &steps);
}
