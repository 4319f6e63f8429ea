#![forbid(unsafe_code)]
//! Who looks at the poll. One thread at a time does: it holds the baton.
//!
//! At rest that is the poll thread. What it hears it queues, calls a worker, and lets go of the baton; from
//! then on a worker that finds the queue empty looks at the poll itself and runs what comes, so that under load
//! an event is heard and handled by one thread, and none is woken for it. (Handing each over cost 10 us of a
//! connection's 45.) Meanwhile the poll thread looks every few milliseconds whether anybody still polls, and does so
//! itself where all workers are held up by what they run; and it alone changes the sockets, minds signals, and
//! stops the server. No module code runs under the baton.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use super::SIGNAL;
use super::poll_loop::PollLoop;
use super::queue::{LOOK, Queue};
use super::udp_io::Receiver;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::thread::{self, Thread};
use crate::sync::{Events, Instant, MappedMutexGuard, Mutex, MutexGuard, Token};

/// How long a worker waits at the poll for the next event before it goes to sleep. Longer than the kernel's tick:
/// a sleep that would end before it sets the timer anew and back again, which cost 3 us a sleep.
const LINGER: Duration = Duration::from_millis(20);
/// How long the poll thread turns away from events that gave nobody anything to do: newcomers that were refused.
/// Each would wake it otherwise. News of connections that a worker has in hand it leaves for [`LOOK`] to the worker.
const CHATTER: Duration = Duration::from_micros(300);
/// How often the poll thread looks after workers that keep up.
const LOOK_SELDOM: Duration = Duration::from_millis(5);

/// The poll loop and the events of its last turn.
pub(crate) struct Baton {
    pub(crate) poll_loop: PollLoop,
    events: Events,
}

impl Baton {
    pub(crate) fn new(poll_loop: PollLoop) -> Box<Self> {
        Box::new(Baton {
            poll_loop,
            events: Events::with_capacity(1024),
        })
    }

    fn turn(
        &mut self,
        receiver: &mut Receiver,
        until: Option<Instant>,
        other: impl FnMut(Token),
    ) -> io::Result<()> {
        self.poll_loop
            .turn(&mut self.events, receiver, until, other)
    }
}

/// The baton and what the poll thread has to know when it does not hold it.
#[derive(Default)]
pub(crate) struct Poller {
    baton: Mutex<Option<Box<Baton>>>,
    main: OnceLock<Thread>,
    /// Something waits for the poll thread.
    summoned: AtomicBool,
    signalled: AtomicBool,
    /// The poll thread sleeps in the poll, and nobody looks after the workers.
    resting: AtomicBool,
    /// The poll thread heard nothing but chatter last.
    chatter: AtomicBool,
    /// Turns of the poll that workers took.
    turns: AtomicU64,
}

impl Poller {
    /// Makes the calling thread the poll thread.
    pub(crate) fn open(&self, baton: Box<Baton>) {
        self.main.get_or_init(thread::current);
        *self.baton.lock() = Some(baton);
    }

    /// Takes the poll away; nobody polls from now on.
    pub(crate) fn close(&self) -> Option<Box<Baton>> {
        self.baton.lock().take()
    }

    /// A turn of the poll thread, which keeps the baton until it drops it.
    ///
    /// # Errors
    /// The poll itself fails, or was closed.
    pub(crate) fn turn<T>(
        &self,
        queue: &Queue<T>,
        receiver: &mut Receiver,
        until: Instant,
    ) -> io::Result<MappedMutexGuard<'_, Baton>> {
        let baton = MutexGuard::try_map(self.baton.lock(), |baton| baton.as_deref_mut());
        let Ok(mut baton) = baton else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let now = Instant::now();
        // Before the queue is looked at: who hands a turn in from outside sees this, or we see the turn.
        self.resting.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Summoned while a worker polled, it has duties whose wake-up call the worker heard. And where workers
        // have enough to do, it just fetches what has come, since each event would wake it otherwise.
        let hurry = self.summoned.swap(false, Ordering::SeqCst) || queue.len() > 0;
        let until = match queue.wants_watching() {
            _ if hurry => None,
            true => Some(until.min(now + LOOK)),
            false => Some(until),
        };
        let turned = baton.turn(receiver, until, |token| self.heed(token));
        self.resting.store(false, Ordering::SeqCst);
        let heard = !baton.events.is_empty() && baton.poll_loop.is_drained();
        let chatter = heard && queue.len() == 0;
        self.chatter.store(chatter, Ordering::Relaxed);
        turned.map(|()| baton)
    }

    /// Waits until the poll thread is needed: workers do the polling as long as they keep up.
    pub(crate) fn attend<T>(&self, queue: &Queue<T>, until: Instant) {
        if queue.len() == 0 {
            if self.chatter.load(Ordering::Relaxed) && !self.summoned.load(Ordering::SeqCst) {
                let keeps_up = queue.wants_watching();
                thread::park_timeout(if keeps_up { LOOK } else { CHATTER });
            }
            return;
        }
        queue.ring();
        let mut before = self.turns.load(Ordering::Relaxed);
        while !self.summoned.load(Ordering::SeqCst) && Instant::now() < until {
            let keep_up = queue.len() == 0;
            thread::park_timeout(if keep_up { LOOK_SELDOM } else { LOOK });
            let turns = self.turns.load(Ordering::Relaxed);
            if turns == before && !self.baton.is_locked() {
                return;
            }
            queue.ring();
            before = turns;
        }
    }

    /// Lets a worker without a turn look at the poll. False when another thread does, or when nothing happened
    /// for a while: then it may sleep, and the poll thread takes over. While the server drains nobody else polls.
    pub(crate) fn look<T>(
        &self,
        queue: &Queue<T>,
        draining: &AtomicBool,
        receiver: &mut Receiver,
    ) -> bool {
        if self.summoned.load(Ordering::SeqCst) || draining.load(Ordering::Relaxed) {
            return false;
        }
        let Some(mut guard) = self.baton.try_lock() else {
            return false;
        };
        let Some(baton) = guard.as_mut() else {
            return false;
        };
        // It was set under the baton. Later, we would hear in the poll thread's stead that the last one has left.
        if draining.load(Ordering::Relaxed) {
            return false;
        }
        let turned = baton.turn(receiver, Some(Instant::now() + LINGER), |token| {
            self.heed(token)
        });
        let heard = !baton.events.is_empty() || queue.len() > 0;
        drop(guard);
        self.turns.fetch_add(1, Ordering::Relaxed);
        let goes_on = turned.is_ok() && heard;
        if !goes_on || self.summoned.load(Ordering::SeqCst) {
            self.summon();
        }
        goes_on
    }

    /// Calls the poll thread to its duties. Who polls has to be woken besides.
    pub(crate) fn summon(&self) {
        self.summoned.store(true, Ordering::SeqCst);
        if let Some(main) = self.main.get() {
            main.unpark();
        }
    }

    /// True when the poll thread sleeps and does not look after the workers.
    pub(crate) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::SeqCst)
    }

    /// Whether signals have come since this was asked last.
    pub(crate) fn take_signalled(&self) -> bool {
        self.signalled.swap(false, Ordering::SeqCst)
    }

    fn heed(&self, token: Token) {
        if token == SIGNAL {
            self.signalled.store(true, Ordering::SeqCst);
            self.summoned.store(true, Ordering::SeqCst);
        }
    }
}
