"""Threads that nobody waits for: a name server that hangs must not hold up the end of the process."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from twisted.internet._resolver import GAIResolver
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

THREADS = 8


@implementer(IReactorPluggableNameResolver)
class DaemonThreads:
    """A reactor, but for its threads: it waits for its own when it stops, these end with the process."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, THREADS, "dns")
        self._pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        # There is no public name for it.
        self.nameResolver: IHostnameResolver = GAIResolver(self, self.getThreadPool)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<DaemonThreads: {len(self._pool.threads)}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """See `twisted.internet.interfaces.IReactorPluggableNameResolver`."""
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def getThreadPool(self) -> ThreadPool:
        """See `twisted.internet.interfaces.IReactorThreads`."""
        if not self._pool.started:
            self._pool.start()
        return self._pool
