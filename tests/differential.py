"""The real channels and the real upstream client in memory, and what must hold whatever bytes go in.

`differential_clients` sends a client's bytes and lets a well-behaved service answer; `differential_services`
sends a service's bytes in answer to a good client. Both raise `AssertionError` where a rule is broken. The
property tests and the fuzz targets (``fuzz/``) only make the bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import attrs
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from zope.interface import implementer

from onebackend_proxy import ProxySite, ServiceResource
from onebackend_proxy.downstream.resources import Desk
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.limits import Limits
from onebackend_proxy.registry import EmbeddedRegistry
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.upstream import Http1Client

from .conformance import instance
from .logged import Entries
from .readings import Message, Unreadable, answers_read, h11_answer, h11_request, httptools_answer
from .upstream.support import Network
from .wire import Wire

# Small, so that short inputs reach them.
LIMITS = Limits(
    head_size=1024,
    head_fields=24,
    target_size=256,
    chunk_extension_size=32,
    body_limit=2048,
    keepalive_requests=12,
    pipelined=4,
    answer_head_size=1024,
)
PEER = "192.0.2.7"


class _BuiltIn(Resource):
    """A built-in service: to it the fast plane hands the connection over."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        request.setHeader(b"X-Built-In", b"yes")
        return b"built in"


class Line(Wire):
    """As TCP has it, no producer need be registered to be taken off."""

    def unregisterProducer(self) -> None:
        if self.producer is not None:
            super().unregisterProducer()

    def half_closes(self) -> None:
        """The peer sends nothing more; who knows no half of a connection has lost it."""
        if not self.connected or self.disconnecting or self.aborted:
            return
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.peer_closes()


@attrs.define(eq=False)
class Spoken:
    """One upstream connection as the service sees it: all it received, and what of it is not answered yet."""

    wire: Wire
    record: bytes = b""
    unread: bytes = b""
    tunnel: bool = False
    told: bool = False
    """Whether the request under way was answered, in full or in part, before it was complete."""
    expected: bool = False


class Service:
    """A well-behaved service: reads with h11, answers each request with a tiny answer that has its number.

    `manner` is ``whole`` (when the request is complete), ``early`` (at its head), ``half`` (half of it at the
    head), or ``switch`` (a 101 where one is asked for).
    """

    def __init__(self, front: Front, manner: str, slow: bool) -> None:
        self._front = front
        self._manner = manner
        self._slow = slow
        self.connections: list[Spoken] = []
        self.requests: list[Message] = []

    def serve(self) -> bool:
        """Accept, read, answer; false if there was nothing to do."""
        busy = False
        network = self._front.network
        while network.attempts:
            busy = True
            spoken = Spoken(network.accept())
            self.connections.append(spoken)
            if self._slow:
                spoken.wire.fill()
        for spoken in self.connections:
            data = spoken.wire.take()
            if data:
                busy = True
                spoken.record += data
                spoken.unread += data
                self._read(spoken)
        return busy

    def _read(self, spoken: Spoken) -> None:
        while spoken.unread and not spoken.tunnel:
            message, rest = h11_request(spoken.unread)
            if message is None:
                return
            if not message.complete:
                self._begun(spoken, message)
                return
            spoken.unread = rest
            self.requests.append(message)
            self._answer(spoken, message)
            spoken.told = spoken.expected = False

    def _begun(self, spoken: Spoken, message: Message) -> None:
        if self._manner in ("early", "half") and not spoken.told:
            spoken.told = True
            answer = self._bytes(len(self.requests), message)
            spoken.wire.receive(answer if self._manner == "early" else answer[:-4])
        elif b"100-continue" in message.tokens(b"expect") and not spoken.expected:
            spoken.expected = True
            spoken.wire.receive(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self, spoken: Spoken, message: Message) -> None:
        number = len(self.requests) - 1
        protocol = message.all(b"upgrade")
        if protocol and self._manner == "switch":
            spoken.tunnel = True
            head = b"HTTP/1.1 101 Go\r\nX-Backend: %d\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n"
            spoken.wire.receive(head % (number, protocol[0]) + b"switched")
            return
        answer = self._bytes(number, message)
        if not spoken.told:
            spoken.wire.receive(answer)
        elif self._manner == "half":
            spoken.wire.receive(answer[-4:])

    @staticmethod
    def _bytes(number: int, message: Message) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nX-Backend: %d\r\nContent-Length: 11\r\n\r\n" % number
        return head if message.start[0] == b"HEAD" else head + b"answer %04d" % number


class Front:
    """The proxy, on one of its planes, with one service ``svc`` and the built-in ``user-svc``."""

    def __init__(self, fast: bool, manner: str = "whole", slow_service: bool = False) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.registry = EmbeddedRegistry(MemoryStore())
        self.registry.register(instance("http://10.0.0.1:8000"))
        client = Http1Client(self.clock, self.network.endpoint_for, LIMITS)
        self.exchanges = Exchanges(self.clock, client, random=lambda: 0.0, limits=LIMITS)
        resource = ServiceResource(self.registry, Desk(self.exchanges))
        resource.serve({b"user-svc": _BuiltIn()})
        self.told = Entries()
        self.site = ProxySite(
            resource, self.clock, self.told.tell, limits=LIMITS, fast=resource if fast else None
        )
        self.service = Service(self, manner, slow_service)

    def connect(self) -> Line:
        """A new client."""
        wire = Line(self.clock, PEER)
        wire.attach(self.site.buildProtocol(wire.getPeer()))
        return wire

    def settle(self) -> None:
        """Until nobody has anything to do."""
        for _ in range(64):
            self.clock.advance(0)
            if not self.service.serve():
                return
        raise AssertionError("the proxy and the service never come to rest")

    def assert_quiet(self) -> None:
        """Nothing is left of what was."""
        self.clock.pump([1.0, 1.0])
        assert len(self.exchanges) == 0, f"left over: {self.exchanges._active}"
        assert [endpoint.in_flight for endpoint in self.registry.endpoints()] == [0]
        assert not self.site.channels, self.site.channels


@contextlib.contextmanager
def nothing_fails() -> Iterator[None]:
    """Fails for whatever is logged as an error or with a failure, from wherever."""
    failures: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event or event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            failures.append(failure.getTraceback() if isinstance(failure, Failure) else str(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not failures, "\n".join(failures)


def cuts_of(seed: int, size: int) -> tuple[int, ...]:
    if seed == 255:
        return tuple(range(min(size, 256)))
    random = Random(seed)
    return tuple(random.randrange(size + 1) for _ in range(seed % 6))


def answers_to(sent: bytes, methods: list[bytes], closed: bool) -> tuple[list[Message], bytes]:
    """The answers that a client got, which both readers must read alike.

    `closed` says that the connection ended in order; where that breaks off an answer visibly, it is read as
    one that is not complete.
    """
    try:
        read, rest = answers_read(sent, methods, closed, h11_answer)
    except Unreadable:
        closed = False
        read, rest = answers_read(sent, methods, closed, h11_answer)
    other, other_rest = answers_read(sent, methods, closed, httptools_answer)
    assert read == other, f"two readings: {read} and {other}"
    assert rest == other_rest
    return read, rest


def is_error(answer: Message, head: bool) -> bool:
    if answer.all(b"x-backend") or answer.all(b"x-built-in"):
        return False
    if answer.status == 200 and not answer.body and answer.all(b"server"):
        # twisted.web's own, to OPTIONS with a target of *.
        return False
    assert answer.all(b"content-type") == [b"application/json"], answer
    if not head:
        assert set(json.loads(answer.body)) == {"error"}
        assert b"10.0.0.1" not in answer.body
    return True
