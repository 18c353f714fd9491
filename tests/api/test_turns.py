from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.api.turns import Turns
from onebackend_proxy.errors import Unavailable


class TurnsTests(TestCase):
    def setUp(self):
        self.turns = Turns(waiting=2)
        self.started: list[str] = []

    def run_one(self, name, key="key"):
        """Work that is done when the first of what is returned fires; the second tells its result."""
        work: Deferred[str] = Deferred()

        async def until_told():
            self.started.append(name)
            return await work

        return work, Deferred.fromCoroutine(self.turns.run(key, until_told))

    def test_one_key_in_turn_and_others_at_once(self):
        first, first_done = self.run_one("first")
        second, second_done = self.run_one("second")
        other, other_done = self.run_one("other", "another key")
        self.assertEqual(self.started, ["first", "other"])
        first.callback("1")
        self.assertEqual(self.successResultOf(first_done), "1")
        self.assertEqual(self.started, ["first", "other", "second"])
        third, third_done = self.run_one("third")
        self.assertEqual(len(self.started), 3)
        for work, done in ((second, second_done), (third, third_done), (other, other_done)):
            work.callback("done")
            self.successResultOf(done)
        self.assertEqual(len(self.turns), 0)

    def test_what_fails_lets_the_next_have_its_turn(self):
        first, first_done = self.run_one("first")
        second, second_done = self.run_one("second")
        first.errback(ZeroDivisionError())
        self.failureResultOf(first_done, ZeroDivisionError)
        second.errback(ZeroDivisionError())
        self.failureResultOf(second_done, ZeroDivisionError)
        self.assertEqual(len(self.turns), 0)

    def test_who_is_cancelled_while_waiting_leaves_the_queue(self):
        first, first_done = self.run_one("first")
        second_done = self.run_one("second")[1]
        second_done.addErrback(lambda _: None)
        second_done.cancel()
        first.callback("1")
        self.successResultOf(first_done)
        self.assertEqual((self.started, len(self.turns)), (["first"], 0))

    def test_not_too_many_wait(self):
        running = [self.run_one(str(number)) for number in range(3)]
        self.failureResultOf(self.run_one("one too many")[1], Unavailable)
        for work, done in running:
            work.callback("done")
            self.successResultOf(done)
        self.assertEqual((self.started, len(self.turns)), (["0", "1", "2"], 0))
