"""twistd without -n: it forks after the proxy was made, and tells its caller how the start went."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys

from .api import Api
from .proxy_process import ADMIN_PASSWORD, environment
from .waiting import free_port, wait_until


def start(folder: pathlib.Path, port: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Run twistd until its caller may go on."""
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    files = ["--pidfile", str(folder / "pid"), "--logfile", str(folder / "log"), "--rundir", str(folder)]
    options = ["--listen", f"tcp:{port}:interface=127.0.0.1", "--folder", str(folder / "data")]
    return subprocess.run(
        [*twistd, *files, "onebackend-proxy", *options, *more],
        env=environment() | {"OB_ADMIN_PASSWORD": ADMIN_PASSWORD},
        capture_output=True,
        text=True,
        timeout=60,
    )


def save_route(admin: Api, host: str) -> None:
    admin.ok("PUT", "/proxy-svc/routes", {"routes": [{"id": host, "target": "http://10.0.0.1"}]})


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_daemon_serves_and_ends(tmp_path):
    port = free_port()
    done = start(tmp_path, port)
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((tmp_path / "pid").read_text())
    try:
        wait_until(lambda: "listening on" in (tmp_path / "log").read_text(), "the daemon listens", 20)
        # The store's thread and connection are on this side of the fork.
        admin = Api(f"http://127.0.0.1:{port}").login()
        save_route(admin, "a.example")
        # Whoever else opens and closes the database finds out that it is in use: SQLite's locks, which a
        # fork would lose, keep the journal from being taken away under the daemon.
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "proxy.sqlite")) as other:
            other.execute("SELECT count(*) FROM routes").fetchone()
        save_route(admin, "b.example")
        assert not [name for name in open_files(pid) if "(deleted)" in name]
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid), "the daemon has ended", 20)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_port_in_use_is_told_to_the_caller(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = start(tmp_path, taken.getsockname()[1])
    assert done.returncode == 1
    # twistd tells no more than 100 bytes; the log has the rest.
    assert "--listen" in done.stderr and "Address a" in done.stderr
    told = lambda: "Address already in use" in (tmp_path / "log").read_text()  # noqa: E731
    wait_until(told, "the log has the whole of it", 10)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "pid").exists()


def open_files(pid: int) -> list[str]:
    """What the process has open; it opens and closes connections while we look."""
    names = []
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(link))
    return names
