#![forbid(unsafe_code)]
//! Work that blocks, given away so that neither a worker nor the poll loop waits for it.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Which threads run a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Computing, such as password hashes: as many at once as there are cores.
    Compute,
    /// Waiting, for a disk or an upstream.
    Wait,
}

/// Something to run away from the session, and where.
pub struct Work {
    lane: Lane,
    run: Box<dyn FnOnce() -> Outcome + Send>,
}

impl Work {
    /// Work whose result comes back in [`Event::Done`](super::Event::Done). It must end by itself:
    /// the connection is held until it does.
    pub fn new<T: Send + 'static>(lane: Lane, run: impl FnOnce() -> T + Send + 'static) -> Self {
        Work {
            lane,
            run: Box::new(move || Outcome(Some(Box::new(run())))),
        }
    }

    /// Where it wants to run.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Runs it here; a panic becomes an empty outcome.
    #[must_use]
    pub fn run(self) -> Outcome {
        catch_unwind(AssertUnwindSafe(self.run)).unwrap_or(Outcome(None))
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Work({:?})", self.lane)
    }
}

/// The result of [`Work`].
pub struct Outcome(Option<Box<dyn Any + Send>>);

impl Outcome {
    /// The result, if it is a `T`; `None` when it is not or the work panicked.
    #[must_use]
    pub fn take<T: 'static>(self) -> Option<T> {
        self.0?.downcast().ok().map(|result| *result)
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Outcome"
        } else {
            "Outcome(panicked)"
        })
    }
}
