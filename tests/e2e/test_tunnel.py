"""Upgrades on raw sockets: what makes a tunnel, what does not, and how each side may end it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time

import pytest

from . import programs
from .raw_client import RawClient
from .recording import assert_served, statuses
from .waiting import wait_until

GROWTH_KIB = 20 * 1024
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n"


def asking(slug: str, protocol: bytes = b"foo") -> bytes:
    path = b"/%s/x" % slug.encode()
    return b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (path, protocol)


def switched(client: RawClient) -> bytes:
    """Read the 101; what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.sock.recv(65536)
        assert piece, data
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), data
    lines = head.lower().split(b"\r\n")
    assert b"upgrade: foo" in lines and b"connection: upgrade" in lines
    return rest


def test_bytes_of_another_protocol_go_both_ways_untouched(proxy, slug, backend):
    every = bytes(range(256)) * 100

    def script(connection):
        assert b"\r\nupgrade: foo\r\n" in connection.head.lower()
        assert b"\r\nconnection: upgrade\r\n" in connection.head.lower()
        # The protocol may begin in the segment of the answer.
        connection.send(SWITCH + b"at once")
        assert connection.read(len(every)) == every
        connection.send(every[::-1])
        connection.wait_for_close()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(asking(slug))
        rest = switched(client)
        while len(rest) < 7:
            rest += client.sock.recv(65536)
        assert rest == b"at once"
        client.send(every)
        data = b""
        while len(data) < len(every):
            data += client.sock.recv(65536)
        assert data == every[::-1]


def test_half_a_close_by_the_client_leaves_the_services_half(proxy, slug, backend):
    def script(connection):
        connection.send(SWITCH)
        asked = connection.read_until(b"never there")
        connection.send(b"you said " + asked)

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(asking(slug))
        assert switched(client) == b""
        client.send(b"everything")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.to_the_end() == b"you said everything"


def test_half_a_close_by_the_service_leaves_the_clients_half(proxy, slug, backend):
    received = []

    def script(connection):
        connection.send(SWITCH + b"my last word")
        connection.sock.shutdown(socket.SHUT_WR)
        received.append(connection.read_until(b"never there"))

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(asking(slug))
        assert switched(client) + client.to_the_end() == b"my last word"
        client.send(b"mine ")
        client.send(b"comes later")
        client.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: received, "the service has the client's half")
    assert received == [b"mine comes later"]


def test_a_reset_of_either_side_ends_the_other(proxy, slug, backend):
    gone = threading.Event()

    def script(connection):
        connection.send(SWITCH)
        if connection.read(4) == b"die!":
            connection.reset()
        elif connection.wait_for_close():
            gone.set()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(asking(slug))
        switched(client)
        client.send(b"die!")
        assert client.to_the_end() == b""
    with RawClient(proxy.port) as client:
        client.send(asking(slug))
        switched(client)
        client.send(b"live")
        client.reset()
    assert gone.wait(20)


def test_a_side_that_stops_reading_holds_up_the_other(proxy, slug, backend):
    held_up = threading.Event()

    def script(connection):
        connection.send(SWITCH)
        connection.sock.settimeout(1.5)
        with contextlib.suppress(ConnectionError):
            try:
                for _ in range(200):
                    connection.send(bytes(1_000_000))
            except TimeoutError:
                held_up.set()

    backend(script)
    before = proxy.rss_kib()
    with RawClient(proxy.port, receive_buffer=65536) as client:
        client.send(asking(slug))
        assert held_up.wait(20), "200 MB went into buffers"
        assert proxy.rss_kib() - before < GROWTH_KIB


BAD_SWITCHES = {
    "to another protocol": SWITCH.replace(b"foo", b"bar"),
    "to two protocols": SWITCH.replace(b"foo", b"foo, bar"),
    "to none": SWITCH.replace(b"Upgrade: foo\r\n", b""),
}


@pytest.mark.parametrize("kind", BAD_SWITCHES)
def test_a_101_that_is_not_what_was_asked_is_502_and_no_tunnel(proxy, slug, backend, kind):
    received = []

    def script(connection):
        if b"/next " in connection.head:
            connection.answer()
            return
        connection.send(BAD_SWITCHES[kind])
        received.append(connection.read_until(b"never there"))

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(asking(slug))
        data = client.sock.recv(65536)
        assert statuses(data) == [502]
        assert list(json.loads(data.partition(b"\r\n\r\n")[2])) == ["error"]
        with contextlib.suppress(ConnectionError):
            client.send(b"raw bytes")
        wait_until(lambda: received, "the service's connection is closed")
    assert received == [b""]
    assert_served(proxy, slug)


def test_a_service_that_goes_on_in_http_gets_no_bytes_of_another_protocol(proxy, recorder, slug):
    """200 to an upgrade: what follows on the connection is HTTP, read by us, not passed on as it is."""
    with RawClient(proxy.port) as client:
        client.send(asking(slug) + b"\x00\x01raw bytes\r\n\r\n")
        data = client.to_the_end()
    assert statuses(data) == [200, 400]
    assert len(recorder.requests) == 1
    assert recorder.broken == []
    assert_served(proxy, slug)


def test_what_is_sent_before_the_101_waits_for_it(proxy, slug, backend):
    let_go = threading.Event()
    received = []

    def script(connection):
        received.append(connection.rest())
        assert let_go.wait(20)
        connection.send(SWITCH)
        received.append(connection.read(5))

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(asking(slug) + b"early")
        wait_until(lambda: received, "the service has the request")
        time.sleep(0.2)
        let_go.set()
        switched(client)
        wait_until(lambda: len(received) == 2, "the service has the bytes")
    assert received == [b"", b"early"]


def test_a_tunnel_is_behind_the_requests_before_it(proxy, slug, backend):
    def script(connection):
        while connection.head:
            if b"upgrade: foo" in connection.head.lower():
                connection.send(SWITCH + b"hello")
                connection.wait_for_close()
                return
            connection.answer(b"first")
            connection.read_head()

    backend(script)
    with RawClient(proxy.port) as client:
        client.send(b"GET /%s/x HTTP/1.1\r\nHost: a\r\n\r\n" % slug.encode() + asking(slug))
        data = b""
        while not data.endswith(b"hello"):
            piece = client.sock.recv(65536)
            assert piece, data
            data += piece
    assert statuses(data) == [200, 101]


def test_curl_asking_for_http2_is_answered_over_1_1(proxy, admin, node, slug):
    admin.add_instance(node.url, slug)
    done = subprocess.run(
        [programs.curl(), "-sS", "--max-time", "20", "--http2", "-i", f"{proxy.url}/{slug}/x"],
        capture_output=True,
        text=True,
        check=True,
    )
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200 ")
    seen = json.loads(body)["headers"]
    assert not {"upgrade", "http2-settings"} & set(seen)
