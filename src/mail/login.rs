#![forbid(unsafe_code)]
//! Logins: passwords verified on a lane; failed ones slowed, and the session ended after many.

use std::time::Duration;

use super::sasl::Credentials;
use crate::accounts::{Accounts, Busy};
use crate::session::{Lane, Next, Work};

/// Verifies a password away from the session. The outcome is an `Option<Arc<Account>>`.
///
/// # Errors
/// Too many wait: the client is to try again.
pub fn verify(accounts: &Accounts, credentials: &Credentials) -> Result<Next, Busy> {
    let check = accounts.check(&credentials.name, &credentials.password)?;
    Ok(Next::Work(Work::new(Lane::Compute, move || check.run())))
}

/// After so many a session is closed. People mistype; programs guess.
const MOST: u32 = 5;
/// How long the answer to the first failure waits; doubled each time.
const FIRST: Duration = Duration::from_millis(500);
/// No answer waits longer.
const LONGEST: Duration = Duration::from_secs(8);

/// Counts a session's failed logins.
#[derive(Debug, Default)]
pub struct Failures(u32);

impl Failures {
    /// One more failed. How long its answer is to wait, by [`set_alarm`](crate::session::Context::set_alarm)
    /// and [`Next::Pause`](crate::session::Next::Pause), which holds no thread.
    pub fn delay(&mut self) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.0.min(10));
        self.0 += 1;
        doubled.min(LONGEST)
    }

    /// True when the session is to be closed.
    #[must_use]
    pub fn are_many(&self) -> bool {
        self.0 >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::Failures;

    #[test]
    fn each_failure_waits_longer_and_the_fifth_is_the_last() {
        let mut failures = Failures::default();
        let mut delays = Vec::new();
        while !failures.are_many() {
            delays.push(failures.delay().as_millis());
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000]);
        assert_eq!(failures.delay().as_secs(), 8);
    }
}
