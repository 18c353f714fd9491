"""WebSocket through the proxy: a real server behind it, real clients before it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from . import programs
from .api import Api
from .proxy_process import ProxyProcess
from .waiting import wait_until

LARGEST = 12 * 1024 * 1024
GROWTH_KIB = 20 * 1024
PATIENCE = 20


def converse(connection: ServerConnection) -> None:
    """What the path says: echo, or one of the ways to end or to flood."""
    assert connection.request is not None
    name = connection.request.path.partition("?")[0].rpartition("/")[2]
    CONVERSATIONS.get(name, echo)(connection)


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def close_with_a_code(connection: ServerConnection) -> None:
    connection.close(4001, "enough")


def close_as_told(connection: ServerConnection) -> None:
    code, reason = json.loads(connection.recv())
    connection.close(code, reason)


def tell_the_head(connection: ServerConnection) -> None:
    assert connection.request is not None
    connection.send(json.dumps(list(connection.request.headers.raw_items())))


def flood(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            connection.send(bytes(1_000_000))


def die(connection: ServerConnection) -> None:
    connection.recv()
    connection.socket.shutdown(socket.SHUT_RDWR)


def read_nothing(connection: ServerConnection) -> None:
    READ_ON.wait(PATIENCE)
    with contextlib.suppress(ConnectionClosed):
        connection.send(str(sum(len(message) for message in connection)))


READ_ON = threading.Event()
CONVERSATIONS = {
    "closes": close_with_a_code,
    "told": close_as_told,
    "head": tell_the_head,
    "floods": flood,
    "dies": die,
    "deaf": read_nothing,
}


def refuse_some(connection: ServerConnection, request: Request) -> Response | None:
    """403 for the path of that name."""
    return connection.respond(403, "not you\n") if request.path.endswith("/forbidden") else None


def choose_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The newest on offer; a client may offer none."""
    return max(offered, default=None)


@pytest.fixture(scope="module")
def websocket_server() -> Iterator[Server]:
    """A server of the websockets library, in threads."""
    with serve(
        converse,
        "127.0.0.1",
        0,
        max_size=LARGEST,
        process_request=refuse_some,
        select_subprotocol=choose_subprotocol,
        compression=None,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.socket.getsockname()[1]}"


@pytest.fixture
def service(proxy: ProxyProcess, admin: Api, websocket_server: Server, slug: str) -> str:
    """Where the server is reached through the shared proxy."""
    admin.add_instance(url_of(websocket_server), slug)
    return f"ws://127.0.0.1:{proxy.port}/{slug}"


def opened(url: str, **options) -> ClientConnection:
    """A client of the websockets library."""
    options.setdefault("compression", None)
    return connect(
        url,
        max_size=LARGEST,
        ping_interval=None,
        proxy=None,
        open_timeout=PATIENCE,
        close_timeout=2,
        **options,
    )


def test_texts_and_bytes_come_back(service):
    with opened(f"{service}/echo") as client:
        for message in ("", "hello", "\u00e4\U0001f600" * 100, b"", b"\x00\xff" * 1000, bytes(65536)):
            client.send(message)
            assert client.recv(PATIENCE) == message


def test_messages_of_10_mb_both_ways(service):
    message = hashlib.sha256(b"seed").digest() * (10 * 1024 * 1024 // 32)
    with opened(f"{service}/echo") as client:
        for _ in range(2):
            sending = threading.Thread(target=client.send, args=(message,))
            sending.start()
            assert client.recv(PATIENCE) == message
            sending.join(PATIENCE)


def test_compressed_messages_and_fragments(service):
    with opened(f"{service}/echo", compression="deflate") as client:
        client.send(["one", "two", "three"])
        assert client.recv(PATIENCE) == "onetwothree"


def test_pings_are_answered_from_end_to_end(service):
    with opened(f"{service}/echo") as client:
        for payload in (b"", b"mine", b"x" * 125):
            assert client.ping(payload).wait(PATIENCE)


def test_the_services_close_code_reaches_the_client(service):
    with opened(f"{service}/closes") as client, pytest.raises(ConnectionClosed) as caught:
        client.recv(PATIENCE)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "enough")


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
def test_every_close_code_passes(service, code):
    with opened(f"{service}/told") as client, pytest.raises(ConnectionClosed) as caught:
        client.send(json.dumps([code, "because"]))
        client.recv(PATIENCE)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "because")


def test_a_subprotocol_is_agreed_upon(service):
    with opened(f"{service}/echo", subprotocols=["chat.v1", "chat.v2"]) as client:
        assert client.subprotocol == "chat.v2"
    with opened(f"{service}/echo") as client:
        assert client.subprotocol is None


def test_what_the_service_sees_of_the_request(service, slug):
    headers = {"Cookie": "a=b", "X-Forwarded-For": "6.6.6.6", "Origin": "https://front.example"}
    with opened(f"{service}/head?x=%2F", additional_headers=headers) as client:
        fields = [(name.lower(), value) for name, value in json.loads(client.recv(PATIENCE))]
        assert client.response is not None and client.response.headers["Upgrade"] == "websocket"
    seen = dict(fields)
    assert (seen["upgrade"], seen["connection"].lower()) == ("websocket", "upgrade")
    assert (seen["cookie"], seen["origin"]) == ("a=b", "https://front.example")
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert len(fields) == len(seen)


def test_a_refused_upgrade_reaches_the_client(service):
    with pytest.raises(InvalidStatus) as caught, opened(f"{service}/forbidden"):
        pass
    assert caught.value.response.status_code == 403
    assert caught.value.response.body == b"not you\n"


def test_no_such_service_is_404(proxy):
    with pytest.raises(InvalidStatus) as caught, opened(f"ws://127.0.0.1:{proxy.port}/nobody-svc/echo"):
        pass
    assert caught.value.response.status_code == 404


def test_many_at_once(service):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(f"{service}/echo")) for _ in range(100)]
        for number, client in enumerate(clients):
            client.send(f"message {number}")
        for number, client in reversed(list(enumerate(clients))):
            assert client.recv(PATIENCE) == f"message {number}"


def peak_during(proxy: ProxyProcess, seconds: float) -> int:
    """The highest resident size within this time: here passing time is what is tested."""
    deadline = time.monotonic() + seconds
    peak = 0
    while time.monotonic() < deadline:
        peak = max(peak, proxy.rss_kib())
        time.sleep(0.05)
    return peak


def test_a_client_that_stops_reading_holds_up_the_service(proxy, service):
    before = proxy.rss_kib()
    with opened(f"{service}/floods", max_queue=1) as client:
        assert len(client.recv(PATIENCE)) == 1_000_000
        assert peak_during(proxy, 2.0) - before < GROWTH_KIB
        # And it goes on where it was.
        for _ in range(50):
            assert len(client.recv(PATIENCE)) == 1_000_000
        client.socket.shutdown(socket.SHUT_RDWR)


def test_a_service_that_stops_reading_holds_up_the_client(proxy, service):
    READ_ON.clear()
    count = 60
    before = proxy.rss_kib()
    with opened(f"{service}/deaf") as client:

        def send_all() -> None:
            for _ in range(count):
                client.send(bytes(1_000_000))
            client.close(CloseCode.NORMAL_CLOSURE)

        sending = threading.Thread(target=send_all)
        sending.start()
        peak = peak_during(proxy, 2.0)
        held_up = sending.is_alive()
        READ_ON.set()
        sending.join(PATIENCE)
    assert held_up, "everything went into buffers while the service read nothing"
    assert peak - before < GROWTH_KIB


def test_a_service_that_dies_ends_the_clients_connection(service):
    with opened(f"{service}/dies") as client:
        client.send("now")
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(PATIENCE)
        assert caught.value.rcvd is None


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_dies_ends_the_services_connection(service, websocket_server, how, monkeypatch):
    ended = threading.Event()

    def wait_for_the_end(connection: ServerConnection) -> None:
        connection.send("ready")
        with contextlib.suppress(ConnectionClosed):
            connection.recv()
        ended.set()

    monkeypatch.setitem(CONVERSATIONS, "mourns", wait_for_the_end)
    with opened(f"{service}/mourns") as client:
        assert client.recv(PATIENCE) == "ready"
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
        else:
            client.socket.shutdown(socket.SHUT_RDWR)
        assert ended.wait(PATIENCE), "the service was not told"


def test_an_idle_tunnel_is_closed_and_a_busy_one_is_not(new_proxy, websocket_server):
    proxy = new_proxy("--tunnel-timeout", "1s")
    Api(proxy.url).login().add_instance(url_of(websocket_server), "talk-svc")
    url = f"ws://127.0.0.1:{proxy.port}/talk-svc/echo"
    with opened(url) as idle, opened(url) as busy:
        began = time.monotonic()
        while time.monotonic() - began < 3.0:
            busy.send("still here")
            assert busy.recv(PATIENCE) == "still here"
            time.sleep(0.2)
        with pytest.raises(ConnectionClosed):
            idle.recv(0.1)
    proxy.stop()


def test_a_proxy_that_stops_does_not_wait_for_its_tunnels(new_proxy, websocket_server):
    proxy = new_proxy()
    Api(proxy.url).login().add_instance(url_of(websocket_server), "talk-svc")
    with opened(f"ws://127.0.0.1:{proxy.port}/talk-svc/echo") as client:
        client.send("still")
        assert client.recv(PATIENCE) == "still"
        began = time.monotonic()
        proxy.terminate()
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
    assert proxy.wait() == 0
    assert time.monotonic() - began < 10
    assert "Traceback" not in proxy.log()


def test_the_access_log_tells_of_a_tunnel_when_it_ends(proxy, service, slug):
    with opened(f"{service}/echo?logged") as client:
        client.send("hello")
        assert client.recv(PATIENCE) == "hello"
    lines = wait_until(
        lambda: [line for line in proxy.log().splitlines() if f"/{slug}/echo?logged" in line],
        "the access log has the tunnel",
    )
    assert ['"status": 101' in line for line in lines] == [True]


NODE_CLIENT = """
const [url, size] = [process.argv[1], Number(process.argv[2])];
const seen = { texts: [] };
const socket = new WebSocket(url, ["chat.v1"]);
socket.binaryType = "arraybuffer";
socket.onopen = () => { seen.protocol = socket.protocol; socket.send("hello"); };
socket.onmessage = ({ data }) => {
  if (typeof data === "string") { seen.texts.push(data); socket.send(new Uint8Array(size).fill(7)); return; }
  seen.size = data.byteLength;
  seen.whole = new Uint8Array(data).every((byte) => byte === 7);
  socket.close(4000, "done");
};
socket.onclose = (event) => {
  const { code, reason, wasClean } = event;
  console.log(JSON.stringify({ ...seen, code, reason, wasClean }));
};
socket.onerror = (event) => { console.error(event.message ?? String(event.error)); };
"""


def test_the_websocket_of_node(service):
    """undici's, which browsers' tests are run against as well."""
    size = 3_000_000
    done = subprocess.run(
        [str(programs.node()), "--experimental-websocket", "-e", NODE_CLIENT, f"{service}/echo", str(size)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stdout, done.stderr
    assert json.loads(done.stdout) == {
        "texts": ["hello"],
        "protocol": "chat.v1",
        "size": size,
        "whole": True,
        "code": 4000,
        "reason": "done",
        "wasClean": True,
    }
