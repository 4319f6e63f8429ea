#![forbid(unsafe_code)]
//! The login at another server, with the client's own name and password; then the connection is its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::mail::sasl::Credentials;
use crate::modules::proxy::{SendProxy, open_line};
use crate::session::{Context, Next, Relay, Upstream};
use crate::upstream::{Line, Pool, Progress};

/// How long the login may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest line of an answer (RFC 2449, 4: 512).
const LONGEST: usize = 4096;

/// The server behind.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pool: Arc<Pool>,
    pub(super) send_proxy: Option<SendProxy>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy)]
enum Step {
    Greeting,
    User,
    Pass,
}

/// A login under way.
#[derive(Debug)]
pub(super) struct Gate {
    line: Line,
    step: Step,
    credentials: Credentials,
    until: Instant,
}

/// What came of a turn.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing yet; look again then at the latest.
    Wait(Instant),
    /// It let the client in: its answer.
    In(Vec<u8>),
    /// It did not: its answer, as a line.
    Refused(Vec<u8>),
    /// It is gone, or never was there.
    Lost(String),
}

impl Gate {
    /// Begins to connect; the session is woken as it goes on.
    pub(super) fn open(
        place: &Place,
        credentials: Credentials,
        cx: &mut Context<'_>,
    ) -> Result<Self, String> {
        let line = open_line(&place.pool, place.send_proxy, cx)?;
        Ok(Gate {
            line,
            step: Step::Greeting,
            credentials,
            until: cx.now() + PATIENCE,
        })
    }

    /// Goes as far as that is possible without waiting.
    pub(super) fn turn(&mut self, now: Instant) -> Outcome {
        loop {
            let progress = match self.line.turn(now) {
                Ok(progress) => progress,
                Err(error) => return Outcome::Lost(error.to_string()),
            };
            if let Progress::Connecting(until) = progress {
                return Outcome::Wait(until);
            }
            let Some(answer) = self.answer() else {
                let is_lost = progress == Progress::Ended || self.line.received().len() > LONGEST;
                return match is_lost {
                    true => {
                        Outcome::Lost("it closed the connection or does not speak POP3".to_owned())
                    }
                    false if now >= self.until => {
                        Outcome::Lost("it does not answer in time".to_owned())
                    }
                    false => Outcome::Wait(self.until),
                };
            };
            let is_positive = answer.starts_with(b"+OK");
            if !is_positive && !answer.starts_with(b"-ERR") {
                return Outcome::Lost("it does not speak POP3".to_owned());
            }
            self.step = match self.step {
                Step::Greeting if !is_positive => {
                    let said = String::from_utf8_lossy(&answer).trim_end().to_owned();
                    return Outcome::Lost(format!("it said {said}"));
                }
                Step::Greeting => {
                    self.line
                        .send(format!("USER {}\r\n", self.credentials.name).as_bytes());
                    Step::User
                }
                _ if !is_positive => return Outcome::Refused(answer),
                Step::User => {
                    let line = [b"PASS ", &self.credentials.password[..], b"\r\n"].concat();
                    self.line.send(&line);
                    Step::Pass
                }
                Step::Pass => return Outcome::In(answer),
            };
        }
    }

    /// A whole line with its end.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let received = self.line.received();
        let end = memchr::memchr(b'\n', received)?;
        Some(received.drain(..=end).collect())
    }

    /// Hands the connection over, and tells the client what the server has said.
    pub(super) fn relay(self, answer: &[u8], cx: &mut Context<'_>) -> Next {
        match self.line.into_parts() {
            Ok((stream, ahead, said)) => {
                cx.write(answer);
                cx.write(&said);
                Next::Relay(Relay {
                    upstream: Upstream::Connected(stream),
                    ahead,
                })
            }
            Err(_) => Next::Abort,
        }
    }
}
