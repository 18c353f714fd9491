"""Policies before the built-in services: whoever comes through one gets to the service itself."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request

from onebackend_proxy.addresses import Address
from onebackend_proxy.inside import INSIDE, BuiltInUpstream
from onebackend_proxy.limits import DEFAULTS
from onebackend_proxy.upstream.connecting import endpoint_for

reactor: Any = _reactor


class Telling(Resource):
    """Tells whom it takes a request to be from."""

    isLeaf = True

    def __init__(self, inside: list[BuiltInUpstream]) -> None:
        super().__init__()
        self.inside = inside

    def render(self, request: Any) -> bytes:
        return b"%b from %b" % (request.uri, self.inside[0].client_of(request, lambda _: "nobody").encode())


class Asking(Protocol):
    """Sends one request and keeps what comes."""

    def __init__(self) -> None:
        self.got = b""
        self.over: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(
            b"GET /user-svc/x HTTP/1.1\r\nHost: x\r\nX-Real-IP: 192.0.2.7\r\nConnection: close\r\n\r\n"
        )

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(self.got)


class TestInside(TestCase):
    """Sockets that nobody else sees."""

    def make(self) -> BuiltInUpstream:
        made: list[BuiltInUpstream] = []
        services = Resource()
        services.putChild(b"user-svc", Telling(made))
        made.append(BuiltInUpstream(reactor, services, DEFAULTS))
        return made[0]

    async def test_a_request(self) -> None:
        inside = self.make()
        [endpoint] = inside.upstream("x.com").endpoints
        assert endpoint.address is INSIDE
        connecting = inside.endpoint_for(reactor, endpoint.address, 1.0)
        asking: Any = await connecting.connect(Factory.forProtocol(Asking))
        answer = await asking.over
        assert answer.endswith(b"/user-svc/x from 192.0.2.7")

    def test_no_target_is_it(self) -> None:
        """Not even one that is spelled the same."""
        inside = self.make()
        same = Address("http", "built-in", 0)
        assert (INSIDE.authority, INSIDE.url) == ("built-in", "built-in")
        assert same != INSIDE
        assert type(inside.endpoint_for(reactor, same, 1.0)) is type(endpoint_for(reactor, same, 1.0))

    def test_what_comes_another_way_is_not_believed(self) -> None:
        inside = self.make()

        def otherwise(request: Request) -> str:
            return "the peer"

        assert inside.client_of(object(), otherwise) == "the peer"  # type: ignore[arg-type]
