#![forbid(unsafe_code)]
//! Addresses and networks that are kept out for a time. Pure: no socket, clock or thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::RwLock;

/// Bans in force at once, unless asked otherwise: some 20 MB, and more than a server of one machine
/// gathers in an honest day.
pub const CAPACITY: usize = 100_000;

/// Who made a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum By {
    /// A person.
    #[default]
    Hand,
    /// The server, for misdeeds.
    Rule,
}

/// A ban in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// Who is kept out.
    pub net: IpNet,
    /// Until when.
    pub until: SystemTime,
    /// Who made it.
    pub by: By,
}

/// Temporary bans. When full, a new one takes the place of the one that would end soonest: of those that the
/// server made, or, where it made none, of those made by hand. So no flood of misdeeds undoes a person's ban.
///
/// A look-up costs one hash look-up for each prefix length that is present in the address's family.
#[derive(Debug)]
pub struct Bans {
    table: RwLock<Table>,
    /// Entries in the table, so that a look-up in an empty one takes no lock.
    len: AtomicUsize,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Table {
    ends: HashMap<IpNet, (SystemTime, By)>,
    /// The same entries, the soonest first: those made by hand, and those of the server.
    by_hand: BTreeSet<(SystemTime, IpNet)>,
    by_rule: BTreeSet<(SystemTime, IpNet)>,
    /// Entries for each prefix length; no zeros.
    v4_lengths: BTreeMap<u8, usize>,
    v6_lengths: BTreeMap<u8, usize>,
}

impl Default for Bans {
    fn default() -> Self {
        Bans::with_capacity(CAPACITY)
    }
}

impl Bans {
    /// None yet, and room for [`CAPACITY`].
    #[must_use]
    pub fn new() -> Self {
        Bans::default()
    }

    /// None yet, and room for `capacity`, at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Bans {
            table: RwLock::default(),
            len: AtomicUsize::new(0),
            capacity: capacity.max(1),
        }
    }

    /// Keeps `net` out until that moment, by hand; replaces a ban on the same network.
    ///
    /// Host bits are cleared, and an IPv4-mapped network is the IPv4 one.
    pub fn ban(&self, net: IpNet, until: SystemTime) {
        self.put(net, until, By::Hand);
    }

    /// The same for a ban of either kind. The server's own never replaces one made by hand that ends later.
    pub fn put(&self, net: IpNet, until: SystemTime, by: By) {
        let net = canonical(net);
        let mut table = self.table.write();
        if by == By::Rule
            && let Some(&(end, By::Hand)) = table.ends.get(&net)
            && end >= until
        {
            return;
        }
        table.remove(net);
        if table.ends.len() >= self.capacity
            && let Some(&(_, soonest)) = table.by_rule.first().or(table.by_hand.first())
        {
            table.remove(soonest);
        }
        table.insert(net, until, by);
        self.len.store(table.ends.len(), Ordering::Release);
    }

    /// Takes back the ban on exactly this network. False when there was none.
    pub fn unban(&self, net: IpNet) -> bool {
        let mut table = self.table.write();
        let was_there = table.remove(canonical(net)).is_some();
        self.len.store(table.ends.len(), Ordering::Release);
        was_there
    }

    /// The ban in force on exactly this network.
    #[must_use]
    pub fn of(&self, net: IpNet, now: SystemTime) -> Option<Ban> {
        let net = canonical(net);
        let &(until, by) = self.table.read().ends.get(&net)?;
        (until > now).then_some(Ban { net, until, by })
    }

    /// The bans in force at `now`, those that end soonest first.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<Ban> {
        self.prune(now);
        let table = self.table.read();
        let each = table.ends.iter();
        let mut bans: Vec<Ban> = each
            .map(|(&net, &(until, by))| Ban { net, until, by })
            .collect();
        drop(table);
        bans.sort_unstable_by_key(|ban| (ban.until, ban.net));
        bans
    }

    /// When the last ban that covers `address` ends; `None` when none is in force at `now`.
    #[must_use]
    pub fn until(&self, address: IpAddr, now: SystemTime) -> Option<SystemTime> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (found, is_stale) = {
            let table = self.table.read();
            let found = table.latest_end(address.to_canonical());
            (found, table.soonest().is_some_and(|(end, _)| end <= now))
        };
        if is_stale {
            self.prune(now);
        }
        found.filter(|&end| end > now)
    }

    /// Drops what has ended. Each ban is dropped once, so that look-ups pay for this rarely.
    fn prune(&self, now: SystemTime) {
        let mut table = self.table.write();
        while let Some((_, net)) = table.soonest().filter(|&(end, _)| end <= now) {
            table.remove(net);
        }
        self.len.store(table.ends.len(), Ordering::Release);
    }
}

impl Table {
    fn lengths(&mut self, net: IpNet) -> &mut BTreeMap<u8, usize> {
        match net {
            IpNet::V4(_) => &mut self.v4_lengths,
            IpNet::V6(_) => &mut self.v6_lengths,
        }
    }

    fn order(&mut self, by: By) -> &mut BTreeSet<(SystemTime, IpNet)> {
        match by {
            By::Hand => &mut self.by_hand,
            By::Rule => &mut self.by_rule,
        }
    }

    fn insert(&mut self, net: IpNet, end: SystemTime, by: By) {
        self.ends.insert(net, (end, by));
        self.order(by).insert((end, net));
        *self.lengths(net).entry(net.prefix_len()).or_default() += 1;
    }

    fn remove(&mut self, net: IpNet) -> Option<SystemTime> {
        let (end, by) = self.ends.remove(&net)?;
        self.order(by).remove(&(end, net));
        let lengths = self.lengths(net);
        if let Some(count) = lengths.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
        Some(end)
    }

    fn soonest(&self) -> Option<(SystemTime, IpNet)> {
        let firsts = self.by_hand.first().into_iter().chain(self.by_rule.first());
        firsts.min().copied()
    }

    fn latest_end(&self, address: IpAddr) -> Option<SystemTime> {
        let lengths = match address {
            IpAddr::V4(_) => &self.v4_lengths,
            IpAddr::V6(_) => &self.v6_lengths,
        };
        lengths
            .keys()
            .filter_map(|&length| IpNet::new(address, length).ok())
            .filter_map(|net| self.ends.get(&net.trunc()).map(|(end, _)| *end))
            .max()
    }
}

/// Without host bits, and IPv4 where it is IPv4-mapped.
pub(crate) fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4.trunc());
    }
    net.trunc()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{Random, seeds};
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn listed(bans: &Bans) -> Vec<(IpNet, SystemTime)> {
        let bans = bans.list(at(0)).into_iter();
        bans.map(|ban| (ban.net, ban.until)).collect()
    }

    #[test]
    fn the_servers_own_bans_make_room_before_those_made_by_hand() {
        let bans = Bans::with_capacity(2);
        bans.ban(net("192.0.2.1/32"), at(5));
        bans.put(net("192.0.2.2/32"), at(20), By::Rule);
        bans.put(net("192.0.2.3/32"), at(30), By::Rule);
        assert_eq!(
            listed(&bans),
            [(net("192.0.2.1/32"), at(5)), (net("192.0.2.3/32"), at(30))]
        );
        bans.put(net("192.0.2.1/32"), at(4), By::Rule);
        assert_eq!(bans.of(net("192.0.2.1/32"), at(0)).unwrap().by, By::Hand);
        bans.put(net("192.0.2.1/32"), at(40), By::Rule);
        assert_eq!(bans.of(net("192.0.2.1/32"), at(0)).unwrap().by, By::Rule);
        assert_eq!(bans.of(net("192.0.2.0/24"), at(0)), None);
    }

    #[test]
    fn a_ban_ends_at_its_moment_and_leaves_nothing() {
        let bans = Bans::new();
        bans.ban(net("192.0.2.0/24"), at(10));
        assert_eq!(bans.until(ip("192.0.2.7"), at(9)), Some(at(10)));
        assert_eq!(bans.until(ip("192.0.3.7"), at(9)), None);
        assert_eq!(bans.until(ip("192.0.2.7"), at(10)), None);
        assert_eq!(bans.len.load(Ordering::Relaxed), 0);
        assert!(bans.table.read().v4_lengths.is_empty());
    }

    #[test]
    fn a_new_end_replaces_the_old_one_and_unban_wants_the_same_network() {
        let bans = Bans::new();
        bans.ban(net("192.0.2.1/32"), at(10));
        bans.ban(net("192.0.2.1/32"), at(5));
        assert_eq!(listed(&bans), [(net("192.0.2.1/32"), at(5))]);
        assert!(!bans.unban(net("192.0.2.0/24")));
        assert!(bans.unban(net("192.0.2.1/32")));
        assert!(!bans.unban(net("192.0.2.1/32")));
        assert_eq!(bans.until(ip("192.0.2.1"), at(0)), None);
    }

    #[test]
    fn mapped_ipv6_is_ipv4_and_a_ban_of_all_ipv6_is_none_of_ipv4() {
        let bans = Bans::new();
        bans.ban(net("::/0"), at(10));
        assert_eq!(bans.until(ip("::ffff:192.0.2.1"), at(0)), None);
        bans.ban(net("::ffff:192.0.2.9/120"), at(10));
        assert_eq!(listed(&bans)[0].0, net("192.0.2.0/24"));
        assert_eq!(bans.until(ip("::ffff:192.0.2.1"), at(0)), Some(at(10)));
        assert_eq!(bans.until(ip("2001:db8::1"), at(0)), Some(at(10)));
    }

    #[test]
    fn a_full_table_drops_the_ban_that_ends_soonest() {
        let bans = Bans::with_capacity(2);
        bans.ban(net("192.0.2.1/32"), at(20));
        bans.ban(net("192.0.2.2/32"), at(10));
        bans.ban(net("192.0.2.2/32"), at(11));
        bans.ban(net("192.0.2.3/32"), at(5));
        assert_eq!(
            listed(&bans),
            [(net("192.0.2.3/32"), at(5)), (net("192.0.2.1/32"), at(20))]
        );
    }

    #[test]
    fn look_ups_agree_with_a_scan_of_all() {
        for seed in seeds(50) {
            let mut random = Random::new(seed);
            let bans = Bans::new();
            let mut naive: HashMap<IpNet, SystemTime> = HashMap::new();
            for step in 0..300 {
                let now = at(step / 4);
                let net =
                    IpNet::new(random.address(), random.below(33).try_into().unwrap()).unwrap();
                match random.below(3) {
                    0 => {
                        let end = now + Duration::from_secs(random.below(30));
                        bans.ban(net, end);
                        naive.insert(canonical(net), end);
                    }
                    1 => {
                        naive.retain(|_, end| *end > now);
                        bans.prune(now);
                        assert_eq!(
                            bans.unban(net),
                            naive.remove(&canonical(net)).is_some(),
                            "seed {seed}"
                        );
                    }
                    _ => {}
                }
                let address = random.address().to_canonical();
                let covering = naive.iter().filter(|(net, _)| net.contains(&address));
                let expected = covering.map(|(_, end)| *end).filter(|end| *end > now).max();
                assert_eq!(
                    bans.until(address, now),
                    expected,
                    "seed {seed}, step {step}"
                );
                let listed = bans.list(now).into_iter();
                let listed: HashMap<_, _> = listed.map(|ban| (ban.net, ban.until)).collect();
                naive.retain(|_, end| *end > now);
                assert_eq!(listed, naive, "seed {seed}, step {step}");
            }
        }
    }
}
