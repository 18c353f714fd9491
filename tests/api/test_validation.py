from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.api import certs, collection, explain, pausing, purging, registry_svc, rules, user_svc
from onebackend_proxy.api.strict_json import parse_json
from onebackend_proxy.api.validation import structure
from onebackend_proxy.api.values import Line, NewPassword, Slug
from onebackend_proxy.errors import BadRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
BODIES = [
    rules.SaveRoutesBody,
    rules.SaveRedirectsBody,
    rules.ListRoutesBody,
    pausing.PauseBody,
    pausing.ResumeBody,
    purging.PurgeBody,
    collection.ListBody,
    certs.SaveCertificatesBody,
    certs.ListCertificatesBody,
    explain.ExplainBody,
    registry_svc.RegisterInstanceBody,
    user_svc.LoginBody,
    user_svc.RegisterBody,
    user_svc.SelfBody,
]


def said(kind, value):
    with pytest.raises(BadRequest) as caught:
        structure(kind, value)
    return caught.value.message


@pytest.mark.parametrize(
    "body, wanted",
    [
        ({}, "routes: is missing"),
        ({"routes": {}}, "routes: expected a list"),
        ({"routes": "ab"}, "routes: expected a list"),
        ({"routes": None}, "routes: expected a list"),
        ({"routes": [1]}, "routes[0]: expected an object"),
        ({"routes": [{"id": "a.com"}]}, "routes[0].target: is missing"),
        ({"routes": [{"id": "a.com", "target": 5}]}, "routes[0].target: expected a string"),
        ({"routes": [{"id": "a.com", "target": "b", "tpyo": 1}]}, "routes[0]: unknown field 'tpyo'"),
        (
            {"routes": [], "a @ $.b": 1, "c": 2},
            "unknown fields 'a @ $.b', 'c'",
        ),
        (
            {"routes": [{"id": "a.com", "target": "b"}, {"id": "", "target": "http://u:p@x"}]},
            "routes[1].id: is empty; routes[1].target: must not carry credentials",
        ),
        ({"routes": [{"id": "\ud800", "target": "b"}]}, "routes[0].id: has half of a surrogate pair"),
        ({"routes": [{}] * 200_001}, "routes: has more than 200000 items"),
    ],
)
def test_messages_about_routes(body, wanted):
    assert said(rules.SaveRoutesBody, body) == wanted


def test_a_list_has_an_end():
    assert said(collection.ListBody, {"ids": ["a.com"] * 10_001}) == "ids: has more than 10000 items"
    targets = {"routes": [{"id": "a.com", "targets": [{"url": "x"}] * 10_001}]}
    assert said(rules.SaveRoutesBody, targets) == "routes[0].targets: has more than 10000 items"
    many = [{"id": "a.com"}] * 200_001
    assert said(rules.SaveRedirectsBody, {"redirects": many}) == "redirects: has more than 200000 items"


def test_errors_far_down_a_list_are_told_with_their_place():
    routes: list[dict[str, object]] = [{"id": "a.com", "target": "b"} for _ in range(25_000)]
    assert len(structure(rules.SaveRoutesBody, {"routes": routes}).records()) == 25_000
    routes[10_003] = {"id": "a.com"}
    routes[19_999] = {"id": "", "target": "b"}
    routes[20_000] = {"id": "a.com", "targets": [{"url": "b"}, {"url": ""}]}
    first = "routes[10003].target: is missing; routes[19999].id: is empty"
    assert said(rules.SaveRoutesBody, {"routes": routes}) == first
    del routes[10_000:20_000]
    assert said(rules.SaveRoutesBody, {"routes": routes}) == "routes[10000].targets[1].url: is empty"


def test_a_long_list_of_errors_is_cut():
    message = said(collection.ListBody, {"ids": [""] * 100})
    assert message.startswith("ids[0]: is empty; ids[1]: is empty; ")
    assert message.endswith("; ids[4]: is empty; and 95 more")


def test_names_are_camel_case():
    assert said(user_svc.SelfBody, {"countTokens": 1}) == "countTokens: expected true or false"
    assert said(user_svc.SelfBody, {"count_tokens": True}) == "unknown field 'count_tokens'"
    assert structure(user_svc.SelfBody, {"countTokens": True}).count_tokens is True
    wanted = "redirects[0].statusCode: must be one of 301, 302, 303, 307, 308"
    entry = {"id": "a.com", "target": "/x", "statusCode": 200}
    assert said(rules.SaveRedirectsBody, {"redirects": [entry]}) == wanted


@pytest.mark.parametrize("url", [5, True, ["http://a"], {}])
def test_no_string_is_made(url):
    assert said(registry_svc.RegisterInstanceBody, {"url": url}) == "url: expected a string"


@pytest.mark.parametrize("port", [True, "80", 80.0, [80]])
def test_nothing_is_coerced(port):
    message = said(registry_svc.RegisterInstanceBody, {"port": port})
    assert message == "port: expected an integer"


@attrs.frozen
class Some:
    line: Line | None = None
    slug: Slug | None = None
    password: NewPassword | None = None


@pytest.mark.parametrize(
    "body, wanted",
    [
        ({"line": "x" * 257}, "line: is longer than 256 characters"),
        ({"line": "a\nb"}, "line: has a control character"),
        ({"slug": "../x"}, "slug: must be a slug"),
        ({"slug": ""}, "slug: must be a slug"),
        ({"slug": "a" * 65}, "slug: must be a slug"),
        ({"slug": "user-svc"}, "slug: user-svc is a built-in service"),
        ({"password": "short"}, "password: must have 8 to 256 characters"),
        ({"password": "x" * 257}, "password: must have 8 to 256 characters"),
        ({"password": "good enough\0"}, "password: must not have a NUL in it"),
    ],
)
def test_rules(body, wanted):
    assert said(Some, body).startswith(wanted)


@given(st.sampled_from(BODIES), JSON)
def test_any_value_is_taken_or_refused_with_a_message(kind, value):
    try:
        made = structure(kind, value)
    except BadRequest as error:
        assert error.message
    else:
        assert isinstance(made, kind)


def shaped(kind):
    """Objects that come near to what `kind` takes."""
    names = {"routes", "redirects", "ids", "id", "target", "statusCode", "url", "port", "host", "ip", "slug"}
    names |= {"targets", "weight", "balance", "timeouts", "connect", "retries", "certs", "cert"}
    names |= {"access", "allow", "basicAuth", "forwardAuth", "headers", "request", "set", "remove", "paused"}
    names |= {"rateLimit", "requests", "by", "requestBodyLimit", "errorPages", "503", "message", "all"}
    entry = st.dictionaries(st.sampled_from(sorted(names)), JSON, max_size=4)
    return st.dictionaries(st.sampled_from(sorted(names)), JSON | st.lists(entry, max_size=3), max_size=4)


@given(st.data(), st.sampled_from(BODIES))
def test_what_comes_near_is_taken_or_refused_with_a_message(data, kind):
    try:
        structure(kind, data.draw(shaped(kind)))
    except BadRequest as error:
        assert error.message


@pytest.mark.parametrize(
    "content, wanted",
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b'{"a": 1 "b"}', "(line 1, column 9)"),
        (b'{"a":\n tru}', "(line 2, column 2)"),
        (b"\xff{}", "not UTF-8, from byte 0 on"),
        (b'{"a": 1, "b": {"x": 1, "x": 2}}', "the field 'x' is there twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"1" * 5000, "Exceeds the limit"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
)
def test_json_that_is_refused(content, wanted):
    with pytest.raises(BadRequest) as caught:
        parse_json(content)
    assert wanted in caught.value.message


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(content):
    try:
        parse_json(content)
    except BadRequest as error:
        assert error.status == 400
