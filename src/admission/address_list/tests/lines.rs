use super::super::Decision;
use super::*;

/// An entry, and the ranges that it lists.
const GOOD: &[(&str, &str)] = &[
    ("127.0.0.1", "127.0.0.1-127.0.0.1"),
    ("10.0.0.0/8", "10.0.0.0-10.255.255.255"),
    ("128.0.0.0/1", "128.0.0.0-255.255.255.255"),
    ("192.0.2.1/32", "192.0.2.1-192.0.2.1"),
    ("192.168.1.10-192.168.1.99", "192.168.1.10-192.168.1.99"),
    (
        "192.168.1.10 \t-  192.168.1.99",
        "192.168.1.10-192.168.1.99",
    ),
    ("192.0.2.1-192.0.2.1", "192.0.2.1-192.0.2.1"),
    ("0.0.0.0-255.255.255.255", "0.0.0.0-255.255.255.255"),
    (
        "2001:db8::/32",
        "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    ("8000::/1", "8000::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("::1/128", "::1-::1"),
    ("2001:DB8::7", "2001:db8::7-2001:db8::7"),
    ("[2001:db8::7]", "2001:db8::7-2001:db8::7"),
    ("[2001:db8::]/126", "2001:db8::-2001:db8::3"),
    ("[2001:db8::1] - [2001:db8::3]", "2001:db8::1-2001:db8::3"),
    ("2001:db8::1-2001:db8::3", "2001:db8::1-2001:db8::3"),
    ("::ffff:192.0.2.1", "192.0.2.1-192.0.2.1"),
    ("[::ffff:192.0.2.1]", "192.0.2.1-192.0.2.1"),
    ("::ffff:10.0.0.0/104", "10.0.0.0-10.255.255.255"),
    ("::ffff:0:0/96", "0.0.0.0-255.255.255.255"),
    ("::ffff:10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9"),
    ("::192.0.2.1", "::c000:201-::c000:201"),
    ("  10.0.0.1  ; a comment", "10.0.0.1-10.0.0.1"),
    ("10.0.0.1;10.0.0.2;", "10.0.0.1-10.0.0.1"),
    ("\u{feff}10.0.0.1", "10.0.0.1-10.0.0.1"),
    (
        "10.0.0.1\r\n\r\n10.0.0.3\r\n",
        "10.0.0.1-10.0.0.1 10.0.0.3-10.0.0.3",
    ),
    ("10.0.0.1\n10.0.0.2\n10.0.0.0", "10.0.0.0-10.0.0.2"),
    (
        "10.0.0.0/30\n!10.0.0.1",
        "10.0.0.0-10.0.0.0 10.0.0.2-10.0.0.3",
    ),
    (
        "10.0.0.0/30\n! \t10.0.0.1 - 10.0.0.2 ; two",
        "10.0.0.0-10.0.0.0 10.0.0.3-10.0.0.3",
    ),
    ("2001:db8::/126\n!2001:db8::/127", "2001:db8::2-2001:db8::3"),
    ("!10.0.0.0/8", ""),
    ("", ""),
    (";\n\n  ; nothing\n\t", ""),
    ("\u{feff}", ""),
];

#[test]
fn good_lines_list_what_they_say() {
    for (text, expected) in GOOD {
        let list = list(text);
        let ranges: Vec<String> = list
            .ranges()
            .map(|range| format!("{}-{}", range.start(), range.end()))
            .collect();
        assert_eq!(ranges.join(" "), *expected, "{text:?}");
        assert_eq!(list.is_empty(), expected.is_empty(), "{text:?}");
        assert_eq!(list.text(), *text);
    }
}

/// A text, and its errors as they are shown, without the name of the file.
const BAD: &[(&str, &[&str])] = &[
    ("10.0.0", &["1:1: expected an address, found `10.0.0`"]),
    (
        "  10.0.0.256 ; x",
        &["1:3: expected an address, found `10.0.0.256`"],
    ),
    (
        "10.0.0.010",
        &["1:1: `10.0.0.010` has a number with a leading zero, which some read as octal"],
    ),
    (
        "mail.example.org",
        &["1:1: expected an address, found `mail.example.org`: names are not looked up"],
    ),
    (
        "mail-1.example.org",
        &["1:1: expected an address, found `mail`: names are not looked up"],
    ),
    (
        "10.1.2.3/8",
        &["1:1: 10.1.2.3/8 has bits behind its prefix: the network is 10.0.0.0/8"],
    ),
    (
        "2001:db8::1/32",
        &["1:1: 2001:db8::1/32 has bits behind its prefix: the network is 2001:db8::/32"],
    ),
    (
        "::ffff:0:0/95",
        &["1:1: ::ffff:0:0/95 has bits behind its prefix: the network is ::fffe:0:0/95"],
    ),
    (
        "0.0.0.0/0",
        &["1:9: /0 is all of IPv4, seldom on purpose: if it is, write 0.0.0.0-255.255.255.255"],
    ),
    (
        "10.1.2.3/0",
        &["1:10: /0 is all of IPv4, seldom on purpose: if it is, write 0.0.0.0-255.255.255.255"],
    ),
    (
        "!::/0",
        &[
            "1:4: /0 is all of IPv6, seldom on purpose: if it is, write ::/1 and 8000::/1 on two lines",
        ],
    ),
    (
        "10.0.0.0/33",
        &["1:10: expected a prefix length from 1 to 32, found `33`"],
    ),
    (
        "::/129",
        &["1:4: expected a prefix length from 1 to 128, found `129`"],
    ),
    (
        "10.0.0.0/+8",
        &["1:10: expected a prefix length from 1 to 32, found `+8`"],
    ),
    (
        "10.0.0.0/08",
        &["1:10: expected a prefix length from 1 to 32, found `08`"],
    ),
    (
        "10.0.0.0/",
        &["1:10: expected a prefix length from 1 to 32, found ``"],
    ),
    (
        "10.0.0.0/8/8",
        &["1:10: expected a prefix length from 1 to 32, found `8/8`"],
    ),
    (
        "10.0.0.0/8-10.1.0.0",
        &["1:10: expected a prefix length from 1 to 32, found `8-10.1.0.0`"],
    ),
    (
        "10.0.0.0/255.0.0.0",
        &["1:10: a netmask is written as its length: write 10.0.0.0/8"],
    ),
    (
        "10.0.0.0/0.255.255.255",
        &["1:10: expected a prefix length from 1 to 32, found `0.255.255.255`"],
    ),
    (
        "10.0.0.9-10.0.0.1",
        &["1:1: the range runs backwards: 10.0.0.9 is above 10.0.0.1"],
    ),
    (
        "10.0.0.9 - 2001:db8::1",
        &["1:1: a range has both ends in IPv4 or both in IPv6"],
    ),
    (
        "::1-::ffff:10.0.0.9",
        &["1:1: a range has both ends in IPv4 or both in IPv6"],
    ),
    ("10.0.0.9 - ", &["1:11: expected an address, found nothing"]),
    ("-10.0.0.9", &["1:1: expected an address, found nothing"]),
    ("10.0.0.1 - 99", &["1:12: expected an address, found `99`"]),
    (
        "10.0.0.1-10.0.0.2-10.0.0.3",
        &["1:10: expected an address, found `10.0.0.2-10.0.0.3`"],
    ),
    ("!", &["1:2: expected an address, found nothing"]),
    (
        "!!10.0.0.1",
        &["1:2: expected an address, found `!10.0.0.1`"],
    ),
    (
        "!@more.list",
        &["1:1: `!` cannot stand before `@`: put it before the lines of that file"],
    ),
    ("@", &["1:2: expected the name of a file after `@`"]),
    (
        "[10.0.0.1]",
        &["1:2: expected an IPv6 address between brackets, found `10.0.0.1`"],
    ),
    (
        "[2001:db8::/32]",
        &["1:1: expected `]` at the end of `[2001:db8::`"],
    ),
    (
        "[::1]:25",
        &["1:1: a list holds addresses without ports: write ::1"],
    ),
    (
        "10.0.0.1:25",
        &["1:1: a list holds addresses without ports: write 10.0.0.1"],
    ),
    (
        "fe80::1%eth0",
        &["1:9: a list holds addresses without zones: write fe80::1"],
    ),
    ("10.0.0.1 # why", &["1:10: a comment begins with `;`"]),
    ("// why", &["1:1: a comment begins with `;`"]),
    (
        "10.0.0.1, 10.0.0.2",
        &["1:11: expected one entry a line, found `10.0.0.2` behind it"],
    ),
    (
        "10.0.0.0/8 2001:db8::/32",
        &["1:12: expected one entry a line, found `2001:db8::/32` behind it"],
    ),
    (
        "10.0.0.1\n\nx\n10.0.0.2\r\n  é y\r\n",
        &[
            "3:1: expected an address, found `x`: names are not looked up",
            "5:3: expected an address, found `é y`: names are not looked up",
        ],
    ),
    (
        "\u{feff}10.0.0.0/99",
        &["1:10: expected a prefix length from 1 to 32, found `99`"],
    ),
    ("1.\u{7}2", &["1:1: expected an address, found `1.\\u{7}2`"]),
    (
        "1111111111222222222233333333334444444444555",
        &["1:1: expected an address, found `1111111111222222222233333333334444444444...`"],
    ),
];

#[test]
fn bad_lines_say_where_and_what_was_expected() {
    for (text, expected) in BAD {
        let shown: Vec<String> = errors(text).iter().map(ToString::to_string).collect();
        let expected: Vec<String> = expected.iter().map(|e| format!("test.list:{e}")).collect();
        assert_eq!(shown, expected, "{text:?}");
    }
}

#[test]
fn after_fifty_errors_the_rest_is_counted() {
    let shown = errors(&"bad\n".repeat(50));
    assert_eq!(shown.len(), 50);
    let shown = errors(&"bad\n".repeat(51));
    assert!(shown[50].message.starts_with("expected"));
    let shown = errors(&"bad\n".repeat(1000));
    assert_eq!(shown.len(), 51);
    assert_eq!(
        shown[50].to_string(),
        "test.list:51:1: and 950 more bad lines from here on"
    );
}

#[test]
fn the_last_line_that_covers_an_address_decides() {
    let list =
        list("10.0.0.0/8\n!10.66.0.0/16\n10.66.6.0/24 ; back\n!10.66.6.6\n10.66.6.6\n!10.99.0.1");
    assert_eq!(decided(&list, "10.1.0.0"), Some((true, 1)));
    assert_eq!(decided(&list, "10.66.255.255"), Some((false, 2)));
    assert_eq!(decided(&list, "10.66.6.7"), Some((true, 3)));
    assert_eq!(decided(&list, "10.66.6.6"), Some((true, 5)));
    assert_eq!(decided(&list, "10.99.0.1"), Some((false, 6)));
    assert_eq!(decided(&list, "11.0.0.0"), None);
    assert!(!list.contains(address("10.99.0.1")));
}

#[test]
fn an_exclusion_touches_only_the_lines_above_it() {
    let list = list("!10.0.0.0/8\n10.0.0.1");
    assert!(list.contains(address("10.0.0.1")));
    assert_eq!(decided(&list, "10.0.0.2"), Some((false, 1)));
}

#[test]
fn mapped_addresses_are_ipv4() {
    let list = list("192.0.2.0/24\n::ffff:198.51.100.7");
    assert!(list.contains(address("::ffff:192.0.2.1")));
    assert!(list.contains(address("198.51.100.7")));
    assert!(!list.contains(address("::192.0.2.1")));
    assert_eq!(
        AddressList::canonical(address("::ffff:192.0.2.1")),
        address("192.0.2.1")
    );
}

#[test]
fn a_wide_ipv6_network_lists_no_ipv4() {
    let list = list("::/1\n8000::/1");
    assert!(list.contains(address("::1")));
    assert!(list.contains(address("ffff::")));
    assert!(!list.contains(address("::ffff:192.0.2.1")));
    assert!(!list.contains(address("192.0.2.1")));
}

#[test]
fn the_first_and_the_last_address_are_found() {
    let list = list("0.0.0.0-255.255.255.255\n!255.255.255.255\n::\nffff::/16");
    assert!(list.contains(address("0.0.0.0")));
    assert_eq!(decided(&list, "255.255.255.255"), Some((false, 2)));
    assert!(list.contains(address("::")));
    assert!(list.contains(address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
}

#[test]
fn a_text_inside_another_file_has_that_files_positions() {
    // As in `clients: "10.0.0.0/8\n!10.0.0.1\nx"` on line 7, where `\n` takes two columns.
    let text = "10.0.0.0/8\n!10.0.0.1\nx";
    let column = |offset| 20 + offset + text[..offset].matches('\n').count();
    let position = |offset: usize| (7, u32::try_from(column(offset)).unwrap());
    let mut source = Source {
        file: Path::new("conf/portreeve.ron"),
        text,
        position: &position,
    };
    let errors = AddressList::parse(&source).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "conf/portreeve.ron:7:43: expected an address, found `x`: names are not looked up"
    );
    source.text = &text[..20];
    let list = AddressList::parse(&source).unwrap();
    let expected = Decision {
        listed: false,
        file: Path::new("conf/portreeve.ron"),
        line: 7,
    };
    assert_eq!(list.decide(address("10.0.0.1")), Some(expected));
    assert_eq!(decided(&list, "10.0.0.2"), Some((true, 7)));
}

#[test]
fn a_default_list_is_empty() {
    let list = AddressList::default();
    assert!(list.is_empty());
    assert_eq!(list.decide(address("::1")), None);
    assert_eq!(list.ranges().count(), 0);
}

#[test]
fn a_list_can_be_shared_by_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    shared(&list("10.0.0.1"));
}
