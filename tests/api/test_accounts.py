from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import TestCase

from onebackend_proxy.api import accounts, open_accounts
from onebackend_proxy.api.accounts import Accounts
from onebackend_proxy.api.tokens import TokenIssuer
from onebackend_proxy.errors import SettingError, TooManyRequests, Unauthenticated
from onebackend_proxy.password_work import PasswordWork
from onebackend_proxy.testing import MemoryStore

from .support import CHEAP, SIGNING_KEY, cheap_work, new_clock


class AccountsTests(TestCase):
    def setUp(self):
        self.clock, self.store = new_clock(), MemoryStore()
        self.work_done = []
        self.held: list[Deferred] | None = None
        work = PasswordWork(self.in_thread, CHEAP, at_once=100)
        issuer = TokenIssuer(SIGNING_KEY, self.clock.seconds)
        self.accounts = Accounts(self.store, issuer, work, self.clock.seconds)

    def in_thread(self, work, *arguments):
        """Do it at once, or, while `held` is a list, when that is told to."""
        self.work_done.append(work.__name__)
        if self.held is None:
            return maybeDeferred(work, *arguments)
        held: Deferred = Deferred()
        held.addCallback(lambda _: work(*arguments))
        self.held.append(held)
        return held

    def ensure_admin(self, password="correct horse"):
        self.successResultOf(Deferred.fromCoroutine(self.accounts.ensure_admin(password)))

    def login(self, password="correct horse", slug="1backend", address="192.0.2.1"):
        return Deferred.fromCoroutine(self.accounts.login(slug, password, "unnamed", "", address))

    def account(self) -> Any:
        return self.successResultOf(self.store.account("1backend"))

    def test_the_admin_is_made_once_and_follows_its_password(self):
        self.ensure_admin()
        first = self.account()
        self.assertEqual(first.roles, ("user-svc:user", "user-svc:admin"))
        self.ensure_admin()
        self.assertEqual(self.account(), first)
        self.ensure_admin("another one")
        second = self.account()
        self.assertEqual(second.id, first.id)
        self.successResultOf(self.login("another one"))
        self.failureResultOf(self.login("correct horse"), Unauthenticated)

    def test_an_empty_admin_password_is_refused(self):
        ensured = Deferred.fromCoroutine(self.accounts.ensure_admin(""))
        self.failureResultOf(ensured, SettingError)

    def test_an_unknown_slug_costs_the_same_and_is_told_the_same(self):
        self.ensure_admin()
        self.work_done.clear()
        said = set()
        for slug in ("1backend", "nobody-svc", "../x", "", "x" * 100_000):
            failure = self.failureResultOf(self.login("wrong", slug), Unauthenticated)
            said.add(failure.value.message)
        self.assertEqual(said, {"wrong slug or password"})
        self.assertEqual(self.work_done, ["check_password"] * 5)

    def test_what_is_no_slug_is_throttled_as_one(self):
        for number in range(5):
            self.failureResultOf(self.login("wrong", f"../{number}"), Unauthenticated)
        self.failureResultOf(self.login("wrong", "../6"), TooManyRequests)

    def test_guesses_sent_at_once_are_no_more_than_five(self):
        self.ensure_admin()
        self.held = []
        guesses = [self.login(f"guess {n}") for n in range(30)] + [self.login("correct horse")]
        for held in self.held:
            held.callback(None)
        kinds = [self.failureResultOf(guess).type for guess in guesses]
        self.assertEqual(kinds, [Unauthenticated] * 5 + [TooManyRequests] * 26)

    def test_many_right_logins_at_once_all_succeed(self):
        self.ensure_admin()
        self.held = []
        logins = [self.login() for _ in range(30)]
        for held in self.held:
            held.callback(None)
        self.assertEqual(len({self.successResultOf(login).token.id for login in logins}), 30)

    def refresh(self, login):
        claims = self.accounts.verify(login.jwt, allow_expired=True)
        return Deferred.fromCoroutine(self.accounts.refresh(claims))

    def test_a_thousand_tokens_are_kept(self):
        self.assertEqual(accounts.KEPT_TOKENS, 1000)
        self.patch(accounts, "KEPT_TOKENS", 3)
        self.ensure_admin()
        first = self.successResultOf(self.login())
        for _ in range(3):
            last = self.successResultOf(self.login())
        self.assertEqual(self.successResultOf(self.store.count_tokens(first.token.account_id)), 3)
        failure = self.failureResultOf(self.refresh(first), Unauthenticated)
        self.assertEqual(failure.value.message, "the token is no longer known: log in again")
        self.successResultOf(self.refresh(last))

    def test_tokens_that_nobody_can_refresh_any_more_are_not_kept(self):
        self.ensure_admin()
        first = self.successResultOf(self.login())
        self.clock.advance(30 * 86400 + 3600)
        self.successResultOf(self.login())
        failure = self.failureResultOf(self.refresh(first), Unauthenticated)
        self.assertEqual(failure.value.message, "the token is too old to be refreshed: log in again")
        self.clock.advance(1)
        last = self.successResultOf(self.login())
        self.assertEqual(self.successResultOf(self.store.count_tokens(last.token.account_id)), 2)

    def test_reprs_show_no_secret(self):
        self.ensure_admin()
        login = self.successResultOf(self.login())
        self.assertNotIn(login.jwt, repr(login))
        self.assertNotIn("scrypt", repr(self.account()))

    def test_open_accounts_keeps_the_signing_key(self):
        async def check():
            opened = [
                await open_accounts(self.store, self.clock.seconds, token_lifetime=60, work=cheap_work())
                for _ in range(2)
            ]
            self.assertEqual(opened[0].public_key, opened[1].public_key)
            await opened[0].ensure_admin("correct horse")
            login = await opened[1].login("1backend", "correct horse", "unnamed", "", "192.0.2.1")
            self.clock.advance(59)
            opened[0].verify(login.jwt)
            self.clock.advance(1)
            self.assertRaises(Unauthenticated, opened[0].verify, login.jwt)

        return Deferred.fromCoroutine(check())
