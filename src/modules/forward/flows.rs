#![forbid(unsafe_code)]
//! The table of flows: bounded, and hard to crowd others out of. No socket, no clock.
//!
//! A segmented LRU (Karedla, Love and Wherry, "Caching strategies to improve disk system performance", 1994).
//! A newcomer is on probation until its client speaks after an answer, which whoever forges its address can
//! not see. Where the table is full, the flow on probation that has been silent longest makes room; those that
//! are proven take at most three quarters, so that room for newcomers is never zero. So a flood of forged
//! addresses can hurt newcomers alone, and these only while it takes less time to fill a quarter of the table
//! than an upstream takes to answer.

use std::hash::Hash;

use hashlink::LinkedHashMap;

/// Flows by their key, each with a value.
pub(crate) struct Flows<K, V> {
    /// Both with the one that spoke last at the end.
    probation: LinkedHashMap<K, V>,
    proven: LinkedHashMap<K, V>,
    most: usize,
}

impl<K: Hash + Eq + Copy, V> Flows<K, V> {
    /// A table for at most so many flows.
    pub(crate) fn new(most: usize) -> Self {
        Flows {
            probation: LinkedHashMap::new(),
            proven: LinkedHashMap::new(),
            most,
        }
    }

    /// Changes how many flows there may be, where there are not more already.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// The client of a flow speaks: its value. With `proven` it has shown that it hears answers.
    pub(crate) fn speak(&mut self, key: &K, proven: impl FnOnce(&V) -> bool) -> Option<&mut V> {
        if self.proven.contains_key(key) {
            return self.proven.to_back(key);
        }
        if !self.probation.get(key).is_some_and(proven) {
            return self.probation.to_back(key);
        }
        let value = self.probation.remove(key)?;
        self.proven.insert(*key, value);
        if self.proven.len() > self.most - self.most / 4
            && let Some((oldest, value)) = self.proven.pop_front()
        {
            // It was silent longest of its kind, and now is the one on probation that goes last.
            self.probation.insert(oldest, value);
        }
        self.get_mut(key)
    }

    /// The value of a flow whose client does not speak.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let proven = self.proven.get_mut(key);
        proven.or_else(|| self.probation.get_mut(key))
    }

    /// A newcomer, in place of an earlier flow with its key. Where the table is full another one goes.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let before = self.remove(&key).map(|value| (key, value));
        let gone = if self.len() >= self.most {
            self.evict()
        } else {
            before
        };
        self.probation.insert(key, value);
        gone
    }

    /// Takes out the flow that goes first.
    pub(crate) fn evict(&mut self) -> Option<(K, V)> {
        let gone = self.probation.pop_front();
        gone.or_else(|| self.proven.pop_front())
    }

    /// Takes out a flow.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let proven = self.proven.remove(key);
        proven.or_else(|| self.probation.remove(key))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.probation.len() + self.proven.len()
    }

    /// All of them, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.probation.iter().chain(&self.proven)
    }
}

/// What a table must do, said with lists. For tests and fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model {
    use super::Flows;

    /// One thing that happens to a table of flows with keys below 16.
    #[derive(Debug, Clone, Copy)]
    pub(crate) enum Step {
        /// A client speaks; the upstream has answered it or not. A client without a flow gets one.
        Speak(u8, bool),
        /// A flow ends.
        End(u8),
        /// No port is to be had.
        Evict,
    }

    /// Two lists of keys and flow numbers, the one that goes first in front.
    struct Naive {
        probation: Vec<(u8, usize)>,
        proven: Vec<(u8, usize)>,
        most: usize,
    }

    impl Naive {
        fn take(list: &mut Vec<(u8, usize)>, key: u8) -> Option<(u8, usize)> {
            let at = list.iter().position(|(other, _)| *other == key)?;
            Some(list.remove(at))
        }

        fn speak(&mut self, key: u8, proven: bool, number: usize) -> Option<(u8, usize)> {
            if let Some(flow) = Self::take(&mut self.proven, key) {
                self.proven.push(flow);
            } else if let Some(flow) = Self::take(&mut self.probation, key) {
                if proven {
                    self.proven.push(flow);
                    if self.proven.len() > self.most - self.most / 4 {
                        let oldest = self.proven.remove(0);
                        self.probation.push(oldest);
                    }
                } else {
                    self.probation.push(flow);
                }
            } else {
                let full = self.probation.len() + self.proven.len() >= self.most;
                let gone = full.then(|| self.evict()).flatten();
                self.probation.push((key, number));
                return gone;
            }
            None
        }

        fn evict(&mut self) -> Option<(u8, usize)> {
            let list = if self.probation.is_empty() {
                &mut self.proven
            } else {
                &mut self.probation
            };
            (!list.is_empty()).then(|| list.remove(0))
        }
    }

    /// Runs both and compares them after each step.
    ///
    /// # Panics
    /// They differ, or the table is larger than it may be.
    pub(crate) fn check(most: usize, steps: &[Step]) {
        let mut flows = Flows::new(most);
        let mut naive = Naive {
            probation: Vec::new(),
            proven: Vec::new(),
            most,
        };
        for (number, step) in steps.iter().enumerate() {
            let (gone, expected) = match *step {
                Step::Speak(key, proven) => {
                    let gone = match flows.speak(&key, |_| proven) {
                        Some(_) => None,
                        None => flows.insert(key, number),
                    };
                    (gone, naive.speak(key, proven, number))
                }
                Step::End(key) => {
                    let lists = [&mut naive.proven, &mut naive.probation];
                    let expected = lists.into_iter().find_map(|list| Naive::take(list, key));
                    (flows.remove(&key).map(|value| (key, value)), expected)
                }
                Step::Evict => (flows.evict(), naive.evict()),
            };
            assert_eq!(gone, expected, "step {number}: {step:?}");
            let all: Vec<_> = flows.iter().map(|(key, value)| (*key, *value)).collect();
            let expected = [&naive.probation[..], &naive.proven].concat();
            assert_eq!(all, expected, "step {number}: {step:?}");
            assert!(flows.len() == all.len() && flows.len() <= most.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Flows;
    use super::model::{Step, check};

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..16_u8, any::<bool>()).prop_map(|(key, proven)| Step::Speak(key, proven)),
            1 => (0..16_u8).prop_map(Step::End),
            1 => Just(Step::Evict),
        ]
    }

    proptest! {
        #[test]
        fn the_table_is_the_naive_one(most in 1..10_usize, steps in prop::collection::vec(step(), 0..200)) {
            check(most, &steps);
        }
    }

    #[test]
    fn a_flood_of_forged_addresses_moves_no_flow_that_was_answered_and_spoke_again() {
        let mut flows = Flows::new(100);
        for client in 0..75 {
            assert!(flows.insert(client, "client").is_none());
            assert!(flows.speak(&client, |_| true).is_some());
        }
        for forged in 1_000..100_000 {
            let gone = flows.insert(forged, "forged");
            assert!(gone.is_none_or(|(_, who)| who == "forged"));
        }
        assert!((0..75).all(|client| flows.get_mut(&client) == Some(&mut "client")));
    }

    #[test]
    fn a_newcomer_finds_room_where_all_others_are_proven() {
        let mut flows = Flows::new(100);
        for client in 0..1_000 {
            flows.insert(client, ());
            flows.speak(&client, |_| true);
        }
        let last_gone = (0..25).filter_map(|newcomer| flows.insert(10_000 + newcomer, ()));
        assert!(last_gone.map(|(key, ())| key).all(|key| key < 1_000));
        assert!((0..25).all(|newcomer| flows.get_mut(&(10_000 + newcomer)).is_some()));
        assert_eq!(flows.len(), 100);
    }
}
