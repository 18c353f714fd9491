"""A line of the access log, as JSON or in the combined format: escaped, bounded, and without secrets."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii

import attrs

from ..balancing import EndpointState
from ..messages import without_secrets
from .entries import Caller

MAX_TEXT = 2048
"""Bytes of anything a client sent that are written; the rest is cut off."""
_KEPT = 1024
_REMEMBERED = 160
"""Bytes of a text that is remembered: the same few come again and again."""

_UNPRINTABLE = re.compile(rb'[^\x20-\x7e]|["\\]')


def _quoted(text: bytes) -> bytes:
    """As JSON has it; a byte outside ASCII stands as ``\\u00NN``."""
    return encode_basestring_ascii(text[:MAX_TEXT].decode("latin-1")).encode("ascii")


def _quoted_text(text: str) -> bytes:
    return encode_basestring_ascii(text).encode("ascii")


def _quoted_target(target: bytes) -> bytes:
    return _quoted(without_secrets(target[:MAX_TEXT]))


_short_target = functools.lru_cache(1024)(_quoted_target)


@functools.lru_cache(16)
def _time(milliseconds: int) -> bytes:
    """RFC 3339, in UTC."""
    seconds, rest = divmod(milliseconds, 1000)
    return b"%b.%03dZ" % (_second(seconds), rest)


@functools.lru_cache(2)
def _second(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode("ascii")


def _tenths(tenths: int) -> bytes:
    """Milliseconds of tenths of them; clocks are put back, too."""
    return b"%.1f" % (max(tenths, 0) / 10)


_SHORT = 2000
_TENTHS = [_tenths(tenth) for tenth in range(_SHORT)]


def _caller_json(caller: Caller) -> bytes:
    written = _CALLER % (
        _quoted(caller.client),
        _quoted(caller.host),
        _quoted(caller.method),
        _quoted(caller.protocol),
        _quoted(caller.tls),
        _quoted(caller.user_agent),
        _quoted(without_secrets(caller.referer[:MAX_TEXT])),
    )
    if len(written) < _KEPT:
        # As long as the connection lasts.
        caller.written = written
    return written


@functools.lru_cache(512)
def _place_json(route: str, endpoint: EndpointState | None) -> bytes:
    upstream = endpoint.address.authority if endpoint is not None else ""
    return b'"route": %b, "upstream": %b' % (_quoted_text(route), _quoted_text(upstream))


def _words_json(cache: str, user: str, reason: str) -> bytes:
    return b'"cache": %b, "user": %b, "reason": %b' % tuple(map(_quoted_text, (cache, user, reason)))


_NO_WORDS = _words_json("", "", "")
_CALLER = b'"client": %b, "host": %b, "method": %b, "protocol": %b, "tls": %b, "userAgent": %b, "referer": %b'
# An id needs no quotes: it is made here, or was checked by the rules for fields.
_JSON = (
    b'{"time": "%b", "id": "%b", %b, "target": %b, %b, "status": %d, "bytesIn": %d, "bytesOut": %d,'
    b' "milliseconds": %b, "upstreamMilliseconds": %b, %b}\n'
)


def json_line(
    caller: Caller,
    now: float,
    began: float,
    id: bytes,
    target: bytes,
    status: int,
    bytes_in: int,
    bytes_out: int,
    reason: str,
    route: str = "",
    endpoint: EndpointState | None = None,
    asked: float = 0.0,
    answered: float = 0.0,
    cache: str = "",
    user: str = "",
) -> bytes:
    """One JSON object, and the end of the line: see `entries.Tell`, and docs/logging.rst."""
    took = int((now - began) * 10_000 + 0.5)
    upstream = b"null"
    if answered:
        waited = int((answered - asked) * 10_000 + 0.5)
        upstream = _TENTHS[waited] if 0 <= waited < _SHORT else _tenths(waited)
    # Thousands of them in a second: what would be a function is here, and what may be remembered is.
    return _JSON % (
        _time(int(now * 1000)),
        id,
        caller.written or _caller_json(caller),
        _short_target(target) if len(target) < _REMEMBERED else _quoted_target(target),
        _place_json(route, endpoint),
        status,
        bytes_in,
        bytes_out,
        _TENTHS[took] if 0 <= took < _SHORT else _tenths(took),
        upstream,
        _words_json(cache, user, reason) if reason or cache or user else _NO_WORDS,
    )


def _bare(text: bytes) -> bytes:
    """As nginx escapes it: what is not printable, a quote or a backslash stands as ``\\xNN``."""
    return _UNPRINTABLE.sub(lambda match: b"\\x%02X" % match[0][0], text[:MAX_TEXT])


def _user_combined(user: str) -> bytes:
    return _bare(user.encode("utf-8", "replace")).replace(b" ", b"\\x20") or b"-"


@functools.lru_cache(2)
def _time_combined(seconds: int) -> bytes:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(seconds)).encode("ascii")


def combined_line(
    caller: Caller,
    now: float,
    began: float,
    id: bytes,
    target: bytes,
    status: int,
    bytes_in: int,
    bytes_out: int,
    reason: str,
    route: str = "",
    endpoint: EndpointState | None = None,
    asked: float = 0.0,
    answered: float = 0.0,
    cache: str = "",
    user: str = "",
) -> bytes:
    """A line of Apache's and nginx's combined format, and its end: see `entries.Tell`."""
    return b'%b - %b [%b] "%b %b %b" %03d %d "%b" "%b"\n' % (
        _bare(caller.client) or b"-",
        _user_combined(user),
        _time_combined(int(now)),
        _bare(caller.method),
        _bare(without_secrets(target[:MAX_TEXT])),
        _bare(caller.protocol),
        status,
        bytes_out,
        _bare(without_secrets(caller.referer[:MAX_TEXT])) or b"-",
        _bare(caller.user_agent) or b"-",
    )


def _json_dropped(now: float, count: int) -> bytes:
    return b'{"time": "%b", "dropped": %d}\n' % (_time(int(now * 1000)), count)


def _combined_dropped(now: float, count: int) -> bytes:
    # What reads the format must be able to read this, too.
    return b'- - - [%b] "- - -" 000 0 "-" "%d lines were dropped"\n' % (_time_combined(int(now)), count)


@attrs.frozen
class Format:
    """How lines look: that of an entry, and one that tells at this time how many lines were dropped."""

    line: Callable[..., bytes]
    dropped: Callable[[float, int], bytes]


FORMATS = {
    "json": Format(json_line, _json_dropped),
    "combined": Format(combined_line, _combined_dropped),
}
