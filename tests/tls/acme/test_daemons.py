"""Threads that nobody waits for, in a process that ends."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = """
import time
from twisted.internet import reactor
from twisted.internet.threads import deferToThreadPool
from onebackend_proxy.tls.acme.daemons import DaemonThreads
threads = DaemonThreads(reactor)
def begin():
    deferToThreadPool(threads, threads.getThreadPool(), time.sleep, 60)
    done = deferToThreadPool(threads, threads.getThreadPool(), lambda: "looked up")
    done.addCallback(print).addBoth(lambda _: reactor.stop())
reactor.callWhenRunning(begin)
reactor.run()
"""


LOOK_UP = """
import socket, time
def hang(*what):
    reactor.callFromThread(print, "asked for", what[0])
    reactor.callFromThread(reactor.stop)
    time.sleep(60)
socket.getaddrinfo = hang
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from onebackend_proxy.tls.acme.daemons import DaemonThreads
endpoint = HostnameEndpoint(DaemonThreads(reactor), b"ca.test", 443)
reactor.callWhenRunning(lambda: endpoint.connect(Factory()))
reactor.run()
"""


def assert_ends(program: str, prints: str) -> None:
    """It ends by itself, long before what hangs in it."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == prints, done.stderr
    assert time.monotonic() - begun < 20


def test_a_thread_that_hangs_does_not_hold_up_the_end_of_the_process():
    assert_ends(PROGRAM, "looked up\n")


def test_nor_does_a_name_server_that_hangs():
    assert_ends(LOOK_UP, "asked for ca.test\n")
