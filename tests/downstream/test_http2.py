"""HTTP/2 for clients: what a request becomes, what its answer, and how both wait for each other."""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

import attrs
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from onebackend_proxy import ProxySite
from onebackend_proxy.downstream.fast import FastChannel
from onebackend_proxy.downstream.http2 import Http2Channel
from onebackend_proxy.downstream.http2_connection import CONNECTION_WINDOW, MAX_STREAMS, WINDOW
from onebackend_proxy.downstream.http2_frames import TURN
from onebackend_proxy.exchange import MAX_HELD
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.messages import Answer, Headers, ResponseHead
from onebackend_proxy.testing import ScriptedConnection

from ..conformance import ONE, Plane, new_plane
from ..logged import Entries
from ..wire import Wire

GOAWAY = 7
CLIENT = H2Configuration(client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False)


@attrs.define
class Got:
    """What came back on one stream."""

    interims: list[int] = attrs.field(factory=list)
    status: int = 0
    headers: Headers = attrs.field(factory=list)
    body: bytes = b""
    trailers: Headers | None = None
    ended: bool = False
    reset: int | None = None

    def field(self, name: bytes) -> list[bytes]:
        """The values of a field."""
        return [value for key, value in self.headers if key == name]


class Http2Client:
    """A client of an `Http2Channel`; it opens the windows for what it takes as long as `takes` says so."""

    def __init__(self, site: ProxySite, clock: Clock, proxied: Any, peer: str = "192.0.2.7") -> None:
        self.clock = clock
        self.wire = Wire(clock, peer)
        self.channel = Http2Channel(site, proxied)
        self.wire.attach(self.channel)
        self.h2 = H2Connection(CLIENT)
        self.h2.initiate_connection()
        self.streams: dict[int, Got] = {}
        self.others: list[events.Event] = []
        # What each GOAWAY said.
        self.went_away: list[int] = []
        self.last_ids: list[int] = []
        self.takes = True
        self.flush()

    def flush(self) -> Http2Client:
        """Send what is made, and read what comes back."""
        while True:
            data = self.h2.data_to_send()
            if data:
                self.wire.receive(data)
            self.clock.advance(0)
            if not self._read() and not self.h2._data_to_send:
                return self

    def raw(self, data: bytes) -> Http2Client:
        """Send these bytes, and read what comes back."""
        self.wire.receive(data)
        return self.flush()

    def _read(self) -> bool:
        came = data = self.wire.take()
        while data:
            # h2 would take a GOAWAY for the end of all.
            end = 9 + int.from_bytes(data[:3], "big")
            frame, data = data[:end], data[end:]
            if frame[3] == GOAWAY:
                self.went_away.append(int.from_bytes(frame[13:17], "big"))
                self.last_ids.append(int.from_bytes(frame[9:13], "big"))
                continue
            for event in self.h2.receive_data(frame):
                self._event(event)
        return bool(came)

    def _event(self, event: Any) -> None:
        got = self.streams.setdefault(getattr(event, "stream_id", None) or 0, Got())
        if isinstance(event, events.InformationalResponseReceived):
            got.interims.append(int(dict(event.headers)[b":status"]))
        elif isinstance(event, events.ResponseReceived):
            assert not got.status
            got.headers = [(bytes(name), bytes(value)) for name, value in event.headers]
            got.status = int(got.headers.pop(0)[1])
        elif isinstance(event, events.DataReceived):
            got.body += event.data
            if self.takes and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, events.TrailersReceived):
            got.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, events.StreamEnded):
            got.ended = True
        elif isinstance(event, events.StreamReset):
            got.reset = int(event.error_code)
        else:
            self.others.append(event)

    def frames(self) -> list[tuple[int, bytes]]:
        """What came back, as frames that `h2` here has not seen: their kinds and payloads."""
        data = self.wire.take()
        frames = []
        while data:
            end = 9 + int.from_bytes(data[:3], "big")
            frames.append((data[3], data[9:end]))
            data = data[end:]
        return frames

    def ask(
        self,
        path: bytes = b"/svc/x",
        *fields: tuple[bytes, bytes],
        method: bytes = b"GET",
        body: bytes | None = None,
        ended: bool = True,
        authority: bytes = b"front.example",
    ) -> int:
        """Send a request, with this body if there is one, and end it if `ended`; returns its stream."""
        head = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", authority),
            (b":path", path),
            *fields,
        ]
        return self.ask_raw(head, body, ended)

    def ask_raw(self, head: Headers, body: bytes | None = None, ended: bool = True) -> int:
        """Send a request with these fields."""
        number: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, head, end_stream=ended and body is None)
        if body is not None:
            self.send(number, body, ended)
        self.flush()
        return number

    def send(self, number: int, data: bytes, ended: bool = False) -> None:
        """Send a piece of a body, in frames, as far as the windows go; it must go whole."""
        while len(data) > 16384:
            self.h2.send_data(number, data[:16384])
            data = data[16384:]
        self.h2.send_data(number, data, end_stream=ended)
        self.flush()

    def room(self, number: int) -> int:
        """How much of a body may be sent now."""
        try:
            return int(self.h2.local_flow_control_window(number))
        except StreamClosedError:
            return 0

    def got(self, number: int) -> Got:
        """What came back on this stream."""
        self.flush()
        return self.streams.setdefault(number, Got())

    def leaves(self) -> None:
        """Close the connection."""
        self.wire.peer_closes()
        self.clock.advance(0)


class Http2Tests(SynchronousTestCase):
    """A site whose clients speak HTTP/2, a scripted service, and all that the access log was told."""

    limits: ClassVar[Limits] = DEFAULTS

    def setUp(self) -> None:
        self.ended = Entries()

        def site(resource: Any, clock: Clock) -> ProxySite:
            return ProxySite(resource, clock, self.ended.tell, limits=self.limits, fast=resource)

        self.plane: Plane = new_plane(site, ONE, self.limits)
        self.clock = self.plane.clock
        self.site: ProxySite = self.plane.factory
        self.upstream = self.plane.upstream

    def tearDown(self) -> None:
        if self.site.on_request_end is not None:
            self.ended.assert_counted(self.site.counts)

    def connect(self, proxied: Any = None) -> Http2Client:
        """A new client."""
        return Http2Client(self.site, self.clock, proxied or self.plane.resource)

    def begin(self, *args: Any, **named: Any) -> tuple[Http2Client, int, ScriptedConnection]:
        """A client that has sent a request, its stream, and the service's connection that has it."""
        client = self.connect()
        number = client.ask(*args, **named)
        return client, number, self.upstream.accept()

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass, as the reactor does."""
        self.clock.pump([1.0] * seconds)

    def assert_quiet(self) -> None:
        """Nothing is left over of the exchanges that were."""
        self.clock.pump([1.0, 1.0])
        assert len(self.plane.exchanges) == 0
        endpoints = list(self.plane.registry.endpoints())
        assert [endpoint.in_flight for endpoint in endpoints] == [0] * len(endpoints)
        for each in self.site.channels:
            channel = cast(Http2Channel, each)
            assert not channel.streams and not channel._ring and not channel._unsent

    def assert_refused(self, got: Got, status: int, contains: str = "") -> None:
        """The answer is an error as JSON, with nothing in it that tells where services are."""
        assert got.status == status
        assert got.field(b"content-type") == [b"application/json"]
        assert got.field(b"content-length") == [b"%d" % len(got.body)]
        assert contains in json.loads(got.body)["error"]
        assert b"10.0.0." not in got.body


class TestRequests(Http2Tests):
    """What a request becomes on its way to the service."""

    def test_a_request_and_its_answer(self) -> None:
        client, number, service = self.begin(b"/svc/a%2Fb;c//d?q=%3F", (b"x-mine", b"yes"))
        assert service.request_line == b"GET /svc/a%2Fb;c//d?q=%3F HTTP/1.1"
        assert service.field(b"Host") == [b"front.example"]
        assert service.field(b"X-Mine") == [b"yes"]
        assert service.field(b"X-Forwarded-For") == [b"192.0.2.7"]
        assert service.field(b"X-Forwarded-Host") == [b"front.example"]
        assert len(service.field(b"X-Request-Id")) == 1
        assert service.field(b"Transfer-Encoding") == service.field(b"Content-Length") == []
        assert service.trailers == []
        service.answer(b"hello", 200, (b"X-Theirs", b"too"), (b"Connection", b"X-Hop"), (b"X-Hop", b"1"))
        got = client.got(number)
        assert (got.status, got.body, got.ended, got.reset) == (200, b"hello", True, None)
        assert got.field(b"x-theirs") == [b"too"]
        assert got.field(b"x-hop") == got.field(b"connection") == []
        assert len(got.field(b"date")) == 1
        assert not client.wire.closed
        self.assert_quiet()

    def test_over_tls_it_was_https(self) -> None:
        client = self.connect()
        assert client.channel._peer.scheme == b"http"
        wire = Wire(self.clock)
        directlyProvides(wire, ISSLTransport)
        wire.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        fast = FastChannel(self.site, self.plane.resource)
        wire.attach(fast)
        assert isinstance(fast._handed_over, Http2Channel)
        assert fast._handed_over._peer.scheme == b"https"
        wire.peer_closes()
        client.leaves()
        assert not self.site.channels

    def test_what_a_client_says_in_the_name_of_proxies_is_dropped(self) -> None:
        _client, _number, service = self.begin(
            b"/svc/x",
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"x-real-ip", b"6.6.6.6"),
            (b"forwarded", b"for=6.6.6.6"),
            (b"x_real_ip", b"6.6.6.6"),
            (b"proxy", b"evil"),
            (b"http2-settings", b"AAMAAABk"),
        )
        assert b"6.6.6.6" not in service.head and b"evil" not in service.head
        assert service.field(b"HTTP2-Settings") == []

    def test_cookie_crumbs_are_one_field(self) -> None:
        _client, _number, service = self.begin(b"/svc/x", (b"cookie", b"a=1"), (b"cookie", b"b=2"))
        assert service.field(b"Cookie") == [b"a=1; b=2"]

    def test_te_trailers_is_kept(self) -> None:
        _client, _number, service = self.begin(b"/svc/x", (b"te", b"trailers"))
        assert service.field(b"TE") == [b"trailers"]

    def test_host_alone_is_an_authority(self) -> None:
        client = self.connect()
        client.ask_raw(
            [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/svc/x"), (b"host", b"only.example")]
        )
        assert self.upstream.accept().field(b"Host") == [b"only.example"]

    def test_requests_on_one_connection_are_answered_in_any_order(self) -> None:
        client = self.connect()
        numbers = [client.ask(b"/svc/%d" % count) for count in range(3)]
        services = [self.upstream.accept() for _ in numbers]
        for index in (2, 0, 1):
            services[index].answer(b"%d" % index)
        assert [client.got(number).body for number in numbers] == [b"0", b"1", b"2"]
        self.assert_quiet()

    def test_a_body_without_a_length_is_chunked(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"hello", ended=False)
        assert service.chunked and service.field(b"Transfer-Encoding") == [b"chunked"]
        assert (service.body, service.trailers) == (b"hello", None)
        client.send(number, b" world", True)
        assert (service.body, service.trailers) == (b"hello world", [])
        service.answer(b"ok")
        assert client.got(number).body == b"ok"
        self.assert_quiet()

    def test_a_body_with_a_length_keeps_it(self) -> None:
        client = self.connect()
        client.ask(b"/svc/x", (b"content-length", b"5"), method=b"POST", body=b"hello")
        service = self.upstream.accept()
        assert service.field(b"Content-Length") == [b"5"]
        assert (service.body, service.trailers) == (b"hello", [])

    def test_head_and_body_are_one_for_a_kept_connection(self) -> None:
        self.upstream.keep(next(iter(self.plane.registry.endpoints())))
        client = self.connect()
        sent: list[tuple[bytes, Headers | None]] = []
        whole = ScriptedConnection.send

        def send(
            connection: Any, exchange: Any, request: Any, head: bytes, body: bytes, trailers: Headers | None
        ) -> None:
            sent.append((body, trailers))
            whole(connection, exchange, request, head, body, trailers)

        self.patch(ScriptedConnection, "send", send)
        client.ask(method=b"POST", body=b"hello")
        assert sent == [(b"hello", [])]

    def test_an_empty_body_keeps_its_length(self) -> None:
        client = self.connect()
        client.ask(b"/svc/x", (b"content-length", b"0"), method=b"POST")
        assert self.upstream.accept().field(b"Content-Length") == [b"0"]

    def test_request_trailers_pass_except_those_that_route_or_frame(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"hi", ended=False)
        client.h2.send_headers(
            number, [(b"x-sum", b"1"), (b"host", b"evil"), (b"x-forwarded-for", b"evil")], end_stream=True
        )
        client.flush()
        assert (service.body, service.trailers) == (b"hi", [(b"x-sum", b"1")])
        service.answer(b"ok")
        assert client.got(number).ended
        self.assert_quiet()

    def test_an_expected_body_is_asked_for(self) -> None:
        client, number, service = self.begin(
            b"/svc/x", (b"expect", b"100-continue"), method=b"POST", ended=False
        )
        assert service.field(b"Expect") == [b"100-continue"]
        assert client.got(number).interims == []
        service.inform(100, reason=b"Continue")
        assert client.got(number).interims == [100]
        client.send(number, b"hello", True)
        service.answer(b"ok")
        assert client.got(number).body == b"ok"

    def test_a_service_that_says_nothing_gets_the_body_after_a_second(self) -> None:
        client, number, _service = self.begin(
            b"/svc/x", (b"expect", b"100-continue"), method=b"POST", ended=False
        )
        self.pass_seconds(1)
        assert client.got(number).interims == [100]


class TestRefusals(Http2Tests):
    """What is answered by ourselves; the other requests on the connection never notice."""

    def refused(self, client: Http2Client, number: int, status: int, contains: str = "") -> Got:
        """The answer to a request that is refused; another one is served all the same."""
        got = client.got(number)
        self.assert_refused(got, status, contains)
        assert self.upstream.connecting == []
        other = client.ask()
        self.upstream.accept().answer(b"fine")
        assert client.got(other).body == b"fine"
        assert not client.wire.closed
        self.assert_quiet()
        return got

    def test_malformed_requests_are_answered_and_reset(self) -> None:
        method, scheme, path = (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/svc/x")
        authority = (b":authority", b"front.example")
        good = [method, scheme, authority, path]
        for head, contains in (
            ([*good, (b"X-Upper", b"1")], "name"),
            ([*good, (b"x y", b"1")], "name"),
            ([*good, (b"", b"1")], "name"),
            ([*good, (b"connection", b"close")], "connection"),
            ([*good, (b"transfer-encoding", b"chunked")], "transfer-encoding"),
            ([*good, (b"upgrade", b"websocket")], "upgrade"),
            ([*good, (b"te", b"gzip")], "te"),
            ([*good, (b"x", b" 1")], "white space"),
            ([*good, (b"host", b"other.example")], ":authority and Host"),
            ([*good, (b":path", b"/again")], "pseudo"),
            ([*good, (b":odd", b"1")], "pseudo"),
            ([*good, (b"x", b"1"), (b":method", b"GET")], "pseudo"),
            ([*good, (b":protocol", b"websocket")], ":protocol"),
            ([scheme, authority, path], ":method"),
            ([method, authority, path], ":scheme"),
            ([method, scheme, authority], ":path"),
            ([method, scheme, authority, (b":path", b"")], ":path"),
            ([method, scheme, authority, (b":path", b"http://evil.example/x")], ":path"),
            ([method, scheme, authority, (b":path", b"*")], ":path"),
            ([*good, (b"content-length", b"5")], "body"),
        ):
            with self.subTest(head):
                client = self.connect()
                got = self.refused(client, client.ask_raw(head), 400, contains)
                assert got.reset == ErrorCodes.PROTOCOL_ERROR and not got.ended

    def test_what_the_common_rules_refuse(self) -> None:
        cases: list[tuple[Any, dict[str, Any], int]] = [
            ((), {"authority": b"no host"}, 400),
            ((), {"path": b"/svc/x#y"}, 400),
            (((b"x", b"a\x01b"),), {}, 400),
            (((b"expect", b"200-ok"),), {}, 417),
            ((), {"method": b"BREW"}, 501),
            ((), {"method": b"TRACE"}, 405),
            ((), {"path": b"/" + b"x" * DEFAULTS.target_size}, 414),
            (tuple((b"x-%d" % count, b"") for count in range(DEFAULTS.head_fields + 1)), {}, 431),
            (tuple((b"via", b"1.1 onebackend-proxy") for _ in range(6)), {}, 508),
            ((), {"path": b"/nobody/x"}, 404),
        ]
        for fields, named, status in cases:
            with self.subTest(status=status, named=named):
                client = self.connect()
                path = named.pop("path", b"/svc/x")
                got = self.refused(client, client.ask(path, *fields, **named), status)
                assert got.ended and got.reset is None

    def test_a_head_over_the_limit_is_431_and_the_connection_lives(self) -> None:
        client = self.connect()
        self.refused(client, client.ask(b"/svc/x", (b"x", b"y" * DEFAULTS.head_size)), 431)

    def test_connect_is_405_extended_or_not(self) -> None:
        for head in (
            [(b":method", b"CONNECT"), (b":authority", b"front.example:443")],
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"https"),
                (b":authority", b"front.example"),
                (b":path", b"/svc/x"),
            ],
        ):
            client = self.connect()
            got = self.refused(client, client.ask_raw(head, ended=False), 405)
            self.pass_seconds(3)
            client.flush()
            assert got.ended and got.reset == ErrorCodes.NO_ERROR

    def test_head_is_refused_without_a_body(self) -> None:
        client = self.connect()
        got = client.got(client.ask(b"/nobody", method=b"HEAD"))
        assert (got.status, got.body, got.ended) == (404, b"", True)
        assert got.field(b"content-length") != [b"0"]

    def test_a_body_shorter_than_its_length_behind_trailers(self) -> None:
        client = self.connect()
        number = client.ask(b"/svc/x", (b"content-length", b"5"), method=b"POST", body=b"hell", ended=False)
        service = self.upstream.accept()
        client.h2.send_headers(number, [(b"x-sum", b"1")], end_stream=True)
        self.assert_refused(client.got(number), 400, "content-length")
        assert client.got(number).reset == ErrorCodes.PROTOCOL_ERROR
        assert service.aborted and service.trailers is None
        assert not client.wire.closed
        self.assert_quiet()

    def test_malformed_trailers(self) -> None:
        for trailers, answered in (([(b"X-Sum", b"1")], False), ([(b":path", b"/")], True)):
            client, number, service = self.begin(method=b"POST", body=b"hi", ended=False)
            if answered:
                service.respond(200, (b"Content-Length", b"5"))
            client.h2.send_headers(number, trailers, end_stream=True)
            got = client.got(number)
            assert got.status == (200 if answered else 400) and not got.ended
            assert got.reset == ErrorCodes.PROTOCOL_ERROR
            assert service.aborted
            self.assert_quiet()

    def test_malformed_trailers_behind_the_answer_are_nothing(self) -> None:
        client = self.connect()
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        number = client.ask(method=b"POST", ended=False)
        self.upstream.accept().answer(b"hello")
        client.h2.send_headers(number, [(b"X-Sum", b"1")], end_stream=True)
        client.h2.increment_flow_control_window(10, number)
        got = client.got(number)
        assert (got.status, got.body, got.ended, got.reset) == (200, b"hello", True, None)
        self.assert_quiet()

    def test_what_is_not_proxied_is_to_be_asked_for_by_http_1_1(self) -> None:
        class Nothing:
            desk = self.plane.resource.desk

            def choose(self, request: object) -> None:
                return None

        client = self.connect(Nothing())
        got = client.got(client.ask())
        assert (got.status, got.reset) == (0, ErrorCodes.HTTP_1_1_REQUIRED)

    def test_an_answer_of_ours_goes_as_it_is(self) -> None:
        class Moved:
            desk = self.plane.resource.desk

            def choose(self, request: object) -> Answer:
                return Answer(308, [(b"Location", b"https://x/y")], b"moved")

        client = self.connect(Moved())
        for method, body in ((b"GET", b"moved"), (b"HEAD", b"")):
            got = client.got(client.ask(method=method))
            assert (got.status, got.body, got.ended) == (308, body, True)
            assert got.field(b"location") == [b"https://x/y"]
            assert got.field(b"content-length") == [b"5"]
        assert [entry.status for entry in self.ended] == [308, 308]


class TestBodyLimit(Http2Tests):
    """A body over the limit, announced or not."""

    limits = Limits(body_limit=1000)

    def test_one_that_is_announced(self) -> None:
        client = self.connect()
        number = client.ask(b"/svc/x", (b"content-length", b"1001"), method=b"POST", ended=False)
        self.assert_refused(client.got(number), 413)
        assert client.got(number).ended
        self.pass_seconds(3)
        assert client.got(number).reset == ErrorCodes.NO_ERROR
        self.assert_quiet()

    def test_what_still_comes_is_dropped_for_a_while(self) -> None:
        client = self.connect()
        for _ in range(2 * CONNECTION_WINDOW // WINDOW):
            number = client.ask(b"/svc/x", (b"content-length", b"99999"), method=b"POST", ended=False)
            client.send(number, b"x" * 50000)
            assert client.got(number).reset is None and client.room(number) < 16384
        assert not client.wire.closed
        client.send(number, b"x" * (WINDOW - 50000))
        client.h2.reset_stream(number)
        client.flush()
        assert number not in client.channel._unended
        assert client.h2.outbound_flow_control_window > CONNECTION_WINDOW // 2
        assert client.went_away == [] and self.upstream.connecting == []

    def test_a_connection_that_closes_waits_for_those_that_are_still_sending(self) -> None:
        client = self.connect()
        number = client.ask(b"/svc/x", (b"content-length", b"1001"), method=b"POST", ended=False)
        client.channel.close()
        self.clock.advance(0)
        assert not client.wire.closed
        client.h2.send_headers(number, [(b"x-sum", b"1")], end_stream=True)
        self.assert_refused(client.got(number), 413)
        assert client.wire.closed and client.went_away == [ErrorCodes.NO_ERROR]

    def test_those_count_among_the_streams(self) -> None:
        client = self.connect()
        numbers = [
            client.ask(b"/svc/x", (b"content-length", b"1001"), method=b"POST", ended=False)
            for _ in range(MAX_STREAMS)
        ]
        client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        client.h2.remote_settings.acknowledge()
        assert client.got(client.ask()).reset == ErrorCodes.REFUSED_STREAM
        client.send(numbers[0], b"x" * 1001, True)
        assert client.got(client.ask()).reset is None
        self.pass_seconds(3)
        assert client.got(numbers[1]).reset == ErrorCodes.NO_ERROR and client.channel._unended == {}

    def test_one_that_is_not(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"x" * 999, ended=False)
        client.send(number, b"xx")
        self.assert_refused(client.got(number), 413)
        assert client.got(number).ended
        self.pass_seconds(3)
        assert client.got(number).reset == ErrorCodes.NO_ERROR
        assert service.aborted
        self.assert_quiet()
        other = client.ask()
        self.upstream.accept().answer(b"fine")
        assert client.got(other).body == b"fine"


class TestAnswers(Http2Tests):
    """What the client gets."""

    def test_interim_answers_pass(self) -> None:
        client, number, service = self.begin()
        service.inform(103, (b"Link", b"</style.css>"), reason=b"Early Hints")
        assert client.got(number).interims == [103]
        service.answer(b"x")
        assert client.got(number).status == 200

    def test_trailers_pass(self) -> None:
        client, number, service = self.begin()
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.send_body(b"abc")
        service.finish((b"X-Sum", b"1"), (b"Content-Length", b"9"))
        got = client.got(number)
        assert (got.body, got.trailers, got.ended) == (b"abc", [(b"x-sum", b"1")], True)
        assert got.field(b"transfer-encoding") == []
        self.assert_quiet()

    def test_trailers_alone(self) -> None:
        client, number, service = self.begin()
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.finish((b"grpc-status", b"0"))
        got = client.got(number)
        assert (got.body, got.trailers, got.ended) == (b"", [(b"grpc-status", b"0")], True)
        self.assert_quiet()

    def test_answers_without_a_body(self) -> None:
        for method, status in ((b"HEAD", 200), (b"GET", 204), (b"GET", 304)):
            client, number, service = self.begin(method=method)
            service.respond(status, *([] if status == 204 else [(b"Content-Length", b"5")]))
            service.finish()
            got = client.got(number)
            assert (got.status, got.body, got.ended) == (status, b"", True)
            assert got.field(b"content-length") == ([] if status == 204 else [b"5"])
            self.assert_quiet()

    def test_the_services_date_is_kept(self) -> None:
        client, number, service = self.begin()
        service.answer(b"", 200, (b"Date", b"Tue, 15 Nov 1994 08:12:31 GMT"))
        assert client.got(number).field(b"date") == [b"Tue, 15 Nov 1994 08:12:31 GMT"]

    def test_a_small_answer_is_one_write(self) -> None:
        client, _number, service = self.begin()
        writes: list[bytes] = []
        self.patch(client.wire, "write", writes.append)
        exchange = service.exchange
        exchange.head_received(ResponseHead(200, b"OK", [(b"Content-Length", b"4")], 4))
        exchange.body_received(b"abcd")
        exchange.answer_ended([])
        assert len(writes) == 1

    def test_an_answer_before_the_end_of_the_request(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"hi", ended=False)
        service.answer(b"enough")
        got = client.got(number)
        assert (got.body, got.ended, got.reset) == (b"enough", True, ErrorCodes.NO_ERROR)
        self.assert_quiet()

    def test_a_service_that_breaks_off_resets_its_stream_alone(self) -> None:
        client = self.connect()
        one, other = client.ask(), client.ask()
        first, second = self.upstream.accept(), self.upstream.accept()
        first.respond(200, (b"Content-Length", b"10"))
        first.send_body(b"hello")
        first.lose()
        got = client.got(one)
        assert (got.body, got.ended, got.reset) == (b"hello", False, ErrorCodes.INTERNAL_ERROR)
        second.answer(b"fine")
        assert client.got(other).body == b"fine"
        assert not client.wire.closed
        self.assert_quiet()

    def test_a_service_that_breaks_off_before_its_answer_is_502(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"x")
        service.lose()
        self.assert_refused(client.got(number), 502)
        self.assert_quiet()

    def test_a_service_that_does_not_answer_is_504(self) -> None:
        client, number, service = self.begin()
        self.pass_seconds(62)
        self.assert_refused(client.got(number), 504)
        assert service.aborted
        self.assert_quiet()

    def test_a_client_that_stops_sending_is_408(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"x", ended=False)
        self.pass_seconds(62)
        self.assert_refused(client.got(number), 408)
        self.pass_seconds(3)
        assert client.got(number).reset == ErrorCodes.NO_ERROR and service.aborted
        self.assert_quiet()

    def test_bytes_of_a_frame_that_comes_slowly_count(self) -> None:
        client, number, service = self.begin(method=b"POST", body=b"x", ended=False)
        client.h2.send_data(number, b"y" * 100, end_stream=True)
        data = client.h2.data_to_send()
        client.wire.receive(data[:9])
        for at in range(9, len(data)):
            client.wire.receive(data[at : at + 1])
            self.pass_seconds(20)
        assert service.body == b"x" + b"y" * 100
        service.answer(b"at last")
        assert client.got(number).body == b"at last"


class TestAccessLog(Http2Tests):
    """One entry for each stream."""

    def test_an_answer(self) -> None:
        client, number, service = self.begin(
            b"/svc/x", (b"user-agent", b"curl"), (b"referer", b"r"), method=b"POST", body=b"abc"
        )
        service.answer(b"hello")
        client.got(number)
        [entry] = self.ended
        assert (entry.method, entry.target, entry.protocol) == (b"POST", b"/svc/x", b"HTTP/2.0")
        assert (entry.status, entry.bytes_in, entry.bytes_out) == (200, 3, 5)
        assert (entry.client, entry.host) == (b"192.0.2.7", b"front.example")
        assert (entry.user_agent, entry.referer, entry.route) == (b"curl", b"r", "/svc")

    def test_a_refusal(self) -> None:
        client = self.connect()
        client.ask(b"/nobody/x")
        client.ask_raw([(b":method", b"GET"), (b":path", b"/x")])
        assert [(entry.status, entry.protocol, entry.target) for entry in self.ended] == [
            (404, b"HTTP/2.0", b"/nobody/x"),
            (400, b"HTTP/2.0", b"/x"),
        ]
        assert all(entry.reason for entry in self.ended)
        assert self.ended[0].host == b"front.example"

    def test_a_client_that_went(self) -> None:
        client, number, _service = self.begin()
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.flush()
        assert [entry.status for entry in self.ended] == [499]
        client.ask()
        client.leaves()
        assert [entry.status for entry in self.ended] == [499, 499]

    def test_what_is_to_be_asked_for_by_http_1_1(self) -> None:
        class Nothing:
            desk = self.plane.resource.desk

            def choose(self, request: object) -> None:
                return None

        client = self.connect(Nothing())
        client.got(client.ask(b"/echo/x"))
        [entry] = self.ended
        assert (entry.status, entry.target, entry.protocol) == (0, b"/echo/x", b"HTTP/2.0")
        assert entry.reason == "to be asked for over HTTP/1.1" and len(entry.id) == 32

    def test_one_stream_too_many(self) -> None:
        client = self.connect()
        for _ in range(MAX_STREAMS):
            client.ask()
        client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        client.h2.remote_settings.acknowledge()
        client.ask(b"/svc/late")
        [entry] = self.ended
        assert (entry.status, entry.target, entry.reason) == (0, b"/svc/late", "one too many")

    def test_an_answer_that_the_service_breaks_off(self) -> None:
        client, number, service = self.begin()
        service.respond(200, (b"Content-Length", b"9"))
        service.send_body(b"half")
        service.lose(detail="reset")
        assert client.got(number).reset == ErrorCodes.INTERNAL_ERROR
        [entry] = self.ended
        assert (entry.status, entry.bytes_out) == (200, 4) and "reset" in entry.reason

    def test_nobody_asks_for_one(self) -> None:
        self.site.on_request_end = None
        client, number, service = self.begin()
        service.answer(b"x")
        assert client.got(number).ended and self.ended == []


class TestWindows(Http2Tests):
    """Back-pressure both ways."""

    def test_a_service_that_does_not_keep_up_closes_the_window(self) -> None:
        client, number, service = self.begin(method=b"POST", ended=False)
        service.fill()
        sent = 0
        while room := min(client.room(number), 16384):
            client.send(number, b"x" * room)
            sent += room
        assert sent == WINDOW
        # Others go on.
        other = client.ask(method=b"POST", body=b"y" * 60000)
        assert len(self.upstream.accept().body) == 60000
        service.drain()
        client.flush()
        assert client.room(number) >= WINDOW // 2
        client.send(number, b"x" * 1000, True)
        assert len(service.body) == sent + 1000 and service.trailers == []
        assert client.got(other).status == 0

    def test_a_body_waits_for_the_connection_and_only_so_much_of_it(self) -> None:
        client = self.connect()
        number = client.ask(method=b"POST", ended=False)
        sent = 0
        while room := min(client.room(number), 16384):
            client.send(number, b"x" * room)
            sent += room
        assert MAX_HELD < sent <= MAX_HELD + WINDOW
        service = self.upstream.accept()
        assert len(service.body) == sent
        client.flush()
        client.send(number, b"y", True)
        assert service.trailers == []

    def test_what_nobody_takes_any_more_does_not_close_the_connections_window(self) -> None:
        client = self.connect()
        for _ in range(2 * CONNECTION_WINDOW // WINDOW):
            number = client.ask(method=b"POST", ended=False)
            service = self.upstream.accept()
            service.fill()
            client.send(number, b"x" * 60000)
            client.h2.reset_stream(number)
            client.flush()
        assert client.h2.outbound_flow_control_window >= CONNECTION_WINDOW // 2 - 60000
        self.assert_quiet()

    def test_an_answer_waits_for_the_streams_window(self) -> None:
        client = self.connect()
        client.takes = False
        number, other = client.ask(), client.ask()
        service, fine = self.upstream.accept(), self.upstream.accept()
        # Room for the others.
        client.h2.increment_flow_control_window(1_000_000)
        service.respond(200, (b"Content-Length", b"150000"))
        service.send_body(b"a" * 50000)
        assert not service.paused
        service.send_body(b"b" * 50000)
        assert service.paused
        assert len(client.got(number).body) == 65535
        fine.answer(b"fine")
        assert client.got(other).body == b"fine"
        client.h2.increment_flow_control_window(10000, number)
        client.flush()
        assert service.paused
        client.h2.increment_flow_control_window(500_000, number)
        client.flush()
        assert not service.paused
        service.send_body(b"c" * 50000)
        service.finish()
        got = client.got(number)
        assert got.body == b"a" * 50000 + b"b" * 50000 + b"c" * 50000 and got.ended
        self.assert_quiet()

    def test_an_answer_waits_for_the_connections_window(self) -> None:
        client = self.connect()
        client.takes = False
        one, other = client.ask(), client.ask()
        first, second = self.upstream.accept(), self.upstream.accept()
        first.answer(b"a" * 65535)
        second.answer(b"b" * 10)
        # The head needs no window.
        assert client.got(other).status == 200 and client.got(other).body == b""
        assert client.got(one).ended
        client.h2.increment_flow_control_window(10)
        assert client.got(other).ended and client.got(other).body == b"b" * 10
        self.assert_quiet()

    def test_an_initial_window_that_grows_lets_all_go_on(self) -> None:
        client = self.connect()
        client.takes = False
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        client.flush()
        number = client.ask()
        self.upstream.accept().answer(b"hello")
        assert client.got(number).status == 200 and client.got(number).body == b""
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 3})
        assert client.got(number).body == b"hel"
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        assert client.got(number).body == b"hello" and client.got(number).ended
        self.assert_quiet()

    def test_streams_take_turns(self) -> None:
        client = self.connect()
        client.takes = False
        client.h2.increment_flow_control_window(1)
        numbers = [client.ask() for _ in range(3)]
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
        client.flush()
        services = [self.upstream.accept() for _ in numbers]
        for service in services:
            service.respond(200, (b"Content-Length", b"100000"))
            service.send_body(b"x" * 100000)
        # 64 KiB went out before there was anybody else, of the first.
        sizes = [len(client.got(number).body) for number in numbers]
        assert sizes == [65536, 0, 0]
        client.h2.increment_flow_control_window(16384 * 6)
        sizes = [len(client.got(number).body) for number in numbers]
        assert sizes == [65536 + 2 * 16384, 2 * 16384, 2 * 16384]

    def test_a_transport_that_is_full_is_not_written_to(self) -> None:
        client = self.connect()
        number = client.ask()
        service = self.upstream.accept()
        client.wire.fill()
        service.respond(200, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        assert client.wire.take() == b""
        assert service.paused
        # What it says is heard all the same.
        client.h2.ping(b"12345678")
        client.flush()
        assert client.wire.take() == b"" and not client.wire.paused
        client.wire.drain()
        assert not service.paused
        assert client.got(number).body == b"hello"
        assert any(isinstance(event, events.PingAckReceived) for event in client.others)
        service.send_body(b"world")
        service.finish()
        assert client.got(number).ended
        self.assert_quiet()

    def test_what_is_no_answer_waits_to_some_size_then_nothing_is_read(self) -> None:
        client = self.connect()
        client.wire.fill()
        pings = 0
        while not client.wire.paused:
            client.h2.ping(b"12345678")
            client.flush()
            pings += 1
            assert pings < 500
        assert len(client.channel._unsent) < 5000
        client.wire.drain()
        assert not client.wire.paused
        client.flush()
        assert sum(isinstance(event, events.PingAckReceived) for event in client.others) == pings

    def test_a_reader_that_opens_no_window_is_given_up(self) -> None:
        client = self.connect()
        client.takes = False
        stuck, over = client.ask(), client.ask()
        service, done = self.upstream.accept(), self.upstream.accept()
        service.respond(200, (b"Content-Length", b"100000"))
        service.send_body(b"x" * 80000)
        done.answer(b"y" * 100)
        self.pass_seconds(30)
        client.h2.increment_flow_control_window(1, stuck)
        client.h2.increment_flow_control_window(1)
        client.flush()
        self.pass_seconds(40)
        assert client.got(stuck).reset is None, "it has taken something"
        assert client.got(over).reset == ErrorCodes.CANCEL, "it was complete, but for the client"
        self.pass_seconds(30)
        assert client.got(stuck).reset == ErrorCodes.INTERNAL_ERROR
        assert service.aborted and not client.wire.closed
        self.assert_quiet()

    def test_an_answer_that_is_complete_has_its_time_to_be_taken(self) -> None:
        client = self.connect()
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        client.flush()
        self.pass_seconds(70)
        number = client.ask()
        self.upstream.accept().answer(b"hello")
        self.pass_seconds(50)
        client.h2.increment_flow_control_window(10, number)
        assert client.got(number).body == b"hello"

    def test_a_transport_that_takes_little_by_little_is_not_given_up(self) -> None:
        client, number, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        client.wire.fill()
        service.send_body(b"w")
        for left in range(150, 0, -1):
            client.wire.outstanding = left  # type: ignore[attr-defined]
            self.pass_seconds(1)
        client.wire.drain()
        service.send_body(b"orld")
        service.finish()
        assert client.got(number).body == b"helloworld"

    def test_a_transport_that_gets_full_is_not_given_all(self) -> None:
        client = self.connect()
        client.takes = False
        numbers = [client.ask() for _ in range(10)]
        client.h2.increment_flow_control_window(10_000_000)
        for _ in numbers:
            self.upstream.accept().answer(b"x" * 100_000)
        client.flush()
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
        write, written = client.wire.write, []

        def take(data: bytes) -> None:
            write(data)
            written.append(len(data))
            if sum(written) > 60_000 and not client.wire.full:
                client.wire.fill()

        self.patch(client.wire, "write", take)
        client.wire.receive(client.h2.data_to_send())
        assert sum(written) < 100_000
        self.patch(client.wire, "write", write)
        client.wire.drain()
        assert [client.got(number).ended for number in numbers] == [True] * 10

    def test_a_transport_that_takes_nothing_is_given_up(self) -> None:
        client, _number, service = self.begin()
        service.respond(200, (b"Content-Length", b"10"))
        client.wire.fill()
        self.pass_seconds(61)
        assert client.wire.aborted and service.aborted
        self.assert_quiet()


class TestConnections(Http2Tests):
    """How a connection begins and ends."""

    def test_a_client_that_goes_cancels_all(self) -> None:
        client = self.connect()
        client.ask()
        waiting = self.upstream.accept()
        client.ask()
        answered = self.upstream.accept()
        answered.respond(200, (b"Content-Length", b"10"))
        client.ask()
        [attempt] = self.upstream.connecting
        client.leaves()
        assert waiting.aborted and answered.aborted and attempt.cancelled
        self.assert_quiet()
        assert not self.site.channels
        assert [call for call in self.clock.getDelayedCalls() if call.active()] == []

    def test_so_it_does_where_the_fast_plane_has_handed_it_over(self) -> None:
        wire = Wire(self.clock)
        directlyProvides(wire, ISSLTransport)
        wire.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        wire.attach(FastChannel(self.site, self.plane.resource))
        client = H2Connection(CLIENT)
        client.initiate_connection()
        fields = (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/svc/x")
        client.send_headers(1, fields, end_stream=True)
        wire.receive(client.data_to_send())
        service = self.upstream.accept()
        wire.peer_ends()
        assert service.aborted
        self.assert_quiet()

    def test_a_client_that_closes_its_half_counts_as_gone(self) -> None:
        client, _number, service = self.begin()
        client.wire.peer_ends()
        self.clock.advance(0)
        assert service.aborted
        self.pass_seconds(3)
        assert not client.wire.connected and not self.site.channels

    def test_its_repr_tells_what_it_is_at(self) -> None:
        client, _number, _service = self.begin()
        assert repr(client.channel).startswith("<Http2Channel of 192.0.2.7: [<Http2Stream 1: <Exchange GET")

    def test_a_stream_that_is_reset_cancels_its_request_at_once(self) -> None:
        client, number, service = self.begin()
        other = client.ask()
        [attempt] = self.upstream.connecting
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.h2.reset_stream(other, ErrorCodes.CANCEL)
        client.flush()
        assert service.aborted and attempt.cancelled
        self.assert_quiet()

    def test_one_that_is_reset_in_the_same_breath_asks_nobody(self) -> None:
        client = self.connect()
        number = client.h2.get_next_available_stream_id()
        head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/svc/x")]
        client.h2.send_headers(number, head, end_stream=True)
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.flush()
        assert self.upstream.connecting == []
        self.assert_quiet()

    def test_an_idle_connection_is_closed(self) -> None:
        client, number, service = self.begin()
        service.answer(b"x")
        client.got(number)
        self.pass_seconds(70)
        client.h2.ping(b"12345678")
        client.flush()
        self.pass_seconds(8)
        client.flush()
        assert client.went_away == [ErrorCodes.NO_ERROR]
        assert client.wire.closed
        self.pass_seconds(5)
        assert not self.site.channels

    def test_a_preface_that_does_not_come(self) -> None:
        wire = Wire(self.clock)
        wire.attach(Http2Channel(self.site, self.plane.resource))
        wire.receive(b"PRI * HT")
        self.pass_seconds(31)
        assert wire.closed
        self.pass_seconds(5)
        assert not wire.connected and not self.site.channels

    def test_a_head_that_does_not_end(self) -> None:
        client = self.connect()
        client.raw(b"\0\0\1\1\0\0\0\0\1\x82")
        self.pass_seconds(29)
        assert not client.wire.closed
        self.pass_seconds(3)
        client.flush()
        assert client.went_away == [ErrorCodes.PROTOCOL_ERROR] and client.wire.closed

    def test_a_head_that_goes_on_and_on(self) -> None:
        client = self.connect()
        client.raw(b"\0\0\1\1\0\0\0\0\1\x82")
        for _ in range(3):
            self.pass_seconds(11)
            client.wire.receive(b"\0\0\1\x09\0\0\0\0\1\x84")
        client.flush()
        assert client.went_away == [ErrorCodes.PROTOCOL_ERROR] and client.wire.closed

    def test_a_frame_that_does_not_end(self) -> None:
        client = self.connect()
        client.raw(b"\0\0\x08\6\0")
        self.pass_seconds(32)
        assert client.wire.closed

    def test_frames_that_end_in_the_middle_of_the_next_are_no_such_thing(self) -> None:
        client = self.connect()
        client.h2.ping(b"12345678")
        ping = client.h2.data_to_send()
        client.wire.receive(ping[:5])
        for _ in range(3):
            self.pass_seconds(20)
            client.wire.receive(ping[5:] + ping[:5])
        assert not client.wire.closed

    def test_an_answer_is_finished_though_the_client_goes_away_politely(self) -> None:
        client, number, service = self.begin()
        client.raw(b"\0\0\x08\7\0\0\0\0\0" + b"\0" * 8)
        service.answer(b"hello")
        data = client.wire.take()
        assert b"hello" in data
        assert client.wire.closed
        self.assert_quiet()
        assert number == 1

    def test_many_frames_in_one_piece_take_turns(self) -> None:
        client = self.connect()
        for _ in range(TURN * 2 + 1):
            client.h2.ping(b"12345678")
        client.wire.receive(client.h2.data_to_send())
        assert client.wire.paused
        acknowledged = len(client.wire.value()) // 17
        assert acknowledged <= TURN + 3
        client.flush()
        assert not client.wire.paused
        acks = sum(isinstance(event, events.PingAckReceived) for event in client.others)
        assert acks == TURN * 2 + 1

    def test_more_streams_than_there_may_be_are_refused_and_may_come_again(self) -> None:
        client = self.connect()
        numbers = [client.ask() for _ in range(MAX_STREAMS)]
        client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        client.h2.remote_settings.acknowledge()
        refused = client.ask()
        assert client.got(refused).reset == ErrorCodes.REFUSED_STREAM
        client.h2.reset_stream(numbers[0], ErrorCodes.CANCEL)
        again = client.ask()
        assert client.got(again).reset is None
        assert len(client.channel.streams) == MAX_STREAMS


class TestKeepalive(Http2Tests):
    """So many requests, and no more."""

    limits = Limits(keepalive_requests=3)

    def test_the_last_one_says_so_and_nothing_is_lost(self) -> None:
        client = self.connect()
        for _ in range(3):
            number = client.ask()
            self.upstream.accept().answer(b"x")
            assert client.got(number).ended
        assert (client.went_away, client.last_ids) == ([ErrorCodes.NO_ERROR], [2**31 - 1])
        # It was on its way.
        number = client.ask()
        late = self.upstream.accept()
        self.pass_seconds(2)
        client.flush()
        assert (client.went_away, client.last_ids) == ([ErrorCodes.NO_ERROR] * 2, [2**31 - 1, number])
        refused = client.ask()
        assert client.got(refused).reset == ErrorCodes.REFUSED_STREAM
        assert not client.wire.closed
        late.answer(b"last")
        self.clock.advance(0)
        assert client.wire.closed
        assert b"last" in client.wire.value()
        self.pass_seconds(5)
        assert not self.site.channels


class TestDraining(Http2Tests):
    """The proxy stops."""

    def test_requests_on_their_way_are_answered(self) -> None:
        client, _number, service = self.begin()
        idle = self.connect()
        drained = self.site.drain(20)
        self.pass_seconds(3)
        idle.flush()
        assert idle.went_away and set(idle.went_away) == {ErrorCodes.NO_ERROR}
        assert idle.wire.closed
        assert not client.wire.closed
        self.assertNoResult(drained)
        service.answer(b"last words")
        assert b"last words" in client.wire.value()
        self.pass_seconds(4)
        assert not client.wire.connected
        self.successResultOf(drained)

    def test_what_does_not_end_is_cut(self) -> None:
        client, _number, service = self.begin()
        drained = self.site.drain(20)
        self.pass_seconds(21)
        self.clock.advance(0)
        assert client.wire.aborted and service.aborted
        self.successResultOf(drained)

    def test_a_cut_of_the_exchanges_answers_or_resets(self) -> None:
        client = self.connect()
        one, other = client.ask(), client.ask()
        self.upstream.accept()
        self.upstream.accept().respond(200, (b"Content-Length", b"10"))
        assert self.plane.exchanges.cut() == 2
        assert {client.got(one).status, client.got(other).status} == {200, 503}
        assert ErrorCodes.INTERNAL_ERROR in (client.got(one).reset, client.got(other).reset)
        self.assert_quiet()
