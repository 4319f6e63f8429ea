#![forbid(unsafe_code)]
//! A file on its way from the client (RFC 1350, 2 and 6; windows by RFC 7440). Pure: packets and time in,
//! packets out.
//!
//! Blocks are taken in order only; one that comes out of order is answered once with what was received
//! last, so that the client begins there. After the last block the port stays open for a while, for its
//! acknowledgement may be lost.

use std::io;
use std::time::{Duration, Instant};

use super::clock::{Clock, Due};
use super::options::Agreed;
use super::packet::{self, ErrorCode, Packet};
use super::sending::Step;

/// How long the last acknowledgement can be asked for again: three of the five seconds that clients wait.
const DALLY: Duration = Duration::from_secs(16);

/// Where a file goes.
pub(super) trait Sink {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file whole and lasting: after this no crash loses it.
    fn finish(&mut self) -> io::Result<()>;
}

/// A write request being served.
pub(super) struct Receiving<S> {
    sink: S,
    agreed: Agreed,
    /// What answered the request: the OACK, or the acknowledgement of block 0.
    first: Vec<u8>,
    /// Blocks received, in order and whole.
    got: u64,
    /// Blocks acknowledged.
    told: u64,
    written: u64,
    most: u64,
    /// A gap was spoken of since the last block that fitted.
    gap_told: bool,
    /// The last block is on disk, since then.
    ended: Option<Instant>,
    pub(super) clock: Clock,
}

impl<S: Sink> Receiving<S> {
    /// Takes at most `most` bytes.
    pub(super) fn new(
        sink: S,
        agreed: Agreed,
        oack: Option<Vec<u8>>,
        most: u64,
        now: Instant,
    ) -> Self {
        Receiving {
            sink,
            agreed,
            first: oack.unwrap_or_else(|| packet::ack(0)),
            got: 0,
            told: 0,
            written: 0,
            most,
            gap_told: false,
            ended: None,
            clock: Clock::new(now, agreed.timeout),
        }
    }

    /// The first packet.
    pub(super) fn start(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        out.push(self.first.clone());
        self.clock.sends(now);
        Step::Wait
    }

    /// When [`Receiving::alarm`] is to be called.
    pub(super) fn deadline(&self) -> Instant {
        self.ended
            .map_or_else(|| self.clock.deadline(), |ended| ended + DALLY)
    }

    /// True when the file is whole and on disk.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// A packet of the client.
    pub(super) fn received(
        &mut self,
        packet: Packet<'_>,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Step {
        let (block, bytes) = match packet {
            Packet::Data { block, bytes } => (block, bytes),
            Packet::Error { .. } => return Step::Done,
            Packet::Ack { .. } => return Step::Wait,
        };
        self.clock.proves();
        let ahead = block.wrapping_sub(packet::low(self.got));
        if self.ended.is_none() && ahead == 1 {
            return self.take(bytes, now, out);
        }
        let in_window = u16::try_from(self.agreed.window).unwrap_or(u16::MAX);
        if self.ended.is_none() && (2..=in_window).contains(&ahead) {
            if !self.gap_told {
                self.gap_told = true;
                self.tell(now, out);
            }
        } else if block == packet::low(self.told) && self.told > 0 && self.told == self.got {
            // Our acknowledgement was lost: this one does not advance anything, so nothing doubles.
            self.tell_again(now, out);
        }
        Step::Wait
    }

    /// The client asked again to write the same file: it has not heard of us.
    pub(super) fn asked_again(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if !self.clock.is_proven() {
            self.tell_again(now, out);
        }
    }

    /// The deadline has come.
    pub(super) fn alarm(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        if let Some(ended) = self.ended {
            return match now >= ended + DALLY {
                true => Step::Done,
                false => Step::Wait,
            };
        }
        match self.clock.due(now) {
            Due::Nothing => {}
            Due::Again => {
                self.gap_told = false;
                self.told = self.got;
                self.tell_again(now, out);
            }
            Due::GiveUp if self.clock.is_proven() => {
                return Step::Fail(ErrorCode::Undefined, "no more data came");
            }
            Due::GiveUp => return Step::Done,
        }
        Step::Wait
    }

    fn take(&mut self, bytes: &[u8], now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        if bytes.len() > self.agreed.block_size {
            return Step::Fail(ErrorCode::IllegalOperation, "block larger than agreed");
        }
        self.written += bytes.len() as u64;
        if self.written > self.most {
            return Step::Fail(ErrorCode::DiskFull, "file too large");
        }
        if let Err(error) = self.sink.write(bytes) {
            return failed(&error);
        }
        self.got += 1;
        self.gap_told = false;
        self.clock.moves(now);
        if bytes.len() < self.agreed.block_size {
            if let Err(error) = self.sink.finish() {
                return failed(&error);
            }
            self.ended = Some(now);
            self.tell(now, out);
        } else if self.got - self.told >= self.agreed.window as u64 {
            self.tell(now, out);
        } else {
            // The window goes on by itself; the timer runs from its last block.
            self.clock.repeats(now);
        }
        Step::Wait
    }

    fn tell(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.told = self.got;
        self.clock.sends(now);
        out.push(self.latest());
    }

    fn tell_again(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.clock.repeats(now);
        out.push(self.latest());
    }

    fn latest(&self) -> Vec<u8> {
        match self.clock.is_proven() {
            true => packet::ack(packet::low(self.told)),
            false => self.first.clone(),
        }
    }
}

fn failed(error: &io::Error) -> Step {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Step::Fail(ErrorCode::DiskFull, "disk full")
        }
        _ => Step::Fail(ErrorCode::Undefined, "the file cannot be written"),
    }
}
