from __future__ import annotations

import errno
import io
import json
import re
import sys
import types
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.web.http_headers import Headers

from onebackend_proxy.addresses import Address
from onebackend_proxy.balancing import EndpointState, Upstream
from onebackend_proxy.downstream.accesslog import (
    FLUSH_BYTES,
    FLUSH_SECONDS,
    MAX_TEXT,
    AccessLog,
    Entry,
    combined_line,
    entry_of,
    json_line,
)
from onebackend_proxy.errors import SettingError

from ..properties import PROPERTY

ENTRY = Entry(
    time=1700000000.25,
    seconds=0.0123,
    id=b"id",
    client=b"1.2.3.4",
    host=b"a.example",
    method=b"GET",
    target=b"/a?b",
    protocol=b"HTTP/1.1",
    status=200,
    bytes_in=3,
    bytes_out=4,
    user_agent=b"curl",
    referer=b"http://r/",
    service="a-svc",
    upstream="10.0.0.7:80",
    reason="",
)
EXCHANGE = types.SimpleNamespace(
    request=types.SimpleNamespace(request_id=b"id", client_ip=b"1.2.3.4", host=b"a.example"),
    endpoint=EndpointState(Address("http", "10.0.0.7", 80)),
    upstream=Upstream("a-svc", ()),
    status=200,
    bytes_in=3,
    reason="",
)


def request(exchange=None, address=None, **more):
    """What the log looks at of a request."""
    given_headers = {b"Host": [b"a.example"], b"User-Agent": [b"curl"], b"Referer": [b"http://r/"]}
    return types.SimpleNamespace(
        **{
            "exchange": exchange,
            "requestHeaders": Headers(given_headers),
            "getClientAddress": lambda: address or IPv4Address("TCP", "9.9.9.9", 5),
            "client_ip": b"9.9.9.9",
            "method": b"GET",
            "target": b"/a?b",
            "clientproto": b"HTTP/1.1",
            "code": 200,
            "startedWriting": 1,
            "sentLength": 4,
            "buffered": 7,
            "began": 1699999999.5,
            **more,
        }
    )


def test_a_proxied_request():
    entry = entry_of(request(EXCHANGE), 1700000000.25)
    assert attrs.asdict(entry) == {**attrs.asdict(ENTRY), "seconds": 0.75}


def test_a_request_that_we_answered():
    entry = entry_of(request(code=404), 1700000000.25)
    assert (entry.status, entry.bytes_in, entry.host, entry.id) == (404, 7, b"a.example", b"")
    assert (entry.service, entry.upstream, entry.reason) == ("", "", "")


def test_the_client_of_what_we_answered_is_who_the_throttle_sees():
    assert entry_of(request(), 1700000000.25).client == b"9.9.9.9"
    assert entry_of(request(), 1700000000.25, lambda _request: "5.5.5.5").client == b"5.5.5.5"
    # What an exchange has found out stays.
    assert entry_of(request(EXCHANGE), 1700000000.25, lambda _request: "5.5.5.5").client == b"1.2.3.4"


def test_a_request_without_fields():
    entry = entry_of(request(requestHeaders=Headers()), 1700000000.25)
    assert (entry.host, entry.user_agent, entry.referer) == (b"", b"", b"")


def test_a_client_that_left_before_there_was_an_answer():
    given_up = types.SimpleNamespace(**{**vars(EXCHANGE), "endpoint": None, "status": 0, "reason": "gone"})
    entry = entry_of(request(given_up, startedWriting=0), 1700000000.25)
    assert (entry.status, entry.upstream, entry.reason) == (499, "", "gone")


def test_json():
    assert json.loads(json_line(ENTRY)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "id": "id",
        "client": "1.2.3.4",
        "host": "a.example",
        "method": "GET",
        "target": "/a?b",
        "protocol": "HTTP/1.1",
        "service": "a-svc",
        "upstream": "10.0.0.7:80",
        "status": 200,
        "bytesIn": 3,
        "bytesOut": 4,
        "milliseconds": 12.3,
        "userAgent": "curl",
        "referer": "http://r/",
    }
    assert json.loads(json_line(attrs.evolve(ENTRY, reason='refused: "x"\n')))["reason"] == 'refused: "x"\n'


def test_combined():
    assert combined_line(ENTRY) == (
        '1.2.3.4 - - [14/Nov/2023:22:13:20 +0000] "GET /a?b HTTP/1.1" 200 4 "http://r/" "curl"'
    )
    silent = attrs.evolve(ENTRY, client=b"", referer=b"", user_agent=b"")
    assert combined_line(silent) == '- - - [14/Nov/2023:22:13:20 +0000] "GET /a?b HTTP/1.1" 200 4 "-" "-"'


def test_what_a_client_sends_cannot_forge_a_line():
    evil = b'" 200 0 "-" "-"\r\n6.6.6.6 - - [x] "GET / \x1b[31m\0\\'
    for line in (
        combined_line(attrs.evolve(ENTRY, user_agent=evil)),
        combined_line(attrs.evolve(ENTRY, target=evil)),
    ):
        assert "\\x22 200 0 \\x22-\\x22 \\x22-\\x22\\x0D\\x0A6.6.6.6" in line
        assert "\\x1B[31m\\x00\\x5C" in line
        assert line.isprintable() and line.isascii()
        assert line.count('"') == 6


TEXTS = {name: st.binary(max_size=20) for name in ("id", "client", "host", "method", "target", "protocol")}


@PROPERTY
@given(
    st.builds(
        lambda told, agent, reason, time: attrs.evolve(
            ENTRY, **told, user_agent=agent, reason=reason, time=time
        ),
        st.fixed_dictionaries(TEXTS),
        st.binary(max_size=3 * MAX_TEXT),
        st.text(max_size=20),
        st.floats(0, 4e9),
    )
)
def test_any_entry_is_one_line_that_can_be_read_back(entry):
    line = json_line(entry)
    assert line.isascii() and line.isprintable()
    read = json.loads(line)
    for name in TEXTS:
        assert read[name].encode("latin-1") == getattr(entry, name)
    assert read["userAgent"].encode("latin-1") == entry.user_agent[:MAX_TEXT]
    assert read.get("reason", "") == entry.reason
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read["time"])
    combined = combined_line(entry)
    assert combined.isascii() and combined.isprintable()
    assert combined.count('"') == 6


def opened(tmp_path, format="json"):
    clock = Clock()
    clock.advance(1700000000.25)
    return clock, AccessLog(clock, str(tmp_path / "log"), format), tmp_path / "log"


def test_lines_are_written_once_a_second(tmp_path):
    clock, log, path = opened(tmp_path)
    log.write(ENTRY)
    clock.advance(FLUSH_SECONDS / 2)
    log.write(attrs.evolve(ENTRY, service=""))
    assert path.read_bytes() == b""
    clock.advance(FLUSH_SECONDS / 2)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["service"] for line in lines] == ["a-svc", ""]
    assert not clock.getDelayedCalls(), "a quiet log wakes nobody"
    log.write(attrs.evolve(ENTRY, service=""))
    assert len(clock.getDelayedCalls()) == 1
    log.close()
    assert len(path.read_text().splitlines()) == 3
    assert not clock.getDelayedCalls()


def test_many_lines_do_not_wait(tmp_path):
    clock, log, path = opened(tmp_path, "combined")
    written = 0
    while not written:
        log.write(attrs.evolve(ENTRY, target=b"/" + b"x" * 1000))
        written = path.stat().st_size
    assert FLUSH_BYTES <= written < FLUSH_BYTES + 2000
    assert not clock.getDelayedCalls()
    log.close()
    assert path.stat().st_size == written


def test_a_file_is_appended_to(tmp_path):
    (tmp_path / "log").write_text("before\n")
    _, log, path = opened(tmp_path)
    log.write(attrs.evolve(ENTRY, service=""))
    log.flush()
    log.flush()
    log.close()
    assert path.read_text().startswith("before\n{") and len(path.read_text().splitlines()) == 2


def test_standard_output_is_the_real_one_and_stays_open(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "__stdout__", out)
    log = AccessLog(Clock(), "-", "json")
    log.write(attrs.evolve(ENTRY, service=""))
    log.close()
    assert json.loads(out.buffer.getvalue())["target"] == "/a?b"
    assert not out.closed


def test_a_file_that_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(SettingError, match=r"^--access-log: cannot write "):
            AccessLog(Clock(), str(path), "json")


class _FullDisk(io.BytesIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_drops_lines_says_so_once_and_stops_nothing(tmp_path):
    clock, log, path = opened(tmp_path)
    good, log._file = log._file, _FullDisk()
    said: list[Any] = []
    observer: Any = said.append
    globalLogPublisher.addObserver(observer)
    try:
        for _ in range(3):
            log.write(attrs.evolve(ENTRY, service=""))
            log.write(attrs.evolve(ENTRY, service=""))
            clock.advance(FLUSH_SECONDS)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert log.dropped == 6
    assert ["No space left on device" in str(event["error"]) for event in said] == [True]
    log._file = good
    log.write(attrs.evolve(ENTRY, service=""))
    log.close()
    assert len(path.read_text().splitlines()) == 1, "what comes later is written again"


def test_a_line_after_the_end_is_dropped(tmp_path):
    clock, log, path = opened(tmp_path)
    log.close()
    log.write(attrs.evolve(ENTRY, service=""))
    clock.advance(FLUSH_SECONDS)
    assert log.dropped == 1
    assert path.read_bytes() == b""


def test_a_client_without_an_address():
    assert isinstance(
        entry_of(request(address=UNIXAddress(b"/x"), client_ip=b""), 1700000000.25).client, bytes
    )
