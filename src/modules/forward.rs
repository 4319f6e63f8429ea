#![forbid(unsafe_code)]
//! Forward: relays datagrams to upstreams, a flow per remote address and port.
//!
//! A flow has a port of its own towards its upstream, so an answer finds its client by the port it comes to,
//! and nobody but the upstream asked is heard there. Datagrams of one flow stay in order as long as they were
//! received in one batch; batches are handed on by several threads.

mod carrier;
pub(crate) mod flows;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;

use self::carrier::Carrier;
use self::table::{Flow, MOST_FLOWS, State, Table, Way};
use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::session::datagram::Route;
use crate::session::{Datagram, DatagramContext, DatagramModule, Lane};
use crate::upstream::{Place, Pool};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Forward",
    about: "relays datagrams to upstreams",
    keys: &["upstreams", "idle"],
    tcp: None,
    udp: Some(|settings| Some(Arc::new(Forward::configure(settings)?) as Arc<dyn DatagramModule>)),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    upstreams: Field<'a, Vec<Field<'a, String>>>,
    #[serde(borrow, default)]
    idle: Field<'a, String>,
}

/// How long a flow lasts in which nothing moves.
const IDLE: Duration = Duration::from_secs(30);
/// What a finished look-up is called by.
const LOOKED_UP: u64 = 0;
/// Ports of services that answer anything, and from which no client asks: with a forged sender, such a service
/// and an upstream that answers anything, too, would talk for ever, and the upstream cannot tell behind us.
/// Port 0 cannot be answered. (NTP's clients do ask from 123.)
const NO_CLIENTS: [u16; 6] = [0, 7, 13, 17, 19, 37];

/// Relays datagrams.
struct Forward(Arc<Shared>);

/// What the module and its flows share.
struct Shared {
    pool: Arc<Pool>,
    idle: Duration,
    table: Mutex<Table>,
    /// Names are being resolved.
    looking: AtomicBool,
}

impl Forward {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let places = settings.upstreams(keys.upstreams);
        let idle = settings.duration(keys.idle);
        let places = places?;
        if let Some(unix) = places.iter().find(|place| matches!(place, Place::Unix(_))) {
            settings.complain(&format!("datagrams cannot be relayed to {unix}"));
            return None;
        }
        Some(Forward::new(places, idle.unwrap_or(IDLE), MOST_FLOWS))
    }

    fn new(places: Vec<Place>, idle: Duration, most: usize) -> Self {
        Forward(Arc::new(Shared {
            // Connecting a datagram socket takes no time.
            pool: Pool::new(places, Duration::ZERO),
            idle,
            table: Mutex::new(Table::new(most)),
            looking: AtomicBool::new(false),
        }))
    }

    /// Resolves names, one look-up at a time; [`DatagramModule::alarm`] goes on after it.
    fn look_up(&self, cx: &mut DatagramContext<'_>) {
        if self.0.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let looking = Looking(Arc::clone(&self.0));
        cx.work(Lane::Wait, move |outbox| {
            looking.0.pool.look_up();
            drop(looking);
            outbox.call(LOOKED_UP);
        });
    }

    /// Gives a flow its port, and what waited for it.
    fn open(&self, route: Route, number: u64, cx: &mut DatagramContext<'_>) {
        let Some(answered) = self.0.table.lock().claim(route, number) else {
            return;
        };
        let mut dial = self.0.pool.dial(cx.listener());
        let Some(upstream) = carrier::address(dial.next(cx.now())) else {
            self.0.table.lock().take(route, number);
            return;
        };
        let life = Life::new(&self.0, route, number);
        let carrier = Carrier::new(life, self.0.idle, answered, dial, upstream);
        match cx.open(route, Some(upstream), Box::new(carrier)) {
            Some(handle) => {
                let mut table = self.0.table.lock();
                if !table.opened(route, number, &handle) {
                    drop(table);
                    // It had to make room for another one meanwhile.
                    handle.end();
                }
            }
            None => {
                // Too many ports are open: one is closed for the next newcomer.
                let gone = self.0.table.lock().evict();
                end(gone);
            }
        }
    }

    /// Counts what found no room.
    fn count(&self, cx: &mut DatagramContext<'_>) {
        let lost = std::mem::take(&mut self.0.table.lock().lost);
        cx.lose(lost);
    }
}

/// Names are being resolved as long as this lives.
struct Looking(Arc<Shared>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.looking.store(false, Ordering::Release);
    }
}

/// A flow's place in the table, given back when the flow ends.
struct Life {
    shared: Arc<Shared>,
    route: Route,
    number: u64,
}

impl Life {
    fn new(shared: &Arc<Shared>, route: Route, number: u64) -> Self {
        Life {
            shared: Arc::clone(shared),
            route,
            number,
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.shared.table.lock().take(self.route, self.number);
    }
}

/// Closes the port of a flow that has lost its place.
fn end(flow: Option<Flow>) {
    if let Some(State::Open(handle)) = flow.map(|flow| flow.state) {
        handle.end();
    }
}

impl DatagramModule for Forward {
    /// Flows, which would lose their upstreams' answers.
    fn keeps_state(&self) -> bool {
        true
    }

    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        let route = datagram.route;
        if NO_CLIENTS.contains(&route.remote.port()) {
            return;
        }
        let mut table = self.0.table.lock();
        table.fit(cx.most_exchanges());
        let mut way = table.way(route, datagram.bytes);
        drop(table);
        if let Way::Pass(handle, number) = &way {
            if handle.pass(datagram.bytes) {
                return;
            }
            if !handle.has_ended() {
                return cx.lose(1);
            }
            // It ended while we spoke to it.
            let mut table = self.0.table.lock();
            table.take(route, *number);
            way = table.way(route, datagram.bytes);
        }
        match way {
            Way::Waits => {}
            Way::Pass(..) => cx.lose(1),
            Way::New(number, gone) => {
                end(gone);
                if self.0.pool.wants_look_up(cx.now()) {
                    self.look_up(cx);
                }
                if self.0.pool.was_looked_up() {
                    self.open(route, number, cx);
                }
                self.count(cx);
            }
        }
    }

    /// Names were resolved: who waited for them goes on.
    fn alarm(&self, _key: u64, cx: &mut DatagramContext<'_>) {
        let waiting = self.0.table.lock().unclaimed();
        for (route, number) in waiting {
            self.open(route, number, cx);
        }
        self.count(cx);
    }
}

#[cfg(test)]
mod tests;
