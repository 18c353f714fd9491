"""Takes bodies out of the chunked transfer coding (RFC 9112, 7.1), strictly, one piece at a time."""

from __future__ import annotations

import re

from .errors import BadRequest
from .limits import DEFAULTS, Limits
from .messages import Headers

__all__ = ["ChunkedBody", "fields_in"]

# 15 digits: a chunk of an exabyte is no chunk. An extension is read, bounded, and dropped (7.1.1).
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_SIZE_LINE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\r\n")

BARE_LF = re.compile(rb"(?<!\r)\n")
"""No line of HTTP/1.1 may end so here, though RFC 9112, 2.2 lets a recipient take it."""

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


def fields_in(section: bytes) -> Headers:
    """The field lines of a whole section, each ended by CRLF; raises `errors.BadRequest` (RFC 9112, 5)."""
    fields: Headers = []
    position = 0
    while position < len(section):
        match = _FIELD.match(section, position)
        if match is None:
            raise BadRequest("a trailer field is not NAME: VALUE")
        fields.append((match[1], match[2]))
        position = match.end()
    return fields


class ChunkedBody:
    """One body under way. Memory is bounded by the head's limits, whatever is sent."""

    __slots__ = ("_held", "_left", "_limits", "_state", "trailers")

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._limits = limits
        self._state = _SIZE
        self._left = 0
        self._held = b""
        self.trailers: Headers = []
        """The fields of the trailer section, once the body is complete."""

    def read(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take bytes as they came; returns the body in them, and what follows it (None: it is not complete).

        Raises `errors.BadRequest` where they are not chunks, or over a limit.
        """
        # What was looked at before need not be again, or one byte at a time would add up.
        known = len(self._held) if self._state == _TRAILERS else 0
        if self._held:
            data, self._held = self._held + data, b""
        position = 0
        pieces: list[bytes] = []
        rest = None
        while True:
            if self._state == _DATA:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                if piece:
                    pieces.append(piece)
                if self._left:
                    break
                self._state = _DATA_END
            if self._state == _DATA_END:
                if not data.startswith(b"\r\n", position):
                    self._hold_end(data[position:])
                    break
                position += 2
                self._state = _SIZE
            if self._state == _SIZE:
                match = _SIZE_LINE.match(data, position)
                if match is None:
                    self._hold_size(data[position:])
                    break
                self._begin_chunk(match)
                position = match.end()
            if self._state == _TRAILERS:
                rest = self._read_trailers(data[position:], known)
                break
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), rest

    def _begin_chunk(self, match: re.Match[bytes]) -> None:
        self._check_extension(match[2] or b"")
        self._left = int(match[1], 16)
        self._state = _DATA if self._left else _TRAILERS

    def _check_extension(self, extension: bytes) -> None:
        limit = self._limits.chunk_extension_size
        if len(extension) > limit:
            raise BadRequest(f"the extensions of a chunk are over {limit} bytes")

    def _hold_end(self, begun: bytes) -> None:
        if begun not in (b"", b"\r"):
            raise BadRequest("a chunk does not end where its size says")
        self._held = begun

    def _hold_size(self, begun: bytes) -> None:
        if not _SIZE_LINE_BEGUN.fullmatch(begun):
            raise BadRequest("the size of a chunk is not a size")
        self._check_extension(begun[16:])
        self._held = begun

    def _read_trailers(self, data: bytes, known: int) -> bytes | None:
        if data.startswith(b"\r\n"):
            return data[2:]
        end = data.find(b"\r\n\r\n", max(known - 3, 0))
        if end < 0:
            if BARE_LF.search(data, max(known - 1, 0)):
                raise BadRequest("a line of the trailer section ends with LF alone")
            if len(data) > self._limits.head_size:
                raise BadRequest("the trailer section is over the limit")
            self._held = data
            return None
        if end > self._limits.head_size or data.count(b"\n", 0, end) >= self._limits.head_fields:
            raise BadRequest("the trailer section is over the limit")
        self.trailers = fields_in(data[: end + 2])
        return data[end + 4 :]
