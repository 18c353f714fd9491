"""`access.basicAuth`: who knows a password comes in, and the service never sees one."""

from __future__ import annotations

import base64
import concurrent.futures
import time

import pytest

from onebackend_proxy.passwords import hash_password

from .policies import door_to
from .raw_client import Answer, RawClient
from .recording import LogSince, statuses
from .waiting import wait_until

SECRET, OTHER = "open sesame", "b\u00e4r:with:colons"
HASHES = (
    {"user": "ada", "passwordHash": hash_password(SECRET)},
    {"user": "eve", "passwordHash": hash_password(OTHER, "bcrypt")},
)
RESPONSIVE = 0.5
"""Seconds that somebody else may have to wait at most while passwords are looked at."""


def _basic(text: str, encoding: str = "utf-8") -> str:
    return base64.b64encode(text.encode(encoding)).decode()


ADA, EVE = _basic(f"ada:{SECRET}"), _basic(f"eve:{OTHER}")
WRONG = (
    "",
    "Authorization:",
    "Authorization: Basic",
    f"Authorization: {ADA}",
    f"Authorization: Bearer {ADA}",
    f"Authorization: Digest {ADA}",
    f"Authorization: Basic{ADA}",
    f"Authorization: Basic {ADA} {ADA}",
    f"Authorization: Basic {ADA},",
    f"Authorization: Basic {ADA}!",
    f"Authorization: Basic !{ADA}",
    f'Authorization: Basic "{ADA}"',
    f"Authorization: Basic {_basic('ada')}",
    f"Authorization: Basic {_basic('ada:')}",
    f"Authorization: Basic {_basic(':' + SECRET)}",
    f"Authorization: Basic {_basic('ADA:' + SECRET)}",
    f"Authorization: Basic {_basic('ada:' + SECRET + ' ')}",
    f"Authorization: Basic {_basic('ada:' + OTHER)}",
    f"Authorization: Basic {_basic('ada:' + SECRET + chr(0))}",
    f"Authorization: Basic {_basic('ada' + chr(10) + ':' + SECRET)}",
    f"Authorization: Basic {_basic('nobody:' + SECRET)}",
    f"Authorization: Basic {_basic('ada:' + HASHES[0]['passwordHash'])}",
    f"Authorization: Basic {_basic('ada:' + 'x' * 3000)}",
    f"Proxy-Authorization: Basic {ADA}",
    f"X-Authorization: Basic {ADA}",
    f"X_Authorization: Basic {ADA}",
    f"Cookie: Authorization=Basic {ADA}",
)


@pytest.fixture
def locked(door):
    door.policy(access={"basicAuth": list(HASHES)})
    return door


def test_who_knows_the_password_comes_in(locked):
    for credentials in (ADA, EVE, _basic(f"eve:{OTHER}")):
        for scheme in ("Basic", "basic", "BASIC"):
            answer = locked.ask("/x", "-H", f"Authorization: {scheme} {credentials}")
            assert (answer.status, answer.body) == (200, locked.seen("/x"))
    assert [request.all(b"authorization") for request in locked.service.requests] == [[]] * 9


def test_nobody_else_does(locked):
    for field in WRONG:
        answer = locked.ask("/x", "-H", field)
        assert (field, answer.status) == (field, 401)
        assert answer.headers["www-authenticate"].startswith('Basic realm="')
    two = ("-H", f"Authorization: Basic {ADA}", "-H", f"Authorization: Basic {EVE}")
    assert locked.ask("/x", *two).status in (400, 401)
    assert locked.service.requests == []


def test_a_password_is_written_nowhere(locked):
    log = LogSince(locked.edge)
    for text in (ADA, _basic("ada:some wrong one")):
        locked.ask("/x", "-H", f"Authorization: Basic {text}")
    time.sleep(1.5)
    written = "\n".join(log.lines())
    for secret in (SECRET, ADA, "some wrong one", _basic("ada:some wrong one"), HASHES[0]["passwordHash"]):
        assert secret not in written


def test_without_the_rule_credentials_are_the_services(door):
    assert door.ask("/x", "-H", f"Authorization: Basic {ADA}").status == 200
    [request] = door.service.requests
    assert request.all(b"authorization") == [f"Basic {ADA}".encode()]


def test_another_hash_locks_at_once(locked):
    ask = ("/x", "-H", f"Authorization: Basic {ADA}")
    assert [locked.ask(*ask).status for _ in range(2)] == [200, 200]
    locked.policy(access={"basicAuth": [{"user": "ada", "passwordHash": hash_password("another")}]})
    assert locked.ask(*ask).status == 401
    locked.policy(access={"basicAuth": list(HASHES)})
    assert locked.ask(*ask).status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_had_to_wait_arrives_whole(locked, tmp_path, chunked):
    body = bytes(range(256)) * 4000
    (tmp_path / "body").write_bytes(body)
    options = ["--data-binary", f"@{tmp_path / 'body'}", "-H", f"Authorization: Basic {ADA}"]
    options += ["-H", "Transfer-Encoding: chunked"] if chunked and locked.kind != "h2" else []
    assert locked.ask("/up", *options).status == 200
    [request] = locked.service.requests
    assert (request.method, request.body) == (b"POST", body)


def test_a_refused_body_reaches_nobody(locked, tmp_path):
    (tmp_path / "body").write_bytes(bytes(300_000))
    answer = locked.ask("/up", "--data-binary", f"@{tmp_path / 'body'}")
    assert answer.status == 401
    assert locked.service.requests == []


def test_addresses_are_looked_at_first(door):
    door.policy(access={"allow": ["127.0.0.2"], "basicAuth": list(HASHES)})
    assert door.ask("/", "-H", f"Authorization: Basic {ADA}").status == 403
    assert door.ask("/", source="127.0.0.2").status == 401
    assert door.ask("/", "-H", f"Authorization: Basic {ADA}", source="127.0.0.2").status == 200


@pytest.mark.once
def test_a_hundred_wrong_ones_disturb_nobody(desk, front):
    """They are refused, sooner or later, and whoever has nothing to do with it hardly waits."""
    with door_to("edge", desk, front) as locked, door_to("edge", desk, front) as other:
        locked.policy(access={"basicAuth": list(HASHES)})
        assert locked.ask("/", "-H", f"Authorization: Basic {ADA}").status == 200

        def ask(host: str, password: str) -> Answer:
            with RawClient(desk.http_port) as client:
                fields = ((b"Host", host.encode()), (b"Authorization", b"Basic " + _basic(password).encode()))
                return client.get(b"/", *fields)

        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            wrong = [pool.submit(ask, locked.name, f"ada:{number}") for number in range(100)]
            longest = 0.0
            while not all(one.done() for one in wrong):
                began = time.monotonic()
                assert ask(other.name, "x:y").status == 200
                # Whose password is known already does not stand in that queue.
                assert ask(locked.name, f"ada:{SECRET}").status == 200
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.02)
            statuses = {one.result().status for one in wrong}
        assert statuses <= {401, 429, 503} and 401 in statuses
        assert longest < RESPONSIVE
        assert ask(locked.name, f"ada:{SECRET}").status == 200


def test_a_client_that_goes_away_while_it_is_looked_at(desk, front):
    with door_to("edge", desk, front) as door:
        door.policy(access={"basicAuth": list(HASHES)})
        for number in range(30):
            with RawClient(desk.http_port) as client:
                fields = (
                    (b"Host", door.name.encode()),
                    (b"Authorization", f"Basic {_basic(f'ada:{number}')}".encode()),
                )
                client.begin(b"/gone", b"GET", *fields)
                if number % 2:
                    client.reset()
        assert door.ask("/", "-H", f"Authorization: Basic {ADA}").status == 200
        assert door.service.targets == [b"/"]


def test_pipelined_requests_are_each_looked_at(desk, front):
    with door_to("edge", desk, front) as door, RawClient(desk.http_port) as client:
        door.policy(access={"basicAuth": list(HASHES)})
        wait_until(lambda: door.ask("/", "-H", f"Authorization: Basic {ADA}").status == 200, "there is room")
        ask = b"GET /%d HTTP/1.1\r\nHost: " + door.name.encode() + b"\r\n%b\r\n"
        fields = [b"Authorization: Basic %b\r\n" % one.encode() for one in (ADA, _basic("ada:x"), EVE)]
        asked = [fields[0], b"", fields[0], fields[1], fields[2], fields[2], b"Connection: close\r\n"]
        client.send(b"".join(ask % (number, field) for number, field in enumerate(asked)))
        assert statuses(client.to_the_end()) == [200, 401, 200, 401, 200, 200, 401]
        assert door.service.targets == [b"/", b"/0", b"/2", b"/4", b"/5"]
