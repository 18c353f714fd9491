"""What the property tests share: one setting that makes each run the same, and hostile header fields."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Derandomized: a red run in CI is red again on the desk.
PROPERTY = settings(
    deadline=None,
    max_examples=150,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
OFTEN = settings(PROPERTY, max_examples=400)

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KNOWN = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"expect",
    b"te",
    b"trailer",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"upgrade",
    b"http2-settings",
    b"proxy",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-real-ip",
    b"x-request-id",
    b"x_forwarded_for",
    b"transfer_encoding",
    b"via",
    b"date",
    b"set-cookie",
    b"authorization",
]
TOLD = [
    b"",
    b"0",
    b"5",
    b"05",
    b"+5",
    b"5, 5",
    b"18446744073709551615",
    b"chunked",
    b"Chunked",
    b"gzip",
    b"gzip, chunked",
    b",chunked",
    b"identity",
    b"close",
    b"keep-alive",
    b"upgrade",
    b"close, X-Forwarded-For, Host, Content-Length, x-real-ip",
    b"trailers",
    b"trailers, deflate;q=0.5",
    b"100-continue",
    b"other.example",
    b"other.example:8080",
    b"10.0.0.1",
    b"10.0.0.1, 6.6.6.6",
    b"unknown, 10.0.0.2",
    b"https",
    b"a b",
]


def _cased(name: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([name, name.title(), name.upper()])


_token = st.lists(st.sampled_from(list(TOKEN)), min_size=1, max_size=12).map(bytes)
_visible = st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100)])
# RFC 9110, 5.5: visible octets, blanks only between them.
field_value = st.lists(_visible | st.sampled_from([0x20, 0x09]), max_size=20).map(
    lambda v: bytes(v).strip(b" \t")
)
field_name = st.sampled_from(KNOWN).flatmap(_cased) | _token
field = st.tuples(field_name, st.sampled_from(TOLD) | field_value)
fields = st.lists(field, max_size=12)
plain_field = st.tuples(_token.map(lambda name: b"X-" + name), field_value)
plain_fields = st.lists(plain_field, max_size=6)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these offsets (taken modulo its length)."""
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(at)]
