"""What may be kept, and for how long; beside a small model of the same rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.headers import prepare_response
from onebackend_proxy.policies.cache_control import shown_date
from onebackend_proxy.policies.cache_requests import PLAIN, read_request, selected
from onebackend_proxy.policies.caching import MAX_GUESS, Terms, terms_of

from ..properties import OFTEN, fields

NOW = 1_800_000_000
CC = b"Cache-Control"


def terms(
    *answer: tuple[bytes, bytes], status: int = 200, ask: tuple[tuple[bytes, bytes], ...] = (), **more: object
) -> Terms | None:
    """The terms of an answer that was made now, unless it says another Date."""
    if not any(name == b"Date" for name, _ in answer):
        answer = (*answer, (b"Date", shown_date(NOW)))
    head = prepare_response(b"GET", True, status, b"", [*answer, (b"Content-Length", b"5")])
    sent = more.pop("sent", NOW)
    return terms_of(read_request([*ask]), head, sent, NOW, **more)  # type: ignore[arg-type]


def lifetime(*answer: tuple[bytes, bytes], **more: object) -> int | None:
    found = terms(*answer, **more)  # type: ignore[arg-type]
    return None if found is None else found.lifetime


def at(seconds: int) -> bytes:
    return shown_date(NOW + seconds)


@pytest.mark.parametrize(
    "answer, seconds",
    [
        ([(CC, b"max-age=10")], 10),
        ([(CC, b"s-maxage=5, max-age=10")], 5),
        ([(CC, b"max-age=10"), (b"Expires", at(100))], 10),
        ([(CC, b"max-age=10"), (CC, b"s-maxage=20")], 20),
        ([(CC, b"max-age=x")], 0),
        ([(CC, b"max-age=-1")], 0),
        ([(CC, b"max-age=1, max-age=2")], 0),
        ([(CC, b"max-age=99999999999999999999")], 2**31),
        ([(b"Expires", at(100))], 100),
        ([(b"Expires", at(-100))], 0),
        ([(b"Expires", b"0")], 0),
        ([(b"Expires", at(100)), (b"Expires", at(100))], 0),
        ([(b"Expires", at(500)), (b"Date", at(400))], 100),
        ([(CC, b"no-cache")], 0),
        ([(CC, b"public")], 0),
        # For caches such as this one alone (RFC 9213).
        ([(CC, b"no-store"), (b"CDN-Cache-Control", b"max-age=60")], 60),
        ([(CC, b"max-age=60"), (b"CDN-Cache-Control", b"no-store")], None),
        ([(CC, b"max-age=60"), (b"CDN-Cache-Control", b"max-age=")], 60),
        ([(b"CDN-Cache-Control", b"must-revalidate"), (b"Expires", at(100))], None),
        # Nobody says that it may be kept.
        ([], None),
        ([(b"ETag", b'"a"')], None),
        ([(CC, b"must-revalidate")], None),
        ([(CC, b"immutable")], None),
        ([(b"Pragma", b"no-cache"), (b"Expires", at(100))], None),
        ([(CC, b"max-age=5"), (b"Pragma", b"no-cache")], 5),
    ],
)
def test_lifetimes(answer, seconds):
    assert lifetime(*answer) == seconds


def test_a_guess_by_the_last_change():
    changed = (b"Last-Modified", at(-1000))
    assert lifetime(changed) == 100
    assert lifetime((b"Last-Modified", at(-100 * MAX_GUESS))) == MAX_GUESS
    assert lifetime(changed, status=404) == 100
    for status in (201, 302, 403, 500, 502, 503, 599):
        assert lifetime(changed, status=status) is None
    assert lifetime(changed, (CC, b"public"), status=599) == 100
    # Not of pages, nor where somebody shows whose the request is; nor of what is not older than now.
    assert lifetime(changed, (b"Content-Type", b"text/html; charset=utf-8")) is None
    assert lifetime(changed, (b"Content-Type", b"application/xhtml+xml")) is None
    assert lifetime(changed, (CC, b"public"), ask=((b"Cookie", b"a"),)) == 0
    assert lifetime((b"Last-Modified", at(10))) is None
    assert lifetime((b"Last-Modified", b"yesterday")) is None


@pytest.mark.parametrize(
    "said, kept",
    [
        (b"max-age=5", True),
        (b"no-store, max-age=5", False),
        (b"NO-STORE", False),
        (b"private, max-age=5", False),
        (b'private="x-a", max-age=5', True),
        (b'private="", max-age=5', False),
        (b"must-understand, no-store, max-age=5", True),
        (b'max-age=5, x="no-store"', True),
        (b"max-age=5; no-store", False),
    ],
)
def test_who_forbids_it(said, kept):
    assert (terms((CC, said)) is not None) is kept


def test_must_understand():
    said = (CC, b"must-understand, no-store, max-age=5")
    assert terms(said, status=404) is not None
    assert terms(said, status=599) is None


def test_fields_that_are_left_out():
    found = terms((CC, b'max-age=5, no-cache="X-A, x-b", private=X-C'))
    assert found is not None and not found.always_ask
    assert {b"x-a", b"x-b", b"x-c", b"set-cookie", b"age"} <= found.left_out


@pytest.mark.parametrize(
    "answer, sent, age",
    [
        ([], NOW, 0),
        ([(b"Age", b"7")], NOW, 7),
        ([(b"Age", b"7")], NOW - 3, 10),
        ([(b"Date", at(-20))], NOW, 20),
        ([(b"Date", at(-20)), (b"Age", b"7")], NOW - 3, 20),
        ([(b"Date", at(20))], NOW, 0),
        # Whoever says an age that cannot be read says that it is old.
        ([(b"Age", b"x")], NOW, 1000),
        ([(b"Age", b"0, 0")], NOW, 1000),
        ([(b"Age", b"0"), (b"Age", b"0")], NOW, 1000),
    ],
)
def test_ages(answer, sent, age):
    found = terms((CC, b"max-age=1000"), *answer, sent=sent)
    assert found is not None
    assert found.age(NOW) == age
    assert found.is_fresh(NOW) is (age < 1000)
    assert found.age(NOW + 5) == age + 5


def test_stale_windows():
    found = terms((CC, b"max-age=10, stale-while-revalidate=5, stale-if-error=20"))
    assert found is not None
    assert [found.is_fresh(NOW + s) for s in (9, 10)] == [True, False]
    assert [found.while_asking_at(NOW + s) for s in (14, 15)] == [True, False]
    assert [found.if_error_at(NOW + s) for s in (29, 30)] == [True, False]
    for word in (b"must-revalidate", b"proxy-revalidate", b"no-cache"):
        found = terms((CC, b"max-age=10, stale-while-revalidate=5, stale-if-error=20, " + word))
        assert found is not None
        assert (found.while_asking, found.if_error) == (0, 0)


def test_of_no_use():
    for said, use in ((b"max-age=0", False), (b"no-cache", False), (b"max-age=0, stale-if-error=5", True)):
        found = terms((CC, said))
        assert found is not None and found.are_of_use(NOW) is use
        found = terms((CC, said), (b"ETag", b'"a"'))
        assert found is not None and found.are_of_use(NOW)


_seconds = st.sampled_from([b"0", b"5", b"60", b"007", b"x", b"", b"-1", b"1.5", b"99999999999999"])
_directive = st.one_of(
    st.sampled_from(
        [b"public", b"private", b"no-store", b"no-cache", b"must-revalidate", b"immutable", b"x-y"]
    ),
    st.builds(
        lambda name, value: name + b"=" + value,
        st.sampled_from([b"max-age", b"s-maxage", b"stale-if-error", b"stale-while-revalidate", b"foo"]),
        _seconds,
    ),
)


def model(directives: list[bytes], age: int, cookie: bool) -> int | None:
    """The lifetime that these directives give; None where the answer may not be kept."""
    names = {word.partition(b"=")[0] for word in directives}
    if names & {b"no-store", b"private"} or (cookie and not names & {b"public", b"s-maxage"}):
        return None
    for name in (b"s-maxage", b"max-age"):
        values = {word.partition(b"=")[2] for word in directives if word.startswith(name + b"=")}
        if values:
            [value] = values if len(values) == 1 else [b"x"]
            return min(int(value), 2**31) if value.isdigit() else 0
    return 0 if names & {b"public", b"no-cache"} else None


@OFTEN
@given(st.lists(_directive, max_size=5), st.integers(0, 100), st.booleans(), st.integers(0, 200))
def test_against_a_model(directives, age, cookie, later):
    ask = ((b"Cookie", b"a=b"),) if cookie else ()
    found = terms((CC, b", ".join(directives)), (b"Age", b"%d" % age), ask=ask)
    wanted = model(directives, age, cookie)
    assert (None if found is None else found.lifetime) == wanted
    if found is not None and wanted is not None:
        fresh = age + later < wanted and b"no-cache" not in directives
        assert found.is_fresh(NOW + later) is fresh
        if fresh:
            assert not found.is_fresh(NOW + later + wanted)
        forbidden = {b"must-revalidate", b"no-cache"} & {*directives}
        assert not (forbidden and (found.while_asking or found.if_error))


@OFTEN
@given(fields, fields, st.sampled_from([200, 204, 206, 301, 304, 404, 500, 599]))
def test_whatever_comes(answer, ask, status):
    """Nothing breaks; and whatever is kept says that it may be, or when it was changed."""
    from onebackend_proxy.errors import UpstreamFailed

    try:
        head = prepare_response(b"GET", True, status, b"", answer)
    except UpstreamFailed:
        return
    found = terms_of(read_request(ask), head, NOW, NOW)
    names = {name.lower() for name, _ in answer}
    if found is not None:
        assert names & {b"cache-control", b"cdn-cache-control", b"expires", b"last-modified"}
        assert status not in (206, 304)


def test_what_requests_say():
    assert read_request([(b"Accept", b"*/*"), (b"User-Agent", b"x")]) is PLAIN
    said = read_request(
        [
            (b"COOKIE", b"a"),
            (b"authorization", b"b"),
            (b"Range", b"c"),
            (b"If-Range", b"d"),
            (b"If-None-Match", b"1"),
            (b"If-None-Match", b"2"),
            (b"Cache-Control", b"no-store, only-if-cached"),
            (b"X-Forwarded-Port", b"1"),
        ]
    )
    assert said.cookie and said.authorization and said.no_store and said.only_if_cached and not said.past
    assert (said.range, said.if_range, said.if_none_match) == (b"c", b"d", b"1, 2")
    assert said.forwarded == b"\nx-forwarded-port:1" and not said.plain


def test_what_answers_are_told_apart_by():
    headers = [(b"Accept-Encoding", b"gzip , BR"), (b"X-A", b"1 , 2"), (b"x-a", b"B")]
    assert selected(headers, (b"accept-encoding", b"x-a", b"x-b")) == (b"gzip,br", b"1 , 2, B", None)
    assert selected(headers, ()) == ()
