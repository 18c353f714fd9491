"""The fields of HTTP/2 and those of HTTP/1.1, which all other rules are written for, made of each other.

`h2` could check requests too, but to it whatever is malformed is an error of the connection, at the cost of
all other requests on it. To RFC 9113, 8.1.1, it is one of its stream alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from ..errors import ProxyError
from ..headers import check_values
from ..messages import Headers, RequestHead, ResponseHead

LOGGED_VERSION = b"HTTP/2.0"
"""What the access log calls it, as nginx does."""
_CHUNKED = (b"transfer-encoding", b"chunked")

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
# What a request's field is, by its name.
_PLAIN, _HOST, _COOKIE, _LENGTH, _TE, _OF_CONNECTION, _NO_NAME = range(7)
_KINDS = {
    b"host": _HOST,
    b"cookie": _COOKIE,
    b"content-length": _LENGTH,
    b"te": _TE,
    # RFC 9113, 8.2.2.
    b"connection": _OF_CONNECTION,
    b"proxy-connection": _OF_CONNECTION,
    b"keep-alive": _OF_CONNECTION,
    b"transfer-encoding": _OF_CONNECTION,
    b"upgrade": _OF_CONNECTION,
}
MAX_NAME = 48
"""Bytes of a name that is remembered; few are longer."""


def _kind_of(name: bytes) -> int:
    return _KINDS.get(name, _PLAIN if _NAME.fullmatch(name) else _NO_NAME)


# What strangers make up is short, and goes again.
_known_kind = functools.lru_cache(512)(_kind_of)
_known_lower = functools.lru_cache(512)(bytes.lower)


def _flaw_of(kind: int, name: bytes, value: bytes) -> str:
    """What is wrong with one field (RFC 9113, 8.2), or ""."""
    if kind == _NO_NAME:
        return "a field's name has a character that it must not have"
    if kind == _OF_CONNECTION:
        return f"{name.decode('ascii')} is not a field of HTTP/2"
    if kind == _TE and value.lower() != b"trailers":
        return "te is not trailers"
    if value and (value[0] in b" \t" or value[-1] in b" \t"):
        return "a field's value begins or ends with white space"
    return ""


def request_head(fields: Iterable[tuple[bytes, bytes]], ended: bool) -> tuple[RequestHead, str]:
    """What a request says, as HTTP/1.1 would say it, and what makes it malformed, or "" (RFC 9113, 8.3).

    `ended` says that it has no body; else one without a length is chunked, to those who ask the head.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    crumbs: list[bytes] = []
    hosts: list[bytes] = []
    length: bytes | None = None
    flaw = ""
    for field in fields:
        name, value = field
        if name[:1] == b":":
            if name in pseudo or name not in _PSEUDO or headers or crumbs or hosts:
                flaw = flaw or "a pseudo-header field that is unknown, comes twice, or behind the others"
            pseudo[name] = value
            continue
        kind = _known_kind(name) if len(name) <= MAX_NAME else _kind_of(name)
        if kind or value[:1] in b" \t" or value[-1:] in b" \t":
            flaw = flaw or _flaw_of(kind, name, value)
            if kind == _COOKIE:
                crumbs.append(value)
                continue
            if kind == _HOST:
                hosts.append(value)
                continue
            if kind == _LENGTH:
                length = value
        headers.append((name, value))
    if crumbs:
        # RFC 9113, 8.2.3.
        headers.append((b"cookie", b"; ".join(crumbs)))
    method = pseudo.get(b":method", b"")
    authority = pseudo.get(b":authority")
    target = pseudo.get(b":path", b"")
    if method == b"CONNECT":
        target = target or authority or b""
    flaw = flaw or _request_flaw(pseudo, hosts, method, target)
    if authority is not None and not hosts:
        hosts.append(authority)
    headers.extend((b"host", host) for host in hosts)
    if not ended and length is None:
        headers.append(_CHUNKED)
    elif ended and length is not None and length.strip(b"0"):
        flaw = flaw or "a body is announced, and none comes"
    return RequestHead(method, target, headers), flaw


def _request_flaw(pseudo: dict[bytes, bytes], hosts: Sequence[bytes], method: bytes, target: bytes) -> str:
    """What is wrong with the pseudo-header fields (RFC 9113, 8.3.1), or ""."""
    if not method:
        return "no :method"
    if method == b"CONNECT":
        # Refused as such, extended (RFC 8441) or not.
        return ""
    if b":protocol" in pseudo:
        return ":protocol without CONNECT"
    if not pseudo.get(b":scheme"):
        return "no :scheme"
    if target[:1] != b"/" and (target, method) != (b"*", b"OPTIONS"):
        return ":path does not begin with a slash"
    authority = pseudo.get(b":authority")
    if authority is not None and any(host.lower() != authority.lower() for host in hosts):
        return ":authority and Host are not the same"
    return ""


def request_trailers(fields: Sequence[tuple[bytes, bytes]], limit: int) -> tuple[Headers, str]:
    """The trailers of a request, `limit` of them at most, and what makes them malformed, or ""."""
    trailers = [(name, value) for name, value in fields]
    flaw = next(filter(None, (_flaw_of(_kind_of(name), name, value) for name, value in trailers)), "")
    if len(trailers) > limit:
        flaw = f"more than {limit} trailers"
    try:
        # The other rules look into heads only.
        check_values(trailers)
    except ProxyError as error:
        flaw = error.message
    return ([], flaw) if flaw else (trailers, "")


def answer_fields(head: ResponseHead, date: bytes = b"") -> Headers:
    """An answer's head, with this Date unless it is b""."""
    fields = [(b":status", b"%d" % head.status)]
    fields += lowered(head.headers)
    if date:
        fields.append((b"date", date))
    return fields


def lowered(headers: Headers) -> Headers:
    """The same fields, with names as HTTP/2 has them (RFC 9113, 8.2.1)."""
    return [
        ((_known_lower if len(name) <= MAX_NAME else bytes.lower)(name), value) for name, value in headers
    ]


def malformed(flaw: str) -> str:
    """What the client is told of a malformed request."""
    return f"the request is not valid HTTP/2: {flaw}"
