"""What each policy does with requests, step by step, on whichever plane."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import attrs

from onebackend_proxy.passwords import hash_password
from onebackend_proxy.records import (
    NO_POLICY,
    Access,
    BasicUser,
    FieldEdits,
    ForwardAuth,
    HeaderEdits,
    Pause,
    Policy,
    RateLimit,
)


@attrs.frozen
class Said:
    """What a service answers with a length, or chunked in `pieces`; status 0 closes without a word."""

    body: bytes = b"hello"
    status: int = 200
    fields: tuple[tuple[bytes, bytes], ...] = ((b"Content-Type", b"text/plain"),)
    pieces: int = 0


HELLO = Said()


@attrs.frozen
class Step:
    """A request, what the services that it reaches answer in turn, and what comes back.

    `wanted` are fields that the answer must have, None for those that it must not; `sent` are those of the
    last request that a service got.
    """

    status: int
    body: bytes | None = None
    wanted: Mapping[bytes, bytes | None] = attrs.Factory(dict)
    said: tuple[Said, ...] = (HELLO,)
    sent: Mapping[bytes, bytes | None] = attrs.Factory(dict)
    target: bytes = b"/svc/x"
    seen: bytes | None = None
    method: bytes = b"GET"
    fields: tuple[tuple[bytes, bytes], ...] = ()
    content: bytes | None = None


def _basic(text: bytes) -> tuple[bytes, bytes]:
    return (b"Authorization", b"Basic " + base64.b64encode(text))


TEXT = b"All work and no play makes Jack a dull boy.\n" * 50
LONG = Said(TEXT, fields=((b"Content-Type", b"text/plain"), (b"ETag", b'"1"'), (b"Vary", b"Origin")))
KEPT = Said(b"kept", fields=((b"Cache-Control", b"max-age=60"), (b"ETag", b'"1"')))
GZIP = ((b"Accept-Encoding", b"gzip"),)
USER = BasicUser("ada", hash_password("pw"))
FORWARD = Access(forward_auth=ForwardAuth("http://10.0.0.9/check", ("X-User",)))
EDITS = FieldEdits((("X-Set", "$remote_addr $$ $host"), ("X-Made", "$request_id")), ("X-Gone",))
JSON = {b"content-type": b"application/json"}
HTML = {b"content-type": b"text/html; charset=utf-8"}
PAGES = (("502", "<p>$status"), ("4xx", "<p>no"), ("500", "<p>oops"))

CASES: dict[str, tuple[Policy, list[Step]]] = {
    "nothing": (NO_POLICY, [Step(200, b"hello"), Step(404, b"gone", said=(Said(b"gone", 404),))]),
    "paused": (Policy(paused=Pause(90)), [Step(503, said=(), wanted={b"retry-after": b"90", **HTML})]),
    "paused, HEAD": (Policy(paused=Pause()), [Step(503, b"", method=b"HEAD", said=())]),
    "an address that is allowed": (Policy(access=Access(allow=("192.0.2.0/24",))), [Step(200, b"hello")]),
    "an address that is not": (
        Policy(access=Access(allow=("10.0.0.0/8",))),
        [
            Step(403, said=(), wanted=JSON),
            Step(403, said=(), fields=((b"X-Forwarded-For", b"10.0.0.1"),)),
            Step(403, said=(), method=b"POST", content=b"body"),
        ],
    ),
    "a password": (
        Policy(access=Access(basic_auth=(USER,))),
        [
            Step(401, said=(), wanted={b"www-authenticate": b'Basic realm="/svc", charset="UTF-8"', **JSON}),
            Step(401, said=(), fields=(_basic(b"ada:wrong"),)),
            Step(401, said=(), fields=(_basic(b"eve:pw"),)),
            Step(200, b"hello", fields=(_basic(b"ada:pw"),), sent={b"authorization": None}),
            Step(200, b"hello", fields=(_basic(b"ada:pw"),), sent={b"authorization": None}),
            Step(200, b"hello", method=b"POST", content=b"body", fields=(_basic(b"ada:pw"),)),
        ],
    ),
    "somebody else says yes": (
        Policy(access=FORWARD),
        [
            Step(
                200,
                b"hello",
                said=(Said(b"", 204, ((b"X-User", b"ada"), (b"X-Other", b"no"))), HELLO),
                fields=((b"X-User", b"root"),),
                sent={b"x-user": b"ada", b"x-other": None},
            ),
            Step(
                200,
                b"hello",
                said=(Said(b"yes", 200, ()), HELLO),
                fields=((b"X-User", b"root"),),
                sent={b"x-user": None},
            ),
            Step(200, b"hello", said=(Said(b"yes"), HELLO), method=b"POST", content=b"a body"),
        ],
    ),
    "somebody else says no": (
        Policy(access=FORWARD),
        [
            Step(
                302,
                b"go",
                said=(Said(b"go", 302, ((b"Location", b"/in"), (b"Set-Cookie", b"a=b"))),),
                wanted={b"location": b"/in", b"set-cookie": b"a=b"},
            ),
            Step(401, b"", said=(Said(b"", 401, ()),)),
            Step(403, b"", said=(Said(b"not you", 403),), method=b"HEAD"),
            Step(500, b"broken", said=(Said(b"broken", 500),), method=b"POST", content=b"body"),
            Step(502, said=(Said(status=0),), wanted=JSON),
        ],
    ),
    "a rate": (
        Policy(rate_limit=RateLimit(2, 60.0)),
        [
            Step(
                200,
                b"hello",
                wanted={b"ratelimit-limit": b"2", b"ratelimit-remaining": b"1", b"retry-after": None},
            ),
            Step(200, b"", method=b"HEAD", wanted={b"ratelimit-remaining": b"0"}),
            Step(429, said=(), wanted={b"retry-after": b"30", b"ratelimit-remaining": b"0", **JSON}),
            Step(429, said=(), method=b"POST", content=b"body"),
        ],
    ),
    "a body's size": (
        Policy(request_body_limit=4),
        [
            Step(200, b"hello", method=b"POST", content=b"1234"),
            Step(413, said=(), method=b"POST", content=b"12345", wanted=JSON),
            Step(200, b"hello"),
        ],
    ),
    "a body that is too large of somebody who may not come in": (
        Policy(request_body_limit=4, access=Access(deny=("192.0.2.7/32",)), rate_limit=RateLimit(1, 60.0)),
        [Step(403, said=(), method=b"POST", content=b"12345")] * 2,
    ),
    "bodies that are too large count": (
        Policy(request_body_limit=4, rate_limit=RateLimit(1, 60.0)),
        [
            Step(413, said=(), method=b"POST", content=b"12345", wanted={b"ratelimit-remaining": b"0"}),
            Step(429, said=(), method=b"POST", content=b"12345"),
        ],
    ),
    "edits": (
        Policy(headers=HeaderEdits(EDITS, EDITS)),
        [
            Step(
                200,
                b"hello",
                said=(Said(fields=((b"x-gone", b"1"), (b"X-Set", b"theirs"), (b"X-Kept", b"1"))),),
                fields=((b"X-Gone", b"1"), (b"x-set", b"mine"), (b"X-Kept", b"1")),
                wanted={
                    b"x-set": b"192.0.2.7 $ front.example",
                    b"x-made": b"MADE",
                    b"x-gone": None,
                    b"x-kept": b"1",
                },
                sent={
                    b"x-set": b"192.0.2.7 $ front.example",
                    b"x-made": b"MADE",
                    b"x-gone": None,
                    b"x-kept": b"1",
                },
            ),
            Step(
                502,
                said=(Said(status=0),),
                method=b"POST",
                content=b"",
                wanted={b"x-set": b"192.0.2.7 $ front.example"},
            ),
        ],
    ),
    "a prefix off": (
        Policy(strip_prefix=True),
        [
            Step(200, target=b"/svc/a%2Fb?c", seen=b"/a%2Fb?c", sent={b"x-forwarded-prefix": b"/svc"}),
            Step(200, target=b"/svc", seen=b"/"),
            Step(200, target=b"/svc?x", seen=b"/?x"),
            Step(200, target=b"/%73vc/x", seen=b"/x"),
        ],
    ),
    "pages of ours": (
        Policy(error_pages=PAGES, access=Access(deny=("10.0.0.0/8",))),
        [
            Step(502, b"<p>502", said=(Said(status=0),), method=b"POST", content=b"x", wanted=HTML),
            Step(404, b"theirs", said=(Said(b"theirs", 404),)),
            Step(500, b"theirs", said=(Said(b"theirs", 500),)),
        ],
    ),
    "pages in place of theirs": (
        Policy(error_pages=PAGES, intercept_errors=True),
        [
            Step(404, b"<p>no", said=(Said(b"theirs" * 1000, 404),), wanted=HTML),
            Step(500, b"<p>oops", said=(Said(b"theirs", 500),), wanted=HTML),
            Step(500, b"", said=(Said(b"theirs", 500),), method=b"HEAD", wanted=HTML),
            Step(503, b"theirs", said=(Said(b"theirs", 503),)),
        ],
    ),
    "compression": (
        Policy(compress=True),
        [
            Step(200, said=(LONG,), fields=GZIP, wanted={b"content-encoding": b"gzip", b"etag": b'W/"1"'}),
            Step(200, TEXT, said=(LONG,), wanted={b"content-encoding": None, b"etag": b'"1"'}),
            Step(200, b"", said=(LONG,), fields=GZIP, method=b"HEAD"),
            Step(200, b"hello", fields=GZIP, wanted={b"content-encoding": None}),
            Step(
                304,
                b"",
                said=(Said(b"", 304, ((b"ETag", b'"1"'),)),),
                fields=(*GZIP, (b"If-None-Match", b'W/"1"')),
            ),
        ],
    ),
    "answers in pieces": (
        Policy(compress=True, cache=True, error_pages=PAGES, intercept_errors=True),
        [
            Step(200, TEXT, said=(Said(TEXT, pieces=7),), wanted={b"content-length": None}),
            Step(200, said=(Said(TEXT, pieces=7),), fields=GZIP, wanted={b"content-encoding": b"gzip"}),
            Step(404, b"<p>no", said=(Said(TEXT, 404, pieces=3),), wanted={b"content-length": b"5"}),
            Step(200, TEXT, said=(attrs.evolve(KEPT, body=TEXT, pieces=5),), target=b"/svc/kept"),
            Step(200, TEXT, said=(), target=b"/svc/kept", wanted={b"age": b"0"}),
        ],
    ),
    "the cache": (
        Policy(cache=True),
        [
            Step(200, b"kept", said=(KEPT,)),
            Step(200, b"kept", said=(), wanted={b"age": b"0"}),
            Step(200, b"", said=(), method=b"HEAD", wanted={b"content-length": b"4"}),
            Step(304, b"", said=(), fields=((b"If-None-Match", b'"1"'),)),
            Step(
                206,
                b"ep",
                said=(),
                fields=((b"Range", b"bytes=1-2"),),
                wanted={b"content-range": b"bytes 1-2/4"},
            ),
            Step(200, b"changed", said=(Said(b"changed"),), method=b"POST", content=b"x"),
            Step(200, b"kept", said=(KEPT,)),
            Step(200, b"hello", target=b"/svc/y"),
            Step(200, b"hello", target=b"/svc/y"),
        ],
    ),
    "all at once": (
        Policy(
            strip_prefix=True,
            access=attrs.evolve(FORWARD, allow=("192.0.2.0/24",), basic_auth=(USER,)),
            rate_limit=RateLimit(3, 60.0),
            request_body_limit=10,
            headers=HeaderEdits(EDITS, EDITS),
            compress=True,
            cache=True,
            error_pages=PAGES,
        ),
        [
            Step(401, b"<p>no", said=(), wanted={b"x-set": b"192.0.2.7 $ front.example"}),
            Step(200, said=(Said(b"", 204, ()), LONG), fields=(_basic(b"ada:pw"), *GZIP), seen=b"/x"),
            Step(401, b"<p>no", said=(), method=b"POST", content=b"x" * 10),
            Step(429, b"<p>no", said=(), fields=(_basic(b"ada:pw"),)),
        ],
    ),
}
