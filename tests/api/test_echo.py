from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from onebackend_proxy.api import collection, registry_svc, rules
from onebackend_proxy.api.echo import bounded, quoted, shortened
from onebackend_proxy.api.strict_json import parse_json
from onebackend_proxy.api.validation import structure
from onebackend_proxy.errors import BadRequest

from .support import Api


@pytest.mark.parametrize(
    "message, wanted",
    [
        ("is not an IP address", "is not an IP address"),
        ("says nothing of what was sent, however long the sentence may turn out to be " * 2, None),
        (f"{'x' * 62!r} is not a host name", None),
        (f"{'x' * 500!r} is not a host name", f"'{'x' * 62}…' is not a host name"),
        (f"names {'q' * 500!r}, which is no slug", f"names '{'q' * 56}…', which is no slug"),
    ],
)
def test_what_is_said_of_a_long_value_stays(message, wanted):
    assert bounded(message) == (message if wanted is None else wanted)


@given(st.text("ab'\" \n", min_size=100))
def test_no_quotes_in_a_value_let_more_through(value):
    message = bounded(f"{value!r} is not a host name")
    assert len(message) <= 65 + len(" is not a host name")
    assert message.endswith(" is not a host name")


@given(st.text())
def test_shortened_and_quoted(text):
    assert len(shortened(text)) <= 64 and len(quoted(text)) <= 64
    assert shortened(text)[:63] == text[:63] and quoted(text)[:62] == repr(text)[:62]


LONG = "x" * 300
HOST = ".".join(["y" * 60] * 4)


@pytest.mark.parametrize(
    "kind, body",
    [
        (collection.DeleteBody, {LONG: 1}),
        (collection.DeleteBody, {"ids": [LONG]}),
        (collection.DeleteBody, {"ids": ["é" * 300]}),
        (collection.DeleteBody, {"ids": [f"[{LONG}]"]}),
        (rules.SaveRoutesBody, {"routes": [{"id": "a.com", "target": f"service:{LONG}"}]}),
        (rules.SaveRoutesBody, {"routes": [{"id": "a.com", "target": f"http://{LONG}"}]}),
        (rules.SaveRedirectsBody, {"redirects": [{"id": "a.com", "target": f"http://{LONG}"}]}),
        (registry_svc.RegisterInstanceBody, {"slug": LONG}),
        (registry_svc.RegisterInstanceBody, {"ip": LONG}),
    ],
)
def test_bodies(kind, body):
    with pytest.raises(BadRequest) as caught:
        structure(kind, body)
    assert "x" * 65 not in caught.value.message and "é" * 65 not in caught.value.message
    assert len(caught.value.message) < 160


@pytest.mark.parametrize(
    "body",
    [
        {"url": f"http://{LONG}"},
        {"url": f"{LONG}://a"},
        {"host": "x" * 256},
        {"url": "http://a", "path": f"/{LONG}"},
        {"url": f"http://a/{LONG}", "path": "/y"},
        {"url": f"http://a/{LONG}", "scheme": LONG},
    ],
)
def test_instances(body):
    with pytest.raises(BadRequest) as caught:
        registry_svc.address_of(structure(registry_svc.RegisterInstanceBody, body))
    assert "x" * 65 not in caught.value.message


def test_a_field_that_is_there_twice():
    with pytest.raises(BadRequest) as caught:
        parse_json(f'{{"{LONG}": 1, "{LONG}": 2}}'.encode())
    assert caught.value.message == f"the body is not acceptable JSON: the field '{'x' * 61}…' is there twice"


async def _errors(api: Api) -> list[str]:
    await api.start()
    token = await api.login()
    long_id = f"{HOST}/{LONG}"
    twice = {"routes": [{"id": long_id, "target": "http://a"}] * 2}
    other_ip = {"url": f"http://{HOST}", "host": "z.example"}
    replies = [
        await api.call("PUT", "/proxy-svc/routes", twice, token=token),
        await api.call("PUT", "/registry-svc/instance", other_ip, token=token),
        await api.call("DELETE", f"/registry-svc/instance/{LONG}", token=token),
        await api.call("GET", f"/registry-svc/instances?{LONG}=1&{LONG}=2", token=token),
        await api.call("GET", f"/registry-svc/instances?{LONG}=1", token=token),
    ]
    assert [reply.status for reply in replies] == [400, 400, 404, 400, 400]
    return [json.loads(reply.body)["error"] for reply in replies]


def test_calls():
    errors: list[str] = []
    Deferred.fromCoroutine(_errors(Api())).addCallback(errors.extend)
    assert len(errors) == 5
    for error in errors:
        assert "x" * 65 not in error and HOST[:65] not in error
