"""A Route with a cache, and clients that ask it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.desk.storage import Storage
from onebackend_proxy.policies.cache_control import shown_date
from onebackend_proxy.records import Policy, Route
from onebackend_proxy.testing import ScriptedConnection

from ..conformance import Client
from ..downstream.test_edge import fast
from ..wire import Answer
from .support import guarded_plane

NOW = 1_800_000_000.0
Field = tuple[bytes, bytes]


def cc(value: bytes) -> Field:
    """A Cache-Control."""
    return b"Cache-Control", value


HOUR = cc(b"max-age=3600")
ETAG = (b"ETag", b'"one"')


class CacheTests(SynchronousTestCase):
    """One Route, ``x.com``, with a cache, on the fast plane."""

    max_size = 1_000_000
    item_max_size = 100_000
    policy = Policy(cache=True)
    factory: Any = staticmethod(fast)

    def setUp(self) -> None:
        self.storage = Storage(self.max_size, self.item_max_size)
        self.stats = self.storage.stats
        self.plane = self.make_plane()
        self.plane.clock.advance(NOW)

    def make_plane(self, **more: Any) -> Any:
        routes = [Route("x.com", "http://10.0.0.1", policy=self.policy)]
        return guarded_plane(self.factory, routes, storage=self.storage, **more)

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.plane.clock.advance(seconds)

    def date(self, ago: float = 0) -> Field:
        """A Date field."""
        return b"Date", shown_date(self.plane.clock.seconds() - ago)

    def send(
        self, *fields: bytes, line: bytes = b"GET /a HTTP/1.1", host: bytes = b"x.com", **more: Any
    ) -> Client:
        """A new client that has sent this request."""
        body = more.pop("body", b"")
        head = b"\r\n".join((line, b"Host: " + host, *fields, b"", body))
        return self.plane.connect(**more).send(head)

    def missed(self, *fields: bytes, **more: Any) -> tuple[Client, ScriptedConnection]:
        """A client whose request has gone to the service."""
        client = self.send(*fields, **more)
        assert len(self.plane.upstream.connecting) == 1, "it was answered, or waits"
        return client, self.plane.upstream.accept()

    def hit(self, *fields: bytes, **more: Any) -> Answer:
        """The answer to a request that the service does not see."""
        client = self.send(*fields, **more)
        assert self.plane.upstream.connecting == [], "it went to the service"
        return client.answer()

    def fill(
        self,
        *answer: Field,
        body: bytes = b"hello",
        status: int = 200,
        ask: tuple[bytes, ...] = (),
        **more: Any,
    ) -> Answer:
        """The answer to a request that the service answered with these fields."""
        client, service = self.missed(*ask, **more)
        dated = any(name == b"Date" for name, _ in answer)
        service.answer(body, status, *answer, *([] if dated else [self.date()]))
        return client.answer()

    def is_kept(self, *answer: Field, ask: tuple[bytes, ...] = (), **more: Any) -> bool:
        """Whether such an answer is given to the next who asks the same."""
        self.fill(*answer, ask=ask, **more)
        client = self.send(*ask, **({"line": more["line"]} if "line" in more else {}))
        waiting = len(self.plane.upstream.connecting)
        if waiting:
            self.plane.upstream.accept().answer(b"again", 200, cc(b"no-store"))
        assert client.answer().complete
        return not waiting


def status_of(answer: Answer) -> bytes:
    """What Cache-Status says of this cache."""
    [value] = answer.field(b"Cache-Status")
    name, _, said = value.partition(b"; ")
    assert name == b"onebackend-proxy"
    return said
