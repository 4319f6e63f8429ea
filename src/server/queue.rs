#![forbid(unsafe_code)]
//! The queue between those who have turns to give and the workers, and which workers are awake.
//!
//! Waking a thread costs more than a short turn, so a push wakes nobody. Whoever has pushed all it had rings
//! once, and as many workers as there are cores are enough as long as they keep up. More are called when turns
//! have to wait: for [`PATIENCE`] where a core may be free, for [`STUCK`] where only workers that are held up
//! by what they run can be the reason, or when none was taken for [`LOOK`]. The worker that slept last is called first, since its memory is still warm.

use std::sync::OnceLock;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::channel::{Receiver, Sender, unbounded};
use crate::sync::thread::{self, Thread};
use crate::sync::{Instant, Mutex};

/// How long a turn may wait while a core may be free.
const PATIENCE: Duration = Duration::from_micros(50);
/// How long it may wait where each core has a worker.
const STUCK: Duration = Duration::from_millis(10);
/// How long there may be turns and none is taken; and how often somebody looks.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// Turns in order, and the workers that sleep beside them.
pub(crate) struct Queue<T> {
    sender: Sender<(Duration, T)>,
    receiver: Receiver<(Duration, T)>,
    /// Times are counted from here.
    start: Instant,
    seats: Vec<Seat>,
    cores: usize,
    /// Seats of the workers that sleep; the last one to lie down is the first to be called.
    asleep: Mutex<Vec<usize>>,
    awake: AtomicUsize,
    /// Called, and not up yet.
    rising: AtomicUsize,
    /// When a turn was taken last, in nanoseconds.
    taken: AtomicU64,
    pub(crate) waits: Waits,
}

/// Where a worker sleeps.
#[derive(Default)]
struct Seat {
    thread: OnceLock<Thread>,
    called: AtomicBool,
}

impl<T> Queue<T> {
    /// A queue for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        let (sender, receiver) = unbounded();
        Queue {
            sender,
            receiver,
            start: Instant::now(),
            seats: (0..workers).map(|_| Seat::default()).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            asleep: Mutex::new(Vec::with_capacity(workers)),
            awake: AtomicUsize::new(workers),
            rising: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            waits: Waits::default(),
        }
    }

    /// Appends a turn. It is taken for sure once [`Queue::ring`] was called.
    pub(crate) fn push(&self, task: T) {
        let _ = self.sender.send((self.start.elapsed(), task));
    }

    /// Turns that nobody has taken yet.
    pub(crate) fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Calls a worker if turns wait and those that are awake do not keep up.
    pub(crate) fn ring(&self) {
        // Against the fence in `sleep`: the worker sees what was pushed, or we see that it sleeps.
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() || self.rising.load(Ordering::Relaxed) > 0 {
            return;
        }
        if self.awake.load(Ordering::Relaxed) == 0 || self.is_late() {
            self.call();
        }
    }

    /// Calls every worker, for the end.
    pub(crate) fn ring_all(&self) {
        fence(Ordering::SeqCst);
        while self.call() {}
    }

    /// True while turns could come to a halt: some workers are awake, maybe held up, and others sleep.
    pub(crate) fn wants_watching(&self) -> bool {
        let awake = self.awake.load(Ordering::Relaxed);
        awake > 0 && awake < self.seats.len()
    }

    /// The next turn, for the worker in a seat. Where there is none it calls `idle`, which may find some, and
    /// sleeps when that says false.
    pub(crate) fn take(&self, seat: usize, mut idle: impl FnMut() -> bool) -> T {
        loop {
            let Ok((pushed, task)) = self.receiver.try_recv() else {
                if !idle() {
                    self.sleep(seat);
                }
                continue;
            };
            let now = self.start.elapsed();
            let waited = now.saturating_sub(pushed);
            self.taken.store(nanoseconds(now), Ordering::Relaxed);
            self.waits.note(waited);
            if waited > self.patience()
                && !self.receiver.is_empty()
                && self.rising.load(Ordering::Relaxed) == 0
            {
                self.call();
            }
            return task;
        }
    }

    fn patience(&self) -> Duration {
        if self.awake.load(Ordering::Relaxed) < self.cores {
            PATIENCE
        } else {
            STUCK
        }
    }

    /// True when no turn was taken for longer than one should wait.
    fn is_late(&self) -> bool {
        let now = nanoseconds(self.start.elapsed());
        now.saturating_sub(self.taken.load(Ordering::Relaxed))
            > nanoseconds(self.patience().min(LOOK))
    }

    /// Calls one sleeper; false when nobody sleeps.
    fn call(&self) -> bool {
        let called = {
            let mut asleep = self.asleep.lock();
            let called = asleep.pop();
            if called.is_some() {
                self.awake.fetch_add(1, Ordering::Relaxed);
                self.rising.fetch_add(1, Ordering::Relaxed);
            }
            called
        };
        let Some(seat) = called.map(|index| &self.seats[index]) else {
            return false;
        };
        seat.called.store(true, Ordering::Release);
        if let Some(thread) = seat.thread.get() {
            thread.unpark();
        }
        true
    }

    fn sleep(&self, index: usize) {
        let seat = &self.seats[index];
        seat.thread.get_or_init(thread::current);
        {
            let mut asleep = self.asleep.lock();
            asleep.push(index);
            self.awake.fetch_sub(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        if !self.receiver.is_empty() {
            let mut asleep = self.asleep.lock();
            if let Some(at) = asleep.iter().rposition(|other| *other == index) {
                asleep.remove(at);
                self.awake.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        while !seat.called.swap(false, Ordering::Acquire) {
            thread::park();
        }
        self.rising.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How long turns waited, as a histogram.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    counts: [AtomicU64; Waits::BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Waits {
    /// The upper bounds of all but the last count.
    pub(crate) const BOUNDS: [Duration; 8] = [
        Duration::from_micros(10),
        Duration::from_micros(30),
        Duration::from_micros(100),
        Duration::from_micros(300),
        Duration::from_millis(1),
        Duration::from_millis(10),
        Duration::from_millis(100),
        Duration::from_secs(1),
    ];

    fn note(&self, waited: Duration) {
        let at = Self::BOUNDS.partition_point(|bound| *bound < waited);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds
            .fetch_add(nanoseconds(waited), Ordering::Relaxed);
    }

    /// The counts, one more than there are bounds, and the sum of all waits.
    pub(crate) fn sample(&self) -> (Vec<u64>, Duration) {
        let counts = self.counts.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed)).collect();
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        (counts, sum)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Queue, Waits};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Workers that add up what they take, until each has got a `None`.
    fn workers(
        queue: &Arc<Queue<Option<usize>>>,
        count: usize,
    ) -> Vec<std::thread::JoinHandle<usize>> {
        let work = |seat| {
            let queue = Arc::clone(queue);
            std::thread::spawn(move || {
                let mut sum = 0;
                while let Some(number) = queue.take(seat, || false) {
                    sum += number;
                }
                sum
            })
        };
        (0..count).map(work).collect()
    }

    #[test]
    fn every_turn_is_taken_once_however_pushes_and_sleeps_meet() {
        let queue = Arc::new(Queue::new(3));
        let threads = workers(&queue, 3);
        let taken = Arc::new(AtomicUsize::new(0));
        for number in 1..=20_000 {
            queue.push(Some(number));
            queue.ring();
            if number % 64 == 0 {
                // Lets them run dry and lie down.
                while queue.len() > 0 {
                    queue.ring();
                    std::thread::yield_now();
                }
            }
        }
        (0..3).for_each(|_| queue.push(None));
        queue.ring_all();
        for thread in threads {
            taken.fetch_add(thread.join().unwrap(), Ordering::Relaxed);
        }
        assert_eq!(taken.load(Ordering::Relaxed), 20_000 * 20_001 / 2);
        let (counts, _) = queue.waits.sample();
        assert_eq!(counts.iter().sum::<u64>(), 20_003);
    }

    #[test]
    fn waits_are_counted_below_their_bounds() {
        let waits = Waits::default();
        waits.note(Duration::from_micros(10));
        waits.note(Duration::from_micros(11));
        waits.note(Duration::from_secs(9));
        let (counts, sum) = waits.sample();
        assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(sum, Duration::from_micros(21) + Duration::from_secs(9));
    }
}
