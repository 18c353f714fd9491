from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli.log_lines import Columns, fields_of, row_of
from onebackend_proxy.downstream.logformat import FORMATS

from ..downstream.test_logformat import ALONE, NOW, TOLD, caller
from ..properties import PROPERTY

JSON, COMBINED = FORMATS["json"], FORMATS["combined"]


def line(format=JSON, **changes):
    return format.line(*{**TOLD, **changes}.values())


LINES = [
    line(),
    line(target=b"/404", status=404, **ALONE, reason="no route for this host and path"),
    line(target=b"/502", status=502, answered=0.0, reason="refused \x1b[31m"),
    line(target=b"/503", status=503, **ALONE),
]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "access.log"
    path.write_bytes(b"".join(LINES))
    return path


def test_columns_for_people(oo, log):
    assert oo.ok("logs", str(log)).splitlines() == [
        "TIME                     STATUS      MS  CLIENT           REQUEST                                 "
        "  ROUTE          UPSTREAM         REASON",
        "2023-11-14 22:13:20.250     200    12.3  1.2.3.4          GET a.example/a?b                       "
        "  a.example/app  10.0.0.7:80",
        "2023-11-14 22:13:20.250     404    12.3  1.2.3.4          GET a.example/404                       "
        "  -              -                no route for this host and path",
        "2023-11-14 22:13:20.250     502    12.3  1.2.3.4          GET a.example/502                       "
        "  a.example/app  10.0.0.7:80      refused  [31m",
        "2023-11-14 22:13:20.250     503    12.3  1.2.3.4          GET a.example/503                       "
        "  -              -",
    ]


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        (["-n", "2"], ["/502", "/503"]),
        (["--status", "404"], ["/404"]),
        (["--status", "5XX", "-n", "1"], ["/503"]),
        (["--status", "5xx", "--status", "404"], ["/404", "/502", "/503"]),
        (["--route", "a.example/app"], ["/a?b", "/502"]),
        (["--route", "a.example/app", "--status", "502"], ["/502"]),
        (["--route", "a.example"], []),
        (["--status", "50x"], ["/502", "/503"]),
        (["-n", "0"], []),
    ],
)
def test_which_lines(oo, log, options, targets):
    out = oo.ok("logs", "--json", *options, str(log))
    assert [json.loads(row)["target"] for row in out.splitlines()] == targets


def test_lines_as_they_are(oo, log):
    assert oo.ok("logs", "--json", str(log)).encode() == log.read_bytes()


def test_the_combined_format(oo, log):
    log.write_bytes(line(COMBINED) + line(COMBINED, status=404, user='a"b c', target=b'/"') + b"junk\n")
    rows = oo.ok("logs", str(log)).splitlines()
    assert rows[1].split() == ["2023-11-14", "22:13:20", "200", "-", "1.2.3.4", "GET", "/a?b", "-", "-"]
    assert rows[2].split() == ["2023-11-14", "22:13:20", "404", "-", "1.2.3.4", "GET", '/"', "-", "-"]
    [told] = oo.ok("logs", "--json", "--status", "404", str(log)).splitlines()
    assert json.loads(told) == {
        "time": "2023-11-14T22:13:20Z",
        "client": "1.2.3.4",
        "user": 'a"b c',
        "method": "GET",
        "target": '/"',
        "protocol": "HTTP/1.1",
        "status": 404,
        "bytesOut": 4,
        "referer": "http://r/",
        "userAgent": "curl",
    }
    assert oo.refused("logs", "--route", "x.com", str(log)) == (
        "the combined format does not tell routes: --access-log-format json does"
    )


@pytest.mark.parametrize("format", [JSON, COMBINED])
def test_lines_that_were_dropped(oo, log, format):
    log.write_bytes(format.dropped(NOW, 7) + line(format))
    assert oo.ok("logs", str(log)).splitlines()[1].endswith("7 lines were dropped")
    assert "dropped" not in oo.ok("logs", "--status", "200", str(log))


def test_wide_cells_move_what_follows(oo, log):
    log.write_bytes(line(target=b"/" + b"x" * 45) + line(target=b"/" + b"y" * 500) + line())
    rows = oo.ok("logs", str(log)).splitlines()
    assert rows[1].index("a.example/app") == rows[3].index("a.example/app") == rows[0].index("ROUTE")
    assert len(rows[2]) > 500


def test_where_the_log_is(oo, log, monkeypatch, tmp_path):
    assert "name FILE" in oo.refused("logs")
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("OB_FOLDER", str(folder))
    (folder / "access-log").symlink_to(log)
    assert "/503" in oo.ok("logs")
    for nowhere in ("-", "off", ""):
        monkeypatch.setenv("OB_PROXY_ACCESS_LOG", nowhere)
        assert "/503" in oo.ok("logs")
    other = tmp_path / "other"
    other.write_bytes(LINES[0])
    monkeypatch.setenv("OB_PROXY_ACCESS_LOG", str(other))
    assert "/503" not in oo.ok("logs")
    other.unlink()
    assert oo.refused("logs") == f"{other}: No such file or directory"


def test_standard_input(oo, log):
    journal = "2026-11-22 [-] the program's own log\n" + log.read_text()
    assert [row.split()[6] for row in oo.ok("logs", "-", "-n", "2", input=journal).splitlines()[1:]] == [
        "a.example/502",
        "a.example/503",
    ]
    assert len(oo.ok("logs", "-", "-f", input=journal).splitlines()) == 5


def test_what_is_no_log(oo, tmp_path):
    path = tmp_path / "x"
    path.write_text('some text\n{"a": 1}\n{"time": 3}\n{broken\n[]\n')
    result = oo("logs", str(path))
    assert result.exit_code == 0 and result.stdout == ""
    assert result.stderr == "oo: nothing in there is a line of an access log\n"
    path.write_text("")
    assert oo("logs", str(path)).output == ""


@pytest.mark.parametrize("text", ["6xxx", "ok", "-1", "4"])
def test_what_is_no_status(oo, log, text):
    assert "is no status" in oo.refused("logs", "--status", text, str(log), code=2)


def test_colours_only_for_terminals(oo, log):
    assert "\x1b" not in oo.ok("logs", str(log))
    assert Columns().line(row_of({"time": "t", "status": 200}), "green").count("\x1b[") == 2


@PROPERTY
@given(st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=20))
def test_whatever_was_sent_is_shown_on_one_line(target, agent, reason):
    for format in (JSON, COMBINED):
        written = line(format, target=target, caller=caller(user_agent=agent, host=agent), reason=reason)
        told = fields_of(written.decode().rstrip("\n"))
        assert told is not None
        row = Columns().line(row_of(told))
        assert row.isprintable()


def program(*arguments: str, home: pathlib.Path) -> subprocess.Popen[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("OB_")}
    command = [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()", "logs", *arguments]
    return subprocess.Popen(
        command, env={**environ, "HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_following_over_rotation_until_interrupted(log, tmp_path):
    with program("-f", "-n", "1", "--json", str(log), home=tmp_path) as oo:
        assert oo.stdout is not None and oo.stderr is not None
        assert json.loads(oo.stdout.readline())["target"] == "/503"
        with log.open("ab") as file:
            file.write(line(target=b"/next"))
        assert json.loads(oo.stdout.readline())["target"] == "/next"
        log.rename(tmp_path / "old")
        log.write_bytes(line(target=b"/other"))
        assert json.loads(oo.stdout.readline())["target"] == "/other"
        oo.send_signal(signal.SIGINT)
        assert oo.wait(20) == 130
        assert oo.stderr.read() == "" and oo.stdout.read() == ""


def test_a_reader_that_has_seen_enough(log, tmp_path):
    with program("-f", str(log), home=tmp_path) as oo:
        assert oo.stdout is not None and oo.stderr is not None
        assert oo.stdout.readline().startswith("TIME")
        oo.stdout.close()
        end = time.monotonic() + 20
        while oo.poll() is None:
            assert time.monotonic() < end
            with log.open("ab") as file:
                file.write(line())
            time.sleep(0.05)
        assert oo.returncode == 0
        assert oo.stderr.read() == ""
