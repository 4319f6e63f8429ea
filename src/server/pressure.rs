#![forbid(unsafe_code)]
//! How near the server is to its limits: a thread measures, and the stage is one number that everybody can read.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use super::Shared;
use super::core::Core;
use super::parked::{Key, Signals};
use super::status::{OverloadStatus, ShareStatus};
use crate::admission::overload::{Measures, Overload, Share, Stage, Step};
use crate::session::Class;

/// How often the server is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long one who is no client may be silent in a strained server. Once it is told to end as if the server stopped,
/// it has the same time again before it is cut.
const SILENCE: Duration = Duration::from_secs(10);
/// How often the silent are looked for.
const ROUND: Duration = Duration::from_secs(1);

/// The stage, for whoever lets somebody in.
#[derive(Debug, Default)]
pub(crate) struct Pressure(AtomicU8);

impl Pressure {
    /// The stage now.
    pub(crate) fn stage(&self) -> Stage {
        Stage::of(self.0.load(Ordering::Relaxed))
    }
}

/// What was measured last, for people.
#[derive(Default)]
pub(super) struct Gauge {
    last: Mutex<(Measures, Option<&'static str>)>,
    /// Bytes that the configuration allows; 0 where it says nothing.
    pub(super) memory: AtomicU64,
}

impl Gauge {
    /// As `status` shows it.
    pub(super) fn status(&self, stage: Stage) -> OverloadStatus {
        let (measures, cause) = *self.last.lock();
        let share = |share: Share| ShareStatus {
            used: share.used,
            limit: (share.limit > 0).then_some(share.limit),
        };
        OverloadStatus {
            stage: stage as u8,
            name: stage.name().to_owned(),
            cause: cause.map(str::to_owned),
            queue_wait: measures.wait.as_secs_f64(),
            descriptors: share(measures.descriptors),
            memory: share(measures.memory),
        }
    }
}

/// The thread that measures. Dropped, it ends.
pub(super) struct Meter {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let shared = Arc::downgrade(shared);
        let thread = std::thread::Builder::new()
            .name("overload".to_owned())
            .spawn(move || run(&shared, &stopped))?;
        Ok(Meter {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Weak<Shared>, stopped: &Receiver<()>) {
    let mut overload = Overload::default();
    let mut waits = Waiting::default();
    let mut silent = Silent::default();
    let machine = machine_limit();
    while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let now = Instant::now();
        let configured = shared.gauge.memory.load(Ordering::Relaxed);
        let measures = Measures {
            wait: waits.look(&shared.core, now),
            descriptors: descriptors(),
            memory: Share {
                used: resident(),
                limit: if configured > 0 { configured } else { machine },
            },
        };
        let step = overload.look(&measures, now);
        let (stage, cause) = overload.stage();
        *shared.gauge.last.lock() = (measures, cause.map(|cause| cause.name()));
        if let Some(step) = step {
            shared.core.pressure.0.store(stage as u8, Ordering::Relaxed);
            say(&step, &measures);
        }
        silent.look(&shared.core, stage, now);
    }
}

fn say(step: &Step, measures: &Measures) {
    let does = match step.to {
        Stage::Calm => "everybody is served",
        Stage::Strained => "silent connections of others than clients are ended early",
        Stage::Guarded => "no newcomers but clients",
        Stage::Slowed => "clients wait, and are let in a few at a time",
    };
    let wait = humantime::format_duration(Duration::from_millis(
        u64::try_from(measures.wait.as_millis()).unwrap_or(u64::MAX),
    ));
    let Share { used, limit } = measures.descriptors;
    let memory = measures.memory.used >> 20;
    let of = match measures.memory.limit {
        0 => String::new(),
        limit => format!(" of {}", limit >> 20),
    };
    let level = if step.to > step.from {
        log::Level::Warn
    } else {
        log::Level::Info
    };
    log::log!(
        level,
        "overload: from {} to {} for {}: {does} (turns wait {wait}, {used} of {limit} descriptors are open, \
         {memory}{of} MiB of memory are in use)",
        step.from,
        step.to,
        step.cause.name(),
    );
}

/// How long turns wait: the mean of those that began in the last tick in which any did. While none begins and some
/// wait, it is at least the time since then.
#[derive(Default)]
struct Waiting {
    count: u64,
    sum: Duration,
    mean: Duration,
    begun: Option<Instant>,
}

impl Waiting {
    fn look(&mut self, core: &Core, now: Instant) -> Duration {
        let (counts, sum) = core.queue.waits.sample();
        let count: u64 = counts.iter().sum();
        let (begun, waited) = (count - self.count, sum.saturating_sub(self.sum));
        (self.count, self.sum) = (count, sum);
        if begun > 0 || core.queue.len() == 0 {
            self.begun = Some(now);
            self.mean = waited / u32::try_from(begun.max(1)).unwrap_or(u32::MAX);
        }
        let since = self.begun.map_or(Duration::ZERO, |at| now - at);
        self.mean.max(since)
    }
}

/// Connections of others than clients, how much has passed over them, and since when it is no more than that. No
/// larger than the table of connections; empty in a calm server.
#[derive(Default)]
struct Silent {
    next: Option<Instant>,
    seen: HashMap<Key, (u64, Instant, bool)>,
}

impl Silent {
    fn look(&mut self, core: &Arc<Core>, stage: Stage, now: Instant) {
        if stage == Stage::Calm {
            self.seen = HashMap::new();
            self.next = None;
            return;
        }
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + ROUND);
        let (mut tell, mut cut) = (Vec::new(), Vec::new());
        let mut before = std::mem::take(&mut self.seen);
        core.parked.each(|key, card, facts, is_parked| {
            if card.peer.class == Class::Client || !is_parked {
                return;
            }
            let moved = facts.moved();
            let (_, since, told) = match before.remove(&key) {
                Some(seen) if seen.0 == moved => seen,
                _ => (moved, now, false),
            };
            let mut told = told;
            if now >= since + 2 * SILENCE {
                cut.push(key);
            } else if now >= since + SILENCE && !told {
                told = true;
                tell.push(key);
            }
            self.seen.insert(key, (moved, since, told));
        });
        for key in tell {
            core.signal(key, Signals::SHUTDOWN);
        }
        if !cut.is_empty() {
            core.cut(|key, _| cut.contains(&key));
        }
    }
}

/// Open descriptors, and how many there may be.
fn descriptors() -> Share {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    // Since Linux 6.2 the directory's size is the number of its entries; before, they are counted.
    let used = match fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len()) {
        0 => fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        used => used,
    };
    Share { used, limit }
}

/// Resident memory in bytes; 0 where the system does not say.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// What the control group allows (cgroup v2, memory.max); 0 where there is no limit.
fn machine_limit() -> u64 {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = own.lines().find_map(|line| line.strip_prefix("0::"));
    let path = format!(
        "/sys/fs/cgroup{}/memory.max",
        group.unwrap_or("").trim_end_matches('/')
    );
    let limit = fs::read_to_string(path).unwrap_or_default();
    limit.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_here_is_plausible() {
        let before = descriptors();
        let held: Vec<fs::File> = (0..20)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let after = descriptors();
        // Other tests open and close some, too.
        assert!(after.used + 200 > before.used + held.len() as u64 && after.limit >= after.used);
        let memory = resident();
        assert!(memory > 1 << 20 && memory < 1 << 40, "{memory}");
    }
}
