#![forbid(unsafe_code)]
//! Upstreams: other servers that sessions are relayed to. Least connections, the next one on failure, a
//! back-off for those that do not answer, names resolved anew. A relay connects by itself; a session that talks with
//! an upstream before or instead of a relay has a [`Line`].

mod dial;
mod far;
mod health;
mod line;
mod place;
mod watcher;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use far::Far;
pub use line::{Line, Progress};
pub use place::Place;

use self::health::Health;
use self::place::Resolved;
use crate::session::{Dial, Target};

/// A set of upstreams that stand in for each other.
#[derive(Debug)]
pub struct Pool {
    upstreams: Vec<Upstream>,
    connect_timeout: Duration,
    /// Where the search among equals begins.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Upstream {
    place: Place,
    /// Connections now, those being made included.
    active: AtomicUsize,
    health: Mutex<Health>,
    resolved: Mutex<Resolved>,
}

impl Pool {
    /// A pool; one attempt to connect lasts at most `connect_timeout`.
    #[must_use]
    pub fn new(places: Vec<Place>, connect_timeout: Duration) -> Arc<Self> {
        let upstream = |place| Upstream {
            place,
            active: AtomicUsize::new(0),
            health: Mutex::default(),
            resolved: Mutex::default(),
        };
        Arc::new(Pool {
            upstreams: places.into_iter().map(upstream).collect(),
            connect_timeout,
            turn: AtomicUsize::new(0),
        })
    }

    /// True when [`Pool::look_up`] should be called before [`Pool::dial`], on a thread that may wait.
    #[must_use]
    pub fn wants_look_up(&self, now: Instant) -> bool {
        self.upstreams
            .iter()
            .any(|upstream| upstream.wants_look_up(now))
    }

    /// True once each name was asked for: [`Pool::dial`] makes sense, whatever the answers were.
    #[must_use]
    pub fn was_looked_up(&self) -> bool {
        self.upstreams.iter().all(|upstream| match &upstream.place {
            Place::Name(..) => upstream.resolved.lock().was_asked(),
            Place::Address(_) | Place::Unix(_) => true,
        })
    }

    /// Resolves the names whose addresses are not known or old. Blocks as long as the system's resolver does.
    pub fn look_up(&self) {
        for upstream in &self.upstreams {
            upstream.look_up(Instant::now(), place::system_resolver);
        }
    }

    /// Chooses upstreams for one connection. `who` names the listener in the log.
    #[must_use]
    pub fn dial(self: &Arc<Self>, who: &Arc<str>) -> Box<dyn Dial> {
        Box::new(dial::Dialling::new(self, who))
    }
}

impl Upstream {
    fn wants_look_up(&self, now: Instant) -> bool {
        let Place::Name(..) = &self.place else {
            return false;
        };
        // Whoever holds the lock is asking; old addresses do until it has an answer.
        self.resolved
            .try_lock()
            .is_some_and(|resolved| resolved.is_old(now))
    }

    fn look_up(
        &self,
        now: Instant,
        resolver: impl Fn(&str, u16) -> std::io::Result<Vec<SocketAddr>>,
    ) {
        let Place::Name(name, port) = &self.place else {
            return;
        };
        if !self.resolved.lock().begin(now) {
            return;
        }
        // Not under the lock: a resolver may take seconds.
        let answer = resolver(name, *port);
        if let Err(error) = &answer {
            log::warn!("cannot resolve {name}: {error}");
        }
        self.resolved.lock().finish(answer.ok(), Instant::now());
    }

    /// The addresses to try, one after the other.
    fn targets(&self) -> Vec<Target> {
        match &self.place {
            Place::Address(address) => vec![Target::Tcp(*address)],
            Place::Unix(path) => vec![Target::Unix(path.clone())],
            Place::Name(..) => {
                let resolved = self.resolved.lock();
                resolved.addresses().map(Target::Tcp).collect()
            }
        }
    }

    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}
