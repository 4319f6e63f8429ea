"""Servers under load: ours, the bare ones in C, and the peers. Each runs in the foreground, pinned to a core."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "target/bench"
RUN = OUT / "run"
SERVER_CORE, LOAD_CORE = "0", "1"
# Below the ports from which those of clients are picked.
_ports = itertools.count(2000)
_running = []


def ports(count=1):
    """The first of so many consecutive free ports."""
    taken = [next(_ports) for _ in range(count)]
    return taken[0]


class Server:
    """A process and where it listens. `stop` ends it and nothing else."""

    def __init__(self, name, command, port, core=SERVER_CORE, udp=False):
        self.name, self.port = name, port
        home = RUN / f"{name}-{port}"
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "log"
        # Ends with us, even when we are killed.
        wrapped = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", core, *map(str, command)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                wrapped, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home, start_new_session=True
            )
        _running.append(self)
        self._wait_until_ready(udp)

    @property
    def pid(self):
        return self.process.pid

    def _wait_until_ready(self, udp):
        end = time.monotonic() + 30
        while not (listens_udp(self.port) if udp else listens(self.port)):
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log.read_text(errors="replace")
                self.stop()
                raise RuntimeError(f"{self.name} does not start: {said}")
            time.sleep(0.01)

    def stop(self):
        if self in _running:
            _running.remove(self)
        for sign, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
            if self.process.poll() is not None:
                break
            self.process.send_signal(sign)
            if sign == signal.SIGTERM and self.name.startswith("portreeve"):
                # Twice stops at once.
                self.process.send_signal(sign)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
        # What it started and left: its session is its own, so this reaches nobody else.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def stop_all():
    for server in list(_running):
        server.stop()


def listens(port):
    """Asks the kernel's table: a connection would be counted, logged or refused by the server."""
    return _bound(port, ("tcp", "tcp6"), "0A")


def listens_udp(port):
    return _bound(port, ("udp", "udp6"), "07")


def _bound(port, tables, state):
    wanted = f":{port:04X}"
    for table in tables:
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == state:
                return True
    return False


def home(name, port):
    path = RUN / f"{name}-{port}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def ours(listeners, server="", name="portreeve", workers=None, count=1, udp=False, prepare=None):
    """The daemon; `listeners` maps a name to the text of its file, with PORT for its port. `count` such
    listeners are made of each, on consecutive ports. `prepare` is called with the configuration's path before it starts."""
    port = ports(count)
    conf = home(name, port) / "conf"
    (conf / "listeners").mkdir(parents=True)
    threads = f"workers: {workers}," if workers else ""
    (conf / "portreeve.ron").write_text(f"({threads}\n{server})\n")
    for number in range(count):
        for listener, text in listeners.items():
            text = text.replace("PORT", str(port + number))
            (conf / "listeners" / f"{listener}{number}.ron").write_text(text)
    if prepare:
        prepare(conf / "portreeve.ron")
    command = [ROOT / "target/release/portreeve", "run", "--config", conf / "portreeve.ron"]
    return Server(name, command, port, udp=udp)


def bare(program, core=SERVER_CORE, name=None, udp=False):
    port = ports()
    return Server(name or f"bare C {program}", [OUT / "bin" / program, port], port, core, udp)


def nginx(stream, name="nginx", udp=False):
    """nginx with one server of `stream`; PORT is its port."""
    port = ports()
    path = home(name, port)
    (path / "nginx.conf").write_text(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
        "daemon off; master_process off; pid nginx.pid; error_log stderr emerg;\n"
        "events { worker_connections 20000; multi_accept on; }\n"
        "stream { access_log off; tcp_nodelay on;\n" + stream.replace("PORT", str(port)) + "}\n"
    )
    return Server(name, ["/usr/sbin/nginx", "-p", path, "-c", path / "nginx.conf", "-e", "stderr"], port, udp=udp)


def nginx_http(blocks, name="nginx", core=SERVER_CORE):
    """nginx with these blocks of `http`; PORT is its port."""
    port = ports()
    path = home(name, port)
    (path / "nginx.conf").write_text(
        "daemon off; master_process off; pid nginx.pid; error_log stderr emerg; user root;\n"
        "events { worker_connections 20000; multi_accept on; }\n"
        "http { access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000;\n"
        "keepalive_timeout 1h; open_file_cache max=100; types { text/css css; application/octet-stream bin; }\n"
        "client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n"
        + blocks.replace("PORT", str(port)) + "}\n"
    )
    return Server(name, ["/usr/sbin/nginx", "-p", path, "-c", path / "nginx.conf", "-e", "stderr"], port, core)


def haproxy(sections, name="HAProxy", settings="", maxconn=4000):
    """HAProxy in TCP mode with one thread; PORT is its port. It wants two descriptors for each of `maxconn`, and
    more for pipes, or it does not start."""
    port = ports()
    path = home(name, port)
    (path / "haproxy.cfg").write_text(
        f"global\n nbthread 1\n maxconn {maxconn}\n{settings}\n"
        f"defaults\n mode tcp\n maxconn {maxconn}\n backlog 4096\n timeout connect 5s\n timeout client 1h\n"
        " timeout server 1h\n" + sections.replace("PORT", str(port)) + "\n"
    )
    return Server(name, ["/usr/sbin/haproxy", "-db", "-f", path / "haproxy.cfg"], port)


def stunnel(certificate, backend, name="stunnel"):
    port = ports()
    path = home(name, port)
    (path / "stunnel.conf").write_text(
        "foreground = yes\npid =\nsyslog = no\ndebug = emerg\noutput = /dev/null\nsocket = l:TCP_NODELAY=1\n"
        "socket = r:TCP_NODELAY=1\n"
        f"[echo]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend}\ncert = {certificate.pem}\n"
        "sslVersion = TLSv1.3\ncurves = X25519\nciphersuites = TLS_AES_128_GCM_SHA256\nTIMEOUTclose = 0\n"
    )
    return Server(name, ["/usr/bin/stunnel4", path / "stunnel.conf"], port)


def xinetd(program, name="xinetd"):
    port = ports()
    path = home(name, port)
    (path / "xinetd.conf").write_text(
        "service bench\n{\n type = UNLISTED\n socket_type = stream\n protocol = tcp\n wait = no\n user = root\n"
        f" bind = 127.0.0.1\n port = {port}\n server = {program}\n instances = UNLIMITED\n per_source = UNLIMITED\n"
        " cps = 100000 1\n flags = NODELAY\n}\n"
    )
    return Server(name, ["/usr/sbin/xinetd", "-dontfork", "-f", path / "xinetd.conf", "-filelog", "/dev/null"], port)


def snmpd(name="net-snmp snmpd"):
    """net-snmp's agent with one community, and without the modules that Debian leaves out, too."""
    port = ports()
    path = home(name, port)
    (path / "snmpd.conf").write_text(f"rocommunity public\npersistentDir {path}\n")
    command = ["/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", path / "snmpd.conf", "-I", "-smux,mteTrigger,mteTriggerConf",
               "-p", path / "pid", f"udp:127.0.0.1:{port}"]
    return Server(name, command, port, udp=True)


def freeradius(user, name="FreeRADIUS"):
    """FreeRADIUS that knows one user, by a line of its `users` file, with the modules that PAP and CHAP take."""
    port = ports()
    path = home(name, port)
    (path / "users").write_text(user + "\n")
    (path / "radiusd.conf").write_text(
        f"prefix = /usr\nname = radiusd\nlogdir = {path}\nrun_dir = {path}\nlibdir = /usr/lib/freeradius\n"
        f"pidfile = {path}/pid\nproxy_requests = no\nmax_requests = 65536\nhostname_lookups = no\n"
        f"log {{\n destination = stdout\n auth = no\n}}\nsecurity {{\n allow_core_dumps = no\n}}\n"
        "client localhost {\n ipaddr = 127.0.0.0/8\n secret = testing123\n require_message_authenticator = yes\n}\n"
        "thread pool {\n}\n"
        f"modules {{\n files {{\n  usersfile = {path}/users\n }}\n pap {{\n }}\n chap {{\n }}\n}}\n"
        f"server default {{\n listen {{\n  type = auth\n  ipaddr = 127.0.0.1\n  port = {port}\n }}\n"
        " authorize {\n  files\n  chap\n  pap\n }\n"
        " authenticate {\n  Auth-Type PAP {\n   pap\n  }\n  Auth-Type CHAP {\n   chap\n  }\n }\n}\n"
    )
    command = ["/usr/sbin/freeradius", "-f", "-l", "stdout", "-D", "/usr/share/freeradius", "-d", path]
    return Server(name, command, port, udp=True)


def cheap_hash(password):
    """crypt(3) with SHA-256 and the fewest rounds there are."""
    command = ["openssl", "passwd", "-5", "-salt", "rounds=1000$portreeve", password]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Certificate:
    """One P-256 key and its certificate, for all servers."""

    def __init__(self):
        self.chain, self.key, self.pem = (RUN / name for name in ("chain.pem", "key.pem", "both.pem"))
        RUN.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
             "90", "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test", "-keyout", self.key, "-out",
             self.chain],
            check=True, capture_output=True,
        )
        self.pem.write_text(self.chain.read_text() + self.key.read_text())
        self.pem.chmod(0o600)

    def domains(self):
        """What `portreeve.ron` needs to show it."""
        return (
            'domains: [(name: "bench.test", certificate: Files(chain: "%s", key: "%s"))], '
            'default_domain: "bench.test",' % (self.chain, self.key)
        )

    def nginx(self):
        return (
            f"ssl_certificate {self.chain}; ssl_certificate_key {self.key}; ssl_protocols TLSv1.3;"
            "ssl_ecdh_curve X25519; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_session_tickets on;\n"
        )

    def haproxy(self):
        return f"ssl crt {self.pem} ssl-min-ver TLSv1.3 curves X25519 ciphersuites TLS_AES_128_GCM_SHA256"
