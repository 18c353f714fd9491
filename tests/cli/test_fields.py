from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli.fields import FieldError, to_json, to_query


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--a=x", {"a": "x"}),
        ("--a x --b=y", {"a": "x", "b": "y"}),
        ("--a=", {"a": ""}),
        ("--a=b=c", {"a": "b=c"}),
        ("--a=5 --b=-5 --c=007 --d=1.5", {"a": 5, "b": -5, "c": "007", "d": "1.5"}),
        ("--a=99999999999999999999", {"a": "99999999999999999999"}),
        ("--a=true --b=false --c=True --d=null", {"a": True, "b": False, "c": "True", "d": "null"}),
        ("--n -1", {"n": -1}),
        ('--a:={"b":[1,null]}', {"a": {"b": [1, None]}}),
        ("--a: [1]", {"a": [1]}),
        ("--ids=a --ids=b --ids=c", {"ids": ["a", "b", "c"]}),
        ("--ids:=[1] --ids=2", {"ids": [[1], 2]}),
        ('--a:={"b":1} --a:={"b":2}', {"a": [{"b": 1}, {"b": 2}]}),
        ("--a-b=x", {"a": {"b": "x"}}),
        ("--a.b=x --a.c=y", {"a": {"b": "x", "c": "y"}}),
        ("--user-id=5 --user-id=6", {"user": [{"id": 5}, {"id": 6}]}),
        ("--user-id=5 --user-id=6 --user-id=7", {"user": [{"id": 5}, {"id": 6}, {"id": 7}]}),
        ("--u-id=5 --u-n=a --u-id=6 --u-n=b", {"u": [{"id": 5, "n": "a"}, {"id": 6, "n": "b"}]}),
        ("--a-b-c=1 --a-b-c=2", {"a": {"b": [{"c": 1}, {"c": 2}]}}),
    ],
)
def test_fields_to_json(line: str, expected: Any) -> None:
    assert to_json(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=x", "'a=x' is no field"),
        ("-a=x", "'-a=x' is no field"),
        ("--", "'--' is no field"),
        ("--a", "--a has no value"),
        ("--a --b=x", "--a has no value"),
        ("--=x", "'--=x' has no name"),
        ("--a--b=x", "a part of the name is empty"),
        ("--a.=x", "a part of the name is empty"),
        ("--a:=x", "--a:= wants JSON, and 'x' is none"),
        ("--a=1 --a-b=2", "a has a value already"),
        ("--a=1 --a=2 --a-b=2", "a has a value already"),
        ("--a-b=1 --a=2", "a has fields already"),
        ("--a-b=1 --a-b=2 --a=2", "a has fields already"),
        ("--a:={} --a-b=2", "a has a value already"),
    ],
)
def test_bad_fields(line: str, expected: str) -> None:
    with pytest.raises(FieldError) as caught:
        to_json(line.split(" "))
    assert expected in str(caught.value)


def test_a_query_is_left_as_it_is() -> None:
    assert to_query(["--a-b=1", "--a-b", "true", "--c.d:=[1]"]) == [
        ("a-b", "1"),
        ("a-b", "true"),
        ("c.d", "[1]"),
    ]


_words = st.lists(st.text("-=.:ab1 {[\n", max_size=8), max_size=6)


@given(_words)
def test_any_words_give_json_or_an_error(words: list[str]) -> None:
    try:
        found = to_json(words)
    except FieldError:
        return
    assert json.loads(json.dumps(found)) == found


@given(st.dictionaries(st.from_regex(r"[a-zA-Z]\w{0,5}", fullmatch=True), st.text(max_size=10), max_size=5))
def test_json_values_come_through_as_they_are(wanted: dict[str, str]) -> None:
    assert to_json([f"--{name}:={json.dumps(value)}" for name, value in wanted.items()]) == wanted
