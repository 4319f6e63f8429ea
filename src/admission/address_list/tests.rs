use super::{AddressList, Source, plain_position};
use proptest::prelude::*;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

fn has(list: &str, address: &str) -> bool {
    AddressList::from_text(list).unwrap().contains(address.parse().unwrap())
}

fn errors(text: &str) -> Vec<String> {
    let position = |offset| plain_position(text, offset);
    let source = Source { file: Path::new("l"), text, position: &position };
    AddressList::parse(&source).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn every_form_of_a_line_is_understood() {
    let list = "\u{feff}127.0.0.1 ; one\r\n10.0.0.0/8\n192.168.1.10 - 192.168.1.99\n\n;\n2001:db8::/32\n\
                [2001:db9::7]\n[2001:dba::]/48\n::ffff:192.0.2.0/120\n";
    for yes in [
        "127.0.0.1", "::ffff:127.0.0.1", "10.255.255.255", "192.168.1.10", "192.168.1.99",
        "2001:db8:ffff::", "2001:db9::7", "2001:dba::1", "192.0.2.255",
    ] {
        assert!(has(list, yes), "{yes}");
    }
    for no in ["127.0.0.2", "11.0.0.0", "192.168.1.9", "192.168.1.100", "2001:db9::8", "192.0.3.0"] {
        assert!(!has(list, no), "{no}");
    }
}

#[test]
fn an_exclamation_mark_takes_out_of_the_lines_above_only() {
    assert!(!has("10.0.0.0/8\n!10.66.0.0/16", "10.66.0.1"));
    assert!(has("10.0.0.0/8\n!10.66.0.0/16", "10.67.0.0"));
    assert!(has("!10.66.0.0/16\n10.0.0.0/8", "10.66.0.1"));
    assert!(has("10.0.0.0/8\n!10.66.0.0/16\n10.66.0.1", "10.66.0.1"));
    assert!(!has("!10.0.0.0/8", "10.0.0.1"));
}

#[test]
fn bad_lines_name_their_place_and_what_was_expected() {
    for (line, expected) in [
        ("10.0.0.1/8", "l:1:1: 10.0.0.1/8 has host bits set; the network is 10.0.0.0/8"),
        ("10.0.0.0/0", "l:1:10: expected a prefix length from 1 to 32, found \"0\""),
        ("10.0.0.0/33", "l:1:10: expected a prefix length from 1 to 32, found \"33\""),
        ("10.0.0.0/+8", "l:1:10: expected a prefix length from 1 to 32, found \"+8\""),
        ("10.0.0.0/", "l:1:10: expected a prefix length from 1 to 32, found \"\""),
        ("2001:db8::/129", "l:1:12: expected a prefix length from 1 to 128, found \"129\""),
        (" !x", "l:1:3: expected an address, a network or a range, found \"x\""),
        ("!", "l:1:2: expected an address, a network or a range, found nothing"),
        ("010.0.0.1", "l:1:1: expected an address, a network or a range, found \"010.0.0.1\""),
        ("10.0.0.2-10.0.0.1", "l:1:10: the range ends before it begins (10.0.0.1 is below 10.0.0.2)"),
        ("10.0.0.2 - ::1", "l:1:12: both ends of a range must be of one family"),
        ("[10.0.0.2]", "l:1:1: expected an IPv6 address in brackets, found \"[10.0.0.2]\""),
        ("@", "l:1:1: expected a file name after @"),
        ("!@f", "l:1:2: a file cannot be taken out; put ! before its lines"),
        ("1.2.3.4 5.6.7.8", "l:1:1: expected an address, a network or a range, found \"1.2.3.4 5.6.7.8\""),
    ] {
        assert_eq!(errors(line), [expected], "{line}");
    }
    assert_eq!(errors("x\n1.2.3.4\ny").len(), 2, "all bad lines are reported");
}

#[test]
fn files_are_read_in_place_and_the_deciding_line_is_known() {
    let text = "10.0.0.0/8\n@sub/a\n!10.2.0.0/16\n";
    let position = |offset| plain_position(text, offset);
    let source = Source { file: Path::new("etc/l"), text, position: &position };
    let mut loader = |path: &Path| match path.to_str() {
        Some("etc/sub/a") => Ok("; head\n11.0.0.0/8\n@b\n12.0.0.0/8".to_owned()),
        Some("etc/sub/b") => Ok("!10.1.0.0/16".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let list = AddressList::parse_with(&source, &mut loader).unwrap();
    let decide = |address: &str| {
        let decision = list.decide(address.parse().unwrap())?;
        Some((decision.listed, decision.file.to_str().unwrap().to_owned(), decision.line))
    };
    let place = |listed, file: &str, line| Some((listed, file.to_owned(), line));
    assert_eq!(decide("10.0.0.1"), place(true, "etc/l", 1));
    assert_eq!(decide("11.0.0.1"), place(true, "etc/sub/a", 2));
    assert_eq!(decide("10.1.0.1"), place(false, "etc/sub/b", 1));
    assert_eq!(decide("12.0.0.1"), place(true, "etc/sub/a", 4));
    assert_eq!(decide("10.2.0.1"), place(false, "etc/l", 3));
    assert_eq!(decide("13.0.0.1"), None);
}

#[test]
fn a_cycle_of_files_is_an_error() {
    let position = |offset| plain_position("@b", offset);
    let source = Source { file: Path::new("a"), text: "@b", position: &position };
    let errors = AddressList::parse_with(&source, &mut |_| Ok("\n@a".to_owned())).unwrap_err();
    assert_eq!(errors[0].to_string(), "b:2:1: a file names itself: a -> b -> a");
}

#[test]
fn an_ipv6_range_costs_36_bytes_and_an_ipv4_range_12() {
    let text: String = (0..100).map(|n| format!("10.0.{n}.0/25\n2001:db8:{n:x}::/49\n")).collect();
    assert_eq!(AddressList::from_text(&text).unwrap().memory(), 100 * (12 + 36));
}

/// A line as text and as the naive model keeps it.
fn line() -> impl Strategy<Value = (String, bool, u128, u128, bool)> {
    let v4 = (any::<bool>(), 0_u32..64, 0_u32..16).prop_map(|(out, at, more)| {
        let (first, last) = (0x0a00_0000 + at, 0x0a00_0000 + at + more);
        let text = format!("{}-{}", Ipv4Addr::from(first), Ipv4Addr::from(last));
        (text, out, u128::from(first), u128::from(last), true)
    });
    let v6 = (any::<bool>(), 0_u128..64, 0_u32..5).prop_map(|(out, at, host)| {
        let first = at >> host << host;
        let text = format!("{}/{}", Ipv6Addr::from(first), 128 - host);
        (text, out, first, first + (1 << host) - 1, false)
    });
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn a_compiled_list_agrees_with_reading_its_lines_backwards(lines in prop::collection::vec(line(), 0..40)) {
        let text: String =
            lines.iter().map(|(text, out, ..)| format!("{}{text}\n", if *out { "!" } else { "" })).collect();
        let list = AddressList::from_text(&text).unwrap();
        for at in 0..80_u32 {
            for is_v4 in [true, false] {
                let (address, number) = if is_v4 {
                    let number = 0x0a00_0000 + at;
                    (IpAddr::V4(Ipv4Addr::from(number)), u128::from(number))
                } else {
                    (IpAddr::V6(Ipv6Addr::from(u128::from(at))), u128::from(at))
                };
                let decides = lines.iter().rposition(|(_, _, first, last, v4)| {
                    *v4 == is_v4 && (*first..=*last).contains(&number)
                });
                prop_assert_eq!(list.contains(address), decides.is_some_and(|index| !lines[index].1));
                prop_assert_eq!(list.decide(address).map(|found| found.line as usize), decides.map(|index| index + 1));
            }
        }
    }

    #[test]
    fn any_text_is_a_list_or_an_error(text in "[0-9a-f:./!@;\\[\\] \n-]{0,60}") {
        let position = |offset| plain_position(&text, offset);
        let source = Source { file: Path::new("l"), text: &text, position: &position };
        let _ = AddressList::parse_with(&source, &mut |_| Err(io::ErrorKind::NotFound.into()));
    }
}
