from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time

import pytest

from onebackend_proxy.downstream import logfile
from onebackend_proxy.downstream.logfile import MAX_WAITING, LogFile
from onebackend_proxy.errors import SettingError

PATIENCE = 20.0


class Log:
    """A log in `path`, and what it says."""

    def __init__(self, path):
        self.said: list[str] = []
        self.file = LogFile(str(path), self.said.append, lambda count: b"(%d dropped)\n" % count)

    def settle(self):
        """Wait until all that was handed over has been dealt with."""
        until(lambda: self.file._waiting == 0 and self.file._todo.empty())


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.001)


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "log")
    yield made
    made.file.close()


@pytest.fixture
def disk(monkeypatch):
    """A disk with room for so many bytes more, or any number."""
    return Disk(monkeypatch)


class Disk:
    def __init__(self, monkeypatch):
        self.room = None
        self.write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, file, data):
        if self.room is None:
            return self.write(file, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(file, data[: self.room])
        self.room -= written
        return written


def test_lines_are_appended(tmp_path, log):
    log.file.put(b"1\n2\n")
    log.file.put(b"3\n")
    assert log.file.close()
    (tmp_path / "log").chmod(0o600)
    again = Log(tmp_path / "log")
    again.file.put(b"4\n")
    assert again.file.close() and again.file.close()
    assert (tmp_path / "log").read_bytes() == b"1\n2\n3\n4\n"
    assert log.said == again.said == []


def test_others_may_not_read_it(tmp_path, log):
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) & 0o007 == 0


@pytest.mark.parametrize("path", [".", "no/such"])
def test_a_file_that_cannot_be_written(tmp_path, path):
    with pytest.raises(SettingError, match=r"^--access-log: cannot write /"):
        Log(tmp_path / path)


def test_a_quiet_log_has_no_thread(log):
    before = threading.active_count()
    assert log.file._thread is None
    log.file.put(b"1\n")
    assert threading.active_count() == before + 1
    assert log.file._thread is not None and log.file._thread.daemon


def test_its_name_may_lead_to_another_file(tmp_path, log):
    path = tmp_path / "log"
    log.file.put(b"1\n")
    log.settle()
    path.rename(tmp_path / "log.1")
    log.file.put(b"2\n")
    log.file.reopen()
    log.file.put(b"3\n")
    log.file.close()
    assert (tmp_path / "log.1").read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"


def test_a_file_cut_to_nothing_is_written_from_its_beginning(tmp_path, log):
    log.file.put(b"1\n" * 1000)
    log.settle()
    os.truncate(tmp_path / "log", 0)
    log.file.put(b"2\n")
    log.file.close()
    assert (tmp_path / "log").read_bytes() == b"2\n"


def test_where_no_other_can_be_opened_it_stays(tmp_path, log):
    path = tmp_path / "log"
    path.rename(tmp_path / "log.1")
    path.mkdir()
    log.file.reopen()
    log.file.put(b"1\n")
    log.file.close()
    assert (tmp_path / "log.1").read_bytes() == b"1\n"
    [said] = log.said
    assert said == f"the access log stays what it is: cannot write {path}: Is a directory"


def test_a_full_disk_drops_lines_and_says_so_once(tmp_path, log, disk):
    disk.room = 0
    for _ in range(3):
        log.file.put(b"lost\nlost\n")
    log.settle()
    assert log.file.dropped == 6
    assert log.said == ["the access log cannot be written, lines are dropped: No space left on device"]
    disk.room = None
    log.file.put(b"kept\n")
    log.settle()
    assert (tmp_path / "log").read_bytes() == b"(6 dropped)\nkept\n"
    assert log.said[1:] == ["the access log is written again; 6 lines were dropped"]
    log.file.put(b"kept\n")
    log.settle()
    assert (tmp_path / "log").read_bytes() == b"(6 dropped)\nkept\nkept\n"
    assert log.file.dropped == 6
    disk.room = 0
    log.file.put(b"lost\n")
    log.settle()
    assert len(log.said) == 3 and log.file.dropped == 7


@pytest.mark.parametrize("room", range(13))
@pytest.mark.parametrize("more", [0, 1, 3, 6, 12, 15, 16, 20])
def test_wherever_the_disk_is_full_lines_are_whole_and_counted(tmp_path, log, disk, room, more):
    disk.room = room
    log.file.put(b"one\n2\nthree\n")
    log.settle()
    disk.room = more
    log.file.put(b"four\n5\n")
    log.settle()
    disk.room = None
    log.file.put(b"six\n")
    log.settle()
    lines = (tmp_path / "log").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("(")]
    told = sum(int(line[1:].split()[0]) for line in lines if line.startswith("("))
    wanted = ["one", "2", "three", "four", "5", "six"]
    assert kept == [line for line in wanted if line in kept], "in order, and none twice"
    assert kept[-1] == "six"
    assert len(kept) + told == len(wanted) and log.file.dropped == told


def test_what_is_left_of_a_line_is_not_for_another_file(tmp_path, log, disk):
    disk.room = 2
    log.file.put(b"one\n")
    log.settle()
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.file.reopen()
    disk.room = None
    log.file.put(b"two\n")
    log.settle()
    assert (tmp_path / "log.1").read_bytes() == b"on"
    assert (tmp_path / "log").read_bytes() == b"(1 dropped)\ntwo\n"


def test_the_devices_of_the_system():
    full = Log("/dev/full")
    full.file.put(b"1\n")
    full.settle()
    assert full.file.dropped == 1
    assert full.file.close()
    null = Log("/dev/null")
    null.file.put(b"1\n")
    null.settle()
    assert null.file.close() and null.file.dropped == 0


def test_a_pipe_that_nobody_reads_holds_up_nobody(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = Log(path)
    line = b"x" * 99 + b"\n"
    batch = line * 1000
    for _ in range(2 * MAX_WAITING // len(batch)):
        log.file.put(batch)
    assert log.file.dropped >= MAX_WAITING // len(line) // 2
    assert [said.partition(":")[0] for said in log.said] == [
        "the access log cannot be written, lines are dropped"
    ]
    with open(path, "rb", buffering=0) as reader:
        got = b""

        def read():
            nonlocal got
            got += reader.read(65536)
            return log.file._waiting == 0

        until(read)
        assert log.file.close() is True
        # Its own end was the last one that could write.
        while piece := reader.read(65536):
            got += piece
    lines = got.splitlines(keepends=True)
    # Told in one line or in several: that is the thread's turn.
    told = [int(one[1:].split()[0]) for one in lines if one != line]
    assert sum(told) == log.file.dropped
    assert lines.count(line) + log.file.dropped == 2 * MAX_WAITING // len(batch) * 1000


def test_who_reads_the_pipe_may_go_and_come(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = Log(path)
    for line in (b"1\n", b"2\n"):
        log.file.put(line)
        with open(path, "rb", buffering=0) as reader:
            assert reader.read(100) == line
    log.file.put(b"3\n")
    log.settle()
    assert log.said == [] and log.file.close()


def test_the_end_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "LAST_SECONDS", 0.1)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = Log(path)
    log.file.put(b"x\n" * 100_000)
    began = time.monotonic()
    assert log.file.close() is False
    assert time.monotonic() - began < 5
    thread = log.file._thread
    assert thread is not None
    with open(path, "rb", buffering=0) as reader:
        until(lambda: reader.read(65536) and not thread.is_alive())


def test_after_the_end_lines_are_dropped(tmp_path, log):
    log.file.close()
    log.file.put(b"1\n2\n")
    log.file.reopen()
    assert log.file.dropped == 2
    assert (tmp_path / "log").read_bytes() == b""


@pytest.fixture
def piped(monkeypatch):
    """Standard output is a pipe: its other end."""
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "w") as writer:
        monkeypatch.setattr(sys, "__stdout__", writer)
        yield reader


def test_standard_output_is_the_real_one_and_stays_open(piped):
    log = Log("-")
    assert log.file.path is None
    log.file.put(b"1\n")
    log.file.reopen()
    assert log.file.close()
    assert piped.read(100) == b"1\n"
    print("still open", file=sys.__stdout__, flush=True)
    assert piped.read(100) == b"still open\n"


def test_what_goes_into_a_pipe_is_not_mixed_with_what_others_write(piped, monkeypatch):
    pieces: list[bytes] = []
    write = os.write

    def kept(file, data):
        pieces.append(bytes(data))
        return write(file, data)

    monkeypatch.setattr(os, "write", kept)
    log = Log("-")
    long = b"y" * 5000 + b"\n"
    log.file.put(b"x" * 999 + b"\n")
    log.file.put((b"x" * 999 + b"\n") * 10 + long + b"z\n")
    log.file.close()
    assert all(piece.endswith(b"\n") and (len(piece) <= 4096 or piece == long) for piece in pieces)
    assert len(pieces) < 8 and b"".join(pieces).count(b"\n") == 13


def test_output_that_does_not_block_is_waited_for(piped):
    assert sys.__stdout__ is not None
    os.set_blocking(sys.__stdout__.fileno(), False)
    log = Log("-")
    log.file.put(b"x\n" * 100_000)
    got = b""
    while len(got) < 200_000:
        got += piped.read(65536)
    assert got == b"x\n" * 100_000
    assert log.file.close() and log.said == []


def test_output_that_is_closed_by_its_reader(piped):
    log = Log("-")
    piped.close()
    log.file.put(b"1\n")
    log.settle()
    assert log.file.dropped == 1 and log.said[0].endswith("Broken pipe")
    assert log.file.close()


def test_no_standard_output_at_all(monkeypatch):
    monkeypatch.setattr(sys, "__stdout__", None)
    with pytest.raises(SettingError, match="no standard output"):
        Log("-")
