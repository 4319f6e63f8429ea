#![forbid(unsafe_code)]
//! The order of admission, and why an address is refused. Pure: no socket, clock or thread.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

pub use super::explain::{Rung, Verdict, explain};
pub use super::limits::Admitted;

use super::address_list::AddressList;
use super::bans::Bans;
use crate::config::plan::Network;
use crate::session::Class;

/// Who may use a socket.
#[derive(Debug, Clone, Default)]
pub enum Restriction {
    /// Everybody.
    #[default]
    Open,
    /// Only the listed; an empty list admits nobody.
    Grant(AddressList),
    /// All but the listed; an empty list admits everybody.
    Deny(AddressList),
}

impl Restriction {
    /// Whether it lets `address` through.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        match self {
            Restriction::Open => true,
            Restriction::Grant(list) => list.contains(address),
            Restriction::Deny(list) => !list.contains(address),
        }
    }
}

/// The rung that refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// On the server-wide Denied list.
    Denied,
    /// Under a temporary ban.
    Banned,
    /// Kept out by the socket's [`Restriction`].
    Restricted,
    /// All channels are taken.
    Full,
    /// Only channels reserved for clients are left, and this is none.
    Reserved,
    /// The address has as many connections as it may have.
    AddressLimit,
    /// The address sends more datagrams than it may.
    Rate,
}

impl Reason {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Reason; 7] = [
        Reason::Denied,
        Reason::Banned,
        Reason::Restricted,
        Reason::Full,
        Reason::Reserved,
        Reason::AddressLimit,
        Reason::Rate,
    ];

    /// The label in logs, metrics, `status` and `explain`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Denied => "denied",
            Reason::Banned => "banned",
            Reason::Restricted => "restricted",
            Reason::Full => "full",
            Reason::Reserved => "reserved",
            Reason::AddressLimit => "address_limit",
            Reason::Rate => "rate",
        }
    }

    /// Its place in [`Reason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Proof that an address passed every rung that counts nothing. Only [`clear`] makes one.
///
/// Enough for a datagram; a connection also needs a slot, see [`Limits::admit`](super::limits::Limits::admit).
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Cleared {
    address: IpAddr,
    class: Class,
    cluster: bool,
    blacklisted: bool,
    key: CountKey,
}

impl Cleared {
    /// The address; never an IPv4-mapped one.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it stands on the Client list.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether it stands on the Cluster list.
    #[must_use]
    pub fn cluster(&self) -> bool {
        self.cluster
    }

    /// Whether it stands on the Black-list.
    #[must_use]
    pub fn blacklisted(&self) -> bool {
        self.blacklisted
    }

    pub(super) fn key(&self) -> CountKey {
        self.key
    }
}

/// What connections are counted by: an IPv4 address, or the first bits of an IPv6 one.
///
/// IPv4 is kept as its mapped IPv6 form. That form never reaches the table as IPv6, and a cut-off
/// IPv6 address has zeros where the form has ones, so the families cannot meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CountKey([u32; 4]);

impl CountKey {
    /// The key of `address`. A prefix of 0 is one that nobody set, and means 64.
    pub(crate) fn new(address: IpAddr, ipv6_prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => CountKey::of(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => {
                let kept = match ipv6_prefix {
                    0 => 64,
                    bits => u32::from(bits.min(128)),
                };
                CountKey::of(v6.to_bits() & (u128::MAX << (128 - kept)))
            }
        }
    }

    /// In pieces: a table of wide integers would leave gaps for their alignment.
    fn of(bits: u128) -> Self {
        let [a, b, c, d, e, f, g, h] = std::net::Ipv6Addr::from_bits(bits)
            .segments()
            .map(u32::from);
        CountKey([a << 16 | b, c << 16 | d, e << 16 | f, g << 16 | h])
    }
}

impl CountKey {
    /// The address, or the first of its prefix.
    pub(super) fn address(self) -> IpAddr {
        let bits = self
            .0
            .iter()
            .fold(0, |bits, piece| bits << 32 | u128::from(*piece));
        IpAddr::V6(bits.into()).to_canonical()
    }
}

/// Climbs the rungs that look at the address alone. The first that refuses is the reason.
pub fn clear(
    address: IpAddr,
    network: &Network,
    bans: &Bans,
    restriction: &Restriction,
    now: SystemTime,
) -> Result<Cleared, Reason> {
    let address = address.to_canonical();
    if network.denied.contains(address) {
        return Err(Reason::Denied);
    }
    if bans.until(address, now).is_some() {
        return Err(Reason::Banned);
    }
    if !restriction.admits(address) {
        return Err(Reason::Restricted);
    }
    Ok(Cleared {
        address,
        class: class_of(address, network),
        cluster: network.cluster.contains(address),
        blacklisted: network.blacklist.contains(address),
        key: CountKey::new(address, network.ipv6_prefix),
    })
}

pub(super) fn class_of(address: IpAddr, network: &Network) -> Class {
    if network.clients.contains(address) {
        Class::Client
    } else {
        Class::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_indexed_in_their_order() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert_eq!(reason.to_string(), reason.name());
        }
    }

    #[test]
    fn ipv4_and_ipv6_are_never_counted_together() {
        let v4 = CountKey::new("192.0.2.1".parse().unwrap(), 64);
        assert_eq!(v4, CountKey::new("::ffff:192.0.2.1".parse().unwrap(), 1));
        for prefix in 0..=255 {
            for v6 in [
                "::",
                "::1",
                "::192.0.2.1",
                "::fffe:c000:201",
                "ffff::",
                "::1:ffff:c000:201",
            ] {
                assert_ne!(
                    v4,
                    CountKey::new(v6.parse().unwrap(), prefix),
                    "{v6}/{prefix}"
                );
            }
        }
    }
}
