"""`--field=value` on the command line to JSON, as 1Backend's `oo` does it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_WORDS = {"true": True, "false": False}


class FieldError(ValueError):
    """A field that cannot be read, or that contradicts another."""


class _Fields(dict[str, Any]):
    """An object that grew from nested names; an object given as JSON is one value."""


class _Repeated(list[Any]):
    """A list that grew from a field given twice; a list given as JSON is one value."""


def split_fields(words: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield (name, value, is JSON) from `--a=1`, `--a 1` and `--a:=[1]`."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("--") or word == "--":
            raise FieldError(f"{word!r} is no field: fields look like --name=value")
        name, equals, value = word[2:].partition("=")
        is_json = name.endswith(":")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise FieldError(f"--{name} has no value: give --{name}=VALUE")
            value = following
        name = name.removesuffix(":")
        if not name:
            raise FieldError(f"{word!r} has no name")
        yield name, value, is_json


def to_query(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return fields for a query string: names and values as they were given."""
    return [(name, value) for name, value, _ in split_fields(words)]


def to_json(words: Sequence[str]) -> dict[str, Any]:
    """Return fields as one JSON object: dashes and dots nest, a repeated field makes a list."""
    found: dict[str, Any] = {}
    for name, value, is_json in split_fields(words):
        keys = re.split(r"[-.]", name)
        if "" in keys:
            raise FieldError(f"--{name}: a part of the name is empty")
        _insert(found, keys, _parse_json(name, value) if is_json else _parse(value), name)
    return found


def _parse(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def _parse_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FieldError(f"--{name}:= wants JSON, and {text[:40]!r} is none") from None


def _insert(into: dict[str, Any], keys: list[str], value: Any, name: str) -> None:
    head, rest = keys[0], keys[1:]
    if not rest:
        _put(into, head, value, name)
        return
    child = into.setdefault(head, _Fields())
    if isinstance(child, _Repeated):
        child = child[-1]
    if not isinstance(child, _Fields):
        raise FieldError(f"--{name}: {head} has a value already, it cannot have fields as well")
    if len(rest) == 1 and rest[0] in child:
        # --user-id=5 --user-id=6 means two users, not one with two ids.
        fresh = _Fields()
        if isinstance(into[head], _Repeated):
            into[head].append(fresh)
        else:
            into[head] = _Repeated([child, fresh])
        child = fresh
    _insert(child, rest, value, name)


def _put(into: dict[str, Any], head: str, value: Any, name: str) -> None:
    if head not in into:
        into[head] = value
        return
    known = into[head]
    if isinstance(known[-1] if isinstance(known, _Repeated) else known, _Fields):
        raise FieldError(f"--{name}: {head} has fields already, it cannot have a value as well")
    if isinstance(known, _Repeated):
        known.append(value)
    else:
        into[head] = _Repeated([known, value])
