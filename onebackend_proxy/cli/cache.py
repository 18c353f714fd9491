"""`oo cache`: what the edge keeps of answers."""

from __future__ import annotations

import click

from onebackend_proxy.cli.shell import AliasedGroup, Settings, pass_settings, text_of


@click.group("cache", cls=AliasedGroup, help="Answers that are kept.")
def cache() -> None:
    """Group the commands on the cache."""


@cache.command("purge")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Of all routes.")
@pass_settings
def purge(settings: Settings, ids: tuple[str, ...], everything: bool) -> None:
    """Forget the answers that are kept of these routes."""
    if bool(ids) == everything:
        raise click.UsageError("give the IDs of routes, or --all")
    body = {"all": True} if everything else {"ids": list(ids)}
    answer = settings.session().call("POST", "/proxy-svc/cache/purge", body)
    number = text_of(answer if isinstance(answer, dict) else {}, "purged")
    settings.show(answer, f"purged {number} answer{'' if number == '1' else 's'}")
