"""An HTTP/1.1 client that shows every byte and every event: h11 on a socket of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from types import TracebackType
from typing import Any

import attrs
import h11

PATIENCE = 20.0


@attrs.define
class Answer:
    """One final answer, with the informational ones that came before it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = attrs.Factory(list)
    informational: list[tuple[int, list[tuple[bytes, bytes]]]] = attrs.Factory(list)

    def header(self, name: bytes) -> bytes | None:
        """The first value of this header (lower-case name)."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class RawClient:
    """One connection to the proxy."""

    def __init__(self, port: int, receive_buffer: int = 0, source: str = "127.0.0.1") -> None:
        self.sock = socket.socket()
        if source != "127.0.0.1":
            self.sock.bind((source, 0))
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", port))
        self._parser = h11.Connection(h11.CLIENT)

    def send(self, data: bytes) -> None:
        """Raw bytes, as they are."""
        self.sock.sendall(data)

    def begin(self, target: bytes, method: bytes = b"GET", *headers: tuple[bytes, bytes]) -> None:
        """Send a request head (``Host: proxy.test`` unless given); the target goes out as it is."""
        self._next()
        fields = list(headers)
        if not any(name.lower() == b"host" for name, _ in fields):
            fields.insert(0, (b"Host", b"proxy.test"))
        # h11 must know the method to frame the answer; the bytes on the wire are ours.
        self._parser.send(h11.Request(method=method, target=b"/", headers=fields))
        lines = [b"%s %s HTTP/1.1" % (method, target), *(b"%s: %s" % field for field in fields)]
        self.send(b"\r\n".join(lines) + b"\r\n\r\n")

    def _next(self) -> None:
        if self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()

    def end(self) -> None:
        """Tell the parser that the request is complete (its body went out through `send`)."""
        if self._parser.our_state is h11.SEND_BODY:
            # The body was written raw, so h11 has not counted it.
            self._parser._writer = _Uncounted()
            self._parser.send(h11.EndOfMessage())

    def event(self) -> Any:
        """The next h11 event; raises h11.RemoteProtocolError or ConnectionError when cut short."""
        while True:
            event = self._parser.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._parser.receive_data(self.sock.recv(65536))

    def answer(self) -> Answer:
        """Read one whole answer."""
        self.end()
        informational: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        answer: Answer | None = None
        body: list[bytes] = []
        while True:
            event = self.event()
            match event:
                case h11.InformationalResponse():
                    informational.append((event.status_code, list(event.headers)))
                case h11.Response():
                    answer = Answer(event.status_code, list(event.headers), informational=informational)
                case h11.Data():
                    body.append(bytes(event.data))
                case h11.EndOfMessage():
                    assert answer is not None
                    answer.body = b"".join(body)
                    answer.trailers = list(event.headers)
                    return answer
                case _:
                    raise AssertionError(f"unexpected {event!r}")

    def get(self, target: bytes, *headers: tuple[bytes, bytes]) -> Answer:
        """One GET and its answer."""
        self.begin(target, b"GET", *headers)
        return self.answer()

    def to_the_end(self) -> bytes:
        """Everything until the connection ends, cleanly or not; a proxy that keeps it open is a failure."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := self.sock.recv(65536):
                data += piece
        return bytes(data)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close in order."""
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Uncounted:
    """Stands in for h11's body writer when the body went past it."""

    def __call__(self, event: Any, write: Any) -> None:
        return None
