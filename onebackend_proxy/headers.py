"""Which header fields cross the proxy, and how bodies are framed: the one place that decides it.

Each side is one pass over the field lines. A raw head is never forwarded (RFC 9110, 7.6; RFC 9112, 6).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import attrs

from .errors import (
    BadRequest,
    ContentTooLarge,
    ExpectationFailed,
    HeadTooLarge,
    LoopDetected,
    MethodNotAllowed,
    NotImplementedHere,
    ProxyError,
    TargetTooLong,
    UpstreamFailed,
)
from .limits import DEFAULTS, Limits
from .messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Headers, RequestHead, ResponseHead, field_lines

MAX_AUTHORITY = 261
"""Bytes of a Host: 255 of a name (RFC 1035, 2.3.4) and a port."""
MAX_HOPS = 5
"""Times that a request may come through this proxy: an instance may be the proxy itself, by mistake."""

NOT_HTTP = "the service's answer was not valid HTTP"

_HOST = re.compile(rb"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_TARGET = re.compile(rb"[\x21-\x22\x24-\x7e]+")
_NOTHING_SAID: dict[int, bytes] = {}
# RFC 9110, 5.5: those but NUL, CR and LF are a matter of taste, and tastes differ.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ORIGIN_FORM = re.compile(rb"/[\x21-\x22\x24-\x7e]*")
_PROTOCOL = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")

# Those that the HTTP/1.1 parser of the fast plane knows: both planes serve the same ones.
_METHODS = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL"
    b" MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE"
    b" SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)

_SERVED_METHODS = _METHODS - {b"CONNECT", b"TRACE"}

# What the request pass does with a field, by its name.
_KEEP, _DROP, _HOST_FIELD, _LENGTH, _CODING, _CONNECTION, _EXPECT, _TE, _UPGRADE, _VIA_FIELD = range(10)
# From here on: what only a trusted proxy may say.
_FORWARDED, _REAL_IP, _ID, _XFF, _XFP, _XFH, _XF_OTHER = range(10, 17)
_REQUEST_RULES: dict[bytes, int] = {
    b"host": _HOST_FIELD,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
    b"te": _TE,
    b"upgrade": _UPGRADE,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"proxy-authorization": _DROP,
    b"proxy-authenticate": _DROP,
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


def _rule_of(name: bytes) -> int:
    lower = name.lower()
    rule = _REQUEST_RULES.get(lower)
    if rule is not None:
        return rule
    # CGI and WSGI cannot tell X_Forwarded_For from X-Forwarded-For: as nginx, drop such names.
    if b"_" in name:
        return _DROP
    return _XF_OTHER if lower.startswith(b"x-forwarded-") else _KEEP


def is_clients_own(name: bytes) -> bool:
    """Whether a request's field of this name is the client's to set, and is passed on as it is."""
    return _rule_of(name) == _KEEP


class _Rules(dict[bytes, int]):
    """The rules by name as spelled: a program spells few names, again and again."""

    def __init__(self, rule_of: Callable[[bytes], int]) -> None:
        self._rule_of = rule_of

    def __missing__(self, name: bytes) -> int:
        rule = self._rule_of(name)
        # Bounded: what strangers make up must not stay.
        if len(self) < 512 and len(name) < 48:
            self[name] = rule
        return rule


_request_rules = _Rules(_rule_of)

# What the response pass does with a field, by its name; the words are those above.
_DATE = 17
_RESPONSE_RULES: dict[bytes, int] = {
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"upgrade": _UPGRADE,
    b"date": _DATE,
}
_response_rules = _Rules(lambda name: _RESPONSE_RULES.get(name.lower(), _KEEP))
# Fields that a trailer section must not set (RFC 9110, 6.5.1), on top of those with a rule above.
_NOT_IN_TRAILERS = frozenset(
    (
        *_REQUEST_RULES,
        *_RESPONSE_RULES,
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
    (b"", b"close", b"keep-alive", b"upgrade", b"te", b"host", b"content-length", b"transfer-encoding")
)
_TOKENS: dict[bytes, frozenset[bytes]] = {
    b"": frozenset(),
    b"close": frozenset((b"close",)),
    b"keep-alive": frozenset((b"keep-alive",)),
    b"Keep-Alive": frozenset((b"keep-alive",)),
    b"Upgrade": frozenset((b"upgrade",)),
}
_NO_UPGRADES = (b"h2", b"http", b"tls")
_VIA = b"1.1 onebackend-proxy"
_OWN_LAST = b"X-Forwarded-Host: %b\r\nX-Request-Id: %b\r\n"
_OTHER_CODINGS = (b"gzip", b"x-gzip", b"compress", b"x-compress", b"deflate")
MAX_LENGTH_DIGITS = 18
"""Digits of a Content-Length: an exabyte is no body, and no parser disagrees about so many."""

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
    fields: bytes = attrs.field(init=False, repr=False)
    """The field lines of ours that are the same for all its requests, where it is not trusted."""

    @fields.default
    def _fields(self) -> bytes:
        return _own_fields(self.ip, self.scheme, self.ip)


def _own_fields(forwarded_for: bytes, scheme: bytes, real_ip: bytes) -> bytes:
    return (b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Real-IP: %b\r\nVia: " + _VIA + b"\r\n") % (
        forwarded_for,
        scheme,
        real_ip,
    )


@attrs.define(eq=False)
class OutgoingRequest:
    """A request made ready to go upstream.

    `headers` are the client's fields that cross, not to be changed in place, and `lines` the same as they go
    out, with ours behind them; Host and what frames the body (`body`) are in neither. `upgrade` is the
    protocol that it asks to switch to, or b"". `keep_alive` says whether the client's connection may outlive
    the request. `scheme` is what the client spoke, by a trusted proxy's word too.
    """

    method: bytes
    target: bytes
    host: bytes
    headers: Headers
    lines: bytes
    body: int
    client_ip: bytes
    request_id: bytes
    expects_continue: bool
    keep_alive: bool
    upgrade: bytes
    scheme: bytes = b"http"


@attrs.define(eq=False)
class SortedFields:
    """The field lines of a request by what they say, whatever the request: see `sort_fields`.

    `kept` cross, `lines` are the same as they go out. `forwarded` and `forwarded_more` are believed of
    trusted proxies only; `upgrade` is b"" unless it is asked for properly.
    """

    count: int
    kept: Headers
    lines: bytes
    hosts: Sequence[bytes]
    framing: Sequence[tuple[int, bytes]]
    close: bool
    keep_alive: bool
    upgrade: bytes
    expect: bytes
    hops: int
    forwarded: dict[int, bytes]
    forwarded_more: Headers


class KeptFields(list[tuple[bytes, bytes]]):
    """The fields of a request that cross: the same object for each request of a connection that has the same.

    `lines` are they as they go out, with which the lines of the request begin. In `made` somebody may
    remember what came of them: who, and what.
    """

    __slots__ = ("lines", "made")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(fields)
        self.made: Any = None
        self.lines = b""


OUR_FIELDS = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"x-request-id", b"via")
)
"""What stands in the lines of a request behind the client's own fields; names in lower case."""


def sort_fields(headers: Headers) -> SortedFields:
    """One pass over the fields of a request. What it finds wrong is told when a request is made of it."""
    kept = KeptFields()
    more: Headers = []
    hosts: list[bytes] = []
    framing: list[tuple[int, bytes]] = []
    said: dict[int, bytes] = {}
    for field in headers:
        rule = _request_rules[field[0]]
        if rule == _KEEP:
            kept.append(field)
        elif rule == _HOST_FIELD:
            hosts.append(field[1])
        elif rule == _DROP:
            pass
        elif rule <= _CODING:
            framing.append((rule, field[1]))
        elif rule == _XF_OTHER:
            more.append(field)
        else:
            said[rule] = said[rule] + b", " + field[1] if rule in said else field[1]
            if rule == _VIA_FIELD:
                kept.append(field)
    if not said:
        # Most often the client says nothing to a proxy.
        kept.lines = lines = field_lines(kept)
        return SortedFields(
            len(headers), kept, lines, hosts, framing, False, False, b"", b"", 0, _NOTHING_SAID, more
        )
    connection = _tokens(said.get(_CONNECTION, b""))
    kept = KeptFields(_without_named(kept, connection))
    if _TE in said and b"trailers" in _tokens(said[_TE]):
        kept += ((b"TE", b"trailers"), (b"Connection", b"TE"))
    kept.lines = field_lines(kept)
    return SortedFields(
        len(headers),
        kept,
        kept.lines,
        hosts,
        framing,
        b"close" in connection,
        b"keep-alive" in connection,
        said.get(_UPGRADE, b"") if b"upgrade" in connection else b"",
        said.get(_EXPECT, b""),
        said.get(_VIA_FIELD, b"").count(_VIA),
        {rule: value.strip(b" ") for rule, value in said.items() if rule >= _FORWARDED},
        more,
    )


def is_known_method(method: bytes) -> bool:
    """Whether the method is one of HTTP's that both planes know."""
    return method in _METHODS


def not_served(method: bytes) -> ProxyError:
    """Why requests with this method, which is not served, are refused."""
    if method in _METHODS:
        return MethodNotAllowed(f"{method.decode()} is not for a reverse proxy")
    return NotImplementedHere("the request method is not one of HTTP's")


def is_trusted(ip: bytes, networks: Sequence[Network]) -> bool:
    """Whether the address lies in one of the trusted proxies' networks."""
    if not networks:
        return False
    address = ip_of(ip)
    return address is not None and any(address in network for network in networks)


def ip_of(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, where IPv4 that is mapped into IPv6 is IPv4; None for ``unix:`` and what is none."""
    address = _ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _ip_address(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    # Python takes any character at all in an IPv6 zone, and these addresses get into fields and logs.
    if b"%" in text:
        return None
    try:
        return ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        return None


def prepare_request(
    head: RequestHead,
    peer: Peer,
    request_id: bytes,
    trusted: Sequence[Network] = (),
    limits: Limits = DEFAULTS,
) -> OutgoingRequest:
    """Check a request head and make what goes upstream of it.

    Raises the `errors.ProxyError` with the status that answers it (RFC 9112, 3 and 6.3).
    """
    method = head.method
    if method not in _SERVED_METHODS:
        raise not_served(method)
    fields = head.sorted or sort_fields(head.headers)
    if fields.count > limits.head_fields:
        raise HeadTooLarge(f"more than {limits.head_fields} header fields")
    host = the_host(fields.hosts)
    target, authority = origin_form(method, head.target, limits.target_size)
    if authority:
        host = authority
    http11 = head.version == b"HTTP/1.1"
    body = _request_framing(http11, fields.framing) if fields.framing else NO_BODY
    if fields.hops >= MAX_HOPS:
        raise LoopDetected(f"this request came through here {fields.hops} times already")
    expect = fields.expect
    if expect and expect.lower() != b"100-continue":
        raise ExpectationFailed("the only expectation served is 100-continue")
    upgrade = fields.upgrade
    if upgrade:
        upgrade = _asked_upgrade(method, http11, upgrade, body)
    if head.flaw:
        raise BadRequest("the request is not valid HTTP/1.1", detail=head.flaw)
    if head.sorted is None:
        check_values(head.headers)
    client_ip = peer.ip
    scheme = peer.scheme
    if peer.trusted:
        if _XFP in fields.forwarded:
            scheme = b"https" if fields.forwarded[_XFP].lower() == b"https" else b"http"
        kept, lines, client_ip, request_id = _believed(peer, fields, trusted, host, request_id)
    else:
        kept = fields.kept
        lines = fields.lines + peer.fields + _OWN_LAST % (host, request_id)
    return OutgoingRequest(
        method,
        target,
        host,
        kept,
        lines,
        body,
        client_ip,
        request_id,
        bool(expect) and http11 and body not in (NO_BODY, 0),
        not fields.close and (http11 or fields.keep_alive),
        upgrade,
        scheme,
    )


def check_values(headers: Headers) -> None:
    """Refuse in fields that another parser has read what ours refuses itself: raises `errors.BadRequest`."""
    for _name, value in headers:
        if _CONTROL.search(value):
            raise BadRequest("a header field has a control character in its value")


def _asked_upgrade(method: bytes, http11: bool, protocol: bytes, body: int) -> bytes:
    """The protocol that a request may switch to, or b"": then it is served as if it had not asked.

    A server may always do the latter (RFC 9110, 7.8). With a body it is refused: where the body ends and the
    other protocol begins, no two parsers agree.
    """
    if not http11:
        return b""
    if body not in (NO_BODY, 0):
        raise BadRequest("an upgrade with a body")
    # HTTP/2 in clear would go around every rule here; TLS is not ours to begin in the middle.
    if method != b"GET" or not _PROTOCOL.fullmatch(protocol) or protocol.lower().startswith(_NO_UPGRADES):
        return b""
    return protocol


def _tokens(value: bytes) -> Set[bytes]:
    """The members of a list of tokens, in lower case (RFC 9110, 5.6.1)."""
    known = _TOKENS.get(value)
    return {token.strip().lower() for token in value.split(b",")} if known is None else known


def _without_named(headers: Headers, connection: Set[bytes]) -> Headers:
    """Drop the fields that `Connection` names (RFC 9110, 7.6.1)."""
    named = connection - _NEVER_STRIPPED
    return [field for field in headers if field[0].lower() not in named] if named else headers


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


def origin_form(method: bytes, target: bytes, limit: int = DEFAULTS.target_size) -> tuple[bytes, bytes]:
    """A request target without scheme and authority, and the authority it had, or b"".

    The authority of an absolute target replaces Host (RFC 9112, 3.2.2). Raises `errors.BadRequest`.
    """
    if len(target) > limit:
        raise TargetTooLong(f"the request target is over {limit} bytes")
    if _ORIGIN_FORM.fullmatch(target) or (target == b"*" and method == b"OPTIONS"):
        return target, b""
    if not _TARGET.fullmatch(target):
        raise BadRequest("the request target has a character that no URL may hold")
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute:
        raise BadRequest("the request target must begin with a slash")
    if not _is_authority(absolute[1]):
        raise BadRequest("the request target's authority is not HOST or HOST:PORT")
    path = absolute[2]
    return (path if path[:1] == b"/" else b"/" + path), absolute[1]


def _believed(
    peer: Peer, fields: SortedFields, trusted: Sequence[Network], host: bytes, request_id: bytes
) -> tuple[Headers, bytes, bytes, bytes]:
    """By a trusted proxy's word: the fields and lines that cross, the client's address, the request's id."""
    forwarded = fields.forwarded
    client_ip = forwarded_client(peer, forwarded.get(_XFF), forwarded.get(_REAL_IP, b""), trusted)
    said = forwarded.get(_ID, b"")
    if _REQUEST_ID.fullmatch(said):
        request_id = said
    chain = forwarded[_XFF] + b", " + peer.ip if forwarded.get(_XFF) else peer.ip
    kept = [*fields.kept, *fields.forwarded_more]
    if _FORWARDED in forwarded:
        kept.append((b"Forwarded", forwarded[_FORWARDED]))
    lines = field_lines(kept) + _own_fields(chain, forwarded.get(_XFP) or peer.scheme, client_ip)
    lines += _OWN_LAST % (forwarded.get(_XFH) or host, request_id)
    return kept, lines, client_ip, request_id


def forwarded_client(
    peer: Peer, forwarded_for: bytes | None, real_ip: bytes, trusted: Sequence[Network]
) -> bytes:
    """The client's address by the word of `peer`, a trusted proxy: its X-Forwarded-For and X-Real-IP.

    The first is walked from the right, to the first address that is no trusted proxy itself. What is not an
    address ends the walk, since beyond it anybody may have written. X-Real-IP counts only without it: where
    there are both, it may be what the client sent, passed on.
    """
    if forwarded_for is None:
        return peer.ip if ip_of(real_ip) is None else real_ip
    client = peer.ip
    for entry in reversed(forwarded_for.split(b",")):
        candidate = entry.strip()
        if ip_of(candidate) is None:
            break
        client = candidate
        if not is_trusted(candidate, trusted):
            break
    return client


def _request_framing(http11: bool, framing: Sequence[tuple[int, bytes]]) -> int:
    """How a request's body is framed; anything that two parsers may read in two ways is refused."""
    if len(framing) > 1:
        kinds = {rule for rule, _value in framing}
        if len(kinds) > 1:
            raise BadRequest("both Content-Length and Transfer-Encoding")
        raise BadRequest(f"more than one {'Content-Length' if _LENGTH in kinds else 'Transfer-Encoding'}")
    [(rule, value)] = framing
    if rule == _CODING:
        if not http11:
            raise BadRequest("Transfer-Encoding must be one field, in HTTP/1.1")
        if value.lower() != b"chunked":
            if any(coding.strip().lower() in _OTHER_CODINGS for coding in value.split(b",")):
                raise NotImplementedHere("the only transfer coding served is chunked")
            raise BadRequest("Transfer-Encoding is not exactly chunked")
        return CHUNKED
    if not value.isdigit():
        raise BadRequest("Content-Length is not a length")
    digits = value.lstrip(b"0")
    if len(digits) > MAX_LENGTH_DIGITS:
        raise ContentTooLarge("the body is over the limit")
    return int(digits or b"0")


def prepare_response(method: bytes, http11: bool, status: int, reason: bytes, raw: Headers) -> ResponseHead:
    """Make of an upstream's raw head what goes to the client; `body` says how its body is framed.

    Raises `errors.UpstreamFailed` where the framing is ambiguous (RFC 9112, 6.3).
    """
    kept: Headers = []
    length: bytes | None = None
    coding: bytes | None = None
    connection = b""
    upgrade = b""
    dated = False
    for field in raw:
        rule = _response_rules[field[0]]
        if rule == _KEEP:
            kept.append(field)
        elif rule == _DATE:
            dated = True
            kept.append(field)
        elif rule == _LENGTH:
            if length is not None and length != field[1]:
                raise UpstreamFailed(NOT_HTTP, detail="two Content-Lengths")
            length = field[1]
        elif rule == _CODING:
            coding = field[1] if coding is None else coding + b"," + field[1]
        elif rule == _CONNECTION:
            connection = connection + b"," + field[1] if connection else field[1]
        elif rule == _UPGRADE:
            upgrade = field[1]
    tokens = _tokens(connection)
    if connection and tokens is not _TOKENS[b"keep-alive"]:
        kept = _without_named(kept, tokens)
    body = _response_framing(method, http11, status, length, coding)
    # A HEAD answer and a 304 tell the length that a GET would have had; 1xx and 204 must not.
    if length is not None and body != CHUNKED and status >= 200 and status != 204:
        kept.append((b"Content-Length", length))
    keep_alive = b"close" not in tokens and (http11 or b"keep-alive" in tokens)
    if status == 101:
        if b"upgrade" not in tokens:
            upgrade = b""
        return ResponseHead(status, reason, kept, NO_BODY, dated, False, upgrade)
    if status == 204 and (coding is not None or length not in (None, b"0")):
        # Announced, against the rules: should it come after all, nobody may take it for the next answer.
        keep_alive = False
    return ResponseHead(status, reason, kept, body, dated, keep_alive and body != UNTIL_CLOSE)


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
    if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
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
