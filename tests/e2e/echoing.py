"""A WebSocket server that says again what it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from websockets.sync.server import ServerConnection, serve


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    """The URL, for a proxy's target, of a server that runs meanwhile."""
    with serve(_echo, "127.0.0.1", 0, ping_interval=None, close_timeout=1) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
