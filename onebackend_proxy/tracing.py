"""W3C Trace Context: a request that belongs to no trace begins one, where the operator wants that.

A trace that a client has begun is passed on as it is, with or without this: the proxy reports no span of its
own, so it has no place in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import getrandbits

from .headers import Network, OutgoingRequest, Peer, prepare_request
from .limits import DEFAULTS, Limits
from .messages import RequestHead, field_lines

# A later version may have more behind it; ff is none (Trace Context, 3.2.2).
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?"
)
_OURS = frozenset((b"traceparent", b"tracestate"))
_HEX_ID = re.compile(rb"(?!0{32})[0-9a-f]{32}")


def traced_request(
    head: RequestHead,
    peer: Peer,
    request_id: bytes,
    trusted: Sequence[Network] = (),
    limits: Limits = DEFAULTS,
) -> OutgoingRequest:
    """As `headers.prepare_request`; and what comes out belongs to a trace, its own if to no other."""
    request = prepare_request(head, peer, request_id, trusted, limits)
    parents = [value for name, value in request.headers if len(name) == 11 and name.lower() == b"traceparent"]
    if len(parents) != 1 or not is_traceparent(parents[0]):
        _begin_trace(request)
    return request


def is_traceparent(value: bytes) -> bool:
    """Whether it is a valid traceparent, of this version or of a later one."""
    match = _TRACEPARENT.fullmatch(value)
    return match is not None and (match["more"] is None or not value.startswith(b"00"))


def _begin_trace(request: OutgoingRequest) -> None:
    """Begin a trace, and drop what belongs to one that cannot be read (Trace Context, 3.3.1.1)."""
    # What the client sent stands first in the lines, and ours behind it.
    ours = request.lines[len(field_lines(request.headers)) :]
    kept = [field for field in request.headers if field[0].lower() not in _OURS]
    span = getrandbits(64) or 1
    kept.append((b"traceparent", b"00-%b-%016x-01" % (trace_id(request.request_id), span)))
    request.headers = kept
    request.lines = field_lines(kept) + ours


def trace_id(request_id: bytes) -> bytes:
    """The id of a trace that begins with this request: the request's own where that can be one."""
    plain = request_id.replace(b"-", b"").lower()
    return plain if _HEX_ID.fullmatch(plain) else b"%032x" % (getrandbits(128) or 1)
