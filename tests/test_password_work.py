from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.errors import Unavailable
from onebackend_proxy.password_work import PasswordWork

from .api.support import CHEAP, cheap_work


class PasswordWorkTests(TestCase):
    def test_hash_and_check(self):
        work = cheap_work()
        encoded = self.successResultOf(work.hash("secret"))
        self.assertTrue(self.successResultOf(work.check("secret", encoded)))
        self.assertFalse(self.successResultOf(work.check("other", encoded)))

    def test_without_a_hash_the_same_work_is_done(self):
        done = []

        def record(work, *arguments):
            done.append((work.__name__, arguments[1][:20]))
            return Deferred()

        PasswordWork(record, CHEAP).check("secret", None)
        self.assertEqual(done, [("check_password", "scrypt$ln=2,r=8,p=1$")])
        self.assertFalse(self.successResultOf(cheap_work().check("secret", None)))

    def test_there_is_a_bound(self):
        running: list[Deferred] = []

        def later(_work, *_arguments):
            running.append(Deferred())
            return running[-1]

        work = PasswordWork(later, CHEAP, at_once=2, waiting=3)
        asked = [work.hash("secret") for _ in range(5)]
        self.assertEqual(len(running), 2)
        self.failureResultOf(work.hash("secret"), Unavailable)
        running[0].callback("hash")
        self.assertEqual(self.successResultOf(asked[0]), "hash")
        self.assertEqual(len(running), 3)
        self.assertNoResult(work.hash("secret"))
        self.failureResultOf(work.hash("secret"), Unavailable)

    def test_what_waits_can_be_cancelled_and_what_runs_keeps_its_place(self):
        running: list[Deferred] = []

        def later(_work, *_arguments):
            running.append(Deferred())
            return running[-1]

        work = PasswordWork(later, CHEAP, at_once=1, waiting=1)
        asked = [work.hash("secret") for _ in range(2)]
        for each in asked[1], asked[0]:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.assertEqual(len(running), 1)
        waiting = work.hash("secret")
        self.failureResultOf(work.hash("secret"), Unavailable)
        # Nothing can end a thread.
        self.assertEqual(len(running), 1)
        running[0].callback("nobody's")
        self.assertEqual(len(running), 2)
        running[1].callback("hash")
        self.assertEqual(self.successResultOf(waiting), "hash")

    def test_work_that_fails_gives_its_place_back(self):
        work = cheap_work(at_once=1, waiting=0)
        for _ in range(3):
            self.failureResultOf(work.check("secret", "no hash"), ValueError)

    def test_in_a_real_thread(self):
        return PasswordWork(cost=CHEAP).hash("secret").addCallback(self.assertRegex, "^scrypt")
