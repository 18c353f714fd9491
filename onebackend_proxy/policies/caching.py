"""What a shared cache may keep, for whom, and for how long (RFC 9111).

Whoever is asked here knows the time; all times are in seconds since the epoch.
"""

from __future__ import annotations

import attrs

from ..messages import ResponseHead
from .cache_control import (
    NOTHING,
    UNREADABLE,
    Directives,
    Fields,
    by_name,
    cache_control,
    date_of,
    delta_seconds,
    http_date,
    list_of,
    only,
    targeted,
)
from .cache_requests import Asked
from .conditions import Validators

MAX_VARY = 16
"""Request fields that an answer may depend on; one that depends on more is not kept."""
GUESS = 10
"""An answer without a lifetime is fresh for one part in so many of its age (RFC 9111, 4.2.2)."""
MAX_LEFT_OUT = 16
"""Fields that an answer's own directives may leave out of what is kept; likewise."""
MAX_GUESS = 86400
"""Seconds that are guessed at most."""

# RFC 9110, 15.1; without those that say how one client asked, and not what there is.
_GUESSED = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414))
# Answers to one client's request as it was, its fields or its pace: kept, anybody could shut others out.
_NEVER = frozenset(
    (206, 304, 400, 401, 407, 408, 411, 412, 413, 415, 416, 417, 421, 425, 426, 428, 429, 431, 501, 505, 511)
)
# Likewise, but where the service says so they are kept.
_OF_REQUEST = _NEVER | {403, 406}
_UNDERSTOOD = frozenset((200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 500, 502, 503, 504))
ERRORS = frozenset((500, 502, 503, 504))
"""Statuses in the place of which a stale answer may be given (RFC 5861, 4)."""
# In the key of every answer already (Host, and what is said of it), or the same for all.
_KEYED = frozenset((b"host", b"x-forwarded-host", b"x-forwarded-proto"))
# Different for each client, and written by this proxy: who depends on these answers one client only.
_OURS = frozenset((b"*", b"x-forwarded-for", b"x-real-ip", b"x-request-id", b"via", b"connection", b"te"))
NEVER_KEPT = frozenset(
    (
        b"age",
        b"authentication-info",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"set-cookie",
        b"set-cookie2",
    )
)
"""Fields that are no part of what is kept: of the hop (RFC 9111, 3.1), and of the client that it was for."""


@attrs.frozen(eq=False)
class Terms:
    """On which terms an answer is kept: what becomes of it, and when.

    `born` is when it was made, as far as is known (RFC 9111, 4.2.3); it is fresh for `lifetime` seconds after
    that, and may be given for so many more while it is asked for anew (`while_asking`), and where that fails
    (`if_error`). `always_ask` says that it may never be given unasked, and `for_all` that requests which show
    whose they are may have it. `vary` are the request fields that it depends on, `left_out` its own fields
    that are not kept.
    """

    born: float
    lifetime: int
    while_asking: int
    if_error: int
    always_ask: bool
    for_all: bool
    vary: tuple[bytes, ...]
    left_out: frozenset[bytes]
    validators: Validators

    def age(self, now: float) -> int:
        """Its age in whole seconds."""
        return max(0, int(now - self.born))

    def is_fresh(self, now: float) -> bool:
        """Whether it may be given without asking."""
        return now - self.born < self.lifetime and not self.always_ask

    def while_asking_at(self, now: float) -> bool:
        """Whether it may be given while somebody asks (RFC 5861, 3)."""
        return now - self.born < self.lifetime + self.while_asking and self.while_asking > 0

    def if_error_at(self, now: float) -> bool:
        """Whether it may be given because of an error (RFC 5861, 4)."""
        return now - self.born < self.lifetime + self.if_error and self.if_error > 0

    def are_of_use(self, now: float) -> bool:
        """Whether it can be given to anybody, or asked about, from now on."""
        if self.validators.can_ask or self.is_fresh(now):
            return True
        return self.while_asking_at(now) or self.if_error_at(now)


def _said(fields: Fields) -> tuple[Directives, bool]:
    """The directives that count for us, and whether they are for caches such as this one alone."""
    if b"cdn-cache-control" in fields:
        ours = targeted(list_of(fields, b"cdn-cache-control"))
        if ours is not None:
            return ours, True
    if b"cache-control" in fields:
        return cache_control(list_of(fields, b"cache-control")), False
    # From before HTTP/1.1, and still sent.
    return (UNREADABLE if b"no-cache" in list_of(fields, b"pragma").lower() else NOTHING), False


def terms_of(
    asked: Asked, head: ResponseHead, sent: float, now: float, authenticated: bool = False
) -> Terms | None:
    """The terms on which this answer to a GET that said this may be kept; None if it may not.

    It was asked for at `sent`, and its head came at `now`. `authenticated` says that the request had to prove
    whose it is, whatever of that the service sees: `must-revalidate`, which lets answers to an Authorization
    be kept (RFC 9111, 3.5), says nothing of that, and so is not enough for either.
    """
    fields = by_name(head.headers)
    said, only_us = _said(fields)
    if not _may_be_kept(asked, head.status, said):
        return None
    for_all = b"public" in said or b"s-maxage" in said
    identified = asked.identified or authenticated
    if (identified or b"set-cookie" in fields) and not for_all:
        return None
    vary = _vary(fields)
    date = date_of(fields, now)
    lifetime = _lifetime(head.status, fields, said, only_us, date, not identified)
    unasked = said.fields(b"no-cache")
    left_out = unasked | said.fields(b"private")
    if vary is None or lifetime is None or len(left_out) > MAX_LEFT_OUT:
        return None
    always_ask = b"no-cache" in said and not unasked
    never_stale = always_ask or b"must-revalidate" in said or b"proxy-revalidate" in said
    return Terms(
        born=now - _initial_age(fields, date, sent, now, lifetime),
        lifetime=lifetime,
        while_asking=0 if never_stale else said.seconds(b"stale-while-revalidate") or 0,
        if_error=0 if never_stale else said.seconds(b"stale-if-error") or 0,
        always_ask=always_ask,
        for_all=for_all,
        vary=vary,
        left_out=NEVER_KEPT | left_out if left_out else NEVER_KEPT,
        validators=Validators.of(fields, now),
    )


def says_what_there_is(status: int) -> bool:
    """Whether an answer with this status is about its target, and not about one client's request for it."""
    return status < 500 and status not in _OF_REQUEST


def _may_be_kept(asked: Asked, status: int, said: Directives) -> bool:
    if asked.no_store or asked.past or status in _NEVER or status < 200:
        return False
    if status != 200 and not asked.plain:
        # It may be about the piece, or the condition.
        return False
    if b"must-understand" in said:
        # RFC 9111, 5.2.2.3: who understands it overlooks the no-store.
        if status not in _UNDERSTOOD:
            return False
    elif b"no-store" in said:
        return False
    return b"private" not in said or bool(said.fields(b"private"))


def _vary(fields: Fields) -> tuple[bytes, ...] | None:
    """The request fields that the answer depends on, in lower case; None if nobody else can have it."""
    names: set[bytes] = set()
    if b"vary" in fields:
        names = {word.strip() for word in list_of(fields, b"vary").lower().split(b",")} - {b""} - _KEYED
    # What a service may forget to say, and what clients could be served wrongly by.
    if b"content-encoding" in fields:
        names.add(b"accept-encoding")
    if list_of(fields, b"access-control-allow-origin") not in (b"", b"*"):
        names.add(b"origin")
    if not names:
        return ()
    if len(names) > MAX_VARY or names & _OURS:
        return None
    return tuple(sorted(names))


def _lifetime(
    status: int, fields: Fields, said: Directives, only_us: bool, date: int, may_guess: bool
) -> int | None:
    """For how long it is fresh (RFC 9111, 4.2.1); None where nothing says that it may be kept at all."""
    for name in (b"s-maxage", b"max-age"):
        seconds = said.seconds(name)
        if seconds is not None:
            return seconds
    if b"expires" in fields and not only_us:
        until = http_date(only(fields, b"expires"))
        return max(0, until - date) if until is not None else 0
    public = b"public" in said
    guessed = _guess(fields, date) if may_guess and (public or status in _GUESSED) else 0
    if guessed:
        return guessed
    # It may be kept, to be asked about each time.
    return 0 if public or b"no-cache" in said else None


def _guess(fields: Fields, date: int) -> int:
    """The lifetime of an answer that has none: by when it was last changed, and never for pages."""
    modified = http_date(only(fields, b"last-modified"))
    if modified is None or b"html" in list_of(fields, b"content-type").lower():
        return 0
    return min(MAX_GUESS, max(0, date - modified) // GUESS)


def _initial_age(fields: Fields, date: int, sent: float, now: float, lifetime: int) -> float:
    """How old it is when it comes (RFC 9111, 4.2.3)."""
    said = delta_seconds(only(fields, b"age")) if b"age" in fields else 0
    if said is None:
        # Who says it in a way that cannot be read says that it has an age: it is taken for stale.
        return float(lifetime)
    return max(0.0, now - date, said + max(0.0, now - sent))
