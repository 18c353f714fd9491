"""Real backends in processes of their own: nginx and a Node server."""

from __future__ import annotations

import json
import pathlib
import subprocess

import requests

from . import programs
from .waiting import end, free_port, wait_until

HERE = pathlib.Path(__file__).parent
BIG_FILE_SIZE = 100 * 1024 * 1024

NGINX_CONF = """
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 100000;
    client_body_temp_path {work}/client_body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            default_type text/plain;
            return 200 "nginx saw $request_uri for $host from $http_x_forwarded_for";
        }}
        location ~ ^/[^/]+/files/(.*)$ {{ alias {work}/files/$1; }}
        location ~ ^/[^/]+/empty$ {{ return 204; }}
    }}
}}
"""


class Server:
    """A process that listens on `port` of the loopback interface."""

    def __init__(self, command: list[str], port: int, work: pathlib.Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = work / "output.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, f"{command[0]} answers at {self.url}")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(
                f"{self._process.args!r} ended with {self._process.returncode}: {self._log.read_text()}"
            )
        try:
            return requests.get(self.url, timeout=5).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """End it."""
        end(self._process)


def start_nginx(work: pathlib.Path) -> Server:
    """nginx: echoes the request's target as text, and serves ``/<slug>/files/big`` of 100 MiB."""
    port = free_port()
    (work / "files").mkdir()
    with (work / "files" / "big").open("wb") as big:
        big.truncate(BIG_FILE_SIZE)
    conf = work / "nginx.conf"
    conf.write_text(NGINX_CONF.format(work=work, port=port))
    return Server([str(programs.nginx()), "-p", str(work), "-c", str(conf)], port, work)


def start_node(work: pathlib.Path) -> Server:
    """Node: `backend.mjs`, which tells about requests in JSON, and sends server-sent events."""
    port = free_port()
    return Server([str(programs.node()), str(HERE / "backend.mjs"), json.dumps({"port": port})], port, work)
