"""Bodies flow while they are made, in both directions, and a slow reader costs no memory."""

from __future__ import annotations

import socket
import threading
import time

import h11
import pytest
import requests

from .raw_client import RawClient
from .servers import BIG_FILE_SIZE

CHUNKED = (b"Transfer-Encoding", b"chunked")
HEAD_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
GROWTH_LIMIT_KIB = 20 * 1024


def test_server_sent_events_arrive_one_by_one(client, slug, backend):
    first_arrived = threading.Event()

    def script(connection):
        connection.send(HEAD_CHUNKED + b"Content-Type: text/event-stream\r\n\r\n")
        connection.send(b"b\r\ndata: one\n\n\r\n")
        assert first_arrived.wait(20), "the client never got the first event"
        connection.send(b"b\r\ndata: two\n\n\r\n0\r\n\r\n")
        connection.wait_for_close()

    backend(script)
    client.begin(b"/%s/events" % slug.encode())
    client.end()
    assert client.event().status_code == 200
    assert bytes(client.event().data) == b"data: one\n\n"
    first_arrived.set()
    assert bytes(client.event().data) == b"data: two\n\n"
    assert isinstance(client.event(), h11.EndOfMessage)


def test_server_sent_events_of_a_node_service(proxy, admin, node, slug):
    admin.add_instance(node.url, slug)
    with requests.get(f"{proxy.url}/{slug}/events", stream=True, timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines) == b"data: one"
        requests.get(f"{proxy.url}/{slug}/release", timeout=20).raise_for_status()
        assert [line for line in lines if line] == [b"data: two"]


def test_a_chunked_upload_streams(client, slug, backend):
    first_arrived = threading.Event()
    received = []

    def script(connection):
        received.append(connection.read_until(b"first"))
        first_arrived.set()
        received.append(connection.read_until(b"0\r\n\r\n"))
        connection.answer()

    service = backend(script)
    client.begin(b"/%s/upload" % slug.encode(), b"POST", CHUNKED)
    client.send(b"5\r\nfirst\r\n")
    assert first_arrived.wait(20), "the backend did not get the first chunk before the last was sent"
    client.send(b"4\r\nlast\r\n0\r\n\r\n")
    assert client.answer().status == 200
    assert b"transfer-encoding: chunked" in service.heads[0].lower()
    assert b"last" in received[1]


def test_an_upload_with_a_length_streams_and_keeps_its_length(client, slug, backend):
    first_arrived = threading.Event()

    def script(connection):
        assert connection.read(5) == b"first"
        first_arrived.set()
        assert connection.read(4) == b"last"
        connection.answer()

    service = backend(script)
    client.begin(b"/%s/upload" % slug.encode(), b"PUT", (b"Content-Length", b"9"))
    client.send(b"first")
    assert first_arrived.wait(20), "the backend did not get the first bytes before the last were sent"
    client.send(b"last")
    assert client.answer().status == 200
    assert b"content-length: 9\r\n" in service.heads[0].lower()


def test_an_answer_before_the_body_is_read_comes_through(proxy, slug, backend):
    def script(connection):
        connection.answer(b"too much", "413 Content Too Large", "Connection: close")

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/upload" % slug.encode(), b"POST", (b"Content-Length", b"1000000"))
        client.send(b"x" * 1000)
        answer = client.answer()
    assert (answer.status, answer.body) == (413, b"too much")


def test_expect_100_continue_waits_for_the_backend(client, slug, backend):
    def script(connection):
        assert b"expect: 100-continue" in connection.head.lower()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.read(4) == b"body"
        connection.answer()

    backend(script)
    client.begin(b"/%s/" % slug.encode(), b"POST", (b"Content-Length", b"4"), (b"Expect", b"100-continue"))
    event = client.event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 100
    client.send(b"body")
    assert client.answer().status == 200


def test_early_hints_and_other_informational_answers_pass(client, slug, backend):
    def script(connection):
        connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        connection.answer()
        connection.wait_for_close()

    backend(script)
    answer = client.get(b"/%s/" % slug.encode())
    assert answer.status == 200
    assert [status for status, _ in answer.informational] == [102, 103]
    assert (b"link", b"</a.css>; rel=preload") in answer.informational[1][1]


def test_answer_trailers_pass(client, slug, backend):
    def script(connection):
        connection.send(HEAD_CHUNKED + b"Trailer: X-Checksum\r\n\r\n")
        connection.send(b"2\r\nok\r\n0\r\nX-Checksum: abc\r\nSet-Cookie: a=b\r\n\r\n")
        connection.wait_for_close()

    backend(script)
    answer = client.get(b"/%s/" % slug.encode(), (b"TE", b"trailers"), (b"Connection", b"TE"))
    assert answer.body == b"ok"
    assert answer.trailers == [(b"x-checksum", b"abc")]


def test_request_trailers_pass(client, slug, backend):
    received = []

    def script(connection):
        received.append(connection.read_until(b"\r\n0\r\n"))
        received.append(connection.read_until(b"\r\n\r\n"))
        connection.answer()

    backend(script)
    client.begin(b"/%s/" % slug.encode(), b"POST", CHUNKED, (b"Trailer", b"X-Checksum"))
    client.send(b"2\r\nok\r\n0\r\nX-Checksum: abc\r\n\r\n")
    assert client.answer().status == 200
    assert b"x-checksum: abc" in received[1].lower()


@pytest.mark.parametrize("reader_pause", [3.0])
def test_a_slow_reader_of_a_large_answer_costs_no_memory(proxy, admin, nginx, slug, reader_pause):
    admin.add_instance(nginx.url, slug)
    with RawClient(proxy.port, receive_buffer=65536) as client:
        client.begin(b"/%s/files/big" % slug.encode())
        client.end()
        assert client.event().status_code == 200
        before = proxy.rss_kib()
        peak = peak_during(proxy, reader_pause)
        total = 0
        while not isinstance(event := client.event(), h11.EndOfMessage):
            total += len(event.data)
            if total % (10 * 1024 * 1024) < 65536:
                peak = max(peak, proxy.rss_kib())
    assert total == BIG_FILE_SIZE
    assert peak - before < GROWTH_LIMIT_KIB, f"grew from {before} to {peak} KiB"


def test_a_slow_backend_makes_a_large_upload_wait_rather_than_fill_memory(proxy, slug, backend):
    size = 40 * 1024 * 1024
    read_on = threading.Event()
    received = []

    def script(connection):
        assert read_on.wait(30)
        received.append(len(connection.read(size)))
        connection.answer()

    backend(script)
    with RawClient(proxy.port) as client:
        before = proxy.rss_kib()
        client.begin(b"/%s/" % slug.encode(), b"POST", (b"Content-Length", b"%d" % size))
        sender = threading.Thread(target=client.send, args=(bytes(size),))
        sender.start()
        peak = peak_during(proxy, 2.0)
        was_waiting = sender.is_alive()
        read_on.set()
        sender.join(30)
        assert client.answer().status == 200
    assert was_waiting, "the whole upload went into buffers while the backend read nothing"
    assert received == [size]
    assert peak - before < GROWTH_LIMIT_KIB, f"grew from {before} to {peak} KiB"


def peak_during(proxy, seconds: float) -> int:
    """The highest resident size within this time: here passing time is what is tested."""
    deadline = time.monotonic() + seconds
    peak = 0
    while time.monotonic() < deadline:
        peak = max(peak, proxy.rss_kib())
        time.sleep(0.1)
    return peak


def test_a_client_that_goes_away_closes_the_upstream_connection(proxy, slug, backend):
    begun, closed = threading.Event(), threading.Event()

    def script(connection):
        connection.send(HEAD_CHUNKED + b"\r\n5\r\nhello\r\n")
        begun.set()
        if connection.wait_for_close():
            closed.set()

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/" % slug.encode())
        client.end()
        assert client.event().status_code == 200
        assert begun.wait(20)
    assert closed.wait(10), "the proxy kept the upstream connection of a client that left"


def test_a_client_that_goes_away_before_the_answer_cancels_the_request(proxy, slug, backend):
    asked, closed = threading.Event(), threading.Event()

    def script(connection):
        asked.set()
        if connection.wait_for_close():
            closed.set()

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/" % slug.encode())
        assert asked.wait(20)
        client.reset()
    assert closed.wait(10), "the proxy kept waiting for an answer nobody wants"


def test_a_client_that_half_closes_is_taken_for_gone(proxy, slug, backend):
    """As twisted.web does it: half a close cannot be told from a whole one."""
    asked, closed = threading.Event(), threading.Event()

    def script(connection):
        asked.set()
        if connection.wait_for_close():
            closed.set()

    backend(script)
    with RawClient(proxy.port) as client:
        client.begin(b"/%s/" % slug.encode())
        assert asked.wait(20)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.sock.recv(65536) == b""
        assert closed.wait(10), "the proxy kept asking for an answer it would not pass on"
