"""JSON bodies into typed ones, strictly: nothing is coerced, and every message names the field.

Values with a rule of their own are types (`values`, `policy_values`), so that cattrs, which knows where in
the body it is, reports the rule's error with its path: ``routes[3].target: must not carry credentials``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

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

from ..errors import BadRequest
from .echo import bounded, quoted

T = TypeVar("T")

MAX_ITEMS = 10_000
"""Items of a list, unless the class of the items has `MAX_ITEMS` of its own."""
_SHOWN_ERRORS = 5
# In a path as cattrs writes it: a name of the client's choice (`each_entry`), or a field of a class.
_PLACE = re.compile(r"""\[(['"])(.*?)\1\]|[a-z_]+""")

Rule = Callable[[object], object]
"""Makes what is kept of a value as JSON has it; raises `ValueError` that says what is wrong."""


def string(value: object) -> str:
    """A string, fit for a database."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    # JSON can spell half of a surrogate pair; no database and no header can hold one.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("has half of a surrogate pair")
    return value


def integer(value: object) -> int:
    """An integer, which true and false are not."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("expected an integer")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


_RULES: dict[type, Rule] = {str: string, int: integer, bool: _boolean}


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
