"""Negotiation against a plain reading of RFC 9110, what is encoded, and what heads say then."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onebackend_proxy.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, ResponseHead
from onebackend_proxy.policies import compression, encoders
from onebackend_proxy.policies.compression import (
    MIN_SIZE,
    asked_coding,
    chosen_coding,
    compressible,
    encoded_head,
    true_trailers,
    unmodified_head,
    varied_head,
    varying,
    weakened,
)

from ..properties import OFTEN, PROPERTY, field_value, fields

BROWSER = b"gzip, deflate, br, zstd"


@pytest.mark.parametrize(
    "value, coding",
    [
        (BROWSER, "zstd"),
        (b"gzip, deflate, br", "br"),
        (b"gzip, deflate", "gzip"),
        (b"gzip", "gzip"),
        (b"GZip", "gzip"),
        (b"x-gzip", "gzip"),
        (b"deflate, compress", ""),
        (b"", ""),
        (b"identity", ""),
        # Weights.
        (b"gzip;q=1.0, br;q=0.9, zstd;q=0.8", "gzip"),
        (b"gzip;q=0.5, br;q=0.501", "br"),
        (b"gzip; q=0.5 ,\tbr ;Q=0.4", "gzip"),
        (b"gzip;q=0", ""),
        (b"gzip;q=0.000, br;q=0.001", "br"),
        (b"gzip;q=0.5, identity", ""),
        (b"gzip;q=0.5, identity;q=0.5", "gzip"),
        (b"gzip;q=0.1", "gzip"),
        (b"gzip;q=0.1, identity;q=0", "gzip"),
        # Nothing that both know: it goes out as it is, which is better than a refusal.
        (b"deflate, identity;q=0", ""),
        # Anything at all: what everybody knows.
        (b"*", "gzip"),
        (b"*;q=0", ""),
        (b"gzip;q=0, *", "br"),
        (b"gzip;q=0.5, *", "br"),
        (b"zstd, *", "zstd"),
        (b"*, identity;q=0.5", "gzip"),
        (b"*;q=0.5, identity", ""),
        # Said twice.
        (b"gzip, gzip;q=0", ""),
        # What breaks the grammar is not accepted, the others are.
        (b"gzip;q=2, br", "br"),
        (b"zstd;q=0.1234, br", "br"),
        (b"zstd;level=1, br", "br"),
        (b"zstd q=1, br", "br"),
        (b"zstd;q=-1, \xff\xfe, ;;, ,,br", "br"),
        (b"zstdx, gzip2", ""),
    ],
)
def test_chosen(value, coding):
    assert chosen_coding([value]) == coding


def test_several_fields_are_one_list():
    assert chosen_coding([b"deflate", b"gzip;q=0.5", b"br;q=0.6"]) == "br"
    assert chosen_coding([]) == ""


WEIGHTS = st.sampled_from(
    ["", ";q=0", ";q=0.0", ";q=0.001", ";q=0.5", ";q=0.999", ";q=1", ";q=1.000", " ; q=0.3"]
)
NAMES = st.sampled_from(["gzip", "x-gzip", "GZIP", "br", "zstd", "identity", "deflate", "*", "compress"])


def plainly(members):
    """What RFC 9110, 12.5.3 says of each coding, written down as it stands there."""
    weights: dict[str, float] = {}
    for name, weight in members:
        name = name.lower().removeprefix("x-")
        number = float(weight.partition("=")[2]) if weight else 1.0
        weights[name] = min(number, weights.get(name, 1.0))
    return {
        coding: weights.get(coding, weights.get("*", 0.0)) for coding in ("gzip", "br", "zstd")
    }, weights.get("identity", 0.0)


@OFTEN
@given(st.lists(st.tuples(NAMES, WEIGHTS), max_size=8))
@example([("*", ""), ("gzip", ";q=0")])
def test_the_chosen_one_is_accepted_and_none_better(members):
    value = ", ".join(name + weight for name, weight in members).encode()
    weights, identity = plainly(members)
    coding = chosen_coding([value])
    best = max(weights.values())
    if coding:
        assert weights[coding] == best
        assert best > 0
        assert best >= identity
    else:
        assert best == 0 or identity > best


@OFTEN
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_whatever_comes_there_is_an_answer(values):
    assert chosen_coding(values) in ("", *encoders.CODINGS)


def test_hostile_values_cost_little():
    began = time.perf_counter()
    for number in range(300):
        assert chosen_coding([b"gzip;q=0.5," * 3000 + b"%d" % number]) == ""
        assert chosen_coding([b"%d" % number + b" " * 240 + b"\t;"]) == ""
    assert time.perf_counter() - began < 0.5
    assert compression._chosen.cache_info().maxsize == 512


def test_a_coding_without_its_library_is_not_offered(monkeypatch):
    monkeypatch.setattr(compression, "available", lambda coding: coding == "gzip")
    compression._chosen.cache_clear()
    try:
        assert chosen_coding([BROWSER]) == "gzip"
        assert chosen_coding([b"br, *"]) == "gzip"
        assert chosen_coding([b"br"]) == ""
    finally:
        compression._chosen.cache_clear()


def test_a_library_that_is_not_there():
    assert encoders.library("no_such_library") is None
    assert all(map(encoders.available, encoders.CODINGS))


def test_what_a_request_asks():
    assert asked_coding([(b"Accept", b"*/*")]) == ""
    assert asked_coding([(b"accept-encoding", b"br;q=0.5"), (b"Accept-Encoding", b"gzip")]) == "gzip"
    asked = [(b"Accept-Encoding", b"gzip"), (b"Cache-Control", b"max-age=0")]
    assert asked_coding(asked) == "gzip"
    assert asked_coding([*asked, (b"cache-control", b"No-Transform")]) == ""


def a_head(status=200, body=CHUNKED, kind=b"text/html", **more):
    headers = [] if kind is None else [(b"Content-Type", kind)]
    headers += [(name.replace("_", "-").encode(), value) for name, value in more.items()]
    if body >= 0:
        headers.append((b"Content-Length", b"%d" % body))
    return ResponseHead(status, b"OK", headers, body)


@pytest.mark.parametrize(
    "kind",
    b"text/html|text/plain; charset=utf-8|TEXT/CSS|application/json|application/problem+json|image/svg+xml"
    b"|application/javascript;charset=UTF-8|application/wasm|text/event-stream|application/xhtml+xml"
    b"|application/geo+json ; a=b|font/ttf".split(b"|"),
)
def test_types_that_are_encoded(kind):
    assert compressible(a_head(kind=kind), b"GET")


@pytest.mark.parametrize(
    "kind",
    b"image/png|video/mp4|application/zip|application/gzip|font/woff2|application/octet-stream|application/pdf"
    b"|multipart/byteranges|application/jsonx|texthtml|x/text/html|".split(b"|"),
)
def test_types_that_are_not(kind):
    assert not compressible(a_head(kind=kind), b"GET")


def test_one_type_and_a_sane_one():
    assert not compressible(a_head(kind=None), b"GET")
    assert not compressible(a_head(content_type=b"image/png"), b"GET")
    assert not compressible(a_head(kind=b"text/html;" + b"a" * 200), b"GET")


@pytest.mark.parametrize("status", [200, 201, 203, 206, 204, 205, 304, 404, 500])
def test_statuses(status):
    assert compressible(a_head(status), b"GET") is (status not in (204, 205, 206, 304))


@pytest.mark.parametrize(
    "body, encoded",
    [(0, False), (MIN_SIZE - 1, False), (MIN_SIZE, True), (CHUNKED, True), (UNTIL_CLOSE, True)],
)
def test_sizes(body, encoded):
    assert compressible(a_head(body=body), b"POST") is encoded


@pytest.mark.parametrize(
    "length, encoded",
    [
        (None, True),
        (b"0", False),
        (b"1023", False),
        (b"0999", False),
        (b"1024", True),
        (b"99999999999999999", True),
    ],
)
def test_the_answer_to_a_head_is_what_a_get_would_get(length, encoded):
    more = {} if length is None else {"content_length": length}
    assert compressible(a_head(body=NO_BODY, **more), b"HEAD") is encoded
    assert not compressible(a_head(body=NO_BODY, **more), b"GET")


@pytest.mark.parametrize(
    "more",
    [
        {"content_encoding": b"gzip"},
        {"Content_Encoding": b"identity"},
        {"content_range": b"bytes 0-1/2"},
        {"cache_control": b"public, no-transform"},
        {"Cache_Control": b"max-age=1,No-Transform"},
    ],
)
def test_what_is_left_alone(more):
    assert not compressible(a_head(**more), b"GET")


def test_the_head_of_an_encoded_answer():
    head = a_head(
        body=5000,
        ETag=b'"a"',
        Vary=b"Cookie",
        Accept_Ranges=b"bytes",
        Content_MD5=b"x",
        Digest=b"x",
        Content_Digest=b"x",
        Repr_Digest=b"x",
        Set_Cookie=b"a=b",
    )
    made = encoded_head(head, "br")
    assert made.body == CHUNKED
    assert made.headers == [
        (b"Content-Type", b"text/html"),
        (b"ETag", b'W/"a"'),
        (b"Vary", b"Cookie, Accept-Encoding"),
        (b"Set-Cookie", b"a=b"),
        (b"Content-Encoding", b"br"),
    ]
    assert b"Content-Encoding: br\r\n" in made.lines
    assert (made.status, made.reason, made.dated, made.keep_alive) == (200, b"OK", False, True)
    # What was there is as it was: the same head may come again.
    assert len(head.headers) == 10
    sized = encoded_head(head, "br", 7)
    assert (sized.body, sized.headers[-1]) == (7, (b"Content-Length", b"7"))
    assert encoded_head(a_head(body=NO_BODY, content_length=b"5000"), "gzip").body == NO_BODY


@pytest.mark.parametrize(
    "etag, weak",
    [
        (b'"a"', b'W/"a"'),
        (b'W/"a"', b'W/"a"'),
        (b'""', b'W/""'),
        (b"a", b""),
        (b'"', b""),
        (b"W/a", b""),
        (b"", b""),
    ],
)
def test_entity_tags(etag, weak):
    assert weakened(etag) == weak
    tags = [value for name, value in encoded_head(a_head(ETag=etag), "gzip").headers if name == b"ETag"]
    assert tags == ([weak] if weak else [])


@pytest.mark.parametrize(
    "before, after",
    [
        ([], [b"Accept-Encoding"]),
        ([b"Cookie"], [b"Cookie, Accept-Encoding"]),
        ([b"Cookie", b"Origin"], [b"Cookie", b"Origin, Accept-Encoding"]),
        ([b"accept-encoding"], [b"accept-encoding"]),
        ([b"Cookie,ACCEPT-ENCODING , X"], [b"Cookie,ACCEPT-ENCODING , X"]),
        ([b"*"], [b"*"]),
        ([b"Cookie", b" * "], [b"Cookie", b" * "]),
        ([b"X-Accept-Encoding"], [b"X-Accept-Encoding, Accept-Encoding"]),
        ([b""], [b"Accept-Encoding"]),
    ],
)
def test_vary(before, after):
    made = varying([(b"A", b"b"), *((b"vary", value) for value in before)])
    assert [value for name, value in made if name.lower() == b"vary"] == after
    assert (b"A", b"b") in made


@PROPERTY
@given(fields, st.lists(st.tuples(st.sampled_from([b"Vary", b"vary"]), field_value), max_size=3))
def test_vary_loses_nothing_and_is_added_once(others, varies):
    def names(headers):
        joined = b",".join(value for name, value in headers if name.lower() == b"vary")
        return [word.strip().lower() for word in joined.split(b",") if word.strip()]

    headers = [field for field in others if field[0].lower() != b"vary"] + varies
    made = varying(headers)
    assert varying(made) == made
    assert set(names(headers)) <= set(names(made))
    assert {b"*", b"accept-encoding"} & set(names(made))
    assert [field for field in made if field[0].lower() != b"vary"] == [
        field for field in headers if field[0].lower() != b"vary"
    ]


def test_an_answer_that_goes_out_as_it_is_varies_too():
    head = varied_head(a_head(body=5000, ETag=b'"a"'))
    assert head.headers == [*a_head(body=5000, ETag=b'"a"').headers, (b"Vary", b"Accept-Encoding")]
    assert head.body == 5000


@pytest.mark.parametrize(
    "asked, headers, after",
    [
        # Who has the encoded form, and who has the other.
        (b'W/"a"', {"ETag": b'"a"'}, {"ETag": b'W/"a"', "Vary": b"Accept-Encoding"}),
        (b'"x", W/"a"', {"ETag": b'"a"'}, {"ETag": b'W/"a"', "Vary": b"Accept-Encoding"}),
        (b'"a"', {"ETag": b'"a"'}, {"ETag": b'"a"'}),
        (b'W/"b"', {"ETag": b'"a"'}, {"ETag": b'"a"'}),
        (b"a", {"ETag": b"a"}, {"ETag": b"a"}),
        (b'"a"', {"ETag": b'"a"', "Vary": b"Cookie"}, {"ETag": b'"a"', "Vary": b"Cookie, Accept-Encoding"}),
    ],
)
def test_not_modified(asked, headers, after):
    head = a_head(304, NO_BODY, None, **headers)
    made = unmodified_head(head, [(b"If-None-Match", asked)])
    assert made.headers == [(name.encode(), value) for name, value in after.items()]
    assert made.body == NO_BODY


def test_trailers_that_are_true_no_more():
    kept = [(b"Server-Timing", b"a")]
    assert true_trailers([(b"Digest", b"x"), *kept, (b"content-digest", b"x"), (b"ETag", b'"a"')]) == kept
