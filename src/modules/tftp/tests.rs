#![forbid(unsafe_code)]
//! Transfers over a simulated network that loses, doubles and reorders, in simulated time; and the
//! listener's port without a socket.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Cursor};
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::options::Agreed;
use super::packet::{self, Packet};
use super::receiving::{Receiving, Sink};
use super::sending::{Sending, Step};
use super::{Table, Tftp};
use crate::session::datagram::{ExchangeContext, ExchangeEvent, ExchangeNext, Outbox};
use crate::session::datagram_bench::Bench;

/// A file in memory, and whether it was finished.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<(Vec<u8>, bool)>>);

impl Sink for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().0.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.borrow_mut().1 = true;
        Ok(())
    }
}

/// Numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a network does to packets, in percent.
#[derive(Debug, Clone, Copy)]
struct Weather {
    loses: u64,
    doubles: u64,
    delays: u64,
}

const CALM: Weather = Weather {
    loses: 0,
    doubles: 0,
    delays: 0,
};

#[derive(Debug)]
struct Outcome {
    packets_of_sender: usize,
    packets_of_receiver: usize,
    took: Duration,
}

/// Carries a whole file from a [`Sending`] to a [`Receiving`].
fn carry(file: &[u8], agreed: Agreed, weather: Weather, seed: u64) -> Outcome {
    let start = Instant::now();
    let mut random = Random(seed);
    let memory = Memory::default();
    let mut sending = Sending::new(Cursor::new(file), agreed, None, start);
    let mut receiving = Receiving::new(memory.clone(), agreed, None, u64::MAX, start);
    // Arrival, order of sending, whether it goes to the sender, and the packet.
    let mut wire: Vec<(Instant, usize, bool, Vec<u8>)> = Vec::new();
    let mut counts = [0, 0];
    let mut now = start;
    let mut sent_first = false;
    let mut sender_done = false;
    let mut out = Vec::new();
    assert_eq!(receiving.start(now, &mut out), Step::Wait);
    let mut to_sender = true;
    loop {
        for packet in out.drain(..) {
            counts[usize::from(to_sender)] += 1;
            for _ in 0..1 + usize::from(random.below(100) < weather.doubles) {
                if random.below(100) >= weather.loses {
                    let late = random.below(100) < weather.delays;
                    let delay = if late {
                        1000 + random.below(3000)
                    } else {
                        1000
                    };
                    let number = wire.len() + counts[0] + counts[1];
                    let arrival = now + Duration::from_micros(delay);
                    wire.push((arrival, number, to_sender, packet.clone()));
                }
            }
        }
        wire.sort_by_key(|(at, number, ..)| (*at, *number));
        if memory.0.borrow().1 && sender_done {
            break;
        }
        let alarms = [
            (sent_first && !sender_done).then(|| sending.clock.deadline()),
            Some(receiving.deadline()),
        ];
        let next_alarm = alarms.into_iter().flatten().min().expect("the receiver's");
        let step = match wire.first() {
            Some((at, ..)) if *at <= next_alarm => {
                now = *at;
                let (_, _, at_sender, bytes) = wire.remove(0);
                to_sender = !at_sender;
                let packet = Packet::parse(&bytes).expect("our own packets");
                match at_sender {
                    true if sender_done => Step::Done,
                    true if !sent_first => {
                        sent_first = true;
                        sending.start(now, &mut out)
                    }
                    true => sending.received(packet, now, &mut out),
                    false => receiving.received(packet, now, &mut out),
                }
            }
            _ => {
                now = next_alarm;
                to_sender = alarms[0].is_none_or(|alarm| alarm > now);
                match to_sender {
                    true => receiving.alarm(now, &mut out),
                    false => sending.alarm(now, &mut out),
                }
            }
        };
        match step {
            Step::Wait => {}
            // A sender whose last acknowledgement was lost gives up after a file that is whole.
            _ if !to_sender || sender_done => sender_done = true,
            step => panic!("the receiver ends with {step:?}, seed {seed}"),
        }
    }
    assert!(memory.0.borrow().0 == file, "another file, seed {seed}");
    Outcome {
        packets_of_sender: counts[0],
        packets_of_receiver: counts[1],
        took: now - start,
    }
}

fn agreed(block_size: usize, window: usize) -> Agreed {
    Agreed {
        block_size,
        window,
        timeout: None,
        announced: None,
    }
}

fn file(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| u8::try_from(at % 251).unwrap_or(0))
        .collect()
}

#[test]
fn in_calm_weather_nothing_is_sent_twice() {
    for (size, blocks) in [(0, 1), (511, 1), (512, 2), (513, 2), (5120, 11)] {
        let outcome = carry(&file(size), agreed(512, 1), CALM, 1);
        assert_eq!(outcome.packets_of_sender, blocks, "{size}");
        assert_eq!(outcome.packets_of_receiver, blocks + 1, "{size}");
    }
    let outcome = carry(&file(512 * 16), agreed(512, 4), CALM, 1);
    assert_eq!(
        (outcome.packets_of_sender, outcome.packets_of_receiver),
        (17, 6)
    );
}

/// RFC 1123, 4.2.3.1: one doubled acknowledgement must not double the rest of the transfer.
#[test]
fn the_sorcerers_apprentice_is_not_let_in() {
    let weather = Weather {
        doubles: 100,
        ..CALM
    };
    let outcome = carry(&file(512 * 100), agreed(512, 1), weather, 1);
    assert_eq!(outcome.packets_of_sender, 101);
    let outcome = carry(&file(512 * 100), agreed(512, 4), weather, 1);
    assert!(outcome.packets_of_sender <= 2 * 101, "{outcome:?}");
}

#[test]
fn block_numbers_go_round() {
    for window in [1, 5] {
        let outcome = carry(&file(8 * 140_000), agreed(8, window), CALM, 1);
        assert_eq!(outcome.packets_of_sender, 140_001);
    }
}

#[test]
fn files_arrive_whole_in_any_weather() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let weather = Weather {
            loses: random.below(20),
            doubles: random.below(20),
            delays: random.below(20),
        };
        let block_size = [8, 512, 1428][usize::try_from(random.below(3)).unwrap_or(0)];
        let window = [1, 2, 4, 16][usize::try_from(random.below(4)).unwrap_or(0)];
        let blocks = 20 + random.below(200);
        let size = block_size * usize::try_from(blocks).unwrap_or(0)
            + usize::try_from(random.below(3)).unwrap_or(0);
        let outcome = carry(&file(size), agreed(block_size, window), weather, seed);
        let blocks = size / block_size + 1;
        // Going back costs at most the window for each packet lost, doubled or delayed.
        assert!(
            outcome.packets_of_sender <= blocks * (2 + window),
            "{outcome:?} for {blocks} blocks in {weather:?}, seed {seed}"
        );
        assert!(
            outcome.took < Duration::from_secs(600),
            "{outcome:?}, seed {seed}"
        );
    }
}

proptest! {
    #[test]
    fn no_packet_can_break_a_transfer(
        packets in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..30), 0..8_u8, any::<bool>()), 0..60),
        window in 1..8_usize,
    ) {
        let mut now = Instant::now();
        let file = file(3000);
        let mut sending = Sending::new(Cursor::new(&file), agreed(16, window), Some(packet::oack(&[("blksize", 16)])), now);
        let mut receiving = Receiving::new(Memory::default(), agreed(16, window), None, 100, now);
        let (mut out, mut ended) = (Vec::new(), [false, false]);
        ended[0] = sending.start(now, &mut out) != Step::Wait;
        ended[1] = receiving.start(now, &mut out) != Step::Wait;
        for (mut bytes, operation, passes) in packets {
            if let [first, second, third, fourth, ..] = bytes.as_mut_slice() {
                (*first, *second, *third) = (0, operation, 0);
                *fourth %= 16;
            }
            now += Duration::from_millis(if passes { 1500 } else { 1 });
            out.clear();
            if !ended[0] {
                ended[0] = sending.alarm(now, &mut out) != Step::Wait;
            }
            if let (Some(packet), false) = (Packet::parse(&bytes), ended[0]) {
                ended[0] = sending.received(packet, now, &mut out) != Step::Wait;
            }
            if !ended[1] {
                ended[1] = receiving.alarm(now, &mut out) != Step::Wait;
            }
            if let (Some(packet), false) = (Packet::parse(&bytes), ended[1]) {
                ended[1] = receiving.received(packet, now, &mut out) != Step::Wait;
            }
            prop_assert!(out.len() <= 2 * window + 4, "{} packets for one", out.len());
        }
    }
}

/// The listener's port.
struct Port {
    tftp: Tftp,
    bench: Bench,
}

impl Port {
    fn new(root: &std::path::Path, writable: bool) -> Self {
        let table = Table {
            transfers: 3,
            per_address: 2,
            running: Default::default(),
            counts: Default::default(),
            total: 0,
            next: 0,
        };
        let tftp = Tftp {
            root: super::Root::new(root.to_owned()),
            writable,
            max_upload: 1000,
            ipv6_prefix: 64,
            table: std::sync::Arc::new(parking_lot::Mutex::new(table)),
        };
        Port {
            tftp,
            bench: Bench::new(),
        }
    }

    /// What the port itself answers.
    fn asks(&mut self, from: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
        let from = from.parse().expect("an address");
        self.bench.ask(&self.tftp, from, bytes)
    }

    /// What the latest exchange sends for an event, and whether it goes on.
    fn tells(&mut self, event: ExchangeEvent<'_>) -> (Vec<(String, Vec<u8>)>, ExchangeNext) {
        let (route, exchange) = self.bench.exchanges.last_mut().expect("an exchange");
        let (mut sends, mut outbox, mut alarm) = (Vec::new(), Outbox::default(), None);
        let mut cx = ExchangeContext {
            now: Instant::now(),
            route: *route,
            sends: &mut sends,
            outbox: &mut outbox,
            alarm: &mut alarm,
            connect: &mut None,
        };
        let next = exchange.handle(event, &mut cx);
        let sends = sends.into_iter().map(|(to, bytes)| (to.to_string(), bytes));
        (sends.collect(), next)
    }
}

const A: &str = "192.0.2.1:3000";

#[test]
fn a_file_is_read_from_a_port_of_its_own() -> io::Result<()> {
    let home = tempfile::tempdir()?;
    fs::write(home.path().join("f"), "0123456789")?;
    let mut port = Port::new(home.path(), false);
    assert!(
        port.asks(A, b"\0\x01f\0octet\0blksize\08\0tsize\x000\0")
            .is_empty()
    );
    let (sends, _) = port.tells(ExchangeEvent::Open);
    assert_eq!(
        sends,
        [(A.to_owned(), b"\0\x06blksize\08\0tsize\x0010\0".to_vec())]
    );
    let from = |from: &str| from.parse().expect("an address");
    let stranger = "192.0.2.9:9";
    let ack = packet::ack(0);
    let (sends, next) = port.tells(ExchangeEvent::Received {
        from: from(stranger),
        bytes: &ack,
    });
    assert_eq!(
        sends,
        [(
            stranger.to_owned(),
            b"\0\x05\0\x05unknown transfer\0".to_vec()
        )]
    );
    assert_eq!(next, ExchangeNext::Wait);
    let (sends, _) = port.tells(ExchangeEvent::Received {
        from: from(stranger),
        bytes: b"\0\x05\0\x05\0",
    });
    assert!(sends.is_empty(), "an error was answered");
    let (sends, _) = port.tells(ExchangeEvent::Received {
        from: from(A),
        bytes: &ack,
    });
    assert_eq!(sends, [(A.to_owned(), b"\0\x03\0\x0101234567".to_vec())]);
    let (sends, _) = port.tells(ExchangeEvent::Received {
        from: from(A),
        bytes: &packet::ack(1),
    });
    assert_eq!(sends, [(A.to_owned(), b"\0\x03\0\x0289".to_vec())]);
    let (sends, next) = port.tells(ExchangeEvent::Received {
        from: from(A),
        bytes: &packet::ack(2),
    });
    assert_eq!((sends.len(), next), (0, ExchangeNext::Close));
    Ok(())
}

#[test]
fn what_is_not_to_be_had_is_refused_with_the_right_code() -> io::Result<()> {
    let home = tempfile::tempdir()?;
    fs::create_dir(home.path().join("dir"))?;
    fs::write(home.path().join("f"), "text")?;
    let mut port = Port::new(home.path(), false);
    for (request, code, message) in [
        (&b"\0\x01none\0octet\0"[..], 1, "no such file"),
        (b"\0\x01../f\0octet\0", 2, "no access"),
        (b"\0\x01dir\0octet\0", 2, "no access"),
        (b"\0\x02new\0octet\0", 2, "nothing is written here"),
        (b"\0\x01f\0mail\0", 4, "unknown mode"),
        (b"\0\x01f\0octet", 4, "request not ended by NUL"),
    ] {
        let expected = [&[0, 5, 0, code][..], message.as_bytes(), b"\0"].concat();
        assert_eq!(port.asks(A, request), [expected], "{message}");
    }
    for noise in [&b"\0\x05\0\x01x\0"[..], b"\0\x03\0\x01abc", b"", b"\0"] {
        assert!(port.asks(A, noise).is_empty());
    }
    assert!(port.asks("192.0.2.1:7", b"\0\x01none\0octet\0").is_empty());
    let mut port = Port::new(home.path(), true);
    let expected = b"\0\x05\0\x03file too large\0".to_vec();
    assert_eq!(
        port.asks(A, b"\0\x02new\0octet\0tsize\x001001\0"),
        [expected]
    );
    assert_eq!(port.tftp.table.lock().total, 0);
    Ok(())
}

#[test]
fn transfers_at_once_are_limited_and_repeated_requests_are_one() -> io::Result<()> {
    let home = tempfile::tempdir()?;
    fs::write(home.path().join("f"), "text")?;
    let mut port = Port::new(home.path(), false);
    let request = b"\0\x01f\0octet\0";
    for _ in 0..3 {
        assert!(port.asks(A, request).is_empty());
    }
    assert_eq!(port.bench.exchanges.len(), 1);
    assert!(port.asks("192.0.2.1:3001", request).is_empty());
    let busy = &b"\0\x05\0\0too many transfers, try again later\0"[..];
    assert_eq!(port.asks("192.0.2.1:3002", request), [busy]);
    assert!(port.asks("192.0.2.2:3000", request).is_empty());
    assert_eq!(port.asks("192.0.2.3:3000", request), [busy]);
    port.bench.exchanges.clear();
    assert_eq!(port.tftp.table.lock().counts.len(), 0);
    assert!(port.asks("192.0.2.3:3000", request).is_empty());
    Ok(())
}

#[test]
fn an_upload_longer_than_allowed_leaves_nothing() -> io::Result<()> {
    let home = tempfile::tempdir()?;
    let mut port = Port::new(home.path(), true);
    assert!(port.asks(A, b"\0\x02new\0octet\0").is_empty());
    assert_eq!(port.tells(ExchangeEvent::Open).1, ExchangeNext::Wait);
    for block in 1..=2_u8 {
        let data = [&[0, 3, 0, block][..], &[b'x'; 512]].concat();
        let (sends, next) = port.tells(ExchangeEvent::Received {
            from: A.parse().expect("an address"),
            bytes: &data,
        });
        let (expected, goes_on) = match block {
            1 => (packet::ack(1), ExchangeNext::Wait),
            _ => (
                b"\0\x05\0\x03file too large\0".to_vec(),
                ExchangeNext::Close,
            ),
        };
        assert_eq!((sends, next), (vec![(A.to_owned(), expected)], goes_on));
    }
    port.bench.exchanges.clear();
    assert_eq!(fs::read_dir(home.path())?.count(), 0);
    Ok(())
}
