#![forbid(unsafe_code)]
//! The lists of a socket as a program for the kernel (classic BPF, Linux' `SO_ATTACH_FILTER`), so that a flood
//! from addresses that are refused anyway does not reach the process. Pure.
//!
//! It refuses nothing that the ladder admits. What it lets through is still decided by the ladder, so it may
//! let through too much: it knows neither bans nor rates, and leaves senders in `::ffff:0:0/96` to the ladder.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::address_list::AddressList;
use super::ladder::Restriction;

/// The most instructions of a program (`BPF_MAXINSNS` of linux/bpf_common.h).
const MOST: usize = 4096;
/// The farthest that a conditional jump leaps.
const FARTHEST: usize = 255;

/// Operations, as linux/bpf_common.h and linux/filter.h have them.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Offsets from here on count from the network header (`SKF_NET_OFF`).
const NETWORK_HEADER: u32 = 0xfff0_0000;
/// How much of a datagram is kept.
const ALL: u32 = u32::MAX;
const NOTHING: u32 = 0;

/// IPv4-mapped addresses, which lists know as IPv4.
const MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// One instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) k: u32,
}

/// What a socket can hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    /// IPv6, and IPv4 in its own packets.
    Both,
}

/// What becomes of a socket's lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SocketFilter {
    /// They refuse nobody that the kernel could refuse.
    Idle,
    /// They refuse these.
    Program(Vec<Instruction>),
    /// One of the lists fits, and refuses these; the other is left to the ladder.
    Part(Vec<Instruction>),
    /// They are too long.
    TooLong,
}

impl SocketFilter {
    /// The program, where there is one.
    pub(crate) fn program(&self) -> Option<&[Instruction]> {
        match self {
            SocketFilter::Program(program) | SocketFilter::Part(program) => Some(program),
            SocketFilter::Idle | SocketFilter::TooLong => None,
        }
    }
}

/// Compiles the server-wide Denied list and a socket's restriction.
pub(crate) fn compile(
    denied: &AddressList,
    restriction: &Restriction,
    family: Family,
) -> SocketFilter {
    let nobody = AddressList::default();
    match program(denied, restriction, family) {
        Some(program) if program.is_empty() => return SocketFilter::Idle,
        Some(program) => return SocketFilter::Program(program),
        None => {}
    }
    let parts = [
        program(&nobody, restriction, family),
        program(denied, &Restriction::Open, family),
    ];
    let part = parts
        .into_iter()
        .flatten()
        .find(|program| !program.is_empty());
    part.map_or(SocketFilter::TooLong, SocketFilter::Part)
}

/// `None` for one that is too long; empty for one that refuses nobody.
fn program(
    denied: &AddressList,
    restriction: &Restriction,
    family: Family,
) -> Option<Vec<Instruction>> {
    let refused = |v6| refused(denied, restriction, v6);
    let v4 = match family {
        Family::V6 => Vec::new(),
        Family::V4 | Family::Both => refused(false)?,
    };
    let v6 = match family {
        Family::V4 => Vec::new(),
        Family::V6 | Family::Both => without(refused(true)?, MAPPED),
    };
    if v4.is_empty() && v6.is_empty() {
        return Some(Vec::new());
    }
    let mut code = Backwards::default();
    // RFC 8200, 3 and RFC 791, 3.1: where the source address is.
    let v6 = code.family(&v6, &[8, 12, 16, 20])?;
    let v4 = code.family(&v4, &[12])?;
    code.branch(JUMP_IF_EQUAL, 6, v6, Target::Verdict(false))?;
    let other = Target::At(code.last());
    code.branch(JUMP_IF_EQUAL, 4, v4, other)?;
    code.push(SHIFT_RIGHT, 4)?;
    code.push(LOAD_BYTE, NETWORK_HEADER)?;
    code.reversed.reverse();
    Some(code.reversed)
}

/// First and last of addresses, in order, none overlapping.
type Ranges = Vec<(u128, u128)>;

/// The addresses of one family that the lists refuse; `None` for too many.
fn refused(denied: &AddressList, restriction: &Restriction, v6: bool) -> Option<Ranges> {
    let mut ranges = listed(denied, v6)?;
    match restriction {
        Restriction::Open => {}
        Restriction::Deny(list) => ranges.extend(listed(list, v6)?),
        Restriction::Grant(list) => ranges.extend(others(&listed(list, v6)?, v6)),
    }
    ranges.sort_unstable();
    let mut joined: Ranges = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if before.1.checked_add(1).is_none_or(|next| first <= next) => {
                before.1 = before.1.max(last);
            }
            _ => joined.push((first, last)),
        }
    }
    Some(joined)
}

fn listed(list: &AddressList, v6: bool) -> Option<Ranges> {
    // Each range takes an instruction at least.
    let own = list.ranges().filter(|range| range.start().is_ipv6() == v6);
    let ranges: Ranges = own.take(MOST + 1).map(|range| numbers(&range)).collect();
    (ranges.len() <= MOST).then_some(ranges)
}

fn numbers(range: &RangeInclusive<IpAddr>) -> (u128, u128) {
    let number = |address: &IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    (number(range.start()), number(range.end()))
}

/// All that is not in `ranges`.
fn others(ranges: &[(u128, u128)], v6: bool) -> Ranges {
    let highest = if v6 { u128::MAX } else { u128::from(u32::MAX) };
    let mut others = Vec::with_capacity(ranges.len() + 1);
    let mut next = Some(0);
    for &(first, last) in ranges {
        if let Some(next) = next.filter(|next| *next < first) {
            others.push((next, first - 1));
        }
        next = last.checked_add(1);
    }
    others.extend(
        next.filter(|next| *next <= highest)
            .map(|next| (next, highest)),
    );
    others
}

/// Ranges with `hole` taken out.
fn without(ranges: Ranges, hole: (u128, u128)) -> Ranges {
    let cut = |(first, last): (u128, u128)| {
        let below = (first < hole.0).then(|| (first, last.min(hole.0 - 1)));
        let above = (last > hole.1).then(|| (first.max(hole.1 + 1), last));
        [below, above].into_iter().flatten()
    };
    ranges.into_iter().flat_map(cut).collect()
}

/// Where a verdict begins: from that address on, and whether it is to be refused.
type Point = (u128, bool);

/// What is to be done with addresses whose next 32 bits are from a value on.
enum Branch {
    Verdict(bool),
    /// Those with just this value are told apart by the bits behind it.
    Further(Vec<Point>),
}

/// Groups points, which have `shift` bits behind the 32 that are looked at, by those.
fn branches(points: &[Point], shift: u32) -> Vec<(u32, Branch)> {
    let word = |at: u128| u32::try_from(at >> shift & u128::from(u32::MAX)).unwrap_or(0);
    let low = |at: u128| at & !(u128::MAX << shift);
    let mut branches: Vec<(u32, Branch)> = Vec::new();
    let mut before = false;
    for group in points.chunk_by(|one, other| word(one.0) == word(other.0)) {
        let (value, first) = (word(group[0].0), low(group[0].0));
        let after = group[group.len() - 1].1;
        // In the place of what the branch before it left for all above itself.
        branches.pop_if(|(other, _)| *other == value);
        if group.len() == 1 && first == 0 {
            branches.push((value, Branch::Verdict(after)));
        } else {
            let begins = (first != 0).then_some((0, before));
            let own = group.iter().map(|&(at, verdict)| (low(at), verdict));
            let further = begins.into_iter().chain(own).collect();
            branches.push((value, Branch::Further(further)));
            branches.extend(
                value
                    .checked_add(1)
                    .map(|next| (next, Branch::Verdict(after))),
            );
        }
        before = after;
    }
    branches
}

/// Where a jump leads.
#[derive(Clone, Copy)]
enum Target {
    /// To the end: true for a refusal.
    Verdict(bool),
    /// To the instruction with this number.
    At(usize),
}

/// A program in the making, its last instruction first: jumps lead forwards only, so their ends are known.
#[derive(Default)]
struct Backwards {
    reversed: Vec<Instruction>,
    /// The latest `RETURN` that keeps, and that refuses.
    returns: [Option<usize>; 2],
}

impl Backwards {
    fn last(&self) -> usize {
        self.reversed.len() - 1
    }

    fn push(&mut self, code: u16, k: u32) -> Option<()> {
        self.jump(code, k, 0, 0)
    }

    fn jump(&mut self, code: u16, k: u32, jump_true: u8, jump_false: u8) -> Option<()> {
        let instruction = Instruction {
            code,
            jump_true,
            jump_false,
            k,
        };
        self.reversed.push(instruction);
        (self.reversed.len() <= MOST).then_some(())
    }

    /// Finds the verdict on an address of one family, whose words are at these offsets.
    fn family(&mut self, ranges: &[(u128, u128)], offsets: &[u32]) -> Option<Target> {
        let shift = 32 * (u32::try_from(offsets.len()).unwrap_or(4) - 1);
        let highest = !(u128::MAX << shift << 31 << 1);
        let highest = if shift == 96 { u128::MAX } else { highest };
        let mut points = Vec::with_capacity(ranges.len() * 2 + 1);
        if ranges.first().is_none_or(|(first, _)| *first > 0) {
            points.push((0, false));
        }
        for &(first, last) in ranges {
            points.push((first, true));
            let next = last.checked_add(1).filter(|next| *next <= highest);
            points.extend(next.map(|next| (next, false)));
        }
        self.words(&points, offsets)
    }

    /// Looks at one word, and at those behind it where that does not decide.
    fn words(&mut self, points: &[Point], offsets: &[u32]) -> Option<Target> {
        let (&offset, further) = offsets.split_first()?;
        if let [(_, verdict)] = points {
            return Some(Target::Verdict(*verdict));
        }
        let shift = 32 * u32::try_from(further.len()).ok()?;
        self.search(&branches(points, shift), further)?;
        self.push(LOAD_WORD, NETWORK_HEADER + offset)?;
        Some(Target::At(self.last()))
    }

    /// A binary search; the word is loaded.
    fn search(&mut self, branches: &[(u32, Branch)], further: &[u32]) -> Option<Target> {
        match branches {
            [] => None,
            [(_, Branch::Verdict(verdict))] => Some(Target::Verdict(*verdict)),
            [(_, Branch::Further(points))] => self.words(points, further),
            _ => {
                let (below, above) = branches.split_at(branches.len() / 2);
                let from = above[0].0;
                let above = self.search(above, further)?;
                let below = self.search(below, further)?;
                self.branch(JUMP_IF_AT_LEAST, from, above, below)?;
                Some(Target::At(self.last()))
            }
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Option<()> {
        // The other one may add an instruction in between.
        let yes = self.reach(yes, 1)?;
        let no = self.reach(no, 0)?;
        let leap = |to: usize| u8::try_from(self.reversed.len() - to - 1).ok();
        let (yes, no) = (leap(yes)?, leap(no)?);
        self.jump(code, k, yes, no)
    }

    /// An instruction from which the next but `room` can leap there: its end, or a stone on the way.
    fn reach(&mut self, target: Target, room: usize) -> Option<usize> {
        let near = |this: &Self, to: usize| this.reversed.len() + room - to - 1 <= FARTHEST;
        match target {
            Target::At(to) if near(self, to) => return Some(to),
            Target::At(to) => {
                let leap = u32::try_from(self.reversed.len() - to - 1).ok()?;
                self.push(JUMP, leap)?;
            }
            Target::Verdict(refuses) => {
                let place = usize::from(refuses);
                if let Some(to) = self.returns[place].filter(|to| near(self, *to)) {
                    return Some(to);
                }
                self.push(RETURN, if refuses { NOTHING } else { ALL })?;
                self.returns[place] = Some(self.last());
            }
        }
        Some(self.last())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::super::bans::Bans;
    use super::super::ladder::{Restriction, clear};
    use super::super::testing::{Random, list};
    use super::*;
    use crate::config::plan::Network;

    /// What the kernel does with a program and a datagram of that sender: whether it is kept.
    fn keeps(program: &[Instruction], sender: IpAddr) -> bool {
        assert!(program.len() <= MOST, "{} instructions", program.len());
        let mut header = [0; 40];
        match sender {
            IpAddr::V4(address) => {
                header[0] = 0x45;
                header[12..16].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                header[0] = 0x6b;
                header[8..24].copy_from_slice(&address.octets());
            }
        }
        let (mut at, mut value) = (0, 0_u32);
        // The kernel refuses programs whose last instruction is none of these.
        assert_eq!(program.last().expect("an instruction").code, RETURN);
        loop {
            let Instruction {
                code,
                jump_true,
                jump_false,
                k,
            } = program[at];
            at += 1;
            let offset = usize::try_from(k.wrapping_sub(NETWORK_HEADER)).expect("fits");
            match code {
                LOAD_BYTE => value = u32::from(header[offset]),
                LOAD_WORD => {
                    let word = header[offset..offset + 4].try_into().expect("four bytes");
                    value = u32::from_be_bytes(word);
                }
                SHIFT_RIGHT => value >>= k,
                JUMP => at += usize::try_from(k).expect("fits"),
                JUMP_IF_EQUAL => at += usize::from(if value == k { jump_true } else { jump_false }),
                JUMP_IF_AT_LEAST => {
                    at += usize::from(if value >= k { jump_true } else { jump_false });
                }
                RETURN => return k == ALL,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// Asks both, the program and the ladder, about the edges of all ranges, their neighbours, and strangers.
    #[track_caller]
    fn agree(denied: &AddressList, restriction: &Restriction) -> usize {
        let network = Network {
            denied: denied.clone(),
            ..Network::default()
        };
        let lists = [
            Some(denied),
            match restriction {
                Restriction::Open => None,
                Restriction::Grant(list) | Restriction::Deny(list) => Some(list),
            },
        ];
        let mut senders: Vec<IpAddr> = [
            "0.0.0.0",
            "255.255.255.255",
            "192.0.2.1",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::1",
            "::fffe:ffff:ffff",
            "::1:0:0:0",
        ]
        .map(|text| text.parse().expect("an address"))
        .to_vec();
        for range in lists.into_iter().flatten().flat_map(AddressList::ranges) {
            let (first, last) = numbers(&range);
            for number in [
                first,
                first.wrapping_sub(1),
                last,
                last.wrapping_add(1),
                first ^ 1 << 32,
            ] {
                senders.push(match range.start() {
                    #[expect(clippy::cast_possible_truncation, reason = "it wraps as IPv4 does")]
                    IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
                    IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
                });
            }
        }
        let mut length = 0;
        for family in [Family::V4, Family::V6, Family::Both] {
            let filter = compile(denied, restriction, family);
            assert!(
                !matches!(filter, SocketFilter::TooLong | SocketFilter::Part(_)),
                "too long"
            );
            let program = filter.program();
            length = program.map_or(0, <[_]>::len);
            for &sender in &senders {
                let own = match family {
                    Family::V4 => sender.is_ipv4(),
                    Family::V6 => sender.is_ipv6(),
                    Family::Both => true,
                };
                let verdict = clear(
                    sender,
                    &network,
                    &Bans::new(),
                    restriction,
                    SystemTime::UNIX_EPOCH,
                );
                let mapped = sender.is_ipv6() && sender.to_canonical().is_ipv4();
                let expected = verdict.is_ok() || mapped || !own;
                let kept = program.is_none_or(|program| keeps(program, sender));
                assert_eq!(kept, expected, "{sender}, {family:?}, {restriction:?}");
            }
        }
        length
    }

    #[test]
    fn the_program_and_the_ladder_agree() {
        let restrictions = |text: &str| {
            [
                Restriction::Grant(list(text)),
                Restriction::Deny(list(text)),
            ]
        };
        for denied in [
            "",
            "192.0.2.0/24",
            "0.0.0.0-255.255.255.255\n::/1\n8000::/1",
            "2001:db8::/33\n::ffff:1.2.3.4",
        ] {
            for text in [
                "",
                "10.0.0.0/8",
                "0.0.0.0",
                "255.255.255.255",
                "0.0.0.0-255.255.255.255",
                "::/1\n8000::/1",
                "::ffff:0:0/96",
                "::fffe:0:0-::1:0:0:1",
                "2001:db8::/32",
                "2001:db8::1",
                "2001:db8::1-2001:db9::5",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n::",
                "2001:db8:0:1::-2001:db8:0:1::ffff\n!2001:db8:0:1::7\n10.0.0.0/8\n!10.1.2.3",
            ] {
                for restriction in restrictions(text) {
                    agree(&list(denied), &restriction);
                }
            }
        }
        agree(&AddressList::default(), &Restriction::Open);
    }

    #[test]
    fn nobody_is_kept_out_without_lists() {
        for restriction in [
            Restriction::Open,
            Restriction::Deny(list("")),
            Restriction::Grant(list("0.0.0.0/1\n128.0.0.0/1\n::/1\n8000::/1")),
        ] {
            let filter = compile(&list(""), &restriction, Family::Both);
            assert_eq!(filter, SocketFilter::Idle, "{restriction:?}");
        }
    }

    fn scattered(count: u32, v6: bool) -> AddressList {
        let line = |number: u32| match v6 {
            false => Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1)).to_string(),
            true => format!(
                "2001:db8:{:x}:{:x}::/64",
                number % 251,
                number.wrapping_mul(0x9e3) & 0xffff
            ),
        };
        list(&(0..count).map(line).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn two_thousand_addresses_of_one_family_or_a_thousand_networks_of_the_other_fit() {
        assert!(agree(&scattered(1_900, false), &Restriction::Open) > 3_800);
        agree(&scattered(700, true), &Restriction::Open);
        agree(
            &scattered(700, false),
            &Restriction::Grant(scattered(300, true)),
        );
    }

    #[test]
    fn lists_that_do_not_fit_are_left_out_one_by_one() {
        let (long, short) = (scattered(5_000, false), list("192.0.2.0/24"));
        let (inside, outside) = (
            "192.0.2.7".parse().unwrap(),
            "198.51.100.1".parse().unwrap(),
        );
        for (denied, restriction) in [
            (&long, Restriction::Deny(short.clone())),
            (&short, Restriction::Deny(long.clone())),
        ] {
            let SocketFilter::Part(program) = compile(denied, &restriction, Family::Both) else {
                panic!("one of them fits");
            };
            assert!(!keeps(&program, inside) && keeps(&program, outside));
        }
        let filter = compile(&long, &Restriction::Open, Family::Both);
        assert_eq!(filter, SocketFilter::TooLong);
    }

    proptest! {
        #[test]
        fn the_program_and_the_ladder_agree_on_any_lists(seed in any::<u64>()) {
            let mut random = Random::new(seed);
            agree(&random.list(), &random.restriction());
        }

        #[test]
        fn they_agree_on_ranges_anywhere(bounds in proptest::collection::vec((any::<u128>(), any::<u128>(), 0..128_u32, any::<bool>()), 1..60), grants in any::<bool>()) {
            let lines: Vec<String> = bounds.iter().map(|&(one, other, shift, v6)| {
                // From neighbours to half of the world, so that words are shared.
                let other = one ^ (other >> shift);
                let (first, last) = (one.min(other), one.max(other));
                match v6 {
                    true => format!("{}-{}", Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last)),
                    false => {
                        let (one, other) = ((first >> 96) as u32, (last >> 96) as u32);
                        format!("{}-{}", Ipv4Addr::from_bits(one), Ipv4Addr::from_bits(other))
                    }
                }
            }).collect();
            let (denied, listed) = lines.split_at(lines.len() / 2);
            let listed = list(&listed.join("\n"));
            let restriction = if grants { Restriction::Grant(listed) } else { Restriction::Deny(listed) };
            agree(&list(&denied.join("\n")), &restriction);
        }
    }
}
