"""HTTP/1.1 on the wire: heads to bytes, and an upstream's bytes to answers (httptools, strict framing)."""

from __future__ import annotations

import re

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from .errors import ProxyError, UpstreamFailed
from .headers import NOT_HTTP, prepare_response
from .messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Headers, RequestHead, ResponseHead

__all__ = ["RequestHead", "ResponseReader", "chunk", "last_chunk", "request_bytes", "response_bytes"]

MAX_QUIET = 64 * 1024
"""Bytes an upstream may send without a byte of body among them: heads, 1xx, chunk extensions, trailers."""
MAX_INTERIM = 16
"""1xx answers before the final one."""

_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_STATUS_LINES: dict[tuple[int, bytes], bytes] = {}


def _fields(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def request_bytes(method: bytes, target: bytes, headers: Headers, body: int) -> bytes:
    """The head of a request that goes upstream, its framing field last."""
    if body == NO_BODY:
        framing = b"\r\n"
    elif body == CHUNKED:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        framing = b"Content-Length: %d\r\n\r\n" % body
    return b"%b %b HTTP/1.1\r\n%b%b" % (method, target, _fields(headers), framing)


def _status_line(status: int, reason: bytes) -> bytes:
    line = _STATUS_LINES.get((status, reason))
    if line is None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        # Reasons come from upstreams: bounded, so that none of them can grow it.
        if len(_STATUS_LINES) < 256 and len(reason) < 64:
            _STATUS_LINES[(status, reason)] = line
    return line


def response_bytes(head: ResponseHead, http10: bool, close: bool) -> tuple[bytes, bool]:
    """The head of an answer to the client, and whether its body goes out in chunks.

    An HTTP/1.0 client cannot read chunks: to it a body of unknown length ends with the connection
    (RFC 9112, 6.1), and the caller must pass `close`.
    """
    chunked = not http10 and head.body in (CHUNKED, UNTIL_CLOSE)
    tail = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    if close:
        tail += b"Connection: close\r\n"
    elif http10:
        tail += b"Connection: keep-alive\r\n"
    return b"%b%b%b\r\n" % (_status_line(head.status, head.reason), _fields(head.headers), tail), chunked


def interim_bytes(head: ResponseHead) -> bytes:
    """A 1xx answer."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, _fields(head.headers))


def chunk(data: bytes) -> bytes:
    """`data` (not empty) as one chunk (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """The last chunk and the trailer section."""
    return b"0\r\n%b\r\n" % _fields(trailers) if trailers else b"0\r\n\r\n"


class ResponseReader:
    """Reads the answers on one upstream connection and tells a subclass what came, in past tense.

    The subclass calls `expect_answer` once per request and `read` with what the socket gives. The parser
    knows neither that a HEAD answer has no body nor that the end of the connection ends a body, so the
    framing is tracked here. An answer that nobody asked for raises.
    """

    _parser: HttpResponseParser
    _method = b""
    _awaiting = False
    _reading_body = False
    _body = NO_BODY
    _renew = False
    _start = b""
    _tail = b""
    _quiet = 0
    _interim = 0

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._headers: Headers = []
        self._reason = b""

    # What the subclass makes of it.

    def interim_received(self, head: ResponseHead) -> None:
        """A 1xx answer came; the final one is still to come."""
        raise NotImplementedError

    def head_received(self, head: ResponseHead, keep_alive: bool) -> None:
        """The final answer's head came; `keep_alive` says whether the connection outlives it."""
        raise NotImplementedError

    def body_received(self, data: bytes) -> None:
        """A piece of the body came, not empty, out of its framing."""
        raise NotImplementedError

    def answer_ended(self, trailers: Headers) -> None:
        """The answer is complete."""
        raise NotImplementedError

    # What the subclass calls.

    def expect_answer(self, method: bytes) -> None:
        """A request with this method was sent: its answer is next."""
        self._method = method
        self._awaiting = True
        self._interim = 0
        self._quiet = 0
        self._start = self._tail = b""

    def read(self, data: bytes) -> None:
        """Take bytes from the socket; raises `errors.UpstreamFailed` where they are not valid HTTP."""
        self._quiet += len(data)
        if len(self._start) < 5 and self._awaiting:
            # The parser takes RTSP and ICE for HTTP, and does not tell.
            self._start = (self._start + data).lstrip(b"\r\n")[:5]
            if not b"HTTP/".startswith(self._start):
                raise UpstreamFailed(NOT_HTTP, detail=f"begins with {self._start!r}")
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise UpstreamFailed(NOT_HTTP, detail="switched protocols unasked") from None
        except HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, ProxyError):
                raise cause from None
            raise
        except HttpParserError as error:
            raise UpstreamFailed(NOT_HTTP, detail=str(error)) from None
        if self._method == b"HEAD":
            self._tail = (self._tail + data)[-4:]
            if self._renew:
                self._renew = False
                self._parser = HttpResponseParser(self)
                # The beginning of a chunk fires no callback, but it is no end of a head either.
                if self._tail != b"\r\n\r\n":
                    raise UpstreamFailed(NOT_HTTP, detail="a body to a HEAD request")
        # After the feed: the bytes of one read are bounded, what they add up to is what matters. Trailers
        # and chunk extensions fire no callback while they last, so they are counted here too.
        if self._quiet > MAX_QUIET:
            raise UpstreamFailed(NOT_HTTP, detail="more head, extension or trailer bytes than the limit")

    def read_eof(self) -> bool:
        """The connection ended; true if that completes an answer (no length, no chunks)."""
        if self._reading_body and self._body == UNTIL_CLOSE:
            self._reading_body = False
            self.answer_ended([])
            return True
        return False

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Part of httptools' protocol."""
        if not self._awaiting:
            raise UpstreamFailed(NOT_HTTP, detail="an answer to no request")
        self._headers = []
        self._reason = b""

    def on_status(self, status: bytes) -> None:
        """Part of httptools' protocol; a long reason comes in pieces."""
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of httptools' protocol; trailers come this way too, after the body."""
        # The parser leaves the white space behind a value (RFC 9112, 5).
        self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Part of httptools' protocol."""
        parser = self._parser
        status = parser.get_status_code()
        version = parser.get_http_version()
        if version not in ("1.1", "1.0") or not 100 <= status <= 999 or status == 101:
            raise UpstreamFailed(NOT_HTTP, detail=f"HTTP/{version} {status}")
        if not _REASON.fullmatch(self._reason):
            raise UpstreamFailed(NOT_HTTP, detail=f"reason {self._reason!r}")
        raw = self._headers
        self._headers = []
        head = prepare_response(self._method, version == "1.1", status, self._reason, raw)
        if status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise UpstreamFailed(NOT_HTTP, detail="endless 1xx answers")
            self.interim_received(head)
            return
        self._awaiting = False
        self._body = head.body
        self._reading_body = True
        self.head_received(head, parser.should_keep_alive() and head.body != UNTIL_CLOSE)
        if self._method == b"HEAD":
            # The parser would wait for a body; whatever it finds from here on nobody asked for.
            self._renew = True
            self._reading_body = False
            self.answer_ended([])

    def on_body(self, data: bytes) -> None:
        """Part of httptools' protocol."""
        if not self._reading_body:
            raise UpstreamFailed(NOT_HTTP, detail="a body to a HEAD request")
        self._quiet = 0
        self.body_received(data)

    def on_message_complete(self) -> None:
        """Part of httptools' protocol."""
        if self._reading_body:
            self._reading_body = False
            trailers = self._headers
            self._headers = []
            self.answer_ended(trailers)
