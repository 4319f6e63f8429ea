#![forbid(unsafe_code)]
//! What the daemon did in the last minutes: a sample every two seconds, for the graphs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::control::{Link, Request, Response};
use crate::server::status::Status;

/// The time between samples.
pub(super) const STEP: Duration = Duration::from_secs(2);
/// The samples kept: ten minutes.
pub(super) const MOST: usize = 300;

/// Counters at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) active: u64,
    pub(super) busy: u64,
    pub(super) accepted: u64,
    pub(super) datagrams: u64,
    pub(super) dropped: u64,
    /// Refused connections by reason.
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) shaken: u64,
    pub(super) unshaken: u64,
    /// Connections or datagrams let in, by listener.
    pub(super) listeners: BTreeMap<String, u64>,
}

impl Sample {
    /// What status and metrics say.
    pub(super) fn of(at: Instant, status: &Status, metrics: &str) -> Sample {
        let mut sample = Sample {
            at,
            active: 0,
            busy: status.workers.busy as u64,
            accepted: 0,
            datagrams: 0,
            dropped: 0,
            refused: BTreeMap::new(),
            shaken: 0,
            unshaken: 0,
            listeners: BTreeMap::new(),
        };
        for listener in &status.listeners {
            sample.active += u64::from(listener.active);
            sample
                .listeners
                .insert(listener.name.clone(), listener.accepted);
            if listener.transport == "udp" {
                sample.datagrams += listener.accepted;
                sample.dropped += listener.rejected.values().sum::<u64>();
                continue;
            }
            sample.accepted += listener.accepted;
            for (reason, count) in &listener.rejected {
                *sample.refused.entry(reason.clone()).or_default() += count;
            }
        }
        // The status has no handshakes; the metrics do.
        for line in metrics.lines() {
            let Some(rest) = line.strip_prefix("portreeve_tls_handshakes_total{") else {
                continue;
            };
            let count = rest
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse().ok())
                .unwrap_or(0);
            if rest.contains("result=\"ok\"") {
                sample.shaken += count;
            } else {
                sample.unshaken += count;
            }
        }
        sample
    }
}

/// The samples, and the thread that takes them; it ends when this value is dropped.
#[derive(Debug)]
pub(super) struct History {
    samples: Arc<Mutex<VecDeque<Sample>>>,
    /// Dropped, it wakes the thread.
    _stop: Sender<()>,
}

impl History {
    /// Takes samples once there is a server.
    pub(super) fn start(link: &Link) -> History {
        let (stop, stopped) = bounded(0);
        let samples = Arc::new(Mutex::new(VecDeque::new()));
        let sink = Arc::clone(&samples);
        link.when_bound(move |link| {
            let link = link.clone();
            let thread = std::thread::Builder::new().name("admin-history".to_owned());
            // Without a thread there are no graphs; the pages are all the same.
            let _ = thread.spawn(move || {
                loop {
                    sample(&sink, &link, Instant::now());
                    if stopped.recv_timeout(STEP) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            });
        });
        History {
            samples,
            _stop: stop,
        }
    }

    /// The samples, the oldest first.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().iter().cloned().collect()
    }
}

/// Takes one sample, if the daemon runs.
fn sample(samples: &Mutex<VecDeque<Sample>>, link: &Link, now: Instant) {
    let (Response::Ok(status), Response::Ok(metrics)) = (
        link.execute(&Request::Status),
        link.execute(&Request::Metrics),
    ) else {
        return;
    };
    if let Ok(status) = serde_json::from_value::<Status>(status) {
        let sample = Sample::of(now, &status, metrics.as_str().unwrap_or_default());
        let mut samples = samples.lock();
        if samples.len() == MOST {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}
