"""How many upstream connections there may be, which are kept, who waits: it decides, the caller acts."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from ..balancing import EndpointState
from ..limits import DEFAULTS, Limits

T = TypeVar("T")
W = TypeVar("W")


class Pool(Generic[T, W]):
    """Idle connections by endpoint, the most recently used first; places for more; and who waits for one.

    A connection has one of the endpoint's places from the attempt to open it until it is closed, idle or in
    use. Time is counted in rounds: whoever owns the pool calls `expire` once a round, and gets what was not
    used for a whole round. So keeping a connection costs no look at the clock.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._limits = limits
        self._round = 0
        self._idle: dict[EndpointState, deque[tuple[int, T]]] = {}
        self._places: dict[EndpointState, int] = {}
        self.waiting: dict[EndpointState, deque[W]] = {}
        """Those that wait for a connection, the longest first; no endpoint without any."""

    def __repr__(self) -> str:
        idle = {endpoint.address.authority: len(queue) for endpoint, queue in self._idle.items()}
        places = {endpoint.address.authority: count for endpoint, count in self._places.items()}
        waiting = {endpoint.address.authority: len(queue) for endpoint, queue in self.waiting.items()}
        return f"<Pool round {self._round}: idle {idle}, places {places}, waiting {waiting}>"

    def __len__(self) -> int:
        """Idle connections."""
        return sum(map(len, self._idle.values()))

    # Idle connections.

    def take(self, endpoint: EndpointState) -> T | None:
        """An idle connection, now the caller's; None if there is none."""
        queue = self._idle.get(endpoint)
        return queue.pop()[1] if queue else None

    def give(self, endpoint: EndpointState, connection: T) -> bool:
        """Keep a connection that can carry another request; false if there are enough: then close it."""
        queue = self._idle.get(endpoint)
        if queue is None:
            queue = self._idle[endpoint] = deque()
        if len(queue) >= self._limits.upstream_keepalive:
            return False
        queue.append((self._round, connection))
        return True

    def forget(self, endpoint: EndpointState, connection: T) -> None:
        """A connection closed: it is not idle any more, if it was."""
        queue = self._idle.get(endpoint)
        if queue:
            for place, (_round, idle) in enumerate(queue):
                if idle is connection:
                    del queue[place]
                    return

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
        """Give up all that are idle, for the caller to close."""
        old = [connection for queue in self._idle.values() for _round, connection in queue]
        self._idle.clear()
        return old

    # Places, and who waits for one.

    def reserve(self, endpoint: EndpointState) -> bool:
        """Take a place for a connection that is to be opened; false if there is none."""
        count = self._places.get(endpoint, 0)
        if count >= self._limits.upstream_connections:
            return False
        self._places[endpoint] = count + 1
        return True

    def free(self, endpoint: EndpointState) -> W | None:
        """A connection closed, or was not opened: its place goes to the first that waits, who is returned."""
        waiter = self.next_waiting(endpoint)
        if waiter is None:
            self._places[endpoint] -= 1
            if not self._places[endpoint]:
                del self._places[endpoint]
        return waiter

    def wait(self, endpoint: EndpointState, waiter: W) -> bool:
        """Stand in the queue for a connection; false if it is too long."""
        queue = self.waiting.get(endpoint)
        if (len(queue) if queue else 0) >= self._limits.upstream_queue:
            return False
        if queue is None:
            queue = self.waiting[endpoint] = deque()
        queue.append(waiter)
        return True

    def next_waiting(self, endpoint: EndpointState) -> W | None:
        """The one that has waited for longest, now out of the queue; None if nobody waits."""
        queue = self.waiting.get(endpoint)
        if queue is None:
            return None
        waiter = queue.popleft()
        if not queue:
            del self.waiting[endpoint]
        return waiter

    def leave(self, endpoint: EndpointState, waiter: W) -> None:
        """Wait no more."""
        queue = self.waiting[endpoint]
        queue.remove(waiter)
        if not queue:
            del self.waiting[endpoint]
