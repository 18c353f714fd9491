"""Waiting for other processes: poll a condition, never trust a fixed pause."""

from __future__ import annotations

import contextlib
import pathlib
import random
import socket
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Return the condition's first true value; fail naming `what` when it takes longer."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    """Have it ended when this returns, by force if it does not want to."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on right now.

    It is below those that the kernel takes for outgoing connections: else a client might have it by the time
    that somebody listens there. None is given twice.
    """
    for port in random.sample(_ports(), 500):
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    raise AssertionError("no port is free")


def _ports() -> range:
    try:
        first = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 32768
    return range(12000, first) if first > 14000 else range(14000, 32768)
