"""A backend that does exactly what a test tells it to, byte by byte, and records what it saw."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

Script = Callable[["Connection"], None]
PATIENCE = 20.0


class Connection:
    """One accepted connection; `head` is the request head it began with."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self._buffer = b""
        sock.settimeout(PATIENCE)

    def read_head(self) -> bytes:
        """Read one head; empty when the peer closed instead (a health check, say)."""
        self.head = self.read_until(b"\r\n\r\n")
        return self.head

    def read_until(self, mark: bytes) -> bytes:
        """Read up to and with `mark`; what there was, if the peer closes first."""
        while mark not in self._buffer:
            data = self.receive()
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(mark)
        return found + mark

    def rest(self) -> bytes:
        """What came behind the head and was read with it."""
        rest, self._buffer = self._buffer, b""
        return rest

    def receive(self) -> bytes:
        """Whatever comes next; empty at the end, be it clean or a reset."""
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer if the peer closes."""
        while len(self._buffer) < size:
            data = self.receive()
            if not data:
                break
            self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def send(self, data: bytes) -> None:
        """Write all of it."""
        self.sock.sendall(data)

    def answer(self, body: bytes = b"ok", status: str = "200 OK", *headers: str) -> None:
        """A whole answer with Content-Length; the connection stays open."""
        self.send(self.answer_head(len(body), status, *headers) + body)

    @staticmethod
    def answer_head(size: int, status: str = "200 OK", *headers: str) -> bytes:
        """The head of one whose body has this length: all of it, where HEAD was asked."""
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {size}", "", ""]
        return "\r\n".join(lines).encode()

    def wait_for_close(self) -> bool:
        """True once the peer has closed; False if it still sends or stays."""
        try:
            return self.receive() == b""
        except TimeoutError:
            return False

    def reset(self) -> None:
        """Close with RST, as a process does that was killed with data unread."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def answer_ok(connection: Connection) -> None:
    """The plainest script: every request on the connection gets 200 and `ok`."""
    while connection.head:
        connection.answer()
        connection.read_head()


class RawBackend:
    """A listening socket whose connections each run `script`, in threads of their own."""

    def __init__(self, script: Script = answer_ok) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.failures: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.add(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        try:
            # A probe connects and says nothing: no script for it.
            if connection.read_head():
                self.heads.append(connection.head)
                self.script(connection)
        except (TimeoutError, OSError):
            pass  # The test looks at what arrived; a script cut off in the middle is part of the game.
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._open.discard(sock)
            sock.close()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> RawBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self.failures:
            raise self.failures[0]
