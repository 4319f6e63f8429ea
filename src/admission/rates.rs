#![forbid(unsafe_code)]
//! How many datagrams an address may send in a time. Pure: no socket, clock or thread; time is an argument.
//!
//! Each address has a token bucket, kept as one number: when it will be full again (the generic cell rate
//! algorithm, ITU-T I.371, Annex A).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ladder::{Cleared, CountKey};
use crate::session::Class;

/// Addresses that are remembered, in two halves: when one is full, the other is forgotten, and with it the
/// addresses that were silent longest. Whoever can forge so many senders gains a burst by it, no more.
const REMEMBERED: usize = 131_072;

/// A rate, and how much of it may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many datagrams, at least one,
    pub packets: u32,
    /// in so much time.
    pub per: Duration,
    /// The most at once, at least one, after a silence.
    pub burst: u32,
}

/// A listener's rates by class; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateSettings {
    /// Of an address that is no client's.
    pub others: Option<Rate>,
    /// Of a client's address.
    pub clients: Option<Rate>,
}

/// A listener's buckets.
#[derive(Debug)]
pub struct Rates {
    settings: RateSettings,
    start: Instant,
    halves: Mutex<[HashMap<CountKey, u64>; 2]>,
}

impl Rates {
    /// All of them full.
    #[must_use]
    pub fn new(settings: RateSettings, now: Instant) -> Self {
        Rates {
            settings,
            start: now,
            halves: Mutex::default(),
        }
    }

    /// The rates in force.
    #[must_use]
    pub fn settings(&self) -> &RateSettings {
        &self.settings
    }

    /// Takes one datagram of a sender into account; false when it is one too many. Cluster members are not
    /// counted, as on the rung that counts connections.
    pub fn admits(&self, sender: &Cleared, now: Instant) -> bool {
        let rate = match sender.class() {
            Class::Client => self.settings.clients,
            Class::Other => self.settings.others,
        };
        match rate {
            Some(rate) if !sender.cluster() => self.takes(sender.key(), rate, now),
            _ => true,
        }
    }

    fn takes(&self, key: CountKey, rate: Rate, now: Instant) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.start));
        let step = nanos(rate.per) / u64::from(rate.packets.max(1));
        let room = step.saturating_mul(u64::from(rate.burst.max(1)));
        let mut halves = self.halves.lock();
        let [young, old] = &mut *halves;
        let known = young.get(&key).or_else(|| old.get(&key)).copied();
        let before = known.unwrap_or(0).max(now);
        let after = before.saturating_add(step);
        let admits = after - now <= room;
        if young.len() >= REMEMBERED / 2 && !young.contains_key(&key) {
            *old = std::mem::take(young);
        }
        young.insert(key, if admits { after } else { before });
        admits
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{REMEMBERED, Rate, RateSettings, Rates};
    use crate::admission::ladder::CountKey;

    const RATE: Rate = Rate {
        packets: 10,
        per: Duration::from_secs(1),
        burst: 20,
    };

    fn key(number: u32) -> CountKey {
        CountKey::new(std::net::Ipv4Addr::from(number).into(), 64)
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let start = Instant::now();
        let rates = Rates::new(RateSettings::default(), start);
        let taken = |count: u32, now| {
            (0..count)
                .filter(|_| rates.takes(key(1), RATE, now))
                .count()
        };
        assert_eq!(taken(100, start), 20);
        assert_eq!(taken(100, start + Duration::from_millis(99)), 0);
        assert_eq!(taken(100, start + Duration::from_millis(100)), 1);
        assert_eq!(taken(100, start + Duration::from_millis(1100)), 10);
        assert_eq!(taken(100, start + Duration::from_secs(3600)), 20);
        assert!(rates.takes(key(2), RATE, start), "another address");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_silent() {
        let start = Instant::now();
        let rates = Rates::new(RateSettings::default(), start);
        let many = u32::try_from(REMEMBERED).expect("32 bits");
        for number in 0..many * 2 {
            assert!(rates.takes(key(number), RATE, start));
            if number % 1000 == 0 {
                rates.takes(key(7), RATE, start);
            }
        }
        let halves = rates.halves.lock();
        assert!(
            halves
                .iter()
                .map(std::collections::HashMap::len)
                .sum::<usize>()
                <= REMEMBERED
        );
        drop(halves);
        // One who went on is still known.
        assert!(!rates.takes(key(7), RATE, start));
    }
}
