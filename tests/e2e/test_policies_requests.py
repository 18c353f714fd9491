"""`requestBodyLimit`, `headers` and `stripPrefix`: what becomes of a request on its way to the service."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from .policies import TRUSTED, Reply, door_to
from .raw_client import RawClient
from .recording import Received, statuses

LIMIT = 1000


@pytest.fixture
def limited(door):
    door.policy(requestBodyLimit=LIMIT)
    return door


# Body limits.


def _upload(tmp_path, size: int) -> list[str]:
    (tmp_path / "body").write_bytes(b"x" * size)
    return ["--data-binary", f"@{tmp_path / 'body'}"]


def test_a_body_over_the_limit_is_413(limited, tmp_path):
    answer = limited.ask("/up", *_upload(tmp_path, LIMIT + 1))
    assert (answer.status, list(json.loads(answer.body))) == (413, ["error"])
    assert limited.service.requests == []
    assert limited.ask("/up", *_upload(tmp_path, LIMIT)).status == 200
    assert [len(request.body) for request in limited.service.requests] == [LIMIT]
    assert limited.ask("/get").status == 200


def test_a_body_whose_length_nobody_said(limited, tmp_path):
    """Chunked, or just DATA frames: curl sends a file of unknown length from a pipe."""
    (tmp_path / "body").write_bytes(b"x" * 100_000)
    options = ["-X", "POST", "-H", "Expect:", "-T", "-"]
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413), (100_000, 413), (5_000_000, 413)):
        command = [*limited.command("/up", *options, "-o", "/dev/null", "-w", "%{http_code}")]
        done = subprocess.run(command, input=b"x" * size, capture_output=True, timeout=30)
        assert (size, done.stdout) == (size, str(status).encode())
    assert [len(request.body) for request in limited.service.requests] == [LIMIT]


def test_nobody_is_asked_for_a_body_that_is_too_large(desk, front):
    with door_to("edge", desk, front) as door, RawClient(desk.http_port) as client:
        door.policy(requestBodyLimit=LIMIT)
        fields = ((b"Host", door.name.encode()), (b"Expect", b"100-continue"))
        client.begin(b"/up", b"POST", *fields, (b"Content-Length", b"%d" % (LIMIT + 1)))
        assert statuses(client.to_the_end()) == [413]
        assert door.service.requests == []


def test_what_follows_a_body_that_was_refused_is_no_request(desk, front):
    with door_to("edge", desk, front) as door, RawClient(desk.http_port) as client:
        door.policy(requestBodyLimit=LIMIT)
        host = door.name.encode()
        inner = b"GET /smuggled HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        client.send(b"POST /up HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % host)
        client.send(b"%x\r\n%b\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1)) + inner * 3)
        # Too long, and no chunk either.
        assert statuses(client.to_the_end()) in ([413], [400])
        assert door.service.requests == []


def test_the_limit_may_have_a_unit_or_be_none(door, tmp_path):
    door.policy(requestBodyLimit="1KB")
    found = [door.ask("/up", *_upload(tmp_path, size)).status for size in (1000, 1025)]
    assert found == [200, 413]
    door.policy(requestBodyLimit=0)
    assert door.ask("/up", *_upload(tmp_path, 3_000_000)).status == 200


# Edits of heads.

SET = {
    "X-Trace": "$request_id",
    "X-Client": "<$remote_addr>",
    "X-Asked": "$scheme://$host",
    "X-Price": "$$5",
    "X-Replaced": "ours",
}


def test_fields_are_set_and_removed(door):
    door.service.reply = lambda _: Reply(b"ok", ("Server: secret/1.0", "X-Replaced: theirs", "X-Kept: 1"))
    edits = {"set": SET, "remove": ["Cookie", "X-Gone"]}
    door.policy(headers={"request": edits, "response": {"set": SET, "remove": ["server"]}})
    answer = door.ask(
        "/x",
        "-H",
        "Cookie: a=b",
        "-H",
        "x-gone: 1",
        "-H",
        "X-Mine: 2",
        "-H",
        "x-REPLACED: theirs",
        "-H",
        "X-Replaced: again",
    )
    [request] = door.service.requests
    assert request.all(b"cookie") == request.all(b"x-gone") == []
    assert request.all(b"x-mine") == [b"2"]
    assert request.all(b"x-replaced") == [b"ours"]
    assert request.all(b"x-client") == [b"<127.0.0.1>"]
    assert request.all(b"x-price") == [b"$5"]
    host = "front.test" if door.kind == "slug" else door.name
    asked = f"{'https' if door.kind == 'h2' else 'http'}://{host}"
    assert request.all(b"x-asked") == [asked.encode()]
    assert request.all(b"x-trace") == request.all(b"x-request-id")
    assert "server" not in answer.headers
    assert (answer.headers["x-kept"], answer.headers["x-replaced"]) == ("1", "ours")
    assert answer.headers["x-trace"].encode() == request.all(b"x-trace")[0]
    assert (answer.headers["x-asked"], answer.headers["x-client"]) == (asked, "<127.0.0.1>")
    assert answer.headers["x-price"] == "$5"


def test_a_field_that_is_set_or_removed_comes_in_no_other_spelling(door):
    """CGI, WSGI and PHP make one name of ``X-User`` and ``X_User``: what we set would be one value of two."""
    door.policy(
        headers={"request": {"set": {"X-User": "ours", "X-Made": "$remote_addr"}, "remove": ["X-Gone"]}}
    )
    for name in ("X_User", "x_user", "X_USER", "X_Made", "X_Gone", "X-user", "X-GONE"):
        assert door.ask("/x", "-H", f"{name}: forged").status == 200
    for request in door.service.requests:
        assert [field for field in request.fields if field[1] == b"forged"] == []


def test_each_request_has_its_own_placeholders(door):
    door.policy(headers={"response": {"set": {"X-Trace": "$request_id"}}})
    assert len({door.ask("/x").headers["x-trace"] for _ in range(3)}) == 3


HOSTILE = (
    ("Host", 'x"onload=1'),
    ("Host", "a b"),
    ("Host", "$remote_addr"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Request-Id", "mine"),
    ("X-Request-Id", "$host"),
)


def test_what_a_client_writes_gets_into_no_placeholder(desk, front):
    with door_to("edge", desk, front) as door:
        door.policy(
            headers={"response": {"set": {"X-A": "$host|$request_id|$remote_addr|$scheme|$remote_user"}}}
        )
        for name, value in HOSTILE:
            host = value if name == "Host" else door.name
            with RawClient(desk.http_port) as client:
                more = b"" if name == "Host" else f"{name}: {value}\r\n".encode()
                client.send(
                    b"GET / HTTP/1.1\r\nHost: %b\r\n%bConnection: close\r\n\r\n" % (host.encode(), more)
                )
                data = client.to_the_end()
            found = re.findall(rb"\r\nX-A: ([^\r]*)\r\n", data)
            if name == "Host":
                assert statuses(data) in ([400], [404]) and not found
            else:
                assert re.fullmatch(rb"%b\|[0-9a-f]{32}\|127\.0\.0\.1\|http\|" % door.name.encode(), found[0])


def test_a_trusted_proxys_word_gets_in_only_as_a_value(desk, front):
    with door_to("edge", desk, front) as door:
        door.policy(headers={"request": {"set": {"X-A": "$host|$request_id|$remote_addr"}}})
        said = (
            "-H",
            "X-Request-Id: abc-1",
            "-H",
            "X-Forwarded-For: 2001:db8::1",
            "-H",
            "X-Forwarded-Host: pub.test",
        )
        assert door.ask("/", *said, source=TRUSTED).status == 200
        [value] = door.service.requests[0].all(b"x-a")
        assert value.split(b"|")[1:] == [b"abc-1", b"2001:db8::1"]
        assert value.split(b"|")[0] in (b"pub.test", door.name.encode())


def test_the_host_may_be_set(desk, front):
    with door_to("edge", desk, front) as door:
        door.policy(headers={"request": {"set": {"Host": "inner.test"}}})
        assert door.ask("/").status == 200
        [request] = door.service.requests
        assert request.all(b"host") == [b"inner.test"]
        assert request.all(b"x-forwarded-host") == [door.name.encode()]


def test_a_client_cannot_take_our_field_away(door):
    """`Connection` names what ends here, of what the client sent; not what is set behind it."""
    door.policy(headers={"request": {"set": {"X-Internal": "yes"}}})
    if door.kind != "h2":
        assert door.ask("/x", "-H", "Connection: X-Internal, X-Forwarded-For").status == 200
        [request] = door.service.requests
        assert request.all(b"x-internal") == [b"yes"]
        assert request.all(b"x-forwarded-for") == [b"127.0.0.1"]


# stripPrefix.

STRIPPED = (
    ("/app", "/"),
    ("/app/", "/"),
    ("/app/x", "/x"),
    ("/app?q=1", "/?q=1"),
    ("/app/?q=1", "/?q=1"),
    ("/app/a%2Fb;c//d?e=%3F", "/a%2Fb;c//d?e=%3F"),
    ("/app/%61", "/%61"),
    ("/app/app", "/app"),
    # To some services ``//host`` at the beginning is a host.
    ("/app//x", "/x"),
    ("/app///evil.test//x", "/evil.test//x"),
)
# The same place written in other ways: what is left is some spelling of /x, and never begins another path.
ODD = ("/%61pp/x", "//app/x", "/./app/x", "/y/../app/x", "/app/./x", "/app/y/../x", "/y/%2e%2e/app/x")


@pytest.fixture(params=["edge", "h2"])
def stripped(request, desk, front):
    with door_to(request.param, desk, front) as door:
        door.edge.route(f"{door.name}/app", door.url, stripPrefix=True)
        yield door


def test_the_prefix_is_taken_off(stripped):
    for path, seen in STRIPPED:
        answer = stripped.ask(path)
        assert (path, answer.status, answer.body) == (path, 200, seen.encode())
    assert stripped.ask("/apple/x").body == b"/apple/x"


def test_however_it_is_written(stripped):
    for path in ODD:
        answer = stripped.ask(path)
        assert (path, answer.status) == (path, 200)
        left = answer.body.decode()
        assert left.startswith("/") and "app" not in left and left.endswith("x")
    for path in ("/app/..%2f..%2fx", "/app/../secret", "/app//../x"):
        answer = stripped.ask(path)
        assert answer.status in (400, 404) or answer.body in (
            b"/secret",
            b"/app/../secret",
            b"/app/..%2f..%2fx",
        ), path


def test_a_services_slug_is_taken_off(desk, front):
    with door_to("slug", desk, front) as door:
        door.policy(stripPrefix=True)
        for path, seen in (("", "/"), ("/", "/"), ("/x?y", "/x?y"), ("/a%2Fb", "/a%2Fb"), ("?z", "/?z")):
            answer = door.ask(path)
            assert (path, answer.status, answer.body) == (path, 200, seen.encode())


def test_what_is_left_goes_below_the_targets_path(desk, front):
    with door_to("edge", desk, front) as door:
        desk.route(f"{door.name}/app", f"{door.url}/base", stripPrefix=True)
        assert [door.ask(path).body for path in ("/app", "/app/x?y")] == [b"/base/", b"/base/x?y"]


def test_all_of_it_at_once(desk, front):
    def reply(received: Received) -> Reply:
        return Reply(received.target + b" " + received.body)

    with door_to("edge", desk, front, reply) as door:
        desk.route(
            f"{door.name}/api",
            door.url,
            stripPrefix=True,
            requestBodyLimit="1MB",
            rateLimit={"requests": 100, "per": "1s"},
            access={"allow": ["127.0.0.0/8"], "deny": ["127.0.0.66"]},
            headers={"request": {"set": {"X-A": "1"}}, "response": {"set": {"X-B": "2"}}},
            compress=True,
            cache=True,
            retries=0,
        )
        answer = door.ask("/api/x?y", "--data", "hello")
        assert (answer.status, answer.body, answer.headers["x-b"]) == (200, b"/x?y hello", "2")
        assert door.service.requests[0].all(b"x-a") == [b"1"]
        assert door.ask("/api/x", source="127.0.0.66").status == 403
