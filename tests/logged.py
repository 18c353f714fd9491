"""What the access log is told, kept to be looked at."""

from __future__ import annotations

import json
from typing import Any

import attrs

from onebackend_proxy.downstream.entries import Caller
from onebackend_proxy.downstream.logformat import json_line
from onebackend_proxy.exchange import Exchange


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
    exchange: Exchange | None
    reason: str

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
    def route(self) -> str:
        """Where it went."""
        return "" if self.exchange is None else self.exchange.upstream.name

    @property
    def upstream(self) -> str:
        """What answered it."""
        exchange = self.exchange
        return "" if exchange is None or exchange.endpoint is None else exchange.endpoint.address.authority


class Entries(list[Entry]):
    """All that was told, in order."""

    def tell(self, *told: Any) -> None:
        """See `entries.Tell`."""
        self.append(Entry(*told))
