"""JSON bodies into typed ones, strictly: nothing is coerced, and every message names the field.

Values with a rule of their own are types here (`Slug`, `CanonicalId`), so that cattrs, which knows where
in the body it is, reports the rule's error with its path: ``routes[3].target: must not carry credentials``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, NewType, TypeVar, get_args

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import is_sequence, list_structure_factory
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from ..addresses import check_redirect_target, check_target
from ..balancing import Balance
from ..errors import BadRequest
from ..records import BUILT_IN_SLUGS
from ..routing import canonical_id, canonical_route_id, is_slug, redirect_location
from ..tls.certificates import certificate_name
from ..units import MAX_SECONDS, parse_seconds
from .echo import bounded, quoted

T = TypeVar("T")

MAX_ITEMS = 10_000
"""Items of a list, unless the class of the items has `MAX_ITEMS` of its own."""
MAX_LINE = 256
MAX_WEIGHT = 1_000_000
MAX_RETRIES = 10
_SHOWN_ERRORS = 5
_REDIRECT_CODES = (301, 302, 303, 307, 308)
# In a path as cattrs writes it: a name of the client's choice (`each_entry`), or a field of a class.
_PLACE = re.compile(r"""\[(['"])(.*?)\1\]|[a-z_]+""")
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


Rule = Callable[[object], object]


def string(value: object) -> str:
    """A string, fit for a database."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    # JSON can spell half of a surrogate pair; no database and no header can hold one.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("has half of a surrogate pair")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("expected an integer")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


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
    code = _integer(value)
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
        number = _integer(value)
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


_RULES: dict[Any, Rule] = {
    str: string,
    int: _integer,
    bool: _boolean,
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


def camel(name: str) -> str:
    """The name as JSON has it: ``first_byte`` is ``firstByte``."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _object_hook(kind: type, converter: Converter) -> Callable[[Any, Any], Any]:
    renamed: dict[str, Any] = {f.name: override(rename=camel(f.name)) for f in attrs.fields(kind)}
    inner: Any = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **renamed)

    def structure_object(value: Any, wanted: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("expected an object")
        return inner(value, wanted)

    return structure_object


def _list_hook(kind: type, converter: Converter) -> Callable[[Any, Any], Any]:
    inner = list_structure_factory(kind, converter)
    [item, *_rest] = get_args(kind) or (object,)
    most: int = getattr(item, "MAX_ITEMS", MAX_ITEMS)

    def structure_list(value: Any, wanted: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("expected a list")
        if len(value) > most:
            raise ValueError(f"has more than {most} items")
        if len(value) <= MAX_ITEMS:
            return inner(value, wanted)
        # Errors take much more memory than what they are about: those of the first part are enough.
        found: list[Any] = []
        for start in range(0, len(value), MAX_ITEMS):
            try:
                found += inner(value[start : start + MAX_ITEMS], wanted)
            except IterableValidationError as error:
                raise _later(error, start) from None
        return found

    return structure_list


def _later(error: IterableValidationError, start: int) -> IterableValidationError:
    """The error about a part of a list, as of the whole list."""
    for each in error.exceptions:
        for note in each.__notes__:
            if isinstance(note, IterableValidationNote):
                note.index = int(note.index) + start
    return error


def _rule_hook(rule: Rule) -> Callable[[Any, Any], Any]:
    return lambda value, _wanted: rule(value)


def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_structure_hook_factory(is_sequence, _list_hook)
    for kind, rule in _RULES.items():
        converter.register_structure_hook(kind, _rule_hook(rule))
    return converter


_CONVERTER = _converter()


def add_rules(rules: Mapping[Any, Rule]) -> None:
    """From now on values of these types are checked, and made, by these rules."""
    for kind, rule in rules.items():
        _CONVERTER.register_structure_hook(kind, _rule_hook(rule))


def part(kind: type[T], value: object) -> T:
    """For a rule: `value`, which is a part of the whole, as `kind`; errors have their place in it."""
    return _CONVERTER.structure(value, kind)


def each_entry(value: object, check_name: Callable[[object], str], check: Rule) -> dict[str, Any]:
    """For a rule: an object whose fields have names of the client's choice, and values of one kind.

    What is wrong with a value is reported by its name.
    """
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"has more than {MAX_ITEMS} fields")
    made: dict[str, Any] = {}
    wrong_values: list[Exception] = []
    for name, item in value.items():
        key = check_name(name)
        if key in made:
            raise ValueError(f"{key!r} is there twice")
        made[key] = None
        try:
            made[key] = check(item)
        except ValueError as error:
            error.add_note(IterableValidationNote("", key, None))
            wrong_values.append(error)
    if wrong_values:
        raise IterableValidationError("", wrong_values, dict)
    return made


def wrong(field: str, message: str) -> ValueError:
    """A rule's error about one field of an object, for its ``__attrs_post_init__``."""
    error = ValueError(message)
    error.add_note(AttributeValidationNote("", field, None))
    return error


def _said(error: BaseException, _kind: object) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        names = [quoted(name) for name in sorted(error.extra_fields)]
        return f"unknown field{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN_ERRORS])}"
    if isinstance(error, KeyError):
        return "is missing"
    return bounded(str(error))


def _shown_place(found: re.Match[str]) -> str:
    return f".{found[2]}" if found[1] else camel(found[0])


def _with_path_first(line: str) -> str:
    # cattrs says "what @ $.where"; the last @ is its own, whatever a client put into "what".
    said, _at, path = line.rpartition(" @ ")
    where = _PLACE.sub(_shown_place, path.removeprefix("$").removeprefix("."))
    return f"{where}: {said}" if where else said


def structure(kind: type[T], value: object) -> T:
    """`value` (parsed JSON) as `kind`; `errors.BadRequest` names each field that is wrong."""
    try:
        return _CONVERTER.structure(value, kind)
    except (BaseValidationError, ValueError) as error:
        lines = [_with_path_first(line) for line in transform_error(error, format_exception=_said)]
    shown = "; ".join(lines[:_SHOWN_ERRORS])
    more = len(lines) - _SHOWN_ERRORS
    raise BadRequest(f"{shown}; and {more} more" if more > 0 else shown)
