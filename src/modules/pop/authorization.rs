#![forbid(unsafe_code)]
//! The AUTHORIZATION state: who the client is, as our accounts or the server behind know it.

use super::gate::Pop3;
use super::mailbox::{Mailbox, Refusal};
use super::session::{Conversation, State, say};
use crate::accounts::Account;
use crate::mail::access::{Behind, Login, Verdict};
use crate::mail::sasl::{Credentials, Exchange, MECHANISMS, SaslError, Step};
use crate::session::{Abuse, Context, Lane, Next, Work};

impl Conversation {
    pub(super) fn capa(&mut self, cx: &mut Context<'_>) -> Option<Next> {
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

    pub(super) fn user(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
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

    pub(super) fn pass(&mut self, password: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let Some(name) = self.user.take() else {
            return self.error("-ERR USER first", cx);
        };
        if password.is_empty() {
            return self.error("-ERR expected PASS password", cx);
        }
        let password = password.to_vec();
        self.login(Credentials { name, password }, cx)
    }

    pub(super) fn auth(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
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
        let Some((exchange, step)) = Exchange::open(rest) else {
            return self.error("-ERR no such mechanism", cx);
        };
        self.state = State::Auth(exchange);
        self.auth_step(step, cx)
    }

    pub(super) fn auth_step(
        &mut self,
        step: Result<Step, SaslError>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        match step {
            Ok(Step::Challenge(text)) => return say(&format!("+ {text}"), cx),
            Ok(Step::Verify(credentials)) => return self.login(credentials, cx),
            Err(_) => {}
        }
        self.state = State::Command;
        self.error("-ERR the exchange ended without a login", cx)
    }

    pub(super) fn stls(&mut self, _rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
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

    pub(super) fn judge(&mut self, verdict: Verdict<Pop3>, cx: &mut Context<'_>) -> Option<Next> {
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

    pub(super) fn opened(
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

    pub(super) fn turn_gate(&mut self, cx: &mut Context<'_>) -> Option<Next> {
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
}

/// Others say that the password was right, or nothing about it (RFC 2449, 8; RFC 3206).
fn is_about_password(answer: &[u8]) -> bool {
    let about_else = [&b"-ERR [IN-USE]"[..], b"-ERR [SYS/", b"-ERR [LOGIN-DELAY]"];
    !about_else.iter().any(|start| answer.starts_with(start))
}
