"""304, pieces, and what a 304 changes (RFC 9110, 13 and 14; RFC 9111, 4.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.policies.conditions import (
    kept_fields,
    matches,
    not_modified,
    range_holds,
    updated,
    without_body,
)
from onebackend_proxy.policies.ranges import NOWHERE, byte_range

from ..properties import OFTEN


@pytest.mark.parametrize(
    "wanted, etag, same",
    [
        (b'"a"', b'"a"', True),
        (b'W/"a"', b'"a"', True),
        (b'"a"', b'W/"a"', True),
        (b'"b", W/"a" ,"c"', b'"a"', True),
        (b"*", b"", True),
        (b" * ", b'"a"', True),
        (b'"A"', b'"a"', False),
        (b'"ab"', b'"a"', False),
        (b"a", b'"a"', False),
        (b"a", b"a", True),
        (b'w/"a"', b'"b"', False),
        (b'"a"', b"", False),
        (b"", b'"a"', False),
    ],
)
def test_entity_tags(wanted, etag, same):
    assert matches(wanted, etag) is same


def test_no_list_takes_long():
    import time

    started = time.perf_counter()
    matches(b'"' * 30_000, b'"a"')
    matches(b'W/"' * 10_000, b'"a"')
    matches(b'"' + b"a" * 30_000, b'"a"')
    assert time.perf_counter() - started < 0.2


DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
MOMENT = 784111777


def test_not_modified():
    assert not_modified(b"", DATE, b"", MOMENT)
    assert not_modified(b"", DATE, b"", MOMENT - 1)
    assert not not_modified(b"", DATE, b"", MOMENT + 1)
    assert not not_modified(b"", b"x", b"", 0)
    assert not not_modified(b"", b"", b"", 0)
    assert not not_modified(b'"a"', DATE, b'"b"', MOMENT)
    assert not_modified(b'"a"', b"x", b'"a"', MOMENT + 1)


def test_if_range():
    assert range_holds(b"", b"", b"", False)
    assert range_holds(b'"a"', b'"a"', DATE, False)
    assert not range_holds(b'W/"a"', b'W/"a"', DATE, True)
    assert not range_holds(b'"a"', b'"b"', DATE, True)
    assert range_holds(DATE, b'"a"', DATE, True)
    assert not range_holds(DATE, b'"a"', DATE, False)
    assert not range_holds(DATE, b"", b"", True)


@pytest.mark.parametrize(
    "value, piece",
    [
        (b"bytes=0-0", (0, 1)),
        (b"BYTES=2-5", (2, 6)),
        (b"bytes=2-", (2, 10)),
        (b"bytes=-3", (7, 10)),
        (b"bytes=-30", (0, 10)),
        (b"bytes=9-100", (9, 10)),
        (b"bytes= 0-1 ", (0, 2)),
        (b"bytes=10-", NOWHERE),
        (b"bytes=99-100", NOWHERE),
        (b"bytes=-0", NOWHERE),
        (b"bytes=5-2", None),
        (b"bytes=-", None),
        (b"bytes=", None),
        (b"bytes=0-1,2-3", None),
        (b"bytes=" + b",".join([b"0-"] * 1000), None),
        (b"bytes=a-b", None),
        (b"lines=0-1", None),
        (b"bytes=" + b"9" * 19 + b"-", None),
    ],
)
def test_ranges(value, piece):
    assert byte_range(value, 10) == piece


@OFTEN
@given(st.integers(0, 20), st.none() | st.integers(0, 30), st.none() | st.integers(0, 30))
def test_ranges_against_slices(size, first, last):
    body = bytes(range(size))
    text = b"bytes=%b-%b" % (b"" if first is None else b"%d" % first, b"" if last is None else b"%d" % last)
    found = byte_range(text, size)
    if first is None and last is None:
        assert found is None
    elif first is None:
        wanted = body[-last:] if last else b""
        assert (body[slice(*found)] if found else None) == wanted
    elif last is not None and last < first:
        assert found is None
    else:
        assert found is not None
        wanted = body[first:] if last is None else body[first : last + 1]
        assert body[slice(*found)] == wanted
        assert (found == NOWHERE) is (not wanted)


def test_what_is_kept_of_a_head():
    headers = [(b"A", b"1"), (b"Set-Cookie", b"x"), (b"Content-Length", b"5"), (b"a", b"2")]
    assert kept_fields(headers, frozenset((b"set-cookie",))) == [(b"A", b"1"), (b"a", b"2")]


def test_what_a_304_changes():
    before = [(b"A", b"1"), (b"B", b"1"), (b"a", b"2"), (b"Content-Encoding", b"gzip"), (b"ETag", b'"x"')]
    by = [
        (b"a", b"3"),
        (b"content-encoding", b"br"),
        (b"etag", b'"y"'),
        (b"content-length", b"0"),
        (b"C", b"1"),
    ]
    after = updated(before, by)
    assert sorted(after) == [
        (b"B", b"1"),
        (b"C", b"1"),
        (b"Content-Encoding", b"gzip"),
        (b"ETag", b'"x"'),
        (b"a", b"3"),
    ]


def test_what_a_304_carries():
    headers = [(b"ETag", b"x"), (b"Content-Type", b"a"), (b"content-length", b"1"), (b"Vary", b"a")]
    assert without_body(headers) == [(b"ETag", b"x"), (b"Vary", b"a")]
