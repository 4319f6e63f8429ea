#![forbid(unsafe_code)]
//! LDAP messages (RFC 4511, 4.1.1): where one ends, what it asks, and the answers. Pure: bytes in, bytes out.

use rasn::Decoder as _;
use rasn_ldap::{Control, LdapMessage};

use crate::ldap::ber;

/// A message has at most so many bytes: what a connection keeps of unread input. A filter of thousands of items fits.
pub(super) const LONGEST: usize = 64 * 1024;

/// The beginning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the whole message.
    pub(super) total: usize,
    /// Where its operation begins.
    pub(super) start: usize,
    pub(super) id: u32,
    /// The tag of its operation.
    pub(super) operation: u8,
}

/// What cannot be the beginning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A tag's length, definite: how many bytes it takes and what it says. `None` for one that has not arrived.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    match first {
        0..=0x7f => Ok(Some((1, usize::from(*first)))),
        // RFC 4511, 5.1: only the definite form. Four bytes say more than anybody sends.
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let Some(bytes) = bytes.get(1..=count) else {
                return Ok(None);
            };
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            Ok(Some((1 + count, length)))
        }
        _ => Err(Malformed),
    }
}

/// Reads the beginning of a message; `None` while too little is there.
///
/// # Errors
/// Whatever follows, it is no message.
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    match bytes.first() {
        None => return Ok(None),
        Some(0x30) => {}
        Some(_) => return Err(Malformed),
    }
    let Some((taken, content)) = length(&bytes[1..])? else {
        return Ok(None);
    };
    let begin = 1 + taken;
    match bytes.get(begin) {
        _ if content < 5 => return Err(Malformed),
        None => return Ok(None),
        Some(0x02) => {}
        Some(_) => return Err(Malformed),
    }
    let Some((taken, count)) = length(&bytes[begin + 1..])? else {
        return Ok(None);
    };
    // RFC 4511, 4.1.1: up to 2147483647.
    if !(1..=4).contains(&count) || taken != 1 {
        return Err(Malformed);
    }
    let start = begin + 2 + count;
    let Some(number) = bytes.get(begin + 2..start) else {
        return Ok(None);
    };
    if number[0] >= 0x80 || content < 2 + count + 2 {
        return Err(Malformed);
    }
    let id = number
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    Ok(bytes.get(start).map(|operation| Head {
        total: begin + content,
        start,
        id,
        operation: *operation,
    }))
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    Malformed,
    /// Nested deeper than anybody means.
    TooDeep,
}

/// No message is nested deeper, whose reading is recursive; people write filters of three or four levels.
const DEEPEST: usize = 100;

/// Reads a whole message.
pub(super) fn read(bytes: &[u8]) -> Result<LdapMessage, Unread> {
    if is_deep(bytes) {
        return Err(Unread::TooDeep);
    }
    rasn::ber::decode(bytes).map_err(|_| Unread::Malformed)
}

/// True for bytes that are well nested, but deeper than is read.
fn is_deep(bytes: &[u8]) -> bool {
    let mut ends = Vec::new();
    let mut at = 0;
    while at + 1 < bytes.len() {
        while ends.last().is_some_and(|end| at >= *end) {
            ends.pop();
        }
        let Ok(Some((taken, length))) = length(&bytes[at + 1..]) else {
            return false;
        };
        let start = at + 1 + taken;
        let is_constructed = bytes[at] & 0x20 != 0;
        if is_constructed {
            ends.push(start + length);
            if ends.len() > DEEPEST {
                return true;
            }
        }
        at = if is_constructed {
            start
        } else {
            start + length
        };
    }
    false
}

pub(super) const BIND: u8 = 0x60;
pub(super) const BIND_RESPONSE: u8 = 0x61;
pub(super) const UNBIND: u8 = 0x42;
pub(super) const ABANDON: u8 = 0x50;
pub(super) const EXTENDED: u8 = 0x77;
pub(super) const EXTENDED_RESPONSE: u8 = 0x78;
pub(super) const SEARCH_DONE: u8 = 0x65;

/// The tag of the answer to an operation; `None` for those without one, and for what is no request.
pub(super) fn answer_to(operation: u8) -> Option<u8> {
    Some(match operation {
        BIND => BIND_RESPONSE,
        0x63 => SEARCH_DONE,
        0x66 => 0x67,
        0x68 => 0x69,
        0x4a => 0x6b,
        0x6c => 0x6d,
        0x6e => 0x6f,
        EXTENDED => EXTENDED_RESPONSE,
        _ => return None,
    })
}

/// Result codes (RFC 4511, appendix A, and RFC 3909, 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Success = 0,
    OperationsError = 1,
    ProtocolError = 2,
    TimeLimitExceeded = 3,
    SizeLimitExceeded = 4,
    CompareFalse = 5,
    CompareTrue = 6,
    AuthMethodNotSupported = 7,
    AdminLimitExceeded = 11,
    UnavailableCriticalExtension = 12,
    ConfidentialityRequired = 13,
    NoSuchAttribute = 16,
    UndefinedAttributeType = 17,
    InappropriateMatching = 18,
    InvalidAttributeSyntax = 21,
    NoSuchObject = 32,
    InvalidDnSyntax = 34,
    AliasDereferencingProblem = 36,
    InvalidCredentials = 49,
    InsufficientAccessRights = 50,
    Busy = 51,
    Unavailable = 52,
    UnwillingToPerform = 53,
    NoSuchOperation = 119,
    CannotCancel = 121,
}

/// An answer's fields behind its result.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Answer<'a> {
    /// The nearest entry above one that is missing.
    pub(super) matched: &'a str,
    /// For people.
    pub(super) text: &'a str,
    /// An extended response's name.
    pub(super) name: Option<&'a str>,
    /// An extended response's value.
    pub(super) value: Option<&'a [u8]>,
    /// The control of paged results: its value.
    pub(super) paged: Option<&'a [u8]>,
}

/// Writes a message of a result.
pub(super) fn answer(out: &mut Vec<u8>, id: u32, tag: u8, code: Code, answer: Answer<'_>) {
    ber::wrap(out, ber::SEQUENCE, |out| {
        ber::number(out, ber::INTEGER, id);
        ber::wrap(out, tag, |out| {
            ber::number(out, ber::ENUMERATED, code as u32);
            ber::octets(out, ber::OCTETS, answer.matched.as_bytes());
            ber::octets(out, ber::OCTETS, answer.text.as_bytes());
            if let Some(name) = answer.name {
                ber::octets(out, 0x8a, name.as_bytes());
            }
            if let Some(value) = answer.value {
                ber::octets(out, 0x8b, value);
            }
        });
        if let Some(value) = answer.paged {
            ber::wrap(out, 0xa0, |out| {
                ber::wrap(out, ber::SEQUENCE, |out| {
                    ber::octets(
                        out,
                        ber::OCTETS,
                        crate::ldap::special::PAGED_RESULTS.as_bytes(),
                    );
                    ber::octets(out, ber::OCTETS, value);
                });
            });
        }
    });
}

/// The Notice of Disconnection (RFC 4511, 4.4.1).
pub(super) fn notice(code: Code, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = Answer {
        text,
        name: Some("1.3.6.1.4.1.1466.20036"),
        ..Answer::default()
    };
    answer(&mut out, 0, EXTENDED_RESPONSE, code, fields);
    out
}

/// What a control of paged results asks (RFC 2696).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paged {
    /// Entries a page.
    pub(super) size: u32,
    /// Where the page begins; empty for the first one.
    pub(super) cookie: Vec<u8>,
}

/// Why controls are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    /// A critical one is not known here.
    Unavailable,
    /// One has a value that cannot be read.
    Malformed,
}

#[derive(rasn::AsnType, rasn::Decode)]
struct PagedValue {
    size: u32,
    cookie: rasn::types::OctetString,
}

/// Looks at a request's controls (RFC 4511, 4.1.11); `is_search` where those of a search are known.
///
/// # Errors
/// See [`Controls`].
pub(super) fn controls(
    controls: Option<&[Control]>,
    is_search: bool,
) -> Result<Option<Paged>, Controls> {
    let mut paged = None;
    for control in controls.unwrap_or_default() {
        let oid = std::str::from_utf8(&control.control_type).unwrap_or_default();
        if oid == crate::ldap::special::PAGED_RESULTS && is_search {
            let value = control.control_value.as_deref().unwrap_or_default();
            let value: PagedValue = rasn::ber::decode(value).map_err(|_| Controls::Malformed)?;
            paged = Some(Paged {
                size: value.size.min(0x7fff_ffff),
                cookie: value.cookie.to_vec(),
            });
        } else if oid != crate::ldap::special::MANAGE_DSA_IT && control.criticality {
            return Err(Controls::Unavailable);
        }
    }
    Ok(paged)
}
