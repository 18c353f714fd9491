"""Backends that break HTTP, or break off: the client learns of it, and never takes a part for the whole."""

from __future__ import annotations

import h11
import pytest

from .raw_client import RawClient

CUT_SHORT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    "within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nonly this",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nxyz\r\nmore\r\n",
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kind", CUT_SHORT)
def test_an_answer_cut_short_is_cut_short_for_the_client_too(proxy, slug, backend, kind, how):
    def script(connection):
        connection.send(CUT_SHORT[kind])
        if kind == "bad chunk":
            connection.wait_for_close()
        elif how == "reset":
            connection.reset()

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/" % slug.encode())
        with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
            answer = client.answer()
            # A reset may overtake the head; then it is an honest 502 of our own.
            if answer.status == 502 and how == "reset":
                raise ConnectionResetError
            pytest.fail(f"a clean end: {answer}")


GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "bad status": b"HTTP/1.1 999999 What\r\n\r\n",
    "status 000": b"HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "huge head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1_000_000,
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
}


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_backend_that_breaks_http_is_502_in_json(proxy, slug, backend, kind, method):
    def script(connection):
        connection.send(GARBAGE[kind])

    service = backend(script)
    with RawClient(proxy.port) as client:
        extra = [(b"Content-Length", b"0")] if method == b"POST" else []
        client.begin(b"/%s/" % slug.encode(), method, *extra)
        answer = client.answer()
    assert answer.status == 502
    assert list(answer.json()) == ["error"]
    assert str(service.port).encode() not in answer.body
    assert b"127.0.0.1" not in answer.body


def test_a_request_that_reached_a_backend_is_not_sent_twice_unless_idempotent(proxy, slug, backend):
    def script(connection):
        connection.read(4)
        connection.reset()

    services = [backend(script), backend(script)]
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/" % slug.encode(), b"POST", (b"Content-Length", b"4"))
        client.send(b"once")
        assert client.answer().status == 502
    assert sum(len(each.heads) for each in services) == 1


def test_endless_informational_answers_are_cut_off(proxy, slug, backend):
    def script(connection):
        for _ in range(10_000):
            connection.send(b"HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n")

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/" % slug.encode())
        try:
            assert client.answer().status == 502
        except (h11.RemoteProtocolError, ConnectionError):
            pass  # Closed on the client: also an end.


# In one piece: what comes later than the answer cannot be told from the next one's.
STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmineHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"


def test_an_answer_nobody_asked_for_goes_to_nobody(proxy, slug, backend):
    def script(connection):
        while connection.head:
            connection.send(STRAY)
            connection.read_head()

    backend(script)
    for _ in range(10):
        with RawClient(proxy.port) as client:
            assert client.get(b"/%s/" % slug.encode()).body == b"mine"
            assert client.get(b"/%s/" % slug.encode()).body == b"mine"
