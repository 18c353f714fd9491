"""Values with a rule of their own, each a type: what the built-in services take beside numbers and texts."""

from __future__ import annotations

import ipaddress
import re
from typing import NewType

from ..addresses import check_redirect_target, check_target
from ..balancing import Balance
from ..records import BUILT_IN_SLUGS
from ..routing import canonical_id, canonical_route_id, is_slug, redirect_location
from ..tls.certificates import certificate_name
from ..units import MAX_SECONDS, parse_seconds
from .validation import Rule, add_rules, integer, string

MAX_LINE = 256
MAX_WEIGHT = 1_000_000
MAX_RETRIES = 10
_REDIRECT_CODES = (301, 302, 303, 307, 308)
_INSTANCE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Line = NewType("Line", str)
"""At most 256 characters, none of them a control character; may be empty."""
NonEmptyLine = NewType("NonEmptyLine", str)
"""A `Line` of at least one character."""
Slug = NewType("Slug", str)
"""A slug that an account or a service may have: no built-in service's."""
NewPassword = NewType("NewPassword", str)
"""8 to 256 characters."""
Password = NewType("Password", str)
"""Whatever somebody tries to log in with, up to 4096 characters."""
CanonicalId = NewType("CanonicalId", str)
"""The id of a Redirect, made canonical: a host, or a host and a path prefix."""
RouteId = NewType("RouteId", str)
"""The id of a Route, made canonical: as that of a Redirect, or ``/<slug>`` for a service."""
Target = NewType("Target", str)
"""A Route's target."""
RedirectTarget = NewType("RedirectTarget", str)
"""A Redirect's target."""
RedirectCode = NewType("RedirectCode", int)
"""A status that redirects."""
BalanceWord = NewType("BalanceWord", str)
"""A value of `balancing.Balance`."""
Weight = NewType("Weight", int)
"""A target's share of the traffic, beside the others'."""
Retries = NewType("Retries", int)
"""How often a request may be tried again."""
Seconds = NewType("Seconds", float)
"""A time, as a number of seconds or a text such as ``250ms``; to the millisecond, and above 0."""
CertificateId = NewType("CertificateId", str)
"""A name that a certificate may be for, made canonical: a host, ``*.`` and a host, or an IP address."""
CertificateIdOrNone = NewType("CertificateIdOrNone", str)
"""A `CertificateId`, or nothing."""
InstanceId = NewType("InstanceId", str)
"""An instance's id, chosen by the client."""
IpAddress = NewType("IpAddress", str)
"""An IPv4 or IPv6 address in its shortest form."""


def line(value: object, most: int = MAX_LINE) -> str:
    """A string of at most so many characters, none of them a control character."""
    text = string(value)
    if len(text) > most:
        raise ValueError(f"is longer than {most} characters")
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text):
        raise ValueError("has a control character")
    return text


def _non_empty_line(value: object) -> str:
    text = line(value)
    if not text.strip():
        raise ValueError("is empty")
    return text


def _slug(value: object) -> str:
    text = string(value)
    if not is_slug(text):
        raise ValueError("must be a slug: a-z, 0-9 and single dashes between them, at most 64 characters")
    if text in BUILT_IN_SLUGS:
        raise ValueError(f"{text} is a built-in service")
    return text


def _new_password(value: object) -> str:
    text = string(value)
    if not 8 <= len(text) <= 256:
        raise ValueError("must have 8 to 256 characters")
    if "\0" in text:
        raise ValueError("must not have a NUL in it")
    return text


def _password(value: object) -> str:
    text = string(value)
    if len(text) > 4096:
        raise ValueError("is longer than 4096 characters")
    return text


def _redirect_target(value: object) -> str:
    target = check_redirect_target(string(value))
    # What cannot be sent is not kept.
    redirect_location("", target, "/", b"/")
    return target


def _redirect_code(value: object) -> int:
    code = integer(value)
    if code not in _REDIRECT_CODES:
        raise ValueError(f"must be one of {', '.join(map(str, _REDIRECT_CODES))}")
    return code


def _balance(value: object) -> str:
    words = [balance.value for balance in Balance]
    if string(value) not in words:
        raise ValueError(f"must be one of {', '.join(words)}")
    return str(value)


def between(least: int, most: int) -> Rule:
    """The rule for an integer within these bounds."""

    def check(value: object) -> int:
        number = integer(value)
        if not least <= number <= most:
            raise ValueError(f"must be from {least} to {most}")
        return number

    return check


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a number of seconds, or a time such as 5s, 250ms or 1m30s")
    if not isinstance(value, str) and not 0 <= value <= MAX_SECONDS:
        raise ValueError("is negative" if value < 0 else f"is too long: at most {MAX_SECONDS / 86400:.0f}d")
    found = round(parse_seconds(string(value)) if isinstance(value, str) else float(value), 3)
    if not found:
        raise ValueError("must be at least 1ms")
    return found


def _certificate_id_or_none(value: object) -> str:
    return certificate_name(text) if (text := string(value).strip()) else ""


def _instance_id(value: object) -> str:
    text = string(value)
    if not _INSTANCE_ID.fullmatch(text):
        raise ValueError("must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return text


def _ip_address(value: object) -> str:
    text = string(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("is not an IP address") from None


add_rules(
    {
        Line: line,
        NonEmptyLine: _non_empty_line,
        Slug: _slug,
        NewPassword: _new_password,
        Password: _password,
        CanonicalId: lambda value: canonical_id(string(value)),
        RouteId: lambda value: canonical_route_id(string(value)),
        Target: lambda value: check_target(string(value)),
        RedirectTarget: _redirect_target,
        RedirectCode: _redirect_code,
        BalanceWord: _balance,
        Weight: between(1, MAX_WEIGHT),
        Retries: between(0, MAX_RETRIES),
        Seconds: _seconds,
        CertificateId: lambda value: certificate_name(string(value).strip()),
        CertificateIdOrNone: _certificate_id_or_none,
        InstanceId: _instance_id,
        IpAddress: _ip_address,
    }
)
