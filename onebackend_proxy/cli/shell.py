"""What all commands share: groups with aliases, the options that go anywhere, and how things are printed."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import click

from onebackend_proxy.cli.client import canonical_url, one_line
from onebackend_proxy.cli.config import DEFAULT_APP_HOST, CliConfig, default_path
from onebackend_proxy.cli.session import Session, choose_server
from onebackend_proxy.folder import default_folder

# 1Backend's own tables start the second column here; wider ids push it to the right.
FIRST_COLUMN = 28
GAP = 3
INTERRUPTED = 130
"""The exit code for Ctrl-C."""


@attrs.define
class Settings:
    """What was asked for on the command line and in the environment, before or after the subcommand."""

    url: str | None = None
    environment: str | None = None
    app_host: str | None = None
    as_json: bool = False
    environ: Mapping[str, str] = attrs.field(factory=lambda: os.environ)

    @property
    def config_path(self) -> pathlib.Path:
        """Where cliConfig.yaml lies."""
        return default_path()

    @property
    def folder(self) -> pathlib.Path:
        """The data folder of a proxy on this machine: OB_FOLDER, else the default."""
        named = self.environ.get("OB_FOLDER")
        return pathlib.Path(named).expanduser() if named else default_folder()

    def session(self) -> Session:
        """Open the session that the options ask for; no request is made yet."""
        if self.url is not None and self.environment is not None:
            raise click.UsageError("give --url or --env, not both")
        config = CliConfig.load(self.config_path)
        server = choose_server(self.url, self.environment, self.environ.get("OB_SERVER_URL"), config)
        return Session(
            server,
            self.config_path,
            app_host=self.app_host,
            environ=self.environ,
            folder=self.folder,
            warn=warn,
        )

    def show(self, answer: Any, lines: str) -> None:
        """Print the API's JSON if it was asked for, else `lines`."""
        click.echo(pretty(answer) if self.as_json else lines)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def warn(text: str) -> None:
    """Print one line to stderr, in the form all messages have."""
    click.echo(f"oo: {one_line(text)}", err=True)


def pretty(answer: Any) -> str:
    """Return JSON as people read it."""
    return json.dumps(answer, indent=2, ensure_ascii=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out columns: padded to the widest cell plus a gap, the last not padded, the header always there."""
    lines = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) + GAP for column in range(len(header))]
    widths[0] = max(widths[0], FIRST_COLUMN)
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)) + line[-1]
        for line in lines
    )


def items_of(answer: Any, key: str) -> list[dict[str, Any]]:
    """Return the list of objects under `key` in an answer, empty where there is none."""
    found = answer.get(key) if isinstance(answer, dict) else None
    return [item for item in found or [] if isinstance(item, dict)]


def text_of(item: Mapping[str, Any], key: str) -> str:
    """Return one field for a table cell; what is missing is a dash."""
    value = item.get(key)
    return "-" if value is None or value == "" else str(value)


class _SettingOption(click.Option):
    """An option that lands in Settings, wherever on the line it stands; the last one given counts."""

    def __init__(self, attribute: str, *declarations: str, **more: Any) -> None:
        def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
            if value not in (None, False):
                setattr(ctx.ensure_object(Settings), attribute, value)

        super().__init__(list(declarations), expose_value=False, callback=keep, **more)


class _ServerUrl(click.types.StringParamType):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return canonical_url(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _common_options() -> list[click.Parameter]:
    return [
        _SettingOption("url", "--url", type=_ServerUrl(), help="The server to talk to."),
        _SettingOption(
            "environment", "-e", "--env", help="The environment to use, instead of the selected one."
        ),
        _SettingOption(
            "app_host",
            "-a",
            "--app-host",
            help=f"The app that the login is for (default: {DEFAULT_APP_HOST}).",
        ),
        _SettingOption("as_json", "--json", is_flag=True, help="Print the API's JSON."),
    ]


class AliasedCommand(click.Command):
    """A command that other names reach too, and that takes the options common to all."""

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.aliases = tuple(aliases)
        self.params = [*self.params, *_common_options()]

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the line that the group's help shows, with the other names."""
        return _with_aliases(super().get_short_help_str(80), self.aliases)


class AliasedGroup(click.Group):
    """A group whose commands, and which itself, may have aliases."""

    command_class = AliasedCommand

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.aliases = tuple(aliases)
        self.params = [*self.params, *_common_options()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name or one of its aliases."""
        exact = super().get_command(ctx, cmd_name)
        if exact is not None:
            return exact
        return next((cmd for cmd in self.commands.values() if cmd_name in getattr(cmd, "aliases", ())), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve an alias to the command's own name, so that messages and help show that."""
        _, command, rest = super().resolve_command(ctx, args)
        return (command.name if command else None), command, rest

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the line that the group's help shows, with the other names."""
        return _with_aliases(super().get_short_help_str(80), self.aliases)


AliasedGroup.group_class = AliasedGroup


def _with_aliases(text: str, aliases: Sequence[str]) -> str:
    return f"{text} (also: {', '.join(aliases)})" if aliases else text
