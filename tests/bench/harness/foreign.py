"""Runs of load that others wrote: a command, or a client of ours in Python, whose operations are counted by what it
answers. CPU time is read from /proc as portreeve-load reads it."""

import os
import subprocess
import time
from pathlib import Path

from servers import LOAD_CORE

TICKS = os.sysconf("SC_CLK_TCK")
# What /proc/stat counts as busy or stolen: all but idle, iowait and what it counts twice.
BUSY = (0, 1, 2, 5, 6, 7)


def tree(root):
    """A process and all that it started."""
    found, rest = set(), [root]
    while rest:
        pid = rest.pop()
        if pid in found:
            continue
        found.add(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                rest += map(int, children.read_text().split())
            except OSError:
                pass
    return found


def cpu(root):
    """Seconds that a process has used, its children's included. The scheduler counts living threads in nanoseconds;
    the ticks of `stat` count where threads have ended."""
    total = 0
    for pid in tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            threads = [int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        except OSError:
            continue
        own, precise = sum(map(int, fields[11:13])) / TICKS, sum(threads) / 1e9
        total += (own if own - precise > 0.02 else precise) + sum(map(int, fields[13:15])) / TICKS
    return total


def anonymous(pid):
    """Bytes of a process that are in memory and in no file."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no smaps_rollup")


def machine():
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[index]) for index in BUSY) / TICKS


def command(words, timeout=300):
    """Runs a command on the load's core; what it said."""
    done = subprocess.run(["taskset", "-c", LOAD_CORE, *map(str, words)], capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done.stdout


def measure(server, work, backend=None):
    """One run: `work` loads the server and answers how many operations that were, or a record that has `operations`.
    Its record is like portreeve-load's."""
    def load():
        return sum(os.times()[:4]) + (cpu(backend.pid) if backend else 0)

    before, all_before, load_before = cpu(server.pid), machine(), load()
    began = time.monotonic()
    said = work(server)
    seconds = time.monotonic() - began
    used = cpu(server.pid) - before
    own = load() - load_before
    record = said if isinstance(said, dict) else {"operations": said}
    seconds = record.get("seconds", seconds)
    count = record["operations"]
    return {
        **record,
        "seconds": seconds,
        "rate": count / seconds,
        "failed": record.get("failed", 0),
        "server": {"cpu_seconds": used, "cpu_us_per_operation": used / count * 1e6},
        "other_cpu_seconds": max(0.0, machine() - all_before - used - own),
    }
