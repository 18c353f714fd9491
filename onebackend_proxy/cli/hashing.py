"""`oo hash-password`: what stands in a route's basicAuth in the place of a password."""

from __future__ import annotations

import sys

import click

from onebackend_proxy.cli.accounts import ask
from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.shell import AliasedCommand, Settings, pass_settings
from onebackend_proxy.passwords import ALGORITHMS
from onebackend_proxy.passwords import hash_password as hash_of


@click.command("hash-password", cls=AliasedCommand)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    default=ALGORITHMS[0],
    show_default=True,
    help="bcrypt is what other programs read.",
)
@pass_settings
def hash_password(settings: Settings, algorithm: str) -> None:
    """Hash a password for a route's basicAuth.

    It is asked for twice, and not shown; where there is no terminal it is a line of standard input.
    """
    password = ask("Password", hidden=True)
    if sys.stdin.isatty() and ask("The same again", hidden=True) != password:
        raise Refusal("these are two passwords, not one twice")
    try:
        hashed = hash_of(password, algorithm)
    except ValueError as error:
        raise Refusal(str(error)) from None
    settings.show({"passwordHash": hashed}, hashed)
