"""The daemon under soak: its configuration, and what it holds."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

# Whoever is a client of the listeners; hostile peers come from elsewhere.
CLIENTS = "127.0.1.0/24"
# The daemon's own address, as its other listeners see it behind relay and forward.
OWN = "127.0.0.1"
DENIED = "127.0.99.0/24"
USERS = 20

# Listener: its sockets, by their names here.
PORTS = ("smtp", "smtps", "pop", "pops", "http", "https", "echo", "echos", "relay", "exec", "admin", "daytime",
         "discard", "udp", "forward", "snmp", "radius", "tftp")


class Daemon:
    def __init__(self, binary, home, first_port, workers):
        self.binary, self.home = str(binary), Path(home)
        self.ports = {name: first_port + at for at, name in enumerate(PORTS)}
        self._configure(workers)
        self.log = open(self.home / "log.txt", "wb")
        self.process = subprocess.Popen(
            [self.binary, "run", "--config", str(self.config)], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log)
        end = time.monotonic() + 30
        while self.status() is None:
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise SystemExit(f"soak: the daemon does not start; see {self.home}/log.txt")
            time.sleep(0.1)

    def _configure(self, workers):
        conf = self.home / "conf"
        (conf / "listeners").mkdir(parents=True)
        for name in ("www", "tftp"):
            (conf / name).mkdir()
            (conf / name / "page").write_bytes(b"p" * 20_000)
        self.config = conf / "portreeve.ron"
        self.config.write_text(f"""(
            workers: {workers}, state_dir: "../var",
            network: (clients: "{CLIENTS}\n{OWN}", cluster: "{OWN}", denied: "{DENIED}"),
            domains: [(name: "example.org", certificate: SelfSigned)], default_domain: "example.org",
            auto_ban: (failures: 10, within: "1m", for: "20s"),
        )""")
        for name, text in self._listeners().items():
            (conf / "listeners" / f"{name}.ron").write_text(text)
        for user in range(USERS):
            subprocess.run(
                [self.binary, "account", "set", f"user{user}", "--password-stdin", "--config", str(self.config)],
                input=b"secret", check=True, capture_output=True)

    def _listeners(self):
        port = self.ports
        limits = ('channels: 200, reserve_for_clients: 60, limit_per_address: 60, limit_non_clients: 8, '
                  'handshake_timeout: "3s", idle_timeout: "10s"')

        def tcp(module, clear, secure=None):
            secured = f", (port: {port[secure]}, tls: On)" if secure else ""
            return f"Tcp(module: {module}, {limits}, sockets: [(port: {port[clear]}){secured}])"

        def udp(module, name):
            return f"Udp(module: {module}, sockets: [(port: {port[name]})])"

        return {
            "smtp": tcp('Smtp(hostname: "mx.example.org", domains: ["example.org"])', "smtp", "smtps"),
            "pop": tcp("Pop", "pop", "pops"),
            "http": tcp('Http(root: "../www")', "http", "https"),
            "echo": tcp("Echo", "echo", "echos"),
            "relay": tcp(f'Proxy(upstreams: ["127.0.0.1:{port["http"]}"])', "relay"),
            "exec": tcp('Exec(command: ["/bin/cat"])', "exec"),
            "admin": tcp("Admin", "admin"),
            "daytime": tcp("Daytime", "daytime"),
            "discard": tcp("Discard", "discard"),
            "udp": udp("Echo", "udp"),
            "forward": udp(f'Forward(upstreams: ["127.0.0.1:{port["udp"]}"], idle: "2s")', "forward"),
            "snmp": udp("Snmp", "snmp"),
            "radius": udp('Radius(clients: [(from: "127.0.0.0/8", secret: "testing123")])', "radius"),
            "tftp": udp('Tftp(root: "../tftp")', "tftp"),
        }

    def status(self):
        done = subprocess.run([self.binary, "status", "--json", "--config", str(self.config)], capture_output=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def active(self):
        """Connections inside, of all listeners; UDP listeners count their flows and transfers."""
        status = self.status()
        return -1 if status is None else sum(one.get("active") or 0 for one in status["listeners"])

    def memory(self):
        """Resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(text.split("VmRSS:")[1].split()[0])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu(self):
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        """Its exit code."""
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
