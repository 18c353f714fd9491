"""The access log: one line for each request, whoever answered it, as JSON or in the combined format."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..errors import SettingError
from .site import ProxyRequest

FLUSH_SECONDS = 1.0
FLUSH_BYTES = 64 * 1024
MAX_TARGET = 2048
"""Characters of a target, a host or a field that are written; the rest is cut off."""

Entry = dict[str, Any]


def _text(value: bytes | None) -> str:
    """What a client sent, as printable text: anything else stands as ``\\xNN``."""
    return ascii(value[:MAX_TARGET])[2:-1] if value else ""


def entry_of(request: ProxyRequest, now: float) -> Entry:
    """What is known of a request that was answered or given up, times in Unix seconds."""
    exchange = request.exchange
    headers = request.requestHeaders
    entry: Entry = {
        "time": now,
        "id": _text(exchange.request.request_id) if exchange else "",
        "client": (
            _text(exchange.request.client_ip) if exchange else getattr(request.getClientAddress(), "host", "")
        ),
        "host": _text((headers.getRawHeaders(b"Host") or [b""])[0]),
        "method": _text(request.method),
        "target": _text(request.uri),
        "protocol": _text(request.clientproto),
        "status": (exchange.status if exchange else 0) or request.code if request.startedWriting else 499,
        "bytesIn": exchange.bytes_in if exchange else request.buffered,
        "bytesOut": request.sentLength,
        "milliseconds": round((now - request.began) * 1000, 1),
        "userAgent": _text((headers.getRawHeaders(b"User-Agent") or [b""])[0]),
        "referer": _text((headers.getRawHeaders(b"Referer") or [b""])[0]),
    }
    if exchange is not None:
        entry["service"] = exchange.upstream.name
        entry["upstream"] = exchange.endpoint.address.authority if exchange.endpoint else ""
        if exchange.reason:
            entry["reason"] = exchange.reason
    return entry


def json_line(entry: Entry) -> str:
    """One JSON object; the time is RFC 3339 in UTC."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(entry["time"]))
    return json.dumps({**entry, "time": f"{stamp}.{int(entry['time'] * 1000) % 1000:03d}Z"})


def combined_line(entry: Entry) -> str:
    """Apache's and nginx's combined format."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(entry["time"]))
    quoted = {key: str(entry[key]).replace('"', "\\x22") for key in ("method", "target", "protocol")}
    referer = str(entry["referer"] or "-").replace('"', "\\x22")
    agent = str(entry["userAgent"] or "-").replace('"', "\\x22")
    return (
        f'{entry["client"] or "-"} - - [{stamp}] "{quoted["method"]} {quoted["target"]} {quoted["protocol"]}"'
        f' {entry["status"]} {entry["bytesOut"]} "{referer}" "{agent}"'
    )


FORMATS: dict[str, Callable[[Entry], str]] = {"json": json_line, "combined": combined_line}


class AccessLog:
    """Collects lines and writes them once a second, or when 64 KiB are waiting.

    `path` is a file, appended to, or ``-`` for standard output. What cannot be written is dropped and
    counted in `dropped`: a full disk must not stop the proxy.
    """

    def __init__(self, clock: IReactorTime, path: str, format: str) -> None:
        self._clock = clock
        self._line = FORMATS[format]
        self._path = path
        self._lines: list[str] = []
        self._size = 0
        self._later: IDelayedCall | None = None
        self._log = Logger()
        self.dropped = 0
        self._file = self._open()

    def _open(self) -> BinaryIO:
        if self._path == "-":
            # twistd redirects sys.stdout into its own log.
            assert sys.__stdout__ is not None
            return cast(BinaryIO, sys.__stdout__.buffer)
        try:
            return open(self._path, "ab", buffering=0)
        except OSError as error:
            raise SettingError(f"--access-log: cannot write {self._path}: {error.strerror}") from None

    def request_ended(self, request: ProxyRequest) -> None:
        """Write a line about this request, soon."""
        line = self._line(entry_of(request, self._clock.seconds()))
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size >= FLUSH_BYTES:
            self.flush()
        elif self._later is None:
            self._later = self._clock.callLater(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is waiting."""
        if self._later is not None:
            if self._later.active():
                self._later.cancel()
            self._later = None
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return
        try:
            self._file.write("".join(f"{line}\n" for line in lines).encode("ascii", "backslashreplace"))
            self._file.flush()
        except (OSError, ValueError) as error:
            if not self.dropped:
                self._log.error(
                    "the access log cannot be written, lines are dropped: {error}", error=str(error)
                )
            self.dropped += len(lines)

    def close(self) -> None:
        """Write what is waiting, and close the file."""
        self.flush()
        if self._path != "-":
            self._file.close()
