"""The filter that encodes answers: what the client gets, and when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.desk.compressing import MAX_WHOLE, Compressing
from onebackend_proxy.headers import OutgoingRequest
from onebackend_proxy.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, ResponseHead
from onebackend_proxy.policies.encoders import CODINGS

from ..policies.test_encoders import TEXT, decoder, whole
from ..properties import PROPERTY, pieces


class Client:
    """A Downstream that writes down what it is told."""

    def __init__(self):
        self.heads = []
        self.body = b""
        self.calls = []
        self.trailers = None

    def respond(self, head):
        assert not self.heads
        self.heads.append(head)
        self.calls.append("respond")

    def write(self, data):
        assert data
        assert self.heads
        self.body += data
        self.calls.append("write")

    def flush(self):
        self.calls.append("flush")

    def end(self, trailers):
        assert self.trailers is None
        self.trailers = trailers
        self.calls.append("end")

    def abort(self):
        self.calls.append("abort")

    def refuse(self, status, message):
        self.calls.append(f"refuse {status}")

    @property
    def head(self):
        [head] = self.heads
        return head

    def field(self, name):
        values = [value for field, value in self.head.headers if field.lower() == name.lower()]
        assert len(values) <= 1
        return values[0] if values else None


def asked(accept=b"gzip", method=b"GET", *more):
    headers = [(b"Accept-Encoding", accept), *more] if accept is not None else list(more)
    return OutgoingRequest(method, b"/", b"x", headers, b"", NO_BODY, b"192.0.2.1", b"i", False, True, b"")


def filtering(request=None):
    client: Any = Client()
    return client, Compressing(client, request or asked())


def a_head(body=CHUNKED, status=200, kind=b"text/html", more=()):
    headers = [(b"Content-Type", kind), (b"ETag", b'"a"'), *more]
    if body >= 0:
        headers.append((b"Content-Length", b"%d" % body))
    return ResponseHead(status, b"OK", headers, body)


def test_a_small_body_is_encoded_as_a_whole():
    client, answer = filtering()
    answer.respond(a_head(4000))
    answer.write(TEXT[:2500])
    answer.write(TEXT[2500:4000])
    answer.end([])
    assert client.calls == ["respond", "write", "end"]
    assert whole("gzip", client.body) == TEXT[:4000]
    assert client.head.body == len(client.body) < 2500
    assert client.field(b"content-length") == b"%d" % len(client.body)
    assert client.field(b"content-encoding") == b"gzip"
    assert client.field(b"vary") == b"Accept-Encoding"
    assert client.field(b"etag") == b'W/"a"'


@pytest.mark.parametrize("body", [CHUNKED, UNTIL_CLOSE])
def test_a_body_of_unknown_length_that_is_there_at_once(body):
    client, answer = filtering()
    answer.respond(a_head(body))
    answer.write(TEXT[:4000])
    answer.end([])
    assert whole("gzip", client.body) == TEXT[:4000]
    assert client.head.body == len(client.body)


@pytest.mark.parametrize("size", [0, 1, 1023])
def test_a_body_of_unknown_length_that_is_small_after_all(size):
    client, answer = filtering()
    answer.respond(a_head())
    if size:
        answer.write(TEXT[:size])
    answer.end([(b"X", b"y")])
    assert client.body == TEXT[:size]
    assert client.head.body == CHUNKED
    assert client.field(b"content-encoding") is None
    assert client.field(b"vary") == b"Accept-Encoding"
    assert client.field(b"etag") == b'"a"'
    assert client.trailers == [(b"X", b"y")]


def test_a_head_that_came_by_itself_waits_for_its_body():
    client, answer = filtering()
    answer.respond(a_head(4000))
    answer.flush()
    assert client.calls == []
    answer.write(TEXT[:4000])
    answer.end([])
    assert client.head.body == len(client.body)


def test_what_comes_slowly_is_a_stream():
    client, answer = filtering()
    answer.respond(a_head(4000))
    answer.write(TEXT[:1500])
    answer.flush()
    assert decoder("gzip")(client.body) == TEXT[:1500]
    assert client.calls[-1] == "flush"
    assert client.head.body == CHUNKED
    assert client.field(b"content-length") is None
    answer.write(TEXT[1500:4000])
    answer.end([])
    assert whole("gzip", client.body) == TEXT[:4000]


@pytest.mark.parametrize("coding", CODINGS)
def test_each_event_arrives_at_once(coding):
    client, answer = filtering(asked(coding.encode()))
    read = decoder(coding)
    answer.respond(a_head(CHUNKED, kind=b"text/event-stream"))
    answer.flush()
    # Before there is any event: an EventSource is open then.
    assert client.calls[0] == "respond"
    assert client.calls[-1] == "flush"
    assert client.field(b"content-encoding") == coding.encode()
    at = len(client.body)
    for number in range(50):
        event = b"data: %d\n\n" % number
        answer.write(event)
        answer.flush()
        assert read(client.body[at:]) == event
        assert client.calls[-1] == "flush"
        at = len(client.body)
    answer.end([])
    assert whole(coding, client.body) == b"".join(b"data: %d\n\n" % number for number in range(50))


def test_a_pause_with_nothing_new_sends_nothing():
    client, answer = filtering()
    answer.respond(a_head())
    answer.write(TEXT[:100])
    answer.flush()
    sent = client.body
    answer.flush()
    answer.flush()
    assert client.body == sent
    assert client.calls[-2:] == ["flush", "flush"]


def test_a_large_body_is_not_held():
    client, answer = filtering()
    answer.respond(a_head(MAX_WHOLE + 1))
    assert client.head.body == CHUNKED
    client, answer = filtering()
    answer.respond(a_head(CHUNKED))
    answer.write(TEXT[:MAX_WHOLE])
    assert client.calls == []
    answer.write(b"x")
    assert client.head.body == CHUNKED
    answer.end([])
    assert whole("gzip", client.body) == TEXT[:MAX_WHOLE] + b"x"


def test_a_head_is_answered_as_a_get_would_be():
    client, answer = filtering(asked(method=b"HEAD"))
    answer.respond(ResponseHead(200, b"OK", a_head(4000).headers, NO_BODY))
    answer.end([])
    assert client.calls == ["respond", "end"]
    assert client.head.body == NO_BODY
    assert client.field(b"content-length") is None
    assert client.field(b"content-encoding") == b"gzip"
    assert client.field(b"etag") == b'W/"a"'
    assert client.field(b"vary") == b"Accept-Encoding"


@pytest.mark.parametrize("accept", [None, b"identity", b"gzip;q=0"])
def test_who_takes_no_coding_learns_that_it_varies(accept):
    client, answer = filtering(asked(accept))
    answer.respond(a_head(4000))
    assert client.calls == ["respond"]
    answer.write(TEXT[:4000])
    answer.flush()
    answer.end([])
    assert client.body == TEXT[:4000]
    assert client.head.body == 4000
    assert client.field(b"vary") == b"Accept-Encoding"
    assert client.field(b"etag") == b'"a"'


@pytest.mark.parametrize(
    "head",
    [
        a_head(4000, kind=b"image/png"),
        a_head(100),
        a_head(4000, 206, more=[(b"Content-Range", b"bytes 0-3999/9000")]),
        a_head(4000, more=[(b"Content-Encoding", b"br")]),
        a_head(4000, more=[(b"Cache-Control", b"no-transform")]),
    ],
)
def test_what_is_not_encoded_passes_as_it_is(head):
    client, answer = filtering()
    answer.respond(head)
    assert client.head is head
    answer.write(b"abc")
    answer.flush()
    answer.end([(b"X", b"y")])
    assert client.body == b"abc"
    assert client.calls == ["respond", "write", "flush", "end"]
    assert client.trailers == [(b"X", b"y")]


def test_not_modified_to_who_has_the_encoded_form():
    client, answer = filtering(asked(b"gzip", b"GET", (b"If-None-Match", b'W/"a"')))
    answer.respond(ResponseHead(304, b"Not Modified", [(b"ETag", b'"a"')], NO_BODY))
    answer.end([])
    assert client.field(b"etag") == b'W/"a"'
    assert client.field(b"vary") == b"Accept-Encoding"


@pytest.mark.parametrize("flushed", [False, True])
def test_trailers_pass(flushed):
    client, answer = filtering()
    answer.respond(a_head())
    answer.write(TEXT[:4000])
    if flushed:
        answer.flush()
    answer.end([(b"Server-Timing", b"db"), (b"Content-Digest", b"sha-256=:x:")])
    assert whole("gzip", client.body) == TEXT[:4000]
    assert client.head.body == CHUNKED
    assert client.field(b"content-length") is None
    assert client.trailers == [(b"Server-Timing", b"db")]


@pytest.mark.parametrize("flushed", [False, True])
def test_what_came_before_a_break_is_the_clients(flushed):
    client, answer = filtering()
    answer.respond(a_head(4000))
    answer.write(TEXT[:1500])
    if flushed:
        answer.flush()
        answer.write(TEXT[1500:1600])
    answer.abort()
    assert client.calls[-1] == "abort"
    assert "end" not in client.calls
    assert decoder("gzip")(client.body) == TEXT[: 1600 if flushed else 1500]
    with pytest.raises(EOFError):
        whole("gzip", client.body)


def test_a_break_after_the_head():
    client, answer = filtering()
    answer.respond(a_head(4000))
    answer.abort()
    assert client.calls[0] == "respond"
    assert client.calls[-1] == "abort"


def test_a_refusal_passes():
    client, answer = filtering()
    answer.refuse(502, "no")
    assert client.calls == ["refuse 502"]


@PROPERTY
@given(
    st.sampled_from(CODINGS),
    st.sampled_from(["known", "chunked", "until close"]),
    st.integers(0, 200_000),
    st.lists(st.integers(0, 200_000), max_size=6),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.booleans(),
)
def test_the_body_is_the_same_in_any_split(coding, framing, size, cuts, flushes, trailers):
    body = TEXT[:size]
    client, answer = filtering(asked(coding.encode()))
    length = {"known": len(body), "chunked": CHUNKED, "until close": UNTIL_CLOSE}[framing]
    answer.respond(a_head(length))
    if flushes[-1]:
        answer.flush()
    sent = 0
    for piece, flush in zip(pieces(body, cuts), flushes, strict=False):
        if piece:
            answer.write(piece)
            sent += len(piece)
        if flush and sent:
            answer.flush()
            so_far = decoder(coding)(client.body) if client.field(b"content-encoding") else client.body
            assert so_far == body[:sent]
    answer.end([(b"X", b"y")] if trailers else [])
    encoding = client.field(b"content-encoding")
    assert (whole(coding, client.body) if encoding else client.body) == body
    told = client.field(b"content-length")
    assert told is None or int(told) == len(client.body)
    assert client.head.body == (CHUNKED if told is None and framing != "until close" else client.head.body)
    assert client.head.body < 0 or client.head.body == len(client.body)
    assert client.trailers == ([(b"X", b"y")] if trailers else [])
