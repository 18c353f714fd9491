"""What a TLS client says first: the name it wants to reach, and the protocols it can speak there."""

from __future__ import annotations

import struct
from typing import NoReturn

import attrs

from ..addresses import canonical_host

MAX_HELLO = 16 * 1024
"""Bytes of a ClientHello, record headers included; with the longest keys of today it has two thousand."""
MAX_RECORDS = 16
"""Records that it may come in; one is usual."""

# Alerts (RFC 8446, 6; RFC 6066, 3; RFC 7301, 3.2).
UNEXPECTED_MESSAGE = 10
DECODE_ERROR = 50
INTERNAL_ERROR = 80
UNRECOGNIZED_NAME = 112
NO_APPLICATION_PROTOCOL = 120

ACME_TLS_1 = b"acme-tls/1"
"""What an authority speaks that looks for a proof, and nobody else (RFC 8737, 4)."""

_CLIENT_HELLO = b"\x01"
_SERVER_NAME, _ALPN = 0, 16


class BadHello(Exception):
    """What came is no ClientHello, or one that is not served; `alert` is the one that answers it."""

    def __init__(self, alert: int, reason: str) -> None:
        super().__init__(reason)
        self.alert = alert


@attrs.frozen
class ClientHello:
    """`server_name` is canonical, "" if there is none; `protocols` are ALPN's, the client's best first."""

    server_name: str
    protocols: tuple[bytes, ...]

    @property
    def wants_proof(self) -> bool:
        """Whether an authority asks for a proof that the name is ours: it offers that alone (RFC 8737, 3)."""
        return self.protocols == (ACME_TLS_1,)


def alert_bytes(alert: int) -> bytes:
    """A fatal alert, as a record of its own (RFC 8446, 5.1 and 6)."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes((alert,))


def read_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello that `data` begins with; None while it is not complete.

    Raises `BadHello` as soon as it cannot become one (RFC 8446, 4.1.2 and 5.1).
    """
    message = _handshake_message(data)
    if message is None:
        return None
    try:
        return _fields_of(message)
    except (struct.error, IndexError):
        _refuse(DECODE_ERROR, "a ClientHello that breaks its own lengths")


def _refuse(alert: int, reason: str) -> NoReturn:
    raise BadHello(alert, reason)


def _handshake_message(data: bytes) -> bytes | None:
    """The body of the first handshake message; it may come in several records."""
    whole = b""
    position = 0
    for _record in range(MAX_RECORDS):
        if not b"\x16\x03".startswith(data[position : position + 2]):
            _refuse(UNEXPECTED_MESSAGE, "not TLS")
        if len(data) < position + 5:
            break
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < length <= MAX_HELLO:
            _refuse(DECODE_ERROR, "a TLS record of an impossible length")
        position += 5
        whole += data[position : position + length]
        if not _CLIENT_HELLO.startswith(whole[:1]):
            _refuse(UNEXPECTED_MESSAGE, "a handshake that does not begin with a ClientHello")
        if len(whole) >= 4:
            size = int.from_bytes(whole[1:4], "big")
            if len(whole) >= 4 + size:
                return whole[4 : 4 + size]
            if size > MAX_HELLO:
                _refuse(DECODE_ERROR, f"a ClientHello of over {MAX_HELLO} bytes")
        position += length
        if position >= len(data):
            break
    else:
        _refuse(DECODE_ERROR, f"a ClientHello in over {MAX_RECORDS} records")
    if len(data) >= MAX_HELLO:
        _refuse(DECODE_ERROR, f"a ClientHello of over {MAX_HELLO} bytes")
    return None


def _fields_of(message: bytes) -> ClientHello:
    # The version and the random bytes, then what has a length before it.
    position = 34
    position += 1 + message[position]
    position += 2 + int.from_bytes(message[position : position + 2], "big")
    position += 1 + message[position]
    if position == len(message):
        return ClientHello("", ())
    [length] = struct.unpack_from("!H", message, position)
    position += 2
    end = position + length
    if end != len(message):
        _refuse(DECODE_ERROR, "a ClientHello that breaks its own lengths")
    server_name = ""
    protocols: tuple[bytes, ...] = ()
    while position < end:
        kind, length = struct.unpack_from("!HH", message, position)
        position += 4
        if position + length > end:
            _refuse(DECODE_ERROR, "a ClientHello that breaks its own lengths")
        if kind == _SERVER_NAME:
            server_name = _server_name(message[position : position + length])
        elif kind == _ALPN:
            protocols = _protocols(message[position : position + length])
        position += length
    return ClientHello(server_name, protocols)


def _server_name(extension: bytes) -> str:
    """The host name of a server_name extension (RFC 6066, 3): there is one at most."""
    if int.from_bytes(extension[:2], "big") != len(extension) - 2 or extension[2] != 0:
        _refuse(DECODE_ERROR, "a server_name that breaks its own lengths")
    name = extension[5:]
    if int.from_bytes(extension[3:5], "big") != len(name) or not name:
        _refuse(DECODE_ERROR, "a server_name that breaks its own lengths")
    try:
        return canonical_host(name.decode("ascii"))
    except ValueError:
        _refuse(UNRECOGNIZED_NAME, "a server_name that is no host name")


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    """The names in an application_layer_protocol_negotiation extension (RFC 7301, 3.1)."""
    if int.from_bytes(extension[:2], "big") != len(extension) - 2:
        _refuse(DECODE_ERROR, "an ALPN extension that breaks its own lengths")
    names = []
    position = 2
    while position < len(extension):
        length = extension[position]
        name = extension[position + 1 : position + 1 + length]
        if not length or len(name) != length:
            _refuse(DECODE_ERROR, "an ALPN extension that breaks its own lengths")
        names.append(name)
        position += 1 + length
    return tuple(names)
