#![forbid(unsafe_code)]
//! The login at another server, with the client's own name and password; then the connection is its own. What is
//! said to it and how it answers is a [`Dialect`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sasl::Credentials;
use crate::modules::proxy::{SendProxy, open_line};
use crate::session::{Context, Next, Relay, Upstream};
use crate::upstream::{Line, Pool, Progress};

/// How long the login may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest line of an answer (RFC 2449, 4: 512; IMAP's capabilities are longer).
const LONGEST: usize = 8192;

/// The server behind.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) pool: Arc<Pool>,
    pub(crate) send_proxy: Option<SendProxy>,
}

/// What is done upon a line of the server's.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is told this, or nothing.
    Say(Vec<u8>),
    /// It let the client in: what the client is told.
    In(Vec<u8>),
    /// It did not: what the client is told.
    Refused(Vec<u8>),
    /// It is of no use: why.
    Lost(String),
}

/// How one logs in, in a protocol.
pub(crate) trait Dialect: Send {
    /// The protocol's name.
    const NAME: &'static str;

    /// The server has said a line, here with its end.
    fn heard(&mut self, line: &[u8], credentials: &Credentials) -> Step;
}

/// A login under way.
pub(crate) struct Gate<D> {
    line: Line,
    dialect: D,
    credentials: Credentials,
    until: Instant,
}

/// What came of a turn.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing yet; look again then at the latest.
    Wait(Instant),
    /// It let the client in: its answer.
    In(Vec<u8>),
    /// It did not: its answer, as a line.
    Refused(Vec<u8>),
    /// It is gone, or never was there.
    Lost(String),
}

impl<D: Dialect> Gate<D> {
    /// Begins to connect; the session is woken as it goes on.
    ///
    /// # Errors
    /// No server can be reached, in words.
    pub(crate) fn open(
        place: &Place,
        dialect: D,
        credentials: Credentials,
        cx: &mut Context<'_>,
    ) -> Result<Self, String> {
        let line = open_line(&place.pool, place.send_proxy, cx)?;
        Ok(Gate {
            line,
            dialect,
            credentials,
            until: cx.now() + PATIENCE,
        })
    }

    /// Goes as far as that is possible without waiting.
    pub(crate) fn turn(&mut self, now: Instant) -> Outcome {
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
                    true => Outcome::Lost(format!(
                        "it closed the connection or does not speak {}",
                        D::NAME
                    )),
                    false if now >= self.until => {
                        Outcome::Lost("it does not answer in time".to_owned())
                    }
                    false => Outcome::Wait(self.until),
                };
            };
            match self.dialect.heard(&answer, &self.credentials) {
                Step::Say(bytes) => self.line.send(&bytes),
                Step::In(answer) => return Outcome::In(answer),
                Step::Refused(answer) => return Outcome::Refused(answer),
                Step::Lost(why) => return Outcome::Lost(why),
            }
        }
    }

    /// A whole line with its end.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let received = self.line.received();
        let end = memchr::memchr(b'\n', received)?;
        Some(received.drain(..=end).collect())
    }

    /// Hands the connection over, and tells the client what the server has said.
    pub(crate) fn relay(self, answer: &[u8], cx: &mut Context<'_>) -> Next {
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
