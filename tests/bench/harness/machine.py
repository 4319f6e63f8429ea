"""What it was measured on, and with which versions."""

import functools
import os
import platform
import subprocess
from pathlib import Path

from servers import ROOT


@functools.cache
def facts():
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release().split("-")[0],
        "system": _system(),
        "date": _said("date", "-u", "+%F"),
        "versions": {
            "portreeve": f"{_said(ROOT / 'target/release/portreeve', '--version').split()[-1]}"
            f" ({_said('git', '-C', ROOT, 'describe', '--always', '--dirty', '--exclude', '*')})",
            "nginx": _package("nginx-light"),
            "HAProxy": _package("haproxy"),
            "stunnel": _package("stunnel4"),
            "xinetd": _package("xinetd"),
            "net-snmp": _package("snmpd"),
            "FreeRADIUS": _package("freeradius"),
            "Postfix": _package("postfix"),
            "Dovecot": _package("dovecot-imapd"),
            "wrk": _package("wrk"),
            "OpenSSL": _said("openssl", "version").split()[1],
            "gcc": _said("gcc", "-dumpfullversion"),
            "rustc": _said("rustc", "--version").split()[1],
        },
    }


def _package(name):
    """Debian's version, without its epoch."""
    return _said("dpkg-query", "-W", "-f", "${Version}", name).split(":")[-1]


def _said(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def _processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _system():
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return platform.system()
