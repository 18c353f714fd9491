"""The access log: one line for each request, whoever answered it, as JSON or in the combined format."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ..exchange import Exchange
from .entries import Caller
from .logfile import LogFile
from .logformat import FORMATS

FLUSH_SECONDS = 1.0
FLUSH_BYTES = 128 * 1024


class AccessLog:
    """Collects lines, and hands them to the file's thread once a second, or so many bytes at a time.

    `reactor` keeps time, and calls from threads. `path` is a file, appended to, or ``-`` for standard output.
    Raises `errors.SettingError` if it cannot be written.
    """

    def __init__(self, reactor: Any, path: str, format: str) -> None:
        self._reactor = reactor
        form = FORMATS[format]
        self._line = form.line
        self._log = Logger()
        self._file = LogFile(path, self._say, lambda count: form.dropped(reactor.seconds(), count))
        self._lines: list[bytes] = []
        self._size = 0
        self._later: IDelayedCall | None = None

    def _say(self, message: str) -> None:
        self._reactor.callFromThread(self._log.warn, "{message}", message=message)

    @property
    def dropped(self) -> int:
        """How many lines could not be written since the start."""
        return self._file.dropped

    @property
    def path(self) -> str | None:
        """The file that it goes to; None if that is standard output."""
        return self._file.path

    def write(
        self,
        caller: Caller,
        now: float,
        began: float,
        id: bytes,
        target: bytes,
        status: int,
        bytes_in: int,
        bytes_out: int,
        exchange: Exchange | None,
        reason: str,
    ) -> None:
        """Write a line about a request, soon: see `entries.Tell`."""
        line = self._line(caller, now, began, id, target, status, bytes_in, bytes_out, exchange, reason)
        self._lines.append(line)
        self._size += len(line)
        if self._later is None:
            self._later = self._reactor.callLater(FLUSH_SECONDS, self._flush_late)
        elif self._size >= FLUSH_BYTES:
            self.flush()

    def _flush_late(self) -> None:
        self._later = None
        self.flush()

    def flush(self) -> None:
        """Hand over what has come."""
        lines = self._lines
        if lines:
            self._lines = []
            self._size = 0
            self._file.put(b"".join(lines))

    def reopen(self) -> None:
        """Go on in whatever file has the name now, for those who move the old one away."""
        self.flush()
        self._file.reopen()

    def close(self) -> None:
        """Write what has come, which takes no longer than `logfile.LAST_SECONDS`, and close the file."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self.flush()
        if not self._file.close():
            self._log.warn("the last lines of the access log could not be written in time")


def show_where(link: pathlib.Path, log: AccessLog | None) -> None:
    """Let `link` lead to the log's file, so that ``oo logs`` finds it; or to nothing, if it is no file."""
    path = None if log is None else log.path
    # Whatever is in the way, and is no such link, stays; so does the proxy, where nothing can be written.
    with contextlib.suppress(OSError):
        if link.is_symlink():
            link.unlink()
        if path is not None and path != str(link.absolute()):
            link.symlink_to(path)
