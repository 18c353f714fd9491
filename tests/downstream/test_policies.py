"""Each policy on each plane, by host and by slug: the client gets the same, and so does the service."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import Site

from onebackend_proxy import ProxySite
from onebackend_proxy.desk.storage import Storage
from onebackend_proxy.messages import Headers
from onebackend_proxy.records import Policy, Route
from onebackend_proxy.testing import ScriptedConnection

from ..conformance import ONE
from ..desk.support import GuardedPlane, guarded_plane
from .policy_cases import CASES, TEXT, Said, Step
from .test_edge import fast, slow, stock
from .test_http2 import Http2Client

MOUNT = b"/mount"


def mounted(resource: Any, clock: Clock) -> Site:
    """In another program's Site, below a path of it."""
    top: Any = Resource()
    top.putChild(MOUNT[1:], resource)
    return Site(top, reactor=clock)


PLANES: dict[str, Any] = {"fast": fast, "resource": slow, "stock": stock, "h2": fast, "mounted": mounted}
WHERE = [
    # By host, a proxy stands below no path.
    *(("edge", kind) for kind in PLANES if kind != "mounted"),
    *(("slug", kind) for kind in PLANES),
]


@attrs.define
class Came:
    """An answer without what the protocol, or the moment, makes of it."""

    status: int
    headers: Headers
    body: bytes


_MADE = re.compile(rb"[0-9a-f]{32}")
_OF_THE_PLANE = frozenset((b"date", b"connection", b"transfer-encoding", b"server", b"keep-alive"))
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"x-request-id"))


def _alike(headers: Headers, without: frozenset[bytes]) -> Headers:
    """In lower case and sorted; what is made for each request, and the Route's own name, left out."""
    found = []
    for name, value in headers:
        if name.lower() not in without:
            value = _MADE.sub(b"MADE", value).replace(b'"front.example/svc"', b'"/svc"')
            found.append((name.lower(), value))
    return sorted(found)


class Player:
    """One plane with one policy, and a client that it keeps."""

    def __init__(self, kind: str, side: str, policy: Policy) -> None:
        routes = [Route("/svc", policy=policy)]
        if side == "edge":
            routes = [Route("front.example/svc", ONE[0], policy=policy)]
        self.kind = kind
        self.plane: GuardedPlane = guarded_plane(
            PLANES[kind],
            routes,
            ONE,
            in_thread=maybeDeferred,
            service_side=side == "slug",
            storage=Storage(10_000_000, 1_000_000),
        )
        self._h2: Http2Client | None = None

    def play(self, step: Step) -> tuple[Came, list[tuple[bytes, Headers, bytes]]]:
        """What comes back, and what the services got."""
        pending = self._ask_h2(step) if self.kind == "h2" else self._ask_h1(step)
        reached: list[ScriptedConnection] = []
        for said in step.said:
            assert self.plane.upstream.connecting, f"no request for {said}"
            reached.append(self.plane.upstream.accept())
            self._answer(reached[-1], said)
            self.plane.clock.advance(0)
        assert self.plane.upstream.connecting == [], "one request too many"
        came = pending()
        assert came.status == step.status, came
        return came, [self._seen(one) for one in reached]

    def _answer(self, service: ScriptedConnection, said: Said) -> None:
        if not said.status:
            service.lose()
        elif said.pieces:
            service.respond(said.status, *said.fields, (b"Transfer-Encoding", b"chunked"))
            size = -(-len(said.body) // said.pieces)
            for start in range(0, len(said.body), size):
                service.send_body(said.body[start : start + size])
            service.finish()
        else:
            service.answer(said.body, said.status, *said.fields)

    def _seen(self, service: ScriptedConnection) -> tuple[bytes, Headers, bytes]:
        lines = [line.partition(b": ") for line in service.head.split(b"\r\n")[1:-2]]
        return (
            service.request_line,
            _alike(
                [(name, value) for name, _colon, value in lines],
                _FRAMING | {b"connection", b"x-forwarded-proto"},
            ),
            service.body,
        )

    def _ask_h1(self, step: Step) -> Any:
        client = self.plane.connect()
        fields = [name + b": " + value for name, value in step.fields]
        if step.content is not None:
            fields.append(b"Content-Length: %d" % len(step.content))
        target = MOUNT + step.target if self.kind == "mounted" else step.target
        client.ask(step.method + b" " + target + b" HTTP/1.1", *fields, body=step.content or b"")

        def answer() -> Came:
            [got] = client.answers(step.method)
            assert got.complete
            return Came(got.status, _alike(got.headers, _OF_THE_PLANE), got.body)

        return answer

    def _ask_h2(self, step: Step) -> Any:
        site = self.plane.factory
        assert isinstance(site, ProxySite)
        self._h2 = self._h2 or Http2Client(site, self.plane.clock, self.plane.resource)
        client = self._h2
        fields = [(name.lower(), value) for name, value in step.fields]
        if step.content is not None:
            fields.append((b"content-length", b"%d" % len(step.content)))
        number = client.ask(step.target, *fields, method=step.method, body=step.content)

        def answer() -> Came:
            got = client.got(number)
            assert got.ended and got.reset is None
            return Came(got.status, _alike(got.headers, _OF_THE_PLANE), got.body)

        return answer


def _check(step: Step, came: Came, seen: Sequence[tuple[bytes, Headers, bytes]]) -> None:
    if step.body is not None:
        assert came.body == step.body
    headers = dict(came.headers)
    assert {name: headers.get(name) for name in step.wanted} == step.wanted
    if step.method != b"HEAD" and step.status not in (204, 304):
        assert headers.get(b"content-length", b"%d" % len(came.body)) == b"%d" % len(came.body)
    if headers.get(b"content-encoding") == b"gzip" and step.method != b"HEAD":
        assert gzip.decompress(came.body) == TEXT
    if seen:
        line, fields, content = seen[-1]
        assert {name: dict(fields).get(name) for name in step.sent} == step.sent
        if step.status < 300 or not step.wanted:
            assert line.split()[1] in (step.seen or step.target, b"/check")
        if line.split()[1] != b"/check":
            assert content == (step.content or b"")


@pytest.mark.parametrize("name", CASES)
def test_every_plane_does_the_same(name):
    policy, steps = CASES[name]
    outcomes = {}
    for side, kind in WHERE:
        player = Player(kind, side, policy)
        played = []
        for step in steps:
            came, seen = player.play(step)
            _check(step, came, seen)
            played.append((came, seen))
        outcomes[side, kind] = played
        player.plane.clock.pump([1.0, 1.0])
        assert len(player.plane.exchanges) == 0
    reference = outcomes["edge", "fast"]
    for where, played in outcomes.items():
        for step, theirs, ours in zip(steps, played, reference, strict=True):
            assert (where, step, theirs) == (where, step, ours)
