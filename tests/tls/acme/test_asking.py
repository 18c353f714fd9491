"""When to renew, in the authority's opinion: whom is asked how often, and what must not wait for it."""

from __future__ import annotations

import datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.tls.acme.objects import RenewalInfo
from onebackend_proxy.tls.acme.problems import AcmeError

from .issuing import DIRECTORY, World


class AskingTests(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.process = self.world.process()
        self.authority = self.process.authority
        now = self.process.now()
        day = datetime.timedelta(days=1)
        self.window = RenewalInfo(now + 59 * day, now + 61 * day)

    def have(self, *names, **more: Any):
        """Certificates of the authority, and Routes for them."""
        for name in names:
            self.world.save(name, directory=DIRECTORY, **more)
        self.world.route(*names)

    def test_what_it_says_is_kept_for_this_very_certificate(self):
        self.authority.info = self.window
        self.have("a.com")
        known = self.world.issuance("a.com")
        assert known is not None
        shown = self.process.shown("a.com")
        assert shown is not None
        self.assertEqual(
            (known.serial, known.window_start, known.window_end),
            (shown.serial, self.window.start, self.window.end),
        )
        assert known.ask_at is not None
        self.assertTrue(known.ask_at > self.process.now())
        self.world.turn(60)
        self.assertEqual(self.authority.infos, 1)

    def test_one_that_has_no_opinion_leaves_no_line_in_the_store(self):
        self.have("a.com")
        self.world.turn(60)
        self.assertEqual(self.authority.infos, 1)
        self.assertIsNone(self.world.issuance("a.com"))

    def test_one_that_fails_is_asked_when_it_says(self):
        self.authority.info = AcmeError("busy", retry_after=1800)
        self.have("a.com")
        self.world.turn(1700)
        self.assertEqual(self.authority.infos, 1)
        self.world.turn(200)
        self.assertEqual(self.authority.infos, 2)

    def test_what_is_known_of_failures_stays(self):
        self.world.route("a.com")
        self.authority.open[0].refuse("no")
        self.world.turn()
        self.authority.info = self.window
        self.world.save("a.com", directory=DIRECTORY)
        self.world.turn(100)
        known = self.world.issuance("a.com")
        assert known is not None
        self.assertEqual((known.failures, known.problem), (1, "no"))
        self.assertEqual(known.window_start, self.window.start)

    def test_a_store_that_cannot_keep_it_is_not_asked_for_that_again_and_again(self):
        self.authority.info = self.window
        self.have("a.com")
        self.authority.thinking = []
        self.world.leap(hours=7)
        [thinking] = self.authority.thinking
        self.authority.thinking = None
        self.world.store.failure = StoreUnavailable("the store is full")
        thinking.callback(None)
        self.world.turn(300)
        self.world.store.failure = None
        self.assertEqual(self.authority.infos, 2)
        self.assertIs(self.process.service.schedule.known["a.com"].window_start, self.window.start)

    def test_a_stop_waits_for_no_answer(self):
        self.authority.thinking = []
        self.have("a.com", "b.com", "c.com")
        self.successResultOf(self.process.service.stopService())
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_when_one_has_answered_the_next_is_asked(self):
        self.authority.info = self.window
        thinking: list[Any] = []
        self.authority.thinking = thinking
        self.have(*(f"h{number}.com" for number in range(40)))
        for _ in range(30):
            for each in thinking:
                if not each.called:
                    each.callback(None)
            self.world.turn(1)
        self.assertEqual(self.authority.infos, 40)

    def test_what_must_be_renewed_waits_for_no_opinion(self):
        self.authority.thinking = []
        self.have("a.com", "b.com")
        self.assertEqual(len(self.authority.thinking), 2)
        self.have("late.com", days=90, begins=-80)
        self.world.turn(15)
        self.assertEqual(self.authority.names, ["late.com"])

    def test_what_somebody_saved_while_a_name_was_in_the_queue_is_good_enough(self):
        self.world.route(*(f"h{number}.com" for number in range(4)), "a.x.com")
        self.assertNotIn("a.x.com", self.authority.names)
        self.world.save("*.x.com")
        for asked in list(self.authority.open):
            asked.grant()
        self.world.turn(20)
        self.assertNotIn("a.x.com", self.authority.names)
