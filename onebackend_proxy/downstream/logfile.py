"""A file that a thread of its own appends to: no slow or full disk and no unread pipe stops anybody else."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

from ..errors import SettingError

MAX_WAITING = 16 * 1024 * 1024
"""Bytes that wait for the file; what comes beyond is dropped. The longest lines of one flush have room."""
LAST_SECONDS = 2.0
"""How long the end waits for what was handed over before."""
# What is written to a pipe in one piece of this size is not mixed with what others write (POSIX, write()).
_WHOLE_IN_PIPES = 4096
_MODE = 0o640

Say = Callable[[str], None]
"""Says something in the program's log; called by the thread, too."""


def open_log(path: str) -> int:
    """Open a file to append to, or make it; raises OSError. Nobody has to read a pipe for that."""
    flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    try:
        is_pipe = stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        is_pipe = False
    # For writing only, it would wait for somebody who reads; and his going would be an error.
    return os.open(path, flags | (os.O_RDWR if is_pipe else os.O_WRONLY), _MODE)


class LogFile:
    """Whole lines, as far as they can be written; those that cannot be are counted in `dropped`.

    `path` is a file's, or ``-`` for standard output. When lines are written again after some were dropped,
    a line tells of them, which `told` makes of their number. Raises `errors.SettingError`.
    """

    def __init__(self, path: str, say: Say, told: Callable[[int], bytes]) -> None:
        self._path = "" if path == "-" else os.path.abspath(path)
        self._say = say
        self._told = told
        self._todo: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._lock = Lock()
        self._waiting = 0
        self._untold = 0
        self.dropped = 0
        # The rest of a line whose beginning could be written.
        self._torn = b""
        self._closed = False
        self._file = self._open()

    def _open(self) -> int:
        if not self._path:
            # twistd redirects sys.stdout into its own log.
            if sys.__stdout__ is None:
                raise SettingError("--access-log: there is no standard output")
            return sys.__stdout__.fileno()
        try:
            return open_log(self._path)
        except OSError as error:
            raise SettingError(f"--access-log: cannot write {self._path}: {error.strerror}") from None

    @property
    def path(self) -> str | None:
        """The file's absolute path; None for standard output."""
        return self._path or None

    # For everybody else.

    def put(self, lines: bytes) -> None:
        """Write these lines soon, or drop them."""
        with self._lock:
            full = self._closed or self._waiting + len(lines) > MAX_WAITING
            if not full:
                self._waiting += len(lines)
        if full:
            self._drop(lines.count(b"\n"), "what it is written to takes no more")
            return
        self._hand_over(lines)

    def reopen(self) -> None:
        """Open the file anew, behind what was handed over before: its name may be another file's by now."""
        if self._path and not self._closed:
            self._hand_over(b"")

    def close(self) -> bool:
        """Write what was handed over, and close; whether it could be written in time."""
        if self._closed:
            return True
        self._closed = True
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join(LAST_SECONDS)
            if self._thread.is_alive():
                return False
        if self._path:
            os.close(self._file)
        return True

    def _hand_over(self, lines: bytes) -> None:
        if self._thread is None:
            # Not before there is need: a thread does not survive the fork that makes a daemon.
            self._thread = Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        self._todo.put(lines)

    def _drop(self, count: int, why: str) -> None:
        with self._lock:
            first = not self._untold
            self._untold += count
            self.dropped += count
        if first and count:
            self._say(f"the access log cannot be written, lines are dropped: {why}")

    # In the thread.

    def _run(self) -> None:
        while (lines := self._todo.get()) is not None:
            if lines:
                self._write(lines)
                with self._lock:
                    self._waiting -= len(lines)
            else:
                self._open_again()

    def _open_again(self) -> None:
        try:
            file = open_log(self._path)
        except OSError as error:
            self._say(f"the access log stays what it is: cannot write {self._path}: {error.strerror}")
            return
        before, self._file = self._file, file
        os.close(before)
        if self._torn:
            self._torn = b""
            self._drop(1, "its file was changed")

    def _write(self, lines: bytes) -> None:
        """Write these lines, behind what is owed of those before; what cannot be is dropped."""
        untold = self._untold
        owed = self._torn + (self._told(untold) if untold else b"")
        data = owed + lines if owed else lines
        written, error = self._write_out(data)
        in_line = data[written - 1] != _LINE_END if written else bool(self._torn)
        self._torn = b""
        if in_line:
            end = data.index(b"\n", written) + 1
            self._torn = data[written:end]
            written = end
        if untold and written >= len(owed):
            with self._lock:
                self._untold -= untold
            if error is None:
                self._say(f"the access log is written again; {untold} lines were dropped")
        if error is not None:
            self._drop(data.count(b"\n", max(written, len(owed))), error.strerror or str(error))

    def _write_out(self, data: bytes) -> tuple[int, OSError | None]:
        """How many bytes could be written, and why not all."""
        at = 0
        try:
            mode = os.fstat(self._file).st_mode
            pieces = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
            view = memoryview(data)
            while at < len(data):
                end = _piece_end(data, at) if pieces else len(data)
                try:
                    at += os.write(self._file, view[at:end])
                except BlockingIOError:
                    _wait_for_room(self._file)
        except OSError as error:
            return at, error
        return at, None


_LINE_END = ord("\n")


def _piece_end(data: bytes, at: int) -> int:
    """Where a piece of whole lines ends that is not mixed with what others write, or one line over that."""
    end = data.rfind(b"\n", at, at + _WHOLE_IN_PIPES) + 1
    return end or data.find(b"\n", at) + 1


def _wait_for_room(file: int) -> None:
    room = select.poll()
    room.register(file, select.POLLOUT)
    room.poll(1000)
