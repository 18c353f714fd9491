"""Two independent readings of HTTP/1.1 bytes, by h11 and by httptools, one message at a time.

Where the two disagree about bytes that we sent, a request or an answer can be smuggled past one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
import h11
import httptools

from onebackend_proxy.messages import Headers

MAX_READ = 1 << 24


class Unreadable(Exception):
    """One of the two cannot read it."""


@attrs.frozen
class Message:
    """A request, ``(method, target, version)``, or an answer, ``(status, version)``, as far as it came."""

    start: tuple[bytes, ...]
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    complete: bool = False
    switches: bool = attrs.field(default=False, eq=False)
    """Whether the reader takes what follows for another protocol's; h11 leaves that to the answer."""

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start[0])

    def all(self, name: bytes) -> list[bytes]:
        """The values of a field; its name in lower case."""
        return [value for key, value in self.fields if key == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """The members of a list field, in lower case."""
        return [token.strip().lower() for token in b",".join(self.all(name)).split(b",")]


Reader = Callable[[bytes], tuple["Message | None", bytes]]
"""Reads one message: it (None while its head has not come whole), and the bytes behind it."""


def _lower(fields: Headers) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in fields)


def _h11_message(connection: h11.Connection, data: bytes) -> tuple[Message | None, bytes]:
    message: Message | None = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Unreadable(f"h11: {error}") from None
        if isinstance(event, h11.Request):
            message = Message((event.method, event.target, event.http_version), _lower(list(event.headers)))
        elif isinstance(event, h11.InformationalResponse | h11.Response):
            start = (b"%d" % event.status_code, event.http_version)
            message = Message(start, _lower(list(event.headers)))
            if isinstance(event, h11.InformationalResponse):
                message = attrs.evolve(message, complete=True, switches=event.status_code == 101)
                return message, connection.trailing_data[0]
        elif isinstance(event, h11.Data):
            assert message is not None
            message = attrs.evolve(message, body=message.body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert message is not None
            trailers = _lower(list(event.headers))
            return attrs.evolve(message, trailers=trailers, complete=True), connection.trailing_data[0]
        else:
            return message, b"" if message is not None else data


def h11_request(data: bytes) -> tuple[Message | None, bytes]:
    """A request as h11's server reads it; raises `Unreadable`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_READ)
    if data:
        connection.receive_data(data)
    return _h11_message(connection, data)


def h11_answer(method: bytes, closed: bool) -> Reader:
    """Reads an answer to this method as h11's client does; `closed` says that nothing more comes.

    It has asked to switch protocols, so that it can read a 101: whether one was due is for the test to see.
    """

    def read(data: bytes) -> tuple[Message | None, bytes]:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_READ)
        asked = [(b"Host", b"a"), (b"Connection", b"Upgrade"), (b"Upgrade", b"x")]
        connection.send(h11.Request(method=method, target=b"/", headers=asked))
        connection.send(h11.EndOfMessage())
        if data:
            connection.receive_data(data)
        if closed:
            connection.receive_data(b"")
        return _h11_message(connection, data)

    return read


class _Events:
    """What httptools calls."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: Headers = []
        self.trailers: Headers = []
        self.body = b""
        self.head_done = self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        (self.trailers if self.head_done else self.fields).append((name, value))

    def on_headers_complete(self) -> None:
        self.head_done = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def _fed(parser: Any, events: _Events, data: bytes, head_only: bool) -> tuple[int, bool]:
    """Feed one message: the offset behind it, and whether the parser then speaks another protocol.

    By lines while it is a head, then by bytes: so the end of the message is seen where it is.
    """
    position = 0
    try:
        while position < len(data) and not events.complete and not (head_only and events.head_done):
            end = position + 1 if events.head_done else data.find(b"\n", position) + 1 or len(data)
            piece, position = data[position:end], end
            parser.feed_data(piece)
    except httptools.HttpParserUpgrade:
        return position, True
    except httptools.HttpParserError as error:
        # In the same piece as the end of the message it would be a complaint about the next one.
        if not events.complete:
            raise Unreadable(f"httptools: {error}") from None
    return position, False


def httptools_request(data: bytes) -> tuple[Message | None, bytes]:
    """A request as httptools reads it with default flags; raises `Unreadable`."""
    events = _Events()
    parser = httptools.HttpRequestParser(events)
    position, switches = _fed(parser, events, data, False)
    if not events.head_done:
        return None, data
    start = (parser.get_method(), events.target, parser.get_http_version().encode())
    message = Message(start, _lower(events.fields), events.body, _lower(events.trailers))
    return attrs.evolve(message, complete=events.complete or switches, switches=switches), data[position:]


def httptools_answer(method: bytes, closed: bool) -> Reader:
    """Reads an answer as httptools does; that one to HEAD has no body is for its user to know."""

    def read(data: bytes) -> tuple[Message | None, bytes]:
        events = _Events()
        parser = httptools.HttpResponseParser(events)
        position, switches = _fed(parser, events, data, method == b"HEAD")
        if not events.head_done:
            return None, data
        start = (b"%d" % parser.get_status_code(), parser.get_http_version().encode())
        message = Message(start, _lower(events.fields), events.body, _lower(events.trailers))
        framed = {b"content-length", b"transfer-encoding"} & {name for name, _value in message.fields}
        complete = events.complete or switches or method == b"HEAD" or (closed and not framed)
        return attrs.evolve(message, complete=complete, switches=switches), data[position:]

    return read


def all_read(data: bytes, reader: Reader) -> tuple[list[Message], bytes]:
    """All messages (the last may be incomplete), and what is behind them: half a head, another protocol."""
    messages: list[Message] = []
    while data:
        message, data = reader(data)
        if message is None:
            break
        messages.append(message)
        if not message.complete or message.switches:
            break
    return messages, data


def answers_read(
    data: bytes, methods: list[bytes], closed: bool, make: Callable[[bytes, bool], Reader]
) -> tuple[list[Message], bytes]:
    """As `all_read`, of the answers to requests with these methods (GET where none is given)."""
    messages: list[Message] = []
    waiting = list(methods)
    while data:
        message, data = make(waiting[0] if waiting else b"GET", closed)(data)
        if message is None:
            break
        messages.append(message)
        if message.status >= 200 and waiting:
            del waiting[0]
        if not message.complete or message.switches:
            break
    return messages, data


def despite_trailers(reader: Reader, data: bytes) -> tuple[Message | None, bytes]:
    """A message as h11 reads it, but for framing fields in its trailers, which the proxy drops unread."""
    try:
        return reader(data)
    except Unreadable as error:
        if "Transfer-Encoding" not in str(error) and "Content-Length" not in str(error):
            raise
        head, end, rest = data.partition(b"\r\n\r\n")
        # Of the same length, so that what is left over can be told.
        renamed = re.sub(rb"(?i)\n(?:c(?=ontent-length:)|t(?=ransfer-encoding:))", b"\nx", rest)
        message, left = reader(head + end + renamed)
        return message, data[len(data) - len(left) :]
