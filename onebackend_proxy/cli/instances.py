"""`oo instances`: the addresses that serve each slug."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import quote

import click

from onebackend_proxy.cli.shell import AliasedGroup, Settings, items_of, pass_settings, pretty, table, text_of

HEADER = ("INSTANCE ID", "URL", "STATUS", "OWNER SLUG", "LAST HEARTBEAT")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def ago(moment: Any, now: datetime.datetime) -> str:
    """Say how long an RFC 3339 moment is past, such as `12s ago`; a dash for what is no moment."""
    try:
        then = datetime.datetime.fromisoformat(moment)
        seconds = max(0, int((now - then).total_seconds()))
    except (TypeError, ValueError):
        return "-"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def instance_table(answer: Any, now: datetime.datetime) -> str:
    """Lay out the instances the API listed, by slug and URL."""
    found = sorted(items_of(answer, "instances"), key=lambda i: (text_of(i, "slug"), text_of(i, "url")))
    fields = ("id", "url", "status", "slug")
    rows = [[*(text_of(i, field) for field in fields), ago(i.get("lastHeartbeat"), now)] for i in found]
    return table(HEADER, rows)


@click.group(
    "instances", cls=AliasedGroup, aliases=("instance", "i"), help="The addresses that serve each slug."
)
def instances() -> None:
    """Group the commands on instances."""


@instances.command("list", aliases=("ls",))
@click.option("--slug", help="Only instances of this service.")
@pass_settings
def list_instances(settings: Settings, slug: str | None) -> None:
    """List instances: an admin sees all, a service its own."""
    answer = settings.session().call("GET", "/registry-svc/instances", query=[("slug", slug)] if slug else [])
    settings.show(answer, instance_table(answer, datetime.datetime.now(datetime.UTC)))


@instances.command("register", aliases=("save", "s"))
@click.argument("address", metavar="URL")
@click.option("--slug", help="The service it belongs to, for an admin; else your own.")
@click.option("--id", "id_", help="The instance's id; made up if you give none.")
@pass_settings
def register(settings: Settings, address: str, slug: str | None, id_: str | None) -> None:
    """Register the instance at URL."""
    given = {"url": address, "slug": slug, "id": id_}
    body = {name: value for name, value in given.items() if value is not None}
    session = settings.session()
    answer = session.call("PUT", "/registry-svc/instance", body)
    settings.show(answer, f"registered {address} for {slug or session.slug}")


@instances.command("remove", aliases=("rm", "delete"))
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@pass_settings
def remove(settings: Settings, ids: tuple[str, ...]) -> None:
    """Remove instances by their IDs."""
    session = settings.session()
    for one in ids:
        session.call("DELETE", f"/registry-svc/instance/{quote(one, safe='')}")
        if not settings.as_json:
            click.echo(f"removed {one}")
    if settings.as_json:
        click.echo(pretty({}))
