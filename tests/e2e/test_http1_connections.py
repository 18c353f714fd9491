"""Connections of clients: pipelining, versions, expectations, and how each way of ending them ends."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from .raw_client import RawClient
from .recording import assert_served, statuses

HOST = b" HTTP/1.1\r\nHost: a\r\n"
GROWTH_KIB = 20 * 1024


def path_of(slug: str) -> bytes:
    return b"/%s/x" % slug.encode()


# Pipelining.


def test_a_thousand_pipelined_requests_are_answered_in_order(proxy, recorder, slug):
    count = 1000
    paths = [b"/%s/%d" % (slug.encode(), number) for number in range(count)]
    heads = [b"GET %b" % path + HOST for path in paths[:-1]]
    sent = b"\r\n".join(heads) + b"\r\nGET %b" % paths[-1] + HOST + b"Connection: close\r\n\r\n"
    with RawClient(proxy.port) as client:
        threading.Thread(target=client.send, args=(sent,), daemon=True).start()
        data = client.to_the_end()
    bodies = [piece.partition(b"\r\n\r\n")[2] for piece in data.split(b"HTTP/1.1 ")[1:]]
    assert statuses(data) == [200] * count
    assert bodies == paths
    assert [request.target for request in recorder.requests] == paths


def test_pipelining_without_reading_is_held_up_and_costs_no_memory(proxy, slug, backend):
    def script(connection):
        with contextlib.suppress(OSError):
            while connection.head:
                connection.answer(b"a" * 10_000)
                connection.read_head()

    service = backend(script)
    request = b"GET %b" % path_of(slug) + HOST + b"\r\n"
    before = proxy.rss_kib()
    with RawClient(proxy.port, receive_buffer=65536) as client:
        client.sock.settimeout(2.0)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100_000_000:
                sent += client.sock.send(request * 1000)
        assert proxy.rss_kib() - before < GROWTH_KIB
    assert sent < 50_000_000
    assert len(service.heads) < 100


# Versions.


@pytest.mark.parametrize("keep", [True, False])
def test_http_1_0_keeps_the_connection_only_where_asked(proxy, recorder, slug, keep):
    fields = b"Host: a\r\nConnection: keep-alive\r\n\r\n" if keep else b"Host: a\r\n\r\n"
    request = b"GET %b HTTP/1.0\r\n" % path_of(slug) + fields
    with RawClient(proxy.port) as client:
        client.send(request)
        data = b""
        while path_of(slug) not in data:
            data += client.sock.recv(65536)
        assert (b"\r\nconnection: keep-alive\r\n" in data.lower()) == keep
        if keep:
            client.send(request)
            assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        else:
            assert client.sock.recv(65536) == b""
    assert len(recorder.requests) == 1 + keep


# Expect.


def expecting(slug: str) -> bytes:
    return b"POST %b" % path_of(slug) + HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"


def test_the_service_decides_about_an_expected_body(proxy, slug, backend):
    asked = threading.Event()
    bodies = []

    def script(connection):
        assert b"\r\nexpect: 100-continue\r\n" in connection.head.lower()
        assert asked.wait(20)
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(connection.read(5))
        connection.answer()
        connection.wait_for_close()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(expecting(slug))
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        asked.set()
        client.sock.settimeout(20)
        assert client.sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert bodies == []
        client.send(b"hello")
        assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert bodies == [b"hello"]


def test_a_service_that_says_nothing_of_it_gets_the_body_after_a_second(proxy, slug, backend):
    def script(connection):
        assert connection.read(5) == b"hello"
        connection.answer()
        connection.wait_for_close()

    backend(script)
    with RawClient(proxy.port) as client:
        began = time.monotonic()
        client.send(expecting(slug))
        assert client.sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert 0.9 < time.monotonic() - began < 3
        client.send(b"hello")
        assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_service_that_wants_no_expected_body_is_not_sent_it(proxy, slug, backend):
    def script(connection):
        connection.answer(b"no", "403 Forbidden")
        assert connection.wait_for_close()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(expecting(slug))
        data = client.to_the_end()
    assert statuses(data) == [403]
    assert b"\r\nconnection: close\r\n" in data.lower()


# Ends in the middle.


def test_half_a_head_and_gone(proxy, recorder, slug):
    with RawClient(proxy.port) as client:
        client.send(b"GET %b" % path_of(slug) + HOST)
    assert_served(proxy, slug)
    assert [request.target for request in recorder.requests] == [b"/%s/next" % slug.encode()]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"]
)
def test_half_a_body_and_gone_is_never_a_request(proxy, slug, backend, framing, how):
    begun, gone = threading.Event(), threading.Event()
    received = []

    def script(connection):
        if b"/next " in connection.head:
            connection.answer()
            return
        received.append(connection.read_until(b"hel"))
        begun.set()
        received.append(connection.read_until(b"never there"))
        gone.set()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(b"POST %b" % path_of(slug) + HOST + framing)
        assert begun.wait(20)
        if how == "reset":
            client.reset()
    assert gone.wait(10), "the service was left waiting"
    assert b"0\r\n\r\n" not in b"".join(received)
    assert_served(proxy, slug)


def test_a_client_that_resets_in_the_middle_of_an_answer_frees_the_service(proxy, slug, backend):
    gone = threading.Event()

    def script(connection):
        if b"/next " in connection.head:
            connection.answer()
            return
        with contextlib.suppress(OSError):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                connection.send(bytes(1_000_000))
        gone.set()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(b"GET %b" % path_of(slug) + HOST + b"\r\n")
        assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.reset()
    assert gone.wait(10)
    assert_served(proxy, slug)


def test_a_built_in_service_and_a_proxied_one_share_a_connection(proxy, recorder, slug):
    """The connection goes over to twisted.web with the bytes at hand, and back is not needed."""
    built_in = b"GET /user-svc/public-key" + HOST
    proxied = b"GET %b" % path_of(slug) + HOST
    with RawClient(proxy.port) as client:
        client.send(
            proxied
            + b"\r\n"
            + built_in
            + b"\r\n"
            + proxied
            + b"\r\n"
            + built_in
            + b"Connection: close\r\n\r\n"
        )
        data = client.to_the_end()
    assert statuses(data) == [200, 200, 200, 200]
    answers = [piece.partition(b"\r\n\r\n")[2] for piece in data.split(b"HTTP/1.1 ")[1:]]
    assert [answer == path_of(slug) for answer in answers] == [True, False, True, False]
    assert len(recorder.requests) == 2
