"""Files of routes and redirects: YAML or JSON, read whole, checked, with every item's place remembered."""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any

import attrs
import yaml

from onebackend_proxy.cli.client import Refusal, one_line

SUFFIXES = (".yaml", ".yml", ".json")
KEYS = ("routes", "redirects")


@attrs.frozen
class Item:
    """One route or redirect as the file has it; `place` names it, empty if the file holds nothing else."""

    value: dict[str, Any]
    file: str
    place: str

    def name(self, rest: str) -> str:
        """Name this item, or something in it (`rest`, such as `.target`), in an error."""
        return ": ".join(part for part in (self.file, (self.place + rest).lstrip(".")) if part)


def read_items(paths: Iterable[pathlib.Path], key: str) -> list[Item]:
    """Read all items under `key` from files and folders, in order; Refusal names the file and the item."""
    items: list[Item] = []
    for path in paths:
        for file in _files(path):
            items.extend(_items(_load(file), str(file), key))
    return items


def in_their_words(message: str, items: list[Item], key: str) -> str:
    """Turn the server's `routes[3].target` into the file's name and the index within that file."""

    def named(found: re.Match[str]) -> str:
        index = int(found[1])
        return items[index].name(found[2]) if index < len(items) else found[0]

    return re.sub(rf"\b{key}\[(\d{{1,9}})\]((?:\.\w+|\[\d+\])*)", named, message)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise Refusal(f"{path}: no *.yaml, *.yml or *.json file in it")
    return found


def _load(file: pathlib.Path) -> Any:
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Refusal(f"{file}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal(f"{file}: is not UTF-8 text") from None
    try:
        if file.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Refusal(f"{file}: {_problem(error)}") from None


def _items(data: Any, file: str, key: str) -> list[Item]:
    if isinstance(data, dict) and any(name in data for name in KEYS):
        if key not in data:
            other = next(name for name in KEYS if name in data)
            raise Refusal(f"{file}: holds {other}, not {key}")
        strange = [str(name) for name in data if name not in KEYS]
        if strange:
            raise Refusal(f"{file}: {strange[0]}: is not expected beside {key}")
        data = data[key]
        if not isinstance(data, list):
            raise Refusal(f"{file}: {key}: expected a list")
    if data is None or data == [] or data == {}:
        raise Refusal(f"{file}: holds no {key}")
    values = data if isinstance(data, list) else [data]
    single = data is not values
    items = []
    for index, value in enumerate(values):
        item = Item(value, file, "" if single else f"{key}[{index}]")
        if not isinstance(value, dict):
            raise Refusal(f"{item.name('')}: expected a mapping with id and target")
        _check_plain(value, item, "", 0)
        items.append(item)
    return items


def _check_plain(value: Any, item: Item, rest: str, depth: int) -> None:
    """Refuse what YAML can say and JSON cannot."""
    if depth > 32:
        raise Refusal(f"{item.file}: is nested too deeply")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise Refusal(f"{item.name(rest)}: the key {name!r} is not text: put it in quotes")
            _check_plain(inner, item, f"{rest}.{name}", depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_plain(inner, item, f"{rest}[{index}]", depth + 1)
    elif isinstance(value, float) and value - value != 0:
        raise Refusal(f"{item.name(rest)}: {value} is not a number that JSON has")
    elif value is not None and not isinstance(value, str | int | float):
        raise Refusal(f"{item.name(rest)}: expected text, a number, true or false")


class _Loader(yaml.SafeLoader):
    """YAML without dates (`2026-11-21` stays text), and a key may stand once only."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a duplicate key is an error here, where YAML's library lets the last one win."""
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                if (name.tag, name.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name.value!r} stands there twice", name.start_mark
                    )
                seen.add((name.tag, name.value))
        return super().construct_mapping(node, deep=deep)


def _construct_map(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    # The stock constructor flattens merge keys into the node before construct_mapping could see
    # which keys were written twice and which were merged in.
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number that JSON has")


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return (
            f"line {mark.line + 1}, column {mark.column + 1}: {one_line(str(getattr(error, 'problem', '')))}"
        )
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return one_line(str(error))
