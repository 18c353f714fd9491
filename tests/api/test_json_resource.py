from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web import http
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.test.requesthelper import DummyRequest

from onebackend_proxy.api.json_resource import (
    Answer,
    Bearer,
    BuiltInService,
    Call,
    Operation,
    peer_address,
)
from onebackend_proxy.downstream.request import MAX_BUFFERED
from onebackend_proxy.errors import StoreUnavailable, Unauthenticated

from .support import Api
from .test_validation import JSON


class ApiTests(TestCase):
    """What all calls have in common, seen from outside."""

    def setUp(self):
        self.api = Api()
        self.successResultOf(self.api.start())
        self.token = self.do(self.api.login())

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def call(self, method, path, body=None, **options):
        return self.do(self.api.call(method, path, body, **options))

    def save(self, content, **options):
        return self.call("PUT", "/proxy-svc/routes", content, token=self.token, **options)

    def test_unknown_paths_are_404_in_json(self):
        for path in (
            "/user-svc",
            "/user-svc/",
            "/proxy-svc/certs/x",
            "/user-svc/self/has",
            "/user-svc/login/x",
        ):
            for method in ("GET", "POST", "OPTIONS"):
                reply = self.call(method, path)
                self.assertEqual((reply.status, reply.error), (404, "there is no such call in this service"))

    def test_a_trailing_slash_is_tolerated_and_only_one(self):
        self.assertEqual(self.call("GET", "/user-svc/public-key/").status, 200)
        self.assertEqual(self.call("GET", "/user-svc/public-key//").status, 404)
        self.assertEqual(self.call("GET", "/user-svc//public-key").status, 404)

    def test_another_method_is_405_with_allow(self):
        reply = self.call("GET", "/proxy-svc/routes")
        self.assertEqual(reply.status, 405)
        self.assertEqual(reply.header("Allow"), "DELETE, OPTIONS, POST, PUT")
        self.assertIn("DELETE, OPTIONS, POST, PUT", reply.error)
        reply = self.call("PATCH", "/user-svc/public-key")
        self.assertEqual((reply.status, reply.header("Allow")), (405, "GET, HEAD, OPTIONS"))

    def test_options(self):
        reply = self.call("OPTIONS", "/registry-svc/instances")
        self.assertEqual((reply.status, reply.body), (204, b""))
        self.assertEqual(reply.header("Allow"), "GET, HEAD, OPTIONS")

    def test_head_has_the_headers_of_get(self):
        get, head = (self.raw(method, "/user-svc/public-key") for method in ("GET", "HEAD"))
        headers, _, body = get.partition(b"\r\n\r\n")
        self.assertIn(b"\r\nContent-Length: %d" % len(body), headers)
        self.assertEqual(sorted(head.strip().split(b"\r\n")), sorted(headers.split(b"\r\n")))

    def test_nothing_is_stored_by_caches(self):
        for reply in (self.call("GET", "/user-svc/public-key"), self.call("GET", "/user-svc/nothing")):
            self.assertEqual(reply.header("Cache-Control"), "no-store")

    def test_the_bearer(self):
        for headers, status in (
            ({"Authorization": f"Bearer {self.token}"}, 200),
            ({"Authorization": f"bearer   {self.token}"}, 200),
            ({"Authorization": self.token}, 200),
            ({}, 401),
            ({"Authorization": ""}, 401),
            ({"Authorization": "Bearer"}, 401),
            ({"Authorization": f"Basic {self.token}"}, 401),
            ({"Authorization": f"Bearer {self.token} x"}, 401),
            ({"Authorization": "Bearer nonsense"}, 401),
            ({"Authorization": "Bearer \xe9"}, 401),
        ):
            reply = self.call("POST", "/user-svc/self", headers=headers)
            self.assertEqual(reply.status, status, headers)
            self.assertEqual(reply.header("WWW-Authenticate"), None if status == 200 else "Bearer")

    def test_two_authorization_headers_are_refused(self):
        headers = Headers({"Authorization": [f"Bearer {self.token}"] * 2})
        response = self.successResultOf(
            self.api.treq.request("POST", "http://127.0.0.1/user-svc/self", headers=headers)
        )
        self.assertEqual(response.code, 401)

    def test_an_expired_token_says_so(self):
        self.api.clock.advance(3600)
        reply = self.call("POST", "/user-svc/self", token=self.token)
        self.assertEqual((reply.status, reply.error), (401, "the token has expired"))

    def test_another_admin_password_ends_the_admins_tokens_at_once(self):
        user = self.do(self.api.register("shop-svc"))
        calls = [
            ("POST", "/user-svc/self", None),
            ("POST", "/user-svc/self/has/x", None),
            ("POST", "/user-svc/refresh-token", None),
            ("POST", "/user-svc/register", {"appHost": "x", "slug": "new-svc", "password": "long enough"}),
            ("PUT", "/registry-svc/instance", {"url": "http://10.0.0.1"}),
            ("GET", "/registry-svc/instances", None),
            ("POST", "/proxy-svc/routes", None),
            ("PUT", "/proxy-svc/routes", {"routes": [{"id": "a.com", "target": "http://b"}]}),
        ]
        for call in calls:
            self.assertIn(self.call(*call, token=self.token).status, (200, 201))
        self.do(self.api.accounts.ensure_admin("another password"))
        for call in calls:
            reply = self.call(*call, token=self.token)
            self.assertEqual((reply.status, reply.error), (401, "the token is no longer known: log in again"))
        self.assertEqual(self.call("POST", "/user-svc/self", token=user).status, 200)
        new = self.do(self.api.login(password="another password"))
        self.assertEqual(self.call("POST", "/user-svc/self", token=new).status, 200)

    def test_only_an_admins_token_is_looked_up(self):
        user = self.do(self.api.register("shop-svc"))
        self.api.store.failure = StoreUnavailable("the store is busy: try again")
        self.assertEqual(self.call("GET", "/registry-svc/instances", token=user).status, 200)
        self.assertEqual(self.call("GET", "/registry-svc/instances", token=self.token).status, 503)

    def test_nobody_learns_what_is_wrong_with_a_body_before_saying_who_they_are(self):
        self.assertEqual(self.call("PUT", "/proxy-svc/routes", b"{").status, 401)

    def test_bodies_that_are_no_json_object(self):
        for content, wanted in (
            (b"", "the body is empty"),
            (b"{", "the body is not JSON"),
            (b"[]", "the body must be a JSON object"),
            (b"null", "the body must be a JSON object"),
            (b"\xff", "the body is not UTF-8"),
        ):
            reply = self.save(content)
            self.assertEqual(reply.status, 400)
            self.assertIn(wanted, reply.error)

    def test_an_optional_body_may_be_nothing_or_null(self):
        for content in (None, b"", b" ", b"null", b"{}"):
            self.assertEqual(self.call("POST", "/user-svc/self", content, token=self.token).status, 200)
        reply = self.call("POST", "/user-svc/self", b"[]", token=self.token)
        self.assertEqual(reply.status, 400)

    def test_a_body_of_one_mebibyte_is_read_and_one_more_byte_is_not(self):
        def post(content, path="/proxy-svc/certs"):
            return self.call("POST", path, content, token=self.token)

        for path in ("/proxy-svc/certs", "/proxy-svc/routes"):
            self.assertIn("not JSON", post(b"x" * MAX_BUFFERED, path).error)
            reply = post(b"x" * (MAX_BUFFERED + 1), path)
            self.assertEqual((reply.status, reply.error), (413, "the body is over 1048576 bytes"))

    def test_who_may_save_may_send_more(self):
        user = self.do(self.api.register("shop-svc"))
        many = b" " * MAX_BUFFERED + b"{}"
        for kind in ("routes", "redirects"):
            path = f"/proxy-svc/{kind}"
            reply = self.call("PUT", path, many, token=self.token)
            self.assertEqual((reply.status, reply.error), (400, f"{kind}: is missing"))
            reply = self.call("PUT", path, many, token=user)
            self.assertEqual((reply.status, reply.error), (413, "the body is over 1048576 bytes"))
            self.assertEqual(self.call("PUT", path, many).status, 401)
            reply = self.call("PUT", path, b" " * (32 * MAX_BUFFERED + 1), token=self.token)
            self.assertEqual((reply.status, reply.error), (413, "the body is over 33554432 bytes"))

    def test_the_limit_is_known_when_the_head_is(self):
        user = self.do(self.api.register("shop-svc"))
        service = self.api.root.children[b"proxy-svc"]
        for method, path, token, limit in (
            ("PUT", "routes", self.token, 32 * MAX_BUFFERED),
            ("PUT", "redirects", self.token, 32 * MAX_BUFFERED),
            ("PUT", "routes", user, MAX_BUFFERED),
            ("PUT", "routes", "", MAX_BUFFERED),
            ("PUT", "routes", "nonsense", MAX_BUFFERED),
            ("PUT", "certs", self.token, MAX_BUFFERED),
            ("POST", "routes", self.token, MAX_BUFFERED),
            ("PUT", "nothing", self.token, MAX_BUFFERED),
        ):
            request = DummyRequest([path.encode()])
            request.method = method.encode()
            if token:
                request.requestHeaders.setRawHeaders("authorization", [f"Bearer {token}"])
            self.assertEqual(service.body_limit(request), limit, (method, path, token))

    def test_bodies_that_anybody_may_send_are_smaller(self):
        for path in ("login", "register", "self"):
            reply = self.call("POST", f"/user-svc/{path}", b"x" * 65536, token=self.token)
            self.assertIn("not JSON", reply.error)
            reply = self.call("POST", f"/user-svc/{path}", b"x" * 65537, token=self.token)
            self.assertEqual((reply.status, reply.error), (413, "the body is over 65536 bytes"))

    def test_a_body_whose_length_was_not_told(self):
        for body, status in ((b"x" * (MAX_BUFFERED + 1), 413), (b"{}", 400)):
            chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            answer = self.raw("PUT", "/proxy-svc/certs", "Transfer-Encoding: chunked", chunks)
            self.assertEqual(int(answer.split()[1]), status)

    def raw(self, method, path, header="X-Nothing: x", body=b""):
        """All the bytes that answer a request of these."""
        # Else the Date of two answers may differ.
        self.patch(http, "datetimeToString", lambda: b"now")
        channel = Site(self.api.root).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        channel.makeConnection(transport)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {self.token}\r\n{header}\r\n\r\n"
        channel.dataReceived(head.encode() + body)
        channel.connectionLost(Failure(ConnectionError()))
        return transport.value()

    def test_any_json_is_never_a_500(self):
        paths = [
            ("PUT", "/proxy-svc/routes"),
            ("POST", "/proxy-svc/redirects"),
            ("DELETE", "/proxy-svc/routes"),
            ("PUT", "/registry-svc/instance"),
            ("POST", "/user-svc/self"),
        ]

        @settings(max_examples=60, deadline=None)
        @given(st.sampled_from(paths), JSON)
        def check(path, value):
            method, where = path
            reply = self.call(method, where, value, token=self.token)
            self.assertIn(reply.status, (200, 400))
            if reply.status == 400:
                self.assertTrue(reply.error)

        check()

    def test_any_instance_is_never_a_500(self):
        texts = (
            st.sampled_from(["http", "https", "host.example", "10.0.0.1", "::1", "/a", "x y", "[", "é"])
            | st.text()
        )
        fields = ("url", "scheme", "host", "ip", "path", "id", "deploymentId", "slug")
        entry = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, texts) | {"port": st.integers()})

        @settings(max_examples=200, deadline=None)
        @given(entry)
        def check(value):
            reply = self.call("PUT", "/registry-svc/instance", value, token=self.token)
            self.assertIn(reply.status, (201, 400, 409), reply)

        check()

    def test_any_route_is_never_a_500(self):
        texts = (
            st.sampled_from(["a.com", "a.com/x", "http://b", "unix:/x", "service:x", "*.c", "[", "é.com"])
            | st.text()
        )
        entry = st.fixed_dictionaries({"id": texts, "target": texts})

        @settings(max_examples=200, deadline=None)
        @given(st.sampled_from(["routes", "redirects"]), st.lists(entry, max_size=3))
        def check(kind, entries):
            reply = self.call("PUT", f"/proxy-svc/{kind}", {kind: entries}, token=self.token)
            self.assertIn(reply.status, (200, 400), reply)

        check()

    def test_a_store_that_cannot_be_used_is_503_and_tells_no_path(self):
        self.api.store.failure = StoreUnavailable("the store is busy: try again", detail="/srv/proxy.sqlite")
        reply = self.save({"routes": [{"id": "a.com", "target": "http://b"}]})
        self.assertEqual((reply.status, reply.error), (503, "the store is busy: try again"))
        self.api.store.failure = None
        self.assertEqual(self.save({"routes": [{"id": "a.com", "target": "http://b"}]}).status, 200)

    def test_what_nobody_expected_is_logged_and_is_500(self):
        self.patch(self.api.store, "count_tokens", lambda account_id: 1 / 0)
        reply = self.call("POST", "/user-svc/self", {"countTokens": True}, token=self.token)
        self.assertEqual((reply.status, reply.error), (500, "internal error"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_wrong_query(self):
        for query, wanted in (
            ("slug=a&slug=b", "slug: is there more than once"),
            ("nope=1", "unknown field 'nope'"),
            ("slug=%FF", "the query is not UTF-8"),
        ):
            reply = self.call("GET", f"/registry-svc/instances?{query}", token=self.token)
            self.assertEqual((reply.status, reply.error), (400, wanted))


class ClientGoneTests(TestCase):
    def setUp(self):
        self.api = Api()
        self.waiting: Deferred = Deferred()
        self.done: list[Call] = []

        async def run(call):
            await self.waiting
            self.done.append(call)
            return Answer(200, {})

        root = Resource()
        table = [Operation(b"GET", ("slow",), run, Bearer.IGNORED)]
        root.putChild(b"svc", BuiltInService(table, self.api.accounts))
        self.channel = Site(root).buildProtocol(IPv4Address("TCP", "192.0.2.7", 1))
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.7", 1))
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived(b"GET /svc/slow HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_nobody_is_answered_and_nothing_is_logged(self):
        self.channel.connectionLost(Failure(ConnectionError()))
        self.waiting.callback(None)
        self.assertEqual(len(self.done), 1)
        self.assertEqual(self.transport.value(), b"")

    def test_nothing_is_sent_either_when_it_fails_afterwards(self):
        self.channel.connectionLost(Failure(ConnectionError()))
        self.waiting.errback(StoreUnavailable("busy"))
        self.assertEqual(self.transport.value(), b"")

    def test_who_waits_is_answered(self):
        self.waiting.callback(None)
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 200"))
        self.assertEqual(self.done[0].address, "192.0.2.7")
        self.channel.connectionLost(Failure(ConnectionError()))


class SmallerTests(TestCase):
    def test_a_peer_without_an_ip_address(self):
        request: Any = DummyRequest([])
        request.client = UNIXAddress("/run/x")
        self.assertEqual(peer_address(request), "")

    def test_a_call_without_a_token_has_no_caller(self):
        with self.assertRaises(Unauthenticated):
            _ = Call(address="192.0.2.1").caller
