"""HTTP1.md, row by row, on raw sockets against the real program: what a client may not send.

Of each: one short answer with the right status, the connection closed, nothing that the service would take
for a request, one log line that names the reason, and the next client served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs
import pytest

from .api import Api
from .proxy_process import ProxyProcess, running
from .raw_client import RawClient
from .recording import LogSince, Recorder, assert_refused, assert_served, recorded
from .waiting import wait_until

HOST = b" HTTP/1.1\r\nHost: a\r\n"
GET = b"GET PATH" + HOST
POST = b"POST PATH" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET PATH/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
BODY_LIMIT = 1024 * 1024
PROMPTLY = 8.0
"""Seconds in which a refusal must be out and the connection closed, the proxy's lingering included."""


@attrs.frozen
class Row:
    """What a client sends (``PATH`` stands for a path of the service), and how that is refused."""

    sent: bytes
    status: int | tuple[int, ...]
    reason: str

    @property
    def allowed(self) -> tuple[int, ...]:
        return (self.status,) if isinstance(self.status, int) else self.status


def with_host(value: bytes) -> bytes:
    return b"GET PATH HTTP/1.1\r\nHost: " + value + b"\r\n\r\n"


def with_coding(value: bytes, version: bytes = b"1.1") -> bytes:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    return b"POST PATH HTTP/%b\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n%b" % (version, value, body)


def with_length(*values: bytes) -> bytes:
    return POST + b"".join(b"Content-Length: %b\r\n" % value for value in values) + b"\r\nhello"


ROWS = {
    # An upgrade with a body: the parser takes the body for a new request.
    "upgrade with a length": Row(
        GET + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 400, "upgrade"
    ),
    "upgrade with chunks": Row(
        GET + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
        400,
        "upgrade",
    ),
    "upgrade with a length by POST": Row(
        POST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 400, "upgrade"
    ),
    # The request line: exactly HTTP/1.0 or HTTP/1.1.
    "no version": Row(b"GET PATH\r\n\r\n", 400, "HTTP|request"),
    "no version and fields": Row(b"GET PATH\r\nHost: a\r\n\r\n", 400, "HTTP|request"),
    "RTSP": Row(b"GET PATH RTSP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP|request"),
    "ICE": Row(b"SOURCE PATH ICE/1.0\r\nHost: a\r\n\r\n", (400, 501), "HTTP|request|method"),
    "HTTP/2.0": Row(b"GET PATH HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP"),
    "the preface of HTTP/2": Row(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 501, 505), "HTTP|method"),
    "HTTP/1.2": Row(b"GET PATH HTTP/1.2\r\nHost: a\r\n\r\n", (400, 505), "HTTP|request"),
    "http/1.1": Row(b"GET PATH http/1.1\r\nHost: a\r\n\r\n", 400, "HTTP|request"),
    "HTTP/1.1 and more": Row(b"GET PATH HTTP/1.1 x\r\nHost: a\r\n\r\n", 400, "HTTP|request"),
    "TLS": Row(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "HTTP|request|parse"),
    # Transfer codings: one chunked, on 1.1.
    "an empty coding before chunked": Row(with_coding(b",chunked"), 400, "Transfer-Encoding"),
    "two coding fields": Row(with_coding(b"chunked\r\nTransfer-Encoding: chunked"), 400, "Transfer-Encoding"),
    "chunked twice": Row(with_coding(b"chunked, chunked"), 400, "Transfer-Encoding"),
    "gzip and chunked": Row(with_coding(b"gzip, chunked"), 501, "coding"),
    "gzip": Row(with_coding(b"gzip"), (400, 501), "coding"),
    "xchunked": Row(with_coding(b"xchunked"), (400, 501), "coding"),
    "chunked and a parameter": Row(with_coding(b"chunked;a=b"), (400, 501), "coding"),
    "chunked and a vertical tab": Row(with_coding(b"chunked\x0b"), (400, 501), "coding|header value"),
    "a coding in HTTP/1.0": Row(with_coding(b"chunked", b"1.0"), 400, "Transfer-Encoding"),
    "a length and a coding": Row(
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Content-Length"
    ),
    "a coding and a length": Row(
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "Content-Length"
    ),
    # Host: exactly one, strictly.
    "no Host": Row(b"GET PATH HTTP/1.1\r\n\r\n", 400, "no Host"),
    "an empty Host": Row(with_host(b""), 400, "Host"),
    "two Hosts": Row(with_host(b"a\r\nHost: a"), 400, "more than one Host"),
    "userinfo in Host": Row(with_host(b"user@a"), 400, "Host"),
    "a space in Host": Row(with_host(b"a b"), 400, "Host"),
    "a comma in Host": Row(with_host(b"a,b"), 400, "Host"),
    "a path in Host": Row(with_host(b"a/b"), 400, "Host"),
    "a port of letters": Row(with_host(b"a:b"), 400, "Host"),
    "a port too large": Row(with_host(b"a:65536"), 400, "Host"),
    "a negative port": Row(with_host(b"a:-1"), 400, "Host"),
    "raw bytes in Host": Row(with_host(b"\xc3\xa4.example"), 400, "Host"),
    "half a bracket": Row(with_host(b"[::1"), 400, "Host"),
    # The target.
    "another scheme": Row(b"GET ftp://a/PATH" + HOST + b"\r\n", 400, "target"),
    "a scheme and no host": Row(b"GET http:///PATH" + HOST + b"\r\n", 400, "target"),
    "userinfo in the target": Row(b"GET http://user@aPATH" + HOST + b"\r\n", 400, "target"),
    "a target without a slash": Row(b"GET svc" + HOST + b"\r\n", 400, "target|url"),
    "a fragment": Row(b"GET PATH#here" + HOST + b"\r\n", 400, "target"),
    "raw bytes in the target": Row(b"GET PATH/\xc3\xa4" + HOST + b"\r\n", 400, "target|url"),
    "dots that leave the service": Row(
        b"GET PATH/%2e%2e/%2e%2e/x" + HOST + b"\r\n", 400, "target|path|segment"
    ),
    # Methods.
    "CONNECT": Row(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "CONNECT"),
    "TRACE": Row(b"TRACE PATH" + HOST + b"\r\n", 405, "TRACE"),
    "an unknown method": Row(b"BREW PATH" + HOST + b"\r\n", 501, "method"),
    "a method in lower case": Row(b"get PATH" + HOST + b"\r\n", 501, "method"),
    # Lengths.
    "two lengths": Row(with_length(b"5", b"5"), 400, "Content-Length"),
    "two different lengths": Row(with_length(b"5", b"6"), 400, "Content-Length"),
    "a list of lengths": Row(with_length(b"5, 5"), 400, "Content-Length"),
    "a signed length": Row(with_length(b"+5"), 400, "Content-Length"),
    "a negative length": Row(with_length(b"-5"), 400, "Content-Length"),
    "a length in hexadecimal": Row(with_length(b"0x5"), 400, "Content-Length"),
    "an empty length": Row(with_length(b""), 400, "Content-Length"),
    "a length of 2**64 - 1": Row(with_length(b"18446744073709551615"), (400, 413), "Content-Length|body"),
    "a chunk of 2**63": Row(CHUNKED + b"8000000000000000\r\nhello", (400, 413), "body|chunk"),
    # Header fields.
    "a folded field": Row(GET + b"X-A: b\r\n c\r\n\r\n", 400, "."),
    "a space before the colon": Row(GET + b"X-A : b\r\n\r\n", 400, "."),
    "a field without a colon": Row(GET + b"X-A\r\n\r\n", 400, "."),
    "a field without a name": Row(GET + b": b\r\n\r\n", 400, "."),
    "NUL in a field": Row(GET + b"X-A: b\x00c\r\n\r\n", 400, "."),
    "CR in a field": Row(GET + b"X-A: b\rc\r\n\r\n", 400, "."),
    "a bare LF": Row(b"GET PATH HTTP/1.1\nHost: a\n\n", 400, "."),
    "a bare LF that hides a field": Row(GET + b"X-A: b\nX-B: c\r\n\r\n", 400, "."),
    "an unknown expectation": Row(
        POST + b"Expect: a-miracle\r\nContent-Length: 5\r\n\r\nhello", 417, "expectation"
    ),
    # Chunks.
    "a chunk size of letters": Row(CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n", 400, "."),
    "a signed chunk size": Row(CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", 400, "."),
    "a chunk size in 0x": Row(CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400, "."),
    "a chunk that is longer than it says": Row(CHUNKED + b"3\r\nhello\r\n0\r\n\r\n" + SMUGGLED, 400, "."),
    "a bare LF after a chunk size": Row(CHUNKED + b"5\nhello\r\n0\r\n\r\n", 400, "."),
    "a chunk size that ends with CR": Row(CHUNKED + b"5\rhello\r\n0\r\n\r\n", 400, "."),
    "a trailer without a colon": Row(CHUNKED + b"5\r\nhello\r\n0\r\nX-A\r\n\r\n", 400, "."),
    # Sizes: counted in each phase, whether the parser tells or not.
    "a field of 1 MB": Row(GET + b"X-A: " + b"a" * 1_000_000 + b"\r\n\r\n", 431, "head"),
    "a field name of 1 MB": Row(GET + b"a" * 1_000_000 + b": b\r\n\r\n", (400, 431), "head|field"),
    "a target of 1 MB": Row(b"GET PATH/" + b"a" * 1_000_000 + HOST + b"\r\n", 414, "target"),
    "a target over its limit": Row(b"GET PATH/" + b"a" * 17_000 + HOST + b"\r\n", 414, "target"),
    "a method of 1 MB": Row(b"G" * 1_000_000 + b" PATH" + HOST + b"\r\n", (400, 414, 431, 501), "."),
    "1000 fields": Row(GET + b"X-A: b\r\n" * 1000 + b"\r\n", 431, "fields|head"),
    "129 fields": Row(b"GET PATH HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 128 + b"\r\n", 431, "fields"),
    "100,000 trailers": Row(
        CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n", (400, 431), "trailer|head"
    ),
    "a chunk extension of 16 MB": Row(
        CHUNKED + b"5;" + b"a" * 16_000_000 + b"\r\nhello\r\n0\r\n\r\n", 400, "extension"
    ),
    "a chunk extension over its limit": Row(
        CHUNKED + b"5;" + b"a" * 2_000 + b"\r\nhello\r\n0\r\n\r\n", 400, "extension"
    ),
    "16 MB of empty lines": Row(b"\r\n" * 8_000_000 + GET + b"\r\n", (400, 431), "."),
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory) -> Iterator[ProxyProcess]:
    """A proxy with limits that a test can reach; when the module ends it must stop well."""
    with running(tmp_path_factory.mktemp("strict"), "--body-limit", str(BODY_LIMIT)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def strict_admin(strict: ProxyProcess) -> Api:
    """Its API, as the admin."""
    return Api(strict.url).login()


@pytest.fixture
def recorder(strict_admin: Api, slug: str) -> Iterator[Recorder]:
    """What the one instance of `slug` receives."""
    with recorded(strict_admin, slug) as recorder:
        yield recorder


def exchange(proxy: ProxyProcess, sent: bytes) -> bytes:
    """Send it all, as far as the proxy takes it, and read to the end of the connection."""
    with RawClient(proxy.port) as client:
        client.sock.settimeout(PROMPTLY)
        # Refused in the middle its answer may be there all the same.
        with contextlib.suppress(ConnectionError):
            client.send(sent)
        return client.to_the_end()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_refused(strict, recorder, slug, name):
    row = ROWS[name]
    log = LogSince(strict)
    status = assert_refused(
        exchange(strict, row.sent.replace(b"PATH", b"/%s/x" % slug.encode())), *row.allowed
    )
    assert recorder.requests == []
    log.assert_refusal(status, row.reason)
    assert_served(strict, slug)
    assert [request.target for request in recorder.requests] == [b"/%s/next" % slug.encode()]
    # A part of a body may have gone on before it broke; never anything that is not HTTP.
    assert recorder.broken == []


def test_a_length_over_the_limit_is_refused(strict, recorder, slug):
    log = LogSince(strict)
    sent = with_length(b"%d" % (BODY_LIMIT + 1)).replace(b"PATH", b"/%s/x" % slug.encode())
    assert_refused(exchange(strict, sent), 413)
    assert recorder.requests == []
    # Who may come may be too large, which is no news for the program's log: the access log has it.
    wait_until(lambda: [line for line in log.lines() if "the body is over" in line], "the reason is logged")
    assert_served(strict, slug)


def test_a_head_that_comes_in_pieces_is_capped_as_well(strict, recorder, slug):
    """A value without an end in 16 KB pieces costs a naive parser two minutes of CPU."""
    log = LogSince(strict)
    before = strict.cpu_seconds()
    with RawClient(strict.port) as client:
        client.send(b"GET /%s/x HTTP/1.1\r\nHost: a\r\nX-A: " % slug.encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(4000):
                client.send(b"a" * 16_384)
        assert_refused(client.to_the_end(), 431)
    log.assert_refusal(431, "head")
    assert strict.cpu_seconds() - before < 2
    assert_served(strict, slug)


@pytest.mark.parametrize(
    "sizes", [[65536] * 17, [BODY_LIMIT + 1], [1] * 10 + [BODY_LIMIT]], ids=["many", "one", "last"]
)
def test_a_body_over_the_limit_is_refused_while_it_comes(strict, recorder, slug, sizes):
    log = LogSince(strict)
    with RawClient(strict.port) as client:
        client.sock.settimeout(PROMPTLY)
        client.send(CHUNKED.replace(b"PATH", b"/%s/x" % slug.encode()))
        with contextlib.suppress(ConnectionError):
            for size in sizes:
                client.send(b"%x\r\n%b\r\n" % (size, b"a" * size))
        assert_refused(client.to_the_end(), 413)
    # It had begun its way to the service, so the line is that of the exchange.
    wait_until(
        lambda: [line for line in log.lines() if "the body is over" in line], "the log names the reason"
    )
    assert recorder.requests == []
    assert_served(strict, slug)


def test_a_body_just_at_the_limit_passes(strict, recorder, slug):
    path = b"/%s/x" % slug.encode()
    for head, body in (
        (POST + b"Content-Length: %d\r\n\r\n" % BODY_LIMIT, b"a" * BODY_LIMIT),
        (CHUNKED, b"%x\r\n" % BODY_LIMIT + b"a" * BODY_LIMIT + b"\r\n0\r\n\r\n"),
    ):
        with RawClient(strict.port) as client:
            client.send(head.replace(b"PATH", path) + body)
            assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert [len(request.body) for request in recorder.requests] == [BODY_LIMIT, BODY_LIMIT]
