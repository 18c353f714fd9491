"""Which Route, or which service slug, a request belongs to.

Matching is done on the path that a backend would see: unreserved characters percent-decoded and dot
segments removed (RFC 3986, 6.2.2). The request target itself goes upstream byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from .addresses import canonical_host, is_slug
from .errors import BadRequest

__all__ = ["RouteTable", "canonical_id", "is_slug", "normalized_path", "service_slug"]

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*")
MAX_ID = 1024


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    code = int(match[1], 16)
    return bytes((code,)) if code in _UNRESERVED else b"%" + match[1].upper()


def normalized_path(path: bytes) -> bytes:
    """`path` (no query) with unreserved characters decoded and dot segments removed.

    Raises `errors.BadRequest` for a path with a broken escape, since no two parsers agree on it.
    """
    if b"%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadRequest("the path has a broken percent-encoding")
        path = _ESCAPE.sub(_decode_unreserved, path)
    if b"/." not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def service_slug(path: bytes) -> bytes:
    """The first segment of the path, by which a service is found; it may be empty.

    Raises `errors.BadRequest` where the first segment as written and the one that a backend would see
    disagree (``/a/../b``): a rule for the one could be walked around by way of the other.
    """
    first = path[1:].partition(b"/")[0]
    if b"%" in path or b"/." in path:
        seen = normalized_path(path)[1:].partition(b"/")[0]
        if seen != normalized_path(b"/" + first)[1:]:
            raise BadRequest("the path leaves the service that it begins with")
        return seen
    return first


def canonical_id(text: str) -> str:
    """The id of a Route or Redirect in the one form it is saved in: ``host`` or ``host/prefix``.

    The host is lower-case ASCII without port or trailing dot, ``*.`` may stand before it; the prefix has
    no trailing slash and no dot segments. Raises `ValueError` that says what is wrong.
    """
    if len(text) > MAX_ID:
        raise ValueError(f"is longer than {MAX_ID} characters")
    text = text.strip()
    if "://" in text:
        raise ValueError("must be HOST or HOST/PREFIX, without a scheme")
    host, slash, prefix = text.partition("/")
    if not host:
        raise ValueError("begins with no host" if slash else "is empty")
    wildcard = "*." if host.startswith("*.") else ""
    host = re.sub(r":[0-9]*\Z", "", host.removeprefix("*.")) if not host.endswith("]") else host
    name = canonical_host(host)
    if wildcard and ("." not in name or ":" in name):
        raise ValueError("has a wildcard over a whole top-level domain")
    if ":" in name:
        name = f"[{name}]"
    path = (slash + prefix).rstrip("/")
    if not _PREFIX.fullmatch(path):
        raise ValueError("has a path prefix with an empty segment or a character no path may hold")
    path = _ESCAPE.sub(_decode_unreserved, path.encode("ascii")).decode("ascii")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError("has a path prefix with a dot segment")
    return f"{wildcard}{name}{path}"


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


class RouteTable(Generic[T]):
    """An immutable set of Routes (or Redirects); `match` finds the most specific one.

    Lookups take time in the length of the longest prefix, not in the number of routes, and keep nothing.
    """

    __slots__ = ("_hosts", "_longest_prefix", "_size")

    def __init__(self, entries: Iterable[T] = ()) -> None:
        hosts: dict[str, dict[str, T]] = {}
        longest = 0
        for entry in entries:
            host, slash, prefix = entry.id.partition("/")
            hosts.setdefault(host, {})[slash + prefix] = entry
            longest = max(longest, len(slash + prefix))
        self._hosts: Mapping[str, Mapping[str, T]] = hosts
        self._size = sum(map(len, hosts.values()))
        self._longest_prefix = longest

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<RouteTable: {self._size} routes for {len(self._hosts)} hosts>"

    def match(self, host: str, path: str) -> T | None:
        """The entry for a canonical `host` and a normalized `path`, or None.

        An exact host goes before ``*.`` one label up; within a host the longest prefix on segment
        boundaries wins.
        """
        limit = self._longest_prefix
        if len(path) > limit:
            # Each try hashes what is left of the path: uncut, a long one would cost time in its square.
            cut = path[: limit + 1]
            path = cut[: cut.rfind("/") + 1]
        found = self._longest(self._hosts.get(host), path)
        if found is None:
            dot = host.find(".")
            if dot > 0:
                found = self._longest(self._hosts.get(f"*{host[dot:]}"), path)
        return found

    @staticmethod
    def _longest(prefixes: Mapping[str, T] | None, path: str) -> T | None:
        if not prefixes:
            return None
        prefix = path.rstrip("/")
        while prefix:
            found = prefixes.get(prefix)
            if found is not None:
                return found
            prefix = prefix[: prefix.rfind("/")].rstrip("/")
        return prefixes.get("")
