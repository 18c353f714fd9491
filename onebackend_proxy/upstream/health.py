"""Active health: a TCP connect to every address now and then, as 1Backend's registry does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..addresses import Address
from ..balancing import EndpointState, Health
from .connecting import endpoint_for

INTERVAL = 15.0
TIMEOUT = 3.0
SLOW = 1.0
MAX_AT_ONCE = 256


class _Probe(Protocol):
    """Connects, and that is all it wants to know."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class HealthChecks:
    """Looks at every endpoint of `endpoints()` each 15 seconds, and at a single one when told to.

    Refused or silent for 3 seconds is Unreachable, over 1 second is Degraded, else Healthy; a name without an
    address is an Error. One that requests could not connect to is in use again once it is seen to listen; but
    with https only a request that works can tell, and until then it stays Unreachable.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Callable[[], Iterable[EndpointState]],
        endpoint_for: Callable[[Any, Address, float], IStreamClientEndpoint] = endpoint_for,
    ) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._endpoint_for = endpoint_for
        self._log = Logger()
        self._at_once = DeferredSemaphore(MAX_AT_ONCE)
        self._asked: dict[Address, list[EndpointState]] = {}
        self._looking: dict[Address, Deferred[None]] = {}
        self._next: IDelayedCall | None = None
        self._factory = Factory.forProtocol(_Probe)
        self._factory.noisy = False

    def start(self) -> None:
        """Look now, and every 15 seconds from now on."""
        self._next = self._reactor.callLater(INTERVAL, self.start)
        for endpoint in list(self._endpoints()):
            self.look(endpoint)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for looking in list(self._looking.values()):
            looking.cancel()

    def look(self, endpoint: EndpointState) -> None:
        """Look at one endpoint soon; those at one host and port, or one socket, are looked at once."""
        address = endpoint.address
        # Reached means listening: no TLS here, the handshake is for requests.
        place = Address("http", address.host, address.port, socket=address.socket)
        asked = self._asked.setdefault(place, [])
        asked.append(endpoint)
        if place in self._looking:
            return
        looking = self._at_once.run(self._connect, place)
        self._looking[place] = looking
        looking.addErrback(lambda failure: failure.trap(CancelledError) and None)
        looking.addErrback(lambda failure: self._log.failure("a health check failed", failure))

        def looked(_: object) -> None:
            del self._looking[place]
            self._asked.pop(place, None)

        looking.addBoth(looked)

    def _connect(self, place: Address) -> Deferred[None]:
        began = self._reactor.seconds()
        connecting = self._endpoint_for(self._reactor, place, TIMEOUT).connect(self._factory)
        late = self._reactor.callLater(TIMEOUT, connecting.cancel)

        def settled(result: object) -> None:
            if late.active():
                late.cancel()
                if isinstance(result, Failure) and result.check(CancelledError, ConnectingCancelledError):
                    # We were told to stop, which says nothing about the endpoint.
                    return
            for endpoint in self._asked.pop(place, []):
                self._found(endpoint, result, began)

        return connecting.addBoth(settled)

    def _found(self, endpoint: EndpointState, result: object, began: float) -> None:
        was = endpoint.health
        if isinstance(result, Failure):
            nameless = result.check(DNSLookupError) is not None
            endpoint.health = Health.ERROR if nameless else Health.UNREACHABLE
        else:
            self._accepted(endpoint, began)
        if was is not endpoint.health:
            self._log.info(
                "{address} is {health}, was {was}",
                address=endpoint.address.authority,
                health=endpoint.health.value,
                was=was.value,
            )

    def _accepted(self, endpoint: EndpointState, began: float) -> None:
        now = endpoint.last_heartbeat = self._reactor.seconds()
        if endpoint.health is Health.UNREACHABLE:
            if endpoint.address.scheme != "https":
                # If it was taken out of use for that, it need not wait for a request to try it. One that
                # accepts connections and then fails must: we have not seen it work.
                endpoint.worked()
            elif endpoint.ejected_until:
                # It may have been the handshake that failed, of which we see nothing.
                return
        endpoint.health = Health.DEGRADED if now - began > SLOW else Health.HEALTHY
