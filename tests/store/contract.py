"""What every `IStore` must do, as a mixin: one contract, run over each implementation."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from onebackend_proxy.errors import Conflict, NotFound, StoreUnavailable, Unavailable
from onebackend_proxy.interfaces import IStore
from onebackend_proxy.records import Account, Instance, Redirect, Route, Token

E = TypeVar("E", bound=Exception)
# A mixin must not be collected as a test case of its own.
if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as Base
else:
    Base = object
NOW = datetime.datetime(2026, 11, 21, 12, 30, 15, 123456, tzinfo=datetime.UTC)


def an_account(slug: str = "shop-svc", **changes) -> Account:
    account = Account(f"usr-{slug}", slug, "Shop", "scrypt$x", ("user-svc:user",), NOW, NOW)
    return attrs.evolve(account, **changes)


def an_instance(number: int = 1, **changes) -> Instance:
    url = f"http://10.0.0.{number}:8080"
    instance = Instance(f"inst-{number}", "shop-svc", url, "http", f"10.0.0.{number}", 8080, ip="10.0.0.1")
    return attrs.evolve(instance, **changes)


async def failure_of(kind: type[E], deferred: Deferred[Any]) -> E:
    """The error that `deferred` fails with."""
    try:
        result = await deferred
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {result!r}")


class WithStore(Base):
    """Mix into a trial TestCase that sets `self.store`."""

    store: Any

    def run_async(self, coroutine):
        return Deferred.fromCoroutine(coroutine)


class StoreContract(WithStore):
    """What the API asks of a store."""

    def test_provides_the_interface(self):
        self.assertTrue(verifyObject(IStore, self.store))

    def test_a_new_store_is_empty(self):
        async def check():
            for listing in (self.store.routes, self.store.redirects, self.store.instances):
                self.assertEqual(await listing(), ())
            self.assertIsNone(await self.store.account("shop-svc"))
            self.assertIsNone(await self.store.account_by_id("usr-1"))
            self.assertIsNone(await self.store.app_by_id("app-1"))
            self.assertIsNone(await self.store.token("tok-1"))
            self.assertIsNone(await self.store.secret("name"))
            self.assertEqual(await self.store.count_tokens("usr-1"), 0)

        return self.run_async(check())

    def test_routes_are_replaced_by_id_and_sorted_by_code_point(self):
        async def check():
            await self.store.save_routes([Route("b.com", "http://b"), Route("Z.com", "http://z")])
            await self.store.save_routes([Route("é.com", "http://e"), Route("b.com", "http://new")])
            await self.store.save_routes([])
            self.assertEqual(
                await self.store.routes(),
                (Route("Z.com", "http://z"), Route("b.com", "http://new"), Route("é.com", "http://e")),
            )

        return self.run_async(check())

    def test_of_one_id_twice_in_a_save_the_last_counts(self):
        async def check():
            await self.store.save_routes([Route("a.com", "http://1"), Route("a.com", "http://2")])
            self.assertEqual(await self.store.routes(), (Route("a.com", "http://2"),))

        return self.run_async(check())

    def test_deleting_routes_is_all_or_nothing(self):
        async def check():
            await self.store.save_routes([Route("a.com", "http://a"), Route("b.com", "http://b")])
            message = (
                await failure_of(NotFound, self.store.delete_routes(["a.com", "nope", "other"]))
            ).message
            self.assertEqual(message, "no such route: nope")
            self.assertEqual(len(await self.store.routes()), 2)
            await self.store.delete_routes(["a.com", "a.com"])
            self.assertEqual([route.id for route in await self.store.routes()], ["b.com"])

        return self.run_async(check())

    def test_routes_are_changed_by_what_they_were(self):
        async def check():
            await self.store.save_routes([Route(key, "http://x") for key in ("a.com", "b.com", "c.com")])
            told = []

            def change(routes):
                told.extend(sorted(route.id for route in routes))
                return [Route("a.com", "http://new"), Route("/shop-svc")], ["b.com"]

            await self.store.change_routes(["b.com", "a.com", "/shop-svc"], change)
            self.assertEqual(told, ["a.com", "b.com"])
            after = (Route("/shop-svc"), Route("a.com", "http://new"), Route("c.com", "http://x"))
            self.assertEqual(await self.store.routes(), after)

            def refuse(routes):
                raise NotFound("not this one")

            message = (await failure_of(NotFound, self.store.change_routes(["a.com"], refuse))).message
            self.assertEqual(message, "not this one")
            await failure_of(
                NotFound, self.store.change_routes([], lambda _: ([Route("d.com", "http://d")], ["nope"]))
            )
            await self.store.change_routes([], lambda _: ((), ()))
            self.assertEqual(await self.store.routes(), after)

        return self.run_async(check())

    def test_redirects(self):
        async def check():
            old, new = Redirect("a.com", "https://b.com", 301), Redirect("a.com", "https://c.com")
            await self.store.save_redirects([old, Redirect("b.com", "/x", 307)])
            await self.store.save_redirects([new])
            self.assertEqual(await self.store.redirects(), (new, Redirect("b.com", "/x", 307)))
            message = (await failure_of(NotFound, self.store.delete_redirects(["a.com", "nope"]))).message
            self.assertEqual(message, "no such redirect: nope")
            await self.store.delete_redirects(["a.com", "b.com"])
            self.assertEqual(await self.store.redirects(), ())

        return self.run_async(check())

    def test_instances_keep_every_field(self):
        async def check():
            full = an_instance(2, path="/app", deployment_id="depl-1", scheme="https")
            await self.store.save_instance(full)
            await self.store.save_instance(an_instance(1))
            self.assertEqual(await self.store.instances(), (an_instance(1), full))
            moved = attrs.evolve(full, url="http://other", slug="other-svc")
            await self.store.save_instance(moved)
            self.assertEqual(await self.store.instances(), (an_instance(1), moved))
            await self.store.delete_instance("inst-1")
            self.assertEqual(await self.store.instances(), (moved,))
            message = (await failure_of(NotFound, self.store.delete_instance("inst-1"))).message
            self.assertEqual(message, "no such instance: inst-1")

        return self.run_async(check())

    def test_a_url_is_held_under_one_id_only(self):
        async def check():
            await self.store.save_instance(an_instance(1))
            await failure_of(Conflict, self.store.save_instance(an_instance(1, id="inst-other")))
            self.assertEqual(await self.store.instances(), (an_instance(1),))

        return self.run_async(check())

    def test_accounts(self):
        async def check():
            admin = an_account("1backend", roles=("user-svc:user", "user-svc:admin"))
            await self.store.create_account(admin)
            await self.store.create_account(an_account())
            self.assertEqual(await self.store.account("1backend"), admin)
            self.assertEqual(await self.store.account_by_id("usr-shop-svc"), an_account())
            taken = self.store.create_account(an_account(id="usr-2"))
            self.assertEqual((await failure_of(Conflict, taken)).message, "the slug shop-svc is taken")
            await failure_of(Conflict, self.store.create_account(an_account("new-svc", id=admin.id)))
            self.assertIsNone(await self.store.account("new-svc"))

        return self.run_async(check())

    def test_times_come_back_in_utc_whatever_zone_they_had(self):
        async def check():
            east = NOW.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
            await self.store.create_account(an_account(created_at=east))
            kept = await self.store.account("shop-svc")
            self.assertEqual(kept.created_at, NOW)

        return self.run_async(check())

    def test_set_password(self):
        async def check():
            await self.store.create_account(an_account())
            app = await self.store.app("unnamed")
            await self.store.save_token(Token("tok-1", app.id, "usr-shop-svc", "cli", NOW, NOW, NOW), 64)
            await self.store.set_password("usr-shop-svc", "scrypt$new")
            self.assertIsNone(await self.store.token("tok-1"))
            self.assertEqual((await self.store.account("shop-svc")).password_hash, "scrypt$new")
            await failure_of(NotFound, self.store.set_password("usr-nobody", "x"))

        return self.run_async(check())

    def test_an_app_is_made_once(self):
        async def check():
            first = await self.store.app("unnamed")
            self.assertRegex(first.id, "^app-")
            self.assertEqual(await self.store.app("unnamed"), first)
            self.assertNotEqual((await self.store.app("other")).id, first.id)
            self.assertEqual(await self.store.app_by_id(first.id), first)

        return self.run_async(check())

    def test_apps_are_bounded_and_those_that_no_token_refers_to_go_first(self):
        async def check():
            self.assertEqual(self.store.max_apps, 1000)
            self.store.max_apps = 3
            await self.store.create_account(an_account())

            async def log_in(app):
                token = Token(f"tok-{app.id}", app.id, "usr-shop-svc", "cli", NOW, NOW, NOW)
                await self.store.save_token(token, 64)

            used = await self.store.app("used")
            await log_in(used)
            unused = [await self.store.app(host) for host in ("unused-1", "unused-2")]
            self.assertEqual(await self.store.app("unused-1"), unused[0])
            for app in (await self.store.app("new"), await self.store.app("newer")):
                await log_in(app)
            self.assertEqual([await self.store.app_by_id(app.id) for app in unused], [None, None])
            for _ in range(2):
                error = await failure_of(Unavailable, self.store.app("too much"))
                self.assertEqual(error.message, "there are 3 apps already, with logins to each")
            self.assertEqual(await self.store.app("used"), used)
            self.assertEqual(await self.store.app_by_id(used.id), used)

        return self.run_async(check())

    def test_only_the_newest_tokens_of_an_account_are_kept(self):
        async def check():
            app = await self.store.app("unnamed")
            for slug in ("a-svc", "b-svc"):
                await self.store.create_account(an_account(slug))

            def token(number: int, slug: str = "a-svc") -> Token:
                return Token(f"tok-{slug}-{number}", app.id, f"usr-{slug}", "cli", NOW, NOW, NOW)

            await self.store.save_token(token(1, "b-svc"), 3)
            # All of one second: what came later is newer all the same.
            for number in range(5, 0, -1):
                await self.store.save_token(token(number), 3)
            self.assertEqual(await self.store.count_tokens("usr-a-svc"), 3)
            self.assertEqual(await self.store.count_tokens("usr-b-svc"), 1)
            kept = [await self.store.token(f"tok-a-svc-{number}") for number in range(1, 6)]
            self.assertEqual(kept, [token(1), token(2), token(3), None, None])

        return self.run_async(check())

    def test_tokens_that_expired_too_long_ago_are_forgotten(self):
        async def check():
            app = await self.store.app("unnamed")
            for slug in ("a-svc", "b-svc"):
                await self.store.create_account(an_account(slug))

            async def save(name, slug, hours, *arguments):
                expires = NOW + datetime.timedelta(hours=hours)
                await self.store.save_token(
                    Token(name, app.id, f"usr-{slug}", "cli", NOW, NOW, expires), 64, *arguments
                )

            await save("tok-others", "b-svc", 0)
            await save("tok-old", "a-svc", 0)
            await save("tok-edge", "a-svc", 1)
            await save("tok-new", "a-svc", 2, NOW + datetime.timedelta(hours=1))
            names = ("tok-others", "tok-old", "tok-edge", "tok-new")
            kept = [await self.store.token(name) is not None for name in names]
            self.assertEqual(kept, [True, False, True, True])

        return self.run_async(check())

    def test_a_token_needs_its_account_and_app(self):
        async def check():
            app = await self.store.app("unnamed")
            await self.store.create_account(an_account())
            good = Token("tok-1", app.id, "usr-shop-svc", "cli", NOW, NOW, NOW)
            await failure_of(NotFound, self.store.save_token(attrs.evolve(good, account_id="usr-x"), 3))
            await failure_of(NotFound, self.store.save_token(attrs.evolve(good, app_id="app-x"), 3))
            self.assertIsNone(await self.store.token("tok-1"))

        return self.run_async(check())

    def test_the_first_secret_of_a_name_stays(self):
        async def check():
            self.assertEqual(await self.store.create_secret("key", b"one"), b"one")
            self.assertEqual(await self.store.create_secret("key", b"two"), b"one")
            self.assertEqual(await self.store.secret("key"), b"one")

        return self.run_async(check())

    def test_calls_made_at_once_take_effect_in_order(self):
        async def check():
            calls = [self.store.save_routes([Route("a.com", f"http://{n}")]) for n in range(20)]
            await gatherResults(calls)
            self.assertEqual(await self.store.routes(), (Route("a.com", "http://19"),))

        return self.run_async(check())

    def test_a_closed_store_says_so(self):
        async def check():
            await self.store.close()
            await self.store.close()
            await failure_of(StoreUnavailable, self.store.routes())
            await failure_of(StoreUnavailable, self.store.save_routes([Route("a", "b")]))

        return self.run_async(check())
