"""`oo demo`: a proxy, a service behind it, and a request that goes through both."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource

from onebackend_proxy.cli.client import Client, Refusal
from onebackend_proxy.cli.config import DEFAULT_APP_HOST
from onebackend_proxy.cli.session import admin_password, token_of
from onebackend_proxy.cli.shell import pretty
from onebackend_proxy.folder import ADMIN_PASSWORD
from onebackend_proxy.records import ADMIN_SLUG

DEFAULT_PORT = 11337
START_LIMIT = 20.0
STOP_LIMIT = 15.0
SLUG = "hello-svc"
_SHOWN_HEADERS = ("Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id")
# What the demo may take from the environment: with a folder of yours, its secrets are yours too.
_KEPT_VARIABLES = ("OB_ADMIN_PASSWORD", "OB_ENCRYPTION_KEY")


@click.command("demo", cls=click.Command)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free one."
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Data folder; a temporary one if you give none.",
)
@click.option("--once", is_flag=True, help="Make the one request and end.")
@click.pass_context
def demo(ctx: click.Context, port: int, folder: pathlib.Path | None, once: bool) -> None:
    """Start a proxy and a sample service behind it, and send a request through."""
    chosen = ctx.get_parameter_source("port") is ParameterSource.DEFAULT
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated_like_interrupted())
        port = free_port(port, may_change=chosen)
        own_folder = folder is None
        if folder is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oo-demo-")))
        environ = demo_environ(os.environ, secrets_too=not own_folder)
        client = stack.enter_context(running_proxy(port, folder, environ))
        service = stack.enter_context(sample_service())
        register_and_call(client, service, environ, folder)
        click.echo(f"\nTry it yourself:\n\n    curl {client.url}/{SLUG}/world\n")
        if not once:
            _wait_for_ctrl_c()
        click.echo("Stopping.")


def _say(text: str) -> None:
    click.echo(f"* {text}")


def free_port(port: int, *, may_change: bool) -> int:
    """Return `port` if nobody listens there, else (where we may) a free one; 0 is a free one too."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not may_change:
                raise Refusal(f"port {port} cannot be used: {error.strerror}; try --port 0") from None
        else:
            return int(probe.getsockname()[1])
    found = free_port(0, may_change=False)
    _say(f"Port {port} is taken, so this demo uses port {found}.")
    return found


def demo_environ(environ: Mapping[str, str], *, secrets_too: bool) -> dict[str, str]:
    """Return the environment without settings that would change what the demo does."""
    kept = _KEPT_VARIABLES if secrets_too else ()
    rest = {name: value for name, value in environ.items() if not name.startswith("OB_") or name in kept}
    # A demo asks nobody outside for anything.
    return rest | {"OB_PROXY_ACME_DIRECTORY": "off"}


@contextlib.contextmanager
def running_proxy(port: int, folder: pathlib.Path, environ: Mapping[str, str]) -> Iterator[Client]:
    """Start the real proxy and give a client of it once it answers; stop it at the end."""
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
    command += ["onebackend-proxy", "--listen", f"tcp:{port}:interface=127.0.0.1", "--folder", str(folder)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        # A session of its own: Ctrl-C reaches us only, and we stop it in our order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environ),
            start_new_session=True,
        )
        try:
            client = Client(f"http://127.0.0.1:{port}", timeout=10)
            _say(f"Starting the proxy at {client.url}, data in {folder}")
            _wait_until_answering(process, client, log)
            yield client
        finally:
            _stop(process)


def _wait_until_answering(process: subprocess.Popen[bytes], client: Client, log: Any) -> None:
    deadline = time.monotonic() + START_LIMIT
    dots = time.monotonic() + 1
    while True:
        if process.poll() is not None:
            raise Refusal(f"the proxy ended at once: {_last_lines(log)}")
        with contextlib.suppress(Refusal):
            client.call("GET", "/user-svc/public-key")
            return
        now = time.monotonic()
        if now > deadline:
            raise Refusal(f"the proxy gave no answer within {START_LIMIT:g} seconds: {_last_lines(log)}")
        if now > dots:
            _say("... still starting")
            dots = now + 2
        time.sleep(0.05)


def _last_lines(log: Any, count: int = 10) -> str:
    """Print the end of the proxy's log, and return its last line."""
    log.seek(0)
    lines = [line for line in log.read().splitlines() if line.strip()]
    for line in lines[-count:-1]:
        click.echo(f"  {line}", err=True)
    return lines[-1] if lines else "it said nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Sample(http.server.BaseHTTPRequestHandler):
    """Answers every GET with what it saw of the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name: self.headers[name] for name in _SHOWN_HEADERS if name in self.headers}
        said = {"service": SLUG, "method": self.command, "path": self.path, "headers": headers}
        body = json.dumps(said).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the demo's."""


class _SampleServer(http.server.ThreadingHTTPServer):
    """A server of ours, not of the terminal's."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that the proxy drops as it stops is no news."""


@contextlib.contextmanager
def sample_service() -> Iterator[str]:
    """Run the service in a thread; gives its URL."""
    server = _SampleServer(("127.0.0.1", 0), _Sample)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        _say(f"Started a sample service at {url}; it answers with what it sees of a request")
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def register_and_call(client: Client, service: str, environ: Mapping[str, str], folder: pathlib.Path) -> None:
    """Do what an operator does: an account for the service, its instance, and a first request."""
    found = admin_password(environ, folder)
    if found is None:
        raise Refusal(f"{folder / ADMIN_PASSWORD}: there is no password of the admin to read")
    password, source = found
    admin = _log_in(client, ADMIN_SLUG, password)
    _say(f"Logged in as the admin, {ADMIN_SLUG}, with the password from {source}")
    body: dict[str, str] = {"url": service}
    try:
        own = secrets.token_urlsafe(24)
        account = {"appHost": DEFAULT_APP_HOST, "slug": SLUG, "name": "Sample service", "password": own}
        client.call("POST", "/user-svc/register", account, token=admin)
        token = _log_in(client, SLUG, own)
        _say(f"Registered the account {SLUG} and logged in as it")
    except Refusal as error:
        if error.status != 409:
            raise
        token, body = admin, {"url": service, "slug": SLUG}
        _say(f"The account {SLUG} is there from before: the admin registers the instance")
    client.call("PUT", "/registry-svc/instance", body, token=token)
    _say(f"Registered {service} as an instance of {SLUG}")
    _say(f"GET {client.url}/{SLUG}/world answers:")
    click.echo(pretty(client.call("GET", f"/{SLUG}/world")))


def _log_in(client: Client, slug: str, password: str) -> str:
    body = {"appHost": DEFAULT_APP_HOST, "slug": slug, "password": password, "device": "cli"}
    return token_of(client.call("POST", "/user-svc/login", body), client.url)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that the proxy does not outlive us."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_ctrl_c() -> None:
    click.echo("Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
