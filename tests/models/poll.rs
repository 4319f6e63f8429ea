#![forbid(unsafe_code)]
//! A poll whose events the models make.

use std::time::Duration;

use shuttle::rand::Rng;
use shuttle::sync::{Arc, Condvar, Mutex};

use crate::server::queue::Queue;
use crate::sync::{Events, Instant, Token};

pub(crate) mod udp_io {
    #[derive(Default)]
    pub(crate) struct Receiver;
}

pub(crate) mod poll_loop {
    pub(crate) use super::PollLoop;
}

/// What is run when everything works; `None` is the end.
pub(crate) type Task = Option<usize>;

/// A sleep that may end without an event in the time of a model; longer ones may not.
const SHORT: Duration = Duration::from_secs(1);

/// The kernel's side.
#[derive(Default)]
pub(crate) struct Kernel {
    events: Mutex<(Vec<Task>, Vec<Token>)>,
    came: Condvar,
}

impl Kernel {
    /// A connection has something to do.
    pub(crate) fn event(&self, number: usize) {
        self.events.lock().unwrap().0.push(Some(number));
        self.came.notify_all();
    }

    /// Something else came: a signal, or a waker.
    pub(crate) fn token(&self, token: Token) {
        self.events.lock().unwrap().1.push(token);
        self.came.notify_all();
    }
}

/// What looks at it.
pub(crate) struct PollLoop {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) queue: Arc<Queue<Task>>,
}

impl PollLoop {
    /// Each turn takes all there is.
    pub(crate) fn is_drained(&self) -> bool {
        true
    }

    pub(crate) fn turn(
        &mut self,
        events: &mut Events,
        _: &mut udp_io::Receiver,
        until: Option<Instant>,
        mut other: impl FnMut(Token),
    ) -> std::io::Result<()> {
        let mut heard = self.kernel.events.lock().unwrap();
        while heard.0.is_empty() && heard.1.is_empty() {
            match until {
                None => break,
                Some(Instant(until)) if until < SHORT => {
                    if shuttle::rand::thread_rng().gen_bool(0.3) {
                        break;
                    }
                    drop(heard);
                    shuttle::thread::yield_now();
                    heard = self.kernel.events.lock().unwrap();
                }
                Some(_) => heard = self.kernel.came.wait(heard).unwrap(),
            }
        }
        let (tasks, tokens) = std::mem::take(&mut *heard);
        drop(heard);
        events.0 = tasks.len() + tokens.len();
        tokens.into_iter().for_each(&mut other);
        for task in tasks {
            self.queue.push(task);
        }
        Ok(())
    }
}
