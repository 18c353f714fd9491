"""What ``twistd onebackend-proxy`` runs: the proxy, its ports, and what is the process's own affair."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.logger import Logger

from .errors import SettingError
from .listening import ListeningService
from .options import Options, refuse_to_start
from .proxy import ProxyService

__all__ = ["Options", "makeService"]


class _Process(Service):
    """What is the process's own affair, and not a proxy's inside another program.

    It may open as many files as it is allowed to. What it has made by the time that it serves is not searched
    for garbage again. And SIGTERM and SIGINT end it in order, with exit code 0: the reactor's own way is to
    finish and then kill the process with the signal, which a supervisor takes for a crash. A second signal
    does not wait for what is in flight. SIGHUP opens the access log anew, if that is a file.
    """

    def __init__(self, proxy: ProxyService, listening: ListeningService, reactor: Any) -> None:
        self._proxy = proxy
        self._listening = listening
        self._reactor = reactor
        self._stopping = False
        self._log = Logger()

    def startService(self) -> None:
        """Take over the signals once the reactor has set its own."""
        super().startService()
        _allow_open_files()
        self._proxy.ready.addCallback(lambda _: _spare_from_garbage_collection())
        self._reactor.callWhenRunning(self._reactor.callLater, 0, self._install)

    def _install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._stop))
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hang_up))

    def _hang_up(self) -> None:
        """Open the log's file anew; without one there is nothing to do, but where a terminal was closed."""
        log = self._listening.access_log
        if log is not None and log.path is not None:
            log.reopen()
        elif os.isatty(0):
            self._stop()
        else:
            self._log.info("SIGHUP: the access log goes to no file, there is nothing to open again")

    def _stop(self) -> None:
        if self._stopping:
            self._proxy.exchanges.cut()
            self._listening.cut()
            return
        self._stopping = True
        self._reactor.stop()


def _allow_open_files() -> None:
    """Raise the soft limit to the hard one, as nginx and Go do: a connection is a file or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems allow less than they say.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _spare_from_garbage_collection() -> None:
    """A full collection would look at every module and class each time: 30 ms in which nobody is served.

    Requests leave no cycles behind. So what is collected are mostly connections that are in use, a few
    milliseconds for a thousand of them: seldom enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def makeService(options: Options) -> MultiService:
    """The service that twistd runs; a setting or a folder that cannot be used ends the program."""
    from twisted.internet import reactor

    try:
        proxy = ProxyService(options.settings, reactor)
        twistd = options.parent
        listening = ListeningService(proxy, reactor, twistd is not None and not twistd["nodaemon"])
    except SettingError as error:
        refuse_to_start(error.message)
    service = MultiService()
    # Stopped in reverse: the ports close first.
    for child in (proxy, listening, _Process(proxy, listening, reactor)):
        child.setServiceParent(service)
    return service
