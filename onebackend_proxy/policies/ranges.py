"""A piece of an answer, as a client asks for it (RFC 9110, 14)."""

from __future__ import annotations

import re

_ONE = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
NOWHERE = (0, 0)
"""A range that begins behind the end: 416."""


def byte_range(value: bytes, size: int) -> tuple[int, int] | None:
    """The first byte of the one range that is asked for and the one behind its last, or `NOWHERE`.

    None where the whole is sent: what cannot be read, what is no range of bytes, and several of them, since
    a list of ranges costs whoever answers more than whoever asks (CVE-2011-3192).
    """
    found = _ONE.fullmatch(value)
    if found is None or found[1] == found[2] == b"":
        return None
    if not found[1]:
        # So many of the last bytes.
        length = min(int(found[2]), size)
        return (size - length, size) if length else NOWHERE
    first = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        return None
    return (first, min(last + 1, size)) if first < size else NOWHERE
