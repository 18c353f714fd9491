"""Who the client is by the word of a proxy that relays bytes: what services, rules and logs learn of it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest

from ..debian import apt_install
from ..test_proxy_protocol import EXTRAS, LOCAL, block, checked, line, named
from . import programs
from .edge import PATIENCE, Edge, trusting
from .policies import TRUSTED, Door, door_to
from .raw_client import RawClient
from .recording import LogSince, assert_refused
from .waiting import end, free_port, wait_until

CLIENT = "203.0.113.7"
HEADERS = {
    "v1": line(CLIENT, 51000),
    "v2": named(CLIENT, 51000),
    "v2 with more": checked(named(CLIENT, 51000, *EXTRAS)),
}
SPOOFED = (b"X-Forwarded-For", b"198.51.100.66")


@pytest.fixture(params=HEADERS)
def header(request) -> bytes:
    """One that names `CLIENT`."""
    return HEADERS[request.param]


def get(door: Door, path: str, *fields: tuple[bytes, bytes]) -> bytes:
    """A request for this path, as bytes."""
    host = "front.test" if door.kind == "slug" else door.name
    lines = [b"GET %b HTTP/1.1" % door.seen(path), b"Host: %b" % host.encode()]
    return b"\r\n".join([*lines, *(b"%b: %b" % field for field in fields), b"Connection: close", b"", b""])


def port_of(door: Door) -> int:
    """Where HTTP/1.1 is spoken to it."""
    if door.kind == "h2":
        return door.edge.https_port
    return door.edge.port if door.kind == "slug" else door.edge.http_port


def connected(door: Door, source: str = TRUSTED) -> socket.socket:
    """A connection from this address, over which nothing was said."""
    return socket.create_connection(("127.0.0.1", port_of(door)), PATIENCE, (source, 0))


def answer_after(door: Door, header: bytes, request: bytes, source: str = TRUSTED) -> bytes:
    """All that is answered, HTTP/1.1, in TLS where the door is for that."""
    with connected(door, source) as sock:
        if door.kind == "h2":
            sock.sendall(header)
            with trusting(door.edge.roots).wrap_socket(sock, server_hostname=door.name) as secure:
                secure.sendall(request)
                return everything(secure)
        sock.sendall(header + request)
        return everything(sock)


def everything(sock: socket.socket) -> bytes:
    """Up to the end."""
    data = bytearray()
    while piece := sock.recv(65536):
        data += piece
    return bytes(data)


def seen(door: Door, name: bytes = b"x-forwarded-for") -> list[bytes]:
    """What the service was told in this field last."""
    return door.service.requests[-1].all(name)


def test_the_service_learns_who_the_client_is(door, header):
    for source in (CLIENT, "2001:db8::1"):
        header = header if source == CLIENT else line(source, 51000)
        assert answer_after(door, header, get(door, "/x", SPOOFED)).startswith(b"HTTP/1.1 200")
        assert (seen(door), seen(door, b"x-real-ip")) == ([source.encode()], [source.encode()])


def test_whose_word_is_believed_behind_it(door):
    """The address that is named counts as who has connected: the proxy's own trust is not its clients'."""
    answer_after(door, line(TRUSTED, 1), get(door, "/x", (b"X-Forwarded-For", b"198.51.100.1")))
    assert seen(door) == [b"198.51.100.1, " + TRUSTED.encode()]
    assert seen(door, b"x-real-ip") == [b"198.51.100.1"]


def test_who_names_nobody_is_the_proxy_itself(door):
    for header in (b"PROXY UNKNOWN\r\n", block(LOCAL, 0, b"")):
        answer_after(door, header, get(door, "/x", (b"X-Forwarded-For", b"198.51.100.1")))
        assert seen(door, b"x-real-ip") == [b"198.51.100.1"]


def test_a_trusted_proxy_need_not_speak_it(door):
    assert answer_after(door, b"", get(door, "/x", (b"X-Forwarded-For", b"198.51.100.1"))).startswith(
        b"HTTP/1.1 200"
    )
    assert seen(door, b"x-real-ip") == [b"198.51.100.1"]


def test_nobody_else_is_believed(door, header):
    before = len(door.service.requests)
    if door.kind == "h2":
        with connected(door, "127.0.0.1") as sock:
            sock.sendall(header)
            assert everything(sock)[:1] == b"\x15"
    else:
        with RawClient(port_of(door)) as client:
            client.send(header + get(door, "/x"))
            assert_refused(client.to_the_end(), 400)
    assert len(door.service.requests) == before


def test_not_within_tls(desk, front):
    with (
        door_to("h2", desk, front) as door,
        connected(door) as sock,
        trusting(front.roots).wrap_socket(sock, server_hostname=door.name) as secure,
    ):
        secure.sendall(HEADERS["v1"] + get(door, "/x"))
        assert everything(secure).startswith(b"HTTP/1.1 400")


def test_it_is_said_once(door, header):
    """Else a client behind the proxy could say it again."""
    before = len(door.service.requests)
    if door.kind == "h2":
        with connected(door) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
            sock.sendall(HEADERS["v1"] + header)
            trusting(door.edge.roots).wrap_socket(sock, server_hostname=door.name)
    else:
        assert answer_after(door, HEADERS["v1"] + header, get(door, "/x")).startswith(b"HTTP/1.1 400")
        second = get(door, "/x").replace(b"Connection: close\r\n", b"") + header + get(door, "/y")
        before += 1
        statuses = answer_after(door, header, second)
        assert statuses.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 400" in statuses
        assert seen(door) == [CLIENT.encode()]
    assert len(door.service.requests) == before


def test_byte_by_byte(desk, front, header):
    """Over TLS: tests/tls/test_named.py."""
    with door_to("edge", desk, front) as door:
        with connected(door) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header + get(door, "/x"):
                sock.sendall(bytes((byte,)))
            assert everything(sock).startswith(b"HTTP/1.1 200")
        assert seen(door) == [CLIENT.encode()]


@pytest.mark.parametrize(
    "broken", [b"PROXY TCP4 x y 1 2\r\n", b"PROXY " + b"x" * 200, block(0x11, 0x11, bytes(12))]
)
def test_a_broken_one_is_closed_without_a_word(door, broken):
    log = LogSince(door.edge)
    with connected(door) as sock:
        sock.sendall(broken + get(door, "/x"))
        with contextlib.suppress(ConnectionResetError):
            assert everything(sock) == b""
    if door.kind != "h2":
        # Over TLS it is told now and then only.
        wait_until(lambda: [each for each in log.lines() if "PROXY header" in each], "a line in the log")
        [told] = [each for each in log.lines() if "PROXY header" in each]
        assert TRUSTED in told and "get" not in told.lower()


def test_half_a_header_has_the_time_of_a_head(new_proxy):
    proxy = new_proxy("--trusted-proxies", "127.0.0.1", "--head-timeout", "1s")
    for half in (b"PROXY TCP4 203", named(CLIENT, 1)[:20]):
        with RawClient(proxy.port) as client:
            client.send(half)
            assert b" 408 " in client.to_the_end()


def test_rules_are_about_the_client_that_is_named(door, header):
    door.policy(access={"deny": [f"{CLIENT}/32"]})
    assert answer_after(door, header, get(door, "/x")).startswith(b"HTTP/1.1 403")
    assert answer_after(door, line("203.0.113.8", 1), get(door, "/x")).startswith(b"HTTP/1.1 200")
    door.policy(access={"allow": [CLIENT]})
    assert answer_after(door, header, get(door, "/x")).startswith(b"HTTP/1.1 200")
    assert answer_after(door, b"", get(door, "/x")).startswith(b"HTTP/1.1 403")


def login(desk: Edge, header: bytes) -> int:
    """The status of a login with a wrong password, for which twisted.web's channel gets the connection."""
    body = json.dumps({"appHost": "unnamed", "slug": "nobody", "password": "wrong"}).encode()
    with RawClient(desk.port, source=TRUSTED) as client:
        client.send(header)
        client.begin(b"/user-svc/login", b"POST", (b"Content-Length", b"%d" % len(body)))
        client.send(body)
        return client.answer().status


def test_the_throttle_and_the_log_know_the_client(desk, header):
    source = {b"PROXY ": "203.0.113.20", b"\r\n\r\n\0\r": "203.0.113.21"}[header[:6]]
    header = (line if header[:1] == b"P" else named)(source, 40000 + len(header))
    log = LogSince(desk)
    while (status := login(desk, header)) == 401:
        pass
    assert status == 429
    assert login(desk, line("203.0.113.99", 1)) == 401
    wait_until(
        lambda: [each for each in log.lines() if source in each and "/user-svc/login" in each], "a line"
    )


def test_http2(desk, front):
    with door_to("h2", desk, front) as door:
        sock = connected(door)
        sock.sendall(HEADERS["v2"])
        with trusting(front.roots, ["h2"]).wrap_socket(sock, server_hostname=door.name) as secure:
            assert secure.selected_alpn_protocol() == "h2"
            connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
            connection.initiate_connection()
            fields = [(":method", "GET"), (":scheme", "https"), (":authority", door.name), (":path", "/x")]
            connection.send_headers(1, fields, end_stream=True)
            secure.sendall(connection.data_to_send())
            ended = False
            while not ended:
                for event in connection.receive_data(secure.recv(65536)):
                    ended = ended or isinstance(event, h2.events.StreamEnded)
        assert seen(door) == [CLIENT.encode()]


NGINX = """
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 64; }}
stream {{
    proxy_bind {source};
    proxy_protocol on;
    server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{to}; }}
}}
"""
HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen all
    bind 127.0.0.1:{port}
    unique-id-format %rt
    default-server source {source} send-proxy-v2 proxy-v2-options crc32c,unique-id
    server proxy 127.0.0.1:{to} check check-send-proxy
"""


@contextlib.contextmanager
def relaying(command: list[str], work: pathlib.Path, port: int) -> Iterator[None]:
    """A proxy of others that relays bytes, and runs meanwhile."""
    with (work / "output.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(port), f"{command[0]} listens: {(work / 'output.log').read_text()}")
        yield
    finally:
        end(process)


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def haproxy() -> str:
    """HAProxy, which apt-get installs where it may."""
    for place in ("/usr/sbin/haproxy", shutil.which("haproxy") or ""):
        if pathlib.Path(place).is_file():
            return place
    failed = apt_install("haproxy")
    if not pathlib.Path("/usr/sbin/haproxy").is_file():
        raise programs.ProgramMissing(f"HAProxy is not there, and cannot be had: {failed}")
    return "/usr/sbin/haproxy"


@pytest.mark.once
@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_behind_a_real_proxy(program, door, tmp_path):
    """From an address of the loopback interface that is not the proxy's."""
    port = free_port()
    conf = tmp_path / "conf"
    text = NGINX if program == "nginx" else HAPROXY
    conf.write_text(text.format(work=tmp_path, port=port, to=port_of(door), source=TRUSTED))
    nginx = [str(programs.nginx()), "-p", str(tmp_path), "-c", str(conf)]
    command = nginx if program == "nginx" else [haproxy(), "-db", "-f", str(conf)]
    with relaying(command, tmp_path, port):
        ask = door.command("/x", "--include", source="127.0.0.77")
        ask[ask.index("--connect-to") + 1] = f"::127.0.0.1:{port}"
        asked = subprocess.run(ask, capture_output=True, timeout=PATIENCE)
        assert b" 200" in asked.stdout.partition(b"\r\n")[0], asked
        assert seen(door) == [b"127.0.0.77"]
