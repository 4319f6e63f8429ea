#![forbid(unsafe_code)]
//! One client's conversation, in the states of RFC 1939: AUTHORIZATION, TRANSACTION, UPDATE.

use std::sync::Arc;

use super::gate::Pop3;
use super::mailbox::{Entry, Mailbox, Refusal, Text};
use crate::accounts::Account;
use crate::mail::access::{Access, Behind, Login, Verdict};
use crate::mail::line::{Line, Lines, split_command};
use crate::mail::login::Failures;
use crate::mail::sasl::{Credentials, Exchange, LONGEST_LINE, MECHANISMS, SaslError, Step};
use crate::session::{Abuse, Class, Context, Event, Input, Lane, Next, Outcome, Session, Work};

/// A command line with its CRLF: RFC 2449 has 255, but passwords may be longer.
const COMMAND_LIMIT: usize = 2048;
/// Errors before a session is closed.
const MOST_ERRORS: u32 = 20;
/// Rows of a listing that are written before the client has taken them.
const ROWS: usize = 500;

/// Where a session is.
enum State {
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
    shared: Arc<Access>,
    state: State,
    lines: Lines,
    user: Option<String>,
    mailbox: Option<Mailbox>,
    failures: Failures,
    errors: u32,
    closing: bool,
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

fn say(reply: &str, cx: &mut Context<'_>) -> Option<Next> {
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

    fn rest(&self) -> Next {
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

    fn error(&mut self, reply: &str, cx: &mut Context<'_>) -> Option<Next> {
        say(reply, cx);
        self.errors += 1;
        if self.errors < MOST_ERRORS {
            return None;
        }
        cx.report(Abuse::Protocol);
        Some(Next::Close)
    }

    fn command(&mut self, line: &[u8], cx: &mut Context<'_>) -> Option<Next> {
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

    fn capa(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let peer = cx.peer();
        let is_open = self.mailbox.is_none();
        let may_login = is_open && peer.may_send_password();
        let may_start_tls = is_open && peer.may_start_tls && !peer.is_secure();
        let sasl = format!("SASL {MECHANISMS}");
        let rows = [
            (true, "TOP"),
            (true, "UIDL"),
            (true, "RESP-CODES"),
            (true, "AUTH-RESP-CODE"),
            (true, "PIPELINING"),
            (may_login, "USER"),
            (may_login, sasl.as_str()),
            (may_start_tls, "STLS"),
            (true, "IMPLEMENTATION portreeve"),
        ];
        say("+OK", cx);
        for (_, row) in rows.iter().filter(|(is_true, _)| *is_true) {
            say(row, cx);
        }
        say(".", cx)
    }

    fn quit(&mut self, cx: &mut Context<'_>) -> Next {
        match self.mailbox.take() {
            None => {
                say("+OK goodbye", cx);
                Next::Close
            }
            Some(mailbox) => {
                self.state = State::Updating;
                Next::Work(Work::new(Lane::Wait, move || mailbox.update()))
            }
        }
    }

    fn user(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if !cx.peer().may_send_password() {
            return self.error("-ERR a login in clear is not taken: STLS first", cx);
        }
        let name = std::str::from_utf8(rest).ok();
        let plain = |name: &&str| !name.is_empty() && !name.chars().any(char::is_control);
        let Some(name) = name.filter(plain) else {
            return self.error("-ERR expected USER name", cx);
        };
        self.user = Some(name.to_owned());
        say("+OK and the password?", cx)
    }

    fn pass(&mut self, password: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let Some(name) = self.user.take() else {
            return self.error("-ERR USER first", cx);
        };
        if password.is_empty() {
            return self.error("-ERR expected PASS password", cx);
        }
        let password = password.to_vec();
        self.login(Credentials { name, password }, cx)
    }

    fn auth(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if rest.is_empty() {
            // RFC 1734's way to ask for the mechanisms, which some clients still use.
            say("+OK", cx);
            if cx.peer().may_send_password() {
                MECHANISMS.split(' ').for_each(|name| drop(say(name, cx)));
            }
            return say(".", cx);
        }
        if !cx.peer().may_send_password() {
            return self.error("-ERR a login in clear is not taken: STLS first", cx);
        }
        let (mechanism, initial) = split_command(rest);
        let Some(mut exchange) = Exchange::of(&mechanism) else {
            return self.error("-ERR no such mechanism", cx);
        };
        let step = exchange.begin((!initial.is_empty()).then_some(initial));
        self.state = State::Auth(exchange);
        self.auth_step(step, cx)
    }

    fn auth_step(&mut self, step: Result<Step, SaslError>, cx: &mut Context<'_>) -> Option<Next> {
        match step {
            Ok(Step::Challenge(text)) => return say(&format!("+ {text}"), cx),
            Ok(Step::Verify(credentials)) => return self.login(credentials, cx),
            Err(_) => {}
        }
        self.state = State::Command;
        self.error("-ERR the exchange ended without a login", cx)
    }

    fn stls(&mut self, _rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if !cx.peer().may_start_tls || cx.peer().is_secure() {
            return self.error("-ERR STLS is not offered here", cx);
        }
        say("+OK go ahead", cx);
        Some(Next::StartTls)
    }

    fn login(&mut self, credentials: Credentials, cx: &mut Context<'_>) -> Option<Next> {
        let verdict = Login::begin(&self.shared, credentials, Pop3::default(), cx);
        self.judge(verdict, cx)
    }

    fn judge(&mut self, verdict: Verdict<Pop3>, cx: &mut Context<'_>) -> Option<Next> {
        self.state = State::Command;
        match verdict {
            Verdict::Wait(login, next) => {
                self.state = State::Login(login);
                Some(next)
            }
            Verdict::In(account) => self.open(&account),
            Verdict::Passed(next) => Some(next),
            Verdict::Refused(Some(answer)) if !is_about_password(&answer) => {
                cx.write(&answer);
                None
            }
            Verdict::Refused(answer) => {
                let ours = || b"-ERR [AUTH] name or password is wrong\r\n".to_vec();
                Some(self.punish(answer.unwrap_or_else(ours), cx))
            }
            Verdict::Busy => say("-ERR [SYS/TEMP] too many log in just now, try again", cx),
            Verdict::Lost => say(
                "-ERR [SYS/TEMP] the mail server behind cannot be reached",
                cx,
            ),
        }
    }

    fn open(&mut self, account: &Account) -> Option<Next> {
        let Behind::Maildir(store) = &self.shared.behind else {
            return None;
        };
        let maildir = store.mailbox(account.name());
        self.state = State::Opening;
        Some(Next::Work(Work::new(Lane::Wait, move || {
            Mailbox::open(maildir)
        })))
    }

    /// A wrong password: its answer waits.
    fn punish(&mut self, reply: Vec<u8>, cx: &mut Context<'_>) -> Next {
        cx.report(Abuse::FailedLogin);
        cx.set_alarm(Some(self.failures.delay()));
        self.state = State::Punished(reply);
        Next::Pause
    }

    fn opened(
        &mut self,
        opened: Option<Result<Mailbox, Refusal>>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        self.state = State::Command;
        let refusal = match opened {
            Some(Ok(mailbox)) => {
                let (count, size) = mailbox.total();
                self.mailbox = Some(mailbox);
                return say(&format!("+OK {count} messages, {size} bytes"), cx);
            }
            Some(Err(Refusal::InUse)) => "-ERR [IN-USE] another session has this mailbox",
            Some(Err(Refusal::Disk(error))) => {
                log::debug!(target: &cx.peer().listener, "a mailbox cannot be read: {error}");
                "-ERR [SYS/TEMP] the mailbox cannot be read"
            }
            None => "-ERR [SYS/TEMP] the mailbox cannot be read",
        };
        say(refusal, cx)
    }

    fn turn_gate(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if !matches!(self.state, State::Login(Login::Gate(_))) {
            return Some(self.rest());
        }
        match std::mem::replace(&mut self.state, State::Command) {
            State::Login(login) => {
                let verdict = login.turn(cx);
                self.judge(verdict, cx)
            }
            _ => None,
        }
    }

    fn stat(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let (count, size) = self.mailbox.as_ref().map_or((0, 0), Mailbox::total);
        say(&format!("+OK {count} {size}"), cx)
    }

    /// The message that a command names, or its refusal.
    fn named(&self, number: &[u8]) -> Result<(usize, &Mailbox, &Entry), &'static str> {
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|text| text.parse().ok());
        let mailbox = self.mailbox.as_ref().ok_or("-ERR not now")?;
        let number: usize = number.ok_or("-ERR expected the number of a message")?;
        let entry = mailbox.entry(number).ok_or("-ERR no such message")?;
        Ok((number, mailbox, entry))
    }

    fn list(&mut self, rest: &[u8], names: bool, cx: &mut Context<'_>) -> Option<Next> {
        if rest.is_empty() {
            say("+OK", cx);
            self.state = State::Listing { names, next: 1 };
            return Some(self.drained(cx));
        }
        match self.named(rest) {
            Ok((number, _, entry)) => say(&format!("+OK {number} {}", fact(entry, names)), cx),
            Err(refusal) => self.error(refusal, cx),
        }
    }

    fn retr(&mut self, rest: &[u8], top: bool, cx: &mut Context<'_>) -> Option<Next> {
        let (number, lines) = match rest.iter().position(|byte| *byte == b' ') {
            Some(at) if top => (&rest[..at], Some(rest[at..].trim_ascii())),
            _ => (rest, None),
        };
        let count = lines.and_then(|lines| std::str::from_utf8(lines).ok()?.parse().ok());
        if top && count.is_none() {
            return self.error("-ERR expected TOP message lines", cx);
        }
        let opened = match self.named(number) {
            Ok((_, mailbox, entry)) => mailbox.text(entry, count).map(|text| (text, entry.size)),
            Err(refusal) => return self.error(refusal, cx),
        };
        match opened {
            Ok((text, size)) => {
                say(&format!("+OK {size} bytes"), cx);
                self.state = State::Sending(text);
                Some(self.drained(cx))
            }
            Err(_) => say("-ERR [SYS/TEMP] the message cannot be read", cx),
        }
    }

    /// The client has taken what was written: more of it, or the next command.
    fn drained(&mut self, cx: &mut Context<'_>) -> Next {
        let ended = match &mut self.state {
            State::Sending(text) => {
                let mut piece = Vec::new();
                let ended = text.piece(&mut piece);
                cx.write(&piece);
                match ended {
                    Ok(ended) => ended,
                    // Half a message is under way, and there is no way to say so but to end.
                    Err(_) => return Next::Abort,
                }
            }
            State::Listing { names, next } => {
                let entries = self
                    .mailbox
                    .as_ref()
                    .map_or(&[][..], |mailbox| &mailbox.entries);
                let rows = entries.iter().enumerate().skip(*next - 1).take(ROWS);
                for (index, entry) in rows.filter(|(_, entry)| !entry.is_deleted) {
                    let row = format!("{} {}\r\n", index + 1, fact(entry, *names));
                    cx.write(row.as_bytes());
                }
                *next += ROWS;
                let ended = *next > entries.len();
                if ended {
                    cx.write(b".\r\n");
                }
                ended
            }
            _ => return self.rest(),
        };
        if ended {
            self.state = State::Command;
            if self.closing {
                return Next::Close;
            }
        }
        Next::Drain
    }

    fn dele(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let number = match self.named(rest) {
            Ok((number, ..)) => number,
            Err(refusal) => return self.error(refusal, cx),
        };
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.entries[number - 1].is_deleted = true;
        }
        say("+OK deleted at QUIT", cx)
    }

    fn rset(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox
                .entries
                .iter_mut()
                .for_each(|entry| entry.is_deleted = false);
        }
        self.stat(cx)
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

/// Others say that the password was right, or nothing about it (RFC 2449, 8; RFC 3206).
fn is_about_password(answer: &[u8]) -> bool {
    let about_else = [&b"-ERR [IN-USE]"[..], b"-ERR [SYS/", b"-ERR [LOGIN-DELAY]"];
    !about_else.iter().any(|start| answer.starts_with(start))
}

/// What a listing tells of a message.
fn fact(entry: &Entry, names: bool) -> String {
    if names {
        entry.uidl()
    } else {
        entry.size.to_string()
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
