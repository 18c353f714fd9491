from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.addresses import Address
from onebackend_proxy.balancing import EndpointState
from onebackend_proxy.downstream.entries import Caller
from onebackend_proxy.downstream.logformat import FORMATS, MAX_TEXT
from onebackend_proxy.messages import HIDDEN, shown_url, without_secrets

from ..properties import PROPERTY

NOW = 1700000000.25


def caller(**changes: bytes) -> Caller:
    told: dict[str, Any] = {
        "client": b"1.2.3.4",
        "host": b"a.example",
        "method": b"GET",
        "protocol": b"HTTP/1.1",
        "tls": b"TLSv1.3",
        "user_agent": b"curl",
        "referer": b"http://r/",
    }
    return Caller(**{**told, **changes})


TOLD: dict[str, Any] = {
    "caller": caller(),
    "now": NOW,
    "began": NOW - 0.0123,
    "id": b"id-1",
    "target": b"/a?b",
    "status": 200,
    "bytes_in": 3,
    "bytes_out": 4,
    "reason": "",
    "route": "a.example/app",
    "endpoint": EndpointState(Address("http", "10.0.0.7", 80)),
    "asked": NOW - 0.02,
    "answered": NOW - 0.01,
    "cache": "",
    "user": "",
}
ALONE: dict[str, Any] = {"route": "", "endpoint": None, "asked": 0.0, "answered": 0.0}
"""What nobody has found out where the proxy answers by itself."""


def json_of(**changes: Any) -> dict[str, Any]:
    line: bytes = FORMATS["json"].line(*{**TOLD, **changes}.values())
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    return dict(json.loads(line))


def combined_of(**changes: Any) -> str:
    line: bytes = FORMATS["combined"].line(*{**TOLD, **changes}.values())
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    return line[:-1].decode("ascii")


def test_every_field():
    assert json_of() == {
        "time": "2023-11-14T22:13:20.250Z",
        "id": "id-1",
        "client": "1.2.3.4",
        "host": "a.example",
        "method": "GET",
        "protocol": "HTTP/1.1",
        "tls": "TLSv1.3",
        "userAgent": "curl",
        "referer": "http://r/",
        "target": "/a?b",
        "route": "a.example/app",
        "upstream": "10.0.0.7:80",
        "status": 200,
        "bytesIn": 3,
        "bytesOut": 4,
        "milliseconds": 12.3,
        "upstreamMilliseconds": 10.0,
        "cache": "",
        "user": "",
        "reason": "",
    }


def test_what_policies_have_found_out():
    line = json_of(user='a"da', cache="hit", reason="x\n")
    assert (line["user"], line["cache"], line["reason"]) == ('a"da', "hit", "x\n")


def test_what_has_no_upstream_has_no_time_of_one():
    assert json_of(answered=0.0)["upstreamMilliseconds"] is None
    line = json_of(**ALONE, reason="no route for this host and path")
    assert line["upstreamMilliseconds"] is None
    assert (line["route"], line["upstream"]) == ("", "")
    assert line["reason"] == "no route for this host and path"
    assert json_of(endpoint=None)["upstream"] == ""


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.00019, 0.1), (0.1999, 199.8), (0.2, 199.9), (3.5, 3500), (-7.0, 0)]
)
def test_times_long_and_short_and_of_clocks_put_back(seconds, written):
    line = json_of(began=NOW - seconds, asked=1.0, answered=1.0 + seconds)
    assert line["milliseconds"] == pytest.approx(written, abs=0.15)
    assert line["upstreamMilliseconds"] == pytest.approx(written, abs=0.15)


@pytest.mark.parametrize("format", FORMATS.values())
def test_what_the_proxy_answers_by_itself_is_told_in_fewer_words(format):
    told = list({**TOLD, **ALONE}.values())
    assert format.line(*told[:9]) == format.line(*told)


def test_combined():
    assert combined_of() == (
        '1.2.3.4 - - [14/Nov/2023:22:13:20 +0000] "GET /a?b HTTP/1.1" 200 4 "http://r/" "curl"'
    )
    silent = caller(client=b"", referer=b"", user_agent=b"")
    assert combined_of(caller=silent, **ALONE, status=0) == (
        '- - - [14/Nov/2023:22:13:20 +0000] "GET /a?b HTTP/1.1" 000 4 "-" "-"'
    )
    assert combined_of(user="ada l").startswith("1.2.3.4 - ada\\x20l [")
    assert combined_of(user="\ud800").startswith("1.2.3.4 - ? [")
    assert json_of(user="\ud800")["user"] == "\ud800"


def test_what_a_client_sends_cannot_forge_a_line():
    evil = b'" 200 0 "-" "-"\r\n6.6.6.6 - - [x] "GET / \x1b[31m\0\\'
    for line in (combined_of(caller=caller(user_agent=evil)), combined_of(target=evil)):
        assert "\\x22 200 0 \\x22-\\x22 \\x22-\\x22\\x0D\\x0A6.6.6.6" in line
        assert "\\x1B[31m\\x00\\x5C" in line
        assert line.isprintable() and line.isascii()
        assert line.count('"') == 6


@pytest.mark.parametrize(
    ("url", "written"),
    [
        (b"/x?access_token=abc&page=2", b"/x?access_token=***&page=2"),
        (b"/x?page=2&Password=a%20b;q=1", b"/x?page=2&Password=***"),
        (b"/x?api_key=1&apiKey=2&api-key=3", b"/x?api_key=***&apiKey=***&api-key=***"),
        (b"/x?X-Amz-Signature=1&X-Amz-Date=2", b"/x?X-Amz-Signature=***&X-Amz-Date=2"),
        (b"/x?access%5Ftoken=1&%61uth=2", b"/x?access%5Ftoken=***&%61uth=***"),
        (b"/x?client_secret=a=b&c=d#token=e", b"/x?client_secret=***&c=d#token=e"),
        (b"/x?sig=1&signal=2", b"/x?sig=***&signal=2"),
        (b"/x?code=1&Key=2&keyboard=3&postcode=4", b"/x?code=***&Key=***&keyboard=3&postcode=4"),
        (b"/x?otp=1&sid=2&side=3", b"/x?otp=***&sid=***&side=3"),
        (b"/x?a=/y?token=1&b=2", b"/x?a=/y?token=***&b=2"),
        (b"/x?token=what?&token=1?token=2", b"/x?token=***&token=***"),
        (b"/token=1/x", b"/token=1/x"),
        (b"http://ada:pw@a.example/x", b"http://***@a.example/x"),
        (b"https://ada@a.example/@x?token=1", b"https://***@a.example/@x?token=***"),
        (b"//ada:pw@a.example/", b"//***@a.example/"),
        (b"/x@y?z=a@b", b"/x@y?z=a@b"),
        (b"", b""),
    ],
)
def test_secrets_in_urls_are_not_written(url, written):
    assert without_secrets(url) == written
    assert shown_url(url) == written.decode()
    assert json_of(target=url)["target"] == written.decode()
    assert json_of(caller=caller(referer=url))["referer"] == written.decode()
    assert f'"GET {written.decode()} HTTP/1.1"' in combined_of(target=url)
    assert f'"{written.decode() or "-"}" "curl"' in combined_of(caller=caller(referer=url))


def test_no_text_makes_that_slow():
    # Quadratic, it would take minutes.
    for text in (b"?" * 65536, b"&a" * 65536, b"a@" * 65536, b"?token" * 65536, b"&token=" * 65536):
        without_secrets(text)
        json_of(target=text)


def test_what_a_caller_says_is_quoted_once_if_it_is_short():
    short, long = caller(), caller(user_agent=b"\xff" * 500)
    for _ in range(2):
        assert json_of(caller=short)["userAgent"] == "curl"
        assert json_of(caller=long)["userAgent"] == "\xff" * 500
    assert short.written and not long.written


def test_what_is_no_number_of_lines_is_a_line_as_well():
    assert json.loads(FORMATS["json"].dropped(NOW, 7)) == {"time": "2023-11-14T22:13:20.250Z", "dropped": 7}
    assert FORMATS["combined"].dropped(NOW, 7) == (
        b'- - - [14/Nov/2023:22:13:20 +0000] "- - -" 000 0 "-" "7 lines were dropped"\n'
    )


NAMES = {
    "client": "client",
    "host": "host",
    "method": "method",
    "protocol": "protocol",
    "tls": "tls",
    "user_agent": "userAgent",
}


@PROPERTY
@given(
    st.fixed_dictionaries({name: st.binary(max_size=20) for name in NAMES}),
    st.binary(max_size=3 * MAX_TEXT),
    st.binary(max_size=3 * MAX_TEXT),
    st.text(max_size=20),
    st.text(max_size=20),
    st.floats(0, 4e9),
)
def test_any_bytes_make_one_line_that_can_be_read_back(told, target, agent, reason, user, now):
    told = {**told, "user_agent": agent}
    changes = {
        "caller": caller(**told),
        "target": target,
        "reason": reason,
        "now": now,
        "user": user,
    }
    read = json_of(**changes)
    for name, written in NAMES.items():
        assert read[written].encode("latin-1") == told[name][:MAX_TEXT]
    assert read["target"].encode("latin-1") == without_secrets(target[:MAX_TEXT])
    assert (read["reason"], read["user"]) == (reason, user)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read["time"])
    line = FORMATS["json"].line(*{**TOLD, **changes}.values())
    assert line[:-1].isascii() and line[:-1].decode().isprintable()
    combined = combined_of(**changes)
    assert combined.isascii() and combined.isprintable()
    assert combined.count('"') == 6


@PROPERTY
@given(st.binary(max_size=200), st.sampled_from([b"token", b"Api-Key", b"password"]), st.binary(max_size=20))
def test_whatever_stands_around_a_secret_it_is_hidden(before, name, secret):
    kept = re.sub(rb"[&#]", b"", secret)
    marked = b"s3cr3t" + kept
    assert marked not in without_secrets(b"/" + before.replace(b"s3cr3t", b"") + b"?" + name + b"=" + marked)
    assert HIDDEN in without_secrets(b"/?" + name + b"=" + marked)
