"""Load on one URL, from one core: wrk where it is installed, else a loader of our own."""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Result:
    """What one run gave: requests a second, and what went wrong."""

    rate: float
    errors: str = ""


def loader_name() -> str:
    """Which loader will be used."""
    return "wrk" if shutil.which("wrk") else "own"


def load(url: str, seconds: float, connections: int, core: int) -> Result:
    """Small keep-alive GETs of `url` for so long, over so many connections, from that core."""
    if shutil.which("wrk"):
        return _wrk(url, seconds, connections, core)
    return _own(url, seconds, connections)


def _wrk(url: str, seconds: float, connections: int, core: int) -> Result:
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", out)
    assert rate, out
    bad = [line.strip() for line in out.splitlines() if "Non-2xx" in line or "Socket errors" in line]
    return Result(float(rate[1]), "; ".join(bad))


def _own(url: str, seconds: float, connections: int) -> Result:
    """Every answer has the length of the first one, so that counting bytes is counting answers."""
    parts = urlsplit(url)
    address = (parts.hostname, parts.port)
    request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    with socket.create_connection(address) as first:
        first.sendall(request)
        answer = first.recv(65536)
    if not answer.startswith(b"HTTP/1.1 200"):
        return Result(0.0, answer[:40].decode("latin-1"))
    size = len(answer)
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(address) for _ in range(connections)]
    left = {}
    for sock in sockets:
        selector.register(sock, selectors.EVENT_READ)
        left[sock] = size
        sock.sendall(request)
    done = 0
    began = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        for key, _events in selector.select(1.0):
            sock = key.fileobj
            got = len(sock.recv(65536))
            if not got:
                return Result(done / (now - began), "connection closed")
            left[sock] -= got
            if left[sock] <= 0:
                done += 1
                left[sock] = size
                sock.sendall(request)
    for sock in sockets:
        sock.close()
    return Result(done / (time.monotonic() - began))
