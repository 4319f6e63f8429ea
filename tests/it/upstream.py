"""A web server of its own for the tests of the reverse proxy: it answers as asked, and counts its connections."""
import json
import socket
import sys
import threading
import time

count = 0


def read_head(stream):
    lines = []
    while True:
        line = stream.readline().decode("latin-1")
        if not line:
            return None
        if line == "\r\n":
            return lines
        lines.append(line.rstrip("\r\n"))


def read_body(stream, fields):
    if "transfer-encoding" in fields:
        body = b""
        while True:
            size = int(stream.readline(), 16)
            piece = stream.read(size)
            stream.readline()
            if size == 0:
                return body
            body += piece
    return stream.read(int(fields.get("content-length", 0)))


def serve(connection):
    stream = connection.makefile("rb")
    while (lines := read_head(stream)) is not None:
        method, target, _ = lines[0].split(" ")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        body = read_body(stream, fields)
        plain = lambda text: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), b"" if method == "HEAD" else text)
        if target == "/echo":
            connection.sendall(plain(json.dumps({"lines": lines, "body": body.decode("latin-1")}).encode()))
        elif target == "/length":
            connection.sendall(plain(str(len(body)).encode()))
        elif target == "/count":
            connection.sendall(plain(str(count).encode()))
        elif target == "/once":
            # Answers, and closes a moment later without having said so.
            connection.sendall(plain(b"once"))
            return
        elif target == "/chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n")
            for piece in (b"one ", b"two ", b"three"):
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
        elif target == "/to-the-end":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300000)
            return
        elif target == "/interim":
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plain(b"final"))
        elif target == "/broken":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            return
        elif target == "/nonsense":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            return
        elif target == "/silent":
            time.sleep(20)
        elif target == "/upgrade":
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\nhello\n")
            while line := stream.readline():
                connection.sendall(line.upper())
            return


def handle(connection):
    try:
        serve(connection)
    except OSError:
        pass
    finally:
        connection.close()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
while True:
    accepted, _ = listener.accept()
    count += 1
    threading.Thread(target=handle, args=(accepted,), daemon=True).start()
