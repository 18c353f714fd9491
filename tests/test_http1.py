from __future__ import annotations

from typing import Any

import attrs
import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy import http1
from onebackend_proxy.errors import (
    BadRequest,
    HeadTooLarge,
    NotImplementedHere,
    ProxyError,
    TargetTooLong,
    UpstreamFailed,
    VersionNotSupported,
)
from onebackend_proxy.headers import OutgoingRequest, Peer, prepare_request, prepare_response
from onebackend_proxy.http1 import (
    ResponseReader,
    check_begun,
    chunk,
    interim_bytes,
    last_chunk,
    request_bytes,
    request_head,
    response_bytes,
)
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, RequestHead, ResponseHead, field_lines

from .properties import OFTEN, PROPERTY, fields, pieces, plain_fields

BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
CUTS = st.lists(st.integers(0, 4000), max_size=8)


def outgoing(method=b"GET", target=b"/", headers=(), body=NO_BODY, expects=False, upgrade=b""):
    """A request made ready, with one line of our own."""
    lines = field_lines([*headers, (b"Via", b"x")])
    return OutgoingRequest(
        method, target, b"a", [*headers], lines, body, b"9.9.9.9", b"id", expects, True, upgrade
    )


def test_a_request_without_a_body():
    assert request_bytes(outgoing(target=b"/a?b", headers=[(b"E", b"")])) == (
        b"GET /a?b HTTP/1.1\r\nHost: a\r\nE: \r\nVia: x\r\n\r\n"
    )
    assert request_bytes(outgoing()) == b"GET / HTTP/1.1\r\nHost: a\r\nVia: x\r\n\r\n"


def test_the_path_of_the_instance_goes_before_the_target():
    assert request_bytes(outgoing(target=b"/a?b"), b"/base").startswith(b"GET /base/a?b HTTP/1.1\r\n")


def test_a_request_that_expects_to_be_asked_for_its_body():
    assert request_bytes(outgoing(b"PUT", body=5, expects=True)).endswith(
        b"Via: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )


def test_a_request_that_asks_for_another_protocol():
    assert request_bytes(outgoing(upgrade=b"websocket")).endswith(
        b"Via: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize(
    "body, framing",
    [
        (0, b"Content-Length: 0"),
        (10**18 - 1, b"Content-Length: " + b"9" * 18),
        (CHUNKED, b"Transfer-Encoding: chunked"),
    ],
)
def test_a_request_with_a_body_says_how_it_is_framed_last(body, framing):
    assert request_bytes(outgoing(b"PUT", body=body)) == (
        b"PUT / HTTP/1.1\r\nHost: a\r\nVia: x\r\n" + framing + b"\r\n\r\n"
    )


class _Request:
    """Collects what httptools reads of a request."""

    def __init__(self):
        self.target = self.body = b""
        self.headers = []
        self.complete = 0

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        # llhttp leaves blanks behind a value.
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, data):
        self.body += data

    def on_message_complete(self):
        self.complete += 1


def read_by_httptools(data):
    request = _Request()
    parser = httptools.HttpRequestParser(request)
    parser.feed_data(data)
    assert request.complete == 1
    return parser.get_method(), request.target, request.headers, request.body


def read_by_h11(data):
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    server.receive_data(data)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while not isinstance(event := server.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert server.next_event() in (h11.PAUSED, h11.NEED_DATA)
    assert server.trailing_data[0] == b""
    return request.method, request.target, list(request.headers), body, list(event.headers)


@OFTEN
@given(
    fields,
    st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE"]),
    st.text(st.sampled_from("ab/%2?&=;.~!$'()*+,:@-_<>{}|^`\\\""), max_size=15).map(
        lambda tail: b"/" + tail.encode()
    ),
    BODIES,
    plain_fields,
    st.booleans(),
)
def test_two_other_parsers_read_what_we_meant(raw, method, target, body, trailers, trusted):
    raw = [f for f in raw if f[0].lower() != b"host"] + [(b"Host", b"a.example")]
    peer = Peer(b"10.0.0.1", trusted)
    try:
        out = prepare_request(RequestHead(method, target, raw), peer, b"ours")
    except ProxyError:
        return
    out.upgrade = b""  # h11 reads no further than that; the tunnel has tests of its own.
    data = request_bytes(out)
    sent = b""
    if out.body == CHUNKED:
        sent = b"".join(body)
        data += b"".join(map(chunk, body)) + last_chunk(trailers)
    elif out.body > 0:
        sent = b"x" * min(out.body, 100)
        out.body = len(sent)
        data = request_bytes(out) + sent
    framing = {CHUNKED: [(b"transfer-encoding", b"chunked")], NO_BODY: []}.get(
        out.body, [(b"content-length", b"%d" % len(sent))]
    )
    lines = [line.partition(b": ")[::2] for line in out.lines.split(b"\r\n")[:-1]]
    headers = [(name.lower(), value) for name, value in [(b"Host", out.host), *lines]]
    headers += [(b"expect", b"100-continue")] * out.expects_continue + framing
    lower = [(name.lower(), value) for name, value in trailers] if out.body == CHUNKED else []
    assert read_by_h11(data) == (method, target, headers, sent, lower)
    assert read_by_httptools(data) == (method, target, headers + lower, sent)


class Reader(ResponseReader):
    """Writes down what came, with the pieces of a body joined."""

    def __init__(self, *methods):
        self.events = []
        for method in methods:
            self.expect_answer(method)

    def interim_received(self, head):
        self.events.append((head.status, head.reason, head.headers))

    def head_received(self, head):
        self.events.append((head.status, head.reason, head.headers, head.body, head.keep_alive))

    def body_received(self, data):
        assert data
        if isinstance(self.events[-1], bytes):
            data = self.events.pop() + data
        self.events.append(data)

    def answer_ended(self, trailers):
        self.events.append(trailers)


def read(*data, method=b"GET"):
    reader = Reader(method)
    for piece in data:
        reader.read(piece)
    return reader.events


def refused(*data, method=b"GET"):
    with pytest.raises(UpstreamFailed) as caught:
        read(*data, method=method)
    assert caught.value.message == "the service's answer was not valid HTTP"
    return caught.value.detail


def answer(*lines, status=b"HTTP/1.1 200 OK", body=b""):
    return b"\r\n".join([status, *lines, b"", body])


def test_an_answer_with_a_length():
    assert read(answer(b"A: b", b"Content-Length: 3", body=b"abc")) == [
        (200, b"OK", [(b"A", b"b"), (b"Content-Length", b"3")], 3, True),
        b"abc",
        [],
    ]


def test_an_answer_in_chunks_with_extensions_and_trailers():
    body = b"3;a=b\r\nabc\r\n1\r\nd\r\n0;x\r\nT: 1\r\nEmpty:\r\n\r\n"
    assert read(answer(b"Transfer-Encoding: chunked", body=body)) == [
        (200, b"OK", [], CHUNKED, True),
        b"abcd",
        [(b"T", b"1"), (b"Empty", b"")],
    ]


def test_an_answer_until_the_connection_closes():
    reader = Reader(b"GET")
    reader.read(answer(body=b"abc"))
    assert reader.events == [(200, b"OK", [], UNTIL_CLOSE, False), b"abc"]
    assert reader.read_eof()
    assert reader.events[-1] == []
    assert not reader.read_eof()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 2",
        answer(b"Content-Length: 3", body=b"ab"),
        answer(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n"),
    ],
)
def test_an_end_that_completes_nothing(data):
    reader = Reader(b"GET")
    reader.read(data)
    before = list(reader.events)
    assert not reader.read_eof()
    assert reader.events == before


@pytest.mark.parametrize("length", [[], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"]])
@pytest.mark.parametrize(
    "method, status", [(b"HEAD", b"200"), (b"HEAD", b"404"), (b"GET", b"304"), (b"GET", b"204")]
)
def test_answers_without_a_body_end_with_their_head(method, status, length):
    reader = Reader(method)
    head = answer(*length, status=b"HTTP/1.1 " + status + b" x")
    reader.read(head)
    assert [reader.events[0][0], reader.events[0][3], *reader.events[1:]] == [int(status), NO_BODY, []]
    # And the connection is good for the next one.
    reader.expect_answer(b"GET")
    reader.read(answer(b"Content-Length: 1", body=b"a"))
    assert reader.events[-2:] == [b"a", []]


@pytest.mark.parametrize("length", [[], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"]])
@pytest.mark.parametrize("junk", [b"xyz", b"5\r\nabcde\r\n0\r\n\r\n", answer(b"Content-Length: 0")])
def test_a_head_answer_with_a_body(length, junk):
    reader = Reader(b"HEAD")
    with pytest.raises(UpstreamFailed):
        reader.read(answer(*length, body=junk))
    assert len(reader.events) == 2, "the answer itself is complete"


@pytest.mark.parametrize("junk", [b"5", b"5\r", b"5\r\n", b"5;x"])
def test_the_beginning_of_a_chunk_behind_a_head_answer_is_not_forgotten(junk):
    head = answer(b"Transfer-Encoding: Chunked")
    for cut in range(len(head)):
        reader = Reader(b"HEAD")
        reader.read(head[:cut])
        with pytest.raises(UpstreamFailed, match="unasked bytes"):
            reader.read(head[cut:] + junk)
        assert reader.events == [(200, b"OK", [], NO_BODY, True), []], "the answer itself is complete"


def test_interim_answers_and_then_the_final_one():
    assert read(
        answer(b"Link: </a>", status=b"HTTP/1.1 103 Early Hints"),
        answer(status=b"HTTP/1.1 100 "),
        answer(b"Content-Length: 0"),
    ) == [
        (103, b"Early Hints", [(b"Link", b"</a>")]),
        (100, b"", []),
        (200, b"OK", [(b"Content-Length", b"0")], 0, True),
        [],
    ]


def test_endless_interim_answers():
    interim = answer(status=b"HTTP/1.1 102 x")
    reader = Reader(b"GET")
    for _ in range(DEFAULTS.interim_answers):
        reader.read(interim)
    with pytest.raises(UpstreamFailed, match="endless"):
        reader.read(interim)
    # They are counted for each request.
    reader = Reader(b"GET")
    for _ in range(3):
        reader.read(interim * DEFAULTS.interim_answers + answer(b"Content-Length: 0"))
        reader.expect_answer(b"GET")
    assert "endless" in refused(interim * (DEFAULTS.interim_answers + 1))


@pytest.mark.parametrize(
    "status, keep_alive",
    [
        ([b"HTTP/1.1 200 OK"], True),
        ([b"HTTP/1.1 200 OK", b"Connection: close"], False),
        ([b"HTTP/1.0 200 OK"], False),
        ([b"HTTP/1.0 200 OK", b"Connection: keep-alive"], True),
    ],
)
def test_whether_the_connection_is_kept(status, keep_alive):
    assert read(answer(*status[1:], b"Content-Length: 0", status=status[0]))[0][-1] is keep_alive


@pytest.mark.parametrize(
    "line, value",
    [
        (b"A:b", b"b"),
        (b"A: b \t ", b"b"),
        (b"A: \t b c", b"b c"),
        (b"A:", b""),
        (b"A: ", b""),
        (b"A: \xff\tb", b"\xff\tb"),
    ],
)
def test_values_come_without_white_space_around_them(line, value):
    assert read(answer(line, b"Content-Length: 0 "))[0][2] == [(b"A", value), (b"Content-Length", b"0")]


def test_a_coding_with_white_space_behind_it():
    assert read(answer(b"Transfer-Encoding: chunked \t", body=b"0\r\n\r\n"))[0][3] == CHUNKED


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTQ/1.1 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.10 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"RTSP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICE/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\r\n\r\nRTSP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 -20 OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x1bK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        answer(b"A : b"),
        answer(b"A b"),
        answer(b": b"),
        answer(b" A: b"),
        answer(b"A: b", b" c"),
        answer(b"A: b\0"),
        answer(b"A: b\rc"),
        answer(b"A: b\nc: d"),
        answer(b"A\xff: b"),
        answer(b"Content-Length: x"),
        answer(b"Content-Length: -1"),
        answer(b"Content-Length: +1", body=b"a"),
        answer(b"Content-Length: 1, 1", body=b"a"),
        answer(b"Content-Length: 1", b"Content-Length: 2", body=b"ab"),
        answer(b"Content-Length: 18446744073709551616"),
        answer(b"Content-Length: 18446744073709551615"),
        answer(b"Content-Length: 1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        answer(b"Transfer-Encoding: chunked", b"Content-Length: 1", body=b"0\r\n\r\n"),
        answer(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
        answer(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        answer(b"Transfer-Encoding: xchunked"),
        answer(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        answer(b"Transfer-Encoding: identity"),
        answer(b"Transfer-Encoding: chunked", status=b"HTTP/1.0 200 OK", body=b"0\r\n\r\n"),
        answer(b"Transfer-Encoding: chunked", body=b"x\r\n"),
        answer(b"Transfer-Encoding: chunked", body=b"-1\r\n"),
        answer(b"Transfer-Encoding: chunked", body=b"0x1\r\na\r\n"),
        answer(b"Transfer-Encoding: chunked", body=b"1\na\n"),
        answer(b"Transfer-Encoding: chunked", body=b"1\r\nab\r\n"),
        answer(b"Transfer-Encoding: chunked", body=b"1 \r\na\r\n"),
        answer(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n"),
        answer(b"Upgrade: x", b"Connection: upgrade", status=b"HTTP/1.1 101 Switching Protocols"),
        answer(status=b"HTTP/1.1 101 Switching Protocols"),
        answer(b"Content-Length: 0", body=b"x"),
        answer(b"Content-Length: 0", body=answer(b"Content-Length: 0")),
        answer(b"Connection: close", b"Content-Length: 0", body=b"junk"),
    ],
)
def test_what_no_upstream_may_say(data):
    whole = Reader(b"GET")
    with pytest.raises(UpstreamFailed):
        whole.read(data)
    slow = Reader(b"GET")
    with pytest.raises(UpstreamFailed):
        for i in range(len(data)):
            slow.read(data[i : i + 1])
    # A body is told as far as it is right by whoever has read so far only.
    assert [e for e in slow.events if e != b"a"] == [e for e in whole.events if e != b"a"]
    # Nothing of a body whose framing was in doubt.
    assert all(not isinstance(event, bytes) or event == b"a" for event in slow.events)


def test_an_answer_that_nobody_asked_for():
    reader = Reader()
    with pytest.raises(UpstreamFailed, match="unasked bytes"):
        reader.read(answer(b"Content-Length: 0"))
    assert reader.events == []


SWITCH = answer(b"Upgrade: WebSocket", b"Connection: upgrade", b"A: b", status=b"HTTP/1.1 101 Switch")


def test_a_switch_that_was_asked_for():
    for cut in range(len(SWITCH) + 1):
        reader = Reader()
        reader.expect_answer(b"GET", b"websocket")
        reader.read(answer(status=b"HTTP/1.1 103 x") + SWITCH[:cut])
        reader.read(SWITCH[cut:] + b"\0any")
        reader.read(b"HTTP/1.1 thing")
        assert reader.events[1:] == [
            (101, b"Switch", [(b"A", b"b")], NO_BODY, False),
            b"\0anyHTTP/1.1 thing",
        ]
        assert reader.read_eof()
        assert reader.events[-1] == []


@pytest.mark.parametrize("asked", [b"", b"other"])
def test_a_switch_to_what_was_not_asked_for(asked):
    reader = Reader()
    reader.expect_answer(b"GET", asked)
    with pytest.raises(UpstreamFailed, match="switched protocols unasked"):
        reader.read(SWITCH)
    assert reader.events == []


@pytest.mark.parametrize("lines", [[], [b"Connection: upgrade"], [b"Upgrade: websocket"]])
def test_a_switch_that_does_not_say_to_what(lines):
    reader = Reader()
    reader.expect_answer(b"GET", b"websocket")
    with pytest.raises(UpstreamFailed):
        reader.read(answer(*lines, status=b"HTTP/1.1 101 x"))
    assert reader.events == []


def test_a_switch_that_is_declined():
    reader = Reader()
    reader.expect_answer(b"GET", b"websocket")
    reader.read(answer(b"Content-Length: 2", b"Upgrade: websocket", body=b"no"))
    assert reader.events[1:] == [b"no", []]
    # What was asked for once is not asked for by the next request.
    reader.expect_answer(b"GET")
    with pytest.raises(UpstreamFailed, match="unasked"):
        reader.read(SWITCH)


def test_a_mistake_of_our_own_is_not_the_upstreams_fault():
    class Broken(Reader):
        def head_received(self, head):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Broken(b"GET").read(answer(b"Content-Length: 0"))


@pytest.mark.parametrize(
    "start, more",
    [
        (b"HTTP/1.1 200 ", b"O"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
        (b"HTTP/1.1 200 OK\r\n", b"b"),
        (b"HTTP/1.1 200 OK\r\nA: b", b"\r"),
        (answer(b"Transfer-Encoding: chunked", body=b"1;"), b"a"),
        (answer(b"Transfer-Encoding: chunked", body=b"0\r\n"), b"A: b\r\n"),
        (answer(b"Transfer-Encoding: chunked", body=b"0\r\nA: "), b"b"),
    ],
)
def test_what_never_ends_is_cut_off(start, more):
    reader = Reader(b"GET")
    reader.read(start)
    piece = more * (1000 // len(more))
    with pytest.raises(UpstreamFailed, match=r"limit|are over"):
        for _ in range(2 * DEFAULTS.answer_head_size // len(piece)):
            reader.read(piece)
    assert len(reader.events) <= 1


def test_a_head_over_the_limit_is_refused_though_it_is_whole():
    reader = Reader(b"GET")
    reader.limits = Limits(answer_head_size=100)
    fits = answer(b"Content-Length: 0", b"A: ").replace(b"A: ", b"A: " + b"b" * (100 - 45))
    assert len(fits) == 100 - 45 + len(answer(b"Content-Length: 0", b"A: ")) <= 100
    reader.read(fits)
    reader.expect_answer(b"GET")
    with pytest.raises(UpstreamFailed, match="a head over the limit"):
        reader.read(fits.replace(b"A: ", b"A: " + b"b" * 10))


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b" "])
def test_nothing_comes_before_an_answer(line):
    with pytest.raises(UpstreamFailed, match="begins with"):
        Reader(b"GET").read(line + answer(b"Content-Length: 0"))
    with pytest.raises(UpstreamFailed, match="begins with"):
        Reader(b"GET").read(line)


def test_a_long_body_is_not_cut_off():
    reader = Reader(b"GET")
    reader.read(answer(b"Transfer-Encoding: chunked"))
    for _ in range(40):
        reader.read(chunk(b"x" * 8192))
    reader.read(last_chunk([]))
    assert reader.events[1:] == [b"x" * 8192 * 40, []]


def test_each_answer_has_its_own_limit():
    reader = Reader()
    for _ in range(5):
        reader.expect_answer(b"GET")
        reader.read(answer(b"A: " + b"b" * (DEFAULTS.answer_head_size // 2), b"Content-Length: 0"))
    assert len(reader.events) == 10


@OFTEN
@given(st.binary(max_size=80), CUTS, st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_arbitrary_bytes_raise_one_error_only(junk, cuts, method, after_a_head):
    data = (answer(b"Transfer-Encoding: chunked") if after_a_head else b"") + junk
    reader = Reader(method)
    try:
        for piece in pieces(data, cuts):
            reader.read(piece)
    except UpstreamFailed:
        return
    reader.read_eof()


@OFTEN
@given(st.data())
def test_a_spoiled_answer_raises_one_error_only(data):
    whole = bytearray(
        answer(b"A: b", status=b"HTTP/1.1 103 x")
        + answer(
            b"Transfer-Encoding: chunked",
            b"Connection: X-A",
            b"X-A: 1",
            body=b"3;q\r\nabc\r\n0\r\nT: u\r\n\r\n",
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"\0", b"\r", b"\n", b"\r\n", b" ", b":", b"0", b"f", b"\xff", b","])
        )
    reader = Reader(b"GET")
    try:
        reader.read(bytes(whole))
    except UpstreamFailed:
        return
    for event in reader.events:
        if isinstance(event, tuple):
            out, _ = response_bytes(ResponseHead(event[0], event[1], event[2]), False, False)
            assert out.count(b"\n") == out.count(b"\r") == out.count(b"\r\n") == len(event[2]) + 2
            assert b"\0" not in out


INTERIM = st.lists(
    st.builds(
        lambda status, headers: h11.InformationalResponse(status_code=status, reason=b"x", headers=headers),
        st.sampled_from([100, 102, 103]),
        plain_fields,
    ),
    max_size=3,
)


def _h11_pair(method):
    """A server that has read a request with this method, and the client that sent it."""
    client, server = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    sent = client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    sent += client.send(h11.EndOfMessage())
    server.receive_data(sent)
    assert isinstance(server.next_event(), h11.Request)
    assert isinstance(server.next_event(), h11.EndOfMessage)
    return client, server


def _events(client):
    """What h11 reads, in the words of `Reader`, without framing."""
    events, body = [], b""
    while True:
        event = client.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.InformationalResponse):
            events.append((event.status_code, bytes(event.reason), list(event.headers)))
        elif isinstance(event, h11.Response):
            framing = (b"content-length", b"transfer-encoding", b"connection")
            events.append(
                (event.status_code, bytes(event.reason), [f for f in event.headers if f[0] not in framing])
            )
        elif isinstance(event, h11.EndOfMessage):
            return [*events, *([body] if body else []), list(event.headers)]
        else:
            raise AssertionError(event)


def _plain(events):
    """What our reader wrote down, without framing and keep-alive."""
    return [
        (*event[:2], [(n.lower(), v) for n, v in event[2] if n.lower() != b"content-length"])
        if isinstance(event, tuple)
        else [(n.lower(), v) for n, v in event]
        if isinstance(event, list)
        else event
        for event in events
    ]


@OFTEN
@given(
    INTERIM,
    st.sampled_from([b"GET", b"HEAD", b"POST"]),
    st.sampled_from([200, 204, 304, 404, 599]),
    plain_fields,
    BODIES,
    plain_fields,
    st.sampled_from(["length", "chunked"]),
    CUTS,
)
def test_our_reader_and_h11_read_the_same_in_any_split(
    interim, method, status, headers, body, trailers, framing, cuts
):
    client, server = _h11_pair(method)
    empty = method == b"HEAD" or status in (204, 304)
    if empty:
        body = []
    how = {
        "length": [(b"Content-Length", b"%d" % sum(map(len, body)))],
        "chunked": [(b"Transfer-Encoding", b"chunked")],
    }[framing]
    if framing != "chunked" or empty:
        trailers = []
    data = b"".join(server.send(event) for event in interim)
    data += server.send(h11.Response(status_code=status, reason=b"a \xff", headers=headers + how))
    data += b"".join(server.send(h11.Data(data=piece)) for piece in body)
    data += server.send(h11.EndOfMessage(headers=trailers))
    client.receive_data(data)
    whole = Reader(method)
    whole.read(data)
    assert _plain(whole.events) == _events(client)
    split = Reader(method)
    for piece in pieces(data, cuts):
        split.read(piece)
    assert split.events == whole.events


@PROPERTY
@given(plain_fields, BODIES, CUTS, INTERIM)
def test_an_answer_until_close_in_any_split(headers, body, cuts, interim):
    _, server = _h11_pair(b"GET")
    head = b"".join(server.send(event) for event in interim)
    head += b"HTTP/1.0 200 OK\r\n" + b"".join(b"%b: %b\r\n" % f for f in headers) + b"\r\n"
    reader = Reader(b"GET")
    for piece in pieces(head + b"".join(body), cuts):
        reader.read(piece)
    assert reader.read_eof()
    sent = b"".join(body)
    assert reader.events[len(interim) :] == [
        (200, b"OK", headers, UNTIL_CLOSE, False),
        *([sent] if sent else []),
        [],
    ]


@OFTEN
@given(
    st.sampled_from([b"GET", b"HEAD"]),
    st.sampled_from([200, 204, 304, 404]),
    fields,
    BODIES,
    plain_fields,
    st.booleans(),
)
def test_a_client_reads_back_what_we_answer(method, status, raw, body, trailers, close):
    raw = [f for f in raw if f[0].lower() != b"content-length"]
    try:
        head = prepare_response(method, True, status, b"Rea\xffson", raw)
    except UpstreamFailed:
        return
    client, _ = _h11_pair(method)
    data, chunked = response_bytes(head, False, close)
    assert chunked == (head.body in (CHUNKED, UNTIL_CLOSE))
    sent = b"".join(body) if chunked else b""
    if chunked:
        data += b"".join(map(chunk, body)) + last_chunk(trailers)
    client.receive_data(data)
    assert _events(client) == [
        (status, b"Rea\xffson", [(n.lower(), v) for n, v in head.headers]),
        *([sent] if sent else []),
        [(n.lower(), v) for n, v in trailers] if chunked else [],
    ]
    assert client.their_state is (h11.CLOSED if close else h11.DONE) or client.their_state is h11.MUST_CLOSE


def test_an_old_client_gets_no_chunks():
    head = ResponseHead(200, b"OK", [(b"A", b"b")], CHUNKED)
    assert response_bytes(head, True, True) == (
        b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n",
        False,
    )
    head = ResponseHead(200, b"OK", [(b"Content-Length", b"0")], 0)
    assert response_bytes(head, True, False) == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        False,
    )


@pytest.mark.parametrize("body", [CHUNKED, UNTIL_CLOSE])
def test_a_new_client_gets_chunks_for_an_unknown_length(body):
    head = ResponseHead(200, b"OK", [], body)
    assert response_bytes(head, False, False) == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        True,
    )
    assert response_bytes(head, False, True) == (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        True,
    )


def test_an_interim_answer_has_no_framing():
    assert interim_bytes(ResponseHead(103, b"Early Hints", [(b"Link", b"</a>")])) == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    )


def test_a_101_says_what_it_switches_to():
    head = ResponseHead(101, b"Switching Protocols", [(b"A", b"b")], upgrade=b"websocket")
    assert interim_bytes(head) == (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nA: b\r\n\r\n"
    )


def test_reasons_of_upstreams_do_not_pile_up():
    for i in range(1000):
        response_bytes(ResponseHead(200, b"reason %d" % i, []), False, False)
        response_bytes(ResponseHead(200, b"x" * 1000 + b"%d" % i, []), False, False)
    assert len(http1._STATUS_LINES) <= 256
    assert all(len(reason) < 64 for _, reason in http1._STATUS_LINES)


def test_chunks():
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert last_chunk([]) == b"0\r\n\r\n"
    assert last_chunk([(b"A", b"b"), (b"C", b"")]) == b"0\r\nA: b\r\nC: \r\n\r\n"


@pytest.mark.parametrize(
    "call",
    [("interim_received", None), ("head_received", None), ("body_received", b""), ("answer_ended", [])],
)
def test_a_reader_must_say_what_it_makes_of_it(call):
    with pytest.raises(NotImplementedError):
        getattr(ResponseReader(), call[0])(*call[1:])


# Heads of requests.


def test_a_request_head():
    head = request_head(b"GET  /a?b%20//c;d  HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t b c \t\r\nY:d\r\n\r\n")
    assert (head.method, head.target, head.version, head.flaw) == (b"GET", b"/a?b%20//c;d", b"HTTP/1.1", "")
    assert head.headers == [(b"Host", b"a"), (b"X", b""), (b"Y", b"b c"), (b"Y", b"d")]
    assert request_head(b"OPTIONS * HTTP/1.0\r\n\r\n").version == b"HTTP/1.0"


AGAIN = [
    b"Host: a\r\n\r\n",
    b"Host: a\r\nX: y\r\n\r\n",
    b"Host: a\r\nContent-Length: 5\r\n\r\n",
    b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"Host: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
AGAIN_LINES = [
    b"%b %b %b\r\n" % (method, target, version)
    for method in (b"GET", b"POST", b"CONNECT", b"BREW")
    for target in (b"/", b"/a?b", b"a:1")
    for version in (b"HTTP/1.1", b"HTTP/1.0")
]


def all_of(data, before=None):
    try:
        head = request_head(data, before=before)
        out = prepare_request(head, Peer(b"9.9.9.9"), b"id")
    except ProxyError as error:
        # Of a target that cannot be, the parser or the rules may be the first to say so.
        return error.status
    return head.headers, head.flaw, attrs.astuple(out)


@OFTEN
@given(
    st.sampled_from(AGAIN_LINES), st.sampled_from(AGAIN), st.sampled_from(AGAIN_LINES), st.sampled_from(AGAIN)
)
def test_a_head_is_read_the_same_whatever_came_before_it(line, block, next_line, next_block):
    try:
        before = request_head(line + block)
    except ProxyError:
        return
    assert all_of(next_line + next_block, before) == all_of(next_line + next_block)
    assert all_of(next_line + block, before) == all_of(next_line + block)


def test_an_answer_that_comes_again_is_read_as_what_it_answers():
    head = answer(b"Content-Length: 3")
    reader = Reader()
    for method, body in ((b"GET", b"abc"), (b"HEAD", b""), (b"GET", b"abc"), (b"GET", b"abc")):
        reader.expect_answer(method)
        reader.read(head + body)
    assert [event for event in reader.events if isinstance(event, bytes)] == [b"abc"] * 3
    assert [event[3] for event in reader.events if isinstance(event, tuple)] == [3, NO_BODY, 3, 3]


@pytest.mark.parametrize(
    "line, error",
    [
        (b"GET /", BadRequest),
        (b"GET  ", BadRequest),
        (b"GET / HTTP/1.1 ", BadRequest),
        (b"GET / http/1.1", BadRequest),
        (b"GET / HTTP/1.11", BadRequest),
        (b"GET /a b HTTP/1.1", BadRequest),
        (b"GET /\x7f HTTP/1.1", BadRequest),
        (b"GET /\t HTTP/1.1", BadRequest),
        (b"GET /\xff HTTP/1.1", BadRequest),
        (b"GET\t/ HTTP/1.1", BadRequest),
        (b" GET / HTTP/1.1", BadRequest),
        (b"G(T / HTTP/1.1", BadRequest),
        (b"GET / RTSP/1.0", BadRequest),
        (b"SOURCE / ICE/1.0", BadRequest),
        (b"GET / HTTP/1", BadRequest),
        (b"NONSENSE", BadRequest),
        (b"\x16\x03\x01\x02", BadRequest),
        (b"GET / HTTP/2.0", VersionNotSupported),
        (b"PRI * HTTP/2.0", VersionNotSupported),
        (b"GET / HTTP/0.9", VersionNotSupported),
        (b"GET / HTTP/1.2", VersionNotSupported),
        (b"BREW / HTTP/1.1", NotImplementedHere),
        (b"get / HTTP/1.1", NotImplementedHere),
        (b"GET /" + b"x" * DEFAULTS.target_size * 2 + b" HTTP/1.1\r\nX: " + b"y" * 32768, HeadTooLarge),
        (b"x" * DEFAULTS.target_size * 2, TargetTooLong),
    ],
)
def test_what_is_no_request_line(line, error):
    with pytest.raises(error):
        prepare_request(request_head(line + b"\r\nHost: a\r\n\r\n"), Peer(b"9.9.9.9"), b"id")


@pytest.mark.parametrize(
    "line",
    [
        b"A : b",
        b"A b",
        b": b",
        b" A: b",
        b"A: b\r\n c",
        b"A: b\0",
        b"A: b\rc",
        b"A: b\nc: d",
        b"A\xff: b",
        b"A: \x01",
        b"A\0: b",
        b"Content-Length: x",
        b"Content-Length: -1",
        b"Content-Length: 1, 1",
        b"Content-Length: 18446744073709551616",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 1",
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, identity",
    ],
)
def test_what_no_head_may_hold(line):
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"
    with pytest.raises(ProxyError) as caught:
        prepare_request(request_head(head), Peer(b"9.9.9.9"), b"id")
    assert caught.value.status in (400, 413, 501)


def test_a_head_at_its_limit_and_over_it():
    limits = Limits(head_size=100)
    fits = b"GET / HTTP/1.1\r\nX: " + b"y" * 77 + b"\r\n\r\n"
    assert len(fits) == 100
    assert request_head(fits, limits).headers
    with pytest.raises(HeadTooLarge, match="over 100 bytes"):
        request_head(fits.replace(b"X", b"XX"), limits)


def test_every_beginning_of_a_head_may_become_one():
    head = b"GET  /a?b  HTTP/1.1\r\nHost: a\r\nX: y\tz \r\n\r\n"
    for end in range(len(head)):
        check_begun(head[:end])


@pytest.mark.parametrize(
    "data, error",
    [
        (b" ", BadRequest),
        (b"\0", BadRequest),
        (b"\x16\x03\x01", BadRequest),
        (b"\r\n", BadRequest),
        (b"\xff", BadRequest),
        (b"GET /\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", BadRequest),
        (b"NONSENSE\r\n", BadRequest),
        (b"GET /\r\n", BadRequest),
        (b"GET / HTTP/2.0\r\n", VersionNotSupported),
        (b"x" * (DEFAULTS.target_size + 65), TargetTooLong),
        (b"GET /" + b"x" * 2 * DEFAULTS.head_size, TargetTooLong),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * DEFAULTS.head_size, HeadTooLarge),
    ],
)
def test_a_beginning_that_cannot_become_a_head(data, error):
    with pytest.raises(error):
        check_begun(data)


SPOILED = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.integers(0, 3),
        st.sampled_from(
            [b"", b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"0", b"HTTP/", b"\xff", b",", b"x" * 40]
        ),
    ),
    max_size=3,
)


@OFTEN
@given(
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT", b"BREW", b"PRI"]),
    st.sampled_from([b"/", b"*", b"/a?b", b"http://b/c", b"a:80"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"ICE/1.0"]),
    fields,
    SPOILED,
    CUTS,
)
def test_whatever_a_head_is_one_error_comes_of_it_or_what_h11_reads(
    method, target, version, raw, spoils, cuts
):
    raw = [f for f in raw if f[0].lower() != b"host"] + [(b"Host", b"a.example")]
    lines = b"".join(b"%b: %b\r\n" % f for f in raw)
    whole = bytearray(b"%b %b %b\r\n%b\r\n" % (method, target, version, lines))
    for at, length, put in spoils:
        at %= len(whole)
        whole[at : at + length] = put
    data = bytes(whole).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        head = request_head(data)
        out = prepare_request(head, Peer(b"9.9.9.9"), b"id")
    except ProxyError as error:
        assert 400 <= error.status <= 508
        return
    # What is served can be told so from its beginning, wherever that was cut.
    for cut in cuts:
        check_begun(data[: cut % len(data)])
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    server.receive_data(data)
    try:
        request: Any = server.next_event()
    except h11.RemoteProtocolError:
        # It is stricter on what two blanks mean, which we write anew.
        assert b"  " in data.partition(b"\r\n")[0]
        return
    assert (request.method, request.target) == (head.method, head.target)
    assert list(request.headers) == [(name.lower(), value) for name, value in head.headers]
    read_by_h11(request_bytes(attrs.evolve(out, body=NO_BODY, upgrade=b"", expects_continue=False)))
