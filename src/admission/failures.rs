#![forbid(unsafe_code)]
//! Counts misdeeds by address within a sliding time. Pure: no socket, clock or thread.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// Addresses whose misdeeds are counted at once. A new one takes the place of the one that has been quiet for
/// longest: whoever has more addresses than this to fail from gets around the counting, as with any bound.
pub const CAPACITY: usize = 10_000;

/// The most misdeeds that may be asked for before a ban; each is remembered by its time (16 bytes).
pub const MOST: u32 = 255;

/// Misdeeds by address.
#[derive(Debug)]
pub struct Failures {
    by_net: HashMap<IpNet, VecDeque<Instant>>,
    /// The same addresses by their last misdeed.
    by_last: BTreeSet<(Instant, IpNet)>,
    capacity: usize,
}

impl Default for Failures {
    fn default() -> Self {
        Failures::with_capacity(CAPACITY)
    }
}

impl Failures {
    /// None yet, and room for `capacity` addresses, at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Failures {
            by_net: HashMap::new(),
            by_last: BTreeSet::new(),
            capacity: capacity.max(1),
        }
    }

    /// Counts one misdeed of `net`. True when it is the last of `most` within that time; its count begins
    /// anew then.
    pub fn count(&mut self, net: IpNet, most: u32, within: Duration, now: Instant) -> bool {
        let most = most.clamp(1, MOST) as usize;
        let mut times = self.by_net.remove(&net).unwrap_or_default();
        if let Some(last) = times.back() {
            self.by_last.remove(&(*last, net));
        }
        times.retain(|time| now.saturating_duration_since(*time) < within);
        times.push_back(now);
        if times.len() >= most {
            return true;
        }
        if self.by_net.len() >= self.capacity
            && let Some((_, quiet)) = self.by_last.pop_first()
        {
            self.by_net.remove(&quiet);
        }
        self.by_last.insert((now, net));
        self.by_net.insert(net, times);
        false
    }

    /// Forgets what an address has done.
    pub fn forgive(&mut self, net: IpNet) {
        if let Some(last) = self
            .by_net
            .remove(&net)
            .and_then(|times| times.back().copied())
        {
            self.by_last.remove(&(last, net));
        }
    }

    /// Addresses that are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_net.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_net.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Failures;
    use ipnet::IpNet;
    use std::time::{Duration, Instant};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_last_of_so_many_within_the_time_tips_the_scale_and_the_count_begins_anew() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let (one, other) = (net("192.0.2.1/32"), net("192.0.2.2/32"));
        for second in 0..2 {
            let now = start + Duration::from_secs(second);
            assert!(!failures.count(one, 3, MINUTE, now));
        }
        assert!(!failures.count(other, 3, MINUTE, start));
        assert!(failures.count(one, 3, MINUTE, start + Duration::from_secs(59)));
        assert!(!failures.count(one, 3, MINUTE, start + Duration::from_secs(59)));
        assert!(failures.count(other, 1, MINUTE, start));
    }

    #[test]
    fn the_time_slides() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let one = net("2001:db8::/64");
        // Two in any minute, never three.
        for half in 0..100 {
            assert!(!failures.count(one, 3, MINUTE, start + MINUTE / 2 * half));
        }
        failures.forgive(one);
        assert!(failures.is_empty() && failures.by_last.is_empty());
    }

    #[test]
    fn a_full_table_forgets_whoever_was_quiet_for_longest() {
        let (mut failures, start) = (Failures::with_capacity(2), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let [a, b, c] = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"].map(net);
        assert!(!failures.count(a, 3, MINUTE, at(0)));
        assert!(!failures.count(b, 3, MINUTE, at(1)));
        assert!(!failures.count(a, 3, MINUTE, at(2)));
        assert!(!failures.count(c, 3, MINUTE, at(3)));
        assert_eq!((failures.len(), failures.by_last.len()), (2, 2));
        assert!(failures.count(a, 3, MINUTE, at(4)));
        assert!(!failures.count(b, 2, MINUTE, at(5)), "b was forgotten");
    }
}
