"""`oo login`, `logout`, `whoami`, `token`, `register` and `oo users`."""

from __future__ import annotations

import secrets
import sys
from typing import Any

import click

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.shell import (
    AliasedCommand,
    AliasedGroup,
    Settings,
    pass_settings,
    text_of,
)


def ask(what: str, *, hidden: bool = False) -> str:
    """Ask at the terminal, or read a line of standard input where there is none."""
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=hidden, err=True))
    line = sys.stdin.readline()
    if not line.rstrip("\r\n"):
        raise click.UsageError(f"{what.lower()} is missing, and there is no terminal to ask at")
    return line.rstrip("\r\n")


@click.command("login", cls=AliasedCommand)
@click.argument("slug", required=False)
@click.argument("password", required=False)
@pass_settings
def login(settings: Settings, slug: str | None, password: str | None) -> None:
    """Log in and keep the token; asks for what is not given."""
    session = settings.session()
    slug = slug or ask("Slug")
    said = session.login(slug, password or ask("Password", hidden=True))
    settings.show(said, f"logged in as {slug} at {session.url}")


@click.command("logout", cls=AliasedCommand)
@pass_settings
def logout(settings: Settings) -> None:
    """Forget the kept token; on the proxy's own machine, oo is the admin again."""
    session = settings.session()
    slug = session.logout()
    if slug is None:
        settings.show({}, f"you are not logged in at {session.url}: there is nothing to forget")
    else:
        settings.show({}, f"logged out: the login of {slug} at {session.url} is forgotten")


@click.command("whoami", cls=AliasedCommand)
@pass_settings
def whoami(settings: Settings) -> None:
    """Show whose token is used, and at which server."""
    session = settings.session()
    said = session.call("POST", "/user-svc/self", {})
    user = said.get("user") if isinstance(said, dict) else None
    if not isinstance(user, dict):
        raise Refusal(f"{session.url} did not say who you are: is it a 1Backend proxy?")
    roles = ", ".join(str(role) for role in said.get("roles") or [])
    lines = [
        f"slug:   {text_of(user, 'slug')}",
        f"name:   {text_of(user, 'name')}",
        f"id:     {text_of(user, 'id')}",
        f"roles:  {roles or '-'}",
        f"server: {session.url}",
    ]
    settings.show(said, "\n".join(lines))


@click.command("token", cls=AliasedCommand)
@pass_settings
def token(settings: Settings) -> None:
    """Print a token that the server takes, for use in other programs."""
    session = settings.session()
    session.call("POST", "/user-svc/self", {})
    settings.show({"token": session.token}, str(session.token))


@click.command("register", cls=AliasedCommand)
@click.argument("slug")
@click.option("--name", help="A name for people.")
@click.option("--password", help="The password; made up and printed once if you give none.")
@pass_settings
def register(settings: Settings, slug: str, name: str | None, password: str | None) -> None:
    """Register a service account (an admin may, or anyone where registration is open)."""
    made_up = password is None
    password = password or secrets.token_urlsafe(24)
    session = settings.session()
    body = {"appHost": session.app_host, "slug": slug, "password": password}
    if name is not None:
        body["name"] = name
    said = session.call("POST", "/user-svc/register", body, anonymous=True)
    shown: Any = {**said, "password": password} if made_up and isinstance(said, dict) else said
    lines = [f"registered {slug}"] + ([f"password: {password}   (shown this once)"] if made_up else [])
    settings.show(shown, "\n".join(lines))


@click.group("users", cls=AliasedGroup, aliases=("user", "u"), help="Accounts of people and services.")
def users() -> None:
    """Group the commands on accounts."""


users.add_command(register)
