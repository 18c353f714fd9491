"""The access log: one line for each request, whoever answered it, as JSON or in the combined format."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, BinaryIO, cast

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..errors import SettingError
from ..exchange import Exchange
from ..messages import RequestHead

if TYPE_CHECKING:
    from .request import ProxyRequest

ClientOf = Callable[["ProxyRequest"], str]

FLUSH_SECONDS = 1.0
FLUSH_BYTES = 64 * 1024
MAX_TEXT = 2048
"""Bytes of anything a client sent that are written; the rest is cut off."""

_UNPRINTABLE = re.compile(rb'[^\x20-\x7e]|["\\]')


@attrs.define
class Entry:
    """What is known of a request that was answered or given up: times in seconds, texts as sent."""

    time: float
    seconds: float
    id: bytes
    client: bytes
    host: bytes
    method: bytes
    target: bytes
    protocol: bytes
    status: int
    bytes_in: int
    bytes_out: int
    user_agent: bytes
    referer: bytes
    service: str = ""
    upstream: str = ""
    reason: str = ""


def peer_host(request: ProxyRequest) -> str:
    """The address at the other end of the connection; "" where it has none."""
    return str(getattr(request.getClientAddress(), "host", ""))


def entry_of(request: ProxyRequest, now: float, client_of: ClientOf = peer_host) -> Entry:
    """The entry of a request to twisted.web that ended `now`, in Unix seconds.

    `client_of` tells whose request it is where no exchange has found that out.
    """
    headers = request.requestHeaders
    exchange = request.exchange
    agent = headers.getRawHeaders(b"User-Agent", (b"",))[0]
    referer = headers.getRawHeaders(b"Referer", (b"",))[0]
    # 499, as nginx has it: the client left before there was an answer.
    status = request.code if request.startedWriting else 499
    line = (request.method, request.target, request.clientproto, status)
    if exchange is not None:
        return exchange_entry(exchange, now, request.began, line, request.sentLength, agent, referer)
    host = headers.getRawHeaders(b"Host", (b"",))[0]
    return Entry(
        now,
        now - request.began,
        b"",
        client_of(request).encode(),
        host,
        *line,
        request.buffered,
        request.sentLength,
        agent,
        referer,
    )


def exchange_entry(
    exchange: Exchange,
    now: float,
    began: float,
    line: tuple[bytes, bytes, bytes, int],
    sent: int,
    user_agent: bytes,
    referer: bytes,
) -> Entry:
    """The entry of a request that became an exchange; `line` is its method, target, version and status."""
    request = exchange.request
    return Entry(
        now,
        now - began,
        request.request_id,
        request.client_ip,
        request.host,
        *line,
        exchange.bytes_in,
        sent,
        user_agent,
        referer,
        exchange.upstream.name,
        exchange.endpoint.address.authority if exchange.endpoint else "",
        exchange.reason,
    )


def head_entry(
    head: RequestHead,
    exchange: Exchange | None,
    now: float,
    client: bytes,
    status: int,
    sent: int,
    reason: str = "",
) -> Entry:
    """The entry of a request that was read by ourselves; without an exchange it was answered at once."""
    agent = referer = host = b""
    for name, value in head.headers:
        # By length first: most fields are neither.
        if len(name) == 10 and name.lower() == b"user-agent":
            agent = value
        elif len(name) == 7 and name.lower() == b"referer":
            referer = value
        elif exchange is None and name.lower() == b"host":
            host = value
    line = (head.method, head.target, head.version, status)
    if exchange is None:
        return Entry(now, 0.0, b"", client, host, *line, 0, sent, agent, referer, reason=reason)
    return exchange_entry(exchange, now, exchange.started, line, exchange.bytes_out or sent, agent, referer)


@functools.lru_cache(512)
def _short_json(text: bytes) -> str:
    return encode_basestring_ascii(text.decode("latin-1"))


def _json(text: bytes) -> str:
    # The same few hosts, clients and programs come again and again. Bounded in both directions.
    if len(text) < 160:
        return _short_json(text)
    return encode_basestring_ascii(text[:MAX_TEXT].decode("latin-1"))


_service_json = functools.lru_cache(512)(encode_basestring_ascii)


def json_line(entry: Entry) -> str:
    """One JSON object; the time is RFC 3339 in UTC, a byte outside ASCII stands as ``\\u00NN``."""
    reason = f', "reason": {encode_basestring_ascii(entry.reason)}' if entry.reason else ""
    second = int(entry.time)
    # Ids and targets are new each time, and checked or made here: quoted, but not remembered.
    quoted = encode_basestring_ascii
    return (
        f'{{"time": "{_utc(second)}.{int((entry.time - second) * 1000):03d}Z",'
        f' "id": {quoted(entry.id.decode("latin-1"))},'
        f' "client": {_json(entry.client)}, "host": {_json(entry.host)}, "method": {_json(entry.method)},'
        f' "target": {quoted(entry.target[:MAX_TEXT].decode("latin-1"))},'
        f' "protocol": {_json(entry.protocol)},'
        f' "service": {_service_json(entry.service)}, "upstream": {_service_json(entry.upstream)},'
        f' "status": {entry.status}, "bytesIn": {entry.bytes_in}, "bytesOut": {entry.bytes_out},'
        f' "milliseconds": {entry.seconds * 1000:.1f}, "userAgent": {_json(entry.user_agent)},'
        f' "referer": {_json(entry.referer)}{reason}}}'
    )


@functools.lru_cache(2)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _quoted(text: bytes) -> str:
    """As nginx escapes it: what is not printable, a quote or a backslash stands as ``\\xNN``."""
    return _UNPRINTABLE.sub(lambda match: b"\\x%02X" % match[0][0], text[:MAX_TEXT]).decode("ascii")


def combined_line(entry: Entry) -> str:
    """Apache's and nginx's combined format."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(entry.time))
    line = f"{_quoted(entry.method)} {_quoted(entry.target)} {_quoted(entry.protocol)}"
    return (
        f'{_quoted(entry.client) or "-"} - - [{stamp}] "{line}" {entry.status} {entry.bytes_out}'
        f' "{_quoted(entry.referer) or "-"}" "{_quoted(entry.user_agent) or "-"}"'
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

    def write(self, entry: Entry) -> None:
        """Write a line about a request, soon."""
        line = self._line(entry)
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
            lines.append("")
            self._file.write("\n".join(lines).encode("ascii", "backslashreplace"))
            self._file.flush()
        except (OSError, ValueError) as error:
            if not self.dropped:
                self._log.error(
                    "the access log cannot be written, lines are dropped: {error}", error=str(error)
                )
            self.dropped += len(lines) - 1

    def close(self) -> None:
        """Write what is waiting, and close the file."""
        self.flush()
        if self._path != "-":
            self._file.close()
