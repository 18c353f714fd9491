"""The tests of https://cache-tests.fyi, from npm: their server is the service, their client asks through us.

What they call required is counted. Only what docs/caching.rst names may fail, for the reason given there.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from . import programs
from .api import Api
from .examples import DOCS
from .proxy_process import running
from .waiting import end, free_port, wait_until

pytestmark = pytest.mark.once

JS = pathlib.Path(__file__).parent.parent / "js" / "http-cache-tests"
WANTED = 130
"""Of 155 that are required, as the issue has it; the revision on npm has 157."""


def environment() -> dict[str, str]:
    """One in which npm and the programs of packages find Node."""
    return os.environ | {"PATH": f"{programs.node().parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The tests, installed as their lock file says."""
    folder = tmp_path_factory.mktemp("http-cache-tests")
    for name in ("package.json", "package-lock.json", "run.mjs"):
        shutil.copy(JS / name, folder)
    install = [*programs.npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(install, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (
        "npm could not install http-cache-tests; this test needs the npm registry:\n" + done.stderr
    )
    return folder


@pytest.fixture
def origin(suite: pathlib.Path) -> Iterator[str]:
    """The server of the tests."""
    port = free_port()
    settings = {"protocol": "http", "port": str(port), "pidfile": str(suite / "server.pid")}
    variables = {f"npm_config_{name}": value for name, value in settings.items()}
    with (suite / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(programs.node()), "server/server.mjs"],
            cwd=suite / "node_modules" / "http-cache-tests",
            env=environment() | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: process.poll() is None and _listens(port), "the server of the tests listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def documented() -> set[str]:
    """The tests that docs/caching.rst says fail."""
    page = (DOCS / "caching.rst").read_text()
    part = page[page.index("cache-tests.fyi") :]
    return {
        name
        for line in re.findall(r"^   \* - (.*(?:\n     [^-].*)*)", part, re.MULTILINE)
        for name in re.findall(r"``([^`]+)``", line)
    }


def test_what_is_required_of_caches(suite, origin, tmp_path):
    port = free_port()
    options = ("--edge-test-mode", "--http", f"tcp:{port}:interface=127.0.0.1")
    with running(tmp_path, *options) as proxy:
        route = {"id": "127.0.0.1", "target": origin, "cache": True}
        Api(proxy.url).login().ok("PUT", "/proxy-svc/routes", {"routes": [route]})
        done = subprocess.run(
            [str(programs.node()), "--no-warnings", "run.mjs", f"http://127.0.0.1:{port}"],
            cwd=suite,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    required = {id: result for id, (kind, result) in results.items() if kind == "required"}
    failed = {id: result for id, result in required.items() if result is not True}
    assert len(required) - len(failed) >= WANTED, failed
    assert {*failed} == documented(), failed
