#![forbid(unsafe_code)]
//! The fixed pool of threads that run turns, and the lanes that run work which blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Sender, unbounded};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::baton::Poller;
use super::census::{Card, Facts};
use super::datagrams::{Batch, UdpSockets};
use super::exchanges;
use super::listener::TcpListener;
use super::parked::{Key, Parked, Signals};
use super::preface::Preface;
use super::queue::Queue;
use super::reaper::Reaper;
use super::udp_io::Receiver;
use crate::connection::secure::SecureScratch;
use crate::connection::{Connection, Fate, Lingering, RelayScratch};
use crate::session::{Lane, Waker, Work};

/// What a slot of the parked table holds.
pub(crate) enum Resident {
    Connection(Box<Connection>, Arc<TcpListener>),
    Lingering(Box<Lingering>),
    Exchange(Box<exchanges::Running>),
    /// Minded by the poll thread alone.
    Preface(Box<Preface>),
}

/// What a worker is given.
pub(crate) enum Task {
    Turn(Resident, Signals),
    Datagrams(Box<Batch>),
    Stop,
}

/// What a lane is given.
enum Errand {
    Session(Key, Work),
    Datagrams(Box<dyn FnOnce() + Send>),
    Stop,
}

/// What the poll thread and the workers share.
pub(crate) struct Core {
    pub(crate) parked: Parked<Resident>,
    pub(crate) queue: Queue<Task>,
    compute: Sender<Errand>,
    wait: Sender<Errand>,
    registry: Registry,
    poll_waker: mio::Waker,
    /// Turns ever queued, and ever ended.
    queued: AtomicU64,
    ended: AtomicU64,
    workers: u64,
    /// Turns running.
    busy: AtomicUsize,
    lingering: AtomicUsize,
    pub(crate) draining: AtomicBool,
    pub(crate) poller: Poller,
    reaper: Reaper,
}

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

/// Owns a slot of the parked table; gives it back when its connection ends.
pub(crate) struct SlotGuard {
    key: Key,
    /// What its connection did, for people to see.
    pub(crate) facts: Arc<Facts>,
    core: Arc<Core>,
    registered: bool,
}

impl SlotGuard {
    /// Says who has the slot.
    pub(crate) fn introduce(&self, card: Card) {
        self.core.parked.introduce(self.key, card);
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Its socket is replaced by another one, which is to be registered.
    pub(crate) fn renew(&mut self) {
        self.registered = false;
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.core.parked.release(self.key);
    }
}

/// Counts one lingering socket while it lives.
pub(crate) struct LingerGuard(Arc<Core>);

impl Drop for LingerGuard {
    fn drop(&mut self) {
        self.0.lingering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Set in the token of a relay's upstream, which shares the slot of its connection.
const FAR: usize = 1 << 31;

/// A token for a slot: its generation above, its index below. Listening sockets have generation 0.
pub(crate) fn token(key: Key) -> Token {
    Token((key.generation as usize) << 32 | key.index as usize)
}

/// The slot that a token names and whether its upstream is meant; `None` for a listening socket's.
pub(crate) fn key(token: Token) -> Option<(Key, bool)> {
    let generation = u32::try_from(token.0 >> 32).unwrap_or(0);
    let index = u32::try_from(token.0 & (FAR - 1)).unwrap_or(0);
    (generation > 0).then_some((Key { index, generation }, token.0 & FAR != 0))
}

/// The most sockets that wait for their peers' last bytes; above it they are simply closed.
const MOST_LINGERING: usize = 1024;

impl Core {
    /// Queues a turn. Workers come back to the queue by themselves, and whoever polls looks at it afterwards;
    /// other threads use [`Core::hand_in`].
    pub(crate) fn enqueue(&self, resident: Resident, signals: Signals) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.queue.push(Task::Turn(resident, signals));
    }

    /// Queues a batch of datagrams.
    pub(crate) fn enqueue_datagrams(&self, batch: Box<Batch>) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.queue.push(Task::Datagrams(batch));
    }

    /// Queues a turn from any thread.
    fn hand_in(&self, resident: Resident, signals: Signals) {
        self.enqueue(resident, signals);
        self.queue.ring();
        // The worker just called may be held up, and nobody would look after what it leaves.
        if self.poller.is_resting() {
            self.wake_poll();
        }
    }

    /// How many turns have ever been queued: a mark for [`Core::has_passed`].
    pub(crate) fn mark(&self) -> u64 {
        self.queued.load(Ordering::Acquire)
    }

    /// True when the turns queued before a mark have ended, as far as counting tells: the queue is in
    /// order, so each worker can hold one of them back at most.
    pub(crate) fn has_passed(&self, mark: u64) -> bool {
        let ended = self.ended.load(Ordering::Acquire);
        ended == self.queued.load(Ordering::Acquire) || ended >= mark + self.workers
    }

    /// Turns that are running.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Leave for one more socket to wait for its peer's last bytes.
    pub(crate) fn may_linger(self: &Arc<Self>) -> Option<LingerGuard> {
        let most = if self.draining.load(Ordering::Relaxed) {
            0
        } else {
            MOST_LINGERING
        };
        let guard = LingerGuard(Arc::clone(self));
        (self.lingering.fetch_add(1, Ordering::Relaxed) < most).then_some(guard)
    }

    /// Interrupts the sleep of whoever polls.
    pub(crate) fn wake_poll(&self) {
        let _ = self.poll_waker.wake();
    }

    /// Calls the poll thread to its duties.
    pub(crate) fn summon(&self) {
        self.poller.summon();
        self.wake_poll();
    }

    /// A waker for the session in a slot.
    pub(crate) fn waker(self: &Arc<Self>, key: Key) -> Waker {
        let core = Arc::clone(self);
        Waker::new(move || core.signal(key, Signals::WOKEN))
    }

    /// Tells a slot what happened, and queues its resident if it waits for that.
    pub(crate) fn signal(&self, key: Key, signals: Signals) {
        if let Some((resident, signals)) = self.parked.signal(key, signals) {
            self.hand_in(resident, signals);
        }
    }

    /// Tells the connections that `chosen` names to end, and answers which they are.
    pub(crate) fn cut(&self, mut chosen: impl FnMut(Key, &Card) -> bool) -> Vec<Key> {
        let by_card = |key, card: Option<&Card>, _: Option<&Resident>| {
            card.is_some_and(|card| chosen(key, card))
        };
        let (keys, residents) = self.parked.cut(by_card);
        for (resident, signals) in residents {
            self.hand_in(resident, signals);
        }
        keys
    }

    /// Lets the exchanges of a listener that is gone notice it; those of others look up in vain.
    pub(crate) fn cut_exchanges(&self, group: &Arc<UdpSockets>) {
        let of_group = |_, card: Option<&Card>, resident: Option<&Resident>| match resident {
            Some(Resident::Exchange(exchange)) => exchange.is_of(group),
            Some(_) => false,
            None => card.is_none(),
        };
        let (_, residents) = self.parked.cut(of_group);
        for (resident, signals) in residents {
            self.hand_in(resident, signals);
        }
    }

    /// Puts a connection to rest. Registers it with the poll at its first rest; readiness that exists by
    /// then is reported, so nothing is lost.
    pub(crate) fn park(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        listener: Arc<TcpListener>,
        wants: Signals,
        deadline: Option<Instant>,
    ) {
        let (stream, slot) = connection.parts();
        let Some(key) = self.ensure_slot(stream, slot) else {
            return;
        };
        if let Err(error) = connection.watch_far(self, key) {
            log::error!("cannot watch one more upstream: {error}");
            return;
        }
        self.rest(
            key,
            Resident::Connection(connection, listener),
            wants,
            deadline,
        );
    }

    fn park_lingering(
        self: &Arc<Self>,
        mut lingering: Box<Lingering>,
        wants: Signals,
        until: Instant,
    ) {
        let (stream, slot) = lingering.parts();
        let Some(key) = self.ensure_slot(stream, slot) else {
            return;
        };
        self.rest(key, Resident::Lingering(lingering), wants, Some(until));
    }

    /// Puts a stream to rest until more of its PROXY header comes; it comes back when more has come.
    pub(super) fn park_preface(
        &self,
        preface: Box<Preface>,
    ) -> Result<(), (Box<Preface>, Signals)> {
        let Some(key) = preface.newcomer.slot.as_ref().map(SlotGuard::key) else {
            return Ok(());
        };
        let until = Some(preface.until);
        let parked = self
            .parked
            .park(key, Resident::Preface(preface), Preface::WANTS, until);
        match parked {
            Err((Resident::Preface(preface), signals)) => Err((preface, signals)),
            // The poll thread looks at its deadlines before it sleeps.
            _ => Ok(()),
        }
    }

    fn rest(&self, key: Key, resident: Resident, wants: Signals, deadline: Option<Instant>) {
        match self.parked.park(key, resident, wants, deadline) {
            Ok(true) => self.wake_poll(),
            Ok(false) => {}
            Err((resident, signals)) => self.enqueue(resident, signals),
        }
    }

    /// A slot for `stream`, registered with the poll. `None` when the kernel has no room for one more.
    fn ensure_slot(
        self: &Arc<Self>,
        stream: &mut TcpStream,
        slot: &mut Option<SlotGuard>,
    ) -> Option<Key> {
        let guard = slot.get_or_insert_with(|| self.reserve(None));
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.watch(guard, stream, interest) {
            log::error!("cannot watch one more connection: {error}");
            return None;
        }
        Some(guard.key)
    }

    /// Registers a slot's socket with the poll, once.
    pub(crate) fn watch(
        &self,
        slot: &mut SlotGuard,
        source: &mut impl mio::event::Source,
        interest: Interest,
    ) -> std::io::Result<()> {
        if !slot.registered {
            self.registry.register(source, token(slot.key), interest)?;
            slot.registered = true;
        }
        Ok(())
    }

    /// Registers a listening socket with the poll under a token of the poll loop's.
    pub(crate) fn watch_source(
        &self,
        source: &mut impl mio::event::Source,
        index: usize,
    ) -> std::io::Result<()> {
        self.registry
            .register(source, Token(index), Interest::READABLE)
    }

    /// Registers the upstream socket of a slot's resident.
    pub(crate) fn register_far(
        &self,
        key: Key,
        register: impl FnOnce(&Registry, Token) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        register(&self.registry, Token(token(key).0 | FAR))
    }

    /// A slot without a registered socket yet; a connection says who it is.
    pub(crate) fn reserve(self: &Arc<Self>, card: Option<Card>) -> SlotGuard {
        let (key, facts) = self.parked.reserve(card);
        SlotGuard {
            key,
            facts,
            core: Arc::clone(self),
            registered: false,
        }
    }

    /// Gives a connection's work to a lane; the connection rests until it is done.
    fn work(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        listener: Arc<TcpListener>,
        work: Work,
    ) {
        let (stream, slot) = connection.parts();
        let Some(key) = self.ensure_slot(stream, slot) else {
            return;
        };
        self.rest(
            key,
            Resident::Connection(connection, listener),
            Signals::DONE,
            None,
        );
        let lane = self.lane(work.lane());
        let _ = lane.send(Errand::Session(key, work));
    }

    /// Ends a program whose connection is gone.
    pub(crate) fn reap(&self, program: std::process::Child) {
        self.reaper.reap(program);
    }

    /// Runs a datagram module's work on a lane.
    pub(crate) fn datagram_work(&self, lane: Lane, run: Box<dyn FnOnce() + Send>) {
        let _ = self.lane(lane).send(Errand::Datagrams(run));
    }

    fn lane(&self, lane: Lane) -> &Sender<Errand> {
        match lane {
            Lane::Compute => &self.compute,
            Lane::Wait => &self.wait,
        }
    }
}

/// The threads. Dropping them tells them to stop and waits for it.
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
        let core = Arc::new(Core {
            parked: Parked::new(),
            queue: Queue::new(count),
            compute,
            wait,
            registry,
            poll_waker,
            queued: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            workers: count as u64,
            busy: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            poller: Poller::default(),
            reaper: Reaper::start()?,
        });
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
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        drop(self.core.parked.empty());
    }
}

fn work(core: &Arc<Core>, seat: usize) {
    let mut scratch = Scratch::default();
    let mut receiver = Receiver::default();
    let mut idle =
        || !core.draining.load(Ordering::Relaxed) && core.poller.look(&core.queue, &mut receiver);
    while run(core, core.queue.take(seat, &mut idle), &mut scratch) {}
}

/// Runs a task; false when it was the last.
fn run(core: &Arc<Core>, task: Task, scratch: &mut Scratch) -> bool {
    core.busy.fetch_add(1, Ordering::Relaxed);
    match task {
        Task::Stop => return false,
        Task::Turn(Resident::Connection(connection, listener), signals) => {
            turn(core, connection, listener, signals, scratch);
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
            let name = batch.listener_name();
            if catch_unwind(AssertUnwindSafe(|| batch.answer(core))).is_err() {
                log::error!(target: &name, "the module panicked on a datagram");
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
    listener: Arc<TcpListener>,
    signals: Signals,
    scratch: &mut Scratch,
) {
    // What came while it waited in the queue is this turn's business, too.
    let signals = match connection.parts().1 {
        Some(slot) => signals.and(core.parked.collect(slot.key)),
        None => signals,
    };
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
            core.enqueue(Resident::Connection(connection, listener), expects);
        }
        Fate::Park(connection, wants, deadline) => {
            core.park(connection, listener, wants, Some(deadline))
        }
        Fate::Yield(connection) => {
            core.enqueue(Resident::Connection(connection, listener), Signals::NONE);
        }
        Fate::Work(connection, work) => core.work(connection, listener, work),
        Fate::Linger(lingering) => linger(core, lingering, Signals::NONE, scratch),
        Fate::Closed => {}
    }
}

/// How many turns must be waiting for a connection that has just heard of its peer to queue up once more
/// instead of being parked.
const HOT: usize = 4;

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
                    if let Resident::Connection(connection, _) = &mut resident {
                        connection.deliver(outcome);
                    }
                    core.hand_in(resident, signals);
                }
            }
        }
    }
}
