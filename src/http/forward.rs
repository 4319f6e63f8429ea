#![forbid(unsafe_code)]
//! A reverse proxy (RFC 9110, 7.6; RFC 9112): requests are passed to upstreams, connections to them are used
//! again. Both ways are parsed and written anew, so that what two readers could understand differently goes
//! no further.

mod answer;
mod ask;
mod exchange;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::admission::address_list::AddressList;
use crate::session::{Dial, Far};
use crate::upstream::Pool;

pub(super) use exchange::{Exchange, Move};

/// The most silent connections that are kept for the next request; above it they are closed.
const MOST_SILENT: usize = 64;
/// How long one is kept. Servers keep theirs for 5 to 75 seconds, and tell when they close.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// The upstreams of a listener.
pub(crate) struct Forward {
    pub(crate) pool: Arc<Pool>,
    /// Whose Forwarded and X-Forwarded-* are believed.
    pub(crate) trusted: AddressList,
    /// How long an upstream may be silent while it is asked.
    pub(crate) timeout: Duration,
    silent: Mutex<Vec<Silent>>,
    told: Mutex<(Option<Instant>, u64)>,
}

/// A connection to an upstream.
#[derive(Debug)]
struct Link {
    far: Box<Far>,
    /// Its share of the upstream's count.
    dial: Box<dyn Dial>,
}

#[derive(Debug)]
struct Silent {
    link: Link,
    since: Instant,
}

impl Forward {
    pub(crate) fn new(pool: Arc<Pool>, trusted: AddressList, timeout: Duration) -> Self {
        Forward {
            pool,
            trusted,
            timeout,
            silent: Mutex::default(),
            told: Mutex::default(),
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.contains(address)
    }

    /// A connection that can be used again: the one that was silent for the shortest time.
    fn take(&self, now: Instant) -> Option<Link> {
        loop {
            let mut silent = self.silent.lock().pop()?;
            let link = &mut silent.link;
            let fresh = now.saturating_duration_since(silent.since) < SILENT_FOR;
            if fresh && link.far.is_silent() {
                return Some(silent.link);
            }
        }
    }

    /// Keeps a connection whose answer is complete.
    fn keep(&self, link: Link, now: Instant) {
        let mut silent = self.silent.lock();
        silent.retain(|one| now.saturating_duration_since(one.since) < SILENT_FOR);
        if silent.len() < MOST_SILENT {
            silent.push(Silent { link, since: now });
        }
    }

    /// Says in the log why there was no answer, at most once a second.
    fn complain(&self, listener: &str, why: &str, now: Instant) {
        let mut told = self.told.lock();
        if told
            .0
            .is_some_and(|last| now.saturating_duration_since(last) < Duration::from_secs(1))
        {
            told.1 += 1;
            return;
        }
        let untold = std::mem::take(&mut told.1);
        told.0 = Some(now);
        log::warn!(target: listener, "{why} ({untold} more not told)");
    }
}
