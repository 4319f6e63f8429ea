#![forbid(unsafe_code)]
//! One request on its way to an upstream, and the answer on its way back. Nothing here waits: what it would
//! wait for is its [`Move`].

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::Instant;

use super::answer::{Ends, Head};
use super::{Forward, Link, ask};
use crate::http::framing::{Decoder, Framing};
use crate::http::head::Bad;
use crate::http::{Around, Request};
use crate::session::{Context, Dial, Far, Input, UpstreamStream};

/// Read at a time from an upstream.
const CHUNK: usize = 16 * 1024;

/// What an exchange needs.
#[derive(Debug)]
pub(in crate::http) enum Move {
    /// More of the client's body.
    Input,
    /// The upstream, at most until then.
    Await(Box<Far>, Instant),
    /// The client to take what was written.
    Drain,
    /// The upstreams' names to be looked up.
    LookUp,
    /// The answer is complete.
    Done,
    /// There is no answer; nothing of one was written. The status, and words for the log.
    Fail(u16, String),
    /// The answer broke off.
    Broken(String),
    /// The connection is no longer HTTP.
    Upgrade(UpstreamStream),
}

/// A request and its answer.
pub(in crate::http) struct Exchange {
    forward: Arc<Forward>,
    listener: Arc<str>,
    /// The request's head, kept for a second try.
    head: Vec<u8>,
    is_head: bool,
    minor: u8,
    framing: Framing,
    body: Decoder,
    upgrade: bool,
    /// A request that may be sent twice (RFC 9110, 9.2.2), and its body is none.
    may_repeat: bool,
    /// The client's connection ends after the answer.
    closing: bool,
    /// The upstream's socket, while it is not waited for.
    far: Option<Box<Far>>,
    /// Until when the connect under way may last.
    connecting: Option<Instant>,
    /// Chooses upstreams, and owns the share of a count of the one that was chosen.
    dial: Option<Box<dyn Dial>>,
    /// The socket has carried a request before.
    used: bool,
    looked_up: bool,
    to_far: Vec<u8>,
    /// How much of it was taken.
    sent: usize,
    /// Some was taken in this step.
    just_sent: bool,
    /// The upstream takes no more of the request: what it answers counts all the same.
    deaf: bool,
    from_far: Vec<u8>,
    answer: Option<Answer>,
    until: Instant,
    /// Bytes taken of the request's body.
    pub(in crate::http) taken: u64,
    /// Bytes of the answer's body.
    pub(in crate::http) carried: u64,
}

struct Answer {
    head: Head,
    /// Absent where the connection's end is the body's.
    body: Option<Decoder>,
    /// As the client gets it.
    framing: Framing,
}

impl Exchange {
    pub(in crate::http) fn new(
        forward: &Arc<Forward>,
        request: &Request<'_, '_>,
        around: &Around<'_>,
        max_body: u64,
        closing: bool,
    ) -> Result<Self, Bad> {
        let trusted = forward.trusts(around.peer.remote.ip());
        let repeatable = matches!(
            request.method,
            "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"
        );
        let head = ask::head(request, around, trusted);
        Ok(Exchange {
            forward: Arc::clone(forward),
            listener: Arc::clone(&around.peer.listener),
            to_far: head.clone(),
            head,
            is_head: request.is_head(),
            minor: request.minor,
            framing: request.framing,
            body: Decoder::new(request.framing, max_body)?,
            upgrade: ask::upgrade(request).is_some(),
            may_repeat: repeatable && request.framing == Framing::None,
            closing,
            far: None,
            connecting: None,
            dial: None,
            used: false,
            looked_up: false,
            sent: 0,
            just_sent: false,
            deaf: false,
            from_far: Vec::new(),
            answer: None,
            until: around.now + forward.timeout,
            taken: 0,
            carried: 0,
        })
    }

    /// True when the client's connection must end after this.
    pub(in crate::http) fn ends(&self) -> bool {
        self.closing || !self.body.is_done()
    }

    /// The answer's status, once there is one.
    pub(in crate::http) fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|answer| answer.head.status)
    }

    /// Says in the log why there is no answer.
    pub(in crate::http) fn complain(&self, why: &str, now: Instant) {
        self.forward.complain(&self.listener, why, now);
    }

    /// Looks the upstreams' names up; for a lane.
    pub(in crate::http) fn look_up(&self) -> impl FnOnce() + Send + 'static {
        let pool = Arc::clone(&self.forward.pool);
        move || pool.look_up()
    }

    /// The upstream that was waited for is back.
    pub(in crate::http) fn resume(&mut self, far: Box<Far>) {
        self.far = Some(far);
    }

    /// Goes on as far as it can. `input` is what came of the client, where something came.
    pub(in crate::http) fn go(&mut self, input: Option<&mut Input>, cx: &mut Context<'_>) -> Move {
        match self.steps(input, cx) {
            Ok(next) => next,
            Err(failure) if self.answer.is_some() => Move::Broken(failure.1),
            Err(failure) => Move::Fail(failure.0, failure.1),
        }
    }

    fn steps(
        &mut self,
        mut input: Option<&mut Input>,
        cx: &mut Context<'_>,
    ) -> Result<Move, Failure> {
        loop {
            if let Some(next) = self.connect(cx.now())? {
                return Ok(next);
            }
            let blocked = self.send(input.as_deref_mut())?;
            let asked = std::mem::take(&mut self.just_sent) && self.body.is_done();
            if asked && !blocked && !self.deaf {
                // Hardly ever is the answer there already; if it is, the poll says so at once.
                return self.wait(self.until);
            }
            match self.receive() {
                Ok(0) => {
                    if let Some(next) = self.far_ended(cx)? {
                        return Ok(next);
                    }
                }
                Ok(_) => {
                    self.until = cx.now() + self.forward.timeout;
                    if let Some(next) = self.pass(cx)? {
                        return Ok(next);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !blocked && !self.deaf && !self.body.is_done() {
                        return Ok(Move::Input);
                    }
                    if cx.now() >= self.until {
                        return Err((504, "the upstream does not answer in time".to_owned()));
                    }
                    return self.wait(self.until);
                }
                Err(_) if self.repeats() => {}
                Err(error) => return Err((502, format!("the upstream broke: {error}"))),
            }
        }
    }

    /// Gives the socket away to be waited for.
    fn wait(&mut self, until: Instant) -> Result<Move, Failure> {
        let far = self.far.take().ok_or_else(missing)?;
        Ok(Move::Await(far, until))
    }

    /// Goes on to connect; `None` once there is a connection.
    fn connect(&mut self, now: Instant) -> Result<Option<Move>, Failure> {
        if self.far.is_some() && self.connecting.is_none() {
            return Ok(None);
        }
        if self.dial.is_none() {
            // A second try is for a fresh connection.
            let kept = if self.used {
                None
            } else {
                self.forward.take(now)
            };
            if let Some(link) = kept {
                self.used = true;
                self.far = Some(link.far);
                self.dial = Some(link.dial);
                return Ok(None);
            }
            if !self.looked_up && self.forward.pool.wants_look_up(now) {
                self.looked_up = true;
                return Ok(Some(Move::LookUp));
            }
            self.dial = Some(self.forward.pool.dial(&self.listener));
        }
        let dial = self.dial.as_mut().ok_or_else(missing)?;
        if let (Some(far), Some(until)) = (&self.far, self.connecting) {
            let outcome = match far.is_connected() {
                Ok(true) => Ok(()),
                Ok(false) if now < until => return self.wait(until).map(Some),
                Ok(false) => Err(io::ErrorKind::TimedOut.into()),
                Err(error) => Err(error),
            };
            dial.outcome(&outcome, now);
            self.connecting = None;
            if outcome.is_ok() {
                self.used = false;
                self.until = now + self.forward.timeout;
                return Ok(None);
            }
            self.far = None;
        }
        while let Some((target, timeout)) = dial.next(now) {
            match Far::open(&target) {
                Ok(far) => {
                    let until = now + timeout;
                    self.far = Some(Box::new(far));
                    self.connecting = Some(until);
                    return self.wait(until).map(Some);
                }
                Err(error) => dial.outcome(&Err(error), now),
            }
        }
        Err((502, "no upstream can be reached".to_owned()))
    }

    /// Sends the request as far as it is here and the upstream takes it; true when that takes no more for now.
    fn send(&mut self, mut input: Option<&mut Input>) -> Result<bool, Failure> {
        loop {
            while self.sent < self.to_far.len() && !self.deaf {
                let far = self.far.as_mut().ok_or_else(missing)?;
                match far.write(&self.to_far[self.sent..]) {
                    Ok(count) if count > 0 => {
                        self.sent += count;
                        self.just_sent = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // It may have answered before it closed.
                    _ => self.deaf = true,
                }
            }
            self.to_far.clear();
            self.sent = 0;
            let Some(input) = input.as_deref_mut().filter(|input| !input.is_empty()) else {
                return Ok(false);
            };
            if self.body.is_done() || self.deaf {
                return Ok(false);
            }
            let mut piece = Vec::new();
            let used = self
                .body
                .take(input, &mut piece)
                .map_err(|bad| (bad.status, bad.why.to_owned()))?;
            input.consume(used);
            self.taken += used as u64;
            if self.framing == Framing::Chunked {
                chunk(&mut self.to_far, &piece);
                if self.body.is_done() {
                    self.to_far.extend_from_slice(b"0\r\n\r\n");
                }
            } else {
                self.to_far = piece;
            }
            if used == 0 {
                return Ok(false);
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let Some(far) = &mut self.far else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let mut chunk = [0; CHUNK];
        loop {
            match far.read(&mut chunk) {
                Ok(count) => {
                    self.from_far.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// True when the request begins anew on a fresh connection: a server may close a silent one just as we
    /// use it (RFC 9112, 9.3.1).
    fn repeats(&mut self) -> bool {
        if !self.used || !self.may_repeat || self.answer.is_some() || !self.from_far.is_empty() {
            return false;
        }
        // `used` stays: no other kept connection is tried.
        self.may_repeat = false;
        self.far = None;
        self.dial = None;
        self.deaf = false;
        self.to_far.clone_from(&self.head);
        self.sent = 0;
        true
    }

    /// The upstream has closed its side.
    fn far_ended(&mut self, cx: &mut Context<'_>) -> Result<Option<Move>, Failure> {
        let to_the_end = self.answer.as_ref().map(|answer| answer.body.is_none());
        match to_the_end {
            Some(true) => Ok(Some(self.finish(false, cx))),
            Some(false) => Err((
                502,
                "the upstream closed in the middle of its answer".to_owned(),
            )),
            None if self.repeats() => Ok(None),
            None => Err((502, "the upstream closed without an answer".to_owned())),
        }
    }

    /// Passes on what has come of the answer.
    fn pass(&mut self, cx: &mut Context<'_>) -> Result<Option<Move>, Failure> {
        while self.answer.is_none() {
            let read =
                Head::read(&self.from_far, self.is_head).map_err(|why| (502, why.to_owned()))?;
            let Some(head) = read else {
                return Ok(None);
            };
            self.from_far.drain(..head.length);
            match head.status {
                101 if self.upgrade => {
                    cx.write(&head.write(Framing::None, None));
                    cx.write(&std::mem::take(&mut self.from_far));
                    self.answer = Some(Answer {
                        head,
                        body: None,
                        framing: Framing::None,
                    });
                    let far = self.far.take().ok_or_else(missing)?;
                    return Ok(Some(Move::Upgrade(far.into_stream())));
                }
                101 => return Err((502, "the upstream changed the protocol unasked".to_owned())),
                // Interim answers were for us (RFC 9110, 15.2).
                100..=199 => {}
                _ => self.begin(head, cx)?,
            }
        }
        self.pass_body(cx)
    }

    /// Writes the head of the answer.
    fn begin(&mut self, head: Head, cx: &mut Context<'_>) -> Result<(), Failure> {
        let framing = match head.ends {
            Ends::Framed(Framing::Chunked) | Ends::Close if self.minor >= 1 => Framing::Chunked,
            Ends::Framed(Framing::Chunked) | Ends::Close => {
                self.closing = true;
                Framing::None
            }
            Ends::Framed(framing) => framing,
        };
        let body = match head.ends {
            Ends::Framed(framing) => {
                Some(Decoder::new(framing, u64::MAX).map_err(|bad| (502, bad.why.to_owned()))?)
            }
            Ends::Close => None,
        };
        let connection = match (self.ends(), self.minor) {
            (true, _) => Some("close"),
            (false, 0) => Some("keep-alive"),
            (false, _) => None,
        };
        cx.write(&head.write(framing, connection));
        self.answer = Some(Answer {
            head,
            body,
            framing,
        });
        Ok(())
    }

    fn pass_body(&mut self, cx: &mut Context<'_>) -> Result<Option<Move>, Failure> {
        let Some(answer) = &mut self.answer else {
            return Ok(None);
        };
        let mut piece = Vec::new();
        let done = match &mut answer.body {
            Some(body) => {
                let used = body
                    .take(&self.from_far, &mut piece)
                    .map_err(|bad| (502, bad.why.to_owned()))?;
                self.from_far.drain(..used);
                body.is_done()
            }
            None => {
                piece = std::mem::take(&mut self.from_far);
                false
            }
        };
        self.carried += piece.len() as u64;
        if answer.framing == Framing::Chunked {
            let mut framed = Vec::with_capacity(piece.len() + 16);
            chunk(&mut framed, &piece);
            cx.write(&framed);
        } else {
            cx.write(&piece);
        }
        if done {
            return Ok(Some(self.finish(true, cx)));
        }
        Ok(cx.output().is_high().then_some(Move::Drain))
    }

    /// The answer is complete; its connection is kept where its end was clear and nothing is left over.
    fn finish(&mut self, framed: bool, cx: &mut Context<'_>) -> Move {
        let Some(answer) = &self.answer else {
            return Move::Done;
        };
        if answer.framing == Framing::Chunked {
            cx.write(b"0\r\n\r\n");
        }
        let asked = self.body.is_done() && self.to_far.is_empty() && !self.deaf;
        let keep = framed && answer.head.keep_alive && asked && self.from_far.is_empty();
        if let (true, Some(far), Some(dial)) = (keep, self.far.take(), self.dial.take()) {
            self.forward.keep(Link { far, dial }, cx.now());
        }
        Move::Done
    }
}

/// A status, and words for the log.
type Failure = (u16, String);

fn missing() -> Failure {
    (500, "a socket is missing".to_owned())
}

/// One chunk; an empty one would be the last.
fn chunk(into: &mut Vec<u8>, piece: &[u8]) {
    if !piece.is_empty() {
        // A vector takes all that is written to it.
        let _ = write!(into, "{:x}\r\n", piece.len());
        into.extend_from_slice(piece);
        into.extend_from_slice(b"\r\n");
    }
}
