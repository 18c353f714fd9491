"""Maintenance of Routes and services, and what is forgotten of the cache."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.api import built_in_services
from onebackend_proxy.records import Pause, Policy, Route

from .support import Api

ROUTE = Route("a.com", "http://a", policy=Policy(compress=True))
OTHER = Route("b.com", "http://b")


class OverTheApi(TestCase):
    def setUp(self):
        self.api = Api()
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())
        self.successResultOf(self.api.store.save_routes([ROUTE, OTHER]))

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def call(self, path, body, token=None):
        token = self.admin if token is None else token
        return self.do(self.api.call("POST", f"/proxy-svc/{path}", body, token=token))

    def kept(self):
        return self.successResultOf(self.api.store.routes())

    def refused(self, path, body, status=400):
        before = self.kept()
        reply = self.call(path, body)
        self.assertEqual((reply.status, self.kept()), (status, before), reply.body)
        return reply.error


class PausingTests(OverTheApi):
    def register(self, slug):
        self.do(self.api.register(slug))
        instance = {"url": f"http://{slug}:80", "slug": slug}
        self.do(self.api.call("PUT", "/registry-svc/instance", instance, token=self.admin))

    def test_a_route_is_paused_and_resumed(self):
        reply = self.call("routes/pause", {"ids": ["A.com.", "a.com"]})
        self.assertEqual((reply.status, reply.json), (200, {"ids": ["a.com"]}))
        paused = attrs.evolve(ROUTE, policy=Policy(compress=True, paused=Pause()))
        self.assertEqual(self.kept(), (paused, OTHER))
        self.call("routes/pause", {"ids": ["a.com", "b.com"], "retryAfter": "5m", "message": "soon"})
        self.assertEqual([each.policy.paused for each in self.kept()], [Pause(300.0, "soon")] * 2)
        reply = self.call("routes/resume", {"ids": ["b.com", "a.com"]})
        self.assertEqual((reply.status, reply.json), (200, {"ids": ["b.com", "a.com"]}))
        self.assertEqual(self.kept(), (ROUTE, OTHER))
        # Once more does no harm.
        self.assertEqual(self.call("routes/resume", {"ids": ["a.com"]}).status, 200)
        self.assertEqual(self.kept(), (ROUTE, OTHER))

    def test_a_service_without_an_entry_gets_one_for_as_long(self):
        self.register("shop-svc")
        self.assertEqual(self.call("routes/pause", {"ids": ["/shop-svc", "a.com"]}).status, 200)
        self.assertEqual(self.kept()[0], Route("/shop-svc", policy=Policy(paused=Pause())))
        self.assertEqual(len(self.kept()), 3)
        self.assertEqual(self.call("routes/resume", {"ids": ["/shop-svc", "a.com"]}).status, 200)
        self.assertEqual(self.kept(), (ROUTE, OTHER))
        self.assertEqual(self.call("routes/resume", {"ids": ["/shop-svc"]}).status, 200)
        self.assertEqual(self.kept(), (ROUTE, OTHER))

    def test_an_entry_that_says_more_stays(self):
        entry = Route("/shop-svc", retries=0)
        self.successResultOf(self.api.store.save_routes([entry]))
        # Its instances may be gone: it is paused all the same.
        self.assertEqual(self.call("routes/pause", {"ids": ["/shop-svc"]}).status, 200)
        self.assertEqual(self.kept()[0].policy.paused, Pause())
        self.assertEqual(self.call("routes/resume", {"ids": ["/shop-svc"]}).status, 200)
        self.assertEqual(self.kept()[0], entry)

    def test_one_that_there_is_not_and_nothing_is_done(self):
        for what in ("pause", "resume"):
            path = f"routes/{what}"
            self.assertEqual(self.refused(path, {"ids": ["a.com", "c.com"]}, 404), "no such route: c.com")
            self.assertEqual(
                self.refused(path, {"ids": ["a.com", "/nobody"]}, 404), "no such service: /nobody"
            )
            self.assertEqual(self.refused(path, {"ids": []}), "ids: is empty")
            self.assertEqual(self.refused(path, {}), "ids: is missing")
            self.assertEqual(self.refused(path, {"ids": ["a.com", "/a/b"]})[:12], "ids[1]: must")
            self.assertEqual(self.refused(path, {"ids": ["/user-svc"]})[:19], "ids[0]: is built in")
        self.assertEqual(
            self.refused("routes/resume", {"ids": ["a.com"], "message": "x"})[:15], "unknown field '"
        )
        wrong = {"ids": ["a.com"], "retryAfter": "-1s"}
        self.assertEqual(self.refused("routes/pause", wrong), "retryAfter: '-1s' is negative")

    def test_who_may(self):
        user = self.do(self.api.register("shop-svc"))
        for path in ("routes/pause", "routes/resume", "cache/purge"):
            reply = self.call(path, {"ids": ["a.com"]}, user)
            wanted = "the permission proxy-svc:route:edit is needed"
            self.assertEqual((reply.status, reply.error), (403, wanted))
            self.assertEqual(self.call(path, {"ids": ["a.com"]}, "").status, 401)

    def test_a_listing_tells(self):
        self.call("routes/pause", {"ids": ["a.com"], "message": "soon"})
        [listed] = self.call("routes", {"ids": ["a.com"]}).json["routes"]
        self.assertEqual(listed["paused"], {"retryAfter": "1m", "message": "soon"})


class PurgingTests(OverTheApi):
    def setUp(self):
        super().setUp()
        self.purged: list[str | None] = []

        def purge(route_id):
            self.purged.append(route_id)
            return 3

        services = built_in_services(self.api.store, self.api.registry, self.api.accounts, purge=purge)
        self.api.root.putChild(b"proxy-svc", services[b"proxy-svc"])

    def test_by_route_and_all(self):
        reply = self.call("cache/purge", {"ids": ["A.com", "b.com", "a.com"]})
        self.assertEqual((reply.status, reply.json), (200, {"purged": 6}))
        self.assertEqual(self.purged, ["a.com", "b.com"])
        self.assertEqual(self.call("cache/purge", {"all": True}).json, {"purged": 3})
        self.assertEqual(self.purged[2:], [None])

    def test_of_a_service(self):
        self.successResultOf(self.api.store.save_routes([Route("/shop-svc", policy=Policy(cache=True))]))
        self.assertEqual(self.call("cache/purge", {"ids": ["/shop-svc"]}).json, {"purged": 3})
        self.assertEqual(self.purged, ["/shop-svc"])

    def test_nothing_is_purged_by_mistake(self):
        for body, status, wanted in (
            ({"ids": ["a.com", "c.com"]}, 404, "no such route: c.com"),
            ({"ids": []}, 400, "ids: is empty, and all is not true"),
            ({}, 400, "ids: is empty, and all is not true"),
            ({"all": False}, 400, "ids: is empty, and all is not true"),
            ({"ids": ["a.com"], "all": True}, 400, "ids: cannot stand beside all"),
            ({"all": "yes"}, 400, "all: expected true or false"),
        ):
            self.assertEqual(self.refused("cache/purge", body, status), wanted)
        self.assertEqual(self.purged, [])


class NoCacheTests(OverTheApi):
    def test_there_is_nothing_to_purge(self):
        self.assertEqual(self.refused("cache/purge", {"all": True}, 404), "no answers are cached here")
