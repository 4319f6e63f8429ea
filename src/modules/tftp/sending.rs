#![forbid(unsafe_code)]
//! A file on its way to the client (RFC 1350, 2 and 6; windows by RFC 7440). Pure: packets and time in,
//! packets out.
//!
//! What was sent and not acknowledged is kept, one window at most. A duplicate acknowledgement never makes
//! us send again (RFC 1123, 4.2.3.1) but in a window, where it says that the first block was lost; there it
//! counts once, and not before a round trip has passed.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::Instant;

use super::clock::{Clock, Due};
use super::options::Agreed;
use super::packet::{self, ErrorCode, Packet};

/// What a transfer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// All is done, or the other side has ended it.
    Done,
    /// Tell the other side and end.
    Fail(ErrorCode, &'static str),
}

/// A read request being served.
pub(super) struct Sending<R> {
    source: R,
    agreed: Agreed,
    /// The OACK, until it is acknowledged.
    oack: Option<Vec<u8>>,
    /// Blocks sent and not acknowledged, whole packets.
    window: VecDeque<Vec<u8>>,
    /// The number of the first block in the window; the first of the file is 1. On the wire it is cut to
    /// 16 bits, so that after 65,535 comes 0, as all clients have it.
    base: u64,
    /// The last block is in the window, or was.
    ended: bool,
    /// A duplicate acknowledgement of this window was heeded.
    heeded: bool,
    pub(super) clock: Clock,
}

impl<R: Read> Sending<R> {
    pub(super) fn new(source: R, agreed: Agreed, oack: Option<Vec<u8>>, now: Instant) -> Self {
        Sending {
            source,
            agreed,
            oack,
            window: VecDeque::new(),
            base: 1,
            ended: false,
            heeded: false,
            clock: Clock::new(now, agreed.timeout),
        }
    }

    /// The first packets.
    pub(super) fn start(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        match &self.oack {
            Some(oack) => {
                out.push(oack.clone());
                self.clock.sends(now);
                Step::Wait
            }
            None => self.fill(now, out),
        }
    }

    /// A packet of the client.
    pub(super) fn received(
        &mut self,
        packet: Packet<'_>,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Step {
        let block = match packet {
            Packet::Ack { block } => block,
            Packet::Error { .. } => return Step::Done,
            Packet::Data { .. } => return Step::Wait,
        };
        if self.oack.is_some() {
            if block != 0 {
                return Step::Wait;
            }
            self.oack = None;
            self.clock.moves(now);
            return self.fill(now, out);
        }
        let before = self.base.wrapping_sub(1);
        let acknowledged = usize::from(block.wrapping_sub(packet::low(before)));
        if acknowledged == 0 {
            return self.duplicate(now, out);
        }
        if acknowledged > self.window.len() {
            return Step::Wait;
        }
        self.window.drain(..acknowledged);
        self.base += acknowledged as u64;
        self.heeded = false;
        self.clock.moves(now);
        // What is left was sent after what the client has, and something before it was lost.
        let left = !self.window.is_empty();
        self.resend(out);
        let step = self.fill(now, out);
        if left {
            self.clock.repeats(now);
        }
        if self.ended && self.window.len() == 1 {
            self.clock.lasts();
        }
        step
    }

    /// The client asked again for the same file: it has not heard of us.
    pub(super) fn asked_again(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if !self.clock.is_proven() {
            self.again(now, out);
        }
    }

    /// The clock's deadline has come.
    pub(super) fn alarm(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        match self.clock.due(now) {
            Due::Nothing => {}
            Due::Again => self.again(now, out),
            Due::GiveUp if self.clock.is_proven() && !self.ended => {
                return Step::Fail(ErrorCode::Undefined, "no answer");
            }
            Due::GiveUp => return Step::Done,
        }
        Step::Wait
    }

    fn duplicate(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        let heeds = self.agreed.window > 1 && !self.heeded && !self.clock.is_too_early(now);
        if heeds && self.clock.is_proven() {
            self.heeded = true;
            self.again(now, out);
        }
        Step::Wait
    }

    fn again(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.clock.repeats(now);
        match &self.oack {
            Some(oack) => out.push(oack.clone()),
            None => self.resend(out),
        }
    }

    fn resend(&self, out: &mut Vec<Vec<u8>>) {
        // One that has not answered yet gets a single block, however large a window was asked for.
        let most = match self.clock.is_proven() {
            true => self.window.len(),
            false => 1,
        };
        out.extend(self.window.iter().take(most).cloned());
    }

    /// Reads and sends until the window is full or the file has ended.
    fn fill(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Step {
        if self.ended && self.window.is_empty() {
            return Step::Done;
        }
        while !self.ended && self.window.len() < self.agreed.window {
            let number = self.base + self.window.len() as u64;
            let Ok(block) = self.block(number) else {
                return Step::Fail(ErrorCode::Undefined, "the file cannot be read");
            };
            out.push(block.clone());
            self.window.push_back(block);
        }
        if !out.is_empty() {
            self.clock.sends(now);
        }
        Step::Wait
    }

    fn block(&mut self, number: u64) -> io::Result<Vec<u8>> {
        let mut block = packet::data_head(packet::low(number)).to_vec();
        let size = self.agreed.block_size;
        let read = (&mut self.source)
            .take(size as u64)
            .read_to_end(&mut block)?;
        self.ended = read < size;
        Ok(block)
    }
}
