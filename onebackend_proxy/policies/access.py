"""Who may come in: by address, and which credentials a request has."""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Iterable, Sequence

from ..headers import ip_of
from ..messages import Headers

MAX_CREDENTIALS = 1024
"""Bytes of an Authorization field that is looked at; a longer one names nobody."""
MAX_KNOWN = 4096
"""Addresses of which it is remembered whether they are admitted."""

_BITS = {4: 32, 6: 128}
_NAME = b"authorization"
_SCHEME = b"basic "
# RFC 7617, 2: none may be in them. Those of latin-1 as well, for the user's name goes into the log.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# For each length of prefix: the bits to drop of an address, and what the others may be.
_Prefixes = tuple[tuple[int, frozenset[int]], ...]


class AddressRules:
    """Which client addresses are admitted: none of `deny`, and where there is an `allow`, only those in it.

    Both are CIDRs as `records.Access` has them; raises `ValueError` for anything else. What is no address (a
    Unix socket) is in no network. It takes as long with thousands of networks as with a few.
    """

    def __init__(self, allow: Sequence[str], deny: Sequence[str]) -> None:
        self._allow = _prefixes(allow)
        self._deny = _prefixes(deny)
        self._open = not allow
        self._known: dict[bytes, bool] = {}

    def __repr__(self) -> str:
        allowed, denied = (
            sum(len(heads) for prefixes in lists.values() for _drop, heads in prefixes)
            for lists in (self._allow, self._deny)
        )
        return f"<AddressRules allow {'all' if self._open else allowed}, deny {denied}>"

    def admits(self, ip: bytes) -> bool:
        """Whether a client at `ip`, as `headers.Peer` has it, may come in."""
        known = self._known.get(ip)
        if known is not None:
            return known
        address = ip_of(ip)
        if address is None:
            admitted = self._open
        else:
            number, version = int(address), address.version
            admitted = not _within(number, self._deny[version]) and (
                self._open or _within(number, self._allow[version])
            )
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[ip] = admitted
        return admitted


def _prefixes(texts: Iterable[str]) -> dict[int, _Prefixes]:
    """The networks by the version of IP, and then by what of an address they do not look at."""
    heads: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    for text in texts:
        network = ipaddress.ip_network(text)
        drop = _BITS[network.version] - network.prefixlen
        heads[network.version].setdefault(drop, set()).add(int(network.network_address) >> drop)
    return {
        version: tuple((drop, frozenset(found)) for drop, found in sorted(by_length.items()))
        for version, by_length in heads.items()
    }


def _within(number: int, prefixes: _Prefixes) -> bool:
    return any(number >> drop in heads for drop, heads in prefixes)


def authorization(headers: Headers) -> bytes | None:
    """The value of the one Authorization field; None without one, and where there are several."""
    found: bytes | None = None
    for name, value in headers:
        if len(name) == 13 and name.lower() == _NAME:
            if found is not None:
                return None
            found = value
    return found


def without_authorization(headers: Headers, lines: bytes) -> tuple[Headers, bytes]:
    """A request's fields, and the same as lines, without the Authorization that `authorization` has found.

    Raises `ValueError` where these are not the same.
    """
    for number, field in enumerate(headers):
        if len(field[0]) == 13 and field[0].lower() == _NAME:
            # With the end of the line before it: not what another one's name or value ends with.
            line = b"\r\n%b: %b\r\n" % field
            without = lines.replace(line, b"\r\n", 1)
            if len(without) == len(lines):
                if not lines.startswith(line[2:]):
                    break
                without = lines[len(line) - 2 :]
            others = headers.copy()
            del others[number]
            return others, without
    raise ValueError("the lines of a request have no Authorization")


def basic_credentials(headers: Headers) -> tuple[str, str] | None:
    """The user and password that a request shows (RFC 7617); None where it shows none that can be read.

    They are UTF-8, which we ask for, or latin-1, which some clients send all the same.
    """
    value = authorization(headers)
    return None if value is None else read_basic(value)


def read_basic(value: bytes) -> tuple[str, str] | None:
    """The user and password in the value of an Authorization field, as `basic_credentials`."""
    if len(value) > MAX_CREDENTIALS or value[:6].lower() != _SCHEME:
        return None
    try:
        data = binascii.a2b_base64(value[6:].lstrip(b" "), strict_mode=True)
    except ValueError:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    user, colon, password = text.partition(":")
    if not colon or _CONTROL.search(text):
        return None
    return user, password
