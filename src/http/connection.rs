#![forbid(unsafe_code)]
//! The session of a connection that speaks HTTP/1.1: heads, bodies, answers in order, deadlines.

use std::sync::Arc;
use std::time::Instant;

use super::access_log::Line;
use super::forward::{Exchange, Move};
use super::framing::Decoder;
use super::head::{Bad, Request, Scan, room};
use super::response::{Body, Parts, Source};
use super::{Answer, Around, Response, Service};
use crate::session::{Abuse, Context, Event, Input, Lane, Next, Relay, Session, Upstream, Work};

/// So much of a file is handed over at a time, so that a fast reader's connection takes turns with others.
const PIECE: u64 = 4 << 20;

/// One connection.
pub(crate) struct Connection<S> {
    service: Arc<S>,
    stage: Stage,
    scan: Scan,
    /// The deadline of a head is running.
    timed: bool,
    /// Nothing is answered any more once the current answer is written.
    closing: bool,
}

enum Stage {
    /// Waits for a head, or for the rest of one.
    Head,
    /// Waits for the rest of a body.
    Body(Box<Receiving>),
    /// The answer is being worked out.
    Working(Box<Reply>),
    /// The answer is written piece by piece.
    Sending(Box<Sending>),
    /// The request is on its way to an upstream, or the answer on its way back.
    Forwarding(Box<Forwarding>),
}

struct Forwarding {
    exchange: Exchange,
    reply: Reply,
    /// Until when more of the request's body must come, and how much there was when that was set.
    body_due: (Instant, u64),
}

/// So much of a body that is passed on must come within the body timeout.
const BODY_PIECE: u64 = 64 * 1024;

/// A request whose body is not complete.
struct Receiving {
    /// Its head, parsed anew when the body is there.
    head: Vec<u8>,
    body: Vec<u8>,
    decoder: Decoder,
    /// The client waits for 100.
    to_continue: bool,
}

/// How an answer is to be written.
struct Reply {
    is_head: bool,
    minor: u8,
    keep_alive: bool,
    line: Option<Line>,
}

struct Sending {
    parts: Parts,
    line: Option<Line>,
}

/// What came of looking at the input.
enum Step {
    /// It needs more bytes.
    More,
    /// A request was dealt with, there may be another.
    Again,
    Then(Next),
}

impl<S: Service> Connection<S> {
    pub(crate) fn new(service: Arc<S>) -> Self {
        Connection {
            service,
            stage: Stage::Head,
            scan: Scan::default(),
            timed: false,
            closing: false,
        }
    }

    fn input(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            let step = match self.stage {
                Stage::Head => self.head(input, cx),
                Stage::Body(_) => self.body(input, cx),
                Stage::Forwarding(_) => Ok(self.forward(Some(input), cx)),
                Stage::Working(_) | Stage::Sending(_) => Ok(Step::More),
            };
            match step {
                Ok(Step::More) => return Next::Read,
                Ok(Step::Again) if cx.output().is_high() => return Next::Drain,
                Ok(Step::Again) => {}
                Ok(Step::Then(next)) => return next,
                Err(bad) => return self.bad(bad, cx),
            }
        }
    }

    fn head(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Result<Step, Bad> {
        if self.scan.is_new() {
            while input.starts_with(b"\r\n") {
                self.scan.empty_line()?;
                input.consume(2);
            }
        }
        let Some(end) = self.scan.find(input)? else {
            if !self.timed && !input.is_empty() {
                self.timed = true;
                cx.set_alarm(Some(self.service.limits().head_timeout));
            }
            return Ok(Step::More);
        };
        if std::mem::take(&mut self.timed) {
            cx.set_alarm(None);
        }
        let step = {
            let mut room = room();
            let request = Request::parse(&input[..end], &mut room)?;
            self.request(&request, &input[..end], cx)?
        };
        input.consume(end);
        Ok(step)
    }

    /// Deals with a head: with its body, if it has one, it is answered later.
    fn request(
        &mut self,
        request: &Request<'_, '_>,
        head: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Step, Bad> {
        let around = Around {
            peer: cx.peer(),
            now: cx.now(),
            wall: cx.wall(),
        };
        if let Some(refusal) = self.service.refuse(request, &around) {
            let mut reply = self.reply(request, cx);
            reply.keep_alive = false;
            return Ok(self.respond(reply, refusal, cx));
        }
        if let Some(forward) = self.service.forward() {
            let reply = self.reply(request, cx);
            let most = self.service.max_body(request);
            let exchange = Exchange::new(forward, request, &around, most, !reply.keep_alive)?;
            // RFC 9110, 10.1.1: for us to say, since we are who reads the body.
            if request.expects_continue {
                cx.write(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            let body_due = (cx.now() + self.service.limits().body_timeout, 0);
            self.stage = Stage::Forwarding(Box::new(Forwarding {
                exchange,
                reply,
                body_due,
            }));
            return Ok(Step::Again);
        }
        let decoder = Decoder::new(request.framing, self.service.max_body(request))?;
        if decoder.is_done() {
            return Ok(self.answer(request, &[], cx));
        }
        cx.set_alarm(Some(self.service.limits().body_timeout));
        self.stage = Stage::Body(Box::new(Receiving {
            head: head.to_vec(),
            body: Vec::new(),
            decoder,
            to_continue: request.expects_continue,
        }));
        Ok(Step::Again)
    }

    fn body(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Result<Step, Bad> {
        let Stage::Body(receiving) = &mut self.stage else {
            return Ok(Step::More);
        };
        // Whether the client waited or not (RFC 9110, 10.1.1 lets us), so that nothing depends on timing.
        if std::mem::take(&mut receiving.to_continue) {
            cx.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let used = receiving.decoder.take(input, &mut receiving.body)?;
        input.consume(used);
        if !receiving.decoder.is_done() {
            return Ok(Step::More);
        }
        cx.set_alarm(None);
        if let Stage::Body(receiving) = std::mem::replace(&mut self.stage, Stage::Head) {
            let mut room = room();
            let request = Request::parse(&receiving.head, &mut room)?;
            return Ok(self.answer(&request, &receiving.body, cx));
        }
        Ok(Step::Again)
    }

    fn reply(&self, request: &Request<'_, '_>, cx: &Context<'_>) -> Reply {
        let line = self.service.access_log();
        Reply {
            is_head: request.is_head(),
            minor: request.minor,
            keep_alive: request.keep_alive && !self.closing,
            line: line.map(|log| Line::new(log, Some(request), cx.peer(), cx.wall())),
        }
    }

    fn answer(&mut self, request: &Request<'_, '_>, body: &[u8], cx: &mut Context<'_>) -> Step {
        let reply = self.reply(request, cx);
        let around = Around {
            peer: cx.peer(),
            now: cx.now(),
            wall: cx.wall(),
        };
        match self.service.answer(request, body, &around) {
            Answer::Now(response) => self.respond(reply, response, cx),
            Answer::Later(lane, work) => {
                self.stage = Stage::Working(Box::new(reply));
                Step::Then(Next::Work(Work::new(lane, work)))
            }
        }
    }

    /// Writes an answer, or its beginning.
    fn respond(&mut self, mut reply: Reply, response: Response, cx: &mut Context<'_>) -> Step {
        self.closing |= !reply.keep_alive;
        let connection = match (self.closing, reply.minor) {
            (true, _) => Some("close"),
            (false, 0) => Some("keep-alive"),
            (false, _) => None,
        };
        if let Some(abuse) = response.abuse {
            cx.report(abuse);
        }
        let wall = cx.wall();
        response.write_head(cx.output(), wall, connection);
        if let Some(line) = &mut reply.line {
            line.answered(response.status, response.user.as_deref());
        }
        let bodiless = reply.is_head || response.status == 304;
        let bytes = match &response.body {
            _ if bodiless => &[][..],
            Body::Bytes(bytes) => bytes,
            Body::Stored(stored) => &stored.bytes,
            Body::Parts(_) => &[][..],
        };
        cx.write(bytes);
        if let Some(line) = &mut reply.line {
            line.sent = bytes.len() as u64;
        }
        match response.body {
            Body::Parts(parts) if !bodiless => {
                self.stage = Stage::Sending(Box::new(Sending {
                    parts,
                    line: reply.line,
                }));
                Step::Then(self.send(cx))
            }
            _ if self.closing => Step::Then(Next::Close),
            _ => Step::Again,
        }
    }

    /// Goes on with the pieces of a file.
    fn send(&mut self, cx: &mut Context<'_>) -> Next {
        let Stage::Sending(sending) = &mut self.stage else {
            return Next::Read;
        };
        while let Some(part) = sending.parts.parts.front_mut() {
            let mut sent = part.ahead.len() as u64;
            cx.write(&std::mem::take(&mut part.ahead));
            let count = part.length.min(PIECE);
            match &sending.parts.source {
                Source::Stored(stored) => {
                    let start = usize::try_from(part.offset).unwrap_or(usize::MAX);
                    let end = start.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
                    cx.write(stored.bytes.get(start..end).unwrap_or_default());
                }
                Source::File(file) => match file.try_clone() {
                    Ok(file) => cx.output().write_file(file, part.offset, count),
                    // Out of descriptors in the middle of an answer: only the end of the connection says so.
                    Err(_) => return Next::Abort,
                },
            }
            part.offset += count;
            part.length -= count;
            sent += count;
            if let Some(line) = &mut sending.line {
                line.sent += sent;
            }
            if part.length == 0 {
                sending.parts.parts.pop_front();
            }
            if cx.output().is_high() {
                return Next::Drain;
            }
        }
        self.stage = Stage::Head;
        if self.closing {
            Next::Close
        } else {
            Next::Drain
        }
    }

    /// Goes on with what is passed to an upstream.
    fn forward(&mut self, input: Option<&mut Input>, cx: &mut Context<'_>) -> Step {
        let Stage::Forwarding(mut forwarding) = std::mem::replace(&mut self.stage, Stage::Head)
        else {
            return Step::More;
        };
        let next = match forwarding.exchange.go(input, cx) {
            Move::Input => {
                let (due, before) = &mut forwarding.body_due;
                if forwarding.exchange.taken - *before >= BODY_PIECE {
                    *due = cx.now() + self.service.limits().body_timeout;
                    *before = forwarding.exchange.taken;
                }
                cx.set_alarm(Some(due.saturating_duration_since(cx.now())));
                Step::More
            }
            Move::Await(far, until) => {
                cx.set_alarm(Some(until.saturating_duration_since(cx.now())));
                Step::Then(Next::Await(far))
            }
            Move::Drain => Step::Then(Next::Drain),
            Move::LookUp => Step::Then(Next::Work(Work::new(
                Lane::Wait,
                forwarding.exchange.look_up(),
            ))),
            Move::Done => return self.forwarded(*forwarding, cx),
            Move::Fail(status, why) => {
                forwarding.exchange.complain(&why, cx.now());
                cx.set_alarm(None);
                self.closing |= forwarding.exchange.ends();
                let why = match status {
                    504 => "The server behind this one did not answer in time.",
                    502 => "The server behind this one did not answer.",
                    _ => "The request could not be passed on.",
                };
                return self.respond(forwarding.reply, Response::error(status, why), cx);
            }
            Move::Broken(why) => {
                forwarding.exchange.complain(&why, cx.now());
                self.note(forwarding.reply.line.as_mut(), &forwarding.exchange);
                return Step::Then(Next::Abort);
            }
            Move::Upgrade(stream) => {
                cx.set_alarm(None);
                self.note(forwarding.reply.line.as_mut(), &forwarding.exchange);
                return Step::Then(Next::Relay(Relay {
                    upstream: Upstream::Connected(stream),
                    ahead: Vec::new(),
                }));
            }
        };
        self.stage = Stage::Forwarding(forwarding);
        next
    }

    /// The same without new input of the client.
    fn forward_on(&mut self, cx: &mut Context<'_>) -> Next {
        match self.forward(None, cx) {
            Step::Then(next) => next,
            // What the client sent ahead meanwhile comes again.
            Step::More => Next::Read,
            Step::Again => Next::Drain,
        }
    }

    fn forwarded(&mut self, mut forwarding: Forwarding, cx: &mut Context<'_>) -> Step {
        cx.set_alarm(None);
        self.note(forwarding.reply.line.as_mut(), &forwarding.exchange);
        self.closing |= forwarding.exchange.ends();
        if self.closing {
            Step::Then(Next::Close)
        } else {
            Step::Again
        }
    }

    fn note(&self, line: Option<&mut Line>, exchange: &Exchange) {
        if let (Some(line), Some(status)) = (line, exchange.status()) {
            line.answered(status, None);
            line.sent = exchange.carried;
        }
    }

    /// Says what is wrong and ends: where the next request would begin is not known.
    fn bad(&mut self, bad: Bad, cx: &mut Context<'_>) -> Next {
        if bad.status == 400 {
            cx.report(Abuse::Protocol);
        }
        cx.set_alarm(None);
        self.stage = Stage::Head;
        let line = self.service.access_log();
        let reply = Reply {
            is_head: false,
            minor: 1,
            keep_alive: false,
            line: line.map(|log| Line::new(log, None, cx.peer(), cx.wall())),
        };
        let mut why = format!("{}.", bad.why.trim_end_matches('.'));
        if let Some(first) = why.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        self.respond(reply, Response::error(bad.status, &why), cx);
        Next::Close
    }
}

impl<S: Service> Session for Connection<S> {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open | Event::Woken => Next::Read,
            Event::Input(input) => self.input(input, cx),
            Event::Drained => match self.stage {
                Stage::Sending(_) => self.send(cx),
                Stage::Forwarding(_) => self.forward_on(cx),
                _ => Next::Read,
            },
            Event::Far(far) => {
                if let Stage::Forwarding(forwarding) = &mut self.stage {
                    forwarding.exchange.resume(far);
                }
                self.forward_on(cx)
            }
            Event::Done(_) if matches!(self.stage, Stage::Forwarding(_)) => self.forward_on(cx),
            Event::Done(outcome) => {
                let Stage::Working(reply) = std::mem::replace(&mut self.stage, Stage::Head) else {
                    return Next::Abort;
                };
                let response = outcome
                    .take::<Response>()
                    .unwrap_or_else(|| Response::error(500, "The server failed at this."));
                match self.respond(*reply, response, cx) {
                    Step::Then(next) => next,
                    // What the client sent ahead meanwhile is looked at once this is written.
                    Step::Again | Step::More => Next::Drain,
                }
            }
            Event::Alarm => match &self.stage {
                Stage::Forwarding(forwarding) if forwarding.exchange.status().is_some() => {
                    Next::Abort
                }
                Stage::Body(_) | Stage::Forwarding(_) => {
                    self.bad(Bad::of(408, "the body took too long"), cx)
                }
                _ if self.timed => {
                    self.bad(Bad::of(408, "the head of the request took too long"), cx)
                }
                _ => Next::Read,
            },
            Event::Shutdown => {
                self.closing = true;
                let idle = matches!(self.stage, Stage::Head) && cx.leftover().is_empty();
                if idle { Next::Close } else { Next::Read }
            }
            // RFC 9112, 9.5: a connection may be closed between requests at any time.
            _ => Next::Close,
        }
    }
}
