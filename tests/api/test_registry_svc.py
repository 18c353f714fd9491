from __future__ import annotations

import datetime

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from onebackend_proxy.api import registry_svc
from onebackend_proxy.api.shapes import instance_json
from onebackend_proxy.interfaces import InstanceView
from onebackend_proxy.testing import MemoryStore

from ..store.contract import an_instance
from .support import Api

URL = "http://10.0.0.1:8080"


class RegistryTests(TestCase):
    def setUp(self):
        self.api = Api()
        self.successResultOf(self.api.start())
        self.admin = self.do(self.api.login())
        self.shop = self.do(self.api.register("shop-svc"))
        self.other = self.do(self.api.register("other-svc"))

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def call(self, method, path, body=None, token=None):
        token = self.shop if token is None else token
        return self.do(self.api.call(method, f"/registry-svc/{path}", body, token=token))

    def register(self, token=None, **body):
        return self.call("PUT", "instance", body, token)

    def registered(self, token=None, **body):
        reply = self.register(token, **body)
        self.assertEqual((reply.status, reply.json), (201, {}), reply)

    def listed(self, query="", token=None):
        reply = self.call("GET", f"instances{query}", token=token)
        self.assertEqual(reply.status, 200, reply)
        return reply.json["instances"]

    def only(self, token=None):
        (instance,) = self.listed(token=token)
        return instance

    def refused(self, status, wanted, token=None, **body):
        reply = self.register(token, **body)
        self.assertEqual(reply.status, status, reply)
        self.assertTrue(reply.error.startswith(wanted), reply.error)

    def test_a_service_has_a_thousand_instances_at_most(self):
        self.patch(registry_svc, "MAX_INSTANCES", 2)
        self.registered(url="http://10.0.0.1:1")
        self.registered(url="http://10.0.0.1:2")
        self.refused(409, "the service shop-svc has 2 instances", url="http://10.0.0.1:3")
        self.registered(url="http://10.0.0.1:2")

    def test_by_url(self):
        self.registered(url="HTTP://Host.example:8080/app/", deploymentId="depl-1")
        instance = self.only()
        self.assertRegex(instance.pop("id"), "^inst-[A-Za-z0-9]{22}$")
        wanted = {
            "url": "http://host.example:8080/app",
            "slug": "shop-svc",
            "scheme": "http",
            "host": "host.example",
            "port": 8080,
            "path": "/app",
            "deploymentId": "depl-1",
            "status": "Unknown",
        }
        self.assertEqual(instance, wanted)

    def test_by_parts(self):
        for parts, url, ip in (
            ({"host": "Host.example", "port": 81, "path": "/x"}, "http://host.example:81/x", None),
            ({"ip": "10.0.0.9", "port": 81, "scheme": "https"}, "https://10.0.0.9:81", "10.0.0.9"),
            ({"ip": "2001:DB8:0::1", "port": 80}, "http://[2001:db8::1]", "2001:db8::1"),
            ({"host": "::1", "port": 81}, "http://[::1]:81", "::1"),
            ({"host": "a.example", "ip": "10.0.0.9"}, "http://a.example", "10.0.0.9"),
        ):
            self.registered(**parts)
            (found,) = [instance for instance in self.listed() if instance["url"] == url]
            self.assertEqual(found.get("ip"), ip)

    def test_url_and_parts_must_agree(self):
        parts = {"scheme": "http", "host": "a.example", "port": 81, "path": "/x/", "ip": "10.0.0.9"}
        self.registered(url="http://a.example:81/x", **parts)
        self.registered(url="http://[::1]:81", host="::1", ip="::1")
        for name, value, wanted in (
            ("scheme", "https", "scheme: 'https' is not what the url says ('http')"),
            ("host", "b.example", "host: 'b.example' is not what the url says ('a.example')"),
            ("port", 82, "port: 82 is not what the url says (81)"),
            ("path", "/y", "path: '/y' is not what the url says ('/x')"),
        ):
            self.refused(400, wanted, url="http://a.example:81/x", **{name: value})
        self.refused(400, "ip: 10.0.0.2 is not the host 10.0.0.1", url="http://10.0.0.1", ip="10.0.0.2")

    def test_addresses_that_cannot_be(self):
        for body, wanted in (
            ({}, "url: is missing, and so are host and ip"),
            ({"url": ""}, "url: is missing"),
            ({"url": "http://u:secret@a"}, "url: must not carry credentials"),
            ({"url": "ftp://a"}, "url: has the scheme 'ftp'"),
            ({"url": "http://"}, "url: has no host"),
            ({"url": "http://a?x"}, "url: must not have a query"),
            ({"url": "http://a:99999"}, "url: not a URL"),
            ({"host": "a", "scheme": "gopher"}, "scheme: only http and https"),
            ({"host": "a/b"}, "host: 'a/b' is not a host name"),
            ({"host": "u:p@a"}, "host: "),
            ({"host": " "}, "host: is empty"),
            ({"host": "a", "port": 0}, "port: must be from 1 to 65535"),
            ({"host": "a", "port": 65536}, "port: must be from 1 to 65535"),
            ({"host": "a", "port": "80"}, "port: expected an integer"),
            ({"host": "a", "path": "x"}, "path: must begin with a slash"),
            ({"host": "a", "path": "/x?y"}, "path: must not have a query"),
            ({"host": "a", "path": "/x y"}, "path: has a character"),
            ({"ip": "10.0.0"}, "ip: is not an IP address"),
            ({"url": URL, "id": "a/b"}, "id: must be 1 to 64 of"),
            ({"url": URL, "tags": []}, "unknown field 'tags'"),
        ):
            self.refused(400, wanted, **body)
        self.assertEqual(self.listed(), [])

    def test_the_same_url_again_keeps_its_id(self):
        self.registered(url=URL)
        first = self.only()
        self.registered(url=URL + "/")
        self.registered(url=URL, id="made-up-at-each-start", deploymentId="depl-2")
        self.assertEqual(self.only(), {**first, "deploymentId": "depl-2"})

    def test_the_id_may_be_chosen_and_moved(self):
        self.registered(url=URL, id="mine")
        self.registered(url="http://10.0.0.2", id="mine")
        self.assertEqual((self.only()["id"], self.only()["url"]), ("mine", "http://10.0.0.2"))
        self.registered(url=URL, id="second")
        self.refused(409, "url: is registered already, under the id second", url=URL, id="mine")
        self.refused(
            403, "id: this instance belongs to another service", self.other, url="http://c", id="mine"
        )
        self.registered(self.admin, url="http://10.0.0.3", id="mine", slug="shop-svc")
        self.assertEqual({i["url"] for i in self.listed()}, {URL, "http://10.0.0.3"})

    def test_a_url_of_another_service(self):
        self.registered(url=URL)
        first = self.only()
        self.refused(409, "url: is registered by another service", self.other, url=URL)
        self.registered(self.admin, url=URL, slug="other-svc")
        self.assertEqual(self.listed(), [])
        self.assertEqual(self.only(self.other), {**first, "slug": "other-svc"})

    def test_only_an_admin_names_another_slug(self):
        self.registered(url=URL, slug="shop-svc")
        self.refused(403, "slug: only an admin", url=URL, slug="other-svc")
        self.registered(self.admin, url="http://b", slug="not-yet-an-account")
        self.registered(self.admin, url="http://c")
        self.assertEqual(len(self.listed("?slug=not-yet-an-account", self.admin)), 1)
        self.assertEqual(len(self.listed("?slug=1backend", self.admin)), 1)
        self.refused(400, "slug: must be a slug", self.admin, url="http://d", slug="../x")
        self.refused(400, "slug: user-svc is a built-in", self.admin, url="http://d", slug="user-svc")

    def test_filters(self):
        self.registered(url="https://a.example/x", deploymentId="depl-1", id="one")
        self.registered(url=URL, id="two")
        self.registered(self.other, url="http://10.0.0.7")
        for query, wanted in (
            ("", {"one", "two"}),
            ("?slug=&host=", {"one", "two"}),
            ("?host=A.example", {"one"}),
            ("?scheme=https", {"one"}),
            ("?deploymentId=depl-1", {"one"}),
            ("?ip=10.0.0.1", {"two"}),
            ("?id=two&slug=shop-svc", {"two"}),
            ("?id=two&scheme=https", set()),
            ("?slug=other-svc", set()),
        ):
            self.assertEqual({instance["id"] for instance in self.listed(query)}, wanted, query)
        self.assertEqual(len(self.listed(token=self.admin)), 3)
        self.assertEqual(len(self.listed("?slug=other-svc", self.admin)), 1)

    def test_delete(self):
        for instance_id in ("one", "two"):
            self.registered(url=f"http://{instance_id}", id=instance_id)
        self.assertEqual(self.call("DELETE", "instance/one", token=self.other).status, 403)
        reply = self.call("DELETE", "instance/one")
        self.assertEqual((reply.status, reply.body), (204, b""))
        self.assertEqual(self.only()["id"], "two")
        self.assertEqual(self.call("DELETE", "instance/two", token=self.admin).status, 204)
        reply = self.call("DELETE", "instance/two")
        self.assertEqual((reply.status, reply.error), (404, "no such instance: two"))

    def test_nothing_without_a_token(self):
        for method, path in (("PUT", "instance"), ("GET", "instances"), ("DELETE", "instance/x")):
            self.assertEqual(self.call(method, path, {}, token="").status, 401)


class AtOnceTests(TestCase):
    def setUp(self):
        held: list[Deferred] = []
        self.held = held

        class Slow(MemoryStore):
            def save_instance(self, instance):
                held.append(Deferred())
                return held[-1].addCallback(lambda _: MemoryStore.save_instance(self, instance))

        self.api = Api(Slow())
        self.successResultOf(self.api.start())
        self.token = self.do(self.api.login())
        self.shop = self.do(self.api.register("shop-svc"))

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def register(self, token="", **body):
        """A registration that is under way."""
        call = self.api.call("PUT", "/registry-svc/instance", body, token=token or self.token)
        return Deferred.fromCoroutine(call)

    def statuses(self, calls):
        """What becomes of the calls when the store gets on, one save after the other."""
        while self.held:
            self.held.pop(0).callback(None)
            self.api.treq.flush()
        return [reply.status for reply in self.successResultOf(gatherResults(calls))]

    def test_two_processes_may_register_one_url_at_the_same_time(self):
        # The second comes to the store only after the first, and finds what that one made.
        calls = [self.register(url=URL) for _ in range(2)]
        self.assertEqual(len(self.held), 1)
        self.assertEqual(self.statuses(calls), [201, 201])
        self.assertEqual(len(self.api.registry.instances()), 1)

    def test_different_urls_do_not_wait_for_each_other(self):
        calls = [self.register(url=f"http://10.0.0.{number}") for number in range(3)]
        self.assertEqual(len(self.held), 3)
        self.assertEqual(self.statuses(calls), [201, 201, 201])

    def test_nobody_takes_over_an_id_that_is_about_to_be_saved(self):
        calls = [self.register(url=URL, id="one"), self.register(self.shop, url="http://b", id="one")]
        self.assertEqual(self.statuses(calls), [201, 403])
        kept = self.api.registry.instances()
        self.assertEqual([(view.instance.id, view.instance.url) for view in kept], [("one", URL)])

    def test_many_at_once_are_no_more_than_there_may_be(self):
        self.patch(registry_svc, "MAX_INSTANCES", 2)
        calls = [self.register(url=f"http://10.0.0.{number}") for number in range(4)]
        self.assertEqual(self.statuses(calls), [201, 201, 409, 409])
        self.assertEqual(self.statuses([self.register(url="http://10.0.0.0")]), [201])

    def test_a_removal_does_not_wait(self):
        self.assertEqual(self.statuses([self.register(url=URL, id="one")]), [201])
        waiting = self.register(url=URL, id="one")
        reply = self.do(self.api.call("DELETE", "/registry-svc/instance/one", token=self.token))
        self.assertEqual(reply.status, 204)
        self.assertEqual(self.statuses([waiting]), [201])


class ShapeTests(TestCase):
    def test_health(self):
        seen = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
        view = InstanceView(attrs.evolve(an_instance(), ip=""), "Degraded", seen, "slow to connect")
        shape = instance_json(view)
        self.assertEqual(shape["lastHeartbeat"], "2026-11-21T12:00:00.000Z")
        self.assertEqual((shape["status"], shape["details"]), ("Degraded", "slow to connect"))
        self.assertNotIn("ip", shape)
