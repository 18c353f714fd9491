"""What a backend learns about the client, and what a client cannot make it believe."""

from __future__ import annotations

import re

import pytest
import requests

from .api import Api
from .raw_client import RawClient

SPOOFED = [
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"evil.example"),
    (b"X-Real-IP", b"6.6.6.6"),
    (b"X-Request-Id", b"evil-request-id"),
    (b"X_Forwarded_For", b"6.6.6.6"),
    (b"Proxy", b"http://evil.example"),
    (b"Forwarded", b"for=6.6.6.6"),
]


def fields(head: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def test_the_backend_learns_who_asked_and_spoofed_headers_are_dropped(backend, client, slug):
    service = backend()
    client.begin(b"/%s/" % slug.encode(), b"GET", (b"Host", b"Shop.example:8080"), *SPOOFED)
    assert client.answer().status == 200
    seen = fields(service.heads[-1])
    assert seen[b"host"] == [b"Shop.example:8080"]
    assert seen[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert seen[b"x-real-ip"] == [b"127.0.0.1"]
    assert seen[b"x-forwarded-proto"] == [b"http"]
    assert seen[b"x-forwarded-host"] == [b"Shop.example:8080"]
    assert len(seen[b"x-request-id"]) == 1
    assert re.fullmatch(rb"[A-Za-z0-9._-]{8,}", seen[b"x-request-id"][0])
    head = service.heads[-1]
    assert b"6.6.6.6" not in head
    assert b"evil" not in head
    assert not {b"x_forwarded_for", b"proxy"} & set(seen)


def test_request_ids_differ(backend, client, slug):
    service = backend()
    for _ in range(5):
        client.get(b"/%s/" % slug.encode())
    assert len({fields(head)[b"x-request-id"][0] for head in service.heads}) == len(service.heads)


def test_hop_by_hop_headers_stay_on_their_hop(client, slug, backend):
    service = backend(answer_with_hop_by_hop)
    client.begin(
        b"/%s/" % slug.encode(),
        b"GET",
        (b"Connection", b"keep-alive, X-Mine, X-Forwarded-For, Host"),
        (b"X-Mine", b"for this hop"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authorization", b"Basic c2VjcmV0"),
        (b"X-Yours", b"for everybody"),
    )
    answer = client.answer()
    seen = fields(service.heads[-1])
    assert seen[b"x-yours"] == [b"for everybody"]
    assert seen[b"host"] == [b"proxy.test"]
    assert seen[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert not {b"x-mine", b"keep-alive", b"proxy-authorization"} & set(seen)
    assert answer.header(b"x-kept") == b"yes"
    assert answer.header(b"x-theirs") is None
    assert answer.header(b"keep-alive") is None


def answer_with_hop_by_hop(connection):
    connection.answer(
        b"ok",
        "200 OK",
        "Connection: keep-alive, X-Theirs",
        "X-Theirs: hop",
        "Keep-Alive: timeout=9",
        "X-Kept: yes",
    )
    connection.wait_for_close()


def test_answer_headers_come_back_as_they_were(client, slug, backend):
    backend(answer_with_cookies)
    answer = client.get(b"/%s/" % slug.encode())
    cookies = [value for name, value in answer.headers if name == b"set-cookie"]
    assert cookies == [b"a=1; Path=/", b"b=2; Path=/"]
    assert answer.header(b"location") == b"http://internal.example:9/x"
    assert answer.status == 302
    assert answer.header(b"server") in (None, b"the-backend")


def answer_with_cookies(connection):
    connection.answer(
        b"",
        "302 Found",
        "Set-Cookie: a=1; Path=/",
        "Set-Cookie: b=2; Path=/",
        "Location: http://internal.example:9/x",
        "Server: the-backend",
    )
    connection.wait_for_close()


def test_a_trusted_proxy_is_believed(new_proxy, node):
    proxy = new_proxy("--trusted-proxies", "127.0.0.0/8")
    Api(proxy.url).login().add_instance(node.url, "trusting-svc")
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Request-Id": "theirs-12345"}
    seen = requests.get(f"{proxy.url}/trusting-svc/", headers=headers, timeout=20).json()["headers"]
    assert seen["x-forwarded-for"] == "203.0.113.7, 127.0.0.1"
    assert seen["x-real-ip"] == "203.0.113.7"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-request-id"] == "theirs-12345"
    proxy.stop()


POST = b"POST %s HTTP/1.1\r\nHost: a\r\n"
BAD_HEADS = {
    "two hosts": b"GET %s HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET %s HTTP/1.1\r\n\r\n",
    "both framings": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "space before colon": b"GET %s HTTP/1.1\r\nHost : a\r\n\r\n",
    "other protocol": b"GET %s RTSP/1.0\r\nHost: a\r\n\r\n",
}


def test_bad_heads_are_refused_and_reach_no_backend(proxy, backend, slug):
    service = backend()
    path = b"/%s/" % slug.encode()
    for name, head in BAD_HEADS.items():
        with RawClient(proxy.port) as connection:
            try:
                connection.send(head % path)
                start = connection.sock.recv(65536)
            except ConnectionError:
                continue  # Closed on us while we still sent: refused as well.
            assert start.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), (name, start)
    assert service.heads == []


HOST = b" HTTP/1.1\r\nHost: a\r\n"
TOO_LARGE = {
    "a long field": (b"GET %s" + HOST + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n", (431,)),
    "a field that never ends": (b"GET %s" + HOST + b"X-A: " + b"a" * 100_000, (431,)),
    "many fields": (b"GET %s" + HOST + b"X-A: b\r\n" * 200 + b"\r\n", (431,)),
    "a long target": (b"GET %s" + b"a" * 20_000 + HOST + b"\r\n", (414,)),
    "a target that never ends": (b"GET %s" + b"a" * 100_000, (414, 431)),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_head_that_is_too_large_is_refused_with_its_status(proxy, backend, slug, kind):
    service = backend()
    head, statuses = TOO_LARGE[kind]
    with RawClient(proxy.port) as connection:
        connection.send(head % (b"/%s/" % slug.encode()))
        start = connection.sock.recv(65536)
    assert start.startswith(tuple(b"HTTP/1.1 %d " % status for status in statuses)), start[:100]
    assert service.heads == []


def test_a_folded_header_is_refused_or_unfolded(proxy, backend, slug):
    """RFC 9112, 5.2: it never goes on as it came."""
    service = backend()
    with RawClient(proxy.port) as connection:
        connection.send(b"GET /%s/ HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n" % slug.encode())
        start = connection.sock.recv(65536)
    if start.startswith(b"HTTP/1.1 200 "):
        assert fields(service.heads[-1])[b"x-a"] == [b"b c"]
    else:
        assert start.startswith(b"HTTP/1.1 400 ")
