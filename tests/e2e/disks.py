"""Disks that are full when a test says so."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import subprocess
from collections.abc import Iterator
from typing import Protocol

SIZE = 16 * 1024 * 1024


class Disk(Protocol):
    """Where a proxy's folder is."""

    def fill(self, pid: int) -> None:
        """From now on this process writes nothing more there."""

    def clear(self, pid: int) -> None:
        """It may write again."""


class _Mounted:
    """A disk of its own: what is full is full for everybody."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self, pid: int) -> None:
        """See `Disk`."""
        with self._ballast.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def clear(self, pid: int) -> None:
        """See `Disk`."""
        self._ballast.unlink()


class _Limited:
    """Where nothing may be mounted: no file grows beyond what the database's log has reached by now."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def fill(self, pid: int) -> None:
        """See `Disk`."""
        (log,) = self._folder.glob("*-wal")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))

    def clear(self, pid: int) -> None:
        """See `Disk`."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[Disk]:
    """Have `folder` on a small disk of its own if we may mount one, else the next best."""
    folder.mkdir(mode=0o700)
    if not _mount(folder):
        yield _Limited(folder)
        return
    try:
        yield _Mounted(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: pathlib.Path) -> bool:
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "none", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0
