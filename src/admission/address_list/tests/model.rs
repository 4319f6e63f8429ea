//! The compiled form against a linear scan, and against another crate's prefix tree.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;
use proptest::prelude::*;

use super::super::lookup::Ranges;
use super::super::origin::Origins;
use super::super::{compile, compile::Span};
use super::*;

/// A line: whether it lists, first and last address.
type Line = (bool, u128, u128);

/// Addresses near each other, near the ends of their family, or anywhere.
fn numbers(max: u128) -> impl Strategy<Value = u128> {
    prop_oneof![4 => 1000..1064u128, 1 => 0..8u128, 1 => (max - 8)..=max, 1 => 0..=max]
}

fn lines(max: u128) -> impl Strategy<Value = Vec<Line>> {
    let line = (any::<bool>(), numbers(max), numbers(max))
        .prop_map(|(listed, a, b)| (listed, a.min(b), a.max(b)));
    prop::collection::vec(line, 0..80)
}

/// The number of the last line that covers `address`, from 1, and whether it lists.
fn scan(lines: &[Line], address: u128) -> Option<(bool, u32)> {
    let covers = |(_, first, last): &Line| (*first..=*last).contains(&address);
    let found = lines.iter().rposition(covers)?;
    Some((lines[found].0, u32::try_from(found + 1).unwrap()))
}

fn check(lines: &[Line], asked: &[u128], max: u128, address: impl Fn(u128) -> IpAddr) {
    let mut text = String::new();
    for (listed, first, last) in lines {
        let sign = if *listed { "" } else { "!" };
        text += &format!("{sign}{}-{}\n", address(*first), address(*last));
    }
    let list = list(&text);
    let ends = lines.iter().flat_map(|(_, first, last)| {
        [
            first.saturating_sub(1),
            *first,
            *last,
            last.saturating_add(1),
        ]
    });
    for number in ends.chain(asked.iter().copied()) {
        let number = number.min(max);
        let asked = address(number);
        let expected = scan(lines, number);
        assert_eq!(
            decided(&list, &asked.to_string()),
            expected,
            "{asked}\n{text}"
        );
        assert_eq!(
            list.contains(asked),
            expected.is_some_and(|(listed, _)| listed)
        );
        let in_ranges = list.ranges().any(|range| range.contains(&asked));
        assert_eq!(in_ranges, list.contains(asked), "{asked}\n{text}");
    }
}

proptest! {
    #[test]
    fn ipv4_agrees_with_a_linear_scan(
        lines in lines(u128::from(u32::MAX)),
        asked in prop::collection::vec(numbers(u128::from(u32::MAX)), 20),
    ) {
        check(&lines, &asked, u32::MAX.into(), |number| {
            Ipv4Addr::from_bits(u32::try_from(number).unwrap()).into()
        });
    }

    #[test]
    fn ipv6_agrees_with_a_linear_scan(
        lines in lines(u128::MAX),
        asked in prop::collection::vec(numbers(u128::MAX), 20),
    ) {
        check(&lines, &asked, u128::MAX, |number| Ipv6Addr::from_bits(number).into());
    }

    #[test]
    fn ipv4_networks_agree_with_a_prefix_tree(
        networks in prop::collection::vec((any::<u32>(), 4..=32u8), 0..300),
        asked in prop::collection::vec(any::<u32>(), 100),
    ) {
        let networks: PrefixSet<Ipv4Net> = networks
            .into_iter()
            .map(|(bits, length)| Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), length).trunc())
            .collect();
        let text: String = networks.iter().map(|network| format!("{network}\n")).collect();
        let list = list(&text);
        let firsts: Vec<u32> = networks.iter().map(|network| network.network().to_bits()).collect();
        for bits in asked.into_iter().chain(firsts) {
            let address = Ipv4Addr::from_bits(bits);
            let expected = networks.get_lpm(&Ipv4Net::from(address)).is_some();
            prop_assert_eq!(list.contains(address.into()), expected);
        }
    }

    #[test]
    fn ipv6_networks_agree_with_a_prefix_tree(
        networks in prop::collection::vec((any::<u128>(), 4..=128u8), 0..300),
        asked in prop::collection::vec(any::<u128>(), 100),
    ) {
        let networks: PrefixSet<Ipv6Net> = networks
            .into_iter()
            .map(|(bits, length)| Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), length).trunc())
            .collect();
        let text: String = networks.iter().map(|network| format!("{network}\n")).collect();
        let list = list(&text);
        let firsts: Vec<u128> = networks.iter().map(|network| network.network().to_bits()).collect();
        for bits in asked.into_iter().chain(firsts) {
            let address = Ipv6Addr::from_bits(bits);
            let expected = networks.get_lpm(&Ipv6Net::from(address)).is_some();
            prop_assert_eq!(list.contains(address.into()), expected);
        }
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_position(text in "[0-9a-f.:/!@;\\[\\] \\-\r\n]{0,60}") {
        let source = Source::file(Path::new("main"), &text);
        if let Err(errors) = AddressList::parse_with(&source, &mut |_| Ok(String::new())) {
            prop_assert!(errors.iter().all(|error| error.line > 0 && error.column > 0));
        }
    }
}

#[test]
fn every_size_of_list_finds_each_of_its_ranges() {
    let sizes = (0..70).chain([255, 256, 257, 271, 272, 273, 4095, 4096, 4097, 70_000]);
    for size in sizes {
        let mut origins = Origins::default();
        let file = origins.add_file("test.list".into());
        let spans: Vec<Span<u32>> = (1..=size)
            .map(|line| Span {
                first: line * 10,
                last: line * 10 + 4,
                origin: origins.add(file, line, true).unwrap(),
            })
            .collect();
        let ranges = Ranges::new(compile::disjoint(spans));
        let line = |address| ranges.origin(address).map(|origin| origins.place(origin).1);
        assert_eq!(line(9), None);
        for number in 1..=size {
            assert_eq!(line(number * 10), Some(number));
            assert_eq!(line(number * 10 + 4), Some(number));
            assert_eq!(line(number * 10 + 5), None);
        }
        assert_eq!(line(u32::MAX), None);
    }
}

#[test]
fn nested_alternating_lines_cost_no_quadratic_work() {
    // Each line lies within the one before: the worst case for a list that is edited in place.
    let mut text = String::new();
    for line in 0..100_000u32 {
        let sign = if line % 2 == 0 { "" } else { "!" };
        let first = Ipv4Addr::from_bits(line);
        let last = Ipv4Addr::from_bits(u32::MAX - line);
        text += &format!("{sign}{first}-{last}\n");
    }
    let list = list(&text);
    assert_eq!(list.len(), 100_000);
    assert_eq!(decided(&list, "0.0.0.1"), Some((false, 2)));
    assert_eq!(decided(&list, "128.0.0.0"), Some((false, 100_000)));
    assert!(list.memory() < 100_000 * 40);
}
