"""HTTP Basic authentication: who is remembered comes in at once, and hashes are computed off the reactor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..messages import Headers
from ..password_work import PasswordWork
from ..passwords import decoy_like
from ..policies.access import authorization, read_basic
from ..records import BasicUser

MAX_REMEMBERED = 1024
"""Credentials that need not be checked again; of more, those that were remembered first are checked anew."""

# What we remember of credentials tells nothing about them, and how long a look-up takes does not either.
_KEY = os.urandom(32)


class BasicAuth:
    """The `users` of one policy, and who of them has come in already.

    It is made anew with each change of a policy, and forgets with that who may not come in any more.
    """

    def __init__(self, users: Sequence[BasicUser], work: PasswordWork) -> None:
        self._hashes = {each.user: each.password_hash for each in users}
        self._all = tuple(self._hashes.values())
        self._work = work
        self._known: dict[bytes, str] = {}
        # The same credentials are checked once at a time, whoever waits for it, and as long as somebody does.
        self._waiting: dict[bytes, list[Deferred[str | None]]] = {}
        self._checks: dict[bytes, Deferred[bool]] = {}

    def __repr__(self) -> str:
        known, waiting = len(self._known), len(self._waiting)
        return f"<BasicAuth of {len(self._all)} users, {known} remembered, {waiting} being checked>"

    def check(self, headers: Headers) -> str | Deferred[str | None] | None:
        """The user whose credentials a request shows, None for nobody; or one of them later.

        The Deferred may be cancelled. It fails with `errors.Unavailable` when too many wait. Wrong ones are
        not remembered: each guess costs its hash, and an unknown user's as much as another's.
        """
        value = authorization(headers)
        if value is None:
            return None
        key = blake2b(value, key=_KEY).digest()
        known = self._known.get(key)
        if known is not None:
            return known
        credentials = read_basic(value)
        if credentials is None or not self._all:
            return None
        mine: Deferred[str | None] = Deferred(partial(self._leave, key))
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(mine)
            return mine
        self._waiting[key] = [mine]
        check = self._checks[key] = self._begin(*credentials)
        check.addCallbacks(partial(self._checked, key, credentials[0]), partial(self._failed, key))
        return mine

    def known(self, headers: Headers) -> str | None:
        """As `check`, where nothing has to be computed: None for all who have not come in before."""
        value = authorization(headers)
        return None if value is None else self._known.get(blake2b(value, key=_KEY).digest())

    def _begin(self, user: str, password: str) -> Deferred[bool]:
        encoded = self._hashes.get(user)
        if encoded is None:
            # The same one each time: users may have hashes of different cost.
            encoded = decoy_like(self._all[_number(user) % len(self._all)])
        return self._work.check(password, encoded)

    def _leave(self, key: bytes, mine: Deferred[str | None]) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.remove(mine)
            if not waiting:
                # It may not have begun, and others wait for their turn.
                self._checks[key].cancel()

    def _checked(self, key: bytes, user: str, fits: bool) -> None:
        who = user if fits and user in self._hashes else None
        if who is not None:
            if len(self._known) >= MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = who
        for each in self._over(key):
            if not each.called:
                each.callback(who)

    def _failed(self, key: bytes, failure: Failure) -> None:
        for each in self._over(key):
            if not each.called:
                each.errback(failure)

    def _over(self, key: bytes) -> list[Deferred[str | None]]:
        """Those who have waited for it."""
        del self._checks[key]
        return self._waiting.pop(key)


def _number(user: str) -> int:
    digest = blake2b(user.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=8).digest()
    return int.from_bytes(digest, "big")
