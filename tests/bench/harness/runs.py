"""Runs of the load generator: interleaved rounds, disturbed ones dropped, and what they come to."""

import json
import statistics
import subprocess
import sys

import foreign
from servers import LOAD_CORE, ROOT

LOAD = ROOT / "target/release/portreeve-load"
# Of one core: what others may use of the machine while a run counts. Sampling alone shows up to 2 %.
MOST_OTHER = 0.05


class Case:
    """One line of a table: a load on a server. `start` is called before each run where the server must be fresh.
    `work` is load of somebody else's (`foreign.measure`), in place of portreeve-load's arguments."""

    def __init__(self, name, server, load, x=None, start=None, metric="cpu", backend=None, work=None):
        self.name, self.server, self.load, self.x = name, server, load, x
        self.start, self.metric, self.backend, self.work = start, metric, backend, work
        self.runs, self.dropped = [], 0

    def record(self):
        return {"name": self.name, "x": self.x, "metric": self.metric, "dropped": self.dropped, "runs": self.runs,
                "load": [str(word) for word in self.load]}


def load(arguments, server, backend=None):
    """One run of the load generator; its JSON."""
    mode, *rest = map(str, arguments)
    command = ["taskset", "-c", LOAD_CORE, LOAD, mode, f"127.0.0.1:{server.port}", "--json",
               "--watch", str(server.pid), *rest]
    if backend:
        command += ["--aside", str(backend.pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{server.name}: {' '.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def once(case):
    """One run, on a fresh server where the case wants one."""
    fresh = case.start() if case.start else None
    try:
        server = fresh or case.server
        return foreign.measure(server, case.work, case.backend) if case.work else load(case.load, server, case.backend)
    finally:
        if fresh:
            fresh.stop()


def undisturbed(case, repeats):
    """One run that others did not disturb. After so many repeats the least disturbed one is taken, and marked."""
    tries = []
    for _ in range(repeats + 1):
        run = once(case)
        run["disturbed"] = run["other_cpu_seconds"] / max(run["seconds"], 1e-9)
        if run["disturbed"] <= MOST_OTHER:
            return run
        tries.append(run)
        case.dropped += 1
    case.dropped -= 1
    least = min(tries, key=lambda run: run["disturbed"])
    least["marked"] = True
    return least


def rounds(section, cases, count, repeats):
    """Runs each case once a round, so that what changes with time changes for all."""
    for number in range(count):
        for case in cases:
            if sys.stderr.isatty():
                print(f"\r{section}: round {number + 1} of {count}: {case.name}\x1b[K", end="", file=sys.stderr)
            case.runs.append(undisturbed(case, repeats))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


VALUES = {
    "cpu": lambda run: run["server"]["cpu_us_per_operation"],
    "cpu_s": lambda run: run["server"]["cpu_seconds"],
    "memory": lambda run: run["held"]["bytes_per_connection"] / 1024,
    "p99": lambda run: run["latency_us"]["p99"],
    "p50": lambda run: run["latency_us"]["p50"],
    "p999": lambda run: run["latency_us"]["p999"],
    "rate": lambda run: run["rate"],
    "wall": lambda run: 1e6 / run["rate"],
}


def spread(record, metric=None):
    """Median, least and most of a case's runs."""
    values = [VALUES[metric or record["metric"]](run) for run in record["runs"]]
    return statistics.median(values), min(values), max(values)
