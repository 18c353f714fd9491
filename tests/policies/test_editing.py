"""Fields that go and come, values with placeholders, and pages in the place of errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.headers import Peer, prepare_request
from onebackend_proxy.messages import RequestHead, field_lines
from onebackend_proxy.policies.editing import (
    ERROR_PLACEHOLDERS,
    PLACEHOLDERS,
    Edits,
    ErrorPages,
    Template,
    Values,
    check_value,
    without_lines,
)
from onebackend_proxy.records import FieldEdits

from ..properties import OFTEN

NAME = st.sampled_from(["X-A", "x-a", "X-Ab", "A", "X", "Host2", "X.A", "X-A-"])
VALUE = st.text(st.sampled_from("ab :\t-$."), max_size=6).map(str.strip)
FIELDS = st.lists(st.tuples(NAME.map(str.encode), VALUE.map(str.encode)), max_size=5)


def values(user: str = "", host: bytes = b"X.com:8443", **more: str) -> Values:
    head = RequestHead(b"GET", b"/", [(b"Host", host)])
    request = prepare_request(head, Peer(b"192.0.2.7", scheme=b"https"), b"id-1")
    return Values(request, user, b"", **more)


def test_every_placeholder():
    text = " ".join(f"${name}" for name in PLACEHOLDERS)
    assert Template(text).filled(values("ada")) == b"id-1 192.0.2.7 ada x.com https"


@pytest.mark.parametrize("host", [b"[::1]", b"[::1]:80", b"x", b"x.com."])
def test_the_host_has_no_port(host):
    assert Template("$host").filled(values(host=host)) == host.removesuffix(b":80")


@pytest.mark.parametrize("text", ["$nope", "a$", "$ a", "$$$", "$1", "$Host", "${host}", "$status"])
def test_what_is_no_placeholder(text):
    with pytest.raises(ValueError, match=r"is none of \$request_id"):
        check_value(text)
    with pytest.raises(ValueError):
        Template(text)


@given(st.lists(st.sampled_from(["$$", "$host", "a", "$$host", " ", "é"])).map("".join))
@OFTEN
def test_a_dollar_is_a_dollar(text):
    try:
        template = Template(text)
    except ValueError:
        # ``$hosta``
        return
    wanted = text.replace("$$", "\0").replace("$host", "x.com").replace("\0", "$")
    assert template.filled(values()) == wanted.encode()
    assert (template.constant is None) == ("$host" in text.replace("$$", "\0"))


@given(FIELDS, st.lists(st.tuples(NAME, VALUE), max_size=3), st.lists(NAME, max_size=2))
@OFTEN
def test_fields_and_lines_stay_the_same(headers, to_set, to_remove):
    """What goes out is what the fields say, before and after; what is not named stays as it was."""
    to_set = [(name, value.replace("$", "$$")) for name, value in to_set]
    edits = Edits(FieldEdits(tuple(to_set), tuple(to_remove)))
    after, lines = edits.applied(headers, field_lines(headers), values())
    assert lines == field_lines(after)
    named = {name.lower().encode() for name in (*(name for name, _ in to_set), *to_remove)}
    kept = [field for field in headers if field[0].lower() not in named]
    assert after[: len(kept)] == kept
    added = [(name.encode(), value.replace("$$", "$").encode()) for name, value in to_set if value]
    assert after[len(kept) :] == added
    assert bool(edits) == bool(named)


@given(FIELDS, st.frozensets(NAME.map(lambda name: name.lower().encode()), max_size=3))
@OFTEN
def test_lines_without_some(headers, names):
    kept = [field for field in headers if field[0].lower() not in names]
    assert without_lines(field_lines(headers), names) == field_lines(kept)


def test_an_edit_of_more_lines_than_fields():
    """Behind the client's own fields go ours: they can be edited, too."""
    edits = Edits(FieldEdits((("X-Real-IP", "none"),), ("via",)))
    lines = b"A: b\r\nX-Real-IP: 192.0.2.7\r\nVia: 1.1 x\r\nVia-2: y\r\n"
    headers, edited = edits.applied([(b"A", b"b")], lines, values())
    assert edited == b"A: b\r\nVia-2: y\r\nX-Real-IP: none\r\n"
    assert headers == [(b"A", b"b"), (b"X-Real-IP", b"none")]


def test_a_host_is_apart():
    edits = Edits(FieldEdits((("host", "inner"), ("X", "y"))))
    assert edits.host is not None and edits.host.filled(values()) == b"inner"
    assert edits.applied([], b"", values())[1] == b"X: y\r\n"
    assert Edits(FieldEdits((("Host", "inner"),)))
    assert not Edits(FieldEdits())


@given(st.text(st.characters(codec="utf-8")))
@OFTEN
def test_no_name_of_a_user_breaks_a_head(user):
    edits = Edits(FieldEdits((("X-User", "$remote_user"),)))
    [*fields], lines = edits.applied([], b"", values(user))
    assert lines.count(b"\r") == lines.count(b"\n") == len(fields)
    assert not any(byte < 0x20 and byte != 9 for name, value in fields for byte in value)


def test_pages_by_status_and_by_class():
    pages = ErrorPages((("503", "exact"), ("5xx", "class $status"), ("404", "$message")))
    assert pages.page(503, values()) == b"exact"
    assert pages.page(502, values(status="502")) == b"class 502"
    assert pages.page(404, values(message="<b>")) == b"&lt;b&gt;"
    assert pages.page(400, values()) is None


def test_what_clients_say_is_escaped_in_pages():
    pages = ErrorPages((("4xx", "<p title='$remote_user'>$$</p>"),))
    page = pages.page(403, values("<script>'\"&"))
    assert page == b"<p title='&lt;script&gt;&#x27;&quot;&amp;'>$</p>"


def test_pages_know_more_placeholders():
    assert set(PLACEHOLDERS) < set(ERROR_PLACEHOLDERS)
    ErrorPages((("500", " ".join(f"${name}" for name in ERROR_PLACEHOLDERS)),))
    with pytest.raises(ValueError):
        ErrorPages((("500", "$nope"),))
