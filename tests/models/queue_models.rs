#![forbid(unsafe_code)]
//! The queue and who sleeps beside it.

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread::{self, JoinHandle};

use crate::poll::Task;
use crate::server::queue::Queue;

/// Counts turns, and lets somebody wait for them.
#[derive(Default)]
pub(crate) struct Count {
    taken: Mutex<Vec<usize>>,
    more: Condvar,
}

impl Count {
    pub(crate) fn note(&self, number: usize) {
        self.taken.lock().unwrap().push(number);
        self.more.notify_all();
    }

    /// Waits for so many, and that each is another one.
    pub(crate) fn wait_for(&self, many: usize) {
        let mut taken = self.taken.lock().unwrap();
        while taken.len() < many {
            taken = self.more.wait(taken).unwrap();
        }
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..many).collect::<Vec<_>>(), "each once");
    }
}

/// Workers that take until the end.
fn workers(queue: &Arc<Queue<Task>>, count: &Arc<Count>, many: usize) -> Vec<JoinHandle<()>> {
    let work = |seat| {
        let (queue, count) = (Arc::clone(queue), Arc::clone(count));
        thread::spawn(move || {
            while let Some(number) = queue.take(seat, || false) {
                count.note(number);
            }
        })
    };
    (0..many).map(work).collect()
}

fn end(queue: &Queue<Task>, workers: Vec<JoinHandle<()>>) {
    workers.iter().for_each(|_| queue.push(None));
    queue.ring_all();
    for worker in workers {
        worker.join().unwrap();
    }
}

pub(crate) fn every_turn_is_taken() {
    let queue = Arc::new(Queue::new(2));
    let count = Arc::new(Count::default());
    let workers = workers(&queue, &count, 2);
    let pushers = [0, 2].map(|first| {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            for number in first..first + 2 {
                queue.push(Some(number));
                queue.ring();
            }
        })
    });
    for pusher in pushers {
        pusher.join().unwrap();
    }
    count.wait_for(4);
    end(&queue, workers);
}

pub(crate) fn everybody_is_called_at_the_end() {
    let queue = Arc::new(Queue::new(3));
    let count = Arc::new(Count::default());
    let workers = workers(&queue, &count, 3);
    queue.push(Some(0));
    queue.ring();
    end(&queue, workers);
    count.wait_for(1);
}
