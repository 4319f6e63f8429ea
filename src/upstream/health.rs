#![forbid(unsafe_code)]
//! Passive health: an upstream that cannot be reached is left alone for a while, longer each time.

use std::time::{Duration, Instant};

/// The first pause.
const SHORTEST: Duration = Duration::from_secs(1);
/// Doubled each time up to this.
const LONGEST: Duration = Duration::from_secs(60);

/// What is known of an upstream's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    until: Option<Instant>,
}

impl Health {
    /// Until when it is to be left alone; `None` for a healthy one.
    pub(super) fn down_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// It could not be reached. True when it was thought to be healthy.
    pub(super) fn fail(&mut self, now: Instant) -> bool {
        // Those who tried at the same time tell nothing new.
        if self.down_until(now).is_none() {
            let doubled = SHORTEST.saturating_mul(1 << self.failures.min(16));
            self.until = Some(now + doubled.min(LONGEST));
            self.failures += 1;
            return self.failures == 1;
        }
        false
    }

    /// It was reached. True when it was thought to be down.
    pub(super) fn succeed(&mut self) -> bool {
        let was_down = self.failures > 0;
        *self = Health::default();
        was_down
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Health, LONGEST, SHORTEST};

    #[test]
    fn pauses_double_up_to_a_bound_and_end_with_a_success() {
        let mut now = Instant::now();
        let mut health = Health::default();
        assert!(health.fail(now));
        assert!(!health.fail(now), "one failure, seen by two");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let until = health.down_until(now).unwrap();
            pauses.push(until - now);
            now = until;
            assert_eq!(health.down_until(now), None);
            assert!(!health.fail(now));
        }
        assert_eq!(pauses[..3], [SHORTEST, SHORTEST * 2, SHORTEST * 4]);
        assert_eq!(pauses[7], LONGEST);
        assert!(health.succeed() && !health.succeed());
        assert!(health.fail(now + Duration::from_secs(1)));
    }
}
