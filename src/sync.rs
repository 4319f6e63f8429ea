#![forbid(unsafe_code)]
//! What the table of the parked, the queue and the baton are made of. `tests/models` compiles these files with
//! others in its place, and tries how their threads may meet.

pub(crate) use std::time::Instant;

pub(crate) use mio::{Events, Token};
pub(crate) use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
}

pub(crate) mod channel {
    pub(crate) use crossbeam_channel::{Receiver, Sender, unbounded};
}

pub(crate) mod thread {
    pub(crate) use std::thread::{Thread, current, park, park_timeout};
}
