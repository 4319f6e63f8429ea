#![forbid(unsafe_code)]
//! The PROXY protocol, versions 1 and 2 (HAProxy, "The PROXY protocol", 2020/03/05): who really connected, as
//! told by a proxy in front of us, and as told by us to those behind. No socket.
//!
//! Strict: whoever may send a header is trusted with addresses, so what is not exactly a header is not
//! guessed at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most bytes of a header: version 2 with 4 KiB of addresses and TLVs, where the specification asks for
/// 520 to be taken (2.2) and version 1 ends after 107 (2.1).
pub(crate) const LONGEST: usize = V2_FIXED + 4096;

const V1_LONGEST: usize = 107;
const V1_BEGIN: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;
const TLV_FIXED: usize = 3;
/// The host name that the client asked for, as in TLS (2.2.2).
const PP2_TYPE_AUTHORITY: u8 = 0x02;
/// The longest name that fits the authority TLV.
const AUTHORITY_LONGEST: usize = 255;

/// What the first bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The beginning of a header.
    NeedMore,
    /// A whole header.
    Header {
        /// Source and destination; `None` where the sender's own address counts: `LOCAL`, `UNKNOWN` and
        /// families that are not TCP over IP.
        addresses: Option<(SocketAddr, SocketAddr)>,
        /// Its bytes; what follows belongs to the client.
        length: usize,
    },
    /// No header, and why.
    Bad(&'static str),
}

/// Reads a header of either version from the first bytes of a stream.
#[must_use]
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let parsed = if begins(bytes, V2_SIGNATURE) {
        v2(bytes)
    } else if begins(bytes, V1_BEGIN) {
        v1(bytes)
    } else {
        Err(Short::Bad("the stream does not begin with a PROXY header"))
    };
    match parsed {
        Ok((addresses, length)) => Parsed::Header { addresses, length },
        Err(Short::NeedMore) => Parsed::NeedMore,
        Err(Short::Bad(why)) => Parsed::Bad(why),
    }
}

/// Why there is no header.
enum Short {
    NeedMore,
    Bad(&'static str),
}

type Result<T> = std::result::Result<T, Short>;
type Addresses = Option<(SocketAddr, SocketAddr)>;

/// True when `bytes` begin with `wanted`, or are its beginning.
fn begins(bytes: &[u8], wanted: &[u8]) -> bool {
    let length = bytes.len().min(wanted.len());
    bytes[..length] == wanted[..length]
}

fn v1(bytes: &[u8]) -> Result<(Addresses, usize)> {
    let head = &bytes[..bytes.len().min(V1_LONGEST)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', head) else {
        return Err(if head.len() < V1_LONGEST {
            Short::NeedMore
        } else {
            Short::Bad("a version 1 PROXY header is longer than 107 bytes")
        });
    };
    match head.get(end + 1) {
        Some(b'\n') if head[end] == b'\r' => {}
        None if head[end] == b'\r' && head.len() < V1_LONGEST => return Err(Short::NeedMore),
        _ => return Err(Short::Bad("a version 1 PROXY header does not end in CR LF")),
    }
    let words = head
        .get(V1_BEGIN.len()..end)
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or(Short::Bad("a version 1 PROXY header is not text"))?;
    Ok((v1_addresses(words)?, end + 2))
}

fn v1_addresses(words: &str) -> Result<Addresses> {
    let (family, rest) = words.split_once(' ').unwrap_or((words, ""));
    let is_ipv6 = match family {
        "TCP4" => false,
        "TCP6" => true,
        // What follows is to be ignored (2.1).
        "UNKNOWN" => return Ok(None),
        _ => return Err(Short::Bad("a PROXY header names an unknown family")),
    };
    let mut fields = rest.split(' ');
    let mut field = || {
        fields
            .next()
            .ok_or(Short::Bad("a PROXY header lacks a field"))
    };
    let (source, destination) = (ip(field()?, is_ipv6)?, ip(field()?, is_ipv6)?);
    let (from, to) = (port(field()?)?, port(field()?)?);
    if fields.next().is_some() {
        return Err(Short::Bad("a PROXY header has a field too many"));
    }
    let source = SocketAddr::new(source.to_canonical(), from);
    Ok(Some((
        source,
        SocketAddr::new(destination.to_canonical(), to),
    )))
}

fn ip(word: &str, is_ipv6: bool) -> Result<IpAddr> {
    // The standard library takes no leading zeros, no spaces and no zone.
    let address = if is_ipv6 {
        word.parse().map(IpAddr::V6).ok()
    } else {
        word.parse().map(IpAddr::V4).ok()
    };
    address.ok_or(Short::Bad("a PROXY header has a bad address"))
}

fn port(word: &str) -> Result<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let leading = word.len() > 1 && word.starts_with('0');
    (plain && !leading)
        .then(|| word.parse().ok())
        .flatten()
        .ok_or(Short::Bad("a PROXY header has a bad port"))
}

fn v2(bytes: &[u8]) -> Result<(Addresses, usize)> {
    // What can be judged is judged before the rest has come.
    let command = match bytes.get(12) {
        None => return Err(Short::NeedMore),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(byte) if byte >> 4 != 2 => {
            return Err(Short::Bad("a PROXY header is of an unknown version"));
        }
        Some(_) => return Err(Short::Bad("a PROXY header has an unknown command")),
    };
    let family = match bytes.get(13) {
        None => return Err(Short::NeedMore),
        Some(byte) => family(*byte)?,
    };
    let &[high, low] = bytes.get(14..V2_FIXED).ok_or(Short::NeedMore)? else {
        return Err(Short::NeedMore);
    };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + body;
    if length > LONGEST {
        return Err(Short::Bad("a PROXY header is too long"));
    }
    if body < family.length() {
        return Err(Short::Bad("a PROXY header is too short for its addresses"));
    }
    let body = bytes.get(V2_FIXED..length).ok_or(Short::NeedMore)?;
    let (addresses, tlvs) = body.split_at(family.length());
    if matches!(command, Command::Local) {
        // Addresses and TLVs are to be ignored (2.2).
        return Ok((None, length));
    }
    walk(tlvs)?;
    Ok((family.read(addresses), length))
}

enum Command {
    Local,
    Proxy,
}

/// What an address block holds.
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

fn family(byte: u8) -> Result<Family> {
    match byte {
        0x00 => Ok(Family::Unspecified),
        0x11 => Ok(Family::Inet),
        0x21 => Ok(Family::Inet6),
        0x31 => Ok(Family::Unix),
        0x12 | 0x22 | 0x32 => Err(Short::Bad("a PROXY header speaks of datagrams")),
        _ => Err(Short::Bad("a PROXY header names an unknown family")),
    }
}

impl Family {
    fn length(&self) -> usize {
        match self {
            Family::Unspecified => 0,
            Family::Inet => 12,
            Family::Inet6 => 36,
            Family::Unix => 216,
        }
    }

    fn read(&self, block: &[u8]) -> Addresses {
        let port = |at: usize| Some(u16::from_be_bytes(block.get(at..at + 2)?.try_into().ok()?));
        match self {
            Family::Unspecified | Family::Unix => None,
            Family::Inet => {
                let ip = |at: usize| {
                    let bytes: [u8; 4] = block.get(at..at + 4)?.try_into().ok()?;
                    Some(IpAddr::from(bytes))
                };
                let source = SocketAddr::new(ip(0)?, port(8)?);
                Some((source, SocketAddr::new(ip(4)?, port(10)?)))
            }
            Family::Inet6 => {
                let ip = |at: usize| {
                    let bytes: [u8; 16] = block.get(at..at + 16)?.try_into().ok()?;
                    Some(IpAddr::from(bytes).to_canonical())
                };
                let source = SocketAddr::new(ip(0)?, port(32)?);
                Some((source, SocketAddr::new(ip(16)?, port(34)?)))
            }
        }
    }
}

/// Walks over the TLVs: none is used, but one that does not fit betrays a broken header.
fn walk(mut tlvs: &[u8]) -> Result<()> {
    while !tlvs.is_empty() {
        let length = match tlvs {
            [_, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(Short::Bad("a PROXY header has a broken TLV")),
        };
        tlvs = tlvs
            .get(TLV_FIXED + length..)
            .ok_or(Short::Bad("a PROXY header has a broken TLV"))?;
    }
    Ok(())
}

/// A version 1 header (2.1). Of two families the IPv4 address is written as an IPv4-mapped one.
#[must_use]
pub(crate) fn write_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.port(), destination.port());
    let line = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        (source, destination) => {
            let (source, destination) = (mapped(source), mapped(destination));
            format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
        }
    };
    line.into_bytes()
}

/// A version 2 header (2.2), with the name that the client asked for, if one is known.
#[must_use]
pub(crate) fn write_v2(
    source: SocketAddr,
    destination: SocketAddr,
    authority: Option<&str>,
) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    let mut body: Vec<u8> = Vec::with_capacity(64);
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let octets: [[u8; 4]; 2] = [Ipv4Addr::octets(&source), destination.octets()];
            body.extend(octets.as_flattened());
            0x11
        }
        (source, destination) => {
            body.extend(mapped(source).octets());
            body.extend(mapped(destination).octets());
            0x21
        }
    };
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    if let Some(name) = authority.filter(|name| name.len() <= AUTHORITY_LONGEST)
        && let Ok(length) = u16::try_from(name.len())
    {
        body.push(PP2_TYPE_AUTHORITY);
        body.extend(length.to_be_bytes());
        body.extend(name.as_bytes());
    }
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    header.extend([0x21, family]);
    header.extend(length.to_be_bytes());
    header.extend(body);
    header
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests;
