#![forbid(unsafe_code)]
//! The way in for a fuzz target.

use std::io;
use std::time::{Duration, Instant};

use super::options::agree;
use super::packet::{Packet, Request};
use super::receiving::{Receiving, Sink};
use super::sending::{Sending, Step};

struct Nowhere(usize);

impl Sink for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request up to 0xff, then packets, each behind a byte that is its length and says how much time has passed:
/// what a transfer sends for one packet is bounded by its window.
pub fn tftp(bytes: &[u8]) {
    let mut pieces = bytes.splitn(2, |byte| *byte == 0xff);
    let request = pieces.next().unwrap_or_default();
    let mut packets = pieces.next().unwrap_or_default();
    let Ok(request) = Request::parse(request) else {
        return;
    };
    let (agreed, _) = agree(&request, Some(10_000));
    assert!(agreed.window * agreed.block_size <= 256 * 1024 || agreed.window == 1);
    let (mut now, mut out, file) = (Instant::now(), Vec::new(), vec![b'x'; 10_000]);
    let mut sending = Sending::new(&file[..], agreed, Some(vec![0, 6]), now);
    let mut receiving = Receiving::new(Nowhere(0), agreed, None, 1000, now);
    let mut steps = [sending.start(now, &mut out), receiving.start(now, &mut out)];
    while let Some((&length, rest)) = packets.split_first() {
        let piece;
        (piece, packets) = rest.split_at(usize::from(length & 63).min(rest.len()));
        now += Duration::from_millis(u64::from(length >> 6) * 1500);
        out.clear();
        let packet = Packet::parse(piece);
        if steps[0] == Step::Wait {
            steps[0] = sending.alarm(now, &mut out);
        }
        if let (Step::Wait, Some(packet)) = (steps[0], packet) {
            steps[0] = sending.received(packet, now, &mut out);
        }
        if steps[1] == Step::Wait {
            steps[1] = receiving.alarm(now, &mut out);
        }
        if let (Step::Wait, Some(packet)) = (steps[1], packet) {
            steps[1] = receiving.received(packet, now, &mut out);
        }
        assert!(out.len() <= 3 * agreed.window + 4);
    }
}
