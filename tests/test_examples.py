"""The examples of the documentation, run as a reader would."""

from __future__ import annotations

import http.server
import pathlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import pytest
import requests

from .e2e.proxy_process import environment

EXAMPLES = pathlib.Path(__file__).parent.parent / "docs" / "examples"
SECONDS = 30


class Service(http.server.BaseHTTPRequestHandler):
    """A service that says what it was asked, and gives back what it is given piece by piece."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.path} for {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read1(left)
            left -= len(piece)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Not a word."""


@pytest.fixture
def service() -> Iterator[str]:
    """A service on a port of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def first_line(stream: IO[str]) -> str:
    """The first line of a program's output, or a failure that does not wait for ever."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    return lines.get(timeout=SECONDS).strip()


@pytest.fixture
def embedded(tmp_path: pathlib.Path) -> Iterator[str]:
    """The URL of the running example; its data folder is `tmp_path` / data."""
    with (tmp_path / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "embedded.py"), "--port", "0", "--folder", "data"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = first_line(process.stdout)
            assert url.startswith("http://127.0.0.1:"), (tmp_path / "stderr").read_text()
            yield url.rstrip("/")
            process.terminate()
            process.wait(SECONDS)
            assert (tmp_path / "stderr").read_text() == ""
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def call(method: str, url: str, token: str = "", body: object = None) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.request(method, url, json=body, headers=headers, timeout=SECONDS)


def test_embedded(embedded: str, service: str, tmp_path: pathlib.Path) -> None:
    assert call("GET", f"{embedded}/").text == "The services are below /services.\n"
    assert call("GET", f"{embedded}/hello/x").status_code == 404

    services = f"{embedded}/services"
    unknown = call("GET", f"{services}/hello/x")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "no service 'hello' is registered"})

    password = (tmp_path / "data" / "admin-password").read_text().strip()
    credentials = {"appHost": "unnamed", "slug": "1backend", "password": password}
    token = call("POST", f"{services}/user-svc/login", body=credentials).json()["token"]["token"]
    instance = {"url": service, "slug": "hello"}
    assert call("PUT", f"{services}/registry-svc/instance", token, instance).status_code == 201

    # The mount is taken off, the slug stays, and the client's Host too.
    answer = call("GET", f"{services}/hello/a%2Fb?c=d")
    assert answer.text == f"/hello/a%2Fb?c=d for {embedded.removeprefix('http://')}"

    assert_streams(embedded)


def assert_streams(url: str) -> None:
    """A piece of the body comes back before the next one is sent."""
    host, _colon, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as client:
        client.sendall(b"POST /services/hello/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
        received = b""
        deadline = time.monotonic() + SECONDS
        while b"hello" not in received and time.monotonic() < deadline:
            received += client.recv(65536)
        client.sendall(b"world")
        while b"0\r\n\r\n" not in received and time.monotonic() < deadline:
            received += client.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.index(b"hello") < received.index(b"world")
