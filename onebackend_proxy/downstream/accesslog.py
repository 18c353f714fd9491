"""The access log: one line for each request, whoever answered it, as JSON or in the combined format."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from .logfile import LogFile
from .logformat import FORMATS

FLUSH_SECONDS = 1.0
FLUSH_LINES = 300
AT_ONCE = 100
"""Lines that are handed over in one piece: where there is no room for a piece, all of it is dropped."""


class AccessLog:
    """Collects lines, and hands them to the file's thread once a second, or so many at a time.

    `reactor` keeps time, and calls from threads. `path` is a file, appended to, or ``-`` for standard output.
    Raises `errors.SettingError` if it cannot be written.
    """

    def __init__(self, reactor: Any, path: str, format: str) -> None:
        self._reactor = reactor
        form = FORMATS[format]
        self._line = form.line
        self._log = Logger()
        self._file = LogFile(path, self._say, lambda count: form.dropped(reactor.seconds(), count))
        self._told: list[tuple[Any, ...]] = []
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

    def write(self, *told: Any) -> None:
        """Write a line about a request, soon: see `entries.Tell`, whose arguments these are."""
        # Made lines later: a hundred in a row take half as long as each in its time.
        self._told.append(told)
        if self._later is None:
            self._later = self._reactor.callLater(FLUSH_SECONDS, self._flush_late)
        elif len(self._told) >= FLUSH_LINES:
            self.flush()

    def _flush_late(self) -> None:
        self._later = None
        self.flush()

    def flush(self) -> None:
        """Hand over what has come."""
        told, self._told = self._told, []
        line = self._line
        for first in range(0, len(told), AT_ONCE):
            self._file.put(b"".join([line(*each) for each in told[first : first + AT_ONCE]]))

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
