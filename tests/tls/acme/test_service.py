"""What orders certificates: whose, when, how many at once, and what becomes of failures."""

from __future__ import annotations

import datetime
import itertools

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.errors import Conflict, NotFound, StoreUnavailable, TooManyRequests
from onebackend_proxy.records import Issuance
from onebackend_proxy.tls.acme import renewal
from onebackend_proxy.tls.acme.asking import AT_ONCE as AT_ONCE_ASKED
from onebackend_proxy.tls.acme.jobs import AT_ONCE, KEPT_FOR_VISITORS, PACE
from onebackend_proxy.tls.acme.objects import RenewalInfo
from onebackend_proxy.tls.acme.problems import AcmeError

from .issuing import DIRECTORY, World, watch

DAY = 86400.0


class IssuingTestCase(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.process = self.world.process()
        self.authority = self.process.authority
        self.service = self.process.service


class WhoseTests(IssuingTestCase):
    def test_each_host_of_a_route_is_ordered_when_it_is_saved(self):
        self.world.route("a.com", "b.com/only/a/path", "b.com/another")
        self.assertEqual(sorted(self.authority.names), ["a.com", "b.com"])
        for asked in list(self.authority.open):
            asked.grant()
        self.world.turn(60)
        self.assertEqual(len(self.authority.asked), 2)
        shown = self.process.shown("b.com")
        assert shown is not None
        self.assertEqual((shown.id, shown.directory), ("b.com", DIRECTORY))

    def test_local_names_and_wildcards_without_dns_are_not_ordered(self):
        self.world.route("localhost", "app.localhost", "127.0.0.1", "[::1]", "*.x.com")
        self.world.turn(10)
        self.assertEqual(self.authority.names, [])

    def test_what_is_covered_by_a_certificate_that_somebody_saved_is_not_ordered_until_that_ends(self):
        self.world.save("x.com", "*.x.com", days=10)
        self.world.route("x.com", "a.x.com", "b.a.x.com")
        self.assertEqual(self.authority.names, ["b.a.x.com"])
        self.world.leap(days=9.9)
        self.assertEqual(self.authority.names, ["b.a.x.com"])
        self.world.leap(days=0.2)
        self.assertEqual(sorted(self.authority.names), ["a.x.com", "b.a.x.com", "x.com"])

    def test_what_somebody_saves_during_the_order_is_not_replaced(self):
        self.world.route("a.com")
        theirs = self.world.save("a.com")
        self.authority.open[0].grant()
        shown = self.process.shown("a.com")
        assert shown is not None
        self.assertEqual(shown.serial, theirs.serial)
        self.world.turn(20)
        self.assertEqual(len(self.authority.asked), 1)

    def test_a_host_that_is_routed_no_more_is_not_renewed(self):
        self.world.route("a.com")
        self.authority.open[0].grant()
        self.world.store.delete_routes(["a.com"])
        self.world.leap(days=80)
        self.assertEqual(len(self.authority.asked), 1)

    def test_an_order_for_a_host_that_went_while_it_waited_is_not_made(self):
        self.world.route(*(f"{number}.org" for number in range(AT_ONCE)))
        self.world.route("last.org")
        self.world.store.delete_routes(["last.org"])
        for asked in list(self.authority.open):
            asked.grant()
        self.world.turn(20)
        self.assertNotIn("last.org", self.authority.names)

    def test_people_are_told_what_cannot_be_ordered(self):
        self.world.save("mine.com")
        self.world.route("mine.com", "localhost", "*.x.com")
        for name, error, words in (
            ("other.com", NotFound, "no route for other.com"),
            ("localhost", NotFound, "local"),
            ("*.x.com", NotFound, "DNS"),
            ("mine.com", Conflict, "saved by hand"),
        ):
            self.assertIn(words, str(self.assertRaises(error, self.service.order, [name])))
        self.assertEqual(self.authority.names, [])


class OnDemandTests(IssuingTestCase):
    def fail_once(self, name):
        self.world.route(name)
        self.authority.open[0].refuse("not yet")
        self.world.turn()

    def test_nobody_waits_for_a_host_without_a_route(self):
        self.world.route("a.com")
        for name in ("b.com", "x.a.com", "localhost", "", "com"):
            self.assertIsNone(self.service.demand(name))
        self.assertEqual(self.authority.names, ["a.com"])

    def test_however_many_wait_it_is_one_order(self):
        self.world.route("a.com")
        ends = [watch(self.service.demand("a.com")) for _ in range(20)]
        self.assertEqual(self.authority.names, ["a.com"])
        self.authority.open[0].grant()
        self.assertEqual(ends, [["done"]] * 20)

    def test_those_who_wait_are_told_when_it_fails(self):
        self.world.route("a.com")
        ends = watch(self.service.demand("a.com"))
        self.authority.open[0].refuse("the authority says no")
        self.assertEqual(ends, ["the authority says no"])

    def test_one_who_gives_up_disturbs_nobody(self):
        self.world.route("a.com")
        first, second = self.service.demand("a.com"), self.service.demand("a.com")
        ends = [watch(first), watch(second)]
        assert first is not None
        first.cancel()
        self.authority.open[0].grant()
        self.assertEqual(ends[1], ["done"])
        self.assertEqual(len(self.authority.asked), 1)

    def test_a_client_that_waits_goes_before_the_queue(self):
        self.world.route(*(f"{number}.org" for number in range(2 * AT_ONCE)))
        last = next(
            name for name in (f"{number}.org" for number in range(8)) if name not in self.authority.names
        )
        self.service.demand(last)
        self.assertIn(last, self.authority.names)

    def test_a_wildcard_route_lets_names_below_it_be_ordered_when_somebody_comes(self):
        self.world.route("*.x.com")
        ends = watch(self.service.demand("a.x.com"))
        self.assertEqual(self.authority.names, ["a.x.com"])
        self.authority.open[0].grant()
        self.assertEqual(ends, ["done"])
        self.assertIsNone(self.service.demand("b.a.x.com"))

    def test_where_dns_proves_wildcards_whoever_comes_waits_for_that_one(self):
        self.authority.by_dns = True
        self.world.route("*.x.com", "listed.x.com")
        ends = [watch(self.service.demand(f"{name}.x.com")) for name in ("a", "b", "listed")]
        self.assertEqual(sorted(self.authority.names), ["*.x.com", "listed.x.com"])
        next(asked for asked in self.authority.open if asked.name == "*.x.com").grant()
        self.assertEqual(ends, [["done"], ["done"], []])
        shown = self.process.shown("a.x.com")
        assert shown is not None
        self.assertEqual(shown.id, "*.x.com")

    def test_names_made_up_below_a_wildcard_spend_half_of_the_budget_and_leave_nothing_behind(self):
        self.world.route("*.x.com")
        for number in range(200):
            waiting = self.service.demand(f"n{number}.x.com")
            if waiting is not None:
                waiting.addErrback(lambda _: None)
            self.world.turn(1)
            for asked in list(self.authority.open):
                asked.refuse("no such name")
        self.assertEqual(len(self.authority.asked), 10)
        self.assertLessEqual(len(self.service.schedule.known), 10)
        self.world.route("listed.x.com")
        self.assertEqual(self.authority.names[-1], "listed.x.com")
        self.authority.open[0].grant()
        self.world.leap(hours=1)
        self.assertIsNotNone(self.service.demand("later.x.com"))

    def test_made_up_names_do_not_hold_up_one_that_a_route_lists(self):
        self.world.route("*.x.com", "*.y.com")
        for number in range(60):
            for domain in ("x.com", "y.com"):
                waiting = self.service.demand(f"n{number}.{domain}")
                if waiting is not None:
                    waiting.addErrback(lambda _: None)
        self.world.route("honest.org")
        for _ in range(10):
            for asked in list(self.authority.open):
                asked.refuse("no such name")
            self.world.turn(1)
        self.assertIn("honest.org", self.authority.names)

    def test_made_up_names_have_a_budget_for_the_week(self):
        self.world.route("*.x.com")
        for hour in range(24):
            for number in range(12):
                waiting = self.service.demand(f"n{hour}-{number}.x.com")
                if waiting is not None:
                    waiting.addErrback(lambda _: None)
                self.world.turn(2)
                for asked in list(self.authority.open):
                    asked.grant()
            self.world.leap(hours=1)
        self.assertEqual(len(self.authority.asked), 20)

    def test_a_made_up_name_that_has_expired_is_a_renewal_and_on_no_budget(self):
        self.world.route("*.x.com")
        watch(self.service.demand("a.x.com"))
        self.authority.open[0].grant()
        self.world.leap(days=91)
        self.process.service._budget._made_up = 0
        self.assertIsNone(self.service.demand("b.x.com"))
        self.assertIsNotNone(self.service.demand("a.x.com"))
        self.assertEqual(self.authority.names, ["a.x.com", "a.x.com"])

    def test_what_no_host_can_be_called_is_not_ordered(self):
        self.world.route("*.x.com")
        for name in ("_acme-challenge.x.com", "a_b.x.com", "-a.x.com", "a-.x.com"):
            self.assertIsNone(self.service.demand(name))

    def test_a_name_below_a_wildcard_is_renewed_only_while_somebody_comes_for_it(self):
        self.world.route("*.x.com")
        self.service.demand("a.x.com")
        self.authority.open[0].grant()
        self.world.leap(days=70)
        self.assertEqual(len(self.authority.asked), 1)
        self.process.used.add("a.x.com")
        self.world.turn(20)
        self.assertEqual(len(self.authority.asked), 2)

    def test_what_expired_long_ago_below_a_wildcard_is_forgotten(self):
        self.world.route("*.x.com", "listed.com")
        self.service.demand("a.x.com")
        self.authority.open[0].grant()
        self.authority.open[0].grant()
        self.world.leap(days=90 + 16)
        self.assertIsNone(self.process.shown("a.x.com"))
        self.assertIsNotNone(self.process.shown("listed.com"))

    def test_a_failing_name_is_demanded_every_15_minutes_at_most(self):
        self.fail_once("a.com")
        self.assertIsNone(self.service.demand("a.com"))
        # By itself it is tried after one, two, two, five and three times ten minutes, then after 20.
        known = self.world.issuance("a.com")
        while known is not None and known.failures < 8:
            self.world.turn(30)
            for asked in list(self.authority.open):
                asked.refuse("still no")
            known = self.world.issuance("a.com")
        self.world.turn(14 * 60)
        self.assertIsNone(self.service.demand("a.com"))
        tries = len(self.authority.asked)
        self.world.turn(2 * 60)
        self.assertEqual(len(self.authority.asked), tries)
        self.assertIsNotNone(self.service.demand("a.com"))
        self.assertEqual(len(self.authority.asked), tries + 1)

    def test_what_the_authority_forbids_is_not_demanded(self):
        self.world.route("a.com")
        self.authority.open[0].refuse("slow down", retry_after=7200)
        self.world.turn(7000)
        self.assertIsNone(self.service.demand("a.com"))
        self.assertEqual(len(self.authority.asked), 1)
        self.world.turn(300)
        self.assertEqual(len(self.authority.asked), 2)


class HowManyTests(IssuingTestCase):
    def test_a_few_are_under_way_at_once(self):
        self.world.route(*(f"{number}.org" for number in range(30)))
        self.assertEqual(len(self.authority.open), AT_ONCE)
        for number in range(4):
            self.service.demand(f"{29 - number}.org")
        self.assertEqual(len(self.authority.open), 2 * AT_ONCE)

    def test_who_came_first_is_served_first(self):
        self.world.route(*(f"{number}.org" for number in range(30)))
        for number in range(20, 30):
            watch(self.service.demand(f"{number}.org"))
        for _ in range(40):
            for asked in list(self.authority.open):
                asked.grant()
            self.world.turn(1)
        waited = [name for name in self.authority.names if int(name.partition(".")[0]) >= 20]
        self.assertEqual(waited, [f"{number}.org" for number in range(20, 30)])

    def test_what_is_refused_by_the_budget_holds_up_nobody(self):
        self.world.route(*(f"n{number}.x.com" for number in range(200)))
        for _ in range(30):
            for asked in list(self.authority.open):
                asked.grant()
            self.world.turn(1)
        self.world.route("honest.org")
        for _ in range(11):
            for asked in list(self.authority.open):
                asked.grant()
            self.world.turn(1)
        self.assertIn("honest.org", self.authority.names)
        self.assertEqual(len(self.authority.asked), 21)

    def test_and_ten_in_ten_seconds(self):
        self.world.route(*(f"{number}.org" for number in range(30)))
        counts = []
        for _second in range(51):
            for asked in list(self.authority.open):
                asked.grant()
            self.world.turn(1)
            counts.append(len(self.authority.asked))
            if _second == 8:
                # Some of them are kept for those who wait.
                self.assertEqual(counts[8], PACE - KEPT_FOR_VISITORS)
                for number in range(29, 20, -1):
                    watch(self.service.demand(f"{number}.org"))
                self.assertEqual(len(self.authority.asked), PACE)
        self.assertEqual(counts[-1], 30)
        for start in range(20):
            self.assertLessEqual(counts[start + 9] - counts[start], PACE)

    def test_a_domain_has_a_budget_of_new_names(self):
        self.process.service._budget._most = 3
        self.world.route(*(f"n{number}.x.co.uk" for number in range(5)), "a.y.co.uk")
        for _ in range(20):
            for asked in list(self.authority.open):
                asked.grant()
            self.world.turn(1)
        self.assertEqual(sum(name.endswith("x.co.uk") for name in self.authority.names), 3)
        self.assertIn("a.y.co.uk", self.authority.names)
        waiting = [self.world.issuance(f"n{number}.x.co.uk") for number in range(5)]
        words = [known.problem for known in waiting if known is not None and known.problem]
        self.assertEqual(len(words), 2)
        self.assertIn("3 new names were ordered for x.co.uk within an hour", words[0])
        self.world.turn(3700)
        for _ in range(20):
            for asked in list(self.authority.open):
                asked.grant()
            self.world.turn(1)
        self.assertEqual(sum(name.endswith("x.co.uk") for name in self.authority.names), 5)

    def test_renewals_are_on_no_budget(self):
        self.process.service._budget._most = 1
        self.world.route("a.com")
        self.authority.open[0].grant(lifetime=3600)
        for _ in range(3):
            self.world.leap(seconds=2600)
            self.assertEqual(len(self.authority.open), 1)
            self.authority.open[0].grant(lifetime=3600)


@pytest.mark.parametrize("lifetime", [90 * DAY, 45 * DAY, 6 * DAY, 60.0])
def test_renewal_begins_at_two_thirds_of_the_lifetime(lifetime):
    world = World()
    process = world.process()
    world.route("a.com")
    process.authority.open[0].grant(lifetime)
    old = process.shown("a.com")
    begun = world.clock.seconds()
    while len(process.authority.asked) == 1:
        world.clock.advance(min(600.0, lifetime / 60))
        assert world.clock.seconds() < begun + lifetime
    share = (world.clock.seconds() - begun) / lifetime
    # The look that comes every five seconds is a twelfth of a minute.
    assert 2 / 3 <= share <= 0.71 + 6 / lifetime
    assert process.shown("a.com") is old, "the old one serves until the new one is there"
    renewal = process.authority.open[0]
    renewal.grant(lifetime)
    new = process.shown("a.com")
    assert new is not None and old is not None and new.serial != old.serial
    assert renewal.previous is not None and renewal.previous.serial == old.serial


class RenewalInfoTests(IssuingTestCase):
    def window(self, start, end, **more):
        now, day = self.process.now(), datetime.timedelta(days=1)
        return RenewalInfo(now + start * day, now + end * day, **more)

    def granted(self):
        self.world.route("a.com")
        self.authority.open[0].grant()
        self.world.turn(6)

    def test_the_authority_says_when(self):
        self.authority.info = self.window(10, 11)
        self.granted()
        self.assertEqual(self.authority.infos, 1)
        self.world.leap(days=9.9)
        self.assertEqual(len(self.authority.asked), 1)
        self.world.leap(days=1.2)
        self.assertEqual(len(self.authority.asked), 2)

    def test_it_is_asked_again_and_may_change_its_mind(self):
        self.authority.info = self.window(59, 61)
        self.granted()
        self.authority.info = self.window(-2, -1, explanation_url="https://ca.test/why")
        self.world.leap(hours=6)
        self.world.turn(10)
        self.assertEqual(len(self.authority.asked), 2)

    def test_what_it_said_is_kept_and_another_process_does_not_ask(self):
        self.authority.info = self.window(59, 61)
        self.granted()
        known = self.world.issuance("a.com")
        assert known is not None
        self.assertIsNotNone(known.window_start)
        self.service.stopService()
        second = self.world.process()
        self.world.turn(60)
        self.assertEqual(second.authority.infos, 0)

    def test_an_authority_that_fails_to_say_does_not_stop_the_renewal(self):
        self.authority.info = AcmeError("it is down")
        self.granted()
        self.world.leap(days=64)
        self.assertEqual(len(self.authority.asked), 2)
        self.assertLess(self.authority.infos, 5)

    def test_thousands_are_not_asked_about_at_once(self):
        self.authority.info = self.window(59, 61)
        for number in range(50):
            self.world.save(f"{number}.org", directory=DIRECTORY)
        self.authority.thinking = []
        self.world.route(*(f"{number}.org" for number in range(50)))
        self.world.turn(60)
        self.assertEqual(self.authority.infos, AT_ONCE_ASKED)
        for _ in range(300):
            for thinking in self.authority.thinking:
                if not thinking.called:
                    thinking.callback(None)
            self.world.turn(1)
        self.assertEqual(self.authority.infos, 50)


class FailureTests(IssuingTestCase):
    def test_it_is_tried_again_by_the_table_and_what_was_said_is_kept(self):
        self.world.route("a.com")
        begun = self.process.now()
        while len(self.authority.asked) < 7:
            for asked in list(self.authority.open):
                asked.refuse("DNS problem: NXDOMAIN looking up A for a.com")
            self.world.turn(5)
        minutes = [round((asked.at - begun).total_seconds() / 60) for asked in self.authority.asked]
        waits = [later - sooner for sooner, later in itertools.pairwise(minutes)]
        for wait, table in zip(waits, (1, 2, 2, 5, 10, 10), strict=True):
            self.assertTrue(table <= wait <= table * 1.1 + 1, (waits, table))
        known = self.world.issuance("a.com")
        assert known is not None
        self.assertEqual((known.failures, known.directory), (6, DIRECTORY))
        self.assertIn("NXDOMAIN", known.problem)

    def test_another_process_and_one_that_starts_again_wait_as_long(self):
        self.world.route("a.com")
        self.authority.open[0].refuse("no", retry_after=3600)
        self.service.stopService()
        second = self.world.process()
        self.world.turn(3500)
        self.assertEqual(second.authority.names, [])
        self.world.turn(200)
        self.assertEqual(second.authority.names, ["a.com"])
        self.assertEqual(second.authority.asked[0].issuance.failures, 1)

    def test_a_success_forgets_failures(self):
        self.world.route("a.com")
        self.authority.open[0].refuse()
        self.world.turn(70)
        self.authority.open[0].grant()
        known = self.world.issuance("a.com")
        assert known is not None
        self.assertEqual((known.failures, known.problem, known.challenge), (0, "", "http-01"))

    def test_a_route_that_is_saved_again_is_tried_again_at_once(self):
        self.world.route("a.com")
        self.authority.open[0].refuse()
        self.world.turn()
        self.world.route("a.com/more")
        self.assertEqual(len(self.authority.asked), 1)
        self.world.store.delete_routes(["a.com", "a.com/more"])
        self.world.turn(5)
        self.world.route("a.com")
        self.assertEqual(len(self.authority.asked), 2)

    def test_a_failure_under_a_clock_that_was_ahead_holds_up_nobody(self):
        for days in (1, 30, 365):
            name = f"d{days}.com"
            self.world.route(name)
            asked = self.authority.open[0]
            now = self.process.now()
            ahead = attrs.evolve(
                renewal.failed(Issuance(name), "no", "", now + datetime.timedelta(days=days)), challenge=""
            )
            self.world.clock.advance(0)
            asked.refuse()
            self.world.turn()
            self.service.schedule.know(ahead)
            self.world.store._issuances[name] = ahead
            self.service.schedule.plan([name])
            self.world.turn(10)
            self.assertEqual(self.authority.names.count(name), 2, days)
            self.authority.open[0].grant()

    def test_a_certificate_stored_under_a_clock_that_was_ahead_is_renewed(self):
        kept = self.world.save("a.com", directory=DIRECTORY)
        ahead = kept.updated_at + datetime.timedelta(days=80)
        self.world.store.save_certificates([attrs.evolve(kept, updated_at=ahead)])
        self.world.route("a.com")
        self.world.leap(days=66)
        self.world.turn(10)
        self.assertEqual(self.authority.names, ["a.com"])

    def test_a_mistake_of_ours_is_not_made_by_each_handshake(self):
        self.world.route("a.com")
        watch(self.service.demand("a.com"))
        self.authority.open[0].answer.errback(ZeroDivisionError("oh"))
        self.world.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        for _ in range(30):
            self.assertIsNone(self.service.demand("a.com"))
            self.world.turn(1)
        self.assertEqual(len(self.authority.asked), 1)
        self.world.turn(60)
        self.assertEqual(len(self.authority.asked), 2)

    def test_people_may_order_at_once_what_has_failed_unless_the_authority_forbids_it(self):
        self.world.route("a.com")
        self.authority.open[0].refuse()
        self.world.turn()
        self.service.order(["a.com"])
        self.assertEqual(len(self.authority.asked), 2)
        self.authority.open[0].refuse("slow down", retry_after=600)
        self.world.turn()
        error = self.assertRaises(TooManyRequests, self.service.order, ["a.com"])
        self.assertIn("slow down", error.message)
        self.world.turn(5)
        self.assertEqual(len(self.authority.asked), 2)

    def test_a_renewal_that_fails_leaves_the_old_one_and_hurries_where_that_is_short(self):
        self.world.route("a.com")
        self.authority.open[0].grant(lifetime=60)
        self.world.turn(50)
        self.authority.open[0].refuse()
        self.assertIsNotNone(self.process.shown("a.com"))
        self.world.turn(11)
        self.assertEqual(len(self.authority.asked), 3)

    def test_a_store_that_is_locked_orders_nothing(self):
        self.world.route("b.com")
        self.authority.open[0].grant(lifetime=3600)
        self.world.store.failure = StoreUnavailable("the store is busy: try again")
        self.world.leap(seconds=2600)
        self.assertEqual(len(self.authority.asked), 1)
        self.world.store.failure = None
        self.world.turn(40)
        self.assertEqual(len(self.authority.asked), 2)

    def test_a_certificate_that_the_disk_has_no_room_for_is_kept_and_not_ordered_again(self):
        self.world.route("a.com")
        self.world.store.failure = StoreUnavailable("the store is full")
        self.authority.open[0].grant()
        self.world.turn(60)
        self.assertIsNone(self.process.shown("a.com"))
        self.world.store.failure = None
        self.world.turn(10)
        self.assertIsNotNone(self.process.shown("a.com"))
        self.assertEqual(len(self.authority.asked), 1)

    def test_a_certificate_that_is_not_what_was_ordered_is_a_failure(self):
        self.world.route("a.com")
        self.authority.open[0].name = "b.com"
        self.authority.open[0].grant()
        known = self.world.issuance("a.com")
        assert known is not None
        self.assertEqual((known.failures, known.directory), (1, DIRECTORY))
        self.assertIn("is not for a.com", known.problem)


class StopTests(IssuingTestCase):
    def test_a_stop_does_not_wait_for_an_order(self):
        self.world.route("a.com")
        ends = watch(self.service.demand("a.com"))
        stopped = watch(self.service.stopService())
        self.assertEqual(stopped, ["done"])
        self.assertEqual(len(ends), 1)
        self.assertEqual(self.authority.open, [])
        self.assertTrue(self.authority.closed)
        self.assertIsNone(self.service.demand("a.com"))
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_and_gives_back_what_it_had_begun(self):
        self.world.route("a.com")
        self.service.stopService()
        second = self.world.process()
        self.assertEqual(second.authority.names, ["a.com"])

    def test_those_in_the_queue_are_told(self):
        self.world.route(*(f"{number}.org" for number in range(12)))
        ends = [watch(self.service.demand(f"{number}.org")) for number in range(12)]
        self.service.stopService()
        self.assertEqual([len(each) for each in ends], [1] * 12)


class TwoProcessesTests(IssuingTestCase):
    def test_each_name_is_ordered_once(self):
        second = self.world.process()
        self.world.route(*(f"{number}.org" for number in range(10)))
        for _ in range(60):
            for asked in [*self.authority.open, *second.authority.open]:
                asked.grant()
            self.world.turn(1)
        names = self.authority.names + second.authority.names
        self.assertEqual(sorted(names), sorted(set(names)))
        self.assertEqual(len(names), 10)

    def test_one_that_has_died_is_replaced_when_its_lease_has_run_out(self):
        world = World()
        # What comes to rest is not told of anything: as with kill -9 nothing is given back.
        clock = Clock()
        clock.advance(world.clock.seconds())
        dead = world.process(clock)
        world.route("a.com")
        clock.advance(0)
        self.assertEqual(dead.authority.names, ["a.com"])
        second = world.process()
        world.turn(19)
        self.assertEqual(second.authority.names, [])
        world.turn(2)
        self.assertEqual(second.authority.names, ["a.com"])

    def test_a_client_of_the_other_one_gets_it_too(self):
        second = self.world.process()
        self.world.route("a.com")
        first = self.process if self.authority.asked else second
        other = second if first is self.process else self.process
        ends = watch(other.service.demand("a.com"))
        first.authority.open[0].grant()
        self.world.turn(2)
        self.assertEqual(ends, ["done"])
        self.assertEqual(len(first.authority.asked + other.authority.asked), 1)

    def test_what_somebody_mended_is_tried_once_and_not_by_each(self):
        second = self.world.process()
        self.world.route("a.com")
        for asked in [*self.authority.open, *second.authority.open]:
            asked.refuse()
        self.world.turn(5)
        self.world.store.delete_routes(["a.com"])
        self.world.turn(5)
        self.world.route("a.com")
        self.world.turn(1)
        for asked in [*self.authority.open, *second.authority.open]:
            asked.refuse()
        self.world.turn(30)
        self.assertEqual(len(self.authority.asked + second.authority.asked), 2)

    def test_a_failure_of_the_one_is_the_others_too(self):
        second = self.world.process()
        self.world.route("a.com")
        first = self.process if self.authority.asked else second
        other = second if first is self.process else self.process
        first.authority.open[0].refuse("not believed")
        self.world.turn(30)
        self.assertEqual(other.authority.names, [])
        known = other.service.schedule.known.get("a.com")
        self.assertEqual(known and attrs.evolve(known).failures, 1)
