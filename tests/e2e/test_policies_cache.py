"""`cache`: what may be stored is asked for once, and nobody gets what is another's."""

from __future__ import annotations

import base64
import concurrent.futures
import itertools
import threading
import time

import pytest

from onebackend_proxy.passwords import hash_password

from .edge import Edge
from .policies import TRUSTED, Door, Reply, Replying, door_to
from .raw_backend import Connection, RawBackend
from .raw_client import RawClient
from .recording import Received
from .test_policies_forward import asked
from .test_policies_pages import oo

HOUR = "Cache-Control: max-age=3600"
BOTH = ("127.0.0.2", "127.0.0.3")


def counting(*fields: str) -> Replying:
    """Answers with another number each time."""
    numbers = itertools.count(1)
    return lambda _: Reply(b"%d" % next(numbers), fields)


@pytest.fixture
def caching(door):
    door.service.reply = counting(HOUR, "Content-Type: text/plain", 'ETag: "1"')
    door.policy(cache=True)
    return door


def test_the_second_one_is_a_hit(caching):
    first, second = caching.ask("/x"), caching.ask("/x", source=BOTH[1])
    assert (first.body, second.body) == (b"1", b"1")
    assert int(second.headers["age"]) <= 5
    assert "hit" in second.headers["cache-status"] and "hit" not in first.headers["cache-status"]
    assert caching.ask("/y").body == b"2"
    assert caching.ask("/x?").body == b"3"


def test_purge(caching):
    assert [caching.ask("/x").body for _ in range(2)] == [b"1", b"1"]
    oo(caching, "cache", "purge", caching.id)
    assert caching.ask("/x").body == b"2"
    oo(caching, "cache", "purge", "--all")
    assert caching.ask("/x").body == b"3"


def test_a_change_of_the_route_purges(caching):
    assert [caching.ask("/x").body for _ in range(2)] == [b"1", b"1"]
    caching.policy(cache=True, headers={"response": {"set": {"X-New": "1"}}})
    answer = caching.ask("/x")
    assert (answer.body, answer.headers["x-new"]) == (b"2", "1")
    caching.policy()
    assert [caching.ask("/x").body for _ in range(2)] == [b"3", b"4"]


def test_two_clients_at_once_ask_once(desk, front):
    asked_for = threading.Event()
    release = threading.Event()

    def slow(_received: Received) -> Reply:
        asked_for.set()
        release.wait(20)
        return Reply(b"slow", (HOUR,))

    with door_to("edge", desk, front, slow) as door:
        door.policy(cache=True)
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(door.ask, "/x", source=source) for source in (*BOTH, *BOTH)]
            assert asked_for.wait(10)
            time.sleep(0.5)
            release.set()
            assert [one.result().body for one in answers] == [b"slow"] * 4
        assert len(door.service.requests) == 1


def test_an_answer_under_way_is_not_stored_for_what_the_route_is_now(desk, front):
    """It was asked for before the change: whoever asks afterwards is asked for anew."""
    asked_for = threading.Event()
    release = threading.Event()

    def slow(_received: Received) -> Reply:
        asked_for.set()
        release.wait(20)
        return Reply(b"old", (HOUR,))

    with door_to("edge", desk, front, slow) as door, door_to("edge", desk, front) as other:
        other.service.reply = lambda _: Reply(b"new", (HOUR,))
        door.policy(cache=True)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            old = pool.submit(door.ask, "/x")
            assert asked_for.wait(10)
            desk.route(door.name, other.url, cache=True)
            assert door.ask("/x").body == b"new"
            oo(door, "cache", "purge", door.id)
            release.set()
            assert old.result().body == b"old"
        assert [door.ask("/x").body for _ in range(2)] == [b"new", b"new"]


def _twice(door: Door, *options: str, path: str = "/x") -> list[bytes]:
    return [door.ask(path, *options, source=source).body for source in BOTH]


NOT_SHARED = (
    ("Cache-Control: private, max-age=3600",),
    ("Cache-Control: no-store",),
    ("Cache-Control: no-cache",),
    ("Cache-Control: max-age=0",),
    ("Cache-Control: max-age=3600", "Cache-Control: private"),
    (HOUR, "Vary: *"),
    (HOUR, "Set-Cookie: session=secret"),
    (),
)


@pytest.mark.parametrize("fields", NOT_SHARED, ids=lambda fields: "+".join(fields) or "nothing")
def test_what_the_service_does_not_allow_is_not_shared(door, fields):
    door.service.reply = counting(*fields)
    door.policy(cache=True)
    assert _twice(door) == [b"1", b"2"]


@pytest.mark.parametrize("field", ["Authorization: Bearer a", "Cookie: session=a"])
def test_what_was_asked_for_with_credentials_is_not_shared(door, field):
    door.service.reply = counting(HOUR)
    door.policy(cache=True)
    assert _twice(door, "-H", field) == [b"1", b"2"]
    assert door.ask("/x").body == b"3"
    door.service.reply = counting("Cache-Control: public, max-age=3600")
    assert _twice(door, "-H", field, path="/public") == [b"1", b"1"]


def test_what_was_stored_is_behind_the_rules_too(door):
    door.service.reply = counting("Cache-Control: public, max-age=3600")
    users = [{"user": "ada", "passwordHash": hash_password("pw")}]
    ada = ("-H", "Authorization: Basic " + base64.b64encode(b"ada:pw").decode())
    door.policy(
        cache=True, access={"basicAuth": users, "deny": ["127.0.0.3"]}, rateLimit={"requests": 4, "per": "1h"}
    )
    assert [door.ask("/x", *ada).body for _ in range(2)] == [b"1", b"1"]
    assert door.ask("/x").status == 401
    assert door.ask("/x", *ada, source="127.0.0.3").status == 403
    assert [door.ask("/x", *ada).status for _ in range(2)][-1] == 429


def test_what_a_password_opened_is_not_shared_unless_it_is_public(door):
    """The service does not see the password: that it was asked with one still counts (RFC 9111, 3.5)."""
    door.service.reply = counting(HOUR)
    users = [{"user": name, "passwordHash": hash_password(name)} for name in ("ada", "eve")]
    door.policy(cache=True, access={"basicAuth": users})
    found = []
    for name in (b"ada", b"eve"):
        credentials = base64.b64encode(name + b":" + name).decode()
        found.append(door.ask("/x", "-H", f"Authorization: Basic {credentials}").body)
    assert found == [b"1", b"2"]


def test_what_one_user_was_answered_is_not_anothers(door):
    """The service is told who asks by a field that forwardAuth has set, and may forget to say Vary."""

    def by_cookie(received: Received) -> Reply:
        [cookie] = received.all(b"cookie") or [b"nobody"]
        return Reply(b"", (f"X-User: {cookie.decode()}",))

    door.service.reply = lambda received: Reply(b"for " + received.all(b"x-user")[0], (HOUR,))
    with asked(door, by_cookie, cache=True):
        assert [door.ask("/x", "-H", f"Cookie: {who}").body for who in ("ada", "eve")] == [
            b"for ada",
            b"for eve",
        ]

    def by_address(received: Received) -> Reply:
        return Reply(b"", (f"X-User: {received.all(b'x-forwarded-for')[0].decode()}",))

    with asked(door, by_address, cache=True):
        assert _twice(door, path="/y") == [b"for " + source.encode() for source in BOTH]


def test_each_hit_has_its_own_edits(caching):
    caching.policy(
        cache=True, headers={"response": {"set": {"X-Trace": "$request_id", "X-You": "$remote_addr"}}}
    )
    answers = [caching.ask("/x", source=source) for source in BOTH]
    assert [answer.body for answer in answers] == [b"1", b"1"] or [answer.body for answer in answers] == [
        b"2",
        b"2",
    ]
    assert [answer.headers["x-you"] for answer in answers] == list(BOTH)
    assert len({answer.headers["x-trace"] for answer in answers}) == 2


POISON = (
    "X-Forwarded-Host: evil.test",
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-Port: 666",
    "X-Forwarded-Prefix: /evil",
    "Forwarded: host=evil.test",
    "X-Host: evil.test",
    "X-Original-URL: /evil",
    "X-HTTP-Method-Override: DELETE",
    "X-Request-Id: <script>",
)


@pytest.mark.parametrize("source", ["127.0.0.3", TRUSTED])
def test_nobody_writes_into_what_others_get(desk, front, source):
    """The service tells back what it is told of the outside; a stored answer must not have the poison."""

    def echo(received: Received) -> Reply:
        names = (b"x-forwarded-host", b"x-forwarded-proto", b"forwarded")
        return Reply(b"|".join(value for name in names for value in received.all(name)), (HOUR,))

    with door_to("edge", desk, front, echo) as door:
        door.policy(cache=True)
        clean = f"{door.name}|http".encode()
        for number, poison in enumerate(POISON):
            path = f"/x{number}"
            door.ask(path, "-H", poison, source=source)
            answer = door.ask(path)
            assert (poison, answer.body) == (poison, clean)


def test_hosts_paths_and_routes_are_kept_apart(desk, front):
    with door_to("edge", desk, front) as door, door_to("edge", desk, front) as other:
        for each in (door, other):
            each.service.reply = counting(HOUR)
            each.policy(cache=True)
        assert [door.ask("/x").body, other.ask("/x").body, door.ask("/x").body] == [b"1"] * 3
        for path in ("/x?a", "/x?b", "/x/", "/%78", "//x", "/X"):
            assert door.ask(path).body not in (b"1",), path
        assert len(other.service.requests) == 1


def test_a_get_with_a_body_and_a_head_store_nothing_for_others(caching):
    caching.ask("/fat", "-X", "GET", "--data", "evil")
    caching.ask("/fat")
    assert len(caching.service.requests) == 2
    caching.ask("/head", "--head")
    assert caching.ask("/head").body != b""


def test_an_unsafe_request_makes_it_stale(caching):
    assert [caching.ask("/x").body for _ in range(2)] == [b"1", b"1"]
    caching.ask("/x", "--data", "change")
    assert caching.ask("/x").body == b"3"


def test_conditional_and_range_requests_of_a_hit(door):
    body = bytes(range(256)) * 10
    door.service.reply = lambda _: Reply(body, (HOUR, 'ETag: "v"', "Content-Type: application/octet-stream"))
    door.policy(cache=True)
    door.ask("/x")
    assert door.ask("/x", "-H", 'If-None-Match: "v"').status == 304
    part = door.ask("/x", "-H", "Range: bytes=10-19")
    assert (part.status, part.body, part.headers["content-range"]) == (206, body[10:20], "bytes 10-19/2560")
    assert len(door.service.requests) == 1


def test_each_coding_is_made_of_what_is_stored(door):
    text = b"All work and no play makes Jack a dull boy.\n" * 400
    door.service.reply = lambda _: Reply(text, (HOUR, "Content-Type: text/plain", 'ETag: "v"'))
    door.policy(cache=True, compress=True)
    for coding in ("gzip", "br", "identity", "zstd", "gzip"):
        answer = door.ask("/x", "-H", f"Accept-Encoding: {coding}")
        assert (answer.body == text) == (coding == "identity")
        assert answer.headers.get("content-encoding", "identity") == coding
    assert door.ask("/x", "--compressed").body == text
    # The tag is that of what is stored, which each coding is as good as; a part is of what is stored.
    again = door.ask("/x", "-H", "Accept-Encoding: gzip", "-H", 'If-None-Match: W/"v"')
    assert (again.status, again.headers["etag"], again.headers["vary"]) == (304, 'W/"v"', "Accept-Encoding")
    part = door.ask("/x", "-H", "Accept-Encoding: gzip", "-H", "Range: bytes=4-7")
    assert (part.status, part.body, part.headers["etag"]) == (206, text[4:8], '"v"')
    assert "content-encoding" not in part.headers
    assert len(door.service.requests) == 1


def test_vary(caching):
    caching.service.reply = lambda received: Reply(
        b" ".join(received.all(b"accept-language")), (HOUR, "Vary: Accept-Language")
    )
    for language in ("de", "en", "de", "fr", "en"):
        assert caching.ask("/v", "-H", f"Accept-Language: {language}").body == language.encode()
    assert len(caching.service.requests) == 3


def _flood(edge: Edge, first: int, count: int, head: str) -> None:
    """So many GETs over one connection, a hundred at a time; ``%d`` in the head is their number."""
    with RawClient(edge.http_port) as client:
        for start in range(first, first + count, 100):
            client.send(b"".join((head % number).encode() for number in range(start, start + 100)))
            answered, end = 0, b""
            while answered < 100:
                data = end + client.sock.recv(1 << 20)
                answered += data.count(b"HTTP/1.1 200 ")
                # What may be the beginning of the next one's first line.
                end = data[-12:]
                answered -= end.count(b"HTTP/1.1 200 ")


@pytest.mark.once
@pytest.mark.parametrize("vary", [False, True])
def test_memory_is_bounded_whatever_is_asked_for(new_edge, vary):
    """Small answers, whose keys are most of what is kept: each under a target, or a variant, of its own."""
    fields = (HOUR, "Vary: X-Variant") if vary else (HOUR,)

    def serve(connection: Connection) -> None:
        answer = connection.answer_head(5, "200 OK", *fields) + b"small"
        while connection.head:
            connection.send(answer)
            connection.read_head()

    edge = new_edge("--edge-test-mode", "--edge-cache-max-size", "4MB")
    # A connection serves a thousand requests at most.
    head = "GET /%s HTTP/1.1\r\nHost: x.test\r\n%s\r\n"
    head %= ("x", "X-Variant: %d\r\n") if vary else ("%d" + "x" * 200, "")
    with RawBackend(serve) as backend:
        edge.route("x.test", backend.url, cache=True)
        before = 0
        for first in range(0, 30_000, 500):
            _flood(edge, first, 500, head)
            if first == 15_000:
                before = edge.rss_kib()
        # What fits in, by then, has been there for long.
        assert edge.rss_kib() - before < 3 * 1024
    edge.stop()
