"""`compress`, and what else becomes of an answer on its way to the client; what streams keeps streaming."""

from __future__ import annotations

import base64
import gzip
import socket
import subprocess
from collections.abc import Callable

import brotli
import pytest
import zstandard
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from onebackend_proxy.passwords import hash_password

from .echoing import echo_server
from .edge import PATIENCE
from .policies import Door, Reply, door_to
from .raw_backend import RawBackend
from .recording import Received

TEXT = b"All work and no play makes Jack a dull boy.\n" * 400
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
PLAIN = ("Content-Type: text/plain", 'ETag: "v1"', "Vary: Origin")


@pytest.fixture
def compressing(door):
    door.service.reply = lambda _: Reply(TEXT, PLAIN)
    door.policy(compress=True)
    return door


@pytest.mark.parametrize("coding", DECODERS)
def test_each_coding(compressing, coding):
    answer = compressing.ask("/x", "-H", f"Accept-Encoding: {coding}")
    assert answer.headers["content-encoding"] == coding
    assert DECODERS[coding](answer.body) == TEXT
    assert len(answer.body) < len(TEXT) / 10
    vary = {name.strip().lower() for name in answer.headers["vary"].split(",")}
    assert vary == {"origin", "accept-encoding"}
    assert answer.headers["etag"] == 'W/"v1"'


def test_curl_reads_it(compressing):
    answer = compressing.ask("/x", "--compressed")
    assert answer.body == TEXT and answer.headers["content-encoding"] in DECODERS


def test_who_asks_for_nothing_gets_it_as_it_is(compressing):
    for accepts in (
        "Accept-Encoding;",
        "Accept-Encoding: identity",
        "Accept-Encoding: gzip;q=0, br;q=0.0",
        "X: y",
    ):
        answer = compressing.ask("/x", "-H", accepts)
        assert (accepts, answer.body, "content-encoding" in answer.headers) == (accepts, TEXT, False)
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert answer.headers["etag"] == '"v1"'


LEFT_ALONE = (
    ("short", b"x" * 500, ("Content-Type: text/plain",)),
    ("image", TEXT, ("Content-Type: image/png",)),
    ("encoded", gzip.compress(TEXT * 100), ("Content-Type: text/plain", "Content-Encoding: gzip")),
    ("no-transform", TEXT, ("Content-Type: text/plain", "Cache-Control: public, no-transform")),
    ("untyped", TEXT, ()),
)


@pytest.mark.parametrize(("_why", "body", "fields"), LEFT_ALONE)
def test_left_alone(door, _why, body, fields):
    door.service.reply = lambda _: Reply(body, fields)
    door.policy(compress=True)
    answer = door.ask("/x", "-H", "Accept-Encoding: br, gzip, zstd")
    assert answer.body == body
    assert answer.headers.get("content-encoding") == ("gzip" if _why == "encoded" else None)


def test_a_tag_that_we_made_weak_is_understood(desk, front):
    """The client says ``W/"v1"``; a service compares weakly, and answers 304."""

    def reply(received: Received) -> Reply:
        if b'"v1"' in b"".join(received.all(b"if-none-match")):
            return Reply(b"", ('ETag: "v1"',), "304 Not Modified")
        return Reply(TEXT, PLAIN)

    with door_to("edge", desk, front, reply) as door:
        door.policy(compress=True)
        first = door.ask("/x", "-H", "Accept-Encoding: gzip")
        again = door.ask("/x", "-H", "Accept-Encoding: gzip", "-H", f"If-None-Match: {first.headers['etag']}")
        assert (again.status, again.body) == (304, b"")


def test_head_says_what_get_would(compressing):
    said = compressing.ask("/x", "--head", "-H", "Accept-Encoding: gzip").headers
    assert (said["content-encoding"], said["etag"], said["vary"]) == (
        "gzip",
        'W/"v1"',
        "Origin, Accept-Encoding",
    )
    assert "content-length" not in said
    said = compressing.ask("/x", "--head").headers
    assert (said["content-length"], said["etag"]) == (str(len(TEXT)), '"v1"')


def test_a_large_answer(desk, front):
    body = b"".join(b"line %d\n" % number for number in range(1_000_000))
    for coding, decode in DECODERS.items():
        with (
            RawBackend(
                lambda connection: connection.answer(body, "200 OK", "Content-Type: text/plain")
            ) as backend,
            door_to("edge", desk, front) as door,
        ):
            desk.route(door.name, backend.url, compress=True)
            answer = door.ask("/x", "-H", f"Accept-Encoding: {coding}")
            assert decode(answer.body) == body


@pytest.mark.parametrize("kind", ["edge", "h2"])
def test_events_arrive_one_by_one(kind, desk, front, node):
    with door_to(kind, desk, front) as door:
        door.edge.route(
            door.name, node.url, compress=True, headers={"response": {"set": {"X-A": "1"}}}, cache=True
        )
        command = door.command("/events", "--no-buffer", "--compressed")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as events:
            assert events.stdout is not None
            assert events.stdout.read(11) == b"data: one\n\n"
            door.ask("/release")
            assert events.stdout.read() == b"data: two\n\n"
            assert events.wait(PATIENCE) == 0


def _talk(door: Door, credentials: str) -> None:
    """A conversation over a connection to the edge."""
    sock = socket.create_connection(("127.0.0.1", door.edge.http_port), PATIENCE)
    fields = {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
    with connect(f"ws://{door.name}/chat", sock=sock, additional_headers=fields, proxy=None) as chat:
        for size in (5, 70_000):
            chat.send("x" * size)
            assert chat.recv(PATIENCE) == "x" * size
        assert chat.response is not None and chat.response.headers["X-B"] == "2"


def _refusal(door: Door, credentials: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        _talk(door, credentials)
    return int(refused.value.response.status_code)


def test_a_websocket_through_a_guarded_route(desk, front):
    users = [{"user": "ada", "passwordHash": hash_password("pw")}]
    with door_to("edge", desk, front) as door, echo_server() as target:
        desk.route(
            door.name,
            target,
            access={"basicAuth": users, "allow": ["127.0.0.1"]},
            rateLimit={"requests": 3, "per": "1h"},
            requestBodyLimit=10,
            headers={"request": {"set": {"X-A": "1"}}, "response": {"set": {"X-B": "2"}}},
            compress=True,
            cache=True,
            errorPages={"4xx": "no"},
        )
        _talk(door, "ada:pw")
        assert _refusal(door, "ada:wrong") == 401
        _talk(door, "ada:pw")
        assert _refusal(door, "ada:pw") == 429
