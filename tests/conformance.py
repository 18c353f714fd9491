"""What every plane does with requests, whatever it is made of: bytes from a client in, bytes to it out.

A plane's own test module subclasses `PlaneBehaviour` and says how to make one. The service's side is a
`ScriptedUpstream`, so the same `Exchange` stands behind each plane.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from twisted.web.resource import IResource

from onebackend_proxy import ServiceResource
from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import Timeouts
from onebackend_proxy.downstream.resources import Desk
from onebackend_proxy.exchange import MAX_HELD, Exchanges
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.records import Instance
from onebackend_proxy.registry import EmbeddedRegistry
from onebackend_proxy.testing import MemoryStore, ScriptedConnection, ScriptedUpstream

from .wire import Answer, Wire, answers_in


def instance(url: str, slug: str = "svc", instance_id: str = "") -> Instance:
    """An instance as the API would register it."""
    address = parse_instance_url(url)
    return Instance(
        instance_id or f"inst-{url}", slug, url, address.scheme, address.host, address.port, path=address.path
    )


class Client:
    """A client of a plane."""

    def __init__(self, clock: Clock, wire: Wire) -> None:
        self.clock = clock
        self.wire = wire

    def send(self, data: bytes) -> Client:
        """Send these bytes in one piece."""
        self.wire.receive(data)
        self.clock.advance(0)
        return self

    def ask(self, line: bytes = b"GET /svc/x HTTP/1.1", *fields: bytes, body: bytes = b"") -> Client:
        """Send a request with a Host, these field lines and these bytes after the head."""
        return self.send(b"\r\n".join((line, b"Host: front.example", *fields, b"", body)))

    def answers(self, *methods: bytes) -> list[Answer]:
        """What came back since the last call, complete or not."""
        self.clock.advance(0)
        return answers_in(self.wire.take(), methods, self.wire.closed)

    def answer(self, method: bytes = b"GET") -> Answer:
        """The one answer that came back since the last call."""
        [answer] = self.answers(method)
        return answer

    def leaves(self) -> None:
        """Close the connection."""
        self.wire.peer_closes()
        self.clock.advance(0)


@attrs.define
class Plane:
    """One plane at work, with everything around it in memory."""

    clock: Clock
    upstream: ScriptedUpstream
    registry: EmbeddedRegistry
    exchanges: Exchanges
    resource: ServiceResource
    factory: Any = None

    def connect(self, peer: str | IAddress = "192.0.2.7") -> Client:
        """A new client of this plane."""
        wire = Wire(self.clock, peer)
        wire.attach(self.factory.buildProtocol(wire.getPeer()))
        return Client(self.clock, wire)


def new_plane(
    make_factory: Callable[[IResource, Clock], IProtocolFactory],
    urls: Sequence[str],
    limits: Limits = DEFAULTS,
) -> Plane:
    """A plane that serves these URLs as the service ``svc``, with these limits of its exchanges."""
    clock = Clock()
    upstream = ScriptedUpstream()
    registry = EmbeddedRegistry(MemoryStore())
    for url in urls:
        registry.register(instance(url))
    exchanges = Exchanges(clock, upstream, random=lambda: 0.0, limits=limits)
    resource = ServiceResource(registry, Desk(exchanges))
    return Plane(clock, upstream, registry, exchanges, resource, make_factory(resource, clock))


ONE = ("http://10.0.0.1:8000",)
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
TWO = ("http://10.0.0.1:8000", "http://10.0.0.2:8000")


class PlaneBehaviour(SynchronousTestCase):
    """The contract; `streams` says that request bodies are relayed as they come, trailers included.

    `upgrades` says that a request may switch to another protocol: elsewhere it is served as if it had not
    asked.
    """

    streams: ClassVar[bool] = True
    upgrades: ClassVar[bool] = False

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        """A plane that serves these URLs as the service ``svc``."""
        raise NotImplementedError

    def streaming_only(self) -> None:
        """This is promised only where request bodies stream."""
        if not self.streams:
            raise SkipTest("this plane gets requests whole")

    def begin(
        self, line: bytes = b"GET /svc/x HTTP/1.1", *fields: bytes, body: bytes = b""
    ) -> tuple[Plane, Client, ScriptedConnection]:
        """A plane, a client that has sent this request, and the connection that has it."""
        plane = self.make_plane()
        client = plane.connect().ask(line, *fields, body=body)
        return plane, client, plane.upstream.accept()

    def assert_quiet(self, plane: Plane) -> None:
        """Nothing is left over of the exchanges that were."""
        plane.clock.pump([1.0, 1.0])
        assert len(plane.exchanges) == 0
        endpoints = list(plane.registry.endpoints())
        assert [endpoint.in_flight for endpoint in endpoints] == [0] * len(endpoints)

    def assert_refused(self, answer: Answer, status: int, contains: str = "") -> None:
        """The answer is an error as JSON, with nothing in it that tells where services are."""
        assert answer.status == status
        assert answer.complete
        assert answer.field(b"Content-Type") == [b"application/json"]
        error = json.loads(answer.body)["error"]
        assert contains in error
        assert b"10.0.0." not in answer.body

    # A request and its answer.

    def test_a_request_reaches_the_service_and_its_answer_comes_back(self) -> None:
        plane, client, service = self.begin(b"GET /svc/a%2Fb;c//d?q=%3F HTTP/1.1", b"X-Mine: yes")
        assert service.request_line == b"GET /svc/a%2Fb;c//d?q=%3F HTTP/1.1"
        assert service.field(b"Host") == [b"front.example"]
        assert service.field(b"X-Mine") == [b"yes"]
        assert service.field(b"X-Forwarded-For") == [b"192.0.2.7"]
        assert service.trailers == []
        service.answer(b"hello", 200, (b"X-Theirs", b"too"), (b"Connection", b"X-Hop"), (b"X-Hop", b"1"))
        answer = client.answer()
        assert (answer.status, answer.reason, answer.body) == (200, b"OK", b"hello")
        assert answer.field(b"X-Theirs") == [b"too"]
        assert answer.field(b"X-Hop") == []
        assert len(answer.field(b"Date")) == 1
        assert not client.wire.closed
        self.assert_quiet(plane)

    def test_a_connection_carries_one_request_after_the_other(self) -> None:
        plane, client, service = self.begin()
        service.answer(b"one")
        assert client.answer().body == b"one"
        client.ask(b"GET /svc/y HTTP/1.1")
        plane.upstream.accept().answer(b"two")
        assert client.answer().body == b"two"
        self.assert_quiet(plane)

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        plane = self.make_plane()
        one = b"GET /svc/%d HTTP/1.1\r\nHost: x\r\n\r\n"
        client = plane.connect().send(b"".join(one % number for number in range(3)))
        for number in range(3):
            assert len(plane.upstream.connecting) == 1
            service = plane.upstream.accept()
            assert service.request_line == b"GET /svc/%d HTTP/1.1" % number
            service.answer(b"%d" % number)
        assert [answer.body for answer in client.answers()] == [b"0", b"1", b"2"]
        self.assert_quiet(plane)

    def test_the_services_date_is_kept(self) -> None:
        _plane, client, service = self.begin()
        service.answer(b"", 200, (b"Date", b"Tue, 15 Nov 1994 08:12:31 GMT"))
        assert client.answer().field(b"Date") == [b"Tue, 15 Nov 1994 08:12:31 GMT"]

    def test_an_unknown_slug_is_404(self) -> None:
        plane = self.make_plane()
        self.assert_refused(plane.connect().ask(b"GET /other/x HTTP/1.1").answer(), 404, "other")
        assert plane.upstream.connecting == []

    def test_no_slug_is_404(self) -> None:
        plane = self.make_plane()
        for path in (b"/", b"//svc/x", b"/?svc"):
            self.assert_refused(plane.connect().ask(b"GET %b HTTP/1.1" % path).answer(), 404)

    def test_a_path_that_leaves_its_service_is_400(self) -> None:
        plane = self.make_plane()
        for path in (b"/svc/../other/x", b"/svc/%2e%2e/x", b"/svc%zz/x"):
            self.assert_refused(plane.connect().ask(b"GET %b HTTP/1.1" % path).answer(), 400)
        assert plane.upstream.connecting == []

    def test_connect_and_trace_are_405(self) -> None:
        for line in (b"TRACE /svc/x HTTP/1.1",):
            answer = self.make_plane().connect().ask(line).answer()
            self.assert_refused(answer, 405)
            assert answer.field(b"Allow")

    # Request bodies.

    def test_a_body_with_a_length_arrives_whole(self) -> None:
        _plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 5", body=b"hello")
        assert service.field(b"Content-Length") == [b"5"]
        assert (service.body, service.trailers) == (b"hello", [])
        service.answer(b"thanks")
        assert client.answer().body == b"thanks"

    def test_an_empty_body_keeps_its_length(self) -> None:
        _plane, _client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 0")
        assert service.field(b"Content-Length") == [b"0"]
        assert (service.body, service.trailers) == (b"", [])

    def test_a_chunked_body_arrives_whole(self) -> None:
        _plane, client, service = self.begin(
            b"PUT /svc/x HTTP/1.1",
            b"Transfer-Encoding: chunked",
            body=b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        )
        assert (service.body, service.trailers) == (b"hello world", [])
        if self.streams:
            assert service.chunked and service.field(b"Transfer-Encoding") == [b"chunked"]
        else:
            assert service.field(b"Content-Length") == [b"11"]
        service.answer(b"ok")
        assert client.answer().body == b"ok"

    def test_a_body_streams(self) -> None:
        self.streaming_only()
        _plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        assert (service.body, service.trailers) == (b"hello", None)
        client.send(b"world")
        assert (service.body, service.trailers) == (b"helloworld", [])

    def test_request_trailers_pass_except_those_that_route_or_frame(self) -> None:
        self.streaming_only()
        _plane, _client, service = self.begin(
            b"POST /svc/x HTTP/1.1",
            b"Transfer-Encoding: chunked",
            body=b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nX-Forwarded-For: evil\r\n\r\n",
        )
        assert (service.body, service.trailers) == (b"hi", [(b"X-Sum", b"1")])

    def test_a_body_waits_for_the_connection_and_only_so_much_of_it(self) -> None:
        self.streaming_only()
        plane = self.make_plane()
        size = MAX_HELD * 3
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: %d" % size)
        sent = 0
        while not client.wire.paused:
            client.send(b"x" * 16384)
            sent += 16384
        assert MAX_HELD < sent <= MAX_HELD + 16384
        service = plane.upstream.accept()
        assert len(service.body) == sent
        assert not client.wire.paused
        client.send(b"x" * (size - sent))
        assert (len(service.body), service.trailers) == (size, [])

    def test_a_held_body_is_let_go_when_nobody_wants_it(self) -> None:
        self.streaming_only()
        plane = self.make_plane()
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: %d" % (MAX_HELD * 3))
        client.send(b"x" * (MAX_HELD + 1))
        plane.upstream.refuse()
        self.assert_refused(client.answer(), 502)
        self.assert_quiet(plane)

    def test_a_service_that_does_not_keep_up_pauses_the_body(self) -> None:
        self.streaming_only()
        _plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        service.fill()
        assert client.wire.paused
        client.send(b"world")
        assert service.body == b"hello"
        service.drain()
        client.send(b"")
        assert (service.body, service.trailers) == (b"helloworld", [])

    def test_a_body_that_came_whole_is_given_as_it_is_taken(self) -> None:
        if self.streams:
            raise SkipTest("this plane streams bodies")
        plane = self.make_plane()
        plane.upstream.capacity = 100_000
        size = 300_000
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: %d" % size, body=b"x" * size)
        [attempt] = plane.upstream.connecting
        assert MAX_HELD < attempt.exchange.bytes_in <= 2 * MAX_HELD
        service = plane.upstream.accept()
        while service.trailers is None:
            assert len(service.body) < 300_000
            was = len(service.body)
            service.drain()
            assert len(service.body) - was <= 150_000
        assert len(service.body) == size
        service.answer(b"ok")
        assert client.answer().body == b"ok"
        self.assert_quiet(plane)

    # Expect: 100-continue.

    def test_the_service_is_asked_whether_it_wants_the_body(self) -> None:
        self.streaming_only()
        _plane, client, service = self.begin(
            b"POST /svc/x HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue"
        )
        assert service.field(b"Expect") == [b"100-continue"]
        assert client.answers() == []
        service.inform(100, reason=b"Continue")
        assert [answer.status for answer in client.answers()] == [100]
        client.send(b"hello")
        service.answer(b"ok")
        assert client.answer(b"POST").body == b"ok"

    def test_a_service_that_says_nothing_gets_the_body_after_a_second(self) -> None:
        self.streaming_only()
        plane, client, service = self.begin(
            b"POST /svc/x HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue"
        )
        plane.clock.advance(0.9)
        assert client.answers() == []
        plane.clock.advance(0.1)
        assert [answer.status for answer in client.answers()] == [100]
        client.send(b"hello")
        service.answer(b"ok")
        assert client.answer(b"POST").body == b"ok"
        self.assert_quiet(plane)

    def test_a_service_may_refuse_the_body(self) -> None:
        self.streaming_only()
        plane, client, service = self.begin(
            b"POST /svc/x HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue"
        )
        service.answer(b"too large", 413)
        answer = client.answer()
        assert (answer.status, answer.body) == (413, b"too large")
        assert answer.field(b"Connection") == [b"close"]
        assert client.wire.closed
        plane.clock.advance(2)
        assert client.answers() == []
        self.assert_quiet(plane)

    def test_an_expected_body_is_asked_for_where_requests_come_whole(self) -> None:
        if self.streams:
            raise SkipTest("this plane leaves it to the service")
        plane = self.make_plane()
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue")
        assert [answer.status for answer in client.answers()] == [100]
        client.send(b"hello")
        service = plane.upstream.accept()
        assert service.field(b"Expect") == []
        assert service.body == b"hello"

    def test_another_expectation_is_417(self) -> None:
        plane = self.make_plane()
        client = plane.connect().ask(
            b"POST /svc/x HTTP/1.1", b"Content-Length: 2", b"Expect: tea", body=b"hi"
        )
        self.assert_refused(client.answer(), 417)

    # Answers.

    def test_an_answer_arrives_piece_by_piece(self) -> None:
        _plane, client, service = self.begin()
        service.respond(200, (b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked"))
        assert client.answer().complete is False
        service.send_body(b"data: 1\n\n")
        assert b"data: 1\n\n" in client.wire.take()
        service.send_body(b"data: 2\n\n")
        assert b"data: 2\n\n" in client.wire.take()
        service.finish()
        assert client.wire.take() == b"0\r\n\r\n"
        assert not client.wire.closed

    def test_answer_trailers_pass_except_those_that_frame(self) -> None:
        self.streaming_only()
        _plane, client, service = self.begin()
        service.respond(200, (b"Transfer-Encoding", b"chunked"), (b"Trailer", b"X-Sum"))
        service.send_body(b"hi")
        service.finish((b"X-Sum", b"1"), (b"Content-Length", b"7"), (b"Set-Cookie", b"a=b"))
        answer = client.answer()
        assert (answer.body, answer.trailers) == (b"hi", [(b"X-Sum", b"1")])

    def test_an_answer_without_length_is_chunked_for_the_client(self) -> None:
        _plane, client, service = self.begin()
        service.respond(200)
        service.send_body(b"all there is")
        service.finish()
        answer = client.answer()
        assert (answer.body, answer.complete) == (b"all there is", True)
        assert answer.field(b"Transfer-Encoding") == [b"chunked"]
        assert not client.wire.closed

    def test_interim_answers_pass(self) -> None:
        _plane, client, service = self.begin()
        service.inform(103, (b"Link", b"</a.css>"), reason=b"Early Hints")
        service.inform(102, reason=b"Processing")
        service.answer(b"x")
        early, processing, final = client.answers()
        assert (early.status, early.reason, early.field(b"Link")) == (103, b"Early Hints", [b"</a.css>"])
        assert (processing.status, final.body) == (102, b"x")

    def test_interim_answers_do_not_reach_an_old_client(self) -> None:
        _plane, client, service = self.begin(b"GET /svc/x HTTP/1.0")
        service.inform(103, reason=b"Early Hints")
        service.answer(b"x")
        assert client.answer().body == b"x"

    def test_a_head_answer_has_a_length_and_no_body(self) -> None:
        plane, client, service = self.begin(b"HEAD /svc/x HTTP/1.1")
        service.answer(b"12345")
        answer = client.answer(b"HEAD")
        assert (answer.field(b"Content-Length"), answer.body) == ([b"5"], b"")
        client.ask(b"GET /svc/y HTTP/1.1")
        plane.upstream.accept().answer(b"next")
        assert client.answer().body == b"next"

    def test_a_refused_head_has_no_body(self) -> None:
        client = self.make_plane().connect().ask(b"HEAD /other/x HTTP/1.1")
        answer = client.answer(b"HEAD")
        assert answer.status == 404
        assert int(answer.field(b"Content-Length")[0]) > 0
        assert not answer.body

    def test_204_and_304_have_no_body(self) -> None:
        plane, client, service = self.begin()
        service.respond(204, reason=b"No Content")
        service.finish()
        answer = client.answer()
        assert answer.status == 204
        assert answer.field(b"Content-Length") == answer.field(b"Transfer-Encoding") == []
        client.ask(b"GET /svc/y HTTP/1.1")
        service = plane.upstream.accept()
        service.respond(304, (b"ETag", b'"1"'), (b"Content-Length", b"9"), reason=b"Not Modified")
        service.finish()
        answer = client.answer()
        assert (answer.status, answer.field(b"ETag"), answer.body) == (304, [b'"1"'], b"")
        assert answer.field(b"Transfer-Encoding") == []
        client.ask(b"GET /svc/z HTTP/1.1")
        plane.upstream.accept().answer(b"next")
        assert client.answer().body == b"next"

    def test_an_old_client_gets_the_end_of_the_connection_for_a_length(self) -> None:
        _plane, client, service = self.begin(b"GET /svc/x HTTP/1.0")
        assert service.request_line == b"GET /svc/x HTTP/1.1"
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.send_body(b"hello")
        service.finish()
        answer = client.answer()
        assert answer.field(b"Transfer-Encoding") == []
        assert (answer.body, answer.complete) == (b"hello", True)
        assert client.wire.closed and not client.wire.aborted

    def test_a_client_that_wants_to_close_is_closed_after_its_answer(self) -> None:
        _plane, client, service = self.begin(b"GET /svc/x HTTP/1.1", b"Connection: close")
        assert service.field(b"Connection") == []
        service.answer(b"bye")
        answer = client.answer()
        assert answer.body == b"bye"
        assert client.wire.disconnecting and not client.wire.aborted

    def test_an_answer_before_the_end_of_the_request_closes_after_it(self) -> None:
        self.streaming_only()
        plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 100", body=b"some")
        service.answer(b"enough", 400)
        answer = client.answer()
        assert (answer.status, answer.body) == (400, b"enough")
        assert answer.field(b"Connection") == [b"close"]
        # Read on for a while, so that no reset overtakes the answer; none of it goes anywhere.
        assert client.wire.write_closed and not client.wire.disconnecting
        client.send(b"x" * 50)
        assert service.body == b"some"
        plane.clock.pump([1.0, 1.0, 1.0])
        assert client.wire.disconnecting
        self.assert_quiet(plane)

    def test_an_answer_may_begin_before_the_request_is_complete(self) -> None:
        self.streaming_only()
        plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.send_body(b"echo hello")
        client.send(b"world")
        assert (service.body, service.trailers) == (b"helloworld", [])
        service.send_body(b"echo world")
        service.finish()
        assert client.answer().body == b"echo helloecho world"
        assert client.wire.disconnecting and not client.wire.aborted
        self.assert_quiet(plane)

    # Back-pressure towards the client.

    def test_a_client_that_does_not_keep_up_pauses_the_answer(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        client.wire.fill()
        assert service.paused
        client.wire.drain()
        assert not service.paused
        service.send_body(b"world")
        service.finish()
        assert client.answer().body == b"helloworld"
        self.assert_quiet(plane)

    def test_a_client_still_full_with_the_answer_before_pauses_the_next(self) -> None:
        plane = self.make_plane()
        one = b"GET /svc/x HTTP/1.1\r\nHost: x\r\n\r\n"
        client = plane.connect().send(one + one)
        plane.upstream.accept().answer(b"one")
        client.wire.fill()
        service = plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"3"))
        assert service.paused
        client.wire.drain()
        assert not service.paused
        service.send_body(b"two")
        service.finish()
        assert [answer.body for answer in client.answers()] == [b"one", b"two"]

    # Upgrades.

    def tunnel(self) -> tuple[Plane, Client, ScriptedConnection]:
        """A plane, a client that has asked for a WebSocket, and the service that has switched to it."""
        if not self.upgrades:
            raise SkipTest("this plane has no tunnels")
        plane, client, service = self.begin(b"GET /svc/x HTTP/1.1", *UPGRADE)
        service.switch_protocols()
        answer = client.answer()
        assert (answer.status, answer.reason) == (101, b"Switching Protocols")
        assert answer.field(b"Upgrade") == [b"websocket"]
        assert answer.field(b"Connection") == [b"Upgrade"]
        return plane, client, service

    def test_an_upgrade_is_asked_for_where_it_can_be_had(self) -> None:
        _plane, _client, service = self.begin(b"GET /svc/x HTTP/1.1", *UPGRADE, b"Sec-WebSocket-Key: k")
        assert service.field(b"Upgrade") == [b"websocket"] * self.upgrades
        assert service.field(b"Connection") == [b"Upgrade"] * self.upgrades
        assert service.field(b"Sec-WebSocket-Key") == [b"k"]

    def test_an_upgrade_of_another_kind_is_a_request_as_any(self) -> None:
        for line, fields in (
            (b"POST /svc/x HTTP/1.1", (*UPGRADE, b"Content-Length: 0")),
            (b"GET /svc/x HTTP/1.0", UPGRADE),
            (b"GET /svc/x HTTP/1.1", (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c")),
            (b"GET /svc/x HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: TLS/1.2")),
            (b"GET /svc/x HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: a, b")),
            (b"GET /svc/x HTTP/1.1", (b"Upgrade: websocket",)),
        ):
            with self.subTest((line, fields)):
                _plane, client, service = self.begin(line, *fields)
                assert service.field(b"Upgrade") == service.field(b"Connection") == []
                service.answer(b"plain")
                assert client.answer().body == b"plain"

    def test_an_upgrade_with_a_body_is_400(self) -> None:
        for framing, body in ((b"Content-Length: 2", b"hi"), (b"Transfer-Encoding: chunked", b"0\r\n\r\n")):
            plane = self.make_plane()
            client = plane.connect().ask(b"GET /svc/x HTTP/1.1", *UPGRADE, framing, body=body)
            self.assert_refused(client.answer(), 400, "upgrade")
            assert plane.upstream.connecting == []
            if self.streams:
                assert client.wire.closed

    def test_an_upgrade_that_is_declined_is_an_answer_as_any(self) -> None:
        plane, client, service = self.begin(b"GET /svc/x HTTP/1.1", *UPGRADE)
        service.answer(b"too old", 426, (b"Upgrade", b"websocket"))
        assert (answer := client.answer()).status == 426 and answer.body == b"too old"
        client.ask()
        plane.upstream.accept().answer(b"next")
        assert client.answer().body == b"next"
        self.assert_quiet(plane)

    def test_a_tunnel_carries_bytes_both_ways_as_they_are(self) -> None:
        plane, client, service = self.tunnel()
        client.send(b"GET / HTTP/1.1\r\n\r\n\0")
        client.send(b"\xff")
        assert service.body == b"GET / HTTP/1.1\r\n\r\n\0\xff"
        service.send_body(b"HTTP/1.1 200 OK\r\n\r\n")
        service.send_body(b"\0")
        assert client.wire.take() == b"HTTP/1.1 200 OK\r\n\r\n\0"
        client.leaves()
        assert service.closed and not service.aborted
        self.assert_quiet(plane)

    def test_what_the_client_sends_early_goes_through_the_tunnel(self) -> None:
        if not self.upgrades:
            raise SkipTest("this plane has no tunnels")
        plane = self.make_plane()
        client = plane.connect().ask(b"GET /svc/x HTTP/1.1", *UPGRADE, body=b"early ")
        client.send(b"bird")
        service = plane.upstream.accept()
        assert (service.body, service.trailers) == (b"", [])
        service.switch_protocols()
        assert service.body == b"early bird"

    def test_what_the_client_sends_early_is_no_tunnel_if_the_service_declines(self) -> None:
        plane, client, service = self.begin(b"GET /svc/x HTTP/1.1", *UPGRADE, body=b"early ")
        service.answer(b"no", 400)
        first, *refused = client.answers()
        assert (first.status, first.body) == (400, b"no")
        # They are no request either.
        assert all(answer.status == 400 for answer in refused)
        assert plane.upstream.connecting == []

    def test_reading_stops_while_early_bytes_pile_up(self) -> None:
        if not self.upgrades:
            raise SkipTest("this plane has no tunnels")
        _plane, client, service = self.begin(b"GET /svc/x HTTP/1.1", *UPGRADE)
        sent = 0
        while not client.wire.paused:
            client.send(b"x" * 4096)
            sent += 4096
            assert sent < 100_000
        service.switch_protocols()
        client.clock.advance(0)
        assert len(service.body) == sent
        assert not client.wire.paused

    def test_a_service_that_does_not_keep_up_holds_the_tunnel(self) -> None:
        _plane, client, service = self.tunnel()
        service.fill()
        assert client.wire.paused
        client.send(b"later")
        assert service.body == b""
        service.drain()
        client.send(b"")
        assert service.body == b"later"

    def test_a_client_that_does_not_keep_up_holds_the_tunnel(self) -> None:
        _plane, client, service = self.tunnel()
        client.wire.fill()
        assert service.paused
        assert not client.wire.paused, "what it says is heard all the same"
        client.send(b"still here")
        assert service.body == b"still here"
        client.wire.drain()
        assert not service.paused

    def test_the_client_ends_its_half_of_a_tunnel(self) -> None:
        plane, client, service = self.tunnel()
        client.send(b"bye")
        client.wire.peer_ends()
        assert (service.body, service.trailers) == (b"bye", [])
        assert not client.wire.closed
        service.send_body(b"last words")
        service.finish()
        client.clock.advance(0)
        assert client.wire.take() == b"last words"
        assert client.wire.disconnecting and not client.wire.aborted
        assert service.closed and not service.aborted
        self.assert_quiet(plane)

    def test_the_service_ends_its_half_of_a_tunnel(self) -> None:
        plane, client, service = self.tunnel()
        service.send_body(b"bye")
        service.finish()
        assert client.wire.take() == b"bye"
        assert client.wire.write_closed and not client.wire.disconnecting
        client.send(b"last words")
        assert service.body == b"last words"
        assert not service.closed
        client.wire.peer_ends()
        client.clock.advance(0)
        assert client.wire.disconnecting and not client.wire.aborted
        assert service.closed and not service.aborted
        self.assert_quiet(plane)

    def test_a_tunnel_whose_service_breaks_resets_the_client(self) -> None:
        plane, client, service = self.tunnel()
        service.lose()
        assert client.wire.aborted
        self.assert_quiet(plane)

    def test_a_tunnel_through_which_nothing_moves_is_cut(self) -> None:
        plane, client, service = self.tunnel()
        idle = int(Timeouts().tunnel)
        plane.clock.pump([1.0] * (idle - 2))
        client.send(b"x")
        plane.clock.pump([1.0] * (idle - 2))
        service.send_body(b"y")
        plane.clock.pump([1.0] * (idle - 2))
        assert not client.wire.closed and not service.aborted
        plane.clock.pump([1.0] * 5)
        assert client.wire.aborted and service.aborted
        self.assert_quiet(plane)

    def test_a_cut_tunnel_is_a_reset(self) -> None:
        plane, client, service = self.tunnel()
        assert plane.exchanges.cut() == 1
        client.clock.advance(0)
        assert client.wire.aborted and service.aborted
        self.assert_quiet(plane)

    # What goes wrong at the service.

    def test_a_refused_connection_goes_to_another_instance(self) -> None:
        plane = self.make_plane(TWO)
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 2", body=b"hi")
        first = plane.upstream.refuse()
        service = plane.upstream.accept()
        assert service.endpoint is not first
        assert service.body == b"hi"
        service.answer(b"ok")
        assert client.answer().body == b"ok"
        self.assert_quiet(plane)

    def test_no_instance_that_can_be_reached_is_502(self) -> None:
        plane = self.make_plane(TWO)
        client = plane.connect().ask()
        plane.upstream.refuse()
        plane.upstream.refuse()
        self.assert_refused(client.answer(), 502)
        self.assert_quiet(plane)

    def test_a_request_after_a_refusal_is_answered(self) -> None:
        plane = self.make_plane()
        client = plane.connect().ask()
        plane.upstream.refuse()
        client.answer()
        assert not client.wire.closed
        client.ask()
        plane.upstream.accept().answer(b"back again")
        assert client.answer().body == b"back again"

    def test_a_service_that_breaks_off_before_its_answer_is_502(self) -> None:
        plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 0")
        service.lose(retriable=True)
        self.assert_refused(client.answer(), 502)
        self.assert_quiet(plane)

    def test_a_service_that_breaks_off_within_its_answer_resets_the_client(self) -> None:
        for fields in ((b"Content-Length", b"10"), (b"Transfer-Encoding", b"chunked")):
            plane, client, service = self.begin()
            service.respond(200, fields)
            service.send_body(b"hello")
            service.lose()
            assert client.answer().complete is False
            assert client.wire.aborted
            self.assert_quiet(plane)

    def test_a_service_that_breaks_off_before_any_of_its_body_resets_the_client(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        service.lose()
        assert all(not answer.complete for answer in client.answers())
        assert client.wire.aborted
        self.assert_quiet(plane)

    def test_a_service_that_does_not_answer_is_504(self) -> None:
        plane, client, service = self.begin()
        plane.clock.pump([1.0] * 59)
        assert client.answers() == []
        plane.clock.pump([1.0] * 3)
        self.assert_refused(client.answer(), 504)
        assert service.aborted
        self.assert_quiet(plane)

    def test_a_service_that_stops_in_its_answer_resets_the_client(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        for _ in range(4):
            plane.clock.pump([1.0] * 40)
            service.send_body(b"x")
        assert not client.wire.closed
        plane.clock.pump([1.0] * 62)
        assert client.wire.aborted and service.aborted
        self.assert_quiet(plane)

    def test_a_client_that_stops_sending_is_408(self) -> None:
        self.streaming_only()
        plane, client, service = self.begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        plane.clock.pump([1.0] * 62)
        self.assert_refused(client.answer(), 408)
        assert service.aborted
        assert client.wire.closed
        self.assert_quiet(plane)

    def test_a_client_that_stops_reading_is_reset(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        client.wire.fill()
        plane.clock.pump([1.0] * 62)
        assert client.wire.aborted and service.aborted
        self.assert_quiet(plane)

    # A client that goes away.

    def test_a_client_gone_while_connecting_cancels_that(self) -> None:
        plane = self.make_plane()
        client = plane.connect().ask()
        [attempt] = plane.upstream.connecting
        client.leaves()
        assert attempt.cancelled
        assert plane.upstream.connecting == []
        self.assert_quiet(plane)

    def test_a_client_gone_while_waiting_cancels_the_request(self) -> None:
        plane, client, service = self.begin()
        client.leaves()
        assert service.aborted
        self.assert_quiet(plane)

    def test_a_client_gone_within_its_request_cancels_it(self) -> None:
        plane = self.make_plane()
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        if self.streams:
            service = plane.upstream.accept()
            client.leaves()
            assert service.aborted
        else:
            client.leaves()
            assert plane.upstream.connecting == []
        self.assert_quiet(plane)

    def test_a_client_gone_within_its_answer_cancels_it(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        client.leaves()
        assert service.aborted
        self.assert_quiet(plane)

    def test_a_client_gone_while_full_cancels_the_answer(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        client.wire.fill()
        client.leaves()
        assert service.aborted
        self.assert_quiet(plane)

    def test_a_client_gone_between_requests_is_nothing(self) -> None:
        plane, client, service = self.begin()
        service.answer(b"x")
        client.leaves()
        assert not service.aborted
        self.assert_quiet(plane)

    # The proxy stops.

    def test_a_cut_before_the_answer_is_503(self) -> None:
        plane, client, service = self.begin()
        assert plane.exchanges.cut() == 1
        self.assert_refused(client.answer(), 503)
        assert service.aborted
        self.assert_quiet(plane)

    def test_a_cut_within_the_answer_is_a_reset(self) -> None:
        plane, client, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        assert plane.exchanges.cut() == 1
        client.answers()
        assert client.wire.aborted and service.aborted
        self.assert_quiet(plane)
