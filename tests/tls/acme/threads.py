"""A clock with threads: what would block is done at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

T = TypeVar("T")


class Threadless(Clock):
    """A reactor whose threads are done before they begin."""

    def getThreadPool(self) -> Threadless:
        return self

    def callInThreadWithCallback(
        self, done: Callable[[bool, object], None], work: Callable[..., object], *arguments: Any, **named: Any
    ) -> None:
        try:
            result = work(*arguments, **named)
        except Exception:
            done(False, Failure())
        else:
            done(True, result)

    def callFromThread(self, call: Callable[..., object], *arguments: Any) -> None:
        call(*arguments)


def result_of(deferred: Deferred[T]) -> T:
    """Its result, or its error raised; it must have one."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "it has no result yet"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]
