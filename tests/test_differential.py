"""Whatever bytes go in, on either side: the rules of `differential`, with inputs made to break them."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .differential import LIMITS
from .differential_clients import ENDS, MANNERS, ClientRun, run_client
from .differential_services import REQUESTS, SERVICE_ENDS, ServiceRun, run_service
from .properties import PROPERTY

RUNS = settings(PROPERTY, max_examples=300)
HOST = b"Host: a\r\n"
SEEDS = pathlib.Path(__file__).parent.parent / "fuzz" / "seeds"
NEXT = b"GET /svc/next HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def _get(*fields: bytes, line: bytes = b"GET /svc/x HTTP/1.1", body: bytes = b"") -> bytes:
    return b"".join((line, b"\r\n", HOST, *(field + b"\r\n" for field in fields), b"\r\n", body))


def _post(*fields: bytes, body: bytes = b"") -> bytes:
    return _get(*fields, line=b"POST /svc/x HTTP/1.1", body=body)


# Each row of HTTP1.md's tables, with what is to come behind it.
ROWS: dict[str, bytes] = {
    "upgrade with a body": _post(
        b"Connection: upgrade", b"Upgrade: x", b"Content-Length: %d" % len(NEXT), body=NEXT
    ),
    "upgrade with a chunked body": _get(
        b"Connection: upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked", body=CHUNKS
    ),
    "upgrade": _get(b"Connection: upgrade", b"Upgrade: websocket", body=NEXT),
    "upgrade to http/2": _get(
        b"Connection: upgrade, http2-settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", body=NEXT
    ),
    "no version": _get(line=b"GET /svc/x", body=NEXT),
    "rtsp": _get(line=b"GET /svc/x RTSP/1.1"),
    "http/2": _get(line=b"GET /svc/x HTTP/2.0"),
    "ice": _get(line=b"SOURCE /svc/x ICE/1.0"),
    "coding with a comma": _post(b"Transfer-Encoding: ,chunked", body=CHUNKS),
    "two codings": _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNKS),
    "another coding": _post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "chunked in 1.0": _get(b"Transfer-Encoding: chunked", line=b"POST /svc/x HTTP/1.0", body=CHUNKS),
    "length and coding": _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=CHUNKS),
    "coding and length": _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=CHUNKS),
    "two lengths": _post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello" + NEXT),
    "a length twice": _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello" + NEXT),
    "a list of lengths": _post(b"Content-Length: 5, 5", body=b"hello" + NEXT),
    "a signed length": _post(b"Content-Length: +5", body=b"hello" + NEXT),
    "a length with a zero": _post(b"Content-Length: 05", body=b"hello" + NEXT),
    "an empty length": _post(b"Content-Length:", body=NEXT),
    "a huge length": _post(b"Content-Length: 18446744073709551615", body=NEXT),
    "a huge chunk": _post(b"Transfer-Encoding: chunked", body=b"8000000000000000\r\n" + NEXT),
    "a folded field": _get(b"X-A: b", b" c"),
    "a folded coding": _post(b"Transfer-Encoding:", b" chunked", body=CHUNKS),
    "a blank before the colon": _post(b"Transfer-Encoding : chunked", body=CHUNKS),
    "a blank before the first field": b"GET /svc/x HTTP/1.1\r\n Host: b\r\n" + HOST + b"\r\n",
    "lf alone": _get(b"X-A: b").replace(b"\r\n", b"\n"),
    "lf alone in a field": _get(b"X-A: b\nTransfer-Encoding: chunked", body=CHUNKS),
    "cr alone": _get(b"X-A: b\rTransfer-Encoding: chunked", body=CHUNKS),
    "nul": _get(b"X-A: b\0c"),
    "a control character": _get(b"X-A: b\x01c", body=NEXT),
    "a vertical tab": _get(b"X-A: b\x0bc", body=NEXT),
    "no host": b"GET /svc/x HTTP/1.1\r\n\r\n" + NEXT,
    "no host in 1.0": b"GET /svc/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + NEXT,
    "an empty host": b"GET /svc/x HTTP/1.1\r\nHost:\r\n\r\n" + NEXT,
    "two hosts": _get(b"Host: b", body=NEXT),
    **{
        f"host {host!r}": b"GET /svc/x HTTP/1.1\r\nHost: %b\r\n\r\n" % host + NEXT
        for host in (
            b"u@a",
            b"a b",
            b"a,b",
            b"a/x",
            b"a:x",
            b"a:99999",
            b"\xe4",
            b"[::1]",
            b"[::1%25x]",
            b"a:",
        )
    },
    "an absolute target": _get(line=b"GET http://b/svc/x?y HTTP/1.1", body=NEXT),
    "an absolute target without a path": _get(line=b"GET http://b?y HTTP/1.1", body=NEXT),
    "an absolute target elsewhere": _get(line=b"GET ftp://b/svc/x HTTP/1.1", body=NEXT),
    "an absolute target with a user": _get(line=b"GET http://u@b/svc/x HTTP/1.1", body=NEXT),
    "no slash": _get(line=b"GET svc/x HTTP/1.1", body=NEXT),
    "a fragment": _get(line=b"GET /svc/x#y HTTP/1.1", body=NEXT),
    "raw bytes in the target": _get(line=b"GET /svc/\xe4 HTTP/1.1", body=NEXT),
    "the whole server": _get(line=b"OPTIONS * HTTP/1.1", body=NEXT),
    "dots": _get(line=b"GET /svc/../user-svc/x HTTP/1.1", body=NEXT),
    "encoded dots": _get(line=b"GET /svc/%2e%2e/user-svc/x HTTP/1.1", body=NEXT),
    "connect": _get(line=b"CONNECT a:80 HTTP/1.1", body=NEXT),
    "trace": _get(line=b"TRACE /svc/x HTTP/1.1", body=NEXT),
    "an unknown method": _get(line=b"BREW /svc/x HTTP/1.1", body=NEXT),
    "a method in small letters": _get(line=b"get /svc/x HTTP/1.1", body=NEXT),
    "two blanks": _get(line=b"GET  /svc/x  HTTP/1.1", body=NEXT),
    "a tab": _get(line=b"GET\t/svc/x HTTP/1.1", body=NEXT),
    "connection names our fields": _post(
        b"Connection: close, X-Forwarded-For, Host, Content-Length, Authorization, X-Real-IP",
        b"Content-Length: 5",
        b"Authorization: x",
        body=b"hello" + NEXT,
    ),
    "connection names a coding": _post(
        b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", body=CHUNKS + NEXT
    ),
    "underscores": _post(b"X_Forwarded_For: 6.6.6.6", b"Transfer_Encoding: chunked", b"Proxy: x", body=NEXT),
    "what we say ourselves": _get(b"X-Forwarded-For: 6.6.6.6", b"X-Real-IP: 6.6.6.6", b"X-Request-Id: x"),
    "trailers": _post(
        b"Transfer-Encoding: chunked",
        body=b"0\r\nHost: b\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 9\r\nX-Sum: 1\r\n\r\n" + NEXT,
    ),
    "a folded trailer": _post(b"Transfer-Encoding: chunked", body=b"0\r\nX-A: b\r\n c\r\n\r\n" + NEXT),
    "many trailers": _post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"a: b\r\n" * 400 + b"\r\n" + NEXT),
    "a long extension": _post(
        b"Transfer-Encoding: chunked", body=b"5;" + b"x" * 100 + b"\r\nhello\r\n0\r\n\r\n" + NEXT
    ),
    "an extension": _post(b"Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n0;c\r\n\r\n" + NEXT),
    "a bad chunk": _post(b"Transfer-Encoding: chunked", body=b"5\r\nhello0\r\n\r\n" + NEXT),
    "a bad size": _post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n" + NEXT),
    "a size with a blank": _post(b"Transfer-Encoding: chunked", body=b"5 \r\nhello\r\n0\r\n\r\n" + NEXT),
    "chunks with lf alone": _post(b"Transfer-Encoding: chunked", body=b"5\nhello\n0\n\n" + NEXT),
    "a long target": _get(line=b"GET /svc/" + b"x" * LIMITS.target_size + b" HTTP/1.1", body=NEXT),
    "an endless target": b"GET /svc/" + b"x" * 2 * LIMITS.head_size,
    "a long head": _get(b"X-A: " + b"x" * LIMITS.head_size, body=NEXT),
    "an endless head": b"GET /svc/x HTTP/1.1\r\n" + b"X-A: b\r\n" * LIMITS.head_size,
    "many fields": _get(*[b"a: b"] * LIMITS.head_fields, body=NEXT),
    "empty lines": b"\r\n" * 4 + NEXT,
    "too many empty lines": b"\r\n" * 300 + NEXT,
    "a long body": _post(b"Content-Length: 2049", body=b"x" * 2049 + NEXT),
    "a long chunked body": _post(
        b"Transfer-Encoding: chunked", body=b"801\r\n" + b"x" * 2049 + b"\r\n0\r\n\r\n" + NEXT
    ),
    "pipelining": NEXT * 40,
    "an unknown expectation": _post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello" + NEXT),
    "an expectation": _post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello" + NEXT),
    "bytes behind a close": _get(b"Connection: close", body=NEXT),
    "1.0": _get(line=b"GET /svc/x HTTP/1.0", body=NEXT),
    "1.0 kept alive": _get(b"Connection: keep-alive", line=b"HEAD /svc/x HTTP/1.0", body=NEXT),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a built-in service": _get(line=b"GET /user-svc/x HTTP/1.1", body=NEXT + _post(body=NEXT)),
    "no service": _get(line=b"GET /nope HTTP/1.1", body=NEXT),
}
GOOD = [NEXT, _post(b"Content-Length: 5", body=b"hello"), _post(b"Transfer-Encoding: chunked", body=CHUNKS)]

ANSWERS: dict[str, bytes] = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "until it closes": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "until it closes, 1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "kept alive, 1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    "nothing": b"",
    "said to close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    "a length, 1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no content with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "a second answer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 2,
    "a 1xx": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "endless 1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a 1xx with a length": b"HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "switches unasked": b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
    "switches": b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "http/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "rtsp": b"RTSP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKS,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
    "a length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "a length with a zero": b"HTTP/1.1 200 OK\r\nContent-Length: 05\r\n\r\nhello",
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nhello",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    "chunks cut short": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: b\r\nSet-Cookie: c\r\n\r\n",
    "a long head": b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 2000 + b"\r\nContent-Length: 0\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "lf alone": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "folded": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello",
    "our own error": b'HTTP/1.1 502 Bad\r\nContent-Length: 14\r\n\r\n{"error": "x"}',
    "no http": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}

METHODS = [b"POST"] * 9 + [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"OPTIONS",
    b"DELETE",
    b"CONNECT",
    b"TRACE",
    b"BREW",
    b"get",
]
TARGETS = [b"/svc/x"] * 30 + [
    *(
        b"/svc/x",
        b"/svc",
        b"/svc?a=b",
        b"/svc/%2e%2e/x",
        b"http://b/svc/x",
        b"HTTP://b:81?x",
        b"*",
        b"//svc/x",
    ),
    *(
        b"/nope",
        b"/user-svc/x",
        b"/",
        b"/svc/x y",
        b"/svc/\xe4",
        b"/svc/x#y",
        b"a:80",
        b"?x",
        b"https:///svc",
    ),
]
VERSIONS = [b"HTTP/1.1"] * 20 + [
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"RTSP/1.1",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"",
]
FIELDS = [
    *(b"Host: b", b"Host: a, b", b"host:", b"Host : a", b"Content-Length: 5", b"Content-Length: 0"),
    *(b"Content-Length: 6", b"content-length:5", b"Content-Length: 5,5", b"Content-Length: -1"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"transfer-encoding:\tchunked\t"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: x", b"Transfer_Encoding: chunked"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade", b"Connection: Host, X-A, TE"),
    *(b"Upgrade: websocket", b"Upgrade: h2c", b"Upgrade: a, b", b"TE: trailers", b"Expect: 100-continue"),
    *(
        b"Expect: x",
        b"Via: 1.1 onebackend-proxy",
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Real-IP: 6.6.6.6",
        b"X-A:b",
    ),
    *(
        b"Proxy: x",
        b" folded",
        b"X-B: \xe4\xff",
        b"X-C: \x01",
        b"X-D: a\x00b",
        b": empty",
        b"nothing",
        b"X-E:",
    ),
    *(b"Trailer: X-A", b"Keep-Alive: 5", b"X-F: " + b"x" * 300),
]
BODIES = [
    *(b"", b"", b"hello", CHUNKS, b"0\r\n\r\n", b"5;x=y\r\nhello\r\n0\r\nX-T: v\r\n\r\n", b"5\r\nhel", NEXT),
    *(
        b"5\r\nhelloX",
        b"\r\n",
        b"00000000000000000005\r\nhello\r\n0\r\n\r\n",
        b"0\r\nHost: b\r\n\r\n",
        b"-1\r\n",
    ),
]
SPLINTERS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\x0b",
        b"\x85",
        b"\xff",
        b"0",
    ),
    *(
        b"HTTP/1.1",
        b"\r\nContent-Length: 1\r\n",
        b"\r\nTransfer-Encoding: chunked\r\n",
        b"\r\n ",
        CHUNKS,
        NEXT,
    ),
]


@st.composite
def _requests(draw: Any) -> bytes:
    """A request by the grammar, of parts of which none need fit the others."""
    line = b" ".join(
        (draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS)), draw(st.sampled_from(VERSIONS)))
    )
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=5))
    hosted = [HOST] if draw(st.integers(0, 9)) else []
    lines = hosted + [field + b"\r\n" for field in fields]
    body: bytes = draw(st.sampled_from(BODIES))
    return line + b"\r\n" + b"".join(lines) + b"\r\n" + body


def _mutated(data: bytes, mutations: list[tuple[int, int, int, bytes]]) -> bytes:
    """Some bytes inserted, deleted, doubled, moved, or of line ends made other line ends."""
    for kind, one, other, splinter in mutations:
        at = one % (len(data) + 1)
        until = at + other % 24
        if kind == 0:
            data = data[:at] + splinter + data[at:]
        elif kind == 1:
            data = data[:at] + data[until:]
        elif kind == 2:
            data = data[:until] + data[at:]
        elif kind == 3:
            data = data[:at] + splinter + data[until:]
        elif kind == 4:
            to = other * 37 % (len(data) + 1)
            data = data[:to] + data[at:until] + data[to:]
        else:
            data = data[:at] + data[at:].replace(b"\r\n", (b"\n", b"\r", b"\r\n ", b"\r\r\n")[other % 4], 1)
    return data


_mutations = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2000), st.integers(0, 2000), st.sampled_from(SPLINTERS)),
    max_size=3,
)
_conversations = st.lists(
    st.sampled_from(GOOD) | st.sampled_from(list(ROWS.values())) | _requests(), min_size=1, max_size=4
).map(b"".join)
_cuts = st.lists(st.integers(0, 3000), max_size=6).map(tuple)
_hostile_clients = st.builds(_mutated, _conversations, _mutations)
_hostile_services = st.builds(
    _mutated,
    st.lists(st.sampled_from(list(ANSWERS.values())), min_size=1, max_size=2).map(b"".join),
    _mutations,
)
client_runs = st.builds(
    ClientRun,
    _hostile_clients,
    _cuts,
    fast=st.booleans(),
    manner=st.sampled_from(MANNERS),
    late=st.booleans(),
    slow=st.booleans(),
    slow_service=st.booleans(),
    end=st.sampled_from(ENDS),
)
service_runs = st.builds(
    ServiceRun,
    _hostile_services,
    _cuts,
    fast=st.booleans(),
    asks=st.integers(0, len(REQUESTS) - 1),
    end=st.sampled_from(SERVICE_ENDS),
    slow=st.booleans(),
    reused=st.booleans(),
)


@RUNS
@given(client_runs)
# A body that breaks its framing in the piece with its head: the exchange is over before it is started.
@example(ClientRun(_post(b"Transfer-Encoding: chunked", body=b"x\r\n")))
@example(ClientRun(NEXT + _post(b"Transfer-Encoding: chunked", body=b"x\r\n"), cuts=(len(NEXT),)))
# The same with a chunked body over the limit.
@example(ClientRun(ROWS["a long chunked body"]))
# LEAD: the resource plane sends on what is no text in a field (RFC 9110, 5.5); h11 takes \x01 and not \x0b.
@example(ClientRun(ROWS["a control character"], fast=False))
@example(ClientRun(ROWS["a vertical tab"], fast=False))
@example(ClientRun(ROWS["a built-in service"] + ROWS["a control character"]))
# LEAD: what is refused before its first line ends has no line in the access log of the resource plane.
@example(ClientRun(ROWS["an endless target"], fast=False))
def test_whatever_a_client_sends(run: ClientRun) -> None:
    run_client(run)


@RUNS
@given(service_runs)
# LEAD: an HTTP/1.0 client closes its half, and what there is of the answer ends as if it were whole.
@example(ServiceRun(ANSWERS["chunks cut short"], asks=2, end="half"))
def test_whatever_a_service_sends(run: ServiceRun) -> None:
    run_service(run)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "resource"])
@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_table(row: str, fast: bool) -> None:
    data = ROWS[row]
    run_client(ClientRun(data, tuple(range(min(len(data), 300))), fast))
    for cuts in ((), (10,)):
        for manner in MANNERS:
            run_client(ClientRun(data, cuts, fast, manner))
            run_client(ClientRun(NEXT + data, cuts, fast, manner, late=True))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "resource"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_each_answer(answer: str, fast: bool) -> None:
    data = ANSWERS[answer]
    run_service(ServiceRun(data, tuple(range(min(len(data), 300))), fast))
    for cuts in ((), (10,)):
        for asks in range(len(REQUESTS)):
            for end in SERVICE_ENDS:
                run_service(ServiceRun(data, cuts, fast, asks, end, reused=bool(cuts)))


@pytest.mark.parametrize(
    "seed", sorted(SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_each_seed_of_the_fuzz_targets(seed: pathlib.Path) -> None:
    data = seed.read_bytes()
    if seed.parent.name == "clients":
        run_client(ClientRun.decoded(data))
    else:
        run_service(ServiceRun.decoded(data))


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("end", ENDS)
def test_an_input_of_the_fuzzer_stands_for_a_run(manner: str, end: str) -> None:
    run = ClientRun(NEXT, (), False, manner, True, False, True, end)
    assert ClientRun.decoded(run.encoded()) == run


@pytest.mark.parametrize("asks", range(len(REQUESTS)))
@pytest.mark.parametrize("end", SERVICE_ENDS)
def test_an_input_of_the_fuzzer_stands_for_an_answer(asks: int, end: str) -> None:
    run = ServiceRun(ANSWERS["chunks"], (), True, asks, end, True, True)
    assert ServiceRun.decoded(run.encoded()) == run
