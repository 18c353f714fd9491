"""Requests by host and path through the edge, as curl makes them: http, https over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess

import pytest

from .edge import PATIENCE
from .raw_backend import RawBackend, answer_ok
from .raw_client import RawClient

TEN_MEGABYTES = 10_000_000
PROTOCOLS = {"--http1.1": "1.1", "--http2": "2"}


@pytest.fixture(params=PROTOCOLS)
def protocol(request) -> str:
    return request.param


def test_a_route_is_served_over_https(edge, site, host, protocol):
    answer = edge.curl(f"https://{host}/a/b?c=d", protocol)
    assert (answer.version, answer.status, answer.body) == (PROTOCOLS[protocol], 200, b"/a/b?c=d")
    [request] = site.requests
    assert request.all(b"host") == [host.encode()]
    assert request.all(b"x-forwarded-proto") == [b"https"]
    assert request.all(b"x-forwarded-host") == [host.encode()]
    assert request.all(b"x-forwarded-for") == [b"127.0.0.1"]


BYTE_FOR_BYTE = [
    "/a%2Fb%2fc",
    "/a%3Fb?c=%3F",
    "/a%25b%2525",
    "//a//b///",
    "/a/../b/./c",
    "/%2e%2E/c",
    "/a;b=c/d,e",
    "/?a//../%2F%zz",
    "/%C3%A9/%00",
]


@pytest.mark.parametrize("target", BYTE_FOR_BYTE)
def test_targets_keep_their_bytes(edge, site, host, protocol, target):
    assert edge.curl(f"https://{host}{target}", protocol).body == target.encode()
    assert [request.target for request in site.requests] == [target.encode()]


def test_the_longest_prefix_wins_on_the_boundaries_of_segments(edge, site, host, protocol):
    def elsewhere(connection):
        answer_ok(connection)

    with RawBackend(elsewhere) as other:
        edge.route(f"{host}/app", other.url)
        for path in ("/app", "/app/x", "/x/../app/x", "/%61pp"):
            assert edge.curl(f"https://{host}{path}", protocol).body == b"ok", path
        for path in ("/apple", "/", "/x/app"):
            assert edge.curl(f"https://{host}{path}", protocol).body == path.encode(), path


def test_all_ways_to_write_a_host_are_one(edge, site, host, protocol):
    for written in (host, host.upper(), f"{host}:{edge.https_port}", f"{host}:443", f"{host}."):
        answer = edge.curl(f"https://{host}/", protocol, host=written)
        assert (answer.status, written) == (200, written)
    for url in (f"https://{host.upper()}/", f"https://{host}./", f"https://{host}:{edge.https_port}/"):
        assert (edge.curl(url, protocol).status, url) == (200, url)


def test_a_wildcard_is_for_one_label_and_goes_behind_an_exact_name(edge, site, host, protocol):
    with RawBackend(answer_ok) as other:
        edge.route(f"*.{host}", other.url)
        edge.certify(f"*.{host}")
        assert edge.curl(f"https://a.{host}/x", protocol).body == b"ok"
        assert edge.curl(f"https://{host}/x", protocol).body == b"/x"
        # curl: the handshake failed.
        assert edge.curl(f"https://a.b.{host}/x", protocol, check=False).exit_code == 35


def test_a_host_that_the_certificate_is_not_for_is_misdirected(edge, site, host, protocol):
    with RawBackend(answer_ok) as other:
        edge.route(f"other.{host}", other.url)
        edge.certify(f"other.{host}")
        for written in (f"other.{host}", "nobody.test", "127.0.0.1", "localhost"):
            answer = edge.curl(f"https://{host}/", protocol, host=written)
            assert (answer.status, written) == (421, written)
        assert edge.curl(f"https://other.{host}/", protocol).body == b"ok"
    assert site.requests == []


def test_one_certificate_may_be_for_several_hosts_on_one_connection(edge, site, host, protocol):
    with RawBackend(answer_ok) as other:
        edge.certify(host, f"second.{host}")
        edge.route(f"second.{host}", other.url)
        assert edge.curl(f"https://{host}/", protocol, host=f"second.{host}").body == b"ok"


def test_no_route_is_404_and_names_nothing_inside(edge, host, protocol):
    edge.certify(host)
    answer = edge.curl(f"https://{host}/", protocol)
    assert (answer.status, list(json.loads(answer.body))) == (404, ["error"])


def test_a_target_that_is_down_is_502_and_names_nothing_inside(edge, host, protocol):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    edge.route(host, f"http://127.0.0.1:{port}")
    edge.certify(host)
    answer = edge.curl(f"https://{host}/", protocol)
    assert answer.status == 502
    assert str(port).encode() not in answer.body


def test_ten_megabytes_up(edge, node, host, protocol, tmp_path):
    edge.route(host, node.url)
    edge.certify(host)
    body = os.urandom(TEN_MEGABYTES)
    (tmp_path / "body").write_bytes(body)
    answer = edge.curl(f"https://{host}/up", protocol, "--data-binary", f"@{tmp_path / 'body'}")
    seen = json.loads(answer.body)
    assert (seen["method"], seen["size"]) == ("POST", TEN_MEGABYTES)
    assert seen["sha256"] == hashlib.sha256(body).hexdigest()


def test_ten_megabytes_down(edge, host, protocol):
    body = random.Random(1).randbytes(TEN_MEGABYTES)
    with RawBackend(lambda connection: connection.answer(body)) as backend:
        edge.route(host, backend.url)
        edge.certify(host)
        assert edge.curl(f"https://{host}/down", protocol).body == body


def test_events_arrive_as_they_are_sent(edge, node, host, protocol):
    edge.route(host, node.url)
    edge.certify(host)
    command = edge.curl_command(f"https://{host}/events", protocol, "--no-buffer")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as events:
        assert events.stdout is not None
        assert events.stdout.read(11) == b"data: one\n\n"
        edge.curl(f"https://{host}/release", protocol)
        assert events.stdout.read() == b"data: two\n\n"
        assert events.wait(PATIENCE) == 0


# Port 80.


def test_http_is_sent_to_https_without_our_port(edge, site, host):
    for written in (host, f"{host}:{edge.http_port}", f"{host.upper()}.:80"):
        answer = edge.curl(f"http://{host}/a%2Fb//c/../d?e=%3F", host=written)
        assert (answer.status, answer.headers["location"]) == (308, f"https://{host}/a%2Fb//c/../d?e=%3F")
    answer = edge.curl(f"http://{host}/", "--data", "x=y")
    assert (answer.status, answer.headers["location"]) == (308, f"https://{host}/")
    assert site.requests == []


def test_http_never_sends_anybody_elsewhere(edge, site, host):
    for target in ("//evil.test/", "/\\evil.test", "//evil.test/%2e%2e", "/@evil.test"):
        answer = edge.curl(f"http://{host}{target}")
        assert answer.headers["location"].startswith(f"https://{host}/"), target
    assert edge.curl("http://evil.test/x").status == 404
    answer = edge.curl(f"http://{host}/", host="evil.test")
    assert (answer.status, "location" in answer.headers) == (404, False)


def test_following_the_redirect_ends_at_the_route(edge, site, host):
    command = edge.curl_command(f"http://{host}/x?y", "--location", "--write-out", " %{http_version}")
    to_https = ["--connect-to", f"{host}:443:127.0.0.1:{edge.https_port}"]
    command[1:1] = ["--connect-to", f"{host}:80:127.0.0.1:{edge.http_port}", *to_https]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    assert done.stdout == b"/x?y 2"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_come_before_routes(edge, site, host, status, protocol):
    edge.redirect(f"{host}/old", "https://new.test/place?kept=1", status)
    for scheme in ("http", "https"):
        answer = edge.curl(f"{scheme}://{host}/old/a%2Fb?c=d", protocol)
        assert answer.status == status
        assert answer.headers["location"] == "https://new.test/place/a%2Fb?kept=1&c=d"
    assert edge.curl(f"https://{host}/older", protocol).body == b"/older"


def test_a_challenge_that_nobody_asked_for(edge, site, host):
    """No challenge is going on: the path is as any other, or unknown."""
    assert edge.curl("http://nobody.test/.well-known/acme-challenge/token").status == 404
    assert edge.curl(f"http://{host}/.well-known/acme-challenge/token").status in (308, 404)


def test_http_on_the_https_port_is_told_so(edge):
    with RawClient(edge.https_port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x.test\r\n\r\n")
        answer = client.to_the_end()
    assert answer.startswith(b"HTTP/1.1 400 ") and b"https" in answer


def test_the_service_side_serves_no_routes(edge, site, host):
    with RawClient(edge.port) as client:
        assert client.get(b"/", (b"Host", host.encode())).status == 404
    assert site.requests == []


def test_test_mode_serves_routes_in_clear(new_edge, host):
    edge = new_edge("--edge-test-mode")
    with RawBackend(answer_ok) as backend:
        edge.route(host, backend.url)
        edge.redirect(f"{host}/old", "/new", 302)
        assert edge.curl(f"http://{host}/x").body == b"ok"
        assert edge.curl(f"http://{host}/old").headers["location"] == "/new"
        assert edge.curl("http://nobody.test/").status == 404
        # curl: nobody listens there.
        assert edge.curl(f"https://{host}/", check=False).exit_code == 7
    edge.stop()
