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
        # The same credentials are checked once at a time, whoever waits for it.
        self._waiting: dict[bytes, list[Deferred[str | None]]] = {}

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
        mine: Deferred[str | None] = Deferred()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(mine)
            return mine
        self._waiting[key] = [mine]
        self._compute(key, *credentials)
        return mine

    def _compute(self, key: bytes, user: str, password: str) -> None:
        encoded = self._hashes.get(user)
        exists = encoded is not None
        if encoded is None:
            # The same one each time: users may have hashes of different cost.
            encoded = decoy_like(self._all[_number(user) % len(self._all)])
        done = self._work.check(password, encoded)
        done.addCallbacks(partial(self._checked, key, user if exists else None), partial(self._failed, key))

    def _checked(self, key: bytes, user: str | None, fits: bool) -> None:
        who = user if fits else None
        if who is not None:
            if len(self._known) >= MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = who
        for each in self._waiting.pop(key):
            if not each.called:
                each.callback(who)

    def _failed(self, key: bytes, failure: Failure) -> None:
        for each in self._waiting.pop(key):
            if not each.called:
                each.errback(failure)


def _number(user: str) -> int:
    digest = blake2b(user.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=8).digest()
    return int.from_bytes(digest, "big")
