"""What is counted of every request, always: in plain numbers, so that it costs next to nothing.

There is one set of numbers for each Route and service, and one under ``""`` for what belongs to none: so
nothing that a client may make up makes memory grow. Whoever knows which there are calls `keep`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the durations that are told apart, in seconds; there is one bucket more, for the rest."""

_ZEROES = [0] * (len(BUCKETS) + 1)


class Outcomes:
    """Requests whose status has the same first digit: how many in each bucket, and their seconds together."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = _ZEROES.copy()
        self.seconds = 0.0


class RouteCounts:
    """What came of the requests of one Route or service; bytes are those of bodies.

    `outcomes` is by the first digit of the status, `denied` by the rule of the policy.
    """

    __slots__ = ("bytes_in", "bytes_out", "denied", "outcomes")

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcomes] = {}
        self.bytes_in = 0
        self.bytes_out = 0
        self.denied: dict[str, int] = {}


class RequestCounts:
    """The counts of all requests, by the name of what they were for: a Route's id, or ``/<slug>``."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteCounts] = {}

    def __repr__(self) -> str:
        return f"<RequestCounts of {len(self._routes)} routes>"

    def __len__(self) -> int:
        return len(self._routes)

    def of(self, route: str) -> RouteCounts:
        """The counts of this one, made now if there are none."""
        counts = self._routes.get(route)
        if counts is None:
            counts = self._routes[route] = RouteCounts()
        return counts

    def add(self, route: str, status: int, seconds: float, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Count a request that was answered or given up."""
        # Some hundred nanoseconds for each request: `of` is written out, and nothing made that is there.
        counts = self._routes.get(route)
        if counts is None:
            counts = self.of(route)
        counts.bytes_in += bytes_in
        counts.bytes_out += bytes_out
        outcomes = counts.outcomes.get(status // 100)
        if outcomes is None:
            outcomes = counts.outcomes[status // 100] = Outcomes()
        outcomes.seconds += seconds
        outcomes.buckets[bisect_left(BUCKETS, seconds)] += 1

    def denied(self, route: str, rule: str) -> None:
        """A request was not let in by this rule of the policy, one of a few words."""
        denied = self.of(route).denied
        denied[rule] = denied.get(rule, 0) + 1

    def all(self) -> list[tuple[str, RouteCounts]]:
        """What there is, by name, in a list of its own."""
        return list(self._routes.items())

    def keep(self, there_is: Callable[[str], bool]) -> None:
        """Forget what there is not any more; what is under ``""`` stays."""
        for route in [route for route in self._routes if route and not there_is(route)]:
            del self._routes[route]
