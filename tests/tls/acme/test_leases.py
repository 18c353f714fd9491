"""One order at a time for each name: leases of two processes on one store."""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.records import Issuance
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.acme.leases import LEASE, LOOK_AGAIN, Leases

from ..making import now

NAME = "a.com"
SECONDS = LEASE.total_seconds()
EVERY = SECONDS / 4
KNOWN = Issuance(NAME, failures=3, problem="no")


class LeasesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(now().timestamp())
        self.store = MemoryStore()
        self.one, self.other = (Leases(self.store, self.clock) for _ in range(2))
        self.logged: list[str] = []
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def begin(self, coroutine):
        return Deferred.fromCoroutine(coroutine)

    def result(self, coroutine):
        return self.successResultOf(self.begin(coroutine))

    def keep(self, leases, lost=lambda: None):
        keeping = leases.keep(NAME, lost)
        self.addCleanup(lambda: keeping.running and keeping.stop())
        return keeping

    def pass_time(self, seconds):
        for _ in range(round(seconds)):
            self.clock.advance(1)

    def is_free(self):
        """Whether another process could have it."""
        return self.result(self.other.try_claim(NAME)) is not None

    def test_it_is_one_process_s_own(self):
        self.assertEqual(self.result(self.one.try_claim(NAME)), Issuance(NAME))
        self.assertIsNone(self.result(self.other.try_claim(NAME)))
        self.assertEqual(self.result(self.one.try_claim(NAME)), Issuance(NAME))
        self.assertEqual(self.result(self.other.try_claim("b.com")), Issuance("b.com"))
        self.assertNotEqual(repr(self.one), repr(self.other))

    def test_who_waits_has_it_when_it_is_given_up_and_knows_what_is_known(self):
        self.result(self.one.claim(NAME))
        waiting = self.begin(self.other.claim(NAME))
        self.clock.advance(LOOK_AGAIN)
        self.assertNoResult(waiting)
        self.result(self.one.release(KNOWN))
        self.assertNoResult(waiting)
        self.clock.advance(LOOK_AGAIN)
        self.assertEqual(self.successResultOf(waiting), KNOWN)

    def test_who_waits_may_give_up(self):
        self.result(self.one.claim(NAME))
        waiting = self.begin(self.other.claim(NAME))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_one_that_has_died_it_runs_out(self):
        self.result(self.one.claim(NAME))
        waiting = self.begin(self.other.claim(NAME))
        self.pass_time(SECONDS - 1)
        self.assertNoResult(waiting)
        self.pass_time(2)
        self.successResultOf(waiting)

    def test_of_one_that_is_at_it_it_does_not(self):
        self.result(self.one.claim(NAME))
        keeping = self.keep(self.one)
        waiting = self.begin(self.other.claim(NAME))
        self.pass_time(10 * SECONDS)
        self.assertNoResult(waiting)
        keeping.stop()
        self.pass_time(SECONDS + LOOK_AGAIN)
        self.successResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_store_that_fails_for_a_while_loses_nothing(self):
        lost: list[bool] = []
        self.result(self.one.claim(NAME))
        self.keep(self.one, lambda: lost.append(True))
        self.store.failure = StoreUnavailable("the store is busy")
        self.pass_time(2 * EVERY)
        self.store.failure = None
        self.assertEqual(self.logged, [f"the lease on {NAME} cannot be renewed: the store is busy"] * 2)
        self.pass_time(EVERY)
        self.pass_time(SECONDS - EVERY)
        self.assertFalse(self.is_free())
        self.assertEqual(lost, [])

    def test_what_another_has_is_told_once_and_not_taken_back(self):
        lost: list[bool] = []
        self.result(self.one.claim(NAME))
        self.keep(self.one, lambda: lost.append(True))
        self.store.failure = StoreUnavailable("the store is busy")
        self.pass_time(SECONDS)
        self.store.failure = None
        self.assertTrue(self.is_free())
        self.pass_time(EVERY)
        self.assertEqual(lost, [True])
        self.assertEqual(self.logged[-1], f"another process has taken over the order for {NAME}")
        # Who was told may need a while to end; the other is at it, and then done.
        self.pass_time(EVERY)
        self.assertEqual(lost, [True])
        self.result(self.other.release(KNOWN))
        self.pass_time(3 * EVERY)
        self.assertEqual(lost, [True])
        third = Leases(self.store, self.clock)
        self.assertEqual(self.result(third.try_claim(NAME)), KNOWN)

    def test_what_was_lost_is_not_overwritten(self):
        self.result(self.one.claim(NAME))
        self.pass_time(SECONDS)
        self.result(self.other.claim(NAME))
        self.result(self.one.release(attrs.evolve(KNOWN, problem="of the one that was late")))
        self.assertIsNone(self.result(self.one.try_claim(NAME)), "and it is not given up for the other")
        self.result(self.other.release(KNOWN))
        self.assertEqual(self.result(self.one.try_claim(NAME)), KNOWN)

    def test_who_is_told_may_stop_at_once(self):
        self.result(self.one.claim(NAME))
        keeping: Any = self.keep(self.one, lambda: keeping.stop())
        self.pass_time(EVERY - 1)
        self.store._leases.clear()
        self.assertTrue(self.is_free())
        self.pass_time(1)
        self.assertFalse(keeping.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_store_that_fails_at_the_end_fails_nobody(self):
        self.result(self.one.claim(NAME))
        self.store.failure = StoreUnavailable("the store is full")
        self.result(self.one.release(KNOWN))
        self.assertEqual(self.logged, [f"the lease on {NAME} cannot be given up: the store is full"])
        self.store.failure = None
        self.assertFalse(self.is_free())
        self.pass_time(SECONDS)
        self.assertTrue(self.is_free())
