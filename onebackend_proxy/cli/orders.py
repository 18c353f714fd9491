"""Waiting for certificates that were ordered: what has become of each name, as the API's listings tell it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from onebackend_proxy.cli.shell import items_of, text_of

POLL_SECONDS = 1.0
"""Between two looks."""


@attrs.frozen
class Outcome:
    """What became of the order for `name`: `item` is its new certificate, or its failure, as listed."""

    name: str
    good: bool
    item: Mapping[str, Any]


def _marks(listing: Any) -> dict[tuple[str, bool], tuple[str, dict[str, Any]]]:
    """By name, and whether it is good: what is another one after an order, and the item itself."""
    certificates = {
        (text_of(item, "id"), True): (text_of(item, "serialNumber"), item)
        for item in items_of(listing, "certs")
    }
    failures = {
        (text_of(item, "name"), False): (f"{text_of(item, 'failures')} {text_of(item, 'triedAt')}", item)
        for item in items_of(listing, "failing")
    }
    return {**certificates, **failures}


def outcomes(names: Sequence[str], before: Any, after: Any) -> list[Outcome]:
    """What is new of these names in the listing `after`, against the one `before`; a success counts more."""
    old, new = _marks(before), _marks(after)
    found: list[Outcome] = []
    for name in names:
        for good in (True, False):
            mark, item = new.get((name, good), ("", {}))
            if mark and mark != old.get((name, good), ("", {}))[0]:
                found.append(Outcome(name, good, item))
                break
    return found


def wait(
    names: Sequence[str],
    before: Any,
    look: Callable[[list[str]], Any],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Outcome]:
    """The outcome of each name as it comes; ends after `seconds`, whatever is missing then.

    `look` lists the names given to it.
    """
    waiting = list(names)
    late = clock() + seconds
    while waiting:
        for outcome in outcomes(waiting, before, look(waiting)):
            waiting.remove(outcome.name)
            yield outcome
        left = late - clock()
        if left <= 0:
            return
        if waiting:
            sleep(min(POLL_SECONDS, left))
