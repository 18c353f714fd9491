"""Whatever is interleaved: every byte arrives once and in order, windows are kept, and nothing is left."""

from __future__ import annotations

import random
from typing import Any

import attrs
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from onebackend_proxy import ProxySite
from onebackend_proxy.downstream.http2 import Http2Channel
from onebackend_proxy.testing import ScriptedConnection

from ..conformance import ONE, Plane, new_plane
from ..logged import Entries
from ..properties import PROPERTY
from ..wire import Wire
from .test_http2 import Http2Client
from .test_http2_frames import BEGIN, FRAMES


def text(size: int, salt: int) -> bytes:
    """Bytes whose order shows."""
    return random.Random(salt).randbytes(size)


@attrs.define(eq=False)
class Talk:
    """One request of the model, and how far it has come."""

    number: int
    service: ScriptedConnection
    asked: bytes = b""
    said: bytes = b""
    # The client's half, the service's half, and how it was broken off.
    asked_all: bool = False
    answering: bool = False
    said_all: bool = False
    lost: bool = False
    reset: bool = False
    trailers: bool = False

    @property
    def over(self) -> bool:
        """Whether nobody does anything on it any more."""
        return self.reset or self.lost or self.said_all


class Model:
    """A client, a service, and what each has said."""

    def __init__(self) -> None:
        self.ended = Entries()

        def site(resource: Any, clock: Clock) -> ProxySite:
            return ProxySite(resource, clock, self.ended.tell, fast=resource)

        self.plane: Plane = new_plane(site, ONE)
        self.client = Http2Client(self.plane.factory, self.plane.clock, self.plane.resource)
        self.client.takes = False
        self.talks: list[Talk] = []
        self.full = False

    def step(self, what: int, which: int, size: int) -> None:
        """Do one of what may be done now."""
        live = [talk for talk in self.talks if not talk.over]
        if what == 0 and len(live) < 6:
            self.open(ended=bool(size % 2))
        elif what == 1:
            self.toggle_transport()
        elif what == 2:
            self.client.h2.increment_flow_control_window(1 + size)
        elif live:
            self.on_one(live[which % len(live)], what, size)
        if not self.full:
            self.client.flush()
        else:
            self.client.wire.receive(self.client.h2.data_to_send())
            self.plane.clock.advance(0)

    def open(self, ended: bool) -> None:
        """A new request, whose body may follow."""
        number = self.client.h2.get_next_available_stream_id()
        head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/svc/x")]
        self.client.h2.send_headers(number, head, end_stream=ended)
        self.client.wire.receive(self.client.h2.data_to_send())
        self.plane.clock.advance(0)
        self.talks.append(Talk(number, self.plane.upstream.accept(), asked_all=ended))

    def toggle_transport(self) -> None:
        """The transport is full, or empty again."""
        self.full = not self.full
        if self.full:
            self.client.wire.fill()
        else:
            self.client.wire.drain()

    def on_one(self, talk: Talk, what: int, size: int) -> None:
        """One end of a request does something."""
        client, service = self.client, talk.service
        if what == 3 and not talk.asked_all:
            size = min(size, client.room(talk.number), 16384)
            data = text(size, len(talk.asked))
            talk.asked_all = size % 3 == 0
            client.h2.send_data(talk.number, data, end_stream=talk.asked_all)
            talk.asked += data
        elif what == 4 and not talk.answering:
            talk.answering = True
            service.respond(200, (b"Transfer-Encoding", b"chunked"))
        elif what == 5 and talk.answering and not service.paused:
            data = text(size + 1, len(talk.said))
            talk.said += data
            service.send_body(data)
        elif what == 6 and talk.answering:
            talk.said_all = True
            talk.trailers = bool(size % 2)
            service.finish(*([(b"X-Sum", b"1")] if talk.trailers else []))
        elif what == 7 and size % 4 == 0:
            talk.reset = True
            client.h2.reset_stream(talk.number, ErrorCodes.CANCEL)
        elif what == 8 and size % 4 == 0:
            talk.lost = True
            service.lose()
        elif what == 9:
            client.h2.increment_flow_control_window(1 + size, talk.number)
        elif what == 10:
            service.drain() if service.full else service.fill()

    def settle(self) -> None:
        """Everybody takes everything."""
        if self.full:
            self.toggle_transport()
        for talk in self.talks:
            if not talk.over:
                if not talk.answering:
                    talk.service.respond(200, (b"Transfer-Encoding", b"chunked"))
                talk.service.finish()
                talk.said_all = True
        self.client.h2.increment_flow_control_window(10_000_000)
        self.client.flush()
        for talk in self.talks:
            if self.client.streams.get(talk.number) and not self.client.streams[talk.number].ended:
                stream = self.client.h2.streams.get(talk.number)
                if stream is not None and not stream.closed:
                    self.client.h2.increment_flow_control_window(10_000_000, talk.number)
        self.client.flush()

    def check(self) -> None:
        """What arrived is what was sent."""
        for talk in self.talks:
            got = self.client.got(talk.number)
            assert talk.asked.startswith(talk.service.body)
            if not (talk.reset or talk.lost):
                assert got.ended and got.body == talk.said and got.status == 200
                assert (got.trailers is not None) is talk.trailers
                assert got.reset == (None if talk.asked_all else ErrorCodes.NO_ERROR)
                assert talk.service.body == talk.asked
            else:
                assert talk.said.startswith(got.body) or got.status == 502
                if talk.lost and talk.answering:
                    assert not got.ended and got.reset == ErrorCodes.INTERNAL_ERROR
            if talk.asked_all and not talk.service.aborted and not talk.lost:
                assert talk.service.trailers == []
        channel = self.client.channel
        assert not channel.streams and not channel._ring and not channel._begun
        assert len(self.plane.exchanges) == 0
        assert len(self.ended) == len(self.talks)
        assert not self.client.wire.closed and self.client.went_away == []
        [endpoint] = self.plane.registry.endpoints()
        assert endpoint.in_flight == 0
        # All that was taken can be sent again.
        assert self.client.h2.outbound_flow_control_window >= 512 * 1024


STEPS = st.tuples(
    st.sampled_from([0, 0, 1, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5, 6, 7, 8, 9, 9, 10]),
    st.integers(0, 5),
    st.integers(0, 10) | st.integers(0, 70_000),
)


@PROPERTY
@given(st.lists(STEPS, max_size=60))
def test_every_byte_arrives_and_nothing_leaks(steps: list[tuple[int, int, int]]) -> None:
    model = Model()
    for what, which, size in steps:
        model.step(what, which, size)
    model.settle()
    model.check()


@PROPERTY
@given(st.lists(FRAMES, max_size=20), st.binary(max_size=20))
def test_no_frames_make_it_fail(frames: list[bytes], rest: bytes) -> None:
    model = Model()
    wire = Wire(model.plane.clock)
    channel = Http2Channel(model.plane.factory, model.plane.resource)
    wire.attach(channel)
    for piece in (BEGIN, *frames, rest):
        wire.receive(piece)
        model.plane.clock.advance(0)
        while model.plane.upstream.connecting:
            model.plane.upstream.accept().answer(b"hello")
    wire.peer_closes()
    model.plane.clock.advance(0)
    assert not channel.streams and len(model.plane.exchanges) == 0
