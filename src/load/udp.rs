#![forbid(unsafe_code)]
//! Windows of datagrams: each socket keeps so many under way, sent and received in batches.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use super::options::{Load, Speaks};
use super::pace::Pace;
use super::progress::Progress;
use super::questions::Questions;
use super::report::{Measured, Report};
use super::sources::Sources;
use super::watch::Watch;

const BATCH: usize = 64;
/// An answer that has not come after this is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Keeps windows of datagrams under way.
pub(super) fn run(load: &Load, window: u16, speaks: Speaks) -> io::Result<Report> {
    let mut flows = Flows::open(load, window, speaks)?;
    if !load.warmup.is_zero() {
        flows.until(load.warmup, Pace::Closed, None, &mut Progress::hidden())?;
        flows.measured = Measured::new();
    }
    let mut watch = Watch::new(load);
    watch.begin();
    let start = Instant::now();
    let mut progress = Progress::new(load.time);
    flows.until(load.time, Pace::of(load), load.count, &mut progress)?;
    let seconds = start.elapsed().as_secs_f64();
    Report::of(flows.measured, None, seconds, watch.end())
}

struct Flows {
    poll: Poll,
    flows: Vec<Flow>,
    window: usize,
    questions: Questions,
    buffers: Vec<Vec<u8>>,
    headers: MultiHeaders<SockaddrStorage>,
    sent: u64,
    measured: Measured,
}

struct Flow {
    socket: UdpSocket,
    /// When those under way were sent, or were to be sent. Answers are taken to come in this order.
    under_way: VecDeque<Instant>,
    heard: Instant,
}

impl Flows {
    fn open(load: &Load, window: u16, speaks: Speaks) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut sources = Sources::of(load);
        let mut flows = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let socket = sources.datagrams()?;
            poll.registry().register(
                &mut SourceFd(&socket.as_raw_fd()),
                Token(number),
                Interest::READABLE,
            )?;
            flows.push(Flow {
                socket,
                under_way: VecDeque::new(),
                heard: Instant::now(),
            });
        }
        Ok(Flows {
            poll,
            flows,
            window: usize::from(window),
            questions: Questions::of(speaks, usize::from(load.size)),
            buffers: vec![vec![0; usize::from(load.size).max(512)]; BATCH],
            headers: MultiHeaders::preallocate(BATCH, None),
            sent: 0,
            measured: Measured::new(),
        })
    }

    fn until(
        &mut self,
        time: Duration,
        pace: Pace,
        count: Option<u64>,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let (start, mut events) = (Instant::now(), Events::with_capacity(256));
        let (end, mut looked) = (start + time, start);
        let mut turn = 0;
        self.sent = 0;
        for number in 0..self.flows.len() {
            self.send(number, pace, start)?;
        }
        loop {
            // With a pace the sockets are filled by the clock, so the wait must not pass the next due time.
            let timeout = match pace {
                Pace::Closed => Duration::from_millis(50),
                Pace::Rate(_) => Duration::ZERO,
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let Token(number) = event.token();
                self.receive(number)?;
                self.send(number, pace, start)?;
            }
            let now = Instant::now();
            if now >= end || count.is_some_and(|count| self.measured.tried() >= count) {
                return self.drain(&mut events);
            }
            if matches!(pace, Pace::Rate(_)) {
                // In turn, so that a full window does not hold up the others.
                turn = (turn + 1) % self.flows.len();
                self.send(turn, pace, start)?;
            }
            if now - looked > PATIENCE / 2 {
                looked = now;
                progress.show(start.elapsed(), self.measured.tried());
                for number in 0..self.flows.len() {
                    self.count_lost(number, now);
                    self.send(number, pace, start)?;
                }
            }
        }
    }

    /// Waits for the answers that are under way.
    fn drain(&mut self, events: &mut Events) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let under_way: usize = self.flows.iter().map(|flow| flow.under_way.len()).sum();
            let left = end.saturating_duration_since(Instant::now());
            if under_way == 0 || left.is_zero() {
                self.measured.lost(under_way as u64);
                self.flows
                    .iter_mut()
                    .for_each(|flow| flow.under_way.clear());
                return Ok(());
            }
            match self.poll.poll(events, Some(left)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &*events {
                self.receive(event.token().0)?;
            }
        }
    }

    /// Sends what is due, up to the window.
    fn send(&mut self, number: usize, pace: Pace, start: Instant) -> io::Result<()> {
        let flow = &mut self.flows[number];
        loop {
            let room = (self.window - flow.under_way.len().min(self.window)).min(BATCH);
            let now = Instant::now();
            let due: Vec<Instant> = (0..room as u64)
                .map(|more| pace.intended(start, self.sent + more).unwrap_or(now))
                .take_while(|due| *due <= now)
                .collect();
            if due.is_empty() {
                return Ok(());
            }
            let questions: Vec<_> = due.iter().map(|_| self.questions.next()).collect();
            let slices: Vec<[IoSlice<'_>; 1]> = questions
                .iter()
                .map(|question| [IoSlice::new(question)])
                .collect();
            let nowhere: Vec<Option<SockaddrStorage>> = vec![None; due.len()];
            let fd = flow.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let sent = match sendmmsg(fd, &mut self.headers, &slices, &nowhere, [], flags) {
                Ok(sent) => sent.count(),
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            if flow.under_way.is_empty() {
                flow.heard = now;
            }
            flow.under_way.extend(&due[..sent]);
            self.sent += sent as u64;
            if sent < BATCH {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, number: usize) -> io::Result<()> {
        let flow = &mut self.flows[number];
        loop {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> = self
                .buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let fd = flow.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let right: Vec<bool> =
                match recvmmsg(fd, &mut self.headers, slices.iter_mut(), flags, None) {
                    Ok(received) => received
                        .map(|one| {
                            let answer = one.iovs().next().unwrap_or_default();
                            self.questions.is_right(answer)
                        })
                        .collect(),
                    Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
            flow.heard = Instant::now();
            for right in &right {
                if let Some(sent) = flow.under_way.pop_front() {
                    let result = match right {
                        true => Ok(()),
                        false => Err(io::ErrorKind::InvalidData.into()),
                    };
                    self.measured.ended(flow.heard - sent, result);
                }
            }
            if right.len() < BATCH {
                return Ok(());
            }
        }
    }

    fn count_lost(&mut self, number: usize, now: Instant) {
        let flow = &mut self.flows[number];
        if now.saturating_duration_since(flow.heard) > PATIENCE {
            self.measured.lost(flow.under_way.len() as u64);
            flow.under_way.clear();
        }
    }
}
