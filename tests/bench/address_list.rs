//! Address lists: one look-up by size of list, load of a million networks, bytes per entry.
//!
//! `cargo bench --bench address_list`. Each look-up waits for the answer to the one before, so the
//! time is that of one look-up alone, as an accepted connection sees it. Data is random by a fixed
//! seed: networks of /20 to /32 all over IPv4, of /32 to /64 over 2000::/3.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use divan::Bencher;
use divan::counter::ItemsCount;
use portreeve::admission::address_list::{AddressList, Source};

const SIZES: &[usize] = &[10, 100, 1_000, 10_000, 100_000, 1_000_000];
const MILLION: usize = 1_000_000;
/// Look-ups in one measured round.
const ROUND: usize = 1_000;

fn main() {
    println!("compiled bytes per entry");
    for size in SIZES {
        let bytes = |text: &str| parse(text).memory() / size;
        let (v4, v6) = (bytes(&v4_text(*size)), bytes(&v6_text(*size)));
        println!("  {size:>9} entries: IPv4 {v4}, IPv6 {v6}");
    }
    divan::main();
}

/// xorshift64*: no dependency, the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    fn v4(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap_or(0)
    }

    fn v6(&mut self) -> u128 {
        let number = u128::from(self.next()) << 64 | u128::from(self.next());
        number >> 3 | 1 << 125
    }
}

fn v4_text(size: usize) -> String {
    let mut random = Random(7);
    let mut text = String::new();
    for _ in 0..size {
        let length = 20 + random.below(13);
        let network = Ipv4Addr::from_bits(random.v4() & (u32::MAX << (32 - length)));
        let _ = writeln!(text, "{network}/{length}");
    }
    text
}

fn v6_text(size: usize) -> String {
    let mut random = Random(7);
    let mut text = String::new();
    for _ in 0..size {
        let length = 32 + random.below(33);
        let network = Ipv6Addr::from_bits(random.v6() & (u128::MAX << (128 - length)));
        let _ = writeln!(text, "{network}/{length}");
    }
    text
}

fn parse(text: &str) -> AddressList {
    match AddressList::parse(&Source::file(Path::new("bench.list"), text)) {
        Ok(list) => list,
        Err(errors) => panic!("{}", errors[0]),
    }
}

/// Addresses from all over the list, or random ones that it does not hold.
fn questions(list: &AddressList, v6: bool, hits: bool) -> Vec<IpAddr> {
    let mut random = Random(11);
    let ranges: Vec<IpAddr> = list.ranges().map(|range| *range.end()).collect();
    let mut any = || -> IpAddr {
        match (hits, v6) {
            (true, _) => ranges[usize::try_from(random.next() >> 1).unwrap_or(0) % ranges.len()],
            (false, false) => Ipv4Addr::from_bits(random.v4()).into(),
            (false, true) => Ipv6Addr::from_bits(random.v6()).into(),
        }
    };
    std::iter::repeat_with(&mut any)
        .filter(|address| list.contains(*address) == hits)
        .take(MILLION)
        .collect()
}

fn look_up(bencher: Bencher<'_, '_>, text: &str, v6: bool, hits: bool) {
    let list = parse(text);
    let questions = questions(&list, v6, hits);
    let mut at = 0;
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        for _ in 0..ROUND {
            // The next question depends on this answer, which is always the same.
            at += 1 + usize::from(black_box(list.contains(questions[at])) != hits);
            at %= MILLION;
        }
    });
}

#[divan::bench(args = SIZES)]
fn v4_hit(bencher: Bencher<'_, '_>, size: usize) {
    look_up(bencher, &v4_text(size), false, true);
}

#[divan::bench(args = SIZES)]
fn v4_miss(bencher: Bencher<'_, '_>, size: usize) {
    look_up(bencher, &v4_text(size), false, false);
}

#[divan::bench(args = SIZES)]
fn v6_hit(bencher: Bencher<'_, '_>, size: usize) {
    look_up(bencher, &v6_text(size), true, true);
}

#[divan::bench(args = SIZES)]
fn v6_miss(bencher: Bencher<'_, '_>, size: usize) {
    look_up(bencher, &v6_text(size), true, false);
}

/// Reading a file of a million networks from disk, parsing and compiling it.
#[divan::bench(args = [false, true], sample_count = 5, sample_size = 1)]
fn load_a_million(bencher: Bencher<'_, '_>, v6: bool) {
    let text = if v6 {
        v6_text(MILLION)
    } else {
        v4_text(MILLION)
    };
    let name = format!("portreeve-bench-{}.list", std::process::id());
    let file = std::env::temp_dir().join(&name);
    if let Err(error) = std::fs::write(&file, text) {
        panic!("{}: {error}", file.display());
    }
    let main = file.with_file_name("main.list");
    let naming = format!("@{name}");
    bencher.bench_local(|| AddressList::parse(&Source::file(&main, &naming)).map_err(|_| ()));
    let _ = std::fs::remove_file(&file);
}
