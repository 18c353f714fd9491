"""Connecting in memory: a test decides what comes of each attempt."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from onebackend_proxy.addresses import Address

from ..wire import Wire


@attrs.define(eq=False)
class Attempt:
    """One attempt to connect; `deferred` is what the caller waits for."""

    address: Address
    timeout: float
    factory: IProtocolFactory
    deferred: Deferred[IProtocol]
    cancelled: bool = False


@implementer(IStreamClientEndpoint)
@attrs.define(eq=False)
class _Endpoint:
    network: Network
    address: Address
    timeout: float

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt: Attempt

        def cancel(_: Deferred[IProtocol]) -> None:
            attempt.cancelled = True
            self.network.attempts.remove(attempt)

        attempt = Attempt(self.address, self.timeout, protocolFactory, Deferred(cancel))
        self.network.attempts.append(attempt)
        return attempt.deferred


class Network:
    """Its `endpoint_for` stands in for `upstream.connecting.endpoint_for`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.attempts: list[Attempt] = []

    def endpoint_for(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        assert reactor is self.clock
        return _Endpoint(self, address, timeout)

    def accept(self) -> Wire:
        """Let the longest waiting attempt connect; returns the wire to it."""
        attempt = self.attempts.pop(0)
        wire = Wire(self.clock)
        protocol = attempt.factory.buildProtocol(wire.getPeer())
        assert protocol is not None
        wire.attach(protocol)
        attempt.deferred.callback(protocol)
        return wire

    def fail(self, error: Exception | None = None) -> None:
        """Let the longest waiting attempt fail."""
        self.attempts.pop(0).deferred.errback(error or ConnectionRefusedError())
