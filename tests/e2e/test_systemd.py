"""Sockets from systemd: what is passed is served, and a restart loses no connection and no request."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from onebackend_proxy.listening import LAST_HANDSHAKE, LAST_WORDS
from onebackend_proxy.proxy import GRACE

from .activated import SERVICE, SOCKETS, UNITS, ActivatedEdge, settings_of
from .edge import Edge, shown_serial, trusting
from .load import PATIENCE, Http2, KeepAlive, Load, OneEach, plain, secure, under_way
from .raw_backend import RawBackend
from .recording import Recorder
from .test_lifecycle import refused
from .waiting import wait_until

T = TypeVar("T")

HOST = "x.test"
RESTARTS = 3


@pytest.fixture
def activated(tmp_path):
    with ActivatedEdge(tmp_path) as edge:
        yield edge


def test_the_sockets_that_are_passed_are_served(activated):
    activated.start()
    recorder = Recorder()
    with RawBackend(recorder) as backend:
        activated.route(HOST, backend.url)
        leaf = activated.certify(HOST)
        assert activated.curl(f"https://{HOST}/x").body == b"/x"
        assert activated.curl(f"http://{HOST}/x").headers["location"] == f"https://{HOST}/x"
        assert shown_serial(activated.https_port, HOST) == leaf.certificate.serial_number
    # Also where the socket is for both, IPv6 and IPv4.
    assert recorder.requests[0].all(b"x-forwarded-for") == [b"127.0.0.1"]
    activated.stop()
    assert activated.log().count("listening on http") == 3


def everything(edge: Edge, slug: str) -> Load:
    """Each kind of client on each kind of port."""
    http1 = trusting(edge.roots, ["http/1.1"])
    http2 = trusting(edge.roots, ["h2"])
    service = f"GET /{slug}/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    page = f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    to_https = secure(edge.https_port, HOST, http1)
    return Load(
        service_new=OneEach(plain(edge.port), service),
        service_kept=KeepAlive(plain(edge.port), service),
        http_new=OneEach(plain(edge.http_port), page, 308),
        http_kept=KeepAlive(plain(edge.http_port), page, 308),
        https_new=OneEach(to_https, page),
        https_new_too=OneEach(to_https, page),
        https_kept=KeepAlive(to_https, page),
        http2_kept=Http2(secure(edge.https_port, HOST, http2), HOST, "/x"),
    )


def prepare(edge: Edge, target: str, slug: str) -> None:
    edge.route(HOST, target)
    edge.certify(HOST)
    edge.api.add_instance(target, slug)


def test_a_handshake_under_way_is_completed_and_its_request_answered(new_edge, nginx):
    edge = new_edge()
    prepare(edge, nginx.url, "x-svc")
    context = trusting(edge.roots, ["http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=HOST)

    def until(step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))

    with plain(edge.https_port)() as sock:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        sock.sendall(hello[:100])
        # So that it is no longer the kernel's.
        shown_serial(edge.https_port, HOST)
        edge.terminate()
        wait_until(lambda: refused(edge.https_port), "new connections are refused", 10)
        sock.sendall(hello[100:])
        until(client.do_handshake)
        client.write(b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode())
        answer = until(lambda: client.read(65536))
    assert answer.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in answer
    assert edge.wait() == 0


def test_a_hello_that_never_comes_does_not_hold_up_the_end(new_edge):
    edge = new_edge()
    with plain(edge.https_port)() as sock:
        sock.sendall(b"\x16\x03\x01")
        wait_until(lambda: len(list(open_sockets(edge))) > 3, "it is accepted", 5)
        began = time.monotonic()
        edge.stop()
        assert time.monotonic() - began < 5


def open_sockets(edge: Edge) -> Iterator[str]:
    for link in pathlib.Path(f"/proc/{edge.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(link)
            if name.startswith("socket:"):
                yield name


def handshakes_only(edge: Edge) -> Load:
    """Clients no connection of which is open for longer than a request: nothing else holds up the end."""
    http1 = trusting(edge.roots, ["http/1.1"])
    page = f"GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
    return Load(**{f"new_{n}": OneEach(secure(edge.https_port, HOST, http1), page) for n in range(8)})


def test_a_restart_loses_no_handshake(activated, nginx, slug):
    activated.start()
    prepare(activated, nginx.url, slug)
    with under_way(handshakes_only(activated)) as load:
        for _turn in range(2 * RESTARTS):
            activated.restart()
            time.sleep(0.2)
    assert load.failures == {}
    activated.stop()


def test_a_restart_loses_no_connection_and_no_request(activated, nginx, slug):
    activated.start()
    prepare(activated, nginx.url, slug)
    with under_way(everything(activated, slug)) as load:
        for _turn in range(RESTARTS):
            activated.restart()
            time.sleep(0.5)
    assert load.failures == {}
    for tally in load.tallies.values():
        assert tally.answered > 20 * RESTARTS, tally
    # That they were restarts, and each connection was left in order.
    assert load.tallies["https_kept"].connections == RESTARTS + 1
    assert load.tallies["http2_kept"].connections == RESTARTS + 1
    activated.stop()


def test_a_download_is_finished_while_others_wait_for_the_next_process(activated):
    """Who comes meanwhile is not refused, and is served as soon as the old process is done."""
    asked, go_on = threading.Event(), threading.Event()

    def script(connection):
        if connection.head.startswith(b"GET /quick"):
            connection.answer()
            return
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        asked.set()
        assert go_on.wait(PATIENCE)
        connection.send(b"-last")

    activated.start()
    context = trusting(activated.roots, ["http/1.1"])
    with RawBackend(script) as backend:
        activated.route(HOST, backend.url)
        activated.certify(HOST)
        with secure(activated.https_port, HOST, context)() as slow:
            slow.sendall(b"GET /slow HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode())
            assert asked.wait(PATIENCE)
            activated.terminate()
            wait_until(lambda: "Closed)" in activated.log(), "its ports are closed", 5)
            new = plain(activated.https_port)()
            assert activated.process.poll() is None
            go_on.set()
            received = b""
            while data := slow.recv(65536):
                received += data
            assert received.endswith(b"first-last")
            assert activated.wait() == 0
            activated.start()
            with context.wrap_socket(new, server_hostname=HOST) as served:
                served.sendall(b"GET /quick HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode())
                assert served.recv(65536).startswith(b"HTTP/1.1 200 ")
    activated.stop()


# The units themselves.


def test_the_units_belong_together():
    names = " ".join(unit.name for unit in SOCKETS)
    assert settings_of(SERVICE, "Sockets") == settings_of(SERVICE, "Requires") == [names]
    assert {unit.name for unit in UNITS.iterdir()} == {SERVICE.name, *(unit.name for unit in SOCKETS)}
    for unit in SOCKETS:
        assert settings_of(unit, "Service") == [SERVICE.name]
    assert [settings_of(unit, "ListenStream") for unit in SOCKETS] == [["80"], ["443"], ["127.0.0.1:11337"]]
    [command_line] = settings_of(SERVICE, "ExecStart")
    named = [word.partition("name=")[2] for word in shlex.split(command_line) if "name=" in word]
    assert named == [settings_of(unit, "FileDescriptorName")[0] for unit in SOCKETS]


def test_the_unit_waits_for_what_is_in_flight():
    [seconds] = settings_of(SERVICE, "TimeoutStopSec")
    assert int(seconds) > LAST_HANDSHAKE + GRACE + LAST_WORDS


@pytest.fixture
def installed_units(tmp_path):
    """The units with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on PATH: apt-get install systemd")
    for unit in (SERVICE, *SOCKETS):
        text = unit.read_text().replace("/opt/onebackend-proxy/bin/twistd", sys.executable)
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyzed(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_units(installed_units):
    assert analyzed("verify", "--man=no", *map(str, installed_units.glob("onebackend-proxy*"))) == ""


def test_systemd_finds_the_service_well_contained(installed_units):
    """On its scale from 0 to 10 everything below 2 is more than most have."""
    unit = str(installed_units / SERVICE.name)
    analyzed("security", "--offline=true", "--threshold=20", unit)
