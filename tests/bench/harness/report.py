"""docs/benchmarks.md and its plots, from the results in target/bench. Writes what stands there, by hand or from
an earlier run, only between its own markers."""

import json
import subprocess

from runs import spread
from servers import OUT, ROOT

DOCS = ROOT / "docs/benchmarks.md"
PLOTS = ROOT / "docs/plots"
BEGIN, END = "<!-- scripts/bench writes from here -->", "<!-- to here -->"
UNITS = {"cpu": "server CPU, us", "cpu_s": "server CPU, s", "memory": "KiB", "p99": "p99, us", "wall": "us an operation"}


def results():
    return {path.stem: json.loads(path.read_text()) for path in OUT.glob("*.json")}


def write(sections):
    found = results()
    measured = [(section, found[section.name]) for section in sections if section.name in found]
    if not measured:
        return
    plot(measured)
    lines = [BEGIN, *head(measured), *targets(measured)]
    for section, result in measured:
        lines += ["", f"## {section.title}", "", f"{section.about} {rounds(result, measured)}", "", *table(result)]
        for note in result.get("notes", []):
            lines += ["", note]
        lines += ["", f"![{section.title}](plots/{section.name}.svg)"]
    text = DOCS.read_text() if DOCS.exists() else "# Benchmarks\n\n"
    if BEGIN in text:
        before, rest = text.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
    else:
        before, after = text.rstrip("\n") + "\n\n", "\n"
    DOCS.write_text(before + "\n".join([*lines, END]) + after)
    print(f"wrote {DOCS.relative_to(ROOT)} and {PLOTS.relative_to(ROOT)}")


def newest(measured):
    return max((result["machine"] for _, result in measured), key=lambda facts: facts["date"])


def rounds(result, measured):
    """How many, and of which build where that is not the newest."""
    words = f"{result['rounds']} round{'s' if result['rounds'] > 1 else ''}"
    version, date = result["machine"]["versions"]["portreeve"], result["machine"]["date"]
    if version != newest(measured)["versions"]["portreeve"]:
        words += f" of {version} on {date}"
    return words + "."


def head(measured):
    """The machine, the versions and the rules, of the newest result."""
    facts = newest(measured)
    # Those of peers that only other results have, too.
    found = {name: version for _, result in measured for name, version in result["machine"]["versions"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in {**found, **facts["versions"]}.items())
    dropped = sum(case["dropped"] for _, result in measured for case in result["cases"])
    count = sum(len(case["runs"]) for _, result in measured for case in result["cases"])
    marked = sum(bool(run.get("marked")) for _, result in measured for case in result["cases"] for run in case["runs"])
    return [
        "## How it was measured",
        "",
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, Linux"
        f" {facts['kernel']}, {facts['date']}. {versions}.",
        "",
        "`scripts/bench` repeats all of it, `scripts/bench SECTION` a part. Servers are pinned to one core and the load to",
        "another, over loopback in a network namespace of its own; connections come from many addresses of 127.0.0.0/8.",
        "CPU is the server's user and system time, its children's included, by operation. Figures are medians of",
        "interleaved rounds, with the least and the most in parentheses; only ratios of one run count. Latencies are the",
        "load's, which shares its core with the proxies' backend.",
        "",
        f"Of {count + dropped} runs {dropped} were dropped, since other programs used more than 5 % of a core meanwhile,"
        f" and {marked} were",
        "kept although, as the least disturbed of those tried; where that is true of most of a case's runs, ~ marks it.",
    ]


def targets(measured):
    lines = ["", "## Targets", "", "| work | at most | measured | met |", "|---|---|---|---|"]
    for section, result in measured:
        for words, value, most in ratios(section, result):
            met = "yes" if value <= most else "**no**"
            lines.append(f"| {section.title}: {words} | {most:.2f} | {value:.2f} | {met} |")
    return lines


def ratios(section, result):
    """Words, what was measured, and what is allowed."""
    cases = {case["name"]: case for case in result["cases"]}
    for words, name, others, metric, most in section.targets:
        if not {name, *others} <= cases.keys():
            continue
        value = spread(cases[name], metric)[0]
        if others:
            value /= min(spread(cases[other], metric)[0] for other in others)
        yield words, value, most


def table(result):
    metric = result["cases"][0]["metric"]
    mixed = any(case["metric"] != metric for case in result["cases"])
    if metric == "memory":
        lines = ["| server | KiB a connection |", "|---|---|"]
        return lines + [f"| {case['name']} | {figure(case)} |" for case in result["cases"]]
    if not any("latency_us" in run for case in result["cases"] for run in case["runs"]):
        return rates(result)
    lines = [
        "| server | server CPU, us an operation" + (" (1 GiB: s)" if mixed else "") + " | operations a second | p50, us | p99, us | p99.9, us |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        cpu = figure(case, "cpu_s" if case["metric"] == "cpu_s" else "cpu")
        if case["metric"] == "cpu_s":
            lines.append(f"| {case['name']} | {cpu} | - | - | - | - |")
            continue
        rest = (f"{spread(case, name)[0]:,.0f}" for name in ("rate", "p50", "p99", "p999"))
        lines.append(f"| {case['name']} | {cpu} | " + " | ".join(rest) + " |")
    return lines


def rates(result):
    """Where the load tells no latencies."""
    lines = ["| server | server CPU, us an operation | time, us an operation | operations a second |", "|---|---|---|---|"]
    for case in result["cases"]:
        if case["metric"] == "memory":
            lines.append(f"| {case['name']}: {figure(case)} KiB a connection | - | - | - |")
            continue
        if case["metric"] == "cpu_s":
            lines.append(f"| {case['name']} | {figure(case)} s in all | - | - |")
            continue
        rate = spread(case, "rate")[0]
        lines.append(f"| {case['name']} | {figure(case, 'cpu')} | {figure(case, 'wall')} | {rate:,.0f} |")
    return lines


def figure(case, metric=None):
    median, least, most = spread(case, metric)
    digits = 2 if median < 10 else 1
    marked = sum(bool(run.get("marked")) for run in case["runs"])
    mark = " ~" if 2 * marked > len(case["runs"]) else ""
    return f"{median:.{digits}f} ({least:.{digits}f}-{most:.{digits}f}){mark}"


def summary(section, result):
    """For the terminal, while it runs."""
    width = max(len(case["name"]) for case in result["cases"])
    for case in result["cases"]:
        unit = UNITS[case["metric"]]
        failed = sum(run["failed"] for run in case["runs"])
        bad = f"  {failed} operations failed" if failed else ""
        yield f"{case['name']:{width}}  {figure(case)} {unit}{bad}"
    for words, value, most in ratios(section, result):
        yield f"{words}: {value:.2f}, at most {most:.2f}{'' if value <= most else '  MISSED'}"


def plot(measured):
    """One SVG a section."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    plots = []
    for section, result in measured:
        points = []
        for case in result["cases"]:
            if case["metric"] == result["cases"][0]["metric"]:
                server, _, rest = case["name"].partition(",")
                median, least, most = spread(case)
                label = server if section.plot == "lines" else case["name"]
                points.append({"label": label, "x": case["x"] or 0, "median": median, "least": least, "most": most})
        plots.append({
            "file": str(PLOTS / f"{section.name}.svg"), "title": section.title, "kind": section.plot,
            "x_label": section.x_label or "", "y_label": UNITS[result["cases"][0]["metric"]], "points": points,
        })
    (OUT / "plots").mkdir(exist_ok=True)
    path = OUT / "plots/plots.json"
    path.write_text(json.dumps(plots))
    subprocess.run([ROOT / "target/release/portreeve-plot", path], check=True)
