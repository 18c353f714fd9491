"""What tests need of Debian's packages, installed by themselves where that may be done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

SECONDS = 180.0


def apt_install(package: str) -> str:
    """Install it, by the lists of packages that are here, else by new ones; "", or why it did not work."""
    if shutil.which("apt-get") is None:
        return f"{package} is not there, and there is no apt-get"
    with _one_at_a_time():
        install = ("install", "-y", "--no-install-recommends", package)
        return _apt_get(*install) and (_apt_get("update") or _apt_get(*install))


def _apt_get(*words: str) -> str:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*prefix, "apt-get", *words]
    try:
        done = subprocess.run(
            command,
            timeout=SECONDS,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)} failed: {error}"
    if done.returncode == 0:
        return ""
    return f"{' '.join(command)}: {done.stderr[-1000:].strip() or done.returncode}"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Among all processes: apt-get refuses to wait for another."""
    with (pathlib.Path(tempfile.gettempdir()) / f"apt-get-of-tests-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
