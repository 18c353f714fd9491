"""What goes wrong with an ACME directory: it refuses, in its own words, or it cannot be used at all."""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Mapping
from typing import Any

from ...errors import ProxyError

MAX_WORDS = 2000
"""Characters of the one line that a problem is told in."""
MAX_RETRY_AFTER = 31 * 24 * 60 * 60.0
_MAX_SHORT = 300
_MAX_SUBPROBLEMS = 100
_URN = re.compile(r"urn:(?:ietf:params:)?acme:error:", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")

Subproblem = tuple[str, str, str]


class AcmeError(ProxyError):
    """An order, or what is done for one, failed; `retry_after` is in seconds from now, None if not told."""

    status = 502

    def __init__(self, message: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, detail=detail)
        self.retry_after = retry_after


class Unreachable(AcmeError):
    """No connection, no answer in time, or an answer that is not ACME's; `why` names the host."""

    def __init__(self, why: str, *, retry_after: float | None = None) -> None:
        super().__init__(
            "the ACME directory cannot be used", detail=printable(why, MAX_WORDS), retry_after=retry_after
        )


class Problem(AcmeError):
    """The directory refuses, in a problem document (RFC 7807 and RFC 8555, 6.7).

    `type` is the end of ACME's own URNs (``rateLimited``), another URI as it is, and "" if there is none.
    `subproblems` has the identifier, type and detail of each. All texts are printable and bounded.
    """

    def __init__(
        self,
        type: str,
        detail: str = "",
        status_code: int = 0,
        subproblems: tuple[Subproblem, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        self.type = type
        self.status_code = status_code
        self.subproblems = subproblems
        words = "; ".join([_words(type, detail), *map(_subproblem_words, subproblems)])
        super().__init__(printable(words, MAX_WORDS), detail=detail, retry_after=retry_after)

    def __str__(self) -> str:
        return self.message


def _words(type: str, detail: str) -> str:
    return ": ".join(filter(None, (type, detail))) or "refused without a reason"


def _subproblem_words(subproblem: Subproblem) -> str:
    name, type, detail = subproblem
    return ": ".join(filter(None, (name, type, detail)))


def printable(text: str, most: int) -> str:
    """At most this many characters of `text`, in one line and fit for a terminal."""
    line = " ".join(text[: 2 * most].split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def read_problem(
    document: Mapping[str, Any], status_code: int = 0, retry_after: float | None = None
) -> Problem:
    """The problem in a parsed document, whatever is in it; `status_code` is used where it names none."""
    told = document.get("status")
    if isinstance(told, int) and 100 <= told <= 599:
        status_code = told
    parts = document.get("subproblems")
    subproblems = [_subproblem(part) for part in parts[:_MAX_SUBPROBLEMS]] if isinstance(parts, list) else []
    return Problem(
        _type(document),
        _text(document.get("detail") or document.get("title"), MAX_WORDS),
        status_code,
        tuple(filter(any, subproblems)),
        retry_after,
    )


def _subproblem(part: object) -> Subproblem:
    if not isinstance(part, dict):
        return "", "", _text(part, _MAX_SHORT)
    identifier = part.get("identifier")
    name = identifier.get("value") if isinstance(identifier, dict) else identifier
    return _text(name, _MAX_SHORT), _type(part), _text(part.get("detail"), MAX_WORDS)


def _type(document: Mapping[str, Any]) -> str:
    text = _text(document.get("type"), _MAX_SHORT)
    return "" if text == "about:blank" else _URN.sub("", text, count=1)


def _text(value: object, most: int) -> str:
    """Words that are meant for people, also where they are not the text that they should be."""
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else json.dumps(value), most)


def read_retry_after(value: str, date: str, now: datetime.datetime) -> float | None:
    """Seconds until ``Retry-After``: a number of them, or a date (RFC 9110, 10.2.3); None if it is neither.

    A date is compared with the answer's own ``Date`` where there is one: clocks differ. What is past is 0,
    and nobody is told to wait for longer than `MAX_RETRY_AFTER`.
    """
    value = value.strip()
    if _DIGITS.fullmatch(value):
        return min(float(value[:20]), MAX_RETRY_AFTER)
    moment = _http_date(value)
    if moment is None:
        return None
    seconds = (moment - (_http_date(date) or now)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _http_date(text: str) -> datetime.datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.astimezone(datetime.UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
