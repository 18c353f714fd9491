"""Cache-Control, that for CDNs, dates and seconds, as services and clients spell them.

All of it comes from strangers. What cannot be read is taken for the answer that nobody may keep.
"""

from __future__ import annotations

import calendar
import functools
import re
from collections.abc import Mapping, Sequence
from email.utils import formatdate

from ..messages import Headers

MAX_SECONDS = 2**31
"""More is as much as this (RFC 9111, 1.2.2)."""
MAX_FIELD = 4096
"""Bytes of all lines of a Cache-Control; nobody needs so many, and what is longer is not read."""
# What is longer is not remembered: strangers write it.
_MAX_REMEMBERED = 128
_MAX_DATE = 40

_SECONDS = frozenset(
    (b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error", b"min-fresh", b"max-stale")
)
_WITH_FIELDS = frozenset((b"no-cache", b"private"))
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_DIRECTIVE = re.compile(
    rb"[ \t]*+(?:(%b)(?:=(?:\"((?:[^\"\\]|\\.)*+)\"|([^\s,\"]*+)))?)?[ \t]*+(?:,|\Z)" % _TOKEN, re.DOTALL
)
# A member of a dictionary of RFC 8941, 3.2: an integer, a boolean, or anything else that has a type.
_MEMBER = re.compile(
    rb"[ \t]*+([a-z*][a-z0-9_.*-]*+)"
    rb"(?:=(?:(-?[0-9]{1,15}+)(?![0-9.])|\?([01])|(\"(?:[^\"\\]|\\[\"\\])*+\"|[A-Za-z*][^\s,;\"()]*+|[0-9.-]++|:[^:]*+:)))?"
    rb"(?:;[ ]*+[a-z*][a-z0-9_.*-]*+(?:=(?:\"(?:[^\"\\]|\\[\"\\])*+\"|[^\s,;\"]*+))?)*+[ \t]*+(,|\Z)"
)
_DATES = (
    # RFC 9110, 5.6.7: as it is sent, and as it was.
    re.compile(rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT"),
    re.compile(rb"[A-Z][a-z]{5,8}, (\d\d)-([A-Z][a-z]{2})-(\d\d) (\d\d):(\d\d):(\d\d) GMT"),
    re.compile(rb"[A-Z][a-z]{2} ([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d) (\d{4})"),
)
_MONTHS = {
    name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}


_NO_FIELDS: frozenset[bytes] = frozenset()


class Directives(dict[bytes, bytes | None]):
    """The directives of one field by name, in lower case; None where there is no argument."""

    def seconds(self, name: bytes) -> int | None:
        """The argument in seconds, 0 where it is none, None where the directive is not there."""
        if name not in self:
            return None
        return delta_seconds(self[name] or b"") or 0

    def fields(self, name: bytes) -> frozenset[bytes]:
        """The field names that the directive is about, in lower case; none means that it is about all."""
        value = self.get(name)
        if not value:
            return _NO_FIELDS
        return frozenset(word for word in (part.strip().lower() for part in value.split(b",")) if word)

    def add(self, name: bytes, value: bytes | None) -> None:
        """One more directive: where it was there before, both are obeyed."""
        if name in self and self[name] != value:
            before = self[name]
            if name in _WITH_FIELDS:
                value = before + b"," + value if before and value else None
            elif name in _SECONDS:
                # RFC 9111, 4.2.1: which of two lifetimes is meant is not to be guessed.
                value = None
        self[name] = value


NOTHING = Directives()
UNREADABLE = Directives({b"no-store": None})


def delta_seconds(text: bytes) -> int | None:
    """Seconds, in decimal digits and nothing else; None for anything else (RFC 9111, 1.2.2)."""
    if not text.isdigit():
        return None
    digits = text.lstrip(b"0")
    return min(int(digits or b"0"), MAX_SECONDS) if len(digits) <= 10 else MAX_SECONDS


def cache_control(value: bytes) -> Directives:
    """The directives of a Cache-Control, its lines joined by commas; `UNREADABLE` where it is broken."""
    if len(value) > _MAX_REMEMBERED:
        return UNREADABLE if len(value) > MAX_FIELD else _read(value)
    return _remembered(value)


def _read(value: bytes) -> Directives:
    directives = Directives()
    at = 0
    while at < len(value):
        found = _DIRECTIVE.match(value, at)
        if found is None:
            return UNREADABLE
        at = found.end()
        name, quoted, plain = found.groups()
        if name is not None:
            directives.add(name.lower(), plain if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted))
    return directives


_remembered = functools.lru_cache(1024)(_read)


def targeted(value: bytes) -> Directives | None:
    """The directives of a CDN-Cache-Control; None where it does not count (RFC 9213, 2.1).

    That is an empty one, and one that is no dictionary of structured fields.
    """
    if len(value) > MAX_FIELD or not value.strip():
        return None
    directives = Directives()
    at = 0
    while True:
        found = _MEMBER.match(value, at)
        if found is None:
            return None
        at = found.end()
        name, integer, boolean, other, comma = found.groups()
        if boolean == b"0":
            directives.pop(name, None)
        elif name in _SECONDS:
            # Of another type it is no number of seconds.
            directives[name] = integer
        else:
            directives[name] = other.strip(b'"') if other else None
        if at >= len(value):
            return None if comma else directives


def http_date(text: bytes) -> int | None:
    """Seconds since the epoch of a date in one of HTTP's three formats; None for anything else."""
    return _date(text) if len(text) < _MAX_DATE else None


@functools.lru_cache(1024)
def _date(text: bytes) -> int | None:
    for number, form in enumerate(_DATES):
        found = form.fullmatch(text)
        if found is None:
            continue
        if number == 2:
            month, day, hour, minute, second, year = found.groups()
        else:
            day, month, year, hour, minute, second = found.groups()
        if len(year) == 2:
            # Not more than 50 years away, for as long as this is read.
            year = (b"20" if year < b"70" else b"19") + year
        return _moment(int(year), month, int(day), int(hour), int(minute), int(second))
    return None


def shown_date(seconds: float) -> bytes:
    """A moment as HTTP has it."""
    return formatdate(seconds, usegmt=True).encode("ascii")


def _moment(year: int, month: bytes, day: int, hour: int, minute: int, second: int) -> int | None:
    number = _MONTHS.get(month)
    if number is None or year < 1900 or hour > 23 or minute > 59 or second > 60:
        return None
    if not 1 <= day <= calendar.monthrange(year, number)[1]:
        return None
    return calendar.timegm((year, number, day, hour, minute, second))


Fields = Mapping[bytes, Sequence[bytes]]
"""The values of all lines of each field, by its name in lower case."""


def by_name(headers: Headers) -> Fields:
    """These fields by their names."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in fields:
            fields[lower].append(value)
        else:
            fields[lower] = [value]
    return fields


def list_of(fields: Fields, name: bytes) -> bytes:
    """All lines of a field that is a list, as one value (RFC 9110, 5.3); b"" if it is not there."""
    values = fields.get(name)
    if values is None:
        return b""
    return values[0] if len(values) == 1 else b", ".join(values)


def only(fields: Fields, name: bytes) -> bytes:
    """The value of a field that has one line; b"" if it is not there, or there twice."""
    values = fields.get(name)
    return values[0] if values is not None and len(values) == 1 else b""


def date_of(fields: Fields, now: float) -> int:
    """When an answer that has come now was made, as it says itself."""
    date = http_date(only(fields, b"date"))
    return int(now) if date is None else date
