"""Sizes and times as texts: what each means, what is refused, and that what we show is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.units import (
    MAX_SECONDS,
    parse_count,
    parse_seconds,
    parse_size,
    shown_seconds,
    shown_size,
)

from .properties import PROPERTY


@pytest.mark.parametrize(
    "text, size",
    [
        ("0", 0),
        ("65536", 65536),
        ("7B", 7),
        ("32KiB", 32768),
        ("32kib", 32768),
        ("10MB", 10_000_000),
        ("10 mb", 10_000_000),
        ("1kB", 1000),
        ("2GB", 2_000_000_000),
        ("2GiB", 2 * 1024**3),
        ("3TiB", 3 * 1024**4),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("60", 60),
        ("0.5", 0.5),
        ("0", 0),
        ("5s", 5),
        ("250ms", 0.25),
        ("1m30s", 90),
        ("2h", 7200),
        ("1.5h", 5400),
        ("1d1h1m1s1ms", 86400 + 3600 + 60 + 1.001),
        ("20d", MAX_SECONDS),
    ],
)
def test_times(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


REFUSED = {
    parse_size: {
        "": "is not a size such as 32KiB, 10MB or 65536",
        "KiB": "is not a size",
        "1.5MB": "is not a size",
        "10M": "is not a size",
        "10 bananas": "is not a size",
        "+1": "is not a size",
        "1e3": "is not a size",
        "1_000": "is not a size",
        "\u0661": "is not a size",
        "1\u212ab": "is not a size",
        " 1": "is not a size",
        "1\n": "is not a size",
        "-1": "is negative",
        "-1KiB": "is negative",
        "9" * 18 + "TiB": "is too much",
        "9" * 400: "is not a size",
    },
    parse_seconds: {
        "": "is not a time such as 5s, 250ms, 1m30s or 2h",
        "s": "is not a time",
        "5 s": "is not a time",
        "30s1m": "is not a time",
        "1s1s": "is not a time",
        "1m30": "is not a time",
        "1M": "is not a time",
        ".5": "is not a time",
        "inf": "is not a time",
        "nan": "is not a time",
        "1e9": "is not a time",
        "5s\n": "is not a time",
        "\u0665s": "is not a time",
        "-5s": "is negative",
        "21d": "is too long: at most 20d",
        "999999999": "is too long",
    },
    parse_count: {
        "": "is not a whole number such as 16",
        "1.0": "is not a whole number",
        "1k": "is not a whole number",
        "\u0661": "is not a whole number",
        "-3": "is negative",
        "9" * 5000: "is not a whole number",
    },
}


@pytest.mark.parametrize(
    "parse, text, reason",
    [(parse, text, reason) for parse, texts in REFUSED.items() for text, reason in texts.items()],
)
def test_what_is_refused_says_why(parse, text, reason):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"{text!r} ") and reason in str(caught.value)


@PROPERTY
@given(
    st.sampled_from([parse_size, parse_seconds, parse_count]),
    st.text("0123456789.-+kKmMiIbBsShd \n", max_size=9),
)
def test_any_text_is_a_finite_amount_or_one_error(parse, text):
    try:
        assert 0 <= parse(text) < 2**63
    except ValueError as error:
        assert repr(text) in str(error)


@PROPERTY
@given(st.integers(0, 2**50))
def test_a_size_shown_is_read_back(size):
    assert parse_size(shown_size(size)) == size


@PROPERTY
@given(st.integers(0, int(MAX_SECONDS) * 1000 // 9))
def test_a_time_shown_is_read_back(milliseconds):
    assert parse_seconds(shown_seconds(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


def test_how_amounts_are_shown():
    sizes = (0, 1, 1023, 1024, 32768, 1024**2, 10**6, 10**7, 1500, 2048_000, 10**9 + 1)
    assert [shown_size(size) for size in sizes] == [
        "0",
        "1",
        "1023",
        "1KiB",
        "32KiB",
        "1MiB",
        "1MB",
        "10MB",
        "1500",
        "2048KB",
        "1000000001",
    ]
    assert [shown_seconds(seconds) for seconds in (0, 0.25, 1, 75, 90, 60, 3600)] == [
        "0",
        "250ms",
        "1s",
        "75s",
        "90s",
        "1m",
        "1h",
    ]
