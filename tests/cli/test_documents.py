from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.documents import Item, in_their_words, read_items


def refusal(path: pathlib.Path, key: str = "routes") -> str:
    with pytest.raises(Refusal) as caught:
        read_items([path], key)
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("r.yaml", "", "holds no routes"),
        ("r.yaml", "[]", "holds no routes"),
        ("r.yaml", "{}", "holds no routes"),
        ("r.yaml", "routes: []", "holds no routes"),
        ("r.yaml", "routes: {id: a}", "routes: expected a list"),
        ("r.yaml", "routes:", "routes: expected a list"),
        ("r.yaml", "redirects: [{id: a}]", "holds redirects, not routes"),
        ("r.yaml", "routes: [{id: a}]\nroute: 1", "route: is not expected beside routes"),
        ("r.yaml", "just text", "expected a mapping with id and target"),
        ("r.yaml", "- id: a\n- b", "routes[1]: expected a mapping with id and target"),
        ("r.yaml", "id: a\nid: b", "line 2, column 1: the key 'id' stands there twice"),
        ("r.yaml", "- {id: a, h: {x: 1, x: 2}}", "line 1, column 21: the key 'x' stands there twice"),
        ("r.json", '{"id": "a", "id": "b"}', "the key 'id' stands there twice"),
        ("r.json", '{"id": NaN}', "NaN is not a number that JSON has"),
        ("r.json", "{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("r.yaml", "id: .nan", "id: nan is not a number that JSON has"),
        ("r.yaml", "- {id: a, n: [1, .inf]}", "routes[0].n[1]: inf is not a number that JSON has"),
        ("r.yaml", "id: !!binary aGk=", "id: expected text, a number, true or false"),
        ("r.yaml", "id: a\n1: b", "the key 1 is not text: put it in quotes"),
        ("r.yaml", "id: &a [*a]", "line 1, column 5: found unconstructable recursive node"),
        ("r.yaml", "id: !!python/object:os.system x", "line 1, column 5: could not determine a constructor"),
        ("r.yaml", "id: [", "line 1, column 6: expected the node content"),
        ("r.yaml", "id: 'a\n---\nid: b", "line 2, column 1: found unexpected document separator"),
        ("r.yaml", "id: a\n---\nid: b", "line 2, column 1: but found another document"),
        ("r.yaml", "id: " + "[" * 40 + "]" * 40, "is nested too deeply"),
        ("r.yaml", "[" * 1500, "is nested too deeply"),
        ("r.json", "[" * 100000, "is nested too deeply"),
        ("r.yaml", "id: a\x07", "unacceptable character"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: pathlib.Path, name: str, text: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert refusal(path).startswith(expected)


def test_files_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    assert refusal(tmp_path / "gone.yaml") == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "no *.yaml, *.yml or *.json file in it"
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"id: \xe4")
    assert refusal(path) == "is not UTF-8 text"


def test_dates_stay_text_and_merges_are_no_duplicates(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("- &one {id: 2026-11-21, target: a}\n- {<<: *one, target: b}\n")
    assert [item.value for item in read_items([path], "routes")] == [
        {"id": "2026-11-21", "target": "a"},
        {"id": "2026-11-21", "target": "b"},
    ]


_leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="ascii"))
_values = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3)
)
_mappings = st.dictionaries(st.text("xyz", min_size=1), _values, min_size=1, max_size=4)


@given(st.lists(_mappings, min_size=1, max_size=4), st.sampled_from(["list", "key"]), st.booleans())
def test_items_come_back_as_written(tmp_path_factory: Any, items: Any, shape: str, as_json: bool) -> None:
    path = tmp_path_factory.mktemp("doc") / ("r.json" if as_json else "r.yaml")
    data = items if shape == "list" else {"routes": items}
    path.write_text(json.dumps(data) if as_json else yaml.safe_dump(data))
    found = read_items([path], "routes")
    assert [item.value for item in found] == items
    for index, item in enumerate(found):
        assert in_their_words(f"routes[{index}].x: bad", found, "routes") == item.name(".x") + ": bad"


def test_an_item_alone_is_named_by_its_file() -> None:
    assert Item({}, "a.yaml", "").name("") == "a.yaml"
    assert Item({}, "a.yaml", "").name(".id") == "a.yaml: id"
    assert Item({}, "a.yaml", "routes[1]").name(".id") == "a.yaml: routes[1].id"
