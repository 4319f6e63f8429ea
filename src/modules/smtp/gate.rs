#![forbid(unsafe_code)]
//! Delivery through another server: commands and answers are passed on, over SMTP or LMTP (RFC 2033).
//!
//! No thread waits for the upstream: the session pauses and is woken. What the upstream did not answer with a
//! 250 was not taken, whatever happened.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::session::Envelope;
use crate::mail::reply::Reply;
use crate::modules::proxy::{SendProxy, open_line};
use crate::session::{Context, Peer};
use crate::upstream::{Line, Pool, Progress};

/// How long an answer may take (RFC 5321, 4.5.3.2).
const PATIENCE: Duration = Duration::from_secs(300);
/// And the one to the end of a message.
const END_PATIENCE: Duration = Duration::from_secs(600);

/// Where a listener's messages go.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pool: Arc<Pool>,
    /// LHLO in place of EHLO.
    pub(super) is_lmtp: bool,
    pub(super) send_proxy: Option<SendProxy>,
    /// Our own name.
    pub(super) hostname: String,
    /// What the upstream offered last; what we offer ourselves is to be true.
    pub(super) offers: Mutex<Option<Offers>>,
}

/// What an upstream can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offers {
    pub(super) eight_bit: bool,
    pub(super) utf8: bool,
    /// `Some(0)` is no limit.
    pub(super) size: Option<u64>,
    xclient: Vec<String>,
}

impl Offers {
    fn of(reply: &Reply) -> Self {
        let mut offers = Offers::default();
        for line in reply.lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("8BITMIME") => offers.eight_bit = true,
                Some("SMTPUTF8") => offers.utf8 = true,
                Some("SIZE") => {
                    offers.size =
                        Some(words.next().and_then(|size| size.parse().ok()).unwrap_or(0));
                }
                Some("XCLIENT") => offers.xclient = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        offers
    }
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Connect,
    Greeting,
    Hello,
    XclientAnswer,
    /// Ready, nothing asked.
    Idle,
    /// Asked; the answer may come until then.
    Asked(Instant),
}

/// Who the client is, as XCLIENT tells it.
#[derive(Debug)]
pub(super) struct Introduction {
    pub(super) remote: SocketAddr,
    pub(super) helo: String,
    pub(super) extended: bool,
    pub(super) login: Option<Arc<str>>,
}

/// One session's conversation with the upstream.
#[derive(Debug)]
pub(super) struct Gate {
    place: Arc<Place>,
    line: Line,
    step: Step,
    /// When the opening must be done.
    until: Instant,
    offers: Offers,
    introduction: Introduction,
    introduced: bool,
    waiting: Option<Question>,
}

/// A command that waits for its turn, and how long its answer may take.
#[derive(Debug)]
struct Question {
    command: Vec<u8>,
    patience: Duration,
}

/// What came of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet; look again then at the latest.
    Wait(Instant),
    /// The upstream is ready and nothing is asked.
    Ready,
    /// It answered.
    Answer(Reply),
    /// It is gone, or never was there.
    Lost(String),
}

impl Gate {
    /// Begins a conversation; the session is woken as it goes on.
    pub(super) fn open(
        place: &Arc<Place>,
        introduction: Introduction,
        cx: &mut Context<'_>,
    ) -> Result<Self, String> {
        let line = open_line(&place.pool, place.send_proxy, cx)?;
        Ok(Gate {
            place: Arc::clone(place),
            line,
            step: Step::Connect,
            until: cx.now() + PATIENCE,
            offers: Offers::default(),
            introduction,
            introduced: false,
            waiting: None,
        })
    }

    /// What the upstream offered.
    pub(super) fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Asks once the conversation is ready.
    pub(super) fn ask(&mut self, command: String) {
        self.waiting = Some(Question {
            command: command.into_bytes(),
            patience: PATIENCE,
        });
    }

    /// Passes text of a message on, with its dots (RFC 5321, 4.5.2). `at_start` is kept between calls.
    pub(super) fn text(&mut self, text: &[u8], at_start: &mut bool) {
        let mut rest = text;
        while !rest.is_empty() {
            if *at_start && rest[0] == b'.' {
                self.line.send(b".");
            }
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            *at_start = rest[..end].ends_with(b"\n");
            self.line.send(&rest[..end]);
            rest = &rest[end..];
        }
    }

    /// Ends the message.
    pub(super) fn end_text(&mut self) {
        self.waiting = Some(Question {
            command: b".\r\n".to_vec(),
            patience: END_PATIENCE,
        });
    }

    /// How much text the upstream has not taken yet.
    pub(super) fn pending(&self) -> usize {
        self.line.pending()
    }

    /// Says goodbye without waiting for an answer.
    pub(super) fn quit(mut self, now: Instant) {
        if self.step == Step::Idle {
            self.line.send(b"QUIT\r\n");
            let _ = self.line.turn(now);
        }
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
            let reply = match Reply::take(self.line.received()) {
                Ok(reply) => reply,
                Err(_) => return Outcome::Lost("it does not speak SMTP".to_owned()),
            };
            match (reply, self.step) {
                (Some(reply), Step::Asked(_)) => {
                    self.step = Step::Idle;
                    return Outcome::Answer(reply);
                }
                (Some(reply), Step::Idle | Step::Connect) if self.step == Step::Idle => {
                    return Outcome::Lost(first(&reply));
                }
                (Some(reply), _) => {
                    if let Err(error) = self.opened(&reply) {
                        return Outcome::Lost(error);
                    }
                }
                (None, _) if progress == Progress::Ended => {
                    return Outcome::Lost("it closed the connection".to_owned());
                }
                (None, Step::Connect) => self.step = Step::Greeting,
                (None, Step::Idle) => match self.waiting.take() {
                    Some(question) => {
                        self.line.send(&question.command);
                        self.step = Step::Asked(now + question.patience);
                    }
                    None => return Outcome::Ready,
                },
                (None, Step::Asked(until)) => return self.wait(until, now),
                (None, _) => return self.wait(self.until, now),
            }
        }
    }

    fn wait(&self, until: Instant, now: Instant) -> Outcome {
        if now < until {
            Outcome::Wait(until)
        } else {
            Outcome::Lost("it does not answer in time".to_owned())
        }
    }

    /// One step of the opening: greeting, EHLO, and XCLIENT where it is offered, which begins anew.
    fn opened(&mut self, reply: &Reply) -> Result<(), String> {
        if !reply.is_positive() {
            if self.step == Step::XclientAnswer && reply.code != 421 {
                // It was only to know; the message is what counts.
                self.step = Step::Idle;
                return Ok(());
            }
            return Err(first(reply));
        }
        self.step = match self.step {
            Step::Connect | Step::Greeting | Step::XclientAnswer => {
                let verb = if self.place.is_lmtp { "LHLO" } else { "EHLO" };
                // Behind XCLIENT we speak as the client, whose name would else be ours.
                let name = match self.introduction.helo.as_str() {
                    helo if self.introduced && !helo.is_empty() => helo,
                    _ => &self.place.hostname,
                };
                self.line.send(format!("{verb} {name}\r\n").as_bytes());
                Step::Hello
            }
            _ => {
                self.offers = Offers::of(reply);
                *self.place.offers.lock() = Some(self.offers.clone());
                match self.xclient() {
                    Some(command) if !self.introduced => {
                        self.introduced = true;
                        self.line.send(command.as_bytes());
                        Step::XclientAnswer
                    }
                    _ => Step::Idle,
                }
            }
        };
        Ok(())
    }

    /// Tells who the client is, as far as the upstream wants to know (Postfix' XCLIENT_README).
    fn xclient(&self) -> Option<String> {
        let who = &self.introduction;
        let address = match who.remote.ip() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("IPV6:{address}"),
        };
        let protocol = if who.extended { "ESMTP" } else { "SMTP" };
        let attributes = [
            ("NAME", "[UNAVAILABLE]".to_owned()),
            ("ADDR", address),
            ("PORT", who.remote.port().to_string()),
            ("PROTO", protocol.to_owned()),
            ("HELO", xtext(&who.helo)),
            ("LOGIN", who.login.as_deref().map(xtext).unwrap_or_default()),
        ];
        let wanted = attributes.iter().filter(|(name, value)| {
            !value.is_empty() && self.offers.xclient.iter().any(|offered| offered == name)
        });
        let list: String = wanted
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        (!list.is_empty()).then(|| format!("XCLIENT{list}\r\n"))
    }
}

/// The command that passes a sender on, with the parameters that the upstream knows.
///
/// # Errors
/// The reply to a message that the upstream could not read (RFC 6152, 3; RFC 6531, 3.5).
pub(super) fn mail_command(envelope: &Envelope, offers: &Offers) -> Result<String, &'static str> {
    let mut command = format!("MAIL FROM:<{}>", envelope.from.text);
    if let Some(size) = envelope.size.filter(|_| offers.size.is_some()) {
        command += &format!(" SIZE={size}");
    }
    if envelope.eight_bit {
        if !offers.eight_bit {
            return Err("554 5.6.3 the mail server behind takes no 8-bit text");
        }
        command += " BODY=8BITMIME";
    }
    if envelope.utf8 {
        if !offers.utf8 {
            return Err("550 5.6.7 the mail server behind takes no UTF-8 addresses");
        }
        command += " SMTPUTF8";
    }
    Ok(command + "\r\n")
}

/// RFC 3461, 4.
fn xtext(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'!'..=b'~' if byte != b'+' && byte != b'=' => char::from(byte).to_string(),
        _ => format!("+{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

fn first(reply: &Reply) -> String {
    let text = reply.lines.first().map(String::as_str).unwrap_or_default();
    format!("it said {} {text}", reply.code)
}

impl Introduction {
    pub(super) fn of(peer: &Peer, helo: &str, extended: bool, login: Option<&Arc<str>>) -> Self {
        Introduction {
            remote: peer.remote,
            helo: helo.to_owned(),
            extended,
            login: login.cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Envelope, Offers, mail_command, xtext};
    use crate::mail::reply::Reply;
    use crate::modules::smtp::address::argument;

    #[test]
    fn only_what_the_upstream_offers_is_passed_on() {
        let mut bytes =
            b"250-mx\r\n250-size 1000\r\n250-8bitmime\r\n250 XCLIENT NAME ADDR\r\n".to_vec();
        let offers = Offers::of(&Reply::take(&mut bytes).unwrap().unwrap());
        assert!(offers.eight_bit && !offers.utf8 && offers.size == Some(1000));
        assert_eq!(offers.xclient, ["NAME", "ADDR"]);
        let mut envelope = Envelope {
            from: argument(b"FROM:<a@b>", "FROM:").unwrap().path,
            eight_bit: true,
            size: Some(5),
            ..Envelope::default()
        };
        let command = mail_command(&envelope, &offers);
        assert_eq!(
            command.as_deref(),
            Ok("MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME\r\n")
        );
        assert!(
            mail_command(&envelope, &Offers::default())
                .unwrap_err()
                .starts_with("554")
        );
        (envelope.eight_bit, envelope.utf8) = (false, true);
        assert!(
            mail_command(&envelope, &offers)
                .unwrap_err()
                .starts_with("550")
        );
        envelope.utf8 = false;
        let command = mail_command(&envelope, &Offers::default());
        assert_eq!(command.as_deref(), Ok("MAIL FROM:<a@b>\r\n"));
        assert_eq!(xtext("a+b=c d"), "a+2Bb+3Dc+20d");
    }
}
