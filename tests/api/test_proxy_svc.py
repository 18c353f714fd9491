from __future__ import annotations

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.trial.unittest import TestCase

from .support import Api


class ProxyTests(TestCase):
    def setUp(self):
        self.api = Api()
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def call(self, method, body=None, kind="routes", token=None):
        token = self.admin if token is None else token
        return self.do(self.api.call(method, f"/proxy-svc/{kind}", body, token=token))

    def save(self, *entries, kind="routes"):
        return self.call("PUT", {kind: list(entries)}, kind)

    def listed(self, body=None, kind="routes"):
        reply = self.call("POST", body, kind)
        self.assertEqual(reply.status, 200)
        return reply.json[kind]

    def test_save_list_delete(self):
        reply = self.save(
            {"id": "WWW.Example.com:80/App/", "target": "http://b:8080"},
            {"id": "a.com", "target": "service:shop-svc"},
        )
        first = {"id": "www.example.com/App", "target": "http://b:8080"}
        second = {"id": "a.com", "target": "service:shop-svc"}
        self.assertEqual((reply.status, reply.json), (200, {"routes": [first, second]}))
        self.assertEqual(self.listed(), [second, first])
        self.assertEqual(self.listed({"ids": []}), [second, first])
        self.assertEqual(self.listed({"ids": ["A.com.", "nope.com"]}), [second])
        self.save({"id": "a.com", "target": "http://new"})
        self.assertEqual(self.listed({"ids": ["a.com"]}), [{"id": "a.com", "target": "http://new"}])
        reply = self.call("DELETE", {"ids": ["a.com", "www.example.com/App/"]})
        self.assertEqual((reply.status, reply.json), (200, {}))
        self.assertEqual(self.listed(), [])

    def test_redirects(self):
        reply = self.save(
            {"id": "a.com", "target": "https://b.com"},
            {"id": "B.com", "target": "/x", "statusCode": 302},
            kind="redirects",
        )
        first = {"id": "a.com", "target": "https://b.com", "statusCode": 308}
        second = {"id": "b.com", "target": "/x", "statusCode": 302}
        self.assertEqual((reply.status, reply.json), (200, {"redirects": [first, second]}))
        self.assertEqual(self.listed(kind="redirects"), [first, second])
        self.assertEqual(self.listed(), [])
        self.assertEqual(self.call("DELETE", {"ids": ["a.com"]}, "redirects").status, 200)
        self.assertEqual(self.listed(kind="redirects"), [second])

    def test_one_bad_entry_and_nothing_is_saved(self):
        good = {"id": "a.com", "target": "http://a"}
        for bad, wanted in (
            ({"id": "b.com"}, "routes[1].target: is missing"),
            ({"id": "b.com", "target": "ftp://x"}, "routes[1].target: has the scheme 'ftp'"),
            ({"id": "http://b.com", "target": "http://x"}, "routes[1].id: must be HOST"),
            ({"id": "b.com", "target": "http://x", "ratelimit": 1}, "routes[1]: unknown field 'ratelimit'"),
            ({"id": "A.com.", "target": "http://x"}, "routes[1].id: a.com is the id of routes[0] too"),
        ):
            reply = self.save(good, bad)
            self.assertEqual(reply.status, 400)
            self.assertTrue(reply.error.startswith(wanted), reply.error)
        self.assertEqual(self.listed(), [])

    def test_empty_lists(self):
        self.assertEqual(self.save().error, "routes: is empty")
        self.assertEqual(self.call("PUT", {}).error, "routes: is missing")
        self.assertEqual(self.call("DELETE", {"ids": []}).error, "ids: is empty")
        self.assertEqual(self.call("DELETE", {}).error, "ids: is missing")

    def test_an_unknown_id_is_404_and_nothing_is_deleted(self):
        self.save({"id": "a.com", "target": "http://a"})
        reply = self.call("DELETE", {"ids": ["a.com", "nope.com"]})
        self.assertEqual((reply.status, reply.error), (404, "no such route: nope.com"))
        self.assertEqual(len(self.listed()), 1)

    def test_only_an_admin_may(self):
        user = self.do(self.api.register("shop-svc"))
        for kind in ("routes", "redirects"):
            for method, permission in (("PUT", "edit"), ("POST", "view"), ("DELETE", "edit")):
                reply = self.call(method, {}, kind, user)
                wanted = f"the permission proxy-svc:route:{permission} is needed"
                self.assertEqual((reply.status, reply.error), (403, wanted))
                self.assertEqual(self.call(method, {}, kind, "").status, 401)

    def test_many_at_once(self):
        routes = [{"id": f"{n:05}.example.com", "target": "http://a"} for n in range(20_001)]
        reply = self.save(*routes)
        self.assertEqual((reply.status, reply.json), (200, {"routes": routes}))
        self.assertEqual(reply.header("Content-Type"), "application/json")
        self.assertEqual(self.listed(), routes)
        self.assertEqual(self.listed({"ids": [routes[5]["id"]]}), [routes[5]])
        reply = self.save(*routes, {"id": "20000.example.com.", "target": "http://b"})
        wanted = "routes[20001].id: 20000.example.com is the id of routes[20000] too"
        self.assertEqual((reply.status, reply.error), (400, wanted))

    def test_what_is_large_is_checked_in_a_thread(self):
        ran = []

        def in_thread(work, *arguments):
            ran.append(work.__name__)
            return maybeDeferred(work, *arguments)

        self.api = Api(in_thread=in_thread)
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())
        few = [{"id": "a.com", "target": "http://a"}]
        many = [{"id": f"{n}.example.com", "target": "http://a"} for n in range(1000)]
        self.assertEqual(self.save(*few).status, 200)
        self.assertEqual(self.save(*few, kind="redirects").status, 200)
        self.assertEqual(ran, [])
        self.assertEqual(self.save(*many).status, 200)
        self.assertEqual(self.save(*many, kind="redirects").status, 200)
        reply = self.save(*many, {"id": "x y", "target": "http://a"})
        self.assertEqual(reply.status, 400)
        self.assertIn("routes[1000].id", reply.error)
        saved = ["<lambda>", "_refuse_repeats", "_encoded"]
        self.assertEqual(ran, [*saved, *saved, "<lambda>"])
        self.assertEqual(self.listed({"ids": ["a.com"]}), few)
        self.assertEqual(len(ran), 7)
        self.assertEqual(len(self.listed()), 1001)
        self.assertEqual(ran[7:], ["_encoded"])
        ids = [each["id"] for each in many] + ["a" * 50 + f".{n}.com" for n in range(1000)]
        self.assertEqual(len(self.listed({"ids": ids})), 1000)
        self.assertEqual(self.call("DELETE", {"ids": ids}).status, 404)
        self.assertEqual(ran[8:], ["<lambda>", "_encoded", "<lambda>"])

    def test_a_redirect_to_a_path_that_is_not_ascii(self):
        for target in ("/\u00e9?n=https://x", "https://b\u00fccher.example/\u00e9"):
            self.assertEqual(self.save({"id": "a.com", "target": target}, kind="redirects").status, 200)


class LocalAuthorityTests(TestCase):
    def read(self, **more):
        api = Api(**more)
        self.successResultOf(api.start())

        async def asked(slug):
            token = await api.register(slug) if slug else ""
            return await api.call("GET", "/proxy-svc/local-authority", token=token)

        return lambda slug: self.successResultOf(Deferred.fromCoroutine(asked(slug)))

    def test_whoever_is_logged_in_gets_its_root(self):
        read = self.read(local_root=lambda: succeed("PEM"))
        reply = read("shop-svc")
        self.assertEqual((reply.status, reply.json), (200, {"cert": "PEM"}))
        self.assertEqual(read("").status, 401)

    def test_without_an_edge_there_is_none(self):
        reply = self.read()("shop-svc")
        self.assertEqual((reply.status, reply.error), (404, "the edge is off: there is no local authority"))
