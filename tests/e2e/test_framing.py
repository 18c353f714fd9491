"""Answers without a body, connections that are used again, and old HTTP."""

from __future__ import annotations

import pytest

from .raw_client import RawClient


def script_by_path(connection):
    """Answer /<slug>/<name> by name, each with the framing its name says."""
    while connection.head:
        name = connection.head.split(b" ")[1].rsplit(b"/", 1)[1]
        connection.send(ANSWERS[name])
        connection.read_head()


ANSWERS = {
    b"length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    b"204": b"HTTP/1.1 204 No Content\r\n\r\n",
    b"304": b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "a"\r\n\r\n',
    b"head": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"head-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


def test_one_connection_carries_every_framing_in_turn(client, slug, backend):
    service = backend(script_by_path)
    prefix = b"/%s/" % slug.encode()
    plan = [
        (b"GET", b"204", 204, b""),
        (b"GET", b"length", 200, b"hello"),
        (b"HEAD", b"head", 200, b""),
        (b"GET", b"chunked", 200, b"hello"),
        (b"GET", b"304", 304, b""),
        (b"GET", b"empty", 200, b""),
        (b"HEAD", b"head-chunked", 200, b""),
        (b"GET", b"length", 200, b"hello"),
    ]
    for method, name, status, body in plan:
        client.begin(prefix + name, method)
        answer = client.answer()
        assert (answer.status, answer.body) == (status, body), name
        if name == b"head":
            assert answer.header(b"content-length") == b"5"
        if name in (b"204", b"304"):
            assert answer.header(b"transfer-encoding") is None
        if name == b"304":
            assert answer.header(b"etag") == b'"a"'
    # Every answer was complete, so one upstream connection served them all.
    assert len(service.heads) == 1


def test_an_answer_that_ends_with_the_connection_comes_whole(client, slug, backend):
    def script(connection):
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the ")
        connection.send(b"end")

    backend(script)
    assert client.get(b"/%s/" % slug.encode()).body == b"until the end"
    assert client.get(b"/%s/" % slug.encode()).body == b"until the end"


def test_pipelined_requests_are_answered_in_order(proxy, slug, backend):
    def script(connection):
        while connection.head:
            connection.answer(connection.head.split(b" ")[1])
            connection.read_head()

    backend(script)
    paths = [b"/%s/%d" % (slug.encode(), number) for number in range(8)]
    with RawClient(proxy.port) as client:
        head = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
        last = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        client.send(b"".join(head % path for path in paths[:-1]) + last % paths[-1])
        data = b""
        while piece := client.sock.recv(65536):
            data += piece
    positions = [data.index(b"\r\n\r\n" + path) for path in paths]
    assert positions == sorted(positions)
    assert data.count(b"HTTP/1.1 200 ") == len(paths)


@pytest.mark.parametrize("name", [b"length", b"chunked"])
def test_an_http_1_0_client_gets_a_body_it_understands(proxy, slug, backend, name):
    backend(script_by_path)
    with RawClient(proxy.port) as client:
        client.send(b"GET /%s/%s HTTP/1.0\r\nHost: a\r\n\r\n" % (slug.encode(), name))
        data = b""
        while piece := client.sock.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"transfer-encoding" not in head.lower()
    assert body == b"hello"


def test_a_backend_that_closes_idle_connections_costs_no_failed_get(client, slug, backend):
    def script(connection):
        connection.answer()  # And then it closes, without having said so.

    backend(script)
    for number in range(30):
        assert client.get(b"/%s/%d" % (slug.encode(), number)).status == 200


def test_connection_close_is_honoured(proxy, slug, backend):
    backend()
    with RawClient(proxy.port) as client:
        answer = client.get(b"/%s/" % slug.encode(), (b"Connection", b"close"))
        assert answer.status == 200
        assert client.sock.recv(1) == b""
