"""`oo certs`: the certificates that the edge shows. Private keys go to the server, and never come back."""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.documents import Item, in_their_words
from onebackend_proxy.cli.session import in_the_clear
from onebackend_proxy.cli.shell import AliasedGroup, Settings, items_of, pass_settings, table, text_of, warn

KEY = "certs"
PATH = f"/proxy-svc/{KEY}"
HEADER = (
    "CERT ID",
    "CREATED AT",
    "UPDATED AT",
    "COMMON NAME",
    "ISSUER",
    "NOT BEFORE",
    "NOT AFTER",
    "SERIAL",
)
MAX_BYTES = 1024 * 1024
"""Bytes that are read of a file: the server takes no more anyway."""
# 1Backend's own table has days here, a time for the last change, and the beginning of a serial number.
_DAY = "%Y-%m-%d"
_SECOND = "%Y-%m-%d %H:%M:%S"
_SERIAL = 8


def moment(item: dict[str, Any], field: str, form: str = _DAY) -> str:
    """Return an RFC 3339 moment of an answer in UTC and in the given form; a dash for what is none."""
    try:
        return datetime.datetime.fromisoformat(item[field]).astimezone(datetime.UTC).strftime(form)
    except (KeyError, TypeError, ValueError):
        return "-"


def _serial(item: dict[str, Any]) -> str:
    text = text_of(item, "serialNumber")
    return text if len(text) <= _SERIAL else f"{text[:_SERIAL]}…"


_CELLS: tuple[Callable[[dict[str, Any]], str], ...] = (
    lambda cert: text_of(cert, "id"),
    lambda cert: moment(cert, "createdAt"),
    lambda cert: moment(cert, "updatedAt", _SECOND),
    lambda cert: text_of(cert, "commonName"),
    lambda cert: text_of(cert, "issuer"),
    lambda cert: moment(cert, "notBefore"),
    lambda cert: moment(cert, "notAfter"),
    _serial,
)


def certificate_table(answer: Any) -> str:
    """Lay out the certificates that the API listed, by id; times are UTC."""
    found = sorted(items_of(answer, KEY), key=lambda cert: text_of(cert, "id"))
    return table(HEADER, [[cell(cert) for cell in _CELLS] for cert in found])


@click.group("certs", cls=AliasedGroup, aliases=("cert",), help="The certificates that the edge shows.")
def certs() -> None:
    """Group the commands on certificates."""


@certs.command("list", aliases=("ls",))
@click.argument("ids", nargs=-1, metavar="[ID]...")
@pass_settings
def list_certs(settings: Settings, ids: tuple[str, ...]) -> None:
    """List all certificates, or those of the given IDs, without their private keys."""
    answer = settings.session().call("POST", PATH, {"ids": list(ids)} if ids else {})
    settings.show(answer, certificate_table(answer))


@certs.command("save", aliases=("s",))
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=pathlib.Path),
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="The private key, where it is not in FILE; then all FILEs are one certificate.",
)
@pass_settings
def save(settings: Settings, files: tuple[pathlib.Path, ...], key: pathlib.Path | None) -> None:
    """Save certificates, all or none: each FILE is PEM, a chain and its private key in any order."""
    items = _items(files, key)
    session = settings.session()
    if in_the_clear(session.url):
        warn(f"{session.url} is spoken to without TLS: private keys go there in the clear")
    try:
        answer = session.call("PUT", PATH, {KEY: [item.value for item in items]})
    except Refusal as error:
        raise Refusal(in_their_words(str(error), items, KEY), error.status) from None
    settings.show(answer, "\n".join(map(_saved, items_of(answer, KEY))))


def _items(files: Sequence[pathlib.Path], key: pathlib.Path | None) -> list[Item]:
    if key is None:
        return [Item({"cert": _text(file)}, str(file), "") for file in files]
    name = ", ".join(map(str, files))
    return [Item({"cert": "\n".join(map(_text, [*files, key]))}, name, "")]


def _text(file: pathlib.Path) -> str:
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                raw = opened.read(MAX_BYTES + 1)
        text = raw.decode("ascii")
    except OSError as error:
        raise Refusal(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refusal(f"{file}: is not PEM: it has a byte that is not ASCII") from None
    if len(raw) > MAX_BYTES:
        raise Refusal(f"{file}: is longer than {MAX_BYTES // 1024} KiB: is it a certificate?")
    return text


def _saved(cert: dict[str, Any]) -> str:
    names = ", ".join(map(str, cert.get("dnsNames") or []))
    said = f"saved {text_of(cert, 'id')}" + (f" for {names}" if names else "")
    return f"{said} until {moment(cert, 'notAfter')}"


@certs.command("delete", aliases=("rm", "remove"))
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@pass_settings
def delete(settings: Settings, ids: tuple[str, ...]) -> None:
    """Delete certificates by their IDs."""
    answer = settings.session().call("DELETE", PATH, {"ids": list(ids)})
    settings.show(answer, "\n".join(f"deleted {one}" for one in ids))
