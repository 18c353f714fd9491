"""The real program, started as a user starts it: ``twistd -n onebackend-proxy`` in a process."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import requests

import onebackend_proxy
from onebackend_proxy.acme_settings import OFF

from ..authorities import ACME_DIRECTORY, for_tests_only
from .waiting import free_port, wait_until

ADMIN_PASSWORD = "a-password-for-tests"
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without OB_* settings, finding the package these tests import.

    Nothing is ordered from an ACME directory unless `extra` names one, which is on this machine.
    """
    for_tests_only(extra.get(ACME_DIRECTORY, OFF))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OB_")}
    kept["PYTHONPATH"] = str(pathlib.Path(onebackend_proxy.__file__).parent.parent)
    kept["PYTHONUNBUFFERED"] = "1"
    return kept | {ACME_DIRECTORY: OFF} | extra


def command(*options: str) -> list[str]:
    """The command line that starts the proxy with these options."""
    for option, value in itertools.pairwise(options):
        if option == "--acme-directory":
            for_tests_only(value)
    return [*TWISTD, "onebackend-proxy", *options]


class ProxyProcess:
    """One running proxy: its port, folder and log, and how to stop it."""

    def __init__(
        self, work: pathlib.Path, *options: str, folder: pathlib.Path | None = None, **variables: str | None
    ) -> None:
        self.folder = folder or work / "folder"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._work = work
        self.options = options
        # A variable that is None stays unset.
        self.variables: dict[str, str | None] = {"OB_ADMIN_PASSWORD": ADMIN_PASSWORD, **variables}
        self.descriptors: tuple[int, ...] = ()
        self._log = work / f"proxy-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, once started."""
        assert self._process is not None, "not started"
        return self._process

    def log(self) -> str:
        """Everything it has written to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def start(self) -> ProxyProcess:
        """Start it and wait until it answers."""
        self.spawn()
        wait_until(self._answers, f"the proxy answers at {self.url}", 30)
        return self

    def spawn(self) -> None:
        """Start it, and do not wait."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments(),
                pass_fds=self.descriptors,
                cwd=self._work,
                env=environment(
                    **{name: value for name, value in self.variables.items() if value is not None}
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def arguments(self) -> list[str]:
        """The command line that starts it."""
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        return command("--listen", listen, "--folder", str(self.folder), *self.options)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the proxy ended with {self.process.returncode}:\n{self.log()}")
        try:
            return requests.get(f"{self.url}/user-svc/public-key", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def rss_kib(self) -> int:
        """Resident memory in KiB, from /proc."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1])

    def cpu_seconds(self) -> float:
        """Seconds of CPU it has used, from /proc."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 30) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the proxy still ran {seconds:.0f} s after SIGTERM:\n{self.log()}"
            ) from None

    def stop(self) -> None:
        """SIGTERM it and check that it ended well: exit code 0, nothing unexpected in the log."""
        self.terminate()
        code = self.wait()
        assert code == 0, f"exit code {code}:\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(folder: pathlib.Path, *options: str) -> Iterator[ProxyProcess]:
    """A proxy that runs meanwhile; at the end it must stop well."""
    proxy = ProxyProcess(folder, *options)
    try:
        yield proxy.start()
        proxy.stop()
    finally:
        proxy.kill()
