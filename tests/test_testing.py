"""The shipped fakes insist on the contracts that they stand in for."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import EndpointState, Upstream
from onebackend_proxy.exchange import Exchange, Exchanges
from onebackend_proxy.headers import Peer, prepare_request
from onebackend_proxy.messages import RequestHead, ResponseHead
from onebackend_proxy.testing import MemoryStore, RecordingDownstream, ScriptedConnection, ScriptedUpstream

ENDPOINT = EndpointState(parse_instance_url("http://a:8000"))
OK = ResponseHead(200, b"OK", [])


def begun(upstream: ScriptedUpstream) -> Exchange:
    head = RequestHead(b"POST", b"/svc/x", [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")])
    request = prepare_request(head, Peer(b"192.0.2.7"), b"id-1")
    exchanges = Exchanges(Clock(), upstream)
    exchange = exchanges.begin(RecordingDownstream(), request, Upstream("svc", (ENDPOINT,)))
    exchange.start()
    return exchange


def test_they_tell_what_they_are_at() -> None:
    upstream = ScriptedUpstream()
    upstream.keep(EndpointState(parse_instance_url("http://b:8000")))
    begun(upstream)
    assert repr(upstream) == "<ScriptedUpstream: 1 connecting, 1 idle>"
    connection = upstream.accept()
    assert repr(connection).startswith("<ScriptedConnection a:8000: <Exchange POST")
    assert repr(RecordingDownstream()) == "<RecordingDownstream: no head, 0 bytes, over: False>"
    assert repr(MemoryStore()) == "<MemoryStore: 0 routes, 0 instances>"


def test_nobody_connects_who_did_not_ask_to() -> None:
    for call in (ScriptedUpstream().accept, ScriptedUpstream().refuse):
        with pytest.raises(AssertionError, match="nobody wants to connect"):
            call()


def test_an_answer_needs_a_request() -> None:
    with pytest.raises(AssertionError, match="no exchange waits"):
        ScriptedConnection(ENDPOINT).answer()


def test_a_request_ends_once() -> None:
    upstream = ScriptedUpstream()
    exchange = begun(upstream)
    connection = upstream.accept()
    exchange.request_ended([])
    with pytest.raises(AssertionError, match="twice"):
        connection.end_request([])
    with pytest.raises(AssertionError, match="after the end"):
        connection.write(b"more")


def test_a_capacity_is_back_pressure() -> None:
    upstream = ScriptedUpstream(capacity=5)
    exchange = begun(upstream)
    connection = upstream.accept()
    downstream = exchange._downstream
    assert isinstance(downstream, RecordingDownstream)
    for _ in range(2):
        exchange.request_body_received(b"four")
        assert not downstream.request_paused
        exchange.request_body_received(b"four")
        assert downstream.request_paused
        connection.drain()
        assert not downstream.request_paused


@pytest.mark.parametrize("calls", ["w", "e", "a", "hh", "hr", "hi", "hew", "rr", "haa", "her"])
def test_a_downstream_hears_things_in_order(calls: str) -> None:
    downstream = RecordingDownstream()
    told = {
        "h": lambda: downstream.respond(OK),
        "i": lambda: downstream.inform(OK),
        "w": lambda: downstream.write(b"x"),
        "e": lambda: downstream.end([]),
        "a": downstream.abort,
        "r": lambda: downstream.refuse(502, "no"),
    }
    for call in calls[:-1]:
        told[call]()
    with pytest.raises(AssertionError, match="out of order"):
        told[calls[-1]]()


def test_a_service_may_switch_protocols() -> None:
    upstream = ScriptedUpstream()
    head = RequestHead(
        b"GET", b"/svc/x", [(b"Host", b"a"), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    )
    downstream = RecordingDownstream()
    request = prepare_request(head, Peer(b"192.0.2.7"), b"id-1")
    exchanges = Exchanges(Clock(), upstream)
    exchanges.begin(downstream, request, Upstream("svc", (ENDPOINT,))).start()
    connection = upstream.accept()
    assert (connection.field(b"upgrade"), connection.trailers) == ([b"websocket"], [])
    connection.switch_protocols()
    assert downstream.head is not None and downstream.head.status == 101
    tunnel = downstream.tunnel
    assert tunnel is not None and connection.exchange is tunnel
    assert connection.trailers is None, "the client has not ended its half yet"
    tunnel.request_body_received(b"ping")
    connection.send_body(b"pong")
    assert (connection.body, downstream.body) == (b"ping", b"pong")
    connection.finish()
    assert downstream.half_closed and connection.exchange is tunnel
    with pytest.raises(AssertionError, match="out of order"):
        downstream.switch(OK, tunnel)


def test_half_a_close_needs_a_head() -> None:
    with pytest.raises(AssertionError, match="out of order"):
        RecordingDownstream().half_close()
