"""The heads of requests and answers: bytes all the way, as they stand between the two sides."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import attrs

from .errors import error_body

if TYPE_CHECKING:
    from .headers import SortedFields

Headers = list[tuple[bytes, bytes]]
"""Field lines in order: (name as received, value without surrounding white space)."""

# How a body is framed: a length in bytes (0 and up), or one of these.
NO_BODY = -1
"""There is none, and no header says so (a GET, a HEAD answer, 204, 304)."""
CHUNKED = -2
"""Transfer-Encoding: chunked, trailers may follow (RFC 9112, 7.1)."""
UNTIL_CLOSE = -3
"""An answer that ends when its connection does (RFC 9112, 6.3)."""


MAX_SHOWN = 256
"""Bytes of anything a client sent that a line of the program's log shows."""

HIDDEN = b"***"
"""What stands where a secret was."""

_NAME = re.compile(rb"[?&;]([^?&;=#]*)=")
_END = re.compile(rb"[&#]|\Z")
_USER = re.compile(rb"^([A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*@")
_SECRET = re.compile(
    rb"token|secret|passw|passphrase|pwd|api[-_]?key|access[-_]?key|signature|credential|jwt|session|^auth"
    rb"|^(?:sig|code|key|otp|sid)$"
)
_field = b": ".join
_PHRASES = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}


def field_lines(headers: Headers) -> bytes:
    """Fields as they stand in a head, each line with its end."""
    return b"\r\n".join(map(_field, headers)) + b"\r\n" if headers else b""


def shown(data: bytes) -> str:
    """What a client sent, fit for the program's log: printable, the rest as ``\\xNN``, and not endless."""
    return ascii(data)[2:-1] if len(data) <= MAX_SHOWN else f"{ascii(data[:MAX_SHOWN])[2:-1]}..."


def shown_url(url: bytes) -> str:
    """The same of a URL or request target, `without_secrets`."""
    return shown(without_secrets(url))


def without_secrets(url: bytes) -> bytes:
    """A URL or request target without its user, and without what its parameters with telling names say."""
    if b"@" in url:
        url = _USER.sub(lambda match: (match[1] or b"") + b"//" + HIDDEN + b"@", url)
    return _without_values(url) if b"=" in url else url


def _without_values(url: bytes) -> bytes:
    written: list[bytes] = []
    at = 0
    for name in _NAME.finditer(url):
        # Not within a value that is hidden; but where a value is a URL itself.
        if name.start() >= at and _SECRET.search(unquote_to_bytes(name[1]).lower()):
            written += url[at : name.end()], HIDDEN
            end = _END.search(url, name.end())
            at = end.start() if end is not None else len(url)
    return b"".join(written) + url[at:]


@attrs.define(eq=False)
class RequestHead:
    """A request as the client sent it; `target` is byte for byte.

    `flaw` is what a parser found wrong with it, once `headers` has found nothing that it has a status for.
    `block` are the field lines as they came, and `sorted` what `headers.sort_fields` made of them, where
    somebody has kept these.
    """

    method: bytes
    target: bytes
    headers: Headers
    version: bytes = b"HTTP/1.1"
    flaw: str = ""
    block: bytes = b""
    sorted: SortedFields | None = None


@attrs.frozen
class Answer:
    """An answer of the proxy's own, in the place of an upstream's: a redirect, say."""

    status: int
    headers: Headers
    body: bytes = b""


@attrs.define(eq=False)
class ResponseHead:
    """An answer's head, hop-by-hop fields already taken out; `body` is how its body is framed.

    `dated` says that it has a Date field; whoever sends it on adds one if not (RFC 9110, 6.6.1).
    `headers` is not to be changed in place: `lines` are the same as they go out, and a head that comes again
    is the same object (see `with_field`). `keep_alive` says whether the connection it came on may carry
    another; `upgrade` is what a 101 switches to.
    """

    status: int
    reason: bytes
    headers: Headers
    body: int = NO_BODY
    dated: bool = False
    keep_alive: bool = True
    upgrade: bytes = b""
    lines: bytes = attrs.field(init=False, repr=False)
    edited: tuple[object, ResponseHead] | None = attrs.field(default=None, init=False, repr=False)
    """By whom it was edited last, and what came of it: it is the same each time."""

    @lines.default
    def _lines(self) -> bytes:
        return field_lines(self.headers)

    def with_field(self, field: tuple[bytes, bytes]) -> ResponseHead:
        """The same with one more field."""
        return attrs.evolve(self, headers=[*self.headers, field])

    def with_lines(self, headers: Headers, lines: bytes) -> ResponseHead:
        """The same with other fields, of which it is known how they go out; a Date among them stays one."""
        # By hand: to make it as all others are made takes five times as long.
        made = ResponseHead.__new__(ResponseHead)
        made.status, made.reason, made.headers, made.body = self.status, self.reason, headers, self.body
        made.dated, made.keep_alive, made.upgrade = self.dated, self.keep_alive, self.upgrade
        made.lines, made.edited = lines, None
        return made


def refusal(status: int, message: str, method: bytes) -> tuple[ResponseHead, bytes]:
    """Our own error answer to a request with this method: its head, and its JSON body if it has one."""
    headers = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]
    if status == 405:
        headers.append((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
    return own_answer(Answer(status, headers, error_body(message)), method)


def own_answer(answer: Answer, method: bytes) -> tuple[ResponseHead, bytes]:
    """An answer of our own to a request with this method: its head, and its body if it has one."""
    size = len(answer.body)
    headers = [*answer.headers, (b"Content-Length", b"%d" % size)]
    head = ResponseHead(answer.status, _PHRASES.get(answer.status, b""), headers, size)
    return head, b"" if method == b"HEAD" else answer.body
