"""Mail: received into a Maildir, both servers with fsync, and headers read over IMAP."""

import os
import socket
import time

import foreign
from mail_servers import dovecot, knows, our_mail, postfix
from runs import Case
from section import Section

SMTP = 'Smtp(hostname: "mx.bench.test", domains: ["example.org"])'
IMAP = "Imap()"
MESSAGES, SESSIONS = 1_000, 50
READ = 10_000


def send(*flags):
    """Sends messages, and ends when all of them are in the Maildir."""
    def work(server):
        new = server.mail / "new"
        before = len(os.listdir(new)) if new.exists() else 0
        foreign.command(
            ["smtp-source", *flags, "-s", SESSIONS, "-m", MESSAGES, "-l", 4096, "-f", "me@bench.test", "-t",
             "ann@example.org", f"127.0.0.1:{server.port}"]
        )
        end = time.monotonic() + 120
        while len(os.listdir(new)) < before + MESSAGES:
            if time.monotonic() > end:
                raise RuntimeError(f"{server.name}: not all messages came")
            time.sleep(0.02)
        return MESSAGES
    return work


def smtp(options):
    servers = [our_mail(SMTP, options.workers), postfix()]
    return [
        Case(f"{server.name}, {name}", server, ["smtp-source", *flags], metric="wall", work=send(*flags))
        for name, flags in (("connection each", []), ("kept", ["-d"]))
        for server in servers
    ]


def fill(mail):
    """Messages with a header of eight fields and some text."""
    for number in range(READ):
        text = (
            f"Return-Path: <me@bench.test>\r\nReceived: from a.bench.test ([192.0.2.1])\r\n\tby mx.bench.test with ESMTP"
            f" id {number:08};\r\n\tTue, 24 Nov 2026 10:00:00 +0000\r\nFrom: Me <me@bench.test>\r\nTo: Ann"
            f" <ann@example.org>\r\nSubject: message {number}\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\nMessage-ID:"
            f" <{number}@bench.test>\r\nMIME-Version: 1.0\r\n\r\n" + "Some text of a message.\r\n" * 40
        )
        (mail / "cur" / f"{1_700_000_000 + number}.M{number}P1Q{number}.bench,S={len(text)},W={len(text)}:2,S").write_text(
            text, newline=""
        )


class Imap:
    """As much of a client as this takes."""

    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), 120)
        self.until(b"* OK")

    def until(self, wanted):
        """Reads up to a line that begins so; how many bytes that were."""
        total, tail = 0, b"\n"
        while True:
            piece = self.stream.recv(1 << 18)
            if not piece:
                raise RuntimeError(f"the server left: {tail!r}")
            total += len(piece)
            tail = (tail + piece)[-4096:]
            start = tail.rfind(b"\n" + wanted)
            if start >= 0 and tail.endswith(b"\r\n"):
                return total, tail[start + 1:]

    def command(self, text):
        self.stream.sendall(b"a " + text + b"\r\n")
        total, line = self.until(b"a ")
        if not line.startswith(b"a OK"):
            raise RuntimeError(f"{text}: {line!r}")
        return total


def headers(server):
    """Logs in, and fetches the header of each message of a large mailbox."""
    client = Imap(server.port)
    client.command(b"LOGIN ann secret")
    client.command(b"SELECT INBOX")
    total = client.command(b"FETCH 1:* (UID FLAGS RFC822.SIZE BODY.PEEK[HEADER])")
    if total < READ * 350:
        raise RuntimeError(f"{server.name}: only {total} bytes of headers")
    client.stream.close()
    return {"operations": READ, "bytes": total}


def imap(options):
    servers = [dovecot(fill)]
    if knows(IMAP):
        servers.insert(0, our_mail(IMAP, options.workers, prepare=fill))
    else:
        imap_section.notes.append("This build of portreeve has no IMAP module: only Dovecot was measured.")
    for server in servers:
        # What a server indexes, it has indexed.
        headers(server)
    return [Case(server.name, server, ["FETCH"], metric="wall", work=headers) for server in servers]


smtp_section = Section(
    "mail", "SMTP into a Maildir",
    f"smtp-source with {SESSIONS} sessions sends {MESSAGES:,} messages of 4 KiB, by a connection for each or over kept ones, "
    "until all are in the Maildir; both servers make each durable. Postfix writes a message to its queue and then to the "
    "Maildir (virtual(8)), portreeve once.",
    smtp,
    [(f"{work}, time of Postfix's", f"portreeve, {work}", [f"Postfix, {work}"], "wall", 1.0)
     for work in ("connection each", "kept")],
)
imap_section = Section(
    "imap", "IMAP: headers of 10,000 messages",
    "LOGIN, SELECT, and one FETCH of UID, flags, size and the header of each message of a Maildir, over a new connection, "
    "after the first such time. Operations are messages.",
    imap,
    [("time of Dovecot's", "portreeve", ["Dovecot"], "wall", 1.0)],
)
SECTIONS = [smtp_section, imap_section]
