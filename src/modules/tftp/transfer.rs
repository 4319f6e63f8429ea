#![forbid(unsafe_code)]
//! A transfer as an exchange: the state machines, fed from a port of their own.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Seat;
use super::netascii::{Decoder, Encoder};
use super::packet::{self, ErrorCode, Mode, Packet};
use super::receiving::{Receiving, Sink};
use super::root::Upload;
use super::sending::{Sending, Step};
use crate::session::Exchange;
use crate::session::datagram::{ExchangeContext, ExchangeEvent, ExchangeNext};

/// A file being read, as it travels.
pub(super) fn source(file: File, mode: Mode) -> Box<dyn Read + Send> {
    match mode {
        Mode::Octet => Box::new(file),
        Mode::Netascii => Box::new(Encoder::new(file)),
    }
}

/// A file being written, from what travels.
pub(super) struct Saved {
    upload: Upload,
    netascii: Option<Decoder>,
}

impl Saved {
    pub(super) fn octet(upload: Upload) -> Self {
        Saved {
            upload,
            netascii: None,
        }
    }

    pub(super) fn netascii(upload: Upload) -> Self {
        Saved {
            upload,
            netascii: Some(Decoder::default()),
        }
    }
}

impl Sink for Saved {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.netascii {
            Some(decoder) => self.upload.write(&decoder.decode(bytes)),
            None => self.upload.write(bytes),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(decoder) = &mut self.netascii {
            self.upload.write(decoder.finish())?;
        }
        self.upload.finish()
    }
}

/// A transfer with its place in the listener's table.
pub(super) struct Transfer {
    way: Way,
    /// Given back once the file is whole: what follows is a courtesy.
    seat: Option<Seat>,
}

enum Way {
    Sends(Sending<Box<dyn Read + Send>>),
    Receives(Receiving<Saved>),
}

impl Transfer {
    pub(super) fn sends(sending: Sending<Box<dyn Read + Send>>, seat: Seat) -> Self {
        Transfer {
            way: Way::Sends(sending),
            seat: Some(seat),
        }
    }

    pub(super) fn receives(receiving: Receiving<Saved>, seat: Seat) -> Self {
        Transfer {
            way: Way::Receives(receiving),
            seat: Some(seat),
        }
    }
}

impl Way {
    fn start(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        match self {
            Way::Sends(sending) => sending.start(now, out),
            Way::Receives(receiving) => receiving.start(now, out),
        }
    }

    fn received(&mut self, packet: Packet<'_>, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        match self {
            Way::Sends(sending) => sending.received(packet, now, out),
            Way::Receives(receiving) => receiving.received(packet, now, out),
        }
    }

    fn asked_again(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        match self {
            Way::Sends(sending) => sending.asked_again(now, out),
            Way::Receives(receiving) => receiving.asked_again(now, out),
        }
    }

    fn alarm(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        match self {
            Way::Sends(sending) => sending.alarm(now, out),
            Way::Receives(receiving) => receiving.alarm(now, out),
        }
    }

    fn deadline(&self) -> Instant {
        match self {
            Way::Sends(sending) => sending.clock.deadline(),
            Way::Receives(receiving) => receiving.deadline(),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Way::Sends(_) => false,
            Way::Receives(receiving) => receiving.has_ended(),
        }
    }

    fn is_proven(&self) -> bool {
        match self {
            Way::Sends(sending) => sending.clock.is_proven(),
            Way::Receives(receiving) => receiving.clock.is_proven(),
        }
    }
}

impl Exchange for Transfer {
    fn handle(&mut self, event: ExchangeEvent<'_>, cx: &mut ExchangeContext<'_>) -> ExchangeNext {
        let (now, remote) = (cx.now(), cx.route().remote);
        let mut out = Vec::new();
        let step = match event {
            ExchangeEvent::Open => self.way.start(now, &mut out),
            ExchangeEvent::Received { from, bytes } => match Packet::parse(bytes) {
                Some(packet) if from == remote => self.way.received(packet, now, &mut out),
                // RFC 1350, 4: a stranger is told, and the transfer goes on. Errors are never answered.
                Some(Packet::Data { .. } | Packet::Ack { .. }) => {
                    let code = ErrorCode::UnknownTransfer;
                    cx.send(from, &packet::error(code, "unknown transfer"));
                    return ExchangeNext::Wait;
                }
                Some(Packet::Error { .. }) | None => return ExchangeNext::Wait,
            },
            ExchangeEvent::Passed(_) => {
                self.way.asked_again(now, &mut out);
                Step::Wait
            }
            ExchangeEvent::Alarm => self.way.alarm(now, &mut out),
            ExchangeEvent::Failed => Step::Done,
            // The drain's time is there to finish in.
            ExchangeEvent::Shutdown if self.way.has_ended() => Step::Done,
            ExchangeEvent::Shutdown => Step::Wait,
        };
        if self.way.has_ended() {
            self.seat = None;
        }
        if let Some(seat) = &self.seat
            && self.way.is_proven()
        {
            seat.answered.store(true, Ordering::Relaxed);
        }
        for packet in &out {
            cx.send(remote, packet);
        }
        match step {
            Step::Wait => {}
            Step::Done => return ExchangeNext::Close,
            Step::Fail(code, why) => {
                cx.send(remote, &packet::error(code, why));
                return ExchangeNext::Close;
            }
        }
        let delay = self.way.deadline().saturating_duration_since(now);
        cx.set_alarm(Some(delay));
        ExchangeNext::Wait
    }
}
