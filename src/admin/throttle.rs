#![forbid(unsafe_code)]
//! Slows logins after failures. No clock: time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The most addresses remembered. When they are reached, the one that failed the longest ago is forgotten.
const MOST: usize = 4096;
/// Failures that cost nothing: people mistype.
const FREE: u32 = 3;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// An address that has not failed for so long begins anew.
const FORGET: Duration = Duration::from_secs(3600);

/// Failed logins by address; an IPv6 address counts with its /64. Accounts are not counted: whoever knows
/// a name could lock its owner out.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failed: HashMap<IpAddr, Failures>,
    /// When a failure was last told in the log, and how many were not told since.
    told: Option<Instant>,
    untold: u64,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// 1, 2, 4, .. seconds after the free ones.
    fn until(&self) -> Instant {
        let wait = match self.count.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(beyond) => Duration::from_secs(1 << beyond.min(16)).min(LONGEST),
        };
        self.last + wait
    }
}

impl Throttle {
    /// Counts an attempt as failed until [`Throttle::succeed`] says otherwise, so that many at once do not
    /// slip through together.
    ///
    /// # Errors
    /// How long to wait before the next.
    pub(super) fn attempt(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let key = key(address);
        if let Some(failures) = self.failed.get(&key) {
            let until = failures.until();
            if until > now {
                return Err(until - now);
            }
            if now.saturating_duration_since(failures.last) > FORGET {
                self.failed.remove(&key);
            }
        }
        if self.failed.len() >= MOST && !self.failed.contains_key(&key) {
            let oldest = self.failed.iter().min_by_key(|(_, failures)| failures.last);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.failed.remove(&oldest);
            }
        }
        let failures = self.failed.entry(key).or_insert(Failures {
            count: 0,
            last: now,
        });
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        Ok(())
    }

    /// Whether a failure is told in the log, at most once a second; answers how many were not told before.
    pub(super) fn tells(&mut self, now: Instant) -> Option<u64> {
        let quiet = |told: Instant| now.saturating_duration_since(told) < Duration::from_secs(1);
        if self.told.is_some_and(quiet) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// Takes one attempt back: nobody looked at the password.
    pub(super) fn undo(&mut self, address: IpAddr) {
        if let Some(failures) = self.failed.get_mut(&key(address)) {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// Takes the failures of an address back.
    pub(super) fn succeed(&mut self, address: IpAddr) {
        self.failed.remove(&key(address));
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, MOST, Throttle};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    #[test]
    fn the_fourth_failure_costs_a_second_and_each_further_one_twice_as_much() {
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut now = Instant::now();
        let mut throttle = Throttle::default();
        for _ in 0..3 {
            assert_eq!(throttle.attempt(address, now), Ok(()));
        }
        for exponent in 0..12 {
            let wait = Duration::from_secs(1 << exponent).min(LONGEST);
            assert_eq!(throttle.attempt(address, now), Err(wait));
            now += wait;
            assert_eq!(throttle.attempt(address, now), Ok(()));
        }
        throttle.succeed(address);
        assert_eq!(throttle.attempt(address, now), Ok(()));
    }

    #[test]
    fn a_network_counts_as_one_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for last in 0..3 {
            let address = format!("2001:db8::{last}").parse().unwrap();
            assert_eq!(throttle.attempt(address, now), Ok(()));
        }
        assert!(
            throttle
                .attempt("2001:db8::ffff".parse().unwrap(), now)
                .is_err()
        );
        for number in 0..10_000_u32 {
            let _ = throttle.attempt(Ipv4Addr::from_bits(number).into(), now);
        }
        assert_eq!(throttle.failed.len(), MOST);
    }
}
