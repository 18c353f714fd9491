"""The documentation and the program say the same."""

from __future__ import annotations

import pathlib
import re

import click
import pytest

from onebackend_proxy import __all__ as public_names
from onebackend_proxy.cli.main import cli
from onebackend_proxy.options import DEFAULT_LISTEN, SETTINGS

TOP = pathlib.Path(__file__).parent.parent
PAGES = sorted([TOP / "README.rst", *(TOP / "docs").glob("*.rst")])


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.option)
def test_every_setting_is_documented(setting):
    text = (TOP / "docs" / "settings.rst").read_text()
    assert f"``--{setting.option}``" in text
    assert f"``{setting.variable}" in text
    assert f"``{DEFAULT_LISTEN}``" in text


def test_no_setting_is_documented_that_does_not_exist():
    text = (TOP / "docs" / "settings.rst").read_text()
    documented = set(re.findall(r"^   \* - ``--([a-z-]+)``$", text, re.MULTILINE))
    assert documented == {setting.option for setting in SETTINGS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists(page):
    """`oo` and up to two words after it: a command, or a group and a command of it."""
    context = click.Context(cli)
    for words in re.findall(
        r"^\s+(?:\$ )?(?:\.venv/bin/)?oo ([a-z]+(?: [a-z]+)?)", page.read_text(), re.MULTILINE
    ):
        first, _, second = words.partition(" ")
        command = cli.get_command(context, first)
        assert command is not None, f"oo {first}"
        if isinstance(command, click.Group) and second:
            assert command.get_command(context, second) is not None, f"oo {words}"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_documented(name):
    command = cli.commands[name]
    shown = re.findall(r"^   oo (\S+)(?: (\S+))?", (TOP / "docs" / "oo.rst").read_text(), re.MULTILINE)
    firsts = {word for first, _ in shown for word in first.split("|")}
    if isinstance(command, click.Group):
        assert name in firsts
        seconds = {word for first, second in shown if first == name for word in second.split("|")}
        assert set(command.commands) <= seconds
    else:
        # `oo register` is `oo users register`.
        assert name in firsts | {"register"}


def test_every_public_name_is_documented():
    text = (TOP / "docs" / "embedding.rst").read_text()
    assert [name for name in public_names if f"``{name}``" not in text] == []
