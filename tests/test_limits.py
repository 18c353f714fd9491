"""The limits: defaults that hold, and an option of each."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from onebackend_proxy.errors import SettingError
from onebackend_proxy.limits import COUNT, DEFAULTS, SECONDS, SIZE, Limits
from onebackend_proxy.options import settings_from

FIELDS = attrs.fields(Limits)
# By the kind of a limit: a text of it, its value, and texts that are none.
TEXTS = {SIZE: ("7KiB", 7168, "7s"), SECONDS: ("1m1s", 61.0, "7KiB"), COUNT: ("7", 7, "7s")}


def option_of(field: attrs.Attribute) -> str:
    return field.name.replace("_", "-")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_limit_is_a_setting(field):
    text, value, _ = TEXTS[field.metadata["kind"]]
    changed: dict[str, Any] = {field.name: value}
    wanted = attrs.evolve(DEFAULTS, **changed)
    assert settings_from({option_of(field): text}, {}).limits == wanted
    variable = f"OB_PROXY_{field.name.upper()}"
    assert settings_from({}, {variable: text}).limits == wanted
    assert settings_from({option_of(field): text}, {variable: "1"}).limits == wanted


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_bad_limit_is_one_error_that_names_it(field):
    wrong = TEXTS[field.metadata["kind"]][2]
    for text in (wrong, "-1", "many"):
        with pytest.raises(SettingError) as caught:
            settings_from({option_of(field): text}, {})
        assert caught.value.message.startswith(f"--{option_of(field)}: {text!r} is ")
    with pytest.raises(SettingError) as caught:
        settings_from({}, {f"OB_PROXY_{field.name.upper()}": wrong})
    assert caught.value.message.startswith(f"OB_PROXY_{field.name.upper()}: {wrong!r} is ")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_zero_only_where_it_means_something(field):
    if field.metadata["zero"]:
        assert getattr(settings_from({option_of(field): "0"}, {}).limits, field.name) == 0
        return
    with pytest.raises(SettingError) as caught:
        settings_from({option_of(field): "0"}, {})
    assert caught.value.message == f"--{option_of(field)}: '0' is too little: it must be more than 0"


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_no_default_is_one_that_would_be_refused(field):
    assert field.default > 0 or field.metadata["zero"]
    assert isinstance(field.default, float if field.metadata["kind"] == SECONDS else int)


def test_the_timeouts_of_an_exchange_are_those_of_the_limits():
    timeouts = Limits(
        connect_timeout=1.0, first_byte_timeout=2.0, idle_timeout=3.0, tunnel_timeout=4.0
    ).timeouts
    assert (timeouts.connect, timeouts.first_byte, timeouts.idle, timeouts.tunnel) == (1, 2, 3, 4)
