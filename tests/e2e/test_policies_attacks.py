"""What no good client does: HTTP/2 by hand, slugs in odd spellings, leaving at any moment."""

from __future__ import annotations

import base64
import collections
import contextlib
import random
import threading
import time

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from onebackend_proxy.passwords import hash_password

from .edge import Edge
from .guarded import NOBODY, WAYS
from .policies import Reply, door_to, is_admin
from .raw_backend import Connection, RawBackend
from .raw_client import RawClient
from .recording import Received, statuses
from .test_http2 import H2Client
from .waiting import wait_until

pytestmark = pytest.mark.once

LOOSE = H2Configuration(
    client_side=True,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    header_encoding=None,
)


def _h2_status(front: Edge, name: str, head: list[tuple[bytes, bytes]]) -> int:
    """The status that a request with these fields gets over a new connection, 0 for none."""
    with H2Client(front, name) as client:
        client.h2 = H2Connection(LOOSE)
        client.h2.initiate_connection()
        # The preface has been sent.
        client.h2.clear_outbound_data_buffer()
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, head, end_stream=True)
        with contextlib.suppress(OSError):
            client.flush()
            while number not in client.ended and number not in client.resets and not client.closed:
                client.read(10)
        return int(client.heads.get(number, {}).get(b":status", b"0"))


@pytest.fixture
def guarded(desk, front):
    """A host over HTTP/2 whose ``/admin`` is for nobody."""
    with door_to("h2", desk, front) as door:
        front.route(f"{door.name}/admin", door.url, access={"allow": [NOBODY]})
        yield door
        assert [target for target in door.service.targets if is_admin(target)] == []


def _head(host: bytes, path: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host), (b":path", path), *more]


def test_each_way_as_a_pseudo_field(guarded, front):
    host = guarded.name.encode()
    assert _h2_status(front, guarded.name, _head(host, b"/x")) == 200
    for path in WAYS:
        status = _h2_status(front, guarded.name, _head(host, path))
        assert (path, status) in {
            (path, each) for each in (0, 400, 403, 404, *([] if is_admin(path) else [200]))
        }


def test_a_host_beside_the_authority(guarded, front):
    host = guarded.name.encode()
    for head in (
        _head(host, b"/admin", (b"host", b"other.test")),
        _head(b"other.test", b"/admin", (b"host", host)),
        _head(host, b"/admin", (b"host", host), (b"host", b"other.test")),
        _head(host + b"@other.test", b"/admin"),
        _head(b"other.test@" + host, b"/admin"),
        _head(host + b":443", b"/admin"),
        _head(host.upper() + b".", b"/admin"),
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/admin"), (b"host", host)],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", host), (b":path", b"/admin")],
        [*_head(host, b"/x"), (b":path", b"/admin")],
        [(b":path", b"/x"), *_head(host, b"/admin")],
        _head(host, b"/x", (b"x-original-url", b"/admin"), (b"x-rewrite-url", b"/admin")),
        _head(host, b"/x\r\nX: y\r\n\r\nGET /admin HTTP/1.1"),
        _head(host, b"/x HTTP/1.1\r\nHost: x\r\n\r\nGET /admin"),
        _head(host, b"/x", (b"x", b"y\r\n\r\nGET /admin HTTP/1.1\r\nHost: x")),
        _head(host, b"/x", (b"transfer-encoding", b"chunked")),
        _head(host, b"/x", (b"content-length", b"10")),
    ):
        assert (head, _h2_status(front, guarded.name, head) == 200) in (
            (head, False),
            (head, any(name.startswith(b"x-") for name, _value in head)),
        )


def test_credentials_in_odd_fields_of_http2(desk, front):
    """What is no lower-case name is no field in HTTP/2, and pseudo-fields are no header fields."""
    users = [{"user": "ada", "passwordHash": hash_password("pw")}]
    good = b"Basic " + base64.b64encode(b"ada:pw")
    with door_to("h2", desk, front) as door:
        door.policy(access={"basicAuth": users})
        host = door.name.encode()
        assert _h2_status(front, door.name, _head(host, b"/x", (b"authorization", good))) == 200
        for name in (
            b"Authorization",
            b":authorization",
            b"authorization ",
            b" authorization",
            b"authorization\0",
        ):
            assert (name, _h2_status(front, door.name, _head(host, b"/x", (name, good)))) != (name, 200)
        two = _head(host, b"/x", (b"authorization", good), (b"authorization", b"Basic eDp5"))
        assert _h2_status(front, door.name, two) in (400, 401)
        [request] = door.service.requests
        assert request.all(b"authorization") == []


SPELLINGS = (
    b"/%(slug)b",
    b"/%(slug)b/",
    b"/%(slug)b?x",
    b"/%(slug)b/x",
    b"/%%64%(rest)b/x",
    b"/%(slug)b%%2Fx",
    b"/%(slug)b;a/x",
    b"/%(slug)b./x",
    b"/%(slug)b%%00/x",
    b"/%(upper)b/x",
    b"//%(slug)b/x",
    b"/./%(slug)b/x",
    b"/x/../%(slug)b/x",
    b"/%%2e/%(slug)b/x",
    b"/%(slug)b/../%(slug)b/x",
    b"/%(slug)b/./x",
    b"/%(slug)b//x",
    b"/%(slug)b/%%2e%%2e/%(slug)b/x",
    b"/\\%(slug)b/x",
    b"/%(slug)b\\x",
    b"http://any.test/%(slug)b/x",
    b"http://127.0.0.1/%(slug)b/x",
    b"%(slug)b/x",
)


def test_a_slug_is_guarded_however_it_is_written(desk, front):
    with door_to("slug", desk, front) as door, door_to("slug", desk, front) as other:
        door.policy(access={"allow": [NOBODY]})
        slug = door.name.encode()
        words = {b"slug": slug, b"rest": slug[1:], b"upper": slug.upper(), b"other": other.name.encode()}
        ways = [
            way % words for way in (*SPELLINGS, b"/%(other)b/../%(slug)b/x", b"/%(other)b/..%%2f%(slug)b/x")
        ]
        for way in ways:
            with RawClient(desk.port) as client:
                client.send(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % way)
                [status] = statuses(client.to_the_end())
            # What leads to the other service leads to that one only, and stays there.
            assert (way, status) in {(way, code) for code in (400, 403, 404)} or way.startswith(
                b"/" + words[b"other"]
            )
        assert door.service.requests == []


def test_hosts_below_a_wildcard_and_ports_are_kept_apart_in_the_cache(desk, front):
    def tell_host(received: Received) -> Reply:
        return Reply(received.all(b"host")[0], ("Cache-Control: max-age=60",))

    with door_to("edge", desk, front, tell_host) as door:
        desk.route(f"*.{door.name}", door.url, cache=True)
        for host in (
            f"a.{door.name}",
            f"b.{door.name}",
            f"a.{door.name}:8080",
            f"A.{door.name}",
            f"a.{door.name}.",
        ):
            for _ in range(2):
                with RawClient(desk.http_port) as client:
                    answer = client.get(b"/x", (b"Host", host.encode()))
                # The same host in another spelling may be the same answer, but nobody's port is another's.
                assert answer.body.rstrip(b".").lower() == host.rstrip(".").lower().encode()


def test_an_old_client_of_a_compressed_answer(desk, front):
    text = b"All work and no play makes Jack a dull boy.\n" * 100_000
    with door_to("edge", desk, front, lambda _: Reply(text, ("Content-Type: text/plain",))) as door:
        door.policy(compress=True)
        answer = door.ask("/x", "--http1.0", "--compressed")
        assert (answer.status, answer.body) == (200, text)


def test_an_upgrade_that_is_refused_is_no_tunnel(desk, front):
    """Bytes behind it are requests, or nothing; they never reach the service."""
    with door_to("edge", desk, front) as door:
        door.policy(access={"allow": [NOBODY]})
        head = b"GET /x HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        with RawClient(desk.http_port) as client:
            client.send(head % door.name.encode() + b"\x81\x05hello")
            assert statuses(client.to_the_end())[0] == 403
        assert door.service.requests == []


def test_the_proxy_stops_although_somebody_is_asked(new_edge):
    """An exchange that waits for forwardAuth ends in time."""

    def never(connection: Connection) -> None:
        connection.wait_for_close()

    edge = new_edge("--edge-test-mode")
    with RawBackend(never) as backend, RawClient(edge.http_port) as client:
        edge.route("x.test", backend.url, access={"forwardAuth": {"url": backend.url}})
        client.begin(b"/x", b"GET", (b"Host", b"x.test"))
        wait_until(lambda: backend.heads, "it is asked")
        # The second signal is for those who do not want to wait for what is under way.
        edge.terminate()
        time.sleep(0.2)
        edge.terminate()
        assert edge.wait(10) == 0
        assert statuses(client.to_the_end()) in ([], [502], [503], [504])


ADA = b"Authorization: Basic " + base64.b64encode(b"ada:pw") + b"\r\n"
_CHAOS = (
    b"GET /x HTTP/1.1\r\nHost: %b\r\n%b\r\n",
    b"GET /cached HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: gzip\r\n%b\r\n",
    b"HEAD /cached HTTP/1.1\r\nHost: %b\r\n%b\r\n",
    b"GET /cached HTTP/1.1\r\nHost: %b\r\nRange: bytes=1-100\r\n%b\r\n",
    b"POST /up HTTP/1.1\r\nHost: %b\r\nContent-Length: 5\r\n%b\r\nhello",
    b"POST /up HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n%b\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /up HTTP/1.1\r\nHost: %b\r\nContent-Length: 500000\r\n%b\r\n" + b"x" * 500,
    b"GET /slow HTTP/1.1\r\nHost: %b\r\n%b\r\n",
)


def _chaos(received: Received) -> Reply:
    if received.target == b"/slow":
        time.sleep(0.05)
    if received.target == b"/check":
        return Reply(b"", ("X-User: ada",))
    return Reply(b"text " * 2000, ("Cache-Control: max-age=1", "Content-Type: text/plain", 'ETag: "1"'))


def test_clients_that_leave_at_any_moment_leave_nothing_behind(new_edge):
    """Random requests, cut anywhere, against all policies at once: in the end nothing is under way."""
    edge = new_edge("--edge-test-mode")
    with door_to("edge", edge, edge, _chaos) as door:
        rules = {
            "basicAuth": [{"user": "ada", "passwordHash": hash_password("pw")}],
            "forwardAuth": {"url": f"{door.url}/check", "copyHeaders": ["X-User"]},
        }
        door.policy(
            access=rules,
            rateLimit={"requests": 100, "per": "1s"},
            requestBodyLimit=100_000,
            headers={"response": {"set": {"X-A": "$request_id"}}},
            compress=True,
            cache=True,
            errorPages={"4xx": "no"},
        )
        counts: collections.Counter[object] = collections.Counter()

        def roam(seed: int) -> None:
            chance = random.Random(seed)
            until = time.monotonic() + 5
            while time.monotonic() < until:
                data = b"".join(
                    chance.choice(_CHAOS) % (door.name.encode(), chance.choice((ADA, ADA, ADA, b"")))
                    for _ in range(chance.randint(1, 4))
                )
                cut = len(data) if chance.random() < 0.5 else chance.randint(1, len(data))
                with RawClient(edge.http_port) as client, contextlib.suppress(OSError):
                    client.send(data[:cut])
                    client.sock.settimeout(chance.choice((0.001, 0.02, 0.3)))
                    counts.update(statuses(client.sock.recv(1 << 16)))
                    if chance.random() < 0.5:
                        client.reset()

        threads = [threading.Thread(target=roam, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert set(counts) <= {200, 206, 304, 401, 413, 429, 400, 408, 503} and counts[200] > 20

        def in_flight() -> float:
            text = edge.api.call("GET", "/proxy-svc/metrics").text
            lines = [line.split() for line in text.splitlines() if "exchanges_in_flight" in line]
            return sum(float(line[-1]) for line in lines if not line[0].startswith("#"))

        wait_until(lambda: in_flight() == 0, "nothing is under way", 20)
        assert door.ask("/x", "-H", ADA.decode().strip()).status == 200
    edge.stop()
