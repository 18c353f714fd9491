"""Handshakes with the edge: what openssl and Python's ssl get, and what those do no harm who want no good."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import ssl
import struct
import threading
import time

import pytest

from ..tls.making import known_key
from .edge import connected, s_client, trusting
from .raw_client import RawClient

STRANGERS = 10_000
SLOW = 200
GROWTH_KIB = 4 * 1024
GET = b"GET /%b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
# The alerts of RFC 8446, 6.
PROTOCOL_VERSION, UNRECOGNIZED_NAME, NO_APPLICATION_PROTOCOL = 70, 112, 120


def alert(number: int) -> bytes:
    """The record of a fatal alert."""
    return bytes((21, 3, 3, 0, 2, 2, number))


def client_hello(name: str, protocols: tuple[str, ...] = ()) -> bytes:
    """The first bytes of a real client that wants this name."""
    outgoing = ssl.MemoryBIO()
    client = trusting(None, protocols).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def asked(port: int, hello: bytes) -> bytes:
    """What the edge has to say to these bytes, until it closes."""
    with RawClient(port) as client:
        client.send(hello)
        return client.to_the_end()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_versions_and_verification(edge, site, host, version):
    options = [
        version,
        "-CAfile",
        str(edge.roots),
        "-verify_return_error",
        "-verify_hostname",
        host,
        "-brief",
    ]
    code, output = s_client(edge.https_port, *options, name=host)
    assert code == 0, output
    assert f"Protocol version: TLSv1.{version[-1]}" in output
    assert "Verification: OK" in output
    assert f"Verified peername: {host}" in output
    assert re.search(r"Ciphersuite: .*(GCM|CHACHA20)", output)


@pytest.mark.parametrize("options", [["-tls1_1"], ["-tls1"]])
def test_older_versions_are_refused(edge, site, host, options):
    code, output = s_client(edge.https_port, *options, "-cipher", "ALL:@SECLEVEL=0", name=host)
    assert code != 0
    assert f"alert number {PROTOCOL_VERSION}" in output, output


NO_FORWARD_SECRECY = ["AES128-SHA", "AES128-GCM-SHA256"]
NO_AEAD = ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA256"]


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
def test_weak_ciphers_are_refused(edge, host, kind):
    edge.certify(host, key=known_key(kind))
    for cipher in (*NO_FORWARD_SECRECY, *NO_AEAD, "NULL", "aNULL"):
        options = ["-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0"]
        assert (s_client(edge.https_port, *options, name=host)[0] != 0, cipher) == (True, cipher)
    good = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    assert s_client(edge.https_port, "-tls1_2", "-cipher", good, name=host)[0] == 0


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1"), ("spdy/3,http/1.1", "http/1.1")],
)
def test_the_best_common_protocol_is_chosen(edge, site, host, version, offered, chosen):
    code, output = s_client(edge.https_port, version, "-alpn", offered, name=host)
    assert (code, f"ALPN protocol: {chosen}" in output) == (0, True), output


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_no_common_protocol_is_an_alert(edge, site, host, version):
    code, output = s_client(edge.https_port, version, "-alpn", "spdy/3", name=host)
    assert code != 0
    assert f"alert number {NO_APPLICATION_PROTOCOL}" in output, output


def test_a_client_without_alpn_speaks_http_1(edge, site, host):
    with connected(edge.https_port, host, trusting(edge.roots)) as client:
        client.sendall(GET % (b"plain", host.encode()))
        assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(b"/plain")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_name_that_nobody_owns_is_an_alert(edge, version):
    code, output = s_client(edge.https_port, version, name="nobody.test")
    assert code != 0
    assert f"alert number {UNRECOGNIZED_NAME}" in output, output
    assert "no peer certificate available" in output


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_no_name_and_no_route_for_the_address_is_an_alert(new_edge, version):
    edge = new_edge()
    code, output = s_client(edge.https_port, version, name="")
    assert code != 0
    assert f"alert number {UNRECOGNIZED_NAME}" in output, output


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_no_name_shows_the_local_certificate_of_the_address(edge, node, version):
    edge.route("127.0.0.1", node.url)
    edge.trust_local()
    options = [version, "-CAfile", str(edge.roots), "-verify_return_error", "-verify_ip", "127.0.0.1"]
    code, output = s_client(edge.https_port, *options, name="")
    assert (code, "Verify return code: 0 (ok)" in output) == (0, True), output
    assert edge.curl("https://127.0.0.1/x").status == 200


def test_local_names_are_certified_by_the_local_authority(edge, node):
    edge.trust_local()
    for host in ("localhost", "shop.localhost", "a.b.localhost"):
        edge.route(host, node.url)
        assert edge.curl(f"https://{host}/x").status == 200
    assert edge.curl("https://unrouted.localhost/", check=False).exit_code == 35


# Sessions.

REUSE = re.compile(r"^(New|Reused), (TLSv1\.[23])", re.MULTILINE)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_sessions_are_resumed(edge, site, host, version, tmp_path):
    kept = str(tmp_path / "session")
    request = (GET % (b"again", host.encode())).decode()
    options = [version, "-ign_eof"]
    code, output = s_client(edge.https_port, *options, "-sess_out", kept, send=request, name=host)
    assert (code, REUSE.findall(output)) == (0, [("New", f"TLSv1.{version[-1]}")]), output
    code, output = s_client(edge.https_port, *options, "-sess_in", kept, send=request, name=host)
    assert (code, REUSE.findall(output)) == (0, [("Reused", f"TLSv1.{version[-1]}")]), output
    assert output.count("/again") == 1
    assert len(site.requests) == 2


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_client_that_wants_no_tickets(edge, site, host, version):
    code, output = s_client(edge.https_port, version, "-no_ticket", name=host)
    assert (code, REUSE.findall(output)) == (0, [("New", f"TLSv1.{version[-1]}")]), output


def test_who_resumes_a_session_gets_no_further_than_the_certificate(edge, site, host):
    """The name that a resumed session wants counts, not the one that it began with."""
    edge.certify(f"other.{host}")
    context = trusting(None)
    with connected(edge.https_port, host, context) as first:
        first.sendall(GET % (b"", host.encode()))
        while first.recv(65536):
            pass
        session = first.session
    plain = socket.create_connection(("127.0.0.1", edge.https_port), timeout=20)
    with context.wrap_socket(plain, server_hostname=f"other.{host}", session=session) as second:
        second.sendall(GET % (b"", host.encode()))
        assert second.recv(65536).startswith(b"HTTP/1.1 421 ")


def test_renegotiation_is_refused(edge, site, host):
    code, output = s_client(edge.https_port, "-tls1_2", send="R\n", name=host)
    assert "no renegotiation" in output or code != 0, output


# Those who want no good.

GARBAGE = {
    "zeros": bytes(600),
    "a record of no bytes": b"\x16\x03\x01\x00\x00" + bytes(100),
    "a huge record": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "ssl 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(35),
    "an alert": alert(0),
    "smtp": b"EHLO x.test\r\n",
    "a name with a zero": client_hello("a" * 20 + ".test").replace(b"a" * 20, b"a" * 9 + b"\0" + b"a" * 10),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_ends_its_own_connection_only(edge, site, host, garbage):
    answer = asked(edge.https_port, GARBAGE[garbage])
    # Nothing, an alert, or a reset.
    assert answer == b"" or re.fullmatch(rb"\x15\x03[\x01-\x03]\x00\x02\x02.", answer, re.DOTALL), answer
    assert edge.curl(f"https://{host}/").status == 200


def test_a_hello_in_single_bytes_is_a_hello(edge, site, host):
    hello = client_hello(host, ("http/1.1",))
    with RawClient(edge.https_port) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(hello)):
            client.send(hello[index : index + 1])
        # The record of a ServerHello.
        assert client.sock.recv(65536)[:3] == b"\x16\x03\x03"


def test_ten_thousand_names_that_nobody_owns(edge, site, host):
    """Each is refused at once, and nothing of them is kept."""
    hello = client_hello("00000000.strangers.test")
    refusal = alert(UNRECOGNIZED_NAME)

    def stranger(number: int) -> None:
        assert asked(edge.https_port, hello.replace(b"00000000", b"%08x" % number)) == refusal

    for number in range(500):
        stranger(number)
    before = edge.rss_kib()
    served = 0
    for number in range(1000, 1000 + STRANGERS):
        stranger(number)
        if number % 1000 == 0:
            served += edge.curl(f"https://{host}/").status == 200
    assert served == STRANGERS // 1000
    assert edge.rss_kib() - before < GROWTH_KIB
    # Nor does the log belong to them: one line a minute.
    assert edge.log().count("TLS handshakes were refused") <= 3


def test_many_slow_hellos_do_not_disturb(new_edge, node, host):
    """They end when their time is over, and the others notice nothing."""
    edge = new_edge("--handshake-timeout", "3s")
    edge.route(host, node.url)
    edge.certify(host)
    hello = client_hello(host)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(RawClient(edge.https_port)) for _ in range(SLOW)]
        began = time.monotonic()
        cpu = edge.cpu_seconds()
        for part, client in zip(itertools.cycle((1, 5, 60, len(hello) - 1)), slow, strict=False):
            client.send(hello[:part])
        context = trusting(edge.roots)
        while time.monotonic() - began < 2.0:
            start = time.monotonic()
            with connected(edge.https_port, host, context) as other:
                other.sendall(GET % (b"x", host.encode()))
                assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - start < 1.0
            time.sleep(0.05)
        # Waiting costs nothing: it would be 2 seconds if it were done by looking again and again.
        assert edge.cpu_seconds() - cpu < 1.0
        for client in slow:
            assert client.to_the_end() == b""
        assert 2.5 < time.monotonic() - began < 10
    edge.stop()


def test_clients_that_break_off_a_handshake_leave_nothing(edge, site, host):
    """Half of them reset the connection after the hello, half after the edge has answered."""
    hello = client_hello(host)
    linger = struct.pack("ii", 1, 0)

    def break_off(wait: bool) -> None:
        with RawClient(edge.https_port) as client:
            client.send(hello)
            if wait:
                client.sock.recv(100)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    for _turn in range(50):
        break_off(False)
        break_off(True)
    before = edge.rss_kib()

    def break_off_often() -> None:
        for _turn in range(100):
            break_off(True)

    threads = [threading.Thread(target=break_off_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert edge.rss_kib() - before < GROWTH_KIB
    assert edge.curl(f"https://{host}/").status == 200
