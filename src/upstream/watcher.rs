#![forbid(unsafe_code)]
//! Tells a session by its [`Waker`] that a socket of its own is ready. One thread for all of them, which does
//! nothing else: sessions read and write themselves, on their workers, without blocking.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

use mio::event::Source;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;

use crate::patience;
use crate::session::Waker;

/// Watches the sockets of all sessions. One row for each, so it is bounded by the listeners' channels.
struct Watcher {
    registry: Registry,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    next: usize,
    wakers: HashMap<Token, Waker>,
}

/// A socket's row; its owner takes it back with [`Watched::end`] or by dropping it with the socket.
pub(super) struct Watched {
    token: Token,
    watcher: Arc<Watcher>,
}

/// Lets `waker` be used whenever `source` becomes readable or writable, or ends.
pub(super) fn watch(source: &mut dyn Source, waker: Waker) -> io::Result<Watched> {
    let watcher = watcher()?;
    let token = {
        let mut rows = watcher.rows.lock();
        let token = Token(rows.next);
        rows.next = rows.next.wrapping_add(1);
        rows.wakers.insert(token, waker);
        token
    };
    let watched = Watched { token, watcher };
    // Mio's sources are registered for edges: a session reads and writes until the socket would block.
    let interest = Interest::READABLE | Interest::WRITABLE;
    watched.watcher.registry.register(source, token, interest)?;
    Ok(watched)
}

impl Watched {
    /// Gives the socket back to whoever will watch it next.
    pub(super) fn end(self, source: &mut dyn Source) -> io::Result<()> {
        self.watcher.registry.deregister(source)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watcher.rows.lock().wakers.remove(&self.token);
    }
}

fn watcher() -> io::Result<Arc<Watcher>> {
    static WATCHER: OnceLock<Arc<Watcher>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock();
    if let Some(watcher) = WATCHER.get() {
        return Ok(Arc::clone(watcher));
    }
    let poll = Poll::new()?;
    let watcher = Arc::new(Watcher {
        registry: poll.registry().try_clone()?,
        rows: Mutex::default(),
    });
    let running = Arc::clone(&watcher);
    std::thread::Builder::new()
        .name("upstreams".to_owned())
        .spawn(move || run(poll, &running))?;
    Ok(Arc::clone(WATCHER.get_or_init(|| watcher)))
}

fn run(mut poll: Poll, watcher: &Watcher) {
    let mut events = Events::with_capacity(256);
    loop {
        if let Err(error) = patience::poll(&mut poll, &mut events, None) {
            log::error!("upstreams are watched no more: {error}");
            return;
        }
        for event in &events {
            let waker = watcher.rows.lock().wakers.get(&event.token()).cloned();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
