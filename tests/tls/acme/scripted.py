"""An https server of the test's own, for what pebble does not do: hang, dribble, flood, and talk nonsense.

`Scripted(answer)` calls ``answer(request)`` for each request, in a thread; what it yields is sent as it is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from tests.tls.making import made, root


@attrs.frozen
class Request:
    """What was asked; `number` counts from 1 over all connections, `connection` is which of them."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    number: int
    connection: int

    @property
    def protected(self) -> dict[str, Any]:
        """The header of its JWS."""
        return self._part("protected")

    @property
    def payload(self) -> Any:
        """What its JWS carries; None for POST-as-GET."""
        return self._part("payload")

    def _part(self, name: str) -> Any:
        text = json.loads(self.body)[name]
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return json.loads(data) if data else None


Answer = Callable[[Request], Iterable[bytes]]


def reply(
    document: Any = b"", status: int = 200, type: str = "application/json", **headers: str
) -> list[bytes]:
    """A whole answer; `replay_nonce="x"` becomes a header."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = {"content-type": type, "content-length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return [f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode(), body]


class Scripted:
    """The server, while the context lasts; it answers with `answer`."""

    def __init__(self, answer: Answer, *, name: str = "localhost") -> None:
        self.requests: list[Request] = []
        self.closed = threading.Event()
        """Set when a client has gone away in the middle of an answer."""
        self.stopping = threading.Event()
        self._answer = answer
        self._connections = 0
        self._sockets: list[socket.socket] = []
        self._certificate = made(name, "127.0.0.1") if name == "localhost" else made(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}"
        self.directory = f"{self.url}/dir"

    def ca_file(self, folder: pathlib.Path) -> pathlib.Path:
        """What makes it trusted."""
        path = folder / "scripted-ca.pem"
        path.write_text(root().pem)
        return path

    def __enter__(self) -> Scripted:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with _written(self._certificate.bundle) as path:
            self._context.load_cert_chain(path)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._listener.close()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                self._sockets.append(raw)
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        self._connections += 1
        connection = self._connections
        with (
            contextlib.suppress(OSError, ValueError),
            self._context.wrap_socket(raw, server_side=True) as tls,
        ):
            file = tls.makefile("rb")
            while line := file.readline():
                request = self._read(line, file, connection)
                self.requests.append(request)
                try:
                    for chunk in self._answer(request):
                        tls.sendall(chunk)
                except OSError:
                    self.closed.set()
                    return

    def _read(self, line: bytes, file: Any, connection: int) -> Request:
        method, path, _ = line.decode("latin-1").split()
        headers = {}
        while (field := file.readline().decode("latin-1").strip()) != "":
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", "0")))
        return Request(method, path, headers, body, len(self.requests) + 1, connection)


@contextlib.contextmanager
def _written(text: str):
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(text)
        file.flush()
        yield file.name
