#![forbid(unsafe_code)]
//! Requests that were answered lately: a repeated one gets the identical answer (RFC 5080, 2.2.2). Pure.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::session::datagram::Route;

/// How long an answer is kept: longer than clients repeat.
const KEPT: Duration = Duration::from_secs(30);
/// The most answers kept; beyond them the oldest go, and their repetition is a new request. Only requests of
/// known clients come here, and those have 256 identifiers a port.
const MOST: usize = 10_000;

/// Who asked, and under which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) route: Route,
    pub(super) code: u8,
    pub(super) identifier: u8,
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It is the first of its kind, and is waited for from now on.
    New,
    /// Its answer is on the way.
    Waiting,
    /// Its answer.
    Answered(Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct Duplicates {
    entries: HashMap<Key, Entry>,
    /// Keys by age; one whose entry is younger by now is passed over.
    ages: VecDeque<(Instant, Key)>,
}

#[derive(Debug)]
struct Entry {
    authenticator: [u8; 16],
    since: Instant,
    answer: Option<Vec<u8>>,
}

impl Duplicates {
    /// Looks a request up, and takes a new one down.
    pub(super) fn meet(&mut self, key: Key, authenticator: [u8; 16], now: Instant) -> Known {
        self.forget(now);
        if let Some(entry) = self.entries.get(&key)
            && entry.authenticator == authenticator
        {
            return match &entry.answer {
                Some(answer) => Known::Answered(answer.clone()),
                None => Known::Waiting,
            };
        }
        let entry = Entry {
            authenticator,
            since: now,
            answer: None,
        };
        self.entries.insert(key, entry);
        self.ages.push_back((now, key));
        Known::New
    }

    /// Keeps an answer. The request may be forgotten by now, or its number used again.
    pub(super) fn answered(&mut self, key: Key, authenticator: [u8; 16], answer: &[u8]) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.authenticator == authenticator
        {
            entry.answer = Some(answer.to_vec());
        }
    }

    /// The request could not be served: its repetition is a new one.
    pub(super) fn failed(&mut self, key: Key, authenticator: [u8; 16]) {
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.authenticator == authenticator && entry.answer.is_none())
        {
            self.entries.remove(&key);
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(since, key)) = self.ages.front() {
            let is_old = now.saturating_duration_since(since) >= KEPT;
            if !is_old && self.ages.len() < MOST {
                break;
            }
            self.ages.pop_front();
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.since == since)
            {
                self.entries.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Duplicates, KEPT, Key, Known, MOST};
    use crate::session::datagram::Route;

    fn key(port: u16, identifier: u8) -> Key {
        Key {
            route: Route::test(([192, 0, 2, 1], port).into()),
            code: 1,
            identifier,
        }
    }

    #[test]
    fn an_answer_is_kept_for_its_request_alone_and_not_for_ever() {
        let (mut duplicates, now) = (Duplicates::default(), Instant::now());
        assert_eq!(duplicates.meet(key(1, 1), [1; 16], now), Known::New);
        assert_eq!(duplicates.meet(key(1, 1), [1; 16], now), Known::Waiting);
        duplicates.answered(key(1, 1), [2; 16], b"another's");
        duplicates.answered(key(1, 1), [1; 16], b"yes");
        assert_eq!(
            duplicates.meet(key(1, 1), [1; 16], now),
            Known::Answered(b"yes".to_vec())
        );
        assert_eq!(duplicates.meet(key(2, 1), [1; 16], now), Known::New);
        let later = now + KEPT - Duration::from_millis(1);
        assert_eq!(
            duplicates.meet(key(1, 1), [2; 16], later),
            Known::New,
            "the number used again"
        );
        assert_eq!(
            duplicates.meet(key(1, 1), [2; 16], now + KEPT),
            Known::Waiting
        );
        duplicates.failed(key(1, 1), [2; 16]);
        assert_eq!(duplicates.meet(key(1, 1), [2; 16], now + KEPT), Known::New);
        assert_eq!(
            duplicates.meet(key(1, 1), [2; 16], now + KEPT * 3),
            Known::New
        );
        assert_eq!((duplicates.entries.len(), duplicates.ages.len()), (1, 1));
    }

    #[test]
    fn the_oldest_make_room() {
        let (mut duplicates, now) = (Duplicates::default(), Instant::now());
        for port in 0..u16::try_from(MOST + 5).expect("16 bits") {
            assert_eq!(duplicates.meet(key(port, 1), [1; 16], now), Known::New);
        }
        assert_eq!(
            (duplicates.entries.len(), duplicates.ages.len()),
            (MOST, MOST)
        );
        assert_eq!(duplicates.meet(key(4, 1), [1; 16], now), Known::New);
        assert_eq!(duplicates.meet(key(1000, 1), [1; 16], now), Known::Waiting);
    }
}
