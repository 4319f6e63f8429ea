#![forbid(unsafe_code)]
//! Runs a datagram module without sockets, for tests of modules: work is done at once, time is set by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::datagram::{
    DatagramContext, DatagramWork, Exchange, ExchangeHandle, Mailbox, Outbox, Route,
};
use super::{Abuse, Class, Datagram, DatagramModule, Lane};

/// What surrounds the module.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) class: Class,
    /// Exchanges that were opened.
    pub(crate) exchanges: Vec<(Route, Box<dyn Exchange>)>,
    /// What was reported.
    pub(crate) reports: Vec<Abuse>,
}

/// A mailbox that takes all.
struct Hole;

impl Mailbox for Hole {
    fn pass(&self, _bytes: &[u8]) -> bool {
        true
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn end(&self) {}
}

impl Bench {
    pub(crate) fn new() -> Self {
        Bench {
            now: Instant::now(),
            // 24 November 2026, 10:00 UTC.
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400),
            class: Class::Other,
            exchanges: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
    }

    /// What the module sends for a datagram, that of its work included.
    pub(crate) fn ask(
        &mut self,
        module: &dyn DatagramModule,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Vec<Vec<u8>> {
        let route = Route::test(from);
        let class = self.class;
        let datagram = Datagram {
            route,
            class,
            bytes,
        };
        let mut sent = Vec::new();
        let mut outbox = Outbox::default();
        let mut work = self.call(Some(route), &mut outbox, |cx| module.answer(&datagram, cx));
        loop {
            for (_, work) in work.drain(..) {
                work(&mut outbox);
            }
            let done = std::mem::take(&mut outbox);
            sent.extend(done.pending().map(|(_, bytes)| bytes.to_vec()));
            self.reports
                .extend(done.reports.into_iter().map(|(_, abuse)| abuse));
            if done.calls.is_empty() {
                return sent;
            }
            for key in done.calls {
                work.extend(self.call(None, &mut outbox, |cx| module.alarm(key, cx)));
            }
        }
    }

    fn call(
        &mut self,
        route: Option<Route>,
        outbox: &mut Outbox,
        call: impl FnOnce(&mut DatagramContext<'_>),
    ) -> Vec<(Lane, DatagramWork)> {
        let exchanges = &mut self.exchanges;
        let mut open = |route, _, exchange| {
            exchanges.push((route, exchange));
            Some(ExchangeHandle::new(Hole))
        };
        let mut work = Vec::new();
        let mut cx = DatagramContext {
            now: self.now,
            wall: self.wall,
            listener: &Arc::from("bench"),
            lost: &mut 0,
            most_exchanges: 10_000,
            route,
            outbox,
            alarms: &mut Vec::new(),
            work: &mut work,
            open: &mut open,
        };
        call(&mut cx);
        work
    }
}
