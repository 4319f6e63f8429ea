#![forbid(unsafe_code)]
//! What `src/sync.rs` brings, of shuttle's making. No time passes here.

use std::ops::{Add, Deref, DerefMut};
use std::time::Duration;

/// A time, counted from the start; it is always the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(pub(crate) Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Instant(Duration::ZERO)
    }

    pub(crate) fn elapsed(self) -> Duration {
        Duration::ZERO
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, time: Duration) -> Instant {
        Instant(self.0 + time)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) usize);

/// How many events there were.
pub(crate) struct Events(pub(crate) usize);

impl Events {
    pub(crate) fn with_capacity(_: usize) -> Self {
        Events(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().unwrap())
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(MutexGuard)
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.try_lock().is_none()
    }
}

pub(crate) struct MutexGuard<'a, T>(shuttle::sync::MutexGuard<'a, T>);

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// The one mapping there is: to what is in a box.
pub(crate) struct MappedMutexGuard<'a, U>(MutexGuard<'a, Option<Box<U>>>);

impl<'a, U> MutexGuard<'a, Option<Box<U>>> {
    pub(crate) fn try_map(
        mut guard: Self,
        map: impl FnOnce(&mut Option<Box<U>>) -> Option<&mut U>,
    ) -> Result<MappedMutexGuard<'a, U>, Self> {
        match map(&mut guard).is_some() {
            true => Ok(MappedMutexGuard(guard)),
            false => Err(guard),
        }
    }
}

impl<U> Deref for MappedMutexGuard<'_, U> {
    type Target = U;

    fn deref(&self) -> &U {
        self.0.as_ref().unwrap()
    }
}

impl<U> DerefMut for MappedMutexGuard<'_, U> {
    fn deref_mut(&mut self) -> &mut U {
        self.0.as_mut().unwrap()
    }
}

pub(crate) mod atomic {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
}

pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::Mutex;

    type Shared<T> = Arc<Mutex<VecDeque<T>>>;

    pub(crate) struct Sender<T>(Shared<T>);
    pub(crate) struct Receiver<T>(Shared<T>);

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let shared = Shared::<T>::default();
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, value: T) -> Result<(), ()> {
            self.0.lock().push_back(value);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, ()> {
            self.0.lock().pop_front().ok_or(())
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().len()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }
    }
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use shuttle::thread::{Thread, current, park};

    /// The time may be over at once.
    pub(crate) fn park_timeout(_: Duration) {
        shuttle::thread::yield_now();
    }
}
