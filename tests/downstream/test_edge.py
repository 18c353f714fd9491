"""The edge: hosts and paths, Redirects before Routes, port 80, and what no client can make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface import implementer

from onebackend_proxy import ProxySite
from onebackend_proxy.addresses import check_redirect_target
from onebackend_proxy.balancing import Health
from onebackend_proxy.downstream.edge import EdgeResource, PlainEdge
from onebackend_proxy.downstream.resources import Desk, ServiceResource
from onebackend_proxy.errors import BadRequest
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.interfaces import Published
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.records import Redirect, Route, WeightedTarget
from onebackend_proxy.registry import EmbeddedRegistry
from onebackend_proxy.routing import RouteTable, canonical_id, edge_path, edge_paths, redirect_location
from onebackend_proxy.targets import RouteUpstreams, Targets
from onebackend_proxy.testing import MemoryStore, ScriptedUpstream

from .. import conformance
from ..conformance import ONE, Client, Plane, instance
from ..logged import Entries
from ..properties import OFTEN, PROPERTY
from ..wire import Answer, Wire


def fast(edge: EdgeResource, clock: Clock) -> ProxySite:
    """The edge on the fast plane."""
    return ProxySite(edge, clock, fast=edge)


def slow(edge: EdgeResource, clock: Clock) -> ProxySite:
    """The edge as a resource of our own site."""
    return ProxySite(edge, clock)


def stock(edge: EdgeResource, clock: Clock) -> Site:
    """The edge in a Site that knows nothing of us."""
    return Site(edge, reactor=clock)


def plain(edge: EdgeResource, clock: Clock) -> ProxySite:
    """Port 80, where one challenge is known."""
    port = PlainEdge(edge, lambda host, token: succeed(_PROOFS.get((host, token))))
    return ProxySite(port, clock, fast=port)


_PROOFS = {("x.com", "token"): "token.thumbprint"}
CHALLENGE = b"/.well-known/acme-challenge/"


@attrs.define
class EdgePlane(Plane):
    """A plane whose resource is an edge."""

    upstreams: Any = None

    @property
    def edge(self) -> EdgeResource:
        """Its resource."""
        assert isinstance(self.resource, EdgeResource)
        return self.resource

    def publish(self, routes: Sequence[Route] = (), redirects: Sequence[Redirect] = ()) -> None:
        """From now on there are these."""
        table = RouteTable(routes)
        self.upstreams.publish(table)
        self.edge.publish(Published(table, RouteTable(redirects), (), ()))


def new_edge(
    make_factory: Any,
    routes: Sequence[Route] = (),
    redirects: Sequence[Redirect] = (),
    urls: Sequence[str] = (),
    limits: Limits = DEFAULTS,
) -> EdgePlane:
    """An edge with these; the URLs are those of the service ``svc``."""
    clock = Clock()
    upstream = ScriptedUpstream()
    registry = EmbeddedRegistry(MemoryStore())
    for url in urls:
        registry.register(instance(url))
    exchanges = Exchanges(clock, upstream, random=lambda: 0.0, limits=limits)
    upstreams = RouteUpstreams(Targets(registry.lookup), limits)
    desk = Desk(exchanges)
    services = ServiceResource(registry, desk)
    built_in = Data(b"built in", "text/plain")
    built_in.isLeaf = True
    services.serve({b"user-svc": built_in})
    edge: Any = EdgeResource(desk, upstreams.of, services)
    plane = EdgePlane(
        clock, upstream, registry, exchanges, edge, make_factory(edge, clock), upstreams=upstreams
    )
    plane.publish(routes, redirects)
    return plane


def a_service(*hosts: str) -> list[Route]:
    """Routes of these hosts to the service ``svc``, below the path that the conformance suite asks for."""
    return [Route(f"{host}/svc", "service:svc") for host in hosts]


class EdgeBehaviour(conformance.PlaneBehaviour):
    """The contract of every plane, where it does not depend on slugs."""

    make_factory: ClassVar[Any] = staticmethod(slow)

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        return new_edge(self.make_factory, a_service("front.example", "x"), urls=urls)

    def test_an_unknown_slug_is_404(self) -> None:
        plane = self.make_plane()
        for path in (b"/other/x", b"/svcx", b"/"):
            self.assert_refused(plane.connect().ask(b"GET %b HTTP/1.1" % path).answer(), 404, "no route")
        assert plane.upstream.connecting == []

    def test_no_slug_is_404(self) -> None:
        """On the edge, ``//svc`` is ``/svc``: no rule is walked around by writing a path in another way."""
        plane = self.make_plane()
        plane.connect().ask(b"GET //svc//x HTTP/1.1")
        assert plane.upstream.accept().request_line == b"GET //svc//x HTTP/1.1"

    def test_a_path_that_leaves_its_service_is_400(self) -> None:
        plane = self.make_plane()
        for path, status in (
            (b"/svc/../other/x", 404),
            (b"/svc/%2e%2e/x", 404),
            (b"/svc%zz/x", 400),
            (b"/svc//../x", 400),
        ):
            self.assert_refused(plane.connect().ask(b"GET %b HTTP/1.1" % path).answer(), status)
        assert plane.upstream.connecting == []


class TestEdgeOnOurSite(EdgeBehaviour):
    """As a resource of a `ProxySite`."""


class TestEdgeOnTheFastPlane(EdgeBehaviour):
    """On the fast plane."""

    make_factory = staticmethod(fast)
    upgrades = True


class TestEdgeOnAStockSite(EdgeBehaviour):
    """In another program's Site."""

    make_factory = staticmethod(stock)
    streams = False


# The base is no test of its own.
del EdgeBehaviour


class EdgeTests(SynchronousTestCase):
    """What the edge decides is the same wherever it stands."""

    make_factory: ClassVar[Any] = staticmethod(slow)

    def edge(self, *entries: Route | Redirect, urls: Sequence[str] = ()) -> EdgePlane:
        routes = [entry for entry in entries if isinstance(entry, Route)]
        redirects = [entry for entry in entries if isinstance(entry, Redirect)]
        return new_edge(self.make_factory, routes, redirects, urls)

    def ask(self, plane: Plane, host: bytes, target: bytes = b"/", method: bytes = b"GET") -> Client:
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, target, host)
        return plane.connect().send(head)

    def goes_to(self, plane: Plane, host: bytes, target: bytes = b"/") -> str:
        """Where a request goes, which is answered at once."""
        client = self.ask(plane, host, target)
        attempt = plane.upstream.connecting[-1]
        where = attempt.endpoint.address.host
        plane.upstream.accept().answer(b"ok")
        assert client.answer().body == b"ok"
        return str(where)

    def refused(self, plane: Plane, host: bytes, target: bytes = b"/") -> int:
        answer = self.ask(plane, host, target).answer()
        assert answer.field(b"Content-Type") == [b"application/json"]
        assert plane.upstream.connecting == []
        return answer.status


class TestRouting(EdgeTests):
    """Hosts and paths."""

    def test_the_longest_prefix_on_segment_boundaries(self) -> None:
        plane = self.edge(
            Route("x.com", "http://10.0.0.1"),
            Route("x.com/app", "http://10.0.0.2"),
            Route("x.com/app/deep", "http://10.0.0.3"),
        )
        for target, wanted in (
            (b"/", "1"),
            (b"/app", "2"),
            (b"/app/", "2"),
            (b"/app?q", "2"),
            (b"/apple", "1"),
            (b"/app/deep/er", "3"),
            (b"/app/deeper", "2"),
            (b"/app/../x", "1"),
            (b"/%61pp/x", "2"),
            (b"//app//deep", "3"),
            (b"/app/%2e%2e/app/deep", "3"),
            (b"/App", "1"),
            (b"/app%2Fdeep", "1"),
        ):
            assert self.goes_to(plane, b"x.com", target) == f"10.0.0.{wanted}", target

    def test_all_spellings_of_a_host_are_one(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"), Route("[::1]", "http://10.0.0.2"))
        for host in (b"x.com", b"X.com", b"x.com:443", b"x.com:8443", b"x.com.", b"X.COM.:80"):
            assert self.goes_to(plane, host) == "10.0.0.1"
        for host in (b"[::1]", b"[::1]:443", b"[0:0::1]"):
            assert self.goes_to(plane, host) == "10.0.0.2"

    def test_unknown_hosts_are_404(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"), Route("127.0.0.1", "http://10.0.0.2"))
        for host in (b"y.com", b"a.x.com", b"com", b"x.com.evil.com", b"127.1", b"0x7f.0.0.1", b"localhost"):
            assert self.refused(plane, host) == 404, host

    def test_wildcards(self) -> None:
        plane = self.edge(Route("*.x.com", "http://10.0.0.1"), Route("a.x.com", "http://10.0.0.2"))
        assert self.goes_to(plane, b"b.x.com") == "10.0.0.1"
        assert self.goes_to(plane, b"a.x.com") == "10.0.0.2"
        for host in (b"x.com", b"a.b.x.com"):
            assert self.refused(plane, host) == 404

    def test_the_target_arrives_byte_for_byte(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1/base"))
        for target in (b"/%2F/%3F/%25", b"//a//b/", b"/a/../b", b"/a/./b;c=d", b"/a?b=//../%zz", b"/%7Ea%7e"):
            self.ask(plane, b"x.com", target)
            assert plane.upstream.accept().request_line == b"GET /base%b HTTP/1.1" % target

    def test_a_path_that_reads_in_two_ways_is_400(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"), Route("x.com/b", "http://10.0.0.2"))
        for path in (
            b"/a//../b",
            b"/a/..%2fb",
            b"/a%2F../b",
            b"/a/..;/b",
            b"/a\\..\\b",
            b"/a/..\\b",
            b"/a%5c..%5cb",
        ):
            assert self.refused(plane, b"x.com", path) == 400
        assert self.refused(plane, b"x.com", b"/%zz") == 400

    def test_it_may_where_both_are_one_route(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"))
        for path in (b"/a//../b", b"/a/..%2fb", b"/a/..;/b", b"/a\\..\\b", b"/x%2Fb;c//%25%3F"):
            self.ask(plane, b"x.com", path)
            service = plane.upstream.accept()
            assert service.request_line == b"GET %b HTTP/1.1" % path
            service.answer(b"ok")

    def test_a_built_in_service(self) -> None:
        plane = self.edge(Route("x.com", "service:user-svc"))
        client = self.ask(plane, b"x.com", b"/user-svc/public-key")
        assert client.answer().body == b"built in"
        # What else is on this connection finds its own way.
        plane.publish([Route("x.com", "service:user-svc"), Route("y.com", "http://10.0.0.1")], [])
        client.send(b"GET / HTTP/1.1\r\nHost: y.com\r\n\r\n")
        plane.upstream.accept().answer(b"ok")
        assert client.answer().body == b"ok"
        client.send(b"GET / HTTP/1.1\r\nHost: z.com\r\n\r\n")
        assert client.answer().status == 404

    def test_a_bug_is_500_and_no_end_of_the_connection(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"))

        def fail(route: Route) -> None:
            raise ZeroDivisionError

        plane.edge._destination_of = fail
        answer = self.ask(plane, b"x.com").answer()
        assert (answer.status, answer.body) == (500, b'{"error": "internal error"}\n')
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_weighted_targets(self) -> None:
        targets = (WeightedTarget("http://10.0.0.1", 3), WeightedTarget("http://10.0.0.2", 1))
        plane = self.edge(Route("x.com", targets=targets, balance="round_robin"))
        assert self.goes_to(plane, b"x.com") == "10.0.0.1"
        # As the health checks find them.
        for endpoint in plane.upstreams.of(next(iter(plane.edge._routes))).endpoints:
            endpoint.health = Health.HEALTHY
        went = [self.goes_to(plane, b"x.com") for _ in range(40)]
        assert (went.count("10.0.0.1"), went.count("10.0.0.2")) == (30, 10)

    def test_a_service_and_none(self) -> None:
        plane = self.edge(Route("x.com", "service:svc"), urls=["http://10.0.0.1:8000"])
        assert self.goes_to(plane, b"x.com") == "10.0.0.1"
        [view] = plane.registry.instances()
        self.successResultOf(plane.registry.remove(view.instance.id))
        assert self.refused(plane, b"x.com") == 503

    def test_a_target_that_an_older_version_took(self) -> None:
        plane = self.edge(Route("x.com", "ftp://10.0.0.1"))
        answer = self.ask(plane, b"x.com").answer()
        assert answer.status == 502 and b"10.0.0" not in answer.body and b"ftp" not in answer.body

    def test_changes_hold_for_connections_that_are_open(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"))
        client = self.ask(plane, b"x.com")
        plane.publish([Route("x.com", "http://10.0.0.2")])
        # What is under way goes on.
        plane.upstream.accept().answer(b"old")
        assert client.answer().body == b"old"
        client.send(b"GET / HTTP/1.1\r\nHost: x.com\r\n\r\n")
        assert plane.upstream.connecting[-1].endpoint.address.host == "10.0.0.2"
        plane.upstream.accept().answer(b"new")
        assert client.answer().body == b"new"
        plane.publish()
        client.send(b"GET / HTTP/1.1\r\nHost: x.com\r\n\r\n")
        assert client.answer().status == 404


class TestRoutingFast(TestRouting):
    """On the fast plane."""

    make_factory = staticmethod(fast)

    def test_a_whole_server_may_be_asked_for_its_options(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"))
        self.ask(plane, b"x.com", b"*", b"OPTIONS")
        assert plane.upstream.accept().request_line == b"OPTIONS * HTTP/1.1"


class TestRedirects(EdgeTests):
    """Redirects come first, and answer without any upstream."""

    def location(self, plane: Plane, host: bytes, target: bytes = b"/", status: int = 308) -> bytes:
        answer = self.ask(plane, host, target).answer()
        assert answer.status == status
        assert answer.complete and answer.body.startswith(b"%d " % status)
        assert plane.upstream.connecting == []
        [location] = answer.field(b"Location")
        return location

    def test_what_does_not_match_is_appended_and_the_query(self) -> None:
        plane = self.edge(
            Redirect("x.com", "https://y.com"),
            Redirect("x.com/old", "https://y.com/new/?a=1#part"),
            Redirect("x.com/here", "/there"),
            Redirect("x.com/top", "/"),
        )
        for target, wanted in (
            (b"/", b"https://y.com/"),
            (b"/a%2Fb//c?d=%3F", b"https://y.com/a%2Fb//c?d=%3F"),
            (b"/old", b"https://y.com/new/?a=1#part"),
            (b"/old/", b"https://y.com/new/?a=1#part"),
            (b"/old/x?b=2", b"https://y.com/new/x?a=1&b=2#part"),
            (b"/%6Fld/x", b"https://y.com/new/x?a=1#part"),
            (b"/older", b"https://y.com/older"),
            (b"/here/x", b"/there/x"),
            (b"/top/x", b"/x"),
            (b"/top//x", b"/x"),
            (b"/top", b"/"),
        ):
            assert self.location(plane, b"x.com", target) == wanted, target

    def test_each_status(self) -> None:
        plane = self.edge(
            *(Redirect(f"x.com/{code}", "https://y.com", code) for code in (301, 302, 303, 307, 308))
        )
        for code in (301, 302, 303, 307, 308):
            assert self.location(plane, b"x.com", b"/%d" % code, code) == b"https://y.com"

    def test_they_go_before_routes_even_longer_ones(self) -> None:
        plane = self.edge(Redirect("x.com", "https://y.com"), Route("x.com/app", "http://10.0.0.1"))
        assert self.location(plane, b"x.com", b"/app/x") == b"https://y.com/app/x"

    def test_wildcards_and_spellings_of_hosts(self) -> None:
        plane = self.edge(Redirect("*.x.com", "https://y.com"), Redirect("x.com", "https://y.com"))
        for host in (b"a.x.com", b"X.com:8080", b"x.com."):
            assert self.location(plane, host, b"/p") == b"https://y.com/p"

    def test_hosts_and_paths_of_other_alphabets(self) -> None:
        plane = self.edge(Redirect("x.com", "https://b\u00fccher.example:8443/\u00fc b".replace(" ", "")))
        assert self.location(plane, b"x.com", b"/p") == b"https://xn--bcher-kva.example:8443/%C3%BCb/p"

    def test_a_head_has_no_body(self) -> None:
        plane = self.edge(Redirect("x.com", "https://y.com"))
        client = self.ask(plane, b"x.com", b"/", b"HEAD")
        answer = client.answer(b"HEAD")
        assert (answer.status, answer.body) == (308, b"")
        assert answer.field(b"Content-Length") == [b"23"]
        client.send(b"GET /again HTTP/1.1\r\nHost: x.com\r\n\r\n")
        assert client.answer().field(b"Location") == [b"https://y.com/again"]

    def test_a_body_that_is_still_coming_does_not_become_a_request(self) -> None:
        plane = self.edge(Redirect("x.com", "https://y.com"))
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x.com\r\n\r\n"
        for framing, first, rest in (
            (b"Content-Length: %d" % len(smuggled), b"", smuggled),
            (b"Content-Length: %d" % len(smuggled), smuggled[:5], smuggled[5:]),
            (b"Transfer-Encoding: chunked", b"", b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled)),
        ):
            client = plane.connect().send(
                b"POST / HTTP/1.1\r\nHost: x.com\r\n%b\r\n\r\n%b" % (framing, first)
            )
            client.send(rest)
            [answer] = client.answers()
            assert (answer.status, answer.complete) == (308, True)
            assert not client.wire.aborted


class TestRedirectsFast(TestRedirects):
    """On the fast plane, where bodies and ``*`` are ours to look at."""

    make_factory = staticmethod(fast)

    def test_a_body_that_came_along_leaves_the_connection_usable(self) -> None:
        plane = self.edge(Redirect("x.com", "https://y.com"))
        one = b"POST /%d HTTP/1.1\r\nHost: x.com\r\nContent-Length: 5\r\n\r\nhello"
        client = plane.connect().send(one % 1 + one % 2)
        answers = client.answers()
        assert [answer.field(b"Location") for answer in answers] == [
            [b"https://y.com/1"],
            [b"https://y.com/2"],
        ]
        client.send(b"GET /3 HTTP/1.1\r\nHost: x.com\r\n\r\n")
        assert client.answer().field(b"Location") == [b"https://y.com/3"]

    def test_a_whole_server_has_no_path(self) -> None:
        plane = self.edge(Redirect("x.com", "https://y.com"))
        answer = self.ask(plane, b"x.com", b"*", b"OPTIONS").answer()
        assert answer.field(b"Location") == [b"https://y.com"]


class TestPort80(EdgeTests):
    """Challenges, Redirects, https for the hosts of Routes, and nothing else."""

    make_factory = staticmethod(plain)

    def answer(self, plane: Plane, host: bytes, target: bytes = b"/", method: bytes = b"GET") -> Answer:
        answer = self.ask(plane, host, target, method).answer(method)
        assert plane.upstream.connecting == []
        return answer

    def test_hosts_of_routes_are_sent_to_https_without_any_port(self) -> None:
        plane = self.edge(Route("x.com/app", "http://10.0.0.1"), Route("[::1]", "http://10.0.0.1"))
        for host, target, wanted in (
            (b"x.com", b"/", b"https://x.com/"),
            (b"X.com:8080", b"/a%2F//b?c=%3F", b"https://x.com/a%2F//b?c=%3F"),
            (b"x.com.", b"//evil.com", b"https://x.com//evil.com"),
            (b"[::1]:8080", b"/", b"https://[::1]/"),
            (b"y.com", b"http://x.com:8080/p", b"https://x.com/p"),
        ):
            for method in (b"GET", b"HEAD", b"POST"):
                answer = self.answer(plane, host, target, method)
                assert (answer.status, answer.field(b"Location")) == (308, [wanted])

    def test_unknown_hosts_and_no_path(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"), Redirect("r.com/old", "https://x.com"))
        for host in (b"y.com", b"10.0.0.1", b"x.com.evil.com", b"127.1", b"r.com"):
            answer = self.answer(plane, host)
            assert answer.status == 404 and answer.field(b"Location") == []
        assert self.answer(plane, b"x.com", b"*", b"OPTIONS").status == 400

    def test_http_1_0_without_a_host(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"))
        answer = plane.connect().send(b"GET / HTTP/1.0\r\n\r\n").answer()
        assert answer.status in (400, 404) and answer.field(b"Location") == []

    def test_redirects_are_answered_here(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"), Redirect("x.com/old", "https://y.com/new", 301))
        answer = self.answer(plane, b"x.com", b"/old/x")
        assert (answer.status, answer.field(b"Location")) == (301, [b"https://y.com/new/x"])

    def test_challenges_go_before_everything(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"), Redirect("x.com", "https://y.com"))
        for target in (CHALLENGE + b"token", b"http://x.com:80" + CHALLENGE + b"token"):
            answer = self.answer(plane, b"X.com:80", target)
            assert (answer.status, answer.body) == (200, b"token.thumbprint")
            assert answer.field(b"Content-Type") == [b"application/octet-stream"]
        answer = self.answer(plane, b"x.com", CHALLENGE + b"token", b"HEAD")
        assert (answer.status, answer.body, answer.field(b"Content-Length")) == (200, b"", [b"16"])
        # What is not asked for is as any other path.
        for host, token in ((b"x.com", b"other"), (b"y.com", b"token"), (b"x.com", b"token/../token")):
            answer = self.answer(plane, host, CHALLENGE + token)
            assert answer.status == (308 if host == b"x.com" else 404)
        assert self.answer(plane, b"x.com", CHALLENGE + b"token", b"POST").status == 308

    def test_a_connection_carries_several(self) -> None:
        plane = self.edge(Route("x.com", "http://10.0.0.1"))
        one = b"GET /%d HTTP/1.1\r\nHost: x.com\r\n\r\n"
        client = plane.connect().send(b"".join(one % number for number in range(30)))
        wanted = [[b"https://x.com/%d" % number] for number in range(30)]
        assert [answer.field(b"Location") for answer in client.answers()] == wanted


class TestChallenges(EdgeTests):
    """On port 80 they are looked up, which may take its time; nothing else does."""

    def setUp(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: list[Deferred[str | None]] = []

    def make_factory(self, edge: EdgeResource, clock: Clock) -> ProxySite:
        """Port 80."""
        self.port = PlainEdge(edge, self.look_up)
        self.entries = Entries()
        return ProxySite(self.port, clock, self.entries.tell, fast=self.port)

    def look_up(self, host: str, token: str) -> Deferred[str | None]:
        """A test says when it is found."""
        self.asked.append((host, token))
        self.answers.append(Deferred())
        return self.answers[-1]

    def plane(self) -> EdgePlane:
        """One Route, and Redirects beside and below it."""
        return self.edge(
            Route("x.com", "http://10.0.0.1"),
            Redirect("x.com/.well-known/acme-challenge/old", "https://y.com/new"),
            Redirect("r.com", "https://y.com"),
        )

    def get(self, token: bytes, method: bytes = b"GET", host: bytes = b"x.com", *fields: bytes) -> bytes:
        return b"\r\n".join(
            (b"%b %b%b HTTP/1.1" % (method, CHALLENGE, token), b"Host: " + host, *fields, b"", b"")
        )

    def test_only_what_may_be_one_is_looked_up(self) -> None:
        plane = self.plane()
        for data in (
            self.get(b"token", b"POST"),
            self.get(b"token", b"OPTIONS"),
            self.get(b"token", b"GET", b"x.com", b"Content-Length: 3") + b"abc",
            b"GET /token HTTP/1.1\r\nHost: x.com\r\n\r\n",
            b"GET /.well-known/acme-challenge HTTP/1.1\r\nHost: x.com\r\n\r\n",
        ):
            # Alone, and on a connection that twisted.web has by now.
            for before in (0, 1):
                client = plane.connect()
                if before:
                    client.send(self.get(b"one"))
                    self.answers.pop().callback(None)
                    assert client.answer().status == 308
                    self.asked.clear()
                answer = client.send(data).answer()
                assert answer.status in (308, 404) and self.asked == []
        assert plane.connect().send(self.get(b"tok?q=%41")).answers() == []
        assert self.asked == [("x.com", "tok?q=%41")]

    def test_also_for_a_host_without_a_route(self) -> None:
        """Another process may have ordered for one that is not published here yet."""
        client = self.plane().connect().send(self.get(b"token", host=b"y.com"))
        assert client.answers() == [] and self.asked == [("y.com", "token")]
        self.answers[0].callback("token.thumb")
        assert client.answer().status == 200
        client.send(self.get(b"other", host=b"y.com"))
        self.answers[1].callback(None)
        assert client.answer().status == 404

    def test_the_answer_comes_when_it_is_found(self) -> None:
        client = self.plane().connect().send(self.get(b"t-_1"))
        assert client.answers() == [] and self.asked == [("x.com", "t-_1")]
        self.answers[0].callback("t-_1.thumb")
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"t-_1.thumb")
        assert [(entry.status, entry.target) for entry in self.entries] == [(200, CHALLENGE + b"t-_1")]

    def test_what_is_not_found_is_answered_as_ever(self) -> None:
        for token, location in (
            (b"t", b"https://x.com" + CHALLENGE + b"t"),
            (b"old/a", b"https://y.com/new/a"),
        ):
            plane = self.plane()
            told = []
            for looks in (self.look_up, None):
                self.port.challenges = looks
                client = plane.connect().send(self.get(token))
                if looks:
                    assert client.answers() == []
                    self.answers.pop().callback(None)
                answer = client.answer()
                told.append((answer.status, answer.field(b"Location"), answer.body))
                assert answer.field(b"Location") == [location]
            assert told[0] == told[1]

    def test_requests_behind_it_are_answered_in_order(self) -> None:
        other = b"GET /%d HTTP/1.1\r\nHost: x.com\r\n\r\n"
        client = (
            self.plane().connect().send(other % 1 + self.get(b"a") + other % 2 + self.get(b"b") + other % 3)
        )
        assert [answer.status for answer in client.answers()] == [308]
        self.answers[0].callback("a.a")
        assert [answer.body[:3] for answer in client.answers()] == [b"a.a", b"308"]
        self.answers[1].callback(None)
        assert [answer.status for answer in client.answers()] == [308, 308]

    def test_who_leaves_meanwhile_is_forgotten(self) -> None:
        plane = self.plane()
        client = plane.connect().send(self.get(b"token"))
        client.leaves()
        # It was cancelled.
        assert self.answers[0].called and client.wire.take() == b""
        # As where the store answers all the same.
        client = plane.connect().send(self.get(b"token"))
        done = self.answers[1]
        client.leaves()
        done.callback("too late")

    def test_a_head_that_is_wrong_is_refused(self) -> None:
        plane = self.plane()
        client = plane.connect().send(self.get(b"one"))
        self.answers.pop().callback("one.one")
        assert client.answer().status == 200
        answer = client.send(self.get(b"token", b"GET", b"x.com", b"Host: y.com")).answer()
        assert answer.status == 400

    def test_a_look_up_that_breaks(self) -> None:
        client = self.plane().connect().send(self.get(b"token"))
        self.answers[0].errback(ZeroDivisionError("secret"))
        answer = client.answer()
        assert answer.status == 500 and b"secret" not in answer.body
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_in_a_site_that_knows_nothing_of_us(self) -> None:
        plane = self.plane()
        site = Site(self.port, reactor=plane.clock)
        wire = Wire(plane.clock)
        wire.attach(site.buildProtocol(wire.getPeer()))
        client = Client(plane.clock, wire).send(self.get(b"token"))
        self.answers[0].callback("token.token")
        assert client.answer().body == b"token.token"
        client.send(self.get(b"other"))
        self.answers[1].callback(None)
        assert client.answer().status == 308

    def test_where_it_is_off_nothing_is_looked_up(self) -> None:
        plane = self.plane()
        self.port.challenges = None
        client = plane.connect().send(self.get(b"token"))
        assert client.answer().status == 308 and self.asked == []
        assert type(next(iter(plane.factory.channels))).__name__ == "FastChannel"


@implementer(ISSLTransport)
class SecureWire(Wire):
    """A wire whose handshake showed a certificate for some hosts."""

    negotiatedProtocol = b"http/1.1"
    hosts: ClassVar[Sequence[str]] = ("x.com", "y.com")

    def covers(self, host: str) -> bool:
        """As `SecuredServer`."""
        return host in self.hosts

    def getPeerCertificate(self) -> None:
        """None was asked for."""


class TestOverTls(EdgeTests):
    """A connection is for the hosts of its certificate only."""

    def test_others_are_421(self) -> None:
        plane = new_edge(
            fast,
            [Route(f"{host}.com", "http://10.0.0.1") for host in "xyz"],
            [Redirect("r.com", "https://x.com")],
        )
        wire = SecureWire(plane.clock)
        wire.attach(plane.factory.buildProtocol(wire.getPeer()))
        client = Client(plane.clock, wire)
        for host, wanted in (
            (b"x.com", 200),
            (b"X.com:443", 200),
            (b"y.com", 200),
            (b"z.com", 421),
            (b"r.com", 421),
            (b"nobody.com", 421),
            (b"127.1", 421),
            (b"z.com", 421),
            (b"x.com", 200),
        ):
            client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            if wanted == 200:
                service = plane.upstream.accept()
                assert service.field(b"X-Forwarded-Proto") == [b"https"]
                service.answer(b"ok")
            answer = client.answer()
            assert answer.status == wanted, host
            assert plane.upstream.connecting == []
            # A client may go on with it.
            assert answer.field(b"Connection") == []

    def test_in_clear_there_is_no_certificate_to_be_for_anything(self) -> None:
        plane = new_edge(fast, [Route("x.com", "http://10.0.0.1")])
        assert self.goes_to(plane, b"x.com") == "10.0.0.1"


# Paths and locations.

SEGMENTS = [
    b"",
    b".",
    b"..",
    b"a",
    b"b",
    b"a@evil.com",
    b"a.evil.com",
    b"a:80",
    b"%2e",
    b"%2E%2e",
    b".%2e",
    b"%2F",
    b"%5c",
    b"\\",
    b"\\evil.com",
    b"evil.com",
    b"@evil.com",
    b"%40evil.com",
    b"%61",
    b"a%2e",
    b";@evil.com",
    b"%00",
    b"%0d%0aX:",
    b"%25",
    b"b%2Fc",
]
paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=7).map(lambda parts: b"/" + b"/".join(parts))
queries = st.sampled_from([b"", b"?", b"?q=1", b"?//evil.com", b"?@evil.com/", b"?a?b"])
prefixes = st.sampled_from(["", "/a", "/b", "/a/b", "/a%2Fb", "/b%2Fc"])


@OFTEN
@given(paths)
def test_the_path_of_a_path_is_itself(path):
    once, *others = edge_paths(path)
    assert edge_path(once.encode("latin-1")) == once
    assert "//" not in once and "/../" not in f"{once}/" and "/./" not in f"{once}/"
    assert once.startswith("/")
    # What a backend that merges slashes first would see is among them.
    merged = b"/" + b"/".join(part for part in path.split(b"/") if part)
    assert edge_path(merged).rstrip("/") in [one.rstrip("/") for one in (once, *others)]


@PROPERTY
@given(paths, queries)
def test_the_query_is_no_part_of_the_path(path, query):
    assert edge_paths(path + query) == edge_paths(path)


def resolved_host(location):
    """The host that a browser goes to from ``https://here.example``: it takes a backslash for a slash."""
    text = location.decode("ascii").replace("\t", "").replace("\n", "").replace("\\", "/")
    parts = urlsplit(text)
    return parts.netloc or "here.example"


TARGETS = [
    "https://target.com",
    "https://target.com/",
    "http://target.com:8080/x/",
    "https://target.com?q=1",
    "https://target.com#part",
    "/",
    "/there",
    "/there/",
]


@OFTEN
@example("/b", "https://target.com", b"/b.evil.com/../b", b"")
@example("/b", "https://target.com", b"/b@evil.com/../b", b"")
@example("/b", "https://target.com", b"/b%2e/../b/x", b"")
@example("/b", "/", b"/b//evil.com", b"")
@example("", "/", b"//evil.com", b"")
@example("", "/", b"/\\evil.com", b"")
@given(
    prefixes,
    st.sampled_from(TARGETS),
    paths,
    queries,
)
def test_a_location_names_the_targets_host_and_no_other(prefix, to, target, query):
    try:
        path = edge_path(target + query)
    except BadRequest:
        return
    table = RouteTable([Redirect(f"here.example{prefix}", check_redirect_target(to))])
    found = table.match("here.example", path)
    if found is None:
        return
    location = redirect_location(prefix, to, path, target + query)
    parts = urlsplit(to)
    assert resolved_host(location) == (parts.netloc or "here.example")
    assert location.startswith(b"/") != bool(parts.scheme)
    assert not location.startswith((b"//", b"/\\"))
    # It stays below the target's own path, however a browser resolves the dots.
    seen = urlsplit(location.decode("ascii")).path.encode("ascii")
    below = edge_path(seen) if seen else "/"
    assert below.startswith(parts.path.rstrip("/"))
    assert b"\r" not in location and b"\n" not in location


HOSTS = (
    b"x.com X.com x.com. x.com:80 x.com: a.w.com [::1] [::1]:8080 127.1 x.com:99999 evil.com x.com.evil.com"
    b" x.com@evil.com x.com/evil.com x.com\\evil.com evil.com#x.com x.com,evil.com w.com ..x.com [::1%25eth0]"
)


@PROPERTY
@given(
    st.sampled_from([*HOSTS.split(), b""]),
    paths,
    queries,
    st.sampled_from([b"", b"http://x.com", b"http://evil.com", b"http://x.com@evil.com"]),
)
def test_port_80_sends_nobody_to_a_host_that_is_not_ours(host, path, query, origin):
    ours = ["x.com", "*.w.com", "[::1]"]
    plane = new_edge(plain, [Route(canonical_id(name), "http://10.0.0.1") for name in ours])
    client = plane.connect().send(b"GET %b%b%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (origin, path, query, host))
    answer = client.answers()[0]
    location = answer.field(b"Location")
    assert (answer.status == 308) == bool(location)
    if location:
        assert resolved_host(location[0]) in ("x.com", "a.w.com", "[::1]")
        assert location[0].startswith(b"https://") and location[0].endswith(path + query)
    else:
        assert answer.status in (400, 404)
