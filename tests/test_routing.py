from __future__ import annotations

import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.errors import BadRequest
from onebackend_proxy.routing import MAX_ID, RouteTable, canonical_id, normalized_path, service_slug

from .properties import OFTEN, PROPERTY

IDISH = st.text(st.sampled_from("aB1.*/:[]%2eEfF-_~;@ \t\r\n\0\u00e9\u3002\uff0e\u00ad\ud800"), max_size=20)
ROUTE_ID = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["a.com", "A.COM.", "*.a.com", "b\u00fc.de", "[::1]", "1.2.3.4"]),
    st.sampled_from(["", ":80", ":"]),
    st.from_regex(r"(/([a-z.~]|%[0-9a-fA-F]{2}){1,4}){0,3}", fullmatch=True),
    st.sampled_from(["", "/", "//"]),
)
SEGMENT = st.sampled_from(
    [
        b"",
        b".",
        b"..",
        b"a",
        b"b",
        b"%2e",
        b"%2E%2e",
        b".%2e",
        b"..;",
        b"%2f",
        b"..%2f",
        b"...",
        b"%61",
        b"%25",
        b"%zz",
        b"%",
    ]
)
PATHS = st.lists(SEGMENT, max_size=6).map(lambda segments: b"/" + b"/".join(segments))


def _decoded(path):
    """Unreserved characters decoded, other escapes in upper case; the slow and plain way."""
    out = b""
    while path:
        if path[:1] == b"%":
            code = int(path[1:3], 16)
            plain = chr(code).isascii() and (chr(code).isalnum() or chr(code) in "-._~")
            out += bytes([code]) if plain else b"%%%02X" % code
            path = path[3:]
        else:
            out += path[:1]
            path = path[1:]
    return out


def _without_dots(path):
    """RFC 3986, 5.2.4, step by step."""
    out: list[bytes] = []
    while path:
        if path.startswith(b"/./"):
            path = path[2:]
        elif path == b"/.":
            path = b"/"
        elif path.startswith(b"/../") or path == b"/..":
            path = b"/" + path[4:]
            if out:
                out.pop()
        else:
            end = path.find(b"/", 1)
            end = len(path) if end < 0 else end
            out.append(path[:end])
            path = path[end:]
    return b"".join(out)


def _broken(path):
    return any(
        len(bit) < 2 or not all(c in b"0123456789abcdefABCDEF" for c in bit[:2])
        for bit in path.split(b"%")[1:]
    )


@pytest.mark.parametrize(
    "path, normalized",
    [
        (b"/", b"/"),
        (b"*", b"*"),
        (b"/a/b", b"/a/b"),
        (b"/a//b", b"/a//b"),
        (b"/%41%2d%7e", b"/A-~"),
        (b"/%2f%3f%25", b"/%2F%3F%25"),
        (b"/%252e", b"/%252e"),
        (b"/a/%2e%2e/b", b"/b"),
        (b"/a/.%2E/b", b"/b"),
        (b"/a/..", b"/"),
        (b"/a/.", b"/a/"),
        (b"/../../a", b"/a"),
        (b"/a/..;/b", b"/a/..;/b"),
        (b"/a/...", b"/a/..."),
        (b"/.a", b"/.a"),
        (b"/%00", b"/%00"),
    ],
)
def test_normalized_paths(path, normalized):
    assert normalized_path(path) == normalized


@pytest.mark.parametrize(
    "path", [b"/%", b"/%2", b"/%zz", b"/%%32%65", b"/%2%35", b"/a%", b"/%+1", b"/%\xd9\xa1\xd9\xa1"]
)
def test_a_broken_escape_is_refused(path):
    with pytest.raises(BadRequest):
        normalized_path(path)


@OFTEN
@given(PATHS | st.binary(max_size=20).map(lambda tail: b"/" + tail))
def test_normalizing_is_what_the_rfc_says_and_done_once(path):
    if _broken(path):
        with pytest.raises(BadRequest):
            normalized_path(path)
        return
    normalized = normalized_path(path)
    assert normalized == _without_dots(_decoded(path))
    assert normalized_path(normalized) == normalized


@pytest.mark.parametrize(
    "path, slug",
    [
        (b"/", b""),
        (b"/a", b"a"),
        (b"/a/", b"a"),
        (b"/a/b/c", b"a"),
        (b"//a", b""),
        (b"/%61/b", b"a"),
        (b"/user%2dsvc", b"user-svc"),
        (b"/a%2fb/c", b"a%2Fb"),
        (b"/a/x/../y", b"a"),
        (b"/a/../a/x", b"a"),
        (b"/a/..%2f..%2fb", b"a"),
        (b"*", b""),
    ],
)
def test_slugs(path, slug):
    assert service_slug(path) == slug


@pytest.mark.parametrize(
    "path",
    [
        b"/a/../b",
        b"/a/%2e%2e/b",
        b"/a/x/../../b",
        b"/a/..",
        b"/../a",
        b"/./a",
        b"/a/..//b",
        b"/%2e/a",
        b"/a/%",
        b"/%zz",
    ],
)
def test_a_path_that_leaves_its_service_is_refused(path):
    with pytest.raises(BadRequest):
        service_slug(path)


@OFTEN
@given(PATHS)
def test_the_slug_is_the_one_that_a_backend_sees(path):
    try:
        slug = service_slug(path)
    except BadRequest:
        assert _broken(path) or _without_dots(_decoded(path)) != _decoded(path)
        return
    assert slug == _without_dots(_decoded(path))[1:].split(b"/")[0]
    # And the one that was written, so that a rule for either holds for both.
    assert slug == _without_dots(b"/" + _decoded(path)[1:].split(b"/")[0])[1:]


@pytest.mark.parametrize(
    "text, id",
    [
        ("Example.COM", "example.com"),
        ("example.com:8080", "example.com"),
        ("example.com.:80/", "example.com"),
        (" example.com/App/ ", "example.com/App"),
        ("example.com//", "example.com"),
        ("*.Example.com/x", "*.example.com/x"),
        ("*.b\u00fccher.de", "*.xn--bcher-kva.de"),
        ("*.a\u3002com", "*.a.com"),
        ("b\u00fccher.de/x", "xn--bcher-kva.de/x"),
        ("[::1]", "[::1]"),
        ("[0::1]:80/x", "[::1]/x"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("a.com/%7ex/%2f", "a.com/~x/%2F"),
        ("a.com/x;y=1,2:@!$&'()*+", "a.com/x;y=1,2:@!$&'()*+"),
        ("localhost", "localhost"),
    ],
)
def test_canonical_ids(text, id):
    assert canonical_id(text) == id


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/x", "begins with no host"),
        ("http://a.com", "without a scheme"),
        ("a.com/http://b", "without a scheme"),
        ("*", "not a host name"),
        ("*.", "the host is empty"),
        ("*.com", "top-level"),
        ("*.com.", "top-level"),
        ("*.[::1]", "not a host name"),
        ("*.[::1]:80", "top-level"),
        ("*.*.com", "not a host name"),
        ("a.*.com", "not a host name"),
        ("a@b.com", "not a host name"),
        ("a.com:80\n/x", "not a host name"),
        ("[::1%\r\nX]", "not an IPv6 address"),
        ("a.com//x", "empty segment"),
        ("a.com/x//y", "empty segment"),
        ("a.com/x?y", "no path may hold"),
        ("a.com/x#y", "no path may hold"),
        ("a.com/x y", "no path may hold"),
        ("a.com/%", "no path may hold"),
        ("a.com/%zz", "no path may hold"),
        ("a.com/\u00e9", "no path may hold"),
        ("a.com/x\0", "no path may hold"),
        ("a.com/x\ny", "no path may hold"),
        ("a.com/../x", "dot segment"),
        ("a.com/x/.", "dot segment"),
        ("a.com/%2e%2E/x", "dot segment"),
        ("a.com/" + "x" * MAX_ID, "longer than"),
    ],
)
def test_ids_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        canonical_id(text)


@OFTEN
@given(st.text(max_size=30) | IDISH | ROUTE_ID)
def test_an_id_is_canonical_once_and_for_all(text):
    try:
        id = canonical_id(text)
    except ValueError:
        return
    assert canonical_id(id) == id
    assert id.isascii() and not id.endswith("/") and not set(id) & set(" \t\r\n\0?#\\")
    host, slash, prefix = id.partition("/")
    assert host == host.lower()
    # What it is matched against never has what normalizing takes away: no route that is never found.
    assert normalized_path((slash + prefix).encode() or b"/") == ((slash + prefix).encode() or b"/")


@attrs.frozen
class Entry:
    id: str


def _model(ids, host, path):
    def longest(wanted):
        found = [
            (len(prefix), id)
            for id in ids
            for at, slash, rest in [id.partition("/")]
            for prefix in [slash + rest]
            if at == wanted and (path + "/").startswith(prefix + "/")
        ]
        return max(found)[1] if found else None

    label, dot, parent = host.partition(".")
    above = f"*.{parent}" if label and dot else None
    return longest(host) or (longest(above) if above else None)


TABLE_ID = st.builds(
    "{}{}".format,
    st.sampled_from(["a.com", "b.a.com", "*.a.com", "*.b.a.com", "localhost"]),
    st.lists(st.sampled_from(["/a", "/b", "/ab", "/%2F"]), max_size=3).map("".join),
)


def from_root(path):
    return path if path[:1] in ("", "/") else "/" + path


@OFTEN
@given(
    st.lists(TABLE_ID, max_size=8, unique=True),
    st.sampled_from(
        [
            "a.com",
            "b.a.com",
            "c.a.com",
            "c.b.a.com",
            "d.c.a.com",
            "localhost",
            "com",
            "",
            ".a.com",
            "*.a.com",
            ".",
        ]
    ),
    st.lists(st.sampled_from(["/", "/a", "/b", "/ab", "/abc", "/%2F", "a", "/aa"]), max_size=5)
    .map("".join)
    .map(from_root),
)
def test_matching_is_what_a_plain_search_finds(ids, host, path):
    found = RouteTable(map(Entry, ids)).match(host, path)
    assert (found.id if found else None) == _model(ids, host, path)


def _matched(ids, host, path):
    found = RouteTable(map(Entry, ids)).match(host, path)
    return found.id if found else None


def test_prefixes_end_at_segments():
    ids = ["x.com/app", "x.com"]
    assert _matched(ids, "x.com", "/app") == "x.com/app"
    assert _matched(ids, "x.com", "/app/x") == "x.com/app"
    assert _matched(ids, "x.com", "/apple") == "x.com"
    assert _matched(["x.com/app"], "x.com", "/apple") is None
    assert _matched(["x.com/app"], "y.com", "/app") is None


def test_an_exact_host_goes_first_even_with_a_shorter_prefix():
    ids = ["b.x.com", "*.x.com/app"]
    assert _matched(ids, "b.x.com", "/app") == "b.x.com"
    assert _matched(ids, "c.x.com", "/app") == "*.x.com/app"
    # But an exact host that has nothing for this path leaves it to the wildcard.
    assert _matched(["b.x.com/other", "*.x.com"], "b.x.com", "/app") == "*.x.com"


def test_a_wildcard_is_one_label():
    assert _matched(["*.x.com"], "x.com", "/") is None
    assert _matched(["*.x.com"], "a.b.x.com", "/") is None
    assert _matched(["*.x.com"], "*.x.com", "/") == "*.x.com"


def test_a_target_without_a_path_finds_the_host():
    assert _matched(["a.com/x", "a.com"], "a.com", "*") == "a.com"
    assert _matched(["a.com/x"], "a.com", "*") is None


def test_the_last_of_two_with_one_id_stands_and_counts_once():
    first, second = Entry("a.com"), Entry("a.com")
    table = RouteTable([first, second])
    assert table.match("a.com", "/") is second
    assert len(table) == 1
    assert repr(table) == "<RouteTable: 1 routes for 1 hosts>"
    assert len(RouteTable[Entry]()) == 0


@PROPERTY
@given(st.integers(1, 400), st.sampled_from(["/", "/x", "//"]))
def test_a_long_path_still_finds_its_prefix(length, tail):
    prefix = "/a" * length
    assert _matched([f"a.com{prefix}", "a.com"], "a.com", prefix + tail * 50) == f"a.com{prefix}"
    assert _matched([f"a.com{prefix}", "a.com"], "a.com", prefix + "a" + tail * 50) in (
        "a.com",
        f"a.com{prefix[:-2]}",
    )


def test_a_long_path_costs_no_time_in_its_square():
    table = RouteTable([Entry("a.com/x"), Entry("*.com/y/z")])
    path = "/a" * 500_000
    began = time.perf_counter()
    assert table.match("a.com", path) is None
    # In its square this took minutes.
    assert time.perf_counter() - began < 1
