#![forbid(unsafe_code)]
//! One client's conversation: which events lead where. What commands do is in `commands`, how a message comes in
//! and is stored in `incoming`.

use std::sync::Arc;
use std::time::Instant;

use super::address::Path;
use super::gate::{Gate, Introduction, Outcome, Place, mail_command};
use super::incoming::{Message, Stored};
use super::{Delivery, Shared};
use crate::accounts::Account;
use crate::mail::line::{Line, Lines};
use crate::mail::login::Failures;
use crate::mail::reply::Reply;
use crate::mail::sasl::{self, Exchange};
use crate::session::{Abuse, Context, Event, Input, Lane, Next, Session, Work};

/// A command line with its CRLF: RFC 5321 has 512, its extensions add up to about 1,100, and some clients more.
const COMMAND_LIMIT: usize = 2048;
/// What a client is told whose message the server behind cannot be asked about. It will try again.
pub(super) const UNREACHABLE: &str = "451 4.4.1 the mail server behind cannot be reached";
/// Errors of a session before it is closed.
const MOST_ERRORS: u32 = 10;

/// Where a session is.
#[derive(Debug)]
pub(super) enum State {
    /// The greeting waits, to see whether the client does.
    Delayed,
    Command,
    Auth(Exchange),
    /// A password is verified.
    Verifying,
    /// An answer waits, since a password was wrong.
    Punished,
    /// Text of a message comes in.
    Text,
    /// Text is being written; with the whole message, if `last`.
    Storing {
        last: bool,
    },
    /// The upstream's names are looked up, then it is asked.
    LookUp(Asked),
    /// The upstream is asked: connected if it must be, and then the question put.
    Upstream {
        asked: Asked,
        put: bool,
    },
}

/// What the upstream is asked, and so what its answer means.
#[derive(Debug)]
pub(super) enum Asked {
    /// Only what it offers.
    Offers(String),
    Mail(Envelope),
    Rcpt(Recipient),
    /// The client's own DATA.
    Data,
    /// DATA for the client's chunks.
    Chunks,
    /// It is to take some of the text before more is read, until then.
    Room(Instant),
    /// The message is complete.
    End,
    Reset,
}

/// A message's sender and recipients.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) from: Path,
    pub(super) eight_bit: bool,
    pub(super) utf8: bool,
    pub(super) size: Option<u64>,
    pub(super) recipients: Vec<Recipient>,
    /// The upstream left in the middle of it.
    pub(super) is_lost: bool,
    /// RCPT commands, those refused included.
    pub(super) asked: usize,
}

/// One accepted recipient.
#[derive(Debug, Clone)]
pub(super) struct Recipient {
    pub(super) text: String,
    /// Whose mailbox, where we deliver ourselves.
    pub(super) account: Option<Arc<str>>,
}

pub(super) struct Conversation {
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    lines: Lines,
    /// What the client called itself, and whether with EHLO.
    pub(super) helo: Option<(String, bool)>,
    pub(super) account: Option<Arc<Account>>,
    pub(super) failures: Failures,
    pub(super) envelope: Option<Envelope>,
    pub(super) message: Option<Message>,
    pub(super) gate: Option<Gate>,
    errors: u32,
    /// Commands that deliver nothing, since the last message.
    pub(super) idle_commands: u32,
    pub(super) closing: bool,
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Conversation {
            shared,
            state: State::Command,
            lines: Lines::default(),
            helo: None,
            account: None,
            failures: Failures::default(),
            envelope: None,
            message: None,
            gate: None,
            errors: 0,
            idle_commands: 0,
            closing: false,
        }
    }

    fn greet(&mut self, cx: &mut Context<'_>) -> Next {
        self.state = State::Command;
        cx.write(format!("220 {} ESMTP\r\n", self.shared.hostname).as_bytes());
        Next::Read
    }

    /// Forgets the message under way.
    pub(super) fn reset(&mut self) {
        self.envelope = None;
        self.message = None;
    }

    /// What the session waits for where it is.
    pub(super) fn rest(&self) -> Next {
        match self.state {
            State::Punished | State::Upstream { .. } => Next::Pause,
            _ => Next::Read,
        }
    }

    /// Answers a command that is wrong in itself; after many the session is closed.
    pub(super) fn error(&mut self, reply: &str, cx: &mut Context<'_>) -> Option<Next> {
        cx.write(reply.as_bytes());
        cx.write(b"\r\n");
        self.errors += 1;
        if self.errors < MOST_ERRORS {
            return None;
        }
        cx.report(Abuse::Protocol);
        Some(self.close("421 4.7.0 too many errors", cx))
    }

    pub(super) fn close(&mut self, reply: &str, cx: &mut Context<'_>) -> Next {
        cx.write(reply.as_bytes());
        cx.write(b"\r\n");
        if let Some(gate) = self.gate.take() {
            gate.quit(cx.now());
        }
        Next::Close
    }

    fn input(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            let next = match self.state {
                // RFC 5321, 4.3.1: a client waits for the greeting. Programs that send unwanted mail do not.
                State::Delayed => {
                    return self.close("554 5.5.1 you did not wait for the greeting", cx);
                }
                State::Command => {
                    let is_auth = input
                        .get(..4)
                        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH"));
                    let limit = if is_auth {
                        sasl::LONGEST_LINE
                    } else {
                        COMMAND_LIMIT
                    };
                    match self.lines.next(input, limit) {
                        Some(Line::Whole(line)) => self.command(&line, cx),
                        Some(Line::TooLong) => self.error("500 5.5.2 line too long", cx),
                        Some(Line::Malformed) => self.error(
                            "500 5.5.2 a line ends with CRLF, and has no other CR, LF or NUL",
                            cx,
                        ),
                        None => return Next::Read,
                    }
                }
                State::Auth(_) => match self.lines.next(input, sasl::LONGEST_LINE) {
                    Some(Line::Whole(line)) => self.auth_line(&line, cx),
                    Some(_) => {
                        self.state = State::Command;
                        self.error("500 5.5.6 line too long or malformed", cx)
                    }
                    None => return Next::Read,
                },
                State::Text => {
                    if input.is_empty() && !self.wants_no_input() {
                        return Next::Read;
                    }
                    self.take_text(input, cx)
                }
                _ => return self.rest(),
            };
            if let Some(next) = next {
                return next;
            }
            if self.closing && matches!(self.state, State::Command) {
                return self.close("421 4.3.2 shutting down", cx);
            }
        }
    }

    /// Asks the upstream, which may have to be connected first.
    pub(super) fn ask(&mut self, asked: Asked, cx: &mut Context<'_>) -> Option<Next> {
        let Delivery::Gate(place) = &self.shared.delivery else {
            return None;
        };
        let place = Arc::clone(place);
        if self.gate.is_none() && place.pool.wants_look_up(cx.now()) {
            self.state = State::LookUp(asked);
            let look_up = move || place.pool.look_up();
            return Some(Next::Work(Work::new(Lane::Wait, look_up)));
        }
        self.ask_now(asked, &place, cx)
    }

    fn ask_now(&mut self, asked: Asked, place: &Arc<Place>, cx: &mut Context<'_>) -> Option<Next> {
        if self.gate.is_none() {
            let (helo, extended) = match (&asked, &self.helo) {
                (Asked::Offers(helo), _) => (helo.clone(), true),
                (_, helo) => helo.clone().unwrap_or_default(),
            };
            let login = self.account.as_ref().map(|account| account.name());
            let introduction = Introduction::of(cx.peer(), &helo, extended, login);
            match Gate::open(place, introduction, cx) {
                Ok(gate) => self.gate = Some(gate),
                Err(error) => return self.lost(asked, &error, cx),
            }
        }
        self.state = State::Upstream { asked, put: false };
        self.turn_gate(cx)
    }

    /// Lets the conversation with the upstream go on; `None` when its answer was dealt with.
    pub(super) fn turn_gate(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        loop {
            let Some(gate) = &mut self.gate else {
                return Some(self.rest());
            };
            let outcome = gate.turn(cx.now());
            let State::Upstream { asked, put } = &mut self.state else {
                // It was not asked: a message under way is lost with it, and its next command is told so.
                if let Outcome::Lost(error) = outcome {
                    log::debug!(target: &cx.peer().listener, "the upstream left: {error}");
                    self.upstream_left();
                }
                return Some(self.rest());
            };
            match outcome {
                Outcome::Wait(until) => return Some(Self::pause(until, cx)),
                Outcome::Answer(reply) => return self.answered(Some(reply), cx),
                Outcome::Lost(error) => {
                    let asked = std::mem::replace(asked, Asked::Reset);
                    return self.lost(asked, &error, cx);
                }
                // It was asked, and its answer is no answer to that.
                Outcome::Ready if *put => return Some(Next::Abort),
                Outcome::Ready => {}
            }
            match asked {
                Asked::Offers(_) => return self.answered(None, cx),
                Asked::Room(until) => {
                    if gate.pending() <= Message::CHUNK {
                        return self.answered(None, cx);
                    }
                    let until = *until;
                    if cx.now() >= until {
                        return self.lost(Asked::Room(until), "it takes nothing", cx);
                    }
                    return Some(Self::pause(until, cx));
                }
                Asked::Mail(envelope) => match mail_command(envelope, gate.offers()) {
                    Ok(command) => gate.ask(command),
                    Err(refusal) => {
                        self.state = State::Command;
                        return self.say(refusal, cx);
                    }
                },
                Asked::Rcpt(recipient) => gate.ask(format!("RCPT TO:<{}>\r\n", recipient.text)),
                Asked::Data | Asked::Chunks => gate.ask("DATA\r\n".to_owned()),
                Asked::End => gate.end_text(),
                Asked::Reset => gate.ask("RSET\r\n".to_owned()),
            }
            *put = true;
        }
    }

    /// The upstream is gone without having been asked.
    fn upstream_left(&mut self) {
        self.gate = None;
        if let Some(envelope) = &mut self.envelope {
            envelope.is_lost = true;
        }
        if let Some(message) = &mut self.message {
            message.refuse(UNREACHABLE);
        }
    }

    fn pause(until: Instant, cx: &mut Context<'_>) -> Next {
        cx.set_alarm(Some(until.saturating_duration_since(cx.now())));
        Next::Pause
    }

    pub(super) fn say(&self, reply: &str, cx: &mut Context<'_>) -> Option<Next> {
        cx.write(reply.as_bytes());
        cx.write(b"\r\n");
        None
    }

    /// Goes on with commands after something that was no input; what the client sent meanwhile comes next.
    fn go_on(&mut self, next: Option<Next>, cx: &mut Context<'_>) -> Next {
        match next {
            Some(next) => next,
            None if self.closing && matches!(self.state, State::Command) => {
                self.close("421 4.3.2 shutting down", cx)
            }
            None => self.rest(),
        }
    }

    fn done(&mut self, outcome: crate::session::Outcome, cx: &mut Context<'_>) -> Option<Next> {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Verifying => self.verified(outcome.take().flatten(), cx),
            State::Storing { last } => {
                let stored: Option<Stored> = outcome.take();
                self.stored(last, stored, cx)
            }
            State::LookUp(asked) => match &self.shared.delivery {
                Delivery::Gate(place) => {
                    let place = Arc::clone(place);
                    self.ask_now(asked, &place, cx)
                }
                Delivery::Maildir(_) => None,
            },
            state => {
                self.state = state;
                Some(self.rest())
            }
        }
    }

    /// Deals with an upstream's answer, or with its being ready where that was all.
    pub(super) fn answered(&mut self, reply: Option<Reply>, cx: &mut Context<'_>) -> Option<Next> {
        cx.set_alarm(None);
        let State::Upstream { asked, .. } = std::mem::replace(&mut self.state, State::Command)
        else {
            return Some(self.rest());
        };
        // A go-ahead where none belongs, or a 250 in its place, must not look to the client like a stored message.
        let wants_text = matches!(asked, Asked::Data | Asked::Chunks);
        let is_strange = |reply: &Reply| match reply.code {
            354 => !wants_text,
            code => code < 300 && wants_text || (300..400).contains(&code),
        };
        if reply.as_ref().is_some_and(is_strange) {
            return self.lost(asked, "it answers what was not asked", cx);
        }
        let is_positive = reply.as_ref().is_none_or(Reply::is_positive);
        let is_leaving = reply.as_ref().is_some_and(|reply| reply.code == 421);
        let mut text = reply.map(|reply| reply.text());
        match asked {
            Asked::Offers(helo) => {
                self.greet_back(helo, true, cx);
                text = None;
            }
            Asked::Mail(envelope) if is_positive => self.envelope = Some(envelope),
            Asked::Rcpt(recipient) if is_positive => {
                if let Some(envelope) = &mut self.envelope {
                    envelope.recipients.push(recipient);
                }
            }
            Asked::Data | Asked::Chunks if is_positive => {
                let is_chunks = matches!(asked, Asked::Chunks);
                self.begin_text(is_chunks, cx);
                // A client that sends chunks is not told to go ahead.
                text = text.filter(|_| !is_chunks);
            }
            Asked::Chunks => {
                let refusal = text.take().unwrap_or_default();
                self.refuse_text(refusal.trim_end());
            }
            Asked::Room(_) => self.state = State::Text,
            Asked::End => {
                self.reset();
                self.idle_commands = 0;
            }
            Asked::Reset => text = None,
            Asked::Mail(_) | Asked::Rcpt(_) | Asked::Data => {}
        }
        cx.write(text.unwrap_or_default().as_bytes());
        if is_leaving {
            self.gate = None;
            return Some(Next::Close);
        }
        None
    }

    /// The upstream is gone, or cannot be reached: nothing is lost that was not answered with a 250.
    fn lost(&mut self, asked: Asked, error: &str, cx: &mut Context<'_>) -> Option<Next> {
        cx.set_alarm(None);
        log::debug!(target: &cx.peer().listener, "the upstream cannot be asked: {error}");
        self.gate = None;
        self.state = State::Command;
        match asked {
            // We do not know what it would offer: little is promised.
            Asked::Offers(helo) => self.greet_back(helo, true, cx),
            Asked::Reset => {}
            Asked::Chunks => {
                self.upstream_left();
                self.refuse_text(UNREACHABLE);
            }
            Asked::Room(_) => {
                self.state = State::Text;
                self.upstream_left();
            }
            Asked::Rcpt(_) | Asked::Data => {
                self.upstream_left();
                return self.say(UNREACHABLE, cx);
            }
            Asked::Mail(_) | Asked::End => {
                self.reset();
                return self.say(UNREACHABLE, cx);
            }
        }
        None
    }
}

impl Session for Conversation {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => match self.shared.greet_delay {
                Some(delay) => {
                    self.state = State::Delayed;
                    cx.set_alarm(Some(delay));
                    Next::Read
                }
                None => self.greet(cx),
            },
            Event::Input(input) => self.input(input, cx),
            Event::Secured => {
                // RFC 3207, 4.2: what was said before is forgotten.
                *self = Conversation::new(Arc::clone(&self.shared));
                Next::Read
            }
            Event::Alarm => match self.state {
                State::Delayed => self.greet(cx),
                State::Punished => {
                    let next = self.punished(cx);
                    self.go_on(next, cx)
                }
                _ => {
                    let next = self.turn_gate(cx);
                    self.go_on(next, cx)
                }
            },
            Event::Woken => {
                let next = self.turn_gate(cx);
                self.go_on(next, cx)
            }
            Event::Done(outcome) => {
                let next = self.done(outcome, cx);
                self.go_on(next, cx)
            }
            Event::Shutdown => {
                self.closing = true;
                match self.state {
                    State::Delayed => Next::Close,
                    State::Command | State::Auth(_) => self.close("421 4.3.2 shutting down", cx),
                    _ => self.rest(),
                }
            }
            Event::Timeout => self.close("421 4.4.2 timeout", cx),
            _ => {
                if let Some(gate) = self.gate.take() {
                    gate.quit(cx.now());
                }
                Next::Close
            }
        }
    }
}
