"""HTTP/1.1 on the wire: heads to bytes and bytes to heads (httptools), and an upstream's bytes to answers.

Parsers see one whole head at a time. Where it ends, and how the body behind it is framed, is decided here and
in `headers`: a parser's own idea of that is never asked.
"""

from __future__ import annotations

import contextlib
import re

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from .chunked import BARE_LF, ChunkedBody
from .errors import (
    BadRequest,
    HeadTooLarge,
    ProxyError,
    TargetTooLong,
    UpstreamFailed,
    VersionNotSupported,
)
from .headers import NOT_HTTP, OutgoingRequest, is_known_method, not_served, prepare_response, sort_fields
from .limits import DEFAULTS, Limits
from .messages import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Headers,
    RequestHead,
    ResponseHead,
    field_lines,
    shown,
)

__all__ = [
    "ResponseReader",
    "check_begun",
    "chunk",
    "last_chunk",
    "request_bytes",
    "request_head",
    "response_bytes",
]

MAX_REMEMBERED = 2048
"""Bytes of a head that is compared with the next one on its connection; a longer one is forgotten."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +([^\x00-\x20\x7f]+) +(HTTP/1\.[01])\r\n")
_OTHER_VERSION = re.compile(rb"[^ \r\n]+ +[^ \r\n]+ +HTTP/(?!1\.[01])[0-9]\.[0-9]\r\n")
_TOKEN_START = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_STATUS_LINES: dict[tuple[int, bytes], bytes] = {}


def request_bytes(request: OutgoingRequest, path: bytes = b"") -> bytes:
    """The head of a request that goes upstream, its target behind `path`, its framing field last."""
    body = request.body
    if body == NO_BODY:
        framing = b"\r\n"
    elif body == CHUNKED:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        framing = b"Content-Length: %d\r\n\r\n" % body
    if request.expects_continue:
        framing = b"Expect: 100-continue\r\n" + framing
    if request.upgrade:
        framing = b"Connection: Upgrade\r\nUpgrade: %b\r\n%b" % (request.upgrade, framing)
    return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b%b" % (
        request.method,
        path,
        request.target,
        request.host,
        request.lines,
        framing,
    )


def _status_line(status: int, reason: bytes) -> bytes:
    line = _STATUS_LINES.get((status, reason))
    if line is None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        # Reasons come from upstreams: bounded, so that none of them can grow it.
        if len(_STATUS_LINES) < 256 and len(reason) < 64:
            _STATUS_LINES[(status, reason)] = line
    return line


def response_bytes(head: ResponseHead, http10: bool, close: bool, more: bytes = b"") -> tuple[bytes, bool]:
    """The head of an answer to the client with these lines more, and whether its body goes out in chunks.

    An HTTP/1.0 client cannot read chunks: to it a body of unknown length ends with the connection
    (RFC 9112, 6.1), and the caller must pass `close`.
    """
    body = head.body
    chunked = not http10 and (body in (CHUNKED, UNTIL_CLOSE))
    tail = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"
    if close:
        tail = b"Connection: close\r\n" + tail
    elif http10:
        tail = b"Connection: keep-alive\r\n" + tail
    return b"%b%b%b%b" % (_status_line(head.status, head.reason), head.lines, more, tail), chunked


def interim_bytes(head: ResponseHead) -> bytes:
    """A 1xx answer; a 101 says what it switches to (RFC 9110, 15.2.2)."""
    switch = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade if head.status == 101 else b""
    return b"%b%b%b\r\n" % (_status_line(head.status, head.reason), switch, head.lines)


def chunk(data: bytes) -> bytes:
    """`data` (not empty) as one chunk (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """The last chunk and the trailer section."""
    return b"0\r\n%b\r\n" % field_lines(trailers) if trailers else b"0\r\n\r\n"


class _Fields:
    """Collects the field lines that httptools finds in one head."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        self.lines: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser leaves the white space behind a value (RFC 9112, 5).
        self.lines.append((name, value.rstrip(b" \t")))


class _CompleteFields(_Fields):
    """Knows, too, whether the parser came to the end of them."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        super().__init__()
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True


def request_head(data: bytes, limits: Limits = DEFAULTS, before: RequestHead | None = None) -> RequestHead:
    """The head of a request, up to and with its empty line.

    `before` is the one before it on the same connection: clients say much the same each time, and field
    lines that are the same to the byte are not read again. Raises the `errors.ProxyError` that answers it.
    Where all fields were read before the parser gave up, its complaint is left in `RequestHead.flaw`: the
    rules in `headers` may have a better word for it, and must be asked first.
    """
    match = _REQUEST_LINE.match(data)
    if match is None:
        raise _bad_request_line(data, limits)
    if len(data) > limits.head_size:
        raise HeadTooLarge(f"the head is over {limits.head_size} bytes")
    method, target, version = match.groups()
    block = data[match.end() :]
    # The parser's view of the lines may depend on these two.
    if before is not None and block == before.block and method == before.method and version == before.version:
        return RequestHead(method, target, before.headers, version, before.flaw, block, before.sorted)
    fields = _Fields()
    flaw = ""
    try:
        HttpRequestParser(fields).feed_data(data)
    except HttpParserUpgrade:
        # It would read what follows as another protocol: that is not for it to say.
        pass
    except HttpParserError as error:
        flaw = str(error)
        _check_complete(data, method, flaw)
    return RequestHead(method, target, fields.lines, version, flaw, block, sort_fields(fields.lines))


def _check_complete(data: bytes, method: bytes, flaw: str) -> None:
    """Raise unless the parser's complaint is about the framing, which comes after all fields."""
    if not is_known_method(method):
        raise not_served(method)
    again = _CompleteFields()
    with contextlib.suppress(HttpParserError):
        HttpRequestParser(again).feed_data(data)
    if not again.complete:
        raise BadRequest("the request is not valid HTTP/1.1", detail=flaw)


def check_begun(data: bytes, limits: Limits = DEFAULTS, known: int = 0) -> None:
    """Raise for a request head that has not come whole, if it cannot become a valid one any more.

    So many bytes of it have passed before: with one byte at a time, all of them each time would add up.
    """
    if data and not known and not _TOKEN_START.match(data):
        raise BadRequest("the request is not valid HTTP/1.1", detail=f"begins with {shown(data[:8])}")
    line = data.find(b"\r\n")
    # A method, the version, and what stands between them.
    if line < 0 and len(data) > limits.target_size + 64:
        raise TargetTooLong(f"the request target is over {limits.target_size} bytes")
    if line >= max(known - 1, 0) and not _REQUEST_LINE.match(data):
        raise _bad_request_line(data, limits)
    if len(data) > limits.head_size:
        raise HeadTooLarge(f"the head is over {limits.head_size} bytes")
    if BARE_LF.search(data, max(known - 1, 0)):
        raise BadRequest("the request is not valid HTTP/1.1", detail="a line ends with LF alone")


def _bad_request_line(data: bytes, limits: Limits) -> ProxyError:
    line = data.partition(b"\r\n")[0]
    if len(line) > limits.target_size + 64:
        return TargetTooLong(f"the request target is over {limits.target_size} bytes")
    if _OTHER_VERSION.match(data):
        return VersionNotSupported("only HTTP/1.0 and HTTP/1.1 are served here")
    return BadRequest("the request line is not METHOD TARGET HTTP/1.1")


def response_head(data: bytes, method: bytes) -> ResponseHead:
    """The head of an answer to a request with this method, up to and with its empty line.

    Raises `errors.UpstreamFailed` where it is not HTTP/1.0 or HTTP/1.1, or its framing ambiguous.
    """
    match = _STATUS_LINE.match(data)
    if match is None:
        raise UpstreamFailed(NOT_HTTP, detail=f"begins with {shown(data[:40])}")
    fields = _Fields()
    try:
        HttpResponseParser(fields).feed_data(data)
    except HttpParserUpgrade:
        # A 101: whether it was asked for is seen by whoever asked.
        pass
    except HttpParserError as error:
        raise UpstreamFailed(NOT_HTTP, detail=str(error)) from None
    version, status, reason = match.groups()
    return prepare_response(method, version == b"1", int(status), reason or b"", fields.lines)


# What a reader waits for next.
_NOTHING, _HEAD, _LENGTH, _CHUNKS, _REST, _TUNNEL = range(6)


class ResponseReader:
    """Reads the answers on one upstream connection and tells a subclass what came, in past tense.

    The subclass calls `expect_answer` once per request and `read` with what the socket gives. An answer that
    nobody asked for raises.
    """

    limits = DEFAULTS
    _method = b""
    _upgrade = b""
    _next = _NOTHING
    _left = 0
    _chunks: ChunkedBody
    _held = b""
    _interim = 0
    # The head before, as it came, the method that it answered, and what was read in it.
    _raw = b""
    _raw_method = b""
    _head: ResponseHead

    # What the subclass makes of it.

    def interim_received(self, head: ResponseHead) -> None:
        """A 1xx answer came; the final one is still to come."""
        raise NotImplementedError

    def head_received(self, head: ResponseHead) -> None:
        """The final answer's head came, or the 101 asked for: then the bytes after it are its body."""
        raise NotImplementedError

    def body_received(self, data: bytes) -> None:
        """A piece of the body came, not empty, out of its framing."""
        raise NotImplementedError

    def answer_ended(self, trailers: Headers) -> None:
        """The answer is complete."""
        raise NotImplementedError

    # What the subclass calls.

    def expect_answer(self, method: bytes, upgrade: bytes = b"") -> None:
        """A request with this method was sent, asking for this protocol if any: its answer is next."""
        self._method = method
        self._upgrade = upgrade
        self._interim = 0
        self._next = _HEAD

    def read(self, data: bytes) -> None:
        """Take bytes from the socket; raises `errors.UpstreamFailed` where they are not valid HTTP."""
        if self._next == _HEAD:
            data = self._read_heads(data)
        if not data:
            return
        if self._next == _LENGTH:
            self._read_length(data)
        elif self._next == _CHUNKS:
            self._read_chunks(data)
        elif self._next == _NOTHING:
            raise UpstreamFailed(NOT_HTTP, detail=f"unasked bytes: {shown(data[:40])}")
        elif self._next != _HEAD:
            self.body_received(data)

    def read_eof(self) -> bool:
        """The connection ended; true if that completes an answer (no length, no chunks)."""
        if self._next in (_REST, _TUNNEL):
            self._next = _NOTHING
            self.answer_ended([])
            return True
        return False

    def _read_heads(self, data: bytes) -> bytes:
        """Read 1xx answers and the head of the final one; returns what is left of `data`."""
        # What was looked at before need not be again, or one byte at a time would add up.
        known = len(self._held)
        if known:
            data, self._held = self._held + data, b""
        while True:
            end = data.find(b"\r\n\r\n", max(known - 3, 0)) + 4
            if end < 4:
                self._hold_head(data, known)
                return b""
            known = 0
            raw = data[:end]
            if raw == self._raw and self._method == self._raw_method:
                # A service that is asked the same says the same; its head has been read already.
                head = self._head
            else:
                if end > self.limits.answer_head_size:
                    raise UpstreamFailed(NOT_HTTP, detail="a head over the limit")
                head = response_head(raw, self._method)
                if end <= MAX_REMEMBERED:
                    self._raw, self._raw_method, self._head = raw, self._method, head
            data = data[end:]
            if head.status >= 200:
                self._begin(head)
                return data
            if head.status == 101:
                if not self._upgrade or head.upgrade.lower() != self._upgrade.lower():
                    raise UpstreamFailed(NOT_HTTP, detail="switched protocols unasked")
                self._next = _TUNNEL
                self.head_received(head)
                return data
            self._interim += 1
            if self._interim > self.limits.interim_answers:
                raise UpstreamFailed(NOT_HTTP, detail="endless 1xx answers")
            self.interim_received(head)

    def _hold_head(self, data: bytes, known: int) -> None:
        if not b"HTTP/1.".startswith(data[:7]) or BARE_LF.search(data, max(known - 1, 0)):
            raise UpstreamFailed(NOT_HTTP, detail=f"begins with {shown(data[:40])}")
        if len(data) > self.limits.answer_head_size:
            raise UpstreamFailed(NOT_HTTP, detail="a head over the limit")
        self._held = data

    def _begin(self, head: ResponseHead) -> None:
        """The final head came: what follows it is the body, if there is one."""
        body = head.body
        if body > 0:
            self._next = _LENGTH
            self._left = body
        elif body == CHUNKED:
            self._next = _CHUNKS
            self._chunks = ChunkedBody(self.limits)
        elif body == UNTIL_CLOSE:
            self._next = _REST
        else:
            self._next = _NOTHING
        self.head_received(head)
        if self._next == _NOTHING:
            self.answer_ended([])

    def _read_length(self, data: bytes) -> None:
        left = self._left
        size = len(data)
        if size < left:
            self._left = left - size
            self.body_received(data)
            return
        self._next = _NOTHING
        self.body_received(data if size == left else data[:left])
        self.answer_ended([])
        if size > left:
            self.read(data[left:])

    def _read_chunks(self, data: bytes) -> None:
        try:
            body, rest = self._chunks.read(data)
        except BadRequest as error:
            raise UpstreamFailed(NOT_HTTP, detail=error.message) from None
        if body:
            self.body_received(body)
        if rest is not None:
            self._next = _NOTHING
            self.answer_ended(self._chunks.trailers)
            if rest:
                self.read(rest)
