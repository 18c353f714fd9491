"""`rateLimit`: so many at once, then as many as there should be, whoever asks and however."""

from __future__ import annotations

import collections
import time

import pytest

from .policies import TRUSTED, door_to
from .raw_client import RawClient
from .recording import statuses
from .test_policies_addresses import ADA, EVE, FORGED


def test_so_many_at_once_and_then_429(door):
    door.policy(rateLimit={"requests": 3, "per": "1m", "burst": 4, "by": "ip"})
    assert door.statuses(8) == [200] * 5 + [429] * 3
    answer = door.ask()
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == ("5", "0")
    assert 1 <= int(answer.headers["ratelimit-reset"]) <= 100
    assert len(door.service.requests) == 5
    admitted = door.ask(source=ADA)
    assert (admitted.status, admitted.headers["ratelimit-remaining"]) == (200, "4")


def test_without_a_burst_all_of_them_may_come_at_once(door):
    door.policy(rateLimit={"requests": 4, "per": "1m"})
    assert door.statuses(6) == [200] * 4 + [429] * 2


def test_after_a_while_it_admits_again(door):
    door.policy(rateLimit={"requests": 2, "per": "1s", "burst": 0})
    assert door.statuses(3)[0] == 200
    answer = door.ask()
    waited = int(answer.headers.get("retry-after", "0"))
    time.sleep(waited + 0.1)
    assert door.ask().status == 200


def test_nobody_becomes_another_by_what_he_writes(door):
    door.policy(rateLimit={"requests": 1, "per": "1h"})
    assert door.ask(source=EVE).status == 200
    for forged in FORGED:
        assert (forged, door.ask("/", "-H", forged, source=EVE).status) == (forged, 429)
    assert door.ask(source=ADA).status == 200


def test_behind_a_trusted_proxy_each_client_has_its_own(door):
    door.policy(rateLimit={"requests": 1, "per": "1h"})

    def ask(said: str) -> int:
        return door.ask("/", "-H", f"X-Forwarded-For: {said}", source=TRUSTED).status

    assert [ask("10.0.0.1"), ask("10.0.0.2"), ask("10.0.0.1"), ask("::ffff:10.0.0.1")] == [200, 200, 429, 429]
    # IPv6 clients have at least a /64 each.
    found = [ask(f"2001:db8::{number:x}") for number in (1, 2)] + [ask("2001:db8:0:0:ffff:1:2:3")]
    assert found == [200, 429, 429]
    assert ask("2001:db8:0:1::1") == 200


def test_by_a_header(door):
    door.policy(rateLimit={"requests": 1, "per": "1h", "by": "header:X-Api-Key"})

    def ask(*fields: str) -> int:
        return door.ask("/", *(option for field in fields for option in ("-H", field))).status

    assert [ask("X-Api-Key: a"), ask("x-api-key: a"), ask("X-API-KEY:  a")] == [200, 429, 429]
    assert [ask("X-Api-Key: b"), ask("X-Api-Key: b")] == [200, 429]
    assert [ask(), ask()] == [200, 429]


def test_by_route_all_share_it(door):
    door.policy(rateLimit={"requests": 2, "per": "1h", "by": "route"})
    assert [door.ask(source=source).status for source in (ADA, EVE, TRUSTED)] == [200, 200, 429]


def test_two_routes_are_counted_apart_and_a_change_of_something_else_keeps_the_count(desk, front):
    with door_to("edge", desk, front) as door, door_to("edge", desk, front) as other:
        limit = {"requests": 1, "per": "1h"}
        door.policy(rateLimit=limit)
        other.policy(rateLimit=limit)
        assert [door.ask().status, other.ask().status] == [200, 200]
        door.policy(rateLimit=limit, headers={"response": {"set": {"X-New": "1"}}})
        answer = door.ask()
        assert answer.status == 429
        door.policy()
        assert door.ask().status == 200


@pytest.mark.parametrize("kind", ["edge", "slug"])
def test_a_hundred_in_one_packet(kind, desk, front):
    with door_to(kind, desk, front) as door:
        door.policy(rateLimit={"requests": 10, "per": "1h", "burst": 9})
        ask = b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n"
        one = ask % (door.seen("/"), door.name.encode(), b"")
        last = ask % (door.seen("/"), door.name.encode(), b"Connection: close\r\n")
        with RawClient(desk.http_port if kind == "edge" else desk.port) as client:
            client.send(one * 99 + last)
            found = statuses(client.to_the_end())
        assert found == [200] * 10 + [429] * 90


@pytest.mark.once
def test_a_rate_is_kept(desk, front):
    """About 200 requests/s are offered against 50: what comes through is right to 5 %, besides the burst."""
    with door_to("edge", desk, front) as door, RawClient(desk.http_port) as client:
        door.policy(rateLimit={"requests": 50, "per": "1s", "burst": 0})
        counts: collections.Counter[int] = collections.Counter()
        began = time.monotonic()
        while (passed := time.monotonic() - began) < 4:
            counts[client.get(b"/", (b"Host", door.name.encode())).status] += 1
            time.sleep(0.004)
        assert 0.9 * 50 * passed <= counts[200] <= 1.05 * 50 * passed + 4
        assert counts[429] > 0 and set(counts) == {200, 429}


def test_the_count_is_of_a_process(new_edge):
    """What is counted is in memory: after a restart everybody begins anew."""
    edge = new_edge("--edge-test-mode")
    with door_to("edge", edge, edge) as door:
        door.policy(rateLimit={"requests": 1, "per": "1h"})
        assert door.statuses(2) == [200, 429]
        edge.stop()
        edge.start()
        assert door.statuses(2) == [200, 429]
    edge.stop()


def test_refusals_over_one_http2_connection(desk, front):
    with door_to("h2", desk, front) as door:
        door.policy(rateLimit={"requests": 5, "per": "1h"})
        assert sorted(door.statuses(30, "/", "--parallel")) == [200] * 5 + [429] * 25
