#![forbid(unsafe_code)]
//! Ends programs whose connections are gone: asks with SIGTERM, kills after a while, and leaves no zombie.

use std::process::Child;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// How long a program may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// The same when the daemon itself stops.
const LAST_GRACE: Duration = Duration::from_millis(500);
/// How often those that are about to end are looked at.
const STEP: Duration = Duration::from_millis(50);

/// Where programs are left to end. One thread for all of them, asleep while there are none.
pub(crate) struct Reaper {
    programs: Option<Sender<Child>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (programs, dying) = unbounded();
        let thread = std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || run(&dying))?;
        Ok(Reaper {
            programs: Some(programs),
            thread: Some(thread),
        })
    }

    /// Ends a program and what it started.
    pub(crate) fn reap(&self, program: Child) {
        signal(&program, Signal::SIGTERM);
        if let Some(programs) = &self.programs {
            let _ = programs.send(program);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.programs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(dying: &Receiver<Child>) {
    let mut programs: Vec<(Child, Instant)> = Vec::new();
    loop {
        let next = if programs.is_empty() {
            dying.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            dying.recv_timeout(STEP)
        };
        match next {
            Ok(program) => programs.push((program, Instant::now() + GRACE)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        look(&mut programs);
    }
    let until = Instant::now() + LAST_GRACE;
    programs.iter_mut().for_each(|(_, limit)| *limit = until);
    while !programs.is_empty() {
        std::thread::sleep(STEP);
        look(&mut programs);
    }
}

/// Forgets those that have ended, and kills what they left behind and those whose time is up.
fn look(programs: &mut Vec<(Child, Instant)>) {
    let now = Instant::now();
    programs.retain_mut(|(program, until)| {
        let runs = !has_ended(program);
        if !runs || now >= *until {
            // Also what it has left behind: the number of its group is its own until it is waited for.
            signal(program, Signal::SIGKILL);
        }
        runs || matches!(program.try_wait(), Ok(None))
    });
}

/// True when a program has ended; its zombie stays.
fn has_ended(program: &Child) -> bool {
    let Ok(pid) = i32::try_from(program.id()) else {
        return true;
    };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(
        waitid(Id::Pid(Pid::from_raw(pid)), flags),
        Ok(WaitStatus::StillAlive)
    )
}

/// Sends a signal to a program and all that it started. It was not waited for, so its number is still its own.
fn signal(program: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(program.id()) {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}
