"""Requests and answers between the words of HTTP/2 and those of HTTP/1.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.downstream.http2_fields import (
    answer_fields,
    lowered,
    request_head,
    request_trailers,
)
from onebackend_proxy.errors import ProxyError
from onebackend_proxy.headers import Peer, prepare_request
from onebackend_proxy.http1 import request_bytes
from onebackend_proxy.messages import CHUNKED, NO_BODY, Headers, ResponseHead, field_lines

from ..properties import OFTEN, field_name, field_value, fields

GOOD: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"x.example"),
    (b":path", b"/p?q"),
]


def test_a_request() -> None:
    head, flaw = request_head([*GOOD, (b"accept", b"*/*")], True)
    assert flaw == ""
    assert (head.method, head.target, head.version) == (b"GET", b"/p?q", b"HTTP/1.1")
    assert head.headers == [(b"accept", b"*/*"), (b"host", b"x.example")]


def test_host_beside_authority_is_the_same_in_any_case() -> None:
    head, flaw = request_head([*GOOD, (b"host", b"X.example")], True)
    assert flaw == "" and [value for name, value in head.headers if name == b"host"] == [b"X.example"]


def test_two_hosts_stay_two_for_the_common_rules() -> None:
    head, flaw = request_head([*GOOD, (b"host", b"x.example"), (b"host", b"x.example")], True)
    assert flaw == ""
    with pytest.raises(ProxyError, match="more than one Host"):
        prepare_request(head, Peer(b"192.0.2.7"), b"id")


@pytest.mark.parametrize(
    ("more", "ended", "body"),
    [
        ([], True, NO_BODY),
        ([], False, CHUNKED),
        ([(b"content-length", b"0")], True, 0),
        ([(b"content-length", b"00")], True, 0),
        ([(b"content-length", b"5")], False, 5),
    ],
)
def test_framing(more: Headers, ended: bool, body: int) -> None:
    head, flaw = request_head([*GOOD, *more], ended)
    assert flaw == "" and prepare_request(head, Peer(b"192.0.2.7"), b"id").body == body


def test_the_first_flaw_is_told_and_what_was_asked_is_known() -> None:
    head, flaw = request_head([*GOOD, (b"connection", b"close"), (b"te", b"x")], True)
    assert flaw == "connection is not a field of HTTP/2"
    assert (head.method, head.target) == (b"GET", b"/p?q")


def test_trailers() -> None:
    assert request_trailers([(b"x-sum", b"1")], 1) == ([(b"x-sum", b"1")], "")
    assert request_trailers([(b"x-sum", b"1")] * 2, 1) == ([], "more than 1 trailers")
    for bad in ((b":path", b"/"), (b"X", b"1"), (b"connection", b"x"), (b"x", b" 1"), (b"x", b"1\r\ny: z")):
        trailers, flaw = request_trailers([(b"x-sum", b"1"), bad], 9)
        assert trailers == [] and flaw


def test_answers() -> None:
    head = ResponseHead(204, b"No Content", [(b"X-Mine", b"A"), (b"Set-Cookie", b"b")])
    assert answer_fields(head) == [(b":status", b"204"), (b"x-mine", b"A"), (b"set-cookie", b"b")]
    assert answer_fields(head, b"now")[-1] == (b"date", b"now")
    long = b"X" * 100
    assert lowered([(long, b"1")]) == [(long.lower(), b"1")]


PSEUDO = st.tuples(
    st.sampled_from([b":method", b":scheme", b":authority", b":path", b":protocol", b":status", b":x"]),
    st.sampled_from([b"", b"GET", b"CONNECT", b"OPTIONS", b"https", b"x.example", b"y", b"/", b"*", b"/p q"]),
)
LOWER = st.tuples(field_name.map(bytes.lower), field_value)


@OFTEN
@given(st.lists(PSEUDO | LOWER, max_size=14), st.booleans())
def test_what_has_no_flaw_and_passes_the_common_rules_is_one_request(several: Headers, ended: bool) -> None:
    head, flaw = request_head(several, ended)
    if flaw:
        return
    try:
        request = prepare_request(head, Peer(b"192.0.2.7"), b"id")
    except ProxyError:
        return
    names = [name for name, _value in several]
    assert len({name for name in names if name[:1] == b":"}) == sum(name[:1] == b":" for name in names)
    assert request.method == dict(several)[b":method"] and request.target == dict(several)[b":path"]
    assert ended is (request.body in (NO_BODY, 0)) or (not ended and b"content-length" in names)
    raw = request_bytes(request)
    lines = raw.split(b"\r\n")
    assert raw.endswith(b"\r\n\r\n") and lines[0].count(b" ") == 2
    assert not any(name in names for name in (b"connection", b"upgrade", b"transfer-encoding"))
    told = [line.partition(b": ")[0].lower() for line in lines[1:-2]]
    assert told.count(b"host") == 1
    assert told.count(b"content-length") + told.count(b"transfer-encoding") <= 1
    assert told.count(b"cookie") <= 1


@OFTEN
@given(fields)
def test_names_in_upper_case_are_a_flaw(several: Headers) -> None:
    _head, flaw = request_head([*GOOD, *several], True)
    if any(name != name.lower() for name, _value in several):
        assert flaw


@OFTEN
@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=8), st.booleans())
def test_no_bytes_make_it_fail(several: Headers, ended: bool) -> None:
    head, flaw = request_head([*GOOD, *several], ended)
    trailers, _flaw = request_trailers(several, 9)
    assert field_lines(trailers).count(b"\n") == field_lines(trailers).count(b"\r") == len(trailers)
    if not flaw:
        try:
            raw = request_bytes(prepare_request(head, Peer(b"192.0.2.7"), b"id"))
        except ProxyError:
            return
        assert raw.count(b"\r\n\r\n") == 1
        assert raw.replace(b"\r\n", b"").count(b"\n") == raw.replace(b"\r\n", b"").count(b"\r") == 0
