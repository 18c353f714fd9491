"""What becomes of a request for a URL."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from onebackend_proxy.addresses import parse_target
from onebackend_proxy.api.explain import EdgeView, explain, read_url
from onebackend_proxy.balancing import Balance, EndpointState, Health, Timeouts, Upstream
from onebackend_proxy.desk.guard import Guard
from onebackend_proxy.downstream.edge import EdgeResource, PlainEdge
from onebackend_proxy.errors import Unavailable
from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import Access, Certificate, Pause, Policy, RateLimit, Redirect, Route
from onebackend_proxy.routing import RouteTable

from ..properties import PROPERTY
from .support import START, Api

NOW = datetime.datetime.fromtimestamp(START, datetime.UTC)
DAY = datetime.timedelta(days=1)
CERTIFICATE = Certificate(
    "x.com", ("x.com", "*.x.com"), "", "secret", "x.com", "R3", "0A", NOW, NOW + 30.5 * DAY, NOW, NOW
)
ROUTES = [
    Route("x.com", "http://a"),
    Route("x.com/app", "http://b"),
    Route("*.com", "http://c"),
    Route("old.com/new", "http://d"),
    Route("down.com", "service:gone"),
    Route("[::1]", "http://e"),
]
REDIRECTS = [Redirect("old.com", "https://x.com/base", 301), Redirect("old.com/new/er", "/there")]


class Edge:
    """The real edge over these, with upstreams and certificates of the test's own."""

    def __init__(self, plain: bool = True) -> None:
        self.endpoints = (
            EndpointState(parse_target("http://10.0.0.1:81/base")),
            EndpointState(parse_target("unix:/run/b.sock")),
        )
        self.published = Published(RouteTable(ROUTES), RouteTable(REDIRECTS), (), ())
        desk: Any = None
        edge = EdgeResource(desk, self.upstream_of, Resource())
        edge.publish(self.published)
        http = PlainEdge(edge) if plain else edge
        self.asked: list[str] = []
        https = edge.choose if plain else None
        self.view = EdgeView(lambda: self.published, self.certificate_for, https, http.choose)

    def upstream_of(self, route: Route) -> Upstream:
        if route.target == "service:gone":
            raise Unavailable("the service has no instance", detail="none of gone")
        timeouts = Timeouts(0.25, 60, 90)
        return Upstream(route.id, self.endpoints, timeouts, 2, Balance.LEAST_CONN, (3, 1))

    def certificate_for(self, host: str) -> Certificate | None:
        self.asked.append(host)
        return CERTIFICATE if host in ("x.com", "a.x.com") else None


def told(url: str, edge: Edge | None = None, off: bool = False) -> dict[str, Any]:
    edge = edge or Edge()
    return explain(read_url(url), edge.published, None if off else edge.view, START)


def test_a_route_with_all_that_is_known_of_it():
    edge = Edge()
    one, two = edge.endpoints
    one.in_flight, one.health = 2, Health.HEALTHY
    two.failures, two.health, two.ejected_until = 4, Health.UNREACHABLE, START + 2.04
    assert told("https://X.com:443/app/y?z#top", edge) == {
        "url": "https://x.com/app/y?z",
        "edge": True,
        "match": {"kind": "route", "id": "x.com/app", "target": "http://b"},
        "lost": [
            {"kind": "route", "id": "x.com", "target": "http://a", "why": "its prefix is shorter"},
            {
                "kind": "route",
                "id": "*.com",
                "target": "http://c",
                "why": "an exact host goes before a wildcard",
            },
        ],
        "answer": None,
        "upstream": {
            "name": "x.com/app",
            "balance": "least_conn",
            "retries": 2,
            "timeouts": {"connect": "250ms", "firstByte": "1m", "idle": "90s"},
            "endpoints": [
                {
                    "url": "http://10.0.0.1:81/base",
                    "weight": 3,
                    "health": "Healthy",
                    "inFlight": 2,
                    "failures": 0,
                    "ejected": False,
                },
                {
                    "url": "unix:/run/b.sock",
                    "weight": 1,
                    "health": "Unreachable",
                    "inFlight": 0,
                    "failures": 4,
                    "ejected": True,
                    "ejectedSeconds": 2.0,
                },
            ],
        },
        "certificate": {
            "id": "x.com",
            "names": ["x.com", "*.x.com"],
            "issuer": "R3",
            "notAfter": "2027-02-14T20:00:00.000Z",
            "daysLeft": 30,
        },
        "port80": {"status": 308, "location": "https://x.com/app/y?z"},
    }
    assert edge.asked == ["x.com"]


def test_one_that_is_due_for_a_trial_is_out_for_no_more_seconds():
    edge = Edge()
    edge.endpoints[0].ejected_until = START - 5
    [one, _two] = told("x.com", edge)["upstream"]["endpoints"]
    assert (one["ejected"], one["ejectedSeconds"]) == (True, 0.0)


def test_redirects_go_before_routes():
    found = told("old.com/new/er/x?y")
    assert found["match"] == {
        "kind": "redirect",
        "id": "old.com/new/er",
        "target": "/there",
        "statusCode": 308,
    }
    assert [(loser["kind"], loser["id"], loser["why"]) for loser in found["lost"]] == [
        ("redirect", "old.com", "its prefix is shorter"),
        ("route", "old.com/new", "redirects go before routes"),
        ("route", "*.com", "redirects go before routes"),
    ]
    assert found["answer"] == found["port80"] == {"status": 308, "location": "/there/x?y"}
    assert "upstream" not in found and found["certificate"] is None


def test_nothing_matches():
    found = told("https://nobody.example/x")
    assert (found["match"], found["lost"], found["certificate"]) == (None, [], None)
    assert found["answer"] == {"status": 404, "error": "no route for this host and path"}
    assert found["port80"] == {"status": 404, "error": "no route for this host"}


def test_what_the_edge_refuses():
    found = told("x.com/%zz")
    assert (found["match"], found["answer"]["status"]) == (None, 400)
    assert found["answer"] == {"status": 400, "error": "the path has a broken percent-encoding"}


def test_a_service_without_instances():
    found = told("down.com")
    assert found["match"]["target"] == "service:gone"
    assert found["answer"] == {"status": 503, "error": "the service has no instance (none of gone)"}
    assert "upstream" not in found


def guarded(route: Route, upstream: Any = None) -> dict[str, Any]:
    edge = Edge()

    def never() -> Any:
        raise AssertionError("a built-in service has no upstream")

    guard = Guard(route, upstream or never)
    edge.published = attrs.evolve(edge.published, routes=RouteTable([route]))
    edge.view = attrs.evolve(edge.view, https=lambda request: guard)
    return told("guarded.com", edge)


def test_a_policy_is_told_with_the_match_and_nobody_is_let_in_or_counted():
    policy = Policy(access=Access(deny=("0.0.0.0/0",)), rate_limit=RateLimit(1), compress=True)
    edge = Edge()
    found = guarded(
        Route("guarded.com", "http://a", policy=policy), lambda: edge.upstream_of(Route("a", "http://a"))
    )
    assert found["match"] == {
        "kind": "route",
        "id": "guarded.com",
        "target": "http://a",
        "access": {"deny": ["0.0.0.0/0"]},
        "rateLimit": {"requests": 1, "per": "1s", "by": "ip"},
        "compress": True,
    }
    assert found["answer"] is None and len(found["upstream"]["endpoints"]) == 2


def test_a_paused_route_is_not_served():
    pause = Pause(300, "back soon")
    found = guarded(Route("guarded.com", "http://a", policy=Policy(paused=pause)))
    assert found["answer"] == {"status": 503, "error": "back soon"}
    assert "upstream" not in found
    route = Route("x.com", "http://a", policy=Policy(paused=Pause(message="soon")))
    published = Published(RouteTable([route]), RouteTable(), (), ())
    assert explain(read_url("x.com"), published, None, START)["answer"] == {"status": 503, "error": "soon"}


def test_a_built_in_service_behind_a_policy():
    found = guarded(Route("guarded.com", "service:user-svc", policy=Policy(compress=True)))
    assert found["answer"] is None and "upstream" not in found


def test_an_address_as_the_host():
    edge = Edge()
    assert told("https://[::0:1]:8443/", edge)["match"]["id"] == "[::1]"
    assert edge.asked == ["[::1]"]


def test_in_test_mode_port_80_relays():
    # In test mode: all is served in clear.
    found = told("old.com/x", Edge(plain=False))
    assert found["answer"] == {"status": 301, "location": "https://x.com/base/x"}
    assert "certificate" not in found and "port80" not in found


@pytest.mark.parametrize(
    "url, answer",
    [
        ("old.com/x?y", {"status": 301, "location": "https://x.com/base/x?y"}),
        ("x.com/app", None),
        ("nobody.example", {"status": 404}),
    ],
)
def test_without_an_edge_routes_are_told_all_the_same(url, answer):
    found = told(url, off=True)
    assert found["answer"] == answer and found["edge"] is False
    assert not {"certificate", "port80", "upstream"} & set(found)
    assert found["match"] == told(url)["match"] and found["lost"] == told(url)["lost"]


@pytest.mark.parametrize(
    "text, url",
    [
        ("x.com", "https://x.com/"),
        (" X.COM. ", "https://x.com/"),
        ("x.com:8443/App?Q=1#f", "https://x.com/App?Q=1"),
        ("HTTP://x.com?a=http://y/", "http://x.com/?a=http://y/"),
        ("x.com/?u=http://y", "https://x.com/?u=http://y"),
        ("bücher.de/ä ö", "https://xn--bcher-kva.de/%C3%A4%20%C3%B6"),
        ("x.com/%2f%41", "https://x.com/%2f%41"),
        ("[::1]:443/x", "https://[::1]/x"),
        ("/shop-svc/x?y", "/shop-svc/x?y"),
        ("/", "/"),
    ],
)
def test_urls_are_read_as_people_write_them(text, url):
    assert read_url(text).url == url


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("", "is empty"),
        ("#top", "is empty"),
        ("x" * 8193, "is longer than 8192 characters"),
        ("x.com/\n", None),
        ("x.com/\x00y", "has a control character"),
        ("ftp://x.com", "has the scheme 'ftp': only http and https are served"),
        ("https:///x", "is empty"),
        ("https://ada:secret@x.com/", "must not carry credentials"),
        ("*.x.com", "must name one host"),
        ("a b.com", "'a b.com' is not a host name"),
        ("127.1", "'127.1' is not an IPv4 address"),
    ],
)
def test_what_is_no_url(text, wanted):
    if wanted is None:
        assert read_url(text).url == "https://x.com/"
        return
    with pytest.raises(ValueError) as caught:
        read_url(text)
    assert str(caught.value) == wanted


@PROPERTY
@given(
    st.text() | st.text("x.com/:?#[]%@ä*").map(lambda rest: f"x.com{rest}") | st.text("/.%2").map("/".__add__)
)
def test_any_text_is_explained_or_refused(text):
    try:
        asked = read_url(text)
    except ValueError as error:
        assert str(error)
        return
    assert read_url(asked.url) in (asked, attrs.evolve(asked, scheme="https"))
    if asked.host:
        for off in (False, True):
            assert {"url", "edge", "match", "lost", "answer"} <= set(told(asked.url, off=off))


class OverTheApiTests(TestCase):
    def make(self, **more):
        self.api = Api(**more)
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def explain(self, url, token=None):
        token = self.admin if token is None else token
        return self.do(self.api.call("POST", "/proxy-svc/explain", {"url": url}, token=token))

    def test_with_an_edge(self):
        self.make(edge=Edge().view)
        self.assertEqual(self.explain("x.com/app").json, told("x.com/app"))

    def test_without_one_the_store_is_read(self):
        self.make()
        self.successResultOf(self.api.store.save_routes(ROUTES))
        self.successResultOf(self.api.store.save_redirects(REDIRECTS))
        for url in ("x.com/app", "old.com"):
            self.assertEqual(self.explain(url).json, told(url, off=True))

    def test_services(self):
        self.make()
        instance = {"url": "http://10.0.0.1:81", "slug": "shop-svc"}
        self.do(self.api.call("PUT", "/registry-svc/instance", instance, token=self.admin))
        found = self.explain("/shop-svc/x?y").json
        self.assertEqual(found["url"], "/shop-svc/x?y")
        self.assertEqual(found["match"], {"kind": "service", "id": "shop-svc"})
        self.assertEqual([e["url"] for e in found["upstream"]["endpoints"]], ["http://10.0.0.1:81"])
        self.assertIsNone(found["answer"])
        found = self.explain("/proxy-svc/routes").json
        self.assertEqual(found["match"], {"kind": "built-in service", "id": "proxy-svc"})
        self.assertNotIn("upstream", found)
        found = self.explain("/nobody").json
        self.assertEqual(found["answer"], {"status": 404, "error": "no service 'nobody' is registered"})
        self.assertEqual(self.explain("/a/../b").json["answer"]["status"], 400)

    def test_services_with_entries(self):
        self.make()
        instance = {"url": "http://10.0.0.1:81", "slug": "shop-svc"}
        self.do(self.api.call("PUT", "/registry-svc/instance", instance, token=self.admin))
        entry = Route("/shop-svc", policy=Policy(compress=True))
        self.successResultOf(self.api.store.save_routes([entry, Route("/gone")]))
        found = self.explain("/shop-svc/x").json
        self.assertEqual(found["match"], {"kind": "service", "id": "shop-svc", "compress": True})
        self.assertEqual(len(found["upstream"]["endpoints"]), 1)
        found = self.explain("/gone").json
        self.assertEqual(found["match"], {"kind": "service", "id": "gone"})
        self.assertEqual(found["answer"]["status"], 404)

    def test_the_service_side_says_it(self):
        paused = Policy(paused=Pause(message="not now"))
        guard = Guard(Route("/shop-svc", policy=paused), lambda: Upstream("x", ()))
        self.make(services=lambda request: guard)
        self.assertEqual(self.explain("/shop-svc/x").json["answer"], {"status": 503, "error": "not now"})

    def test_errors(self):
        self.make()
        reply = self.explain("https://ada:secret@x.com")
        self.assertEqual((reply.status, reply.error), (400, "url: must not carry credentials"))
        self.assertEqual(self.explain(5).error, "url: expected a string")
        user = self.do(self.api.register("shop-svc"))
        reply = self.explain("x.com", user)
        self.assertEqual((reply.status, reply.error), (403, "the permission proxy-svc:route:view is needed"))
        self.assertEqual(self.explain("x.com", "").status, 401)
