#![forbid(unsafe_code)]
//! One client's conversation: requests one after the other, and a search that goes on between other events.

use std::sync::Arc;

use rasn_ldap::ProtocolOp;

use super::Shared;
use super::message::{
    self, ABANDON, Answer, Code, Controls, Head, LONGEST, UNBIND, Unread, answer, answer_to, notice,
};
use super::running::{Progress, Running, WORK};
use crate::mail::login::Failures;
use crate::session::{Abuse, Class, Context, Event, Input, Next, Outcome, Session};

/// Where a session is.
pub(super) enum State {
    Idle,
    /// The password of this bind is verified.
    Verifying(u32),
    /// An answer waits, since a password was wrong.
    Punished(Vec<u8>),
    Searching(Box<Running>),
}

pub(super) struct Conversation {
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    /// The name of the entry that the client is.
    pub(super) bound: Option<String>,
    pub(super) failures: Failures,
    /// What this event may still do, in items of filters.
    pub(super) budget: usize,
    closing: bool,
    /// The input is full while a search goes on: it is read again after the search.
    crowded: bool,
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Conversation {
            shared,
            state: State::Idle,
            bound: None,
            failures: Failures::default(),
            budget: WORK,
            closing: false,
            crowded: false,
        }
    }

    fn input(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            match self.state {
                State::Idle => {}
                State::Searching(_) => return self.meanwhile(input, cx),
                _ => return self.rest(cx),
            }
            let head = match message::head(input) {
                Ok(Some(head)) if head.total > LONGEST => {
                    return disconnect("a message is too long", cx);
                }
                Ok(Some(head)) if head.total <= input.len() => head,
                Ok(_) => return Next::Read,
                Err(_) => return disconnect("this is no LDAP message", cx),
            };
            let read = message::read(&input[..head.total]);
            input.consume(head.total);
            if let Some(next) = self.message(head, read, cx) {
                return next;
            }
            if self.closing {
                return Next::Close;
            }
            if let State::Searching(_) = self.state {
                let next = self.go_on(cx);
                if !matches!(self.state, State::Idle) {
                    return next;
                }
            }
            // Others are waiting, and what was written is to be taken first.
            if cx.output().is_high() || self.budget == 0 {
                return Next::Drain;
            }
        }
    }

    fn message(
        &mut self,
        head: Head,
        read: Result<rasn_ldap::LdapMessage, Unread>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let message = match read {
            Ok(message) if message.message_id == head.id => message,
            Err(Unread::TooDeep) if let Some(tag) = answer_to(head.operation) => {
                say(
                    head.id,
                    tag,
                    Code::AdminLimitExceeded,
                    "this is nested too deep",
                    cx,
                );
                return None;
            }
            _ => return Some(disconnect("this is no LDAP message", cx)),
        };
        let Some(tag) = answer_to(head.operation) else {
            return match message.protocol_op {
                ProtocolOp::UnbindRequest(_) => Some(Next::Close),
                // What it means has been answered already.
                ProtocolOp::AbandonRequest(_) => None,
                _ => Some(disconnect("this is no request", cx)),
            };
        };
        // RFC 4511, 4.1.1: 0 is ours.
        if head.id == 0 {
            return Some(disconnect("a request has a number above 0", cx));
        }
        let is_search = matches!(message.protocol_op, ProtocolOp::SearchRequest(_));
        let paged = match message::controls(message.controls.as_deref(), is_search) {
            Ok(paged) => paged,
            Err(Controls::Unavailable) => {
                let text = "a critical control is not known here";
                say(head.id, tag, Code::UnavailableCriticalExtension, text, cx);
                return None;
            }
            Err(Controls::Malformed) => {
                say(
                    head.id,
                    tag,
                    Code::ProtocolError,
                    "a control's value cannot be read",
                    cx,
                );
                return None;
            }
        };
        match message.protocol_op {
            ProtocolOp::BindRequest(request) => self.bind(head.id, &request, cx),
            ProtocolOp::SearchRequest(request) => self.search(head.id, &request, paged, cx),
            ProtocolOp::CompareRequest(request) => self.compare(head.id, &request, cx),
            ProtocolOp::ExtendedReq(request) => self.extended(head.id, &request, cx),
            _ => {
                say(
                    head.id,
                    tag,
                    Code::UnwillingToPerform,
                    "this directory is read, not written",
                    cx,
                );
                None
            }
        }
    }

    /// Input while a search goes on: only what ends it is looked at, the rest waits.
    fn meanwhile(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        let State::Searching(running) = &self.state else {
            return self.rest(cx);
        };
        let mut rest = &input[..];
        while let Ok(Some(head)) = message::head(rest) {
            let Some((message, after)) = rest.split_at_checked(head.total) else {
                break;
            };
            match head.operation {
                UNBIND => return Next::Close,
                ABANDON if abandoned(message) == Some(running.id) => {
                    self.state = State::Idle;
                    return self.input(input, cx);
                }
                _ => {}
            }
            rest = after;
        }
        self.crowded = input.is_full();
        match self.crowded {
            true => Next::Drain,
            false => Next::Read,
        }
    }

    /// The search goes on, and after it the session.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Next {
        let State::Searching(running) = &mut self.state else {
            return self.rest(cx);
        };
        match running.go_on(&mut self.budget, cx) {
            Progress::Ended => {
                self.state = State::Idle;
                self.crowded = false;
                if self.closing {
                    Next::Close
                } else {
                    Next::Drain
                }
            }
            Progress::Full | Progress::Spent => Next::Drain,
        }
    }

    /// What was written is taken. Before the search goes on, what has arrived is looked at.
    fn drained(&mut self, cx: &mut Context<'_>) -> Next {
        match self.state {
            State::Searching(_) if !self.crowded => {
                cx.waker().wake();
                Next::Read
            }
            State::Searching(_) => self.go_on(cx),
            _ => self.rest(cx),
        }
    }

    pub(super) fn rest(&self, _cx: &mut Context<'_>) -> Next {
        match self.state {
            State::Punished(_) => Next::Pause,
            State::Idle if self.closing => Next::Close,
            _ => Next::Read,
        }
    }

    fn done(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Next {
        if let State::Verifying(id) = self.state {
            self.state = State::Idle;
            if let Some(next) = self.verified(id, outcome.take().flatten(), cx) {
                return next;
            }
        }
        self.rest(cx)
    }

    fn alarm(&mut self, cx: &mut Context<'_>) -> Next {
        if let State::Punished(reply) = &self.state {
            cx.write(reply);
            self.state = State::Idle;
            if self.failures.are_many() {
                return Next::Close;
            }
        }
        self.rest(cx)
    }
}

/// The number of the operation that an Abandon is about.
fn abandoned(message: &[u8]) -> Option<u32> {
    match message::read(message).ok()?.protocol_op {
        ProtocolOp::AbandonRequest(request) => Some(request.0),
        _ => None,
    }
}

/// Writes a result with a text.
pub(super) fn say(id: u32, tag: u8, code: Code, text: &str, cx: &mut Context<'_>) {
    let mut out = Vec::new();
    let fields = Answer {
        text,
        ..Answer::default()
    };
    answer(&mut out, id, tag, code, fields);
    cx.write(&out);
}

/// Ends the session, since what the client said means nothing (RFC 4511, 4.1.1).
pub(super) fn disconnect(text: &str, cx: &mut Context<'_>) -> Next {
    cx.report(Abuse::Protocol);
    cx.write(&notice(Code::ProtocolError, text));
    Next::Close
}

/// A client that this server is not for.
pub(super) fn is_stranger(clients_only: bool, cx: &mut Context<'_>) -> bool {
    let is_stranger = clients_only && cx.peer().class != Class::Client;
    if is_stranger {
        cx.write(&notice(
            Code::Unavailable,
            "this server is for its own users",
        ));
    }
    is_stranger
}

impl Session for Conversation {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        self.budget = WORK;
        match event {
            Event::Open if is_stranger(self.shared.clients_only, cx) => Next::Close,
            Event::Open => Next::Read,
            Event::Input(input) => self.input(input, cx),
            Event::Secured => {
                // RFC 4513, 3.1.5 leaves it to us: what was said before counts no more.
                *self = Conversation::new(Arc::clone(&self.shared));
                Next::Read
            }
            Event::Drained => self.drained(cx),
            Event::Done(outcome) => self.done(outcome, cx),
            Event::Alarm => self.alarm(cx),
            Event::Woken => match self.state {
                // A reader that is slow is waited for.
                State::Searching(_) if !cx.output().is_empty() => Next::Drain,
                _ => self.go_on(cx),
            },
            Event::Shutdown => {
                self.closing = true;
                match self.state {
                    State::Idle => {
                        cx.write(&notice(Code::Unavailable, "shutting down"));
                        Next::Close
                    }
                    _ => self.rest(cx),
                }
            }
            Event::Eof if matches!(self.state, State::Searching(_)) => {
                self.closing = true;
                self.rest(cx)
            }
            Event::Timeout => {
                cx.write(&notice(Code::Unavailable, "nothing was asked for long"));
                Next::Close
            }
            _ => Next::Close,
        }
    }
}
