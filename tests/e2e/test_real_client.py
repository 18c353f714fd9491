"""1Backend's own client from npm, driven by Node against the real proxy."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

from . import programs
from .proxy_process import ADMIN_PASSWORD

JS = pathlib.Path(__file__).parent.parent / "js"
FILES = ("package.json", "package-lock.json", "client.test.mjs")


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory) -> pathlib.Path:
    """A copy of tests/js with the client installed as its lock file says."""
    folder = tmp_path_factory.mktemp("js")
    for name in FILES:
        shutil.copy(JS / name, folder)
    install = [*programs.npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    path = f"{programs.node().parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        install, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (
        "npm could not install @1backend/client; this test needs the npm registry:\n" + done.stderr
    )
    return folder


def test_the_real_client(proxy, client_folder):
    env = os.environ | {"OB_SERVER_URL": proxy.url, "OB_ADMIN_PASSWORD": ADMIN_PASSWORD}
    done = subprocess.run(
        [str(programs.node()), "--test", "--test-reporter=spec", "client.test.mjs"],
        cwd=client_folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout
    assert "pass 0" not in done.stdout
