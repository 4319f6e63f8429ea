"""Runs sections of the benchmarks; `scripts/bench` builds what this needs and calls it."""

import argparse
import json
import os
import resource
import signal
import sys
import time

import machine
import report
import runs
import servers
from sections import SECTIONS


def options():
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures portreeve beside its peers. Results go to target/bench, tables and plots to docs.",
        epilog="Sections: " + ", ".join(names),
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="which; all where none is named")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case, interleaved (5)")
    parser.add_argument("--time", default="1s", help="how long a run measures (1s)")
    parser.add_argument("--repeats", type=int, default=3, help="of a run that others disturb (3)")
    parser.add_argument("--workers", type=int, help="threads of portreeve, else its default")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md as it is")
    parser.add_argument("--docs-only", action="store_true", help="write the docs anew from target/bench")
    chosen = parser.parse_args()
    chosen.sections = chosen.sections or names
    unknown = set(chosen.sections) - set(names)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if chosen.rounds < 1 or chosen.repeats < 0:
        parser.error("--rounds must be at least 1, and --repeats at least 0")
    return chosen


def run(section, chosen):
    """Runs a section and writes its results; answers whether it came to its end."""
    began = time.monotonic()
    print(f"{section.name}: ", end="", flush=True)
    try:
        cases = section.cases(chosen)
        count = min(chosen.rounds, section.most_rounds or chosen.rounds)
        runs.rounds(section.name, cases, count, chosen.repeats)
    except RuntimeError as error:
        print(f"failed: {error}", flush=True)
        return False
    finally:
        servers.stop_all()
    result = {
        "section": section.name,
        "machine": machine.facts(),
        "rounds": len(cases[0].runs),
        "notes": section.notes,
        "cases": [case.record() for case in cases],
    }
    path = servers.OUT / f"{section.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    dropped = sum(case.dropped for case in cases)
    print(f"{time.monotonic() - began:.0f} s, {dropped} runs dropped", flush=True)
    for line in report.summary(section, result):
        print(f"  {line}", flush=True)
    return True


def main():
    chosen = options()
    # Ctrl-C and SIGTERM end what was started, by the `finally` above; also where a shell had us ignore the first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    failed = []
    if not chosen.docs_only:
        if os.cpu_count() < 2:
            sys.exit("scripts/bench needs two cores: one for the servers, one for the load")
        servers.OUT.mkdir(parents=True, exist_ok=True)
        failed = [section.name for section in SECTIONS if section.name in chosen.sections and not run(section, chosen)]
    if not chosen.no_docs:
        report.write(SECTIONS)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        servers.stop_all()
