#![forbid(unsafe_code)]
//! One client's conversation: which events lead where. What commands do is in `authorization` and `transaction`,
//! by the states of RFC 1939.

use std::sync::Arc;

use super::gate::Pop3;
use super::mailbox::{Mailbox, Text};
use crate::mail::access::{Access, Login};
use crate::mail::line::{Line, Lines, split_command};
use crate::mail::login::Failures;
use crate::mail::sasl::{Exchange, LONGEST_LINE};
use crate::session::{Abuse, Class, Context, Event, Input, Next, Outcome, Session};

/// A command line with its CRLF: RFC 2449 has 255, but passwords may be longer.
const COMMAND_LIMIT: usize = 2048;
/// Errors before a session is closed.
const MOST_ERRORS: u32 = 20;
/// Commands without a login: five attempts at one, each with CAPA and STLS before it, are far fewer.
const MOST_BEFORE_LOGIN: u32 = 100;

/// Where a session is.
pub(super) enum State {
    Command,
    Auth(Exchange),
    /// A login is under way.
    Login(Login<Pop3>),
    /// The mailbox is read.
    Opening,
    /// An answer waits, since a password was wrong.
    Punished(Vec<u8>),
    /// A message is on its way out.
    Sending(Text),
    /// A listing is on its way out: of names, or sizes; the next number.
    Listing {
        names: bool,
        next: usize,
    },
    /// What was deleted is removed, and then the session ends.
    Updating,
}

pub(super) struct Conversation {
    pub(super) shared: Arc<Access>,
    pub(super) state: State,
    lines: Lines,
    pub(super) user: Option<String>,
    pub(super) mailbox: Option<Mailbox>,
    pub(super) failures: Failures,
    errors: u32,
    /// Commands while nobody was logged in.
    before_login: u32,
    pub(super) closing: bool,
}

/// A command that the client may give now, what it does, and whether it belongs behind the login.
type Command = (
    &'static str,
    bool,
    fn(&mut Conversation, &[u8], &mut Context<'_>) -> Option<Next>,
);

const COMMANDS: &[Command] = &[
    ("USER", false, Conversation::user),
    ("PASS", false, Conversation::pass),
    ("AUTH", false, Conversation::auth),
    ("STLS", false, Conversation::stls),
    ("STAT", true, |it, _, cx| it.stat(cx)),
    ("LIST", true, |it, rest, cx| it.list(rest, false, cx)),
    ("UIDL", true, |it, rest, cx| it.list(rest, true, cx)),
    ("RETR", true, |it, rest, cx| it.retr(rest, false, cx)),
    ("TOP", true, |it, rest, cx| it.retr(rest, true, cx)),
    ("DELE", true, Conversation::dele),
    ("NOOP", true, |_, _, cx| say("+OK", cx)),
    ("RSET", true, |it, _, cx| it.rset(cx)),
];

pub(super) fn say(reply: &str, cx: &mut Context<'_>) -> Option<Next> {
    cx.write(reply.as_bytes());
    cx.write(b"\r\n");
    None
}

impl Conversation {
    pub(super) fn new(shared: Arc<Access>) -> Self {
        Conversation {
            shared,
            state: State::Command,
            lines: Lines::default(),
            user: None,
            mailbox: None,
            failures: Failures::default(),
            errors: 0,
            before_login: 0,
            closing: false,
        }
    }

    fn input(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            let next = match &mut self.state {
                State::Command => match self.lines.next(input, COMMAND_LIMIT) {
                    Some(Line::Whole(line)) => self.command(&line, cx),
                    Some(_) => self.error("-ERR that is no line of a command", cx),
                    None => return Next::Read,
                },
                State::Auth(exchange) => match self.lines.next(input, LONGEST_LINE) {
                    Some(Line::Whole(line)) => {
                        let step = exchange.respond(&line);
                        self.auth_step(step, cx)
                    }
                    Some(_) => {
                        self.state = State::Command;
                        self.error("-ERR that is no line of an exchange", cx)
                    }
                    None => return Next::Read,
                },
                _ => return self.rest(),
            };
            if let Some(next) = next {
                return next;
            }
            if self.closing {
                return Next::Close;
            }
        }
    }

    pub(super) fn rest(&self) -> Next {
        match self.state {
            State::Punished(_) | State::Login(Login::Gate(_)) => Next::Pause,
            _ => Next::Read,
        }
    }

    fn go_on(&self, next: Option<Next>) -> Next {
        match next {
            Some(next) => next,
            None if self.closing => Next::Close,
            None => self.rest(),
        }
    }

    pub(super) fn error(&mut self, reply: &str, cx: &mut Context<'_>) -> Option<Next> {
        say(reply, cx);
        self.errors += 1;
        if self.errors < MOST_ERRORS {
            return None;
        }
        cx.report(Abuse::Protocol);
        Some(Next::Close)
    }

    fn command(&mut self, line: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        // Whoever never logs in must not keep a connection for ever by asking.
        self.before_login += u32::from(self.mailbox.is_none());
        if self.before_login > MOST_BEFORE_LOGIN {
            say("-ERR too many commands without a login", cx);
            cx.report(Abuse::Protocol);
            return Some(Next::Close);
        }
        let (verb, rest) = split_command(line);
        match verb.as_str() {
            "CAPA" => return self.capa(cx),
            "QUIT" => return Some(self.quit(cx)),
            // A password may begin and end with blanks.
            "PASS" if self.mailbox.is_none() => {
                return self.pass(line.get(5..).unwrap_or_default(), cx);
            }
            _ => {}
        }
        let found = COMMANDS.iter().find(|(name, ..)| *name == verb);
        match found {
            Some((_, logged_in, run)) if *logged_in == self.mailbox.is_some() => {
                run(self, rest, cx)
            }
            Some(_) => self.error("-ERR not now", cx),
            None => self.error("-ERR no such command", cx),
        }
    }

    fn done(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Option<Next> {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Login(login) => {
                let verdict = login.done(&self.shared, outcome, cx);
                self.judge(verdict, cx)
            }
            State::Opening => self.opened(outcome.take(), cx),
            State::Updating => {
                match outcome.take::<usize>() {
                    Some(0) => say("+OK goodbye", cx),
                    _ => say("-ERR [SYS/TEMP] some messages were not removed", cx),
                };
                Some(Next::Close)
            }
            _ => None,
        }
    }

    fn alarm(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if !matches!(self.state, State::Punished(_)) {
            return self.turn_gate(cx);
        }
        if let State::Punished(reply) = std::mem::replace(&mut self.state, State::Command) {
            cx.write(&reply);
        }
        self.failures.are_many().then_some(Next::Close)
    }
}

impl Session for Conversation {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open if self.shared.clients_only && cx.peer().class != Class::Client => {
                say("-ERR [SYS/PERM] this server is for its own users", cx);
                Next::Close
            }
            Event::Open => {
                say("+OK ready", cx);
                Next::Read
            }
            Event::Input(input) => self.input(input, cx),
            Event::Secured => {
                // RFC 2595, 4: what was said before is forgotten.
                *self = Conversation::new(Arc::clone(&self.shared));
                Next::Read
            }
            Event::Drained if matches!(self.state, State::Command) => Next::Read,
            Event::Drained => self.drained(cx),
            Event::Done(outcome) => {
                let next = self.done(outcome, cx);
                self.go_on(next)
            }
            Event::Alarm => {
                let next = self.alarm(cx);
                self.go_on(next)
            }
            Event::Woken => {
                let next = self.turn_gate(cx);
                self.go_on(next)
            }
            Event::Shutdown => {
                self.closing = true;
                match self.state {
                    State::Command | State::Auth(_) => {
                        say("-ERR [SYS/TEMP] shutting down", cx);
                        Next::Close
                    }
                    _ => self.rest(),
                }
            }
            // RFC 1939, 3: a timeout removes nothing, and neither does any other end without QUIT.
            _ => Next::Close,
        }
    }
}
