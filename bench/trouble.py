"""Clients that cost more than they should, until this is told to end: slow heads, bodies and readers, idlers.

Usage: trouble.py PORT. It writes a line when all are there, and at SIGTERM one of JSON that tells how many
connections were open, and how many had been closed by the proxy and were opened again.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Callable

from backend import DOWNLOAD_512M, MIB, POST, SMALL
from connections import connect, get, is_silent, sip
from processes import raise_file_limit

COUNTS = {"slow head": 50, "slow body": 50, "slow reader": 50, "idle opening": 1000}
TICK = 0.25
"""Seconds between two steps of one of them."""
PARTS = 50

_OPENINGS = {
    "slow head": f"GET {SMALL} HTTP/1.1\r\nHost: bench.example\r\nX-Slow: ".encode(),
    "slow body": f"POST {POST} HTTP/1.1\r\nHost: bench.example\r\nContent-Length: {MIB}\r\n\r\n".encode(),
    "slow reader": get(DOWNLOAD_512M),
    "idle opening": b"",
}


def _open(kind: str, port: int) -> socket.socket:
    sock = connect(port, window=8192)
    sock.sendall(_OPENINGS[kind])
    sock.setblocking(False)
    return sock


def _drip(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        sock.send(b"x")
    return is_silent(sock)


def _read(sock: socket.socket) -> bool:
    sip(sock)
    return True


_STEPS: dict[str, Callable[[socket.socket], bool]] = {
    "slow head": _drip,
    "slow body": _drip,
    "slow reader": _read,
    "idle opening": is_silent,
}


def _is_served(kind: str, sock: socket.socket) -> bool:
    """Do what such a client does; False if the proxy has refused it or closed."""
    try:
        return _STEPS[kind](sock)
    except OSError:
        return False


def main() -> None:
    """Open everything, and go on until SIGTERM."""
    port = int(sys.argv[1])
    raise_file_limit()
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    held = [(kind, _open(kind, port)) for kind, count in COUNTS.items() for _ in range(count)]
    print("ready", flush=True)
    again = part = 0
    while not ended:
        # A part of them at a time: all at once would stall the load that shares this core, and be seen there.
        time.sleep(TICK / PARTS)
        part = (part + 1) % PARTS
        for number, (kind, sock) in list(enumerate(held))[part::PARTS]:
            if _is_served(kind, sock):
                continue
            sock.close()
            with contextlib.suppress(OSError):
                held[number] = (kind, _open(kind, port))
                again += 1
    print(json.dumps({"open": sum(_is_served(*one) for one in held), "again": again}), flush=True)


if __name__ == "__main__":
    main()
