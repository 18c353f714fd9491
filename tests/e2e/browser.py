"""A Chromium without a window, which trusts an authority of the test's and finds all hosts at the edge."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = "chromium libnss3-tools"
INSTALL = f"apt-get update && apt-get install -y --no-install-recommends {PACKAGES}"
INSTALL_SECONDS = 150
"""A test that takes 240 is taken for one that hangs."""


class BrowserMissing(pytest.PytestWarning):
    """The tests with a browser did not run."""


def find_browser() -> tuple[str, str]:
    """Chromium, and the certutil with which it is told whom to trust; "" for what is not there."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or "", shutil.which("certutil") or ""


def install_browser() -> None:
    """Install both where that may be done without asking: as root, on Debian's kind of system.

    If it takes too long it goes on, for the next time: apt is not to be killed at work.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    installing = subprocess.Popen(
        ["sh", "-c", INSTALL],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        installing.wait(INSTALL_SECONDS)


class Browser:
    """Chromium with a home folder of its own."""

    def __init__(self, program: str, certutil: str, home: pathlib.Path) -> None:
        self._program = program
        self._certutil = certutil
        self._home = home
        self._database = home / ".pki" / "nssdb"
        self._database.mkdir(parents=True)
        self._certutil_does("-N", "--empty-password")

    def _certutil_does(self, *arguments: str) -> None:
        command = [self._certutil, "-d", f"sql:{self._database}", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def trust(self, name: str, root: pathlib.Path) -> None:
        """Trust this authority for web sites, as ``oo trust`` tells people to."""
        self._certutil_does("-A", "-t", "C,,", "-n", name, "-i", str(root))

    @contextlib.contextmanager
    def showing(self, url: str, ports: dict[int, int]) -> Iterator[pathlib.Path]:
        """A window on this URL, open meanwhile; of each host, a port of ours stands for one of the world's.

        Yields the file with what the browser has to say.
        """
        log = self._home / "browser.log"
        rules = ",".join(f"MAP *:{theirs} 127.0.0.1:{ours}" for theirs, ours in ports.items())
        command = [
            *(self._program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable", "--enable-logging=stderr"),
            *(f"--user-data-dir={self._home / 'profile'}", f"--host-resolver-rules={rules}"),
            url,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, "HOME": str(self._home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
