from __future__ import annotations

import io
import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli import log_file
from onebackend_proxy.cli.log_file import LogReader, backwards

from ..properties import PROPERTY


def everything(line: bytes) -> bool:
    return True


@PROPERTY
@given(
    st.lists(st.sampled_from([b"", b"a", b"bc" * 5, b"d" * 20])),
    st.sampled_from([b"", b"torn"]),
    st.integers(1, 30),
)
def test_backwards_is_what_forwards_is(lines, torn, block):
    data = b"".join(line + b"\n" for line in lines) + torn
    before, log_file._BLOCK = log_file._BLOCK, block
    try:
        assert list(backwards(io.BytesIO(data))) == lines[::-1]
    finally:
        log_file._BLOCK = before


def test_what_has_no_lines_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "MAX_LINE", 1000)
    monkeypatch.setattr(log_file, "_BLOCK", 100)
    path = tmp_path / "log"
    path.write_bytes(b"1\n" + b"x" * 5000 + b"\n2\n")
    reader = LogReader(path)
    assert reader.last(5, everything) == [b"2"]
    with path.open("ab") as log:
        log.write(b"y" * 5000)
    assert reader.new() == [] and len(reader._held) <= 1100
    reader.close()


class Log:
    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.write(b"1\n2\n3\n")
        self.reader = LogReader(path)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "log")
    yield made
    made.reader.close()


@pytest.mark.parametrize("count", range(5))
def test_the_last_lines_and_then_what_comes(log, count):
    log.write(b"to")
    assert log.reader.last(count, everything) == [b"1", b"2", b"3"][max(3 - count, 0) :]
    assert log.reader.new() == []
    log.write(b"rn\n4\n5")
    assert log.reader.new() == [b"torn", b"4"]
    log.write(b"\n")
    assert log.reader.new() == [b"5"]
    assert log.reader.new() == []


def test_only_those_that_are_wanted_count(log):
    log.write(b"22\n4\n")
    assert log.reader.last(2, lambda line: line[:1] == b"2") == [b"2", b"22"]


def test_a_log_without_a_whole_line(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"tor")
    reader = LogReader(path)
    assert reader.last(3, everything) == []
    with path.open("ab") as file:
        file.write(b"n\n")
    assert reader.new() == [b"torn"]
    reader.close()


def test_rotation_by_another_name(log, tmp_path):
    log.reader.last(0, everything)
    log.path.rename(tmp_path / "log.1")
    assert log.reader.new() == []
    # As logrotate's `create` has it: the proxy has not been told yet.
    log.path.touch()
    assert log.reader.new() == []
    with (tmp_path / "log.1").open("ab") as old:
        old.write(b"4\n")
        old.flush()
        assert log.reader.new() == [b"4"]
        old.write(b"5\n")
    log.write(b"6\n")
    assert log.reader.new() == [b"5"]
    assert log.reader.new() == [b"6"]
    log.write(b"7\n")
    assert log.reader.new() == [b"7"]


def test_what_comes_while_it_is_looked_for_another_file(log, tmp_path, monkeypatch):
    log.reader.last(0, everything)
    log.path.rename(tmp_path / "log.1")
    stat = os.stat

    def late(path):
        (tmp_path / "log.1").write_bytes(b"1\n2\n3\n4\n")
        log.write(b"5\n")
        monkeypatch.undo()
        return stat(path)

    log.write(b"")
    monkeypatch.setattr(os, "stat", late)
    assert log.reader.new() == [b"4", b"5"]


def test_a_line_that_was_never_ended_does_not_run_into_another_file(log, tmp_path):
    log.reader.last(0, everything)
    log.write(b"half")
    assert log.reader.new() == []
    log.path.rename(tmp_path / "log.1")
    log.write(b"whole\n")
    assert log.reader.new() == [b"whole"]


def test_rotation_by_copying(log):
    log.reader.last(0, everything)
    log.write(b"half")
    assert log.reader.new() == []
    os.truncate(log.path, 0)
    assert log.reader.new() == []
    log.write(b"4\n")
    assert log.reader.new() == [b"4"]
    os.truncate(log.path, 0)
    log.write(b"\n")
    assert log.reader.new() == [b""]
