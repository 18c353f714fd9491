"""What changes in heads, and what an error looks like: values with placeholders.

``$request_id``, ``$remote_addr`` (the client's address), ``$remote_user`` (who came in by basicAuth),
``$host`` (lower case, no port) and ``$scheme`` stand for what the request has; ``$$`` is a dollar.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable, Sequence

from ..headers import OutgoingRequest
from ..messages import Headers, field_lines
from ..records import FieldEdits

PLACEHOLDERS = ("request_id", "remote_addr", "remote_user", "host", "scheme")
ERROR_PLACEHOLDERS = (*PLACEHOLDERS, "status", "message")
"""What error pages may say besides."""
_PLACEHOLDER = re.compile(r"\$(\$|[A-Za-z_][A-Za-z0-9_]*|)")


def check_value(text: str, known: Sequence[str] = PLACEHOLDERS) -> None:
    """Raises `ValueError` that tells where in `text` a placeholder is that there is not.

    It does not repeat it, since it may be a part of a secret.
    """
    for found in _PLACEHOLDER.finditer(text):
        if found[1] != "$" and found[1] not in known:
            names = ", ".join(f"${name}" for name in known)
            at = found.start() + 1
            raise ValueError(f"has a $ at character {at} that is none of {names}, and no $$ for a dollar")


class Template:
    """A text with placeholders, taken apart; raises `ValueError` as `check_value` does."""

    def __init__(self, text: str, known: Sequence[str] = PLACEHOLDERS) -> None:
        check_value(text, known)
        # Text and names in turns.
        parts = _PLACEHOLDER.split(text)
        self._parts: list[tuple[bytes, str]] = []
        for literal, name in zip(parts[::2], [*parts[1::2], ""], strict=True):
            part = (literal + "$", "") if name == "$" else (literal, name)
            self._parts.append((part[0].encode(), part[1]))
        names = [name for _, name in self._parts if name]
        self.constant = None if names else b"".join(literal for literal, _ in self._parts)
        # Most are nothing but one placeholder.
        self._single = names[0] if text == f"${''.join(names)}" else ""

    def filled(self, values: Values | _Escaped) -> bytes:
        """The text with what its placeholders stand for."""
        if self.constant is not None:
            return self.constant
        if self._single:
            return values[self._single]
        return b"".join([literal + values[name] if name else literal for literal, name in self._parts])


class Values:
    """What placeholders stand for in one request, found when it is asked for; bytes that a field may hold."""

    __slots__ = ("_host", "_more", "_request", "_user")

    def __init__(self, request: OutgoingRequest, user: str, host: bytes = b"", **more: str) -> None:
        self._request = request
        self._user = user
        # The one that was asked for, where the request has another one by now.
        self._host = host or request.host
        self._more = more

    def __getitem__(self, name: str) -> bytes:
        request = self._request
        if name == "request_id":
            return request.request_id
        if name == "remote_addr":
            return request.client_ip
        if name == "scheme":
            return request.scheme
        if name == "remote_user":
            return _field_value(self._user)
        if name == "host":
            host, colon, port = self._host.lower().rpartition(b":")
            return host if colon and port.isdigit() else host + colon + port
        return self._more[name].encode()


class _NoValues(Values):
    """For what is the same for all requests."""

    __slots__ = ()

    def __init__(self) -> None:
        """There is no request."""


NO_VALUES = _NoValues()


class _Escaped:
    """The same, as HTML has it."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __getitem__(self, name: str) -> bytes:
        return html.escape(self._values[name].decode("utf-8", "replace")).encode()


class Edits:
    """`records.FieldEdits` made ready: fields that go, and fields that come."""

    def __init__(self, edits: FieldEdits) -> None:
        fields = [(name.encode("ascii"), Template(value)) for name, value in edits.set]
        self.host: Template | None = None
        """What a request's Host becomes; it is kept apart from the other fields."""
        for name, value in fields:
            if name.lower() == b"host":
                self.host = value
        self._set = [field for field in fields if field[0].lower() != b"host"]
        self._gone = frozenset(
            name.lower() for name in (*(name for name, _ in self._set), *(n.encode() for n in edits.remove))
        )
        self._marks = _marks_of(self._gone)
        self._constant: tuple[Headers, bytes] | None = None
        if all(value.constant is not None for _, value in self._set):
            headers = self._added(NO_VALUES)
            self._constant = headers, field_lines(headers)

    def __bool__(self) -> bool:
        return bool(self._gone or self.host)

    @property
    def constant(self) -> bool:
        """Whether what is set is the same for every request."""
        return self._constant is not None

    def without(self, headers: Headers) -> Headers:
        """The fields that stay, of a trailer section: there they cannot be set."""
        return [field for field in headers if field[0].lower() not in self._gone]

    def _added(self, values: Values) -> Headers:
        filled = [(name, value.filled(values)) for name, value in self._set]
        # An empty value sets none.
        return [field for field in filled if field[1]]

    def touches(self, names: frozenset[bytes]) -> bool:
        """Whether any field of these names (in lower case) goes, or is set."""
        return not self._gone.isdisjoint(names)

    def left(self, headers: Headers, lines: bytes) -> tuple[Headers, bytes]:
        """Fields, and the lines as they go out (of which there may be more), without those that go."""
        left = _without_marked(lines, self._marks)
        # Most often nobody has sent what is to go.
        return (headers, lines) if left is lines else (self.without(headers), left)

    def added(self, values: Values) -> tuple[Headers, bytes]:
        """The fields that come, and the same as they go out."""
        if self._constant is not None:
            return self._constant
        added = self._added(values)
        return added, field_lines(added)

    def applied(self, headers: Headers, lines: bytes, values: Values) -> tuple[Headers, bytes]:
        """Fields, and the lines as they go out (of which there may be more), as they are afterwards."""
        headers, lines = self.left(headers, lines)
        added, added_lines = self.added(values)
        return headers + added, lines + added_lines


@functools.lru_cache(256)
def _marks_of(names: frozenset[bytes]) -> tuple[bytes, ...]:
    """How lines of these names, which are in lower case, begin; a program has few such sets."""
    return tuple(b"\n%b:" % name for name in sorted(names))


def _without_marked(lines: bytes, marks: Iterable[bytes]) -> bytes:
    """Field lines without those that begin so; the very same if there are none.

    To search in lower case takes a third of what a regular expression takes that minds no case.
    """
    lower = b"\n" + lines.lower()
    for mark in marks:
        at = lower.find(mark)
        while at >= 0:
            end = lower.find(b"\n", at + 1)
            # In `lower` all stands one further.
            lines = lines[:at] + lines[end:]
            lower = lower[: at + 1] + lower[end + 1 :]
            at = lower.find(mark, at)
    return lines


def without_lines(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Field lines without those of these names, which are in lower case."""
    return _without_marked(lines, _marks_of(names))


def _field_value(text: str) -> bytes:
    # Names of users may be anything; a field holds no control character (RFC 9110, 5.5).
    return text.encode("utf-8").translate(None, _CONTROLS)


_CONTROLS = bytes((*range(0x09), *range(0x0A, 0x20), 0x7F))


class ErrorPages:
    """The pages of a Route by status: exactly, or by class."""

    def __init__(self, pages: Sequence[tuple[str, str]]) -> None:
        self._pages = {status: Template(text, ERROR_PLACEHOLDERS) for status, text in pages}

    def page(self, status: int, values: Values) -> bytes | None:
        """The page for this status, if there is one; what clients send stands in it escaped."""
        template = self._pages.get(str(status)) or self._pages.get(f"{status // 100}xx")
        return None if template is None else template.filled(_Escaped(values))
