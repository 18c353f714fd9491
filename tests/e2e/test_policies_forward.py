"""`access.forwardAuth`: another service says who comes in, and under which name."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from .policies import Door, Reply, Replying, Service, door_to
from .raw_backend import Connection, RawBackend
from .raw_client import RawClient
from .recording import Received
from .waiting import free_port, wait_until

NAME = "X-User: ada"


@contextlib.contextmanager
def asked(door: Door, reply: Replying, **more: object) -> Iterator[Service]:
    """What the service that is asked receives; the door asks it."""
    service = Service(reply)
    with RawBackend(service) as backend:
        rule = {"url": f"{backend.url}/check?from=desk", "copyHeaders": ["X-User", "X-Groups"]}
        door.policy(access={"forwardAuth": rule}, **more)
        yield service
        assert not backend.failures, backend.failures


def yes(_received: Received) -> Reply:
    """It admits everybody as Ada."""
    return Reply(b"welcome", (NAME, "X-Other: not copied", "Set-Cookie: not=passed"))


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content", "299 Fine"])
def test_yes_admits_under_the_name_that_it_says(door, status):
    with asked(door, lambda _: Reply(b"" if "204" in status else b"yes", (NAME,), status)):
        answer = door.ask("/x?y=%2F")
        assert (answer.status, answer.body) == (200, door.seen("/x?y=%2F"))
        assert "not=passed" not in str(answer.headers)
        [request] = door.service.requests
        assert request.all(b"x-user") == [b"ada"]
        assert request.all(b"x-other") == request.all(b"x-groups") == []


SPOOFED = (
    "X-User: root",
    "x-user: root",
    "X-USER:root",
    "X_User: root",
    "X-Groups: admins",
    "x_groups: admins",
)


def test_nobody_names_himself(door):
    """Also what the answer leaves out is taken out, in each spelling that some services take for the name."""
    with asked(door, yes):
        for field in SPOOFED:
            assert door.ask("/x", "-H", field).status == 200
        assert door.ask("/x", "-H", SPOOFED[0], "-H", SPOOFED[1], "-H", "Connection: X-User").status == 200
    with asked(door, lambda _: Reply()):
        for field in SPOOFED:
            assert door.ask("/y", "-H", field).status == 200
    for request in door.service.requests:
        said = [(name.replace(b"_", b"-"), value) for name, value in request.fields]
        owned = [field for field in said if field[0] in (b"x-user", b"x-groups")]
        assert owned == ([(b"x-user", b"ada")] if request.target.endswith(b"/x") else [])


def test_what_it_is_told(door):
    with asked(door, yes) as service:
        lies = (
            "X-Forwarded-Uri: /else",
            "X-Forwarded-Method: GET",
            "X-Forwarded-For: 10.0.0.1",
            "X-Forwarded-Host: x",
        )
        options = [option for lie in lies for option in ("-H", lie)]
        credentials = ("-H", "Authorization: Bearer t0ken", "-H", "Cookie: a=b")
        door.ask("/a%2Fb?c=d", "-X", "DELETE", "-H", "Accept: text/html", *options, *credentials)
        [request] = service.requests
        assert (request.method, request.target, request.body) == (b"GET", b"/check?from=desk", b"")
        assert request.all(b"x-forwarded-method") == [b"DELETE"]
        assert request.all(b"x-forwarded-uri") == [door.seen("/a%2Fb?c=d")]
        assert request.all(b"x-forwarded-host") == [
            (b"front.test" if door.kind == "slug" else door.name.encode())
        ]
        assert request.all(b"x-forwarded-proto") == [b"https" if door.kind == "h2" else b"http"]
        assert request.all(b"x-forwarded-for") == [b"127.0.0.1"]
        assert request.all(b"authorization") == [b"Bearer t0ken"]
        assert request.all(b"cookie") == [b"a=b"]
        assert request.all(b"accept") == [b"text/html"]


NO = (
    Reply(
        b"<a>sign in</a>", ("Location: https://login.test/?a=b", "Set-Cookie: state=1; Path=/"), "302 Found"
    ),
    Reply(b"who?", ('WWW-Authenticate: Bearer realm="x"',), "401 Unauthorized"),
    Reply(b"not you", ("Content-Type: text/plain",), "403 Forbidden"),
    Reply(b"no", (), "404 Not Found"),
    Reply(b"", (), "304 Not Modified"),
    Reply(b"broken", ("Content-Type: text/plain",), "500 Internal Server Error"),
    Reply(b"x" * 300_000, ("Content-Type: text/plain",), "403 Forbidden"),
)


@pytest.mark.parametrize("no", NO, ids=lambda no: f"{no.status} {len(no.body)}")
def test_anything_else_is_what_the_client_gets(door, no):
    with asked(door, lambda _: no):
        answer = door.ask("/x")
        assert (answer.status, answer.body) == (int(no.status.split()[0]), no.body)
        for field in no.fields:
            name, _, value = field.partition(": ")
            assert answer.headers[name.lower()] == value
    assert door.service.requests == []


def test_a_large_body_of_somebody_who_is_not_admitted(door, tmp_path):
    """He gets the answer, and the next one on the connection gets his."""
    (tmp_path / "body").write_bytes(bytes(5_000_000))
    with asked(door, lambda _: Reply(b"not you", (), "403 Forbidden")):
        for options in ([], ["-H", "Expect:"], ["-H", "Expect: 100-continue"]):
            answer = door.ask("/up", "--data-binary", f"@{tmp_path / 'body'}", *options)
            assert (options, answer.status, answer.body) == (options, 403, b"not you")
    assert door.service.requests == []


def test_a_service_that_is_down_admits_nobody(door):
    door.policy(access={"forwardAuth": {"url": f"http://127.0.0.1:{free_port()}/check"}})
    answer = door.ask("/x", "-H", "X-User: root")
    assert answer.status in (502, 503)
    assert b"127.0.0.1" not in answer.body
    assert door.service.requests == []


BROKEN = (
    b"",
    b"200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-User : root\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nX-User: root\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n",
)


@pytest.mark.parametrize("said", BROKEN)
def test_a_service_that_speaks_no_http_admits_nobody(door, said):
    with RawBackend(lambda connection: connection.send(said)) as backend:
        door.policy(access={"forwardAuth": {"url": backend.url, "copyHeaders": ["X-User"]}})
        assert door.ask("/x").status in (502, 503)
    assert door.service.requests == []


def test_a_slow_service_is_a_time_out(door):
    released = threading.Event()

    def slow(_received: Received) -> Reply:
        released.wait(20)
        return Reply()

    with asked(door, slow, timeouts={"firstByte": "1s", "idle": "1s"}):
        began = time.monotonic()
        assert door.ask("/x").status in (503, 504)
        assert time.monotonic() - began < 10
        released.set()
    assert door.service.requests == []


def test_a_client_that_goes_away_ends_the_question(desk, front):
    gone = threading.Event()

    def wait(connection: Connection) -> None:
        if connection.wait_for_close():
            gone.set()

    with door_to("edge", desk, front) as door, RawBackend(wait) as backend:
        door.policy(access={"forwardAuth": {"url": backend.url}})
        with RawClient(desk.http_port) as client:
            client.begin(b"/x", b"GET", (b"Host", door.name.encode()))
            wait_until(lambda: backend.heads, "it is asked")
        assert gone.wait(10)
        assert door.service.requests == []


@pytest.mark.parametrize("size", [10, 300_000, 3_000_000])
def test_a_body_arrives_whole_afterwards(door, tmp_path, size):
    body = (b"0123456789" * (size // 10 + 1))[:size]
    (tmp_path / "body").write_bytes(body)

    def late(_received: Received) -> Reply:
        time.sleep(0.3)
        return Reply(b"", (NAME,))

    with asked(door, late) as service:
        assert door.ask("/up", "--data-binary", f"@{tmp_path / 'body'}").status == 200
        [request] = door.service.requests
        assert request.body == body
        assert [len(each.body) for each in service.requests] == [0]
        assert service.requests[0].all(b"content-length") in ([], [b"0"])
        assert service.requests[0].all(b"transfer-encoding") == []


def test_each_request_is_asked_about(desk, front):
    """One who was admitted says nothing about the next, on the same connection."""

    def only_good(received: Received) -> Reply:
        good = received.all(b"cookie") == [b"good"]
        return Reply(b"", (NAME,)) if good else Reply(b"no", (), "403 Forbidden")

    with door_to("edge", desk, front) as door, asked(door, only_good):
        with RawClient(desk.http_port) as client:
            host = (b"Host", door.name.encode())
            for cookie in (b"good", b"bad", b"good", b"good", b"bad"):
                status = client.get(b"/x", host, (b"Cookie", cookie)).status
                assert (cookie, status) == (cookie, 200 if cookie == b"good" else 403)
        assert len(door.service.requests) == 3


def test_a_name_cannot_be_injected(door):
    """Field values of the answer are one line, or the answer is no answer."""
    with asked(door, lambda _: Reply(b"", ("X-User: ada\rX-Groups: admins",))):
        status = door.ask("/x").status
    assert status in (200, 502)
    for request in door.service.requests:
        assert request.all(b"x-groups") == []


def test_a_service_of_the_registry_may_be_asked(desk, front):
    with door_to("edge", desk, front) as door, door_to("slug", desk, front, yes) as check:
        rule = {"url": f"service:{check.name}", "copyHeaders": ["X-User"]}
        door.policy(access={"forwardAuth": rule})
        assert door.ask("/x").status == 200
        assert door.service.requests[0].all(b"x-user") == [b"ada"]
