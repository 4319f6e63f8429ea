#![forbid(unsafe_code)]
//! How many connections each address has on other daemons. A daemon that is silent for a while counts no more: its
//! connections ended with it. No socket; time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::news::Counts;

/// A daemon that was silent for so long is gone.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// Daemons that are listened to; further ones are not, until one of these is gone.
const MOST_NODES: usize = 256;
/// Addresses of one daemon that are known; further ones count nothing.
const MOST_ADDRESSES: usize = 200_000;

/// The other daemons.
#[derive(Debug, Default)]
pub(super) struct Others {
    nodes: HashMap<String, Other>,
    changed: bool,
}

#[derive(Debug)]
struct Other {
    heard: Instant,
    /// Of the last message.
    number: u64,
    counts: HashMap<(String, IpAddr), u32>,
}

impl Others {
    /// Takes a daemon's message. False when one before it was missed, or never heard: it is to be asked for all.
    pub(super) fn hear(&mut self, node: &str, news: Counts, now: Instant) -> bool {
        if !self.nodes.contains_key(node) && self.nodes.len() >= MOST_NODES {
            return true;
        }
        let is_next = self
            .nodes
            .get(node)
            .is_some_and(|other| other.number.wrapping_add(1) == news.number);
        let other = self.nodes.entry(node.to_owned()).or_insert_with(|| Other {
            heard: now,
            number: 0,
            counts: HashMap::new(),
        });
        other.heard = now;
        if !news.anew && !is_next {
            return false;
        }
        other.number = news.number;
        if news.anew {
            other.counts.clear();
        }
        self.changed |= news.anew || !news.counts.is_empty();
        for (listener, address, count) in news.counts {
            let key = (listener, address);
            if count == 0 {
                other.counts.remove(&key);
            } else if other.counts.len() < MOST_ADDRESSES || other.counts.contains_key(&key) {
                other.counts.insert(key, count);
            }
        }
        true
    }

    /// A daemon has said that it ends.
    pub(super) fn part(&mut self, node: &str) {
        self.changed |= self.nodes.remove(node).is_some();
    }

    /// Forgets those that are silent.
    pub(super) fn expire(&mut self, now: Instant) {
        let before = self.nodes.len();
        self.nodes.retain(|_, other| now < other.heard + LEASE);
        self.changed |= self.nodes.len() != before;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The sums by listener and address, if they have changed since they were asked for.
    pub(super) fn sums(&mut self) -> Option<HashMap<String, HashMap<IpAddr, u32>>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut sums = HashMap::<String, HashMap<IpAddr, u32>>::new();
        for other in self.nodes.values() {
            for ((listener, address), count) in &other.counts {
                let of_listener = sums.entry(listener.clone()).or_default();
                let sum = of_listener.entry(*address).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        Some(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(number: u64, anew: bool, count: u32) -> Counts {
        Counts {
            number,
            anew,
            counts: vec![("echo".to_owned(), "192.0.2.1".parse().unwrap(), count)],
        }
    }

    fn sum(others: &mut Others) -> Option<u32> {
        let sums = others.sums()?;
        let echo = sums
            .get("echo")
            .and_then(|echo| echo.values().next().copied());
        Some(echo.unwrap_or(0))
    }

    #[test]
    fn counts_of_all_others_are_summed_and_vanish_with_their_lease() {
        let (mut others, start) = (Others::default(), Instant::now());
        assert!(others.hear("a", counts(1, true, 2), start));
        assert!(others.hear("b", counts(9, true, 3), start + LEASE / 2));
        assert_eq!(sum(&mut others), Some(5));
        assert_eq!(sum(&mut others), None, "nothing new");
        others.expire(start + LEASE);
        assert_eq!((sum(&mut others), others.len()), (Some(3), 1));
        assert!(others.hear("b", counts(10, false, 0), start + LEASE));
        assert_eq!(sum(&mut others), Some(0));
        others.part("b");
        assert_eq!(others.len(), 0);
    }

    #[test]
    fn a_message_that_was_missed_is_noticed() {
        let (mut others, now) = (Others::default(), Instant::now());
        assert!(
            !others.hear("a", counts(5, false, 2), now),
            "nothing was heard before"
        );
        assert!(others.hear("a", counts(6, true, 2), now));
        assert!(others.hear("a", counts(7, false, 3), now));
        assert!(!others.hear("a", counts(9, false, 4), now));
        assert_eq!(
            sum(&mut others),
            Some(3),
            "what came out of order is not taken"
        );
        assert!(others.hear("a", counts(10, true, 1), now));
        assert_eq!(sum(&mut others), Some(1));
    }

    #[test]
    fn tables_are_bounded() {
        let (mut others, now) = (Others::default(), Instant::now());
        for node in 0..2 * MOST_NODES {
            others.hear(&node.to_string(), counts(1, true, 1), now);
        }
        assert_eq!(others.len(), MOST_NODES);
        assert_eq!(sum(&mut others), Some(u32::try_from(MOST_NODES).unwrap()));
    }
}
