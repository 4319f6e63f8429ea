#![forbid(unsafe_code)]
//! When to send again and when to give up. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Before anything was measured.
const FIRST: Duration = Duration::from_secs(1);
/// Bounds of a measured interval. The peer's own timer is seldom below a second, so ours may be quick.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// Without progress for so long a transfer is given up: a dozen packets lost in a row.
const GIVE_UP: Duration = Duration::from_secs(45);
/// How long the acknowledgement of the last block is waited for: most likely the client has it, and is gone.
const LAST: Duration = Duration::from_secs(12);
/// What one that never answered is sent, and how long it is waited for: its address may be forged, and
/// each packet goes to whom it belongs to.
const UNPROVEN_SENDS: u32 = 4;
const UNPROVEN: Duration = Duration::from_secs(15);

/// What the passing of time asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// Send again.
    Again,
    /// The other side is gone.
    GiveUp,
}

/// A transfer's timer: adaptive with exponential back-off (RFC 1123, 4.2.3.2), or the interval that the
/// client has set (RFC 2349, 2).
#[derive(Debug)]
pub(super) struct Clock {
    fixed: Option<Duration>,
    /// Smoothed round trip and its variation (RFC 6298, 2).
    measured: Option<(Duration, Duration)>,
    /// How often in a row the interval has passed.
    passed: u32,
    sends: u32,
    proven: bool,
    /// Nothing but the end is waited for.
    last: bool,
    /// When something new was sent that has not been sent again; only such answers are measured
    /// (Karn's rule, RFC 6298, 3).
    fresh: Option<Instant>,
    sent: Instant,
    progress: Instant,
}

impl Clock {
    pub(super) fn new(now: Instant, fixed: Option<Duration>) -> Self {
        Clock {
            fixed,
            measured: None,
            passed: 0,
            sends: 0,
            proven: false,
            last: false,
            fresh: None,
            sent: now,
            progress: now,
        }
    }

    /// Something new is sent.
    pub(super) fn sends(&mut self, now: Instant) {
        self.repeats(now);
        self.fresh = Some(now);
    }

    /// Something is sent again.
    pub(super) fn repeats(&mut self, now: Instant) {
        self.sends = self.sends.saturating_add(1);
        self.fresh = None;
        self.sent = now;
    }

    /// The other side has moved on.
    pub(super) fn moves(&mut self, now: Instant) {
        if let Some(fresh) = self.fresh.take() {
            self.measure(now.saturating_duration_since(fresh));
        }
        self.proven = true;
        self.passed = 0;
        self.progress = now;
    }

    /// The other side has answered, without moving on.
    pub(super) fn proves(&mut self) {
        self.proven = true;
    }

    /// Only the acknowledgement of the last block is waited for from now on.
    pub(super) fn lasts(&mut self) {
        self.last = true;
    }

    /// True once the other side has answered, so its address is its own.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// True when an answer that comes now cannot have been caused by what was sent last.
    pub(super) fn is_too_early(&self, now: Instant) -> bool {
        let round_trip = self.measured.map_or(Duration::ZERO, |(smooth, _)| smooth);
        now.saturating_duration_since(self.sent) < round_trip / 2
    }

    /// When [`Clock::due`] may have something to say.
    pub(super) fn deadline(&self) -> Instant {
        let give_up = self.progress + self.patience();
        match !self.proven && self.sends >= UNPROVEN_SENDS {
            true => give_up,
            false => give_up.min(self.sent + self.interval()),
        }
    }

    /// What is due by now.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if now >= self.progress + self.patience() {
            return Due::GiveUp;
        }
        if now < self.deadline() {
            return Due::Nothing;
        }
        self.passed = self.passed.saturating_add(1);
        Due::Again
    }

    fn patience(&self) -> Duration {
        let usual = match (self.proven, self.last) {
            (false, _) => return UNPROVEN,
            (true, true) => LAST,
            (true, false) => GIVE_UP,
        };
        // A client that has set a long interval of its own is waited for longer.
        self.fixed.map_or(usual, |fixed| usual.max(fixed * 5))
    }

    fn interval(&self) -> Duration {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let base = self.measured.map_or(FIRST, |(smooth, variation)| {
            (smooth + variation * 4).max(SHORTEST)
        });
        base.saturating_mul(1 << self.passed.min(6)).min(LONGEST)
    }

    fn measure(&mut self, sample: Duration) {
        self.measured = Some(match self.measured {
            None => (sample, sample / 2),
            Some((smooth, variation)) => (
                (smooth * 7 + sample) / 8,
                (variation * 3 + smooth.abs_diff(sample)) / 4,
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Clock, Due, GIVE_UP, UNPROVEN};

    /// When something is sent again, in milliseconds since the start, until the end.
    fn run(clock: &mut Clock, start: Instant) -> (Vec<u128>, u128) {
        let mut again = Vec::new();
        loop {
            let now = clock.deadline();
            match clock.due(now) {
                Due::Again => {
                    again.push((now - start).as_millis());
                    clock.repeats(now);
                }
                Due::GiveUp => return (again, (now - start).as_millis()),
                Due::Nothing => panic!("a deadline without a reason"),
            }
        }
    }

    #[test]
    fn a_sender_that_may_be_forged_is_sent_little() {
        let start = Instant::now();
        let mut clock = Clock::new(start, None);
        clock.sends(start);
        let (again, end) = run(&mut clock, start);
        assert_eq!(again, [1000, 3000, 7000]);
        assert_eq!(end, UNPROVEN.as_millis());
    }

    #[test]
    fn the_interval_follows_the_round_trip_and_doubles_when_nothing_comes() {
        let mut now = Instant::now();
        let mut clock = Clock::new(now, None);
        for _ in 0..50 {
            clock.sends(now);
            now += Duration::from_millis(40);
            clock.moves(now);
        }
        clock.sends(now);
        let (again, end) = run(&mut clock, now);
        assert_eq!(again[..4], [100, 300, 700, 1500], "{again:?}");
        assert!(again.len() > 10, "{again:?}");
        assert_eq!(end, GIVE_UP.as_millis());
    }

    #[test]
    fn the_clients_interval_is_kept_to_and_repeats_are_not_measured() {
        let start = Instant::now();
        let mut clock = Clock::new(start, Some(Duration::from_secs(2)));
        clock.sends(start);
        clock.moves(start);
        clock.sends(start);
        let (again, _) = run(&mut clock, start);
        assert_eq!(again[..3], [2000, 4000, 6000]);
        let later = start + Duration::from_secs(3);
        let mut clock = Clock::new(start, None);
        clock.sends(start);
        clock.repeats(later);
        clock.moves(later);
        assert_eq!(clock.measured, None);
    }
}
