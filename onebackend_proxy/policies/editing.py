"""What changes in heads, and what an error looks like: values with placeholders.

``$request_id``, ``$remote_addr`` (the client's address), ``$remote_user`` (who came in by basicAuth),
``$host`` (lower case, no port) and ``$scheme`` stand for what the request has; ``$$`` is a dollar.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from ..headers import OutgoingRequest
from ..messages import Headers, field_lines
from ..records import FieldEdits

PLACEHOLDERS = ("request_id", "remote_addr", "remote_user", "host", "scheme")
ERROR_PLACEHOLDERS = (*PLACEHOLDERS, "status", "message")
"""What error pages may say besides."""
_PLACEHOLDER = re.compile(r"\$(\$|[A-Za-z_][A-Za-z0-9_]*|)")


def check_value(text: str, known: Sequence[str] = PLACEHOLDERS) -> None:
    """Raises `ValueError` that names a placeholder in `text` that there is not."""
    for found in _PLACEHOLDER.finditer(text):
        if found[1] != "$" and found[1] not in known:
            names = ", ".join(f"${name}" for name in known)
            raise ValueError(f"has {found[0]!r}, which is none of {names}, and $$ for a dollar")


class Template:
    """A text with placeholders, taken apart; raises `ValueError` as `check_value` does."""

    def __init__(self, text: str, known: Sequence[str] = PLACEHOLDERS) -> None:
        check_value(text, known)
        # Text and names in turns.
        parts = _PLACEHOLDER.split(text)
        self._parts: list[tuple[str, str]] = []
        for literal, name in zip(parts[::2], [*parts[1::2], ""], strict=True):
            self._parts.append((literal + "$", "") if name == "$" else (literal, name))
        self.names = frozenset(name for _, name in self._parts if name)
        self.constant = None if self.names else "".join(literal for literal, _ in self._parts)

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with what its placeholders stand for."""
        if self.constant is not None:
            return self.constant
        return "".join(literal + values.get(name, "") for literal, name in self._parts)


def values_of(request: OutgoingRequest, user: str) -> dict[str, str]:
    """What the placeholders stand for in this request."""
    host, colon, port = request.host.decode("latin-1").lower().rpartition(":")
    return {
        "request_id": request.request_id.decode("latin-1"),
        "remote_addr": request.client_ip.decode("latin-1"),
        "remote_user": user,
        "host": host if colon and port.isdigit() else request.host.decode("latin-1").lower(),
        "scheme": request.scheme.decode("ascii"),
    }


class Edits:
    """`records.FieldEdits` made ready: fields that go, and fields that come."""

    def __init__(self, edits: FieldEdits) -> None:
        self._set = [(name.encode("ascii"), Template(value)) for name, value in edits.set]
        self.host: Template | None = None
        """What a request's Host becomes; it is kept apart from the other fields."""
        for name, value in self._set:
            if name.lower() == b"host":
                self.host = value
        self._set = [field for field in self._set if field[0].lower() != b"host"]
        self._gone = frozenset(
            name.lower() for name in (*(name for name, _ in self._set), *(n.encode() for n in edits.remove))
        )
        values = [value for _, value in self._set] + ([self.host] if self.host is not None else [])
        self.constant = all(value.constant is not None for value in values)
        """Whether what is set is the same for every request."""

    def __bool__(self) -> bool:
        return bool(self._gone or self.host)

    def added(self, values: Mapping[str, str]) -> Headers:
        """The fields that come; an empty value sets none."""
        filled = [(name, _field_value(value.filled(values))) for name, value in self._set]
        return [field for field in filled if field[1]]

    def without(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """The fields that stay."""
        gone = self._gone
        return [field for field in headers if field[0].lower() not in gone]

    def applied(self, headers: Headers, values: Mapping[str, str]) -> Headers:
        """The fields as they are afterwards."""
        return self.without(headers) + self.added(values)

    def lines(self, lines: bytes, values: Mapping[str, str]) -> bytes:
        """As `applied`, for field lines as they go out."""
        return without_lines(lines, self._gone) + field_lines(self.added(values))


def without_lines(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Field lines without those of these names, which are in lower case."""
    kept = [row for row in lines.split(b"\r\n") if row and row[: row.find(b":")].lower() not in names]
    return b"\r\n".join((*kept, b"")) if kept else b""


def _field_value(text: str) -> bytes:
    # Names of users may be anything; a field holds no control character (RFC 9110, 5.5).
    return text.encode("latin-1" if text.isascii() else "utf-8").translate(None, _CONTROLS)


_CONTROLS = bytes((*range(0x09), *range(0x0A, 0x20), 0x7F))


class ErrorPages:
    """The pages of a Route by status: exactly, or by class."""

    def __init__(self, pages: Sequence[tuple[str, str]]) -> None:
        self._pages = {status: Template(text, ERROR_PLACEHOLDERS) for status, text in pages}

    def page(self, status: int, values: Mapping[str, str], message: str) -> bytes | None:
        """The page for this status, if there is one; what clients send stands in it escaped."""
        template = self._pages.get(str(status)) or self._pages.get(f"{status // 100}xx")
        if template is None:
            return None
        all_values = {**values, "status": str(status), "message": message}
        return template.filled({name: html.escape(value) for name, value in all_values.items()}).encode()
