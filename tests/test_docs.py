"""The documentation and the program say the same."""

from __future__ import annotations

import pathlib
import re

import click
import pytest
import yaml

from onebackend_proxy import __all__ as public_names
from onebackend_proxy import exchange, headers
from onebackend_proxy.api.rules import SaveRoutesBody
from onebackend_proxy.api.validation import structure
from onebackend_proxy.cli.main import cli
from onebackend_proxy.downstream import channel, fast, lingering, request
from onebackend_proxy.errors import BadRequest
from onebackend_proxy.options import DEFAULT_LISTEN, SETTINGS
from onebackend_proxy.options import LIMITS as LIMIT_SETTINGS
from onebackend_proxy.tls import client_hello

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


@pytest.mark.parametrize("limit", LIMIT_SETTINGS, ids=lambda limit: limit.option)
def test_the_default_of_every_limit_is_documented(limit):
    [default] = re.findall(r"\[default: (.*)\]", limit.help)
    text = (TOP / "docs" / "settings.rst").read_text()
    assert f"   * - ``--{limit.option}``\n     - ``{limit.variable}``\n     - ``{default}``\n     - " in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists(page):
    """`oo` and up to two words after it: a command, or a group and a command of it."""
    context = click.Context(cli)
    for words in re.findall(
        r"^\s+(?:\$ )?(?:\.venv/bin/)?oo ([a-z]+[a-z-]*(?: [a-z]+)?)", page.read_text(), re.MULTILINE
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_shown_exists(page):
    """What stands behind ``onebackend-proxy`` in a command, which may go on behind a backslash."""
    known = {f"--{setting.option}" for setting in SETTINGS}
    commands = re.findall(r"^ .*twistd .*?onebackend-proxy\b((?:.*\\\n)*.*)", page.read_text(), re.MULTILINE)
    assert {word for command in commands for word in re.findall(r" (--[a-z-]+)", command)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_shown_exists(page):
    known = {setting.variable for setting in SETTINGS} | {"OB_ADMIN_PASSWORD", "OB_SERVER_URL"}
    assert set(re.findall(r"\bOB_[A-Z_]*[A-Z]\b", page.read_text())) - known == set()


KIB = 1024
LIMITS = {
    "a field's name, below ``twisted.web``": (channel.MAX_NAME, 256, "256 bytes"),
    "bytes behind the request under way": (channel.MAX_WAITING, 16 * KIB, "16 KiB"),
    "empty lines before a request": (fast.MAX_EMPTY_LINES, 4, "4"),
    "digits of a length": (headers.MAX_LENGTH_DIGITS, 18, "18"),
    "times through this proxy": (headers.MAX_HOPS, 5, "5"),
    "a body of the built-in services": (request.MAX_BUFFERED, KIB * KIB, "1 MiB"),
    "failing connects of one request, together": (exchange.MAX_CONNECTING, 15, "15 s"),
    "of a request's body, to connect or to repeat": (exchange.MAX_HELD, 64 * KIB, "64 KiB"),
    "a ``100 Continue`` that the service does not send": (exchange.CONTINUE_AFTER, 1, "1 s"),
    "an answer that its client does not take, at close": (lingering.LINGER_AT_MOST, 60, "60 s"),
    "read and dropped behind an early answer": (lingering.LINGER, 2, "2 s"),
    "a ClientHello": (client_hello.MAX_HELLO, 16 * KIB, "16 KiB"),
    "records that a ClientHello comes in": (client_hello.MAX_RECORDS, 16, "16"),
}
"""By the words of the page: the limit in the code, what the page says in numbers, and how it says it."""


def test_the_limits_are_those_of_the_code():
    text = (TOP / "docs" / "supported-http.rst").read_text().partition("\nLimits\n")[2]
    rows = [re.split("  +", line) for line in text.splitlines() if re.match(r"[a-z].*  +[0-9]", line)]
    assert {row[0]: row[1] for row in rows} == {name: said for name, (_, _, said) in LIMITS.items()}
    assert [name for name, (limit, documented, _) in LIMITS.items() if limit != documented] == []


def test_every_public_name_is_documented():
    text = (TOP / "docs" / "embedding.rst").read_text()
    assert [name for name in public_names if f"``{name}``" not in text] == []


def routes_shown():
    """The files of Routes on all pages."""
    for page in PAGES:
        for block in re.findall(r"code-block:: yaml\n\n((?:   .*\n|\n)+)", page.read_text()):
            found = yaml.safe_load(block)
            if isinstance(found, list) and "oo redirects save" not in block:
                yield page.name, found


def test_every_route_shown_can_be_saved():
    shown = list(routes_shown())
    assert {"routes.rst", "access.rst", "headers.rst", "maintenance.rst"} <= {page for page, _ in shown}
    for page, routes in shown:
        try:
            structure(SaveRoutesBody, {"routes": routes})
        except BadRequest as error:
            raise AssertionError(f"{page}: {error}") from None
