"""The site of our own: the contract of every plane, and what only it promises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from onebackend_proxy import ProxySite
from onebackend_proxy.downstream.channel import MAX_NAME, MAX_WAITING
from onebackend_proxy.downstream.lingering import LINGER_AT_MOST
from onebackend_proxy.downstream.request import MAX_BUFFERED
from onebackend_proxy.downstream.site import LAST_REQUEST
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.messages import ResponseHead

from .. import conformance
from ..conformance import ONE, Client, Plane, new_plane
from ..logged import Entries
from ..wire import Answer, Producer


class TestProxySite(conformance.PlaneBehaviour):
    """Our own channel."""

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        return new_plane(ProxySite, urls)


class Echo(Resource):
    """A resource that knows nothing of streaming, as the API's are; it says how much it got."""

    isLeaf = True

    body_limit: Any

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def render(self, request: Any) -> bytes | int:
        if request.path.endswith(b"/later"):
            self.waiting.append(request)
            return NOT_DONE_YET
        if request.path.endswith(b"/broken"):
            raise ValueError("a bug at 10.0.0.1")
        if request.path.endswith(b"/half"):
            request.write(b"half")
            raise ValueError("a bug")
        return b"%b %d" % (request.method, len(request.content.read()))


class SiteTests(SynchronousTestCase):
    """A plane with a built-in service ``echo``, and all that the access log was told.

    `fast` says that connections begin on the fast plane: what is tested here holds for both.
    """

    fast: ClassVar[bool] = False
    limits: ClassVar[Limits] = DEFAULTS

    def setUp(self) -> None:
        self.ended = Entries()
        self.echo = Echo()

        def site(resource: Any, clock: Clock) -> ProxySite:
            fast = resource if self.fast else None
            return ProxySite(resource, clock, self.ended.tell, limits=self.limits, fast=fast)

        self.plane = new_plane(site, ONE, self.limits)
        self.plane.resource.serve({b"echo": self.echo})
        self.site: ProxySite = self.plane.factory

    def tearDown(self) -> None:
        if self.site.on_request_end is not None:
            self.ended.assert_counted(self.site.counts)

    def statuses(self) -> list[int]:
        """The status of each line of the access log."""
        return [entry.status for entry in self.ended]


class HeadTests(SiteTests):
    """What is no request gets its status as JSON, and a close."""

    def assert_refused(self, client: Client, status: int) -> Answer:
        [answer] = client.answers()
        assert (answer.status, answer.complete) == (status, True)
        assert answer.field(b"Content-Type") == [b"application/json"]
        assert answer.field(b"Connection") == [b"close"]
        assert json.loads(answer.body).keys() == {"error"}
        assert client.wire.write_closed or client.wire.disconnecting
        assert self.plane.upstream.connecting == []
        # Whatever follows is no request any more.
        client.send(b"GET /svc/x HTTP/1.1\r\nHost: x\r\n\r\n")
        self.plane.clock.pump([1.0, 1.0, 1.0])
        assert client.answers() == []
        assert self.plane.upstream.connecting == []
        assert not client.wire.connected
        assert not self.site.channels
        return answer


class TestBadHeads(HeadTests):
    """What is refused, and that it disturbs nobody."""

    def test_heads_that_are_not_http(self) -> None:
        for head in (
            b"NONSENSE\r\n\r\n",
            b"GET /svc/x\r\nHost: x\r\n\r\n",
            b"GET /svc/x HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
            b"GET /svc/x HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
            b"GET /svc/x HTTP/1.1\r\nHost: x\r\nX: y\r\n folded\r\n\r\n",
            b"GET /svc/x HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
            b"GET /svc/x HTTP/1.1\r\nHost: x\r\nX: a\nY: b\r\n\r\n",
            b"POST /svc/x HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
            b"POST /svc/x HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
            b"NONSENSE\r\n" + b"x" * DEFAULTS.head_size * 2,
            b"POST /svc/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"POST /svc/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ):
            with self.subTest(head):
                self.assert_refused(self.plane.connect().send(head), 400)

    def test_no_reset_overtakes_the_refusal(self) -> None:
        # Closing with unread bytes resets: there may be more of what was no request.
        client = self.plane.connect().send(b"NONSENSE\r\n\r\n")
        assert client.wire.write_closed and not client.wire.disconnecting
        client.send(b"more")
        self.plane.clock.pump([1.0] * 3)
        assert client.wire.disconnecting and not client.wire.aborted

    def test_heads_of_which_twisted_web_has_less_to_say(self) -> None:
        for field, status in (
            (b"Content-Length: " + b"9" * 19, 413),
            (b"Transfer-Encoding: gzip, chunked", 501),
        ):
            head = b"POST /svc/x HTTP/1.1\r\nHost: x\r\n%b\r\n\r\nhello" % field
            with self.subTest(field[:40]):
                self.assert_refused(self.plane.connect().send(head), status if self.fast else 400)

    def test_a_head_with_too_many_fields(self) -> None:
        fields = b"".join(b"X-%d: y\r\n" % number for number in range(DEFAULTS.head_fields + 1))
        client = self.plane.connect().send(b"GET /svc/x HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
        assert b"header fields" in self.assert_refused(client, 431).body

    def test_a_head_that_is_too_long(self) -> None:
        line = b"X: " + b"y" * 1000 + b"\r\n"
        client = self.plane.connect().send(b"GET /svc/x HTTP/1.1\r\nHost: x\r\n" + line * 40 + b"\r\n")
        self.assert_refused(client, 431)

    def test_a_field_that_is_too_long(self) -> None:
        client = self.plane.connect().send(
            b"GET /svc/x HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (DEFAULTS.head_size + 9)
        )
        self.assert_refused(client, 431)

    def test_a_request_line_that_is_too_long(self) -> None:
        client = self.plane.connect().send(b"GET /svc/" + b"y" * (DEFAULTS.head_size + 9))
        self.assert_refused(client, 414)

    def test_a_head_that_takes_too_long(self) -> None:
        client = self.plane.connect().send(b"GET /svc/x HTTP/1.1\r\nHost: x\r\n")
        for _ in range(33):
            client.send(b"X: y\r\n")
            self.plane.clock.advance(1)
        self.assert_refused(client, 408)

    def test_no_host_two_hosts_and_hosts_that_are_none(self) -> None:
        for fields in (b"", b"Host: a\r\nHost: b\r\n", b"Host: a b\r\n", b"Host:\r\n", b"Host: u@a\r\n"):
            client = self.plane.connect().send(b"GET /svc/x HTTP/1.1\r\n%b\r\n" % fields)
            answer = client.answer()
            assert (answer.status, answer.field(b"Content-Type")) == (400, [b"application/json"])
            assert b"Host" in answer.body
        assert self.plane.upstream.connecting == []

    def test_a_target_that_is_none(self) -> None:
        for target in (b"svc/x", b"/svc/\xe9", b"/svc/x#y", b"ftp://x/svc", b"http://u@x/svc"):
            client = self.plane.connect().send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
            assert client.answer().status == 400
        assert self.plane.upstream.connecting == []

    def test_another_version(self) -> None:
        for version in (b"HTTP/2.0", b"HTTP/1.2", b"RTSP/1.1", b"HTTP/9.9"):
            client = self.plane.connect().send(b"GET /svc/x %b\r\nHost: x\r\n\r\n" % version)
            assert client.answer().status in (400, 505)

    def test_a_broken_chunk_gives_the_request_up(self) -> None:
        client = self.plane.connect().ask(
            b"POST /svc/x HTTP/1.1", b"Transfer-Encoding: chunked", body=b"2\r\nhi"
        )
        service = self.plane.upstream.accept()
        client.send(b"no end of chunk\r\n")
        assert service.aborted
        assert client.answer().status == 400
        assert client.wire.write_closed
        client.leaves()
        assert len(self.ended) == 1
        assert not self.site.channels

    def test_a_broken_chunk_within_the_answer_resets(self) -> None:
        client = self.plane.connect().ask(
            b"POST /svc/x HTTP/1.1", b"Transfer-Encoding: chunked", body=b"2\r\nhi"
        )
        service = self.plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"5"))
        client.send(b"no end of chunk\r\n")
        assert service.aborted and client.wire.aborted
        assert client.answer().complete is False
        assert self.statuses() == [200]

    def test_a_refused_client_disturbs_no_other(self) -> None:
        good = self.plane.connect().ask()
        bad = self.plane.connect().send(b"NONSENSE\r\n\r\n")
        self.plane.upstream.accept().answer(b"fine")
        assert good.answer().body == b"fine"
        assert bad.answer().status == 400
        good.ask()
        self.plane.upstream.accept().answer(b"still fine")
        assert good.answer().body == b"still fine"

    def test_an_empty_line_before_a_request_is_nothing(self) -> None:
        client = self.plane.connect().send(b"\r\nGET /svc/x HTTP/1.1\r\nHost: x\r\n\r\n")
        self.plane.upstream.accept().answer(b"fine")
        assert client.answer().body == b"fine"

    def test_an_absolute_target_loses_its_authority(self) -> None:
        client = self.plane.connect().send(
            b"GET http://other.example:8080/svc/x?y HTTP/1.1\r\nHost: front.example\r\n\r\n"
        )
        service = self.plane.upstream.accept()
        assert service.request_line == b"GET /svc/x?y HTTP/1.1"
        assert service.field(b"Host") == [b"other.example:8080"]
        service.answer()
        assert client.answer().status == 200

    def test_the_bytes_of_a_head_may_come_one_by_one(self) -> None:
        client = self.plane.connect()
        head = b"POST /svc/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for byte in head + b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n":
            client.send(bytes((byte,)))
        service = self.plane.upstream.accept()
        assert (service.body, service.trailers) == (b"hi", [(b"X-T", b"1")])


class TestNames(HeadTests):
    """What twisted.web would remember for ever."""

    def test_a_name_that_nobody_would_keep(self) -> None:
        # twisted.web keeps every name it has seen.
        name = b"N" * (MAX_NAME + 1)
        head = b"GET /svc/x HTTP/1.1\r\nHost: x\r\n%b: v\r\n\r\n"
        self.assert_refused(self.plane.connect().send(head % name), 431)
        client = self.plane.connect().send(head % name[1:])
        self.plane.upstream.accept().answer(b"fine")
        assert client.answer().body == b"fine"


class TestConnections(SiteTests):
    """How connections are kept, timed and closed."""

    def test_an_idle_connection_is_closed_after_75_seconds_without_a_word(self) -> None:
        logged: list[Any] = []
        observer = cast(ILogObserver, logged.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        client = self.plane.connect().ask()
        self.plane.upstream.accept().answer(b"x")
        client.answers()
        self.plane.clock.pump([1.0] * 73)
        assert not client.wire.closed
        self.plane.clock.pump([1.0] * 4)
        assert client.wire.disconnecting and not client.wire.aborted
        assert client.answers() == []
        assert logged == []
        assert not self.site.channels

    def test_the_time_out_does_not_count_while_an_answer_is_awaited(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        for _ in range(5):
            self.plane.clock.pump([1.0] * 50)
            service.send_body(b"x")
        assert not client.wire.closed
        service.finish()
        assert client.answer().body == b"xxxxx"

    def test_a_client_that_listens_before_it_sends_on_is_not_idle(self) -> None:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        service = self.plane.upstream.accept()
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        for _ in range(20):
            self.plane.clock.pump([1.0] * 5)
            service.send_body(b"x")
        assert not client.wire.closed

    def test_close_is_found_in_a_list(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/x HTTP/1.1", b"Connection: close, TE", b"TE: trailers")
        self.plane.upstream.accept().answer(b"bye")
        assert client.answer().body == b"bye"
        assert client.wire.closed

    def test_a_client_that_reads_again_does_not_overrun_the_service(self) -> None:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 100", body=b"hello")
        service = self.plane.upstream.accept()
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.fill()
        client.wire.fill()
        client.wire.drain()
        assert client.wire.paused

    def test_the_connection_is_read_again_after_a_full_last_piece(self) -> None:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        self.plane.upstream.capacity = 10
        service = self.plane.upstream.accept()
        client.send(b"world")
        assert service.trailers == []
        service.drain()
        assert not client.wire.paused

    def test_noise_after_the_last_request_is_dropped(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/x HTTP/1.1", b"Connection: close")
        self.plane.upstream.accept().answer(b"bye")
        client.send(b"GET /svc/y HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [answer.body for answer in client.answers()] == [b"bye"]
        assert self.plane.upstream.connecting == []

    def test_reading_stops_while_pipelined_requests_pile_up(self) -> None:
        client = self.plane.connect().ask()
        self.plane.upstream.accept()
        for _ in range(5):
            client.send(b"GET /svc/y HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 8000 + b"\r\n\r\n")
        assert client.wire.paused

    def test_no_delay(self) -> None:
        assert self.plane.connect().wire.no_delay

    def test_one_read_of_the_service_is_one_write_to_the_client(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        exchange = service.exchange
        exchange.head_received(ResponseHead(200, b"OK", [(b"Content-Length", b"4")], 4))
        exchange.body_received(b"ab")
        assert client.wire.take() == b""
        exchange.read_ended()
        assert client.wire.take().endswith(b"\r\n\r\nab")
        exchange.body_received(b"cd")
        exchange.answer_ended([])
        assert client.wire.take() == b"cd"

    def test_an_old_client_that_is_refused(self) -> None:
        client = self.plane.connect().send(b"GET /nobody HTTP/1.0\r\nHost: x\r\n\r\n")
        assert client.answer().status == 404
        assert client.wire.disconnecting

    def test_http_1_1_is_what_tls_may_agree_on(self) -> None:
        assert self.site.acceptableProtocols() == [b"http/1.1"]

    def test_an_unix_peer_has_no_address(self) -> None:
        client = self.plane.connect(UNIXAddress(b"/x"))
        client.ask()
        assert self.plane.upstream.accept().field(b"X-Forwarded-For") == [b"unix:"]


class TestDraining(SiteTests):
    """The site stops: what is idle has a second for a last request, the rest its answer."""

    def test_with_no_connection_at_all(self) -> None:
        self.successResultOf(self.site.drain(20))
        assert not [call for call in self.plane.clock.getDelayedCalls() if call.active()]

    def test_idle_ones_go_after_a_second_and_the_busy_one_after_its_answer(self) -> None:
        idle = self.plane.connect()
        busy = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        drained = self.site.drain(20)
        self.plane.clock.advance(LAST_REQUEST - 0.1)
        assert not idle.wire.closed and not busy.wire.closed
        self.plane.clock.pump([0.1, 0])
        assert idle.wire.disconnecting and not busy.wire.closed
        self.assertNoResult(drained)
        service.answer(b"last")
        answer = busy.answer()
        assert (answer.body, answer.field(b"Connection")) == (b"last", [b"close"])
        assert busy.wire.disconnecting and not busy.wire.aborted
        self.successResultOf(drained)

    def test_a_request_that_was_on_its_way_is_answered_and_the_last(self) -> None:
        new, used = self.plane.connect(), self.plane.connect()
        used.ask()
        self.plane.upstream.accept().answer(b"first")
        assert used.answer().body == b"first"
        drained = self.site.drain(20)
        self.plane.clock.advance(LAST_REQUEST / 2)
        for client in (new, used):
            client.ask()
        services = [self.plane.upstream.accept() for _ in range(2)]
        # They are under way when the second is over, and not cut.
        self.plane.clock.advance(LAST_REQUEST)
        for client, service in zip((new, used), services, strict=True):
            assert not client.wire.closed
            service.answer(b"last")
            answer = client.answer()
            assert (answer.body, answer.field(b"Connection")) == (b"last", [b"close"])
            assert client.wire.disconnecting
        self.successResultOf(drained)

    def test_a_connection_that_was_accepted_last_is_served(self) -> None:
        drained = self.site.drain(20)
        self.successResultOf(drained)
        client = self.plane.connect().ask()
        self.plane.upstream.accept().answer(b"last")
        answer = client.answer()
        assert (answer.body, answer.field(b"Connection")) == (b"last", [b"close"])

    def test_an_answer_that_has_begun_is_completed_and_then_closed(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"2"))
        drained = self.site.drain(20)
        service.send_body(b"ok")
        service.finish()
        assert client.answer().body == b"ok"
        assert client.wire.disconnecting
        self.successResultOf(drained)

    def test_built_in_services_too(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/later HTTP/1.1")
        drained = self.site.drain(20)
        self.echo.waiting[0].finish()
        client.answers()
        assert client.wire.disconnecting
        self.successResultOf(drained)

    def test_after_the_grace_the_rest_is_cut(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        drained = self.site.drain(20)
        self.plane.clock.pump([1.0] * 19)
        assert not client.wire.closed
        self.plane.clock.pump([1.0, 0.0])
        assert client.wire.aborted and service.aborted
        self.successResultOf(drained)


class TestBufferedResources(SiteTests):
    """Resources that do not stream work as ever, with a limit."""

    def test_a_body_is_collected(self) -> None:
        client = self.plane.connect().ask(b"POST /echo/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        client.send(b"world")
        assert client.answer().body == b"POST 10"
        client.ask(b"PUT /echo/x HTTP/1.1", b"Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\n\r\n")
        assert client.answer().body == b"PUT 2"
        assert self.statuses() == [200, 200]

    def test_an_expected_body_is_asked_for(self) -> None:
        client = self.plane.connect().ask(
            b"POST /echo/x HTTP/1.1", b"Content-Length: 2", b"Expect: 100-continue"
        )
        assert client.answer().status == 100
        client.send(b"hi")
        assert client.answer().body == b"POST 2"

    def test_a_length_over_the_limit_is_refused_unread(self) -> None:
        client = self.plane.connect().ask(
            b"POST /echo/x HTTP/1.1", b"Content-Length: %d" % (MAX_BUFFERED + 1), b"Expect: 100-continue"
        )
        assert client.answer().status == 413
        assert client.wire.write_closed
        client.leaves()
        assert self.statuses() == [413]

    def test_the_limit_itself_is_taken(self) -> None:
        client = self.plane.connect().ask(
            b"POST /echo/x HTTP/1.1", b"Content-Length: %d" % MAX_BUFFERED, body=b"x" * MAX_BUFFERED
        )
        assert client.answer().body == b"POST %d" % MAX_BUFFERED

    def test_a_resource_may_have_a_limit_of_its_own(self) -> None:
        size = MAX_BUFFERED + 10
        self.echo.body_limit = lambda request: size if request.getHeader("x-may") else MAX_BUFFERED
        post = b"POST /echo/x HTTP/1.1"
        for length, may, status in ((size, b"1", 200), (size + 1, b"1", 413), (size, b"", 413)):
            for framing in (b"Content-Length: %d" % length, b"Transfer-Encoding: chunked"):
                client = self.plane.connect().ask(post, framing, b"X-May: " + may)
                body = b"x" * length
                client.send(body if b"Length" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (length, body))
                answer = client.answer()
                assert answer.status == status
                over = size if may else MAX_BUFFERED
                assert answer.body == b"POST %d" % length or b"over %d bytes" % over in answer.body
                client.leaves()

    def test_a_limit_is_asked_for_where_it_matters_only(self) -> None:
        asked: list[Any] = []

        def ask(request: Any) -> int:
            asked.append(request)
            return MAX_BUFFERED

        self.echo.body_limit = ask
        client = self.plane.connect().ask(b"GET /echo/x HTTP/1.1")
        client.ask(b"POST /echo/x HTTP/1.1", b"Content-Length: 2", body=b"hi")
        assert [answer.status for answer in client.answers()] == [200, 200]
        assert asked == []
        client.ask(b"POST /echo/x HTTP/1.1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")
        assert client.answer().status == 200 and len(asked) == 1

    def test_chunks_over_the_limit_are_refused(self) -> None:
        client = self.plane.connect().ask(b"POST /echo/x HTTP/1.1", b"Transfer-Encoding: chunked")
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(20):
            client.send(piece)
        assert client.answer().status == 413
        assert client.wire.write_closed
        self.plane.clock.pump([1.0, 1.0, 1.0])
        assert client.wire.disconnecting
        assert self.statuses() == [413]

    def test_a_client_that_stops_within_a_body_is_closed(self) -> None:
        client = self.plane.connect().ask(b"POST /echo/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        self.plane.clock.pump([1.0] * 78)
        assert client.wire.closed
        self.plane.clock.pump([1.0] * 20)
        assert not client.wire.connected

    def test_a_bug_is_500_without_a_word_about_it(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/broken HTTP/1.1")
        answer = client.answer()
        assert (answer.status, json.loads(answer.body)) == (500, {"error": "internal error"})
        assert client.wire.closed
        assert len(self.flushLoggedErrors(ValueError)) == 1
        assert self.statuses() == [500]

    def test_a_bug_within_an_answer_is_a_reset(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/half HTTP/1.1")
        client.answers()
        assert client.wire.aborted
        assert len(self.flushLoggedErrors(ValueError)) == 1

    def test_options_for_the_whole_server(self) -> None:
        client = self.plane.connect().send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.answer().complete

    def test_a_bug_in_a_streaming_resource_is_500_as_well(self) -> None:
        class Broken(Resource):
            isLeaf = True
            streams = True

            def render(self, request: Any) -> int:
                raise ValueError("a bug at 10.0.0.1")

        self.plane.resource.serve({b"broken": Broken()})
        for fields in ((), (b"Content-Length: 5",)):
            client = self.plane.connect().ask(b"POST /broken/x HTTP/1.1", *fields)
            answer = client.answer()
            assert (answer.status, json.loads(answer.body)) == (500, {"error": "internal error"})
            assert client.wire.closed
            assert len(self.flushLoggedErrors(ValueError)) == 1

    def test_back_pressure_reaches_producers_of_twisted_web(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/later HTTP/1.1")
        producer = Producer()
        [request] = self.echo.waiting
        request.registerProducer(producer, True)
        client.wire.fill()
        assert producer.paused
        client.wire.drain()
        assert not producer.paused
        request.unregisterProducer()
        request.finish()


class TestAccessHook(SiteTests):
    """Each request is told once, whoever answered it, and also when nobody could."""

    def test_one_that_is_answered(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/x HTTP/1.1", b"Connection: close")
        self.plane.upstream.accept().answer(b"x")
        client.answers()
        client.leaves()
        [entry] = self.ended
        assert (entry.status, entry.route, entry.target) == (200, "/svc", b"/svc/x")
        assert entry.bytes_out == 1

    def test_one_that_is_refused(self) -> None:
        self.plane.connect().ask(b"GET /nobody/x HTTP/1.1")
        self.plane.connect().ask(b"GET /svc/x HTTP/1.1")
        self.plane.upstream.refuse()
        assert self.statuses() == [404, 502]

    def test_one_whose_client_went_away(self) -> None:
        client = self.plane.connect().ask()
        self.plane.upstream.accept()
        client.leaves()
        assert self.statuses() == [499]

    def test_one_whose_client_went_away_within_the_answer(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"9"))
        service.send_body(b"half")
        client.leaves()
        assert self.statuses() == [200]
        [entry] = self.ended
        assert "client" in entry.reason and entry.bytes_out == 4

    def test_one_that_the_service_broke_off(self) -> None:
        self.plane.connect().ask()
        service = self.plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"9"))
        service.lose(detail="reset")
        self.plane.clock.advance(0)
        assert self.statuses() == [200]
        assert "reset" in self.ended[0].reason

    def test_one_that_was_cut(self) -> None:
        self.plane.connect().ask()
        self.plane.upstream.accept()
        self.site.cut()
        self.plane.clock.advance(0)
        assert self.statuses() == [499]

    def test_one_that_came_half(self) -> None:
        client = self.plane.connect().ask(b"POST /echo/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        client.leaves()
        assert self.statuses() == [499]
        assert self.ended[0].bytes_in == 5

    def test_one_whose_head_is_refused(self) -> None:
        client = self.plane.connect().send(b"GET /svc/x HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n")
        client.leaves()
        assert self.statuses() == [400]

    def test_one_that_is_answered_early(self) -> None:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello")
        self.plane.upstream.accept().answer(b"no", 403)
        client.send(b"wor")
        client.leaves()
        assert self.statuses() == [403]

    def test_no_hook_no_call(self) -> None:
        plane = new_plane(ProxySite, ONE)
        client = plane.connect().ask()
        plane.upstream.accept().answer(b"x")
        assert client.answer().body == b"x"
        client.ask()
        client.leaves()
        plane.connect().send(b"NONSENSE\r\n\r\n").leaves()

    def test_what_lost_the_connection_does_not_matter(self) -> None:
        client = self.plane.connect().ask()
        client.wire.protocol.connectionLost(Failure(OSError("broken pipe")))
        client.wire.connected = False
        assert self.statuses() == [499]


class TestClientsThatDoNotRead(SiteTests):
    """Whoever asks and reads nothing costs no more than what is on the way."""

    ask = b"GET /svc/x HTTP/1.1\r\nHost: x\r\n\r\n"

    def test_the_next_request_waits_until_there_is_room_for_its_answer(self) -> None:
        client = self.plane.connect().send(self.ask * 3)
        service = self.plane.upstream.accept()
        client.wire.fill()
        service.answer(b"one")
        assert self.plane.upstream.connecting == []
        assert client.wire.paused
        client.wire.drain()
        assert not client.wire.paused
        client.wire.fill()
        self.plane.upstream.accept().answer(b"two")
        assert self.plane.upstream.connecting == []
        client.wire.drain()
        self.plane.upstream.accept().answer(b"three")
        assert [answer.body for answer in client.answers()] == [b"one", b"two", b"three"]

    def test_also_of_those_that_are_answered_at_once(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        client.wire.fill()
        client.send(b"GET /echo/x HTTP/1.1\r\nHost: x\r\n\r\n" * 900)
        service.answer(b"one")
        assert [answer.body for answer in client.answers()] == [b"one"]
        client.wire.drain()
        assert len(client.answers()) == 900

    def test_nor_are_refusals_made_for_who_does_not_read_them(self) -> None:
        client = self.plane.connect()
        wire: Any = client.wire
        write = wire.write

        def small(data: bytes) -> None:
            write(data)
            if not wire.full and len(wire.value()) > 2000:
                wire.fill()

        wire.write = small
        client.send(b"GET /nobody/x HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        answers = 0
        while wire.full:
            some = client.answers()
            assert 0 < len(some) < 20
            answers += len(some)
            wire.drain()
        assert answers + len(client.answers()) == 100

    def test_what_is_pipelined_is_not_read_without_end(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        client.send(b"z" * MAX_WAITING)
        assert not client.wire.paused
        client.send(b"z")
        assert client.wire.paused
        client.wire.fill()
        client.wire.drain()
        assert client.wire.paused
        service.answer(b"one")
        assert client.answers()[0].body == b"one"

    def test_it_is_closed_after_a_while_with_its_answers_unread(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        client.wire.fill()
        service.answer(b"one")
        self.plane.clock.pump([1.0] * int(DEFAULTS.idle_timeout - 1))
        assert not client.wire.closed
        self.plane.clock.pump([1.0, 1.0])
        assert client.wire.aborted
        assert not self.site.channels

    def test_a_slow_reader_has_all_the_time_it_needs(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        client.wire.fill()
        wire = cast(Any, client.wire)
        service.respond(200, (b"Content-Length", b"3"))
        for wire.outstanding in range(100, 10, -1):
            self.plane.clock.pump([10.0])
        assert not client.wire.closed
        service.send_body(b"one")
        service.finish()
        for wire.outstanding in range(1000, 900, -1):
            self.plane.clock.pump([10.0])
        assert not client.wire.closed
        self.plane.clock.pump([1.0] * int(DEFAULTS.idle_timeout + 1))
        assert client.wire.aborted

    def test_idle_counts_from_the_end_of_the_answer(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"4"))
        for piece in (b"a", b"b", b"c", b"d"):
            self.plane.clock.pump([1.0] * 40)
            service.send_body(piece)
        service.finish()
        self.plane.clock.pump([1.0] * int(DEFAULTS.keepalive_timeout - 1))
        assert not client.wire.closed
        self.plane.clock.pump([1.0, 1.0])
        assert client.wire.disconnecting

    def test_an_answer_before_the_service_has_taken_the_body_leaves_no_mark(self) -> None:
        head = b"POST /svc/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        client = self.plane.connect().send(head)
        service = self.plane.upstream.accept()
        service.fill()
        assert client.wire.paused
        client.wire.resumeProducing()  # What was on its way when we stopped reading.
        client.send(b"body")
        service.answer(b"no", 413)
        assert client.answer().status == 413
        client.wire.fill()
        client.wire.drain()
        assert not client.wire.paused
        client.ask()
        self.plane.upstream.accept().answer(b"next")
        assert client.answer().body == b"next"


class TestLingering(SiteTests):
    """An answer that came before the end of its request."""

    def begin(self) -> Client:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 100", body=b"some")
        self.plane.upstream.accept().answer(b"no", 413)
        assert client.wire.write_closed and not client.wire.disconnecting
        return client

    def test_it_waits_for_the_answer_to_leave(self) -> None:
        client = self.begin()
        cast(Any, client.wire).outstanding = 10
        self.plane.clock.pump([1.0] * 30)
        assert client.wire.connected
        cast(Any, client.wire).outstanding = 0
        self.plane.clock.pump([1.0])
        assert client.wire.connected
        self.plane.clock.pump([1.0, 1.0])
        assert client.wire.disconnecting and not client.wire.aborted

    def test_a_client_that_was_held_is_read_again_so_that_its_end_is_seen(self) -> None:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 100", body=b"some")
        service = self.plane.upstream.accept()
        service.fill()
        assert client.wire.paused
        service.answer(b"no", 413)
        assert client.wire.write_closed and not client.wire.paused
        client.leaves()
        assert not self.site.channels

    def test_but_not_for_ever(self) -> None:
        client = self.begin()
        cast(Any, client.wire).outstanding = 10
        self.plane.clock.pump([1.0] * (LINGER_AT_MOST + 1))
        assert client.wire.aborted

    def test_a_client_that_sends_on_is_not_parsed_any_more(self) -> None:
        client = self.begin()
        client.send(b"\r\n" * 1000 + TestClientsThatDoNotRead.ask)
        assert self.plane.upstream.connecting == []
        assert client.answer().status == 413


class TestOtherTrees(SiteTests):
    """A tree of another program's, in our Site."""

    def test_one_that_cannot_be_walked(self) -> None:
        class Broken(Resource):
            def getChild(self, path: bytes, request: Any) -> IResource:
                raise ValueError("a bug at 10.0.0.1")

        self.plane.resource.serve({b"broken": Broken()})
        client = self.plane.connect().ask(b"GET /broken/x HTTP/1.1")
        answer = client.answer()
        assert (answer.status, json.loads(answer.body)) == (500, {"error": "internal error"})
        assert len(self.flushLoggedErrors(ValueError)) == 1


class TestSlowRequests(SiteTests):
    """A request that does not arrive."""

    def test_a_body_for_a_resource_that_stalls(self) -> None:
        client = self.plane.connect().ask(b"POST /echo/x HTTP/1.1", b"Content-Length: 100", body=b"some")
        self.plane.clock.pump([1.0] * int(DEFAULTS.keepalive_timeout + 1))
        answer = client.answer()
        assert (answer.status, answer.field(b"Connection")) == (408, [b"close"])

    def test_a_client_in_the_middle_of_a_head_does_not_hold_up_the_end(self) -> None:
        client = self.plane.connect().send(b"GET /svc/x HTTP/1.1\r\nHost")
        drained = self.site.drain(20)
        self.plane.clock.pump([LAST_REQUEST, 0])
        assert client.wire.disconnecting
        self.successResultOf(drained)
