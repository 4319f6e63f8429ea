#![forbid(unsafe_code)]
//! CPU time and memory of processes, from /proc (proc(5)). Children count with their parents.

use std::collections::HashSet;
use std::fs;

use super::options::Load;

/// CPU seconds of one run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// The servers that are watched.
    pub(super) server: f64,
    /// This program, and what belongs to the load.
    pub(super) load: f64,
    /// Everything else on the machine, stolen time included.
    pub(super) other: f64,
}

/// Watches servers while a load runs.
pub(super) struct Watch {
    servers: Vec<u32>,
    aside: Vec<u32>,
    before: Sample,
}

#[derive(Clone, Copy, Default)]
struct Sample {
    server: f64,
    load: f64,
    machine: f64,
}

impl Watch {
    pub(super) fn new(load: &Load) -> Self {
        let mut aside = load.aside.clone();
        aside.push(std::process::id());
        Watch {
            servers: load.watch.clone(),
            aside,
            before: Sample::default(),
        }
    }

    pub(super) fn begin(&mut self) {
        self.before = self.sample();
    }

    /// What was used since `begin`.
    pub(super) fn end(&self) -> Usage {
        let (before, now) = (self.before, self.sample());
        let (server, load) = (now.server - before.server, now.load - before.load);
        Usage {
            server,
            load,
            other: (now.machine - before.machine - server - load).max(0.0),
        }
    }

    fn sample(&self) -> Sample {
        Sample {
            server: tree(&self.servers).iter().map(|&pid| cpu(pid)).sum(),
            load: tree(&self.aside).iter().map(|&pid| cpu(pid)).sum(),
            machine: machine(),
        }
    }

    /// The anonymous memory of the servers in bytes: what is in RAM and in no file.
    pub(super) fn anonymous(&self) -> u64 {
        let of = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("Anonymous:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        tree(&self.servers).iter().filter_map(of).sum::<u64>() * 1024
    }
}

/// The processes and all that they started.
fn tree(roots: &[u32]) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut open = roots.to_vec();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten();
            for task in tasks.flatten() {
                let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                open.extend(
                    text.split_whitespace()
                        .filter_map(|child| child.parse::<u32>().ok()),
                );
            }
        }
    }
    found
}

/// Seconds a process has used, with those of its children that it has waited for. The scheduler counts living
/// threads in nanoseconds; what `stat` says in ticks of 10 ms counts where threads have ended.
fn cpu(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command's name, in parentheses, may hold anything; the third field follows its end.
    let fields: Vec<&str> = text
        .rsplit_once(") ")
        .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let ticks = |from: usize| -> u32 {
        let two = fields.iter().skip(from).take(2);
        two.filter_map(|field| field.parse::<u32>().ok()).sum()
    };
    // utime and stime are the fields 14 and 15, cutime and cstime the two after them.
    let (own, children) = (f64::from(ticks(11)) / 100.0, f64::from(ticks(13)) / 100.0);
    let precise = threads(pid);
    let own = if own - precise > 0.02 { own } else { precise };
    own + children
}

/// Seconds that the living threads of a process have used.
fn threads(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let of = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    tasks.flatten().filter_map(of).sum::<f64>() / 1e9
}

/// Seconds that all processors have been busy or were stolen: all of `cpu` in /proc/stat but idle, iowait and
/// what is counted twice there.
fn machine() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|&index: &usize| fields.get(index))
        .sum::<f64>()
        / 100.0
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::{cpu, machine, tree};

    #[test]
    fn a_child_is_found_and_its_time_counts_once_it_was_waited_for() {
        let own = std::process::id();
        let (before, all) = (cpu(own), machine());
        let mut child = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"])
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !tree(&[own]).contains(&child.id()) {
            assert!(Instant::now() < end, "no child");
        }
        child.wait().unwrap();
        assert!(cpu(own) - before > 0.05, "{} then {}", before, cpu(own));
        assert!(machine() > all);
    }
}
