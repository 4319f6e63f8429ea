#![forbid(unsafe_code)]
//! Says that connections are refused, without letting a flood fill the log. No clock; time is an argument.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::admission::ladder::Reason;

/// One line a second per listener and reason.
const PAUSE: Duration = Duration::from_secs(1);

/// What was refused lately by one listener.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    reasons: [Lately; Reason::ALL.len()],
}

#[derive(Debug, Default)]
struct Lately {
    said: Option<Instant>,
    suppressed: u64,
}

impl Refusals {
    /// The line to log for one refusal, if one is due.
    pub(crate) fn note(&mut self, reason: Reason, address: IpAddr, now: Instant) -> Option<String> {
        let lately = &mut self.reasons[reason.index()];
        if lately.said.is_some_and(|said| now < said + PAUSE) {
            lately.suppressed += 1;
            return None;
        }
        lately.said = Some(now);
        let suppressed = std::mem::take(&mut lately.suppressed);
        Some(match suppressed {
            0 => format!("refused {address}: {reason}"),
            more => {
                format!("refused {address}: {reason} (and {more} more since the last such line)")
            }
        })
    }

    /// The line for refusals that nobody has spoken of for a while.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<String> {
        Reason::ALL.into_iter().find_map(|reason| {
            let lately = &mut self.reasons[reason.index()];
            let due = lately.suppressed > 0 && lately.said.is_some_and(|said| now >= said + PAUSE);
            due.then(|| {
                lately.said = Some(now);
                format!(
                    "refused {} more: {reason}",
                    std::mem::take(&mut lately.suppressed)
                )
            })
        })
    }

    /// When [`Refusals::overdue`] will have something to say.
    pub(crate) fn next(&self) -> Option<Instant> {
        let waiting = self.reasons.iter().filter(|lately| lately.suppressed > 0);
        waiting
            .filter_map(|lately| lately.said.map(|said| said + PAUSE))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::Refusals;
    use crate::admission::ladder::Reason;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    #[test]
    fn a_flood_is_one_line_a_second_with_the_number_left_out() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let start = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(
            refusals.note(Reason::Denied, address, start).unwrap(),
            "refused 127.0.0.1: denied"
        );
        for _ in 0..1000 {
            assert!(refusals.note(Reason::Denied, address, start).is_none());
        }
        assert!(
            refusals.note(Reason::Full, address, start).is_some(),
            "reasons are apart"
        );
        let later = start + Duration::from_secs(1);
        assert_eq!(refusals.next(), Some(later));
        assert_eq!(
            refusals.overdue(later).unwrap(),
            "refused 1000 more: denied"
        );
        assert_eq!(refusals.next(), None);
    }
}
