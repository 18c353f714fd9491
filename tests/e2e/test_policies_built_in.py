"""A Route to one of the proxy's own services: the rules of the Route apply there too."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from .edge import Edge
from .policies import Door, Service
from .proxy_process import ADMIN_PASSWORD

LOGIN = json.dumps({"appHost": "unnamed", "slug": "1backend", "password": ADMIN_PASSWORD, "device": "x"})
_numbers = itertools.count(1)


@pytest.fixture(params=["edge", "h2"])
def accounts(request, desk: Edge, front: Edge) -> Iterator[Door]:
    """A host that leads to ``user-svc``, by HTTP/1.1 in clear and by HTTP/2."""
    edge = front if request.param == "h2" else desk
    name = f"accounts-{next(_numbers)}.test"
    door = Door(request.param, edge, name, Service(), "service:user-svc")
    door.policy()
    if request.param == "h2":
        edge.certify(name)
    yield door


def login(door: Door, *options: str, source: str = "127.0.0.1") -> int:
    """The status of a login through this door."""
    fields = ("-H", "Content-Type: application/json", "--data", LOGIN)
    answer = door.ask("/user-svc/login", *fields, *options, source=source)
    if answer.status == 200:
        assert json.loads(answer.body)["token"]["token"]
    return answer.status


def test_login_works_through_it(accounts):
    assert login(accounts) == 200
    accounts.policy(
        access={"allow": ["127.0.0.1"]},
        rateLimit={"requests": 100, "per": "1s"},
        requestBodyLimit=1000,
        headers={"response": {"set": {"X-Front": "desk"}}},
    )
    assert login(accounts) == 200
    answer = accounts.ask("/user-svc/public-key")
    assert (answer.status, answer.headers["x-front"]) == (200, "desk")


def test_addresses(accounts):
    accounts.policy(access={"allow": ["127.0.0.2"]})
    assert login(accounts, source="127.0.0.2") == 200
    assert login(accounts, source="127.0.0.3") == 403
    assert login(accounts, "-H", "X-Forwarded-For: 127.0.0.2", source="127.0.0.3") == 403


def test_rate_limits(accounts):
    accounts.policy(rateLimit={"requests": 2, "per": "1h"})
    assert [accounts.ask("/user-svc/public-key").status for _ in range(4)] == [200, 200, 429, 429]


def test_body_limits(accounts):
    accounts.policy(requestBodyLimit=20)
    assert login(accounts) == 413


def test_maintenance(accounts):
    accounts.policy(paused={"retryAfter": "1m"})
    assert login(accounts) == 503
    accounts.policy()
    assert login(accounts) == 200


def test_a_change_through_the_service_side_is_not_locked_out(accounts):
    """The Route's rules are not those of the service side: what they lock out can be taken back there."""
    accounts.policy(access={"allow": ["127.9.9.9"]})
    assert login(accounts) == 403
    assert accounts.edge.api.call("POST", "/proxy-svc/routes", {}).status_code == 200


@pytest.mark.parametrize("slug", ["user-svc", "proxy-svc", "registry-svc"])
def test_a_built_in_service_has_no_entry_of_its_own(desk, slug):
    entry = {"id": f"/{slug}", "access": {"allow": ["127.9.9.9"]}}
    answer = desk.api.call("PUT", "/proxy-svc/routes", {"routes": [entry]})
    assert answer.status_code == 400
    assert desk.api.call("POST", "/proxy-svc/routes", {}).status_code == 200
