from __future__ import annotations

import json

from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi

ROUTE = {
    "url": "https://x.com/app/y",
    "edge": True,
    "match": {
        "kind": "route",
        "id": "x.com/app",
        "targets": [{"url": "http://a:1", "weight": 3}, {"url": "unix:/b.sock"}],
    },
    "lost": [{"kind": "route", "id": "x.com", "target": "http://c", "why": "its prefix is shorter"}],
    "answer": None,
    "upstream": {
        "name": "x.com/app",
        "balance": "least_conn",
        "retries": 2,
        "timeouts": {"connect": "250ms", "firstByte": "1m", "idle": "90s"},
        "endpoints": [
            {
                "url": "http://a:1",
                "weight": 3,
                "health": "Healthy",
                "inFlight": 2,
                "failures": 0,
                "ejected": False,
            },
            {
                "url": "unix:/b.sock",
                "weight": 1,
                "health": "Unreachable",
                "inFlight": 0,
                "failures": 4,
                "ejected": True,
                "ejectedSeconds": 1.5,
            },
        ],
    },
    "certificate": {
        "id": "x.com",
        "names": ["x.com"],
        "issuer": "R3",
        "notAfter": "2026-12-01T00:00:00.000Z",
        "daysLeft": 10,
    },
    "port80": {"status": 308, "location": "https://x.com/app/y"},
}
IN_WORDS = """\
url            https://x.com/app/y
match          route x.com/app -> http://a:1, unix:/b.sock
               not route x.com -> http://c: its prefix is shorter
answer         the service's
upstream       balance least_conn, retries 2, connect 250ms, first byte 1m, idle 90s
               http://a:1     Healthy, weight 3, 2 in flight, 0 failures in a row
               unix:/b.sock   Unreachable, weight 1, 0 in flight, 4 failures in a row, out of use for 1.5 s
certificate    x.com by R3, until 2026-12-01 (10 days)
port 80        308 Permanent Redirect, to https://x.com/app/y
"""


def shown(admin: Oo, api: FakeApi, told: object) -> list[str]:
    api.script("POST", "/proxy-svc/explain", 200, told)
    return admin.ok("explain", "x.com").splitlines()[1:]


def test_a_route_in_words_and_as_json(admin: Oo, api: FakeApi) -> None:
    api.script("POST", "/proxy-svc/explain", 200, ROUTE)
    assert admin.ok("explain", "x.com/app/y") == IN_WORDS
    assert api.seen[-1].body == {"url": "x.com/app/y"}
    api.script("POST", "/proxy-svc/explain", 200, ROUTE)
    assert json.loads(admin.ok("explain", "x.com", "--json")) == ROUTE


POLICY = {
    "stripPrefix": True,
    "access": {
        "allow": ["10.0.0.0/8", "127.0.0.1/32"],
        "deny": ["10.6.6.6/32"],
        "basicAuth": [{"user": "ada", "passwordHash": "secret"}, {"user": "bob", "passwordHash": "secret"}],
        "forwardAuth": {"url": "http://auth/check", "copyHeaders": ["X-User", "X-Role"]},
    },
    "rateLimit": {"requests": 100, "per": "1s", "by": "ip", "burst": 0},
    "requestBodyLimit": "0",
    "headers": {
        "request": {"set": {"X-Api-Key": "secret", "Host": "x"}, "remove": ["Cookie"]},
        "response": {"remove": ["Server", "X-Powered-By"]},
    },
    "cache": True,
    "errorPages": {"503": "<p>", "5xx": "<p>"},
    "interceptErrors": True,
    "paused": {"retryAfter": "5m", "message": "back\nsoon"},
}
POLICY_IN_WORDS = """\
policy         paused, Retry-After 5m: back soon
               allow 10.0.0.0/8, 127.0.0.1/32
               deny 10.6.6.6/32
               basicAuth for ada, bob
               forwardAuth asks http://auth/check, copies X-User, X-Role
               rateLimit 100 in 1s by ip, burst 0
               requestBodyLimit 0
               request headers: set X-Api-Key, Host; remove Cookie
               response headers: remove Server, X-Powered-By
               errorPages for 503, 5xx
               stripPrefix, cache, interceptErrors
answer         the service's"""


def test_a_policy_in_words_without_its_secrets(admin: Oo, api: FakeApi) -> None:
    told = {"match": {"kind": "route", "id": "x.com/app", "target": "http://a", **POLICY}, "answer": None}
    [match, *lines] = shown(admin, api, told)
    assert match == "match          route x.com/app -> http://a"
    assert "\n".join(lines) == POLICY_IN_WORDS


def test_a_part_of_a_policy(admin: Oo, api: FakeApi) -> None:
    policy: dict[str, object] = {"rateLimit": {"requests": 1, "per": "1m", "by": "route"}}
    policy |= {"access": {"forwardAuth": {"url": "auth"}}, "paused": {"retryAfter": "1m"}}
    told = {"match": {"kind": "service", "id": "a", **policy}, "answer": None}
    assert shown(admin, api, told) == [
        "match          service a",
        "policy         paused, Retry-After 1m",
        "               forwardAuth asks auth",
        "               rateLimit 1 in 1m by route",
        "answer         the service's",
    ]


def test_nothing_matches(admin: Oo, api: FakeApi) -> None:
    told = {
        "url": "https://x.com/",
        "edge": True,
        "match": None,
        "lost": [],
        "answer": {"status": 404, "error": "no route for this host and path"},
        "certificate": None,
        "port80": {"status": 499},
    }
    assert shown(admin, api, told) == [
        "match          no redirect, route or service matches",
        "answer         none: the TLS handshake is refused",
        "certificate    none: a handshake ends with the alert unrecognized_name (why: oo certs check HOST)",
        "port 80        499",
    ]
    assert shown(admin, api, {**told, "url": "http://x.com/"})[1] == (
        "answer         404 Not Found: no route for this host and path"
    )


def test_a_redirect_with_the_edge_off(admin: Oo, api: FakeApi) -> None:
    told = {
        "url": "https://x.com/",
        "edge": False,
        "match": {"kind": "redirect", "id": "x.com", "target": "https://y.com", "statusCode": 301},
        "lost": [],
        "answer": {"status": 301, "location": "https://y.com/"},
    }
    assert shown(admin, api, told) == [
        "match          redirect x.com -> https://y.com",
        "answer         301 Moved Permanently, to https://y.com/",
        "edge           off: nobody listens for this host (OB_EDGE_PROXY=true turns it on)",
    ]


def test_services(admin: Oo, api: FakeApi) -> None:
    told: dict[str, object] = {
        "url": "/proxy-svc",
        "match": {"kind": "built-in service", "id": "proxy-svc"},
        "answer": None,
    }
    assert shown(admin, api, told) == [
        "match          built-in service proxy-svc",
        "answer         the built-in service's",
    ]
    told = {
        "url": "/a",
        "match": {"kind": "service", "id": "a"},
        "answer": None,
        "upstream": {"endpoints": []},
    }
    assert shown(admin, api, told) == [
        "match          service a",
        "answer         the service's",
        "upstream       balance -, retries -, connect -, first byte -, idle -",
    ]


def test_the_last_day(admin: Oo, api: FakeApi) -> None:
    certificate = {"id": "x.com", "issuer": "R3", "notAfter": "2026-12-01T00:00:00Z", "daysLeft": 1}
    [*_others, line] = shown(admin, api, {"certificate": certificate})
    assert line == "certificate    x.com by R3, until 2026-12-01 (1 day)"


def test_what_no_proxy_of_ours_would_answer(admin: Oo, api: FakeApi) -> None:
    assert shown(admin, api, []) == [
        "match          no redirect, route or service matches",
        "answer         the service's",
    ]


def test_a_refusal(admin: Oo, api: FakeApi) -> None:
    api.script("POST", "/proxy-svc/explain", 400, {"error": "url: is empty"})
    assert admin.refused("explain", "") == "url: is empty"
    assert "Missing argument 'URL'" in admin.refused("explain", code=2)
