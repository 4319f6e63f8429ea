#![forbid(unsafe_code)]
//! What the poll thread and the workers share: the parked, the queue, and the ways into both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use crossbeam_channel::Sender;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::baton::Poller;
use super::census::{Book, Card, Facts};
use super::datagrams::{Batch, UdpSockets};
use super::exchanges;
use super::parked::{Key, Parked, Signals};
use super::preface::Preface;
use super::pressure::Pressure;
use super::queue::Queue;
use super::reaper::Reaper;
use crate::connection::{Connection, Lingering};
use crate::session::{Lane, Waker, Work};

/// What a slot of the parked table holds.
pub(crate) enum Resident {
    Connection(Box<Connection>),
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
pub(super) enum Errand {
    Session(Key, Work),
    Datagrams(Box<dyn FnOnce() + Send>),
    Stop,
}

/// What the poll thread and the workers share.
pub(crate) struct Core {
    pub(crate) parked: Parked<Resident>,
    pub(crate) queue: Queue<Task>,
    /// By lane.
    pub(super) compute: Sender<Errand>,
    pub(super) wait: Sender<Errand>,
    registry: Registry,
    poll_waker: mio::Waker,
    /// The second of the last complaint; 0 is none.
    complained: AtomicU64,
    /// Turns ever queued, and ever ended.
    pub(super) queued: AtomicU64,
    pub(super) ended: AtomicU64,
    workers: u64,
    /// Turns running.
    pub(super) busy: AtomicUsize,
    lingering: AtomicUsize,
    pub(crate) draining: AtomicBool,
    pub(crate) pressure: Pressure,
    pub(crate) poller: Poller,
    reaper: Reaper,
}

/// Owns a slot of the parked table; gives it back when its connection ends.
pub(crate) struct SlotGuard {
    key: Key,
    book: Arc<Book>,
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

    /// What its connection did, for people to see.
    pub(crate) fn facts(&self) -> &Facts {
        self.book.facts(self.key.index)
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
    /// Nobody is there yet. `compute` and `wait` lead to the lanes.
    ///
    /// # Errors
    /// The system has no room for the reaper's thread.
    pub(super) fn new(
        workers: usize,
        registry: Registry,
        poll_waker: mio::Waker,
        compute: Sender<Errand>,
        wait: Sender<Errand>,
    ) -> std::io::Result<Self> {
        Ok(Core {
            parked: Parked::new(),
            queue: Queue::new(workers),
            compute,
            wait,
            registry,
            poll_waker,
            complained: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            workers: workers as u64,
            busy: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            pressure: Pressure::default(),
            poller: Poller::default(),
            reaper: Reaper::start()?,
        })
    }

    /// Queues a turn. Workers come back to the queue by themselves, and whoever polls looks at it afterwards;
    /// other threads use [`Core::hand_in`].
    pub(crate) fn enqueue(&self, resident: Resident, signals: Signals) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.queue.push(Task::Turn(resident, signals));
    }

    /// Queues a batch of datagrams, or has it wait for those that it must not overtake.
    pub(crate) fn enqueue_datagrams(&self, batch: Box<Batch>) {
        if let Some(batch) = batch.step_forward() {
            self.enqueue_next(batch);
        }
    }

    /// Queues a batch that overtakes none.
    pub(crate) fn enqueue_next(&self, batch: Box<Batch>) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.queue.push(Task::Datagrams(batch));
    }

    /// Queues a turn from any thread.
    pub(super) fn hand_in(&self, resident: Resident, signals: Signals) {
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
        wants: Signals,
        deadline: Option<Instant>,
    ) {
        let (stream, slot) = connection.parts();
        let Some(key) = self.ensure_slot(stream, slot) else {
            return;
        };
        if let Err(error) = connection.watch_far(self, key) {
            self.complain(format_args!("cannot watch one more upstream: {error}"));
            return;
        }
        self.rest(key, Resident::Connection(connection), wants, deadline);
    }

    pub(super) fn park_lingering(
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

    /// Logs an error of the system's that each connection may meet, once a second.
    fn complain(&self, line: fmt::Arguments<'_>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        if self.complained.swap(now, Ordering::Relaxed) != now {
            log::error!("{line}");
        }
    }

    pub(super) fn rest(
        &self,
        key: Key,
        resident: Resident,
        wants: Signals,
        deadline: Option<Instant>,
    ) {
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
            self.complain(format_args!("cannot watch one more connection: {error}"));
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
        let (key, book) = self.parked.reserve(card);
        SlotGuard {
            key,
            book,
            core: Arc::clone(self),
            registered: false,
        }
    }

    /// Gives a connection's work to a lane; the connection rests until it is done.
    pub(super) fn work(self: &Arc<Self>, mut connection: Box<Connection>, work: Work) {
        let (stream, slot) = connection.parts();
        let Some(key) = self.ensure_slot(stream, slot) else {
            return;
        };
        self.rest(key, Resident::Connection(connection), Signals::DONE, None);
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

    pub(super) fn lane(&self, lane: Lane) -> &Sender<Errand> {
        match lane {
            Lane::Compute => &self.compute,
            Lane::Wait => &self.wait,
        }
    }
}
