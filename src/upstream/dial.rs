#![forbid(unsafe_code)]
//! One connection's way through a pool.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Pool, Upstream};
use crate::session::{Dial, Target};

/// Tries upstreams until one answers, and counts as its connection until dropped.
#[derive(Debug)]
pub(super) struct Dialling {
    pool: Arc<Pool>,
    who: Arc<str>,
    /// By upstream.
    tried: Vec<bool>,
    current: Option<Share>,
    /// Further addresses of the current upstream.
    targets: VecDeque<Target>,
    /// At least one was thought to be healthy: those in their pause are left alone.
    hoped: bool,
}

/// One of an upstream's connections.
#[derive(Debug)]
struct Share {
    pool: Arc<Pool>,
    index: usize,
}

impl Share {
    fn of(pool: &Arc<Pool>, index: usize) -> Self {
        let pool = Arc::clone(pool);
        pool.upstreams[index].active.fetch_add(1, Ordering::Relaxed);
        Share { pool, index }
    }

    fn upstream(&self) -> &Upstream {
        &self.pool.upstreams[self.index]
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.upstream().active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dialling {
    pub(super) fn new(pool: &Arc<Pool>, who: &Arc<str>) -> Self {
        Dialling {
            pool: Arc::clone(pool),
            who: Arc::clone(who),
            tried: vec![false; pool.upstreams.len()],
            current: None,
            targets: VecDeque::new(),
            hoped: false,
        }
    }

    /// The healthy upstream with the fewest connections that was not tried; where none was ever healthy, the
    /// one whose pause ends first, since a refusal costs little and a guess may be wrong.
    fn choose(&mut self, now: Instant) -> Option<usize> {
        let count = self.pool.upstreams.len();
        let first = self.pool.turn.fetch_add(1, Ordering::Relaxed);
        let untried = (0..count)
            .map(|step| first.wrapping_add(step) % count)
            .filter(|index| !self.tried[*index])
            .map(|index| {
                let upstream = &self.pool.upstreams[index];
                (
                    index,
                    upstream.health.lock().down_until(now),
                    upstream.active(),
                )
            });
        let untried: Vec<_> = untried.collect();
        let healthy = untried
            .iter()
            .filter(|(_, down, _)| down.is_none())
            .min_by_key(|(_, _, active)| *active);
        self.hoped |= healthy.is_some();
        let chosen = healthy.or_else(|| {
            let down = untried.iter().filter(|_| !self.hoped);
            down.min_by_key(|(_, down, _)| *down)
        });
        chosen.map(|(index, ..)| *index)
    }

    fn failed(&mut self, error: &io::Error, now: Instant) {
        let Some(share) = self.current.take() else {
            return;
        };
        let upstream = share.upstream();
        if upstream.health.lock().fail(now) {
            log::warn!(target: &self.who, "upstream {} does not answer: {error}", upstream.place);
        }
    }
}

impl Dial for Dialling {
    fn next(&mut self, now: Instant) -> Option<(Target, Duration)> {
        loop {
            if let Some(target) = self.targets.pop_front() {
                return Some((target, self.pool.connect_timeout));
            }
            let index = self.choose(now)?;
            self.tried[index] = true;
            let share = Share::of(&self.pool, index);
            self.targets = share.upstream().targets().into();
            self.current = Some(share);
            if self.targets.is_empty() {
                self.failed(&io::Error::other("its name has no address"), now);
            }
        }
    }

    fn outcome(&mut self, result: &io::Result<()>, now: Instant) {
        match result {
            Ok(()) => {
                self.targets.clear();
                let upstream = self.current.as_ref().map(Share::upstream);
                if let Some(upstream) = upstream
                    && upstream.health.lock().succeed()
                {
                    log::info!(target: &self.who, "upstream {} answers again", upstream.place);
                }
            }
            Err(error) if self.targets.is_empty() => self.failed(error, now),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::Pool;
    use crate::session::{Dial, Target};

    fn pool(places: &[&str]) -> Arc<Pool> {
        let places = places.iter().map(|place| place.parse().unwrap()).collect();
        Pool::new(places, Duration::from_secs(5))
    }

    fn port(target: Option<(Target, Duration)>) -> Option<u16> {
        match target?.0 {
            Target::Tcp(address) => Some(address.port()),
            Target::Unix(_) => None,
        }
    }

    fn refused() -> io::Result<()> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    #[test]
    fn connections_go_where_there_are_the_fewest() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let who = Arc::from("proxy");
        let now = Instant::now();
        let mut open: Vec<(u16, Box<dyn Dial>)> = (0..9)
            .map(|_| {
                let mut dial = pool.dial(&who);
                let port = port(dial.next(now)).unwrap();
                dial.outcome(&Ok(()), now);
                (port, dial)
            })
            .collect();
        for wanted in 1..=3 {
            let count = open.iter().filter(|(port, _)| *port == wanted).count();
            assert_eq!(count, 3, "upstream {wanted}");
        }
        open.retain(|(port, _)| *port != 2);
        for _ in 0..3 {
            let mut dial = pool.dial(&who);
            assert_eq!(port(dial.next(now)), Some(2));
            open.push((2, dial));
        }
    }

    #[test]
    fn the_next_one_is_tried_and_the_dead_are_left_alone_for_a_while() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let who = Arc::from("proxy");
        let now = Instant::now();
        let mut dial = pool.dial(&who);
        let first = port(dial.next(now)).unwrap();
        dial.outcome(&refused(), now);
        let second = port(dial.next(now)).unwrap();
        assert_ne!(first, second);
        dial.outcome(&Ok(()), now);
        for _ in 0..4 {
            let mut dial = pool.dial(&who);
            assert_eq!(
                port(dial.next(now)),
                Some(second),
                "the other is in its pause"
            );
            dial.outcome(&Ok(()), now);
        }
        let later = now + Duration::from_secs(1);
        drop(dial);
        let mut both = [pool.dial(&who), pool.dial(&who)].map(|mut dial| port(dial.next(later)));
        both.sort_unstable();
        // Dropped at once, so equals take turns.
        assert_eq!(both, [Some(1), Some(2)]);
    }

    #[test]
    fn where_all_are_down_they_are_tried_all_the_same() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let who = Arc::from("proxy");
        let now = Instant::now();
        let tries = |now: Instant| {
            let mut dial = pool.dial(&who);
            let mut ports = Vec::new();
            while let Some(port) = port(dial.next(now)) {
                ports.push(port);
                dial.outcome(&refused(), now);
            }
            ports.sort_unstable();
            ports
        };
        assert_eq!(tries(now), [1, 2]);
        assert_eq!(tries(now), [1, 2], "in their pause");
        assert_eq!(pool.upstreams[0].active(), 0);
    }
}
