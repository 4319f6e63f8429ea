//! Flows without sockets: ports are opened by the test, and time is an argument.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::Forward;
use crate::session::datagram::{
    DatagramWork, Exchange, ExchangeContext, ExchangeEvent, ExchangeHandle, ExchangeNext, Mailbox,
    Outbox, Route,
};
use crate::session::{Class, Datagram, DatagramContext, DatagramModule, Lane};

const IDLE: Duration = Duration::from_secs(30);

/// A mailbox that the test empties.
#[derive(Default)]
struct Letters {
    passed: Mutex<Vec<Vec<u8>>>,
    ended: AtomicBool,
}

struct Slit(Arc<Letters>);

impl Mailbox for Slit {
    fn pass(&self, bytes: &[u8]) -> bool {
        let open = !self.has_ended();
        if open {
            self.0.passed.lock().push(bytes.to_vec());
        }
        open
    }

    fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// A flow's port.
struct Port {
    route: Route,
    upstream: SocketAddr,
    exchange: Box<dyn Exchange>,
    letters: Arc<Letters>,
    alarm: Option<Instant>,
}

/// What an event brought.
#[derive(Debug, PartialEq)]
struct Said {
    to_upstream: Vec<Vec<u8>>,
    to_client: Vec<Vec<u8>>,
    goes_on: bool,
}

impl Port {
    fn tell(&mut self, event: ExchangeEvent<'_>, now: Instant) -> Said {
        let (mut sends, mut outbox) = (Vec::new(), Outbox::default());
        let (mut alarm, mut connect) = (None, None);
        let mut cx = ExchangeContext {
            now,
            route: self.route,
            sends: &mut sends,
            outbox: &mut outbox,
            alarm: &mut alarm,
            connect: &mut connect,
        };
        let next = self.exchange.handle(event, &mut cx);
        self.alarm = alarm.unwrap_or(self.alarm);
        self.upstream = connect.unwrap_or(self.upstream);
        assert!(sends.iter().all(|(to, _)| *to == self.upstream));
        assert!(outbox.pending().all(|(to, _)| *to == self.route));
        Said {
            to_upstream: sends.into_iter().map(|(_, bytes)| bytes).collect(),
            to_client: outbox.pending().map(|(_, bytes)| bytes.to_vec()).collect(),
            goes_on: next == ExchangeNext::Wait,
        }
    }

    fn answer(&mut self, bytes: &[u8], now: Instant) -> Said {
        let from = self.upstream;
        self.tell(ExchangeEvent::Received { from, bytes }, now)
    }

    fn letters(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.letters.passed.lock())
    }
}

/// A module and its surroundings.
struct World {
    forward: Forward,
    now: Instant,
    ports: Vec<Port>,
    /// How many more ports may be opened.
    room: usize,
    work: Vec<(Lane, DatagramWork)>,
    lost: u64,
}

impl World {
    fn new(upstreams: &[&str], most: usize) -> Self {
        let places = upstreams.iter().map(|place| place.parse().unwrap());
        World {
            forward: Forward::new(places.collect(), IDLE, most),
            now: Instant::now(),
            ports: Vec::new(),
            room: usize::MAX,
            work: Vec::new(),
            lost: 0,
        }
    }

    fn within(&mut self, call: impl FnOnce(&Forward, &mut DatagramContext<'_>)) {
        let (ports, room, now) = (&mut self.ports, &mut self.room, self.now);
        let mut open = |route, connect: Option<SocketAddr>, exchange| {
            *room = room.checked_sub(1)?;
            let letters = Arc::<Letters>::default();
            let mut port = Port {
                route,
                upstream: connect.unwrap(),
                exchange,
                letters: Arc::clone(&letters),
                alarm: None,
            };
            assert!(port.tell(ExchangeEvent::Open, now).goes_on);
            ports.push(port);
            Some(ExchangeHandle::new(Slit(letters)))
        };
        let mut cx = DatagramContext {
            now: self.now,
            wall: SystemTime::now(),
            listener: &Arc::from("forward"),
            lost: &mut self.lost,
            most_exchanges: 10_000,
            route: None,
            outbox: &mut Outbox::default(),
            alarms: &mut Vec::new(),
            work: &mut self.work,
            open: &mut open,
        };
        call(&self.forward, &mut cx);
    }

    fn says(&mut self, client: &str, bytes: &[u8]) {
        let datagram = Datagram {
            route: Route::test(client.parse().unwrap()),
            class: Class::Other,
            bytes,
        };
        self.within(|forward, cx| forward.answer(&datagram, cx));
    }

    /// Runs what was given to a lane, and calls the module as it asks for.
    fn run_work(&mut self) {
        for (_, work) in std::mem::take(&mut self.work) {
            let mut outbox = Outbox::default();
            work(&mut outbox);
            for key in outbox.calls {
                self.within(|forward, cx| forward.alarm(key, cx));
            }
        }
    }

    fn flows_to(&self, port: u16) -> usize {
        let to = self
            .ports
            .iter()
            .filter(|flow| flow.upstream.port() == port);
        to.count()
    }
}

#[test]
fn a_flow_is_an_address_and_a_port() {
    let mut world = World::new(&["127.0.0.1:53"], 8);
    world.says("192.0.2.1:1000", b"a");
    world.says("192.0.2.1:1001", b"b");
    world.says("192.0.2.1:1000", b"c");
    assert_eq!(world.ports.len(), 2);
    assert_eq!(world.ports[0].letters(), [b"a", b"c"]);
    let now = world.now;
    let said = world.ports[0].tell(ExchangeEvent::Passed(b"a"), now);
    assert_eq!(said.to_upstream, [b"a"]);
    let said = world.ports[1].answer(b"answer", now);
    assert_eq!(said.to_client, [b"answer"]);
}

#[test]
fn flows_go_where_there_are_the_fewest() {
    let mut world = World::new(&["127.0.0.1:1", "127.0.0.1:2"], 100);
    for port in 1000..1010 {
        world.says(&format!("192.0.2.1:{port}"), b"x");
    }
    assert_eq!((world.flows_to(1), world.flows_to(2)), (5, 5));
    world.ports.retain(|port| port.upstream.port() == 2);
    for port in 2000..2005 {
        world.says(&format!("192.0.2.1:{port}"), b"x");
    }
    assert_eq!((world.flows_to(1), world.flows_to(2)), (5, 5));
}

#[test]
fn a_question_that_an_upstream_refuses_goes_to_the_next_one() {
    let mut world = World::new(&["127.0.0.1:1", "127.0.0.1:2"], 8);
    world.says("192.0.2.1:1000", b"question");
    let now = world.now;
    let first = world.ports[0].upstream;
    world.ports[0].tell(ExchangeEvent::Passed(b"question"), now);
    let said = world.ports[0].tell(ExchangeEvent::Failed, now);
    assert!(said.goes_on && world.ports[0].upstream != first);
    assert_eq!(said.to_upstream, [b"question"]);
    // The dead one is left alone, and a flow that all have refused ends.
    for port in 2000..2004 {
        world.says(&format!("192.0.2.1:{port}"), b"x");
    }
    assert_eq!(world.flows_to(first.port()), 0);
    assert!(!world.ports[0].tell(ExchangeEvent::Failed, now).goes_on);
}

#[test]
fn what_was_answered_is_not_asked_again() {
    let mut world = World::new(&["127.0.0.1:1", "127.0.0.1:2"], 8);
    world.says("192.0.2.1:1000", b"question");
    let now = world.now;
    world.ports[0].tell(ExchangeEvent::Passed(b"question"), now);
    world.ports[0].answer(b"answer", now);
    let said = world.ports[0].tell(ExchangeEvent::Failed, now);
    assert!(said.goes_on && said.to_upstream.is_empty());
}

#[test]
fn a_flow_ends_when_nothing_has_moved_either_way() {
    let mut world = World::new(&["127.0.0.1:1"], 8);
    world.says("192.0.2.1:1000", b"x");
    let start = world.now;
    let second = Duration::from_secs(1);
    let port = &mut world.ports[0];
    port.tell(ExchangeEvent::Passed(b"x"), start + second);
    port.answer(b"y", start + 20 * second);
    assert_eq!(port.alarm, Some(start + IDLE));
    assert!(port.tell(ExchangeEvent::Alarm, start + IDLE).goes_on);
    assert_eq!(port.alarm, Some(start + 20 * second + IDLE));
    assert!(
        !port
            .tell(ExchangeEvent::Alarm, start + 20 * second + IDLE)
            .goes_on
    );
    // Its place is free, and its client's next datagram begins another flow.
    world.ports[0].letters.ended.store(true, Ordering::Relaxed);
    world.ports.clear();
    assert!(world.forward.0.table.lock().unclaimed().is_empty());
    world.says("192.0.2.1:1000", b"z");
    assert_eq!(world.ports[0].letters(), [b"z"]);
}

#[test]
fn a_datagram_for_a_flow_that_has_just_ended_begins_another() {
    let mut world = World::new(&["127.0.0.1:1"], 8);
    world.says("192.0.2.1:1000", b"x");
    world.ports[0].letters.ended.store(true, Ordering::Relaxed);
    world.says("192.0.2.1:1000", b"y");
    assert_eq!(world.ports.len(), 2);
    // The end of the first must not take the place of the second.
    world.ports.remove(0);
    world.says("192.0.2.1:1000", b"z");
    assert_eq!(world.ports[0].letters(), [b"y", b"z"]);
    assert_eq!(world.lost, 0);
}

#[test]
fn a_full_table_closes_the_port_of_one_on_probation() {
    let mut world = World::new(&["127.0.0.1:1"], 4);
    let now = world.now;
    for port in 1000..1003 {
        world.says(&format!("192.0.2.1:{port}"), b"x");
        world.ports.last_mut().unwrap().answer(b"y", now);
        world.says(&format!("192.0.2.1:{port}"), b"z");
    }
    for port in 2000..2100 {
        world.says(&format!("198.51.100.1:{port}"), b"forged");
    }
    let ended = world
        .ports
        .iter()
        .map(|port| port.letters.ended.load(Ordering::Relaxed));
    let open: Vec<_> = ended
        .enumerate()
        .filter(|(_, ended)| !ended)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(open, [0, 1, 2, 102]);
}

#[test]
fn a_newcomer_without_a_port_is_lost_and_the_next_one_is_not() {
    let mut world = World::new(&["127.0.0.1:1"], 8);
    world.room = 1;
    world.says("192.0.2.1:1000", b"x");
    world.says("192.0.2.1:1001", b"x");
    assert_eq!(world.lost, 1);
    assert!(world.ports[0].letters.ended.load(Ordering::Relaxed));
    world.room = 1;
    world.says("192.0.2.1:1002", b"x");
    assert_eq!((world.ports.len(), world.lost), (2, 1));
}

#[test]
fn datagrams_wait_in_order_and_within_bounds_while_a_name_is_resolved() {
    let mut world = World::new(&["localhost:53"], 1000);
    for number in 0..70 {
        world.says("192.0.2.1:1000", &[number]);
    }
    for port in 0..200 {
        world.says(&format!("192.0.2.2:{}", 1000 + port), &[0; 8000]);
    }
    assert_eq!((world.work.len(), world.ports.len()), (1, 0), "one look-up");
    world.run_work();
    let first = world
        .ports
        .iter()
        .find(|port| port.route.remote.port() == 1000);
    let kept: Vec<u8> = (0..64).collect();
    assert_eq!(first.unwrap().letters().concat(), kept);
    // 64 bytes and 131 * 8000 fit a mebibyte.
    assert_eq!(world.lost, 6 + 200 - 131);
    world.says("192.0.2.1:1000", b"later");
    assert!(world.work.is_empty());
}

#[test]
fn a_name_without_an_address_loses_what_waited_and_keeps_nothing() {
    let mut world = World::new(&["nowhere.invalid:53"], 8);
    world.says("192.0.2.1:1000", b"x");
    world.run_work();
    assert_eq!((world.ports.len(), world.lost), (0, 1));
    assert!(world.forward.0.table.lock().unclaimed().is_empty());
}

#[test]
fn services_that_answer_anything_are_not_answered() {
    let mut world = World::new(&["127.0.0.1:1"], 8);
    for port in [0, 7, 13, 17, 19, 37] {
        world.says(&format!("192.0.2.1:{port}"), b"x");
    }
    assert!(world.ports.is_empty());
    world.says("192.0.2.1:123", b"ntp");
    assert_eq!(world.ports.len(), 1);
}
