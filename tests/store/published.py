"""What every `IStore` must do with certificates, with all fields of a Route, and for those who follow it."""

from __future__ import annotations

import datetime

import attrs
from twisted.internet.defer import gatherResults

from onebackend_proxy.errors import Conflict, NotFound, StoreUnavailable
from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import (
    Access,
    BasicUser,
    Certificate,
    FieldEdits,
    ForwardAuth,
    HeaderEdits,
    Pause,
    Policy,
    RateLimit,
    Redirect,
    Route,
    RouteTimeouts,
    WeightedTarget,
)

from .contract import NOW, StoreContract, WithStore, an_instance, failure_of

LATER = NOW + datetime.timedelta(days=1)
FULL_ROUTE = Route(
    "full.com/app",
    targets=(WeightedTarget("http://a", 3), WeightedTarget("service:b-svc")),
    balance="cookie",
    timeouts=RouteTimeouts(connect=0.5, idle=60),
    retries=0,
    tls_insecure_skip_verify=True,
    policy=Policy(
        strip_prefix=True,
        access=Access(
            ("10.0.0.0/8",),
            ("10.6.6.6/32",),
            (BasicUser("ada", "a hash"),),
            ForwardAuth("http://auth/check", ("X-User",)),
        ),
        rate_limit=RateLimit(100, 0.5, 0, "header:x-key"),
        request_body_limit=0,
        headers=HeaderEdits(
            FieldEdits((("X-A", "$host"), ("X-B", "")), ("Cookie",)), FieldEdits(remove=("Server",))
        ),
        compress=True,
        cache=True,
        error_pages=(("503", "<p>later</p>"), ("4xx", "")),
        intercept_errors=True,
        paused=Pause(300.0, "back soon"),
    ),
)


def a_certificate(key: str = "cert-1", **changes) -> Certificate:
    certificate = Certificate(
        key,
        ("a.com", "*.a.com"),
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----",
        "a.com",
        "CN=An Authority",
        "0A1B",
        NOW,
        NOW + datetime.timedelta(days=90),
        NOW,
        NOW,
    )
    return attrs.evolve(certificate, **changes)


def listed(certificate: Certificate) -> Certificate:
    return attrs.evolve(certificate, private_key="")


class Followed(WithStore):
    """A TestCase that follows `self.store`."""

    async def heard(self) -> list[Published]:
        """What the store publishes from now on."""
        heard: list[Published] = []
        await self.store.follow(heard.append)
        self.assertEqual(len(heard), 1)
        return heard

    async def assert_published(self, published: Published) -> None:
        """It is what the store lists."""
        self.assertEqual({*published.routes}, {*await self.store.routes()})
        self.assertEqual({*published.redirects}, {*await self.store.redirects()})
        self.assertEqual(published.instances, await self.store.instances())
        self.assertEqual(published.certificates, await self.store.certificates())


class PublishingContract(Followed, StoreContract):
    """All that is published, and what the API asks: mix into a trial TestCase that sets `self.store`."""

    def test_a_route_keeps_every_field(self):
        async def check():
            heard = await self.heard()
            await self.store.save_routes([FULL_ROUTE, Route("a.com", "http://a")])
            self.assertEqual(await self.store.routes(), (Route("a.com", "http://a"), FULL_ROUTE))
            self.assertEqual(heard[-1].routes.match("full.com", "/app/x"), FULL_ROUTE)
            await self.store.save_routes([Route("full.com/app", "http://plain")])
            self.assertEqual((await self.store.routes())[1], Route("full.com/app", "http://plain"))

        return self.run_async(check())

    def test_certificates(self):
        async def check():
            first, second = a_certificate(), a_certificate("cert-0", names=("::1",))
            await self.store.save_certificates([first, second])
            self.assertEqual(await self.store.certificates(), (listed(second), listed(first)))
            self.assertEqual(await self.store.certificate("cert-1"), first)
            self.assertIsNone(await self.store.certificate("cert-2"))
            renewed = a_certificate(private_key="another", created_at=LATER, updated_at=LATER)
            await self.store.save_certificates([renewed])
            kept = attrs.evolve(renewed, created_at=NOW)
            self.assertEqual(await self.store.certificate("cert-1"), kept)
            self.assertEqual(await self.store.certificates(), (listed(second), listed(kept)))

        return self.run_async(check())

    def test_deleting_certificates_is_all_or_nothing(self):
        async def check():
            await self.store.save_certificates([a_certificate("a"), a_certificate("b")])
            error = await failure_of(NotFound, self.store.delete_certificates(["a", "nope"]))
            self.assertEqual(error.message, "no such certificate: nope")
            self.assertEqual(len(await self.store.certificates()), 2)
            await self.store.delete_certificates(["a", "b"])
            self.assertEqual(await self.store.certificates(), ())

        return self.run_async(check())

    def test_what_there_is_when_one_begins_to_follow(self):
        async def check():
            await self.store.save_routes([Route("a.com", "http://a")])
            await self.store.save_redirects([Redirect("b.com", "https://c.com")])
            await self.store.save_instance(an_instance())
            await self.store.save_certificates([a_certificate()])
            [published] = await self.heard()
            self.assertEqual(published.routes.match("a.com", "/"), Route("a.com", "http://a"))
            self.assertEqual(published.redirects.match("b.com", "/"), Redirect("b.com", "https://c.com"))
            self.assertEqual(published.instances, (an_instance(),))
            self.assertEqual(published.certificates, (listed(a_certificate()),))

        return self.run_async(check())

    def test_each_change_is_published_before_it_is_answered(self):
        renewed = a_certificate(created_at=LATER, updated_at=LATER)
        steps = [
            ("routes", lambda store: store.save_routes([Route("b.com", "http://b")])),
            ("routes", lambda store: store.save_routes([Route("b.com", "http://new"), Route("a.com", "x")])),
            ("routes", lambda store: store.delete_routes(["b.com"])),
            ("redirects", lambda store: store.save_redirects([Redirect("b.com", "/x")])),
            ("redirects", lambda store: store.delete_redirects(["b.com"])),
            ("instances", lambda store: store.save_instance(an_instance(2))),
            ("instances", lambda store: store.save_instance(an_instance(1))),
            ("instances", lambda store: store.delete_instance("inst-2")),
            ("certificates", lambda store: store.save_certificates([a_certificate()])),
            ("certificates", lambda store: store.save_certificates([renewed, renewed])),
            ("certificates", lambda store: store.delete_certificates(["cert-1"])),
        ]

        async def check():
            heard = await self.heard()
            for number, (part, change) in enumerate(steps, start=2):
                await change(self.store)
                self.assertEqual(len(heard), number)
                before, now = heard[-2:]
                for name in ("routes", "redirects", "instances", "certificates"):
                    if name != part:
                        self.assertIs(getattr(now, name), getattr(before, name))
                await self.assert_published(now)

        return self.run_async(check())

    def test_what_fails_is_not_published(self):
        async def check():
            await self.store.save_instance(an_instance(1))
            heard = await self.heard()
            await failure_of(NotFound, self.store.delete_routes(["nope"]))
            await failure_of(NotFound, self.store.delete_instance("nope"))
            await failure_of(Conflict, self.store.save_instance(an_instance(1, id="inst-other")))
            self.assertEqual(len(heard), 1)
            await self.store.save_routes([Route("a.com", "http://a")])
            await self.assert_published(heard[-1])

        return self.run_async(check())

    def test_changes_are_published_in_order(self):
        async def check():
            heard = await self.heard()
            await gatherResults([self.store.save_routes([Route(f"{n}.com", "http://a")]) for n in range(20)])
            self.assertEqual([len(published.routes) for published in heard], [*range(21)])

        return self.run_async(check())

    def test_several_follow(self):
        async def check():
            first = await self.heard()
            await self.store.save_routes([Route("a.com", "http://a")])
            second = await self.heard()
            await self.store.save_routes([Route("b.com", "http://b")])
            self.assertEqual([len(published.routes) for published in first], [0, 1, 2])
            self.assertEqual([len(published.routes) for published in second], [1, 2])
            self.assertIs(first[-1], second[-1])

        return self.run_async(check())

    def test_who_fails_at_once_does_not_follow(self):
        async def check():
            heard = []

            def listener(published):
                heard.append(published)
                raise ZeroDivisionError

            await failure_of(ZeroDivisionError, self.store.follow(listener))
            await self.store.save_routes([Route("a.com", "http://a")])
            self.assertEqual(len(heard), 1)

        return self.run_async(check())

    def test_a_closed_store_is_not_followed(self):
        async def check():
            heard = await self.heard()
            await self.store.close()
            await failure_of(StoreUnavailable, self.store.follow(heard.append))
            await failure_of(StoreUnavailable, self.store.save_certificates([a_certificate()]))
            self.assertEqual(len(heard), 1)

        return self.run_async(check())
