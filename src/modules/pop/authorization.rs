#![forbid(unsafe_code)]
//! The AUTHORIZATION state: who the client is, as our accounts or the server behind know it.

use std::sync::Arc;

use super::Behind;
use super::gate::{Gate, Outcome as GateOutcome};
use super::mailbox::{Mailbox, Refusal};
use super::session::{Conversation, State, say};
use crate::accounts::Account;
use crate::mail::login;
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
        if let Behind::Gate(place) = &self.shared.behind {
            if place.pool.wants_look_up(cx.now()) {
                let place = Arc::clone(place);
                self.state = State::LookUp(credentials);
                return Some(Next::Work(Work::new(Lane::Wait, move || {
                    place.pool.look_up()
                })));
            }
            return self.ask_behind(credentials, cx);
        }
        match login::verify(&self.shared.accounts, &credentials) {
            Ok(work) => {
                self.state = State::Verifying;
                Some(work)
            }
            Err(_) => {
                self.state = State::Command;
                say("-ERR [SYS/TEMP] too many log in just now, try again", cx)
            }
        }
    }

    pub(super) fn verified(
        &mut self,
        account: Option<Arc<Account>>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let (Some(account), Behind::Maildir(store)) = (account, &self.shared.behind) else {
            return Some(self.punish(b"-ERR [AUTH] name or password is wrong\r\n".to_vec(), cx));
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

    pub(super) fn ask_behind(
        &mut self,
        credentials: Credentials,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let Behind::Gate(place) = &self.shared.behind else {
            return None;
        };
        match Gate::open(place, credentials, cx) {
            Ok(gate) => {
                self.state = State::Gate(Box::new(gate));
                self.turn_gate(cx)
            }
            Err(error) => self.lost(&error, cx),
        }
    }

    pub(super) fn turn_gate(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let State::Gate(gate) = &mut self.state else {
            return Some(self.rest());
        };
        match gate.turn(cx.now()) {
            GateOutcome::Wait(until) => {
                cx.set_alarm(Some(until.saturating_duration_since(cx.now())));
                Some(Next::Pause)
            }
            GateOutcome::In(answer) => {
                cx.set_alarm(None);
                match std::mem::replace(&mut self.state, State::Command) {
                    State::Gate(gate) => Some(gate.relay(&answer, cx)),
                    _ => None,
                }
            }
            GateOutcome::Refused(answer) => {
                // These say that the password was right, or nothing about it (RFC 2449, 8; RFC 3206).
                let about_else = [&b"-ERR [IN-USE]"[..], b"-ERR [SYS/", b"-ERR [LOGIN-DELAY]"];
                if about_else.iter().any(|start| answer.starts_with(start)) {
                    self.state = State::Command;
                    cx.set_alarm(None);
                    cx.write(&answer);
                    return None;
                }
                Some(self.punish(answer, cx))
            }
            GateOutcome::Lost(error) => self.lost(&error, cx),
        }
    }

    fn lost(&mut self, error: &str, cx: &mut Context<'_>) -> Option<Next> {
        cx.set_alarm(None);
        log::debug!(target: &cx.peer().listener, "the server behind cannot be asked: {error}");
        self.state = State::Command;
        say(
            "-ERR [SYS/TEMP] the mail server behind cannot be reached",
            cx,
        )
    }
}
