from __future__ import annotations

import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from onebackend_proxy import ProxySite
from onebackend_proxy.errors import BadRequest
from onebackend_proxy.headers import prepare_request
from onebackend_proxy.http1 import request_head
from onebackend_proxy.messages import RequestHead
from onebackend_proxy.tracing import is_traceparent, trace_id, traced_request

from .conformance import ONE, new_plane
from .properties import PROPERTY, plain_fields
from .test_headers import PROXY, STRANGER, TRUSTED, named, sent

ID = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
PARENT = b"00-%b-%b-01" % (ID, SPAN)
STATE = (b"tracestate", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")

# Those of the specification, and what its test suite sends.
INVALID = [
    b"",
    b"00",
    ID,
    PARENT + b"-",
    PARENT + b"-what-the-future-will-be-like",
    PARENT + b".",
    PARENT.upper(),
    PARENT[1:],
    PARENT[:-1],
    b" " + PARENT,
    b"ff" + PARENT[2:],
    b"0" + PARENT,
    b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
    b"00-" + ID + b"-" + b"0" * 16 + b"-01",
    b"00-" + ID[:-1] + b"." + b"-" + SPAN + b"-01",
    b"00-" + ID + b"-" + SPAN + b"-0x",
    b"00_" + ID + b"_" + SPAN + b"_01",
    b"01" + PARENT[2:] + b"what-the-future-will-be-like",
    PARENT + b"\n",
    PARENT + b", " + PARENT,
]
VALID = [
    PARENT,
    PARENT[:-2] + b"00",
    PARENT[:-2] + b"ff",
    b"01" + PARENT[2:],
    b"cc" + PARENT[2:] + b"-what-the-future-will-be-like",
]


def traced(*raw, peer=STRANGER, request_id=ID):
    head = RequestHead(b"GET", b"/", [(b"Host", b"a.example"), *raw])
    return traced_request(head, peer, request_id, TRUSTED)


def the_trace(out):
    """The one traceparent of a request: its trace, its parent, its flags."""
    [parent] = named(sent(out), b"traceparent")
    match = re.fullmatch(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-(..)", parent)
    assert match, parent
    return match.groups()


@pytest.mark.parametrize("value", VALID)
def test_a_trace_that_there_is_goes_on_as_it_is(value):
    assert is_traceparent(value)
    out = traced((b"TraceParent", value), STATE, (b"Accept", b"*/*"))
    assert named(sent(out), b"traceparent") == [value]
    assert named(sent(out), b"tracestate") == [STATE[1]]


@pytest.mark.parametrize("value", INVALID)
def test_what_is_no_trace_is_replaced_and_what_belongs_to_it_dropped(value):
    assert not is_traceparent(value)
    if value.endswith(b"\n"):
        return
    out = traced((b"A", b"b"), (b"Traceparent", value), STATE, (b"C", b"d"))
    trace, parent, flags = the_trace(out)
    assert (trace, flags) == (ID, b"01") and parent not in (SPAN, b"0" * 16)
    assert named(sent(out), b"tracestate") == []
    assert out.headers[:2] == [(b"A", b"b"), (b"C", b"d")]


def test_two_parents_are_none():
    out = traced((b"traceparent", PARENT), (b"traceparent", PARENT))
    assert the_trace(out)[:1] == (ID,) and the_trace(out)[1] != SPAN


def test_a_state_without_a_parent_is_dropped():
    assert named(sent(traced(STATE)), b"tracestate") == []


def test_each_request_is_a_span_of_its_own():
    assert the_trace(traced())[1] != the_trace(traced())[1]


def test_the_trace_is_the_request_where_its_id_can_be_one():
    said = (b"X-Request-Id", b"6C084D2C-9E02-4B1A-8F3A-2F5A2E0C9D11")
    assert the_trace(traced(said, peer=PROXY))[0] == b"6c084d2c9e024b1a8f3a2f5a2e0c9d11"
    assert the_trace(traced(said))[0] == ID, "a stranger's is not believed"
    for unfit in (b"order-66", b"0" * 32, ID + b"0", ID[:-1] + b"g"):
        assert re.fullmatch(rb"(?!0{32})[0-9a-f]{32}", trace_id(unfit))
        assert trace_id(unfit) != trace_id(unfit)


def test_what_is_refused_is_refused():
    with pytest.raises(BadRequest):
        traced_request(RequestHead(b"GET", b"/", []), STRANGER, ID)


def test_a_head_that_comes_again_is_not_changed():
    first = request_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\ntracestate: a=b\r\n\r\n")
    again = request_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\ntracestate: a=b\r\n\r\n", before=first)
    assert again.sorted is first.sorted
    spans = {the_trace(traced_request(head, STRANGER, ID))[1] for head in (first, again, again)}
    assert len(spans) == 3


_PARENT = st.sampled_from([*VALID, *INVALID[:-2]]).map(lambda value: (b"traceparent", value.strip()))
_TRACE_FIELDS = st.lists(_PARENT | st.just(STATE) | st.just((b"TRACESTATE", b"")), max_size=3)


@PROPERTY
@given(plain_fields, _TRACE_FIELDS, plain_fields, st.sampled_from([STRANGER, PROXY]))
def test_nothing_else_changes(before, trace, after, peer):
    head = RequestHead(b"GET", b"/", [(b"Host", b"a.example"), *before, *trace, *after])
    plain = prepare_request(head, peer, ID, TRUSTED)
    out = traced_request(head, peer, ID, TRUSTED)

    def others(fields):
        return [field for field in fields if field[0].lower() not in (b"traceparent", b"tracestate")]

    assert others(sent(out)) == others(sent(plain))
    parents = named(sent(out), b"traceparent")
    assert len(parents) == 1 and is_traceparent(parents[0])
    if [value for name, value in trace if name == b"traceparent"] == parents:
        assert sent(out) == sent(plain)
    else:
        assert named(sent(out), b"tracestate") == []


@pytest.mark.parametrize("fast", [True, False])
def test_on_both_planes(fast):
    def site(resource: Any, clock: Clock) -> ProxySite:
        return ProxySite(resource, clock, fast=resource if fast else None)

    for prepare, begun in (traced_request, 1), (prepare_request, 0):
        plane = new_plane(site, ONE)
        plane.resource.desk = attrs.evolve(plane.resource.desk, prepare=prepare)
        plane.connect().ask()
        assert len(plane.upstream.accept().field(b"traceparent")) == begun
