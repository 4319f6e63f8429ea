#![forbid(unsafe_code)]
//! A gate before another server: TLS, who may talk and which binds may be sent are ours, all else is passed on.
//!
//! Messages are passed on one by one for as long as the connection lasts, not handed to a relay after the first bind:
//! a client may bind anew at any time, and each of its binds is held to the same rules, slowed when it fails, and
//! counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rasn_ldap::{AuthenticationChoice, BindRequest, LdapMessage, ProtocolOp};

use super::message::{
    self, ABANDON, BIND, BIND_RESPONSE, Code, EXTENDED, Head, LONGEST, UNBIND, answer_to, notice,
};
use super::requests::start_tls;
use super::session::{disconnect, is_stranger, say};
use crate::ldap::special::START_TLS;
use crate::mail::login::Failures;
use crate::modules::proxy::{SendProxy, open_line};
use crate::session::{Abuse, Context, Event, Input, Lane, Next, Session, Work};
use crate::upstream::{Line, Pool, Progress};

/// How long a bind may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that wait for the server behind before no more are taken from the client.
const HIGH_WATER: usize = 64 * 1024;

/// The server behind.
pub(super) struct Place {
    pub(super) pool: Arc<Pool>,
    pub(super) send_proxy: Option<SendProxy>,
    pub(super) clients_only: bool,
}

/// Why the client's next request waits.
enum Hold {
    /// The names of the server behind are looked up.
    LookUp,
    /// It is not connected yet; this request is the first.
    Connect(u32, u8),
    /// A bind is not answered (RFC 4511, 4.2.1); not longer than this.
    Bind(Instant),
    /// The answer to a wrong password.
    Punished(Vec<u8>),
}

pub(super) struct GateSession {
    place: Arc<Place>,
    line: Option<Line>,
    hold: Option<Hold>,
    /// Bytes that belong to the client's message under way.
    from_client: usize,
    /// Bytes that belong to the server's message under way.
    from_server: usize,
    /// Requests that were passed on and not answered.
    outstanding: u32,
    failures: Failures,
    looked_up: bool,
    closing: bool,
}

impl GateSession {
    pub(super) fn new(place: Arc<Place>) -> Self {
        GateSession {
            place,
            line: None,
            hold: None,
            from_client: 0,
            from_server: 0,
            outstanding: 0,
            failures: Failures::default(),
            looked_up: false,
            closing: false,
        }
    }

    fn input(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            let is_high = self
                .line
                .as_ref()
                .is_some_and(|line| line.pending() > HIGH_WATER);
            if self.hold.is_some() || is_high {
                match self.turn(cx) {
                    // It has gone on meanwhile: what is left of the input is not to wait for more.
                    Next::Read if !input.is_empty() => {}
                    next => return next,
                }
            }
            if self.from_client > 0 {
                let count = self.from_client.min(input.len());
                self.pass(&input[..count]);
                input.consume(count);
                self.from_client -= count;
                if self.from_client > 0 {
                    return self.turn(cx);
                }
                continue;
            }
            let head = match message::head(input) {
                Ok(Some(head)) => head,
                Ok(None) => return self.turn(cx),
                Err(_) => return disconnect("this is no LDAP message", cx),
            };
            if let Some(next) = self.request(head, input, cx) {
                return next;
            }
        }
    }

    /// One request: answered here, or passed on. `None` goes on with the next.
    fn request(&mut self, head: Head, input: &mut Input, cx: &mut Context<'_>) -> Option<Next> {
        if head.operation == UNBIND {
            return Some(Next::Close);
        }
        if (answer_to(head.operation).is_none() && head.operation != ABANDON) || head.id == 0 {
            return Some(disconnect("this is no request", cx));
        }
        if !matches!(head.operation, BIND | EXTENDED) {
            if let Some(next) = self.connect(head, input, cx) {
                return next;
            }
            // A whole one waits with the server, a part of one for the rest.
            let here = head.total.min(input.len());
            self.pass(&input[..here]);
            input.consume(here);
            self.from_client = head.total - here;
            self.outstanding += u32::from(head.operation != ABANDON);
            return None;
        }
        if head.total > LONGEST {
            return Some(disconnect("a message is too long", cx));
        }
        if input.len() < head.total {
            return Some(self.turn(cx));
        }
        let message = message::read(&input[..head.total]);
        let Some(message) = message.ok().filter(|message| message.message_id == head.id) else {
            return Some(disconnect("this is no LDAP message", cx));
        };
        let refusal = match &message.protocol_op {
            ProtocolOp::BindRequest(request) => refusal(request, cx),
            ProtocolOp::ExtendedReq(request)
                if request.request_name[..] == *START_TLS.as_bytes() =>
            {
                input.consume(head.total);
                return start_tls(head.id, request.request_value.is_some(), cx);
            }
            ProtocolOp::ExtendedReq(_) => None,
            _ => return Some(disconnect("this is no request", cx)),
        };
        if let Some((code, text)) = refusal {
            input.consume(head.total);
            say(head.id, BIND_RESPONSE, code, text, cx);
            return None;
        }
        if let Some(next) = self.connect(head, input, cx) {
            return next;
        }
        input.consume(head.total);
        self.pass_read(&message, cx)
    }

    /// Passes on what was read, as it was understood: the server behind shall see nothing else in it.
    fn pass_read(&mut self, message: &LdapMessage, cx: &mut Context<'_>) -> Option<Next> {
        let Ok(bytes) = rasn::ber::encode(message) else {
            return Some(disconnect("this is no LDAP message", cx));
        };
        self.outstanding += 1;
        self.pass(&bytes);
        if let (ProtocolOp::BindRequest(_), None) = (&message.protocol_op, &self.hold) {
            self.hold = Some(Hold::Bind(cx.now() + PATIENCE));
        }
        None
    }

    fn pass(&mut self, bytes: &[u8]) {
        if let Some(line) = &mut self.line {
            line.send(bytes);
        }
    }

    /// Begins to connect where there is no connection. `Some` where the request has to wait, or is answered; the
    /// inner `None` goes on with the next request.
    fn connect(
        &mut self,
        head: Head,
        input: &mut Input,
        cx: &mut Context<'_>,
    ) -> Option<Option<Next>> {
        if self.line.is_some() {
            return None;
        }
        if !self.looked_up && self.place.pool.wants_look_up(cx.now()) {
            let place = Arc::clone(&self.place);
            self.hold = Some(Hold::LookUp);
            return Some(Some(Next::Work(Work::new(Lane::Wait, move || {
                place.pool.look_up()
            }))));
        }
        match open_line(&self.place.pool, self.place.send_proxy, cx) {
            Ok(mut line) => {
                line.take_bulk();
                self.line = Some(line);
                self.looked_up = false;
                self.hold = Some(Hold::Connect(head.id, head.operation));
                None
            }
            Err(error) => {
                log::debug!(target: &cx.peer().listener, "the server behind cannot be asked: {error}");
                if input.len() < head.total {
                    return Some(Some(gone(cx)));
                }
                input.consume(head.total);
                unreachable(head.id, head.operation, cx);
                Some(None)
            }
        }
    }

    /// Goes as far as that is possible without waiting.
    fn turn(&mut self, cx: &mut Context<'_>) -> Next {
        if let Some(Hold::Punished(_) | Hold::LookUp) = self.hold {
            return self.rest(cx);
        }
        loop {
            let Some(line) = &mut self.line else {
                return self.rest(cx);
            };
            let progress = match line.turn(cx.now()) {
                Ok(Progress::Connecting(until)) => {
                    cx.set_alarm(Some(until.saturating_duration_since(cx.now())));
                    return Next::Pause;
                }
                Ok(progress) => progress,
                Err(error) => return self.lost(&error.to_string(), cx),
            };
            if let Some(Hold::Connect(_, operation)) = self.hold {
                self.hold = (operation == BIND).then(|| Hold::Bind(cx.now() + PATIENCE));
            }
            let before = line.received().len();
            if let Err(error) = self.deliver(cx) {
                return self.lost(error, cx);
            }
            if let Some(Hold::Punished(_)) = self.hold {
                return self.rest(cx);
            }
            if cx.output().is_high() {
                return Next::Drain;
            }
            let left = self.line.as_mut().map_or(0, |line| line.received().len());
            if left == before {
                if progress == Progress::Ended {
                    return self.lost("it closed the connection", cx);
                }
                break;
            }
        }
        if self.closing && self.outstanding == 0 && self.from_server == 0 {
            return Next::Close;
        }
        if let Some(Hold::Bind(until)) = self.hold
            && cx.now() >= until
        {
            return self.lost("it does not answer in time", cx);
        }
        self.rest(cx)
    }

    /// Hands what the server has said to the client, as much as that takes.
    fn deliver(&mut self, cx: &mut Context<'_>) -> Result<(), &'static str> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        let mut used = 0;
        while !cx.output().is_high() {
            let rest = &line.received()[used..];
            if self.from_server > 0 {
                let count = self.from_server.min(rest.len());
                cx.write(&rest[..count]);
                used += count;
                self.from_server -= count;
                if self.from_server > 0 {
                    break;
                }
                continue;
            }
            let head = message::head(rest).map_err(|_| "it does not speak LDAP")?;
            let Some(head) = head else { break };
            if head.operation == BIND_RESPONSE {
                if head.total > LONGEST {
                    return Err("its answer to a bind is too long");
                }
                let Some(answer) = rest.get(..head.total) else {
                    break;
                };
                let answer = answer.to_vec();
                used += head.total;
                self.outstanding = self.outstanding.saturating_sub(1);
                self.hold = None;
                cx.set_alarm(None);
                if is_wrong_password(&answer) {
                    cx.report(Abuse::FailedLogin);
                    cx.set_alarm(Some(self.failures.delay()));
                    self.hold = Some(Hold::Punished(answer));
                    break;
                }
                cx.write(&answer);
                continue;
            }
            // Entries, references and intermediate responses are followed by more.
            let is_last = !matches!(head.operation, 0x64 | 0x73 | 0x79) && head.id != 0;
            self.outstanding = self.outstanding.saturating_sub(u32::from(is_last));
            self.from_server = head.total;
        }
        line.received().drain(..used);
        Ok(())
    }

    fn rest(&self, cx: &mut Context<'_>) -> Next {
        match &self.hold {
            Some(Hold::Bind(until)) => {
                cx.set_alarm(Some(until.saturating_duration_since(cx.now())));
                Next::Pause
            }
            Some(_) => Next::Pause,
            None if self
                .line
                .as_ref()
                .is_some_and(|line| line.pending() > HIGH_WATER) =>
            {
                cx.set_alarm(Some(PATIENCE));
                Next::Pause
            }
            None => Next::Read,
        }
    }

    /// The server behind is gone, or never was there.
    fn lost(&mut self, error: &str, cx: &mut Context<'_>) -> Next {
        log::debug!(target: &cx.peer().listener, "the server behind cannot be asked: {error}");
        cx.set_alarm(None);
        self.line = None;
        match self.hold.take() {
            Some(Hold::Connect(id, operation)) if self.from_client == 0 => {
                self.outstanding = 0;
                unreachable(id, operation, cx);
                if self.closing {
                    Next::Close
                } else {
                    Next::Read
                }
            }
            _ => gone(cx),
        }
    }

    fn alarm(&mut self, cx: &mut Context<'_>) -> Next {
        match self.hold.take() {
            Some(Hold::Punished(answer)) => {
                cx.write(&answer);
                if self.failures.are_many() {
                    return Next::Close;
                }
            }
            hold => self.hold = hold,
        }
        let is_stuck = self
            .line
            .as_ref()
            .is_some_and(|line| line.pending() > HIGH_WATER);
        let next = self.turn(cx);
        let still = self
            .line
            .as_ref()
            .is_some_and(|line| line.pending() > HIGH_WATER);
        match is_stuck && still && self.hold.is_none() {
            true => self.lost("it takes nothing", cx),
            false => next,
        }
    }
}

/// The result of a wrong name or password, in an answer to a bind.
fn is_wrong_password(answer: &[u8]) -> bool {
    match message::read(answer).map(|message| message.protocol_op) {
        Ok(ProtocolOp::BindResponse(response)) => {
            response.result_code as u32 == Code::InvalidCredentials as u32
        }
        _ => false,
    }
}

/// Why a bind is not passed on.
fn refusal(request: &BindRequest, cx: &Context<'_>) -> Option<(Code, &'static str)> {
    let clear = (
        Code::ConfidentialityRequired,
        "a password in clear is not taken: StartTLS first",
    );
    let may_send = cx.peer().may_send_password();
    match &request.authentication {
        AuthenticationChoice::Simple(password) => {
            (!password.is_empty() && !may_send).then_some(clear)
        }
        AuthenticationChoice::Sasl(sasl) => match sasl.mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" | "LOGIN" => (!may_send).then_some(clear),
            "CRAM-MD5" | "ANONYMOUS" | "SCRAM-SHA-1" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => None,
            // EXTERNAL would be the gate itself, whom a server on a Unix socket may trust; others hide what
            // follows in layers of their own.
            _ => Some((
                Code::AuthMethodNotSupported,
                "this mechanism does not pass here",
            )),
        },
        _ => Some((
            Code::AuthMethodNotSupported,
            "this method does not pass here",
        )),
    }
}

fn unreachable(id: u32, operation: u8, cx: &mut Context<'_>) {
    if let Some(tag) = answer_to(operation) {
        say(
            id,
            tag,
            Code::Unavailable,
            "the directory behind cannot be reached",
            cx,
        );
    }
}

fn gone(cx: &mut Context<'_>) -> Next {
    cx.write(&notice(Code::Unavailable, "the directory behind is gone"));
    Next::Close
}

impl Session for GateSession {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open if is_stranger(self.place.clients_only, cx) => Next::Close,
            Event::Open => Next::Read,
            Event::Input(input) => self.input(input, cx),
            Event::Secured => {
                // Another connection to the server behind: what was said in clear counts no more.
                *self = GateSession::new(Arc::clone(&self.place));
                Next::Read
            }
            Event::Done(_) => {
                self.looked_up = true;
                self.hold = None;
                self.rest(cx)
            }
            Event::Woken | Event::Drained => self.turn(cx),
            Event::Alarm => self.alarm(cx),
            Event::Shutdown if self.outstanding == 0 && self.hold.is_none() => {
                cx.write(&notice(Code::Unavailable, "shutting down"));
                Next::Close
            }
            Event::Shutdown | Event::Eof if self.outstanding > 0 || self.hold.is_some() => {
                self.closing = true;
                self.rest(cx)
            }
            Event::Timeout => {
                cx.write(&notice(Code::Unavailable, "nothing was said for long"));
                Next::Close
            }
            _ => Next::Close,
        }
    }
}
