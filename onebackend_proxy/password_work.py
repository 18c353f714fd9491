"""Password hashing in threads, with a bound on how much of it there may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThread

from .errors import Unavailable
from .passwords import DEFAULT_COST, Cost, check_password, decoy, hash_password

T = TypeVar("T")
InThread = Callable[..., Deferred[Any]]


class PasswordWork:
    """Runs `passwords` off the reactor: `at_once` at a time, and at most `waiting` in the queue.

    Each run takes 32 MiB and much of a core: without a bound, logins would be a way to stop the proxy. What
    is cancelled while it waits is never run; what runs keeps its place until it ends, whoever waits for it.
    """

    def __init__(
        self,
        in_thread: InThread = deferToThread,
        cost: Cost = DEFAULT_COST,
        at_once: int = 2,
        waiting: int = 16,
    ) -> None:
        self._in_thread = in_thread
        self._cost = cost
        self._slots = DeferredSemaphore(at_once)
        self._room = at_once + waiting
        # Nobody's password: it stands in where there is no account, so that the time does not tell.
        self._decoy = decoy(cost)

    def hash(self, password: str) -> Deferred[str]:
        """A fresh hash of `password`; `errors.Unavailable` when too much work waits."""
        return self._run(hash_password, password, "scrypt", self._cost)

    def check(self, password: str, encoded: str | None) -> Deferred[bool]:
        """Whether `encoded` is its hash; None takes as long, and is never right."""
        return self._run(check_password, password, self._decoy if encoded is None else encoded)

    def _run(self, work: Callable[..., T], *arguments: Any) -> Deferred[T]:
        if not self._room:
            return defer.fail(Unavailable("too many logins at once: try again"))
        self._room -= 1
        begun = False

        def begin() -> Deferred[T]:
            nonlocal begun
            begun = True
            return self._in_thread(work, *arguments)

        def tell(result: Any) -> None:
            self._room += 1
            if not done.called:
                done.callback(result)

        def cancel(_: Deferred[T]) -> None:
            if not begun:
                queued.cancel()

        done: Deferred[T] = Deferred(cancel)
        queued: Deferred[T] = self._slots.run(begin)
        queued.addBoth(tell)
        return done
