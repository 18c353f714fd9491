"""What a request says about caching, and by which of its fields answers are told apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from ..balancing import COOKIE
from ..messages import Headers
from .cache_control import NOTHING, cache_control

SAFE = frozenset(b"GET HEAD OPTIONS TRACE PROPFIND REPORT SEARCH QUERY".split())
"""Methods that change nothing; any other one makes what is kept of its target invalid."""

# Of lists that mean the same in any case and spacing.
_LISTS = frozenset((b"accept", b"accept-charset", b"accept-encoding", b"accept-language"))

# The one that keeps a client at an endpoint, and nothing else: it says nothing of whose the request is.
_OUR_COOKIE = re.compile(rb"[ \t]*%b=[0-9a-f]{6}[ \t;]*" % re.escape(COOKIE))

# What a request has that matters here.
(
    _COOKIE,
    _AUTHORIZATION,
    _RANGE,
    _IF_RANGE,
    _IF_NONE_MATCH,
    _IF_MODIFIED_SINCE,
    _CACHE_CONTROL,
    _FORWARDED,
    _PAST,
) = range(1, 10)
_ASKED: dict[bytes, int] = {
    b"cookie": _COOKIE,
    b"authorization": _AUTHORIZATION,
    b"range": _RANGE,
    b"if-range": _IF_RANGE,
    b"if-none-match": _IF_NONE_MATCH,
    b"if-modified-since": _IF_MODIFIED_SINCE,
    b"cache-control": _CACHE_CONTROL,
    b"forwarded": _FORWARDED,
    # Only services know what these two are to be compared with.
    b"if-match": _PAST,
    b"if-unmodified-since": _PAST,
}
# What some services obey and never name in Vary. Another method: nothing that is kept can answer that.
_ASKED |= dict.fromkeys((b"x-http-method-override", b"x-http-method", b"x-method-override"), _PAST)
# Another path, host or scheme: those who say the same may share an answer.
_ASKED |= dict.fromkeys(
    b"x-original-url x-original-uri x-rewrite-url x-override-url x-original-host x-host x-http-host-override"
    b" x-forward-host x-original-proto x-forward-proto x-scheme x-url-scheme front-end-https".split(),
    _FORWARDED,
)

CONDITIONS = frozenset((b"if-none-match", b"if-modified-since", b"range", b"if-range"))
"""The fields that are the client's business with the cache, where the cache asks on its own account."""


@attrs.frozen(eq=False)
class Asked:
    """What a request's fields say about caching; b"" where a field is not there.

    `forwarded` is what is said about the request's way here, other than what is ours to say.
    `past` says that it goes past the cache.
    """

    cookie: bool = False
    authorization: bool = False
    past: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    range: bytes = b""
    if_range: bytes = b""
    if_none_match: bytes = b""
    if_modified_since: bytes = b""
    forwarded: bytes = b""
    plain: bool = True
    """Whether a whole answer is wanted, in any case."""

    @property
    def identified(self) -> bool:
        """Whether it shows whose request it is."""
        return self.cookie or self.authorization


PLAIN = Asked()
"""What most requests ask for: `read_request` gives this object."""


def read_request(headers: Headers) -> Asked:
    """What these fields of a request say."""
    found: dict[int, bytes] | None = None
    for name, value in headers:
        lower = name.lower()
        what = _ASKED.get(lower, 0)
        if not what:
            if not lower.startswith(b"x-forwarded-"):
                continue
            what = _FORWARDED
        if what == _FORWARDED:
            # No value can have a line feed: nobody can write two fields in one.
            value = b"\n" + lower + b":" + value
        if found is None:
            found = {what: value}
        else:
            found[what] = found[what] + b", " + value if what in found else value
    return PLAIN if found is None else _asked(found)


def _asked(found: dict[int, bytes]) -> Asked:
    said = cache_control(found[_CACHE_CONTROL]) if _CACHE_CONTROL in found else NOTHING
    return Asked(
        cookie=_COOKIE in found and _OUR_COOKIE.fullmatch(found[_COOKIE]) is None,
        authorization=_AUTHORIZATION in found,
        past=_PAST in found,
        no_store=b"no-store" in said,
        only_if_cached=b"only-if-cached" in said,
        range=found.get(_RANGE, b""),
        if_range=found.get(_IF_RANGE, b""),
        if_none_match=found.get(_IF_NONE_MATCH, b""),
        if_modified_since=found.get(_IF_MODIFIED_SINCE, b""),
        forwarded=found.get(_FORWARDED, b""),
        plain=not (_RANGE in found or _IF_NONE_MATCH in found or _IF_MODIFIED_SINCE in found),
    )


def selected(headers: Headers, names: Sequence[bytes]) -> tuple[bytes | None, ...]:
    """The values of these request fields (names in lower case), by which answers are told apart."""
    if not names:
        return ()
    found: dict[bytes, bytes | None] = dict.fromkeys(names)
    for name, value in headers:
        lower = name.lower()
        if lower in found:
            if lower in _LISTS:
                value = value.lower().replace(b" ", b"").replace(b"\t", b"")
            before = found[lower]
            found[lower] = value if before is None else before + b", " + value
    return tuple(found.values())
