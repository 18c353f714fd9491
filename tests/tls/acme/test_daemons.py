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


def test_a_thread_that_hangs_does_not_hold_up_the_end_of_the_process():
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == "looked up\n"
    assert time.monotonic() - begun < 20
