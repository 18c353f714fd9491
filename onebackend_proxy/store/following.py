"""Who is told what the store publishes, and when it looks for what other processes changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..interfaces import Published

INTERVAL = 0.5
"""Seconds between two looks: a change by another process is to be seen within one."""


class Followers:
    """All that follow one store; lives in the reactor's thread.

    `look` makes the store look at what there is, and tell if that is new. It is called every `INTERVAL`
    seconds while somebody follows, and never again before it is done, however long that takes.
    """

    def __init__(self, reactor: Any, look: Callable[[], Deferred[Any]]) -> None:
        self._look = look
        self._log = Logger()
        self._listeners: list[Callable[[Published], None]] = []
        self._stopped = False
        self._failing = False
        self._polling = LoopingCall(self._poll)
        self._polling.clock = reactor

    def __repr__(self) -> str:
        return f"<Followers: {len(self._listeners)}>"

    def add(self, listener: Callable[[Published], None], published: Published) -> None:
        """Tell it what there is, and from now on what comes; an error of the first time is the caller's."""
        listener(published)
        if not self._stopped:
            self._listeners.append(listener)
            if not self._polling.running:
                self._polling.start(INTERVAL, now=False)

    def tell(self, published: Published) -> None:
        """Tell all; one that fails is logged, and told the next time again."""
        for listener in list(self._listeners):
            try:
                listener(published)
            except Exception:
                self._log.failure("something that follows the store failed")

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._polling.running:
            self._polling.stop()

    def _poll(self) -> Deferred[None]:
        return self._look().addCallbacks(self._looked, self._failed)

    def _looked(self, _: object) -> None:
        if self._failing:
            self._failing = False
            self._log.info("the store can be read again")

    def _failed(self, failure: Failure) -> None:
        # Twice a second the same would be the whole log.
        if not self._failing:
            self._failing = True
            self._log.failure("the store cannot be read: what was read before stays in use", failure)
