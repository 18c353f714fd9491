"""`oo certs`: the certificates that the edge shows. Private keys go to the server, and never come back."""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from onebackend_proxy.cli import orders
from onebackend_proxy.cli.client import Refusal, one_line
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
FAILING_HEADER = ("NAME", "FAILURES", "SINCE", "LAST TRY", "NEXT TRY", "PROBLEM")
WAIT_SECONDS = 120.0
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


def failing_table(answer: Any) -> str:
    """Lay out the names whose orders fail; times are UTC."""
    rows = [
        [
            text_of(item, "name"),
            text_of(item, "failures"),
            moment(item, "failingSince", _SECOND),
            moment(item, "triedAt", _SECOND),
            moment(item, "notBefore" if _is_later(item) else "retryAt", _SECOND),
            text_of(item, "problem"),
        ]
        for item in items_of(answer, "failing")
    ]
    return table(FAILING_HEADER, rows)


def _is_later(item: dict[str, Any]) -> bool:
    """Whether the authority wants to be left alone for longer than we would wait: both are in one form."""
    return text_of(item, "notBefore") > text_of(item, "retryAt")


@click.group("certs", cls=AliasedGroup, aliases=("cert",), help="The certificates that the edge shows.")
def certs() -> None:
    """Group the commands on certificates."""


@certs.command("list", aliases=("ls",))
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--failing", is_flag=True, help="The names whose orders fail, and why, instead.")
@pass_settings
def list_certs(settings: Settings, ids: tuple[str, ...], failing: bool) -> None:
    """List all certificates, or those of the given IDs, without their private keys."""
    body: dict[str, Any] = {"ids": list(ids)} if ids else {}
    if failing:
        answer = settings.session().call("POST", PATH, {**body, "failing": True})
        settings.show(answer, failing_table(answer))
        return
    answer = settings.session().call("POST", PATH, body)
    settings.show(answer, certificate_table(answer))
    count = len(items_of(answer, "failing"))
    if count and not settings.as_json:
        warn(f"{count} name{' fails' if count == 1 else 's fail'}: oo certs list --failing")


@certs.command("check")
@click.argument("domain")
@pass_settings
def check(settings: Settings, domain: str) -> None:
    """Tell what would stop an order for DOMAIN, which is a host or a wildcard such as *.x.com.

    What says "no" stops it, and then the exit code is 1; "?" could not be found out, or does not matter.
    """
    answer = settings.session().call("POST", f"{PATH}/check", {"domain": _host(domain)})
    found = items_of(answer, "findings")
    settings.show(answer, "\n".join(_finding_lines(found)))
    stops = [text_of(finding, "subject") for finding in found if finding.get("ok") is False]
    if stops:
        raise Refusal(f"an order for {domain} would fail ({', '.join(stops)})")


def _host(text: str) -> str:
    if "/" in text:
        raise click.UsageError(f"{text!r} is not a host: leave out the scheme and the path")
    return text


def _finding_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    width = max((len(text_of(finding, "subject")) for finding in found), default=0)
    words = {True: "ok", False: "no"}
    return [
        f"{words.get(finding.get('ok'), '?').ljust(4)}{text_of(finding, 'subject').ljust(width + 3)}"  # type: ignore[arg-type]
        f"{one_line(text_of(finding, 'message'))}"
        for finding in found
    ]


@certs.command("renew")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--wait", "waits", is_flag=True, help="Wait until each has a new certificate, or has failed.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="For how long to wait.",
)
@pass_settings
def renew(settings: Settings, names: tuple[str, ...], waits: bool, timeout: float) -> None:
    """Order certificates for NAMEs now, each a host of a Route, whatever has failed before."""
    wanted = [_host(name) for name in names]
    session = settings.session()

    def look(some: Sequence[str]) -> Any:
        return session.call("POST", PATH, {"ids": list(some)})

    before = look(wanted) if waits else None
    answer = session.call("POST", f"{PATH}/renew", {"ids": wanted})
    ordered = [str(name) for name in answer.get("ids") or wanted] if isinstance(answer, dict) else wanted
    if not waits:
        settings.show(answer, "\n".join(f"ordered {name}: see oo certs list {name}" for name in ordered))
        return
    found = []
    for outcome in orders.wait(ordered, before, look, timeout):
        found.append(outcome)
        if not settings.as_json:
            click.echo(one_line(_told(outcome)))
    if settings.as_json:
        settings.show(look(ordered), "")
    _check_outcomes(ordered, found, timeout)


def _told(outcome: orders.Outcome) -> str:
    if outcome.good:
        return f"renewed {outcome.name} until {moment(dict(outcome.item), 'notAfter', _SECOND)}"
    return f"failed {outcome.name}: {text_of(outcome.item, 'problem')}"


def _check_outcomes(ordered: Sequence[str], found: Sequence[orders.Outcome], seconds: float) -> None:
    """Raise `Refusal` if a name has failed, or has no outcome."""
    done = {outcome.name for outcome in found}
    missing = [name for name in ordered if name not in done]
    failed = [outcome.name for outcome in found if not outcome.good]
    said = [f"no certificate for {', '.join(failed)}"] if failed else []
    if missing:
        said.append(f"{', '.join(missing)} not done after {seconds:g} s: the proxy goes on trying")
    if said:
        raise Refusal("; ".join(said))


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
