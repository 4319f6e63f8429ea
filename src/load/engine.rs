#![forbid(unsafe_code)]
//! Slots, pace, time, and what is counted. One loop on one thread; what an operation is, `Work` knows.

use std::io;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Events, Interest, Poll, Registry, Token};

use super::options::Load;
use super::pace::Pace;
use super::progress::Progress;
use super::report::{Measured, Report};
use super::watch::Watch;

/// An operation without an end is given up after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long operations that were due before the end may still take.
const GRACE: Duration = Duration::from_secs(2);
/// How often what needs no precision is looked at.
const HEARTBEAT: Duration = Duration::from_millis(100);
const EVENTS: usize = 512;
const LANE_SHIFT: u32 = 24;

/// How far an operation is.
pub(super) enum Step {
    /// It waits for its socket.
    Waiting,
    /// It has ended well; its slot is free.
    Done,
    /// It has ended badly; its slot is free.
    Failed(io::Error),
}

/// What an operation is. Slots are numbered from 0.
pub(super) trait Work {
    /// Operations at once.
    fn slots(&self) -> usize;
    /// Begins an operation in a free slot.
    fn begin(&mut self, slot: usize, poll: &Handle<'_>) -> Step;
    /// The slot's socket is ready; events may be late, so it may be the socket of an earlier operation.
    fn ready(&mut self, slot: usize) -> Step;
    /// Drops the operation in a slot, which takes too long.
    fn abandon(&mut self, slot: usize);
    /// Sockets that are open before anything begins.
    ///
    /// # Errors
    /// The poll's.
    fn register(&mut self, _poll: &Handle<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Work whose connections live for one operation each.
pub(super) trait OneOff {
    /// Operations at once.
    fn count(&self) -> usize;
    /// Opens a slot's connection.
    ///
    /// # Errors
    /// The socket's or the poll's.
    fn open(&mut self, slot: usize, poll: &Handle<'_>) -> io::Result<()>;
    /// Goes on as far as the socket lets it; true when the operation is complete.
    ///
    /// # Errors
    /// The socket's, or the peer did something else.
    fn go_on(&mut self, slot: usize) -> io::Result<bool>;
    /// Drops a slot's connection.
    fn forget(&mut self, slot: usize);
}

impl<O: OneOff> Work for O {
    fn slots(&self) -> usize {
        self.count()
    }

    fn begin(&mut self, slot: usize, poll: &Handle<'_>) -> Step {
        match self.open(slot, poll) {
            Ok(()) => Step::Waiting,
            Err(error) => {
                self.forget(slot);
                Step::Failed(error)
            }
        }
    }

    fn ready(&mut self, slot: usize) -> Step {
        let step = match self.go_on(slot) {
            Ok(false) => return Step::Waiting,
            Ok(true) => Step::Done,
            Err(error) => Step::Failed(error),
        };
        self.forget(slot);
        step
    }

    fn abandon(&mut self, slot: usize) {
        self.forget(slot);
    }
}

/// Where the sockets of a lane are registered.
pub(super) struct Handle<'a> {
    registry: &'a Registry,
    base: usize,
}

impl Handle<'_> {
    pub(super) fn register(
        &self,
        slot: usize,
        socket: &mut impl Source,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry
            .register(socket, Token(self.base | slot), interest)
    }
}

/// One kind of work with its pace.
pub(super) struct Lane<'a> {
    work: &'a mut dyn Work,
    pace: Pace,
    idle: Vec<usize>,
    /// Slots whose operations failed; they rest until the next heartbeat, so that a server that is not there is
    /// not asked as fast as we can.
    resting: Vec<usize>,
    /// By slot: when its operation began, or was to begin.
    began: Vec<Option<Instant>>,
    next: u64,
    measured: Measured,
}

impl<'a> Lane<'a> {
    pub(super) fn new(work: &'a mut dyn Work, pace: Pace) -> Self {
        let slots = work.slots();
        Lane {
            work,
            pace,
            idle: (0..slots).rev().collect(),
            resting: Vec::new(),
            began: vec![None; slots],
            next: 0,
            measured: Measured::new(),
        }
    }

    fn settle(&mut self, slot: usize, step: Step) {
        let result = match step {
            Step::Waiting => return,
            Step::Done => Ok(()),
            Step::Failed(error) => Err(error),
        };
        // A late event of a slot in which nothing is under way.
        let Some(began) = self.began[slot].take() else {
            return;
        };
        let free = if result.is_ok() {
            &mut self.idle
        } else {
            &mut self.resting
        };
        free.push(slot);
        self.measured.ended(began.elapsed(), result);
    }

    /// Begins what is due before `end`; answers when the next one is due, where that is known.
    fn begin_due(
        &mut self,
        poll: &Handle<'_>,
        start: Instant,
        end: Instant,
        most: usize,
    ) -> Option<Instant> {
        for _ in 0..most {
            let now = Instant::now();
            let intended = self.pace.intended(start, self.next);
            let due = intended.unwrap_or(now);
            if due >= end {
                return None;
            }
            if due > now {
                return Some(due);
            }
            let slot = self.idle.pop()?;
            self.next += 1;
            self.measured.begun(now - due);
            self.began[slot] = Some(due);
            let step = self.work.begin(slot, poll);
            self.settle(slot, step);
        }
        (!self.idle.is_empty()).then_some(start)
    }

    fn under_way(&self) -> usize {
        self.began.len() - self.idle.len() - self.resting.len()
    }

    /// Operations that should have begun before `end` and have not.
    fn overdue(&self, start: Instant, end: Instant) -> u64 {
        match self.pace {
            Pace::Closed => 0,
            Pace::Rate(rate) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rate and an hour at most, both positive"
                )]
                let wanted = ((end - start).as_secs_f64() * rate) as u64;
                wanted.saturating_sub(self.next)
            }
        }
    }

    fn heartbeat(&mut self) {
        self.idle.append(&mut self.resting);
        for slot in 0..self.began.len() {
            if self.began[slot].is_some_and(|began| began.elapsed() > PATIENCE) {
                self.work.abandon(slot);
                self.settle(slot, Step::Failed(io::ErrorKind::TimedOut.into()));
            }
        }
    }
}

/// The loop.
pub(super) struct Engine {
    poll: Poll,
    watch: Watch,
    time: Duration,
    warmup: Duration,
    count: Option<u64>,
}

impl Engine {
    pub(super) fn new(load: &Load) -> io::Result<Self> {
        Ok(Engine {
            poll: Poll::new()?,
            watch: Watch::new(load),
            time: load.time,
            warmup: load.warmup,
            count: load.count,
        })
    }

    /// Runs the lanes to their end. The first is what is measured; the others run beside it, one operation at
    /// a time, so that they keep it waiting as little as possible.
    ///
    /// # Errors
    /// The poll's, or nothing of what was tried succeeded.
    pub(super) fn run(mut self, mut lanes: Vec<Lane<'_>>) -> io::Result<Report> {
        for (number, lane) in lanes.iter_mut().enumerate() {
            lane.work.register(&handle(&self.poll, number))?;
        }
        if !self.warmup.is_zero() {
            let start = Instant::now();
            self.until(
                &mut lanes,
                start,
                start + self.warmup,
                &mut Progress::hidden(),
            )?;
        }
        for lane in &mut lanes {
            lane.measured = Measured::new();
            lane.next = 0;
        }
        let start = Instant::now();
        let end = start + self.time;
        self.watch.begin();
        self.until(&mut lanes, start, end, &mut Progress::new(self.time))?;
        let usage = self.watch.end();
        let seconds = start.elapsed().as_secs_f64();
        for lane in &mut lanes {
            lane.measured.unfinished = lane.under_way() as u64 + lane.overdue(start, end);
        }
        let mut lanes = lanes.into_iter().map(|lane| lane.measured);
        let main = lanes
            .next()
            .ok_or_else(|| io::Error::other("nothing to do"))?;
        Report::of(main, lanes.next(), seconds, usage)
    }

    /// Begins what is due before `end`, and waits for what was begun.
    fn until(
        &mut self,
        lanes: &mut [Lane<'_>],
        start: Instant,
        mut end: Instant,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut looked = start;
        loop {
            let mut wake: Option<Instant> = None;
            for (number, lane) in lanes.iter_mut().enumerate() {
                let most = if number == 0 { usize::MAX } else { 1 };
                let due = lane.begin_due(&handle(&self.poll, number), start, end, most);
                wake = [wake, due].into_iter().flatten().min();
            }
            let now = Instant::now();
            if now >= end {
                let done = lanes
                    .iter()
                    .all(|lane| lane.under_way() == 0 && lane.overdue(start, end) == 0);
                if done || now >= end + GRACE {
                    return Ok(());
                }
            }
            // At the end, what is left is looked at at once; after it, until the grace is over.
            let patience = match end.checked_duration_since(now) {
                Some(left) => left.min(HEARTBEAT),
                None => HEARTBEAT,
            };
            self.wait(&mut events, wake, now, patience)?;
            for event in &events {
                let Token(token) = event.token();
                let slot = token & ((1 << LANE_SHIFT) - 1);
                let lane = &mut lanes[token >> LANE_SHIFT];
                let step = lane.work.ready(slot);
                lane.settle(slot, step);
            }
            if self
                .count
                .is_some_and(|count| lanes[0].measured.tried() >= count)
            {
                end = end.min(now);
            }
            if now - looked > HEARTBEAT {
                looked = now;
                lanes.iter_mut().for_each(Lane::heartbeat);
                progress.show(start.elapsed(), lanes[0].measured.tried());
            }
        }
    }

    /// Waits for events, at most until `wake` and no longer than `patience`. The poll counts in milliseconds,
    /// which is too coarse for a pace: the last one is spent asking again and again. The core is the load's own.
    fn wait(
        &mut self,
        events: &mut Events,
        wake: Option<Instant>,
        now: Instant,
        patience: Duration,
    ) -> io::Result<()> {
        let timeout = match wake {
            None => patience,
            Some(wake) => {
                let left = wake.saturating_duration_since(now).min(patience);
                Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(0))
            }
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }
}

fn handle(poll: &Poll, lane: usize) -> Handle<'_> {
    Handle {
        registry: poll.registry(),
        base: lane << LANE_SHIFT,
    }
}
