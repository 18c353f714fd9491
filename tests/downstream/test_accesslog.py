from __future__ import annotations

import json
import os
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from onebackend_proxy.downstream.accesslog import FLUSH_LINES, FLUSH_SECONDS, AccessLog, show_where
from onebackend_proxy.downstream.logfile import MAX_WAITING
from onebackend_proxy.downstream.logformat import MAX_TEXT

from .test_logfile import until
from .test_logformat import NOW, TOLD, caller


class Reactor(Clock):
    """What the log needs of a reactor."""

    def callFromThread(self, call, *arguments, **more):
        call(*arguments, **more)


class Opened:
    """A log, and its file."""

    def __init__(self, path, format="json"):
        self.path = path
        self.clock = Reactor()
        self.clock.advance(NOW)
        self.log = AccessLog(self.clock, str(path), format)

    def write(self, **changes):
        self.log.write(*{**TOLD, **changes}.values())

    @property
    def handed_over(self):
        """Bytes that the file's thread has got."""
        until(lambda: self.log._file._waiting == 0)
        return self.path.stat().st_size

    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def opened(tmp_path):
    made = Opened(tmp_path / "log")
    yield made
    made.log.close()


def test_lines_are_written_once_a_second(opened):
    opened.write(target=b"/1")
    opened.clock.advance(FLUSH_SECONDS / 2)
    opened.write(target=b"/2")
    assert opened.handed_over == 0
    opened.clock.advance(FLUSH_SECONDS / 2)
    assert opened.handed_over
    assert [line["target"] for line in opened.lines()] == ["/1", "/2"]
    assert not opened.clock.getDelayedCalls(), "a quiet log wakes nobody"
    opened.write(target=b"/3")
    assert len(opened.clock.getDelayedCalls()) == 1
    opened.log.close()
    assert len(opened.lines()) == 3
    assert not opened.clock.getDelayedCalls()


def test_many_lines_do_not_wait(opened):
    for _ in range(FLUSH_LINES - 1):
        opened.write()
    assert opened.handed_over == 0
    opened.write()
    assert opened.handed_over
    assert len(opened.lines()) == FLUSH_LINES
    assert len(opened.clock.getDelayedCalls()) == 1
    opened.clock.advance(FLUSH_SECONDS)
    assert len(opened.lines()) == FLUSH_LINES


def test_lines_that_are_very_long_do_not_drop_each_other(opened):
    for number in range(FLUSH_LINES):
        evil = b"\xff" * 2 * MAX_TEXT
        told = dict.fromkeys(("host", "user_agent", "referer"), evil)
        opened.write(target=b"/%d" % number + evil, caller=caller(**told))
    assert MAX_WAITING > opened.handed_over > MAX_WAITING // 2
    assert len(opened.lines()) == FLUSH_LINES and opened.log.dropped == 0


def test_the_combined_format(tmp_path):
    opened = Opened(tmp_path / "log", "combined")
    opened.write()
    opened.log.close()
    assert opened.path.read_text().startswith("1.2.3.4 - - [14/Nov/2023:22:13:20 +0000]")


def test_the_file_may_be_changed(opened, tmp_path):
    opened.write(target=b"/1")
    opened.path.rename(tmp_path / "log.1")
    opened.log.reopen()
    opened.write(target=b"/2")
    opened.log.close()
    assert [line["target"] for line in opened.lines()] == ["/2"]
    assert "/1" in (tmp_path / "log.1").read_text()


def test_what_goes_wrong_is_said_in_the_programs_log():
    said: list[Any] = []
    observer: Any = said.append
    globalLogPublisher.addObserver(observer)
    try:
        opened = Opened("/dev/full")
        opened.write()
        opened.log.flush()
        until(lambda: opened.log.dropped)
        opened.log.close()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [formatEvent(event) for event in said] == [
        "the access log cannot be written, lines are dropped: No space left on device"
    ]


def test_a_line_after_the_end_is_dropped(opened):
    opened.log.close()
    opened.write()
    opened.clock.advance(FLUSH_SECONDS)
    assert opened.log.dropped == 1
    assert opened.path.read_bytes() == b""


def test_a_link_shows_where_it_is(opened, tmp_path):
    link = tmp_path / "folder" / "access-log"
    # Nowhere to put it.
    show_where(link, opened.log)
    link.parent.mkdir()
    for _ in range(2):
        show_where(link, opened.log)
        assert os.readlink(link) == str(opened.path)
    show_where(link, None)
    assert not link.is_symlink()
    link.write_text("somebody's")
    show_where(link, opened.log)
    assert link.read_text() == "somebody's"
    show_where(opened.path, opened.log)
    assert not opened.path.is_symlink()
