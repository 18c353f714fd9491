"""Starting, stopping and starting again, and every way a start can be refused."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import sqlite3
import stat
import subprocess
import threading

import pytest
import requests

from .api import Api
from .proxy_process import ADMIN_PASSWORD, ProxyProcess, command, environment
from .raw_backend import RawBackend
from .raw_client import RawClient
from .waiting import free_port, wait_until


def test_sigterm_finishes_what_is_in_flight_and_exits_0(new_proxy):
    proxy = new_proxy()
    asked, go_on = threading.Event(), threading.Event()

    def script(connection):
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        asked.set()
        assert go_on.wait(20)
        connection.send(b"-last")

    with RawBackend(script) as backend, RawClient(proxy.port) as client:
        Api(proxy.url).login().add_instance(backend.url, "slow-svc")
        client.begin(b"/slow-svc/")
        client.end()
        assert client.event().status_code == 200
        assert asked.wait(20)
        proxy.terminate()
        wait_until(lambda: refused(proxy.port), "new connections are refused after SIGTERM", 10)
        assert proxy.process.poll() is None, "it ended with a request in flight"
        go_on.set()
        body = b""
        while len(body) < 10:
            body += bytes(client.event().data)
        assert body == b"first-last"
        assert proxy.wait() == 0, proxy.log()
    assert "Traceback" not in proxy.log()


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_idle_connections_do_not_hold_up_the_end(new_proxy):
    proxy = new_proxy()
    with RawClient(proxy.port) as idle, RawClient(proxy.port) as used:
        used.get(b"/user-svc/public-key")
        idle.send(b"GET /half a he")
        proxy.stop()


def test_sigterm_lets_calls_of_the_api_finish(new_proxy):
    proxy = new_proxy()
    body = json.dumps({"appHost": "unnamed", "slug": "1backend", "password": ADMIN_PASSWORD}).encode()
    head = b"POST /user-svc/login HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.ExitStack() as connections:
        clients = [connections.enter_context(RawClient(proxy.port)) for _ in range(3)]
        for client in clients:
            client.sock.sendall(head + body)
        # Answered means that the others are read as well: they are hashing, or wait for their turn.
        assert clients[0].sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        proxy.terminate()
        for client in clients[1:]:
            assert client.sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert proxy.wait() == 0


def test_sigint_ends_it_as_well(new_proxy):
    proxy = new_proxy()
    proxy.process.send_signal(2)
    assert proxy.wait() == 0
    assert "Traceback" not in proxy.log()


def test_a_restart_keeps_accounts_instances_routes_and_redirects(new_proxy, node):
    first = new_proxy()
    admin = Api(first.url).login()
    service = admin.register("kept-svc", "a-service-password")
    service.add_instance(node.url)
    admin.ok("PUT", "/proxy-svc/routes", {"routes": [{"id": "Shop.Example", "target": "http://shop:8080"}]})
    redirect = {"id": "old.example", "target": "https://new.example", "statusCode": 301}
    admin.ok("PUT", "/proxy-svc/redirects", {"redirects": [redirect]})
    before = service.instances()
    first.stop()

    second = new_proxy(folder=first.folder)
    # The token signed before the restart still holds.
    service = Api(second.url, service.token)
    assert service.ok("POST", "/user-svc/self", {})["user"]["slug"] == "kept-svc"
    assert [(each["id"], each["url"]) for each in service.instances()] == [
        (each["id"], each["url"]) for each in before
    ]
    admin = Api(second.url).login()
    [route] = admin.ok("POST", "/proxy-svc/routes", {})["routes"]
    assert (route["id"], route["target"]) == ("shop.example", "http://shop:8080")
    [kept] = admin.ok("POST", "/proxy-svc/redirects", {})["redirects"]
    assert (kept["id"], kept["statusCode"]) == ("old.example", 301)
    Api(second.url).login("kept-svc", "a-service-password")
    assert requests.get(f"{second.url}/kept-svc/x", timeout=20).json()["url"] == "/kept-svc/x"
    second.stop()


def test_without_a_password_setting_one_is_made_and_the_log_says_where(new_proxy):
    proxy = new_proxy(OB_ADMIN_PASSWORD=None)
    kept = proxy.folder / "admin-password"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(proxy.folder.stat().st_mode) == 0o700
    password = kept.read_text().strip()
    assert len(password) >= 16
    Api(proxy.url).login("1backend", password)
    assert str(kept) in proxy.log()
    assert str(proxy.port) in proxy.log()
    assert password not in proxy.log()
    for name in ("encryption.key", "proxy.sqlite"):
        assert stat.S_IMODE((proxy.folder / name).stat().st_mode) == 0o600, name
    proxy.stop()


def test_a_password_setting_replaces_the_old_one(new_proxy):
    first = new_proxy()
    first.stop()
    second = new_proxy(folder=first.folder, OB_ADMIN_PASSWORD="another-password")
    Api(second.url).login("1backend", "another-password")
    body = {"appHost": "unnamed", "slug": "1backend", "password": ADMIN_PASSWORD}
    assert Api(second.url).call("POST", "/user-svc/login", body).status_code == 401
    second.stop()


def test_settings_may_come_from_variables(tmp_path):
    proxy = ProxyProcess(tmp_path)
    other = free_port()
    proxy.options = ("--access-log-format", "combined")
    proxy.variables |= {
        "OB_PROXY_ACCESS_LOG": str(tmp_path / "access.log"),
        "OB_PROXY_LISTEN": f"tcp:{other}:interface=127.0.0.1",
        "OB_PROXY_OPEN_REGISTRATION": "true",
    }
    try:
        proxy.start()
        assert refused(other), "the option --listen wins over OB_PROXY_LISTEN"
        Api(proxy.url).register("anyone-svc", "a-service-password")
        access_log = tmp_path / "access.log"
        line = wait_until(lambda: access_log.read_text().splitlines(), "a line in the access log")[0]
        assert '"GET /user-svc/public-key HTTP/1.1" 200' in line or '"POST /user-svc/register' in line
        proxy.stop()
    finally:
        proxy.kill()


def test_registration_is_closed_to_strangers_by_default(proxy):
    body = {"appHost": "unnamed", "slug": "stranger-svc", "name": "x", "password": "a-service-password"}
    assert Api(proxy.url).call("POST", "/user-svc/register", body).status_code in (401, 403)


def test_it_listens_on_several_endpoints(new_proxy, tmp_path):
    path = tmp_path / "proxy.socket"
    proxy = new_proxy("--listen", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET /user-svc/public-key HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    proxy.stop()


# How a start is refused: exit code 1 and one line on stderr that names what was wrong.


def refusal(work: pathlib.Path, *options: str, **variables: str) -> str:
    done = subprocess.run(
        command(*options),
        cwd=work,
        env=environment(**({"OB_ADMIN_PASSWORD": ADMIN_PASSWORD} | variables)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    everything = done.stdout + done.stderr
    assert done.returncode == 1, f"exit code {done.returncode}:\n{everything}"
    assert "Traceback" not in everything, everything
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, f"not one line on stderr:\n{done.stderr}"
    return lines[0]


def listening(port: int) -> str:
    return f"tcp:{port}:interface=127.0.0.1"


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(tmp_path, "--listen", listening(port), "--folder", str(tmp_path / "folder"))
    assert "--listen" in line or "in use" in line
    assert str(port) in line


def test_a_folder_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for folder in (file, file / "below"):
        line = refusal(tmp_path, "--listen", listening(free_port()), "--folder", str(folder))
        assert str(folder) in line
    assert file.read_text() == "not a folder"


def test_a_database_from_a_newer_version_is_left_alone(new_proxy, tmp_path):
    proxy = new_proxy()
    proxy.stop()
    database = proxy.folder / "proxy.sqlite"
    with sqlite3.connect(database) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "schema_version" in tables
        column = connection.execute("SELECT name FROM pragma_table_info('schema_version')").fetchone()[0]
        connection.execute(f"UPDATE schema_version SET {column} = 4711")
    connection.close()
    before = database.read_bytes()
    line = refusal(tmp_path, "--listen", listening(free_port()), "--folder", str(proxy.folder))
    assert "newer" in line
    assert "4711" in line
    assert database.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    (folder / "proxy.sqlite").write_text(
        "something else entirely, and long enough to be read as a header" * 20
    )
    before = (folder / "proxy.sqlite").read_bytes()
    line = refusal(tmp_path, "--listen", listening(free_port()), "--folder", str(folder))
    assert "database" in line
    assert (folder / "proxy.sqlite").read_bytes() == before


def test_another_encryption_key_than_the_one_it_began_with(new_proxy, tmp_path):
    proxy = new_proxy(OB_ENCRYPTION_KEY="the first key, which is long enough")
    proxy.stop()
    line = refusal(
        tmp_path,
        *("--listen", listening(free_port()), "--folder", str(proxy.folder)),
        OB_ENCRYPTION_KEY="another key, which is long enough",
    )
    assert "OB_ENCRYPTION_KEY" in line or "--encryption-key" in line
    assert "another key" not in line


BAD_OPTIONS = {
    "--listen": "nonsense:4",
    "--trusted-proxies": "300.1.2.3/8",
    "--access-log-format": "xml",
    "--workers": "2",
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_a_bad_option_value_names_the_option(tmp_path, option):
    line = refusal(tmp_path, "--folder", str(tmp_path / "folder"), option, BAD_OPTIONS[option])
    assert option in line


BAD_VARIABLES = {
    "OB_PROXY_LISTEN": "tcp:notaport",
    "OB_PROXY_TRUSTED_PROXIES": "everybody",
    "OB_PROXY_ACCESS_LOG_FORMAT": "xml",
    "OB_PROXY_OPEN_REGISTRATION": "perhaps",
    "OB_PROXY_WORKERS": "many",
}


@pytest.mark.parametrize("variable", BAD_VARIABLES)
def test_a_bad_variable_is_named(tmp_path, variable):
    options = ["--folder", str(tmp_path / "folder")]
    if variable != "OB_PROXY_LISTEN":
        options += ["--listen", listening(free_port())]
    line = refusal(tmp_path, *options, **{variable: BAD_VARIABLES[variable]})
    option = "--" + variable.removeprefix("OB_PROXY_").lower().replace("_", "-")
    assert variable in line or option in line


def test_an_unknown_option(tmp_path):
    line = refusal(tmp_path, "--no-such-option")
    assert "no-such-option" in line
