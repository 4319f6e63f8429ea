#![forbid(unsafe_code)]
//! The table of the parked.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use crate::server::parked::{Key, Parked, Signals};

const READ: Signals = Signals::READABLE.and(Signals::HANGUP);

/// A connection: bytes that came, and how many of them it has read.
struct Connection {
    came: Arc<AtomicUsize>,
    read: usize,
}

type Table = Parked<Box<Connection>>;

/// Reads what is there and rests, as a worker does.
fn turn(parked: &Table, key: Key, mut connection: Box<Connection>) {
    loop {
        connection.read = connection.came.load(Ordering::SeqCst);
        match parked.park(key, connection, READ, None) {
            Ok(_) => return,
            Err((back, _)) => connection = back,
        }
    }
}

pub(crate) fn no_event_is_lost() {
    const BYTES: usize = 3;
    let parked = Arc::new(Table::new());
    let key = parked.reserve(None).0;
    let came = Arc::new(AtomicUsize::new(0));
    let connection = Box::new(Connection {
        came: Arc::clone(&came),
        read: 0,
    });
    let worker = {
        let parked = Arc::clone(&parked);
        thread::spawn(move || turn(&parked, key, connection))
    };
    let poll = {
        let parked = Arc::clone(&parked);
        thread::spawn(move || {
            for _ in 0..BYTES {
                came.fetch_add(1, Ordering::SeqCst);
                if let Some((connection, _)) = parked.signal(key, Signals::READABLE) {
                    turn(&parked, key, connection);
                }
            }
        })
    };
    worker.join().unwrap();
    poll.join().unwrap();
    let rests = parked.empty();
    assert_eq!(rests.len(), 1, "one connection");
    assert_eq!(rests[0].read, BYTES, "read");
}

pub(crate) fn back_once() {
    let parked = Arc::new(Parked::<&str>::new());
    let key = parked.reserve(None).0;
    let now = std::time::Instant::now();
    let wants = READ.and(Signals::DUE).and(Signals::SHUTDOWN);
    let back = Arc::new(AtomicUsize::new(0));
    let calls: [fn(&Parked<&'static str>, Key, std::time::Instant) -> usize; 5] = [
        |parked, key, _| usize::from(parked.signal(key, Signals::READABLE).is_some()),
        |parked, _, now| usize::from(parked.due(now).is_some()),
        |parked, _, _| parked.cut(|_, _, _| true).1.len(),
        |parked, _, _| parked.shutdown().len(),
        |parked, key, now| {
            let wants = READ.and(Signals::DUE).and(Signals::SHUTDOWN);
            usize::from(parked.park(key, "it", wants, Some(now)).is_err())
        },
    ];
    let threads = calls.map(|call| {
        let (parked, back) = (Arc::clone(&parked), Arc::clone(&back));
        thread::spawn(move || {
            back.fetch_add(call(&parked, key, now), Ordering::SeqCst);
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    // One that was parked after all others had looked is due.
    let left = parked.due(now).is_some();
    let cut = parked.collect(key).has(wants.and(Signals::CUT));
    let back = back.load(Ordering::SeqCst) + usize::from(left);
    assert_eq!(back, 1, "came back; left {left}, signals {cut}");
    parked.release(key);
    assert!(!parked.is_live(key) && parked.empty().is_empty());
}

pub(crate) fn late_signals() {
    let parked = Arc::new(Parked::<&str>::new());
    let old = parked.reserve(None).0;
    assert!(parked.park(old, "old", READ, None).is_ok());
    let late = {
        let parked = Arc::clone(&parked);
        thread::spawn(move || {
            let first = parked.signal(old, Signals::READABLE);
            let then = parked.signal(old, Signals::HANGUP);
            for (who, _) in first.into_iter().chain(then) {
                assert_eq!(who, "old");
            }
        })
    };
    let renewed = {
        let parked = Arc::clone(&parked);
        thread::spawn(move || {
            parked.release(old);
            let new = parked.reserve(None).0;
            assert_eq!(new.index, old.index);
            assert_eq!(parked.collect(new), Signals::NONE, "of the one before");
            assert!(parked.park(new, "new", READ, None).is_ok());
            new
        })
    };
    late.join().unwrap();
    let new = renewed.join().unwrap();
    assert_eq!(
        parked.signal(new, Signals::READABLE),
        Some(("new", Signals::READABLE))
    );
}
