"""Where pebble is: built by ``go install`` once on a machine, else on PATH, else from ``apt-get``.

Nothing here is quiet about what did not work: it is on stderr, and in the failure where nothing worked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import attrs
import pytest

from .debian import apt_install

# Moved by hand, so that a red run is red because of us. ARI and profiles came after Debian's 2.4.
NEWEST = "v2.10.1"
MODULE = "github.com/letsencrypt/pebble/v2"
GO_SECONDS = 300.0
# What failed is not tried again meanwhile, by this run or another.
RETRY_SECONDS = 6 * 60 * 60.0


@attrs.frozen
class Programs:
    """One version of pebble (``newest`` or ``debian``), and its DNS server."""

    version: str
    pebble: pathlib.Path
    names: pathlib.Path


def find_programs(version: str = "") -> Programs:
    """The pebble of this version, ``newest`` or ``debian``, installed if need be; "": the newest there is.

    Where there is none at all the test fails. Where only the other version can be had it is skipped: the
    newest needs Go.
    """
    said = []
    for each in sorted(_FINDERS, key=lambda one: one != version):
        try:
            found = _FINDERS[each]()
        except _Missing as error:
            said.append(f"pebble ({each}): {error}")
            print(said[-1], file=sys.stderr, flush=True)
            continue
        if each == version or not version:
            return found
        pytest.skip("; ".join(said))
    pytest.fail(f"no pebble, an ACME server that these tests need: {'; '.join(said)}", pytrace=False)


class _Missing(Exception):
    """This version cannot be had; the text says what would help."""


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "onebackend-proxy-tests"


def _newest() -> Programs:
    folder = _cache() / f"pebble-{NEWEST}"
    with _one_at_a_time(folder):
        if not (folder / "done").exists():
            on_path = _on_path("newest")
            if on_path is not None:
                return on_path
            go = shutil.which("go")
            if go is None:
                raise _Missing("Go is not on PATH")
            _once(folder / "failed", lambda: _go_install(go, folder))
            (folder / "done").touch()
    return Programs("newest", folder / "pebble", folder / "pebble-challtestsrv")


def _go_install(go: str, folder: pathlib.Path) -> None:
    command = [go, "install", f"{MODULE}/cmd/...@{NEWEST}"]
    _run(command, GO_SECONDS, GOBIN=str(folder), GOFLAGS="")


def _debian() -> Programs:
    found = _on_path("debian")
    if found is None:
        with _one_at_a_time(_cache() / "pebble-debian"):
            _once(_cache() / "pebble-debian" / "failed", _apt_install)
        found = _on_path("debian")
    if found is None:
        raise _Missing("there is none on PATH, also after apt-get install")
    return found


def _on_path(version: str) -> Programs | None:
    pebble, names = shutil.which("pebble"), shutil.which("pebble-challtestsrv")
    if pebble is None or names is None:
        return None
    # The option came with profiles.
    told = subprocess.run([pebble, "-h"], capture_output=True, text=True, timeout=20, check=False)
    if ("-version" in told.stderr) != (version == "newest"):
        return None
    return Programs(version, pathlib.Path(pebble), pathlib.Path(names))


def _apt_install() -> None:
    failed = apt_install("pebble")
    if failed:
        raise _Missing(failed)


def _run(command: list[str], seconds: float, **variables: str) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            timeout=seconds,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise _Missing(f"{' '.join(command)} failed: {error.stderr[-1000:].strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Missing(f"{' '.join(command)} failed: {error}") from error


def _once(failed: pathlib.Path, install: Callable[[], None]) -> None:
    """Call `install`, unless it failed lately."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - failed.stat().st_mtime < RETRY_SECONDS:
            raise _Missing(f"{failed.read_text()} (not tried again for hours; remove {failed} to try)")
    try:
        install()
    except _Missing as error:
        failed.write_text(str(error))
        raise


@contextlib.contextmanager
def _one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_FINDERS = {"newest": _newest, "debian": _debian}
