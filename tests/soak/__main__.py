"""A soak: client-class users at work in the midst of hostile peers; `scripts/soak` builds what this needs."""

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time

import hostile
import users
from daemon import USERS, Daemon

# What users may wait for 99 of 100 things, in seconds.
SLOWEST = 0.25
# Pipes that workers keep for the next relay.
POOLED_DESCRIPTORS = 64
# Memory afterwards over that before: allocators keep some of what they had.
MORE_MEMORY = 1.25
MORE_BYTES = 24 << 20
# Memory in the last third over that in the middle one: growth that does not end shows here.
DRIFT = 1.08
DRIFT_BYTES = 6 << 20


def seconds(text):
    """`30m`, `90s`, `1h`."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no time such as 30m")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def options():
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Users at work amid hostile peers: none may fail, and afterwards all is where it was.")
    parser.add_argument("--time", type=seconds, default="30m", help="how long (30m)")
    parser.add_argument("--seed", type=int, default=2026, help="of what is done when (2026)")
    parser.add_argument("--slowest", type=float, default=SLOWEST, metavar="SECONDS",
                        help="what 99 of 100 things may take (0.25); more on a machine that does other things, too")
    parser.add_argument("--binary", default="target/release/portreeve", help="the daemon (target/release/portreeve)")
    parser.add_argument("--port", type=int, default=11600, help="the first of its ports (11600)")
    parser.add_argument("--workers", type=int, default=16, help="its threads (16)")
    return parser.parse_args()


def crowd(daemon, seed, length, is_hostile, each):
    """Lets them be for so long; answers what users noted and what the hostile did. `each` is called every second."""
    stop, results, rages = multiprocessing.Event(), multiprocessing.Queue(), multiprocessing.Queue()
    halves = [range(0, USERS, 2), range(1, USERS, 2)]
    processes = [multiprocessing.Process(target=users.live, args=(half, daemon.ports, seed, stop, results))
                 for half in halves]
    if is_hostile:
        processes.append(multiprocessing.Process(target=hostile.rage, args=(daemon.ports, seed, stop, rages)))
    for process in processes:
        process.start()
    end = time.monotonic() + length
    while time.monotonic() < end and daemon.is_running():
        time.sleep(1)
        each()
    stop.set()
    noted = [entry for _ in halves for entry in results.get(timeout=60)]
    counts = rages.get(timeout=60) if is_hostile else {}
    for process in processes:
        process.join(30)
    return noted, counts


def settle(daemon):
    """Waits until nobody is inside; answers how many are, in the end."""
    end = time.monotonic() + 40
    while (active := daemon.active()) and time.monotonic() < end:
        time.sleep(0.5)
    # Flows and what is lingering end by the clock, too.
    time.sleep(4)
    return active


def table(noted):
    print(f"{'':10} {'count':>7} {'failed':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for kind in [*users.KINDS, "all"]:
        took = sorted(entry[1] * 1000 for entry in noted if kind in (entry[0], "all"))
        failed = sum(1 for entry in noted if kind in (entry[0], "all") and entry[2])
        if took:
            print(f"{kind:10} {len(took):7} {failed:7} {took[len(took) // 2]:8.1f} "
                  f"{took[min(len(took) - 1, len(took) * 99 // 100)]:8.1f} {took[-1]:8.1f}")


def judge(chosen, daemon, before, noted, samples, active):
    """What is wrong, as sentences."""
    wrong = []
    failures = [f"{kind}: {error}" for kind, _, error in noted if error]
    if failures:
        wrong.append(f"{len(failures)} things of users failed, such as {sorted(set(failures))[:5]}")
    if not noted:
        wrong.append("users did nothing")
    else:
        slow = sorted(entry[1] for entry in noted)[min(len(noted) - 1, len(noted) * 99 // 100)]
        if slow > chosen.slowest:
            wrong.append(f"p99 is {slow * 1000:.0f} ms, more than {chosen.slowest * 1000:.0f}")
    if not daemon.is_running():
        return [*wrong, "the daemon is gone"]
    memory, descriptors = daemon.memory(), daemon.descriptors()
    print(f"memory {before[0] >> 20} MiB before, {memory >> 20} after, {max(samples) >> 20} at most; "
          f"descriptors {before[1]} before, {descriptors} after; {active} active after")
    if active:
        wrong.append(f"{active} are active after everybody has left")
    if descriptors > before[1] + POOLED_DESCRIPTORS:
        wrong.append(f"{descriptors} descriptors, where there were {before[1]}")
    if memory > before[0] * MORE_MEMORY + MORE_BYTES:
        wrong.append(f"{memory >> 20} MiB, where there were {before[0] >> 20}")
    third = len(samples) // 3
    if third >= 20:
        middle, last = max(samples[third:2 * third]), max(samples[2 * third:])
        if last > middle * DRIFT + DRIFT_BYTES:
            wrong.append(f"memory grows: {middle >> 20} MiB in the middle third, {last >> 20} in the last")
    return wrong


def run(chosen, home):
    daemon = Daemon(chosen.binary, home, chosen.port, chosen.workers)
    try:
        crowd(daemon, chosen.seed + 1, 8, False, lambda: None)
        settle(daemon)
        before, cpu, samples = (daemon.memory(), daemon.descriptors()), daemon.cpu(), []
        began = time.monotonic()
        noted, counts = crowd(daemon, chosen.seed, chosen.time, True, lambda: samples.append(daemon.memory()))
        used = (daemon.cpu() - cpu) / (time.monotonic() - began)
        active = settle(daemon)
        table(noted)
        print("hostile: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        print(f"the daemon used {used * 100:.0f} % of a processor")
        wrong = judge(chosen, daemon, before, noted, samples, active)
    finally:
        code = daemon.stop()
    text = (home_log := os.path.join(home, "log.txt")) and open(home_log, errors="replace").read()
    if "panicked" in text:
        wrong.append("something panicked")
    if code != 0:
        wrong.append(f"it ended with {code}")
    return wrong


def main():
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = tempfile.mkdtemp(prefix="portreeve-soak-")
    print(f"soak: {chosen.time} s, seed {chosen.seed}", flush=True)
    wrong = run(chosen, home)
    for line in wrong:
        print(f"soak: {line}")
    if wrong:
        sys.exit(f"soak: failed; the daemon's files are in {home}")
    shutil.rmtree(home)
    print("soak: nobody failed, and all is where it was")


if __name__ == "__main__":
    main()
