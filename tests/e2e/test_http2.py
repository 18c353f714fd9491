"""HTTP/2 over TLS with real clients: curl, and the `h2` library by hand where curl is too well-behaved."""

from __future__ import annotations

import hashlib
import pathlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from .edge import Edge, connected, trusting
from .raw_backend import Connection, RawBackend
from .recording import LogSince
from .waiting import wait_until

MIB = 1024 * 1024
PATIENCE = 20.0


class H2Client:
    """One connection of HTTP/2; windows are opened for what is read as long as `takes` says so."""

    def __init__(self, edge: Edge, host: str) -> None:
        self.host = host
        self.socket: ssl.SSLSocket = connected(edge.https_port, host, trusting(edge.roots, ["h2"]))
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.takes = True
        self.closed = False
        self.bodies: dict[int, bytes] = {}
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.trailers: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaways: list[int] = []
        self.flush()

    def flush(self) -> None:
        """Send what is made."""
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def ask(self, path: str = "/", method: str = "GET", ended: bool = True, **fields: str) -> int:
        """Send a request's head; returns its stream."""
        number: int = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", self.host), (":path", path)]
        self.h2.send_headers(number, head + list(fields.items()), end_stream=ended)
        self.flush()
        return number

    def read(self, seconds: float = PATIENCE) -> bool:
        """Take what comes next; false if nothing did."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self._event(event)
        self.flush()
        return True

    def _event(self, event: events.Event) -> None:
        if isinstance(event, events.ResponseReceived):
            self.heads[event.stream_id] = {bytes(name): bytes(value) for name, value in event.headers}
        elif isinstance(event, events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            if self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, events.TrailersReceived):
            self.trailers[event.stream_id] = {bytes(name): bytes(value) for name, value in event.headers}
        elif isinstance(event, events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, events.ConnectionTerminated):
            self.goaways.append(int(event.error_code or 0))

    def until(self, done: Callable[[], object]) -> None:
        """Read on until this is so."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert not self.closed, "the connection ended before that"
            assert time.monotonic() < deadline, "that took too long"
            self.read(1.0)

    def has(self, number: int, what: bytes, times: int) -> bool:
        """Whether an answer has this so many times."""
        return self.bodies.get(number, b"").count(what) == times

    def body(self, number: int) -> bytes:
        """The whole body of an answer."""
        self.until(lambda: number in self.ended)
        return self.bodies.get(number, b"")

    def close(self) -> None:
        """Be gone."""
        self.socket.close()

    def __enter__(self) -> H2Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def served(edge: Edge, host: str) -> Iterator[Callable[[Callable[[Connection], None]], str]]:
    """Let `host` be served by a script; returns the host."""
    backends: list[RawBackend] = []

    def serve(script: Callable[[Connection], None]) -> str:
        backends.append(RawBackend(script))
        edge.route(host, backends[-1].url)
        edge.certify(host)
        return host

    yield serve
    for backend in backends:
        backend.close()


def answer_paths(connection: Connection) -> None:
    """Each request on the connection gets its own path."""
    while connection.head:
        connection.answer(connection.head.split(b" ")[1])
        connection.read_head()


def test_curl_downloads_what_is_large(edge: Edge, served, tmp_path: pathlib.Path) -> None:
    content = bytes(range(256)) * 4096 * 20

    def script(connection: Connection) -> None:
        connection.answer(content)

    host = served(script)
    got = edge.curl(f"https://{host}/large", "--http2")
    assert (got.version, got.status) == ("2", 200)
    assert hashlib.sha256(got.body).digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("options", [(), ("--header", "Expect: 100-continue")])
def test_curl_uploads_what_is_large(edge: Edge, served, tmp_path: pathlib.Path, options) -> None:
    content = bytes(range(256)) * 4096 * 20
    file = tmp_path / "upload"
    file.write_bytes(content)

    def script(connection: Connection) -> None:
        if b"100-continue" in connection.head:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = connection.read(len(content))
        connection.answer(hashlib.sha256(body).hexdigest().encode())

    host = served(script)
    got = edge.curl(f"https://{host}/", "--http2", *options, "--request", "PUT", "--data-binary", f"@{file}")
    assert (got.version, got.status) == ("2", 200)
    assert got.body.decode() == hashlib.sha256(content).hexdigest()


def test_curl_sees_a_refusal_within_its_upload(new_edge, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(bytes(5 * MIB))
    edge = new_edge("--body-limit", "1MB")

    def script(connection: Connection) -> None:
        while connection.receive():
            pass

    with RawBackend(script) as backend:
        edge.route("small.test", backend.url)
        edge.certify("small.test")
        for more in ((), ("--header", "Content-Length:")):
            got = edge.curl("https://small.test/", "--http2", "--upload-file", str(file), *more)
            assert (got.version, got.status) == ("2", 413)


def test_curl_sees_early_hints_and_an_error_where_an_answer_breaks_off(edge: Edge, served) -> None:
    def script(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    host = served(script)
    done = subprocess.run(
        edge.curl_command(f"https://{host}/", "--http2", "--include"), capture_output=True, timeout=30
    )
    assert done.stdout.startswith(b"HTTP/2 103 \r\nlink: </style.css>\r\n")
    assert done.stdout.endswith(b"hello")
    assert done.returncode == 92, "CURLE_HTTP2_STREAM"


def test_many_requests_at_once_on_one_connection(edge: Edge, served) -> None:
    host = served(answer_paths)
    with H2Client(edge, host) as client:
        numbers = {client.ask(f"/{count}"): b"/%d" % count for count in range(100)}
        for number, path in numbers.items():
            assert client.body(number) == path


def test_trailers_both_ways(edge: Edge, served) -> None:
    asked: list[bytes] = []

    def script(connection: Connection) -> None:
        asked.append(connection.head + connection.read_until(b"x-sum: 1\r\n\r\n"))
        connection.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 2\r\n\r\n"
        )

    host = served(script)
    with H2Client(edge, host) as client:
        number = client.ask("/", "POST", ended=False, te="trailers")
        client.h2.send_data(number, b"hello")
        client.h2.send_headers(number, [("x-sum", "1")], end_stream=True)
        client.flush()
        assert client.body(number) == b"abc"
        assert client.trailers[number] == {b"x-sum": b"2"}
    assert b"TE: trailers\r\n" in asked[0] and b"X-Forwarded-Proto: https\r\n" in asked[0]
    assert asked[0].endswith(b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n")


def test_events_come_as_they_are_sent(edge: Edge, served) -> None:
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for count in range(3):
            connection.send(b"data: %d\n\n" % count)
            assert go_on.wait(PATIENCE)
            go_on.clear()

    host = served(script)
    with H2Client(edge, host) as client:
        number = client.ask("/")
        for count in range(1, 4):
            client.until(partial(client.has, number, b"data:", count))
            go_on.set()
        client.body(number)


def test_a_slow_reader_holds_up_neither_the_others_nor_the_memory(edge: Edge, served) -> None:
    sent = [0]

    def script(connection: Connection) -> None:
        if b" /fine " in connection.head:
            answer_paths(connection)
            return
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
        while sent[0] < 100 * MIB:
            connection.send(b"x" * 65536)
            sent[0] += 65536

    host = served(script)
    before = edge.rss_kib()
    with H2Client(edge, host) as client:
        client.takes = False
        # Room for the other answer, on the connection.
        client.h2.increment_flow_control_window(MIB)
        slow = client.ask("/slow")
        client.until(lambda: len(client.bodies.get(slow, b"")) == 65535)
        assert client.body(client.ask("/fine")) == b"/fine"
        time.sleep(0.5)
        assert len(client.bodies[slow]) == 65535
        # What the kernels of both hops hold, and no more.
        assert sent[0] < 30 * MIB
        assert edge.rss_kib() - before < 20 * 1024
        client.h2.reset_stream(slow, ErrorCodes.CANCEL)
        client.flush()
        assert client.body(client.ask("/fine")) == b"/fine"


def test_a_flood_of_resets_is_told_to_be_calm_and_others_are_served(edge: Edge, served) -> None:
    host = served(answer_paths)
    log = LogSince(edge)
    before = edge.rss_kib()
    with H2Client(edge, host) as client:
        try:
            for _ in range(3000):
                number = client.h2.get_next_available_stream_id()
                head = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/")]
                client.h2.send_headers(number, head, end_stream=True)
                client.h2.reset_stream(number, ErrorCodes.CANCEL)
                if number % 40 == 1:
                    client.flush()
        except OSError:
            pass
        while client.read(5):
            pass
        assert client.closed
        assert client.goaways == [ErrorCodes.ENHANCE_YOUR_CALM]
    wait_until(
        lambda: any("closed an HTTP/2 connection" in line for line in log.lines()), "a line in the log", 5
    )
    assert edge.rss_kib() - before < 20 * 1024
    assert edge.curl(f"https://{host}/next", "--http2").body == b"/next"


def test_what_is_no_http2_is_ended(edge: Edge, served) -> None:
    host = served(answer_paths)
    connection = connected(edge.https_port, host, trusting(edge.roots, ["h2"]))
    with connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    assert b"HTTP/1.1" not in received and len(received) < 200


def test_a_proxy_that_stops_finishes_its_answers(new_edge: Callable[..., Edge]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        begun.set()
        assert go_on.wait(PATIENCE)
        connection.send(b"world")

    edge = new_edge()
    with RawBackend(script) as backend:
        edge.route("stop.test", backend.url)
        edge.certify("stop.test")
        command = edge.curl_command("https://stop.test/", "--http2")
        curl = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert begun.wait(PATIENCE)
        edge.terminate()
        time.sleep(2)
        go_on.set()
        output, errors = curl.communicate(timeout=PATIENCE)
        assert (curl.returncode, output) == (0, b"helloworld"), errors
        assert edge.wait() == 0
