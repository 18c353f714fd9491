"""`oo get|put|post|delete PATH`: any call of the API, or of a service behind the proxy."""

from __future__ import annotations

import json
from typing import Any

import click

from onebackend_proxy.cli.fields import FieldError, to_json, to_query
from onebackend_proxy.cli.shell import AliasedCommand, Settings, pass_settings, pretty

_HELP = """{what}

Options of oo stand before PATH; what follows it are fields: --name=value, or --name:=JSON.
{fields}
Where you have no login, the admin's is used for the built-in services only."""

_BODY_FIELDS = "They make the JSON body: --a-b=x and --a.b=x nest, a field given twice makes a list."
_QUERY_FIELDS = "They go to the query string as they are."


def _call(method: str, what: str) -> click.Command:
    """Make the command for one HTTP method."""
    in_query = method == "GET"

    @click.command(
        method.lower(),
        cls=AliasedCommand,
        # The first word that is no option ends ours: --url after it is a field of that name.
        context_settings={"allow_interspersed_args": False},
        help=_HELP.format(what=what, fields=_QUERY_FIELDS if in_query else _BODY_FIELDS),
        short_help=what,
    )
    @click.argument("path")
    @click.argument("fields", nargs=-1, type=click.UNPROCESSED, metavar="[--FIELD VALUE]...")
    @pass_settings
    def command(settings: Settings, path: str, fields: tuple[str, ...]) -> None:
        _send(settings, method, path, fields, in_query)

    return command


def _send(settings: Settings, method: str, path: str, fields: tuple[str, ...], in_query: bool) -> None:
    if "://" in path.partition("?")[0]:
        raise click.UsageError("PATH is a path such as /user-svc/self; the server goes into --url")
    try:
        query = to_query(fields) if in_query else []
        body = None if in_query or (method == "DELETE" and not fields) else to_json(fields)
    except FieldError as error:
        raise click.UsageError(str(error)) from None
    path = "/" + path.lstrip("/")
    answer = settings.session().send(method, path, body, query=query, anonymous=True).checked()
    if answer.text.strip():
        click.echo(_shown(answer.text))


def _shown(text: str) -> str:
    """Return JSON well laid out, and anything else as it came: a service may answer in what it likes."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text.removesuffix("\n")
    return pretty(found)


CALLS: tuple[click.Command, ...] = (
    _call("GET", "GET a path and print the answer."),
    _call("PUT", "PUT fields to a path as JSON."),
    _call("POST", "POST fields to a path as JSON."),
    _call("DELETE", "DELETE a path, with the fields as JSON if there are any."),
)
