"""What a client sends on an HTTP/2 connection, cut into whole frames before `h2` sees any of it.

So nothing is buffered there: a frame or a header block that is too large is refused at its first bytes. And
here is counted what costs us much and the client little, which `h2` mostly answers without a word to anybody.
"""

from __future__ import annotations

from collections.abc import Container

import attrs
from h2.errors import ErrorCodes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME = 16384
"""Bytes of a frame's payload, the least that there may be (RFC 9113, 4.2)."""
TURN = 64
"""Frames read from one connection, after which it is the others' turn."""
MAX_SETTINGS = 256
"""Settings that a client may send in all: unknown ones are remembered as well."""

PATIENCE = 1000
"""Points that a client may spend at once; see `COSTS`."""
PATIENCE_PER_SECOND = 100
"""Points that come back each second, until it has all of them again."""
RESET_COST = 4
"""Points that a stream costs which the client resets, or makes us reset (CVE-2023-44487, CVE-2025-8671)."""
LARGE_COST = 20
"""Points for a head that is unpacked only to be refused for its size."""
SETTINGS_COST = 5
EMPTY_COST = 4
"""Points for a DATA frame with nothing in it."""
ANSWER_EARNS = 4
"""Points that an answer which went out whole brings back."""

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_HEADER = 9
_GOAWAY_LEAST = 8
_STREAM = 0x7FFFFFFF


class Fault(Exception):
    """The connection cannot go on; `code` is what GOAWAY says (RFC 9113, 7)."""

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@attrs.define
class Patience:
    """What a client may still ask of us that brings nobody anything, in points."""

    left: float = PATIENCE

    def spend(self, points: float, what: str) -> None:
        """Take points for `what`; raises `Fault` where there are none left."""
        self.left -= points
        if self.left < 0:
            raise Fault(ErrorCodes.ENHANCE_YOUR_CALM, f"too many {what}")

    def earn(self, points: float) -> None:
        """Give points back."""
        self.left = min(self.left + points, PATIENCE)


class FrameReader:
    """Holds what is no whole frame yet, and gives out the others one by one.

    `streams` are the ids of those open now, `unended` of those whose request is dropped; `block_limit` is for
    the bytes of one header block, as it comes. `went_away` says that the client has sent a GOAWAY, which `h2`
    does not get to see: it would not let us finish the answers under way (RFC 9113, 6.8).
    """

    def __init__(
        self, streams: Container[int], unended: Container[int], patience: Patience, block_limit: int
    ) -> None:
        self._streams = streams
        self._unended = unended
        self._patience = patience
        self._block_limit = block_limit
        self._held = b""
        self._at = 0
        self._preface = True
        self._first = True
        # Whether a header block has begun, and its bytes so far.
        self._in_block = False
        self._block_size = 0
        self._settings = 0
        self.went_away = False

    def __repr__(self) -> str:
        return f"<FrameReader: {len(self._held) - self._at} bytes held>"

    @property
    def in_head(self) -> bool:
        """Whether the preface, or a header block that has begun, is not complete."""
        return self._first or self._in_block

    @property
    def in_frame(self) -> bool:
        """Whether a frame has begun that is not complete, other than DATA."""
        return len(self._held) > self._at and not self.body_of

    @property
    def body_of(self) -> int:
        """The stream whose DATA frame has begun and is not complete, else 0."""
        head = self._held[self._at : self._at + _HEADER]
        return int.from_bytes(head[5:], "big") & _STREAM if len(head) == _HEADER and head[3] == _DATA else 0

    def add(self, data: bytes) -> None:
        """Bytes came."""
        self._held = self._held[self._at :] + data if self._held else data
        self._at = 0

    def next(self) -> bytes:
        """The next whole frame for `h2`, or b""; the first with the preface. Raises `Fault`."""
        data = self._held
        begin = at = self._at
        if self._preface:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise Fault(ErrorCodes.PROTOCOL_ERROR, "it does not begin with HTTP/2's preface")
            at += len(PREFACE)
        while len(data) - at >= _HEADER:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > MAX_FRAME:
                raise Fault(ErrorCodes.FRAME_SIZE_ERROR, f"a frame over {MAX_FRAME} bytes")
            follows = at + _HEADER + length
            if follows > len(data):
                break
            kind = data[at + 3]
            self._count(kind, data, at, length)
            self._preface = False
            if follows == len(data):
                self._held = b""
                follows = 0
            self._at = follows
            if kind != _GOAWAY or length < _GOAWAY_LEAST or self._in_block or any(data[at + 5 : at + 9]):
                return data[begin : follows or None]
            self.went_away = True
            if not follows:
                break
            begin = at = follows
        return b""

    def _count(self, kind: int, data: bytes, at: int, length: int) -> None:
        """A whole frame came: count what it costs."""
        flags = data[at + 4]
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & _STREAM
        if self._first:
            if kind != _SETTINGS or flags & _ACK:
                raise Fault(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._first = False
        spend = self._patience.spend
        if kind == _HEADERS:
            self._count_block(length, flags)
        elif kind == _DATA:
            padding = data[at + _HEADER] + 1 if flags & _PADDED and length else 0
            known = stream in self._streams or stream in self._unended
            if not known or (length <= padding and not flags & _END_STREAM):
                spend(EMPTY_COST, "DATA frames with nothing in them, or for streams that are closed")
        elif kind == _CONTINUATION:
            spend(1, "CONTINUATION frames")
            self._count_block(length, flags)
        elif kind == _RST_STREAM:
            spend(RESET_COST if stream in self._streams else 1, "streams reset")
        elif kind == _SETTINGS:
            self._settings += length // 6
            if self._settings > MAX_SETTINGS:
                raise Fault(ErrorCodes.ENHANCE_YOUR_CALM, f"more than {MAX_SETTINGS} settings")
            spend(1 if flags & _ACK else SETTINGS_COST, "SETTINGS frames")
        else:
            # PING, PRIORITY, WINDOW_UPDATE, and what is unknown: read and answered, or forgotten.
            spend(1, "frames that carry nothing")

    def _count_block(self, length: int, flags: int) -> None:
        """A part of a header block came (CVE-2024-27316: it need not have an end)."""
        size = self._block_size + length
        if size > self._block_limit:
            raise Fault(ErrorCodes.ENHANCE_YOUR_CALM, f"a header block over {self._block_limit} bytes")
        if flags & _END_HEADERS:
            self._in_block, self._block_size = False, 0
        else:
            self._in_block, self._block_size = True, size
