"""Which header fields cross the proxy, and how bodies are framed: the one place that decides it.

Each side is one pass over the field lines. A raw head is never forwarded (RFC 9110, 7.6; RFC 9112, 6).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence

import attrs

from .errors import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    LoopDetected,
    MethodNotAllowed,
    NotImplementedHere,
    TargetTooLong,
    UpstreamFailed,
)
from .messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Headers, RequestHead, ResponseHead

MAX_FIELDS = 128
"""Field lines in a request; more are answered with 431."""
MAX_AUTHORITY = 261
"""Bytes of a Host: 255 of a name (RFC 1035, 2.3.4) and a port."""
MAX_HOPS = 5
"""Times that a request may come through this proxy: an instance may be the proxy itself, by mistake."""
MAX_TARGET = 16 * 1024
"""Bytes of a request target; more are answered with 414."""

NOT_HTTP = "the service's answer was not valid HTTP"

_HOST = re.compile(rb"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_TARGET = re.compile(rb"[\x21-\x22\x24-\x7e]+")

# Those that the HTTP/1.1 parser of the fast plane knows: both planes serve the same ones.
_METHODS = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL"
    b" MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE"
    b" SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)

# What the request pass does with a name; any other name is kept.
_DROP, _HOST_FIELD, _LENGTH, _CODING, _CONNECTION, _EXPECT, _TE, _FORWARDED, _REAL_IP, _ID = range(10)
_XFF, _XFP, _XFH = 10, 11, 12
_VIA_FIELD = -1
_REQUEST_RULES: dict[bytes, int] = {
    b"host": _HOST_FIELD,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
    b"te": _TE,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"proxy-authorization": _DROP,
    b"proxy-authenticate": _DROP,
    b"upgrade": _DROP,
    b"http2-settings": _DROP,
    # httpoxy: CGI would turn it into HTTP_PROXY (CVE-2016-5385).
    b"proxy": _DROP,
    b"forwarded": _FORWARDED,
    b"x-forwarded-for": _XFF,
    b"x-forwarded-proto": _XFP,
    b"x-forwarded-host": _XFH,
    b"x-real-ip": _REAL_IP,
    b"x-request-id": _ID,
    b"via": _VIA_FIELD,
}
_RESPONSE_DROP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"content-length")
)
_RESPONSE_RULES = _RESPONSE_DROP | {b"date"}
# Fields that a trailer section must not set (RFC 9110, 6.5.1), on top of those with a rule above.
_NOT_IN_TRAILERS = frozenset(
    (
        *_REQUEST_RULES,
        *_RESPONSE_DROP,
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"max-forwards",
        b"set-cookie",
        b"trailer",
        b"via",
        b"www-authenticate",
    )
)
# What `Connection` may name without effect: framing and routing never leave because a client says so.
_NEVER_STRIPPED = frozenset(
    (b"close", b"keep-alive", b"te", b"host", b"content-length", b"transfer-encoding")
)
_VIA = b"1.1 onebackend-proxy"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.define(eq=False)
class Peer:
    """Who is at the other end of a client connection, worked out once per connection.

    `ip` is its address without a port; `trusted` says that it is one of our own proxies, whose
    `X-Forwarded-*` we believe; `scheme` is http or https as spoken on this connection.
    """

    ip: bytes
    trusted: bool = False
    scheme: bytes = b"http"


@attrs.define(eq=False)
class OutgoingRequest:
    """A request made ready to go upstream; `headers` lack only what frames the body."""

    method: bytes
    target: bytes
    headers: Headers
    body: int
    host: bytes
    client_ip: bytes
    request_id: bytes
    expects_continue: bool


def is_trusted(ip: bytes, networks: Sequence[Network]) -> bool:
    """Whether the address lies in one of the trusted proxies' networks."""
    if not networks:
        return False
    address = _ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is not None and any(address in network for network in networks)


def _ip_address(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    # Python takes any character at all in an IPv6 zone, and these addresses get into fields and logs.
    if b"%" in text:
        return None
    try:
        return ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        return None


def prepare_request(
    head: RequestHead, peer: Peer, request_id: bytes, trusted: Sequence[Network] = ()
) -> OutgoingRequest:
    """Check a request head and make what goes upstream of it.

    Raises the `errors.ProxyError` with the status that answers it (RFC 9112, 3 and 6.3).
    """
    method = head.method
    if method not in _METHODS:
        raise NotImplementedHere("the request method is not one of HTTP's")
    if method in (b"CONNECT", b"TRACE"):
        raise MethodNotAllowed(f"{method.decode()} is not for a reverse proxy")
    if len(head.headers) > MAX_FIELDS:
        raise HeadTooLarge(f"more than {MAX_FIELDS} header fields")
    kept: Headers = []
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    connection = expect = te = b""
    hops = 0
    forwarded: dict[int, bytes] = {}
    for name, value in head.headers:
        rule = _REQUEST_RULES.get(name.lower())
        if rule is None:
            # CGI and WSGI cannot tell X_Forwarded_For from X-Forwarded-For: as nginx, drop such names.
            if (b"_" not in name and name[:12].lower() != b"x-forwarded-") or (
                peer.trusted and b"_" not in name
            ):
                kept.append((name, value))
        elif rule >= _FORWARDED:
            if peer.trusted:
                joined = forwarded[rule] + b", " + value if rule in forwarded else value
                forwarded[rule] = joined.strip(b" ")
        elif rule == _HOST_FIELD:
            hosts.append(value)
        elif rule == _LENGTH:
            lengths.append(value)
        elif rule == _CODING:
            codings.append(value)
        elif rule == _CONNECTION:
            connection = connection + b"," + value if connection else value
        elif rule == _EXPECT:
            expect = expect + b"," + value if expect else value
        elif rule == _VIA_FIELD:
            hops += value.count(_VIA)
            kept.append((name, value))
        elif rule == _TE:
            te = te + b"," + value if te else value
    if hops >= MAX_HOPS:
        raise LoopDetected(f"this request came through here {hops} times already")
    if connection:
        kept = _without_named(kept, connection)
    target, host = _target_and_host(head, hosts)
    if expect and expect.lower() != b"100-continue":
        raise ExpectationFailed("the only expectation served is 100-continue")
    kept.insert(0, (b"Host", host))
    if te and any(token.strip().lower() == b"trailers" for token in te.split(b",")):
        kept.append((b"TE", b"trailers"))
        kept.append((b"Connection", b"TE"))
    client_ip = peer.ip
    if forwarded:
        client_ip, request_id = _believed(kept, peer, forwarded, trusted, request_id)
    kept += (
        (b"X-Forwarded-For", forwarded[_XFF] + b", " + peer.ip if forwarded.get(_XFF) else peer.ip),
        (b"X-Forwarded-Proto", forwarded.get(_XFP) or peer.scheme),
        (b"X-Forwarded-Host", forwarded.get(_XFH) or host),
        (b"X-Real-IP", client_ip),
        (b"X-Request-Id", request_id),
        (b"Via", _VIA),
    )
    body = _request_framing(head.version, lengths, codings)
    expects = bool(expect) and head.version == b"HTTP/1.1" and body not in (NO_BODY, 0)
    return OutgoingRequest(method, target, kept, body, host, client_ip, request_id, expects)


def _without_named(headers: Headers, connection: bytes) -> Headers:
    """Drop the fields that `Connection` names (RFC 9110, 7.6.1)."""
    if connection in (b"keep-alive", b"close", b"Keep-Alive", b"Close"):
        return headers
    named = {token.strip().lower() for token in connection.split(b",")} - _NEVER_STRIPPED
    named.discard(b"")
    return [field for field in headers if field[0].lower() not in named] if named else headers


def _target_and_host(head: RequestHead, hosts: list[bytes]) -> tuple[bytes, bytes]:
    """The origin-form target and the one valid host of a request (RFC 9112, 3.2)."""
    host = the_host(hosts)
    target, authority = origin_form(head.method, head.target)
    return target, authority or host


def the_host(hosts: Sequence[bytes]) -> bytes:
    """The one valid host that a request names; raises `errors.BadRequest` (RFC 9112, 3.2)."""
    if len(hosts) != 1:
        raise BadRequest("more than one Host header" if hosts else "no Host header")
    if not _is_authority(hosts[0]):
        raise BadRequest("the Host header is not HOST or HOST:PORT")
    return hosts[0]


def _is_authority(text: bytes) -> bool:
    """Whether it is ``HOST`` or ``HOST:PORT``, with a port that there is."""
    return len(text) <= MAX_AUTHORITY and _looks_like_authority(text)


# A proxy is asked for few hosts very often; what strangers make up is short, and goes again.
@functools.lru_cache(1024)
def _looks_like_authority(text: bytes) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or (match[2] and int(match[2]) > 65535):
        return False
    return match[1] is None or isinstance(_ip_address(match[1]), ipaddress.IPv6Address)


def origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """A request target without scheme and authority, and the authority it had, or b"".

    The authority of an absolute target replaces Host (RFC 9112, 3.2.2). Raises `errors.BadRequest`.
    """
    if len(target) > MAX_TARGET:
        raise TargetTooLong(f"the request target is over {MAX_TARGET} bytes")
    if not _TARGET.fullmatch(target):
        raise BadRequest("the request target has a character that no URL may hold")
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute:
        raise BadRequest("the request target must begin with a slash")
    if not _is_authority(absolute[1]):
        raise BadRequest("the request target's authority is not HOST or HOST:PORT")
    path = absolute[2]
    return (path if path[:1] == b"/" else b"/" + path), absolute[1]


def _believed(
    kept: Headers, peer: Peer, forwarded: dict[int, bytes], trusted: Sequence[Network], request_id: bytes
) -> tuple[bytes, bytes]:
    """What a trusted proxy says of the client: its address and the request's id."""
    if _FORWARDED in forwarded:
        kept.append((b"Forwarded", forwarded[_FORWARDED]))
    client_ip = forwarded_client(peer, forwarded.get(_XFF), forwarded.get(_REAL_IP, b""), trusted)
    said = forwarded.get(_ID, b"")
    return client_ip, said if _REQUEST_ID.fullmatch(said) else request_id


def forwarded_client(
    peer: Peer, forwarded_for: bytes | None, real_ip: bytes, trusted: Sequence[Network]
) -> bytes:
    """The client's address by the word of `peer`, a trusted proxy: its X-Forwarded-For and X-Real-IP.

    The first is walked from the right, to the first address that is no trusted proxy itself. What is not an
    address ends the walk, since beyond it anybody may have written. X-Real-IP counts only without it: where
    there are both, it may be what the client sent, passed on.
    """
    if forwarded_for is None:
        return peer.ip if _ip_address(real_ip) is None else real_ip
    client = peer.ip
    for entry in reversed(forwarded_for.split(b",")):
        candidate = entry.strip()
        if _ip_address(candidate) is None:
            break
        client = candidate
        if not is_trusted(candidate, trusted):
            break
    return client


def _request_framing(version: bytes, lengths: list[bytes], codings: list[bytes]) -> int:
    if codings:
        if lengths:
            raise BadRequest("both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or version != b"HTTP/1.1":
            raise BadRequest("Transfer-Encoding must be one field, in HTTP/1.1")
        if codings[0].lower() != b"chunked":
            if codings[0].strip().lower() in (b"gzip", b"compress", b"deflate"):
                raise NotImplementedHere("the only transfer coding served is chunked")
            raise BadRequest("Transfer-Encoding is not exactly chunked")
        return CHUNKED
    if not lengths:
        return NO_BODY
    if len(lengths) > 1:
        raise BadRequest("more than one Content-Length")
    if not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise BadRequest("Content-Length is not a length")
    return int(lengths[0])


def prepare_response(method: bytes, http11: bool, status: int, reason: bytes, raw: Headers) -> ResponseHead:
    """Make of an upstream's raw head what goes to the client; `body` says how its body is framed.

    Raises `errors.UpstreamFailed` where the framing is ambiguous (RFC 9112, 6.3).
    """
    kept: Headers = []
    length: bytes | None = None
    coding: bytes | None = None
    connection = b""
    dated = False
    for field in raw:
        name = field[0].lower()
        if name not in _RESPONSE_RULES:
            kept.append(field)
        elif name == b"date":
            dated = True
            kept.append(field)
        elif name == b"content-length":
            if length is not None and length != field[1]:
                raise UpstreamFailed(NOT_HTTP, detail="two Content-Lengths")
            length = field[1]
        elif name == b"transfer-encoding":
            coding = field[1] if coding is None else coding + b"," + field[1]
        elif name == b"connection":
            connection = connection + b"," + field[1] if connection else field[1]
    if connection:
        kept = _without_named(kept, connection)
    body = _response_framing(method, http11, status, length, coding)
    # A HEAD answer and a 304 tell the length that a GET would have had; 1xx and 204 must not.
    if length is not None and body != CHUNKED and status >= 200 and status != 204:
        kept.append((b"Content-Length", length))
    return ResponseHead(status, reason, kept, body, dated)


def _response_framing(
    method: bytes, http11: bool, status: int, length: bytes | None, coding: bytes | None
) -> int:
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return NO_BODY
    if coding is not None:
        if length is not None or coding.lower() != b"chunked" or not http11:
            raise UpstreamFailed(NOT_HTTP, detail=f"framing {coding!r}")
        return CHUNKED
    if length is None:
        return UNTIL_CLOSE
    if not length.isdigit() or len(length) > 18:
        raise UpstreamFailed(NOT_HTTP, detail=f"Content-Length {length!r}")
    return int(length)


def safe_trailers(trailers: Headers) -> Headers:
    """The trailer fields that may be forwarded: none that frames, routes, or authenticates."""
    return [
        field
        for field in trailers
        if field[0].lower() not in _NOT_IN_TRAILERS
        and b"_" not in field[0]
        and field[0][:12].lower() != b"x-forwarded-"
    ]
