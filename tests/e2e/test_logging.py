"""The access log of the real program: full disks, rotation, readers that do not read; and `oo logs`."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from onebackend_proxy.passwords import hash_password

from . import test_daemon
from .disks import small_disk
from .edge import Edge
from .examples import DOCS, code_blocks, commands
from .policies import Reply, Service
from .proxy_process import ADMIN_PASSWORD, ProxyProcess, environment
from .raw_backend import RawBackend
from .waiting import free_port, wait_until

OO = [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()", "logs"]
FILE = "access log"


class Asking:
    """Asks a proxy for one thing after the other, all of which are numbered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self.count = 0

    def __call__(self, more: str = "") -> None:
        answer = self._session.get(f"{self._url}/nobody/{self.count}{more}", timeout=20)
        assert answer.status_code == 404
        self.count += 1

    def until(self, true: Callable[[], bool], more: str = "") -> None:
        """Ask until this is so."""
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, "it took too long"
            self(more)


def written(*paths: pathlib.Path) -> list[dict[str, Any]]:
    """All lines, each of which has to be whole."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def numbers(lines: list[dict[str, Any]]) -> list[int]:
    """The numbers that were asked for, in the order in which they were written."""
    targets = [line["target"] for line in lines if "target" in line]
    return [
        int(target.split("/")[2].partition("?")[0]) for target in targets if target.startswith("/nobody/")
    ]


def test_a_full_disk_drops_lines_and_nothing_else(tmp_path):
    folder = tmp_path / "disk"
    with small_disk(folder) as disk:
        log = folder / FILE
        proxy = ProxyProcess(tmp_path, "--access-log", str(log), folder=folder)
        try:
            proxy.start()
            ask = Asking(proxy.url)
            ask()
            wait_until(lambda: 0 in numbers(written(log)), "the first line is written")
            disk.fill(proxy.process.pid)
            ask.until(lambda: "lines are dropped" in proxy.log(), "?" + "x" * 2000)
            for _ in range(100):
                ask()
            disk.clear(proxy.process.pid)
            ask.until(lambda: "is written again" in proxy.log())
            ask()
            proxy.stop()
        finally:
            proxy.kill()
        lines = written(log)
    got = numbers(lines)
    dropped = sum(line.get("dropped", 0) for line in lines)
    assert dropped >= 1
    assert got == sorted(set(got)), "none twice, and in order"
    assert len(got) + dropped == ask.count
    assert got[0] == 0 and got[-1] == ask.count - 1
    assert proxy.log().count("lines are dropped") == 1


def test_rotation_loses_no_line(tmp_path, new_proxy):
    log = tmp_path / FILE
    proxy = new_proxy("--access-log", str(log))
    ask = Asking(proxy.url)
    old = [tmp_path / f"{FILE}.{number}" for number in range(3)]
    for path in old:
        for _ in range(50):
            ask()
        log.rename(path)
        proxy.process.send_signal(signal.SIGHUP)
        for _ in range(50):
            ask()
        wait_until(log.exists, "the new file")
    # Copied and cut to nothing, of which the proxy is not told.
    wait_until(lambda: len(numbers(written(*old, log))) == ask.count, "all is written")
    copied = tmp_path / f"{FILE}.3"
    shutil.copy(log, copied)
    os.truncate(log, 0)
    ask()
    proxy.stop()
    assert numbers(written(*old, copied, log)) == list(range(ask.count))
    assert log.read_bytes()[:1] == b"{"


def test_a_log_that_cannot_be_opened_again(tmp_path, new_proxy):
    log = tmp_path / FILE
    proxy = new_proxy("--access-log", str(log))
    log.rename(tmp_path / "old")
    log.mkdir()
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: f"cannot write {log}" in proxy.log(), "it says so")
    Asking(proxy.url)()
    proxy.stop()
    assert numbers(written(tmp_path / "old")) == [0]


def test_a_pipe_that_nobody_reads(tmp_path, new_proxy):
    pipe = tmp_path / FILE
    os.mkfifo(pipe)
    proxy = new_proxy("--access-log", str(pipe))
    ask = Asking(proxy.url)
    for _ in range(100):
        ask("?" + "x" * 2000)
    began = time.monotonic()
    proxy.stop()
    assert time.monotonic() - began < 10
    assert "could not be written in time" in proxy.log()


def test_standard_output_that_nobody_reads(tmp_path):
    proxy = ProxyProcess(tmp_path, "--logfile-is-not-ours", "x")
    arguments = proxy.arguments()[:-2]
    place = arguments.index("onebackend-proxy")
    arguments[place:place] = ["--logfile", str(tmp_path / "log")]
    variables = environment(OB_ADMIN_PASSWORD=ADMIN_PASSWORD)
    with subprocess.Popen(arguments, env=variables, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: _listens(tmp_path / "log"), "it listens")
            ask = Asking(proxy.url)
            for _ in range(200):
                ask("?" + "x" * 2000)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
        finally:
            process.kill()
    # As much as the pipe holds.
    assert numbers([json.loads(line) for line in lines]) == list(range(len(lines)))
    assert 10 < len(lines) < 200


def _listens(log: pathlib.Path) -> bool:
    return log.exists() and "listening on" in log.read_text()


def test_a_daemon_opens_it_again(tmp_path):
    port = free_port()
    log = tmp_path / FILE
    done = test_daemon.start(tmp_path, port, "--access-log", str(log))
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((tmp_path / "pid").read_text())
    try:
        wait_until(lambda: _listens(tmp_path / "log"), "the daemon listens")
        ask = Asking(f"http://127.0.0.1:{port}")
        ask()
        wait_until(lambda: log.stat().st_size, "a line of the daemon")
        log.rename(tmp_path / "old")
        os.kill(pid, signal.SIGHUP)
        wait_until(log.exists, "the new file")
        ask()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not test_daemon.is_running(pid), "the daemon has ended")
    assert numbers(written(tmp_path / "old", log)) == [0, 1]


def test_a_hangup_with_no_file_ends_nothing(new_proxy):
    """Who comes from nginx sends it to have settings read."""
    proxy = new_proxy("--access-log", "off")
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "SIGHUP: the access log goes to no file" in proxy.log(), "the log says so")
    proxy.stop()


@pytest.fixture
def oo(tmp_path):
    """Run `oo logs` as somebody on the proxy's machine."""

    def run(folder: pathlib.Path, *options: str) -> list[str]:
        variables = environment(OB_FOLDER=str(folder), HOME=str(tmp_path))
        done = subprocess.run([*OO, *options], env=variables, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def test_oo_finds_the_log_by_itself(tmp_path, new_proxy, oo):
    proxy = new_proxy("--access-log", FILE)
    ask = Asking(proxy.url)
    for _ in range(3):
        ask()
    wait_until(lambda: len(numbers(written(tmp_path / FILE))) == 3, "all is written")
    rows = oo(proxy.folder, "-n", "2", "--status", "4xx")
    assert rows[0].startswith("TIME")
    assert [row.split()[2] for row in rows[1:]] == ["404", "404"]
    assert rows[2].endswith("no service 'nobody' is registered")
    proxy.stop()


def test_the_page(tmp_path, oo):
    """What docs/logging.rst shows is what there is: fields, columns, and the command."""
    log = tmp_path / FILE
    own = Edge(tmp_path, "--access-log", str(log))
    try:
        own.start()
        own.certify("shop.example.com")
        own.route("shop.example.com", "http://127.0.0.1:1")
        own.curl("https://shop.example.com/cart?token=secret")
        own.stop()
    finally:
        own.kill()
    [example] = code_blocks("logging.rst", "json")
    [real] = [line for line in written(log) if line["route"] == "shop.example.com"]
    assert list(json.loads(example)) == list(real)
    table = (DOCS / "logging.rst").read_text().partition("* - field")[2].partition("\n\n")[0]
    documented = re.findall(r"``(\w+)``", "\n".join(re.findall(r"\* - (.*)", table)))
    assert sorted(documented) == sorted(real)
    [(command, shown)] = list(commands("logging.rst"))
    rows = oo(own.folder, *command[2:])
    assert rows[0].split() == shown[0].split()
    assert (
        "GET shop.example.com/cart?token=***" in rows[1] and "GET shop.example.com/cart?token=***" in shown[1]
    )


def test_what_policies_have_found_out(tmp_path):
    log = tmp_path / FILE
    own = Edge(tmp_path, "--access-log", str(log))
    page = Service(lambda _: Reply(b"x" * 5000, ("Content-Type: text/plain", "Cache-Control: max-age=60")))
    password = {"user": "ada", "passwordHash": hash_password("correct horse")}
    with RawBackend(page) as backend:
        try:
            own.start()
            own.certify("a.example")
            own.route("a.example", backend.url, cache=True, compress=True)
            own.route("a.example/ada", backend.url, access={"basicAuth": [password]}, stripPrefix=True)
            own.route("a.example/few", backend.url, rateLimit={"requests": 1, "per": "1h"})
            for path in ("x", "x", "few", "few", "ada/x"):
                own.curl(f"https://a.example/{path}", "--header", "Accept-Encoding: gzip")
            own.curl("https://a.example/ada/x", "--user", "ada:correct horse")
            own.stop()
        finally:
            own.kill()
    names = ("route", "target", "status", "cache", "user", "reason")
    lines = [line for line in written(log) if line["host"] == "a.example"]
    assert [tuple(line[name] for name in names) for line in lines] == [
        ("a.example", "/x", 200, "miss", "", ""),
        ("a.example", "/x", 200, "hit", "", ""),
        ("a.example/few", "/few", 200, "", "", ""),
        ("a.example/few", "/few", 429, "", "", "too many requests: slow down"),
        ("a.example/ada", "/ada/x", 401, "", "", "user name and password, please"),
        ("a.example/ada", "/ada/x", 200, "", "ada", ""),
    ]
    miss, hit, plain, *_refused = lines
    assert miss["upstream"] and not hit["upstream"] and hit["upstreamMilliseconds"] is None
    # What the client got.
    assert 0 < miss["bytesOut"] == hit["bytesOut"] < plain["bytesOut"] == 5000


def test_a_line_for_everything(tmp_path):
    """One line on each plane, in each protocol, with and without TLS."""
    log = tmp_path / FILE
    own = Edge(tmp_path, "--access-log", str(log))
    try:
        own.start()
        own.certify("a.example")
        own.route("a.example", "http://127.0.0.1:1")
        for protocol in ("--http1.1", "--http2"):
            own.curl("https://a.example/x?token=secret", protocol, "-u", "ada:secret", "-b", "a=secret")
            own.curl("http://a.example/x", protocol)
        own.stop()
    finally:
        own.kill()
    told = collections.Counter(
        (line["protocol"], line["tls"], line["route"], line["status"])
        for line in written(log)
        if line["host"].startswith("a.example")
    )
    assert told[("HTTP/1.1", "TLSv1.3", "a.example", 502)] == 1
    assert told[("HTTP/2.0", "TLSv1.3", "a.example", 502)] == 1
    assert told[("HTTP/1.1", "", "", 308)] == 2
    assert "secret" not in log.read_text()
