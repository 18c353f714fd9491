"""The PROXY protocol, versions 1 and 2: who the client is, by the word of a proxy that relays bytes.

What it says stands before anything else on a connection. The specification is HAProxy's, proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress
import re

import attrs

MAX_V1 = 107
"""Bytes of a header of version 1, its line end included (2.1)."""
MAX_HEADER = 4096
"""Bytes of one of version 2, which may be 64 KiB of whatever its sender adds (2.2)."""

_LINE = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)
_KNOWN = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})")
_PORT = re.compile(rb"0|[1-9][0-9]*")
_LOCAL, _PROXIED = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM = 1
# Bytes of the addresses by their family (2.2).
_ADDRESSES = {_INET: 12, _INET6: 36, _UNIX: 216}
_CRC32C = 3


class BrokenHeader(ValueError):
    """It began as a header, and is none: nothing on this connection can be believed."""


@attrs.frozen
class ProxyHeader:
    """What stands first on a connection: `size` bytes, none if there is no header.

    `client` is the address and port that it names; None where it names none, and who connected is the client.
    """

    size: int
    client: tuple[str, int] | None = None


NO_HEADER = ProxyHeader(0)


def read_header(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with, `NO_HEADER` if it begins with something else.

    None while that cannot be told. Raises `BrokenHeader` as soon as it cannot become one.
    """
    if data.startswith(_LINE):
        return _read_line(data)
    if data.startswith(_SIGNATURE):
        return _read_block(data)
    return None if _LINE.startswith(data) or _SIGNATURE.startswith(data) else NO_HEADER


def _read_line(data: bytes) -> ProxyHeader | None:
    """Version 1: a line of text."""
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise BrokenHeader(f"a line of over {MAX_V1} bytes")
        return None
    line = data[:end]
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader(end + 2)
    match = _KNOWN.fullmatch(line)
    if match is None:
        raise BrokenHeader("a line that is not PROXY, a protocol, two addresses and two ports")
    client, _server = (_address(match[1], match[each]) for each in (2, 3))
    port, _server_port = (_port(match[each]) for each in (4, 5))
    return ProxyHeader(end + 2, (client, port))


def _address(version: bytes, text: bytes) -> str:
    try:
        if version == b"4":
            return str(ipaddress.IPv4Address(text.decode("ascii")))
        return _of_ipv6(ipaddress.IPv6Address(text.decode("ascii")))
    except ValueError:
        raise BrokenHeader("an address that is none") from None


def _of_ipv6(address: ipaddress.IPv6Address) -> str:
    # How those are written that hold IPv4 depends on the Python.
    return str(address.ipv4_mapped or address)


def _port(text: bytes) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise BrokenHeader("a port that is none")
    return int(text)


def _read_block(data: bytes) -> ProxyHeader | None:
    """Version 2: 16 bytes, and as many more as these say."""
    if len(data) > 12 and (data[12] >> 4 != 2 or data[12] & 15 not in (_LOCAL, _PROXIED)):
        raise BrokenHeader("another version, or another command")
    if len(data) < _FIXED:
        return None
    size = _FIXED + int.from_bytes(data[14:16], "big")
    if size > MAX_HEADER:
        raise BrokenHeader(f"a header of over {MAX_HEADER} bytes")
    if len(data) < size:
        return None
    family, transport = data[13] >> 4, data[13] & 15
    if data[12] & 15 == _LOCAL or not family or not transport:
        # What else it says is not to be looked at.
        return ProxyHeader(size)
    addresses = _ADDRESSES.get(family)
    if addresses is None or transport != _STREAM:
        raise BrokenHeader("an address that is of no connection")
    block = data[:size]
    if size < _FIXED + addresses:
        raise BrokenHeader("addresses that are not whole")
    _check_values(block, _FIXED + addresses)
    return ProxyHeader(size, _client(block, family))


def _client(block: bytes, family: int) -> tuple[str, int] | None:
    if family == _INET:
        port = int.from_bytes(block[24:26], "big")
        return str(ipaddress.IPv4Address(block[16:20])), port
    if family == _INET6:
        port = int.from_bytes(block[48:50], "big")
        return _of_ipv6(ipaddress.IPv6Address(block[16:32])), port
    return None


def _check_values(block: bytes, position: int) -> None:
    """What stands behind the addresses, each value with its type and length; a checksum must be right."""
    while position < len(block):
        start = position + 3
        position = start + int.from_bytes(block[position + 1 : start], "big")
        if start > len(block) or position > len(block):
            raise BrokenHeader("a value that breaks its own length")
        if block[start - 3] == _CRC32C:
            blank = block[:start] + bytes(4) + block[start + 4 :]
            if position != start + 4 or crc32c(blank) != int.from_bytes(block[start:position], "big"):
                raise BrokenHeader("a checksum that is wrong")


def _crc_of_byte(crc: int) -> int:
    for _bit in range(8):
        crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRCS = tuple(map(_crc_of_byte, range(256)))


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRCS[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
