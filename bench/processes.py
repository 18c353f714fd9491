"""Processes of the bench: pinned to a core, waited for, measured from /proc, and ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sites import NamedConnection, Site

HERE = pathlib.Path(__file__).parent
PROXY_CORE = 0
LOAD_CORE = 1
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A proxy that runs: where it listens, and the process (with its children) that is measured.

    With a `site` it speaks TLS there. `variant` is what of its front desk is measured, see `variants`, and
    `log` the file it writes its access log to.
    """

    port: int
    pid: int
    site: Site | None = None
    variant: str = ""
    log: pathlib.Path | None = None

    def url(self, path: str) -> str:
        """Where to ask it for that path: with a site, under the first of its names."""
        if self.site:
            return f"https://{self.site.names[0]}:{self.port}{path}"
        return f"http://127.0.0.1:{self.port}{path}"

    def connection(self, name: str = "") -> http.client.HTTPConnection:
        """A connection to it; over TLS under that name, or the first, whose certificate must be good."""
        if self.site:
            return NamedConnection(name or self.site.names[0], self.port, self.site.roots, timeout=20)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def _pids(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            found += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        ticks = 0
        for pid in self._pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICK

    def _status(self, name: str) -> int:
        total = 0
        for pid in self._pids():
            lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            total += 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))
        return total

    def memory(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS:")

    def peak(self) -> int:
        """The most resident bytes since `forget_peak`."""
        return self._status("VmHWM:")

    def fair_memory(self) -> int:
        """Resident bytes now, those that its processes share counted once (PSS)."""
        total = 0
        for pid in self._pids():
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
        return total

    def log_lines(self, at_least: int = 0) -> int:
        """Lines in its access log; waits a moment for so many, as they may be written in pieces."""
        if self.log is None:
            return 0
        until = time.monotonic() + 3
        while True:
            with contextlib.suppress(OSError):
                lines = int(subprocess.check_output(["wc", "-l", str(self.log)]).split()[0])
                if lines >= at_least or time.monotonic() > until:
                    return lines
            time.sleep(0.1)

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        for pid in self._pids():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def raise_file_limit() -> int:
    """As many open files as this machine lets us have, here and in every child; gives that number."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def program(name: str) -> str | None:
    """Where a program is: beside this Python first, as a wheel puts it there; None if it is nowhere."""
    beside = pathlib.Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def pinned(command: list[str], core: int) -> list[str]:
    """The same command on that core only."""
    return ["taskset", "-c", str(core), *command]


def _wait_for(port: int, child: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    raise OSError("it ended at once")


def _end(child: subprocess.Popen[bytes]) -> None:
    # The second signal tells ours not to wait for what is in flight.
    for wait in (3, 10):
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait)
            return
    child.kill()
    child.wait()


@contextlib.contextmanager
def process(
    command: list[str], core: int, port: int, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to a core that listens on the port; ended at the end, its output shown if it died."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            pinned(command, core), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        try:
            _wait_for(port, child)
            yield child
        except OSError as error:
            output.seek(0)
            said = output.read().decode("utf-8", "replace").strip().splitlines()[-3:]
            raise RuntimeError(f"{command[0]}: {error}: {' '.join(said)}") from error
        finally:
            _end(child)
