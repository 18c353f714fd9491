"""Sizes, times and counts as people write them in settings and policies: ``32KiB``, ``1m30s``, ``16``."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

_SIZES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", 1):
    _SIZES[f"{_letter}b"] = 1000**_power
    _SIZES[f"{_letter}ib"] = 1024**_power
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = re.compile(r"[0-9]{1,18}")
_SIZE = re.compile(r"([0-9]{1,18}) ?(|b|[kmgt]i?b)", re.ASCII | re.IGNORECASE)
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|[smhd])")
_PLAIN_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
MAX_SIZE = 2**63 - 1
"""Bytes; more fits no file and no Content-Length that anybody sends."""
MAX_SECONDS = 20 * 86400.0
"""What epoll can wait for is 24 days."""


def parse_count(text: str) -> int:
    """How many, in decimal digits; raises `ValueError`."""
    if not _NUMBER.fullmatch(text):
        raise _not_a(text, "whole number such as 16")
    return int(text)


def parse_size(text: str) -> int:
    """Bytes of a text such as ``32KiB`` (1024s), ``10MB`` (1000s) or ``65536``; raises `ValueError`."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise _not_a(text, "size such as 32KiB, 10MB or 65536")
    size = int(found[1]) * _SIZES[found[2].lower()]
    if size > MAX_SIZE:
        raise ValueError(f"{text!r} is too much")
    return size


def parse_seconds(text: str) -> float:
    """Seconds of a text such as ``250ms``, ``1m30s``, ``2h`` or ``60``; raises `ValueError`."""
    if _PLAIN_SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        parts = _PART.findall(text)
        units = [unit for _, unit in parts]
        # Each unit once, the largest first: 30s1m is a slip.
        if not parts or "".join(map("".join, parts)) != text or units != [u for u in _SECONDS if u in units]:
            raise _not_a(text, "time such as 5s, 250ms, 1m30s or 2h")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > MAX_SECONDS:
        raise ValueError(f"{text!r} is too long: at most {MAX_SECONDS / 86400:.0f}d")
    return seconds


def _not_a(text: str, wanted: str) -> ValueError:
    return ValueError(
        f"{text!r} is negative" if re.fullmatch(r"-[0-9].*", text) else f"{text!r} is not a {wanted}"
    )


def shown_size(size: int) -> str:
    """The shortest text that `parse_size` makes this many bytes of."""
    units = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
    return _shortest(size, units)


def shown_seconds(seconds: float) -> str:
    """The shortest text of one unit that `parse_seconds` makes this many seconds of, to the millisecond."""
    return _shortest(round(seconds * 1000), {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000})


def shown_moment(when: datetime.datetime) -> str:
    """A moment as people read it, in UTC."""
    return f"{when.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _shortest(number: int, units: Mapping[str, int]) -> str:
    fitting = [f"{number // worth}{unit}" for unit, worth in units.items() if number and number % worth == 0]
    # Of those that are as short, the largest unit: 1MiB, not 1024KiB, and 1s, not 1000ms.
    return min(reversed(fitting), key=len, default=str(number))
