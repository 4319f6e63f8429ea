#![forbid(unsafe_code)]
//! When operations begin.

use std::time::{Duration, Instant};

use super::options::Load;

/// When operations begin.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// One as soon as the one before it has ended.
    Closed,
    /// So many a second, at times that do not depend on what comes back. An operation that begins late, since
    /// all slots are taken, counts from its intended time: a server that stalls cannot hide it.
    Rate(f64),
}

impl Pace {
    pub(super) fn of(load: &Load) -> Self {
        load.rate.map_or(Pace::Closed, Pace::Rate)
    }

    /// When operation `number` is intended to begin; `None` where it is no matter of time.
    pub(super) fn intended(self, start: Instant, number: u64) -> Option<Instant> {
        match self {
            Pace::Closed => None,
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 operations")]
            Pace::Rate(rate) => Some(start + Duration::from_secs_f64(number as f64 / rate)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Pace;

    #[test]
    fn intended_times_are_evenly_spaced_whatever_happened_before() {
        let start = Instant::now();
        let at = |number| Pace::Rate(4.0).intended(start, number);
        assert_eq!(at(0), Some(start));
        assert_eq!(at(6), Some(start + Duration::from_millis(1500)));
        assert_eq!(Pace::Closed.intended(start, 6), None);
    }
}
