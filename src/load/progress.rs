#![forbid(unsafe_code)]
//! A bar on a terminal, and nothing elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

const WIDTH: usize = 40;

/// A line on standard error that is written over, where that is a terminal.
pub(super) struct Progress {
    whole: Duration,
    shown: bool,
}

impl Progress {
    pub(super) fn new(whole: Duration) -> Self {
        Progress {
            whole,
            shown: std::io::stderr().is_terminal(),
        }
    }

    pub(super) fn hidden() -> Self {
        Progress {
            whole: Duration::ZERO,
            shown: false,
        }
    }

    pub(super) fn show(&mut self, after: Duration, operations: u64) {
        if self.shown {
            let line = bar(after, self.whole);
            let _ = write!(std::io::stderr(), "\r{line} {operations}\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(after: Duration, whole: Duration) -> String {
    let whole = whole.as_millis().max(1);
    let part = after.as_millis().min(whole);
    let full = usize::try_from(part * WIDTH as u128 / whole).unwrap_or(WIDTH);
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::bar;

    #[test]
    fn the_bar_stays_within_its_brackets() {
        for (after, full) in [(0, 0), (500, 20), (1000, 40), (9000, 40)] {
            let bar = bar(Duration::from_millis(after), Duration::from_secs(1));
            assert_eq!(bar.matches('#').count(), full);
            assert_eq!(bar.len(), 42);
        }
    }
}
