#![forbid(unsafe_code)]
//! One client's conversation, in the states of RFC 3501, 3: not authenticated, authenticated, selected.

use std::sync::Arc;

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::IntoStatic;
use imap_codec::imap_types::auth::AuthMechanism;
use imap_codec::imap_types::command::{Command, CommandBody};

use super::Shared;
use super::append::{Append, CHUNK};
use super::commands::{Plan, plan};
use super::frame::{Frame, Framer, LINE, Literal, SHORT_LINE};
use super::gate::{Imap4, is_about_password};
use super::selected::{Selected, Telling};
use super::write::Out;
use crate::mail::access::{Behind, Login, Verdict};
use crate::mail::folder::Ear;
use crate::mail::folders::Folders;
use crate::mail::line::Line;
use crate::mail::login::Failures;
use crate::mail::sasl::{Credentials, Exchange, LONGEST_LINE, SaslError, Step};
use crate::session::{Abuse, Class, Context, Event, Input, Lane, Next, Outcome, Session, Work};

/// Errors before a session is closed.
const MOST_ERRORS: u32 = 20;
/// Commands before a login; more is no client.
const MOST_BEFORE_LOGIN: u32 = 100;
/// The longest literal before a login.
const SHORT_LITERAL: usize = 1024;

/// Work with the selected mailbox.
pub(super) type Job = Box<dyn FnOnce(Option<Selected>) -> Done + Send>;

/// What came of it.
pub(super) struct Done {
    pub(super) selected: Option<Selected>,
    pub(super) out: Out,
    pub(super) then: Then,
}

pub(super) enum Then {
    /// The command is answered with this.
    Answer(String),
    /// There is more to be done once the client has taken what was written.
    More(Job),
    /// The session ends.
    Bye(String),
}

/// Where a session is.
enum State {
    Command,
    Auth {
        tag: String,
        exchange: Exchange,
    },
    Login {
        tag: String,
        login: Login<Imap4>,
    },
    /// An answer waits, since a password was wrong.
    Punished(Vec<u8>),
    /// The mailbox of a message is looked for.
    Beginning {
        is_sync: bool,
    },
    /// A message is on its way in.
    Appending(Box<Append>),
    /// The same, and its end is awaited: the rest of its command.
    Ending(Box<Append>),
    /// A piece of a message is written.
    Storing,
    /// The message is put into its mailbox.
    Placing {
        tag: String,
    },
    /// A command's work is done.
    Working {
        tag: String,
    },
    /// There is more work once the client has taken what was written.
    Draining {
        tag: String,
        job: Job,
    },
    /// IDLE (RFC 2177).
    Idle {
        tag: String,
        _ear: Ear,
    },
    /// The same, while a look is taken.
    Looking {
        tag: String,
        ear: Ear,
    },
}

pub(super) struct Conversation {
    shared: Arc<Shared>,
    state: State,
    framer: Framer,
    folders: Option<Folders>,
    selected: Option<Selected>,
    failures: Failures,
    errors: u32,
    commands: u32,
    closing: bool,
}

fn say(text: &str, cx: &mut Context<'_>) -> Option<Next> {
    cx.write(text.as_bytes());
    cx.write(b"\r\n");
    None
}

fn answer(tag: &str, text: &str, cx: &mut Context<'_>) -> Option<Next> {
    say(&format!("{tag} {text}"), cx)
}

/// The tag of a command that is none otherwise; `*` where there is none.
fn tag_of(text: &[u8]) -> String {
    let end = text
        .iter()
        .position(|byte| b" \r\n".contains(byte))
        .unwrap_or(text.len());
    let plain = |byte: &u8| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(byte);
    match (1..=100).contains(&end) && text[..end].iter().all(plain) {
        true => String::from_utf8_lossy(&text[..end]).into_owned(),
        false => "*".to_owned(),
    }
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Conversation {
            shared,
            state: State::Command,
            framer: Framer::default(),
            folders: None,
            selected: None,
            failures: Failures::default(),
            errors: 0,
            commands: 0,
            closing: false,
        }
    }

    /// One that has logged in.
    #[cfg(feature = "fuzzing")]
    pub(super) fn logged_in(shared: Arc<Shared>, folders: Folders) -> Self {
        let mut session = Self::new(shared);
        session.folders = Some(folders);
        session
    }

    fn capabilities(&self, cx: &Context<'_>) -> String {
        let peer = cx.peer();
        let mut all = "CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE".to_owned();
        if self.folders.is_some() {
            all.push_str(" IDLE NAMESPACE CHILDREN UIDPLUS MOVE UNSELECT SPECIAL-USE");
            return all;
        }
        if peer.may_start_tls && !peer.is_secure() {
            all.push_str(" STARTTLS");
        }
        all.push_str(match peer.may_send_password() {
            true => " AUTH=PLAIN AUTH=LOGIN",
            false => " LOGINDISABLED",
        });
        all
    }

    fn input(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            let limit = if self.folders.is_some() {
                LINE
            } else {
                SHORT_LINE
            };
            let next = match &mut self.state {
                State::Command => match self.framer.next(input, limit) {
                    Some(frame) => self.frame(frame, cx),
                    None => return Next::Read,
                },
                State::Auth { .. } => match self.framer.lines.next(input, LONGEST_LINE) {
                    Some(line) => self.auth_line(line, cx),
                    None => return Next::Read,
                },
                State::Idle { .. } => match self.framer.lines.next(input, SHORT_LINE) {
                    Some(line) => self.end_idle(&line, cx),
                    None => return Next::Read,
                },
                State::Appending(append) => {
                    let is_whole = append.take(input);
                    match is_whole || append.text.len() >= CHUNK {
                        true => self.append_on(is_whole),
                        false => return Next::Read,
                    }
                }
                State::Ending(_) => match self.framer.lines.next(input, SHORT_LINE) {
                    Some(line) => self.append_end(&line, cx),
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
            State::Punished(_)
            | State::Login {
                login: Login::Gate(_),
                ..
            } => Next::Pause,
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

    fn error(&mut self, tag: &str, text: &str, cx: &mut Context<'_>) -> Option<Next> {
        answer(tag, text, cx);
        self.errors += 1;
        if self.errors < MOST_ERRORS {
            return None;
        }
        cx.report(Abuse::Protocol);
        say("* BYE too many errors", cx);
        Some(Next::Close)
    }

    fn frame(&mut self, frame: Frame, cx: &mut Context<'_>) -> Option<Next> {
        match frame {
            Frame::Command(text) => self.command(&text, cx),
            Frame::Literal(literal) => self.literal(literal, cx),
            Frame::Refused => None,
            Frame::Bad(text) => {
                let tag = tag_of(&text);
                self.error(&tag, "BAD that is no line of a command", cx)
            }
        }
    }

    fn literal(&mut self, literal: Literal, cx: &mut Context<'_>) -> Option<Next> {
        if let Some(folders) = &self.folders
            && let Some(mut append) = Append::of(self.framer.so_far(), literal)
        {
            if literal.size > self.shared.max_message {
                append.refuse("NO [LIMIT] the message is too large");
            }
            self.framer.take();
            let folders = folders.clone();
            self.state = State::Beginning {
                is_sync: literal.is_sync,
            };
            return Some(Next::Work(Work::new(Lane::Wait, move || {
                append.begin(&folders);
                Box::new(append)
            })));
        }
        let most = if self.folders.is_some() {
            usize::MAX
        } else {
            SHORT_LITERAL
        };
        if self.framer.accept(literal, most) {
            if literal.is_sync {
                say("+ go on", cx);
            }
            return None;
        }
        let tag = tag_of(self.framer.so_far());
        if self.folders.is_none() && !literal.is_sync {
            // Nobody to be heard out for megabytes.
            answer(&tag, "BAD the literal is too large", cx);
            say("* BYE too large", cx);
            return Some(Next::Close);
        }
        self.framer.refuse(literal);
        self.error(&tag, "BAD [TOOBIG] the literal is too large", cx)
    }

    /// The mailbox of a message is found, or is not.
    fn begun(&mut self, append: Box<Append>, is_sync: bool, cx: &mut Context<'_>) -> Option<Next> {
        if is_sync {
            if let Some(refused) = &append.refused {
                // The client waits for our consent, and does not get it.
                answer(&append.tag, refused, cx);
                self.state = State::Command;
                return None;
            }
            say("+ go on", cx);
        }
        self.state = State::Appending(append);
        // An empty one is whole at once.
        match &self.state {
            State::Appending(append) if append.left == 0 => self.append_on(true),
            _ => None,
        }
    }

    /// Bytes of a message have come.
    fn append_on(&mut self, is_whole: bool) -> Option<Next> {
        let State::Appending(mut append) = std::mem::replace(&mut self.state, State::Command)
        else {
            return None;
        };
        if is_whole {
            self.state = State::Ending(append);
            return None;
        }
        self.state = State::Storing;
        Some(Next::Work(Work::new(Lane::Wait, move || {
            append.write();
            append
        })))
    }

    /// The rest of its command: nothing.
    fn append_end(&mut self, line: &Line, cx: &mut Context<'_>) -> Option<Next> {
        let State::Ending(append) = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        let tag = append.tag.clone();
        if !matches!(line, Line::Whole(rest) if rest.is_empty()) {
            if let Line::Whole(rest) = line {
                self.framer.refuse_rest(rest);
            }
            return self.error(&tag, "BAD one message is taken at a time", cx);
        }
        self.state = State::Placing { tag };
        Some(Next::Work(Work::new(Lane::Wait, move || append.finish())))
    }

    fn command(&mut self, text: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        self.commands += 1;
        if self.folders.is_none() && self.commands > MOST_BEFORE_LOGIN {
            say("* BYE too many commands without a login", cx);
            return Some(Next::Close);
        }
        let Ok((_, command)) = CommandCodec::default().decode(text) else {
            let tag = tag_of(text);
            return self.error(&tag, "BAD that is no command", cx);
        };
        let Command { tag, body } = command.into_static();
        let tag = tag.as_ref().to_owned();
        match body {
            CommandBody::Capability => {
                say(&format!("* {}", self.capabilities(cx)), cx);
                answer(&tag, "OK told", cx)
            }
            CommandBody::Logout => {
                say("* BYE goodbye", cx);
                answer(&tag, "OK logged out", cx);
                Some(Next::Close)
            }
            CommandBody::Id { .. } => {
                say("* ID (\"name\" \"portreeve\")", cx);
                answer(&tag, "OK told", cx)
            }
            body if self.folders.is_none() => self.before_login(&tag, body, cx),
            CommandBody::Login { .. }
            | CommandBody::Authenticate { .. }
            | CommandBody::StartTLS => self.error(&tag, "BAD somebody is logged in", cx),
            CommandBody::Idle => self.idle(tag, cx),
            body => self.after_login(tag, body, cx),
        }
    }

    fn before_login(
        &mut self,
        tag: &str,
        body: CommandBody<'_>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        const IN_CLEAR: &str = "NO [PRIVACYREQUIRED] a login in clear is not taken: STARTTLS first";
        match body {
            CommandBody::Noop => answer(tag, "OK done", cx),
            CommandBody::StartTLS if cx.peer().may_start_tls && !cx.peer().is_secure() => {
                answer(tag, "OK go ahead", cx);
                Some(Next::StartTls)
            }
            CommandBody::StartTLS => self.error(tag, "BAD STARTTLS is not offered here", cx),
            CommandBody::Login { .. } | CommandBody::Authenticate { .. }
                if !cx.peer().may_send_password() =>
            {
                self.error(tag, IN_CLEAR, cx)
            }
            CommandBody::Login { username, password } => {
                let name = std::str::from_utf8(username.as_ref()).unwrap_or_default();
                let password = password.declassify().as_ref().to_vec();
                let plain = !name.is_empty() && !name.chars().any(char::is_control);
                if !plain
                    || password.is_empty()
                    || password.iter().any(|byte| b"\0\r\n".contains(byte))
                {
                    return self.error(tag, "BAD expected LOGIN name password", cx);
                }
                let name = name.to_owned();
                self.login(tag, Credentials { name, password }, cx)
            }
            CommandBody::Authenticate {
                mechanism,
                initial_response,
            } => {
                let exchange = match mechanism {
                    AuthMechanism::Plain => Exchange::of("PLAIN"),
                    AuthMechanism::Login => Exchange::of("LOGIN"),
                    _ => None,
                };
                let Some(mut exchange) = exchange else {
                    return self.error(tag, "NO there is no such mechanism", cx);
                };
                let initial = initial_response.map(|it| encoded(it.declassify()));
                let step = exchange.begin(initial.as_deref().map(str::as_bytes));
                self.state = State::Auth {
                    tag: tag.to_owned(),
                    exchange,
                };
                self.auth_step(step, cx)
            }
            _ => self.error(tag, "BAD log in first", cx),
        }
    }

    fn auth_line(&mut self, line: Line, cx: &mut Context<'_>) -> Option<Next> {
        let State::Auth { exchange, .. } = &mut self.state else {
            return None;
        };
        let step = match line {
            Line::Whole(line) => exchange.respond(&line),
            _ => Err(SaslError::Malformed),
        };
        self.auth_step(step, cx)
    }

    fn auth_step(&mut self, step: Result<Step, SaslError>, cx: &mut Context<'_>) -> Option<Next> {
        if let Ok(Step::Challenge(text)) = step {
            return say(&format!("+ {text}"), cx);
        }
        let State::Auth { tag, .. } = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        match step {
            Ok(Step::Verify(credentials)) => self.login(&tag, credentials, cx),
            _ => self.error(&tag, "BAD the exchange ended without a login", cx),
        }
    }

    fn login(&mut self, tag: &str, credentials: Credentials, cx: &mut Context<'_>) -> Option<Next> {
        let verdict = Login::begin(&self.shared.access, credentials, Imap4::new(tag), cx);
        self.judge(tag, verdict, cx)
    }

    fn judge(&mut self, tag: &str, verdict: Verdict<Imap4>, cx: &mut Context<'_>) -> Option<Next> {
        self.state = State::Command;
        match verdict {
            Verdict::Wait(login, next) => {
                self.state = State::Login {
                    tag: tag.to_owned(),
                    login,
                };
                Some(next)
            }
            Verdict::In(account) => {
                if let Behind::Maildir(store) = &self.shared.access.behind {
                    self.folders = Some(Folders::new(store.mailbox(account.name())));
                }
                let capabilities = self.capabilities(cx);
                answer(tag, &format!("OK [{capabilities}] logged in"), cx)
            }
            Verdict::Passed(next) => Some(next),
            Verdict::Refused(Some(said)) if !is_about_password(&said) => {
                cx.write(&said);
                None
            }
            Verdict::Refused(said) => {
                let ours = || {
                    format!("{tag} NO [AUTHENTICATIONFAILED] name or password is wrong\r\n")
                        .into_bytes()
                };
                cx.report(Abuse::FailedLogin);
                cx.set_alarm(Some(self.failures.delay()));
                self.state = State::Punished(said.unwrap_or_else(ours));
                Some(Next::Pause)
            }
            Verdict::Busy => answer(
                tag,
                "NO [UNAVAILABLE] too many log in just now, try again",
                cx,
            ),
            Verdict::Lost => answer(
                tag,
                "NO [UNAVAILABLE] the mail server behind cannot be reached",
                cx,
            ),
        }
    }

    fn after_login(
        &mut self,
        tag: String,
        body: CommandBody<'static>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let Some(folders) = &self.folders else {
            return None;
        };
        if matches!(body, CommandBody::Noop | CommandBody::Check) && self.selected.is_none() {
            return answer(&tag, "OK done", cx);
        }
        match plan(body, folders, self.selected.as_ref()) {
            Plan::Work(job) => Some(self.work(tag, job)),
            Plan::Say(text) if text.starts_with("BAD") => self.error(&tag, &text, cx),
            Plan::Say(text) => answer(&tag, &text, cx),
        }
    }

    fn work(&mut self, tag: String, job: Job) -> Next {
        let selected = self.selected.take();
        self.state = State::Working { tag };
        Next::Work(Work::new(Lane::Wait, move || job(selected)))
    }

    /// Work is done: its answers, and what comes then.
    fn worked(&mut self, tag: String, done: Option<Done>, cx: &mut Context<'_>) -> Option<Next> {
        let Some(done) = done else {
            say("* BYE [SERVERBUG] that went wrong", cx);
            return Some(Next::Close);
        };
        self.selected = done.selected;
        done.out.send(cx);
        match done.then {
            Then::Answer(text) if text.starts_with("BAD") => self.error(&tag, &text, cx),
            Then::Answer(text) => answer(&tag, &text, cx),
            Then::More(job) => {
                self.state = State::Draining { tag, job };
                Some(Next::Drain)
            }
            Then::Bye(text) => {
                say(&format!("* BYE {text}"), cx);
                Some(Next::Close)
            }
        }
    }

    fn idle(&mut self, tag: String, cx: &mut Context<'_>) -> Option<Next> {
        let Some(selected) = &self.selected else {
            // RFC 2177, 3: allowed, though nothing can come of it.
            let Some(folders) = &self.folders else {
                return None;
            };
            let inbox =
                crate::mail::folders::Name::of(b"INBOX").and_then(|name| folders.open(&name));
            let Some(inbox) = inbox else {
                return answer(&tag, "NO [UNAVAILABLE] not now", cx);
            };
            say("+ idling", cx);
            self.state = State::Idle {
                tag,
                _ear: inbox.listen(crate::session::Waker::new(|| {})),
            };
            return None;
        };
        // First the ear and then the look: what happens in between is heard.
        let ear = selected.folder.listen(cx.waker());
        say("+ idling", cx);
        Some(self.look(tag, ear))
    }

    /// Takes a look at the mailbox for somebody who is in IDLE.
    fn look(&mut self, tag: String, ear: Ear) -> Next {
        let selected = self.selected.take();
        self.state = State::Looking { tag, ear };
        Next::Work(Work::new(Lane::Wait, move || match selected {
            Some(selected) => Done::synced(selected, Out::default(), IDLING, ""),
            None => Done::answer(None, Out::default(), ""),
        }))
    }

    fn looked(
        &mut self,
        tag: String,
        ear: Ear,
        done: Option<Done>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        match done {
            Some(Done {
                selected,
                out,
                then: Then::Answer(_),
            }) => {
                self.selected = selected;
                out.send(cx);
                self.state = State::Idle { tag, _ear: ear };
                None
            }
            done => self.worked(tag, done, cx),
        }
    }

    fn woken(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if matches!(self.state, State::Login { .. }) {
            return self.turn_gate(cx);
        }
        if !matches!(self.state, State::Idle { .. }) {
            return Some(self.rest());
        }
        let mut out = Out::default();
        if let Some(selected) = &mut self.selected
            && selected.glance(IDLING, &mut out)
        {
            out.send(cx);
            return None;
        }
        match std::mem::replace(&mut self.state, State::Command) {
            State::Idle { tag, _ear } => Some(self.look(tag, _ear)),
            _ => None,
        }
    }

    fn end_idle(&mut self, line: &Line, cx: &mut Context<'_>) -> Option<Next> {
        let State::Idle { tag, .. } = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        match line {
            Line::Whole(text) if text.eq_ignore_ascii_case(b"DONE") => answer(&tag, "OK idled", cx),
            _ => self.error(&tag, "BAD expected DONE", cx),
        }
    }

    fn turn_gate(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if !matches!(
            self.state,
            State::Login {
                login: Login::Gate(_),
                ..
            }
        ) {
            return Some(self.rest());
        }
        match std::mem::replace(&mut self.state, State::Command) {
            State::Login { tag, login } => {
                let verdict = login.turn(cx);
                self.judge(&tag, verdict, cx)
            }
            _ => None,
        }
    }

    fn done(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Option<Next> {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Login { tag, login } => {
                let verdict = login.done(&self.shared.access, outcome, cx);
                self.judge(&tag, verdict, cx)
            }
            State::Beginning { is_sync } => match outcome.take::<Box<Append>>() {
                Some(append) => self.begun(append, is_sync, cx),
                None => self.worked(String::new(), None, cx),
            },
            State::Storing => match outcome.take::<Box<Append>>() {
                Some(append) => {
                    self.state = State::Appending(append);
                    None
                }
                None => self.worked(String::new(), None, cx),
            },
            State::Placing { tag } => {
                let text: Option<String> = outcome.take();
                let text = text.unwrap_or_else(|| "NO [SERVERBUG] that went wrong".to_owned());
                match self.selected.is_some() {
                    // It may have gone into the selected mailbox (RFC 3501, 6.3.11).
                    true => {
                        let job: Job = Box::new(move |selected| match selected {
                            Some(selected) => Done::synced(selected, Out::default(), IDLING, &text),
                            None => Done::answer(None, Out::default(), &text),
                        });
                        Some(self.work(tag, job))
                    }
                    false => answer(&tag, &text, cx),
                }
            }
            State::Working { tag } => self.worked(tag, outcome.take(), cx),
            State::Looking { tag, ear } => self.looked(tag, ear, outcome.take(), cx),
            _ => None,
        }
    }

    fn drained(&mut self) -> Next {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Draining { tag, job } => self.work(tag, job),
            state => {
                self.state = state;
                self.rest()
            }
        }
    }

    fn alarm(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if !matches!(self.state, State::Punished(_)) {
            return self.turn_gate(cx);
        }
        if let State::Punished(reply) = std::mem::replace(&mut self.state, State::Command) {
            cx.write(&reply);
        }
        if !self.failures.are_many() {
            return None;
        }
        say("* BYE too many wrong passwords", cx);
        Some(Next::Close)
    }
}

/// Between commands anything may be told.
const IDLING: Telling = Telling {
    expunges: true,
    uids: false,
};

/// An initial response as the exchange takes it: the codec has decoded it.
fn encoded(response: &[u8]) -> String {
    use base64::Engine as _;
    match response.is_empty() {
        true => "=".to_owned(),
        false => base64::engine::general_purpose::STANDARD.encode(response),
    }
}

impl Session for Conversation {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open if self.shared.access.clients_only && cx.peer().class != Class::Client => {
                say("* BYE this server is for its own users", cx);
                Next::Close
            }
            Event::Open => {
                say(&format!("* OK [{}] ready", self.capabilities(cx)), cx);
                Next::Read
            }
            Event::Input(input) => self.input(input, cx),
            Event::Secured => {
                // RFC 3501, 6.2.1: what was said before is forgotten.
                *self = Conversation::new(Arc::clone(&self.shared));
                Next::Read
            }
            Event::Drained => self.drained(),
            Event::Done(outcome) => {
                let next = self.done(outcome, cx);
                self.go_on(next)
            }
            Event::Alarm => {
                let next = self.alarm(cx);
                self.go_on(next)
            }
            Event::Woken => {
                let next = self.woken(cx);
                self.go_on(next)
            }
            Event::Shutdown => {
                self.closing = true;
                match self.state {
                    State::Command | State::Auth { .. } | State::Idle { .. } => {
                        say("* BYE shutting down", cx);
                        Next::Close
                    }
                    _ => self.rest(),
                }
            }
            Event::Timeout => {
                say("* BYE nothing was said for too long", cx);
                Next::Close
            }
            _ => Next::Close,
        }
    }
}
