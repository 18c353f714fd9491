"""What is saved while the edge serves: certificates under open connections, two proxies, files."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import ssl
import stat
import time

import pytest
from cryptography import x509
from websockets.sync.client import ClientConnection, connect

from ..tls.making import DAY, made, now
from .echoing import echo_server
from .edge import Edge, connected, shown_serial, trusting, wait_for_certificate
from .raw_backend import RawBackend, answer_ok
from .servers import BIG_FILE_SIZE
from .test_lifecycle import refusal
from .waiting import wait_until

PATIENCE = 20
WITHIN = 1.0
SLACK = 0.5
"""Of the machine that runs this, not of the proxy."""


def test_a_renewal_touches_no_open_connection(edge, nginx, host):
    """A download and a WebSocket go on; who connects next sees the new certificate."""
    first = edge.certify(host)
    edge.route(host, nginx.url)
    context = trusting(edge.roots)
    with contextlib.ExitStack() as stack:
        edge.route(f"{host}/talk", stack.enter_context(echo_server()))
        download = stack.enter_context(connected(edge.https_port, host, context))
        talk = stack.enter_context(websocket(edge, host))
        download.sendall(
            b"GET /x/files/big HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host.encode()
        )
        received = len(download.recv(65536))
        talk.send("before")
        assert talk.recv(PATIENCE) == "before"
        assert shown_serial(edge.https_port, host) == first.certificate.serial_number

        second = edge.certify(host)
        wait_for_certificate(edge.https_port, host, second.certificate.serial_number, WITHIN)

        talk.send("after")
        assert talk.recv(PATIENCE) == "after"
        while data := download.recv(1024 * 1024):
            received += len(data)
        assert received > BIG_FILE_SIZE
        assert serial_of(download) == first.certificate.serial_number


def websocket(edge: Edge, host: str) -> ClientConnection:
    """A WebSocket over TLS to the echo server at ``/talk``."""
    plain = socket.create_connection(("127.0.0.1", edge.https_port), timeout=PATIENCE)
    context = trusting(edge.roots, ["http/1.1"])
    return connect(f"wss://{host}/talk/echo", sock=plain, ssl=context, ping_interval=None, proxy=None)


def serial_of(connection: ssl.SSLSocket) -> int:
    der = connection.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number


def test_two_proxies_on_one_folder_are_one_edge(new_edge, tmp_path):
    """What is saved at the one is served by the other within a second, and goes again as soon."""
    one = new_edge()
    other = new_edge(folder=one.folder)
    with RawBackend(answer_ok) as backend:
        for host in ("first.test", "second.test"):
            began = time.monotonic()
            one.route(host, backend.url)
            leaf = one.certify(host)
            wait_for_certificate(other.https_port, host, leaf.certificate.serial_number, WITHIN + SLACK)
            wait_until(lambda: other.curl(f"https://{host}/").status == 200, host, WITHIN + SLACK)  # noqa: B023
            assert time.monotonic() - began < WITHIN + 2 * SLACK
            assert one.curl(f"https://{host}/").status == 200
        other.redirect("first.test/old", "https://new.test/")
        redirected = lambda: one.curl("https://first.test/old").status == 308  # noqa: E731
        wait_until(redirected, "the redirect is followed by the first proxy", WITHIN + SLACK)
        other.api.ok("DELETE", "/proxy-svc/routes", {"ids": ["first.test"]})
        gone = lambda: one.curl("https://first.test/").status == 404  # noqa: E731
        wait_until(gone, "the first proxy forgets the route", WITHIN + SLACK)
    one.stop()
    assert other.curl("https://second.test/").status == 502
    other.stop()


def test_the_local_authority_is_one_for_all_on_a_folder(new_edge, node):
    one = new_edge()
    other = new_edge(folder=one.folder)
    one.route("localhost", node.url)
    one.trust_local()
    serves = lambda: other.curl("https://localhost/x", "--cacert", str(one.roots), check=False).status == 200  # noqa: E731
    wait_until(serves, "the other shows a certificate of the same authority", WITHIN + SLACK)
    assert one.curl("https://localhost/x").status == 200


def test_certificates_as_files(new_edge):
    edge = new_edge(OB_SYNC_CERTS_TO_FILES="true")
    live = edge.folder / "certs" / "live" / "x.test"
    first = edge.certify("x.test", "www.x.test")
    wait_until(lambda: text_of(live / "cert.pem") == first.pem, "the files are written", 5)
    assert text_of(live / "fullchain.pem") == first.chain
    assert text_of(live / "chain.pem") == first.chain.removeprefix(first.pem)
    key = live / "privkey.pem"
    assert key.read_text() == first.key_pem
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert all(not mode_of(folder) & 0o077 for folder in (edge.folder, live.parent, live))

    second = edge.certify("x.test", "www.x.test")
    wait_until(lambda: text_of(live / "cert.pem") == second.pem, "the files are those of the renewal", 5)
    assert text_of(key) == second.key_pem
    edge.api.ok("DELETE", "/proxy-svc/certs", {"ids": ["x.test"]})
    wait_until(lambda: not live.exists(), "the files are gone", 5)
    assert shows_nothing(edge, "x.test")
    edge.stop()


def text_of(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def mode_of(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def shows_nothing(edge: Edge, name: str) -> bool:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        shown_serial(edge.https_port, name)
    return True


def test_private_keys_are_nowhere_in_clear(new_edge):
    edge = new_edge()
    leaf = edge.certify("x.test")
    line = leaf.key_pem.splitlines()[1]
    edge.stop()
    files = [path for path in edge.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert line.encode() not in path.read_bytes(), path
    assert line not in edge.log()


BAD_BUNDLES = {
    "no PEM": lambda: "x",
    "no key": lambda: made("x.test").chain,
    "another key": lambda: made("x.test").key_pem + made("x.test").chain,
    "expired": lambda: made("x.test", begins=now() - 9 * DAY, ends=now() - DAY).bundle,
    "a broken block": lambda: made("x.test").bundle.replace("MII", "!!!"),
}


@pytest.mark.parametrize("kind", BAD_BUNDLES)
def test_a_bad_bundle_is_refused_and_what_was_there_is_shown_on(edge, site, host, kind):
    before = shown_serial(edge.https_port, host)
    answer = edge.api.call("PUT", "/proxy-svc/certs", {"certs": [{"cert": BAD_BUNDLES[kind]()}]})
    assert answer.status_code == 400
    assert "certs[0].cert" in answer.json()["error"]
    assert "PRIVATE" not in answer.text
    assert shown_serial(edge.https_port, host) == before


def test_a_restart_serves_what_was_saved(new_edge):
    first = new_edge()
    with RawBackend(answer_ok) as backend:
        first.route("x.test", backend.url)
        leaf = first.certify("x.test")
        first.route("localhost", backend.url)
        first.trust_local()
        first.stop()
        second = new_edge(folder=first.folder)
        assert shown_serial(second.https_port, "x.test") == leaf.certificate.serial_number
        assert second.curl("https://x.test/").body == b"ok"
        assert second.curl("https://localhost/", "--cacert", str(first.roots)).body == b"ok"
        second.stop()


def test_another_encryption_key_refuses_to_start(new_edge, tmp_path):
    edge = new_edge(OB_ENCRYPTION_KEY="the first key, which is long enough")
    edge.certify("x.test")
    edge.stop()
    line = refusal(
        tmp_path,
        *("--listen", "tcp:0:interface=127.0.0.1", "--folder", str(edge.folder)),
        *("--http", "tcp:0:interface=127.0.0.1", "--https", "tcp:0:interface=127.0.0.1"),
        OB_ENCRYPTION_KEY="another key, which is long enough",
    )
    assert "OB_ENCRYPTION_KEY" in line or "--encryption-key" in line
    assert "another key" not in line


@pytest.mark.parametrize("option", ["--http", "--https"])
def test_a_port_of_the_edge_in_use_is_one_line(edge, tmp_path, option):
    taken = f"tcp:{edge.https_port}:interface=127.0.0.1"
    line = refusal(
        tmp_path,
        *("--listen", "tcp:0:interface=127.0.0.1", "--folder", str(tmp_path / "folder")),
        *("--http", "tcp:0:interface=127.0.0.1", "--https", "tcp:0:interface=127.0.0.1", option, taken),
    )
    assert option in line and str(edge.https_port) in line
