"""`oo logs`: the access log of a proxy on this machine, as people read it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence

import attrs
import click

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.log_file import LogReader
from onebackend_proxy.cli.log_lines import (
    HEADER,
    Columns,
    Fields,
    Sieve,
    Statuses,
    colour_of,
    fields_of,
    row_of,
)
from onebackend_proxy.cli.shell import INTERRUPTED, AliasedCommand, Settings, pass_settings, warn
from onebackend_proxy.folder import ACCESS_LOG

POLL_SECONDS = 0.2
STANDARD_INPUT = pathlib.Path("-")


@click.command("logs", cls=AliasedCommand, aliases=("log",))
@click.argument("file", type=click.Path(path_type=pathlib.Path), required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=20, show_default=True, metavar="COUNT")
@click.option("--route", metavar="ID", help="Only of this route, or /SLUG for a service.")
@click.option(
    "--status",
    "statuses",
    type=Statuses(),
    multiple=True,
    metavar="STATUS",
    help="Only 404, say, or 5xx. May be repeated.",
)
@pass_settings
def logs(
    settings: Settings,
    file: pathlib.Path | None,
    follow: bool,
    lines: int,
    route: str | None,
    statuses: Sequence[re.Pattern[str]],
) -> None:
    """Show the last lines of the access log.

    FILE is where it is written, or - for what other programs print (journalctl -o cat -u onebackend-proxy).
    By default that is what OB_PROXY_ACCESS_LOG says, else where the proxy of the data folder writes it.
    """
    page = _Page(Sieve(route, statuses), settings.as_json, settings.environ.get("NO_COLOR") is None)
    path = file or _default(settings)
    try:
        if path == STANDARD_INPUT:
            page.show_input(None if follow else lines)
        else:
            page.show_file(LogReader(path), lines, follow)
    except KeyboardInterrupt:
        # The way to end it: click would say so.
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Who reads this has seen enough; and Python is not to find that out once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _default(settings: Settings) -> pathlib.Path:
    named = settings.environ.get("OB_PROXY_ACCESS_LOG")
    if named and named not in ("-", "off"):
        return pathlib.Path(named)
    link = settings.folder / ACCESS_LOG
    if not link.exists():
        raise Refusal(
            "no proxy of this data folder writes an access log to a file (--access-log FILE): name FILE,"
            " or - for standard input"
        )
    return link


@attrs.define
class _Page:
    """What has been shown, and how what follows is."""

    _sieve: Sieve
    _as_json: bool
    _in_colour: bool
    _columns: Columns = attrs.field(factory=Columns, init=False)
    _begun: bool = attrs.field(default=False, init=False)
    _understood: bool = attrs.field(default=False, init=False)
    _not_understood: bool = attrs.field(default=False, init=False)

    def show_file(self, reader: LogReader, count: int, follow: bool) -> None:
        """Show the last lines of a log, and those that come."""
        self._show(reader.last(count, lambda line: self._wanted(line) is not None))
        if not follow:
            self._complain()
        while follow:
            time.sleep(POLL_SECONDS)
            self._show(reader.new())

    def show_input(self, count: int | None) -> None:
        """Show the last lines of standard input, or all as they come."""
        source = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
        if count is None:
            for line in source:
                self._show((line,))
        else:
            self._show(deque((line for line in source if self._wanted(line) is not None), count))
        self._complain()

    def _wanted(self, line: bytes) -> Fields | None:
        told = fields_of(line.decode("utf-8", "replace"))
        if told is None:
            # The program's own log may stand between.
            self._not_understood = self._not_understood or bool(line)
            return None
        self._understood = True
        return told if self._sieve.admits(told) else None

    def _show(self, lines: Iterable[bytes]) -> None:
        told = [(line, fields) for line in lines if (fields := self._wanted(line)) is not None]
        if self._as_json:
            for line, fields in told:
                click.echo(line if line.startswith(b"{") else json.dumps(fields))
            return
        rows = [row_of(fields) for _line, fields in told]
        for row in rows:
            self._columns.widen(row)
        if rows and not self._begun:
            self._begun = True
            click.echo(self._columns.line(HEADER))
        for row, (_line, fields) in zip(rows, told, strict=True):
            click.echo(self._columns.line(row, colour_of(fields) if self._in_colour else None))

    def _complain(self) -> None:
        if self._not_understood and not self._understood:
            warn("nothing in there is a line of an access log")
