"""How long a client's connection may take over what it does, and how many requests it may carry."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from .api import Api
from .proxy_process import ProxyProcess, running
from .raw_backend import RawBackend
from .raw_client import RawClient
from .recording import LogSince, Recorder, assert_refused, assert_served, recorded, statuses
from .waiting import wait_until

HOST = b" HTTP/1.1\r\nHost: a\r\n"
KEEPALIVE_REQUESTS = 5
HEAD_SECONDS = 1.0
IDLE_SECONDS = 1.5
GROWTH_KIB = 20 * 1024


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Iterator[ProxyProcess]:
    """A proxy whose limits of time a test can wait for; when the module ends it must stop well."""
    with running(
        tmp_path_factory.mktemp("quick"),
        *("--head-timeout", f"{HEAD_SECONDS * 1000:.0f}ms"),
        *("--idle-timeout", f"{IDLE_SECONDS * 1000:.0f}ms"),
        *("--keepalive-timeout", f"{IDLE_SECONDS * 1000:.0f}ms"),
        *("--keepalive-requests", str(KEEPALIVE_REQUESTS)),
    ) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def quick_admin(quick: ProxyProcess) -> Api:
    """Its API, as the admin."""
    return Api(quick.url).login()


@pytest.fixture
def quickly(quick_admin: Api, slug: str) -> Iterator[Recorder]:
    """What the one instance of `slug` at the quick proxy receives."""
    with recorded(quick_admin, slug) as recorder:
        yield recorder


def path_of(slug: str) -> bytes:
    return b"/%s/x" % slug.encode()


# Time.


@pytest.mark.parametrize("start", [b"G", b"GET PATH", b"GET PATH" + HOST])
def test_a_head_that_takes_too_long_is_408(quick, quickly, slug, start):
    log = LogSince(quick)
    with RawClient(quick.port) as client:
        began = time.monotonic()
        client.send(start.replace(b"PATH", path_of(slug)))
        assert_refused(client.to_the_end(), 408)
        assert HEAD_SECONDS * 0.9 < time.monotonic() - began < HEAD_SECONDS + 4
    log.assert_refusal(408, "head|slow|time|long")
    assert quickly.requests == []


def test_a_head_that_trickles_is_408_all_the_same(quick, quickly, slug):
    with RawClient(quick.port) as client, contextlib.suppress(ConnectionError):
        began = time.monotonic()
        client.send(b"GET %b" % path_of(slug) + HOST)
        while time.monotonic() - began < HEAD_SECONDS * 2:
            client.send(b"X-A: b\r\n")
            time.sleep(0.1)
    with RawClient(quick.port) as client:
        client.send(b"GET %b" % path_of(slug) + HOST)
        assert_refused(client.to_the_end(), 408)
    assert quickly.requests == []


def test_slow_heads_do_not_disturb_others(quick, quickly, slug):
    slow = [RawClient(quick.port) for _ in range(50)]
    waits = []
    for number, client in enumerate(slow):
        client.send(b"GET %b" % path_of(slug) + HOST + b"X-A: %d\r\n" % number)
    with RawClient(quick.port) as client:
        for number in range(KEEPALIVE_REQUESTS - 1):
            began = time.monotonic()
            assert client.get(b"/%s/%d" % (slug.encode(), number)).status == 200
            waits.append(time.monotonic() - began)
    for client in slow:
        assert_refused(client.to_the_end(), 408)
        client.close()
    assert max(waits) < HEAD_SECONDS / 2
    assert len(quickly.requests) == KEEPALIVE_REQUESTS - 1


def test_a_body_that_stops_is_408(quick, quickly, slug):
    log = LogSince(quick)
    with RawClient(quick.port) as client:
        began = time.monotonic()
        client.send(b"POST %b" % path_of(slug) + HOST + b"Content-Length: 10\r\n\r\nhello")
        assert_refused(client.to_the_end(), 408)
        assert IDLE_SECONDS * 0.9 < time.monotonic() - began < IDLE_SECONDS * 2 + 4
    wait_until(lambda: [line for line in log.lines() if "408" in line and "/x" in line], "a log line of it")
    assert quickly.requests == []
    assert_served(quick, slug)


def test_an_idle_connection_is_closed_without_a_word(quick, quickly, slug):
    with RawClient(quick.port) as client:
        assert client.get(path_of(slug)).status == 200
        began = time.monotonic()
        assert client.sock.recv(65536) == b""
        assert IDLE_SECONDS * 0.5 < time.monotonic() - began < IDLE_SECONDS * 2 + 2


@pytest.mark.parametrize("said", [b"", b"\r\n", b"\r"])
def test_a_connection_that_says_nothing_is_closed(quick, said):
    with RawClient(quick.port) as client:
        began = time.monotonic()
        client.send(said)
        assert client.sock.recv(65536) == b""
        assert time.monotonic() - began < IDLE_SECONDS * 2 + 2


def test_a_client_that_takes_nothing_is_let_go(quick, quick_admin, slug):
    """A slow reader may be slow, but not still."""
    ended = threading.Event()

    def script(connection):
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        with contextlib.suppress(OSError):
            connection.send(bytes(100_000_000))
        ended.set()

    with RawBackend(script) as service:
        quick_admin.add_instance(service.url, slug)
        before = quick.rss_kib()
        with RawClient(quick.port, receive_buffer=65536) as client:
            client.send(b"GET %b" % path_of(slug) + HOST + b"\r\n")
            assert ended.wait(IDLE_SECONDS * 2 + 4), "the service is still held up"
            assert len(client.to_the_end()) < 100_000_000
        assert quick.rss_kib() - before < GROWTH_KIB


# How many.


def test_the_last_request_of_a_connection_says_so(quick, quickly, slug):
    with RawClient(quick.port) as client:
        for number in range(1, KEEPALIVE_REQUESTS + 1):
            answer = client.get(path_of(slug))
            assert answer.status == 200
            assert (answer.header(b"connection") == b"close") == (number == KEEPALIVE_REQUESTS)
        assert client.sock.recv(1) == b""


def test_pipelined_beyond_the_last_request_is_not_served(quick, quickly, slug):
    with RawClient(quick.port) as client:
        client.send((b"GET %b" % path_of(slug) + HOST + b"\r\n") * (KEEPALIVE_REQUESTS + 3))
        assert statuses(client.to_the_end()) == [200] * KEEPALIVE_REQUESTS
    assert len(quickly.requests) == KEEPALIVE_REQUESTS
