#![forbid(unsafe_code)]
//! Times in half the room: what is kept for each of many thousand connections.

use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// What moments are counted from: early enough that no time of this process lies before it.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_hours(1)).unwrap_or(now)
});

/// An [`Instant`] in 8 bytes instead of 16, and no more where it may be absent. Exact to the nanosecond for
/// five hundred years from the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        let since = instant.saturating_duration_since(*EPOCH).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        Moment(NonZeroU64::new(since).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Self {
        *EPOCH + Duration::from_nanos(moment.0.get())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Moment;

    #[test]
    fn a_moment_is_its_instant_and_keeps_its_order() {
        let now = Instant::now();
        for distance in [0, 1, 999, 1_000_000_007] {
            let later = now + Duration::from_nanos(distance);
            assert_eq!(Instant::from(Moment::from(later)), later);
            assert_eq!(Moment::from(now) < Moment::from(later), now < later);
        }
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }

    #[test]
    fn what_lies_beyond_counts_as_the_end() {
        let never = Instant::now() + Duration::from_secs(u64::MAX >> 8);
        assert!(
            Moment::from(never)
                > Moment::from(Instant::now() + Duration::from_hours(24 * 365 * 400))
        );
        let _ = Instant::from(Moment::from(never));
    }
}
