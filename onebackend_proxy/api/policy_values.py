"""The values that a policy has, each with its rule; see `validation`."""

from __future__ import annotations

import ipaddress
import re
from typing import NewType

from .. import headers
from ..addresses import auth_target, service_of
from ..passwords import check_hash
from ..policies.editing import ERROR_PLACEHOLDERS, check_value
from ..records import BUILT_IN_SLUGS
from ..routing import request_host
from ..units import parse_size
from .validation import add_rules, each_entry, string
from .values import between, line

MAX_REQUESTS = 1_000_000_000
MAX_PAGE = 64 * 1024
"""Bytes of an error page."""
MAX_LIMIT = 10**headers.MAX_LENGTH_DIGITS - 1
"""Bytes of a body: more no Content-Length says."""
MAX_USER = 256
MAX_VALUE = 4096
"""Characters of a header field's value."""
MAX_MESSAGE = 1000
MAX_NAME = 256
"""Characters of a header field's name."""

_CIDR = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
# RFC 9110, 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_PAGE = re.compile(r"[45](?:[0-9]{2}|xx)")
# What frames a message, or is for one connection only, is not a policy's to change (RFC 9110, 7.6.1).
_FRAMING = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)

Cidr = NewType("Cidr", str)
"""Addresses: one, or a network, in canonical form; IPv4 in IPv6 is IPv4."""
UserName = NewType("UserName", str)
"""Who logs in by basicAuth (RFC 7617: no colon, no control character)."""
PasswordHash = NewType("PasswordHash", str)
"""A hash that `passwords` can check."""
AuthUrl = NewType("AuthUrl", str)
"""The URL of a service that says who may come in; see `addresses.auth_target`."""
RequestField = NewType("RequestField", str)
"""The name of a header field that a policy may take out of requests."""
ResponseField = NewType("ResponseField", str)
"""The name of a header field that a policy may take out of answers."""
RequestFields = NewType("RequestFields", dict[str, str])
"""Header fields that a policy sets in requests, by their names."""
ResponseFields = NewType("ResponseFields", dict[str, str])
"""Header fields that a policy sets in answers, by their names."""
Requests = NewType("Requests", int)
"""How many requests a rate limit lets in."""
Burst = NewType("Burst", int)
"""How many more at once."""
Whose = NewType("Whose", str)
"""Whose requests a rate limit counts: ``ip``, ``route`` or ``header:<name>``."""
Size = NewType("Size", int)
"""Bytes, as a number or a text such as ``10MB``; 0 is no limit."""
ErrorPages = NewType("ErrorPages", dict[str, str])
"""HTML by status (``503``) or class of it (``5xx``)."""
Message = NewType("Message", str)
"""A sentence or two for people."""


def _cidr(value: object) -> str:
    text = string(value).strip()
    if not _CIDR.fullmatch(text):
        raise ValueError("is neither an IP address nor a network such as 10.0.0.0/8")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is neither an IP address nor a network such as 10.0.0.0/8") from None
    address = ipaddress.ip_address(text.partition("/")[0])
    if address != network.network_address:
        # Which of the two is meant decides who comes in.
        raise ValueError(f"has an address within its network: write {network}, or {address} alone")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = int(network.network_address) & 0xFFFFFFFF
        return str(ipaddress.IPv4Network((inner, network.prefixlen - 96)))
    return str(network)


def _user_name(value: object) -> str:
    text = line(value, MAX_USER)
    if not text:
        raise ValueError("is empty")
    if ":" in text:
        raise ValueError("has a colon, which ends the name in what clients send")
    return text


def _password_hash(value: object) -> str:
    text = string(value)
    check_hash(text)
    return text


def _auth_url(value: object) -> str:
    text = string(value).strip()
    target, _path = auth_target(text)
    if service_of(target) in BUILT_IN_SLUGS:
        raise ValueError("names a built-in service, which does not decide on access")
    return text


def _field_name(value: object) -> str:
    text = string(value)
    if len(text) > MAX_NAME or not _TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of a header field")
    if text.lower() in _FRAMING:
        raise ValueError(f"{text!r} frames messages or is for one connection: it cannot be changed")
    return text


def _request_field(value: object) -> str:
    text = _field_name(value)
    if "_" in text:
        # CGI cannot tell X_User from X-User, and what clients send with one is dropped.
        raise ValueError(f"{text!r} has an underscore: no such field goes to a service")
    return text


def _removed_from_requests(value: object) -> str:
    text = _request_field(value)
    if text.lower() == "host":
        raise ValueError("Host cannot be taken out of a request")
    return text


def _field_value(value: object) -> str:
    text = line(value, MAX_VALUE).strip()
    if not text.isascii():
        raise ValueError("is not ASCII: programs disagree about what other characters are in a header")
    check_value(text)
    return text


def _request_fields(value: object) -> dict[str, str]:
    made = _without_repeats(each_entry(value, _request_field, _field_value))
    host = next((text for name, text in made.items() if name.lower() == "host"), "a")
    if "$remote_user" in host:
        raise ValueError("Host cannot be a user's name")
    # What stands for something is a name, an address or a word.
    if not request_host(re.sub(r"\$[a-z_]+", "a", host).encode("ascii")):
        raise ValueError("Host is set to what no host is")
    return made


def _response_field(value: object) -> str:
    text = _field_name(value)
    if text.lower() == "date":
        raise ValueError("Date is the service's to say, or ours (RFC 9110, 6.6.1)")
    return text


def _response_fields(value: object) -> dict[str, str]:
    return _without_repeats(each_entry(value, _response_field, _field_value))


def _without_repeats(made: dict[str, str]) -> dict[str, str]:
    if len({name.lower() for name in made}) < len(made):
        raise ValueError("has one name twice: upper and lower case are the same")
    return made


def _whose(value: object) -> str:
    text = string(value).strip()
    kind, colon, name = text.partition(":")
    if text in ("ip", "route"):
        return text
    if kind != "header" or not colon:
        raise ValueError("must be ip, route or header:NAME")
    field = _request_field(name.strip()).lower()
    if field != "host" and not headers.is_clients_own(field.encode("ascii")):
        raise ValueError(f"{field!r} does not tell clients apart: it is not taken from them")
    return f"header:{field}"


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a number of bytes, or a size such as 64KiB or 10MB")
    size = parse_size(string(value).strip()) if isinstance(value, str) else value
    if not 0 <= size <= MAX_LIMIT:
        raise ValueError(f"must be from 0 to {MAX_LIMIT}")
    return size


def _page_status(value: object) -> str:
    text = string(value).lower()
    if not _PAGE.fullmatch(text):
        raise ValueError(f"{text!r} is neither a status from 400 to 599 nor 4xx or 5xx")
    return text


def _page(value: object) -> str:
    text = string(value)
    if len(text.encode()) > MAX_PAGE:
        raise ValueError(f"is longer than {MAX_PAGE // 1024} KiB")
    check_value(text, ERROR_PLACEHOLDERS)
    return text


add_rules(
    {
        Cidr: _cidr,
        UserName: _user_name,
        PasswordHash: _password_hash,
        AuthUrl: _auth_url,
        RequestField: _removed_from_requests,
        ResponseField: _response_field,
        RequestFields: _request_fields,
        ResponseFields: _response_fields,
        Requests: between(1, MAX_REQUESTS),
        Burst: between(0, MAX_REQUESTS),
        Whose: _whose,
        Size: _size,
        ErrorPages: lambda value: each_entry(value, _page_status, _page),
        Message: lambda value: line(value, MAX_MESSAGE).strip(),
    }
)
