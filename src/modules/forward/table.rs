#![forbid(unsafe_code)]
//! Which flows there are, and what waits for those whose port is not open yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::flows::Flows;
use crate::session::datagram::{ExchangeHandle, Route};

/// Flows of one listener at once; see [`super::flows`] for what happens when there are more.
pub(super) const MOST_FLOWS: usize = 8192;
/// Datagrams of a flow that wait for its port, while it is opened or its upstream's name resolved; further ones
/// are lost. As many as an open port's mailbox holds.
const MOST_WAITING: usize = 64;
/// Bytes of all datagrams that wait so; above, further ones are lost.
const MOST_WAITING_BYTES: usize = 1 << 20;

pub(super) struct Table {
    flows: Flows<Route, Flow>,
    most: usize,
    /// Tells a flow from earlier ones of its client.
    next: u64,
    waiting_bytes: usize,
    /// Datagrams that found no room, until somebody counts them.
    pub(super) lost: usize,
}

pub(super) struct Flow {
    number: u64,
    /// Its upstream has answered.
    answered: Arc<AtomicBool>,
    pub(super) state: State,
}

pub(super) enum State {
    /// Its port is not open yet.
    Waiting {
        datagrams: Vec<Vec<u8>>,
        /// Somebody is opening it.
        claimed: bool,
    },
    Open(ExchangeHandle),
}

/// Where a datagram goes.
pub(super) enum Way {
    /// To the port of the flow with that number.
    Pass(ExchangeHandle, u64),
    /// It waits until the port is open, or was lost.
    Waits,
    /// It waits in a flow of its own, for which another one may have been crowded out.
    New(u64, Option<Flow>),
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Table {
            flows: Flows::new(most),
            most,
            next: 0,
            waiting_bytes: 0,
            lost: 0,
        }
    }

    /// Leaves room among so many exchanges for those that are about to end.
    pub(super) fn fit(&mut self, exchanges: usize) {
        let most = (exchanges - exchanges / 5).clamp(1, self.most);
        self.flows.set_most(most);
    }

    /// The way of a datagram. One that waits is kept here.
    pub(super) fn way(&mut self, route: Route, bytes: &[u8]) -> Way {
        let proven = |flow: &Flow| flow.answered.load(Ordering::Relaxed);
        let found = match self.flows.speak(&route, proven) {
            Some(flow) => match &flow.state {
                State::Open(handle) => return Way::Pass(handle.clone(), flow.number),
                State::Waiting { .. } => None,
            },
            None => {
                self.next += 1;
                let flow = Flow {
                    number: self.next,
                    answered: Arc::default(),
                    state: State::Waiting {
                        datagrams: Vec::new(),
                        claimed: false,
                    },
                };
                let gone = self.flows.insert(route, flow);
                let gone = gone.map(|(_, flow)| self.forget(flow));
                Some(Way::New(self.next, gone))
            }
        };
        self.keep(route, bytes);
        found.unwrap_or(Way::Waits)
    }

    fn keep(&mut self, route: Route, bytes: &[u8]) {
        let fits = self.waiting_bytes + bytes.len() <= MOST_WAITING_BYTES;
        match self.flows.get_mut(&route).map(|flow| &mut flow.state) {
            Some(State::Waiting { datagrams, .. }) if fits && datagrams.len() < MOST_WAITING => {
                datagrams.push(bytes.to_vec());
                self.waiting_bytes += bytes.len();
            }
            _ => self.lost += 1,
        }
    }

    /// Leave to open the port of a flow, and where to note that its upstream has answered. `None` when it is
    /// gone or somebody else opens it.
    pub(super) fn claim(&mut self, route: Route, number: u64) -> Option<Arc<AtomicBool>> {
        let flow = self.flow(route, number)?;
        match &mut flow.state {
            State::Waiting { claimed, .. } if !*claimed => {
                *claimed = true;
                Some(Arc::clone(&flow.answered))
            }
            _ => None,
        }
    }

    /// The port of a flow is open, and is passed what waited for it. False when the flow is gone.
    pub(super) fn opened(&mut self, route: Route, number: u64, handle: &ExchangeHandle) -> bool {
        let Some(flow) = self.flow(route, number) else {
            return false;
        };
        let before = std::mem::replace(&mut flow.state, State::Open(handle.clone()));
        if let State::Waiting { datagrams, .. } = before {
            for bytes in datagrams {
                self.waiting_bytes -= bytes.len();
                self.lost += usize::from(!handle.pass(&bytes));
            }
        }
        true
    }

    /// The flows whose port nobody opens.
    pub(super) fn unclaimed(&self) -> Vec<(Route, u64)> {
        let waits = |flow: &Flow| matches!(&flow.state, State::Waiting { claimed: false, .. });
        let waiting = self.flows.iter().filter(|(_, flow)| waits(flow));
        waiting.map(|(route, flow)| (*route, flow.number)).collect()
    }

    /// Takes out a flow, unless another one of its client has taken its place.
    pub(super) fn take(&mut self, route: Route, number: u64) -> Option<Flow> {
        self.flow(route, number)?;
        let flow = self.flows.remove(&route)?;
        Some(self.forget(flow))
    }

    /// Takes out the flow that goes first.
    pub(super) fn evict(&mut self) -> Option<Flow> {
        let (_, flow) = self.flows.evict()?;
        Some(self.forget(flow))
    }

    fn flow(&mut self, route: Route, number: u64) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(&route);
        flow.filter(|flow| flow.number == number)
    }

    /// What waited in a flow is lost with it.
    fn forget(&mut self, flow: Flow) -> Flow {
        if let State::Waiting { datagrams, .. } = &flow.state {
            self.lost += datagrams.len();
            self.waiting_bytes -= datagrams.iter().map(Vec::len).sum::<usize>();
        }
        flow
    }
}
