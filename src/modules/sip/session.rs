#![forbid(unsafe_code)]
//! SIP over a connection (RFC 3261, 18.3; RFC 5626, 3.5.1): messages framed by Content-Length, pings answered,
//! and what others send to whoever is at its other end.

use std::sync::Arc;
use std::time::Duration;

use super::agent::{Agent, Incoming, Taken};
use super::flow::{Flow, Transport};
use super::location::{Seat, seconds};
use super::message::{Message, head_end};
use crate::session::{Context, Event, Input, Lane, Next, Outcome, Peer, Session, Work};

/// How much longer than its registration a silent connection stays.
const GRACE: u64 = 60;

/// One connection.
pub(super) struct Line {
    agent: Arc<Agent>,
    flow: Flow,
    seat: Option<Seat>,
    /// Bindings are to be written by this connection.
    owes: bool,
}

/// What the beginning of the input is.
enum Piece {
    /// More is needed.
    Nothing,
    /// An empty line ahead of a message.
    Empty,
    Ping,
    /// A message of so many bytes.
    Message(usize),
    /// A head of so many bytes whose body does not fit, or has no length.
    Unframed(usize),
    /// No end of a head within the limit.
    Endless,
}

impl Line {
    pub(super) fn new(agent: Arc<Agent>, peer: &Peer) -> Self {
        let transport = match peer.is_secure() {
            true => Transport::Tls,
            false => Transport::Tcp,
        };
        let flow = Flow {
            transport,
            remote: peer.remote,
            local: peer.local,
        };
        Line {
            agent,
            flow,
            seat: None,
            owes: false,
        }
    }

    fn read(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Next {
        loop {
            if cx.output().is_high() {
                return Next::Drain;
            }
            match piece(input) {
                Piece::Nothing => return self.deliver(cx),
                Piece::Empty => input.consume(2),
                Piece::Ping => {
                    input.consume(4);
                    cx.write(b"\r\n");
                }
                Piece::Message(length) => {
                    let changed = self.take(&input[..length], cx);
                    input.consume(length);
                    if changed && let Some(next) = self.changed(cx) {
                        return next;
                    }
                }
                Piece::Unframed(head) => {
                    let (bytes, now) = (&input[..head], seconds(cx.wall()));
                    let incoming = Incoming {
                        bytes,
                        flow: &self.flow,
                        now,
                    };
                    let length = Message::parse(bytes).map(|head| head.content_length());
                    let taken = match length {
                        Some(Ok(_)) => self.agent.too_large(&incoming),
                        _ => self.agent.take(&incoming),
                    };
                    if let Some((_, bytes)) = taken.reply {
                        cx.write(&bytes);
                    }
                    return Next::Close;
                }
                Piece::Endless => return Next::Close,
            }
        }
    }

    /// Takes one message; true when bindings have changed.
    fn take(&self, bytes: &[u8], cx: &mut Context<'_>) -> bool {
        let incoming = Incoming {
            bytes,
            flow: &self.flow,
            now: seconds(cx.wall()),
        };
        let mut taken = self.agent.take(&incoming);
        if let Some((flow, bytes)) = &taken.forward
            && !self.agent.location.send(flow, bytes)
        {
            taken = self.agent.unavailable(&incoming);
        }
        let Taken {
            reply,
            abuse,
            changed,
            ..
        } = taken;
        if let Some((_, bytes)) = reply {
            cx.write(&bytes);
        }
        if let Some(abuse) = abuse {
            cx.report(abuse);
        }
        if changed {
            let longest = self.agent.max_expires + GRACE;
            cx.set_idle_timeout(Duration::from_secs(longest));
        }
        changed
    }

    /// Writes what others have sent, as fast as it is taken.
    fn deliver(&mut self, cx: &mut Context<'_>) -> Next {
        let Some(seat) = &self.seat else {
            return Next::Read;
        };
        while !cx.output().is_high() {
            let Some(letter) = seat.letters.take() else {
                return Next::Read;
            };
            cx.write(&letter);
        }
        Next::Drain
    }

    fn done(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Next {
        match outcome.take::<bool>() {
            Some(true) => match self.changed(cx) {
                Some(next) => next,
                None => self.deliver(cx),
            },
            _ => self.deliver(cx),
        }
    }

    /// Has the bindings written, at once or in a while.
    fn changed(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let delay = self.agent.location.change(cx.now())?;
        self.owes = true;
        if delay.is_zero() {
            return Some(self.save());
        }
        cx.set_alarm(Some(delay));
        None
    }

    fn save(&mut self) -> Next {
        self.owes = false;
        let location = Arc::clone(&self.agent.location);
        Next::Work(Work::new(Lane::Wait, move || location.save()))
    }
}

/// A connection that ends before it has written the bindings does so then.
impl Drop for Line {
    fn drop(&mut self) {
        if self.owes {
            self.agent.location.save();
        }
    }
}

fn piece(input: &Input) -> Piece {
    if input.starts_with(b"\r\n\r\n") {
        return Piece::Ping;
    }
    if input.len() < 4 && b"\r\n\r\n".starts_with(input) {
        return Piece::Nothing;
    }
    if input.starts_with(b"\r\n") {
        return Piece::Empty;
    }
    let Some(head) = head_end(input) else {
        return if input.is_full() {
            Piece::Endless
        } else {
            Piece::Nothing
        };
    };
    let length = Message::parse(&input[..head]).map(|message| message.content_length());
    // RFC 3261, 18.3 wants a length over a stream; without one there is no body.
    let body = match length {
        Some(Ok(length)) => length.unwrap_or(0),
        _ => return Piece::Unframed(head),
    };
    match head.checked_add(body) {
        Some(whole) if whole <= input.len() => Piece::Message(whole),
        Some(whole) if whole <= Input::LIMIT => Piece::Nothing,
        _ => Piece::Unframed(head),
    }
}

impl Session for Line {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => {
                let waker = cx.waker();
                // What was kept is read before the first message.
                let _ = self.agent.location.signer();
                self.seat = Some(self.agent.location.seat(&self.flow, waker));
                Next::Read
            }
            Event::Input(input) => self.read(input, cx),
            Event::Woken | Event::Drained => self.deliver(cx),
            Event::Alarm if self.owes => self.save(),
            Event::Alarm => Next::Read,
            Event::Done(outcome) => self.done(outcome, cx),
            _ => Next::Close,
        }
    }
}
