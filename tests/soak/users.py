"""Client-class users: each does one thing after the other, by a seed, and none may fail."""

import base64
import poplib
import random
import smtplib
import socket
import ssl
import threading
import time

# How long anything of a user's may take before it counts as failed, in seconds.
PATIENCE = 10
# What one user does in a second, at most.
PACE = 2.5

TLS = ssl.create_default_context()
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE

# GetRequest of sysUpTime.0 with the community "public" (RFC 3416).
SNMP_GET = bytes.fromhex("302902010104067075626c6963a01c020412345678020100020100300e300c06082b060102010103000500")


class User:
    def __init__(self, number, ports, seed):
        self.number, self.ports = number, ports
        self.dice = random.Random(f"{seed}/{number}")
        self.address = f"127.0.1.{number + 1}"
        self.source = (self.address, 0)
        # Messages in the mailbox; not known before the first look into it.
        self.sent = None

    def _connect(self, port, secure=False):
        stream = socket.create_connection(("127.0.0.1", self.ports[port]), PATIENCE, self.source)
        return TLS.wrap_socket(stream) if secure else stream

    def smtp(self):
        """A message to itself; the next look into its mailbox fetches it."""
        with smtplib.SMTP("127.0.0.1", self.ports["smtp"], "user.example", PATIENCE, self.source) as client:
            client.sendmail("me@b.example", [f"user{self.number}@example.org"],
                            "Subject: hello\r\n\r\n" + "hello\r\n" * 50)
        if self.sent is not None:
            self.sent += 1

    def pop(self):
        """Fetches and removes what it was sent, and counts it."""
        client = _Pop(self.source, self.ports["pops"])
        client.user(f"user{self.number}")
        client.pass_("secret")
        found = len(client.list()[1])
        for number in range(1, found + 1):
            client.retr(number)
            client.dele(number)
        client.quit()
        assert self.sent in (None, found), f"{found} messages where {self.sent} were sent"
        self.sent = 0

    def http(self, port="http", secure=False):
        with self._connect(port, secure) as stream:
            stream.sendall(b"GET /page HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: stream.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and len(body) == 20_000, head[:80]

    def https(self):
        self.http("https", True)

    def relay(self):
        self.http("relay")

    def echo(self):
        """A session under TLS with a few questions."""
        with self._connect("echos", True) as stream:
            for _ in range(3):
                text = self.dice.randbytes(500)
                stream.sendall(text)
                answer = b""
                while len(answer) < len(text):
                    more = stream.recv(4096)
                    assert more, "the end of file"
                    answer += more
                assert answer == text

    def exec(self):
        with self._connect("exec") as stream:
            stream.sendall(b"meow")
            stream.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: stream.recv(100), b"")) == b"meow"

    def _ask(self, port, question):
        """Datagrams may be lost, so clients ask again, as they do."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(self.source)
            client.connect(("127.0.0.1", self.ports[port]))
            client.settimeout(1)
            for _ in range(3):
                client.send(question)
                try:
                    return client.recv(65536)
                except TimeoutError:
                    pass
        raise AssertionError("three questions and no answer")

    def snmp(self):
        assert b"\x2b\x06\x01\x02\x01\x01\x03\x00" in self._ask("snmp", SNMP_GET)

    def udp(self):
        assert self._ask("udp", b"ping") == b"ping"

    def forward(self):
        assert self._ask("forward", b"ping") == b"ping"


class _Pop(poplib.POP3_SSL):
    """From a chosen address, which poplib knows no way for."""

    def __init__(self, source, port):
        self.source = source
        super().__init__("127.0.0.1", port, timeout=PATIENCE, context=TLS)

    def _create_socket(self, timeout):
        stream = socket.create_connection((self.host, self.port), timeout, self.source)
        return self.context.wrap_socket(stream, server_hostname=self.host)


# Kinds, with how often each is done.
KINDS = {"smtp": 3, "pop": 2, "http": 4, "https": 3, "relay": 2, "echo": 3, "exec": 1, "snmp": 3, "udp": 3, "forward": 2}


def live(numbers, ports, seed, stop, results):
    """Lets users live until `stop`; puts (kind, seconds, error or None) lists into `results`."""
    noted = []

    def run(number):
        user = User(number, ports, seed)
        while not stop.is_set():
            kind = user.dice.choices(list(KINDS), KINDS.values())[0]
            began = time.monotonic()
            try:
                getattr(user, kind)()
                error = None
            except (OSError, AssertionError, EOFError, smtplib.SMTPException, poplib.error_proto) as caught:
                error = f"{type(caught).__name__}: {caught}"
            took = time.monotonic() - began
            noted.append((kind, took, error))
            stop.wait(max(0, user.dice.uniform(0.5, 1.5) / PACE - took))

    threads = [threading.Thread(target=run, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(noted)


def plain(name, password):
    """The initial response of SASL PLAIN (RFC 4616)."""
    return base64.b64encode(f"\0{name}\0{password}".encode())
