#![forbid(unsafe_code)]
//! The fixed pool of threads that run turns, and the lanes that run work which blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use mio::Registry;

use super::core::{Core, Errand, Resident, Task};
use super::exchanges;
use super::parked::Signals;
use super::queue::LOOK;
use super::udp_io::Receiver;
use crate::connection::secure::SecureScratch;
use crate::connection::{Connection, Fate, Lingering, RelayScratch};

/// Buffers that a turn borrows from its worker, so that a parked connection owns none.
pub(crate) struct Scratch {
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    /// What exchanges read into; made by the first.
    pub(crate) datagram: Vec<u8>,
    pub(crate) relay: RelayScratch,
    pub(crate) secure: SecureScratch,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch {
            input: vec![0; 64 * 1024],
            output: Vec::with_capacity(64 * 1024),
            datagram: Vec::new(),
            relay: RelayScratch::default(),
            secure: SecureScratch::default(),
        }
    }
}

/// How long threads may take to stop.
const PARTING: Duration = Duration::from_secs(1);

/// The threads. Dropping them tells them to stop and waits for it, for [`PARTING`].
pub(crate) struct Workers {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    count: usize,
    lanes: [usize; 2],
}

impl Workers {
    /// Starts `count` workers and the lanes.
    ///
    /// # Errors
    /// The system has no room for the threads.
    pub(crate) fn start(
        count: usize,
        registry: Registry,
        poll_waker: mio::Waker,
    ) -> std::io::Result<Self> {
        let (compute, compute_errands) = unbounded();
        let (wait, wait_errands) = unbounded();
        let core = Core::new(count, registry, poll_waker, compute, wait)?;
        let core = Arc::new(core);
        // Hashing gains nothing from more threads than cores; waiting is cheap but each wait has a thread.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let lanes = [cores, count.min(16)];
        let mut workers = Workers {
            core: Arc::clone(&core),
            threads: Vec::new(),
            count,
            lanes,
        };
        for index in 0..count {
            let core = Arc::clone(&core);
            workers.spawn(format!("worker-{index}"), move || work(&core, index))?;
        }
        for (name, errands, threads) in [
            ("compute", compute_errands, lanes[0]),
            ("wait", wait_errands, lanes[1]),
        ] {
            for index in 0..threads {
                let (core, errands) = (Arc::clone(&core), errands.clone());
                workers.spawn(format!("{name}-{index}"), move || {
                    run_errands(&core, &errands)
                })?;
            }
        }
        Ok(workers)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads
            .push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

impl Workers {
    /// Waits for the threads, but not for long: a resolver that does not answer must not keep the daemon from
    /// stopping. What is left behind ends with the process.
    fn part(&mut self) {
        let until = Instant::now() + PARTING;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let (ended, held_up): (Vec<_>, Vec<_>) = self
            .threads
            .drain(..)
            .partition(std::thread::JoinHandle::is_finished);
        for thread in ended {
            let _ = thread.join();
        }
        for thread in held_up {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            log::warn!("{name} is held up by what it does, and left behind");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for _ in 0..self.count {
            self.core.queue.push(Task::Stop);
        }
        self.core.queue.ring_all();
        for (lane, threads) in [
            (&self.core.compute, self.lanes[0]),
            (&self.core.wait, self.lanes[1]),
        ] {
            for _ in 0..threads {
                let _ = lane.send(Errand::Stop);
            }
        }
        self.part();
        drop(self.core.parked.empty());
    }
}

fn work(core: &Arc<Core>, seat: usize) {
    let mut scratch = Scratch::default();
    let mut receiver = Receiver::default();
    let mut idle = || core.poller.look(&core.queue, &core.draining, &mut receiver);
    while run(core, core.queue.take(seat, &mut idle), &mut scratch) {}
}

/// Runs a task; false when it was the last.
fn run(core: &Arc<Core>, task: Task, scratch: &mut Scratch) -> bool {
    core.busy.fetch_add(1, Ordering::Relaxed);
    match task {
        Task::Stop => return false,
        Task::Turn(Resident::Connection(connection), signals) => {
            turn(core, connection, signals, scratch);
        }
        Task::Turn(Resident::Lingering(lingering), signals) => {
            linger(core, *lingering, signals, scratch);
        }
        // The poll thread keeps these to itself.
        Task::Turn(Resident::Preface(_), _) => {}
        Task::Turn(Resident::Exchange(exchange), signals) => {
            exchange_turn(core, exchange, signals, scratch);
        }
        Task::Datagrams(batch) => {
            let (name, line) = (batch.listener_name(), batch.line());
            if catch_unwind(AssertUnwindSafe(|| batch.answer(core))).is_err() {
                log::error!(target: &name, "the module panicked on a datagram");
            }
            if let Some(next) = line.and_then(|line| line.next_in_line()) {
                core.enqueue_next(next);
            }
        }
    }
    core.busy.fetch_sub(1, Ordering::Relaxed);
    core.ended.fetch_add(1, Ordering::AcqRel);
    true
}

fn exchange_turn(
    core: &Arc<Core>,
    exchange: Box<exchanges::Running>,
    signals: Signals,
    scratch: &mut Scratch,
) {
    let name = exchange.listener();
    let turn = || exchange.turn(signals, &mut scratch.datagram);
    match catch_unwind(AssertUnwindSafe(turn)) {
        Ok(Some((exchange, exchanges::Rest::Until(alarm)))) => {
            let key = exchange.slot.key();
            core.rest(key, Resident::Exchange(exchange), exchanges::WANTS, alarm);
        }
        Ok(Some((exchange, exchanges::Rest::None))) => {
            core.enqueue(Resident::Exchange(exchange), Signals::NONE);
        }
        Ok(None) => {}
        Err(_) => {
            log::error!(target: &name, "the module panicked; its exchange is closed")
        }
    }
}

fn turn(
    core: &Arc<Core>,
    mut connection: Box<Connection>,
    signals: Signals,
    scratch: &mut Scratch,
) {
    // What came while it waited in the queue is this turn's business, too.
    let signals = match connection.parts().1 {
        Some(slot) => signals.and(core.parked.collect(slot.key())),
        None => signals,
    };
    let listener = Arc::clone(connection.listener());
    // A panic unwinds through the connection: its slot is free and its socket closed by the time we see it.
    let Ok(fate) = catch_unwind(AssertUnwindSafe(|| connection.turn(signals, scratch, core)))
    else {
        *scratch = Scratch::default();
        listener.counters.panicked();
        log::error!(target: &listener.name, "the module panicked; its connection is closed");
        return;
    };
    match fate {
        // By the time its turn comes the peer has likely answered, and neither poll nor parking is needed.
        Fate::Park(connection, _, _)
            if connection.expects() != Signals::NONE && core.queue.len() >= HOT =>
        {
            let expects = connection.expects();
            core.enqueue(Resident::Connection(connection), expects);
        }
        Fate::Park(connection, wants, deadline) => core.park(connection, wants, Some(deadline)),
        Fate::Yield(connection) => {
            core.enqueue(Resident::Connection(connection), Signals::NONE);
        }
        Fate::Work(connection, work) => core.work(connection, work),
        Fate::Linger(lingering) => linger(core, lingering, Signals::NONE, scratch),
        Fate::Closed => {}
    }
}

/// How many turns must be waiting for a connection that has just heard of its peer to queue up once more
/// instead of being parked.
const HOT: usize = 16;

fn linger(core: &Arc<Core>, lingering: Lingering, signals: Signals, scratch: &mut Scratch) {
    if let Some((lingering, wants, until)) = lingering.turn(signals, scratch) {
        core.park_lingering(Box::new(lingering), wants, until);
    }
}

fn run_errands(core: &Core, errands: &crossbeam_channel::Receiver<Errand>) {
    while let Ok(errand) = errands.recv() {
        match errand {
            Errand::Stop => break,
            Errand::Datagrams(run) => {
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    log::error!("work of a datagram module panicked");
                }
            }
            Errand::Session(key, work) => {
                let outcome = work.run();
                if let Some((mut resident, signals)) = core.parked.signal(key, Signals::DONE) {
                    if let Resident::Connection(connection) = &mut resident {
                        connection.deliver(outcome);
                    }
                    core.hand_in(resident, signals);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{PARTING, Workers};
    use crate::session::Lane;

    #[test]
    fn work_that_never_ends_does_not_keep_the_threads_from_parting() {
        let poll = mio::Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(1)).unwrap();
        let workers = Workers::start(2, registry, waker).unwrap();
        let (held, ended) = std::sync::mpsc::channel::<()>();
        workers.core().datagram_work(
            Lane::Wait,
            Box::new(move || {
                let _ = ended.recv();
            }),
        );
        let start = Instant::now();
        drop(workers);
        assert!(start.elapsed() < PARTING + Duration::from_secs(10));
        drop(held);
    }
}
