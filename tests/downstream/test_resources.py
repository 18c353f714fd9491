"""The resource in somebody else's Site, and how paths find services."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import EncodingResourceWrapper, IResource, Resource
from twisted.web.server import GzipEncoderFactory, Request, Site

from onebackend_proxy import ProxySite, ReverseProxyResource, Timeouts, reverse_proxy
from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import EndpointState, Upstream
from onebackend_proxy.downstream.fast import FastChannel
from onebackend_proxy.downstream.resources import Desk, below
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.testing import ScriptedUpstream

from .. import conformance
from ..conformance import ONE, Client, Plane, new_plane
from ..wire import Wire


class Page(Resource):
    """A page that is always the same."""

    isLeaf = True

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.render_GET = lambda _: content


def stock_site(resource: IResource, clock: Clock) -> Site:
    """A Site that knows nothing of us."""
    return Site(resource, reactor=clock)


class TestStockSite(conformance.PlaneBehaviour):
    """twisted.web's own channel, which gives us requests whole."""

    streams = False

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        return new_plane(stock_site, urls)


def mounted(site: type[Site], *segments: bytes) -> Plane:
    """A plane whose resource is mounted below these path segments."""

    def factory(resource: IResource, clock: Clock) -> Site:
        top: Resource = Resource()
        place = top
        for segment in segments[:-1]:
            child = Resource()
            place.putChild(segment, child)
            place = child
        place.putChild(segments[-1], resource)
        top.putChild(b"", Page(b"a page"))
        return site(top, reactor=clock)

    return new_plane(factory, ONE)


class TestMounts(SynchronousTestCase):
    """Below a path of another program's site: the mount is taken off, the slug stays."""

    def each(self, *segments: bytes) -> list[Plane]:
        return [mounted(Site, *segments), mounted(ProxySite, *segments)]

    def test_the_mount_is_taken_off_byte_for_byte(self) -> None:
        for plane in self.each(b"a b", b"services"):
            client = plane.connect().ask(b"GET /a%20b/services/svc/x%2Fy//z;p?q=%20 HTTP/1.1")
            service = plane.upstream.accept()
            assert service.request_line == b"GET /svc/x%2Fy//z;p?q=%20 HTTP/1.1"
            service.answer(b"here")
            assert client.answer().body == b"here"

    def test_the_slug_alone(self) -> None:
        for plane in self.each(b"services"):
            for target, wanted in (
                (b"/services/svc", b"/svc"),
                (b"/services/svc/", b"/svc/"),
                (b"/services/svc?q", b"/svc?q"),
            ):
                plane.connect().ask(b"GET %b HTTP/1.1" % target)
                service = plane.upstream.accept()
                assert service.request_line == b"GET %b HTTP/1.1" % wanted
                service.answer()

    def test_pages_beside_it(self) -> None:
        for plane in self.each(b"services"):
            assert plane.connect().ask(b"GET / HTTP/1.1").answer().body == b"a page"
            assert plane.connect().ask(b"GET /other HTTP/1.1").answer().status == 404
            assert plane.upstream.connecting == []

    def test_the_mount_itself_is_no_service(self) -> None:
        for plane in self.each(b"services"):
            for target in (b"/services", b"/services/", b"/services//svc"):
                answer = plane.connect().ask(b"GET %b HTTP/1.1" % target).answer()
                assert answer.status == 404
                assert json.loads(answer.body).keys() == {"error"}

    def test_a_path_that_leaves_the_mount(self) -> None:
        for plane in self.each(b"services"):
            for target in (b"/services/svc/../../x", b"/services/%2e%2e/svc", b"/services/svc/%2e%2e/other"):
                assert plane.connect().ask(b"GET %b HTTP/1.1" % target).answer().status in (400, 404)
            assert plane.upstream.connecting == []

    def test_built_in_services_answer_there_too(self) -> None:
        for plane in self.each(b"services"):
            plane.resource.serve({b"user-svc": Page(b"built in")})
            assert plane.connect().ask(b"GET /services/user-svc HTTP/1.1").answer().body == b"built in"


class TestServices(SynchronousTestCase):
    """From a slug to a resource."""

    def test_below(self) -> None:
        assert below(b"/a/b//c", 0) == b"/a/b//c"
        assert below(b"/a/b//c", 1) == b"/b//c"
        assert below(b"/a/b//c", 3) == b"/c"
        assert below(b"/a", 1) == b"/"

    def test_one_resource_per_service_and_none_for_what_is_asked_in_vain(self) -> None:
        plane = new_plane(ProxySite, ONE)
        for _ in range(2):
            plane.connect().ask()
            plane.upstream.accept().answer()
        for number in range(10):
            plane.connect().ask(b"GET /unknown-%d/x HTTP/1.1" % number)
        assert list(plane.resource._services) == ["svc"]

    def test_a_service_whose_last_instance_went_is_unknown(self) -> None:
        plane = new_plane(ProxySite, ONE)
        client = plane.connect().ask()
        plane.upstream.accept().answer()
        client.answers()
        [view] = plane.registry.instances()
        self.successResultOf(plane.registry.remove(view.instance.id))
        assert client.ask().answer().status == 404
        assert plane.resource._services == {}

    def test_a_service_that_goes_while_its_request_is_under_way_is_still_answered(self) -> None:
        plane = new_plane(ProxySite, ONE)
        client = plane.connect().ask()
        service = plane.upstream.accept()
        [view] = plane.registry.instances()
        self.successResultOf(plane.registry.remove(view.instance.id))
        service.answer(b"last words")
        assert client.answer().body == b"last words"

    def test_one_that_went_between_being_found_and_being_asked(self) -> None:
        plane = new_plane(ProxySite, ONE)
        client = plane.connect().ask()
        plane.upstream.accept().answer()
        client.answers()
        resource = plane.resource._services["svc"]
        [view] = plane.registry.instances()
        self.successResultOf(plane.registry.remove(view.instance.id))
        plane.resource.serve({b"svc": resource})
        assert client.ask().answer().status == 404

    def test_a_built_in_service_goes_before_a_registered_one(self) -> None:
        plane = new_plane(ProxySite, ONE)
        plane.resource.serve({b"svc": Page(b"built in")})
        assert plane.connect().ask(b"GET /svc HTTP/1.1").answer().body == b"built in"

    def test_an_escaped_slug_is_the_slug(self) -> None:
        plane = new_plane(ProxySite, ONE)
        plane.connect().ask(b"GET /s%76c/x HTTP/1.1")
        assert plane.upstream.accept().request_line == b"GET /s%76c/x HTTP/1.1"

    def test_a_slug_that_is_none_is_named_in_no_error(self) -> None:
        plane = new_plane(ProxySite, ONE)
        answer = plane.connect().ask(b"GET /<script>/x HTTP/1.1").answer()
        assert json.loads(answer.body) == {"error": "the path begins with no service's slug"}


class TestStockRequests(SynchronousTestCase):
    """What a request that came whole is, and what else stands between it and us."""

    def plane(self) -> Plane:
        return new_plane(stock_site, ONE)

    def test_an_encoder_of_the_site_is_used(self) -> None:
        for site in (Site, ProxySite):

            def factory(resource: Any, clock: Clock, site: type[Site] = site) -> Site:
                proxy = ReverseProxyResource(lambda: resource._upstream("svc"), resource.desk)
                return site(EncodingResourceWrapper(proxy, [GzipEncoderFactory()]), reactor=clock)

            plane = new_plane(factory, ONE)
            client = plane.connect().ask(b"GET /svc/x HTTP/1.1", b"Accept-Encoding: gzip")
            plane.upstream.accept().answer(b"hello" * 100)
            answer = client.answer()
            assert gzip.decompress(answer.body) == b"hello" * 100
            assert answer.field(b"Content-Encoding") == [b"gzip"]

    def test_a_chunked_body_has_a_length_by_then(self) -> None:
        plane = self.plane()
        plane.connect().ask(
            b"POST /svc/x HTTP/1.1", b"Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"
        )
        service = plane.upstream.accept()
        assert (service.field(b"Content-Length"), service.body, service.trailers) == ([b"2"], b"hi", [])

    def test_a_client_that_goes_away_while_the_body_is_given_on(self) -> None:
        plane = self.plane()
        plane.upstream.capacity = 50_000
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 200000", body=b"x" * 200_000)
        service = plane.upstream.accept()
        client.leaves()
        assert service.aborted
        assert len(service.body) < 200_000

    def test_an_answer_while_the_body_is_given_on(self) -> None:
        plane = self.plane()
        plane.upstream.capacity = 50_000
        client = plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 200000", body=b"x" * 200_000)
        service = plane.upstream.accept()
        service.answer(b"enough", 413)
        assert client.answer().body == b"enough"
        client.ask()
        plane.upstream.accept().answer(b"next")
        assert client.answer().body == b"next"

    def test_bodies_of_the_stock_site_that_are_refused(self) -> None:
        plane = self.plane()
        client = plane.connect().send(b"POST /svc/x HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi")
        answer = client.answer()
        assert (answer.status, json.loads(answer.body)) == (400, {"error": "no Host header"})

    def test_stopping_is_told_by_the_connection(self) -> None:
        plane = self.plane()
        client = plane.connect().ask()
        service = plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"5"))
        assert client.wire.producer is not None
        client.wire.producer.stopProducing()
        client.leaves()
        assert service.aborted

    def test_http2_has_no_words_for_interim_answers_and_aborts_its_stream(self) -> None:
        # Played with twisted.web's own Request on a channel that is no HTTPChannel, as an H2Stream is.
        stream = _Stream()
        request: Any = Request(stream, parsePOSTFormSubmission=False)
        request.requestHeaders.addRawHeader(b"Host", b"front.example")
        request.gotLength(0)
        upstream = ScriptedUpstream()
        exchanges = Exchanges(Clock(), upstream)
        endpoint = EndpointState(parse_instance_url("http://10.0.0.1"))
        resource = ReverseProxyResource(lambda: Upstream("svc", (endpoint,)), Desk(exchanges), keep=1)
        request.site = Site(resource, reactor=Clock())
        request.prepath, request.postpath = [b"svc"], []
        request.method, request.uri, request.clientproto = b"GET", b"/svc", b"HTTP/2"
        resource.render(request)
        service = upstream.accept()
        service.inform(103)
        service.respond(200, (b"Content-Length", b"5"))
        assert stream.heads == [b"200"]
        service.lose()
        assert stream.aborted


class _Stream:
    """As much of an H2Stream as a Request asks for."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.aborted = False
        self.wire = self.transport = Wire(Clock())

    def getPeer(self) -> object:
        return self.wire.getPeer()

    def getHost(self) -> object:
        return self.wire.getHost()

    def isSecure(self) -> bool:
        return True

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: object) -> None:
        self.heads.append(code)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """No back-pressure here."""

    def abortConnection(self) -> None:
        self.aborted = True


class TestReverseProxy(SynchronousTestCase):
    """A resource without a registry."""

    def test_it_goes_where_it_is_told_and_takes_its_mount_off(self) -> None:
        reactor = MemoryReactorClock()
        resource = reverse_proxy("http://10.0.0.1:8000/base", reactor=reactor, timeouts=Timeouts(connect=2))
        root = Resource()
        root.putChild(b"there", resource)
        wire = Wire(reactor)
        wire.attach(ProxySite(root, reactor).buildProtocol(wire.getPeer()))
        client = Client(reactor, wire).ask(b"GET /there/x?y HTTP/1.1")
        [(host, port, factory, timeout, _)] = reactor.tcpClients
        assert (host, port, timeout) == ("10.0.0.1", 8000, 2)
        upstream = Wire(reactor)
        upstream.attach(factory.buildProtocol(None))
        assert upstream.take().startswith(b"GET /base/x?y HTTP/1.1\r\n")
        upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.answer().body == b"ok"

    def test_on_the_fast_plane_it_is_a_whole_proxy(self) -> None:
        reactor = MemoryReactorClock()
        resource = reverse_proxy("http://10.0.0.1:8000/base", reactor=reactor)
        wire = Wire(reactor)
        channel = ProxySite(resource, reactor, fast=resource).buildProtocol(wire.getPeer())
        assert isinstance(channel, FastChannel)
        wire.attach(channel)
        client = Client(reactor, wire).ask(b"GET /user-svc/x?y HTTP/1.1")
        [(_host, _port, factory, _timeout, _)] = reactor.tcpClients
        upstream = Wire(reactor)
        upstream.attach(factory.buildProtocol(None))
        assert upstream.take().startswith(b"GET /base/user-svc/x?y HTTP/1.1\r\n")
        upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.answer().body == b"ok"

    def test_a_url_that_cannot_be_proxied_to(self) -> None:
        with pytest.raises(ValueError, match="scheme"):
            reverse_proxy("ftp://10.0.0.1", reactor=MemoryReactorClock())

    def test_a_policy(self) -> None:
        reactor = MemoryReactorClock()
        policy = {"access": {"deny": ["192.0.2.66"]}, "rateLimit": {"requests": 1, "per": "1h"}}
        resource = reverse_proxy("http://10.0.0.1:8000", reactor=reactor, policy=policy)
        statuses = []
        for peer in ("192.0.2.7", "192.0.2.7", "192.0.2.66"):
            wire = Wire(reactor, peer)
            wire.attach(ProxySite(resource, reactor, fast=resource).buildProtocol(wire.getPeer()))
            client = Client(reactor, wire).ask()
            statuses += [answer.status for answer in client.answers()]
            # Nothing tells where the service is.
            assert b"10.0.0.1" not in wire.value()
        assert (len(reactor.tcpClients), statuses) == (1, [429, 403])

    def test_a_policy_that_there_is_not(self) -> None:
        for policy, said in (
            ({"rateLimit": {"requests": 0}}, "rateLimit.requests: "),
            ({"nope": 1}, "nope"),
            ({"stripPrefix": True}, "stripPrefix"),
            ({"access": {"forwardAuth": {"url": "service:auth/check"}}}, "no registry"),
        ):
            with pytest.raises(ValueError, match=said):
                reverse_proxy("http://10.0.0.1", reactor=MemoryReactorClock(), policy=policy)

    def test_no_url_at_all(self) -> None:
        reactor = MemoryReactorClock()
        wire = Wire(reactor)
        wire.attach(ProxySite(reverse_proxy(reactor=reactor), reactor).buildProtocol(wire.getPeer()))
        assert Client(reactor, wire).ask().answer().status == 502

    def test_the_reactor_that_runs_is_the_default(self) -> None:
        assert isinstance(reverse_proxy("http://10.0.0.1"), ReverseProxyResource)


def test_a_desk_is_a_description() -> None:
    desk = Desk(Exchanges(Clock(), ScriptedUpstream()))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        desk.trusted = ()  # type: ignore[misc]
