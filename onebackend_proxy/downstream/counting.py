"""Each request is counted when it is over, where the access log is told of it too, and once."""

from __future__ import annotations

from ..exchange import Exchange
from ..metrics import RequestCounts


def count(
    counts: RequestCounts,
    exchange: Exchange | None,
    status: int,
    now: float,
    began: float,
    sent: int = 0,
    received: int = 0,
) -> None:
    """Count a request that is over `now` (in seconds, as when it `began`); 0 is the `status` of no answer.

    Without an exchange it belongs to no Route. `sent` and `received` are the bytes of the bodies of what we
    answered ourselves.
    """
    if exchange is None:
        counts.add("", status, now - began, received, sent)
        return
    name = exchange.upstream.name
    # 499, as nginx has it: the client left before there was an answer.
    counts.add(name, status or 499, now - exchange.started, exchange.bytes_in, exchange.bytes_out or sent)
    if exchange.denied:
        counts.denied(name, exchange.denied)
