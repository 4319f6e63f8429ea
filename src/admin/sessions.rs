#![forbid(unsafe_code)]
//! Who is logged in. No clock: time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use subtle::ConstantTimeEq;

/// The most sessions at once. When they are reached, the one that was unused the longest ends.
const MOST: usize = 256;
/// The most sessions of one account, so that one account cannot end the others'. The same goes for them.
const MOST_OF_ONE: usize = 16;
/// However busy it is, a session ends after this.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// The most lines kept to be shown on the next page.
const MOST_NOTES: usize = 20;

/// Somebody logged in.
#[derive(Debug)]
pub(super) struct Session {
    /// The account's name.
    pub(super) name: Arc<str>,
    /// Shown by each form that changes something; other sites do not know it.
    pub(super) csrf: String,
    notes: Mutex<Vec<String>>,
}

impl Session {
    /// True for the token of this session; takes as long whatever it is.
    pub(super) fn trusts(&self, token: &str) -> bool {
        self.csrf.as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// Keeps lines for the next page.
    pub(super) fn note(&self, lines: impl IntoIterator<Item = String>) {
        let mut notes = self.notes.lock();
        notes.extend(lines);
        if notes.len() > MOST_NOTES {
            let more = notes.len() - MOST_NOTES;
            notes.truncate(MOST_NOTES);
            notes.push(format!("and {more} more"));
        }
    }

    /// Takes them.
    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock())
    }
}

#[derive(Debug)]
struct Kept {
    session: Arc<Session>,
    begun: Instant,
    used: Instant,
}

/// All sessions, by the token in their cookie: 256 random bits, so that guessing leads nowhere.
#[derive(Debug)]
pub(super) struct Sessions {
    kept: HashMap<String, Kept>,
    timeout: Duration,
}

impl Sessions {
    /// Sessions that end when they are unused for so long.
    pub(super) fn new(timeout: Duration) -> Self {
        Sessions {
            kept: HashMap::new(),
            timeout,
        }
    }

    /// Begins a session; answers its token. `None` when the system has no random bits.
    pub(super) fn begin(&mut self, name: &str, now: Instant) -> Option<(String, Arc<Session>)> {
        let (timeout, alive) = (self.timeout, |kept: &Kept, timeout| {
            is_alive(kept, timeout, now)
        });
        self.kept.retain(|_, kept| alive(kept, timeout));
        let of_one = self
            .kept
            .values()
            .filter(|kept| &*kept.session.name == name)
            .count();
        if of_one >= MOST_OF_ONE {
            self.end_oldest(|kept| &*kept.session.name == name);
        } else if self.kept.len() >= MOST {
            self.end_oldest(|_| true);
        }
        let (token, csrf) = (random()?, random()?);
        let session = Arc::new(Session {
            name: name.into(),
            csrf,
            notes: Mutex::default(),
        });
        let kept = Kept {
            session: Arc::clone(&session),
            begun: now,
            used: now,
        };
        self.kept.insert(token.clone(), kept);
        Some((token, session))
    }

    /// The session of a token, if it has not ended. Its time begins anew if `active`: a page that renews
    /// itself is nobody at the desk.
    pub(super) fn find(&mut self, token: &str, now: Instant, active: bool) -> Option<Arc<Session>> {
        let timeout = self.timeout;
        let kept = self.kept.get_mut(token)?;
        if !is_alive(kept, timeout, now) {
            self.kept.remove(token);
            return None;
        }
        if active {
            kept.used = now;
        }
        Some(Arc::clone(&kept.session))
    }

    /// Ends a session.
    pub(super) fn end(&mut self, token: &str) {
        self.kept.remove(token);
    }

    /// Ends the session of somebody who leaves.
    pub(super) fn leave(&mut self, session: &Arc<Session>) {
        self.kept
            .retain(|_, kept| !Arc::ptr_eq(&kept.session, session));
    }

    fn end_oldest(&mut self, which: impl Fn(&Kept) -> bool) {
        let candidates = self.kept.iter().filter(|(_, kept)| which(kept));
        let oldest = candidates
            .min_by_key(|(_, kept)| kept.used)
            .map(|(token, _)| token.clone());
        if let Some(oldest) = oldest {
            self.kept.remove(&oldest);
        }
    }
}

fn is_alive(kept: &Kept, timeout: Duration, now: Instant) -> bool {
    let since = |then: Instant| now.saturating_duration_since(then);
    since(kept.used) < timeout && since(kept.begun) < LIFE
}

/// 256 random bits in hexadecimal.
fn random() -> Option<String> {
    use std::fmt::Write as _;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(
        bytes
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            }),
    )
}

#[cfg(test)]
mod tests {
    use super::{LIFE, MOST, MOST_OF_ONE, Sessions};
    use std::time::{Duration, Instant};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_session_ends_when_unused_when_old_and_when_told_to() {
        let start = Instant::now();
        let mut sessions = Sessions::new(30 * MINUTE);
        let (token, _) = sessions.begin("ann", start).unwrap();
        assert!(sessions.find(&token, start + 29 * MINUTE, true).is_some());
        assert!(sessions.find(&token, start + 58 * MINUTE, true).is_some());
        assert!(sessions.find(&token, start + 80 * MINUTE, false).is_some());
        assert!(sessions.find(&token, start + 88 * MINUTE, true).is_none());
        assert!(sessions.find(&token, start, true).is_none());

        let (token, _) = sessions.begin("ann", start).unwrap();
        let mut now = start;
        while now < start + LIFE {
            assert!(sessions.find(&token, now, true).is_some());
            now += 20 * MINUTE;
        }
        assert!(sessions.find(&token, now, true).is_none());

        let (token, session) = sessions.begin("ann", start).unwrap();
        assert!(session.trusts(&session.csrf) && !session.trusts("") && !session.trusts(&token));
        sessions.end(&token);
        assert!(sessions.find(&token, start, true).is_none());
    }

    #[test]
    fn the_table_is_bounded_and_one_account_cannot_end_anothers_sessions() {
        let start = Instant::now();
        let mut sessions = Sessions::new(30 * MINUTE);
        let (bob, _) = sessions.begin("bob", start).unwrap();
        let (first, _) = sessions.begin("ann", start).unwrap();
        for _ in 0..MOST_OF_ONE {
            sessions.begin("ann", start + MINUTE).unwrap();
        }
        assert!(sessions.find(&bob, start + MINUTE, true).is_some());
        assert!(sessions.find(&first, start + MINUTE, true).is_none());
        for number in 0..2 * MOST {
            sessions
                .begin(&format!("a{number}"), start + 2 * MINUTE)
                .unwrap();
        }
        assert_eq!(sessions.kept.len(), MOST);
    }
}
