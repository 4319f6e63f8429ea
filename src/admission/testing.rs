#![forbid(unsafe_code)]
//! What the tests of admission share. Pure: no socket, clock or thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::SystemTime;

use super::address_list::{AddressList, Source};
use super::bans::Bans;
use super::ladder::{Cleared, Restriction, clear};
use crate::config::plan::Network;

/// A list with these lines, of a file called `list`.
pub(super) fn list(text: &str) -> AddressList {
    AddressList::parse(&Source::file(Path::new("list"), text)).unwrap()
}

/// An address of class other that passed an empty set of lists.
#[track_caller]
pub(super) fn cleared(address: &str) -> Cleared {
    let address = address.parse().unwrap();
    let now = SystemTime::UNIX_EPOCH;
    clear(
        address,
        &Network::default(),
        &Bans::new(),
        &Restriction::Open,
        now,
    )
    .unwrap()
}

/// The seed in `PORTREEVE_SEED`, or the first `count`.
pub(super) fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("PORTREEVE_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn upto(&mut self, most: u32) -> u32 {
        u32::try_from(self.below(u64::from(most) + 1)).unwrap()
    }

    /// One of few addresses, so that they meet again: IPv4, the same mapped, or IPv6.
    pub(super) fn address(&mut self) -> IpAddr {
        let host = self.upto(5);
        let v4 = Ipv4Addr::from_bits(0xc000_0200 | host);
        match self.below(3) {
            0 => v4.into(),
            1 => v4.to_ipv6_mapped().into(),
            _ => Ipv6Addr::from_bits(
                (0x2001_0db8 << 96) | (u128::from(host % 3) << 64) | u128::from(host),
            )
            .into(),
        }
    }

    /// A list of a few lines that say something about those addresses.
    pub(super) fn list(&mut self) -> AddressList {
        const LINES: [&str; 9] = [
            "192.0.2.0/31",
            "!192.0.2.1",
            "192.0.2.3",
            "192.0.2.4/31",
            "!192.0.2.0/30",
            "2001:db8::/63",
            "!2001:db8:0:1::/64",
            "2001:db8:0:2::5",
            "2001:db8::3",
        ];
        let picked: Vec<_> = LINES.into_iter().filter(|_| self.below(4) == 0).collect();
        list(&picked.join("\n"))
    }

    pub(super) fn network(&mut self) -> Network {
        Network {
            clients: self.list(),
            denied: self.list(),
            blacklist: self.list(),
            cluster: self.list(),
            ipv6_prefix: [48, 63, 64, 128][usize::try_from(self.below(4)).unwrap()],
        }
    }

    pub(super) fn restriction(&mut self) -> Restriction {
        match self.below(4) {
            0 => Restriction::Grant(self.list()),
            1 => Restriction::Deny(self.list()),
            _ => Restriction::Open,
        }
    }
}
