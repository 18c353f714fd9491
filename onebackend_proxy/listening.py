"""The listening ports: those of the service side, and those of the edge."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from .addresses import bracketed
from .downstream import ProxySite
from .downstream.accesslog import AccessLog, show_where
from .downstream.resources import Proxied
from .downstream.site import HTTP1, HTTP2
from .errors import SettingError
from .folder import ACCESS_LOG, ADMIN_PASSWORD
from .options import refuse_to_start
from .proxy import GRACE, ProxyService
from .tls.endpoint import TlsEndpoint
from .transports import accept_waiting, prepare_port

LAST_HANDSHAKE = 1.0
"""Seconds in which clients that have connected when the proxy stops may complete their handshakes."""
LAST_WORDS = 1.0
"""Seconds more, in which those whose requests were cut off are told so."""


@attrs.frozen(eq=False)
class _Front:
    """Somewhere to listen: the setting that says so, an endpoint, and what answers there."""

    setting: str
    text: str
    endpoint: IStreamServerEndpoint
    site: ProxySite
    scheme: str = "http"


class ListeningService(Service):
    """The ports of the service side, and of the edge.

    They are opened as early as twistd allows, so that a port in use ends the program with one line, and
    accept nothing before the proxy is ready.
    """

    def __init__(self, proxy: ProxyService, reactor: Any, daemon: bool = False) -> None:
        self._proxy = proxy
        self._reactor = reactor
        self._daemon = daemon
        self._log = Logger()
        settings = proxy.settings
        self.access_log: AccessLog | None = None
        if settings.access_log != "off":
            log = self.access_log = AccessLog(reactor, settings.access_log, settings.access_log_format)
            proxy.readings["access_log_dropped_lines"] = lambda: log.dropped
        self.sites: list[ProxySite] = []
        proxy.readings["connections"] = lambda: sum(len(site.channels) for site in self.sites)
        self._fronts: list[_Front] = []
        site = self._site(proxy.resource, proxy.resource)
        for text in settings.listen:
            self._fronts.append(_Front("--listen", text, serverFromString(reactor, text), site))
        if settings.edge:
            self._add_edge()
        self._ports: list[tuple[_Front, Any]] = []

    def _site(self, resource: Resource, fast: Proxied, protocols: Sequence[bytes] = HTTP1) -> ProxySite:
        proxy = self._proxy
        site = ProxySite(
            resource,
            self._reactor,
            self.access_log.write if self.access_log is not None else None,
            client_of=proxy.client_address,
            limits=proxy.settings.limits,
            fast=fast,
            protocols=protocols,
            counts=proxy.counts,
        )
        self.sites.append(site)
        return site

    def _add_edge(self) -> None:
        proxy = self._proxy
        settings = proxy.settings
        if settings.edge_test_mode:
            site = self._site(proxy.edge, proxy.edge)
            self._fronts.append(self._edge_front("http", settings.http, settings.http_port, site))
            return
        plain = self._site(proxy.plain_edge, proxy.plain_edge)
        self._fronts.append(self._edge_front("http", settings.http, settings.http_port, plain))
        secure = self._site(proxy.edge, proxy.edge, HTTP2)
        front = self._edge_front("https", settings.https, settings.https_port, secure)
        endpoint = proxy.certificates.endpoint(front.endpoint, settings.trusted_proxies)
        self._fronts.append(attrs.evolve(front, endpoint=endpoint, scheme="https"))

    def _edge_front(self, name: str, text: str, port: int, site: ProxySite) -> _Front:
        setting = f"--{name}" if text else f"--{name}-port"
        given = text or all_interfaces(port)
        return _Front(setting, text or str(port), serverFromString(self._reactor, given), site)

    def privilegedStartService(self) -> None:
        """Open the ports while we may still use the low ones."""
        super().privilegedStartService()
        failures: list[tuple[_Front, Failure]] = []
        for front in self._fronts:
            listening = front.endpoint.listen(front.site)
            listening.addCallback(self._opened, front)
            listening.addErrback(_note, failures, front)
        # Out here: a Deferred would swallow the exit.
        for front, failure in failures:
            message = f"{front.setting} {front.text}: {_reason(failure.value)}"
            if self._daemon:
                # Our output is gone; twistd tells its waiting parent of an Exception, but not of an exit.
                raise SettingError(message)
            refuse_to_start(message)

    def _opened(self, port: Any, front: _Front) -> None:
        self._ports.append((front, port))
        prepare_port(port)
        # The kernel keeps who connects meanwhile.
        port.stopReading()

    def startService(self) -> None:
        """Accept connections as soon as the proxy is ready."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()
        self._proxy.ready.addCallbacks(self._accept, self._give_up)
        show_where(self._proxy.settings.folder / ACCESS_LOG, self.access_log)

    def _accept(self, _: None) -> None:
        for front, port in self._ports:
            port.startReading()
            self._log.info("listening on {address}", address=_shown(port, front.scheme))
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
        for _front, port in self._ports:
            accept_waiting(port)
        stopping = [port.stopListening() or succeed(None) for _front, port in self._ports]
        self._ports = []
        for site in self.sites:
            site.closing = True
        endpoints = [front.endpoint for front in self._fronts]
        arriving = [
            each.handshakes_done(LAST_HANDSHAKE) for each in endpoints if isinstance(each, TlsEndpoint)
        ]
        drained = gatherResults(arriving).addCallback(self._drain)
        done = gatherResults([*stopping, drained]).addCallback(self._close)
        told: Deferred[None] = Deferred()
        self._proxy.wait_for(told)
        return done.addCallback(lambda _: told.callback(None))

    def _drain(self, _: object) -> Deferred[Any]:
        return gatherResults([site.drain(GRACE + LAST_WORDS) for site in self.sites])

    def cut(self) -> None:
        """Close all connections now."""
        for site in self.sites:
            site.cut()

    def _close(self, _: object) -> None:
        if self.access_log is not None:
            self.access_log.close()


def all_interfaces(port: int) -> str:
    """The endpoint string of a port on all interfaces, IPv6 and IPv4, or IPv4 where there is no other."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return f"tcp:{port}"
    return f"tcp6:{port}:interface=\\:\\:"


def _note(failure: Failure, failures: list[tuple[_Front, Failure]], front: _Front) -> None:
    failures.append((front, failure))


def _reason(error: BaseException | None) -> str:
    """Why it cannot be listened there, and what helps."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if isinstance(cause, PermissionError):
        return f"{cause} (ports below 1024 need root or a socket from systemd: see docs/systemd.rst)"
    return str(cause)


def _shown(port: IListeningPort, scheme: str) -> str:
    address: Any = port.getHost()
    if hasattr(address, "port"):
        return f"{scheme}://{bracketed(address.host)}:{address.port}"
    return f"unix:{address.name.decode() if isinstance(address.name, bytes) else address.name}"


def _exit_with_line(message: str) -> None:
    try:
        refuse_to_start(message)
    except SystemExit:
        # The reactor's triggers swallow it, and twistd would exit with 0.
        sys.stdout.flush()
        os._exit(1)
