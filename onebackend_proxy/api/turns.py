"""One at a time, for each key."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock

from ..errors import Unavailable

T = TypeVar("T")

MAX_WAITING = 16


class Turns:
    """Work on one key is done in turn; different keys do not wait for each other."""

    def __init__(self, waiting: int = MAX_WAITING) -> None:
        self._waiting = waiting
        self._locks: dict[str, DeferredLock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    async def run(self, key: str, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Do `work` when all earlier work on `key` is done; `errors.Unavailable` if too much waits."""
        lock = self._locks.setdefault(key, DeferredLock())
        if len(lock.waiting) >= self._waiting:
            raise Unavailable("too many calls about the same thing at once: try again")
        await lock.acquire()
        try:
            return await work()
        finally:
            lock.release()
            # The next in turn has it by now, if there is one.
            if not lock.locked and self._locks.get(key) is lock:
                del self._locks[key]
