"""HTTP1.md, the rows that are served: what the parser lets through, and what the service gets of it."""

from __future__ import annotations

import json

import pytest

from .raw_backend import RawBackend
from .raw_client import RawClient
from .recording import Recorder, assert_served, statuses

HOST = b"Host: proxy.test\r\n"
FORWARDED = {b"x-forwarded-for": [b"127.0.0.1"], b"x-forwarded-proto": [b"http"], b"host": [b"proxy.test"]}


def ask(proxy, sent: bytes) -> bytes:
    """Send it with a last request behind it that closes, and read all that comes."""
    with RawClient(proxy.port) as client:
        client.send(sent)
        return client.to_the_end()


def last(path: bytes) -> bytes:
    return b"GET %b/last HTTP/1.1\r\n" % path + HOST + b"Connection: close\r\n\r\n"


def assert_ours(recorder: Recorder, number: int = 0) -> None:
    """Host and what we say of the client are there, once and true, whatever the client wrote."""
    request = recorder.requests[number]
    for name, values in FORWARDED.items():
        assert request.all(name) == values, name
    assert recorder.broken == []


NAMED = {
    "forwarded": (b"Connection: keep-alive, X-Forwarded-For, X-Real-IP, X-Request-Id, Via\r\n", b""),
    "Host": (b"Connection: keep-alive, Host\r\n", b""),
    "the length": (b"Connection: keep-alive, Content-Length\r\nContent-Length: 5\r\n", b"hello"),
    "the coding": (
        b"Connection: keep-alive, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
    ),
    "authorization": (b"Connection: keep-alive, Authorization\r\nAuthorization: secret\r\n", b""),
    "its own": (b"Connection: keep-alive, X-Mine\r\nX-Mine: secret\r\n", b""),
    "two fields": (b"Connection: X-Mine\r\nX-Mine: secret\r\nConnection: X-More\r\nX-More: secret\r\n", b""),
}


@pytest.mark.parametrize("what", NAMED)
def test_what_connection_names_is_stripped_but_for_framing_host_and_ours(proxy, recorder, slug, what):
    path = b"/%s" % slug.encode()
    fields, body = NAMED[what]
    data = ask(proxy, b"POST %b/x HTTP/1.1\r\n" % path + HOST + fields + b"\r\n" + body + last(path))
    assert statuses(data) == [200, 200]
    assert [request.target for request in recorder.requests] == [path + b"/x", path + b"/last"]
    request = recorder.requests[0]
    assert request.body == (b"hello" if body else b"")
    assert b"secret" not in repr(request).encode()
    assert len(request.all(b"x-request-id")) == len(request.all(b"x-real-ip")) == 1
    assert_ours(recorder)


def test_names_that_a_cgi_confuses_are_dropped(proxy, recorder, slug):
    path = b"/%s" % slug.encode()
    fields = (
        b"X_Forwarded_For: evil\r\nTransfer_Encoding: chunked\r\nContent_Length: 5\r\n"
        b"Proxy: http://evil\r\nX_Real_IP: evil\r\nX-Kept: yes\r\n"
    )
    data = ask(proxy, b"GET %b/x HTTP/1.1\r\n" % path + HOST + fields + b"\r\n" + last(path))
    assert statuses(data) == [200, 200]
    request = recorder.requests[0]
    assert b"evil" not in repr(request).encode()
    assert not [name for name, _ in request.fields if b"_" in name or name == b"proxy"]
    assert request.all(b"x-kept") == [b"yes"]
    assert_ours(recorder)


def test_trailers_that_route_frame_or_authenticate_are_dropped(proxy, recorder, slug):
    path = b"/%s" % slug.encode()
    trailers = (
        b"Host: evil\r\nX-Forwarded-For: evil\r\nX-Forwarded-Prefix: evil\r\nContent-Length: 7\r\n"
        b"Transfer-Encoding: evil\r\nAuthorization: evil\r\nSet-Cookie: evil\r\nX_Sum: evil\r\n"
        b"X-Sum: 1\r\n"
    )
    sent = b"POST %b/x HTTP/1.1\r\n" % path + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    data = ask(proxy, sent + b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n" + last(path))
    assert statuses(data) == [200, 200]
    request = recorder.requests[0]
    assert (request.body, request.trailers) == (b"hello", [(b"x-sum", b"1")])
    assert b"evil" not in repr(request).encode()
    assert_ours(recorder)


def test_an_absolute_target_is_never_fetched_as_written(proxy, recorder, slug):
    """Its authority takes the place of Host; where the request goes, its path says."""
    path = b"/%s" % slug.encode()
    with RawBackend() as elsewhere:
        authority = b"127.0.0.1:%d" % elsewhere.port
        sent = b"GET http://%b%b/x?y HTTP/1.1\r\n" % (authority, path) + HOST + b"\r\n"
        assert statuses(ask(proxy, sent + last(path))) == [200, 200]
        assert elsewhere.heads == []
    request = recorder.requests[0]
    assert request.target == path + b"/x?y"
    assert request.all(b"host") == request.all(b"x-forwarded-host") == [authority]


def test_what_was_written_oddly_is_written_anew(proxy, recorder, slug):
    path = b"/%s" % slug.encode()
    odd = b"POST %b/x HTTP/1.1\r\nhOsT:proxy.test\r\nX-A:  b \t\r\nContent-Length: 05\r\n\r\nhello" % path
    data = ask(proxy, odd + last(path))
    assert statuses(data) == [200, 200]
    request = recorder.requests[0]
    assert (request.body, request.all(b"x-a"), request.all(b"content-length")) == (b"hello", [b"b"], [b"5"])
    assert_ours(recorder)


@pytest.mark.parametrize("line", [b"GET  %b/x HTTP/1.1", b"GET %b/x  HTTP/1.1"])
def test_two_spaces_in_the_request_line_never_go_on(proxy, recorder, slug, line):
    data = ask(proxy, line % (b"/%s" % slug.encode()) + b"\r\n" + HOST + b"Connection: close\r\n\r\n")
    if statuses(data) == [400]:
        assert recorder.requests == []
    else:
        assert statuses(data) == [200]
        assert [request.target for request in recorder.requests] == [b"/%s/x" % slug.encode()]
    assert recorder.broken == []


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_bytes_after_the_last_request_are_nobodys(proxy, recorder, slug, version):
    """Answer first, then close: what came behind it is not a request."""
    path = b"/%s" % slug.encode()
    request = b"GET %b/x HTTP/%b\r\n" % (path, version) + HOST + b"Connection: close\r\n\r\n"
    for behind in (b"\x00garbage\r\n\r\n", b"GET %b/smuggled HTTP/1.1\r\n" % path + HOST + b"\r\n"):
        recorder.requests.clear()
        data = ask(proxy, request + behind)
        assert statuses(data) == [200], data
        assert [each.target for each in recorder.requests] == [path + b"/x"]
    assert_served(proxy, slug)


def test_garbage_behind_a_good_request_costs_only_itself(proxy, recorder, slug):
    path = b"/%s" % slug.encode()
    data = ask(proxy, b"GET %b/x HTTP/1.1\r\n" % path + HOST + b"\r\n" + b"\x00garbage\r\n\r\n")
    assert statuses(data) == [200, 400]
    first, _, second = data.partition(b"HTTP/1.1 400 ")
    assert first.endswith(path + b"/x")
    assert list(json.loads(second.partition(b"\r\n\r\n")[2])) == ["error"]
    assert len(recorder.requests) == 1
    assert_served(proxy, slug)


def test_a_few_empty_lines_before_a_request_are_no_harm(proxy, recorder, slug):
    path = b"/%s" % slug.encode()
    data = ask(proxy, b"\r\n\r\nGET %b/x HTTP/1.1\r\n" % path + HOST + b"\r\n\r\n" + last(path))
    assert statuses(data) == [200, 200]


OTHER_UPGRADES = {
    "by POST": b"POST %b/x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n",
    "in HTTP/1.0": b"GET %b/x HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
    "to h2c": b"GET %b/x HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAA\r\n",
    "to TLS": b"GET %b/x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "to two protocols": b"GET %b/x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket, foo\r\n",
    "unnamed": b"GET %b/x HTTP/1.1\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n",
    "to nothing": b"GET %b/x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: \r\n",
}


@pytest.mark.parametrize("what", OTHER_UPGRADES)
def test_an_upgrade_that_is_not_served_is_an_ordinary_request(proxy, recorder, slug, what):
    path = b"/%s" % slug.encode()
    data = ask(proxy, OTHER_UPGRADES[what] % path + HOST + b"\r\n" + last(path))
    assert statuses(data) == [200, 200]
    request = recorder.requests[0]
    assert request.all(b"upgrade") == request.all(b"http2-settings") == []
    assert b"upgrade" not in b",".join(request.all(b"connection")).lower()
    assert [each.target for each in recorder.requests] == [path + b"/x", path + b"/last"]
    assert_ours(recorder)
