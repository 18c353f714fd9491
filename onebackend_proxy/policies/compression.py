"""Which answers are encoded, in which coding, and what their heads say then (RFC 9110, 8.4 and 12.5.3)."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import attrs

from ..messages import CHUNKED, NO_BODY, Headers, ResponseHead, field_lines
from .encoders import CODINGS, available

MIN_SIZE = 1024
"""Bytes from which on encoding is worth its while: less fits into one packet as it is."""
MAX_ACCEPTED = 256
"""Bytes of all Accept-Encoding fields; nobody needs so many, and what is longer is not read."""
MAX_TYPE = 128
"""Bytes of a Content-Type, likewise."""

# text/..., ...+json, ...+xml besides.
_TYPES = frozenset(
    b"application/ecmascript application/graphql application/javascript application/json"
    b" application/json-seq application/jsonl application/ndjson application/protobuf application/rtf"
    b" application/sql application/toml application/vnd.ms-fontobject application/wasm"
    b" application/x-font-opentype application/x-font-ttf application/x-javascript application/x-ndjson"
    b" application/x-protobuf application/x-sh application/x-yaml application/xml application/xml-dtd"
    b" application/yaml font/otf font/sfnt font/ttf image/bmp image/vnd.microsoft.icon image/x-icon"
    b" image/x-ms-bmp model/obj".split()
)
_SUFFIXES = (b"+json", b"+xml", b"+yaml", b"+json-seq")
# Not a body, or not all of one: a range of the encoded form would be another range.
_NEVER = frozenset((204, 205, 206, 304))

# What a field of an answer has to do with it.
_TYPE, _ENCODED, _CACHE_CONTROL, _LENGTH, _VARY, _ETAG, _UNTRUE = range(7)
_RULES: dict[bytes, int] = {
    b"content-type": _TYPE,
    b"content-encoding": _ENCODED,
    b"content-range": _ENCODED,
    b"cache-control": _CACHE_CONTROL,
    b"content-length": _LENGTH,
    b"vary": _VARY,
    b"etag": _ETAG,
    # True of the bytes that the service sent, and of no others: ranges, and digests (RFC 9530).
    b"accept-ranges": _UNTRUE,
    b"content-md5": _UNTRUE,
    b"content-digest": _UNTRUE,
    b"repr-digest": _UNTRUE,
    b"digest": _UNTRUE,
}
_NO_TRANSFORM = b"no-transform"
_ACCEPT_ENCODING = b"Accept-Encoding"

_MEMBER = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*"
)


# What a client accepts.


def asked_coding(request: Headers) -> str:
    """The coding for the answer to a request with these fields, or "" for none."""
    accepted: list[bytes] = []
    for name, value in request:
        size = len(name)
        if size == 15 and name.lower() == b"accept-encoding":
            accepted.append(value)
        elif size == 13 and name.lower() == b"cache-control" and _NO_TRANSFORM in value.lower():
            # The client wants it as the service has it (RFC 9111, 5.2.1.6).
            return ""
    return chosen_coding(accepted) if accepted else ""


def chosen_coding(accept_encoding: Sequence[bytes]) -> str:
    """The best of our codings for these Accept-Encoding fields, or "" for none (RFC 9110, 12.5.3).

    The highest weight decides. Of equal ones that which is named goes before what ``*`` stands for, and then
    our own order: by ``*`` gzip comes first, for who says so means "whatever", and knows that at least.
    A member that breaks the grammar is not accepted.
    """
    value = b",".join(accept_encoding)
    return _chosen(value) if len(value) <= MAX_ACCEPTED else ""


@functools.lru_cache(512)
def _chosen(value: bytes) -> str:
    weights = _weights(value)
    rest = weights.pop("*", 0)
    candidates = []
    for place, coding in enumerate(CODINGS):
        named = coding in weights
        weight = weights.get(coding, rest)
        if weight and available(coding):
            candidates.append((weight, named, -place if named else place, coding))
    weight, _, _, best = max(candidates, default=(0, False, 0, ""))
    # Not encoded is accepted in any case; only a weight of its own makes that better than others.
    return best if weight >= weights.get("identity", 0) else ""


def _weights(value: bytes) -> dict[str, int]:
    """What is named, in lower case, and its weight in thousandths; said twice, the lower one counts."""
    weights: dict[str, int] = {}
    for text in value.split(b","):
        member = _MEMBER.fullmatch(text)
        if member is not None:
            coding = member[1].decode("ascii").lower()
            coding = "gzip" if coding == "x-gzip" else coding
            weight = 1000 if member[2] is None else round(float(member[2]) * 1000)
            weights[coding] = min(weight, weights.get(coding, 1000))
    return weights


# What is worth encoding, and may be.


@functools.lru_cache(512)
def _is_compressible_type(value: bytes) -> bool:
    media = value.partition(b";")[0].strip().lower()
    return media.startswith(b"text/") or media in _TYPES or media.endswith(_SUFFIXES)


def compressible(head: ResponseHead, method: bytes) -> bool:
    """Whether this answer to a request with this method is encoded for those who accept it.

    So it varies by Accept-Encoding, also for all others.
    """
    length = head.body
    if head.status in _NEVER or head.status < 200 or 0 <= length < MIN_SIZE:
        return False
    if length == NO_BODY and method != b"HEAD":
        return False
    types: list[bytes] = []
    for name, value in head.headers:
        rule = _RULES.get(name.lower())
        if rule is None:
            continue
        if rule == _ENCODED or (rule == _CACHE_CONTROL and _NO_TRANSFORM in value.lower()):
            return False
        if rule == _TYPE:
            types.append(value)
        elif rule == _LENGTH and length == NO_BODY and _is_small(value):
            return False
    return len(types) == 1 and len(types[0]) <= MAX_TYPE and _is_compressible_type(types[0])


def _is_small(length: bytes) -> bool:
    return length.isdigit() and len(length) <= len(b"%d" % MIN_SIZE) and int(length) < MIN_SIZE


# What heads say.


def encoded_head(head: ResponseHead, coding: str, size: int = CHUNKED) -> ResponseHead:
    """The head of the same answer in this coding: a strong entity tag becomes weak, the length is `size`.

    To a HEAD there is no body, as before.
    """
    headers: Headers = []
    for field in head.headers:
        rule = _RULES.get(field[0].lower())
        if rule == _ETAG:
            weak = weakened(field[1])
            if weak:
                headers.append((field[0], weak))
        elif rule != _LENGTH and rule != _UNTRUE:
            headers.append(field)
    headers.append((b"Content-Encoding", coding.encode("ascii")))
    if size >= 0:
        headers.append((b"Content-Length", b"%d" % size))
    body = NO_BODY if head.body == NO_BODY else size
    return attrs.evolve(head, headers=varying(headers), body=body)


def varied_head(head: ResponseHead) -> ResponseHead:
    """The head of an answer as it is, which for others is encoded."""
    headers = varying(head.headers)
    return head if headers is head.headers else head.with_lines(headers, field_lines(headers))


def unmodified_head(head: ResponseHead, request: Headers) -> ResponseHead:
    """The head of a 304 to a request with these fields.

    A client that has the encoded form asks by the weak tag, and takes no 304 with the strong one for an
    update of what it has (RFC 9111, 4.3.4). A Vary takes the place of the one that it has.
    """
    varies = False
    headers: Headers = []
    for field in head.headers:
        rule = _RULES.get(field[0].lower())
        if rule == _ETAG and _asks_weakly(request, field[1]):
            varies = True
            headers.append((field[0], weakened(field[1])))
        else:
            varies = varies or rule == _VARY
            headers.append(field)
    return attrs.evolve(head, headers=varying(headers)) if varies else head


def _asks_weakly(request: Headers, etag: bytes) -> bool:
    weak = weakened(etag)
    return weak != b"" and any(weak in value for name, value in request if name.lower() == b"if-none-match")


def weakened(etag: bytes) -> bytes:
    """The same entity tag, weak (RFC 9110, 8.8.3): the content is the same, the bytes are not.

    b"" for what is no entity tag: nobody could tell from it which of the two forms it is of.
    """
    tag = etag.removeprefix(b"W/")
    return b"W/" + tag if len(tag) > 1 and tag[:1] == tag[-1:] == b'"' else b""


def varying(headers: Headers) -> Headers:
    """The same fields, and Vary names Accept-Encoding behind all that it names already."""
    last = -1
    for place, (name, value) in enumerate(headers):
        if len(name) == 4 and name.lower() == b"vary":
            last = place
            names = [word.strip().lower() for word in value.split(b",")]
            if b"*" in names or b"accept-encoding" in names:
                return headers
    if last < 0:
        return [*headers, (b"Vary", _ACCEPT_ENCODING)]
    name, value = headers[last]
    value = b"%b, %b" % (value, _ACCEPT_ENCODING) if value else _ACCEPT_ENCODING
    return [*headers[:last], (name, value), *headers[last + 1 :]]


def true_trailers(trailers: Headers) -> Headers:
    """The trailer fields that are true of an encoded body as well."""
    return [field for field in trailers if _RULES.get(field[0].lower()) is None]
