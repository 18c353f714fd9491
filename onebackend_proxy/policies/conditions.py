"""What is compared of two answers: what a client, or a service, has already (RFC 9110, 13; RFC 9111, 4.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from ..messages import Headers
from .cache_control import Fields, date_of, http_date, only
from .cache_requests import Asked

_ETAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"')


def opaque(etag: bytes) -> bytes:
    """What is compared weakly: the same without its ``W/``."""
    return etag[2:] if etag.startswith(b"W/") else etag


def matches(wanted: bytes, etag: bytes) -> bool:
    """Whether an If-None-Match names this entity tag, by weak comparison; b"" is none."""
    if wanted.strip() == b"*":
        return True
    if not etag:
        return False
    plain = opaque(etag)
    # Those that have no quotes are compared as they are: some services make such.
    return wanted == etag or any(opaque(one) == plain for one in _ETAG.findall(wanted))


def not_modified(if_none_match: bytes, if_modified_since: bytes, etag: bytes, modified: int) -> bool:
    """Whether 304 is the answer; b"" is a field that was not sent.

    `modified` is Last-Modified or, failing that, when the answer was made. The first of the two fields
    decides alone where it is there (RFC 9110, 13.2.2).
    """
    if if_none_match:
        return matches(if_none_match, etag)
    since = http_date(if_modified_since) if if_modified_since else None
    return since is not None and modified <= since


def range_holds(if_range: bytes, etag: bytes, last_modified: bytes, strong_date: bool) -> bool:
    """Whether an If-Range (b"" is none) lets a range be sent: it names just what there is (RFC 9110, 13.1.5).

    `strong_date` says that the date of Last-Modified cannot stand for two versions.
    """
    if not if_range:
        return True
    if if_range.startswith((b'"', b"W/")):
        return if_range == etag and not etag.startswith(b"W/")
    return strong_date and if_range == last_modified


# What a 304 says of these is about the body that it does not have (RFC 9111, 3.2).
_NOT_UPDATED = frozenset(
    (
        b"content-length",
        b"content-encoding",
        b"content-range",
        b"content-md5",
        b"content-digest",
        b"digest",
        b"etag",
    )
)
# What a 304 carries (RFC 9110, 15.4.5), and whatever is no description of a body.
_BODY_FIELDS = frozenset(
    b"content-length content-type content-encoding content-language content-range content-md5 content-digest"
    b" digest accept-ranges".split()
)


def kept_fields(headers: Iterable[tuple[bytes, bytes]], left_out: frozenset[bytes]) -> Headers:
    """The fields of an answer that are kept; what frames its body is told by its size."""
    return [
        field
        for field in headers
        if (lower := field[0].lower()) not in left_out and lower != b"content-length"
    ]


def updated(headers: Headers, by: Headers) -> Headers:
    """The fields of a kept answer after a 304 with these (RFC 9111, 3.2)."""
    new = [field for field in by if field[0].lower() not in _NOT_UPDATED]
    names = {name.lower() for name, _value in new}
    return [field for field in headers if field[0].lower() not in names] + new


def without_body(headers: Headers) -> Headers:
    """The fields that a 304 has of the answer that it stands for."""
    return [field for field in headers if field[0].lower() not in _BODY_FIELDS]


@attrs.frozen(eq=False)
class Validators:
    """By what a kept answer is compared with what a client, or its service, has; b"" is none.

    `modified` is when it was last changed or else made, and `strong` says that its Last-Modified is not so
    close to its making that it may have changed since.
    """

    etag: bytes
    last_modified: bytes
    modified: int
    strong: bool

    @classmethod
    def of(cls, fields: Fields, now: float) -> Validators:
        """Those of an answer with these fields, that came now."""
        etag, last_modified = only(fields, b"etag"), only(fields, b"last-modified")
        date = date_of(fields, now)
        modified = http_date(last_modified) if last_modified else None
        if modified is None:
            return cls(etag, b"", date, False)
        return cls(etag, last_modified, modified, date - modified >= 60)

    @property
    def can_ask(self) -> bool:
        """Whether a service can be asked if it is still so."""
        return bool(self.etag or self.last_modified)

    def conditions(self) -> Headers:
        """The fields with which a service is asked if it is still so; none where it cannot be asked."""
        fields = [(b"If-None-Match", self.etag)] if self.etag else []
        if self.last_modified:
            fields.append((b"If-Modified-Since", self.last_modified))
        return fields

    def known_to(self, asked: Asked) -> bool:
        """Whether the client has this answer already: 304."""
        return not_modified(asked.if_none_match, asked.if_modified_since, self.etag, self.modified)

    def range_holds(self, asked: Asked) -> bool:
        """Whether the piece of it that is asked for may be sent alone."""
        return range_holds(asked.if_range, self.etag, self.last_modified, self.strong)
