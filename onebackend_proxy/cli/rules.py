"""`oo routes` and `oo redirects`: one shape, two kinds of item."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import attrs
import click

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.documents import Item, in_their_words, read_items
from onebackend_proxy.cli.shell import AliasedGroup, Settings, items_of, pass_settings, table, text_of


@attrs.frozen
class Kind:
    """Routes or redirects: where the API has them, and how a table shows them."""

    key: str
    header: tuple[str, ...]
    fields: tuple[str, ...]

    @property
    def path(self) -> str:
        """The API's path for this kind."""
        return f"/proxy-svc/{self.key}"

    def table(self, answer: Any) -> str:
        """Lay out what the API listed, sorted by id."""
        found = sorted(items_of(answer, self.key), key=lambda item: text_of(item, "id"))
        return table(self.header, [[_cell(item, field) for field in self.fields] for item in found])


def target_of(item: Mapping[str, Any]) -> str:
    """Return where a route or a redirect leads: its target, the URLs of several, or a service's instances."""
    several = items_of(item, "targets")
    if text_of(item, "id").startswith("/"):
        return "(registry)"
    return ", ".join(text_of(target, "url") for target in several) if several else text_of(item, "target")


def _cell(item: Mapping[str, Any], field: str) -> str:
    return target_of(item) if field == "target" else text_of(item, field)


ROUTES = Kind("routes", ("ROUTE ID", "TARGET"), ("id", "target"))
REDIRECTS = Kind("redirects", ("REDIRECT ID", "TARGET", "STATUS"), ("id", "target", "statusCode"))


@click.group(
    "routes", cls=AliasedGroup, aliases=("route", "r"), help="What goes where: host and path to target."
)
def routes() -> None:
    """Group the commands on routes."""


@click.group(
    "redirects", cls=AliasedGroup, aliases=("redirect",), help="What is answered with another location."
)
def redirects() -> None:
    """Group the commands on redirects."""


def _save(settings: Settings, kind: Kind, items: list[Item]) -> None:
    try:
        answer = settings.session().call("PUT", kind.path, {kind.key: [item.value for item in items]})
    except Refusal as error:
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise Refusal(
                f"{len(items)} {kind.key} are more than one save takes: {error};"
                " save them in parts, each of which is saved whole or not at all",
                error.status,
            ) from None
        raise Refusal(in_their_words(str(error), items, kind.key), error.status) from None
    saved = items_of(answer, kind.key)
    settings.show(answer, "\n".join(f"saved {text_of(i, 'id')} -> {target_of(i)}" for i in saved))


def _items(kind: Kind, files: Sequence[pathlib.Path], item: dict[str, Any], wants: str) -> list[Item]:
    """Take the items from files or from options: one of the two, and something in it."""
    given = {name: value for name, value in item.items() if value is not None}
    if files and given:
        raise click.UsageError(f"give files or {wants}, not both")
    if files:
        return read_items(files, kind.key)
    if "id" not in given or "target" not in given:
        raise click.UsageError(f"give FILE, a folder of files, or {wants}")
    return [Item(given, "", "")]


def _list(settings: Settings, kind: Kind, ids: Sequence[str]) -> None:
    answer = settings.session().call("POST", kind.path, {"ids": list(ids)} if ids else {})
    settings.show(answer, kind.table(answer))


def _delete(settings: Settings, kind: Kind, ids: Sequence[str]) -> None:
    answer = settings.session().call("DELETE", kind.path, {"ids": list(ids)})
    settings.show(answer, "\n".join(f"deleted {one}" for one in ids))


_files = click.argument(
    "files",
    nargs=-1,
    metavar="[FILE|DIR]...",
    type=click.Path(exists=True, allow_dash=True, path_type=pathlib.Path),
)


@routes.command("save", aliases=("s",))
@_files
@click.option("--id", "id_", help="Host, optionally with a path prefix.")
@click.option("--target", help="The URL that requests go to.")
@pass_settings
def save_routes(
    settings: Settings, files: tuple[pathlib.Path, ...], id_: str | None, target: str | None
) -> None:
    """Save routes from YAML or JSON, all or none, or one from --id and --target.

    A file says all of its routes; --id and --target change the target of a route, and nothing else of it.
    """
    items = _items(ROUTES, files, {"id": id_, "target": target}, "--id and --target")
    if not files:
        items = [attrs.evolve(item, value=_with_what_it_has(settings, item.value)) for item in items]
    _save(settings, ROUTES, items)


def _with_what_it_has(settings: Settings, route: dict[str, Any]) -> dict[str, Any]:
    """The route, with what there is already beside its target: nobody opens a door by moving a service."""
    # Only who saves one so has to wait for what this loads.
    from onebackend_proxy.routing import canonical_route_id

    try:
        key = canonical_route_id(route["id"])
    except ValueError:
        # The API says what is wrong with it.
        return route
    found = items_of(settings.session().call("POST", ROUTES.path, {"ids": [key]}), ROUTES.key)
    kept = dict(found[0]) if found else {}
    kept.pop("targets", None)
    return {**kept, **route}


@redirects.command("save", aliases=("s",))
@_files
@click.option("--id", "id_", help="Host, optionally with a path prefix.")
@click.option("--target", help="The URL that clients are sent to.")
@click.option("--status-code", type=int, help="301, 302, 303, 307 or 308 (the default).")
@pass_settings
def save_redirects(
    settings: Settings,
    files: tuple[pathlib.Path, ...],
    id_: str | None,
    target: str | None,
    status_code: int | None,
) -> None:
    """Save redirects from YAML or JSON, all or none, or one from --id and --target."""
    item = {"id": id_, "target": target, "statusCode": status_code}
    _save(settings, REDIRECTS, _items(REDIRECTS, files, item, "--id and --target"))


@routes.command("pause")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--retry-after", metavar="TIME", help="When clients may come again, such as 5m; 1m by default.")
@click.option("--message", metavar="TEXT", help="What the page says.")
@pass_settings
def pause(settings: Settings, ids: tuple[str, ...], retry_after: str | None, message: str | None) -> None:
    """Answer 503 for these routes, or for services (/SLUG), until they are resumed."""
    given = {"retryAfter": retry_after, "message": message}
    _turn(settings, "pause", ids, {name: value for name, value in given.items() if value is not None})


@routes.command("resume")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@pass_settings
def resume(settings: Settings, ids: tuple[str, ...]) -> None:
    """Serve these routes, or services (/SLUG), again."""
    _turn(settings, "resume", ids, {})


def _turn(settings: Settings, verb: str, ids: Sequence[str], more: dict[str, str]) -> None:
    answer = settings.session().call("POST", f"{ROUTES.path}/{verb}", {"ids": list(ids), **more})
    settings.show(answer, "\n".join(f"{verb}d {one}" for one in ids))


def _add_list_and_delete(group: AliasedGroup, kind: Kind) -> None:
    """Add the two commands that differ in nothing but the kind."""

    @group.command("list", aliases=("ls",), help=f"List all {kind.key}, or those of the given IDs.")
    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @pass_settings
    def list_(settings: Settings, ids: tuple[str, ...]) -> None:
        _list(settings, kind, ids)

    @group.command("delete", aliases=("rm", "remove"), help=f"Delete {kind.key} by their IDs.")
    @click.argument("ids", nargs=-1, required=True, metavar="ID...")
    @pass_settings
    def delete(settings: Settings, ids: tuple[str, ...]) -> None:
        _delete(settings, kind, ids)


_add_list_and_delete(routes, ROUTES)
_add_list_and_delete(redirects, REDIRECTS)
