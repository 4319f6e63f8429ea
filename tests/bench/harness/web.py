"""HTTP: files small and large, clear and under TLS, a reverse proxy, and connections that keep alive and rest."""

import math
import os
import re
import socket

import foreign
from runs import Case
from section import Section
from servers import LOAD_CORE, RUN, Certificate, nginx_http, ours

KEPT, IDLE = 100, 10_000
GIB = 1 << 30


def files():
    """A directory with a file of 1 KiB and one of 1 GiB, which is read once."""
    root = RUN / "www"
    root.mkdir(parents=True, exist_ok=True)
    (root / "small.css").write_bytes(b"a { color: #123456 }\n" * 48 + b"/* end of it */\n")
    large = root / "large.bin"
    if not large.exists() or large.stat().st_size != GIB:
        piece = os.urandom(1 << 20)
        with open(large, "wb") as file:
            for _ in range(1024):
                file.write(piece)
    with open(large, "rb") as file:
        while file.read(1 << 20):
            pass
    return root


def requests(options, path, scheme="http"):
    """wrk for a while on connections that stay."""
    def work(server):
        said = foreign.command(
            ["wrk", "-t1", f"-c{KEPT}", f"-d{seconds(options)}s", f"{scheme}://127.0.0.1:{server.port}/{path}"]
        )
        count, took = re.search(r"(\d+) requests in ([\d.]+)s", said).groups()
        if "Non-2xx" in said or "Socket errors" in said or count == "0":
            raise RuntimeError(f"{server.name}: {said}")
        return {"operations": int(count), "seconds": float(took)}
    return work


def seconds(options):
    """wrk knows whole seconds only, and uses the first of them to connect."""
    return max(2, math.ceil(float(options.time.rstrip("ms")) / (1000 if options.time.endswith("ms") else 1)))


def fetch(scheme="http"):
    """The large file, once."""
    def work(server):
        said = foreign.command(
            ["curl", "-sSk", "-o", "/dev/null", "-w", "%{size_download} %{http_code}", f"{scheme}://127.0.0.1:{server.port}/large.bin"]
        )
        if said != f"{GIB} 200":
            raise RuntimeError(f"{server.name}: {said}")
        return 1
    return work


def hold(server):
    """Connections that were each served once and stay. How much memory each takes."""
    ask = b"GET /small.css HTTP/1.1\r\nHost: bench.test\r\n\r\n"

    def opened(count):
        held = []
        for _ in range(count):
            stream = socket.create_connection(("127.0.0.1", server.port), 20)
            stream.sendall(ask)
            said = b""
            while b"/* end of it */" not in said:
                piece = stream.recv(8192)
                if not piece:
                    raise RuntimeError(f"{server.name} left after {len(held)} connections")
                said += piece
            held.append(stream)
        return held

    # What it needs once is not counted.
    warm = opened(200)
    before = foreign.anonymous(server.pid)
    held = opened(IDLE)
    after = foreign.anonymous(server.pid)
    # All of them are still served.
    for stream in held[:: IDLE // 100]:
        stream.sendall(ask)
        if not stream.recv(15).startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{server.name} forgot a connection")
    for stream in warm + held:
        stream.close()
    return {"operations": IDLE, "held": {"bytes_per_connection": (after - before) / IDLE}}


def http(options):
    root, certificate = files(), Certificate()
    listener = 'Tcp(module: Http(%s), channels: 20000, sockets: [(port: PORT, address: "127.0.0.1"%s)])'
    serving = f'root: "{root}"'
    location = f"root {root}; "

    def daemon(keys, tls=False, workers=options.workers):
        text = listener % (keys, ", tls: On" if tls else "")
        return ours({"http": text}, certificate.domains() if tls else "", workers=workers)

    clear = [daemon(serving), nginx_http(f"server {{ listen 127.0.0.1:PORT backlog=4096; {location} }}")]
    secure = [
        daemon(serving, True),
        nginx_http(f"server {{ listen 127.0.0.1:PORT ssl backlog=4096; {certificate.nginx()} {location} }}"),
    ]
    behind = nginx_http(f"server {{ listen 127.0.0.1:PORT backlog=4096; {location} }}", "nginx behind", LOAD_CORE)
    passing = [
        daemon(f'upstream: "127.0.0.1:{behind.port}"'),
        nginx_http(
            f"upstream u {{ server 127.0.0.1:{behind.port}; keepalive 200; keepalive_requests 1000000000; }}\n"
            "server { listen 127.0.0.1:PORT backlog=4096; location / { proxy_pass http://u; proxy_http_version 1.1; "
            'proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; } }'
        ),
    ]
    work = [
        ("1 KiB", clear, requests(options, "small.css"), "cpu", None),
        ("1 KiB, TLS", secure, requests(options, "small.css", "https"), "cpu", None),
        ("1 GiB", clear, fetch(), "cpu_s", None),
        ("1 GiB, TLS", secure, fetch("https"), "cpu_s", None),
        ("passed on", passing, requests(options, "small.css"), "cpu", behind),
    ]
    cases = [
        Case(f"{server.name}, {name}", server, [name], metric=metric, work=load, backend=backend)
        for name, servers, load, metric, backend in work
        for server in servers
    ]
    idle = [
        ("portreeve, 4 workers", lambda: daemon(serving, workers=4)),
        ("nginx", lambda: nginx_http(f"server {{ listen 127.0.0.1:PORT backlog=4096; {location} }}")),
    ]
    return cases + [
        Case(f"{name}, {IDLE:,} idle", None, ["hold"], metric="memory", work=hold, start=start) for name, start in idle
    ]


SECTIONS = [
    Section(
        "http", "HTTP",
        f"A file of 1 KiB on {KEPT} connections that stay, asked for by wrk, in clear and under TLS 1.3; one of 1 GiB, fetched "
        "by curl; the small one passed on to an nginx behind, whose CPU time is the load's; and the growth of the server's "
        "anonymous memory by connections that were served once and stay. nginx is one process with its cache of open files.",
        http,
        [("1 KiB, of nginx", "portreeve, 1 KiB", ["nginx, 1 KiB"], "cpu", 1.25),
         ("1 GiB, of nginx", "portreeve, 1 GiB", ["nginx, 1 GiB"], "cpu_s", 1.0),
         ("idle connection, KiB", f"portreeve, 4 workers, {IDLE:,} idle", [], "memory", 2.0)],
        most_rounds=3,
    ),
]
