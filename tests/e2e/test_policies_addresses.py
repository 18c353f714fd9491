"""`access.allow` and `deny`: the address that counts is the client's, whatever it writes into a request."""

from __future__ import annotations

import json

import pytest

from .policies import DOORS, TRUSTED, door_to
from .raw_client import Answer, RawClient

ADA, EVE = "127.0.0.2", "127.0.0.3"
FORGED = (
    f"X-Forwarded-For: {ADA}",
    f"x-forwarded-for:{ADA}",
    f"X-FORWARDED-FOR: {ADA}, {TRUSTED}",
    f"X_Forwarded_For: {ADA}",
    f"X-Forwarded_For: {ADA}",
    f"Forwarded: for={ADA}",
    f'Forwarded: for="{ADA}";proto=https',
    f"X-Real-IP: {ADA}",
    f"X_Real_IP: {ADA}",
    f"True-Client-IP: {ADA}",
    f"CF-Connecting-IP: {ADA}",
    f"X-Client-IP: {ADA}",
    f"X-Cluster-Client-IP: {ADA}",
    f"Client-IP: {ADA}",
    f"X-Forwarded-Host: {ADA}",
    f"Via: 1.1 {ADA}",
)


@pytest.fixture
def for_ada(door):
    door.policy(access={"allow": [ADA]})
    return door


def test_only_who_is_allowed_comes_in(for_ada):
    assert for_ada.ask("/in", source=ADA).status == 200
    answer = for_ada.ask("/out", source=EVE)
    assert (answer.status, list(json.loads(answer.body))) == (403, ["error"])
    assert for_ada.service.targets == [for_ada.seen("/in")]


def test_deny_goes_first(door):
    door.policy(access={"allow": ["127.0.0.0/8"], "deny": [EVE]})
    assert (door.ask(source=ADA).status, door.ask(source=EVE).status) == (200, 403)
    door.policy(access={"deny": ["127.0.0.3/32"]})
    assert (door.ask(source=ADA).status, door.ask(source=EVE).status) == (200, 403)
    door.policy()
    assert door.ask(source=EVE).status == 200


def test_nobody_becomes_another_by_what_he_writes(for_ada):
    for forged in FORGED:
        assert (forged, for_ada.ask("/out", "-H", forged, source=EVE).status) == (forged, 403)
        assert (forged, for_ada.ask("/in", "-H", forged, source=ADA).status) == (forged, 200)
    assert set(for_ada.service.targets) == {for_ada.seen("/in")}


# What a trusted proxy says, and whether it makes the client Ada.
SAID: tuple[tuple[list[str], bool], ...] = (
    ([f"X-Forwarded-For: {ADA}"], True),
    ([f"X-Forwarded-For: {EVE}, {ADA}"], True),
    ([f"X-Forwarded-For: {ADA}, {TRUSTED}"], True),
    ([f"X-Forwarded-For: {ADA}, {TRUSTED} , {TRUSTED}"], True),
    ([f"X-Forwarded-For: {EVE}", f"X-Forwarded-For: {ADA}"], True),
    ([f"X-Forwarded-For: ::ffff:{ADA}"], True),
    ([f"X-Real-IP: {ADA}"], True),
    ([f"X-Forwarded-For: garbage, {ADA}"], True),
    ([f"X-Forwarded-For: {ADA}, {EVE}"], False),
    ([f"X-Forwarded-For: {ADA}", f"X-Forwarded-For: {EVE}"], False),
    ([f"X-Forwarded-For: {ADA}, garbage"], False),
    ([f"X-Forwarded-For: {ADA},"], False),
    ([f"X-Forwarded-For: {ADA},,{TRUSTED}"], False),
    ([f"X-Forwarded-For: {ADA}%eth0"], False),
    (["X-Forwarded-For: 127.0.0.02"], False),
    (["X-Forwarded-For: 127.2"], False),
    (["X-Forwarded-For: 2130706434"], False),
    ([f"X-Forwarded-For: {ADA}/32"], False),
    (["X-Forwarded-For;"], False),
    ([f"X_Forwarded_For: {ADA}"], False),
    ([f"X-Real-IP: {ADA}", f"X-Forwarded-For: {EVE}"], False),
    ([f"X-Forwarded-For: {EVE}", f"X_Forwarded_For: {ADA}"], False),
    ([f"Forwarded: for={ADA}"], False),
    ([f"X-Forwarded-Host: {ADA}"], False),
    ([], False),
)


@pytest.mark.parametrize("kind", DOORS)
def test_a_trusted_proxy_is_read_from_the_right(kind, desk, front):
    with door_to(kind, desk, front) as door:
        door.policy(access={"allow": [ADA]})
        for fields, admitted in SAID:
            options = [option for field in fields for option in ("-H", field)]
            answer = door.ask("/", *options, source=TRUSTED)
            assert (fields, answer.status) == (fields, 200 if admitted else 403)
        assert len(door.service.requests) == sum(admitted for _fields, admitted in SAID)


@pytest.mark.parametrize("kind", ["edge", "slug"])
def test_each_request_of_a_trusted_connection_is_somebody_elses(kind, desk, front):
    """What is remembered of the request before says nothing about who sends this one."""
    with door_to(kind, desk, front) as door:
        door.policy(access={"allow": [ADA]})
        port = desk.http_port if kind == "edge" else desk.port
        with RawClient(port, source=TRUSTED) as client:

            def ask(client_ip: str) -> Answer:
                fields = ((b"Host", door.name.encode()), (b"X-Forwarded-For", client_ip.encode()))
                return client.get(door.seen("/"), *fields)

            said = [ADA, ADA, EVE, ADA, EVE, EVE, ADA]
            assert [ask(who).status for who in said] == [200 if who == ADA else 403 for who in said]


def test_a_change_is_in_force_for_connections_that_are_open(desk, front):
    with door_to("edge", desk, front) as door, RawClient(desk.http_port, source=EVE) as client:

        def ask() -> int:
            return client.get(b"/", (b"Host", door.name.encode())).status

        assert ask() == 200
        door.policy(access={"allow": [ADA]})
        assert ask() == 403
        door.policy(access={"allow": [ADA, EVE]})
        assert ask() == 200


def test_refused_bodies_are_not_taken_for_requests(desk, front):
    """A body that holds a request to an open route is no request, whether it is read or not."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: %b\r\n\r\n"
    with door_to("edge", desk, front) as door, door_to("edge", desk, front) as open_door:
        door.policy(access={"allow": [ADA]})
        body = inner % open_door.name.encode()
        head = b"POST / HTTP/1.1\r\nHost: %b\r\n" % door.name.encode()
        for framed in (
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        ):
            with RawClient(desk.http_port, source=EVE) as client:
                client.send(
                    head
                    + framed
                    + b"GET /last HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % open_door.name.encode()
                )
                data = client.to_the_end()
            assert data.startswith(b"HTTP/1.1 403 ")
        assert set(open_door.service.targets) <= {b"/last"}
        assert door.service.requests == []
