"""A backend that takes requests apart with h11, and what a refusal of the proxy looks like on the wire."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import attrs
import h11

from .api import Api
from .proxy_process import ProxyProcess
from .raw_backend import Connection, RawBackend
from .raw_client import RawClient
from .waiting import wait_until

Fields = list[tuple[bytes, bytes]]


@attrs.define
class Received:
    """One complete request as h11 reads it; names of fields in lower case."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = attrs.Factory(list)

    def all(self, name: bytes) -> list[bytes]:
        """Every value of this field."""
        return [value for key, value in self.fields if key == name]


class Recorder:
    """The script of a `RawBackend`: each complete request is kept and answered with 200 and its target.

    Bytes that are no HTTP/1.1 end up in `broken`, with h11's word about them.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.broken: list[str] = []
        self.connections = 0
        self.at_once = 0
        """The most requests that were there before the first of them was answered."""

    def __call__(self, connection: Connection) -> None:
        self.connections += 1
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(connection.head + connection.rest())
        while True:
            try:
                received = self._next(parser, connection)
            except h11.RemoteProtocolError as error:
                self.broken.append(str(error))
                return
            if received is None:
                return
            self.requests.append(received)
            body, fields, status = self.replied(received)
            sent = b"" if received.method == b"HEAD" else body
            self._tell(parser, int(status.split()[0]), len(body), sent)
            connection.send(connection.answer_head(len(body), status, *fields) + sent)
            if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
                return
            parser.start_next_cycle()

    def replied(self, received: Received) -> tuple[bytes, tuple[str, ...], str]:
        """The body, the field lines and the status that answer it."""
        return received.target, (), "200 OK"

    @staticmethod
    def _tell(parser: h11.Connection, status: int, size: int, sent: bytes) -> None:
        """What the parser must know of an answer that goes past it."""
        parser.send(h11.Response(status_code=status, headers=[(b"Content-Length", b"%d" % size)]))
        parser.send(h11.Data(data=sent))
        parser.send(h11.EndOfMessage())

    def _next(self, parser: h11.Connection, connection: Connection) -> Received | None:
        """The next complete request; None when the proxy closed before there was one."""
        received = None
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = connection.receive()
                if not data:
                    return None
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                received = Received(event.method, event.target, list(event.headers))
            elif isinstance(event, h11.Data):
                assert received is not None
                received.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert received is not None
                received.trailers = list(event.headers)
                return received
            else:
                return None


def statuses(data: bytes) -> list[int]:
    """The status of every answer in these bytes."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", data)]


def assert_refused(data: bytes, *allowed: int) -> int:
    """`data`, up to the end of the connection, is one short JSON error that says it closes; its status."""
    assert data, "closed without a word"
    assert len(statuses(data)) == 1, data[:2000]
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    head = parser.next_event()
    assert isinstance(head, h11.Response)
    body = parser.next_event()
    assert isinstance(body, h11.Data), data
    assert isinstance(parser.next_event(), h11.EndOfMessage)
    fields = dict(head.headers)
    assert fields[b"content-type"] == b"application/json"
    assert fields[b"connection"] == b"close"
    assert list(json.loads(bytes(body.data))) == ["error"]
    assert len(data) < 1000
    assert b"127.0.0.1" not in data and b"Traceback" not in data
    assert head.status_code in allowed, data
    return head.status_code


class LogSince:
    """What the proxy has logged since this was made."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self._proxy = proxy
        self._before = len(proxy.log())

    def lines(self) -> list[str]:
        """The new lines."""
        return self._proxy.log()[self._before :].splitlines()

    def refusals(self) -> list[str]:
        """Those that tell of a refusal."""
        return [line for line in self.lines() if "refused" in line]

    def assert_refusal(self, status: int, reason: str) -> None:
        """Exactly one line tells of a refusal, its status, and why."""
        wait_until(self.refusals, f"a log line about the refusal with {status}, of {self.lines()}", 5)
        [line] = self.refusals()
        assert f"with {status}: " in line, line
        assert re.search(reason, line.partition(f"with {status}: ")[2], re.IGNORECASE), f"{reason} in {line}"


def assert_served(proxy: ProxyProcess, slug: str) -> None:
    """The next client gets its answer."""
    with RawClient(proxy.port) as client:
        assert client.get(b"/%s/next" % slug.encode()).status == 200


@contextlib.contextmanager
def recorded(admin: Api, slug: str) -> Iterator[Recorder]:
    """What the one instance of `slug` receives, at the proxy of this admin."""
    recorder = Recorder()
    with RawBackend(recorder) as backend:
        admin.add_instance(backend.url, slug)
        yield recorder
