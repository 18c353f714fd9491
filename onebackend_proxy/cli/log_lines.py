"""Lines of the access log, in either format: read, sifted, and laid out for people."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import click

from onebackend_proxy.cli.client import Refusal, one_line

Fields = dict[str, Any]

_COMBINED = re.compile(
    r'(?P<client>\S*) \S+ (?P<user>\S+) \[(?P<time>[^\]]*)\] "(?P<line>[^"]*)" (?P<status>\d{3})'
    r' (?P<bytesOut>\d+|-) "(?P<referer>[^"]*)" "(?P<userAgent>[^"]*)"'
)
_ESCAPED = re.compile(r"\\x([0-9A-Fa-f]{2})")
_COMBINED_TIME = "%d/%b/%Y:%H:%M:%S %z"
_DROPPED = re.compile(r"(\d+) lines were dropped")
_STATUS = re.compile(r"[1-5x][0-9x]{2}|0")


def fields_of(line: str) -> Fields | None:
    """What a line tells, by the names that the JSON format has; None if it is no line of an access log."""
    if line.startswith("{"):
        try:
            told = json.loads(line)
        except ValueError:
            return None
        return told if isinstance(told, dict) and isinstance(told.get("time"), str) else None
    match = _COMBINED.fullmatch(line)
    return None if match is None else _of_combined(match)


def _of_combined(match: re.Match[str]) -> Fields | None:
    try:
        moment = datetime.datetime.strptime(match["time"], _COMBINED_TIME)
    except ValueError:
        return None
    time = moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    dropped = _DROPPED.fullmatch(match["userAgent"])
    if dropped and match["client"] == "-":
        return {"time": time, "dropped": int(dropped[1])}
    method, _, rest = match["line"].partition(" ")
    target, _, protocol = rest.rpartition(" ")
    texts = {"method": method, "target": target, "protocol": protocol}
    for name in ("client", "user", "referer", "userAgent"):
        texts[name] = "" if match[name] == "-" else match[name]
    sent = match["bytesOut"]
    return {
        "time": time,
        **{name: _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) for name, text in texts.items()},
        "status": int(match["status"]),
        "bytesOut": int(sent) if sent.isdigit() else 0,
    }


class Statuses(click.types.StringParamType):
    """``404``, or ``5xx`` for a class; 0 is what was answered with nothing."""

    name = "status"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A pattern for a status of three digits."""
        text = value.lower()
        if not _STATUS.fullmatch(text):
            self.fail(f"{value!r} is no status: try 404 or 5xx", param, ctx)
        return re.compile(text.zfill(3).replace("x", "[0-9]"))


@attrs.frozen
class Sieve:
    """Which lines are shown: all, or those of this Route and of any of these statuses."""

    route: str | None = None
    statuses: Sequence[re.Pattern[str]] = ()

    def admits(self, told: Fields) -> bool:
        """Whether a line that tells this is shown; raises `Refusal` where it cannot tell."""
        if self.route is None and not self.statuses:
            return True
        if "dropped" in told:
            return False
        if self.route is not None:
            if "route" not in told:
                raise Refusal("the combined format does not tell routes: --access-log-format json does")
            if told["route"] != self.route:
                return False
        status = str(told.get("status", "")).zfill(3)
        return not self.statuses or any(wanted.fullmatch(status) for wanted in self.statuses)


HEADER = ("TIME", "STATUS", "MS", "CLIENT", "REQUEST", "ROUTE", "UPSTREAM", "REASON")
# What most lines need, so that columns seldom move; and beyond which a cell pushes the others.
_WIDTHS = (23, 6, 6, 15, 40, 12, 15)
_AT_MOST = (23, 6, 8, 39, 60, 40, 40)
_RIGHT = (False, True, True)
_COLOURS = {"2": "green", "3": "cyan", "4": "yellow", "5": "red"}


class Columns:
    """Lays out one line after the other; columns get wider as wider cells come."""

    def __init__(self) -> None:
        self._widths = list(_WIDTHS)

    def widen(self, row: Sequence[str]) -> None:
        """Make room for these cells."""
        for column, most in enumerate(_AT_MOST):
            if self._widths[column] < len(row[column]) <= most:
                self._widths[column] = len(row[column])

    def line(self, row: Sequence[str], colour: str | None = None) -> str:
        """The cells in their columns, the status in a colour."""
        self.widen(row)
        cells = [
            cell.rjust(width) if column < len(_RIGHT) and _RIGHT[column] else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, self._widths, strict=False))
        ]
        if colour is not None:
            cells[1] = click.style(cells[1], fg=colour)
        return "  ".join([*cells, row[-1]]).rstrip()


def row_of(told: Mapping[str, Any]) -> list[str]:
    """What a line tells, in cells; a dash for what it does not."""
    time = one_line(str(told["time"])).replace("T", " ").removesuffix("Z")
    if "dropped" in told:
        return [time, "-", "-", "-", "-", "-", "-", f"{told['dropped']} lines were dropped"]
    host = str(told.get("host", ""))
    target = str(told.get("target", ""))
    request = f"{told.get('method', '')} {target if '://' in target else host + target}"
    took = told.get("milliseconds")
    cells = [
        str(told.get("status", "")),
        f"{took:.1f}" if isinstance(took, int | float) else "",
        str(told.get("client") or ""),
        request,
        str(told.get("route") or ""),
        str(told.get("upstream") or ""),
    ]
    shown = [time, *(one_line(cell) or "-" for cell in cells)]
    return [*shown, one_line(str(told.get("reason") or ""))]


def colour_of(told: Mapping[str, Any]) -> str:
    """The colour of a line's status."""
    status = str(told.get("status", ""))
    return "magenta" if status in ("0", "499") else _COLOURS.get(status[:1], "magenta")
