#![forbid(unsafe_code)]
//! Stages of overload: measures of how near the server is to its limits, and what it stops doing there. Pure: no
//! socket, clock or thread; what was measured and when are arguments.
//!
//! A stage is entered when a measure has been at its threshold for [`RISE`], whichever measure that is, and the
//! stages in between are skipped. It is left one step at a time, when all measures have been under the lower
//! thresholds of the stage for [`FALL`], so that a server at a threshold does not flutter.

use std::fmt;
use std::time::{Duration, Instant};

use crate::session::Class;

/// How long a measure must ask for a stage.
pub const RISE: Duration = Duration::from_millis(300);
/// How long every measure must be content with less.
pub const FALL: Duration = Duration::from_secs(2);

/// How far the server has gone to stay in service. Each stage does what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Stage {
    /// Everybody is served.
    #[default]
    Calm,
    /// Silent connections of those who are no clients are ended early.
    Strained,
    /// Newcomers that are no clients are refused, their datagrams dropped.
    Guarded,
    /// Clients wait in the kernel's queue, and are let in a few at a time.
    Slowed,
}

impl Stage {
    /// All of them, the calm one first.
    pub const ALL: [Stage; 4] = [Stage::Calm, Stage::Strained, Stage::Guarded, Stage::Slowed];

    /// As logs, status and documentation name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Calm => "calm",
            Stage::Strained => "strained",
            Stage::Guarded => "guarded",
            Stage::Slowed => "slowed",
        }
    }

    /// Its number, from 0; one past the last is the last.
    #[must_use]
    pub fn of(number: u8) -> Self {
        Stage::ALL[usize::from(number).min(Stage::ALL.len() - 1)]
    }

    /// Whether a newcomer of this class may come in.
    #[must_use]
    pub fn admits(self, class: Class) -> bool {
        class == Class::Client || self < Stage::Guarded
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A part of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// What is in use.
    pub used: u64,
    /// What may be; 0 is unknown, and never short.
    pub limit: u64,
}

impl Share {
    /// In percent, rounded down.
    fn percent(self) -> u64 {
        match self.limit {
            0 => 0,
            limit => u64::try_from(u128::from(self.used) * 100 / u128::from(limit)).unwrap_or(100),
        }
    }
}

/// What was measured at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measures {
    /// How long turns wait for a worker.
    pub wait: Duration,
    /// Open descriptors, of those that the system allows.
    pub descriptors: Share,
    /// Resident memory in bytes.
    pub memory: Share,
}

/// Why a stage is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Turns wait too long.
    Wait,
    /// Few descriptors are left.
    Descriptors,
    /// Little memory is left.
    Memory,
}

impl Cause {
    const ALL: [Cause; 3] = [Cause::Wait, Cause::Descriptors, Cause::Memory];

    /// As logs and status name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Wait => "queue wait",
            Cause::Descriptors => "descriptors",
            Cause::Memory => "memory",
        }
    }

    /// Where each stage but the calm one begins and where it is left: milliseconds of waiting, else percent in use.
    const fn thresholds(self) -> [(u64, u64); 3] {
        match self {
            // A person notices a tenth of a second; clients of mail give up after some seconds.
            Cause::Wait => [(100, 50), (500, 250), (2000, 1000)],
            // What is left for clients, files and upstreams is less than a fifth, a tenth, a twentieth.
            Cause::Descriptors => [(80, 70), (90, 80), (95, 90)],
            Cause::Memory => [(80, 75), (90, 85), (95, 90)],
        }
    }

    fn level(self, measures: &Measures) -> u64 {
        match self {
            Cause::Wait => u64::try_from(measures.wait.as_millis()).unwrap_or(u64::MAX),
            Cause::Descriptors => measures.descriptors.percent(),
            Cause::Memory => measures.memory.percent(),
        }
    }

    /// The stage that this measure asks for.
    fn asks(self, measures: &Measures) -> Stage {
        let level = self.level(measures);
        stage(
            self.thresholds()
                .iter()
                .filter(|(enter, _)| level >= *enter)
                .count(),
        )
    }

    /// The highest stage that it would not leave.
    fn holds(self, measures: &Measures) -> Stage {
        let level = self.level(measures);
        stage(
            self.thresholds()
                .iter()
                .filter(|(_, leave)| level >= *leave)
                .count(),
        )
    }
}

fn stage(number: usize) -> Stage {
    Stage::of(u8::try_from(number).unwrap_or(u8::MAX))
}

/// A step from one stage to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Before.
    pub from: Stage,
    /// From now on.
    pub to: Stage,
    /// What asked for the stage that is entered, or for the one that is left.
    pub cause: Cause,
}

/// The ladder.
#[derive(Debug, Default)]
pub struct Overload {
    stage: Stage,
    cause: Option<Cause>,
    /// Since when more was asked for.
    rising: Option<Instant>,
    /// Since when less would do.
    falling: Option<Instant>,
}

impl Overload {
    /// The stage now, and what asked for it.
    #[must_use]
    pub fn stage(&self) -> (Stage, Option<Cause>) {
        (self.stage, self.cause)
    }

    /// Takes what was measured; answers a step if there is one.
    pub fn look(&mut self, measures: &Measures, now: Instant) -> Option<Step> {
        let asked = Cause::ALL.map(|cause| (cause.asks(measures), cause));
        let (asks, cause) = asked.into_iter().max_by_key(|(stage, _)| *stage)?;
        let holds = Cause::ALL.map(|cause| cause.holds(measures));
        let holds = holds.into_iter().max()?;
        if asks > self.stage {
            self.falling = None;
            let since = *self.rising.get_or_insert(now);
            return (now >= since + RISE).then(|| self.enter(asks, cause));
        }
        self.rising = None;
        if holds >= self.stage {
            self.falling = None;
            return None;
        }
        let since = *self.falling.get_or_insert(now);
        let cause = self.cause.unwrap_or(cause);
        (now >= since + FALL).then(|| self.enter(stage(self.stage as usize - 1), cause))
    }

    fn enter(&mut self, to: Stage, cause: Cause) -> Step {
        let from = std::mem::replace(&mut self.stage, to);
        self.cause = (to != Stage::Calm).then_some(cause);
        self.rising = None;
        self.falling = None;
        Step { from, to, cause }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn descriptors(percent: u64) -> Measures {
        Measures {
            descriptors: Share {
                used: percent,
                limit: 100,
            },
            ..Measures::default()
        }
    }

    /// Looks for so long; the steps and how long after the start they were.
    fn go(
        overload: &mut Overload,
        now: &mut Instant,
        measures: &Measures,
        for_ms: u64,
    ) -> Vec<(u64, Stage)> {
        let start = *now;
        let mut steps = Vec::new();
        while *now < start + Duration::from_millis(for_ms) {
            if let Some(step) = overload.look(measures, *now) {
                let after = (*now - start).as_millis();
                steps.push((u64::try_from(after).unwrap(), step.to));
            }
            *now += TICK;
        }
        steps
    }

    #[test]
    fn a_stage_is_entered_after_a_while_and_left_one_by_one() {
        let (mut overload, mut now) = (Overload::default(), Instant::now());
        let mut go = |measures, ms| go(&mut overload, &mut now, &measures, ms);
        assert_eq!(go(descriptors(79), 5000), []);
        assert_eq!(go(descriptors(80), 5000), [(300, Stage::Strained)]);
        assert_eq!(go(descriptors(96), 5000), [(300, Stage::Slowed)]);
        let down = [
            (2000, Stage::Guarded),
            (4100, Stage::Strained),
            (6200, Stage::Calm),
        ];
        assert_eq!(go(descriptors(0), 60_000), down);
    }

    #[test]
    fn a_short_peak_is_none_and_a_short_lull_neither() {
        let (mut overload, mut now) = (Overload::default(), Instant::now());
        let mut go = |measures, ms| go(&mut overload, &mut now, &measures, ms);
        for _ in 0..10 {
            assert_eq!(go(descriptors(99), 300), []);
            assert_eq!(go(descriptors(10), 100), []);
        }
        assert_eq!(go(descriptors(91), 1000), [(300, Stage::Guarded)]);
        for _ in 0..10 {
            assert_eq!(go(descriptors(10), 2000), []);
            assert_eq!(go(descriptors(85), 100), []);
        }
    }

    #[test]
    fn between_the_thresholds_a_stage_stays_whatever_it_is() {
        let (mut overload, mut now) = (Overload::default(), Instant::now());
        let mut go = |measures, ms| go(&mut overload, &mut now, &measures, ms);
        assert_eq!(go(descriptors(75), 60_000), []);
        assert_eq!(go(descriptors(80), 1000), [(300, Stage::Strained)]);
        assert_eq!(go(descriptors(75), 60_000), []);
        assert_eq!(go(descriptors(69), 60_000), [(2000, Stage::Calm)]);
    }

    #[test]
    fn the_worst_measure_decides_and_is_named() {
        let (mut overload, mut now) = (Overload::default(), Instant::now());
        let mut measures = descriptors(82);
        measures.wait = Duration::from_millis(700);
        go(&mut overload, &mut now, &measures, 1000);
        assert_eq!(overload.stage(), (Stage::Guarded, Some(Cause::Wait)));
        // One that has recovered does not hold what another asks for, nor does that ask for more.
        measures.wait = Duration::ZERO;
        go(&mut overload, &mut now, &measures, 60_000);
        assert_eq!(
            overload.stage().0,
            Stage::Guarded,
            "82 of 100 would not leave it"
        );
        measures.descriptors.used = 79;
        go(&mut overload, &mut now, &measures, 60_000);
        assert_eq!(overload.stage().0, Stage::Strained);
    }

    #[test]
    fn who_may_come_in() {
        for stage in Stage::ALL {
            assert!(stage.admits(Class::Client));
            assert_eq!(stage.admits(Class::Other), stage < Stage::Guarded);
            assert_eq!(Stage::of(stage as u8), stage);
        }
        assert_eq!(Stage::of(200), Stage::Slowed);
    }

    #[test]
    fn an_unknown_limit_is_never_short() {
        let share = |used, limit| Share { used, limit }.percent();
        assert_eq!(share(u64::MAX, 0), 0);
        assert_eq!(share(u64::MAX, u64::MAX), 100);
        assert!(share(u64::MAX, 1) >= 100);
    }

    proptest! {
        /// Whatever came before, a server at rest is calm again after so long.
        #[test]
        fn every_stage_is_left(levels in prop::collection::vec((0_u64..120, 0_u64..5000, 0_u64..120), 0..200)) {
            let (mut overload, mut now) = (Overload::default(), Instant::now());
            for (open, wait, memory) in levels {
                let mut measures = descriptors(open);
                measures.wait = Duration::from_millis(wait);
                measures.memory = Share { used: memory, limit: 100 };
                let before = overload.stage().0;
                let step = overload.look(&measures, now);
                let after = overload.stage().0;
                prop_assert_eq!(step.map_or(before, |step| step.to), after);
                prop_assert!(after >= before || after as u8 + 1 == before as u8);
                now += TICK;
            }
            go(&mut overload, &mut now, &Measures::default(), 7000);
            prop_assert_eq!(overload.stage(), (Stage::Calm, None));
        }
    }
}
