"""Which Route, or which service slug, a request belongs to.

Matching is done on the path that a backend would see: unreserved characters percent-decoded and dot
segments removed (RFC 3986, 6.2.2). The request target itself goes upstream byte for byte.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote, unquote_to_bytes

from .addresses import bracketed, canonical_host, is_slug, without_port
from .errors import BadRequest
from .headers import MAX_AUTHORITY
from .records import BUILT_IN_SLUGS

__all__ = [
    "RouteTable",
    "canonical_id",
    "canonical_route_id",
    "is_slug",
    "normalized_path",
    "request_host",
    "service_slug",
]

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*")
_DOT_SEGMENT = re.compile(rb"/\.\.?(?:/|\Z)")
_SLASHES = re.compile(rb"/{2,}")
# A dot segment to backends that end a segment where others do not.
_ODD_DOTS = re.compile(rb"(?:\\|%2F|%5C)\.\.?(?:[/\\;]|%2F|%5C|\Z)|/\.\.?(?:[\\;]|%2F|%5C)")
_PARAMETERS = re.compile(rb";[^/\\]*")
# All of ASCII that a URL may hold, escapes too: only what is not ASCII is to be escaped.
_KEPT = "%!#$&'()*+,/:;=?@[]~"
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


def _canonical_name(host: str) -> str:
    """``HOST`` or ``HOST:PORT`` as ids spell the host; raises `ValueError` that says what is wrong."""
    return bracketed(canonical_host(without_port(host)))


def request_host(host: bytes) -> str:
    """The canonical host of a valid Host field (see `headers.the_host`), by which a Route is found.

    It has the form that it has in an id: no port, lower case, no trailing dot. What has no such form, as
    ``127.1``, which is an address to some and a name to others, is "", which matches nothing.
    """
    return _request_host(host) if len(host) <= MAX_AUTHORITY else ""


# As with the check of it: few hosts are asked for very often, and what strangers make up goes again.
@functools.lru_cache(1024)
def _request_host(host: bytes) -> str:
    try:
        return _canonical_name(host.decode("ascii"))
    except ValueError:
        return ""


def edge_paths(target: bytes) -> tuple[str, ...]:
    """The paths of a request target by which Routes and Redirects are found; mostly there is one.

    It is normalized, and has no ``//`` in it. Others are those that some backends would see: they merge
    slashes before they resolve dots (``/a//../b``), or take ``\\``, ``%2F`` and what begins with ``;`` for
    the end of a segment (``/a/..%2Fb``). A rule for the one place could be walked around by way of the other.
    Raises `errors.BadRequest` for a broken escape.
    """
    path = target.partition(b"?")[0]
    if b"%" not in path and b"." not in path and b"//" not in path:
        return (path.decode("latin-1"),)
    ours = _SLASHES.sub(b"/", normalized_path(path))
    paths = [ours]
    if b"." in ours or b"." in path or b"%" in path:
        paths.append(normalized_path(_SLASHES.sub(b"/", path)))
        if _ODD_DOTS.search(ours):
            seen = _PARAMETERS.sub(b"", unquote_to_bytes(ours)).replace(b"\\", b"/")
            paths.append(normalized_path(_SLASHES.sub(b"/", seen.replace(b"%", b"%25"))))
    return tuple(dict.fromkeys(one.decode("latin-1") for one in paths))


def edge_path(target: bytes) -> str:
    """The first of `edge_paths`: ours."""
    return edge_paths(target)[0]


def redirect_location(prefix: str, to: str, path: str, target: bytes) -> bytes:
    """Where a Redirect of the path `prefix` to the URL or path `to` sends a request for `target`.

    `path` is what `edge_path` makes of the target. What the prefix does not match is appended, and the query.
    It never names another host than `to` does (browsers read ``//`` and ``/\\`` as the beginning of one).
    """
    raw, _question, query = target.partition(b"?")
    suffix = _unmatched(prefix.encode("ascii"), path.encode("latin-1"), raw)
    base, _hash, fragment = _ascii_url(to).partition(b"#")
    base, _question, own = base.partition(b"?")
    if suffix:
        base = base.rstrip(b"/") + suffix.replace(b"\\", b"%5C")
        if base.startswith(b"//"):
            base = b"/" + base.lstrip(b"/")
    queries = b"&".join(part for part in (own, query) if part)
    return base + (b"?" + queries if queries else b"") + (b"#" + fragment if fragment else b"")


def _unmatched(prefix: bytes, path: bytes, raw: bytes) -> bytes:
    """What follows the prefix: byte for byte, or as in `path`, where dot segments are gone.

    What begins as the prefix does can still be another place, that leads back to it (``/a@evil/../a``).
    """
    wanted = path[len(prefix) :]
    if wanted[:1] not in b"/":
        # ``*`` is no path.
        return b""
    suffix = raw.removeprefix(prefix)
    dots = _DOT_SEGMENT.search(_ESCAPE.sub(_decode_unreserved, suffix))
    return suffix if raw.startswith(prefix) and suffix[:1] in b"/" and not dots else wanted


def stripped_target(prefix: bytes, target: bytes) -> bytes:
    """A request target without the path prefix of the Route that it matches.

    What is left is left byte for byte, but for slashes before its first segment, of which one stays.
    """
    size = len(prefix)
    if target.startswith(prefix) and target[size : size + 1] == b"/" and not _NOT_PLAIN.search(target):
        return target[size:]
    raw, question, query = target.partition(b"?")
    rest = _unmatched(prefix, edge_path(target).encode("latin-1"), raw)
    # Two slashes at the beginning are that of a host, to some.
    return b"/" + rest.lstrip(b"/") + question + query


_NOT_PLAIN = re.compile(rb"//|[%.\\]")
_LENIENT = re.compile(rb"[^?]*?(?:[A-Z%;\\]|\.(?:[/?]|\Z))")
# From the beginning of a run only: else a long one costs time in its square.
_SEGMENT_END = re.compile(rb"(?<![.\s])[.\s]+(?=/|\Z)")
_CUT = re.compile(rb"[\0?#]")


def reads_in_other_ways(target: bytes) -> bool:
    """Whether a request target may be another path to a backend with few scruples: see `lenient_paths`."""
    return _LENIENT.match(target) is not None


def lenient_paths(target: bytes) -> tuple[str, ...]:
    """The paths that backends with few scruples may see in a request target, in lower case.

    They decode it, twice some of them, and take ``%2F`` and ``\\`` for slashes; they leave away what begins
    with ``;`` (RFC 3986, 3.3), white space and dots at the end of a segment, and all behind a NUL, a ``?`` or
    ``#`` that was escaped; and they do not tell ``/Admin`` from ``/admin``.
    """
    seen = {target.partition(b"?")[0]}
    for _ in range(2):
        seen |= {unquote_to_bytes(path) for path in seen}
    seen |= {_CUT.split(path, 1)[0] for path in seen}
    slashed = {path.replace(b"\\", b"/") for path in seen}
    slashed |= {_PARAMETERS.sub(b"", path) for path in slashed}
    merged = {_SLASHES.sub(b"/", b"/" + path.lstrip(b"/")) for path in slashed}
    resolved = {normalized_path(path.replace(b"%", b"%25")).replace(b"%25", b"%") for path in merged}
    resolved |= {_SLASHES.sub(b"/", _SEGMENT_END.sub(b"", path)) for path in resolved}
    return tuple(sorted({path.decode("latin-1").lower() for path in resolved}))


@functools.lru_cache(1024)
def _ascii_url(url: str) -> bytes:
    """A checked URL or path with nothing but ASCII in it (RFC 3987, 3.1)."""
    if url.isascii():
        return url.encode("ascii")
    if url.startswith("/"):
        return quote(url, safe=_KEPT).encode("ascii")
    scheme, _separator, rest = url.partition("://")
    end = next((index for index, character in enumerate(rest) if character in "/?#"), len(rest))
    name, colon, port = rest[:end].partition(":")
    host = name if name.isascii() else canonical_host(name)
    return f"{scheme}://{host}{colon}{port}{quote(rest[end:], safe=_KEPT)}".encode("ascii")


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
    name = _canonical_name(host.removeprefix("*.") if not host.endswith("]") else host)
    if wildcard and ("." not in name or ":" in name):
        raise ValueError("has a wildcard over a whole top-level domain")
    path = (slash + prefix).rstrip("/")
    if not _PREFIX.fullmatch(path):
        raise ValueError("has a path prefix with an empty segment or a character no path may hold")
    path = _ESCAPE.sub(_decode_unreserved, path.encode("ascii")).decode("ascii")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError("has a path prefix with a dot segment")
    return f"{wildcard}{name}{path}"


def canonical_route_id(text: str) -> str:
    """As `canonical_id`; and ``/slug``, which is for a service on the service side."""
    if not text.strip().startswith("/"):
        return canonical_id(text)
    slug = text.strip()[1:]
    if not is_slug(slug):
        raise ValueError("must be HOST, HOST/PREFIX, or /SLUG for a service: a-z, 0-9 and single dashes")
    if slug in BUILT_IN_SLUGS:
        # Its own API could no longer take back what locks it out.
        raise ValueError(f"is built in: give a policy to a Route with the target service:{slug}")
    return f"/{slug}"


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def _split(id: str) -> tuple[str, str]:
    host, slash, prefix = id.partition("/")
    return host, slash + prefix


def wildcard_over(host: str) -> str:
    """The one wildcard that a host can fall under: ``*.`` in the place of its first label; "" if none.

    In Routes as in certificates it stands for one label (RFC 9525, 6.3).
    """
    dot = host.find(".")
    return f"*{host[dot:]}" if dot > 0 else ""


class RouteTable(Generic[T]):
    """An immutable set of Routes (or Redirects); `match` finds the most specific one.

    Lookups take time in the length of the longest prefix, not in the number of routes, and keep nothing.
    Those of services (``/slug``) are apart: no host matches them.
    """

    __slots__ = ("_hosts", "_longest_prefix", "_services", "_size")

    def __init__(self, entries: Iterable[T] = ()) -> None:
        hosts: dict[str, dict[str, T]] = {}
        longest = 0
        for entry in entries:
            host, prefix = _split(entry.id)
            hosts.setdefault(host, {})[prefix] = entry
            longest = max(longest, len(prefix))
        self._services: Mapping[str, T] = hosts.pop("", {})
        self._hosts: Mapping[str, Mapping[str, T]] = hosts
        self._size = sum(map(len, hosts.values())) + len(self._services)
        self._longest_prefix = longest

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        yield from self._services.values()
        for prefixes in self._hosts.values():
            yield from prefixes.values()

    def __repr__(self) -> str:
        return f"<RouteTable: {self._size} routes for {len(self._hosts)} hosts>"

    def changed(self, saved: Iterable[T] = (), deleted: Iterable[str] = ()) -> RouteTable[T]:
        """The table without the entries of these ids, then with those saved, each instead of one of its id.

        It is this very table if that is no change. It takes time in the number of hosts, but very little.
        """
        hosts = dict(self._hosts)
        before = {**self._hosts, "": self._services} if self._services else self._hosts
        touched: dict[str, dict[str, T]] = {}

        def prefixes_of(host: str) -> dict[str, T]:
            if host not in touched:
                hosts[host] = touched[host] = dict(before.get(host, ()))
            return touched[host]

        longest = self._longest_prefix
        for id in deleted:
            host, prefix = _split(id)
            prefixes_of(host).pop(prefix, None)
        for entry in saved:
            host, prefix = _split(entry.id)
            prefixes_of(host)[prefix] = entry
            longest = max(longest, len(prefix))
        if all(prefixes == before.get(host, {}) for host, prefixes in touched.items()):
            return self
        size = self._size
        for host, prefixes in touched.items():
            size += len(prefixes) - len(before.get(host, ()))
            if not prefixes:
                del hosts[host]
        services = hosts.pop("", {}) if "" in touched else self._services
        return self._made(hosts, services, size, longest)

    @classmethod
    def _made(
        cls, hosts: Mapping[str, Mapping[str, T]], services: Mapping[str, T], size: int, longest: int
    ) -> RouteTable[T]:
        table = cls.__new__(cls)
        table._hosts, table._services, table._size, table._longest_prefix = hosts, services, size, longest
        return table

    def get(self, id: str) -> T | None:
        """The entry with this very id."""
        host, prefix = _split(id)
        return self._hosts.get(host, {}).get(prefix) if host else self._services.get(prefix)

    def services(self) -> Collection[T]:
        """Those of services."""
        return self._services.values()

    def hosts(self) -> KeysView[str]:
        """The hosts of all entries, wildcards as they are written."""
        return self._hosts.keys()

    def has_host(self, host: str) -> bool:
        """Whether any entry, whatever its prefix, is for this canonical host, or for ``*.`` one label up."""
        return host in self._hosts or wildcard_over(host) in self._hosts

    def prefixes(self, host: str) -> Mapping[str, T]:
        """The entries for this host by their path prefix, without those for ``*.`` one label up."""
        return self._hosts.get(host, {})

    def match(self, host: str, path: str) -> T | None:
        """The entry for a canonical `host` and a normalized `path`, or None.

        An exact host goes before ``*.`` one label up; within a host the longest prefix on segment
        boundaries wins.
        """
        path = self._cut(path)
        found = self._longest(self._hosts.get(host), path)
        if found is None:
            found = self._longest(self._hosts.get(wildcard_over(host)), path)
        return found

    def shorter(self, host: str, path: str) -> tuple[T, ...]:
        """What `match` finds, and after it what it would find without that, and so on to the last."""
        path = self._cut(path)
        found: list[T] = []
        for name in (host, wildcard_over(host)):
            prefixes = self._hosts.get(name)
            entry = self._longest(prefixes, path)
            while entry is not None:
                found.append(entry)
                _host, prefix = _split(entry.id)
                entry = self._longest(prefixes, prefix[: prefix.rfind("/")]) if prefix else None
        return tuple(found)

    def _cut(self, path: str) -> str:
        """As much of `path` as may matter.

        Each try hashes what is left of the path: uncut, a long one would cost time in its square.
        """
        limit = self._longest_prefix
        if len(path) <= limit:
            return path
        cut = path[: limit + 1]
        return cut[: cut.rfind("/") + 1]

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
