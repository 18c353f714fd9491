from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy import errors
from onebackend_proxy.errors import ProxyError, answer_for, error_body

from .properties import PROPERTY

STATUSES = {
    "LoopDetected": 508,
    "VersionNotSupported": 505,
    "BadRequest": 400,
    "Unauthenticated": 401,
    "NotPermitted": 403,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "RequestTimeout": 408,
    "Conflict": 409,
    "ContentTooLarge": 413,
    "TargetTooLong": 414,
    "ExpectationFailed": 417,
    "Misdirected": 421,
    "TooManyRequests": 429,
    "HeadTooLarge": 431,
    "NotImplementedHere": 501,
    "UpstreamFailed": 502,
    "Unavailable": 503,
    "StoreUnavailable": 503,
    "UpstreamTimeout": 504,
    "SettingError": 500,
}


def _all(kind):
    for sub in kind.__subclasses__():
        yield sub
        yield from _all(sub)


def test_every_error_has_the_status_it_answers_with():
    ours = {kind.__name__: kind.status for kind in _all(ProxyError) if kind.__module__ == errors.__name__}
    assert ours == STATUSES
    assert ProxyError.status == 500


def test_detail_is_for_the_log_only():
    error = errors.UpstreamFailed("no instance", detail="10.0.0.7:80 refused")
    assert str(error) == "no instance (10.0.0.7:80 refused)"
    assert answer_for(error) == (502, "no instance")
    assert "10.0.0.7" not in repr(error)


def test_without_detail_the_message_is_all():
    assert str(errors.NotFound("no such route")) == "no such route"


def test_what_a_status_needs_is_carried():
    assert errors.MethodNotAllowed("no", ("GET", "PUT")).allowed == ("GET", "PUT")
    assert errors.MethodNotAllowed("no").allowed == ()
    assert errors.TooManyRequests("slow down", 7).retry_after == 7


@pytest.mark.parametrize("error", [ValueError("/etc/secret"), KeyError("x"), KeyboardInterrupt()])
def test_an_error_that_is_not_ours_tells_nothing(error):
    assert answer_for(error) == (500, "internal error")


@PROPERTY
@given(st.text())
def test_a_body_is_one_line_of_ascii_json(message):
    body = error_body(message)
    assert body.isascii()
    assert body.count(b"\n") == 1 and body.endswith(b"\n")
    assert json.loads(body) == {"error": message}
