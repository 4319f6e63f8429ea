#![forbid(unsafe_code)]
//! The text of a list to painted ranges. Nothing is masked or skipped silently.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::compile::Painted;
use super::{EXCLUDED, ListError, Loader, Origins, Segment, Source, plain_position};

/// After so many bad lines the rest is only counted.
pub(super) const MOST_ERRORS: usize = 50;

/// What the lines say, in their order.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) v4: Vec<Painted<u32>>,
    pub(super) v6: Vec<Painted<u128>>,
    pub(super) origins: Origins,
}

pub(super) fn parse(source: &Source<'_>, loader: &mut Loader<'_>) -> Result<Parsed, Vec<ListError>> {
    let mut reader = Reader {
        parsed: Parsed::default(),
        errors: Vec::new(),
        more: 0,
        next_origin: 0,
        loader,
        open: vec![source.file.to_path_buf()],
    };
    reader.text(source.file, source.text, source.position);
    let Reader { parsed, mut errors, more, .. } = reader;
    if let Some(last) = errors.last_mut()
        && more > 0
    {
        last.message.push_str(&format!(" (and {more} more bad lines)"));
    }
    if errors.is_empty() { Ok(parsed) } else { Err(errors) }
}

struct Reader<'a, 'b> {
    parsed: Parsed,
    errors: Vec<ListError>,
    more: usize,
    next_origin: u32,
    loader: &'a mut Loader<'b>,
    /// The files being read, outermost first: one that comes again is a cycle.
    open: Vec<PathBuf>,
}

/// What is wrong with a line, and at which byte of it.
struct Bad(usize, String);

impl Reader<'_, '_> {
    fn text(&mut self, file: &Path, text: &str, position: &dyn Fn(usize) -> (u32, u32)) {
        let mut offset = if text.starts_with('\u{feff}') { 3 } else { 0 };
        self.segment(file, position(offset).0);
        while offset < text.len() {
            let rest = &text[offset..];
            let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            let line = &rest[..end];
            let entry = line.split_once(';').map_or(line, |(entry, _)| entry);
            let start = entry.len() - entry.trim_start().len();
            let entry = entry.trim();
            if let Some(name) = entry.strip_prefix('@') {
                let at = position(offset + start);
                self.include(file, name.trim(), at);
                self.next_origin += 1;
                let (line, _) = position(offset);
                self.segment(file, line + 1);
            } else {
                if !entry.is_empty()
                    && let Err(Bad(within, message)) = self.entry(entry)
                {
                    let (line, column) = position(offset + start + within);
                    self.error(file, (line, column), message);
                }
                self.next_origin += 1;
            }
            if self.next_origin >= EXCLUDED {
                self.error(file, position(offset), "a list has at most 2,147,483,647 lines".to_owned());
                return;
            }
            offset += end + 1;
        }
    }

    fn segment(&mut self, file: &Path, first_line: u32) {
        let base = self.next_origin;
        self.parsed.origins.segments.push(Segment { base, file: file.to_path_buf(), first_line });
    }

    fn include(&mut self, file: &Path, name: &str, at: (u32, u32)) {
        if name.is_empty() {
            return self.error(file, at, "expected a file name after @".to_owned());
        }
        let path = file.parent().unwrap_or(Path::new("")).join(name);
        if self.open.contains(&path) {
            let chain: Vec<_> =
                self.open.iter().chain([&path]).map(|path| path.display().to_string()).collect();
            return self.error(file, at, format!("a file names itself: {}", chain.join(" -> ")));
        }
        match (self.loader)(&path) {
            Ok(text) => {
                self.open.push(path.clone());
                // Lines are read in order, so their count so far is carried along instead of counted anew.
                let last = std::cell::Cell::new((0_usize, 1_u32));
                let position = |offset: usize| {
                    let (from, line) = last.get();
                    if offset < from {
                        return plain_position(&text, offset);
                    }
                    let new = memchr::memchr_iter(b'\n', &text.as_bytes()[from..offset]).count();
                    let line = line + u32::try_from(new).unwrap_or(u32::MAX);
                    last.set((offset, line));
                    let start = memchr::memrchr(b'\n', &text.as_bytes()[..offset]).map_or(0, |end| end + 1);
                    (line, u32::try_from(offset - start + 1).unwrap_or(u32::MAX))
                };
                self.text(&path, &text, &position);
                self.open.pop();
            }
            Err(error) => self.error(file, at, format!("cannot read {}: {error}", path.display())),
        }
    }

    fn error(&mut self, file: &Path, (line, column): (u32, u32), message: String) {
        if self.errors.len() == MOST_ERRORS {
            self.more += 1;
            return;
        }
        self.errors.push(ListError { file: file.to_path_buf(), line, column, message });
    }

    fn entry(&mut self, entry: &str) -> Result<(), Bad> {
        let (excluded, positive) = match entry.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, entry),
        };
        let shift = entry.len() - positive.len();
        if positive.starts_with('@') {
            return Err(Bad(shift, "a file cannot be taken out; put ! before its lines".to_owned()));
        }
        let shifted = |Bad(at, message): Bad| Bad(at + shift, message);
        let origin = self.next_origin;
        match range(positive).map_err(shifted)? {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.into(), last.into());
                self.parsed.v4.push(Painted { first, last, origin, excluded });
            }
            (first, last) => {
                let (first, last) = (number(first), number(last));
                self.parsed.v6.push(Painted { first, last, origin, excluded });
            }
        }
        Ok(())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The first and the last address of an entry; of one family.
fn range(entry: &str) -> Result<(IpAddr, IpAddr), Bad> {
    if let Some((left, right)) = entry.split_once('-') {
        let at = entry.len() - right.trim_start().len();
        let first = address(left.trim_end(), 0)?;
        let last = address(right.trim(), at)?;
        if first.is_ipv4() != last.is_ipv4() {
            return Err(Bad(at, "both ends of a range must be of one family".to_owned()));
        }
        if first > last {
            return Err(Bad(at, format!("the range ends before it begins ({last} is below {first})")));
        }
        return Ok((first, last));
    }
    let Some((network, length)) = entry.split_once('/') else {
        let single = address(entry, 0)?;
        return Ok((single, single));
    };
    let at = network.len() + 1;
    cidr(network, length, at)
}

fn cidr(network: &str, length: &str, at: usize) -> Result<(IpAddr, IpAddr), Bad> {
    let raw = plain(network, 0)?;
    let bits: u32 = if raw.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
    let length = match length.parse::<u32>() {
        Ok(length) if digits && (1..=bits).contains(&length) => length,
        _ => return Err(Bad(at, format!("expected a prefix length from 1 to {bits}, found \"{length}\""))),
    };
    let host_bits = |address: u128, length: u32, bits: u32| {
        let host = bits - length;
        let mask = 1_u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1);
        (address & !mask, address | mask)
    };
    let (first, last) = match raw {
        IpAddr::V4(address) => {
            let (first, last) = host_bits(u32::from(address).into(), length, 32);
            (v4(first), v4(last))
        }
        IpAddr::V6(address) => {
            let (first, last) = host_bits(address.into(), length, 128);
            (IpAddr::V6(Ipv6Addr::from(first)), IpAddr::V6(Ipv6Addr::from(last)))
        }
    };
    if first != raw {
        return Err(Bad(0, format!("{raw}/{length} has host bits set; the network is {first}/{length}")));
    }
    // The whole of an IPv4-mapped network is IPv4; one that is larger than all of them is plain IPv6.
    match (first.to_canonical(), last.to_canonical()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ok((first.into(), last.into())),
        _ => Ok((first, last)),
    }
}

fn v4(number: u128) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
}

/// An address, an IPv4-mapped one as IPv4.
fn address(text: &str, at: usize) -> Result<IpAddr, Bad> {
    plain(text, at).map(|address| address.to_canonical())
}

fn plain(text: &str, at: usize) -> Result<IpAddr, Bad> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => match rest.strip_suffix(']') {
            Some(inner) if inner.contains(':') => inner,
            _ => return Err(Bad(at, format!("expected an IPv6 address in brackets, found \"{text}\""))),
        },
        None => text,
    };
    bare.parse().map_err(|_| {
        let what = if text.is_empty() { "nothing".to_owned() } else { format!("\"{text}\"") };
        Bad(at, format!("expected an address, a network or a range, found {what}"))
    })
}
