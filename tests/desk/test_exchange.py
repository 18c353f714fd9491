"""Exchanges that pass a policy: what every exchange does they do, too, and what the policy says."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.limits import Limits
from onebackend_proxy.messages import NO_BODY, ResponseHead
from onebackend_proxy.passwords import hash_password
from onebackend_proxy.records import (
    Access,
    BasicUser,
    FieldEdits,
    ForwardAuth,
    HeaderEdits,
    Pause,
    Policy,
    RateLimit,
    Route,
    RouteTimeouts,
)
from onebackend_proxy.testing import ScriptedConnection

from .. import conformance
from ..conformance import ONE, Client, Plane
from ..downstream.test_edge import fast, slow, stock
from ..wire import Answer
from .support import GuardedPlane, guarded_plane

NEUTRAL = Policy(
    access=Access(allow=("0.0.0.0/0", "::/0")),
    rate_limit=RateLimit(1_000_000),
    request_body_limit=10_000_000,
    headers=HeaderEdits(FieldEdits(remove=("X-None",)), FieldEdits(remove=("X-None",))),
)
"""All of it is asked, and none of it changes anything but that RateLimit fields come."""


class GuardedBehaviour(conformance.PlaneBehaviour):
    """The contract of every plane, with a policy before each request."""

    make_factory: ClassVar[Any] = staticmethod(slow)

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        routes = [Route("/svc", policy=NEUTRAL)]
        plane = guarded_plane(self.make_factory, routes, urls, service_side=True)
        if not urls:
            plane.publish([])
        return plane


class TestGuardedOnOurSite(GuardedBehaviour):
    """As a resource of a `ProxySite`."""


class TestGuardedOnTheFastPlane(GuardedBehaviour):
    """On the fast plane."""

    make_factory = staticmethod(fast)
    upgrades = True


class TestGuardedOnAStockSite(GuardedBehaviour):
    """In another program's Site."""

    make_factory = staticmethod(stock)
    streams = False


# The base is no test of its own.
del GuardedBehaviour

SCRYPT = hash_password("secret")
ADA = (b"Authorization: Basic YWRhOnNlY3JldA==",)


class PolicyTests(SynchronousTestCase):
    """One Route with a policy, ``x.com/app``, on the fast plane."""

    def plane(self, policy: Policy, *routes: Route, **more: Any) -> GuardedPlane:
        app = Route("x.com/app", "http://10.0.0.1", policy=policy)
        return guarded_plane(fast, [app, *routes], **more)

    def ask(
        self,
        plane: Plane,
        *fields: bytes,
        line: bytes = b"GET /app/x HTTP/1.1",
        body: bytes = b"",
        **more: Any,
    ) -> Client:
        client = plane.connect(**more)
        return client.send(b"\r\n".join((line, b"Host: x.com", *fields, b"", body)))

    def admitted(self, plane: Plane, *fields: bytes, **more: Any) -> tuple[Client, ScriptedConnection]:
        client = self.ask(plane, *fields, **more)
        return client, plane.upstream.accept()

    def refused(self, plane: Plane, *fields: bytes, **more: Any) -> Answer:
        answer = self.ask(plane, *fields, **more).answer()
        assert plane.upstream.connecting == []
        return answer


class TestAddresses(PolicyTests):
    """allow and deny."""

    policy = Policy(access=Access(allow=("192.0.2.0/24",), deny=("192.0.2.66/32",)))

    def test_by_the_peer(self) -> None:
        plane = self.plane(self.policy)
        self.admitted(plane, peer="192.0.2.7")
        for peer in ("192.0.2.66", "198.51.100.1"):
            answer = self.refused(self.plane(self.policy), peer=peer)
            assert (answer.status, json.loads(answer.body)) == (403, {"error": "access denied"})

    def test_what_a_stranger_says_does_not_count(self) -> None:
        for field in (b"X-Forwarded-For: 192.0.2.7", b"X-Real-IP: 192.0.2.7", b"X_Forwarded_For: 192.0.2.7"):
            answer = self.refused(self.plane(self.policy), field, peer="198.51.100.1")
            assert answer.status == 403

    def test_what_a_trusted_proxy_says_does(self) -> None:
        trusted = [ipaddress.ip_network("198.51.100.0/24")]
        plane = self.plane(self.policy, trusted=trusted)
        self.admitted(plane, b"X-Forwarded-For: 6.6.6.6, 192.0.2.7, 198.51.100.9", peer="198.51.100.1")
        for said in (b"192.0.2.7, 6.6.6.6", b"192.0.2.66", b"192.0.2.7, garbage"):
            plane = self.plane(self.policy, trusted=trusted)
            assert self.refused(plane, b"X-Forwarded-For: " + said, peer="198.51.100.1").status == 403

    def test_no_other_spelling_leads_around_it(self) -> None:
        """Beside a Route for the whole host that lets all in."""
        everything = Route("x.com", "http://10.0.0.2")
        for path, status in (
            (b"/app", 403),
            (b"/%61pp/x", 403),
            (b"//app", 403),
            (b"/./app", 403),
            (b"/x/../app", 403),
            (b"/x/%2e%2e/app/", 403),
            (b"http://x.com/app", 403),
            (b"HTTP://X.COM:80/app", 403),
            (b"/app;x=1", 400),
            (b"/app;x/y", 400),
            (b"/app%2Fx", 400),
            (b"/App/x", 400),
            (b"/APP", 400),
            (b"/app\\x", 400),
            (b"/app%5cx", 400),
            (b"/app%00", 400),
            (b"/app.", 400),
            (b"/app%20/x", 400),
            (b"/%2Fapp", 400),
            (b"/x%2F..%2Fapp", 400),
        ):
            plane = self.plane(self.policy, everything)
            answer = self.refused(plane, line=b"GET %b HTTP/1.1" % path, peer="198.51.100.1")
            assert answer.status == status, path

    def test_a_deep_path_takes_no_longer(self) -> None:
        plane = self.plane(self.policy, Route("x.com", "http://10.0.0.2"))
        began = time.perf_counter()
        for _ in range(10):
            self.ask(plane, line=b"GET /A%b HTTP/1.1" % (b"/a" * 2000), peer="198.51.100.1")
        assert time.perf_counter() - began < 0.5
        assert len(plane.upstream.connecting) == 10

    def test_a_very_long_path_is_not_read_in_all_ways(self) -> None:
        plane = self.plane(self.policy, Route("x.com", "http://10.0.0.2"))
        for path, refused in (
            (b"/A" + b"/a" * 4000, True),
            (b"/a" * 4000, False),
            (b"/A?" + b"/a" * 4000, False),
        ):
            client = self.ask(plane, line=b"GET %b HTTP/1.1" % path, peer="198.51.100.1")
            statuses = [answer.status for answer in client.answers()]
            assert statuses == ([400] if refused else [])

    def test_what_leads_elsewhere_goes_there(self) -> None:
        everything = Route("x.com", "http://10.0.0.2")
        for path in (b"/apple", b"/a%2Fapp", b"/x;app", b"/Apple", b"/a/app", b"/?/app", b"/app2;x"):
            plane = self.plane(self.policy, everything)
            self.ask(plane, line=b"GET %b HTTP/1.1" % path, peer="198.51.100.1")
            assert plane.upstream.connecting[-1].endpoint.address.host == "10.0.0.2", path

    def test_nor_one_below_a_wildcard(self) -> None:
        """The Route for the path is the host's own, the one for all else is not; or the other way round."""
        policy = self.policy
        for guarded, everything in (
            (Route("a.x.com/app", "http://10.0.0.1", policy=policy), Route("*.x.com", "http://10.0.0.2")),
            (Route("*.x.com/app", "http://10.0.0.1", policy=policy), Route("*.x.com", "http://10.0.0.2")),
        ):
            for path in (b"/App", b"/app;x=1", b"/app%2fx"):
                plane = guarded_plane(fast, [guarded, everything])
                client = plane.connect(peer="198.51.100.1")
                client.send(b"GET %b HTTP/1.1\r\nHost: a.x.com\r\n\r\n" % path)
                assert client.answer().status == 400

    def test_a_guarded_prefix_that_is_itself_read_in_two_ways(self) -> None:
        everything = Route("x.com", "http://10.0.0.2")
        for prefix, path in (("/App", b"/app"), ("/a%2Fb", b"/a/b"), ("/a;b", b"/a/x")):
            guarded = Route(f"x.com{prefix}", "http://10.0.0.1", policy=self.policy)
            plane = guarded_plane(fast, [guarded, everything])
            answer = self.refused(plane, line=b"GET %b HTTP/1.1" % path, peer="198.51.100.1")
            assert answer.status == 400, path
            plane = guarded_plane(fast, [guarded, everything])
            assert (
                self.refused(plane, line=b"GET %b HTTP/1.1" % prefix.encode(), peer="198.51.100.1").status
                == 403
            )

    def test_hosts_that_strangers_make_up_leave_nothing(self) -> None:
        plane = guarded_plane(fast, [Route("*.x.com/app", "http://10.0.0.1", policy=self.policy)])
        for number in range(50):
            plane.connect().send(b"GET /app HTTP/1.1\r\nHost: h%d.x.com\r\n\r\n" % number)
        edge: Any = plane.resource
        assert len(edge._shut) == 1

    def test_another_host_is_another_route(self) -> None:
        plane = self.plane(self.policy)
        for target, host in ((b"/app", b"y.com"), (b"http://y.com/app", b"x.com")):
            answer = plane.connect().send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host)).answer()
            assert answer.status == 404


class TestBasicAuth(PolicyTests):
    """User name and password."""

    def setUp(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Any]] = []
        self.access = Access(basic_auth=(BasicUser("ada", SCRYPT),))

    def in_thread(self, work: Any, *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: work(*arguments)))
        return done

    def work(self) -> None:
        """What threads were given to do is done."""
        waiting, self.waiting = self.waiting, []
        for done, work in waiting:
            done.callback(work())

    def guarded(self, **more: Any) -> GuardedPlane:
        return self.plane(Policy(access=self.access, **more), in_thread=self.in_thread)

    def test_nobody(self) -> None:
        plane = self.guarded()
        for fields in ((), (b"Authorization: Bearer x",), (b"Authorization: Basic ???",)):
            answer = self.refused(plane, *fields)
            assert answer.status == 401
            assert answer.field(b"WWW-Authenticate") == [b'Basic realm="x.com/app", charset="UTF-8"']

    def test_the_right_one_waits_once(self) -> None:
        plane = self.guarded()
        client = self.ask(plane, *ADA, b"Content-Length: 4", line=b"PUT /app HTTP/1.1", body=b"bo")
        assert plane.upstream.connecting == []
        client.send(b"dy")
        self.work()
        service = plane.upstream.accept()
        assert service.body == b"body"
        assert b"uthorization" not in service.head and b"YWRh" not in service.head
        service.answer(b"ok")
        assert client.answer().body == b"ok"
        self.admitted(plane, *ADA)
        assert self.waiting == []

    def test_a_wrong_one(self) -> None:
        plane = self.guarded()
        client = self.ask(plane, b"Authorization: Basic YWRhOndyb25n")
        self.work()
        assert client.answer().status == 401
        assert plane.upstream.connecting == []

    def test_a_client_that_leaves_meanwhile(self) -> None:
        plane = self.guarded()
        self.ask(plane, *ADA).leaves()
        assert len(plane.exchanges) == 0
        self.work()
        assert plane.upstream.connecting == []

    def test_the_proxy_stops_meanwhile(self) -> None:
        plane = self.guarded()
        client = self.ask(plane, *ADA)
        assert plane.exchanges.cut() == 1
        assert client.answer().status == 503
        self.work()
        assert plane.upstream.connecting == []

    def test_the_name_can_be_passed_on(self) -> None:
        edits = HeaderEdits(request=FieldEdits(set=(("X-User", "$remote_user"),)))
        plane = self.guarded(headers=edits)
        self.ask(plane, *ADA, b"X-User: root")
        self.work()
        assert plane.upstream.accept().head.count(b"X-User: ada\r\n") == 1

    def test_who_was_let_in_may_not_be_later(self) -> None:
        plane = self.guarded()
        self.ask(plane, *ADA)
        self.work()
        plane.upstream.accept().answer(b"ok")
        other = Policy(access=Access(basic_auth=(BasicUser("bob", SCRYPT),)))
        plane.publish([Route("x.com/app", "http://10.0.0.1", policy=other)])
        client = self.ask(plane, *ADA)
        self.work()
        assert client.answer().status == 401


AUTH = "http://10.9.9.9:9000/check?for=us"


class TestForwardAuth(PolicyTests):
    """Another service decides."""

    def guarded(self, *copied: str, url: str = AUTH, **more: Any) -> GuardedPlane:
        return self.plane(Policy(access=Access(forward_auth=ForwardAuth(url, copied)), **more))

    def test_a_yes(self) -> None:
        plane = self.guarded("X-User")
        client, auth = self.admitted(
            plane, b"X-User: root", b"x-user: wheel", b"Cookie: a=b", b"Range: bytes=0-1"
        )
        assert auth.endpoint.address.host == "10.9.9.9"
        assert auth.request_line == b"GET /check?for=us HTTP/1.1"
        assert b"\r\nHost: 10.9.9.9:9000\r\n" in auth.head
        for line in (b"X-Forwarded-Method: GET", b"X-Forwarded-Uri: /app/x", b"X-Forwarded-Host: x.com"):
            assert auth.head.count(line + b"\r\n") == 1
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in auth.head and b"Cookie: a=b\r\n" in auth.head
        assert b"root" not in auth.head and b"Range" not in auth.head
        auth.answer(b"welcome", 200, (b"X-User", b"ada"), (b"X-Other", b"no"), (b"Set-Cookie", b"s=1"))
        service = plane.upstream.accept()
        assert service.endpoint.address.host == "10.0.0.1"
        assert service.head.lower().count(b"x-user:") == 1 and b"X-User: ada\r\n" in service.head
        assert b"X-Other" not in service.head and b"Range: bytes=0-1\r\n" in service.head
        service.answer(b"ok")
        assert client.answer().body == b"ok"

    def test_an_international_host(self) -> None:
        plane = self.guarded(url="http://b\u00fccher.example:80/check")
        _client, auth = self.admitted(plane)
        assert b"\r\nHost: xn--bcher-kva.example\r\n" in auth.head

    def test_a_yes_that_names_nobody(self) -> None:
        plane = self.guarded("X-User")
        _client, auth = self.admitted(plane, b"X-User: root")
        auth.answer(b"", 204)
        assert b"root" not in plane.upstream.accept().head

    def test_a_no_is_the_client_s(self) -> None:
        for status in (302, 401, 403, 404, 500):
            plane = self.guarded("X-User")
            client, auth = self.admitted(plane)
            auth.answer(b"who are you?", status, (b"Location", b"/login"), (b"Set-Cookie", b"s=1"))
            answer = client.answer()
            assert (answer.status, answer.body) == (status, b"who are you?")
            assert answer.field(b"Location") == [b"/login"] and answer.field(b"Set-Cookie") == [b"s=1"]
            assert plane.upstream.connecting == []
            assert len(plane.exchanges) == 0

    def test_a_no_to_a_head_request_has_no_body(self) -> None:
        plane = self.guarded()
        client, auth = self.admitted(plane, line=b"HEAD /app HTTP/1.1")
        auth.answer(b"who are you?", 401)
        client.send(b"HEAD /app HTTP/1.1\r\nHost: x.com\r\n\r\n")
        plane.upstream.accept().answer(b"", 403)
        assert [answer.status for answer in client.answers(b"HEAD", b"HEAD")] == [401, 403]

    def test_one_that_cannot_be_asked_lets_nobody_in(self) -> None:
        plane = self.guarded()
        client = self.ask(plane)
        plane.upstream.refuse()
        assert client.answer().status == 502
        assert plane.upstream.connecting == []

    def test_one_that_does_not_answer(self) -> None:
        plane = self.guarded()
        client, _auth = self.admitted(plane)
        for _ in range(70):
            plane.clock.advance(1)
        assert client.answer().status == 504
        assert plane.upstream.connecting == []

    def test_it_has_the_time_that_the_route_gives(self) -> None:
        policy = Policy(access=Access(forward_auth=ForwardAuth(AUTH)))
        slow = Route("x.com/app", "http://10.0.0.1", timeouts=RouteTimeouts(first_byte=2.0), policy=policy)
        plane = guarded_plane(fast, [slow])
        client, _auth = self.admitted(plane)
        for _ in range(4):
            plane.clock.advance(1)
        assert client.answer().status == 504

    def test_one_that_breaks_off(self) -> None:
        plane = self.guarded()
        client, auth = self.admitted(plane)
        auth.respond(403, (b"Content-Length", b"100"))
        auth.send_body(b"half")
        auth.lose()
        plane.clock.advance(1)
        [answer] = client.answers()
        assert answer.status == 403 and not answer.complete

    def test_a_client_that_leaves_meanwhile(self) -> None:
        plane = self.guarded()
        client, auth = self.admitted(plane)
        client.leaves()
        assert auth.aborted
        assert len(plane.exchanges) == 0

    def test_a_body_arrives_behind_the_yes(self) -> None:
        plane = self.guarded()
        client, auth = self.admitted(
            plane, b"Content-Length: 4", b"Content-Type: a/b", line=b"POST /app HTTP/1.1", body=b"bo"
        )
        assert auth.body == b"" and auth.trailers is not None and b"Content" not in auth.head
        client.send(b"dy")
        auth.answer(b"ok")
        service = plane.upstream.accept()
        assert (service.body, b"Content-Type: a/b\r\n" in service.head) == (b"body", True)

    def test_a_no_to_a_head_request_does_not_wait_for_its_body(self) -> None:
        plane = self.guarded()
        client, auth = self.admitted(plane, line=b"HEAD /app HTTP/1.1")
        auth.respond(401, (b"Content-Length", b"1000000"))
        assert client.answer(b"HEAD").status == 401
        for _ in range(3):
            if not auth.aborted:
                auth.send_body(bytes(40_000))
        assert auth.aborted and len(plane.exchanges) == 0

    def test_the_body_behind_a_no_may_be_as_long_as_it_likes(self) -> None:
        plane = self.guarded(request_body_limit=10)
        client, auth = self.admitted(
            plane, b"Transfer-Encoding: chunked", line=b"POST /app HTTP/1.1", body=b"4\r\nfour\r\n"
        )
        auth.respond(401, (b"Content-Length", b"4"))
        auth.send_body(b"wh")
        client.send(b"14\r\n" + b"x" * 20 + b"\r\n")
        auth.send_body(b"o?")
        auth.finish()
        assert client.answer().body == b"who?"

    def test_trailers_say_nothing_that_the_other_service_decides(self) -> None:
        plane = self.guarded("X-User")
        body = b"1\r\na\r\n0\r\nX-User: root\r\nX-Other: o\r\n\r\n"
        _client, auth = self.admitted(
            plane, b"Transfer-Encoding: chunked", line=b"POST /app HTTP/1.1", body=body
        )
        auth.answer(b"", 200, (b"X-User", b"ada"))
        assert plane.upstream.accept().trailers == [(b"X-Other", b"o")]

    def test_an_endless_yes_is_not_heard_out(self) -> None:
        plane = self.guarded()
        _client, auth = self.admitted(plane)
        auth.respond(200)
        plane.upstream.accept()
        for _ in range(3):
            auth.send_body(bytes(40_000))
            if auth.aborted:
                break
        assert auth.aborted


class TestRateLimit(PolicyTests):
    """How often."""

    def test_then_429(self) -> None:
        plane = self.plane(Policy(rate_limit=RateLimit(2, 10.0)))
        for _ in range(2):
            client, service = self.admitted(plane)
            service.answer(b"ok")
            answer = client.answer()
            assert answer.status == 200 and answer.field(b"RateLimit-Limit") == [b"2"]
        answer = self.refused(plane)
        assert answer.status == 429
        assert answer.field(b"Retry-After") == [b"5"] and answer.field(b"RateLimit-Remaining") == [b"0"]
        self.admitted(plane, peer="192.0.2.8")
        plane.clock.advance(5)
        self.admitted(plane)

    def test_a_change_elsewhere_does_not_forgive(self) -> None:
        limit = RateLimit(1, 10.0)
        plane = self.plane(Policy(rate_limit=limit))
        self.admitted(plane)
        plane.publish(
            [Route("x.com/app", "http://10.0.0.1", policy=Policy(rate_limit=limit, compress=False))]
        )
        plane.publish(
            [Route("x.com/app", "http://10.0.0.3", policy=Policy(rate_limit=limit, request_body_limit=1))]
        )
        assert self.refused(plane).status == 429


class TestBodyLimit(PolicyTests):
    """How much."""

    def test_by_its_length(self) -> None:
        plane = self.plane(Policy(request_body_limit=4))
        answer = self.refused(
            plane, b"Content-Length: 5", b"Expect: 100-continue", line=b"POST /app HTTP/1.1"
        )
        assert answer.status == 413
        self.admitted(plane, b"Content-Length: 4", line=b"POST /app HTTP/1.1", body=b"four")

    def test_as_it_comes(self) -> None:
        plane = self.plane(Policy(request_body_limit=4))
        client, service = self.admitted(
            plane, b"Transfer-Encoding: chunked", line=b"POST /app HTTP/1.1", body=b"4\r\nfour\r\n"
        )
        client.send(b"1\r\nx\r\n")
        assert client.answer().status == 413
        assert service.aborted

    def test_a_body_that_is_at_hand_with_its_head_is_no_exception(self) -> None:
        plane = self.plane(
            Policy(request_body_limit=4, access=Access(forward_auth=ForwardAuth("http://10.0.0.9/")))
        )
        for fields, body in (
            ((b"Content-Length: 5",), b"hello"),
            ((b"Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        ):
            assert self.refused(plane, *fields, line=b"POST /app HTTP/1.1", body=body).status == 413

    def test_it_goes_before_that_of_the_settings(self) -> None:
        limits = Limits(body_limit=4)
        plane = self.plane(Policy(request_body_limit=10), Route("x.com", "http://10.0.0.2"), limits=limits)
        self.admitted(plane, b"Content-Length: 5", line=b"POST /app HTTP/1.1", body=b"fiver")
        assert self.refused(plane, b"Content-Length: 5", line=b"POST / HTTP/1.1", body=b"fiver").status == 413
        plane = self.plane(Policy(request_body_limit=0), limits=limits)
        self.admitted(plane, b"Content-Length: 5", line=b"POST /app HTTP/1.1", body=b"fiver")


class TestEdits(PolicyTests):
    """Header fields, and the prefix."""

    def test_on_requests(self) -> None:
        edits = FieldEdits(
            set=(
                ("X-From", "$remote_addr via $scheme, $$1"),
                ("Host", "inner.$host"),
                ("X-Id", "$request_id"),
            ),
            remove=("X-Secret", "x-forwarded-for"),
        )
        plane = self.plane(Policy(headers=HeaderEdits(request=edits)))
        _client, service = self.admitted(plane, b"X-Secret: s", b"x-from: me", b"X-Kept: k")
        head = service.head
        assert b"\r\nHost: inner.x.com\r\n" in head and b"X-From: 192.0.2.7 via http, $1\r\n" in head
        assert b"Secret" not in head and b"me\r\n" not in head and b"X-Forwarded-For" not in head
        assert b"X-Kept: k\r\n" in head and b"X-Forwarded-Host: x.com\r\n" in head
        [said] = [row for row in head.split(b"\r\n") if row.startswith(b"X-Request-Id: ")]
        assert b"X-Id: " + said[14:] + b"\r\n" in head

    def test_trailers_are_edited_too(self) -> None:
        edits = HeaderEdits(FieldEdits(set=(("X-A", "b"),)), FieldEdits(remove=("X-B",)))
        plane = self.plane(Policy(headers=edits))
        body = b"1\r\na\r\n0\r\nx-a: c\r\nX-B: d\r\n\r\n"
        client, service = self.admitted(
            plane, b"Transfer-Encoding: chunked", line=b"POST /app HTTP/1.1", body=body
        )
        assert service.trailers == [(b"X-B", b"d")]
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.finish((b"X-A", b"e"), (b"x-b", b"f"))
        assert client.answer().trailers == [(b"X-A", b"e")]

    def test_the_host_is_the_one_that_was_asked_for(self) -> None:
        """Whatever the service is told: clients do not learn that."""
        edits = HeaderEdits(FieldEdits(set=(("Host", "secret"),)), FieldEdits(set=(("X-Host", "$host"),)))
        plane = self.plane(Policy(headers=edits, error_pages=(("5xx", "$host"),)))
        client, service = self.admitted(plane)
        assert b"Host: secret" in service.head
        service.answer(b"ok")
        assert client.answer().field(b"X-Host") == [b"x.com"]
        client = self.ask(plane)
        plane.upstream.refuse()
        assert client.answer().body == b"x.com"

    def test_what_is_compressed_is_for_the_client_to_say(self) -> None:
        """Although the service is not to hear of it."""
        edits = HeaderEdits(request=FieldEdits(remove=("Accept-Encoding",)))
        plane = self.plane(Policy(headers=edits, compress=True))
        client, service = self.admitted(plane, b"Accept-Encoding: gzip")
        assert b"Accept-Encoding" not in service.head
        service.answer(b"text" * 1000, 200, (b"Content-Type", b"text/plain"))
        assert client.answer().field(b"Content-Encoding") == [b"gzip"]

    def test_on_answers_of_all_kinds(self) -> None:
        edits = FieldEdits(set=(("X-Frame-Options", "DENY"),), remove=("Server",))
        plane = self.plane(Policy(headers=HeaderEdits(response=edits), request_body_limit=1))
        client, service = self.admitted(plane)
        service.answer(b"ok", 200, (b"Server", b"x"), (b"x-frame-options", b"ALLOW"))
        answer = client.answer()
        assert answer.field(b"X-Frame-Options") == [b"DENY"] and answer.field(b"Server") == []
        answer = self.refused(plane, b"Content-Length: 5", line=b"POST /app HTTP/1.1")
        assert (answer.status, answer.field(b"X-Frame-Options")) == (413, [b"DENY"])

    def test_on_the_answer_that_begins_a_tunnel(self) -> None:
        edits = HeaderEdits(response=FieldEdits(set=(("X-A", "$host"),), remove=("X-B",)))
        for compress in (False, True):
            plane = self.plane(Policy(headers=edits, compress=compress))
            client, service = self.admitted(plane, b"Connection: Upgrade", b"Upgrade: websocket")
            service.exchange.head_received(
                ResponseHead(101, b"Switching", [(b"X-B", b"c")], NO_BODY, upgrade=b"websocket")
            )
            head = client.wire.take()
            assert b"X-A: x.com\r\n" in head and b"X-B" not in head and b"Upgrade: websocket\r\n" in head

    def test_the_prefix_goes(self) -> None:
        for target, wanted in (
            (b"/app", b"/"),
            (b"/app?x", b"/?x"),
            (b"/app/", b"/"),
            (b"/app/a%2Fb;c?/app", b"/a%2Fb;c?/app"),
            (b"/%61pp/a%20b", b"/a%20b"),
            (b"//app/b", b"/b"),
            (b"/app/../app/b", b"/b"),
            (b"/app//evil.com/x//y", b"/evil.com/x//y"),
            (b"http://x.com/app/b", b"/b"),
        ):
            plane = self.plane(Policy(strip_prefix=True))
            _client, service = self.admitted(plane, line=b"GET %b HTTP/1.1" % target)
            assert service.request_line == b"GET %b HTTP/1.1" % wanted, target
            assert b"X-Forwarded-Prefix: /app\r\n" in service.head

    def test_the_slug_goes(self) -> None:
        plane = guarded_plane(
            fast,
            [Route("/svc", policy=Policy(strip_prefix=True))],
            ["http://10.0.0.1:8000"],
            service_side=True,
        )
        plane.connect().ask(b"GET /svc/x HTTP/1.1")
        assert plane.upstream.accept().request_line == b"GET /x HTTP/1.1"


class TestPauseAndPages(PolicyTests):
    """Maintenance, and what errors look like."""

    def test_a_pause(self) -> None:
        plane = self.plane(Policy(paused=Pause(90.5, "Back at <noon>")))
        answer = self.refused(plane)
        assert (answer.status, answer.field(b"Retry-After")) == (503, [b"91"])
        assert answer.field(b"Content-Type") == [b"text/html; charset=utf-8"]
        assert b"Back at &lt;noon&gt;" in answer.body

    def test_a_page_of_one_s_own(self) -> None:
        pages = (("413", "big: $message"), ("5xx", "$status on $host, $request_id"))
        plane = self.plane(Policy(error_pages=pages, request_body_limit=1))
        answer = self.refused(plane, b"Content-Length: 2", line=b"POST /app HTTP/1.1")
        assert (answer.status, answer.body) == (413, b"big: the body is over 1 bytes")
        client = self.ask(plane)
        plane.upstream.refuse()
        answer = client.answer()
        assert answer.status == 502 and answer.body.startswith(b"502 on x.com, ")
        # What the service itself says stays.
        client, service = self.admitted(plane)
        service.answer(b"mine", 500)
        assert client.answer().body == b"mine"

    def test_a_page_does_not_wait_for_the_error_s_body(self) -> None:
        plane = self.plane(Policy(error_pages=(("5xx", "ours"),), intercept_errors=True))
        client, service = self.admitted(plane)
        service.respond(500, (b"Content-Length", b"1000000"))
        assert client.answer().body == b"ours"
        client.send(b"GET /app HTTP/1.1\r\nHost: x.com\r\n\r\n")
        other = plane.upstream.accept()
        for _ in range(3):
            if not service.aborted:
                service.send_body(bytes(40_000))
        assert service.aborted
        other.answer(b"fine")
        assert client.answer().body == b"fine"
        assert len(plane.exchanges) == 0

    def test_a_page_is_all_for_one_who_still_sends(self) -> None:
        plane = self.plane(Policy(error_pages=(("5xx", "ours"),), intercept_errors=True))
        client, service = self.admitted(
            plane, b"Content-Length: 100", line=b"POST /app HTTP/1.1", body=b"beginning"
        )
        service.respond(500, (b"Content-Length", b"100"))
        assert client.answer().body == b"ours"
        assert service.aborted and len(plane.exchanges) == 0

    def test_what_an_intercepted_error_says_of_other_things_stays(self) -> None:
        plane = self.plane(Policy(error_pages=(("4xx", "ours"),), intercept_errors=True))
        client, service = self.admitted(plane)
        fields = (b"WWW-Authenticate", b"Digest x"), (b"Set-Cookie", b"a=b"), (b"Content-Type", b"a/b")
        service.answer(b"theirs", 401, *fields, (b"Cache-Control", b"max-age=9"))
        answer = client.answer()
        assert answer.field(b"WWW-Authenticate") == [b"Digest x"] and answer.field(b"Set-Cookie") == [b"a=b"]
        assert answer.field(b"Content-Type") == [b"text/html; charset=utf-8"]
        assert answer.field(b"Cache-Control") == [b"no-store"]

    def test_a_tunnel_s_bytes_count_once(self) -> None:
        plane = self.plane(Policy(error_pages=(("5xx", "ours"),), intercept_errors=True))
        client, service = self.admitted(plane, b"Connection: Upgrade", b"Upgrade: websocket")
        service.switch_protocols()
        tunnel = service.exchange
        service.send_body(b"0123456789")
        client.leaves()
        assert tunnel.exchange.bytes_out == 10

    def test_intercepted(self) -> None:
        plane = self.plane(Policy(error_pages=(("5xx", "ours"), ("599", "odd")), intercept_errors=True))
        for status, body in ((500, b"ours"), (599, b"odd"), (404, b"theirs"), (200, b"theirs")):
            client, service = self.admitted(plane)
            service.answer(b"theirs", status, (b"Content-Encoding", b"gzip"), (b"ETag", b'"x"'))
            answer = client.answer()
            assert (answer.status, answer.body) == (status, body)
            assert answer.complete and bool(answer.field(b"ETag")) == (body == b"theirs")
            assert len(plane.exchanges) == 0


class TestTheSameAgain(PolicyTests):
    """What a connection says again is edited once: that must not show."""

    def ask_again(self, plane: Plane, client: Client, *fields: bytes) -> ScriptedConnection:
        client.send(b"\r\n".join((b"GET /app HTTP/1.1", b"Host: x.com", *fields, b"", b"")))
        service = plane.upstream.accept()
        service.answer(b"ok")
        client.answer()
        service.close()
        return service

    def test_edits_and_credentials(self) -> None:
        edits = FieldEdits(set=(("X-A", "b"), ("X-Id", "$request_id")), remove=("X-B",))
        policy = Policy(
            access=Access(basic_auth=(BasicUser("ada", SCRYPT),)), headers=HeaderEdits(request=edits)
        )
        plane = self.plane(policy, in_thread=lambda work, *arguments: succeed(work(*arguments)))
        client = plane.connect()
        heads = [
            self.ask_again(plane, client, *fields).head
            for fields in [(*ADA, b"X-B: c")] * 3 + [(*ADA, b"X-C: d")] * 2 + [(*ADA, b"X-B: c")]
        ]
        ids = set()
        for number, head in enumerate(heads):
            assert b"Authorization" not in head and b"X-B" not in head
            assert head.count(b"X-A: b\r\n") == head.count(b"X-Real-IP: 192.0.2.7\r\n") == 1
            assert (b"X-C: d\r\n" in head) == (number in (3, 4))
            [own] = [row[6:] for row in head.split(b"\r\n") if row.startswith(b"X-Id: ")]
            assert b"X-Request-Id: " + own + b"\r\n" in head
            ids.add(own)
        assert len(ids) == 6

    def test_a_change_of_the_policy_shows_at_once(self) -> None:
        plane = self.plane(Policy(headers=HeaderEdits(request=FieldEdits(set=(("X-A", "1"),)))))
        client = plane.connect()
        assert b"X-A: 1\r\n" in self.ask_again(plane, client).head
        policy = Policy(headers=HeaderEdits(request=FieldEdits(set=(("X-A", "2"),))))
        plane.publish([Route("x.com/app", "http://10.0.0.1", policy=policy)])
        head = self.ask_again(plane, client).head
        assert b"X-A: 2\r\n" in head and b"X-A: 1" not in head

    def test_who_may_not_come_in_any_more_does_not(self) -> None:
        users = (BasicUser("ada", SCRYPT),)
        at_once = {"in_thread": lambda work, *arguments: succeed(work(*arguments))}
        plane = self.plane(Policy(access=Access(basic_auth=users)), **at_once)
        client = plane.connect()
        self.ask_again(plane, client, *ADA)
        self.ask_again(plane, client, *ADA)
        other = Policy(access=Access(basic_auth=(BasicUser("bob", SCRYPT),)))
        plane.publish([Route("x.com/app", "http://10.0.0.1", policy=other)])
        client.send(b"\r\n".join((b"GET /app HTTP/1.1", b"Host: x.com", *ADA, b"", b"")))
        assert client.answer().status == 401

    def test_two_routes_on_one_connection(self) -> None:
        one = Policy(headers=HeaderEdits(request=FieldEdits(set=(("X-A", "1"),))))
        two = Policy(headers=HeaderEdits(request=FieldEdits(set=(("X-A", "2"),))))
        other = Route("x.com/other", "http://10.0.0.2", policy=two)
        plane = self.plane(one, other)
        client = plane.connect()
        for path, value in ((b"/app", b"1"), (b"/other", b"2")) * 2:
            client.send(b"GET %b HTTP/1.1\r\nHost: x.com\r\n\r\n" % path)
            service = plane.upstream.accept()
            assert service.head.count(b"X-A: ") == service.head.count(b"X-A: " + value) == 1
            service.answer(b"ok")
            client.answer()
            service.close()
