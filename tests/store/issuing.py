"""What every `IStore` must keep for those who order certificates: facts, leases, budgets, challenges."""

from __future__ import annotations

import datetime

import attrs
from twisted.internet.defer import gatherResults

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import Challenge, Issuance

from .contract import NOW, WithStore, failure_of
from .published import a_certificate

FULL_ISSUANCE = Issuance(
    "full.com",
    failures=3,
    failing_since=NOW - datetime.timedelta(hours=1),
    tried_at=NOW,
    problem='DNS problem: "NXDOMAIN" looking up A for full.com é',
    directory="https://ca.example/directory",
    retry_at=NOW + datetime.timedelta(minutes=5),
    not_before=NOW + datetime.timedelta(minutes=1),
    challenge="http-01",
    serial="0A1B",
    window_start=NOW + datetime.timedelta(days=60),
    window_end=NOW + datetime.timedelta(days=61),
    ask_at=NOW + datetime.timedelta(hours=6),
    explanation_url="https://ca.example/why",
)
A_CHALLENGE = Challenge("http-01", "a.com", "token", "token.thumbprint", NOW + datetime.timedelta(hours=1))


def after(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


class IssuingContract(WithStore):
    """Mix into a trial TestCase that sets `self.store`."""

    def claim(self, name: str, holder: str, now: float = 0, until: float = 60):
        return self.store.claim_issuance(name, holder, after(now), after(until))

    def spend(self, name: str, now: float = 0, most: int = 2, domain: str = "example.com"):
        return self.store.spend_order(domain, name, after(now), after(now - 3600), most)

    def test_nothing_is_known_of_orders_in_a_new_store(self):
        async def check():
            self.assertEqual(await self.store.issuances(), ())
            self.assertEqual(await self.store.challenges(NOW), ())

        return self.run_async(check())

    def test_the_orders_of_a_domain_are_told_oldest_first(self):
        async def check():
            for name, moment in (("b.example.com", 20), ("a.example.com", 10), ("old.example.com", -5)):
                await self.spend(name, moment, most=9)
            await self.spend("x.example.org", 30, domain="example.org")
            first, second = ("a.example.com", after(10)), ("b.example.com", after(20))
            self.assertEqual(await self.store.ordered("example.com", after(0)), (first, second))
            self.assertEqual(await self.store.ordered("example.com", after(10)), (second,))
            self.assertEqual(await self.store.ordered("example.net", after(0)), ())

        return self.run_async(check())

    def test_what_a_clock_has_noted_that_was_wrong_holds_up_nobody(self):
        async def check():
            days = 60 * 86400
            self.assertIsNotNone(await self.claim("a.com", "ahead", days, days + 20))
            self.assertIsNotNone(await self.claim("a.com", "right", 0, 20))
            await self.spend("a.example.com", days, most=1)
            self.assertIsNone(await self.spend("b.example.com", 0, most=1))

        return self.run_async(check())

    def test_a_secret_is_replaced(self):
        async def check():
            for value in (b"one", b"two"):
                await self.store.replace_secret("key", value)
                self.assertEqual(await self.store.secret("key"), value)
            self.assertEqual(await self.store.create_secret("key", b"three"), b"two")
            await self.store.create_secret("other", b"other")
            await self.store.replace_secret("key", b"")
            self.assertEqual(await self.store.secret("key"), b"")
            self.assertEqual(await self.store.secret("other"), b"other")

        return self.run_async(check())

    def test_where_a_certificate_was_ordered(self):
        async def check():
            heard: list[Published] = []
            await self.store.follow(heard.append)
            directory = "https://ca.example/directory"
            await self.store.save_certificates([a_certificate("one", directory=directory), a_certificate()])
            for listing in (await self.store.certificates(), heard[-1].certificates):
                self.assertEqual([each.directory for each in listing], ["", directory])
            self.assertEqual((await self.store.certificate("one")).directory, directory)
            await self.store.save_certificates([a_certificate("one")])
            self.assertEqual([each.directory for each in heard[-1].certificates], ["", ""])

        return self.run_async(check())

    def test_a_certificate_without_its_key_is_not_saved(self):
        async def check():
            heard: list[Published] = []
            await self.store.save_certificates([a_certificate("kept")])
            await self.store.follow(heard.append)
            [kept] = await self.store.certificates()
            error = await failure_of(ValueError, self.store.save_certificates([a_certificate("new"), kept]))
            self.assertEqual(str(error), "the certificate kept is without its private key")
            self.assertEqual(await self.store.certificate("kept"), a_certificate("kept"))
            self.assertEqual(await self.store.certificates(), (kept,))
            self.assertEqual(len(heard), 1)

        return self.run_async(check())

    def test_one_holder_at_a_time(self):
        async def check():
            self.assertEqual(await self.claim("a.com", "one"), Issuance("a.com"))
            self.assertIsNone(await self.claim("a.com", "two", 59.9, 120))
            self.assertEqual(await self.claim("b.com", "two"), Issuance("b.com"))

        return self.run_async(check())

    def test_of_claims_made_at_once_the_first_wins(self):
        async def check():
            claims = await gatherResults([self.claim("a.com", holder) for holder in ("one", "two", "three")])
            self.assertEqual(claims, [Issuance("a.com"), None, None])

        return self.run_async(check())

    def test_who_holds_it_holds_it_longer(self):
        async def check():
            await self.claim("a.com", "one", 0, 60)
            self.assertEqual(await self.claim("a.com", "one", 30, 90), Issuance("a.com"))
            self.assertIsNone(await self.claim("a.com", "two", 60, 120))
            self.assertIsNone(await self.claim("a.com", "two", 89, 120))
            self.assertEqual(await self.claim("a.com", "two", 90, 120), Issuance("a.com"))

        return self.run_async(check())

    def test_a_lease_that_ran_out_is_taken_over_and_its_holder_keeps_nothing(self):
        async def check():
            await self.claim("full.com", "dead", 0, 60)
            self.assertIsNotNone(await self.claim("full.com", "next", 60, 120))
            self.assertIs(await self.store.release_issuance(FULL_ISSUANCE, "dead"), False)
            self.assertEqual(await self.store.issuances(), ())
            self.assertIsNone(await self.claim("full.com", "dead", 100, 160))
            self.assertIs(await self.store.release_issuance(FULL_ISSUANCE, "next"), True)
            # Another had it since: what it knows is newer.
            self.assertIs(await self.store.release_issuance(Issuance("full.com", failures=9), "dead"), False)
            self.assertEqual(await self.store.issuances(), (FULL_ISSUANCE,))

        return self.run_async(check())

    def test_a_lease_that_ran_out_and_that_nobody_took_is_released_all_the_same(self):
        async def check():
            await self.claim("full.com", "slow", 0, 60)
            self.assertIs(await self.store.release_issuance(FULL_ISSUANCE, "slow"), True)
            self.assertEqual(await self.claim("full.com", "next", 1000, 1060), FULL_ISSUANCE)

        return self.run_async(check())

    def test_who_never_held_it_keeps_nothing(self):
        async def check():
            self.assertIs(await self.store.release_issuance(FULL_ISSUANCE, "one"), False)
            self.assertEqual(await self.store.issuances(), ())

        return self.run_async(check())

    def test_what_is_known_comes_back_whole_with_the_next_claim(self):
        async def check():
            await self.claim("full.com", "one")
            self.assertIs(await self.store.release_issuance(FULL_ISSUANCE, "one"), True)
            self.assertIs(await self.store.release_issuance(FULL_ISSUANCE, "one"), False)
            self.assertEqual(await self.claim("full.com", "two"), FULL_ISSUANCE)
            self.assertEqual(await self.store.issuances(), (FULL_ISSUANCE,))
            better = attrs.evolve(FULL_ISSUANCE, failures=0, failing_since=None, problem="")
            self.assertIs(await self.store.release_issuance(better, "two"), True)
            self.assertEqual(await self.store.issuances(), (better,))

        return self.run_async(check())

    def test_only_those_of_which_something_is_known_are_listed_by_name(self):
        async def check():
            for name in ("b.com", "Z.com", "é.com", "a.com"):
                await self.claim(name, "one")
            self.assertEqual(await self.store.issuances(), ())
            for issuance in (Issuance("b.com", 1), Issuance("Z.com", 2), Issuance("é.com", 3)):
                await self.store.release_issuance(issuance, "one")
            listed = (Issuance("Z.com", 2), Issuance("b.com", 1), Issuance("é.com", 3))
            self.assertEqual(await self.store.issuances(), listed)
            await self.claim("b.com", "one")
            self.assertEqual(await self.store.issuances(), listed)
            await self.store.release_issuance(Issuance("b.com"), "one")
            self.assertEqual(await self.store.issuances(), (listed[0], listed[2]))

        return self.run_async(check())

    def test_what_is_known_is_forgotten_but_a_lease_goes_on(self):
        async def check():
            for number, name in enumerate(("a.com", "b.com", "c.com"), start=1):
                await self.claim(name, "one")
                await self.store.release_issuance(Issuance(name, number), "one")
            await self.claim("b.com", "one")
            await self.store.delete_issuances(["b.com", "nope", "a.com", "a.com"])
            await self.store.delete_issuances([])
            self.assertEqual(await self.store.issuances(), (Issuance("c.com", 3),))
            self.assertIsNone(await self.claim("b.com", "two"))
            self.assertEqual(await self.claim("a.com", "two"), Issuance("a.com"))
            self.assertIs(await self.store.release_issuance(Issuance("b.com", 7), "one"), True)
            self.assertEqual(await self.store.issuances(), (Issuance("b.com", 7), Issuance("c.com", 3)))

        return self.run_async(check())

    def test_orders_for_a_domain_are_bounded(self):
        async def check():
            self.assertIsNone(await self.spend("a.example.com", 0))
            self.assertIsNone(await self.spend("b.example.com", 10))
            self.assertEqual(await self.spend("c.example.com", 20), after(0))
            self.assertIsNone(await self.spend("a.example.net", 20, domain="example.net"))
            self.assertIsNone(await self.spend("c.example.com", 20, most=3))

        return self.run_async(check())

    def test_the_same_name_again_costs_nothing_but_is_newer(self):
        async def check():
            for now in (0, 10, 20):
                self.assertIsNone(await self.spend("a.example.com", now))
            self.assertIsNone(await self.spend("b.example.com", 30))
            self.assertIsNone(await self.spend("a.example.com", 40))
            self.assertEqual(await self.spend("c.example.com", 50), after(30))

        return self.run_async(check())

    def test_what_is_refused_is_not_noted(self):
        async def check():
            await self.spend("a.example.com", 0, most=1)
            for now in (1, 2):
                self.assertEqual(await self.spend("b.example.com", now, most=1), after(0))
            self.assertIsNone(await self.spend("c.example.com", 3600, most=1))

        return self.run_async(check())

    def test_old_orders_are_forgotten(self):
        async def check():
            await self.spend("a.example.com", 0)
            await self.spend("b.example.com", 10)
            self.assertEqual(await self.spend("c.example.com", 3599.9), after(0))
            self.assertIsNone(await self.spend("c.example.com", 3600))
            self.assertEqual(await self.spend("d.example.com", 3601), after(10))
            self.assertIsNone(await self.spend("e.example.com", 3700))
            # However far back one looks: they are gone.
            forgotten = await self.store.spend_order("example.com", "d", after(4001), after(-9999), 1)
            self.assertEqual(forgotten, after(3600))
            # Those of another domain stay for a month: it may look further back.
            month = 30 * 86400
            await self.spend("z.example.net", month + 3650, domain="example.net")
            self.assertEqual(
                await self.store.ordered("example.com", after(0)), (("e.example.com", after(3700)),)
            )

        return self.run_async(check())

    def test_a_window_of_a_week_is_not_cut_by_one_of_an_hour(self):
        async def check():
            day = 86400
            self.assertIsNone(await self.store.spend_order("*.x", "a", after(0), after(-7 * day), 1))
            self.assertIsNone(await self.spend("a.x", 6 * day, domain="x"))
            late = await self.store.spend_order("*.x", "b", after(6 * day), after(-day), 1)
            self.assertEqual(late, after(0))

        return self.run_async(check())

    def test_where_no_order_may_be_made(self):
        async def check():
            self.assertEqual(await self.spend("a.example.com", 7, most=0), after(7))

        return self.run_async(check())

    def test_challenges_are_replaced_by_kind_name_and_token(self):
        async def check():
            others = [
                attrs.evolve(A_CHALLENGE, kind="tls-alpn-01"),
                attrs.evolve(A_CHALLENGE, name="b.com"),
                attrs.evolve(A_CHALLENGE, token="other"),
            ]
            for challenge in (*others, A_CHALLENGE):
                await self.store.save_challenge(challenge, NOW)
            changed = attrs.evolve(A_CHALLENGE, answer="other.thumbprint", expires_at=after(60))
            await self.store.save_challenge(changed, NOW)
            listed = (others[2], changed, others[1], others[0])
            self.assertEqual(await self.store.challenges(NOW), listed)
            # Whatever it says besides.
            await self.store.delete_challenge(A_CHALLENGE)
            await self.store.delete_challenge(A_CHALLENGE)
            self.assertEqual(await self.store.challenges(NOW), (others[2], others[1], others[0]))

        return self.run_async(check())

    def test_challenges_expire(self):
        async def check():
            early = attrs.evolve(A_CHALLENGE, token="early", expires_at=after(60))
            late = attrs.evolve(A_CHALLENGE, token="late", expires_at=after(120))
            await self.store.save_challenge(early, NOW)
            await self.store.save_challenge(late, after(59))
            self.assertEqual(await self.store.challenges(after(59)), (early, late))
            self.assertEqual(await self.store.challenges(after(60)), (late,))
            self.assertEqual(await self.store.challenges(NOW), (early, late))
            await self.store.save_challenge(late, after(60))
            self.assertEqual(await self.store.challenges(NOW), (late,))

        return self.run_async(check())

    def test_what_is_noted_of_orders_is_not_published(self):
        async def check():
            heard: list[Published] = []
            await self.store.follow(heard.append)
            await self.claim("full.com", "one")
            await self.store.release_issuance(FULL_ISSUANCE, "one")
            await self.store.delete_issuances(["full.com"])
            await self.spend("a.example.com")
            await self.store.save_challenge(A_CHALLENGE, NOW)
            await self.store.delete_challenge(A_CHALLENGE)
            await self.store.replace_secret("key", b"value")
            self.assertEqual(len(heard), 1)

        return self.run_async(check())

    def test_a_closed_store_orders_nothing(self):
        async def check():
            await self.store.close()
            await failure_of(StoreUnavailable, self.claim("a.com", "one"))
            await failure_of(StoreUnavailable, self.spend("a.example.com"))
            await failure_of(StoreUnavailable, self.store.challenges(NOW))

        return self.run_async(check())
