"""`oo demo`: the pieces by themselves, and the whole with the real proxy in a process of its own."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import urllib.request

import pytest

from onebackend_proxy.cli import demo as demo_module
from onebackend_proxy.cli.client import Client, Refusal
from onebackend_proxy.cli.demo import (
    demo_environ,
    free_port,
    register_and_call,
    running_proxy,
    sample_service,
)
from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi

RUN = [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()", "demo"]
POPEN = subprocess.Popen
REPLY = {"service": "hello-svc"}


def environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OB_")}


def as_proxy(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let `running_proxy` start this Python program instead; it finds the port in its arguments."""

    def popen(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        assert command[1] == "-c"
        return POPEN([command[0], "-c", program, *command[3:]], **more)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)


def test_the_sample_service_tells_what_it_saw() -> None:
    with sample_service() as url:
        request = urllib.request.Request(f"{url}/hello-svc/a%2Fb?c", headers={"X-Forwarded-For": "1.2.3.4"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            said = json.loads(answer.read())
    assert said["path"] == "/hello-svc/a%2Fb?c"
    assert said["headers"]["X-Forwarded-For"] == "1.2.3.4"


def test_a_connection_that_breaks_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with sample_service() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(2):
            broken = socket.create_connection((host, int(port)), timeout=5)
            # Linger of zero: closing sends a reset.
            broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            broken.sendall(b"GET /x HT")
            broken.close()
        with urllib.request.urlopen(f"{url}/x", timeout=5) as answer:
            assert answer.status == 200
    assert capfd.readouterr().err == ""


def test_a_taken_port_is_replaced_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port, may_change=True) not in (0, port)
        assert f"Port {port} is taken" in capsys.readouterr().out
        with pytest.raises(Refusal, match=f"port {port} cannot be used"):
            free_port(port, may_change=False)
    assert free_port(port, may_change=False) == port


def test_settings_from_outside_stay_outside() -> None:
    outside = {"PATH": "p", "OB_PROXY_LISTEN": "x", "OB_ADMIN_PASSWORD": "a", "OB_EDGE_PROXY": "true"}
    own = {"PATH": "p", "OB_PROXY_ACME_DIRECTORY": "off"}
    assert demo_environ(outside | {"OB_PROXY_ACME_DIRECTORY": "https://a.test/"}, secrets_too=False) == own
    assert demo_environ(outside, secrets_too=True) == own | {"OB_ADMIN_PASSWORD": "a"}


def test_the_steps_against_the_api(
    api: FakeApi, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "admin-password").write_text("admin-pass\n")
    api.script("GET", "/hello-svc/world", 200, REPLY)

    def logins_work_with_what_was_registered(*args: object) -> None:
        api.passwords["hello-svc"] = api.calls("/user-svc/register")[-1].body["password"]

    real = api.answer

    def answer(seen: object) -> object:
        found = real(seen)  # type: ignore[arg-type]
        if getattr(seen, "path", "") == "/user-svc/register":
            logins_work_with_what_was_registered()
        return found

    api.answer = answer  # type: ignore[method-assign,assignment]
    register_and_call(Client(api.url), "http://127.0.0.1:9", {}, tmp_path)
    instance = api.calls("/registry-svc/instance")[0]
    assert instance.body == {"url": "http://127.0.0.1:9"}
    assert instance.token is not None
    assert instance.token.startswith("hello-svc-token")
    assert api.calls("/hello-svc/world")[0].token is None
    assert '"service": "hello-svc"' in capsys.readouterr().out


def test_an_account_from_before_is_no_obstacle(api: FakeApi, tmp_path: pathlib.Path) -> None:
    api.script("POST", "/user-svc/register", 409, {"error": "taken"})
    api.script("GET", "/hello-svc/world", 200, REPLY)
    register_and_call(Client(api.url), "http://127.0.0.1:9", {"OB_ADMIN_PASSWORD": "admin-pass"}, tmp_path)
    instance = api.calls("/registry-svc/instance")[0]
    assert instance.body == {"url": "http://127.0.0.1:9", "slug": "hello-svc"}
    assert instance.token == "1backend-token-1"


def test_other_refusals_are_told(api: FakeApi, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Refusal, match="no password of the admin"):
        register_and_call(Client(api.url), "http://x", {}, tmp_path)
    api.script("POST", "/user-svc/register", 503, {"error": "not now"})
    with pytest.raises(Refusal, match="not now"):
        register_and_call(Client(api.url), "http://x", {"OB_ADMIN_PASSWORD": "admin-pass"}, tmp_path)


def test_a_proxy_that_dies_is_told_with_its_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_proxy(monkeypatch, "print('first\\nthe reason'); raise SystemExit(1)")
    with pytest.raises(Refusal, match="ended at once: the reason"), running_proxy(1, tmp_path, {}):
        pass
    assert "  first\n" in capsys.readouterr().err
    as_proxy(monkeypatch, "")
    with pytest.raises(Refusal, match="it said nothing"), running_proxy(1, tmp_path, {}):
        pass


def test_a_proxy_that_never_answers_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It ignores SIGTERM as well, and so has to be killed.
    program = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"
    as_proxy(monkeypatch, program)
    monkeypatch.setattr(demo_module, "START_LIMIT", 1.5)
    monkeypatch.setattr(demo_module, "STOP_LIMIT", 0.2)
    with pytest.raises(Refusal, match=r"gave no answer within 1\.5 seconds"), running_proxy(1, tmp_path, {}):
        pass
    assert "still starting" in capsys.readouterr().out


STUB = """
import http.server, json, sys
class Request(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        size = int(self.headers.get('Content-Length') or 0)
        self.rfile.read(size)
        body = json.dumps({'token': {'token': 'tok'}, 'service': 'stub'}).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body)))
        self.end_headers(); self.wfile.write(body)
    do_POST = do_PUT = do_GET
port = int(sys.argv[sys.argv.index('--listen') + 1].split(':')[1])
folder = sys.argv[sys.argv.index('--folder') + 1]
open(folder + '/admin-password', 'w').write('x')
http.server.HTTPServer(('127.0.0.1', port), Request).serve_forever()
"""


def test_the_whole_with_a_stub_for_the_proxy(oo: Oo, monkeypatch: pytest.MonkeyPatch) -> None:
    as_proxy(monkeypatch, STUB)
    out = oo.ok("demo", "--once", "--port", "0")
    port = re.search(r"curl http://127\.0\.0\.1:(\d+)/hello-svc/world", out)
    assert port
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(port[1])), timeout=1)


def test_it_waits_for_ctrl_c(oo: Oo, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    as_proxy(monkeypatch, STUB)
    monkeypatch.setattr(signal, "pause", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    out = oo.ok("demo", "--port", "0", "--folder", str(tmp_path))
    assert out.endswith("Ctrl-C ends it.\nStopping.\n")
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "admin-password").exists()


def test_the_real_thing_once(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [*RUN, "--once", "--port", "0"],
        capture_output=True,
        text=True,
        env=environ(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"path": "/hello-svc/world"' in done.stdout
    assert '"X-Forwarded-For": "127.0.0.1"' in done.stdout
    assert done.stderr == ""


def test_the_real_thing_until_ctrl_c(tmp_path: pathlib.Path) -> None:
    running = subprocess.Popen(
        [*RUN, "--port", "0", "--folder", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ() | {"PYTHONUNBUFFERED": "1"},
    )
    assert running.stdout
    try:
        said = ""
        for line in running.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"curl (http://\S+)", said)
        assert found, said
        with urllib.request.urlopen(found[1], timeout=10) as answer:
            assert json.loads(answer.read())["path"] == "/hello-svc/world"
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait(20) == 0
        assert rest == "Stopping.\n"
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(found[1], timeout=5)
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
