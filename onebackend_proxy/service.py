"""Puts the parts together: the store, the registry, the planes and the listening ports.

`makeService` is what ``twistd onebackend-proxy`` calls; `ProxyService` is the same for embedding.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from .addresses import parse_target
from .api import BuiltInService, built_in_services, open_accounts
from .balancing import Balance, EndpointState, Timeouts, Upstream
from .downstream import ProxySite, ReverseProxyResource, ServiceResource
from .downstream.accesslog import AccessLog
from .downstream.peers import client_address
from .downstream.resources import Desk
from .errors import SettingError
from .exchange import Exchanges
from .folder import ADMIN_PASSWORD, DATABASE, ENCRYPTION_KEY, kept_secret, make_folder
from .headers import Network
from .options import Options, Settings, refuse_to_start
from .registry import EmbeddedRegistry
from .store import Vault, open_sqlite
from .transports import prepare_port
from .upstream import HealthChecks, Http1Client

LAST_WORDS = 1.0
"""Seconds more, in which those whose requests were cut off are told so."""
GRACE = 20.0
"""Seconds that requests in flight may take to finish when the proxy is told to stop."""


def reverse_proxy(
    *urls: str,
    reactor: Any = None,
    trusted_proxies: Sequence[Network] = (),
    timeouts: Timeouts | None = None,
    balance: str = "random",
    weights: Sequence[int] = (),
) -> ReverseProxyResource:
    """A resource that relays everything at and below it to whatever listens at these URLs, healthiest first.

    A URL is ``http://``, ``https://`` or ``unix:/PATH``; of several, `balance` (a Route's word) picks one, by
    `weights` if there are any, one for each URL. For programs that want no registry: it stands where
    `twisted.web.proxy.ReverseProxyResource` would. The path it is mounted at is taken off the target. Raises
    `ValueError` for what cannot be proxied to, a balance or weights that there are not.
    """
    if reactor is None:
        from twisted.internet import reactor
    endpoints = tuple(EndpointState(parse_target(url)) for url in urls)
    upstream = Upstream(
        urls[0] if urls else "nothing",
        endpoints,
        timeouts or Timeouts(),
        balance=Balance(balance),
        weights=tuple(weights),
    )
    desk = Desk(Exchanges(reactor, Http1Client(reactor)), trusted_proxies)
    return ReverseProxyResource(lambda: upstream, desk)


class ProxyService(Service):
    """The proxy as a `twisted.application` service, and as `resource` for another program's Site.

    Making it opens the store, which may block and raises `errors.SettingError`; starting it reads the
    store, looks at the instances, and answers from then on. `ready` fires when that is so.
    """

    name = "onebackend-proxy"

    def __init__(self, settings: Settings, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self.ready: Deferred[None] = Deferred()
        self._starting: Deferred[None] | None = None
        self._built_in: dict[bytes, BuiltInService] = {}
        self._reactor = reactor
        self._log = Logger()
        make_folder(settings.folder)
        key = settings.encryption_key or kept_secret(settings.folder / ENCRYPTION_KEY)
        self._admin_password = settings.admin_password or kept_secret(settings.folder / ADMIN_PASSWORD)
        self.store = open_sqlite(settings.folder / DATABASE, Vault(key), reactor)
        self._client = Http1Client(reactor, limits=settings.limits)
        limits = settings.limits
        self.registry = EmbeddedRegistry(
            self.store, timeouts=limits.timeouts, ejection=limits.ejection, balance=settings.balance
        )
        self._health = HealthChecks(reactor, self.registry.endpoints)
        self.registry.watch = self._health.look
        self.exchanges = Exchanges(reactor, self._client, limits=settings.limits)
        self._desk = Desk(self.exchanges, settings.trusted_proxies)
        self.resource = ServiceResource(self.registry, self._desk)

    def privilegedStartService(self) -> None:
        """Open the store for good: after twistd's fork, and before it drops privileges."""
        super().privilegedStartService()
        self.store.connect()

    def startService(self) -> None:
        """Read the store and begin to answer."""
        super().startService()
        for name in self.settings.ignored:
            self._log.warn("{name} is set, but this version has no edge yet: it is ignored", name=name)
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.chainDeferred(self.ready)

    async def _start(self) -> None:
        accounts = await open_accounts(
            self.store,
            self._reactor.seconds,
            open_registration=self.settings.open_registration,
            slug_in_use=lambda slug: self.registry.lookup(slug) is not None,
        )
        await accounts.ensure_admin(self._admin_password)
        await self.registry.load()
        self._built_in = built_in_services(self.store, self.registry, accounts, self.client_address)
        self.resource.serve(self._built_in)
        self._health.start()

    def client_address(self, request: Request) -> str:
        """Whose request it is, behind whatever trusted proxies: the throttle and the access log agree."""
        return client_address(request, self.settings.trusted_proxies)

    def stopService(self) -> Deferred[None]:
        """Finish what is in flight, at most for `GRACE` seconds, then let go of everything."""
        super().stopService()
        if self._starting is not None:
            self._starting.cancel()
        self._health.stop()
        calls = [service.drained() for service in self._built_in.values()]
        for call in calls:
            call.addTimeout(GRACE, self._reactor, onTimeoutCancel=lambda *_: None)
        return gatherResults([self.exchanges.drain(GRACE), *calls]).addCallback(self._close)

    def _close(self, results: list[Any]) -> Deferred[None]:
        cut = results[0]
        if cut:
            self._log.warn("{cut} requests were cut off after {grace} s", cut=cut, grace=GRACE)
        self._client.close()
        return self.store.close()


class ListeningService(Service):
    """The ports of the service side.

    They are opened as early as twistd allows, so that a port in use ends the program with one line, and
    accept nothing before the proxy is ready.
    """

    def __init__(self, proxy: ProxyService, reactor: Any, daemon: bool = False) -> None:
        self._proxy = proxy
        self._reactor = reactor
        self._daemon = daemon
        self._log = Logger()
        settings = proxy.settings
        self._access_log: AccessLog | None = None
        if settings.access_log != "off":
            self._access_log = AccessLog(reactor, settings.access_log, settings.access_log_format)
        self.site = ProxySite(
            proxy.resource,
            reactor,
            self._access_log.write if self._access_log is not None else None,
            client_of=proxy.client_address,
            limits=settings.limits,
            fast=proxy.resource,
        )
        self._ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Open the ports while we may still use the low ones."""
        super().privilegedStartService()
        failures: list[tuple[str, Failure]] = []
        for text in self._proxy.settings.listen:
            listening = serverFromString(self._reactor, text).listen(self.site)
            listening.addCallback(self._opened)
            listening.addErrback(lambda failure, text=text: failures.append((text, failure)))
        # Out here: a Deferred would swallow the exit.
        for text, failure in failures:
            error = failure.value
            reason = str(error.socketError) if isinstance(error, CannotListenError) else str(error)
            if self._daemon:
                # Our output is gone; twistd tells its waiting parent of an Exception, but not of an exit.
                raise SettingError(f"--listen {text}: {reason}")
            refuse_to_start(f"--listen {text}: {reason}")

    def _opened(self, port: Any) -> None:
        self._ports.append(port)
        prepare_port(port)
        # The kernel keeps who connects meanwhile.
        port.stopReading()

    def startService(self) -> None:
        """Accept connections as soon as the proxy is ready."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()
        self._proxy.ready.addCallbacks(self._accept, self._give_up)

    def _accept(self, _: None) -> None:
        for port in self._ports:
            port.startReading()  # type: ignore[attr-defined]
            self._log.info("listening on {address}", address=_shown(port))
        folder = self._proxy.settings.folder
        if self._proxy.settings.admin_password:
            self._log.info("the account 1backend has the password in OB_ADMIN_PASSWORD")
        else:
            self._log.info(
                "the password of the account 1backend is in {path}", path=str(folder / ADMIN_PASSWORD)
            )

    def _give_up(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            # Told to stop before it had started.
            return
        self._log.failure("the proxy could not start", failure)
        message = failure.getErrorMessage() if failure.check(SettingError) else "could not start, see the log"
        self._reactor.addSystemEventTrigger("after", "shutdown", _exit_with_line, message)
        self._reactor.stop()

    def stopService(self) -> Deferred[Any]:
        """Accept no more, and end each connection after the answer it is at."""
        super().stopService()
        stopping = [port.stopListening() or succeed(None) for port in self._ports]
        self._ports = []
        return gatherResults([*stopping, self.site.drain(GRACE + LAST_WORDS)]).addCallback(self._close)

    def _close(self, _: object) -> None:
        if self._access_log is not None:
            self._access_log.close()


def _shown(port: IListeningPort) -> str:
    address: Any = port.getHost()
    if hasattr(address, "port"):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"http://{host}:{address.port}"
    return f"unix:{address.name.decode() if isinstance(address.name, bytes) else address.name}"


def _exit_with_line(message: str) -> None:
    try:
        refuse_to_start(message)
    except SystemExit:
        # The reactor's triggers swallow it, and twistd would exit with 0.
        sys.stdout.flush()
        os._exit(1)


class _Process(Service):
    """What is the process's own affair, and not a proxy's inside another program.

    It may open as many files as it is allowed to. What it has made by the time that it serves is not searched
    for garbage again. And SIGTERM and SIGINT end it in order, with exit code 0: the reactor's own way is to
    finish and then kill the process with the signal, which a supervisor takes for a crash. A second signal
    does not wait for what is in flight.
    """

    def __init__(self, proxy: ProxyService, listening: ListeningService, reactor: Any) -> None:
        self._proxy = proxy
        self._listening = listening
        self._reactor = reactor
        self._stopping = False

    def startService(self) -> None:
        """Take over the signals once the reactor has set its own."""
        super().startService()
        _allow_open_files()
        self._proxy.ready.addCallback(lambda _: _spare_from_garbage_collection())
        self._reactor.callWhenRunning(self._reactor.callLater, 0, self._install)

    def _install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._stop))

    def _stop(self) -> None:
        if self._stopping:
            self._proxy.exchanges.cut()
            self._listening.site.cut()
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
