//! The tables of `tests/data/proxy_headers`: a line is a header with `\r`, `\n`, `\xNN` and `{V2}` for the
//! signature of version 2, then ` => ` and what it means. `PORTREEVE_BLESS=1` writes what is said now.

use std::net::SocketAddr;
use std::path::Path;

use proptest::prelude::*;

use super::{LONGEST, Parsed, V2_SIGNATURE, parse, write_v1, write_v2};

fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match () {
            () if rest.starts_with("{V2}") => {
                bytes.extend(V2_SIGNATURE);
                4
            }
            // {65*n} repeats a byte.
            () if rest.starts_with('{') => {
                let (repeat, _) = rest[1..].split_once('}').unwrap();
                let (byte, count) = repeat.split_once('*').unwrap();
                let byte = u8::from_str_radix(byte, 16).unwrap();
                bytes.resize(bytes.len() + count.parse::<usize>().unwrap(), byte);
                repeat.len() + 2
            }
            () if rest.starts_with("\\r") => {
                bytes.push(b'\r');
                2
            }
            () if rest.starts_with("\\n") => {
                bytes.push(b'\n');
                2
            }
            () if rest.starts_with("\\x") => {
                bytes.push(u8::from_str_radix(&rest[2..4], 16).unwrap());
                4
            }
            () => {
                bytes.extend(first.to_string().as_bytes());
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    bytes
}

fn meaning(header: &[u8]) -> String {
    match parse(header) {
        Parsed::NeedMore => "more".to_owned(),
        Parsed::Bad(why) => why.to_owned(),
        Parsed::Header { addresses, length } => {
            let rest = header.len() - length;
            match addresses {
                Some((source, destination)) => format!("{source} {destination} +{rest}"),
                None => format!("sender +{rest}"),
            }
        }
    }
}

fn table(name: &str) -> Vec<(String, String)> {
    let path = Path::new("tests/data/proxy_headers").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let rows: Vec<(String, String)> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.rsplit_once(" => ").unwrap_or((line, "")))
        .map(|(header, meaning)| (header.to_owned(), meaning.to_owned()))
        .collect();
    if std::env::var_os("PORTREEVE_BLESS").is_some() {
        let line =
            |(header, _): &(String, String)| format!("{header} => {}\n", meaning(&bytes(header)));
        std::fs::write(&path, rows.iter().map(line).collect::<String>()).unwrap();
    }
    rows
}

#[test]
fn every_header_of_the_tables_means_what_it_says() {
    for (header, expected) in table("good.txt") {
        assert_eq!(meaning(&bytes(&header)), expected, "{header}");
    }
    let bad = table("bad.txt");
    assert!(bad.len() >= 60, "only {} bad headers", bad.len());
    for (header, expected) in bad {
        assert!(matches!(parse(&bytes(&header)), Parsed::Bad(_)), "{header}");
        assert_eq!(meaning(&bytes(&header)), expected, "{header}");
    }
}

#[test]
fn the_beginning_of_a_good_header_asks_for_more() {
    for (header, _) in table("good.txt") {
        let header = bytes(&header);
        let Parsed::Header { length, .. } = parse(&header) else {
            continue;
        };
        for end in 0..length {
            assert_eq!(
                parse(&header[..end]),
                Parsed::NeedMore,
                "{end} of {header:?}"
            );
        }
    }
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>()
        .prop_map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

proptest! {
    #[test]
    fn what_is_written_is_read(source in addresses(), destination in addresses(), name in "[a-z.]{0,260}") {
        for header in [
            write_v1(source, destination),
            write_v2(source, destination, None),
            write_v2(source, destination, Some(&name)),
        ] {
            let expected = Parsed::Header { addresses: Some((source, destination)), length: header.len() };
            let followed = [header.as_slice(), b"PROXY "].concat();
            prop_assert_eq!(parse(&followed), expected);
        }
    }

    #[test]
    fn nothing_is_claimed_that_was_not_given(
        start in 0..4_usize,
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let starts: [&[u8]; 4] = [b"", b"PROXY TCP4 ", b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21"];
        let bytes = [starts[start], &rest].concat();
        if let Parsed::Header { length, .. } = parse(&bytes) {
            prop_assert!(length <= bytes.len() && length <= LONGEST);
        }
    }
}
