"""Clients that ask again and again, each as one kind of program does, and count what fails."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import attrs
import h2.config
import h2.connection
import h2.events
import h2.exceptions

PATIENCE = 30.0
PAUSE = 0.005
"""Seconds between the requests of one client."""
GOAWAY = 7


@attrs.define
class Tally:
    """What became of the requests of one client."""

    name: str
    answered: int = 0
    connections: int = 0
    longest: float = 0.0
    failures: list[str] = attrs.Factory(list)


Connect = Callable[[], socket.socket]
Once = Callable[[Tally], None]


def _answer(sock: socket.socket, request: bytes) -> tuple[int, bool]:
    """Send it; the status, and whether the connection may be used again. An answer cut short raises."""
    sock.sendall(request)
    answer = http.client.HTTPResponse(sock, method="GET")
    answer.begin()
    try:
        answer.read()
        return answer.status, not answer.will_close
    finally:
        answer.close()


class OneEach:
    """A new connection for each request."""

    def __init__(self, connect: Connect, request: bytes, status: int = 200) -> None:
        self._connect = connect
        self._request = request
        self._status = status

    def __call__(self, tally: Tally) -> None:
        """One request."""
        tally.connections += 1
        with self._connect() as sock:
            status, _again = _answer(sock, self._request)
        assert status == self._status, f"answered {status}"

    def close(self) -> None:
        """Nothing is kept."""


class KeepAlive(OneEach):
    """One connection for as long as the server wants it, then the next. No request is ever made again."""

    _sock: socket.socket | None = None

    def __call__(self, tally: Tally) -> None:
        """One request."""
        sock, self._sock = self._sock, None
        if sock is None:
            tally.connections += 1
            sock = self._connect()
        try:
            status, again = _answer(sock, self._request)
        except BaseException:
            sock.close()
            raise
        if again:
            self._sock = sock
        else:
            sock.close()
        assert status == self._status, f"answered {status}"

    def close(self) -> None:
        """Close what is kept."""
        if self._sock is not None:
            self._sock.close()


class Http2:
    """One connection until the server says GOAWAY; what it then disowns is asked again (RFC 9113, 8.7)."""

    def __init__(self, connect: Connect, host: str, path: str) -> None:
        self._connect = connect
        self._fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)]
        self._sock: socket.socket | None = None
        self._leaving = False
        self._held = b""

    def __call__(self, tally: Tally) -> None:
        """One request."""
        for _turn in range(3):
            if self._sock is None or self._leaving:
                self._begin(tally)
            if self._ask():
                return
            self.close()
        raise AssertionError("disowned again and again")

    def _begin(self, tally: Tally) -> None:
        self.close()
        tally.connections += 1
        self._leaving = False
        self._held = b""
        self._sock = self._connect()
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()

    def _ask(self) -> bool:
        """Whether it was answered, or not even looked at."""
        sock = self._sock
        assert sock is not None
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, self._fields, end_stream=True)
        sock.sendall(self._h2.data_to_send())
        answered = False
        while not answered:
            frame = self._frame(sock)
            if frame[3] == GOAWAY:
                # Not for h2, which would take no answers from then on.
                self._leaving = True
                if int.from_bytes(frame[9:13], "big") < stream:
                    return False
                continue
            for event in self._h2.receive_data(frame):
                answered |= self._is_the_end(event)
            sock.sendall(self._h2.data_to_send())
        return True

    def _is_the_end(self, event: h2.events.Event) -> bool:
        if isinstance(event, h2.events.ResponseReceived):
            assert (b":status", b"200") in event.headers, event.headers
        elif isinstance(event, h2.events.StreamReset):
            raise ConnectionError(f"reset with {event.error_code}")
        return isinstance(event, h2.events.StreamEnded)

    def _frame(self, sock: socket.socket) -> bytes:
        """One frame with its head (RFC 9113, 4.1)."""
        while len(self._held) < 9 or len(self._held) < 9 + int.from_bytes(self._held[:3], "big"):
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed before the answer")
            self._held += data
        size = 9 + int.from_bytes(self._held[:3], "big")
        frame, self._held = self._held[:size], self._held[size:]
        return frame

    def close(self) -> None:
        """Close what is kept."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Load:
    """Clients in threads that ask until the block ends."""

    def __init__(self, **clients: OneEach | Http2) -> None:
        self.tallies = {name: Tally(name) for name in clients}
        self._clients = clients
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name, client)) for name, client in clients.items()
        ]

    def _run(self, name: str, client: OneEach | Http2) -> None:
        tally = self.tallies[name]
        while not self._end.wait(PAUSE):
            began = time.monotonic()
            try:
                client(tally)
                tally.answered += 1
            except (OSError, http.client.HTTPException, h2.exceptions.H2Error, AssertionError) as error:
                tally.failures.append(f"{type(error).__name__}: {error}")
                client.close()
            tally.longest = max(tally.longest, time.monotonic() - began)
        client.close()

    @property
    def failures(self) -> dict[str, list[str]]:
        """What failed, by client."""
        return {name: tally.failures for name, tally in self.tallies.items() if tally.failures}

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def plain(port: int) -> Connect:
    """Connects to a port of the loopback interface."""
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def secure(port: int, host: str, context: ssl.SSLContext) -> Connect:
    """Connects, and shakes hands for this host."""

    def connect() -> socket.socket:
        sock = plain(port)()
        try:
            return context.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    return connect


@contextlib.contextmanager
def under_way(load: Load) -> Iterator[Load]:
    """The load, once each client of it has been answered."""
    with load:
        deadline = time.monotonic() + PATIENCE
        while not all(tally.answered for tally in load.tallies.values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield load
