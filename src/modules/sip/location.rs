#![forbid(unsafe_code)]
//! The location service of a domain: bindings, the ways to send, and the file that keeps bindings over a
//! restart. One for all listeners of a domain, over UDP and TCP.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use parking_lot::Mutex;

use super::bindings::Bindings;
use super::digest::Used;
use super::flow::{Flow, Signer, Transport};
use crate::files;
use crate::session::Waker;
use crate::session::datagram::{Outlet, Route};

/// Messages that wait for a connection to write them; further ones find it busy.
const MOST_LETTERS: usize = 256;
/// The same in bytes, over what its peer has not taken yet.
const MOST_WAITING: usize = 1 << 20;
/// Our addresses that are remembered; a wildcard socket learns them from who asks.
const MOST_LOCALS: usize = 64;

/// What is kept while there is a listener of the domain.
pub(super) struct Location {
    file: PathBuf,
    /// For tokens and branches: the same after a restart.
    signer: OnceLock<Signer>,
    /// For nonces: of this process, since what was used is not kept.
    pub(super) nonces: Signer,
    pub(super) used: Mutex<Used>,
    pub(super) bindings: Mutex<Bindings>,
    outlets: Mutex<Vec<Outlet>>,
    /// Open connections. One row each, so bounded by the listeners' channels.
    connections: Mutex<HashMap<(SocketAddr, SocketAddr), Arc<Letters>>>,
    locals: Mutex<HashSet<SocketAddr>>,
    changed: AtomicBool,
    duty: Mutex<Duty>,
    /// Held while the file is written.
    writing: Mutex<()>,
    /// When it was last said that the disk refuses, in seconds of the epoch.
    complained: AtomicU64,
}

/// By file: listeners of one domain have one.
static LOCATIONS: LazyLock<Mutex<HashMap<PathBuf, Weak<Location>>>> = LazyLock::new(Mutex::default);

/// How long bindings are not written again after they were: each time it is all of them.
const PAUSE: Duration = Duration::from_secs(1);
/// How long somebody may be late with writing them before others do it.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// When bindings were written, and are to be.
#[derive(Default)]
struct Duty {
    latest: Option<Instant>,
    due: Option<Instant>,
}

/// At the end of the last listener, and so of the daemon.
impl Drop for Location {
    fn drop(&mut self) {
        if self.changed.load(Ordering::Acquire) {
            self.save();
        }
    }
}

/// Messages for a connection, and who wakes it.
pub(super) struct Letters {
    waker: Waker,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    letters: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Letters {
    fn put(&self, bytes: &[u8]) -> bool {
        {
            let mut waiting = self.waiting.lock();
            if waiting.letters.len() >= MOST_LETTERS || waiting.bytes + bytes.len() > MOST_WAITING {
                return false;
            }
            waiting.bytes += bytes.len();
            waiting.letters.push_back(bytes.to_vec());
        }
        // Not under the lock: a waker queues a turn.
        self.waker.wake();
        true
    }

    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut waiting = self.waiting.lock();
        let letter = waiting.letters.pop_front()?;
        waiting.bytes -= letter.len();
        Some(letter)
    }
}

/// A connection's place in the table; ends with its drop.
pub(super) struct Seat {
    location: Arc<Location>,
    key: (SocketAddr, SocketAddr),
    pub(super) letters: Arc<Letters>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut connections = self.location.connections.lock();
        let own = |letters: &Arc<Letters>| Arc::ptr_eq(letters, &self.letters);
        if connections.get(&self.key).is_some_and(own) {
            connections.remove(&self.key);
        }
    }
}

/// Seconds of the epoch.
pub(super) fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Location {
    /// The one of a domain.
    pub(super) fn of(state_dir: &Path, domain: &str) -> Arc<Location> {
        let file = state_dir.join("sip").join(format!("{domain}.json"));
        let mut locations = LOCATIONS.lock();
        locations.retain(|_, location| location.strong_count() > 0);
        if let Some(known) = locations.get(&file).and_then(Weak::upgrade) {
            return known;
        }
        let mut key = [0; 32];
        // Without random numbers nobody can be challenged safely; the process has none for TLS either.
        getrandom::fill(&mut key).unwrap_or_else(|error| panic!("no random numbers: {error}"));
        let location = Arc::new(Location {
            file: file.clone(),
            signer: OnceLock::new(),
            nonces: Signer::new(&key),
            used: Mutex::default(),
            bindings: Mutex::default(),
            outlets: Mutex::default(),
            connections: Mutex::default(),
            locals: Mutex::default(),
            changed: AtomicBool::new(false),
            duty: Mutex::default(),
            writing: Mutex::default(),
            complained: AtomicU64::new(0),
        });
        locations.insert(file, Arc::downgrade(&location));
        location
    }

    /// Signs tokens and branches. The first call reads what was kept.
    pub(super) fn signer(&self) -> &Signer {
        self.signer.get_or_init(|| {
            self.restore(seconds(SystemTime::now()));
            match self.key() {
                Ok(key) => Signer::new(&key),
                Err(error) => {
                    let file = self.file.display();
                    log::warn!("{file}: calls that are up now will not survive a restart: {error}");
                    let mut key = [0; 32];
                    getrandom::fill(&mut key)
                        .unwrap_or_else(|error| panic!("no random numbers: {error}"));
                    Signer::new(&key)
                }
            }
        })
    }

    /// The domain's own key; made at the first time.
    fn key(&self) -> io::Result<Vec<u8>> {
        let file = self.file.with_extension("key");
        match fs::read(&file) {
            Ok(key) if key.len() == 32 => return Ok(key),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut key = vec![0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        self.make_directory()?;
        files::replace_private(&file, &key)?;
        Ok(key)
    }

    fn make_directory(&self) -> io::Result<()> {
        self.file.parent().map_or(Ok(()), fs::create_dir_all)
    }

    fn restore(&self, now: u64) {
        let kept = fs::read(&self.file)
            .and_then(|text| Bindings::read(&text, now).map_err(io::Error::other));
        match kept {
            Ok(bindings) => *self.bindings.lock() = bindings,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.put_aside(&error),
        }
    }

    /// The next registration writes the file anew: what could not be read is kept beside it.
    fn put_aside(&self, error: &io::Error) {
        let (file, aside) = (self.file.display(), self.file.with_extension("json.bad"));
        match fs::rename(&self.file, &aside) {
            Ok(()) => log::error!(
                "{file}: {error}; nobody is registered, and the file is now {}",
                aside.display()
            ),
            Err(other) => log::error!(
                "{file}: {error}; nobody is registered, and it cannot be put aside: {other}"
            ),
        }
    }

    /// Bindings have changed. Whoever is told a time runs [`Location::save`] when it has passed; nobody is told
    /// while somebody else is to do so.
    pub(super) fn change(&self, now: Instant) -> Option<Duration> {
        self.changed.store(true, Ordering::Release);
        let mut duty = self.duty.lock();
        // Who does not do it within that time never will: the connection or the listener is gone.
        if duty.due.is_some_and(|due| now < due + FORGOTTEN) {
            return None;
        }
        let earliest = duty.latest.map_or(now, |latest| latest + PAUSE);
        duty.due = Some(earliest.max(now));
        Some(earliest.saturating_duration_since(now))
    }

    /// Writes the bindings, on a thread that may block. True when they have changed meanwhile.
    pub(super) fn save(&self) -> bool {
        let _alone = self.writing.lock();
        self.changed.store(false, Ordering::Release);
        let now = seconds(SystemTime::now());
        let kept = self.bindings.lock().kept(now);
        let text = kept.text().map_err(io::Error::other);
        let written = text.and_then(|text| {
            self.make_directory()?;
            files::replace_private(&self.file, &text)
        });
        if let Err(error) = written
            && self.complained.swap(now, Ordering::Relaxed) + 60 <= now
        {
            let file = self.file.display();
            log::error!("{file}: {error}; registrations are lost at a restart");
        }
        *self.duty.lock() = Duty {
            latest: Some(Instant::now()),
            due: None,
        };
        self.changed.load(Ordering::Acquire)
    }

    /// A listener's sockets.
    pub(super) fn join(&self, outlet: &Outlet) {
        let mut outlets = self.outlets.lock();
        outlets.retain(|known| known.is_open() && !known.is(outlet));
        outlets.push(outlet.clone());
    }

    /// A connection, for as long as the seat lives.
    pub(super) fn seat(self: &Arc<Self>, flow: &Flow, waker: Waker) -> Seat {
        self.meet(flow.local);
        let key = (flow.remote, flow.local);
        let letters = Arc::new(Letters {
            waker,
            waiting: Mutex::default(),
        });
        self.connections.lock().insert(key, Arc::clone(&letters));
        Seat {
            location: Arc::clone(self),
            key,
            letters,
        }
    }

    /// One of our own addresses.
    pub(super) fn meet(&self, local: SocketAddr) {
        let mut locals = self.locals.lock();
        if locals.len() < MOST_LOCALS {
            locals.insert(local);
        }
    }

    pub(super) fn is_local(&self, address: SocketAddr) -> bool {
        self.locals.lock().contains(&address)
    }

    /// The flow with the end that it would leave from; `None` where nothing leads there now.
    pub(super) fn exit(&self, flow: &Flow) -> Option<Flow> {
        match flow.transport {
            Transport::Udp => {
                let (outlet, route) = self.towards(flow)?;
                let local = outlet.local(route)?;
                // A wildcard socket that was not asked at that address: the system chooses, we name what we know.
                let local = match local.ip().is_unspecified() {
                    true => SocketAddr::new(flow.local.ip(), local.port()),
                    false => local,
                };
                Some(Flow { local, ..*flow })
            }
            Transport::Tcp | Transport::Tls => {
                let connections = self.connections.lock();
                connections
                    .contains_key(&(flow.remote, flow.local))
                    .then_some(*flow)
            }
        }
    }

    fn towards(&self, flow: &Flow) -> Option<(Outlet, Route)> {
        let outlets = self.outlets.lock();
        let ways = outlets.iter();
        let mut ways =
            ways.filter_map(|outlet| Some((outlet, outlet.towards(flow.local, flow.remote)?)));
        let first = ways.next()?;
        // The socket that is meant, where it is not the first.
        let same = |(outlet, route): &(&Outlet, Route)| outlet.local(*route) == Some(flow.local);
        let (outlet, route) = match same(&first) {
            true => first,
            false => ways.find(same).unwrap_or(first),
        };
        Some((outlet.clone(), route))
    }

    /// Sends along a flow; false where nothing leads there now.
    pub(super) fn send(&self, flow: &Flow, bytes: &[u8]) -> bool {
        match flow.transport {
            Transport::Udp => match self.towards(flow) {
                Some((outlet, route)) => {
                    outlet.send(route, bytes);
                    true
                }
                None => false,
            },
            Transport::Tcp | Transport::Tls => {
                let key = (flow.remote, flow.local);
                let letters = self.connections.lock().get(&key).cloned();
                letters.is_some_and(|letters| letters.put(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Location;

    #[test]
    fn a_file_that_cannot_be_read_is_put_aside_and_not_written_over() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("sip").join("damaged.example.json");
        fs::create_dir(state.path().join("sip")).unwrap();
        fs::write(&file, b"{\"accounts\":{\"ann\":[").unwrap();
        let location = Location::of(state.path(), "damaged.example");
        let _ = location.signer();
        location.save();
        assert_eq!(fs::read(&file).unwrap(), b"{\"accounts\":{}}");
        let aside = fs::read(file.with_extension("json.bad")).unwrap();
        assert_eq!(aside, b"{\"accounts\":{\"ann\":[");
    }
}
