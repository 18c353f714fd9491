"""Clients that want nothing but our time or memory: each is told to be calm, and goes; the others stay."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

from h2.errors import ErrorCodes
from hpack import Encoder
from twisted.logger import ILogObserver, globalLogPublisher

from onebackend_proxy.downstream.http2_connection import CONNECTION_WINDOW, MAX_STREAMS, WINDOW
from onebackend_proxy.downstream.http2_frames import MAX_FRAME, MAX_SETTINGS, PATIENCE, RESET_COST
from onebackend_proxy.limits import DEFAULTS, Limits

from .test_http2 import Http2Client, Http2Tests
from .test_http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

MIB = 1024 * 1024
CANCEL = b"\0\0\0\x08"
HEAD = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"front.example"),
    (b":path", b"/svc/x"),
]


def block(*more: tuple[bytes, bytes], head: Any = HEAD) -> bytes:
    """A header block that refers to nothing that came before."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode([*head, *more])


BLOCK = block()


def request(stream: int, flags: int = END_STREAM) -> bytes:
    """A whole request, or one whose body is to follow."""
    return frame(HEADERS, BLOCK, END_HEADERS | flags, stream)


class Floods(Http2Tests):
    """What a flood comes to."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            if "closed an HTTP/2" in str(event.get("log_format")):
                self.lines.append(str(event["reason"]))

        observer = cast(ILogObserver, observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def flood(self, client: Http2Client, frames: Iterator[bytes], at_most: int, read: int = 1) -> int:
        """Send these, so many in one read, until the connection ends; returns how many that took.

        Meanwhile no more than 2 MiB of memory are taken.
        """
        sent = 0
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            while not client.wire.closed:
                client.wire.receive(b"".join(itertools.islice(frames, read)))
                client.clock.advance(0)
                sent += read
                assert sent <= at_most, "nobody stopped it"
            taken = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        assert taken < 2 * MIB, taken
        return sent

    def assert_calmed(self, client: Http2Client, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        """The client was told, the log has one line, and nothing is left; another client is served."""
        frames = client.frames()
        [said] = [int.from_bytes(payload[4:8], "big") for kind, payload in frames if kind == GOAWAY]
        assert said == code
        assert len(self.lines) == 1, self.lines
        assert not client.channel.streams
        client.wire.receive(request(9999))
        self.assert_quiet()
        assert self.upstream.connecting == []
        self.pass_seconds(5)
        assert not client.wire.connected
        other = self.connect()
        number = other.ask()
        self.upstream.accept().answer(b"fine")
        assert other.got(number).body == b"fine"
        assert list(self.site.channels) == [other.channel]


class TestFloods(Floods):
    """Each by its frames."""

    def resets(self) -> Iterator[bytes]:
        """CVE-2023-44487."""
        for stream in itertools.count(1, 2):
            yield request(stream) + frame(RST_STREAM, CANCEL, 0, stream)

    def test_rapid_reset(self) -> None:
        client = self.connect()
        sent = self.flood(client, self.resets(), 300, 10)
        assert sent >= PATIENCE // RESET_COST - 20
        self.assert_calmed(client)
        assert self.upstream.connections[:-1] == [], "who takes it back in the same breath asks nobody"

    def test_rapid_reset_of_what_was_begun(self) -> None:
        client = self.connect()

        def frames() -> Iterator[bytes]:
            for stream in itertools.count(1, 2):
                yield request(stream)
                assert len(self.upstream.connecting) <= 1
                yield frame(RST_STREAM, CANCEL, 0, stream)

        self.flood(client, frames(), 600)
        self.assert_calmed(client)

    def test_a_browser_that_leaves_a_page_is_no_flood(self) -> None:
        client = self.connect()
        for _ in range(2):
            numbers = [client.ask() for _ in range(MAX_STREAMS)]
            for number in numbers:
                client.h2.reset_stream(number, ErrorCodes.CANCEL)
            client.flush()
        assert not client.wire.closed
        self.pass_seconds(10)
        number = client.ask()
        self.upstream.accept().answer(b"x")
        assert client.got(number).ended

    def test_continuation(self) -> None:
        """CVE-2024-27316."""
        for size, read in ((16384, 1), (1, 10), (0, 10)):
            with self.subTest(size):
                self.lines.clear()
                client = self.connect()
                begin = frame(HEADERS, BLOCK, END_STREAM, 1)
                more = itertools.repeat(frame(CONTINUATION, b"\0" * size, 0, 1))
                sent = self.flood(client, itertools.chain([begin], more), 100, read)
                assert sent * size <= 2 * DEFAULTS.head_size + 16384
                # To h2 so many are a breach of the protocol, if they are short enough for us.
                self.assert_calmed(
                    client, ErrorCodes.ENHANCE_YOUR_CALM if size > 1 else ErrorCodes.PROTOCOL_ERROR
                )
                for channel in list(self.site.channels):
                    cast(Any, channel).transport.abortConnection()
                self.clock.advance(0)

    def one_kind(self, make: Callable[[int], bytes], at_most: int = 1100, read: int = 16) -> None:
        """So many frames of one kind are too many, with a request under way."""
        self.lines.clear()
        client = self.connect()
        client.raw(request(1, 0))
        service = self.upstream.accept()
        self.flood(client, map(make, itertools.count()), at_most, read)
        assert service.aborted
        self.assert_calmed(client)
        for channel in list(self.site.channels):
            cast(Any, channel).transport.abortConnection()
        self.clock.advance(0)

    def test_settings(self) -> None:
        self.one_kind(lambda count: frame(SETTINGS), 300)
        self.one_kind(lambda count: frame(SETTINGS, flags=ACK))

    def test_settings_that_nobody_knows_are_not_remembered_for_ever(self) -> None:
        self.one_kind(lambda count: frame(SETTINGS, (0x100 + count).to_bytes(2, "big") + b"\0\0\0\1"), 300)
        many = b"".join(number.to_bytes(2, "big") + b"\0\0\0\1" for number in range(MAX_SETTINGS + 1))
        self.one_kind(lambda count: frame(SETTINGS, many), 1, 1)

    def test_ping(self) -> None:
        self.one_kind(lambda count: frame(PING, b"12345678"))
        self.one_kind(lambda count: frame(PING, b"12345678", ACK))

    def test_priority(self) -> None:
        self.one_kind(lambda count: frame(PRIORITY, b"\0\0\0\0\1", 0, 2 * count + 3))

    def test_unknown_frames(self) -> None:
        self.one_kind(lambda count: frame(0xFA, b"x" * MAX_FRAME))

    def test_empty_data(self) -> None:
        self.one_kind(lambda count: frame(DATA, b"", 0, 1), 300)
        self.one_kind(lambda count: frame(DATA, b"\1\0", PADDED, 1), 300)

    def test_data_for_a_stream_that_is_closed(self) -> None:
        client = self.connect()
        client.raw(request(1, 0) + frame(RST_STREAM, CANCEL, 0, 1))
        self.flood(client, itertools.repeat(frame(DATA, b"x", 0, 1)), 300)
        self.assert_calmed(client)

    def test_empty_headers(self) -> None:
        client = self.connect()
        self.flood(
            client, (frame(HEADERS, b"", END_HEADERS | END_STREAM, n) for n in itertools.count(1, 2)), 300
        )
        self.assert_calmed(client)

    def test_window_updates_by_one(self) -> None:
        self.one_kind(lambda count: frame(WINDOW_UPDATE, b"\0\0\0\1", 0, 1))
        self.one_kind(lambda count: frame(WINDOW_UPDATE, b"\0\0\0\1"))

    def test_window_updates_by_one_of_an_answer_that_waits(self) -> None:
        client = self.connect()
        client.takes = False
        number = client.ask()
        service = self.upstream.accept()
        service.respond(200, (b"Content-Length", b"1000000"))
        service.send_body(b"x" * 100000)
        client.flush()
        one = frame(WINDOW_UPDATE, b"\0\0\0\1", 0, number) + frame(WINDOW_UPDATE, b"\0\0\0\1")
        self.flood(client, itertools.repeat(one), 600)
        self.assert_calmed(client)

    def test_who_reads_a_lot_may_open_windows_a_lot(self) -> None:
        client = self.connect()
        number = client.ask()
        service = self.upstream.accept()
        service.respond(200)
        for _ in range(3000):
            service.send_body(b"an event")
            client.raw(
                frame(WINDOW_UPDATE, b"\0\0\0\x08", 0, number) + frame(WINDOW_UPDATE, b"\0\0\0\x08")
                if _ % 4 == 0
                else b""
            )
        assert not client.wire.closed

    def test_who_is_answered_may_reset_now_and_then(self) -> None:
        client = self.connect()
        for _ in range(480):
            number = client.ask()
            self.upstream.accept().answer(b"x")
            assert client.got(number).ended
            client.h2.reset_stream(client.ask(), ErrorCodes.CANCEL)
            client.flush()
        assert not client.wire.closed

    def test_who_reads_much_may_say_so_for_each_piece(self) -> None:
        client = self.connect()
        client.takes = False
        number = client.ask()
        service = self.upstream.accept()
        service.respond(200)
        service.send_body(b"x" * 65536)
        updates = frame(WINDOW_UPDATE, b"\0\0\x10\0", 0, number) + frame(WINDOW_UPDATE, b"\0\0\x10\0")
        for _ in range(PATIENCE):
            if not service.paused:
                service.send_body(b"x" * 65536)
            client.h2.increment_flow_control_window(4096)
            client.h2.increment_flow_control_window(4096, number)
            assert client.h2.data_to_send() == updates[13:] + updates[:13]
            client.raw(updates)
        assert not client.wire.closed and len(client.got(number).body) >= PATIENCE * 4096

    def test_made_you_reset(self) -> None:
        """CVE-2025-8671: frames that break a stream, so that we reset what we have begun."""
        overflow = b"\x7f\xff\xff\xff"
        for breaking in (
            lambda stream: frame(WINDOW_UPDATE, overflow, 0, stream),
            lambda stream: frame(DATA, b"x", 0, stream),
            lambda stream: frame(HEADERS, BLOCK, END_HEADERS | END_STREAM, stream),
        ):
            self.lines.clear()
            client = self.connect()
            self.flood(client, (request(stream) + breaking(stream) for stream in itertools.count(1, 2)), 300)
            self.assert_calmed(client)
            for channel in list(self.site.channels):
                cast(Any, channel).transport.abortConnection()
            self.clock.advance(0)

    def test_malformed_trailers_again_and_again(self) -> None:
        client = self.connect()
        bad = Encoder().encode([(b"X", b"1")])
        self.flood(
            client,
            (
                request(stream, 0) + frame(HEADERS, bad, END_HEADERS | END_STREAM, stream)
                for stream in itertools.count(1, 2)
            ),
            300,
        )
        self.assert_calmed(client)

    def test_more_streams_than_there_may_be(self) -> None:
        client = self.connect()
        sent = self.flood(client, (request(stream) for stream in itertools.count(1, 2)), 500)
        assert MAX_STREAMS < sent <= MAX_STREAMS + PATIENCE // RESET_COST + 1
        self.assert_calmed(client)

    def test_an_hpack_bomb(self) -> None:
        client = self.connect()
        encoder = Encoder()
        value = b"x" * 4000
        client.raw(frame(HEADERS, encoder.encode([*HEAD, (b"bomb", value)]), END_HEADERS | END_STREAM, 1))
        # It is in the table now: a byte each from here on.
        bomb = encoder.encode(HEAD) + b"\xbe" * 15000
        self.flood(client, iter([frame(HEADERS, bomb, END_HEADERS | END_STREAM, 3)]), 1)
        self.assert_calmed(client)

    def test_a_table_that_grows(self) -> None:
        client = self.connect()
        client.raw(frame(SETTINGS, b"\0\1\x7f\xff\xff\xff"))
        encoder = client.channel.connection.encoder
        for count in range(200):
            number = client.ask()
            self.upstream.accept().answer(b"", 200, (b"X-%d" % count, b"y" * 100))
            assert client.got(number).ended
        assert encoder.header_table_size == 4096
        assert (
            sum(len(name) + len(value) + 32 for name, value in encoder.header_table.dynamic_entries) <= 4096
        )

    def test_tables_that_change_all_the_time(self) -> None:
        client = self.connect()
        for size in (0, 100, 8192, 50, 65536):
            client.raw(frame(SETTINGS, b"\0\1" + size.to_bytes(4, "big")))
        number = client.ask()
        self.upstream.accept().answer(b"x")
        assert client.got(number).ended


class TestSmallHeads(Floods):
    """The limits of heads hold for header lists, before they are unpacked."""

    limits = Limits(head_size=1024)

    def test_an_hpack_bomb(self) -> None:
        client = self.connect()
        client.wire.receive(frame(HEADERS, BLOCK + b"\x84" * 100, END_HEADERS | END_STREAM, 1))
        self.assert_calmed(client)

    def test_heads_that_are_unpacked_only_to_be_refused(self) -> None:
        client = self.connect()
        # accept-encoding: gzip, deflate
        large = BLOCK + b"\x90" * 30
        self.flood(
            client, (frame(HEADERS, large, END_HEADERS | END_STREAM, n) for n in itertools.count(1, 2)), 70
        )
        assert {entry.status for entry in self.ended} <= {431, 499}
        self.assert_calmed(client)

    def test_a_block(self) -> None:
        client = self.connect()
        client.wire.receive(frame(HEADERS, b"\0" * 2049, 0, 1))
        self.assert_calmed(client)


class TestMemory(Floods):
    """What a client can make us hold."""

    def held(self, work: Callable[[], None]) -> int:
        """The bytes that this takes at its worst."""
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            work()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    def test_answers_that_nobody_takes(self) -> None:
        client = self.connect()
        client.takes = False
        services = []
        for _ in range(MAX_STREAMS):
            client.ask()
            services.append(self.upstream.accept())
        client.wire.fill()
        piece = b"x" * 65536

        def work() -> None:
            for service in services:
                service.respond(200, (b"Content-Length", b"%d" % (1024 * MIB)))
                assert service.paused
                # What was read together with the head.
                service.send_body(bytes(bytearray(piece)))

        assert self.held(work) < 7 * MIB
        waiting = sum(sum(map(len, stream._body)) for stream in client.channel.streams.values())
        assert waiting == MAX_STREAMS * len(piece), "one piece of each"

    def test_bodies_that_nobody_takes(self) -> None:
        client = self.connect()
        services = []
        numbers = [client.ask(method=b"POST", ended=False) for _ in range(MAX_STREAMS)]
        for _ in numbers:
            services.append(self.upstream.accept())
            services[-1].fill()
        for number in numbers:
            while room := min(client.room(number), MAX_FRAME):
                client.send(number, b"x" * room)
        assert sum(len(service.body) for service in services) == CONNECTION_WINDOW
        assert max(len(service.body) for service in services) == WINDOW

    def test_bytes_that_make_no_frame(self) -> None:
        client = self.connect()
        client.raw(request(1, 0))
        whole = frame(DATA, b"x" * MAX_FRAME, 0, 1)

        def work() -> None:
            for at in range(0, len(whole) - 1, 1000):
                client.wire.receive(whole[at : min(at + 1000, len(whole) - 1)])

        assert self.held(work) < MIB
        assert len(client.channel._frames._held) == len(whole) - 1


class TestSlowness(Floods):
    """What comes slowly is no flood, however much it is."""

    def test_points_come_back(self) -> None:
        client = self.connect()
        for _ in range(30):
            client.raw(frame(PING, b"12345678") * 90)
            number = client.ask()
            self.upstream.accept().answer(b"x")
            assert client.got(number).ended
            self.pass_seconds(1)
        assert not client.wire.closed and self.lines == []
