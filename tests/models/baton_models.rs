#![forbid(unsafe_code)]
//! The baton: who looks at the poll, while workers run what is heard and others hand in turns from outside.

use std::time::Duration;

use shuttle::sync::Arc;
use shuttle::sync::atomic::AtomicBool;
use shuttle::thread::{self, JoinHandle};

use crate::poll::udp_io::Receiver;
use crate::poll::{Kernel, PollLoop, Task};
use crate::queue_models::Count;
use crate::server::SIGNAL;
use crate::server::baton::{Baton, Poller};
use crate::server::queue::Queue;
use crate::sync::{Instant, Token};

const WAKE: Token = Token(2);
/// Later than any model ends.
const NEVER: Instant = Instant(Duration::from_secs(1000));

/// The daemon, as far as it goes.
struct Daemon {
    kernel: Arc<Kernel>,
    queue: Arc<Queue<Task>>,
    poller: Poller,
    draining: AtomicBool,
    count: Count,
}

impl Daemon {
    fn new(workers: usize) -> Arc<Self> {
        Arc::new(Daemon {
            kernel: Arc::default(),
            queue: Arc::new(Queue::new(workers)),
            poller: Poller::default(),
            draining: AtomicBool::new(false),
            count: Count::default(),
        })
    }

    /// Starts the poll thread and the workers; they end at [`SIGNAL`].
    fn start(self: &Arc<Self>, workers: usize) -> Vec<JoinHandle<()>> {
        let work = |seat| {
            let daemon = Arc::clone(self);
            thread::spawn(move || daemon.work(seat))
        };
        let mut threads: Vec<_> = (0..workers).map(work).collect();
        let daemon = Arc::clone(self);
        threads.push(thread::spawn(move || daemon.serve(workers)));
        threads
    }

    fn work(&self, seat: usize) {
        let mut receiver = Receiver;
        let mut idle = || self.poller.look(&self.queue, &self.draining, &mut receiver);
        while let Some(number) = self.queue.take(seat, &mut idle) {
            self.count.note(number);
        }
    }

    /// As `Shared::serve`, which ends here at the first signal.
    fn serve(&self, workers: usize) {
        self.poller.open(Baton::new(PollLoop {
            kernel: Arc::clone(&self.kernel),
            queue: Arc::clone(&self.queue),
        }));
        loop {
            let baton = self.poller.turn(&self.queue, &mut Receiver, NEVER).unwrap();
            if self.poller.take_signalled() {
                break;
            }
            drop(baton);
            self.poller.attend(&self.queue, NEVER);
        }
        drop(self.poller.close());
        (0..workers).for_each(|_| self.queue.push(None));
        self.queue.ring_all();
    }

    /// As `Core::hand_in`.
    fn hand_in(&self, number: usize) {
        self.queue.push(Some(number));
        self.queue.ring();
        if self.poller.is_resting() {
            self.kernel.token(WAKE);
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

pub(crate) fn everything_is_run() {
    let daemon = Daemon::new(2);
    let threads = daemon.start(2);
    let lane = {
        let daemon = Arc::clone(&daemon);
        thread::spawn(move || (0..2).for_each(|number| daemon.hand_in(number)))
    };
    (2..5).for_each(|number| daemon.kernel.event(number));
    lane.join().unwrap();
    daemon.count.wait_for(5);
    daemon.kernel.token(SIGNAL);
    join(threads);
}

pub(crate) fn a_signal_is_heeded() {
    let daemon = Daemon::new(2);
    let threads = daemon.start(2);
    daemon.kernel.event(0);
    daemon.kernel.token(SIGNAL);
    join(threads);
}
