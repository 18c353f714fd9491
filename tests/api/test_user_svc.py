from __future__ import annotations

import datetime
from typing import Any

import jwt
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.errors import Conflict
from onebackend_proxy.testing import MemoryStore

from .support import ADMIN_PASSWORD, START, Api, cheap_work

LOGIN = {"appHost": "unnamed", "slug": "1backend", "password": ADMIN_PASSWORD}
REGISTER = {"appHost": "unnamed", "slug": "shop-svc", "password": "long enough"}


class Base(TestCase):
    options: dict = {}

    def setUp(self):
        self.api = Api(**self.options)
        self.successResultOf(self.api.start())

    def do(self, coroutine):
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def post(self, path, body=None, **options):
        return self.do(self.api.call("POST", f"/user-svc/{path}", body, **options))

    def login(self, **changes):
        return self.post("login", {**LOGIN, **changes})

    def register(self, token="", **changes):
        return self.post("register", {**REGISTER, **changes}, token=token)

    def admin(self):
        return self.do(self.api.login())


class LoginTests(Base):
    def test_the_answer(self):
        reply = self.login(device="cli")
        self.assertEqual(reply.status, 200)
        token = reply.json["token"]
        self.assertEqual(
            set(token),
            {"token", "id", "appId", "userId", "device", "createdAt", "updatedAt", "expiresAt", "active"},
        )
        self.assertEqual((token["device"], token["active"]), ("cli", True))
        start = datetime.datetime.fromtimestamp(START, datetime.UTC)
        self.assertEqual(datetime.datetime.fromisoformat(token["createdAt"]), start)
        self.assertEqual(
            datetime.datetime.fromisoformat(token["expiresAt"]), start + datetime.timedelta(hours=1)
        )
        key = self.do(self.api.call("GET", "/user-svc/public-key")).json["publicKey"]
        options: Any = {"verify_exp": False, "verify_iat": False}
        claims = jwt.decode(token["token"], key, algorithms=["RS256"], options=options)
        self.assertEqual((claims["jti"], claims["1ui"]), (token["id"], token["userId"]))

    def test_without_a_device(self):
        self.assertEqual(self.login().json["token"]["device"], "unknown")

    def test_one_app_per_host(self):
        apps = [self.login(appHost=host).json["token"]["appId"] for host in ("a.com", "b.com", "a.com")]
        self.assertEqual(apps[0], apps[2])
        self.assertNotEqual(apps[0], apps[1])

    def test_what_is_wrong_is_not_told(self):
        replies = [self.login(password="wrong"), self.login(slug="nobody"), self.login(slug="../x")]
        self.assertEqual({(r.status, r.error) for r in replies}, {(401, "wrong slug or password")})

    def test_fields(self):
        for changes, wanted in (
            ({"slug": 5}, "slug: expected a string"),
            ({"password": None}, "password: expected a string"),
            ({"appHost": ""}, "appHost: is empty"),
            ({"totpCode": "1"}, "unknown field 'totpCode'"),
            ({"password": "x" * 4097}, "password: is longer than 4096 characters"),
        ):
            reply = self.login(**changes)
            self.assertEqual((reply.status, reply.error), (400, wanted))
        self.assertEqual(self.post("login", {}).status, 400)
        self.assertIn("appHost: is missing", self.post("login", {}).error)

    def test_no_answer_repeats_a_password(self):
        for password in (["hunter2-hunter2"], {"hunter2-hunter2": 1}):
            self.assertNotIn("hunter2", self.login(password=password).body.decode())

    def test_a_stale_token_does_not_keep_anybody_from_logging_in(self):
        self.assertEqual(self.post("login", LOGIN, token="nonsense").status, 200)

    def test_the_throttle(self):
        for _ in range(5):
            self.assertEqual(self.login(password="wrong").status, 401)
        reply = self.login()
        self.assertEqual((reply.status, reply.header("Retry-After")), (429, "60"))
        self.assertEqual(reply.error, "too many failed logins: try again in 60 s")
        self.api.address = "192.0.2.2"
        self.assertEqual(self.login().status, 200)
        self.api.address = "192.0.2.1"
        self.api.clock.advance(60)
        self.assertEqual(self.login().status, 200)


class BusyTests(Base):
    options = {"work": cheap_work(at_once=1, waiting=0)}

    def test_too_much_work_is_503(self):
        self.api.accounts._work._room = 0
        self.assertEqual(self.login().status, 503)
        self.api.accounts._work._room = 1
        self.assertEqual(self.login().status, 200)


class RegisterTests(Base):
    def test_an_admin_registers_and_the_account_logs_in(self):
        reply = self.register(self.admin(), name="The shop")
        self.assertEqual(reply.status, 200)
        user = self.post("self", token=reply.json["token"]["token"]).json
        self.assertEqual((user["user"]["slug"], user["user"]["name"]), ("shop-svc", "The shop"))
        self.assertEqual(user["roles"], ["user-svc:user"])
        self.assertRegex(user["user"]["id"], "^usr-")
        self.assertEqual(self.login(slug="shop-svc", password="long enough").status, 200)

    def test_the_name_is_the_slug_by_default(self):
        token = self.register(self.admin()).json["token"]["token"]
        self.assertEqual(self.post("self", token=token).json["user"]["name"], "shop-svc")

    def test_nobody_else_may(self):
        user = self.register(self.admin()).json["token"]["token"]
        self.assertEqual(self.register(slug="b-svc").status, 401)
        self.assertEqual(self.register("nonsense", slug="b-svc").status, 401)
        reply = self.register(user, slug="b-svc")
        self.assertEqual((reply.status, reply.error), (403, "the permission user-svc:user:create is needed"))

    def test_a_taken_slug(self):
        for slug in ("1backend", "shop-svc"):
            self.register(self.admin())
            reply = self.register(self.admin(), slug=slug)
            self.assertEqual((reply.status, reply.error), (409, f"the slug {slug} is taken"))

    def test_fields(self):
        admin = self.admin()
        for changes, wanted in (
            ({"slug": "../x"}, "slug: must be a slug"),
            ({"slug": ""}, "slug: must be a slug"),
            ({"slug": "Shop"}, "slug: must be a slug"),
            ({"slug": "proxy-svc"}, "slug: proxy-svc is a built-in service"),
            ({"password": "short"}, "password: must have 8 to 256 characters"),
            ({"name": "a\x00b"}, "name: has a control character"),
        ):
            reply = self.register(admin, **changes)
            self.assertEqual(reply.status, 400)
            self.assertTrue(reply.error.startswith(wanted), reply.error)

    def test_two_at_once_make_one_account(self):
        class Racing(MemoryStore):
            def account(self, slug):
                found = super().account(slug)
                return found.addCallback(lambda a: None if slug == "shop-svc" else a)

        api = Api(Racing())
        self.successResultOf(api.start())
        token = self.do(api.login())
        replies = [self.do(api.call("POST", "/user-svc/register", REGISTER, token=token)) for _ in range(2)]
        self.assertEqual([reply.status for reply in replies], [200, Conflict.status])


class OpenRegistrationTests(Base):
    options = {"open_registration": True}

    def test_anybody_may(self):
        user = self.register().json["token"]["token"]
        self.assertEqual(self.register(user, slug="b-svc").status, 200)

    def test_nobody_gets_the_traffic_of_instances_by_taking_their_slug(self):
        admin = self.admin()
        instance = {"url": "http://10.0.0.1", "slug": "billing"}
        self.do(self.api.call("PUT", "/registry-svc/instance", instance, token=admin))
        stranger = self.register().json["token"]["token"]
        for token in ("", stranger):
            reply = self.register(token, slug="billing")
            self.assertEqual((reply.status, reply.error), (409, "the slug billing is taken"))
        self.assertEqual(self.login(slug="billing", password="long enough").status, 401)
        self.assertEqual(self.register(admin, slug="billing").status, 200)

    def test_within_reason(self):
        for number in range(20):
            self.assertEqual(self.register(slug=f"svc-{number}").status, 200)
        reply = self.register(slug="one-more")
        self.assertEqual((reply.status, reply.header("Retry-After")), (429, "60"))
        self.assertEqual(self.register(self.admin(), slug="one-more").status, 200)


class RefreshTests(Base):
    def refresh(self, token):
        return self.post("refresh-token", token=token)

    def test_also_an_expired_token_is_refreshed_by_as_many_as_hold_it(self):
        old = self.admin()
        self.api.clock.advance(7200)
        self.assertEqual(self.post("self", token=old).status, 401)
        replies = [self.refresh(old) for _ in range(2)]
        self.assertEqual([reply.status for reply in replies], [200, 200])
        for reply in replies:
            self.assertEqual(self.post("self", token=reply.json["token"]["token"]).status, 200)

    def test_the_device_and_app_stay(self):
        first = self.login(device="cli", appHost="a.com").json["token"]
        second = self.refresh(first["token"]).json["token"]
        self.assertEqual((second["device"], second["appId"]), ("cli", first["appId"]))
        self.assertNotEqual(second["id"], first["id"])

    def test_not_after_thirty_days(self):
        old = self.admin()
        self.api.clock.advance(30 * 86400)
        self.assertEqual(self.refresh(old).status, 200)
        self.api.clock.advance(1)
        reply = self.refresh(old)
        self.assertEqual(reply.error, "the token is too old to be refreshed: log in again")
        self.assertEqual(reply.status, 401)

    def test_a_token_of_another_database(self):
        other = Api()
        self.successResultOf(other.start())
        self.assertEqual(self.refresh(self.do(other.login())).status, 401)
        self.assertEqual(self.post("self", token=self.do(other.login())).status, 401)
        self.assertEqual(self.post("self/has/x", token=self.do(other.login())).status, 401)
        self.assertEqual(self.refresh("").status, 401)

    def test_a_token_whose_account_is_gone(self):
        token = self.register(self.admin()).json["token"]["token"]
        self.api.store._accounts.clear()
        for path in ("refresh-token", "self", "self/has/x"):
            reply = self.post(path, token=token)
            self.assertEqual((reply.status, reply.error), (401, "the account of this token is gone"))

    def test_fields(self):
        reply = self.post("refresh-token", {"token": "x"}, token=self.admin())
        self.assertEqual((reply.status, reply.error), (400, "unknown field 'token'"))


class SelfTests(Base):
    def test_self(self):
        token = self.admin()
        reply = self.post("self", token=token)
        self.assertEqual(set(reply.json), {"user", "roles", "tokenCount"})
        self.assertEqual(set(reply.json["user"]), {"id", "slug", "name", "createdAt", "updatedAt"})
        self.assertEqual(reply.json["roles"], ["user-svc:user", "user-svc:admin"])
        self.assertEqual(reply.json["tokenCount"], 0)
        self.admin()
        self.assertEqual(self.post("self", {"countTokens": True}, token=token).json["tokenCount"], 2)

    def test_has_permission(self):
        admin = self.admin()
        user = self.register(admin).json["token"]
        for token, permission, authorized in (
            (admin, "proxy-svc%3Aroute%3Aedit", True),
            (admin, "proxy-svc:route:edit", True),
            (admin, "no-such-thing", False),
            (admin, "a%2Fb", False),
            (user["token"], "proxy-svc%3Aroute%3Aedit", False),
            (user["token"], "registry-svc%3Ainstance%3Aedit", True),
        ):
            reply = self.post(f"self/has/{permission}", token=token)
            self.assertEqual((reply.status, reply.json["authorized"]), (200, authorized), permission)
        self.assertEqual(set(reply.json), {"authorized", "appId", "app", "until", "user"})
        self.assertEqual(reply.json["until"], user["expiresAt"])
        self.assertEqual(reply.json["app"], {"id": user["appId"], "host": "unnamed"})
        self.assertEqual(reply.json["user"]["slug"], "shop-svc")
        self.assertEqual(self.post("self/has/x").status, 401)

    def test_has_permission_without_the_app(self):
        token = self.admin()
        self.api.store._apps.clear()
        self.assertEqual(self.post("self/has/x", token=token).status, 401)
