"""What the access log is told, kept to be looked at."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import attrs

from onebackend_proxy.balancing import EndpointState
from onebackend_proxy.downstream.entries import Caller
from onebackend_proxy.downstream.logformat import json_line
from onebackend_proxy.metrics import RequestCounts


@attrs.frozen
class Entry:
    """What is told of a request, by the names of `entries.Tell`; and the parts of it that tests ask for."""

    caller: Caller
    now: float
    began: float
    id: bytes
    target: bytes
    status: int
    bytes_in: int
    bytes_out: int
    reason: str
    route: str = ""
    endpoint: EndpointState | None = None
    asked: float = 0.0
    answered: float = 0.0
    cache: str = ""
    user: str = ""

    def __getattr__(self, name: str) -> Any:
        # Who asks is told apart from what is asked.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.caller, name)

    @property
    def line(self) -> dict[str, Any]:
        """What the log has of it, as JSON."""
        told = [getattr(self, field.name) for field in attrs.fields(Entry)]
        return dict(json.loads(json_line(*told)))

    @property
    def upstream(self) -> str:
        """What answered it."""
        return "" if self.endpoint is None else self.endpoint.address.authority


class Entries(list[Entry]):
    """All that was told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Counter[tuple[str, int]] = Counter()
        """How often each Route, and first digit of a status, was told of."""
        self.totals: dict[str, tuple[int, int, float]] = {}
        """Of each Route: bytes both ways, and seconds."""

    def tell(self, *told: Any) -> None:
        """See `entries.Tell`."""
        entry = Entry(*told)
        self.append(entry)
        self.outcomes[entry.route, entry.status // 100] += 1
        bytes_in, bytes_out, seconds = self.totals.get(entry.route, (0, 0, 0.0))
        self.totals[entry.route] = (
            bytes_in + entry.bytes_in,
            bytes_out + entry.bytes_out,
            seconds + entry.now - entry.began,
        )

    def assert_counted(self, counts: RequestCounts) -> None:
        """What was told is what was counted."""
        counted = {
            (route, digit): sum(outcomes.buckets)
            for route, of_route in counts.all()
            for digit, outcomes in of_route.outcomes.items()
        }
        assert counted == self.outcomes
        totals = {
            route: (each.bytes_in, each.bytes_out, sum(o.seconds for o in each.outcomes.values()))
            for route, each in counts.all()
        }
        assert totals == self.totals
