"""Connections that are held, not used: idle ones, and readers that hardly read."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

from backend import DOWNLOAD_512M, SMALL, SMALL_ANSWER
from processes import Running

PER_SOURCE = 2500
"""Connections from one address: the ports of 127.0.0.1 alone may be in use or just have been."""
TICK = 0.1
SIP = 4096
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def get(path: str) -> bytes:
    """A plain GET."""
    return f"GET {path} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode()


def connect(port: int, number: int = 0, window: int = 0) -> socket.socket:
    """The connection of that number, from a source address of its own group; it leaves no TIME_WAIT."""
    sock = socket.socket()
    sock.settimeout(20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    if window:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    try:
        sock.bind((f"127.0.0.{2 + number // PER_SOURCE}", 0))
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def is_silent(sock: socket.socket) -> bool:
    """Whether it is open and nothing has come: neither an end nor a refusal."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def sip(sock: socket.socket) -> int:
    """Take a little of what has come: how many bytes, 0 if there is nothing yet.

    Raises `OSError` where the answer was cut off.
    """
    sock.setblocking(False)
    try:
        piece = sock.recv(SIP)
    except BlockingIOError:
        return 0
    if not piece:
        raise OSError("a slow reader's answer was cut off")
    return len(piece)


@contextlib.contextmanager
def idle(proxy: Running, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that have had one answer each, and ask nothing more.

    Raises `OSError` where one is not answered.
    """
    with contextlib.ExitStack() as held:
        sockets = []
        for number in range(count):
            sock = held.enter_context(connect(proxy.port, number))
            sock.sendall(get(SMALL))
            answer = b""
            while not answer.endswith(SMALL_ANSWER):
                piece = sock.recv(4096)
                answer += piece
                if not piece or not answer.startswith(b"HTTP/1.1 200"):
                    raise OSError(f"idle connection {number}: {answer[:40]!r}")
            sockets.append(sock)
        yield sockets


def slow_readers(proxy: Running, count: int, seconds: float) -> list[int]:
    """Readers of 512 MB that take 40 KB a second each: the proxy's memory at each tick.

    Raises `OSError` where one of them is not served.
    """
    samples = []
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(connect(proxy.port, window=8192)) for _ in range(count)]
        got = dict.fromkeys(sockets, 0)
        for sock in sockets:
            sock.sendall(get(DOWNLOAD_512M))
            if (first := sock.recv(12, socket.MSG_WAITALL)) != b"HTTP/1.1 200":
                raise OSError(f"a slow reader's answer: {first!r}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(TICK)
            for sock in sockets:
                got[sock] += sip(sock)
            samples.append(proxy.memory())
    if starved := sum(size < SIP for size in got.values()):
        raise OSError(f"{starved} slow readers got next to nothing")
    return samples


def growth(samples: list[int]) -> int:
    """Bytes that the last quarter stands above the second: what was still growing after it had settled."""
    quarter = max(1, len(samples) // 4)
    return max(samples[-quarter:]) - max(samples[quarter : 2 * quarter] or samples)
