"""A log that is read while it is written: its last lines, and what is added, over rotation."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

_BLOCK = 64 * 1024
MAX_LINE = 1024 * 1024
"""Bytes without an end of line that are no line of a log."""


def backwards(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file, the last one first; leaves the file wherever."""
    at = file.seek(0, os.SEEK_END)
    # What stands before the line that begins in the block read last.
    rest = b""
    whole = False
    while at > 0:
        size = min(_BLOCK, at)
        at -= size
        file.seek(at)
        lines = (file.read(size) + rest).split(b"\n")
        rest = lines[0]
        if len(rest) > MAX_LINE:
            return
        for line in reversed(lines[1:]):
            # Behind the last end of a line stands one that is not complete.
            if whole:
                yield line
            whole = True
    if whole:
        yield rest


class LogReader:
    """Reads a log by its name: also in the file that takes that name when the log is rotated.

    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._held = b""

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def last(self, count: int, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """The last lines that are wanted, in order; what comes `new` stands behind them."""
        end = self._file.seek(0, os.SEEK_END)
        found: list[bytes] = []
        if count > 0:
            for line in backwards(self._file):
                if wanted(line):
                    found.append(line)
                    if len(found) == count:
                        break
        self._file.seek(self._whole_until(end))
        return found[::-1]

    def _whole_until(self, end: int) -> int:
        """Where the last whole line before `end` ends."""
        at = end
        while at > 0:
            size = min(_BLOCK, at)
            self._file.seek(at - size)
            found = self._file.read(size).rfind(b"\n")
            if found >= 0:
                return at - size + found + 1
            at -= size
        return 0

    def new(self) -> list[bytes]:
        """The whole lines that have come since the last time."""
        lines = self._added()
        if lines:
            return lines
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            # Moved away, and no other made yet.
            return []
        ours = os.fstat(self._file.fileno())
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            # Until the proxy writes into the other, this one may get more.
            if named.st_size:
                lines = self._added()
                self._file.close()
                self._file = self._path.open("rb", buffering=0)
                self._held = b""
        elif ours.st_size < self._file.tell():
            # Copied, and cut to nothing.
            self._file.seek(0)
            self._held = b""
        return lines + self._added()

    def _added(self) -> list[bytes]:
        lines: list[bytes] = []
        while data := self._file.read(_BLOCK):
            *whole, self._held = (self._held + data).split(b"\n")
            lines += whole
            if len(self._held) > MAX_LINE:
                self._held = b""
        return lines
