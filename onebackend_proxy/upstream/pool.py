"""Which upstream connections are kept for the next request. The pool decides; the caller acts."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from ..balancing import EndpointState

T = TypeVar("T")

MAX_IDLE = 64
"""Idle connections kept for one endpoint."""


class Pool(Generic[T]):
    """Idle connections by endpoint, the most recently used first.

    Time is counted in rounds: whoever owns the pool calls `expire` once a round, and gets what was not
    used for a whole round. So keeping a connection costs no look at the clock.
    """

    def __init__(self, max_idle: int = MAX_IDLE) -> None:
        self._max_idle = max_idle
        self._round = 0
        self._idle: dict[EndpointState, deque[tuple[int, T]]] = {}

    def __repr__(self) -> str:
        return f"<Pool round {self._round}: { {e.address.authority: len(q) for e, q in self._idle.items()} }>"

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, endpoint: EndpointState) -> T | None:
        """An idle connection, now the caller's; None if there is none."""
        queue = self._idle.get(endpoint)
        return queue.pop()[1] if queue else None

    def give(self, endpoint: EndpointState, connection: T) -> bool:
        """Keep a connection that can carry another request; false if there are enough: then close it."""
        queue = self._idle.get(endpoint)
        if queue is None:
            queue = self._idle[endpoint] = deque()
        if len(queue) >= self._max_idle:
            return False
        queue.append((self._round, connection))
        return True

    def forget(self, endpoint: EndpointState, connection: T) -> None:
        """An idle connection closed itself."""
        queue = self._idle.get(endpoint)
        if queue:
            self._idle[endpoint] = deque(entry for entry in queue if entry[1] is not connection)

    def expire(self) -> list[T]:
        """Start the next round; returns those not used in the one that ended, for the caller to close."""
        old: list[T] = []
        for endpoint, queue in list(self._idle.items()):
            while queue and queue[0][0] < self._round:
                old.append(queue.popleft()[1])
            if not queue:
                del self._idle[endpoint]
        self._round += 1
        return old

    def clear(self) -> list[T]:
        """Give up all of them, for the caller to close."""
        old = [connection for queue in self._idle.values() for _round, connection in queue]
        self._idle.clear()
        return old
