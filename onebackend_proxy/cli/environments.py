"""`oo env`: the servers that `oo` knows by name."""

from __future__ import annotations

import click

from onebackend_proxy.cli.client import Refusal, canonical_url
from onebackend_proxy.cli.config import CliConfig, editing
from onebackend_proxy.cli.shell import AliasedGroup, Settings, pass_settings, table

HEADER = ("ENVIRONMENT", "URL", "SELECTED", "USER", "DESCRIPTION")


@click.group(
    "env", cls=AliasedGroup, aliases=("environments", "environment"), help="The servers known by name."
)
def environments() -> None:
    """Group the commands on environments."""


@environments.command("list", aliases=("ls",))
@pass_settings
def list_environments(settings: Settings) -> None:
    """List the environments; no token is shown."""
    config = CliConfig.load(settings.config_path)
    shown = [
        {
            "name": name,
            "url": str(environment["url"]),
            "selected": name == config.selected,
            "selectedUser": str(environment.get("selectedUser") or ""),
            "description": str(environment.get("description") or ""),
        }
        for name, environment in sorted(config.environments.items())
    ]
    fields = ("name", "url", "selected", "selectedUser", "description")
    rows = [["yes" if e[f] is True else str(e[f] or "") for f in fields] for e in shown]
    settings.show({"environments": shown}, table(HEADER, rows))


@environments.command("add", aliases=("save", "s"))
@click.argument("name")
@click.argument("address", metavar="URL")
@click.argument("description", default="")
@pass_settings
def add(settings: Settings, name: str, address: str, description: str) -> None:
    """Add an environment; `oo env switch NAME` then selects it."""
    if not name.strip():
        raise click.UsageError("the name is empty")
    try:
        url = canonical_url(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with editing(settings.config_path) as config:
        if name in config.environments:
            # Changing the URL in place would send tokens of one server to another.
            raise Refusal(f"there is an environment {name!r} already: oo env remove {name}")
        added = config.add(name, url, description)
    settings.show(added, f"added {name}: {url}")


@environments.command("switch", aliases=("select", "use"))
@click.argument("name")
@pass_settings
def switch(settings: Settings, name: str) -> None:
    """Select the environment that is used unless you say otherwise."""
    with editing(settings.config_path) as config:
        url = config.url_of(name)
        config.data["selectedEnvironment"] = name
    settings.show({"selectedEnvironment": name}, f"selected {name}: {url}")


@environments.command("remove", aliases=("rm", "delete"))
@click.argument("name")
@pass_settings
def remove(settings: Settings, name: str) -> None:
    """Remove an environment and the tokens kept for it."""
    with editing(settings.config_path) as config:
        if name not in config.environments:
            raise Refusal(f"there is no environment {name!r}")
        del config.environments[name]
        if config.selected == name:
            config.data["selectedEnvironment"] = ""
    settings.show({}, f"removed {name}")
