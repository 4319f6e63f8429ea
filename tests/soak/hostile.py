"""Peers who mean harm, each in a thread and at a bounded rate, from addresses that are nobody's users."""

import random
import socket
import struct
import threading

from users import SNMP_GET, plain

STREAMS = ("smtp", "smtps", "pop", "pops", "http", "https", "echo", "echos", "relay", "exec", "admin", "daytime", "discard")
SECURE = ("smtps", "pops", "https", "echos")
DATAGRAMS = ("udp", "forward", "snmp", "radius", "tftp")

# The head of a ClientHello whose rest never comes.
HALF_HELLO = bytes.fromhex("16030102000100")
RESET = struct.pack("ii", 1, 0)


class Hostile:
    def __init__(self, ports, seed, stop, counts):
        self.ports, self.stop, self.counts = ports, stop, counts
        self.seed = seed

    def _dice(self, name):
        return random.Random(f"{self.seed}/{name}")

    def _connect(self, dice, port, net=66):
        """A stream from a chance address, or nothing: being refused is what these must expect."""
        stream = socket.socket()
        stream.settimeout(1)
        try:
            stream.bind((f"127.0.{net}.{dice.randrange(1, 250)}", 0))
            stream.connect(("127.0.0.1", self.ports[port]))
            return stream
        except OSError:
            stream.close()
            return None

    def _each(self, name, pace, act):
        """Acts `pace` times a second until the end."""
        dice = self._dice(name)
        while not self.stop.wait(1 / pace):
            try:
                act(dice)
                self.counts[name] = self.counts.get(name, 0) + 1
            except OSError:
                self.counts[f"{name}, cut"] = self.counts.get(f"{name}, cut", 0) + 1

    def silent(self):
        """Connects and says nothing, a hundred at a time."""
        held = []

        def act(dice):
            if len(held) >= 100:
                held.pop(0).close()
            stream = self._connect(dice, dice.choice(STREAMS))
            if stream:
                held.append(stream)

        self._each("silent", 20, act)

    def half_handshakes(self):
        held = []

        def act(dice):
            if len(held) >= 60:
                held.pop(0).close()
            stream = self._connect(dice, dice.choice(SECURE))
            if stream:
                held.append(stream)
                stream.sendall(HALF_HELLO[:dice.randrange(1, 8)])

        self._each("half handshakes", 15, act)

    def drip(self):
        """A byte now and then, of a request that never ends."""
        held = []

        def act(dice):
            if len(held) < 60 and (stream := self._connect(dice, dice.choice(("http", "smtp", "pop", "relay", "admin")))):
                held.append(stream)
            stream = dice.choice(held)
            try:
                stream.send(bytes([dice.choice(b"GET /aX-:\r")]))
            except OSError:
                held.remove(stream)
                stream.close()

        self._each("drip", 60, act)

    def resets(self):
        def act(dice):
            stream = self._connect(dice, dice.choice(STREAMS))
            if stream:
                stream.send(dice.randbytes(dice.randrange(1, 200)))
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                stream.close()

        self._each("resets", 40, act)

    def garbage(self):
        def act(dice):
            stream = self._connect(dice, dice.choice(STREAMS))
            if stream:
                with stream:
                    stream.settimeout(0.2)
                    stream.send(dice.randbytes(dice.randrange(1, 4000)))
                    stream.recv(4096)

        self._each("garbage", 30, act)

    def refused(self):
        """Connections of the denied, one after the other."""

        def act(dice):
            for _ in range(10):
                stream = self._connect(dice, dice.choice(STREAMS), 99)
                if stream:
                    stream.close()

        self._each("refused, tens", 20, act)

    def datagrams(self):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
        for at, sender in enumerate(sockets):
            sender.bind((f"127.0.66.{at + 1}", 0))
            sender.setblocking(False)

        def act(dice):
            for _ in range(25):
                text = dice.choice((dice.randbytes(dice.randrange(0, 600)), SNMP_GET, b"\0\x01page\0octet\0", b"\x01\x00"))
                sender = dice.choice(sockets)
                sender.sendto(text, ("127.0.0.1", self.ports[dice.choice(DATAGRAMS)]))
                try:
                    sender.recv(65536)
                except BlockingIOError:
                    pass

        self._each("datagrams, 25 each", 20, act)

    def bad_logins(self):
        def act(dice):
            name = f"user{dice.randrange(20)}".encode()
            wrong = b"wrong%d" % dice.randrange(10**6)
            port = dice.choice(("pop", "smtp"))
            stream = self._connect(dice, port)
            if stream:
                with stream:
                    stream.recv(1000)
                    if port == "pop":
                        stream.sendall(b"USER " + name + b"\r\n")
                        stream.recv(1000)
                        stream.sendall(b"PASS " + wrong + b"\r\n")
                    else:
                        stream.sendall(b"EHLO x\r\n")
                        stream.recv(1000)
                        stream.sendall(b"AUTH PLAIN " + plain(name.decode(), wrong.decode()) + b"\r\n")
                    stream.recv(1000)

        self._each("bad logins", 4, act)


def rage(ports, seed, stop, results):
    """All of them until `stop`; what each did goes into `results`."""
    counts = {}
    hostile = Hostile(ports, seed, stop, counts)
    acts = (hostile.silent, hostile.half_handshakes, hostile.drip, hostile.resets, hostile.garbage, hostile.refused,
            hostile.datagrams, hostile.bad_logins)
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(counts)
