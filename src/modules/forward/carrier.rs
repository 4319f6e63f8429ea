#![forbid(unsafe_code)]
//! One flow's port towards its upstream.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Life;
use crate::session::datagram::{Exchange, ExchangeContext, ExchangeEvent, ExchangeNext};
use crate::session::{Dial, Target};

/// The longest question that is kept for the next upstream: what an Ethernet frame holds.
const MOST_KEPT: usize = 1500;

/// Carries a flow's datagrams both ways.
pub(super) struct Carrier {
    /// The flow's place in the table. First, so that it is given back before the share in an upstream.
    _life: Life,
    idle: Duration,
    answered: Arc<AtomicBool>,
    dial: Box<dyn Dial>,
    upstream: SocketAddr,
    /// When something moved last.
    moved: Option<Instant>,
    /// What the client said last, as long as nobody has answered it: another upstream may.
    question: Vec<u8>,
    is_asking: bool,
}

impl Carrier {
    pub(super) fn new(
        life: Life,
        idle: Duration,
        answered: Arc<AtomicBool>,
        dial: Box<dyn Dial>,
        upstream: SocketAddr,
    ) -> Self {
        Carrier {
            _life: life,
            idle,
            answered,
            dial,
            upstream,
            moved: None,
            question: Vec::new(),
            is_asking: false,
        }
    }

    fn asked(&mut self, bytes: &[u8], cx: &mut ExchangeContext<'_>) {
        self.moved = Some(cx.now());
        self.is_asking = bytes.len() <= MOST_KEPT;
        self.question.clear();
        if self.is_asking {
            self.question.extend_from_slice(bytes);
        }
        cx.send(self.upstream, bytes);
    }

    fn answered(&mut self, bytes: &[u8], cx: &mut ExchangeContext<'_>) {
        self.moved = Some(cx.now());
        self.is_asking = false;
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.dial.outcome(&Ok(()), cx.now());
        }
        cx.reply(bytes);
    }

    /// Nobody listens at the upstream: the question goes to the next one.
    fn failed(&mut self, cx: &mut ExchangeContext<'_>) -> ExchangeNext {
        let refused = Err(io::ErrorKind::ConnectionRefused.into());
        self.dial.outcome(&refused, cx.now());
        let Some(upstream) = address(self.dial.next(cx.now())) else {
            return ExchangeNext::Close;
        };
        self.answered.store(false, Ordering::Relaxed);
        self.upstream = upstream;
        cx.connect(upstream);
        if self.is_asking {
            cx.send(upstream, &self.question);
        }
        ExchangeNext::Wait
    }

    /// Ends the flow when nothing has moved for long enough.
    fn rest(&mut self, cx: &mut ExchangeContext<'_>) -> ExchangeNext {
        let moved = *self.moved.get_or_insert(cx.now());
        let left = (moved + self.idle).saturating_duration_since(cx.now());
        if left.is_zero() {
            return ExchangeNext::Close;
        }
        cx.set_alarm(Some(left));
        ExchangeNext::Wait
    }
}

impl Exchange for Carrier {
    fn handle(&mut self, event: ExchangeEvent<'_>, cx: &mut ExchangeContext<'_>) -> ExchangeNext {
        match event {
            ExchangeEvent::Open | ExchangeEvent::Alarm => return self.rest(cx),
            ExchangeEvent::Passed(bytes) => self.asked(bytes, cx),
            ExchangeEvent::Received { bytes, .. } => self.answered(bytes, cx),
            ExchangeEvent::Failed => return self.failed(cx),
            ExchangeEvent::Shutdown => return ExchangeNext::Close,
        }
        ExchangeNext::Wait
    }
}

/// The address of a dial's next target.
pub(super) fn address(target: Option<(Target, Duration)>) -> Option<SocketAddr> {
    match target?.0 {
        Target::Tcp(address) => Some(address),
        // Refused with the configuration.
        Target::Unix(_) => None,
    }
}
