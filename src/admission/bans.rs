#![forbid(unsafe_code)]
//! Temporary bans: addresses and networks with an expiry. Pure; time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use ipnet::IpNet;
use parking_lot::RwLock;

/// The bans in force. Bounded: when full, the ban that ends soonest makes room.
#[derive(Debug, Default)]
pub struct Bans {
    /// By prefix length, so that a look-up asks once per length in use and not once per ban.
    by_length: RwLock<BTreeMap<(bool, u8), HashMap<IpAddr, SystemTime>>>,
    /// An empty table is the common case and is left without a lock.
    count: AtomicUsize,
}

impl Bans {
    /// The most bans at once: above what fail2ban users report, and some 10 MB.
    pub const MOST: usize = 100_000;

    /// Bans a network until a time; a later end replaces an earlier one and the other way round.
    pub fn ban(&self, network: IpNet, until: SystemTime) {
        let mut table = self.by_length.write();
        if self.count.load(Ordering::Relaxed) >= Self::MOST {
            let soonest = table
                .iter()
                .flat_map(|(length, bans)| bans.iter().map(move |(address, end)| (*end, *length, *address)))
                .min();
            if let Some((_, length, address)) = soonest {
                remove(&mut table, length, address);
            }
        }
        table.entry(length(network)).or_default().insert(network.network(), until);
        self.recount(&table);
    }

    /// Ends a ban; false when there was none of just this network.
    pub fn unban(&self, network: IpNet) -> bool {
        let mut table = self.by_length.write();
        let found = remove(&mut table, length(network), network.network());
        self.recount(&table);
        found
    }

    /// Until when an address is banned.
    #[must_use]
    pub fn until(&self, address: IpAddr, now: SystemTime) -> Option<SystemTime> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let address = address.to_canonical();
        let table = self.by_length.read();
        let ends = table.range((address.is_ipv6(), 0)..=(address.is_ipv6(), 128));
        ends.filter_map(|((_, length), bans)| {
            let network = IpNet::new(address, *length).ok()?.network();
            bans.get(&network).copied()
        })
        .filter(|end| *end > now)
        .max()
    }

    /// The bans in force, those that end soonest first. Forgets the others.
    pub fn list(&self, now: SystemTime) -> Vec<(IpNet, SystemTime)> {
        let mut table = self.by_length.write();
        table.retain(|_, bans| {
            bans.retain(|_, end| *end > now);
            !bans.is_empty()
        });
        self.recount(&table);
        let mut all: Vec<_> = table
            .iter()
            .flat_map(|((_, length), bans)| {
                bans.iter().filter_map(|(address, end)| Some((IpNet::new(*address, *length).ok()?, *end)))
            })
            .collect();
        all.sort_by_key(|(network, end)| (*end, *network));
        all
    }

    fn recount(&self, table: &BTreeMap<(bool, u8), HashMap<IpAddr, SystemTime>>) {
        self.count.store(table.values().map(HashMap::len).sum(), Ordering::Relaxed);
    }
}

fn length(network: IpNet) -> (bool, u8) {
    (network.network().is_ipv6(), network.prefix_len())
}

fn remove(
    table: &mut BTreeMap<(bool, u8), HashMap<IpAddr, SystemTime>>,
    length: (bool, u8),
    address: IpAddr,
) -> bool {
    let Some(bans) = table.get_mut(&length) else { return false };
    let found = bans.remove(&address).is_some();
    if bans.is_empty() {
        table.remove(&length);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::Bans;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_ban_covers_its_network_until_it_ends() {
        let bans = Bans::default();
        let now = SystemTime::now();
        let end = now + Duration::from_secs(60);
        let later = end + Duration::from_secs(60);
        bans.ban("192.0.2.0/24".parse().unwrap(), end);
        bans.ban("192.0.2.7/32".parse().unwrap(), later);
        bans.ban("2001:db8::/64".parse().unwrap(), end);
        let until = |address: &str, now| bans.until(address.parse().unwrap(), now);
        assert_eq!(until("192.0.2.1", now), Some(end));
        assert_eq!(until("::ffff:192.0.2.1", now), Some(end));
        assert_eq!(until("192.0.2.7", now), Some(later));
        assert_eq!(until("192.0.3.1", now), None);
        assert_eq!(until("2001:db8::9", now), Some(end));
        assert_eq!(until("192.0.2.1", end), None);
        assert_eq!(bans.list(end).len(), 1);
        assert!(bans.unban("192.0.2.7/32".parse().unwrap()));
        assert!(!bans.unban("192.0.2.7/32".parse().unwrap()));
        assert_eq!(until("192.0.2.7", now), None);
    }
}
