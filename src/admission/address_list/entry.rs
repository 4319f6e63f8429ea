//! One entry without its `!`: an address, a network or a range; and what was probably meant when it
//! is none. Pure.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First and last address of an entry, with IPv4-mapped IPv6 turned to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    V4(u32, u32),
    V6(u128, u128),
}

/// Why a part of a line cannot be read. `part` is a slice of the line.
#[derive(Debug)]
pub(super) struct Mistake<'t> {
    pub(super) part: &'t str,
    pub(super) message: String,
}

impl<'t> Mistake<'t> {
    pub(super) fn new(part: &'t str, message: impl Into<String>) -> Self {
        Self {
            part,
            message: message.into(),
        }
    }
}

/// Reads an entry that has no blanks around it.
pub(super) fn parse(text: &str) -> Result<Block, Mistake<'_>> {
    read(text).map_err(|mistake| hint(text).unwrap_or(mistake))
}

fn read(text: &str) -> Result<Block, Mistake<'_>> {
    if let Some((base, length)) = text.split_once('/') {
        return network(base, length);
    }
    if let Some((first, last)) = text.split_once('-') {
        return range(text, first.trim_end(), last.trim_start());
    }
    Ok(match address(text)?.to_canonical() {
        IpAddr::V4(single) => Block::V4(single.to_bits(), single.to_bits()),
        IpAddr::V6(single) => Block::V6(single.to_bits(), single.to_bits()),
    })
}

fn range<'t>(text: &'t str, first: &'t str, last: &'t str) -> Result<Block, Mistake<'t>> {
    let from = address(first)?.to_canonical();
    let to = address(last)?.to_canonical();
    let block = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Block::V4(from.to_bits(), to.to_bits()),
        (IpAddr::V6(from), IpAddr::V6(to)) => Block::V6(from.to_bits(), to.to_bits()),
        _ => {
            let message = "a range has both ends in IPv4 or both in IPv6";
            return Err(Mistake::new(text, message));
        }
    };
    if from > to {
        let message = format!("the range runs backwards: {from} is above {to}");
        return Err(Mistake::new(text, message));
    }
    Ok(block)
}

fn network<'t>(base: &'t str, length: &'t str) -> Result<Block, Mistake<'t>> {
    match address(base)? {
        IpAddr::V4(address) => {
            let length = prefix_length(length, 32)?;
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let first = address.to_bits();
            if first & host != 0 {
                let meant = Ipv4Addr::from_bits(first & !host);
                return Err(host_bits(base, length, meant.into()));
            }
            Ok(Block::V4(first, first | host))
        }
        IpAddr::V6(address) => {
            let length = prefix_length(length, 128)?;
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let first = address.to_bits();
            if first & host != 0 {
                let meant = Ipv6Addr::from_bits(first & !host);
                return Err(host_bits(base, length, meant.into()));
            }
            let last = Ipv6Addr::from_bits(first | host);
            Ok(match (address.to_ipv4_mapped(), last.to_ipv4_mapped()) {
                (Some(first), Some(last)) => Block::V4(first.to_bits(), last.to_bits()),
                _ => Block::V6(first, last.to_bits()),
            })
        }
    }
}

fn host_bits(base: &str, length: u32, meant: IpAddr) -> Mistake<'_> {
    let message =
        format!("{base}/{length} has bits behind its prefix: the network is {meant}/{length}");
    Mistake::new(base, message)
}

/// A prefix length from 1 to `max`.
fn prefix_length(text: &str, max: u32) -> Result<u32, Mistake<'_>> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && text.bytes().all(|byte| byte == b'0') {
        let message = match max {
            32 => "/0 is all of IPv4, seldom on purpose: if it is, write 0.0.0.0-255.255.255.255",
            _ => {
                "/0 is all of IPv6, seldom on purpose: if it is, write ::/1 and 8000::/1 on two lines"
            }
        };
        return Err(Mistake::new(text, message));
    }
    match text.parse() {
        Ok(length) if digits && !text.starts_with('0') && length <= max => Ok(length),
        _ => {
            let message = format!(
                "expected a prefix length from 1 to {max}, found {}",
                shown(text)
            );
            Err(Mistake::new(text, message))
        }
    }
}

/// One address as it is written, with brackets or without.
fn address(text: &str) -> Result<IpAddr, Mistake<'_>> {
    let Some(open) = text.strip_prefix('[') else {
        return text.parse().map_err(|_| expected(text));
    };
    let Some(inner) = open.strip_suffix(']') else {
        let message = format!("expected `]` at the end of {}", shown(text));
        return Err(Mistake::new(text, message));
    };
    inner.parse().map(IpAddr::V6).map_err(|_| {
        let message = format!(
            "expected an IPv6 address between brackets, found {}",
            shown(inner)
        );
        Mistake::new(inner, message)
    })
}

fn expected(text: &str) -> Mistake<'_> {
    let octet = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let octets: Vec<&str> = text.split('.').collect();
    let dotted = octets.len() == 4 && octets.iter().all(|part| octet(part));
    let message = if text.is_empty() {
        "expected an address, found nothing".to_owned()
    } else if dotted
        && octets
            .iter()
            .any(|part| part.len() > 1 && part.starts_with('0'))
    {
        let text = shown(text);
        format!("{text} has a number with a leading zero, which some read as octal")
    } else if !text.contains(':') && text.contains(|c: char| c.is_alphabetic()) {
        let text = shown(text);
        format!("expected an address, found {text}: names are not looked up")
    } else {
        format!("expected an address, found {}", shown(text))
    };
    Mistake::new(text, message)
}

/// What was probably meant by an entry that cannot be read, where that is plain to see.
fn hint(text: &str) -> Option<Mistake<'_>> {
    let hash = text.find('#').or_else(|| text.find("//"));
    if let Some(comment) = hash.and_then(|at| text.get(at..)) {
        return Some(Mistake::new(comment, "a comment begins with `;`"));
    }
    if let Some((entry, rest)) = text.split_once([',', ' ', '\t']) {
        let rest = rest.trim_start();
        let dash = rest.starts_with('-') || entry.ends_with('-');
        if !dash && read(entry).is_ok() {
            let message = format!("expected one entry a line, found {} behind it", shown(rest));
            return Some(Mistake::new(rest, message));
        }
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        let message = format!(
            "a list holds addresses without ports: write {}",
            socket.ip()
        );
        return Some(Mistake::new(text, message));
    }
    if let Some((address, zone)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        let message = format!("a list holds addresses without zones: write {address}");
        return Some(Mistake::new(zone, message));
    }
    netmask(text)
}

/// `10.0.0.0/255.0.0.0` is meant as `10.0.0.0/8`.
fn netmask(text: &str) -> Option<Mistake<'_>> {
    let (base, mask) = text.split_once('/')?;
    base.parse::<Ipv4Addr>().ok()?;
    let bits = mask.parse::<Ipv4Addr>().ok()?.to_bits();
    let length = bits.leading_ones();
    if length == 0 || length + bits.trailing_zeros() != 32 {
        return None;
    }
    let message = format!("a netmask is written as its length: write {base}/{length}");
    Some(Mistake::new(mask, message))
}

/// A word for an error message: in backquotes, on one line, at most 40 characters of it.
pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 40;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("`{}...`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}
