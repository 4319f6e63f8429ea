"""What is measured. A section starts its servers and answers cases; its targets say what must be reached."""

import resource

import mail
import web
from runs import Case, load
from section import Section, timed
from servers import (
    Certificate, RUN, bare, cheap_hash, freeradius, haproxy, nginx, ours, ports, snmpd, stunnel, xinetd, LOAD_CORE
)

ECHO = 'Tcp(module: Echo, channels: 20000, sockets: [(port: PORT, address: "127.0.0.1")])'
ECHO_TLS = 'Tcp(module: Echo, channels: 20000, sockets: [(port: PORT, address: "127.0.0.1", tls: On)])'
ECHO_UDP = 'Udp(module: Echo, sockets: [(port: PORT, address: "127.0.0.1")])'
# Every second address from here on is on a list; refused connections come from them.
LISTED = "127.32.0.0"
LISTED_ALL = "127.32.0.0/11"
MILLION = 1_000_000


def backend():
    """An echo server on the load's core: its CPU time is the load's, not the proxy's."""
    return bare("echo", core=LOAD_CORE, name="backend")


def proxies(options, upstream):
    """Ours and the peers, relaying to a port."""
    text = f'Tcp(module: Proxy(upstreams: ["127.0.0.1:{upstream}"]), channels: 20000, sockets: [(port: PORT, address: "127.0.0.1")])'
    return [ours({"proxy": text}, workers=options.workers), *peers(upstream)]


def peers(upstream):
    """nginx and HAProxy, relaying to a port."""
    return [
        nginx(f"server {{ listen 127.0.0.1:PORT backlog=4096; proxy_pass 127.0.0.1:{upstream}; proxy_buffer_size 128k; }}"),
        haproxy(
            f"frontend f\n bind 127.0.0.1:PORT\n default_backend b\nbackend b\n option splice-response\n server s 127.0.0.1:{upstream}",
            settings=" tune.pipesize 1048576",
        ),
    ]


def echo(options):
    behind = backend()
    words = ["echo", *timed(options)]
    return [
        Case("portreeve", ours({"echo": ECHO}, workers=options.workers), words),
        Case("bare C epoll", bare("echo"), words),
        *(Case(f"{peer.name} relaying", peer, words, backend=behind) for peer in peers(behind.port)),
    ]


def address_file(count):
    """So many addresses, one a line, that cannot be put together into fewer ranges."""
    path = RUN / f"list-{count}.txt"
    if not path.exists():
        RUN.mkdir(parents=True, exist_ok=True)
        first = int.from_bytes(bytes(map(int, LISTED.split("."))), "big")
        with open(path, "w") as file:
            for number in range(count):
                file.write(".".join(map(str, (first + 2 * number).to_bytes(4, "big"))) + "\n")
    return path


def refusing(options, denied):
    """The daemon with a Denied list."""
    return ours({"echo": ECHO}, f'network: (denied: "{denied}"),', workers=options.workers)


def refused_load(options, count=MILLION):
    return ["refused", *timed(options, "--source", LISTED, "--sources", count, "--source-step", 2)]


def refused(options):
    all_listed = refused_load(options)
    cases = [Case("portreeve, 1 entry", refusing(options, LISTED_ALL), all_listed)]
    for count, words in ((100_000, "100k"), (MILLION, "1M")):
        server = refusing(options, f"@{address_file(count)}")
        cases.append(Case(f"portreeve, {words} entries", server, refused_load(options, count)))
    reject = f"frontend f\n bind 127.0.0.1:PORT\n tcp-request connection reject if {{ src {LISTED_ALL} }}\n default_backend b\nbackend b"
    deny = f'server {{ listen 127.0.0.1:PORT backlog=4096; deny {LISTED_ALL}; allow all; return ""; }}'
    return cases + [
        Case("bare C accept + RST", bare("refuse"), all_listed),
        Case("nginx, 1 entry", nginx(deny), all_listed),
        Case("HAProxy, 1 entry", haproxy(reject), all_listed),
    ]


def tls_servers(options):
    """Nothing is relayed, except by stunnel, which can do nothing else."""
    certificate, behind = Certificate(), backend()
    waiting = (
        f"frontend f\n bind 127.0.0.1:PORT {certificate.haproxy()}\n tcp-request inspect-delay 1h\n"
        " tcp-request content reject if { req_len gt 0 }\n default_backend b\nbackend b"
    )
    returning = f'server {{ listen 127.0.0.1:PORT ssl backlog=4096; {certificate.nginx()} return ""; }}'
    return [
        ours({"echo": ECHO_TLS}, certificate.domains(), workers=options.workers),
        nginx(returning), haproxy(waiting), stunnel(certificate, behind.port),
    ], behind


def tls(options, *more):
    servers, behind = tls_servers(options)
    words = ["tls", *timed(options, "--connections", 32, *more)]
    return [Case(server.name, server, words, backend=behind) for server in servers]


def pingpong(options):
    servers = [
        ("portreeve", ours({"echo": ECHO}, workers=options.workers)),
        ("bare C epoll", bare("echo")),
        ("xinetd, cat", xinetd("/bin/cat")),
    ]
    return [
        Case(f"{name}, {count}", server, ["pingpong", *timed(options, "--connections", count)])
        for count in (100, 1000)
        for name, server in servers
    ]


def relay(options):
    behind, bulk = backend(), ports()
    work = [("connect", ["echo", *timed(options)]), ("ping-pong", ["pingpong", *timed(options, "--connections", 100)])]
    cases = [
        Case(f"{server.name}, {name}", server, words, backend=behind)
        for servers in [proxies(options, behind.port)]
        for name, words in work
        for server in servers
    ]
    words = ["bulk", "--bytes", "1GiB", "--upstream", f"127.0.0.1:{bulk}"]
    return cases + [
        Case(f"{server.name}, 1 GiB", server, words, metric="cpu_s") for server in proxies(options, bulk)
    ]


def udp(options):
    words = ["udp", *timed(options, "--connections", 8, "--window", 16)]
    fixed = 'server { listen 127.0.0.1:PORT udp; return "' + 64 * "u" + '"; }'
    return [
        Case("portreeve", ours({"echo": ECHO_UDP}, workers=options.workers, udp=True), words),
        Case("bare C recvmmsg", bare("udp", udp=True), words),
        Case("nginx, return", nginx(fixed, udp=True), words),
    ]


def asking(options, what, window=16):
    return ["udp", *timed(options, "--connections", 8, "--window", window, "--speaks", what)]


def snmp(options):
    text = 'Udp(module: Snmp(communities: ["public"]), sockets: [(port: PORT, address: "127.0.0.1")])'
    words = asking(options, "snmp")
    return [Case(server.name, server, words) for server in (ours({"snmp": text}, workers=options.workers, udp=True), snmpd())]


def radius(options):
    """Fewer under way than ours lets wait for the verification of their passwords."""
    text = 'Udp(module: Radius(clients: [(from: "127.0.0.0/8", secret: "testing123")]), sockets: [(port: PORT, address: "127.0.0.1")])'
    hashed = cheap_hash("arctangent")

    def account(conf):
        file = conf.parent / "accounts.ron"
        file.write_text(f'{{"nemo": (password: "{hashed}", secret: "arctangent")}}')
        file.chmod(0o600)

    server = ours({"radius": text}, workers=options.workers, udp=True, prepare=account)
    known = {"pap": f"nemo Crypt-Password := '{hashed}'", "chap": 'nemo Cleartext-Password := "arctangent"'}
    cases = []
    for kind, user in known.items():
        words = asking(options, f"radius-{kind}", window=2)
        cases += [Case(f"{one.name}, {kind.upper()}", one, words) for one in (server, freeradius(user))]
    return cases


def idle(options):
    """Each run has a fresh server, that has served before, so that what it needs once is not counted."""
    certificate, behind = Certificate(), backend()
    relays = f"proxy_pass 127.0.0.1:{behind.port}; }}"
    waits = " tcp-request inspect-delay 1h\n tcp-request content accept if { req_len gt 64 }\n default_backend b\nbackend b\n"
    passes = f" default_backend b\nbackend b\n server s 127.0.0.1:{behind.port}"
    # HAProxy's client is held before a backend is chosen where nothing must be answered, that is under TLS.
    plain = {
        "portreeve": lambda: ours({"echo": ECHO}, workers=options.workers),
        "nginx relaying": lambda: nginx("server { listen 127.0.0.1:PORT backlog=4096; " + relays),
        "HAProxy relaying": lambda: haproxy("frontend f\n bind 127.0.0.1:PORT\n" + passes, maxconn=9_900),
    }
    secure = {
        "portreeve": lambda: ours({"echo": ECHO_TLS}, certificate.domains(), workers=options.workers),
        "nginx relaying": lambda: nginx("server { listen 127.0.0.1:PORT ssl backlog=4096; " + certificate.nginx() + relays),
        "HAProxy waiting": lambda: haproxy(f"frontend f\n bind 127.0.0.1:PORT {certificate.haproxy()}\n" + waits, maxconn=9_900),
        "stunnel": lambda: stunnel(certificate, behind.port),
    }

    def fresh(start, warm):
        def started():
            server = start()
            load([*warm, "--time", "300ms"], server)
            return server
        return started

    # A relay needs two descriptors a connection, and its limit is inherited.
    pairs = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 250)
    cases = []
    for kind, servers, flags, warm in (
        ("plain", plain, [], ["echo"]), ("TLS", secure, ["--tls"], ["tls"]),
    ):
        for count in (2_000, 10_000):
            for name, start in servers.items():
                most = count if name in ("portreeve", "HAProxy waiting") else min(count, pairs)
                most = min(most, 9_800) if name.startswith("HAProxy") else most
                words = ["hold", *flags, "--connections", most]
                cases.append(Case(f"{name}, {kind}, {most}", None, words, x=most, metric="memory", backend=behind,
                                  start=fresh(start, warm)))
    return cases


def under_refusals(options):
    """First its limit, then at half of that with and without connections that are refused."""
    server = refusing(options, LISTED_ALL)
    limit = load(["pingpong", *timed(options, "--connections", 100)], server)["rate"]
    half = ["pingpong", *timed(options, "--connections", 100, "--rate", int(limit / 2))]
    refused = [*half, "--refused-rate", 20_000, "--refused-source", LISTED]
    limits = bare("guard")
    return [
        Case("alone", server, half, metric="p99"),
        Case("20,000 refused a second", server, refused, metric="p99"),
        # What of it is the load's own, which shares a core with those who are refused.
        Case("bare C, alone", limits, half, metric="p99"),
        Case("bare C, 20,000 refused a second", limits, refused, metric="p99"),
    ]


def parked(options):
    server = ours({"echo": ECHO}, workers=options.workers)
    return [
        Case(f"portreeve, {count} parked", server, ["echo", *timed(options, "--parked", count)], x=count)
        for count in (10, 100, 1_000, 10_000)
    ]


def listeners(options):
    return [
        Case(f"portreeve, {count} listeners", ours({"echo": ECHO}, workers=options.workers, count=count),
             ["echo", *timed(options, "--ports", count)], x=count)
        for count in (1, 10, 100, 500)
    ]


def lists(options):
    cases = []
    for count in (10, 100, 1_000, 10_000, 100_000, MILLION):
        file = address_file(count)
        reject = f"frontend f\n bind 127.0.0.1:PORT\n tcp-request connection reject if {{ src -f {file} }}\n default_backend b\nbackend b"
        words = refused_load(options, count)
        cases.append(Case(f"portreeve, {count}", refusing(options, f"@{file}"), words, x=count))
        cases.append(Case(f"HAProxy, {count}", haproxy(reject), words, x=count))
    return cases


SECTIONS = [
    Section(
        "echo", "Connect, echo 64 bytes, close",
        "64 at once. The proxies relay to the bare C server, whose CPU time is not counted.", echo,
        [("of the bare C epoll server", "portreeve", ["bare C epoll"], "cpu", 1.15),
         ("of the better proxy relaying", "portreeve", ["nginx relaying", "HAProxy relaying"], "cpu", 0.5)],
    ),
    Section(
        "refused", "Refused connections",
        "64 at once, from a million addresses, or from those on the list. With more than one entry these are single "
        "addresses that cannot be put together.", refused,
        [("1 entry, of bare accept + RST", "portreeve, 1 entry", ["bare C accept + RST"], "cpu", 1.10),
         ("1M entries, of bare accept + RST", "portreeve, 1M entries", ["bare C accept + RST"], "cpu", 1.10),
         ("1M entries, of the better of nginx and HAProxy with 1", "portreeve, 1M entries",
          ["nginx, 1 entry", "HAProxy, 1 entry"], "cpu", 1.0)],
    ),
    Section(
        "tls-full", "TLS 1.3, full handshake",
        "32 at once, up to the ticket; P-256 certificate, X25519, TLS_AES_128_GCM_SHA256. nginx ends the connection after "
        "that, HAProxy waits for bytes, stunnel connects to its backend.", lambda options: tls(options),
        [("of the best peer", "portreeve", ["nginx", "HAProxy", "stunnel"], "cpu", 0.55)],
    ),
    Section(
        "tls-resumed", "TLS 1.3, resumed by ticket", "As above, with a key exchange (psk_dhe_ke).",
        lambda options: tls(options, "--resume"),
        [("of the best peer", "portreeve", ["nginx", "HAProxy", "stunnel"], "cpu", 0.55)],
    ),
    Section(
        "pingpong", "Ping-pong of 64 bytes", "On 100 and 1,000 connections that stay; xinetd has a process for each.",
        pingpong,
        [(f"{count} connections, of {words}", f"portreeve, {count}", [f"{other}, {count}"], "cpu", most)
         for count in (100, 1000)
         for other, words, most in (("bare C epoll", "bare C epoll", 1.2), ("xinetd, cat", "xinetd", 1.0))],
    ),
    Section(
        "relay", "Relay", "Connect, echo 64 bytes, close (64 at once); ping-pong (100 connections); 1 GiB from upstream, "
        "in CPU seconds. nginx has buffers of 128 KiB, HAProxy splices through pipes of 1 MiB.", relay,
        [(f"{work}, of the best peer", f"portreeve, {work}", [f"nginx, {work}", f"HAProxy, {work}"], metric, 0.9)
         for work, metric in (("connect", "cpu"), ("ping-pong", "cpu"), ("1 GiB", "cpu_s"))],
    ),
    Section(
        "udp", "UDP echo of 64 bytes", "8 sockets with 16 datagrams under way each: more than that can overflow a socket's default buffer. nginx answers with a fixed text.", udp,
        [("of bare recvmmsg", "portreeve", ["bare C recvmmsg"], "cpu", 1.15),
         ("of nginx, return", "portreeve", ["nginx, return"], "cpu", 1.0)],
    ),
    Section(
        "snmp", "SNMP GET", "GET of sysUpTime.0, version 2c; 8 sockets with 16 requests under way each.", snmp,
        [("of net-snmp's snmpd", "portreeve", ["net-snmp snmpd"], "cpu", 0.33)],
    ),
    Section(
        "radius", "RADIUS Access-Request", "With Message-Authenticator; 8 sockets with 2 requests under way each. PAP against "
        "crypt(3) of SHA-256 with 1,000 rounds, the cheapest that both have; CHAP against a clear secret.", radius,
        [("PAP, of FreeRADIUS", "portreeve, PAP", ["FreeRADIUS, PAP"], "cpu", 1.0),
         ("CHAP, of FreeRADIUS", "portreeve, CHAP", ["FreeRADIUS, CHAP"], "cpu", 1.0)],
    ),
    Section(
        "idle", "Memory of an idle connection",
        "Growth of the server's anonymous memory, KiB a connection; each has been served once (plain) or has its ticket (TLS). "
        "Where relays have fewer than 10,000, it is for the limit of descriptors.", idle,
        [("plain, KiB", "portreeve, plain, 10000", [], "memory", 0.6),
         ("TLS, KiB", "portreeve, TLS, 10000", [], "memory", 7.0)],
        most_rounds=2,
    ),
    Section(
        "under-refusals", "Ping-pong while others are refused",
        "At half of the rate it can do on 100 connections, at a fixed pace, latency from the intended time. Those who are "
        "refused need half of the load's core, too; what that alone makes late shows beside the bare C server.", under_refusals,
        [("p99, of that without", "20,000 refused a second", ["alone"], "p99", 1.5)],
    ),
    Section(
        "parked", "Cost beside parked connections", "Connect, echo 64 bytes, close, beside silent connections.", parked,
        [("10,000, of that with 10", "portreeve, 10000 parked", ["portreeve, 10 parked"], "cpu", 1.10)],
        plot="lines", x_label="parked connections",
    ),
    Section(
        "listeners", "Cost with many listeners", "Connect, echo 64 bytes, close, on each listener in turn.", listeners,
        [("500, of that with 1", "portreeve, 500 listeners", ["portreeve, 1 listeners"], "cpu", 1.10)],
        plot="lines", x_label="listeners",
    ),
    Section(
        "lists", "Cost of a refusal by the length of the list", "Single addresses; connections come from all of them.", lists,
        [], plot="lines", x_label="entries",
    ),
    *web.SECTIONS,
    *mail.SECTIONS,
]
