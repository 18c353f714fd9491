"""A Route of a path has rules, the one of its host has none: nobody gets to that path by another way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from . import programs
from .guarded import NOBODY, WAYS, Guarded, guarded_host
from .policies import door_to, is_admin
from .raw_client import RawClient
from .servers import Server
from .waiting import free_port


@pytest.fixture
def guarded(desk, front) -> Iterator[Guarded]:
    with guarded_host(desk, front) as made:
        yield made


def test_the_rest_of_the_host_is_open(guarded):
    for target in (b"/", b"/x", b"/administration", b"/x/admin", b"/adminx/", b"/?admin", b"/x?/../admin"):
        assert (target, guarded.get(target)) == (target, [200])
    guarded.assert_nothing_passed()


def test_no_way_to_write_the_path_leads_around(guarded):
    for target in WAYS:
        for version in (b"1.1", b"1.0"):
            [status] = guarded.get(target, version=version) or [0]
            assert is_admin(target) or target not in WAYS[:4]
            assert (target, status) in {(target, code) for code in (200, 400, 403, 404)}
            if is_admin(target):
                assert (target, status) in {(target, 403), (target, 400)}
    guarded.assert_nothing_passed()


def test_what_is_refused_is_refused_for_the_rule(guarded):
    """The plain spellings get the rule's own answer."""
    for target in WAYS[:12]:
        assert (target, guarded.get(target)) == (target, [403])


def test_absolute_targets(guarded):
    other = b"other.test"
    for scheme, name, target in itertools.product(
        (b"http", b"HTTP", b"https"),
        (guarded.host, guarded.host.upper(), guarded.host + b":80", guarded.host + b"."),
        (b"/admin", b"/x/../admin", b"/%61dmin", b"//admin"),
    ):
        absolute = scheme + b"://" + name + target
        for host in (guarded.host, other, b"127.0.0.1"):
            assert (absolute, guarded.get(absolute, host)) in ((absolute, [403]), (absolute, [400]))
    # The authority of the target is the host, not what Host says.
    assert guarded.get(b"http://%b/admin" % other) == [404]
    guarded.assert_nothing_passed()


def test_hosts(guarded):
    for host in (
        guarded.host.upper(),
        guarded.host.title(),
        guarded.host + b".",
        guarded.host + b":80",
        guarded.host + b":8080",
        guarded.host.upper() + b".:443",
    ):
        assert (host, guarded.get(b"/admin", host)) == (host, [403])
        assert (host, guarded.get(b"/x", host)) == (host, [200])
    for host in (guarded.host + b"..", b"." + guarded.host, guarded.host + b"@x", b"x@" + guarded.host, b" "):
        assert (host, guarded.get(b"/admin", host)[0]) in ((host, 400), (host, 404))
    two = b"GET /admin HTTP/1.1\r\nHost: other.test\r\nHost: %b\r\nConnection: close\r\n\r\n"
    assert guarded.send(two % guarded.host) == [400]
    for lie in (b"X-Forwarded-Host: other.test\r\n", b"X-Original-URL: /x\r\n", b"X-Rewrite-URL: /x\r\n"):
        assert (lie, guarded.get(b"/admin", more=lie)) == (lie, [403])
    guarded.assert_nothing_passed()


def test_fields_that_rewrite_a_path_elsewhere(guarded):
    """Nothing here believes them; a service that does reads what it is sent: that is its own gap."""
    for lie in (
        b"X-Original-URL: /admin\r\n",
        b"X-HTTP-Method-Override: PUT\r\n",
        b"X-Forwarded-Prefix: /admin\r\n",
    ):
        assert (lie, guarded.get(b"/x", more=lie)) == (lie, [200])
    guarded.assert_nothing_passed()


METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"PROPFIND",
    b"CONNECT",
    b"TRACE",
    b"get",
)


def test_methods(guarded):
    for method in METHODS:
        head = b"%b /admin HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (method, guarded.host)
        assert (method, guarded.send(head)[0]) in {(method, status) for status in (400, 403, 405, 501)}
    guarded.assert_nothing_passed()


def test_a_forbidden_request_behind_allowed_ones(guarded):
    """Pipelined, and on a connection that has just been to the open route."""
    ask = b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n"
    targets = (b"/x", b"/admin", b"/x", b"/admin/x", b"//admin", b"/x")
    last = ask % (b"/x", guarded.host, b"Connection: close\r\n")
    found = guarded.send(*(ask % (target, guarded.host, b"") for target in targets), last)
    assert found == [200, 403, 200, 403, 403, 200, 200]
    guarded.assert_nothing_passed()


SMUGGLING = (
    b"Content-Length: 0\r\nContent-Length: %(size)d\r\n\r\n",
    b"Content-Length: %(size)d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"Content-Length: +%(size)d\r\n\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0;x\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n",
    b"Expect: 100-continue\r\nContent-Length: %(size)d\r\n\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %(size)d\r\n\r\n",
)


@pytest.mark.parametrize("framing", SMUGGLING)
def test_no_request_is_smuggled_past_the_rules(guarded, framing):
    inner = b"GET /admin/smuggled HTTP/1.1\r\nHost: %b\r\n\r\n" % guarded.host
    outer = b"POST /x HTTP/1.1\r\nHost: %b\r\n" % guarded.host
    end = b"GET /end HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % guarded.host
    found = guarded.send(outer + framing % {b"size": len(inner)} + inner, end)
    assert found
    guarded.assert_nothing_passed()


def test_the_prefix_may_be_written_in_any_way_where_it_is_saved(desk, front):
    """The Route is the same, however its id was spelled."""
    with door_to("edge", desk, front) as door:
        for spelled in ("/%61dmin", "/admin/", "/ad%6Din"):
            desk.route(door.name + spelled, door.url, access={"allow": [NOBODY]})
            guarded = Guarded(door, desk)
            assert (spelled, guarded.get(b"/admin"), guarded.get(b"/x")) == (spelled, [403], [200])
            desk.api.ok("DELETE", "/proxy-svc/routes", {"ids": [f"{door.name}/admin"]})
            assert guarded.get(b"/admin") == [200]


NGINX = """
daemon off; master_process off; pid {work}/nginx.pid; error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location ~* ^/admin {{ return 200 "ADMIN"; }}
        location / {{ return 200 "open"; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def strict_nginx(tmp_path_factory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("admin")
    port = free_port()
    (work / "nginx.conf").write_text(NGINX.format(work=work, port=port))
    server = Server([str(programs.nginx()), "-p", str(work), "-c", str(work / "nginx.conf")], port, work)
    yield server
    server.stop()


def test_a_real_service_that_does_not_tell_case(desk, front, strict_nginx):
    """nginx decodes, merges slashes and resolves dots before it looks for a place."""
    with guarded_host(desk, front, strict_nginx.url) as guarded:
        for target in WAYS:
            with RawClient(desk.http_port) as client:
                client.send(
                    b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, guarded.host)
                )
                assert (target, b"ADMIN" in client.to_the_end().partition(b"\r\n\r\n")[2]) == (target, False)
        assert guarded.get(b"/x") == [200]


def _is_sendable(target: bytes) -> bool:
    """Whether curl sends it over HTTP/2 as it stands."""
    return target.startswith(b"/") and not any(byte <= 32 or byte in b"#\\?" for byte in target)


@pytest.mark.parametrize("target", [target for target in WAYS if _is_sendable(target)])
def test_over_http2(front, desk, target):
    with door_to("h2", desk, front) as door:
        front.route(f"{door.name}/admin", door.url, access={"allow": [NOBODY]})
        answer = door.ask(target.decode())
        assert answer.version == "2"
        if is_admin(target):
            assert answer.status in (400, 403)
        assert not any(is_admin(seen) for seen in door.service.targets)


def test_http2_authority_and_host(front, desk):
    with door_to("h2", desk, front) as door, door_to("h2", desk, front) as other:
        front.certify(door.name, other.name)
        front.route(f"{door.name}/admin", door.url, access={"allow": [NOBODY]})
        for host in (door.name.upper(), f"{door.name}:443", f"{door.name}."):
            assert (host, door.ask("/admin", "-H", f"Host: {host}").status) == (host, 403)
        # curl makes :authority of Host; here the name of the connection is another's.
        # Either it is the same connection's certificate, and the rule refuses, or another one's.
        assert other.ask("/admin", "-H", f"Host: {door.name}").status in (403, 421)
        assert door.service.requests == [] and other.service.requests == []
