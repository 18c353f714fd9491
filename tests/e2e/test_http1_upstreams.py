"""HTTP1.md, "From upstreams": what a service may not send, and what the client sees of it."""

from __future__ import annotations

import threading
import time

import pytest

from .raw_client import RawClient
from .recording import LogSince, statuses
from .waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"5\r\nhello\r\n0\r\n\r\n"
BROKEN = {
    "status 000": b"HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 What\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked in two fields": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + BODY,
    "xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY,
    "gzip and chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BODY,
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "a length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "chunked and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a signed length": OK + b"Content-Length: +5\r\n\r\nhello",
    "a length of 2**64 - 1": OK + b"Content-Length: 18446744073709551615\r\n\r\nhello",
    "a folded field": OK + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "NUL in a field": OK + b"X-A: b\x00c\r\nContent-Length: 0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
    "not HTTP": b"+OK Hello there\r\n\r\n",
    "1xx without an end": b"HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n" * 1000,
    "a head without an end": OK + b"X-A: " + b"a" * 1_000_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_502_and_the_next_request_is_served(proxy, slug, backend, kind):
    def script(connection):
        if b"/good " in connection.head:
            connection.answer(b"good")
        else:
            connection.send(BROKEN[kind])
        # Such a connection must not be used again: its next bytes belong to nobody.
        assert connection.wait_for_close() or b"/good " in connection.head

    path = b"/%s" % slug.encode()
    service = backend(script)
    log = LogSince(proxy)
    with RawClient(proxy.port) as client:
        answer = client.get(path + b"/bad")
        assert answer.status == 502
        assert list(answer.json()) == ["error"]
        assert str(service.port).encode() not in answer.body
        if kind == "1xx without an end":
            assert len(answer.informational) == 16
        assert client.get(path + b"/good").body == b"good"
    wait_until(
        lambda: [line for line in log.lines() if f"127.0.0.1:{service.port}" in line and "/bad" in line],
        f"a log line that names the instance, of {log.lines()}",
    )


def test_an_answer_nobody_asked_for_is_nobodys(proxy, slug, backend):
    """One that comes before the next request is sent gets to nobody; of a later one nobody can tell."""

    def script(connection):
        connection.send(OK + b"Content-Length: 4\r\n\r\nmine" + OK + b"Content-Length: 5\r\n\r\nstray")
        connection.wait_for_close()

    service = backend(script)
    path = b"/%s" % slug.encode()
    with RawClient(proxy.port) as client:
        for _ in range(10):
            assert client.get(path).body == b"mine"
    assert len(service.heads) == 10, "a connection with a stray answer was used again"


def test_a_head_answer_has_no_body_whatever_it_says(proxy, slug, backend):
    def script(connection):
        while connection.head:
            if connection.head.startswith(b"HEAD"):
                connection.send(OK + b"Content-Length: 5\r\n\r\n")
            else:
                connection.answer(b"hello")
            connection.read_head()

    service = backend(script)
    path = b"/%s" % slug.encode()
    with RawClient(proxy.port) as client:
        for _ in range(3):
            client.begin(path, b"HEAD")
            answer = client.answer()
            assert (answer.status, answer.body, answer.header(b"content-length")) == (200, b"", b"5")
            assert client.get(path).body == b"hello"
    assert len(service.heads) == 1, "the connection could have been kept"


def test_a_body_sent_to_head_goes_to_nobody(proxy, slug, backend):
    def script(connection):
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
        connection.wait_for_close()

    service = backend(script)
    path = b"/%s" % slug.encode()
    with RawClient(proxy.port) as client:
        client.begin(path, b"HEAD")
        # What is seen before its answer has left may still make a 502 of it.
        assert client.answer().status in (200, 502)
    with RawClient(proxy.port) as client:
        assert client.get(path).body.startswith(b"HTTP/1.1 200 OK")
    assert len(service.heads) == 2, "the connection was used again"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_statuses_without_a_body_leave_the_connection_usable(proxy, slug, backend, status):
    def script(connection):
        while connection.head:
            length = b"Content-Length: 5\r\n" if status.startswith(b"304") else b""
            connection.send(b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n")
            connection.read_head()

    service = backend(script)
    with RawClient(proxy.port) as client:
        for _ in range(3):
            answer = client.get(b"/%s" % slug.encode())
            assert (answer.status, answer.body) == (int(status[:3]), b"")
            assert answer.header(b"transfer-encoding") is None
    assert len(service.heads) == 1


def test_an_end_that_only_the_connection_tells(proxy, slug, backend):
    """Chunked for HTTP/1.1, which can then go on; to HTTP/1.0 the same way as it came."""

    def script(connection):
        connection.send(OK + b"\r\nuntil the ")
        connection.send(b"end")

    backend(script)
    path = b"/%s" % slug.encode()
    with RawClient(proxy.port) as client:
        for _ in range(2):
            answer = client.get(path)
            assert (answer.body, answer.header(b"transfer-encoding")) == (b"until the end", b"chunked")
    with RawClient(proxy.port) as client:
        client.send(b"GET %b HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" % path)
        head, _, body = client.to_the_end().partition(b"\r\n\r\n")
    assert body == b"until the end"
    assert b"chunked" not in head.lower() and b"content-length" not in head.lower()


CUT_SHORT = {
    "length": OK + b"Content-Length: 100\r\n\r\nonly this",
    "chunked": CHUNKED + b"9\r\nonly this\r\n",
    "in a chunk": CHUNKED + b"ff\r\nonly this",
    "in the trailers": CHUNKED + b"9\r\nonly this\r\n0\r\nX-A: b",
    "no chunk size": CHUNKED + b"9\r\nonly this\r\nxyz\r\nmore\r\n",
    "a chunk too long": CHUNKED + b"9\r\nonly this and more\r\n0\r\n\r\n",
    "a chunk extension without an end": CHUNKED + b"9\r\nonly this\r\n5;" + b"a" * 200_000,
}


BREAKS_OFF = ("length", "chunked", "in a chunk", "in the trailers")
HOW = [(kind, how) for kind in CUT_SHORT for how in (("close", "reset") if kind in BREAKS_OFF else ("stay",))]


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("kind, how", HOW)
def test_an_answer_cut_short_ends_in_a_reset(proxy, slug, backend, kind, how, version):
    """Never in a clean end, and never with words of ours in the middle of it."""
    started = threading.Event()

    def script(connection):
        connection.send(CUT_SHORT[kind])
        if how == "stay":
            assert connection.wait_for_close()
        elif how == "reset":
            # Not before the head is through: a reset throws away what was sent before it.
            assert started.wait(20)
            connection.reset()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(b"GET /%s HTTP/%b\r\nHost: a\r\n\r\n" % (slug.encode(), version))
        data = b""
        with pytest.raises(ConnectionResetError):
            while piece := client.sock.recv(65536):
                data += piece
                if b"only this" in data:
                    started.set()
            pytest.fail(f"a clean end of {data!r}")
    if data:
        assert statuses(data) == [200]
        assert b"error" not in data
        assert not data.endswith(b"0\r\n\r\n")


def test_trailers_of_an_answer_pass_but_for_those_that_frame_or_authenticate(proxy, slug, backend):
    def script(connection):
        connection.send(
            CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 7\r\n\r\n"
        )
        connection.wait_for_close()

    backend(script)
    with RawClient(proxy.port) as client:
        answer = client.get(b"/%s" % slug.encode(), (b"TE", b"trailers"), (b"Connection", b"TE"))
        assert (answer.body, answer.trailers) == (b"hello", [(b"x-sum", b"1")])


def test_a_service_that_closes_after_each_answer_costs_no_failed_request(proxy, slug, backend):
    """A connection gone stale is found out on its reuse, and the request sent once more on another."""

    def script(connection):
        connection.answer()

    backend(script)
    with RawClient(proxy.port) as client:
        for number in range(30):
            assert client.get(b"/%s/%d" % (slug.encode(), number)).status == 200


def test_an_early_answer_reaches_a_client_that_still_sends(proxy, slug, backend):
    """413 in the middle of an upload: the client must get to read it, and is not listened to for ever."""

    def script(connection):
        connection.answer(b"too much", "413 Content Too Large", "Connection: close")

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s" % slug.encode(), b"POST", (b"Content-Length", b"50000000000"))
        for _ in range(100):
            client.send(b"a" * 50_000)
        answer = client.answer()
        assert (answer.status, answer.body, answer.header(b"connection")) == (413, b"too much", b"close")
        deadline = time.monotonic() + 10
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                client.send(b"a" * 10_000)
                time.sleep(0.01)
