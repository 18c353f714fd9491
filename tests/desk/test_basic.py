from __future__ import annotations

import base64
from typing import Any

import bcrypt
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.desk.basic import MAX_REMEMBERED, BasicAuth
from onebackend_proxy.errors import Unavailable
from onebackend_proxy.messages import Headers
from onebackend_proxy.password_work import PasswordWork
from onebackend_proxy.passwords import Cost, hash_password
from onebackend_proxy.records import BasicUser

from ..api.support import CHEAP, cheap_work

ADA = BasicUser("ada", hash_password("secret", cost=CHEAP))
BOB = BasicUser("bob", bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode())


def shows(user: str, password: str) -> Headers:
    encoded = base64.b64encode(f"{user}:{password}".encode())
    return [(b"Accept", b"*/*"), (b"Authorization", b"Basic " + encoded)]


class LaterWork(PasswordWork):
    """Password work that a test does when it likes."""

    def __init__(self) -> None:
        super().__init__(cost=CHEAP)
        self.asked: list[tuple[str, str, Deferred[bool]]] = []

    def check(self, password: str, encoded: str | None) -> Deferred[bool]:
        assert encoded is not None
        self.asked.append((password, encoded, Deferred()))
        return self.asked[-1][2]


def check(auth: BasicAuth, headers: Headers) -> Any:
    """What it says, of whichever kind."""
    return auth.check(headers)


class BasicAuthTests(TestCase):
    def check_now(self, auth, headers):
        found = check(auth, headers)
        return self.successResultOf(found) if isinstance(found, Deferred) else found

    def test_who_is_known_by_the_password_comes_in(self):
        auth = BasicAuth((ADA, BOB), cheap_work())
        self.assertEqual(self.check_now(auth, shows("ada", "secret")), "ada")
        self.assertEqual(self.check_now(auth, shows("bob", "other")), "bob")
        for user, password in (
            ("ada", "other"),
            ("bob", "secret"),
            ("eve", "secret"),
            ("", ""),
            ("Ada", "secret"),
        ):
            self.assertIsNone(self.check_now(auth, shows(user, password)))

    def test_no_credentials_cost_nothing(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        for headers in ([], [(b"Authorization", b"Bearer x")], shows("ada", "secret") * 2):
            self.assertIsNone(check(auth, headers))
        self.assertIsNone(check(BasicAuth((), work), shows("ada", "secret")))
        self.assertEqual(work.asked, [])

    def test_good_ones_are_remembered_and_wrong_ones_are_not(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        first = check(auth, shows("ada", "secret"))
        work.asked[0][2].callback(True)
        self.assertEqual(self.successResultOf(first), "ada")
        self.assertEqual(check(auth, shows("ada", "secret")), "ada")
        self.assertEqual(len(work.asked), 1)
        for number in range(2, 4):
            wrong = check(auth, shows("ada", "wrong"))
            self.assertEqual(len(work.asked), number)
            work.asked[-1][2].callback(False)
            self.assertIsNone(self.successResultOf(wrong))
        self.assertEqual(repr(auth), "<BasicAuth of 1 users, 1 remembered, 0 being checked>")

    def test_the_same_ones_are_checked_once_at_a_time(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        asked = [check(auth, shows("ada", "guess")) for _ in range(5)]
        other = check(auth, shows("ada", "guesses"))
        self.assertEqual([each[0] for each in work.asked], ["guess", "guesses"])
        asked[1].cancel()
        self.failureResultOf(asked[1], CancelledError)
        work.asked[0][2].callback(True)
        for number in (0, 2, 3, 4):
            self.assertEqual(self.successResultOf(asked[number]), "ada")
        self.assertNoResult(other)

    def test_when_all_have_left_it_is_not_done(self):
        running: list[Deferred] = []

        def in_thread(work, *arguments):
            running.append(Deferred())
            return running[-1]

        auth = BasicAuth((ADA,), PasswordWork(in_thread, CHEAP, at_once=1, waiting=1))
        first = check(auth, shows("ada", "first"))
        waiting = [check(auth, shows("ada", "second")) for _ in range(2)]
        for each in waiting:
            self.failureResultOf(check(auth, shows("ada", "third")), Unavailable)
            each.cancel()
            self.failureResultOf(each, CancelledError)
        third = check(auth, shows("ada", "third"))
        self.assertNoResult(third)
        running[0].callback(False)
        self.assertIsNone(self.successResultOf(first))
        self.assertEqual(len(running), 2)
        running[1].callback(True)
        self.assertEqual(self.successResultOf(third), "ada")
        self.assertEqual(check(auth, shows("ada", "third")), "ada")
        self.assertIsInstance(check(auth, shows("ada", "second")), Deferred)

    def test_one_who_hears_first_may_send_the_others_away(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        first, second = (check(auth, shows("ada", "secret")) for _ in range(2))
        first.addCallback(lambda user: second.cancel() or user)
        work.asked[0][2].callback(True)
        self.assertEqual(self.successResultOf(first), "ada")
        self.failureResultOf(second, CancelledError)

    def test_who_is_known_already(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        for headers in ([], shows("ada", "secret"), shows("ada", "secret") * 2):
            self.assertIsNone(auth.known(headers))
        check(auth, shows("ada", "secret"))
        work.asked[0][2].callback(True)
        self.assertEqual(auth.known(shows("ada", "secret")), "ada")
        self.assertIsNone(auth.known(shows("ada", "other")))
        self.assertEqual(len(work.asked), 1)

    def test_too_many_at_once_are_told_so(self):
        work = PasswordWork(lambda *_: Deferred(), CHEAP, at_once=1, waiting=1)
        auth = BasicAuth((ADA,), work)
        waiting = [check(auth, shows("ada", str(number))) for number in range(3)]
        self.failureResultOf(waiting[2], Unavailable)
        self.assertNoResult(waiting[0])
        # Nothing of it stays.
        self.failureResultOf(check(auth, shows("ada", "2")), Unavailable)
        self.assertEqual(repr(auth), "<BasicAuth of 1 users, 0 remembered, 2 being checked>")

    def test_an_unknown_user_costs_what_a_known_one_costs(self):
        work = LaterWork()
        dear = hash_password("secret", cost=Cost(ln=4))
        auth = BasicAuth((BasicUser("ada", dear),), work)
        check(auth, shows("eve", "secret"))
        self.assertTrue(work.asked[0][1].startswith("scrypt$ln=4,r=8,p=1$"))
        self.assertNotEqual(work.asked[0][1], dear)
        check(BasicAuth((BOB,), work), shows("eve", "other"))
        self.assertTrue(work.asked[1][1].startswith("$2b$04$"))

    def test_an_unknown_user_costs_the_same_each_time(self):
        work = LaterWork()
        auth = BasicAuth((ADA, BOB), work)
        for number in range(8):
            check(auth, shows("eve", str(number)))
        self.assertEqual(len({encoded[:4] for _password, encoded, _done in work.asked}), 1)

    def test_not_even_the_password_of_a_decoy_lets_one_in(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        found = check(auth, shows("eve", "secret"))
        work.asked[0][2].callback(True)
        self.assertIsNone(self.successResultOf(found))
        self.assertIsInstance(check(auth, shows("eve", "secret")), Deferred)

    def test_what_is_remembered_is_bounded(self):
        work = LaterWork()
        auth = BasicAuth((ADA,), work)
        for number in range(MAX_REMEMBERED + 1):
            check(auth, shows("ada", str(number)))
            work.asked[-1][2].callback(True)
        self.assertEqual(len(auth._known), MAX_REMEMBERED)
        self.assertIsInstance(check(auth, shows("ada", "0")), Deferred)
        self.assertEqual(check(auth, shows("ada", "1")), "ada")

    def test_another_policy_remembers_nothing_of_it(self):
        auth = BasicAuth((ADA,), cheap_work())
        self.assertEqual(self.check_now(auth, shows("ada", "secret")), "ada")
        changed = BasicUser("ada", hash_password("changed", cost=CHEAP))
        self.assertIsNone(self.check_now(BasicAuth((changed,), cheap_work()), shows("ada", "secret")))

    def test_nothing_that_is_kept_tells_a_password(self):
        auth = BasicAuth((ADA,), cheap_work())
        self.check_now(auth, shows("ada", "secret"))
        kept = repr(auth._known)
        self.assertNotIn("secret", kept)
        self.assertNotIn(base64.b64encode(b"ada:secret").decode(), kept)
