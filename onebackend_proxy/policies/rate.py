"""How often somebody may come: GCRA with a burst, in a table whose size no client can change.

Of each client one moment is kept: when, had it come evenly, its next request would be due. A request takes
that moment one interval further, and is refused where it lies further ahead of now than the burst allows.
"""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Callable
from math import ceil, inf

import attrs

from ..headers import OutgoingRequest, ip_of
from ..messages import Headers, field_lines
from ..records import RateLimit

SLOTS = 65536
"""Clients with something owed that a table knows at a time; 16 bytes each."""
LATE = 0.05
"""Seconds that a client who comes all the time may be behind and make up for: a busy proxy reads requests
in batches, and what came evenly is then looked at all at once. Who was away for longer is owed nothing."""

_WAYS = 8
# Sums of fractions are not exact: of a burst of three all three must get in.
_SLACK = 1e-3


class RateTable:
    """What is known of clients: a fixed number of slots (a power of two, 8 at least), in sets of eight.

    A key may be in one set only, which one no stranger can know (see `RateLimiter`). Where a set is full of
    others, the one that is nearest to owing nothing is forgotten: so crowds make limits looser, never
    stricter, and who is at its limit is the last to be forgotten.
    """

    __slots__ = ("_mask", "_tags", "due", "since")

    def __init__(self, slots: int = SLOTS) -> None:
        if slots < _WAYS or slots & (slots - 1):
            raise ValueError(f"{slots} slots are no power of two from {_WAYS} on")
        self._mask = slots - _WAYS
        self._tags = array("q", bytes(8 * slots))
        self.due = array("d", (-inf,)) * slots
        """When the next request of whom a slot is about would be due, in seconds after `since`."""
        self.since: float | None = None
        """The first moment that was told: seconds since 1970 are too coarse where thousands come in each."""

    def __len__(self) -> int:
        return len(self.due)

    def slot(self, key: int) -> int:
        """The slot of this key, a hash of 64 bits; for one that is not known it is made free."""
        at = key & self._mask
        try:
            return self._tags.index(key, at, at + _WAYS)
        except ValueError:
            due = self.due[at : at + _WAYS]
            at += due.index(min(due))
            self._tags[at] = key
            self.due[at] = -inf
            return at


@attrs.define(eq=False)
class Verdict:
    """Whether a request gets in, and what its client may know: how many more could come now (`remaining`),
    the seconds until all it may have at once is there again (`reset`), and, where it was refused, the seconds
    until one would get in (`retry_after`)."""

    admitted: bool
    remaining: int
    reset: float
    retry_after: float
    told: tuple[Headers, bytes]
    """What an answer tells the client about its limit (`RateLimiter.fields`), and as it goes out; not to be
    changed in place."""


class RateLimiter:
    """One limit, and who is near it; limiters that share a table do not meet in it.

    `name` is what its fields call the policy. Keys are hashed together with random bytes of the limiter's
    own: values of fields, which may be secrets, are not kept, and no stranger can fill one set on purpose.
    """

    def __init__(self, table: RateTable, limit: RateLimit, name: str) -> None:
        self.limit = limit
        burst = limit.requests - 1 if limit.burst is None else limit.burst
        self.at_once = burst + 1
        """How many may come at once, when none came before."""
        self._interval = limit.per / limit.requests
        self._tolerance = (burst + _SLACK) * self._interval
        self._key_of = _key_of(limit.by)
        # What is one for all must not be forgotten for others: it has a table for itself.
        self._table = RateTable(_WAYS) if limit.by == "route" else table
        self._salt = os.urandom(16)
        self._named = b'"%b"' % name.encode("ascii", "replace").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        self._constant = self._constant_fields()

    def __repr__(self) -> str:
        limit = self.limit
        return f"<RateLimiter {limit.requests} in {limit.per:g} s by {limit.by}, {self.at_once} at once>"

    def take(self, request: OutgoingRequest, now: float) -> Verdict:
        """Let a request in at this moment (seconds, of whatever clock), or not.

        In t seconds from a client's first request on, at most ``t * requests / per + burst + 1`` get in; in t
        seconds from any later moment on at most `LATE` seconds' worth more.
        """
        table = self._table
        since = table.since
        if since is None:
            since = table.since = now
        now -= since
        slot = table.slot(hash(self._salt + self._key_of(request)))
        interval = self._interval
        tolerance = self._tolerance
        due = table.due[slot]
        if due < now - LATE:
            due = now
        wait = due - now - tolerance
        if wait > 0.0:
            if wait <= interval + LATE:
                return Verdict(False, 0, due - now, wait, _told(self, 0, ceil(due - now)).told)
            # So far ahead nobody can get: the clock was set back.
            due = now
        table.due[slot] = due = due + interval
        ahead = due - now
        if ahead < 0.0:
            return _told(self, self.at_once, 0)
        return _told(self, int((tolerance - ahead) / interval + 1.0), ceil(ahead))

    def _constant_fields(self) -> Headers:
        limit = self.limit
        # A window in structured fields is a whole number of seconds.
        window = b";w=%d" % limit.per if limit.per == int(limit.per) else b""
        return [
            (b"RateLimit-Policy", b"%b;q=%d%b" % (self._named, limit.requests, window)),
            (b"RateLimit-Limit", b"%d" % self.at_once),
        ]

    def fields(self, remaining: int, reset: int) -> Headers:
        """What an answer tells a client about its limit.

        `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10.
        `RateLimit-Limit` (how many at once), `-Remaining` and `-Reset` (whole seconds) are those of -06,
        which most clients read.
        """
        return [
            *self._constant,
            (b"RateLimit-Remaining", b"%d" % remaining),
            (b"RateLimit-Reset", b"%d" % reset),
            (b"RateLimit", b"%b;r=%d;t=%d" % (self._named, remaining, reset)),
        ]


# The same is said again and again, and the moment to the second is all that is told.
@functools.lru_cache(2048)
def _told(limiter: RateLimiter, remaining: int, reset: int) -> Verdict:
    """Of a request that gets in."""
    fields = limiter.fields(remaining, reset)
    return Verdict(True, remaining, reset, 0.0, (fields, field_lines(fields)))


def _key_of(by: str) -> Callable[[OutgoingRequest], bytes]:
    """What tells one client from another; raises `ValueError` for what is no word of `RateLimit.by`."""
    if by == "ip":
        return _by_network
    if by == "route":
        return _by_nothing
    kind, _colon, name = by.partition(":")
    if kind != "header" or not name:
        raise ValueError(f"{by!r} is not ip, route or header:NAME")
    return _by_host if name.lower() == "host" else _by_field(name.lower().encode("ascii"))


def _by_nothing(_request: OutgoingRequest) -> bytes:
    return b""


def _by_network(request: OutgoingRequest) -> bytes:
    ip = request.client_ip
    return network_of(ip) if b":" in ip else ip


def _by_host(request: OutgoingRequest) -> bytes:
    return request.host.lower()


def _by_field(name: bytes) -> Callable[[OutgoingRequest], bytes]:
    size = len(name)

    def key_of(request: OutgoingRequest) -> bytes:
        # No value has a NUL in it.
        return b"\0".join(
            [value for field, value in request.headers if len(field) == size and field.lower() == name]
        )

    return key_of


@functools.lru_cache(1024)
def network_of(ip: bytes) -> bytes:
    """What counts as one client: an IPv4 address, or the /64 that one IPv6 customer has; else `ip` itself."""
    address = ip_of(ip)
    if address is None:
        return ip
    return address.packed[:8] + b"/64" if address.version == 6 else str(address).encode("ascii")
