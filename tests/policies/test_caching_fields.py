"""Cache-Control, that for CDNs, dates, seconds: as strangers spell them."""

from __future__ import annotations

import calendar
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.policies.cache_control import (
    MAX_FIELD,
    MAX_SECONDS,
    UNREADABLE,
    cache_control,
    delta_seconds,
    http_date,
    shown_date,
    targeted,
)

from ..properties import OFTEN, TOKEN

_name = st.lists(st.sampled_from(list(TOKEN)), min_size=1, max_size=10).map(bytes)
_quoted = st.lists(st.sampled_from([*range(0x20, 0x7F), 0x80, 0xFF, 9]), max_size=12).map(bytes)


def quoted(text: bytes) -> bytes:
    """As a quoted string."""
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


@pytest.mark.parametrize(
    "value, directives",
    [
        (b"", {}),
        (b" , ,", {}),
        (b"max-age=10", {b"max-age": b"10"}),
        (b"Max-Age=10,\tPUBLIC ", {b"max-age": b"10", b"public": None}),
        (b'a="x, max-age=3", max-age="5"', {b"a": b"x, max-age=3", b"max-age": b"5"}),
        (b'a="\\"\\x"', {b"a": b'"x'}),
        (b"max-age=3, max-age=3", {b"max-age": b"3"}),
        (b"max-age=3, max-age=4", {b"max-age": None}),
        (b"private=a, private=b", {b"private": b"a,b"}),
        (b"private=a, private", {b"private": None}),
        (b"no-cache, no-cache=a", {b"no-cache": None}),
        (b"max-age=", {b"max-age": b""}),
        (b"max-age =3", UNREADABLE),
        (b"max-age= 3", UNREADABLE),
        (b"public; max-age=3", UNREADABLE),
        (b'a="', UNREADABLE),
        (b'public, a="x', UNREADABLE),
        (b"a b", UNREADABLE),
        (b"=1", UNREADABLE),
        (b"\xff", UNREADABLE),
        (b"a" * (MAX_FIELD + 1), UNREADABLE),
    ],
)
def test_cache_control(value, directives):
    assert cache_control(value) == directives


@OFTEN
@given(st.dictionaries(_name.map(bytes.lower), st.none() | _quoted, max_size=6), st.data())
def test_whatever_is_written_is_read(directives, data):
    """In any case, quoted or not, with empty elements between."""
    words = []
    for name, value in directives.items():
        name = data.draw(st.sampled_from([name, name.upper(), name.title()]))
        words.append(name if value is None else name + b"=" + quoted(value))
        words += data.draw(st.sampled_from([[], [b""], [b" \t"]]))
    text = data.draw(st.sampled_from([b",", b", ", b" ,\t"])).join(words)
    assert cache_control(text) == directives


@OFTEN
@given(st.binary(max_size=60) | st.lists(st.sampled_from(b'a=",\\ ;0?*'), max_size=40).map(bytes))
def test_nothing_breaks_the_parsers(value):
    for parse in (cache_control, targeted, http_date, delta_seconds):
        parse(value)


@pytest.mark.parametrize(
    "piece", [b'a="', b"a=", b'a="\\', b"a;a=", b"a,", b" ", b'";a="', b"a;", b"a=?1", b"0"]
)
def test_no_text_takes_long(piece):
    started = time.perf_counter()
    for parse in (cache_control, targeted, http_date, delta_seconds):
        parse((piece * MAX_FIELD)[:MAX_FIELD])
        parse((piece * MAX_FIELD)[: MAX_FIELD - 1] + b"\x00")
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize(
    "value, directives",
    [
        (b"max-age=10, public", {b"max-age": b"10", b"public": None}),
        (b"max-age=10;a=1;b, no-store", {b"max-age": b"10", b"no-store": None}),
        (b"no-store=?0, max-age=4", {b"max-age": b"4"}),
        (b"no-store=?1", {b"no-store": None}),
        (b'private="a"', {b"private": b"a"}),
        # Of a wrong type: no lifetime at all.
        (b'max-age="10"', {b"max-age": None}),
        (b"max-age=1.5", {b"max-age": None}),
        (b"max-age", {b"max-age": None}),
        # The last one counts (RFC 8941, 3.2).
        (b"max-age=1, max-age=2", {b"max-age": b"2"}),
        # No dictionary: as if it were not there.
        (b"", None),
        (b" ", None),
        (b"max-age=10,", None),
        (b"Max-Age=10", None),
        (b"max-age = 10", None),
        (b"max-age=10 public", None),
        (b'a="', None),
    ],
)
def test_targeted(value, directives):
    assert targeted(value) == directives


@pytest.mark.parametrize(
    "text, seconds",
    [
        (b"0", 0),
        (b"003600", 3600),
        (b"2147483648", MAX_SECONDS),
        (b"2147483649", MAX_SECONDS),
        (b"9" * 4000, MAX_SECONDS),
        (b"0" * 4000 + b"7", 7),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.0", None),
        (b" 1", None),
        (b"1_0", None),
        ("\u0661".encode(), None),
    ],
)
def test_delta_seconds(text, seconds):
    assert delta_seconds(text) == seconds


def test_arguments_of_directives():
    said = cache_control(b'max-age=x, s-maxage=5, no-cache="A, b,,", private')
    assert (said.seconds(b"max-age"), said.seconds(b"s-maxage"), said.seconds(b"min-fresh")) == (0, 5, None)
    assert said.fields(b"no-cache") == {b"a", b"b"}
    assert not said.fields(b"private")


MOMENT = 784111777


@pytest.mark.parametrize(
    "text, moment",
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", MOMENT),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", MOMENT),
        (b"Sun Nov  6 08:49:37 1994", MOMENT),
        (b"Tue, 29 Feb 2000 00:00:00 GMT", calendar.timegm((2000, 2, 29, 0, 0, 0))),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", calendar.timegm((9999, 12, 31, 23, 59, 59))),
        (b"Mon, 29 Feb 1999 00:00:00 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"Sun, 06 Now 1994 08:49:37 GMT", None),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"sun, 06 nov 1994 08:49:37 gmt", None),
        (b"Sun 06 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT, x", None),
        (b"784111777", None),
        (b"0", None),
        (b"", None),
    ],
)
def test_dates(text, moment):
    assert http_date(text) == moment


@given(st.integers(0, 253402300799))
def test_dates_as_we_write_them(moment):
    assert http_date(shown_date(moment)) == moment
