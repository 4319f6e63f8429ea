#![forbid(unsafe_code)]
//! RADIUS packets (RFC 2865, 3; RFC 2866; RFC 3579, 3.2 for Message-Authenticator). Pure.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};

/// Bounds of a packet (RFC 2865, 3).
pub(super) const SHORTEST: usize = 20;
pub(super) const LONGEST: usize = 4096;

pub(super) const ACCESS_REQUEST: u8 = 1;
pub(super) const ACCESS_ACCEPT: u8 = 2;
pub(super) const ACCESS_REJECT: u8 = 3;
pub(super) const ACCOUNTING_REQUEST: u8 = 4;
pub(super) const ACCOUNTING_RESPONSE: u8 = 5;
/// RFC 5997.
pub(super) const STATUS_SERVER: u8 = 12;

pub(super) const USER_NAME: u8 = 1;
pub(super) const USER_PASSWORD: u8 = 2;
pub(super) const CHAP_PASSWORD: u8 = 3;
pub(super) const VENDOR_SPECIFIC: u8 = 26;
pub(super) const PROXY_STATE: u8 = 33;
pub(super) const CHAP_CHALLENGE: u8 = 60;
pub(super) const MESSAGE_AUTHENTICATOR: u8 = 80;

/// A packet whose lengths are right; what it says is not proved by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) code: u8,
    pub(super) identifier: u8,
    pub(super) authenticator: &'a [u8; 16],
    /// The packet from its first to its last byte; what a datagram has behind it is padding.
    pub(super) bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram; `None` for one that is to be dropped (RFC 2865, 3 and 5).
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&[code, identifier, high, low], _) = datagram.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(SHORTEST..=LONGEST).contains(&length) {
            return None;
        }
        let bytes = datagram.get(..length)?;
        let packet = Packet {
            code,
            identifier,
            authenticator: bytes[4..].first_chunk()?,
            bytes,
        };
        let mut rest = &bytes[SHORTEST..];
        while !rest.is_empty() {
            let (_, value) = rest.split_first()?;
            let length = usize::from(*value.first()?);
            rest = rest.get(length..).filter(|_| length >= 2)?;
        }
        Some(packet)
    }

    /// Types and values, in their order.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = &self.bytes[SHORTEST..];
        std::iter::from_fn(move || {
            let (&[kind, length], _) = rest.split_first_chunk()?;
            let (attribute, after) = rest.split_at_checked(usize::from(length))?;
            rest = after;
            Some((kind, attribute.get(2..)?))
        })
    }

    /// The first value of a type.
    pub(super) fn first(&self, kind: u8) -> Option<&'a [u8]> {
        let mut all = self.attributes();
        all.find_map(|(other, value)| (other == kind).then_some(value))
    }

    /// The first value of a vendor's type (RFC 2865, 5.26).
    pub(super) fn first_of(&self, vendor: u32, kind: u8) -> Option<&'a [u8]> {
        let specific = self
            .attributes()
            .filter(|(kind, _)| *kind == VENDOR_SPECIFIC);
        let mut found = specific.filter_map(|(_, value)| {
            let (number, mut rest) = value.split_first_chunk::<4>()?;
            if u32::from_be_bytes(*number) != vendor {
                return None;
            }
            while let [other, length, ..] = *rest {
                let (attribute, after) = rest.split_at_checked(usize::from(length))?;
                let value = attribute.get(2..)?;
                if other == kind {
                    return Some(value);
                }
                rest = after;
            }
            None
        });
        found.next()
    }

    /// Whether the Message-Authenticator is right; `None` when there is none. Two of them are wrong.
    pub(super) fn proves(&self, secret: &[u8]) -> Option<bool> {
        let mut found = None;
        let mut at = SHORTEST;
        for (kind, value) in self.attributes() {
            if kind == MESSAGE_AUTHENTICATOR {
                if found.is_some() || value.len() != 16 {
                    return Some(false);
                }
                found = Some(at + 2);
            }
            at += value.len() + 2;
        }
        let at = found?;
        let mut zeroed = self.bytes.to_vec();
        zeroed[at..at + 16].fill(0);
        if self.code == ACCOUNTING_REQUEST {
            zeroed[4..20].fill(0);
        }
        let mac = hmac(secret, &zeroed);
        Some(mac.verify_slice(&self.bytes[at..at + 16]).is_ok())
    }

    /// Whether an Accounting-Request's authenticator is right (RFC 2866, 3).
    pub(super) fn accounts(&self, secret: &[u8]) -> bool {
        let mut zeroed = self.bytes.to_vec();
        zeroed[4..20].fill(0);
        same(&md5(&[&zeroed, secret]), self.authenticator)
    }
}

/// The answer to a request: Message-Authenticator first where `prove`, then the attributes, then the request's
/// Proxy-States in their order (RFC 2865, 5.33). Attributes that do not fit are left out.
pub(super) fn answer(
    request: &Packet<'_>,
    code: u8,
    attributes: &[(u8, Vec<u8>)],
    prove: bool,
    secret: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![code, request.identifier, 0, 0];
    bytes.extend_from_slice(request.authenticator);
    if prove {
        bytes.extend_from_slice(&[MESSAGE_AUTHENTICATOR, 18]);
        bytes.extend_from_slice(&[0; 16]);
    }
    let states = request
        .attributes()
        .filter(|(kind, _)| *kind == PROXY_STATE);
    let given = attributes
        .iter()
        .map(|(kind, value)| (*kind, value.as_slice()));
    for (kind, value) in given.chain(states) {
        let Ok(length) = u8::try_from(value.len() + 2) else {
            continue;
        };
        if bytes.len() + usize::from(length) <= LONGEST {
            bytes.extend_from_slice(&[kind, length]);
            bytes.extend_from_slice(value);
        }
    }
    let length = u16::try_from(bytes.len()).unwrap_or(0);
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    if prove {
        let proof = hmac(secret, &bytes).finalize().into_bytes();
        bytes[SHORTEST + 2..SHORTEST + 18].copy_from_slice(&proof);
    }
    let authenticator = md5(&[&bytes, secret]);
    bytes[4..20].copy_from_slice(&authenticator);
    bytes
}

fn hmac(secret: &[u8], bytes: &[u8]) -> Hmac<Md5> {
    // HMAC takes keys of any length.
    let mut mac = <Hmac<Md5> as KeyInit>::new_from_slice(secret)
        .unwrap_or_else(|_| unreachable!("a key of any length"));
    mac.update(bytes);
    mac
}

pub(super) fn md5(pieces: &[&[u8]]) -> [u8; 16] {
    let mut digest = Md5::new();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize().into()
}

/// Compares in constant time.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// A request as clients make it, for tests.
#[cfg(test)]
pub(super) fn request(
    code: u8,
    identifier: u8,
    attributes: &[(u8, &[u8])],
    prove: bool,
    secret: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![code, identifier, 0, 0];
    let accounting = code == ACCOUNTING_REQUEST;
    bytes.extend_from_slice(&if accounting {
        [0; 16]
    } else {
        [identifier; 16]
    });
    if prove {
        bytes.extend_from_slice(&[MESSAGE_AUTHENTICATOR, 18]);
        bytes.extend_from_slice(&[0; 16]);
    }
    for (kind, value) in attributes {
        bytes.extend_from_slice(&[*kind, u8::try_from(value.len() + 2).expect("fits")]);
        bytes.extend_from_slice(value);
    }
    let length = u16::try_from(bytes.len()).expect("fits");
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    if prove {
        let proof = hmac(secret, &bytes).finalize().into_bytes();
        bytes[22..38].copy_from_slice(&proof);
    }
    if accounting {
        let authenticator = md5(&[&bytes, secret]);
        bytes[4..20].copy_from_slice(&authenticator);
    }
    bytes
}

/// Whether an answer fits its request, and its attributes behind the Message-Authenticator.
#[cfg(test)]
pub(super) fn check(bytes: &[u8], request: &[u8], secret: &[u8]) -> (u8, Vec<(u8, Vec<u8>)>) {
    let mut signed = bytes.to_vec();
    signed[4..20].copy_from_slice(&request[4..20]);
    assert_eq!(
        md5(&[&signed, secret]),
        bytes[4..20],
        "Response Authenticator"
    );
    let packet = Packet::parse(&signed).expect("well formed");
    let mut attributes: Vec<_> = packet
        .attributes()
        .map(|(kind, value)| (kind, value.to_vec()))
        .collect();
    if packet.code != ACCOUNTING_RESPONSE {
        assert_eq!(
            attributes.remove(0).0,
            MESSAGE_AUTHENTICATOR,
            "it is the first"
        );
        assert_eq!(packet.proves(secret), Some(true));
    }
    (packet.code, attributes)
}

#[cfg(test)]
mod tests {
    use super::{ACCESS_REQUEST, Packet, request};

    #[test]
    fn lengths_that_lie_make_no_packet() {
        let whole = request(ACCESS_REQUEST, 1, &[(1, b"nemo"), (33, b"")], true, b"s");
        assert!(Packet::parse(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(Packet::parse(&whole[..end]), None, "cut at {end}");
        }
        let padded = [&whole[..], b"padding"].concat();
        assert_eq!(
            Packet::parse(&padded).map(|packet| packet.bytes.len()),
            Some(whole.len())
        );
        for length in [0, 1, 19, 21, 4097, u16::MAX] {
            let mut lying = [&whole[..], &[0; 5000]].concat();
            lying[2..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Packet::parse(&lying), None, "{length}");
        }
        for length in [0, 1, 3, 255] {
            let mut lying = whole.clone();
            let last = lying.len() - 1;
            lying[last] = length;
            assert_eq!(Packet::parse(&lying), None, "an attribute of {length}");
        }
    }

    #[test]
    fn vendors_attributes_are_found_and_lies_are_not() {
        let vendor = |rest: &[u8]| [&311_u32.to_be_bytes()[..], rest].concat();
        for (value, expected) in [
            (vendor(b"\x0b\x04ab"), Some(&b"ab"[..])),
            (vendor(b"\x01\x02\x0b\x03x"), Some(b"x")),
            (vendor(b"\x0b\x00ab"), None),
            (vendor(b"\x0b\x01ab"), None),
            (vendor(b"\x0b\xffab"), None),
            (vendor(b"\x0b"), None),
            (b"\x00\x01".to_vec(), None),
            (b"\0\0\0\x09\x0b\x04ab".to_vec(), None),
        ] {
            let bytes = request(ACCESS_REQUEST, 1, &[(26, &value)], false, b"s");
            let packet = Packet::parse(&bytes).expect("well formed");
            assert_eq!(packet.first_of(311, 11), expected, "{value:?}");
        }
    }
}
